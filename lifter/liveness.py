"""Which registers and flags are live: what a region has to take in, keep and give back.

Interprocedural, because compilers and hand-written assembly ignore the ABI between functions that they see both of: a
call of a function that was analysed reads and changes what that function does, and a return keeps live what the
callers read. Unknown means live.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args

from lifter.cfg import foreign_targets
from lifter.errors import UsageError
from lifter.graph import FunctionGraph
from lifter.image.types import Function, Image
from lifter.registers import GPRS, RAX, RDX, RSP, gpr
from lifter.summaries import CALLEE_SAVED, CLOBBERED, RETURNED, TRACKED, Piece, make_piece

Mode = Literal["abi", "strict"]

_PAD_WRITES: Final = gpr(RAX) | gpr(RDX)
"""What the unwinder passes to a landing pad."""
_CALLED_FROM_OUTSIDE: Final = frozenset(("entry", "init-array"))


def analyse(
    image: Image,
    graphs: Mapping[int, FunctionGraph],
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
        self.uses = [0] * count
        """Per block: what is read from there on before it is overwritten, returns keeping nothing alive."""
        self.kills = [TRACKED] * count
        """Per block: what is overwritten on every path from there to a return."""
        self.written = piece.writes & TRACKED
        """What the function may change, its callees included."""
        self.live = [0] * count
        """Per block: live before it."""
        self.after = [0] * count
        """Per block: live after its last instruction, and after the callee's return if that is a call."""
        self.pads = 0
        """What landing pads and unwinding keep live at every call."""


class Liveness:
    """What is live before each block and each instruction, as masks of general-purpose registers and flags."""

    def __init__(self, solved: Mapping[int, Solved], observed: Mapping[int, int] = MappingProxyType({})) -> None:
        self._solved = solved
        self._observed = observed

    def live_in(self, graph: FunctionGraph) -> Mapping[int, int]:
        """Address of each block -> what is live before it; everything for a graph that was not analysed."""
        solved = self._solved.get(graph.function.address)
        if solved is None:
            return dict.fromkeys(graph.blocks, TRACKED)
        return dict(zip(solved.piece.addresses, solved.live, strict=True))

    def live_at(self, graph: FunctionGraph, address: int) -> int:
        """What is live before the instruction at `address`; everything where the graph has none there."""
        solved = self._solved.get(graph.function.address)
        if solved is None:
            return TRACKED
        piece = solved.piece
        number = bisect_right(piece.addresses, address) - 1
        if number < 0:
            return TRACKED
        uses, kills = piece.summary[number]
        mask = solved.after[number] & ~kills | uses
        if piece.has_call[number]:
            mask |= solved.pads
        for where, instruction in reversed(graph.blocks[piece.addresses[number]].addressed()):
            mask = mask & ~instruction.effects.kills | instruction.effects.reads | self._observed.get(where, 0)
            if where == address:
                return mask & TRACKED | gpr(RSP)
        return TRACKED

    def live_after(self, graph: FunctionGraph, block: int) -> int:
        """What is live after the last instruction of the block at `block`: wherever control goes from there.

        For a call, at its return address, or in the unwinder where it never returns.
        """
        solved = self._solved.get(graph.function.address)
        if solved is None or block not in solved.piece.index:
            return TRACKED
        number = solved.piece.index[block]
        pads = solved.pads if solved.piece.has_call[number] else 0
        return solved.after[number] | pads | gpr(RSP)


class _Solver:
    """The two fixed points over all functions."""

    def __init__(self, image: Image, graphs: Mapping[int, FunctionGraph], observed: Mapping[int, int]) -> None:
        self.image = image
        self.solved = {address: Solved(make_piece(image, graph, observed)) for address, graph in graphs.items()}
        self.home: dict[int, tuple[Solved, int]] = {}
        """Address of a block -> the function that has it and its number there."""
        for solved in self.solved.values():
            for number, address in enumerate(solved.piece.addresses):
                self.home.setdefault(address, (solved, number))
        for address, solved in self.solved.items():
            # A function's own entry is never another one's block, even where symbols overlap.
            if address in solved.piece.index:
                self.home[address] = (solved, solved.piece.index[address])
        self.users: dict[int, set[int]] = {}
        """Block -> functions that call it or jump to it from elsewhere."""
        self.watched: dict[int, list[int]] = {address: [] for address in self.solved}
        """Function -> its blocks that have users."""
        self.callers: set[int] = set()
        """Functions with a known direct caller."""
        for address, solved in self.solved.items():
            for _, target in (*solved.piece.calls, *solved.piece.leaves):
                if target in self.home:
                    self.users.setdefault(target, set()).add(address)
                    self.callers.add(self.home[target][0].piece.graph.function.address)
        for target in self.users:
            self.watched[self.home[target][0].piece.graph.function.address].append(target)
        self.order = self._bottom_up()

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
        return [
            self.home[target][0].piece.graph.function.address
            for _, target in (*piece.calls, *piece.leaves)
            if target in self.home
        ]

    def summarise(self) -> None:
        """What functions read and surely change, as their callers see it."""
        queue = _Queue(self.order, reverse=False)
        while (address := queue.pop()) is not None:
            solved = self.solved[address]
            before = [(solved.uses[number], solved.kills[number]) for number in self._numbers(address, solved)]
            written = solved.written
            self._take_summaries(solved)
            self._solve_uses(solved)
            self._solve_kills(solved)
            after = [(solved.uses[number], solved.kills[number]) for number in self._numbers(address, solved)]
            for target, old, new in zip(self.watched[address], before, after, strict=True):
                if old != new or written != solved.written:
                    queue.push(self.users[target])

    def _numbers(self, address: int, solved: Solved) -> list[int]:
        index = solved.piece.index
        return [index[target] for target in self.watched[address]]

    def _take_summaries(self, solved: Solved) -> None:
        """Enter what is known by now of the function's callees."""
        piece = solved.piece
        written = solved.written
        for number, target in piece.calls:
            callee = self.home.get(target)
            if callee is None:
                piece.summary[number] = TRACKED, 0
                written = TRACKED
            else:
                piece.summary[number] = callee[0].uses[callee[1]], callee[0].kills[callee[1]]
                written |= callee[0].written
        for _, target in piece.leaves:
            callee = self.home.get(target)
            written |= callee[0].written if callee is not None else TRACKED
        for number in piece.foreign_calls:
            written |= CLOBBERED | piece.summary[number][1]
        solved.written = written

    def _solve_uses(self, solved: Solved) -> None:
        piece = solved.piece
        ends = list(piece.fixed)
        for number, target in piece.leaves:
            other = self.home.get(target)
            ends[number] |= other[0].uses[other[1]] if other is not None else TRACKED
        self._backward(solved, solved.uses, ends)

    def _backward(self, solved: Solved, live: list[int], ends: list[int]) -> None:
        """Least solution for one function; `ends` is live at the ends of blocks beyond what their successors need."""
        piece = solved.piece
        reads, kills, successors, predecessors = piece.reads, piece.kills, piece.successors, piece.predecessors
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
                uses, killed = piece.summary[number]
                mask = mask & ~killed | uses
                if pads and piece.has_call[number]:
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
            work = [number for number in range(len(reads)) if piece.has_call[number]]
        solved.pads = pads

    def _solve_kills(self, solved: Solved) -> None:
        """Greatest solution: what is overwritten on every path to a return (everything where there is none)."""
        piece = solved.piece
        kills = solved.kills
        ends = [0 if opaque else TRACKED for opaque in piece.opaque]
        for number, target in piece.leaves:
            other = self.home.get(target)
            ends[number] &= other[0].kills[other[1]] if other is not None else 0
        work = list(range(len(kills)))
        pending = bytearray(b"\1" * len(kills))
        while work:
            number = work.pop()
            pending[number] = 0
            mask = ends[number]
            for successor in piece.successors[number]:
                mask &= kills[successor]
            mask |= piece.summary[number][1]
            if piece.pads and piece.has_call[number]:
                for pad in piece.pads:
                    mask &= kills[pad]
            mask |= piece.kills[number]
            if mask != kills[number]:
                kills[number] = mask
                befores: Iterable[int] = piece.predecessors[number]
                if number in piece.pads:
                    befores = range(len(kills))
                for before in befores:
                    if not pending[before]:
                        pending[before] = 1
                        work.append(before)

    def solve(self) -> None:
        """What is live, summaries of callees known; what returns keep live spreads from callers to callees."""
        returned = {address: self._returned_outside(solved) for address, solved in self.solved.items()}
        foreign = foreign_targets(self.image, {address: solved.piece.graph for address, solved in self.solved.items()})
        for function, solved in self.solved.items():
            if foreign.get(function) or self._may_be_run_into(solved.piece.graph.function):
                returned[function] = TRACKED
        queue = _Queue(self.order, reverse=True)
        while (address := queue.pop()) is not None:
            solved = self.solved[address]
            piece = solved.piece
            before = [solved.live[number] for number in self._numbers(address, solved)]
            ends = list(piece.fixed)
            for number in (*piece.returns, *piece.abi_exits):
                ends[number] |= returned[address]
            for number, target in piece.leaves:
                other = self.home.get(target)
                ends[number] |= other[0].live[other[1]] if other is not None else TRACKED
            self._backward(solved, solved.live, ends)
            for target, old, number in zip(self.watched[address], before, self._numbers(address, solved), strict=True):
                if old != solved.live[number]:
                    queue.push(self.users[target])
            for number, target in piece.calls:
                self._spread(queue, returned, target, solved.after[number] | solved.pads)
            for _, target in piece.leaves:
                self._spread(queue, returned, target, returned[address])

    def _spread(self, queue: _Queue, returned: dict[int, int], target: int, mask: int) -> None:
        """A caller has `mask` live after a call of (or jump to) `target`: so have the callee's returns."""
        other = self.home.get(target)
        if other is None:
            return
        callee = other[0].piece.graph.function.address
        if mask & ~returned[callee]:
            returned[callee] |= mask
            queue.push((callee,))

    def _returned_outside(self, solved: Solved) -> int:
        """What returns keep live for callers that are not in the graphs, and for those that cannot be seen."""
        function = solved.piece.graph.function
        # gcc's -fipa-ra lets callers keep values in registers that the callee leaves alone.
        mask = GPRS & ~solved.written | gpr(RSP)
        if (
            function.exported
            or function.address_taken
            or function.source in _CALLED_FROM_OUTSIDE
            or function.address not in self.callers
            or any(pointer in solved.piece.index for pointer in self._pointers(function))
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
