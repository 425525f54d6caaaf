"""Versions that decide whether stored machine code can be used again."""

from __future__ import annotations

import pkgutil
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

ENGINE_VERSION = "0.1.0"

_DECISIVE = ("module.py", "compiler.py", "objects.py", "encoding.py")
"""The modules that decide which code a region's text becomes."""


@cache
def compiler_identity() -> str:
    """Engine, llvmlite and LLVM: part of every key of the store. A change of the engine's source changes it too."""
    import llvmlite
    from llvmlite import binding as llvm

    sources = sha256(b"".join(pkgutil.get_data("codecache", name) or b"" for name in _DECISIVE)).hexdigest()
    numbers = ".".join(map(str, llvm.llvm_version_info))
    return f"probeloom {ENGINE_VERSION} {sources}, llvmlite {llvmlite.__version__}, LLVM {numbers}"


@cache
def library_identity() -> str:
    """Engine, and the file that LLVM is in: what tells one installation from another before LLVM is loaded."""
    spec = find_spec("llvmlite")
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else Path()
    try:
        status = (folder / "binding" / "libllvmlite.so").stat()
    except OSError:
        return compiler_identity()
    return f"probeloom {ENGINE_VERSION}, LLVM of {status.st_size} bytes from {status.st_mtime_ns}"
