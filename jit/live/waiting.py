"""Which functions can wait for their first call, and by which bytes."""

from __future__ import annotations

from typing import Final

from jit.live.firstcall import Displaced, displaced
from jit.planner import FunctionPlan
from jit.trampolines import ENDBR64, JUMP, is_in_one_page
from lifter.graph import Block, FunctionGraph
from lifter.image.types import Image
from lifter.instruction import Flow, Handling

_LAST: Final = (Flow.JUMP, Flow.RETURN, Flow.JUMP_INDIRECT)
"""After these, what follows a block is reached by no way through it."""


def waits(image: Image, plan: FunctionPlan) -> Displaced | None:
    """The instructions under a jump at the entry of a planned function, if they are all that the jump touches and
    nothing of the function can run before its entry did; else None."""
    graph = plan.graph
    entry = graph.function.address
    block = graph.blocks.get(entry)
    if block is None or _is_entered_elsewhere(graph):
        return None
    jump = entry + len(ENDBR64) if image.read(entry, len(ENDBR64)) == ENDBR64 else entry
    if not is_in_one_page(jump, JUMP) or not graph.complete:
        return None
    if block.end < jump + JUMP and not _has_jump_in_padding(plan, block, jump):
        return None
    taken = {site.springboard for site in plan.sites if site.springboard is not None}
    taken |= {redirect.site for redirect in plan.redirects}
    if any(jump - JUMP < address < jump + JUMP for address in taken):
        return None
    return displaced(block, jump, image.read(jump, JUMP), may_fault=not image.is_go)


def intrusive(plan: FunctionPlan) -> frozenset[int]:
    """Addresses of the plan's patches that touch bytes of blocks, but for jumps inside the block that they leave."""
    found: set[int] = set()
    blocks = [(block.address, block.end) for block in plan.graph.blocks.values()]
    for site in plan.sites:
        own = plan.graph.blocks[site.head].end
        if site.springboard is None:
            if any(own <= start < site.jump + JUMP for start, _ in blocks):
                found.add(site.jump)
        elif any(start < site.springboard + JUMP and site.springboard < end for start, end in blocks):
            found.update((site.jump, site.springboard))
    return frozenset(found)


def _has_jump_in_padding(plan: FunctionPlan, block: Block, jump: int) -> bool:
    """Whether the plan has a jump of five bytes there, which then reaches into padding behind the block."""
    site = next((site for site in plan.sites if site.head == block.address), None)
    fits = site is not None and site.springboard is None and site.jump == jump
    following = any(block.end <= other < jump + JUMP for other in plan.graph.blocks)
    return fits and not following and block.last.flow in _LAST


def _is_entered_elsewhere(graph: FunctionGraph) -> bool:
    """Whether code of other functions may enter this one behind its entry (other than by returning to it)."""
    inside = {graph.function.address, *graph.function.landing_pads}
    for block in graph.blocks.values():
        last = block.last
        if last.flow in (Flow.CALL, Flow.CALL_INDIRECT, Flow.SYSCALL) or last.handling is Handling.NATIVE:
            inside.update(block.successors)
    for table in graph.tables.values():
        inside.update(table.targets)
    return not graph.entries <= inside
