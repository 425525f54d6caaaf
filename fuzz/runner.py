"""Runs a campaign: hands out jobs, keeps their results, shows how it goes, and says what came of it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fuzz.campaign import Failure, Job, Result, Settings, kind_of
from fuzz.display import Display
from fuzz.insn import DEFAULT_COUNT
from fuzz.journal import Journal
from fuzz.reach import lines_of, reach_of
from fuzz.workers import ClusterWorkers, LocalWorkers, Workers

_NOTES: Final = 12
"""Reasons that a summary names."""
_SHOWN: Final = 20
"""Failures that are printed; all are in the directory."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a campaign is run with. The result does not depend on it."""

    jobs: int
    """Processes."""
    directory: Path | None = None
    """Where its state is kept."""
    cluster: str = ""
    """Address of a dask scheduler, instead of processes."""
    keep_going: bool = False
    """Whether to go on after a failure."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a campaign came to."""

    settings: Settings
    result: Result
    elapsed: float
    """Seconds, those of earlier parts included."""


def run_campaign(settings: Settings, means: Means) -> Outcome:
    """Run a campaign to its end, or go on with one that was stopped.

    Raises UsageError for a directory or cluster that cannot be used, ProbeloomError for binaries that cannot.
    """
    kind = kind_of(settings.kind)
    with Journal(means.directory, settings) as journal:
        progress = journal.progress
        planned = kind.plan(settings)
        started = time.monotonic() - progress.elapsed
        over = settings.seconds is not None and progress.elapsed >= settings.seconds
        if over or (progress.total.failures and not means.keep_going):
            return Outcome(settings, progress.total, progress.elapsed)
        jobs = _due(planned, frozenset(progress.done), settings.seconds, started, progress.total, means)
        workers: Workers = ClusterWorkers(means.cluster) if means.cluster else LocalWorkers(means.jobs)
        with closing(workers), Display(settings, kind.UNITS) as display:
            for answer in workers.run(jobs):
                elapsed = time.monotonic() - started
                if answer is not None:
                    job, result = answer
                    journal.add(job.number, result, elapsed)
                display.update(progress.total, len(progress.done), elapsed)
        return Outcome(settings, progress.total, time.monotonic() - started)


def _due(
    planned: Iterator[Job], done: frozenset[int], seconds: float | None, started: float, total: Result, means: Means
) -> Iterator[Job]:
    """The jobs still to be done, until the time is up or a failure was found."""
    for job in planned:
        if seconds is not None and time.monotonic() - started >= seconds:
            return
        if total.failures and not means.keep_going:
            return
        if job.number not in done:
            yield job


def replay_command(settings: Settings, failure: Failure) -> str:
    """How to run the case of a failure again."""
    return shlex.join(["probeloom", "fuzz", settings.kind, "--case", failure.case])


def summary(outcome: Outcome) -> str:
    """What a campaign came to, for people."""
    settings, result = outcome.settings, outcome.result
    units = kind_of(settings.kind).UNITS
    lines = []
    for failure in result.failures[:_SHOWN]:
        lines += [f"DIFFERENCE: {failure.what}", f"    {replay_command(settings, failure)}"]
    if len(result.failures) > _SHOWN:
        lines.append(f"and {len(result.failures) - _SHOWN} more differences")
    common = result.notes.most_common(_NOTES)
    lines += [f"{number:>9,} {note}" for note, number in common]
    if len(result.notes) > len(common):
        lines.append(f"{sum(result.notes.values()) - sum(number for _, number in common):>9,} for other reasons")
    for oracle in sorted({cell[2] for cell in result.cells}):
        chosen = {cell: counts for cell, counts in result.cells.items() if cell[2] == oracle}
        forms = len({form for form, _, _ in chosen})
        states = sum(counts[0] for counts in chosen.values())
        lines.append(f"{oracle}: {states:,} states, {forms:,} forms, {len(chosen):,} forms by width")
    if settings.kind == "insn" and not settings.match:
        lines += lines_of(reach_of(result), settings.count or DEFAULT_COUNT)
    rate = result.states / outcome.elapsed if outcome.elapsed else 0.0
    lines.append(
        f"{result.units:,} {units}, {result.states:,} states in {outcome.elapsed:,.0f} s ({rate:,.0f} a second), "
        f"seed {settings.seed}: {len(result.failures)} differences"
    )
    return "\n".join(lines)
