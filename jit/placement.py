"""Where counters go: as few and as cheap as tell how often every block ran.

What flows into a point of the graph flows out of it. Take all the jumps that lead from one set of blocks to another for
one *junction*; a block is then an edge from the junction before it to the one behind it. Where control can come from
elsewhere, or go and not come back, the junction is the outside. On a spanning tree of that graph no counter is needed:
the blocks that are not on it are counted, and each of the others is a sum of those, with signs (Knuth and Stevenson,
'Optimal measurement points for program frequency counts'). With the tree of the greatest cost the counters cost least.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from ir.blocks import Terminator, lift_block
from jit.trampolines import JUMP
from lifter.frequency import REPEATS, Frequencies, components
from lifter.graph import Block, FunctionGraph
from lifter.image.types import Image
from lifter.instruction import Flow
from lifter.returning import comes_back

Terms = tuple[tuple[int, int], ...]
"""(Address of a counted block, factor): the sum of their counts times their factors."""

_IN_LOOP: Final = 0.1
"""Cost of a counter that is kept in a register, in jumps."""
_NARROW: Final = 1.5
"""More for a block that has no room for a jump of five bytes."""
_MADE_CALL: Final = 15.0
"""For a block that is an indirect call: the region has to make it, and the return is mispredicted."""
_TIGHT: Final = 4.0
"""Rounds of a loop for each time that control comes into it."""
_VERY_TIGHT: Final = 16.0
"""The same of a loop that is a region of its own inside a larger one."""
_LONGEST_COPY: Final = 24
"""Instructions that a region goes on with in copies of blocks that are not counted."""
_WORTH_A_COPY: Final = 0.4
"""Share of a block's runs that have to save a jump."""
_OUTSIDE: Final = -1
_NO_BLOCK: Final = -1


@dataclass(frozen=True, slots=True)
class Arrivals:
    """All ways into a function but for jumps of its own: then how often it is entered need not be counted again."""

    terms: Terms
    """How often other functions call it or jump to it."""
    own: tuple[int, ...]
    """Its blocks that call the function itself."""


def add_up(parts: Iterable[tuple[int, Terms]]) -> Terms:
    """The sum of sums, each times a factor."""
    total: dict[int, int] = {}
    for times, terms in parts:
        for block, factor in terms:
            total[block] = total.get(block, 0) + times * factor
    return tuple((block, factor) for block, factor in total.items() if factor)


@dataclass(frozen=True, slots=True)
class Placement:
    """Counters of one function."""

    counted: frozenset[int]
    """Blocks that get one."""
    lifted: frozenset[int]
    """What is lifted for it: those blocks, and the loops that they are in."""
    copied: frozenset[int]
    """Blocks that run as they are, and which regions that come to them go on with in a copy of their own."""
    counts: Mapping[int, Terms]
    """Block -> its count. A block that is missing cannot be counted."""
    loops: frozenset[int] = frozenset()
    """Where tight loops with a counter begin: regions of their own."""
    after_loops: frozenset[int] = frozenset()
    """Blocks that come after them: other regions begin there."""


def everywhere(blocks: Collection[int], uncountable: Collection[int] = ()) -> Placement:
    """A counter in every block."""
    counted = frozenset(blocks) - frozenset(uncountable)
    return Placement(counted, counted, frozenset(), {block: ((block, 1),) for block in counted})


class CounterPlacing:
    """Places the counters of one function, again and again as blocks turn out not to be countable."""

    def __init__(
        self,
        image: Image,
        graph: FunctionGraph,
        returning: frozenset[int],
        instrumented: frozenset[int],
        arrivals: Arrivals | None = None,
        through: frozenset[int] | None = None,
    ) -> None:
        """With `through`, the addresses of calls that regions make themselves, the function runs in the code cache as
        far as it can, and counters cost no jumps.

        `returning` are functions that return whenever they are called (see `lifter.returning`); `instrumented`
        are blocks that are lifted in any case; `arrivals` says how often the function is entered, where known."""
        self._graph = graph
        self._instrumented = instrumented
        self.through = through
        self._frequencies = Frequencies(graph)
        self._addresses = self._frequencies.addresses
        self._blocks = list(graph.blocks.values())
        """All blocks, in address order."""
        self.lifted = [lift_block(block) for block in self._blocks]
        self.in_cache = [
            lift_block(block, through=True) if block.last_address in (through or ()) else lifted
            for block, lifted in zip(self._blocks, self.lifted, strict=True)
        ]
        """The blocks as regions have them: with the calls that they make."""
        index = self._frequencies.index
        self._inside = [[index[s] for s in dict.fromkeys(block.successors) if s in index] for block in self.lifted]
        """Successors that control gets to without leaving lifted code."""
        self._entered = self._arriving_edges()
        self._loops = self._tight_loops()
        self._in_loop = {number for loop in self._loops for number in loop}
        self._costs = [self._cost(number) for number in range(len(self._blocks))]
        self._arrivals = arrivals
        self._entering = len(self._blocks) if arrivals else _NO_BLOCK
        """Number of the way in, an edge like a block whose count is known."""
        self._image, self._returning = image, returning
        self._ends = self._junctions()

    def place(self, uncountable: Collection[int]) -> Placement:
        """The placement of least cost that puts no counter into `uncountable` blocks."""
        barred = {self._frequencies.index[address] for address in uncountable}
        order = sorted(range(len(self._costs)), key=lambda number: (number not in barred, -self._costs[number], number))
        if self._arrivals:
            order.append(self._entering)
        ends = self._ends
        while True:
            tree, chords = _span(ends, order)
            undetermined = [number for number in chords if number in barred and ends[number][0] != ends[number][1]]
            if not undetermined:
                break
            # What flows through them is not known: only for both of their ends together is it known what flows in.
            groups = _Groups()
            for number in undetermined:
                groups.join(*ends[number])
            ends = [(groups.of(first), groups.of(last)) for first, last in ends]
        counts = self._named(_sums(ends, tree, [number for number in chords if number not in barred]))
        if counts is None:
            self._arrivals, self._entering = None, _NO_BLOCK
            self._ends = self._junctions()
            return self.place(uncountable)
        counted = frozenset(
            self._addresses[number] for number in chords if number not in barred and number != self._entering
        )
        if self.through is not None:
            return Placement(counted, *self._whole(counted, barred), counts, *self._seams(counted))
        return Placement(counted, *self._lifted_for(counted, barred), counts)

    def _arriving_edges(self) -> dict[int, list[tuple[int, float]]]:
        """Block -> (block before it, how often control comes from there); into a loop as often as that is reached."""
        frequencies = self._frequencies
        entered: dict[int, list[tuple[int, float]]] = {}
        for (before, after), along in frequencies.edges.items():
            deeper = frequencies.depth[after] - frequencies.depth[before]
            entered.setdefault(after, []).append((before, along / REPEATS**deeper))
        return entered

    def _tight_loops(self) -> list[list[int]]:
        """Loops that control mostly goes round in without leaving lifted code: there a counter can be a register."""
        tight = []
        work = components(self._inside)
        while work:
            loop = work.pop()
            if self._turns(loop) >= _TIGHT:
                tight.append(loop)
            elif len(loop) > 1:
                work += self._loops_in(loop)
        return tight

    def _turns(self, loop: Sequence[int]) -> float:
        """How often a loop goes round each time that it is entered."""
        frequencies = self._frequencies
        members = set(loop)
        arriving = sum(
            along
            for node in loop
            for before, along in self._entered.get(node, ())
            if before not in members or node not in self._inside[before]
        )
        turns = max(frequencies.blocks[node] for node in loop)
        return turns / arriving if arriving else inf

    def _loops_in(self, loop: Sequence[int]) -> list[list[int]]:
        """The loops inside a loop: what is left of it without its header."""
        header = min(loop, key=self._frequencies.place.__getitem__)
        number = {node: position for position, node in enumerate(loop)}
        rest = [[number[s] for s in self._inside[node] if s in number and s != header] for node in loop]
        return [[loop[position] for position in inner] for inner in components(rest)]

    def _named(self, sums: Mapping[int, Sequence[tuple[int, int]]]) -> dict[int, Terms] | None:
        """Sums by address; None if how often the function calls itself hangs on how often it is entered."""
        addresses, arrivals = self._addresses, self._arrivals

        def named(number: int) -> Terms:
            return tuple((addresses[chord], factor) for chord, factor in sums[number] if chord != self._entering)

        result = {addresses[number]: named(number) for number in sums if number != self._entering}
        if arrivals is None:
            return result
        index = self._frequencies.index
        recursive = [index[block] for block in arrivals.own]
        if any(number not in sums or self._entering in dict(sums[number]) for number in recursive):
            return None
        entering = add_up([(1, arrivals.terms), *((1, named(number)) for number in recursive)])
        for number, terms in sums.items():
            times = dict(terms).get(self._entering, 0)
            if times and number != self._entering:
                result[addresses[number]] = add_up([(1, named(number)), (times, entering)])
        return result

    def _junctions(self) -> list[tuple[int, int]]:
        """The junctions before and behind each block."""
        graph, index = self._graph, self._frequencies.index
        count = len(self._blocks)
        groups = _Groups()
        for number, block in enumerate(self._blocks):
            behind = count + number
            if not self._goes_on(block):
                groups.join(behind, _OUTSIDE)
            for successor in block.successors:
                groups.join(behind, index.get(successor, _OUTSIDE))
        entry = index.get(graph.function.address, _OUTSIDE)
        for address in graph.open_entries:
            if index[address] != entry or not self._arrivals:
                groups.join(index[address], _OUTSIDE)
        ends = [(number, count + number) for number in range(count)]
        if self._arrivals:
            ends.append((_OUTSIDE, entry))
        ends = [(groups.of(first), groups.of(last)) for first, last in ends]
        for stuck in _never_outside(ends, _OUTSIDE):
            groups.join(stuck, _OUTSIDE)
        return [(groups.of(first), groups.of(last)) for first, last in ends]

    def _goes_on(self, block: Block) -> bool:
        """Whether control that enters a block always goes on to one of its successors, once."""
        graph = self._graph
        where, flow = block.last_address, block.last.flow
        if not block.successors or where in graph.tail_calls:
            return False
        match flow:
            case Flow.CALL | Flow.CALL_INDIRECT:
                return comes_back(self._image, graph, block, self._returning)
            case Flow.SYSCALL:
                return False
            case Flow.BRANCH:
                # The last of a function may run into the next; a transaction is taken back from anywhere.
                return block.end in block.successors and block.last.mnemonic != "xbegin"
            case Flow.JUMP_INDIRECT:
                table = graph.tables.get(where)
                return table is not None and all(target in graph.blocks for target in table.targets)
        return True

    def _cost(self, number: int) -> float:
        """Of a counter in a block, in jumps."""
        block, lifted = self._blocks[number], self.lifted[number]
        runs = self._frequencies.blocks[number]
        if number in self._in_loop or block.address in self._instrumented:
            return _IN_LOOP * runs
        if self.through is not None or self._can_redirect(block):
            return runs
        if not lifted.body and lifted.terminator is Terminator.NATIVE:
            return _MADE_CALL * runs
        leaving = 1.0 - self._stays(number, (), _LONGEST_COPY + len(block.instructions))
        narrow = lifted.lifted_end - block.address < JUMP
        return runs * (1.0 + leaving + _NARROW * narrow)

    @staticmethod
    def _can_redirect(block: Block) -> bool:
        """Whether a block can be counted where it is, by sending the call or jump that ends it to a stub."""
        last = block.last
        leaves = last.flow is Flow.CALL or (last.flow is Flow.JUMP and not block.successors)
        return leaves and last.size == JUMP

    def _lifted_for(self, counted: frozenset[int], barred: Collection[int]) -> tuple[frozenset[int], frozenset[int]]:
        """What has to be lifted (counted blocks, and the loops that hold them), and what is worth a copy after it."""
        index = self._frequencies.index
        redirected = {
            number
            for address in counted - self._instrumented
            if self._can_redirect(self._blocks[number := index[address]]) and number not in self._in_loop
        }
        lifted = {index[address] for address in counted | self._instrumented} - redirected
        for loop in self._loops:
            if not lifted.isdisjoint(loop):
                lifted.update(loop)
        lifted -= set(barred)
        copied: set[int] = set()
        work = sorted(lifted)
        while work:
            for after in self._inside[work.pop()]:
                known = after in lifted or after in redirected or after in copied
                if not known and self._stays(after, lifted, _LONGEST_COPY) >= _WORTH_A_COPY:
                    copied.add(after)
                    work.append(after)
        addresses = self._addresses
        return frozenset(addresses[number] for number in lifted | redirected), frozenset(
            addresses[number] for number in copied
        )

    def _whole(self, counted: frozenset[int], barred: Collection[int]) -> tuple[frozenset[int], frozenset[int]]:
        """What is lifted if all of the function is to run in the cache; and what can run as it is before control gets
        there, which has a copy in the cache too: lifting begins with the entry and with counted blocks."""
        blocks = self._graph.blocks
        given_up = {self._addresses[number] for number in barred}
        begins = (counted | self._instrumented | {self._graph.function.address}) - given_up
        work = [*self._graph.open_entries, *(target for t in self._graph.tables.values() for target in t.targets)]
        for block, lifted in zip(self._blocks, self.in_cache, strict=True):
            if lifted.cut or lifted.left_to or lifted.terminator in (Terminator.NATIVE, Terminator.INDIRECT):
                work += block.successors
        in_place: set[int] = set()
        while work:
            address = work.pop()
            if address in blocks and address not in in_place and address not in begins:
                in_place.add(address)
                work += blocks[address].successors
        in_place |= given_up
        return frozenset(blocks.keys() - in_place), frozenset(in_place - given_up)

    def _seams(self, counted: frozenset[int]) -> tuple[frozenset[int], frozenset[int]]:
        """The tight loops that have a counter, by where they begin, and the blocks that they are left to.

        No region has all of a loop with several ways in (hand-made code has such): here also the very tight ones in
        it begin.
        """
        addresses = self._addresses
        before: dict[int, list[int]] = {}
        for number, inside in enumerate(self._inside):
            for after in inside:
                before.setdefault(after, []).append(number)
        heads: set[int] = set()
        left_to: set[int] = set()
        work = [*self._loops]
        while work:
            loop = work.pop()
            if any(addresses[number] in counted for number in loop):
                members = set(loop)
                heads.add(addresses[min(loop, key=self._frequencies.place.__getitem__)])
                left_to.update(addresses[s] for number in loop for s in self._inside[number] if s not in members)
                if sum(not members.issuperset(before.get(number, ())) for number in loop) > 1:
                    work += [inner for inner in self._loops_in(loop) if self._turns(inner) >= _VERY_TIGHT]
        return frozenset(heads), frozenset(left_to - heads)

    def _stays(self, number: int, lifted: Collection[int], room: int) -> float:
        """How often, of all times, a copy of a block spares the jump back to the original.

        It does where the function returns, or gets to a lifted block, within `room` instructions.
        """
        block = self.lifted[number]
        room -= len(block.body) + 1
        if room < 0 or number in self._in_loop or block.cut:
            return 0.0
        if block.terminator in (Terminator.RETURN, Terminator.INDIRECT):
            return 1.0
        edges, runs = self._frequencies.edges, self._frequencies.blocks[number]
        return sum(
            edges.get((number, after), 0.0) / runs * (1.0 if after in lifted else self._stays(after, lifted, room))
            for after in self._inside[number]
        )


class _Groups:
    """Numbers joined to groups (union-find); each group is named by one of them."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def of(self, number: int) -> int:
        parent = self._parent
        root = number
        while (above := parent.get(root, root)) != root:
            root = above
        while number != root:
            number, parent[number] = parent[number], root
        return root

    def join(self, first: int, second: int) -> bool:
        """Whether they were apart."""
        first, second = self.of(first), self.of(second)
        if first != second:
            self._parent[max(first, second)] = min(first, second)
        return first != second


def _never_outside(ends: Sequence[tuple[int, int]], outside: int) -> set[int]:
    """Junctions from which no path leads outside: what flows there stays."""
    sources: dict[int, list[int]] = {}
    for first, last in ends:
        sources.setdefault(last, []).append(first)
    reached = {outside}
    work = [outside]
    while work:
        for first in sources.get(work.pop(), ()):
            if first not in reached:
                reached.add(first)
                work.append(first)
    return {junction for pair in ends for junction in pair} - reached


def _span(ends: Sequence[tuple[int, int]], order: Sequence[int]) -> tuple[list[int], list[int]]:
    """A spanning tree of the junctions, the first blocks of `order` first; and the blocks that are not on it."""
    groups = _Groups()
    tree: list[int] = []
    chords: list[int] = []
    for number in order:
        (tree if groups.join(*ends[number]) else chords).append(number)
    return tree, chords


def _sums(
    ends: Sequence[tuple[int, int]], tree: Sequence[int], chords: Sequence[int]
) -> dict[int, list[tuple[int, int]]]:
    """Each block's count as a sum over counted blocks: what flows through one of those comes back along the tree."""
    neighbours: dict[int, list[tuple[int, int, int]]] = {}
    for number in tree:
        first, last = ends[number]
        neighbours.setdefault(first, []).append((last, number, 1))
        neighbours.setdefault(last, []).append((first, number, -1))
    above: dict[int, tuple[int, int, int, int]] = {}
    """Junction -> the one above it, the block between, that block's factor on the way up, and the depth."""
    for root in neighbours:
        if root in above:
            continue
        above[root] = (root, -1, 0, 0)
        work = [root]
        while work:
            junction = work.pop()
            depth = above[junction][3]
            for other, number, factor in neighbours[junction]:
                if other not in above:
                    above[other] = (junction, number, -factor, depth + 1)
                    work.append(other)
    sums: dict[int, list[tuple[int, int]]] = {number: [] for number in tree}
    for chord in chords:
        sums[chord] = [(chord, 1)]
        up, down = ends[chord][1], ends[chord][0]
        while up != down:
            if above[up][3] >= above[down][3]:
                up, number, factor, _ = above[up]
            else:
                down, number, factor, _ = above[down]
                factor = -factor
            sums[number].append((chord, factor))
    return sums
