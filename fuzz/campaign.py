"""What a campaign is made of: jobs, their results, and the merged outcome.

A job is a seeded, deterministic piece of work that any process (or machine) can do; a campaign is a numbered sequence
of them. Whatever order they are done in, the same jobs give the same result.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any, Final, Protocol

KINDS: Final[Mapping[str, str]] = {
    "insn": "fuzz.insn",
    "block": "fuzz.blocks",
    "function": "fuzz.functions",
    "program": "fuzz.programs",
}
"""Kind of campaign -> the module that plans, does and replays it: see `Kind`."""
SEPARATOR: Final = "|"
"""Between the parts of a cell's name in the journal."""

Cell = tuple[str, str, str]
"""(form, width, oracle): the form is a row of the instruction table, or what else a kind counts its work by."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides a campaign: equal settings, equal jobs."""

    kind: str
    """A key of `KINDS`."""
    binaries: tuple[str, ...] = ()
    """Paths of ELF files; empty for generated code."""
    count: int | None = None
    """How much is done: states of every form, blocks, functions or programs."""
    seconds: float | None = None
    """How long work is done instead."""
    seed: int = 0
    match: str = ""
    """Only forms, functions or compilers whose name contains this."""

    def as_json(self) -> dict[str, Any]:
        """As the journal keeps it."""
        return {**asdict(self), "binaries": list(self.binaries)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Settings:
        """What `as_json` made. Raises TypeError or ValueError for anything else."""
        return cls(**{**content, "binaries": tuple(content["binaries"])})


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work."""

    number: int
    kind: str
    seed: int
    """Of everything random in it."""
    work: Mapping[str, Any]
    """What to do, as values that JSON has."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A difference between original and lifted code, shrunk."""

    case: str
    """One line that `probeloom fuzz KIND --case` runs again."""
    what: str
    """What differs, for people."""

    def __str__(self) -> str:
        return f"{self.case}  # {self.what}"


@dataclass(slots=True)
class Result:
    """What one job, or a whole campaign, came to."""

    units: int = 0
    """Instructions, blocks, functions or programs that were checked."""
    states: int = 0
    """Runs of the original that a run of lifted code was compared with."""
    seconds: float = 0.0
    """Of work, summed up over all processes."""
    cells: dict[Cell, list[int]] = field(default_factory=dict)
    """What was covered: [states, failures] of each cell."""
    notes: Counter[str] = field(default_factory=Counter)
    """What was not run, and why; how runs ended."""
    failures: list[Failure] = field(default_factory=list)

    def cover(self, form: str, width: str, oracle: str, states: int, failures: int = 0) -> None:
        """Count states of a form."""
        cell = self.cells.setdefault((form, width, oracle), [0, 0])
        cell[0] += states
        cell[1] += failures
        self.states += states

    def add(self, other: Result) -> None:
        """Merge another result into this one."""
        self.units += other.units
        self.states += other.states
        self.seconds += other.seconds
        for cell, (states, failures) in other.cells.items():
            mine = self.cells.setdefault(cell, [0, 0])
            mine[0] += states
            mine[1] += failures
        self.notes += other.notes
        known = {failure.case for failure in self.failures}
        self.failures += [failure for failure in other.failures if failure.case not in known]

    def as_json(self) -> dict[str, Any]:
        """As the journal keeps it."""
        return {
            "units": self.units,
            "states": self.states,
            "seconds": round(self.seconds, 3),
            "cells": {SEPARATOR.join(cell): counts for cell, counts in self.cells.items()},
            "notes": dict(self.notes),
            "failures": [asdict(failure) for failure in self.failures],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Result:
        """What `as_json` made. Raises KeyError, TypeError or ValueError for anything else."""
        cells: dict[Cell, list[int]] = {}
        for name, counts in content["cells"].items():
            form, width, oracle = name.split(SEPARATOR)
            cells[form, width, oracle] = [int(counts[0]), int(counts[1])]
        return cls(
            int(content["units"]),
            int(content["states"]),
            float(content["seconds"]),
            cells,
            Counter(content["notes"]),
            [Failure(**failure) for failure in content["failures"]],
        )


class Kind(Protocol):
    """What the modules of `KINDS` provide."""

    UNITS: str
    """What is counted, in the plural."""

    def plan(self, settings: Settings) -> Iterator[Job]:
        """The campaign's jobs, in order; without an end where `settings.seconds` is the limit.

        Raises ProbeloomError for binaries that cannot be worked on.
        """

    def run(self, job: Job) -> Result:
        """Do one job."""

    def replay(self, case: str) -> Failure | None:
        """Run the case of a failure again. Raises UsageError if it is none."""


def kind_of(name: str) -> Kind:
    """The module that does a kind of campaign, imported when it is first asked for."""
    module: Kind = import_module(KINDS[name])
    return module


def run_job(job: Job) -> Result:
    """Do a job, whatever its kind: what worker processes are given."""
    return kind_of(job.kind).run(job)


def jobs(kind: str, seed: int, works: Iterator[Mapping[str, Any]]) -> Iterator[Job]:
    """Number pieces of work, and give each a seed of its own."""
    for number, work in enumerate(works):
        yield Job(number, kind, job_seed(seed, number), work)


def job_seed(seed: int, number: int) -> int:
    """The seed of a campaign's job."""
    return random.Random(f"{seed} {number}").getrandbits(32)
