"""What one probe costs: nanoseconds of processor time that it adds to a call of a tiny function."""

from __future__ import annotations

import os
import re
import statistics
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench.contenders import Contender, Setup, original, own
from bench.measure import Command, Outcome, run
from bench.others import BINARY_TOOLS, COMPILERS, done, found
from bench.sources import UnavailableError
from bench.workloads import PROGRAMS, Sources, Workload, build

CALLS: Final = 100_000_000
_SHARES: Final = {"kernel": 0.001, "slow": 0.01}
TINY: Final = Workload("tiny", lambda cache: Sources((PROGRAMS / "tiny.c",)), (), CALLS)


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds that one contender adds to a call."""

    tool: str
    counts: str
    nanoseconds: float
    """The median of the pairs' differences."""
    spread: float
    """Half the distance between the least and the greatest."""
    calls: int


def _live(spec: str, workload: Workload, setup: Setup) -> Command:
    run = (sys.executable, "-m", "jit", "run", "--probe", spec, "--output", os.devnull, "--")
    return Command((*run, str(build(workload, setup.cache))), {"PYTHONPATH": str(Path(__file__).parent.parent)})


_LIVE: Final = (
    Contender("probeloom block (live)", "blocks", partial(_live, "block:*")),
    Contender("probeloom entry (live)", "entries", partial(_live, "entry:*")),
)


def _uprobe(returns: bool, workload: Workload, setup: Setup) -> Command:
    perf = found("perf", "linux-perf")
    program = build(workload, setup.cache)
    if os.geteuid() != 0:
        raise UnavailableError("uprobes need root")
    event = f"probe_bench:tiny_{os.getpid()}_{'return__return' if returns else 'entry'}"  # perf names them so itself
    point = f"{event.removesuffix('__return')}=tiny{'%return' if returns else ''}"
    done(perf, "probe", "-q", "-x", program, point, directory=setup.scratch)
    setup.closing.callback(done, perf, "probe", "-q", "-d", event, directory=setup.scratch)
    return Command((perf, "stat", "-e", event, str(program)))


def _uftrace(workload: Workload, setup: Setup) -> Command:
    # Its agent replaces the beginning of every function that is long enough.
    options = ("--no-pager", "--no-libcall", "-P", ".", "-d", str(setup.scratch / "uftrace"))
    return Command((found("uftrace", "uftrace"), "record", *options, str(build(workload, setup.cache))))


_KERNEL: Final = (
    Contender("uprobe", "entries", partial(_uprobe, False)),
    Contender("uretprobe", "returns", partial(_uprobe, True)),
    Contender("uftrace record", "entries and returns", _uftrace),
)


def contenders() -> list[tuple[Contender, float]]:
    """Who takes part, and with which share of the calls."""
    fast = [*own("abi"), *_LIVE, *COMPILERS]
    return [
        *((c, 1.0) for c in fast),
        *((c, _SHARES["slow"]) for c in BINARY_TOOLS),
        *((c, _SHARES["kernel"]) for c in _KERNEL),
    ]


def nanoseconds(outcome: Outcome) -> float:
    """What the program measured. Raises UnavailableError where it did not get that far."""
    match = re.search(rb"^(\d+\.\d{4})$", outcome.errors, re.M)
    if match is None or outcome.status != 0:
        raise UnavailableError(outcome.problem or f"ends with status {outcome.status}")
    return float(match[1])


def cost(contender: Contender, share: float, setup: Setup, runs: int, core: int, quick: bool) -> Cost:
    """Measure one. Raises UnavailableError."""
    arguments = TINY.arguments(share / 10 if quick else share)
    command = contender.prepare(TINY, setup).given(arguments)
    base = original(TINY, setup, contender.compiler).given(arguments)
    differences = []
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        directory = Path(temporary)
        for _ in range(runs):
            before, after = run(base, directory, core), run(command, directory, core)
            if before.output != after.output:
                raise UnavailableError("output differs from the original's")
            differences.append(nanoseconds(after) - nanoseconds(before))
    spread = (max(differences) - min(differences)) / 2
    return Cost(contender.name, contender.counts, statistics.median(differences), spread, int(arguments[-1]))
