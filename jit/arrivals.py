"""How often a function is entered, told by the blocks that call it: where all of them are known and counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from jit.placement import Arrivals, Terms, add_up
from lifter.cfg import foreign_targets
from lifter.image.types import Function, Image
from lifter.instruction import Flow
from lifter.packing import Graphs

_MOST_TERMS: Final = 16
"""Counters that one count is made of in this way: each is in the description of many blocks."""
_ENTERED_BY_OTHERS: Final = frozenset(("entry", "init-array"))


class CallSites:
    """What calls each function of an image that was analysed as a whole."""

    def __init__(self, image: Image, graphs: Graphs) -> None:
        self._sites: dict[int, list[tuple[int, int]]] = {}
        """Function -> (function, block) of each call of it and jump to it."""
        unknown = {address for address in graphs if _entered_by_others(graphs.function(address))}
        unknown |= image.code_pointers & graphs.keys()
        for entered in foreign_targets(image, graphs).values():
            unknown |= entered
        for address in graphs:
            outline = graphs.outline(address)
            plain = set()
            for block, target, flow in outline.transfers():
                if target not in graphs:
                    continue
                if flow is Flow.CALL or (flow is Flow.JUMP and target != address):
                    self._sites.setdefault(target, []).append((address, block))
                    plain.add(target)
                else:
                    unknown.add(target)
            unknown.update(target for target in outline.exits if target not in plain)
            if outline.falls_out is not None:
                unknown.add(outline.falls_out)
            before = image.function_at(address - 1)
            if before is not None and before.address not in graphs:
                unknown.add(address)
        self._unknown = unknown

    def callers_first(self, functions: Iterable[int]) -> list[int]:
        """The functions in an order that has callers before what they call, as far as there is one."""
        callees: dict[int, list[int]] = {}
        for target, sites in self._sites.items():
            for caller, _ in sites:
                callees.setdefault(caller, []).append(target)
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

    def callers_before(self, order: Sequence[int]) -> dict[int, set[int]]:
        """Functions that may be told how often they are entered -> their callers, all of which `order` has before them.

        Whoever asks for `arrivals` of others, or before those callers' counts are there, gets what depends on when.
        """
        place = {function: number for number, function in enumerate(order)}
        found = {}
        for function, number in place.items():
            if function in self._unknown or function not in self._sites:
                continue
            callers = {caller for caller, _ in self._sites[function]} - {function}
            if all(place.get(caller, number) < number for caller in callers):
                found[function] = callers
        return found

    def calling_blocks(self, functions: Iterable[int]) -> dict[int, set[int]]:
        """Function -> its blocks that call one of `functions`."""
        found: dict[int, set[int]] = {}
        for function in functions:
            for caller, block in self._sites[function]:
                found.setdefault(caller, set()).add(block)
        return found

    def arrivals(self, function: int, counts: Mapping[int, Mapping[int, Terms]]) -> Arrivals | None:
        """What enters `function`, one of `callers_before`, or None where that is not known.

        `counts` has the counts of the blocks that call it, of functions whose counts are known.
        """
        if function in self._unknown or function not in self._sites:
            return None
        terms: list[Terms] = []
        own: list[int] = []
        for caller, block in self._sites[function]:
            if caller == function:
                own.append(block)
                continue
            known = counts.get(caller, {}).get(block)
            if known is None:
                return None
            terms.append(known)
        total = add_up((1, part) for part in terms)
        return Arrivals(total, tuple(own)) if len(total) + len(own) <= _MOST_TERMS else None


def _entered_by_others(function: Function) -> bool:
    return function.exported or function.address_taken or function.source in _ENTERED_BY_OTHERS
