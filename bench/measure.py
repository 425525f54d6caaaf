"""Running programs in turn and comparing their user time, pair by pair."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run."""

    user: float
    """Seconds of user time, from the kernel's accounting of the process and its children."""
    status: int
    output: bytes
    errors: bytes = b""
    problem: str = ""
    """What went wrong with the tool, if it knows; '' for nothing."""


@dataclass(frozen=True, slots=True)
class Command:
    """How a program is run."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    run: Callable[[Command, Path, int], Outcome] | None = None
    """In place of starting it: for tools that need more than a command (see `run`)."""

    def given(self, arguments: Sequence[str]) -> Command:
        """The same with more arguments."""
        return replace(self, argv=(*self.argv, *arguments))


def run(command: Command, directory: Path, core: int) -> Outcome:
    """Run a command in `directory` on one core. What it prints is kept."""
    if command.run is not None:
        return command.run(command, directory, core)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        running = subprocess.Popen(
            command.argv,
            cwd=directory,
            env={**clean_environment(directory), **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        return Outcome(usage.ru_utime, running.returncode, output.read(), errors.read())


def clean_environment(directory: Path) -> dict[str, str]:
    """What programs are given: nothing of this process's own settings."""
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(directory)}


@dataclass(frozen=True, slots=True)
class Series:
    """Alternated runs of an original and a contender."""

    original: tuple[float, ...]
    """User seconds, in the order of the runs."""
    contender: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Of each pair."""
        return tuple(b / max(a, 1e-6) for a, b in zip(self.original, self.contender, strict=True))

    @property
    def ratio(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles of the pairs' ratios (of the extremes, for fewer than four)."""
        ratios = sorted(self.ratios)
        if len(ratios) < 4:
            return (ratios[-1] - ratios[0]) / 2
        low, _, high = statistics.quantiles(ratios, n=4)
        return (high - low) / 2


def alternate(
    original: Command, contenders: Mapping[str, Command], runs: int, core: int
) -> tuple[dict[str, Series], dict[str, str]]:
    """Run original and contenders in turn: original, first, original, second, and so on, `runs` times.

    Output and exit status of every run must be those of the original's first. Returns the series of the contenders of
    which that is true, and what is wrong with the others.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    wrong: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        directory = Path(temporary)
        expected = run(original, directory, core)
        for _ in range(runs):
            for name, command in contenders.items():
                if name in wrong:
                    continue
                first, second = run(original, directory, core), run(command, directory, core)
                times[name].append((first.user, second.user))
                problem = _difference(expected, first) or _difference(expected, second)
                if problem:
                    wrong[name] = problem
    series = {
        name: Series(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))
        for name, pairs in times.items()
        if name not in wrong
    }
    return series, wrong


def _difference(expected: Outcome, got: Outcome) -> str:
    if got.problem:
        return got.problem
    if got.status != expected.status:
        return f"exits {got.status} instead of {expected.status}"
    return "" if got.output == expected.output else "output differs from the original's"


def last_core() -> int:
    """The core that programs are run on: the last of those this process may use."""
    return max(os.sched_getaffinity(0))
