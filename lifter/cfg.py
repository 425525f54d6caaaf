"""Control-flow graphs of one function, of several, and of a whole image.

Functions are not independent: one may jump into the middle of another (`foo.cold` back into `foo`, hand-written
assembly), and whether a function comes back decides what follows its calls. `build_all` repeats what such findings change
until nothing changes any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lifter.descent import Descent
from lifter.graph import FunctionGraph
from lifter.image.scan import branch_targets
from lifter.image.types import Function, Image
from lifter.instruction import Flow
from lifter.jumptable import KnownTables
from lifter.noreturn import find_noreturn

_ROUNDS = 10
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
    computed anew) knows where tables end for lack of a bound. Outside of tests `build_all` is the one to call: it finds these itself.
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
    graphs = {
        address: build_graph(image, function, (), noreturn, tables) for address, function in chosen.items()
    }
    extra: dict[int, set[int]] = {}
    _add_foreign_entries(image, graphs, extra)
    changed = set(extra)
    fresh = set(graphs)
    for _ in range(_ROUNDS):
        for address in fresh:
            for target in exits(graphs[address]):
                owner = image.function_at(target)
                if owner is None or owner.address in (target, address) or owner.address not in chosen:
                    continue
                known = extra.setdefault(owner.address, set())
                if target not in known:
                    known.add(target)
                    if target not in graphs[owner.address].entries:
                        changed.add(owner.address)
        proved = find_noreturn(graphs, image)
        changed.update(_callers_of(proved - noreturn, graphs))
        noreturn |= proved
        if not changed:
            break
        fresh, changed = changed, set()
        for address in fresh:
            graphs[address] = build_graph(
                image, chosen[address], sorted(extra.get(address, ())), noreturn, tables
            )
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
    if block.end != graph.function.end or block.successors and block.last.flow is not Flow.BRANCH:
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
    candidates = branch_targets(image)
    for address, graph in graphs.items():
        function = graph.function
        found = candidates.sites(function.address + 1, function.end)
        targets = set()
        for target, site in zip(found.target.tolist(), found.site.tolist(), strict=True):
            if function.address <= site < function.end or target in graph.entries:
                continue
            source = image.function_at(site)
            if source is not None and source.address in graphs:
                continue
            targets.add(target)
        targets.update(_short_jumps_into(image, graphs, function))
        targets = {target for target in targets if _is_instruction(graph, target)}
        if targets:
            extra[address] = targets


def _short_jumps_into(image: Image, graphs: Mapping[int, FunctionGraph], function: Function) -> set[int]:
    """Targets inside the function of what may be two-byte jumps just before or after it."""
    found: set[int] = set()
    for start in (function.address - 129, function.end):
        code = image.read(max(start, 0), 129)
        for at, (opcode, displacement) in enumerate(zip(code, code[1:], strict=False)):
            if opcode != 0xEB and opcode & 0xF0 != 0x70 and not 0xE0 <= opcode <= 0xE3:
                continue
            site = max(start, 0) + at
            target = site + 2 + (displacement ^ 0x80) - 0x80
            if not function.address < target < function.end or function.address <= site < function.end:
                continue
            source = image.function_at(site)
            if source is None or source.address not in graphs:
                found.add(target)
    return found


def _is_instruction(graph: FunctionGraph, target: int) -> bool:
    """Whether an instruction of a known block starts at `target`."""
    for block in graph.blocks.values():
        if block.address <= target < block.end:
            return any(address == target for address, _ in block.addressed())
    return False
