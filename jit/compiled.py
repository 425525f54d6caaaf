"""From the results of the compiler to functions that can be linked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from codecache.pool import Compiler
from codecache.types import CompiledRegion, CompileFailure
from ir.carry import CarriedRegion
from ir.lower import SLOTS_SIZE
from jit.layout import CompiledFunction, Piece
from jit.prepare import Work
from jit.regions import AnyRegion
from lifter.errors import Refusal
from lifter.image.types import Function, Image
from lifter.instruction import Handling

_GO_FRAME_LIMIT: Final = 512
"""Bytes that a region may use below a goroutine's stack pointer: Go keeps 800 below its guard for functions that
do not check, and none of those is instrumented."""

Result = CompiledRegion | CompileFailure

_NOT_COMPILED: Final = CompileFailure("it was never compiled")


def compile_regions(compiler: Compiler, regions: Iterable[AnyRegion]) -> list[Result]:
    """What becomes of each region."""
    sources = [region.source for region in regions]
    results: list[Result] = [_NOT_COMPILED] * len(sources)
    for index, result in compiler.compile_all(sources):
        results[index] = result
    return results


def compiled_whole(image: Image, work: Work, results: Sequence[Result]) -> CompiledFunction | Refusal:
    """The function if all of its regions can be used; else why not."""
    pieces = []
    entry = work.plan.graph.function.address
    for region, result in zip(work.code.all_regions, results, strict=True):
        reason = unusable(image, result, region.head == entry)
        if isinstance(result, CompileFailure) or reason:
            return refusal(work.plan.graph.function, reason, region.head)
        origins = region.origins if isinstance(region, CarriedRegion) else ()
        pieces.append(Piece(region.head, result, region.flags_in, region.symbols, origins))
    redirects = tuple((redirect.site, redirect.opcode, region.head) for redirect, region in work.code.redirects)
    return CompiledFunction(entry, work.code.entry_stub is not None, tuple(pieces), work.plan.sites, redirects)


def instructions(work: Work) -> dict[int, Handling]:
    """How the instructions of the function's regions are made, by address. Some are in several regions."""
    found: dict[int, Handling] = {}
    for region, made in zip(work.plan.regions, work.code.regions, strict=True):
        carried = isinstance(made, CarriedRegion)
        for block in region.blocks:
            for step in block.body:
                found[step.address] = Handling.VERBATIM if carried else step.handling
            if block.last is not None:
                found[block.last_address] = Handling.VERBATIM if carried else Handling.LIFTED
    return found


def unusable(image: Image, result: Result, is_entry: bool) -> str:
    """Why a region cannot be used with what the compiler made of it, '' where it can. `is_entry`: it is entered by the
    function's entry."""
    if isinstance(result, CompileFailure):
        return f"a region cannot be compiled: {result.reason}"
    # Before a function's stack check, all of what a region uses counts; else only what the original code did not use.
    below = result.frame + result.shift
    if not is_entry:
        below = min(below, result.frame + SLOTS_SIZE + 8)
    return "a region needs more stack than Go guarantees" if image.is_go and below > _GO_FRAME_LIMIT else ""


def refusal(function: Function, reason: str, address: int = -1) -> Refusal:
    """The whole function left out because of what is at `address` (negative: no one place)."""
    where = address if address >= 0 else function.address
    return Refusal(where, reason, hint="please report it", function=function.demangled)
