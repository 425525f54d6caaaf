"""The whole matrix: every program of the corpus, built every way, rewritten with `block:*`, must behave as before.

    python -m tests.matrix                                    everything (hours on two cores, minutes a program)
    python -m tests.matrix --programs recursion ipa --cells '*gcc-O2*'
    python -m tests.matrix --sample 40 --seed 7               what CI runs
    python -m tests.matrix --liveness strict --flavours --json matrix.json

A cell is `program:compiler-level-link[-stripped][+flavour]`. It passes when the rewritten program's output, errors and
exit status equal the original's, with and without PROBELOOM_DATA, run after run; when nothing else appears in its
directory; when `report` reads the data file; and when main was entered as often as the program says (or the rewrite
says why its entry is not counted).
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.corpus import BuildError, Cell, build, cells, run
from tests.tool import Tool, complaint, counts, last_line, rows

RUNS = {"go": 20, "threads": 5}
"""How often a rewritten program runs when its threads may interleave differently."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one cell came to."""

    cell: str
    status: str
    """`ok`, or what failed: build, original, rewrite, differs, data, report, count, litter."""
    detail: str
    seconds: float
    """Of the rewrite alone."""
    selected: int = 0
    """Tracepoints asked for."""
    instrumented: int = 0
    """Tracepoints of them that count."""


class Failed(Exception):
    """A cell failed: status and detail."""


def _specs(cell: Cell) -> list[str]:
    if cell.compiler == "go":
        return ["block:main.*", "entry:main.main"]
    return ["block:*"] + ([] if cell.stripped else ["entry:main"])


def _check_counts(cell: Cell, tool: Tool, data: Path, refused: Sequence[Mapping[str, Any]]) -> None:
    try:
        report = counts(tool, data)
    except ValueError as error:
        raise Failed("report", str(error)) from error
    if not any(row["count"] for row in rows(report, "block")):
        raise Failed("count", "no block was counted")
    text = tool("report", data)
    if text.status != 0 or not text.stdout.strip():
        raise Failed("report", f"text report exits {text.status}: {last_line(text)}")
    if cell.stripped:
        return
    entries = [row["count"] for row in rows(report, "entry")]
    if not entries and any(refusal["function"] == "main" and refusal["reason"] for refusal in refused):
        return
    expected = cell.program.main_count
    if entries != [expected]:
        raise Failed("count", f"entry of main counted {entries}, not {expected}")


def _refuse_difference(what: str, difference: str) -> None:
    if difference:
        raise Failed("differs", f"{what}: {difference}")


def _check(cell: Cell, tool: Tool, built: Path, directory: Path, how: Sequence[str]) -> tuple[float, int, int]:
    program = cell.program
    original = build(cell, built)
    expected = run([original], directory)
    if expected.status != program.exit_status:
        raise Failed("original", f"exits {expected.status}, its header says {program.exit_status}")
    instrumented, report = directory / "instrumented", directory / "rewrite.json"
    options = [part for spec in _specs(cell) for part in ("--probe", spec)]
    started = time.monotonic()
    outcome = tool("rewrite", original, "-o", instrumented, *options, "--report", report, *how)
    seconds = time.monotonic() - started
    if outcome.status != 0 or complaint(outcome):
        raise Failed("rewrite", complaint(outcome) or f"exit status {outcome.status}: {last_line(outcome)}")
    done = json.loads(report.read_text())
    tracepoints: dict[str, Any] = done["tracepoints"]

    repeat = RUNS["go"] if program.language == "go" else RUNS["threads"] if program.threads else 1
    before = sorted(p.name for p in directory.iterdir())
    for _ in range(repeat):
        _refuse_difference("without data", expected.difference(run([instrumented], directory)))
    litter = sorted(p.name for p in directory.iterdir() if p.name not in before)
    if litter:
        raise Failed("litter", f"a run without PROBELOOM_DATA left {litter}")
    for number in range(repeat):
        data = directory / f"{number}.data"
        _refuse_difference("with data", expected.difference(run([instrumented], directory, data)))
        if not data.is_file():
            raise Failed("data", "PROBELOOM_DATA was not written")
        if number == 0:
            _check_counts(cell, tool, data, done["refused"])
    return seconds, tracepoints["selected"], tracepoints["instrumented"]


def check_cell(cell: Cell, tool: Tool, built: Path, how: Sequence[str] = (), keep: Path | None = None) -> Result:
    """Build, run, rewrite and run a cell; never raises for a failure of the cell."""
    with tempfile.TemporaryDirectory(prefix="cell-", dir=keep, ignore_cleanup_errors=True) as name:
        try:
            seconds, selected, instrumented = _check(cell, tool, built, Path(name), how)
        except BuildError as error:
            return Result(str(cell), "build", str(error), 0.0)
        except Failed as failure:
            return Result(str(cell), failure.args[0], failure.args[1], 0.0)
    return Result(str(cell), "ok", "", seconds, selected, instrumented)


def sample(population: Sequence[Cell], count: int, seed: int, static_limit: int | None = None) -> list[Cell]:
    """`count` cells by `seed`, spread over the programs; at most `static_limit` cells that hold a whole libc."""
    source = random.Random(seed)
    queues: dict[str, list[Cell]] = {}
    for cell in source.sample(list(population), len(population)):
        queues.setdefault(cell.program.name, []).append(cell)
    chosen: list[Cell] = []
    statics = 0
    while len(chosen) < count and queues:
        for name in sorted(queues):
            while queues[name]:
                cell = queues[name].pop()
                heavy = cell.link.startswith("static") and cell.compiler != "go"
                if heavy and static_limit is not None and statics >= static_limit:
                    continue
                statics += heavy
                chosen.append(cell)
                break
            if not queues[name]:
                del queues[name]
            if len(chosen) >= count:
                break
    return chosen


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the matrix, or part of it.")
    parser.add_argument("--programs", nargs="+", metavar="NAME", help="globs over programs' names")
    parser.add_argument("--cells", nargs="+", metavar="GLOB", help="globs over cells' names")
    parser.add_argument("--flavours", action="store_true", help="add the further ways of building")
    parser.add_argument("--exact-faults", action="store_true", help="add programs that need exact faults")
    parser.add_argument("--sample", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--static-limit", type=int, metavar="N", help="at most N static cells in a sample")
    parser.add_argument("--liveness", choices=("abi", "strict"), default="abi")
    parser.add_argument("--optimise", choices=("loops", "all"), default="loops")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--build", type=Path, metavar="DIR", help="keep what is built here")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="the tool's store; the user's own by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results, one object a cell")
    parser.add_argument("--list", action="store_true", help="name the cells and stop")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 when every cell passed, 1 otherwise."""
    options = _arguments(argv)
    chosen = list(cells(options.flavours, options.exact_faults))
    if options.programs:
        chosen = [c for c in chosen if any(fnmatch.fnmatch(c.program.name, glob) for glob in options.programs)]
    if options.cells:
        chosen = [c for c in chosen if any(fnmatch.fnmatch(str(c), glob) for glob in options.cells)]
    if options.sample is not None:
        chosen = sample(chosen, options.sample, options.seed, options.static_limit)
    if options.list:
        print(*chosen, sep="\n")
        return 0
    tool = Tool.found(options.cache)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="matrix-") as temporary, ThreadPoolExecutor(options.jobs) as pool:
        built = options.build or Path(temporary)
        how = ("--liveness", options.liveness, "--optimise", options.optimise)
        futures = [pool.submit(check_cell, cell, tool, built.absolute(), how) for cell in chosen]
        for number, future in enumerate(as_completed(futures), 1):
            result = future.result()
            results.append(result)
            mark = "" if result.status == "ok" else f"  {result.status}: {result.detail}"
            cell = f"{result.cell} {result.seconds:.1f}s {result.instrumented}/{result.selected}"
            print(f"[{number}/{len(chosen)}] {cell}{mark}", flush=True)
            if options.json:
                options.json.write_text(json.dumps([asdict(r) for r in results], indent=1))
    totals = Counter(result.status for result in results)
    selected, instrumented = (sum(getattr(r, name) for r in results) for name in ("selected", "instrumented"))
    coverage = f"{100 * instrumented / selected:.2f}% of {selected}" if selected else "none"
    print(
        f"{len(results)} cells: "
        + ", ".join(f"{count} {status}" for status, count in sorted(totals.items()))
        + f"; tracepoints instrumented: {coverage}"
    )
    for result in sorted(results, key=lambda r: r.cell):
        if result.status != "ok":
            print(f"{result.cell}  {result.status}: {result.detail}")
    return 0 if set(totals) <= {"ok"} else 1


if __name__ == "__main__":
    sys.exit(main())
