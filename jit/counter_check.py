"""Whether the counters say how often each block of the original ran."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jit.datafile import words
from jit.emulation_limits import StretchTable
from jit.event_log import KEY_SHIFT, stretch
from jit.tracepoints import Point, Tracepoint


def count_visits(keys: list[int], stretches: StretchTable) -> Counter[int]:
    """How often each stretch was entered: a repeated string instruction runs as a loop over itself, counted once."""
    visits: Counter[int] = Counter()
    end, start = 0, 0
    for key in keys:
        address = key & (1 << KEY_SHIFT) - 1
        if not (start <= address < end and stretches[key].repeats):
            visits[key] += 1
        start, end = address, address + (key >> KEY_SHIFT)
    return visits


class CounterCheck:
    """Compares counters with executed blocks."""

    def __init__(self, tracepoints: Sequence[Tracepoint], base: int) -> None:
        """`base` is where the image is loaded."""
        self._base = base
        self._rows = {t.address: t for t in tracepoints if t.point is Point.BLOCK and t.action == "count" and t.terms}
        self._heads = sorted(self._rows)
        self._inside: dict[int, tuple[int, ...]] = {}
        self._used: dict[int, list[int]] = {}
        for address, row in self._rows.items():
            for index, _ in row.terms:
                self._used.setdefault(index, []).append(address)

    def check(self, visits: Counter[int], data: bytes) -> str:
        """What is wrong with the counters in the overlay's data segment, '' if nothing is."""
        expected: Counter[int] = Counter()
        for key, number in visits.items():
            for head in self._heads_in(key):
                expected[head] += number
        counters = words(data)
        concerned = set(expected)
        for index in np.flatnonzero(counters).tolist():
            concerned.update(self._used.get(index, ()))
        for head in sorted(concerned):
            found = sum(int(counters[index]) * factor for index, factor in self._rows[head].terms)
            found &= 0xFFFFFFFFFFFFFFFF
            if found != expected[head]:
                row = self._rows[head]
                return f"block {head:#x} of {row.function} ran {expected[head]} times, its counter says {found}"
        return ""

    def is_inside(self, address: int) -> bool:
        """Whether `address`, as loaded, is in a counted block but not where it begins."""
        number = bisect_right(self._heads, address - self._base) - 1
        if number < 0:
            return False
        head = self._heads[number]
        return head < address - self._base < head + self._rows[head].size

    def _heads_in(self, key: int) -> tuple[int, ...]:
        """Tracepoints in the stretch of a BLOCK record."""
        known = self._inside.get(key)
        if known is None:
            run = stretch(key, self._base)
            first, last = np.searchsorted(self._heads, [run.start, run.stop])
            known = self._inside[key] = tuple(self._heads[first:last])
        return known
