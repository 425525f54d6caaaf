"""Control-flow graphs of one function, of several, and of a whole image.

Functions are not independent: one may jump into the middle of another (`foo.cold` back into `foo`, hand-written
assembly), and whether a function comes back decides what follows its calls. `build_all` repeats what such findings
change until nothing changes any more.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from lifter.descent import Descent
from lifter.exits import exits, falls_out, overrun
from lifter.graph import FunctionGraph
from lifter.image.scan import branch_targets
from lifter.image.types import Function, Image
from lifter.jumptable import KnownTables
from lifter.noreturn import find_noreturn
from lifter.outline import FLOWS, Outline
from lifter.packing import Graphs, pack
from lifter.returning import looks_at_return_address, needed_to_return
from lifter.summaries import make_piece

_ROUNDS = 20
"""Of mutual influence between functions; what is still open after them stays as it is."""
_FIRST_ROUNDS = 16
_SMALLEST_ROUND = 64
"""In so many rounds all graphs are made for the first time, of at least so many functions each."""


def build_graph(
    image: Image,
    function: Function,
    extra_entries: Iterable[int] = (),
    noreturn: frozenset[int] = frozenset(),
    known_tables: KnownTables | None = None,
    crossed: int = 0,
) -> FunctionGraph:
    """The control-flow graph of one function.

    `extra_entries` are addresses inside it that code of other functions jumps to or calls; `noreturn` are addresses of
    functions of the image that are proved never to return (`lifter.noreturn.find_noreturn`); `known_tables` (by default
    computed anew) knows where tables end for lack of a bound; `crossed` is the end of an instruction of another
    function that reaches into it (`lifter.exits.overrun`). `build_all` finds all of these itself: prefer it.
    """
    tables = known_tables or KnownTables.of(image)
    return Descent(image, function, noreturn, tables.of_function()).build(extra_entries, crossed)


@dataclass(frozen=True, slots=True)
class GraphTask:
    """A graph to be made: the arguments of `build_graph`."""

    function: int
    """Its address."""
    entries: tuple[int, ...]
    noreturn: frozenset[int]
    crossed: int


GraphResult = tuple[int, bytes, Outline]
"""Address of a function, its graph, packed, and its outline."""
Share = Callable[[Iterable[GraphTask]], Iterable[GraphResult]]
"""Does tasks, in whichever processes and in any order."""


def _outline(image: Image, graph: FunctionGraph) -> Outline:
    """The outline of a function."""
    transfers = array("q")
    for block in graph.blocks.values():
        target = graph.callees.get(block.last_address)
        if target is not None:
            transfers.extend((block.address, target, FLOWS.index(block.flow)))
    needed = needed_to_return(image, graph)
    return Outline(
        array("q", sorted(exits(graph))),
        falls_out(graph),
        overrun(image, graph),
        transfers,
        None if needed is None else frozenset(needed),
        needed is None and looks_at_return_address(graph),
        make_piece(image, graph, MappingProxyType({})),
    )


class GraphMaker:
    """Makes the graphs of an image, each from its task alone."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._tables = KnownTables.of(image)

    def make(self, task: GraphTask) -> GraphResult:
        """Do one task."""
        function = self._image.function_at(task.function)
        assert function is not None
        graph = build_graph(self._image, function, task.entries, task.noreturn, self._tables, task.crossed)
        return function.address, pack(graph), _outline(self._image, graph)


def build_all(image: Image, functions: Iterable[Function], share: Share | None = None) -> Graphs:
    """Graphs of `functions` by address, with the entries that they give each other.

    Where code outside `functions` could jump into them (other functions of the image, code in no function), every byte
    pattern that is a jump there counts as one: a superset, since an entry too many costs nothing but speed. `share`
    does the tasks; what comes out does not depend on who does them.
    """
    return _Building(image, functions, share or partial(map, GraphMaker(image).make)).run()


class _Building:
    """The work on all graphs of an image, in rounds: what one round finds is told to the next."""

    def __init__(self, image: Image, functions: Iterable[Function], share: Share) -> None:
        self._image = image
        self._chosen = {function.address: function for function in functions}
        self._share = share
        self._noreturn: frozenset[int] = frozenset()
        self._graphs = Graphs(image)
        self._extra: dict[int, set[int]] = {}
        """Function -> addresses in it that others jump to or call."""
        self._crossed: dict[int, int] = {}
        """Function -> the end of an instruction of another one that reaches into it."""
        self._changed: set[int] = set()
        """Functions whose graphs have to be made again."""

    def run(self) -> Graphs:
        """All rounds."""
        # Cold parts mostly come first, so that most entries are known when their function's turn comes.
        addresses = sorted(self._chosen)
        size = max(_SMALLEST_ROUND, -(-len(addresses) // _FIRST_ROUNDS))
        for at in range(0, len(addresses), size):
            self._make(addresses[at : at + size])
        self._graphs.sort()
        _add_foreign_entries(self._image, self._graphs, self._extra)
        for address, entered in self._extra.items():
            if not entered <= self._graphs[address].open_entries:
                self._changed.add(address)
        for _ in range(_ROUNDS):
            if not self._changed:
                # Only now: a function whose ways out are not all known would seem never to return.
                proved = find_noreturn(self._graphs, self._image)
                self._changed.update(_callers_of(proved - self._noreturn, self._graphs))
                self._noreturn |= proved
                if not self._changed:
                    break
            fresh = sorted(self._changed)
            self._changed.clear()
            self._make(fresh)
        return self._graphs

    def _make(self, addresses: Iterable[int]) -> None:
        """Make some graphs (anew), and note what they say of others."""
        tasks = [
            GraphTask(
                address,
                tuple(sorted(self._extra.get(address, ()))),
                self._noreturn,
                self._crossed.get(address, 0),
            )
            for address in addresses
        ]
        entered: set[tuple[int, int]] = set()
        overruns: list[tuple[int, int]] = []
        for address, packed, found in self._share(tasks):
            self._graphs.put(self._chosen[address], packed, found)
            for target in found.exits:
                owner = self._image.function_at(target)
                if owner is not None and owner.address not in (target, address) and owner.address in self._chosen:
                    entered.add((owner.address, target))
            if found.overrun:
                overruns.append((self._chosen[address].end, found.overrun))
        for end, after in overruns:
            self._note_overrun(end, after)
        for owner_address, target in entered:
            known = self._extra.setdefault(owner_address, set())
            if target not in known:
                known.add(target)
                if owner_address in self._graphs and target not in self._graphs[owner_address].open_entries:
                    self._changed.add(owner_address)

    def _note_overrun(self, end: int, after: int) -> None:
        """Note that an instruction that crosses the end `end` of its function goes on to `after`."""
        for owner in {self._image.function_at(address) for address in range(end, after)}:
            if owner is None or owner.address not in self._chosen or after <= self._crossed.get(owner.address, 0):
                continue
            self._crossed[owner.address] = after
            if owner.address in self._graphs:
                self._changed.add(owner.address)


def _callers_of(targets: frozenset[int], graphs: Graphs) -> set[int]:
    """Functions that call one of `targets` and go on after it."""
    if not targets:
        return set()
    return {
        address
        for address, graph in graphs.items()
        for site, target in graph.callees.items()
        if target in targets and site not in graph.noreturn and site not in graph.tail_calls
    }


def _add_foreign_entries(image: Image, graphs: Graphs, extra: dict[int, set[int]]) -> None:
    """Note in `extra` what code outside the graphs may jump to."""
    for address, targets in foreign_targets(image, graphs).items():
        graph = graphs[address]
        for target in targets:
            if target not in graph.open_entries and graph.has_instruction(target):
                extra.setdefault(address, set()).add(target)


def foreign_targets(image: Image, graphs: Graphs) -> dict[int, set[int]]:
    """Function among `graphs` -> addresses in it that code outside all of them may jump to or call.

    By byte patterns, instruction borders unknown: a superset. Code that a graph left out is outside of it: no graph
    says what it calls and jumps to.
    """
    found: dict[int, set[int]] = {}
    if not graphs:
        return found
    starts, ends = graphs.bounds().T
    known = graphs.spans()
    long = branch_targets(image)
    short_target, short_site = _short_jumps(image)
    target = np.concatenate([long.target, short_target])
    site = np.concatenate([long.site, short_site])
    owner = np.searchsorted(starts, target, "right") - 1
    inside = (owner >= 0) & (target < ends[owner])
    if len(known):
        firsts, lasts = known.T
        source = np.searchsorted(firsts, site, "right") - 1
        foreign = (source < 0) | (site >= lasts[source])
    else:
        foreign = np.ones(len(site), np.bool_)
    chosen = inside & foreign
    for where, into in zip(target[chosen].tolist(), starts[owner[chosen]].tolist(), strict=True):
        found.setdefault(into, set()).add(where)
    return found


def _short_jumps(image: Image) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Targets and addresses of all byte patterns that may be two-byte jumps."""
    targets, sites = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for segment in image.segments:
        if not segment.executable or len(segment.data) < 2:
            continue
        code = np.frombuffer(segment.data, np.uint8)
        opcode = code[:-1]
        at = np.flatnonzero((opcode == 0xEB) | (opcode & 0xF0 == 0x70) | (opcode & 0xFC == 0xE0))
        displacement = code[at + 1].astype(np.int8).astype(np.int64)
        sites.append(at + segment.address)
        targets.append(at + segment.address + 2 + displacement)
    return np.concatenate(targets), np.concatenate(sites)
