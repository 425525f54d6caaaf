"""What was counted, by module: the counters of all processes, and the reports made of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jit.datafile import DataFile
from jit.live.counters import Counters
from jit.report import Report, Row
from jit.tracepoints import Point


@dataclass(slots=True)
class Account:
    """The counters of one module with one set of probes."""

    data: DataFile
    counters: list[Counters] = field(default_factory=list)
    """Those of the first process first."""

    def values(self) -> npt.NDArray[np.uint64]:
        """All counters added up; words of Python probes are those of the first process."""
        counts = min((t.words[0] for t in self.data.tracepoints if t.words[1]), default=len(self.data.counters))
        total = np.zeros(len(self.data.counters), np.uint64)
        for number, counters in enumerate(self.counters):
            values = counters.values()
            if number:
                values[counts:] = 0
            total += values
        return total


class Books:
    """All accounts of a run."""

    def __init__(self) -> None:
        self.accounts: dict[int, Account] = {}
        """By module number."""

    def enter(self, module: int, data: DataFile, counters: Counters) -> None:
        """Note new counters of a process."""
        self.accounts.setdefault(module, Account(data)).counters.append(counters)

    def put_in_force(self, module: int) -> None:
        """The plan of a module is the one that counts from now on: its probes have the words that matter."""
        account = self.accounts.pop(module)
        self.accounts[module] = account

    def reports(self) -> list[Report]:
        """One report for each module that is or was instrumented, the first one first."""
        merged: dict[tuple[str, str], Report] = {}
        for account in self.accounts.values():
            report = report_of(account.data, account.values())
            key = (report.module.path, report.module.build_id)
            merged[key] = _sum(merged[key], report) if key in merged else report
        return list(merged.values())


def _sum(one: Report, other: Report) -> Report:
    """The rows of both; what both count is added up, and of the words of a probe, those of the later one are taken."""
    rows: dict[tuple[Point, int, str], Row] = {}
    for row in (*one.rows, *other.rows):
        key = (row.tracepoint.point, row.tracepoint.address, row.tracepoint.action)
        known = rows.get(key)
        rows[key] = row if known is None else Row(row.tracepoint, known.count + row.count, row.words)
    ordered = sorted(rows.values(), key=lambda row: (row.tracepoint.address, row.tracepoint.point.value))
    return Report(one.module, tuple(ordered))


def report_of(data: DataFile, values: npt.NDArray[np.uint64]) -> Report:
    """The report on counters with these values."""
    filled = DataFile(data.module, data.plan_id, data.tracepoints, values)
    rows = [Row(point, filled.count(point), filled.words(point)) for point in data.tracepoints]
    return Report(data.module, tuple(rows))
