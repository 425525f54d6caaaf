"""Control-flow graphs of one function, of several, and of a whole image.

Functions are not independent: one may jump into the middle of another (`foo.cold` back into `foo`, hand-written
assembly), and whether a function comes back decides what follows its calls. `build_all` repeats what such findings
change until nothing changes any more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from lifter.descent import Descent
from lifter.graph import FunctionGraph
from lifter.image.scan import branch_targets
from lifter.image.types import Function, Image
from lifter.instruction import Flow
from lifter.jumptable import KnownTables
from lifter.noreturn import find_noreturn

_ROUNDS = 20
"""Of mutual influence between functions; what is still open after them stays as it is."""


def build_graph(
    image: Image,
    function: Function,
    extra_entries: Iterable[int] = (),
    noreturn: frozenset[int] = frozenset(),
    known_tables: KnownTables | None = None,
) -> FunctionGraph:
    """The control-flow graph of one function.

    `extra_entries` are addresses inside it that code of other functions jumps to or calls; `noreturn` are addresses of
    functions of the image that are proved never to return (`lifter.noreturn.find_noreturn`); `known_tables` (by default
    computed anew) knows where tables end for lack of a bound. `build_all` finds all of these itself: prefer it.
    """
    return Descent(image, function, noreturn, known_tables or KnownTables.of(image)).build(extra_entries)


def build_all(image: Image, functions: Iterable[Function]) -> dict[int, FunctionGraph]:
    """Graphs of `functions` by address, with the entries that they give each other.

    Where code outside `functions` could jump into them (other functions of the image, code in no function), every byte
    pattern that is a jump there counts as one: a superset, since an entry too many costs nothing but speed.
    """
    chosen = {function.address: function for function in functions}
    tables = KnownTables.of(image)
    noreturn: frozenset[int] = frozenset()
    graphs: dict[int, FunctionGraph] = {}
    extra: dict[int, set[int]] = {}
    changed: set[int] = set()

    def update(address: int) -> None:
        entries = sorted(extra.get(address, ()))
        graph = graphs[address] = build_graph(image, chosen[address], entries, noreturn, tables)
        for target in exits(graph):
            owner = image.function_at(target)
            if owner is None or owner.address in (target, address) or owner.address not in chosen:
                continue
            entered = extra.setdefault(owner.address, set())
            if target in entered:
                continue
            entered.add(target)
            known = graphs.get(owner.address)
            if known is not None and target not in known.entries:
                changed.add(owner.address)

    # Cold parts mostly come first, so that most entries are known when their function's turn comes.
    for address in sorted(chosen):
        update(address)
    _add_foreign_entries(image, graphs, extra)
    changed.update(address for address in extra if not extra[address] <= graphs[address].entries)
    for _ in range(_ROUNDS):
        if not changed:
            # Only now: a function whose ways out are not all known would seem never to return.
            proved = find_noreturn(graphs, image)
            changed.update(_callers_of(proved - noreturn, graphs))
            noreturn |= proved
            if not changed:
                break
        fresh = sorted(changed)
        changed.clear()
        for address in fresh:
            update(address)
    return graphs


def exits(graph: FunctionGraph) -> set[int]:
    """Addresses outside the function where control goes directly: calls, jumps, tables, falling off its end."""
    function = graph.function
    found = set(graph.callees.values())
    for table in graph.tables.values():
        found.update(table.targets)
    found.update(function.landing_pads)
    found = {target for target in found if not function.address <= target < function.end}
    end = falls_out(graph)
    if end is not None:
        found.add(end)
    return found


def falls_out(graph: FunctionGraph) -> int | None:
    """The address after the function, if control can run into it without a jump; else None."""
    if not graph.blocks:
        return None
    block = graph.blocks[max(graph.blocks)]
    if block.end != graph.function.end or (block.successors and block.last.flow is not Flow.BRANCH):
        return None
    return block.end if block.last.flow in (Flow.NEXT, Flow.BRANCH) else None


def _callers_of(targets: frozenset[int], graphs: Mapping[int, FunctionGraph]) -> set[int]:
    """Functions that call one of `targets` and go on after it."""
    if not targets:
        return set()
    return {
        address
        for address, graph in graphs.items()
        for site, target in graph.callees.items()
        if target in targets and site not in graph.noreturn and site not in graph.tail_calls
    }


def _add_foreign_entries(image: Image, graphs: Mapping[int, FunctionGraph], extra: dict[int, set[int]]) -> None:
    """Note in `extra` what code outside the graphs may jump to."""
    for address, targets in foreign_targets(image, graphs).items():
        graph = graphs[address]
        for target in targets:
            if target not in graph.entries and _is_instruction(graph, target):
                extra.setdefault(address, set()).add(target)


def foreign_targets(image: Image, graphs: Mapping[int, FunctionGraph]) -> dict[int, set[int]]:
    """Function among `graphs` -> addresses in it that code outside all of them may jump to or call.

    By byte patterns, instruction borders unknown: a superset. Code that a graph left out is outside of it: no graph
    says what it calls and jumps to.
    """
    found: dict[int, set[int]] = {}
    if not graphs:
        return found
    starts = np.array(sorted(graphs), np.int64)
    ends = np.array([graphs[start].function.end for start in starts.tolist()], np.int64)
    long = branch_targets(image)
    short_target, short_site = _short_jumps(image)
    target = np.concatenate([long.target, short_target])
    site = np.concatenate([long.site, short_site])
    owner = np.searchsorted(starts, target, "right") - 1
    inside = (owner >= 0) & (target < ends[owner])
    known = sorted((block.address, block.end) for graph in graphs.values() for block in graph.blocks.values())
    if known:
        firsts, lasts = np.array(known, np.int64).T
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


def _is_instruction(graph: FunctionGraph, target: int) -> bool:
    """Whether an instruction of a known block starts at `target`."""
    block = graph.blocks.get(target)
    if block is not None:
        return True
    starts = list(graph.blocks)
    index = bisect_right(starts, target) - 1
    return index >= 0 and any(address == target for address, _ in graph.blocks[starts[index]].addressed())
