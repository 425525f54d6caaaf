"""`probeloom top`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any, Final

from jit.commands.live import Options, note_vain, stopped_by_signals, supervisor
from jit.live.control import Control, ask
from jit.report import Report, to_json
from lifter.errors import RefusedError, UsageError

_PERIOD: Final = 1.0
_ROWS: Final = 40

Key = tuple[str, str, int, str]
"""Module, point, address, action."""
Counted = dict[Key, tuple[int, str]]
"""Count (of a Python probe, its first word) and function of each tracepoint."""


def top(pid: int, seconds: float | None, options: Options) -> None:
    """Show counts and rates of a process, again and again. Raises ProbeloomError.

    With probes, the process is instrumented for the time; without, it shows what another probeloom counts there.
    """
    if not options.probes and not options.files:
        _watch(pid, seconds, options)
        return
    follower = supervisor(options)
    try:
        with stopped_by_signals(follower), _screen() as show:
            follower.attach(pid)
            control = Control(follower)
            try:
                table = _Table(options)
                end = None if seconds is None else time.monotonic() + seconds
                while not follower.stopping and not follower.tracer.is_done:
                    left = _PERIOD if end is None else min(_PERIOD, end - time.monotonic())
                    if left <= 0:
                        break
                    follower.run(left, counted_from_start=True)
                    show(table.render(_counted(follower.books.reports())))
            finally:
                control.close()
                follower.detach()
    finally:
        follower.close()
    note_vain(follower)


def _watch(pid: int, seconds: float | None, options: Options) -> None:
    end = None if seconds is None else time.monotonic() + seconds
    table = _Table(options)
    with _screen() as show:
        try:
            while end is None or time.monotonic() < end:
                found = ask(pid, "counts")
                if found is None:
                    if table.is_new:
                        raise RefusedError(f"process {pid}: no probeloom of this user follows it; give it a --probe")
                    return
                show(table.render(_from_json(found)))
                time.sleep(_PERIOD if end is None else max(0.0, min(_PERIOD, end - time.monotonic())))
        except KeyboardInterrupt:
            return


def _counted(reports: list[Report]) -> Counted:
    return _from_json([json.loads(to_json(report)) for report in reports])


def _from_json(found: list[dict[str, Any]]) -> Counted:
    counted: Counted = {}
    for report in found:
        for row in report["probes"]:
            value = row["words"][0] if "words" in row else row["count"]
            counted[report["module"], row["point"], row["address"], row.get("action", "")] = (value, row["function"])
    return counted


class _Table:
    """The table: what was counted in all, and since it was last shown."""

    def __init__(self, options: Options) -> None:
        if options.sort not in ("count", "rate", "address", "function"):
            raise UsageError(f"cannot sort by '{options.sort}': choose rate, count, address or function")
        self._options = options
        self._before: Counted = {}
        self._at = time.monotonic()
        self.is_new = True

    def render(self, counted: Counted) -> str:
        """The table as text, sorted; what was never hit is left out."""
        now = time.monotonic()
        elapsed = max(now - self._at, 1e-3)
        rows = []
        for key, (count, function) in counted.items():
            rate = (count - self._before.get(key, (0, ""))[0]) / elapsed if not self.is_new else 0.0
            if count or self._options.every:
                rows.append((count, rate, key, function))
        orders: dict[str, Callable[[tuple[int, float, Key, str]], Any]] = {
            "rate": lambda row: (-row[1], -row[0], row[2]),
            "count": lambda row: (-row[0], row[2]),
            "address": lambda row: row[2],
            "function": lambda row: (row[3], row[2]),
        }
        rows.sort(key=orders[self._options.sort])
        self._before, self._at, self.is_new = counted, now, False
        shown = rows[: self._options.top if self._options.top is not None else _ROWS]
        lines = [f"{'count':>16}  {'per second':>14}  {'point':<6}  {'address':>12}  function"]
        for count, rate, (module, point, address, action), function in shown:
            name = f"{PurePath(module).name}!{function}" + (f"={action}" if action else "")
            lines.append(f"{count:>16,}  {rate:>14,.0f}  {point:<6}  {address:>#12x}  {name}")
        return "\n".join(lines) + "\n"


@contextmanager
def _screen() -> Iterator[Callable[[str], None]]:
    """A function that shows a text: over the one before on a terminal, after it elsewhere."""
    if not sys.stdout.isatty():

        def append(text: str) -> None:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

        yield append
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), auto_refresh=False) as live:
        yield lambda text: live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
