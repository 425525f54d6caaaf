"""Plans one function: which blocks are lifted, how they form regions, how control gets into them.

Lifting starts from the blocks that hold a probe or a counter (`jit.placement`). An entry without room for a
trampoline makes the set grow (the next block, the blocks before), or has the region make the block's call itself;
where nothing helps, the block stays native: others are counted in its place, or it is refused with a reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ir.blocks import LiftedBlock, Terminator, lift_block
from ir.regions import Region, form_regions
from jit.placement import CounterPlacing, Placement, Terms, everywhere
from jit.trampolines import JUMP, Room, Site, find_sites, is_in_one_page
from lifter.errors import Refusal
from lifter.graph import Block, FunctionGraph
from lifter.image.types import Image
from lifter.instruction import Flow

_SMALL_FRAME: Final = 64
"""Bytes; far less than Go keeps free below its guard."""
_LEAVES: Final = (Terminator.NATIVE, Terminator.INDIRECT, Terminator.CALL)
_CALLS: Final = (Terminator.CALL, Terminator.THROUGH)
_CALL_REL32: Final = 0xE8
_JUMP_REL32: Final = 0xE9


@dataclass(frozen=True, slots=True)
class Redirect:
    """A direct call (or jump out of the function) sent to a stub that counts and goes on to its target.

    The call stays where it is, so the return address does too: the cheapest way to count a block that ends
    in one, and the only way for a block that is nothing else.
    """

    block: int
    """Address of the block."""
    site: int
    """Address of the call or jump."""
    opcode: int
    target: int


@dataclass(frozen=True, slots=True)
class FunctionPlan:
    """What will be done with one function."""

    graph: FunctionGraph
    regions: tuple[Region, ...]
    sites: tuple[Site, ...]
    redirects: tuple[Redirect, ...]
    entry_stub: bool
    """Whether the entry is counted apart from its block, which is also the target of jumps inside the function."""
    counted: tuple[int, ...]
    """Blocks that have a counter, in address order."""
    counts: Mapping[int, Terms]
    """Block -> how often it ran, as a sum over counted blocks."""
    refused: Mapping[int, Refusal]
    """Blocks that hold a tracepoint but cannot run lifted, or cannot be counted."""


@dataclass(slots=True)
class _Draft:
    """The state of planning one function."""

    lifted: set[int]
    wanted: frozenset[int]
    taken_calls: set[int] = field(default_factory=set)
    refused: dict[int, Refusal] = field(default_factory=dict)
    barred: set[int] = field(default_factory=set)
    """Blocks that were given up, wanted or not: they do not come back."""

    def refuse(self, graph: FunctionGraph, address: int, reason: str, hint: str = "") -> None:
        """Leave a block native."""
        self.lifted.discard(address)
        self.barred.add(address)
        if address in self.wanted:
            code = graph.blocks[address].instructions[0].code
            self.refused[address] = Refusal(address, reason, code, hint, graph.function.demangled)


class _Lifting:
    """The blocks of a function lifted, each once: a function is planned several times."""

    def __init__(self, graph: FunctionGraph, placing: CounterPlacing | None) -> None:
        self._graph = graph
        self.through = placing.through if placing is not None else None
        """Calls that regions make themselves; None where none is to be made."""
        self._known: dict[tuple[int, bool], LiftedBlock] = {}
        if placing is not None:
            self._known.update(((block.address, False), block) for block in placing.in_cache)

    def block(self, address: int, take_call: bool = False) -> LiftedBlock:
        """A block: see `lift_block`."""
        found = self._known.get((address, take_call))
        if found is None:
            block = self._graph.blocks[address]
            comes_back = self.through is not None and block.last_address in self.through
            found = self._known[address, take_call] = lift_block(block, take_call=take_call, through=comes_back)
        return found


def plan_function(
    image: Image,
    graph: FunctionGraph,
    probed: Collection[int],
    counted: Collection[int],
    entry_apart: bool,
    placing: CounterPlacing | None,
    whole_pages: bool = False,
) -> FunctionPlan:
    """Plan a function.

    `probed` are the blocks that must run in lifted form, `counted` those whose counts are asked for. `entry_apart` asks
    for entries to be told from jumps back to the first block.
    `placing` chooses where counters are best, and says which calls regions make themselves; without it, every block of
    `counted` has one. `whole_pages` keeps every patch inside a page (see `Room`).
    """
    probes = frozenset(probed)
    lifting = _Lifting(graph, placing)

    def plan(placement: Placement) -> FunctionPlan:
        return _plan_once(image, graph, lifting, probes, placement, entry_apart, whole_pages)

    placement = everywhere(counted)
    if placing is not None:
        barred: set[int] = set()
        while True:
            placement = placing.place(barred)
            found = plan(placement)
            failed = placement.counted & found.refused.keys()
            if not failed:
                break
            barred |= failed
        if len(placement.counts) == len(counted):
            return replace(found, counted=tuple(sorted(placement.counted)), counts=placement.counts)
        # Where everything is lifted, there are more bytes for trampolines.
        placement = everywhere(counted)
    found = plan(placement)
    kept = sorted(placement.counted - found.refused.keys())
    return replace(found, counted=tuple(kept), counts={block: placement.counts[block] for block in kept})


def _plan_once(
    image: Image,
    graph: FunctionGraph,
    lifting: _Lifting,
    probed: frozenset[int],
    placement: Placement,
    entry_stub: bool,
    whole_pages: bool,
) -> FunctionPlan:
    """Plan a function with its counters where `placement` has them; some of their blocks may be refused."""
    entry = graph.function.address
    lifted = placement.lifted | probed
    if entry_stub:
        lifted |= {entry, *_predecessors(graph)[entry]}
    counted = placement.counted - probed
    through = lifting.through is not None
    entries = graph.open_entries if through else graph.entries
    draft = _Draft(set(lifted), placement.counted | probed | ({entry} if entry_stub else frozenset()))
    while True:
        blocks = {a: lifting.block(a, take_call=a in draft.taken_calls) for a in sorted(draft.lifted)}
        redirects = _redirects(graph, blocks, counted, entry if entry_stub else None, whole_pages)
        empty = [
            a for a, b in blocks.items() if not b.body and b.terminator is Terminator.NATIVE and a not in redirects
        ]
        if empty:
            for address in empty:
                _begin_native(draft, graph, address)
            continue
        for address in redirects:
            del blocks[address]
        external = _external_entries(graph, blocks, entries)
        room = Room(image, graph, blocks, external | entries, whole_pages)
        for redirect in redirects.values():
            room.claim(redirect.site, JUMP)
        sites, without = find_sites(room, image, graph, sorted(external & blocks.keys()))
        if not without:
            copies = {a: lifting.block(a) for a in placement.copied - blocks.keys() - draft.barred}
            heads = (external & blocks.keys()) | _large_frames(image, blocks)
            if through:
                # Calls from the cache find the entry there, and tight loops are regions of their own.
                heads |= (placement.loops | placement.after_loops | {entry}) & (blocks.keys() | copies.keys())
            regions = form_regions(blocks | (copies if through else _reached(blocks, copies)), heads)
            if through:
                regions = [replace(region, in_memory=region.head not in placement.loops) for region in regions]
            return FunctionPlan(
                graph, tuple(regions), tuple(sites), tuple(redirects.values()), entry_stub, (), {}, draft.refused
            )
        for address in without:
            _make_room(draft, graph, blocks[address])


def _reached(blocks: Mapping[int, LiftedBlock], copies: Mapping[int, LiftedBlock]) -> dict[int, LiftedBlock]:
    """The copies that lifted blocks get to: nothing else does."""
    found: dict[int, LiftedBlock] = {}
    work = list(blocks.values())
    while work:
        for successor in work.pop().successors:
            if successor in copies and successor not in found and successor not in blocks:
                found[successor] = copies[successor]
                work.append(copies[successor])
    return found


def _large_frames(image: Image, blocks: Mapping[int, LiftedBlock]) -> set[int]:
    """In Go, blocks that make a large frame: they come after the check that there is room for it, and the region that
    holds the check must not lower RSP by as much before it."""
    if not image.is_go:
        return set()
    return {a for a, block in blocks.items() if block.stack_delta is not None and block.stack_delta < -_SMALL_FRAME}


def _external_entries(
    graph: FunctionGraph, blocks: Mapping[int, LiftedBlock], entries: Collection[int]
) -> set[int]:
    """Blocks that code outside the cache can enter, lifted or not. `entries` are those whatever is lifted."""
    external = set(entries)
    for table in graph.tables.values():
        external.update(table.targets)
    for address, block in graph.blocks.items():
        lifted = blocks.get(address)
        if lifted is None or lifted.cut or lifted.terminator in _LEAVES:
            external.update(block.successors)
    return external


def _redirects(
    graph: FunctionGraph,
    blocks: Mapping[int, LiftedBlock],
    counted: frozenset[int],
    entry: int | None,
    whole_pages: bool,
) -> dict[int, Redirect]:
    """Blocks that are counted by sending the call or jump that ends them to a stub."""
    external = _external_entries(graph, blocks, graph.entries)
    result: dict[int, Redirect] = {}
    for address, lifted in blocks.items():
        block = graph.blocks[address]
        if address not in counted or address == entry or lifted.terminator in _CALLS:
            continue
        # A block inside a larger region is cheaper there.
        if lifted.body and address not in external:
            continue
        redirect = _redirect(graph, block)
        if redirect is not None and (not whole_pages or is_in_one_page(redirect.site, JUMP)):
            result[address] = redirect
    return result


def _redirect(graph: FunctionGraph, block: Block) -> Redirect | None:
    last = block.last
    if last.target is None or last.size != JUMP or last.code[0] not in (_CALL_REL32, _JUMP_REL32):
        return None
    target = block.end + last.target
    function = graph.function
    if last.flow is Flow.JUMP and function.address <= target < function.end:
        return None
    # A call to the next instruction reads its own address: there is nothing to count on the way.
    return Redirect(block.address, block.last_address, last.code[0], target) if target != block.end else None


def _begin_native(draft: _Draft, graph: FunctionGraph, address: int) -> None:
    """A block whose first instruction stays native: only a call can be made by the region instead."""
    first = graph.blocks[address].instructions[0]
    if first.flow in (Flow.CALL, Flow.CALL_INDIRECT) and address not in draft.taken_calls:
        draft.taken_calls.add(address)
        if lift_block(graph.blocks[address], take_call=True).terminator is Terminator.CALL:
            return
    reason = first.reason or "the instruction runs in place"
    draft.refuse(graph, address, f"begins with '{first.mnemonic}', which stays native: {reason}")


def _make_room(draft: _Draft, graph: FunctionGraph, block: LiftedBlock) -> None:
    """An entry has no room for a trampoline: change the lifted set so that it may have, or give it up."""
    address = block.address
    original = graph.blocks[address]
    is_call = original.last.flow in (Flow.CALL, Flow.CALL_INDIRECT)
    if is_call and not block.cut and address not in draft.taken_calls:
        draft.taken_calls.add(address)
        if lift_block(original, take_call=True).terminator is Terminator.CALL:
            return
    following = graph.blocks.get(original.end)
    inherent = set(graph.entries)
    for table in graph.tables.values():
        inherent.update(table.targets)
    if (
        block.lifted_end == original.end
        and following is not None
        and following.address not in inherent
        and _can_join(draft, following.address)
    ):
        draft.lifted.add(following.address)
        return
    if address not in inherent:
        before = [p for p in _predecessors(graph)[address] if _can_join(draft, p)]
        if before:
            draft.lifted.update(before)
            return
    size = block.lifted_end - address
    draft.refuse(graph, address, "no room for a trampoline", f"{size} bytes before the next fixed instruction")


def _can_join(draft: _Draft, address: int) -> bool:
    return address not in draft.lifted and address not in draft.barred


def _predecessors(graph: FunctionGraph) -> dict[int, list[int]]:
    result: dict[int, list[int]] = {address: [] for address in graph.blocks}
    for block in graph.blocks.values():
        for successor in block.successors:
            if successor in result:
                result[successor].append(block.address)
    return result


def entry_is_jumped_to(graph: FunctionGraph) -> bool:
    """Whether code of the function itself jumps to its entry (a call of itself is a call)."""
    address = graph.function.address
    return address in graph.blocks and any(
        address in block.successors and not (block.last.flow is Flow.CALL and block.end != address)
        for block in graph.blocks.values()
    )
