"""Compilation that survives what LLVM does to its process: by a worker process that belongs to this one."""

from __future__ import annotations

import atexit
from collections.abc import Sequence

from codecache import CompiledRegion, CompileFailure, RegionSource
from codecache.pool import Compiler

_own: list[Compiler] = []


def compile_safely(sources: Sequence[RegionSource]) -> list[CompiledRegion | CompileFailure]:
    """As `codecache.compile_batch`, but an LLVM abort is a failure of the region that it was about."""
    if not _own:
        compiler = Compiler(1)
        atexit.register(compiler.close)
        _own.append(compiler)
    results: list[CompiledRegion | CompileFailure] = [CompileFailure("never compiled")] * len(sources)
    for index, result in _own[0].compile_all(sources):
        results[index] = result
    return results
