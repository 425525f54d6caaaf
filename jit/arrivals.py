"""How often a function is entered, told by the blocks that call it: where all of them are known and counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from jit.placement import Arrivals, Terms, add_up
from lifter.cfg import exits, falls_out, foreign_targets
from lifter.graph import FunctionGraph
from lifter.image.types import Function, Image
from lifter.instruction import Flow

_MOST_TERMS: Final = 16
"""Counters that one count is made of in this way: each is in the description of many blocks."""
_ENTERED_BY_OTHERS: Final = frozenset(("entry", "init-array"))


@dataclass(frozen=True, slots=True)
class _Site:
    """A block that calls or jumps to a function."""

    function: int
    block: int


class CallSites:
    """What calls each function of an image that was analysed as a whole."""

    def __init__(self, image: Image, graphs: Mapping[int, FunctionGraph]) -> None:
        self._graphs = graphs
        self._sites: dict[int, list[_Site]] = {}
        unknown = {address for address, graph in graphs.items() if _entered_by_others(graph.function)}
        unknown |= image.code_pointers & graphs.keys()
        for entered in foreign_targets(image, graphs).values():
            unknown |= entered
        for address, graph in graphs.items():
            plain = set()
            for block in graph.blocks.values():
                target = graph.callees.get(block.last_address)
                if target is None or target not in graphs:
                    continue
                if block.last.flow is Flow.CALL or (block.last.flow is Flow.JUMP and target != address):
                    self._sites.setdefault(target, []).append(_Site(address, block.address))
                    plain.add(target)
                else:
                    unknown.add(target)
            unknown |= exits(graph) - plain
            after = falls_out(graph)
            if after is not None:
                unknown.add(after)
            before = image.function_at(graph.function.address - 1)
            if before is not None and before.address not in graphs:
                unknown.add(address)
        self._unknown = unknown

    def callers_first(self, functions: Iterable[int]) -> list[int]:
        """The functions in an order that has callers before what they call, as far as there is one."""
        callees: dict[int, list[int]] = {}
        for target, sites in self._sites.items():
            for site in sites:
                callees.setdefault(site.function, []).append(target)
        seen: set[int] = set()
        done: list[int] = []
        for root in functions:
            if root in seen:
                continue
            seen.add(root)
            work = [(root, iter(callees.get(root, ())))]
            while work:
                address, rest = work[-1]
                for callee in rest:
                    if callee not in seen:
                        seen.add(callee)
                        work.append((callee, iter(callees.get(callee, ()))))
                        break
                else:
                    work.pop()
                    done.append(address)
        chosen = set(functions)
        return [address for address in reversed(done) if address in chosen]

    def arrivals(self, function: int, counts: Mapping[int, Mapping[int, Terms]]) -> Arrivals | None:
        """What enters `function`, or None where that is not known.

        `counts` has the counts of the blocks of each function that was planned already.
        """
        if function in self._unknown or function not in self._sites:
            return None
        terms: list[Terms] = []
        own: list[int] = []
        for site in self._sites[function]:
            if site.function == function:
                own.append(site.block)
                continue
            known = counts.get(site.function, {}).get(site.block)
            if known is None:
                return None
            terms.append(known)
        total = add_up((1, part) for part in terms)
        return Arrivals(total, tuple(own)) if len(total) + len(own) <= _MOST_TERMS else None


def _entered_by_others(function: Function) -> bool:
    return function.exported or function.address_taken or function.source in _ENTERED_BY_OTHERS
