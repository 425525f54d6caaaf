"""The command: measures instrumented programs against the originals and other tools.

    python -m bench [--classes loops sqlite] [--tools 'probeloom*' 'gcc*'] [--runs 5] [--quick] [--output DIR]

Tools that slow a program down several times are given a part of the work and fewer runs, beside an original with
the same part.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import platformdirs

from bench import micro
from bench.contenders import Contender, Liveness, Setup, original, own
from bench.machine import describe
from bench.measure import Command, alternate, last_core
from bench.others import BINARY_TOOLS, COMPILERS
from bench.page import page
from bench.plot import draw
from bench.results import Measurement, Results
from bench.sources import UnavailableError
from bench.workloads import WORKLOADS, Workload
from lifter.errors import ProbeloomError

QUICK = 0.1
SLOW = 0.3
"""Of the full work."""
SLOW_RUNS = 3
RESULTS = "bench.json"
MICRO = "probe"
"""The pseudo-class of the cost of one probe."""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure instrumented programs.")
    names = [*(workload.name for workload in WORKLOADS), MICRO]
    parser.add_argument("--classes", nargs="+", choices=names, default=names, metavar="CLASS", help=", ".join(names))
    parser.add_argument("--tools", nargs="+", default=["*"], metavar="GLOB", help="only those with such names")
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="little work")
    parser.add_argument("--liveness", choices=["abi", "strict", "both"], default="abi")
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile regions (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write bench.txt, .json, .png and .html there")
    parser.add_argument(
        "--add", action="store_true", help="to what the JSON file in DIR has of other tools and classes"
    )
    default = Path(platformdirs.user_cache_dir("probeloom")) / "bench"
    parser.add_argument("--cache", type=Path, default=default, help="for sources and builds (%(default)s)")
    options = parser.parse_args(argv)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    if options.add and not (options.output and (options.output / RESULTS).exists()):
        parser.error(f"--add needs --output with a {RESULTS} in it")
    return options


def _contenders(options: argparse.Namespace) -> list[Contender]:
    modes: tuple[Liveness, ...] = ("abi", "strict") if options.liveness == "both" else (options.liveness,)
    everything = [*(contender for mode in modes for contender in own(mode)), *COMPILERS, *BINARY_TOOLS]
    return [contender for contender in everything if _wanted(contender, options.tools)]


def _wanted(contender: Contender, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(contender.name, glob) for glob in globs)


class _Run:
    """One run of the benchmarks."""

    def __init__(self, options: argparse.Namespace, setup: Setup) -> None:
        self.options = options
        self.setup = setup
        self.core = last_core()
        self.results = Results({}, [name for name in options.classes if name != MICRO])

    def workload(self, workload: Workload, contenders: Sequence[Contender]) -> None:
        """Measure one class. Contenders with the same original and share of the work take turns."""
        for slow in (False, True):
            for compiler in dict.fromkeys(contender.compiler for contender in contenders):
                self._group(workload, [c for c in contenders if (c.slow, c.compiler) == (slow, compiler)])

    def _group(self, workload: Workload, contenders: Sequence[Contender]) -> None:
        if not contenders:
            return
        slow, compiler = contenders[0].slow, contenders[0].compiler
        share = (QUICK if self.options.quick else 1.0) * (SLOW if slow else 1.0)
        arguments = workload.arguments(share)
        try:
            base = original(workload, self.setup, compiler).given(arguments)
        except UnavailableError as error:
            self.results.unavailable |= {contender.name: str(error) for contender in contenders}
            return
        commands = self._commands(workload, contenders, arguments)
        runs = min(self.options.runs, SLOW_RUNS) if slow else self.options.runs
        print(f"{workload.name}: {', '.join(commands)}", file=sys.stderr, flush=True)
        series, wrong = alternate(base, commands, runs, self.core)
        print("".join(f"  {name} {one.ratio:.2f}" for name, one in series.items()), file=sys.stderr, flush=True)
        counts = {contender.name: contender.counts for contender in contenders}
        self.results.measurements += [
            Measurement(name, counts[name], workload.name, one, share) for name, one in series.items()
        ]
        self.results.problems += [f"{name} on {workload.name}: {problem}" for name, problem in wrong.items()]

    def _commands(
        self, workload: Workload, contenders: Sequence[Contender], arguments: Sequence[str]
    ) -> dict[str, Command]:
        """The instrumented programs; what cannot be made is written down."""
        commands: dict[str, Command] = {}
        for contender in contenders:
            try:
                commands[contender.name] = contender.prepare(workload, self.setup).given(arguments)
            except UnavailableError as error:
                self.results.unavailable[contender.name] = str(error)
            except ProbeloomError as error:
                self.results.problems.append(f"{contender.name} on {workload.name}: {error}")
        return commands

    def probes(self) -> None:
        """Measure what one probe costs."""
        for contender, share in micro.contenders():
            if not _wanted(contender, self.options.tools):
                continue
            print(f"one probe: {contender.name}", file=sys.stderr, flush=True)
            try:
                cost = micro.cost(contender, share, self.setup, self.options.runs, self.core, self.options.quick)
            except UnavailableError as error:
                self.results.unavailable.setdefault(contender.name, str(error))
                continue
            self.results.costs.append(cost)

    def sizes(self) -> None:
        """Take the code sizes from the rewrites' reports."""
        for (tool, name), report in self.setup.reports.items():
            if name in self.results.classes and report["bytes"]["lifted"]:
                ratio = report["bytes"]["cache"] / report["bytes"]["lifted"]
                self.results.sizes.setdefault(tool, {})[name] = round(ratio, 3)


def _write(results: Results, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    picture: Path | None = directory / "bench.png"
    try:
        draw(results, directory / "bench.png")
    except UnavailableError as error:
        results.unavailable["the plot"] = str(error)
        picture = None
    (directory / "bench.html").write_text(page(results, picture))
    (directory / RESULTS).write_text(results.to_json())
    (directory / "bench.txt").write_text(results.to_text())


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every output was the original's, 1 when not, 2 when nothing could be measured."""
    options = _arguments(argv)
    contenders = _contenders(options)
    workloads = [workload for workload in WORKLOADS if workload.name in options.classes]
    earlier = (options.output / RESULTS).read_text() if options.add else ""
    try:
        if earlier:
            Results({}, []).add(earlier)
    except ValueError as error:
        print(f"{options.output / RESULTS}: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        run = _Run(options, Setup(options.cache, options.jobs, Path(temporary)))

        def finished() -> Results:
            """What was measured so far, and what an earlier run did."""
            run.sizes()
            results = copy.deepcopy(run.results)
            results.machine = describe(workloads, options.cache)
            if earlier:
                results.add(earlier)
            if options.output:
                _write(results, options.output)
            return results

        with run.setup.closing:
            for workload in workloads:
                run.workload(workload, contenders)
                finished()
            if MICRO in options.classes:
                run.probes()
        results = finished()
    print(results.to_text(), end="")
    if not results.measurements and not results.costs:
        return 2
    return 1 if results.problems else 0


if __name__ == "__main__":
    sys.exit(main())
