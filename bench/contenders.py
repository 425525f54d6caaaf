"""What is measured: kinds of instrumentation by this engine, and other tools that count the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from bench.measure import Command
from bench.workloads import Workload, build
from jit import Binary
from jit.tracepoints import Point

Liveness = Literal["abi", "strict"]


@dataclass(frozen=True, slots=True)
class Setup:
    """Where and how programs are made."""

    cache: Path
    jobs: int
    scratch: Path
    """For files of this run alone: rewritten programs, profiles."""
    closing: ExitStack = field(default_factory=ExitStack)
    """What must be undone when the run ends."""
    reports: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    """By contender and class: what the engine reports of a rewrite."""

    def place(self, workload: Workload, tool: str) -> Path:
        """Where a tool writes its instrumented program."""
        name = f"{workload.name}.{tool}".translate(str.maketrans("/ ()", "----"))
        return self.scratch / name


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of instrumenting."""

    name: str
    counts: str
    """What it counts: 'nothing', 'blocks', 'entries', 'entries and returns', 'edges'."""
    prepare: Callable[[Workload, Setup], Command]
    """The instrumented program's command, without the workload's arguments. Raises UnavailableError."""
    compiler: str = "gcc"
    """Of the original that it is compared with."""
    slow: bool = False
    """Whether it is given little work and few runs."""


def original(workload: Workload, setup: Setup, compiler: str = "gcc") -> Command:
    """The uninstrumented program."""
    return Command((str(build(workload, setup.cache, compiler)),))


def _probeloom(
    specs: tuple[str, ...], bare: bool, liveness: Liveness, name: str, workload: Workload, setup: Setup
) -> Command:
    binary = build(workload, setup.cache)
    plan = Binary.open(binary).instrument(specs[0])
    for spec in specs[1:]:
        plan = plan.instrument(spec)
    output = setup.place(workload, name)
    result = plan.rewrite(output, jobs=setup.jobs, liveness=liveness, bare=bare)
    setup.reports[name, workload.name] = result.report
    return Command((str(output),), {} if bare else {"PROBELOOM_DATA": f"{output}.data"})


KINDS: Final[Mapping[str, tuple[tuple[str, ...], bool]]] = {
    "null": (("block:*",), True),
    "block": (("block:*",), False),
    "entry": (("entry:*",), False),
    "entry+return": (("entry:*", "return:*"), False),
    "edge": (("edge:*",), False),
}
"""Specs of each kind, and whether the probes are left out again."""
_COUNTS: Final = {
    "null": "nothing",
    "block": "blocks",
    "entry": "entries",
    "entry+return": "entries and returns",
    "edge": "edges",
}


def own(liveness: Liveness) -> tuple[Contender, ...]:
    """What this engine offers."""
    points = {point.value for point in Point}
    found = []
    for kind, (specs, bare) in KINDS.items():
        if all(spec.partition(":")[0] in points for spec in specs):
            name = f"probeloom {kind}" + (" (strict)" if liveness == "strict" else "")
            found.append(Contender(name, _COUNTS[kind], partial(_probeloom, specs, bare, liveness, name)))
    return tuple(found)
