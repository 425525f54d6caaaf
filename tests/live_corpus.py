"""The corpus under `probeloom run`: output, status and every count as the rewritten program's.

python -m tests.live_corpus [NAME...]   all programs (or these) at -O2, by the first compiler of each, all links
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests import corpus
from tests.corpus import Cell, Outcome
from tests.tool import Tool, counts

_TIMED = ("signals",)
"""What they count depends on how long they take."""
_FROM_KERNEL = ("__libc_setup_tls", "_dl_relocate_static_pie", "_dl_non_dynamic_init", "getenv")
"""They look at program headers and environment, which differ."""


def spec(cell: Cell) -> str:
    """The probe for all of the program's own code."""
    return "block:main.*" if cell.program.language == "go" else "block:*"


def compare(cell: Cell, tool: Tool, built: Path, directory: Path) -> str:
    """One line on what differs between the rewritten program and the one under `run`; '' if nothing does."""
    program = corpus.build(cell, built)
    # The same name, so the same stack and auxiliary vector as far as the program sees them.
    runner = directory / cell.program.name
    # A counter in each block, as in live mode: minimal ones also tell of blocks that have no room for one.
    done = tool("rewrite", program, "-o", runner, "--probe", spec(cell), "--counter-placement", "every")
    if done.status:
        return f"rewrite: {done.stderr!r}"
    data = directory / "run.data"
    offline = corpus.run([runner], directory, data)
    expected = {(row["point"], row["address"]): row["count"] for row in counts(tool, data)["probes"]}
    runner.unlink()
    os.link(program, runner)
    for _ in range(2):  # the second time with the functions that the first one called, from the store
        report = directory / "report.json"
        report.unlink(missing_ok=True)
        live = run_live(tool, directory, [runner], spec(cell), report, data)
        difference = offline.difference(live)
        if difference:
            return difference
        rows = json.loads(report.read_text())["probes"]
        difference = _counts_differ(cell, expected, rows)
        if difference:
            return difference
    return ""


def run_live(tool: Tool, directory: Path, command: list[Path], probe: str, report: Path, data: Path) -> Outcome:
    """A program under `probeloom run`."""
    tail = ["--probe", probe, "--format", "json", "--output", str(report), "--", *map(str, command)]
    environment = {**tool.environment}
    return corpus.run([*tool.command, "run", *tail], directory, data, environment, seconds=180)


def _counts_differ(cell: Cell, expected: dict[tuple[str, int], int], rows: list[dict[str, Any]]) -> str:
    found = {(row["point"], row["address"]): row for row in rows}
    # A trampoline over the border of two pages cannot be written at once: such a block is refused.
    if not found.keys() <= expected.keys() or len(expected) - len(found) > len(expected) // 4000:
        return f"{len(found)} tracepoints instead of {len(expected)}"
    free = cell.program.threads or cell.program.name in _TIMED or cell.link == "static" or cell.program.language == "go"
    if free:
        # Whole C libraries and Go: how memory lies and threads run decides what some blocks count.
        wrong = [row for at, row in found.items() if bool(row["count"]) != bool(expected[at])]
        share = len(wrong) / max(1, sum(map(bool, expected.values())))
        return f"{len(wrong)} blocks hit in one only, the first {wrong[0]}" if share > 0.05 else ""
    for at, row in found.items():
        if row["count"] != expected[at] and row["function"] not in _FROM_KERNEL:
            return f"{row['function']} {at[1]:#x}: {row['count']} instead of {expected[at]}"
    return ""


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
            try:
                problem = compare(cell, tool, built, directory)
            except (corpus.BuildError, ValueError, OSError) as error:
                problem = f"{type(error).__name__}: {error}"
            print(f"{cell}: {problem or 'equal'}", flush=True)
            failed += bool(problem)
    print(f"{failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
