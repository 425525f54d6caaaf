"""What must be handed over where control leaves a function's regions, wherever it goes."""

from __future__ import annotations

from collections.abc import Mapping

from lifter.graph import FunctionGraph
from lifter.image.types import Image
from lifter.liveness import Liveness


class Borders:
    """Liveness before any address that a function's regions can leave to. Callable with the address."""

    def __init__(
        self,
        image: Image,
        graphs: Mapping[int, FunctionGraph],
        liveness: Liveness,
        graph: FunctionGraph,
    ) -> None:
        self._image = image
        self._graphs = graphs
        self._liveness = liveness
        self._graph = graph
        self._known: dict[int, int] = {}
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
        function = self._graph.function
        if function.address <= address < function.end:
            return self._liveness.live_at(self._graph, address)
        other = self._image.function_at(address)
        graph = self._graphs.get(other.address) if other is not None else None
        if graph is not None:
            return self._liveness.live_at(graph, address)
        block = self._graph.blocks.get(self._jumps.get(address, -1))
        if block is not None:
            # What the jump itself reads (flags) is not read beyond it.
            before = self._liveness.live_at(self._graph, block.last_address)
            return before & ~block.last.effects.reads
        return self._liveness.live_at(self._graph, address)
