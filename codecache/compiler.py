"""Compile regions to machine code, in this process.

LLVM ends the process on some input (inline assembly that needs more registers than there are): `codecache.pool`
compiles in child processes and survives that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llvmlite import binding as llvm

from codecache.module import module_text, optimise, parse, region_text, set_effort, target_machine
from codecache.objects import ObjectError, read_regions, written_registers
from codecache.types import CompiledRegion, CompileFailure, RegionSource

Result = CompiledRegion | CompileFailure


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A region's text, completed for one K."""

    source: RegionSource
    framed: bool
    firm: bool
    """Whether the registers of `source.loose` are pinned."""

    @property
    def shift(self) -> int:
        return self.source.shift_framed if self.framed else self.source.shift

    def text(self, index: int) -> str:
        return region_text(self.source.text, index, self.shift, self.framed, self.firm)

    def better(self, region: CompiledRegion) -> _Attempt | None:
        """What to compile instead of this, if `region` is what became of it; None where that can be used."""
        framed = self.framed or region.frame > 0
        firm = self.firm or bool(written_registers(region.code) & self.source.loose)
        return None if (framed, firm) == (self.framed, self.firm) else replace(self, framed=framed, firm=firm)


def compile_batch(sources: Sequence[RegionSource]) -> list[Result]:
    """Compile regions, one result for each in order.

    Each is compiled as one without a frame, and again with `shift_framed` where it turns out to need one; likewise
    without its loose registers, and with them where its code writes one.
    """
    results: dict[int, Result] = {}
    groups: dict[tuple[bool, str], list[int]] = {}
    for index, source in enumerate(sources):
        groups.setdefault((source.passes, source.features), []).append(index)
    for indices in groups.values():
        attempts = {i: _first_attempt(sources[i]) for i in indices}
        while attempts:
            found = dict(zip(attempts, _compile(list(attempts.values())), strict=True))
            results.update(found)
            better = {i: attempts[i].better(r) for i, r in found.items() if isinstance(r, CompiledRegion)}
            attempts = {i: attempt for i, attempt in better.items() if attempt is not None}
    return [results[i] for i in range(len(sources))]


def _first_attempt(source: RegionSource) -> _Attempt:
    return _Attempt(source, framed="L_fs" in source.text, firm=not source.loose)


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


def assembly(source: RegionSource) -> str:
    """The region's machine code as assembly text, for people to read.

    Raises RuntimeError with LLVM's message where LLVM rejects it.
    """
    attempt = _first_attempt(source)
    while True:
        (result,) = _compile([attempt])
        better = attempt.better(result) if isinstance(result, CompiledRegion) else None
        if better is None:
            break
        attempt = better
    module, machine = _optimised([attempt])
    text: str = machine.emit_assembly(module)
    return text.replace("R0_", "L_")
