"""Reports on what instrumented programs counted: a table to read, and JSON. Other formats:
`jit.report_formats`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jit import datafile
from jit.datafile import Module
from jit.tracepoints import Point, Tracepoint
from lifter.errors import RefusedError, UsageError


@dataclass(frozen=True, slots=True)
class Row:
    """A tracepoint and what was counted there."""

    tracepoint: Tracepoint
    count: int
    """How often the program passed it; 0 for a Python probe, which keeps its own words."""
    words: tuple[int, ...] = ()
    """Private 64-bit words of its Python probe."""

    @property
    def executed(self) -> int:
        """Original instructions that the count stands for."""
        return self.count * self.tracepoint.instructions

    @property
    def is_hit(self) -> bool:
        """Whether anything was counted or noted."""
        return self.count > 0 or any(self.words)


@dataclass(frozen=True)
class Report:
    """What one plan counted, in one or several data files."""

    module: Module
    rows: tuple[Row, ...]
    """In the order of the plan."""

    @cached_property
    def ranges(self) -> tuple[Row, ...]:
        """The rows that say which code ran: those of blocks, or where there are none, all."""
        blocks = tuple(row for row in self.rows if row.tracepoint.point is Point.BLOCK)
        return blocks or tuple(row for row in self.rows if row.tracepoint.action == "count")

    @property
    def summary(self) -> str:
        """One line: how many tracepoints, how many of them hit, and the totals."""
        hit = sum(row.is_hit for row in self.rows)
        blocks = [row for row in self.rows if row.tracepoint.point is Point.BLOCK]
        parts = [
            f"{len(self.rows):,} tracepoints",
            f"{hit:,} hit",
            f"total count {sum(row.count for row in self.rows):,}",
        ]
        if blocks:
            parts.append(f"{sum(row.executed for row in blocks):,} instructions executed in blocks")
        return ", ".join(parts)


_ORDERS: Final[dict[str, Callable[[Row], Any]]] = {
    "count": lambda row: (-row.count, row.tracepoint.address),
    "address": lambda row: row.tracepoint.address,
    "function": lambda row: (row.tracepoint.function, row.tracepoint.address),
    "instructions": lambda row: (-row.executed, row.tracepoint.address),
}

SORTS: Final = tuple(_ORDERS)
"""By what the table can be sorted; 'instructions' is count times instructions."""


def load_report(*paths: str | os.PathLike[str]) -> Report:
    """Reads data files of one and the same plan; their counts are added up.

    Raises UsageError for a path that cannot be read, RefusedError for what is not a data file, for files of
    different plans, and for several files with words of Python probes, whose sum means nothing.
    """
    if not paths:
        raise UsageError("no data file given")
    files = [datafile.read(path) for path in paths]
    first = files[0]
    for path, file in zip(paths, files, strict=True):
        if file.plan_id != first.plan_id:
            raise RefusedError(f"{path}: counts something else than {paths[0]}, they cannot be added up")
    if len(files) > 1 and any(tracepoint.words[1] for tracepoint in first.tracepoints):
        raise RefusedError("words of Python probes cannot be added up: report one data file at a time")
    rows = [
        Row(tracepoint, sum(file.count(tracepoint) for file in files), first.words(tracepoint))
        for tracepoint in first.tracepoints
    ]
    return Report(first.module, tuple(rows))


def to_json(report: Report, *others: Report) -> str:
    """The whole report, one row a tracepoint. Addresses are numbers; `words` only where there is a Python probe.

    With the reports of further modules it is still one object: each row then names its module, `modules` lists them.
    """
    reports = (report, *others)
    content: dict[str, Any] = _identity(report)
    if others:
        content["modules"] = [_identity(each) for each in reports]
    content["probes"] = [
        {**_row_as_dict(row), "module": each.module.path} if others else _row_as_dict(row)
        for each in reports
        for row in each.rows
    ]
    return json.dumps(content)


def _identity(report: Report) -> dict[str, Any]:
    return {"module": report.module.path, "build_id": report.module.build_id}


def _row_as_dict(row: Row) -> dict[str, Any]:
    tracepoint = row.tracepoint
    entry: dict[str, Any] = {
        "point": tracepoint.point.value,
        "function": tracepoint.function,
        "address": tracepoint.address,
        "size": tracepoint.size,
        "instructions": tracepoint.instructions,
        "count": row.count,
    }
    if tracepoint.words[1]:
        entry["action"] = tracepoint.action
        entry["words"] = list(row.words)
    return entry


def select(report: Report, sort: str = "count", top: int | None = None, unhit: bool = False) -> list[Row]:
    """The rows for the table: sorted, the first `top` of them, those never hit only with `unhit`.

    Raises UsageError for an unknown order or a negative `top`.
    """
    if sort not in _ORDERS:
        raise UsageError(f"cannot sort by '{sort}': choose one of {', '.join(SORTS)}")
    if top is not None and top < 0:
        raise UsageError(f"cannot show the top {top}")
    return sorted((row for row in report.rows if unhit or row.is_hit), key=_ORDERS[sort])[:top]


def render_text(report: Report, sort: str = "count", top: int | None = None, unhit: bool = False) -> str:
    """The table as plain aligned lines, for pipes and files: header, rows, summary. See `select`."""
    rows = select(report, sort, top, unhit)
    columns = _columns(report)
    lines = [columns, *(_cells(row, columns) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    text = [
        "  ".join(
            cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
            for name, cell, width in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([report.module.path, *(text if rows else []), report.summary, ""])


def print_text(
    report: Report, console: Console, sort: str = "count", top: int | None = None, unhit: bool = False
) -> None:
    """The table on a console: with colours and cut to its width on a terminal, as `render_text` elsewhere."""
    if not console.is_terminal:
        console.file.write(render_text(report, sort, top, unhit))
        return
    rows = select(report, sort, top, unhit)
    columns = _columns(report)
    table = Table(box=box.SIMPLE_HEAD, title=report.module.path, title_justify="left", pad_edge=False)
    for name in columns:
        number = name in _NUMBERS
        table.add_column(name, justify="right" if number else "left", no_wrap=True, overflow="ellipsis", min_width=6)
    for row in rows:
        table.add_row(*(Text(cell) for cell in _cells(row, columns)), style=None if row.is_hit else "dim")
    if rows:
        console.print(table)
    console.print(Text(report.summary, style="bold"))


_NUMBERS: Final = frozenset({"count", "executed", "address", "size"})


def _columns(report: Report) -> list[str]:
    columns = ["count", "executed", "point", "address", "size", "function"]
    return [*columns, "words"] if any(row.words for row in report.rows) else columns


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    tracepoint = row.tracepoint
    cells = [
        f"{row.count:,}",
        f"{row.executed:,}",
        tracepoint.point.value,
        f"{tracepoint.address:#x}",
        str(tracepoint.size),
        tracepoint.function,
        " ".join(map(str, row.words)),
    ]
    return cells[: len(columns)]
