"""What runs at a tracepoint: a counter is incremented, or a probe in Python is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ir.probes import CompiledProbe

NO_GUARD: Final = -1
"""In place of the index of a word: the action always runs."""


@dataclass(frozen=True, slots=True)
class Count:
    """Add one to a counter."""

    counter: int
    """Index among the counters."""
    guard: int = NO_GUARD
    """Index of a word among the counters: 1 while the action runs, 0 while it does not."""


@dataclass(frozen=True, slots=True)
class Call:
    """Run a probe written in Python."""

    probe: CompiledProbe
    words: int
    """Index of its private words among the counters."""
    address: int
    """Of the tracepoint."""
    guard: int = NO_GUARD
    """As of `Count`."""


Action = Count | Call
