"""Versions that decide whether stored machine code can be used again."""

from __future__ import annotations

import pkgutil
from functools import cache
from hashlib import sha256

import llvmlite
from llvmlite import binding as llvm

ENGINE_VERSION = "0.1.0"

_DECISIVE = ("module.py", "compiler.py", "objects.py", "encoding.py")
"""The modules that decide which code a region's text becomes."""


@cache
def compiler_identity() -> str:
    """Engine, llvmlite and LLVM: part of every key of the store. A change of the engine's source changes it too."""
    sources = sha256(b"".join(pkgutil.get_data("codecache", name) or b"" for name in _DECISIVE)).hexdigest()
    numbers = ".".join(map(str, llvm.llvm_version_info))
    return f"probeloom {ENGINE_VERSION} {sources}, llvmlite {llvmlite.__version__}, LLVM {numbers}"
