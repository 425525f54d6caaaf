"""The corpus under `probeloom run`: output, status and every count as the rewritten program's.

python -m tests.live_corpus [NAME...]   all programs (or these) at -O2, by the first compiler of each, all links

What a block of a program with threads counts may differ from run to run, as may what parts of a C library and of Go's
runtime count, which depend on where memory lies. Nobody has to know which blocks those are: they are the ones that
differ between runs of the rewritten program, some of which have threads held up. All others must count the same under
`run`.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from jit.datafile import read
from jit.live.errors import TargetGoneError
from jit.live.target import Target
from lifter.cfg import build_all
from lifter.image.load import open_image
from lifter.instruction import Flow
from tests import corpus
from tests.corpus import Cell, Outcome
from tests.tool import Tool

_RUNS = 3
"""Of the rewritten program, before the first comparison."""
_MORE_RUNS = 60
"""At most, to see whether a block that counts otherwise under `run` does so by itself."""
_HEADERS = (
    "__libc_setup_tls", "_dl_relocate_static_pie", "_dl_non_dynamic_init", "_dl_find_object",
    "_dl_find_object_from_map", "_dlfo_process_initial_noncontiguous_map", "_dlfo_sort_mappings.part.0",
)  # fmt: skip
"""They go through the program headers, of which the rewritten program has more."""

_GROWS = "runtime.morestack"
"""What Go's functions call at their start if their stack has to grow, or their goroutine has run for long enough."""

Point = tuple[str, int]
"""Kind and address of a tracepoint."""


def in_go(program: Path) -> dict[Point, Point]:
    """Blocks that time has run: where a Go function calls `_GROWS` -> the block at its entry, which runs
    again afterwards; what follows -> itself."""
    image = open_image(program)
    grow = {function.address for function in image.functions if function.name.startswith(_GROWS)}
    found: dict[Point, Point] = {}
    own = [function for function in image.functions if function.name.startswith("main.")]
    for graph in build_all(image, own).values():
        for block in graph.blocks.values():
            target = block.last.target
            if block.last.flow is Flow.CALL and target is not None and block.end + target in grow:
                found["block", block.address] = "block", graph.function.address
                found["block", block.end] = "block", block.end
    return found


def spec(cell: Cell) -> str:
    """The probe for all of the program's own code."""
    return "block:main.*" if cell.program.language == "go" else "block:*"


@dataclass(slots=True)
class Rewritten:
    """A rewritten program and what its runs counted."""

    runner: Path
    directory: Path
    restarts: Mapping[Point, Point]
    """See `in_go`."""
    has_threads: bool
    environment: Mapping[str, str]
    """The variables that the tool needs under `run`: blocks at the program's start count variables."""
    functions: dict[Point, str] = field(default_factory=dict)
    seen: dict[Point, set[int]] = field(default_factory=dict)
    """The counts of each block in all runs."""
    runs: int = 0

    def run(self) -> Outcome:
        """Run it once more."""
        data = self.directory / "run.data"
        data.unlink(missing_ok=True)
        outcome = corpus.run([self.runner], self.directory, data, self.environment)
        self._note(data)
        return outcome

    def run_disturbed(self) -> None:
        """Run it once more, with some of its threads held up now and then, as first calls do."""
        data = self.directory / "run.data"
        data.unlink(missing_ok=True)
        variables = {"PROBELOOM_DATA": str(data), "PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(self.directory)}
        quiet = ["sh", "-c", 'exec "$0" > /dev/null 2>&1 < /dev/null', str(self.runner)]
        target = Target.spawn(quiet, {**self.environment, **variables}, self.directory)
        chance = random.Random(self.runs)
        while not target.tracer.is_done:
            for _ in target.events(chance.uniform(0, 0.002)):
                pass
            with suppress(TargetGoneError), target.stopped():
                threads = target.tracer.threads_of(target.memory)
                some = [thread for thread in threads if chance.random() < 0.5]
                target.tracer.run_for(some, chance.uniform(0, 0.004))
        self._note(data)

    def _note(self, data: Path) -> None:
        found = read(data)
        counts: dict[Point, int] = {}
        for tracepoint in found.tracepoints:
            at = tracepoint.point.value, tracepoint.address
            self.functions[at] = tracepoint.function
            counts[at] = found.count(tracepoint)
        for at, count in self._settled(counts).items():
            self.seen.setdefault(at, set()).add(count)
        self.runs += 1

    def _settled(self, counts: dict[Point, int]) -> dict[Point, int]:
        """`counts` as if no function had been begun again."""
        settled = {at: count for at, count in counts.items() if at not in self.restarts}
        for at, entry in self.restarts.items():
            if entry != at and at in counts and entry in counts:
                settled[entry] -= counts[at]
        return settled

    @property
    def varying(self) -> int:
        """How many blocks do not always count the same."""
        return sum(len(counts) > 1 for counts in self.seen.values())

    def difference(self, counts: dict[Point, int]) -> str:
        """One line on blocks that count otherwise in `counts`, but always the same here; '' if there are none."""
        found = self._settled(counts)
        # A trampoline over the border of two pages cannot be written at once: such a block is refused, and another that
        # had no room beside it has some.
        if len(found.keys() ^ self.seen.keys()) > max(2, len(self.seen) // 2000):
            return f"{len(found)} tracepoints instead of {len(self.seen)}"
        while wrong := self._wrong(found):
            if self.runs == _RUNS + _MORE_RUNS:
                shown = ", ".join(
                    f"{self.functions[at]} {at[1]:#x}: {count} instead of {min(self.seen[at])}"
                    for at, count in wrong[:5]
                )
                return f"{shown}, as in each of {self.runs} runs ({len(wrong)} such blocks)"
            if self.has_threads and self.runs % 2:
                self.run_disturbed()
            else:
                self.run()
        return ""

    def _wrong(self, found: dict[Point, int]) -> list[tuple[Point, int]]:
        return [
            (at, count)
            for at, count in found.items()
            if self.seen.get(at, {count}) != {count} and len(self.seen[at]) == 1 and self.functions[at] not in _HEADERS
        ]


def compare(cell: Cell, tool: Tool, built: Path, directory: Path) -> tuple[str, int]:
    """One line on what differs between the rewritten program and the one under `run` ('' if nothing does), and how many
    blocks differ between runs of the rewritten program already."""
    program = corpus.build(cell, built)
    # The same name, so the same stack and auxiliary vector as far as the program sees them.
    runner = directory / cell.program.name
    instrumented = directory / "rewritten"
    # A counter in each block, as in live mode: minimal ones also tell of blocks that have no room for one.
    done = tool("rewrite", program, "-o", instrumented, "--probe", spec(cell), "--counter-placement", "every")
    if done.status:
        return f"rewrite: {done.stderr!r}", 0
    restarts = in_go(program) if cell.program.language == "go" else {}
    rewritten = Rewritten(runner, directory, restarts, cell.program.threads, tool.environment)

    def under(file: Path) -> None:
        runner.unlink(missing_ok=True)
        os.link(file, runner)

    under(instrumented)
    offline = rewritten.run()
    while rewritten.runs < _RUNS:
        rewritten.run()
    for _ in range(2):  # the second time with the functions that the first one called, from the store
        report = directory / "report.json"
        report.unlink(missing_ok=True)
        under(program)
        live = run_live(tool, directory, [runner], spec(cell), report, directory / "run.data")
        difference = offline.difference(live)
        if difference:
            return difference, rewritten.varying
        under(instrumented)
        rows = json.loads(report.read_text())["probes"]
        difference = rewritten.difference({(row["point"], row["address"]): row["count"] for row in rows})
        if difference:
            return difference, rewritten.varying
    return "", rewritten.varying


def run_live(tool: Tool, directory: Path, command: list[Path], probe: str, report: Path, data: Path) -> Outcome:
    """A program under `probeloom run`."""
    tail = ["--probe", probe, "--format", "json", "--output", str(report), "--", *map(str, command)]
    return corpus.run([*tool.command, "run", *tail], directory, data, tool.environment, seconds=900)


def cells(names: list[str]) -> list[Cell]:
    """The cells that are compared."""
    return [
        cell
        for cell in corpus.cells()
        if (not names or cell.program.name in names)
        and cell.compiler == cell.program.compilers[0]
        and cell.optimisation == "O2"
        and not cell.stripped
    ]


def main() -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        tool = Tool.found(Path(place) / "store")
        built = Path(os.environ.get("BUILT", place))
        for number, cell in enumerate(cells(sys.argv[1:])):
            directory = Path(place) / str(number)
            directory.mkdir()
            varying = 0
            try:
                problem, varying = compare(cell, tool, built, directory)
            except (corpus.BuildError, ValueError, OSError) as error:
                problem = f"{type(error).__name__}: {error}"
            noise = f" ({varying} blocks vary from run to run)" if varying else ""
            print(f"{cell}: {problem or 'equal'}{noise}", flush=True)
            failed += bool(problem)
    print(f"{failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
