"""What must be handed over where control leaves a function's regions, wherever it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lifter.graph import FunctionGraph
from lifter.image.types import Image
from lifter.instruction import Flow
from lifter.liveness import LiveBlocks
from lifter.registers import ARITHMETIC_FLAGS, GPRS


class Borders:
    """Liveness before any address that a function's regions can leave to. Callable with the address.

    In Go every register is live everywhere, and flags are what the function itself makes of them.
    """

    def __init__(
        self,
        image: Image,
        graph: FunctionGraph,
        live: LiveBlocks,
        elsewhere: Callable[[int], int | None],
    ) -> None:
        """`live` is what is live in the function itself, `elsewhere` tells it of an address outside of it, or None
        where nothing is known there."""
        self._graph = graph
        self._live = live
        self._elsewhere = elsewhere
        self._known: dict[int, int] = {}
        self._go_flags = _live_flags(graph) if image.is_go else None
        self._jumps: dict[int, int] = {}
        """Address outside the function -> block that jumps there."""
        for block in graph.blocks.values():
            target = graph.callees.get(block.last_address)
            if target is not None and block.last_address in graph.tail_calls:
                self._jumps.setdefault(target, block.address)

    def __call__(self, address: int) -> int:
        """Mask of what is live before the instruction at `address`, of this function or another."""
        found = self._known.get(address)
        if found is None:
            found = self._known[address] = self._find(address)
        return found

    def _find(self, address: int) -> int:
        if self._go_flags is not None:
            return GPRS | self._flags_at(address, self._go_flags)
        function = self._graph.function
        if function.address <= address < function.end:
            return self._live.at(self._graph, address)
        known = self._elsewhere(address)
        if known is not None:
            return known
        block = self._graph.blocks.get(self._jumps.get(address, -1))
        if block is not None:
            # With what the jump itself reads: a condition may be read again beyond it.
            return self._live.at(self._graph, block.last_address)
        return self._live.at(self._graph, address)

    def _flags_at(self, address: int, at_ends: Mapping[int, int]) -> int:
        for block in self._graph.blocks.values():
            if block.address <= address < block.end:
                live = at_ends[block.address]
                for where, instruction in reversed(block.addressed()):
                    live = live & ~instruction.effects.kills | instruction.effects.reads & ARITHMETIC_FLAGS
                    if where == address:
                        return live
        return 0


def _live_flags(graph: FunctionGraph) -> dict[int, int]:
    """Flags that are live at the end of each block, in Go: at calls, returns and entries none is (Go's ABI)."""
    at_ends = dict.fromkeys(graph.blocks, 0)
    effects = {}
    for block in graph.blocks.values():
        reads = kills = 0
        for instruction in block.instructions:
            reads |= instruction.effects.reads & ARITHMETIC_FLAGS & ~kills
            kills |= instruction.effects.kills & ARITHMETIC_FLAGS
        effects[block.address] = (reads, kills)
    changed = True
    while changed:
        changed = False
        for address in reversed(at_ends):
            block = graph.blocks[address]
            live = 0
            if block.last.flow not in (Flow.CALL, Flow.CALL_INDIRECT, Flow.RETURN):
                for successor in block.successors:
                    reads, kills = effects.get(successor, (0, 0))
                    live |= reads | at_ends.get(successor, 0) & ~kills
            if live != at_ends[address]:
                at_ends[address] = live
                changed = True
    return at_ends
