"""The command: measures instrumented programs against the originals and other tools.

python -m bench [--classes loops sqlite] [--tools 'probeloom*' 'gcc*'] [--runs 5] [--quick] [--output DIR]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import platformdirs

from bench.contenders import COMPILERS, Contender, Liveness, Setup, original, own
from bench.machine import describe
from bench.measure import Command, alternate, last_core
from bench.results import Measurement, Results
from bench.sources import UnavailableError
from bench.workloads import WORKLOADS, Workload
from lifter.errors import ProbeloomError

QUICK = 0.2
"""Of the full work."""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure instrumented programs.")
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("--classes", nargs="+", choices=names, default=names, metavar="CLASS", help=", ".join(names))
    parser.add_argument("--tools", nargs="+", default=["*"], metavar="GLOB", help="only those with such names")
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs (%(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} of the work")
    parser.add_argument("--liveness", choices=["abi", "strict", "both"], default="abi")
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile regions (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write bench.txt and bench.json there")
    default = Path(platformdirs.user_cache_dir("probeloom")) / "bench"
    parser.add_argument("--cache", type=Path, default=default, help="for sources and builds (%(default)s)")
    options = parser.parse_args(argv)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


def _contenders(options: argparse.Namespace) -> list[Contender]:
    modes: tuple[Liveness, ...] = ("abi", "strict") if options.liveness == "both" else (options.liveness,)
    everything = [*(contender for mode in modes for contender in own(mode)), *COMPILERS]
    return [c for c in everything if any(fnmatchcase(c.name, glob) for glob in options.tools)]


def _measure(workload: Workload, contenders: Sequence[Contender], setup: Setup, share: float, runs: int) -> Results:
    """One class."""
    results = Results({}, [workload.name])
    arguments = workload.arguments(share)
    for compiler in dict.fromkeys(contender.compiler for contender in contenders):
        compared = [contender for contender in contenders if contender.compiler == compiler]
        try:
            base = original(workload, setup, compiler).given(arguments)
        except UnavailableError as error:
            results.unavailable |= {contender.name: str(error) for contender in compared}
            continue
        commands: dict[str, Command] = {}
        for contender in compared:
            try:
                commands[contender.name] = contender.prepare(workload, setup).given(arguments)
            except UnavailableError as error:
                results.unavailable[contender.name] = str(error)
            except ProbeloomError as error:
                results.problems.append(f"{contender.name} on {workload.name}: {error}")
        series, wrong = alternate(base, commands, runs, last_core())
        counts = {contender.name: contender.counts for contender in contenders}
        results.measurements += [
            Measurement(name, counts[name], workload.name, one, share) for name, one in series.items()
        ]
        results.problems += [f"{name} on {workload.name}: {problem}" for name, problem in wrong.items()]
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every output was the original's, 1 when not, 2 when nothing could be measured."""
    options = _arguments(argv)
    contenders = _contenders(options)
    workloads = [workload for workload in WORKLOADS if workload.name in options.classes]
    results = Results({}, options.classes)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        setup = Setup(options.cache, options.jobs, Path(temporary))
        for workload in workloads:
            print(f"{workload.name} ...", file=sys.stderr, flush=True)
            found = _measure(workload, contenders, setup, QUICK if options.quick else 1.0, options.runs)
            results.measurements += found.measurements
            results.problems += found.problems
            results.unavailable |= found.unavailable
    results.machine = describe(workloads, options.cache)
    print(results.to_text(), end="")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "bench.txt").write_text(results.to_text())
        (options.output / "bench.json").write_text(results.to_json())
    if not results.measurements:
        return 2
    return 1 if results.problems else 0


if __name__ == "__main__":
    sys.exit(main())
