"""How a campaign is going, while it goes: a live table on a terminal, a line a minute elsewhere."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from fuzz.campaign import Result, Settings
from jit import console

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_EVERY: Final = 60.0
"""Seconds between lines where there is no terminal."""


class Display:
    """A context manager that is told now and then how far the campaign is."""

    def __init__(self, settings: Settings, units: str) -> None:
        """`units` is what is counted, in the plural."""
        self._settings = settings
        self._units = units
        self._live: Live | None = None
        self._next = _EVERY
        self._started_with: tuple[int, float] | None = None

    def __enter__(self) -> Display:
        if console.is_terminal():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, result: Result, jobs: int, elapsed: float) -> None:
        """Show the result so far, of so many jobs in so many seconds."""
        if self._started_with is None:
            self._started_with = (result.states, elapsed)
        states, since = self._started_with
        rate = (result.states - states) / (elapsed - since) if elapsed > since else 0.0
        if self._live is not None:
            self._live.update(self._table(result, jobs, elapsed, rate))
        elif elapsed >= self._next:
            self._next = elapsed + _EVERY
            console.note(
                f"{elapsed:.0f} s: {jobs} jobs, {result.units:,} {self._units}, {result.states:,} states "
                f"({rate:,.0f} a second), {len(result.failures)} differences"
            )

    def _table(self, result: Result, jobs: int, elapsed: float, rate: float) -> Table:
        from rich.table import Table

        limit = "" if self._settings.seconds is None else f" of {self._settings.seconds:.0f}"
        table = Table(
            title=f"fuzz {self._settings.kind}, seed {self._settings.seed}: {elapsed:.0f}{limit} s, {jobs} jobs",
            caption=f"{result.units:,} {self._units}, {result.states:,} states, {rate:,.0f} a second, "
            f"{len(result.failures)} differences",
        )
        forms: dict[str, set[str]] = {}
        cells: Counter[str] = Counter()
        states: Counter[str] = Counter()
        failures: Counter[str] = Counter()
        for (form, _, oracle), (seen, failed) in result.cells.items():
            forms.setdefault(oracle, set()).add(form)
            cells[oracle] += 1
            states[oracle] += seen
            failures[oracle] += failed
        for name in ("oracle", "forms", "forms by width", "states", "failed"):
            table.add_column(name, justify="left" if name == "oracle" else "right")
        for oracle in sorted(forms):
            row = (len(forms[oracle]), cells[oracle], states[oracle], failures[oracle])
            table.add_row(oracle, *(f"{number:,}" for number in row))
        return table
