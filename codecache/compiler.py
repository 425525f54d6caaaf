"""Compile regions to machine code, in this process.

LLVM ends the process on some input (inline assembly that needs more registers than there are): `codecache.pool`
compiles in child processes and survives that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import binding as llvm

from codecache.module import module_text, optimise, parse, region_text, set_effort, target_machine
from codecache.objects import ObjectError, read_regions
from codecache.types import CompiledRegion, CompileFailure, RegionSource

Result = CompiledRegion | CompileFailure


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A region's text, completed for one K."""

    source: RegionSource
    shift: int
    framed: bool

    def text(self, index: int) -> str:
        return region_text(self.source.text, index, self.shift, self.framed)


def compile_batch(sources: Sequence[RegionSource]) -> list[Result]:
    """Compile regions, one result for each in order.

    Each is compiled as one without a frame, and again with `shift_framed` where it turns out to need one.
    """
    results: dict[int, Result] = {}
    groups: dict[tuple[bool, str], list[int]] = {}
    for index, source in enumerate(sources):
        groups.setdefault((source.passes, source.features), []).append(index)
    for indices in groups.values():
        attempts = [_first_attempt(sources[i]) for i in indices]
        again = []
        for i, attempt, result in zip(indices, attempts, _compile(attempts), strict=True):
            results[i] = result
            if isinstance(result, CompiledRegion) and result.frame and not attempt.framed:
                again.append(i)
        attempts = [_Attempt(sources[i], sources[i].shift_framed, True) for i in again]
        results.update(zip(again, _compile(attempts), strict=True))
    return [results[i] for i in range(len(sources))]


def _first_attempt(source: RegionSource) -> _Attempt:
    if "L_fs" in source.text:
        return _Attempt(source, source.shift_framed, True)
    return _Attempt(source, source.shift, False)


def _compile(attempts: Sequence[_Attempt]) -> list[Result]:
    """Compile regions of one kind as one module; halve it where LLVM rejects it, to find the one at fault."""
    if not attempts:
        return []
    try:
        return read_regions(_emit(attempts), [attempt.shift for attempt in attempts])
    except (RuntimeError, ObjectError) as error:
        if len(attempts) == 1:
            rejects = "LLVM rejects the IR: " if isinstance(error, RuntimeError) else ""
            return [CompileFailure(rejects + " ".join(str(error).split()))]
    middle = len(attempts) // 2
    return _compile(attempts[:middle]) + _compile(attempts[middle:])


def _emit(attempts: Sequence[_Attempt]) -> bytes:
    """The object of one module of regions that want the same passes and features."""
    module, machine = _optimised(attempts)
    content: bytes = machine.emit_object(module)
    return content


def _optimised(attempts: Sequence[_Attempt]) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    source = attempts[0].source
    module = parse(module_text(attempt.text(i) for i, attempt in enumerate(attempts)))
    machine = target_machine(source.features)
    set_effort(lean=not source.passes)
    if source.passes:
        optimise(module, machine)
    return module, machine


def optimised_text(source: RegionSource) -> str:
    """The region's IR as it goes into code generation, for people to read.

    Raises RuntimeError with LLVM's message where LLVM rejects it.
    """
    module, _ = _optimised([_first_attempt(source)])
    return str(module).replace("R0_", "L_")


def assembly(source: RegionSource, framed: bool = False) -> str:
    """The region's machine code as assembly text, for people to read; `framed` as the compiled region is.

    Raises RuntimeError with LLVM's message where LLVM rejects it.
    """
    attempt = _Attempt(source, source.shift_framed, True) if framed else _first_attempt(source)
    module, machine = _optimised([attempt])
    text: str = machine.emit_assembly(module)
    return text.replace("R0_", "L_")
