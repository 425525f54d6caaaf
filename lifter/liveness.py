"""Which registers and flags are live: what a region has to take in, keep and give back.

Interprocedural, because compilers and hand-written assembly ignore the ABI between functions that they see both of: a
call of a function that was analysed reads and changes what that function does, and a return keeps live what the
callers read. Unknown means live.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from lifter.cfg import foreign_targets
from lifter.errors import UsageError
from lifter.graph import FunctionGraph
from lifter.image.types import Function, Image
from lifter.packing import Graphs
from lifter.registers import GPRS, RAX, RDX, RSP, gpr
from lifter.summaries import (
    CALLEE_SAVED,
    CLOBBERED,
    NO_SUMMARY,
    RETURNED,
    TRACKED,
    Piece,
    Summary,
    make_piece,
    masks,
)

Mode = Literal["abi", "strict"]
Edges = tuple[list[list[int]], list[list[int]]]
"""Successors and predecessors of each block of a function."""

_PAD_WRITES: Final = gpr(RAX) | gpr(RDX)
"""What the unwinder passes to a landing pad."""
_CALLED_FROM_OUTSIDE: Final = frozenset(("entry", "init-array"))


def analyse(
    image: Image,
    graphs: Graphs,
    mode: Mode = "abi",
    observed: Mapping[int, int] = MappingProxyType({}),
) -> Liveness:
    """Liveness of the functions in `graphs` (by address), which may be all of the image or a few.

    `observed` are the registers that probes read, by the address of the instruction before which they run: an
    argument that the function itself ignores is live where a probe looks at it.

    `strict` makes everything live everywhere: the reference, and the only mode for Go, whose ABI is another. `abi`
    believes the System V ABI where code outside the graphs is concerned that the image does not hold itself; code of
    the image that is not in `graphs` may read everything. Raises UsageError for another mode.
    """
    if mode not in get_args(Mode):
        raise UsageError(f"unknown liveness mode {mode!r}: choose from {', '.join(get_args(Mode))}")
    if mode == "strict" or image.is_go:
        return Liveness({})
    solver = _Solver(image, graphs, observed)
    solver.summarise()
    solver.solve()
    return Liveness(solver.solved, observed)


class Solved:
    """One function with its equations and their solution."""

    __slots__ = ("after", "kills", "live", "pads", "piece", "uses", "written")

    def __init__(self, piece: Piece) -> None:
        count = len(piece.addresses)
        self.piece = piece
        self.uses = masks(count)
        """Per block: what is read from there on before it is overwritten, returns keeping nothing alive."""
        self.kills = masks(count, TRACKED)
        """Per block: what is overwritten on every path from there to a return."""
        self.written = piece.writes & TRACKED
        """What the function may change, its callees included."""
        self.live = masks(count)
        """Per block: live before it."""
        self.after = masks(count)
        """Per block: live after its last instruction, and after the callee's return if that is a call."""
        self.pads = 0
        """What landing pads and unwinding keep live at every call."""


@dataclass(frozen=True, slots=True)
class LiveBlocks:
    """What is live in one function, if it was analysed. All masks are of general-purpose registers and flags."""

    addresses: array[int]
    live: array[int]
    """Per block: before it."""
    after: array[int]
    """As in `Solved`."""
    pads: int
    summary: Mapping[int, Summary]
    """Of the callees that end blocks."""
    has_call: bytearray
    observed: Mapping[int, int]
    """What probes read, by the address of the instruction before which they run."""

    def number(self, address: int) -> int:
        """The block that starts at `address`; -1 if none does."""
        index = bisect_right(self.addresses, address) - 1
        return index if index >= 0 and self.addresses[index] == address else -1

    def at(self, graph: FunctionGraph, address: int) -> int:
        """What is live before the instruction at `address`; everything where the graph has none there."""
        number = bisect_right(self.addresses, address) - 1
        if number < 0:
            return TRACKED
        uses, kills = self.summary.get(number, NO_SUMMARY)
        mask = self.after[number] & ~kills | uses
        if self.has_call[number]:
            mask |= self.pads
        for where, instruction in reversed(graph.blocks[self.addresses[number]].addressed()):
            mask = mask & ~instruction.effects.kills | instruction.effects.reads | self.observed.get(where, 0)
            if where == address:
                return mask & TRACKED | gpr(RSP)
        return TRACKED

    def after_block(self, block: int) -> int:
        """What is live after the last instruction of the block at `block`: see `Liveness.live_after`."""
        number = self.number(block)
        if number < 0:
            return TRACKED
        return self.after[number] | (self.pads if self.has_call[number] else 0) | gpr(RSP)


NOTHING_KNOWN: Final = LiveBlocks(array("Q"), array("I"), array("I"), 0, {}, bytearray(), {})
"""Of a function that was not analysed: everything is live."""


class Liveness:
    """What is live before each block and each instruction, as masks of general-purpose registers and flags."""

    def __init__(self, solved: Mapping[int, Solved], observed: Mapping[int, int] = MappingProxyType({})) -> None:
        self._observed = observed
        self._blocks = {address: self._of(one) for address, one in solved.items()}

    def _of(self, solved: Solved) -> LiveBlocks:
        piece = solved.piece
        own = {}
        if self._observed:
            start, end = piece.function.address, piece.function.end
            own = {where: mask for where, mask in self._observed.items() if start <= where < end}
        return LiveBlocks(
            piece.addresses, solved.live, solved.after, solved.pads, piece.summary, piece.has_call, own
        )

    def of(self, function: int) -> LiveBlocks:
        """What is live in the function at `function`."""
        return self._blocks.get(function, NOTHING_KNOWN)

    def live_in(self, graph: FunctionGraph) -> Mapping[int, int]:
        """Address of each block -> what is live before it; everything for a graph that was not analysed."""
        blocks = self._blocks.get(graph.function.address)
        if blocks is None:
            return dict.fromkeys(graph.blocks, TRACKED)
        return dict(zip(blocks.addresses, blocks.live, strict=True))

    def live_at(self, graph: FunctionGraph, address: int) -> int:
        """What is live before the instruction at `address`; everything where the graph has none there."""
        return self.of(graph.function.address).at(graph, address)

    def live_after(self, graph: FunctionGraph, block: int) -> int:
        """What is live after the last instruction of the block at `block`: wherever control goes from there.

        For a call, at its return address, or in the unwinder where it never returns.
        """
        return self.of(graph.function.address).after_block(block)

    def elsewhere(self, image: Image, graphs: Mapping[int, FunctionGraph], address: int) -> int | None:
        """What is live before the instruction at `address` of whichever function; None where it was not analysed."""
        function = image.function_at(address)
        if function is None or function.address not in graphs:
            return None
        blocks = self.of(function.address)
        number = blocks.number(address)
        return blocks.live[number] | gpr(RSP) if number >= 0 else blocks.at(graphs[function.address], address)


class _Solver:
    """The two fixed points over all functions."""

    def __init__(self, image: Image, graphs: Graphs, observed: Mapping[int, int]) -> None:
        self.image = image
        self.graphs = graphs
        self.solved = {address: Solved(graphs.outline(address).piece) for address in graphs}
        for address in {function.address for function in map(image.function_at, observed) if function is not None}:
            if address in graphs:
                self.solved[address] = Solved(make_piece(image, graphs[address], observed))
        self.starts = sorted(self.solved)
        self.users: dict[int, set[int]] = {}
        """Block -> functions that call it or jump to it from elsewhere."""
        self.watched: dict[int, list[int]] = {address: [] for address in self.solved}
        """Function -> its blocks that have users."""
        self.callers: set[int] = set()
        """Functions with a known direct caller."""
        for address, solved in self.solved.items():
            for _, target in (*solved.piece.calls(), *solved.piece.leaves()):
                home = self.home(target)
                if home is not None:
                    self.users.setdefault(target, set()).add(address)
                    self.callers.add(home[0].piece.function.address)
        for target in self.users:
            home = self.home(target)
            assert home is not None
            self.watched[home[0].piece.function.address].append(target)
        self.order = self._bottom_up()

    def home(self, target: int) -> tuple[Solved, int] | None:
        """The function that has a block at `target`, and its number there."""
        solved = self.solved.get(target)
        if solved is None:
            before = bisect_right(self.starts, target) - 1
            if before < 0:
                return None
            solved = self.solved[self.starts[before]]
        number = solved.piece.number(target)
        return (solved, number) if number >= 0 else None

    def _bottom_up(self) -> dict[int, int]:
        """Function -> its place in an order that has callees first, as far as there is one."""
        order: dict[int, int] = {}
        seen: set[int] = set()
        for root in self.solved:
            stack: list[tuple[int, Iterable[int]]] = [(root, iter(self._callees(root)))] if root not in seen else []
            seen.add(root)
            while stack:
                address, rest = stack[-1]
                for callee in rest:
                    if callee not in seen:
                        seen.add(callee)
                        stack.append((callee, iter(self._callees(callee))))
                        break
                else:
                    order[address] = len(order)
                    stack.pop()
        return order

    def _callees(self, address: int) -> list[int]:
        piece = self.solved[address].piece
        homes = [self.home(target) for _, target in (*piece.calls(), *piece.leaves())]
        return [home[0].piece.function.address for home in homes if home is not None]

    def summarise(self) -> None:
        """What functions read and surely change, as their callers see it."""
        queue = _Queue(self.order, reverse=False)
        while (address := queue.pop()) is not None:
            solved = self.solved[address]
            before = [(solved.uses[number], solved.kills[number]) for number in self._numbers(address, solved)]
            written = solved.written
            self._take_summaries(solved)
            edges = solved.piece.edges()
            self._solve_uses(solved, edges)
            self._solve_kills(solved, edges)
            after = [(solved.uses[number], solved.kills[number]) for number in self._numbers(address, solved)]
            for target, old, new in zip(self.watched[address], before, after, strict=True):
                if old != new or written != solved.written:
                    queue.push(self.users[target])

    def _numbers(self, address: int, solved: Solved) -> list[int]:
        return [solved.piece.number(target) for target in self.watched[address]]

    def _take_summaries(self, solved: Solved) -> None:
        """Enter what is known by now of the function's callees."""
        piece = solved.piece
        written = solved.written
        for number, target in piece.calls():
            callee = self.home(target)
            if callee is None:
                piece.summary[number] = TRACKED, 0
                written = TRACKED
            else:
                piece.summary[number] = callee[0].uses[callee[1]], callee[0].kills[callee[1]]
                written |= callee[0].written
        for _, target in piece.leaves():
            callee = self.home(target)
            written |= callee[0].written if callee is not None else TRACKED
        for number in piece.foreign_calls:
            written |= CLOBBERED | piece.summary[number][1]
        solved.written = written

    def _solve_uses(self, solved: Solved, edges: Edges) -> None:
        piece = solved.piece
        ends = list(piece.fixed)
        for number, target in piece.leaves():
            other = self.home(target)
            ends[number] |= other[0].uses[other[1]] if other is not None else TRACKED
        self._backward(solved, edges, solved.uses, ends)

    def _backward(self, solved: Solved, edges: Edges, live: array[int], ends: list[int]) -> None:
        """Least solution for one function; `ends` is live at the ends of blocks beyond what their successors need."""
        piece = solved.piece
        reads, kills, summary, has_call = piece.reads, piece.kills, piece.summary, piece.has_call
        successors, predecessors = edges
        after = solved.after
        pads = CALLEE_SAVED if piece.pads else 0
        for pad in piece.pads:
            pads |= live[pad] & ~_PAD_WRITES
        work = list(range(len(reads)))
        pending = bytearray(b"\1" * len(reads))
        while True:
            while work:
                number = work.pop()
                pending[number] = 0
                mask = ends[number]
                for successor in successors[number]:
                    mask |= live[successor]
                after[number] = mask
                if number in summary:
                    uses, killed = summary[number]
                    mask = mask & ~killed | uses
                if pads and has_call[number]:
                    mask |= pads
                mask = reads[number] | mask & ~kills[number]
                if mask != live[number]:
                    live[number] = mask
                    for before in predecessors[number]:
                        if not pending[before]:
                            pending[before] = 1
                            work.append(before)
            grown = pads
            for pad in piece.pads:
                grown |= live[pad] & ~_PAD_WRITES
            if grown == pads:
                break
            pads = grown
            work = [number for number in range(len(reads)) if has_call[number]]
        solved.pads = pads

    def _solve_kills(self, solved: Solved, edges: Edges) -> None:
        """Greatest solution: what is overwritten on every path to a return (everything where there is none)."""
        piece = solved.piece
        summary, (successors, predecessors) = piece.summary, edges
        kills = solved.kills
        ends = [0 if opaque else TRACKED for opaque in piece.opaque]
        for number, target in piece.leaves():
            other = self.home(target)
            ends[number] &= other[0].kills[other[1]] if other is not None else 0
        work = list(range(len(kills)))
        pending = bytearray(b"\1" * len(kills))
        while work:
            number = work.pop()
            pending[number] = 0
            mask = ends[number]
            for successor in successors[number]:
                mask &= kills[successor]
            if number in summary:
                mask |= summary[number][1]
            if piece.pads and piece.has_call[number]:
                for pad in piece.pads:
                    mask &= kills[pad]
            mask |= piece.kills[number]
            if mask != kills[number]:
                kills[number] = mask
                befores: Iterable[int] = predecessors[number]
                if number in piece.pads:
                    befores = range(len(kills))
                for before in befores:
                    if not pending[before]:
                        pending[before] = 1
                        work.append(before)

    def solve(self) -> None:
        """What is live, summaries of callees known; what returns keep live spreads from callers to callees."""
        returned = {address: self._returned_outside(solved) for address, solved in self.solved.items()}
        foreign = foreign_targets(self.image, self.graphs)
        for function, solved in self.solved.items():
            if foreign.get(function) or self._may_be_run_into(solved.piece.function):
                returned[function] = TRACKED
        queue = _Queue(self.order, reverse=True)
        while (address := queue.pop()) is not None:
            solved = self.solved[address]
            piece = solved.piece
            before = [solved.live[number] for number in self._numbers(address, solved)]
            ends = list(piece.fixed)
            for number in (*piece.returns, *piece.abi_exits):
                ends[number] |= returned[address]
            for number, target in piece.leaves():
                other = self.home(target)
                ends[number] |= other[0].live[other[1]] if other is not None else TRACKED
            self._backward(solved, piece.edges(), solved.live, ends)
            for target, old, number in zip(self.watched[address], before, self._numbers(address, solved), strict=True):
                if old != solved.live[number]:
                    queue.push(self.users[target])
            for number, target in piece.calls():
                self._spread(queue, returned, target, solved.after[number] | solved.pads)
            for _, target in piece.leaves():
                self._spread(queue, returned, target, returned[address])

    def _spread(self, queue: _Queue, returned: dict[int, int], target: int, mask: int) -> None:
        """A caller has `mask` live after a call of (or jump to) `target`: so have the callee's returns."""
        other = self.home(target)
        if other is None:
            return
        callee = other[0].piece.function.address
        if mask & ~returned[callee]:
            returned[callee] |= mask
            queue.push((callee,))

    def _returned_outside(self, solved: Solved) -> int:
        """What returns keep live for callers that are not in the graphs, and for those that cannot be seen."""
        function = solved.piece.function
        # gcc's -fipa-ra lets callers keep values in registers that the callee leaves alone.
        mask = GPRS & ~solved.written | gpr(RSP)
        if (
            function.exported
            or function.address_taken
            or function.source in _CALLED_FROM_OUTSIDE
            or function.address not in self.callers
            or any(solved.piece.number(pointer) >= 0 for pointer in self._pointers(function))
        ):
            mask |= RETURNED
        return mask

    def _pointers(self, function: Function) -> list[int]:
        return self.image.code_pointers_in(function.address, function.end)

    def _may_be_run_into(self, function: Function) -> bool:
        """Whether a function that was not analysed lies directly before this one, without padding between."""
        before = self.image.function_at(function.address - 1)
        return before is not None and before.address not in self.solved


class _Queue:
    """Functions to be solved, callees first (or callers first), each at most once at a time."""

    def __init__(self, order: Mapping[int, int], reverse: bool) -> None:
        sign = -1 if reverse else 1
        self._rank = {address: sign * place for address, place in order.items()}
        self._heap = [(rank, address) for address, rank in self._rank.items()]
        heapq.heapify(self._heap)
        self._waiting = set(order)

    def push(self, addresses: Iterable[int]) -> None:
        """Ask for functions to be solved (again)."""
        for address in addresses:
            if address not in self._waiting:
                self._waiting.add(address)
                heapq.heappush(self._heap, (self._rank[address], address))

    def pop(self) -> int | None:
        """The next one, None when all is settled."""
        if not self._heap:
            return None
        address = heapq.heappop(self._heap)[1]
        self._waiting.discard(address)
        return address
