"""One function's regions and stubs as IR, from its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from ir.actions import Action, Count
from ir.blocks import LiftedBlock, Terminator
from ir.carry import CarriedRegion, carry
from ir.lower import LiveAt, LoweredRegion, lower
from ir.options import LoweringOptions
from ir.regions import Region
from jit.attach import NO_COUNTER, FunctionActions
from jit.planner import FunctionPlan, Redirect
from lifter.graph import FunctionGraph
from lifter.instruction import Instruction
from lifter.registers import GPRS, RSP, gpr

AnyRegion = LoweredRegion | CarriedRegion
_TWO_CARRIES: Final = frozenset(("adcx", "adox"))
_LONG: Final = 32
"""Instructions of a loop for each of its counters, from which on it is fastest with these in memory."""
_LONG_ATOMIC: Final = 200
"""The same for counters that are added to under a lock (some 20 cycles)."""


@dataclass(frozen=True, slots=True)
class FunctionCode:
    """All the code of one function in the cache, as IR."""

    regions: tuple[AnyRegion, ...]
    entry_stub: AnyRegion | None
    """Runs what belongs to entries alone, then goes on to the first block's region."""
    redirects: tuple[tuple[Redirect, AnyRegion], ...]

    @property
    def all_regions(self) -> tuple[AnyRegion, ...]:
        """Everything to be compiled. Stubs have negative heads: no original address is theirs."""
        stubs = [region for _, region in self.redirects]
        if self.entry_stub is not None:
            stubs.append(self.entry_stub)
        return (*self.regions, *stubs)


def lower_function(
    plan: FunctionPlan,
    actions: FunctionActions,
    live_at: LiveAt,
    options: LoweringOptions,
) -> FunctionCode:
    """Lower every region and stub of a plan."""
    regions = tuple(_region(region, actions.at, live_at, options, plan.graph) for region in plan.regions)
    entry_stub = None
    if plan.entry_stub:
        entry = plan.graph.function.address
        entry_stub = _stub(entry, entry, actions.at_entry, live_at, options)
    redirects = []
    for redirect in plan.redirects:
        counter = actions.redirected[redirect.block]
        count = (Count(counter),) if counter != NO_COUNTER else ()
        redirects.append((redirect, _stub(redirect.site, redirect.target, count, live_at, options)))
    return FunctionCode(regions, entry_stub, tuple(redirects))


def _stub(
    site: int, target: int, actions: tuple[Action, ...], live_at: LiveAt, options: LoweringOptions
) -> AnyRegion:
    """A region without instructions: runs `actions` and goes on to `target`.

    Every register is pinned, live or not: a count needs none, and so all such stubs have one text.
    """
    head = -site
    live = live_at(site) | GPRS
    block = LiftedBlock(head, (), Terminator.JUMP, None, head, target, head, 0)
    at: Mapping[int, tuple[Action, ...]] = {head: actions}
    return _region(Region(head, (block,), {head: 0}), at, lambda _address: live, options, None)


def _region(
    region: Region,
    at: Mapping[int, tuple[Action, ...]],
    live_at: LiveAt,
    options: LoweringOptions,
    graph: FunctionGraph | None,
) -> AnyRegion:
    """A region of the function with `graph`, or a stub (None)."""
    carried = carry(region, at, live_at, options) if options.carry else None
    if carried is None and graph is not None:
        needed = _looks_below_stack(graph) or (options.carry and _has_two_carries(region))
        if needed or (options.carry and _has_long_loops(region, at, options.atomic)):
            carried = carry(replace(region, in_memory=True), at, live_at, options)
            if carried is not None and carried.keeps_flags and not needed:
                carried = None
    return carried or lower(region, at, live_at, options, firm=graph is None)


def _has_two_carries(region: Region) -> bool:
    """Whether a region has two chains of carries, of which LLVM keeps one in flags."""
    return any(step.instruction.mnemonic in _TWO_CARRIES for block in region.blocks for step in block.body)


def _has_long_loops(region: Region, at: Mapping[int, tuple[Action, ...]], atomic: bool) -> bool:
    """Whether the loops with counters are so long that these cost less in memory than what a compiler makes of the
    instructions: hand-made code is scheduled better than LLVM does it again."""
    blocks = region.blocks
    least = _LONG_ATOMIC if atomic else _LONG
    number = {block.address: position for position, block in enumerate(blocks)}
    sizes = [len(block.body) for block in blocks]
    counts = [len(at.get(block.address, ())) for block in blocks]
    counted = False
    for last, block in enumerate(blocks):
        for target in block.successors:
            # Blocks are in reverse post-order: a jump back goes round what is between.
            first = number.get(target, len(blocks))
            counters = sum(counts[first : last + 1])
            counted |= counters > 0
            if sum(sizes[first : last + 1]) < least * counters:
                return False
    return counted


def _looks_below_stack(graph: FunctionGraph) -> bool:
    """Whether a function computes an address below its stack pointer. One that clears the unused part of its stack
    (SBCL's garbage collector does) would clear the frame of a compiled region, too."""
    return any(_is_below_stack(line) for block in graph.blocks.values() for line in block.instructions)


def _is_below_stack(instruction: Instruction) -> bool:
    memory = instruction.memory_operand
    return (
        instruction.mnemonic == "lea"
        and memory is not None
        and memory.base == RSP
        and memory.index is None
        and memory.disp < 0
        and not instruction.effects.writes & gpr(RSP)
    )
