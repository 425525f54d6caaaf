"""What is known of a module's instrumentation before any of its functions is compiled."""

from __future__ import annotations

from dataclasses import dataclass

from jit.live.firstcall import Displaced
from jit.tracepoints import Spec
from lifter.errors import Refusal


@dataclass(frozen=True, slots=True)
class LiveFunction:
    """A selected function."""

    address: int
    """In the image."""
    end: int
    name: str
    waits: Displaced | None
    """The instructions under the jump that makes its first call wait; None where it must be instrumented before it
    is called: no room for that jump, or a way in that is not its entry."""
    intrusive: frozenset[int] = frozenset()
    """Addresses of patches over bytes of other blocks than the one they lead away from: those bytes must not be
    executed any more when they are written."""


@dataclass(frozen=True, slots=True)
class ModulePlan:
    """All that is decided for one module: its rows, its counters, and how each function waits for its first call."""

    segment: bytes
    """A data segment (see `jit.datafile`): module, tracepoints, and every counter zero."""
    red_zone: bool
    """Whether the program may use 128 bytes below its stack pointer."""
    functions: tuple[LiveFunction, ...]
    """In address order."""
    refusals: tuple[Refusal, ...]
    guards: tuple[tuple[Spec, int], ...] = ()
    """Guarded specs, and the index of the word that switches each."""
