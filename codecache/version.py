"""Versions that decide whether stored machine code can be used again."""

from __future__ import annotations

import llvmlite
from llvmlite import binding as llvm

ENGINE_VERSION = "0.1.0-1"
"""Raise the part behind the dash whenever equal region text may compile to other code."""


def compiler_identity() -> str:
    """Engine, llvmlite and LLVM: part of every key of the store."""
    numbers = ".".join(map(str, llvm.llvm_version_info))
    return f"probeloom {ENGINE_VERSION}, llvmlite {llvmlite.__version__}, LLVM {numbers}"
