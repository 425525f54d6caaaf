"""How regions are made, whichever way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Update = Literal["plain", "atomic", "biased"]
"""How a counter is added to: without a lock, under one, or without one by the main thread alone, which has a counter
of its own for each (see `ir.carry`)."""


@dataclass(frozen=True, slots=True)
class LoweringOptions:
    """How regions are made."""

    update: Update = "plain"
    """How counters are incremented."""
    red_zone: int = 128
    """Bytes below its stack pointer that the program may use: 128 in the System V ABI, 0 in Go."""
    nil_checks: bool = False
    """Leave to the original instruction before it reads or writes through a pointer into the first page: Go's runtime
    turns that fault into a panic, and must find it at an address of its own."""
    exact_faults: bool = False
    """Carry loops that can fault too: of carried instructions it is known which they were. They need no nil checks."""
    carry_loops: bool = False
    """Carry all loops: such code is made at once, but counts in memory at each turn."""
    carry: bool = True
    """Whether regions that gain nothing from an optimiser are put together from their own bytes (see `ir.carry`)."""

    @property
    def atomic(self) -> bool:
        """Whether an increment has to be atomic, since another thread may make it at the same time."""
        return self.update != "plain"
