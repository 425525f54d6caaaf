"""How instrumentation is made, and what takes how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from ir.probes import CompiledProbe

LivenessMode = Literal["abi", "strict"]
CounterUpdate = Literal["auto", "plain", "biased", "atomic"]
"""How counters are added to: without a lock, without one by the main thread alone, or under one; `auto` is the first
where the program cannot start threads, the last in Go and for programs that call `clone`, otherwise the second."""
Effort = Literal["loops", "all"]
"""What LLVM compiles: regions with a loop or a probe in Python (the others are put together from their own bytes, see
`ir.carry`), or every region."""
Placement = Literal["minimal", "function", "every"]
"""Whether blocks are counted by as few counters as tell all counts, by as few as tell those of each function whoever
calls it, or each by its own."""
Calls = Literal["auto", "cache", "place"]
"""Where calls are made: in the code cache as far as the program cannot tell (see `jit.through`), or all of them where
they are in the original. `auto` is `place` for files with debugging information: a debugger then shows the program's
own frames."""
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


@dataclass(frozen=True, slots=True)
class Options:
    """How instrumentation is made."""

    jobs: int = 1
    liveness: LivenessMode = "abi"
    counter_update: CounterUpdate = "auto"
    placement: Placement = "minimal"
    use_cache: bool = True
    probes: Mapping[str, CompiledProbe] = field(default_factory=dict)
    """Probes by the action that names them; others are loaded from the file that their action names."""
    progress: Progress | None = None
    optimise: Effort = "loops"
    bare: bool = False
    """Recompile the chosen blocks without probes: what the engine itself costs, and what lifting alone gives."""
    exact_faults: bool = False
    """Loops that can fault are put together from their own bytes too: of those instructions it is known which they
    were. Costs a counter in memory for each turn."""
    calls: Calls = "place"
    whole_pages: bool = False
    """Keep every patch inside a page, so that it can be written at once in a running process."""


@dataclass(slots=True)
class Clock:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)
