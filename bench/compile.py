"""How fast the engine makes instrumented binaries: `python -m bench.compile [BINARY...]`.

Each binary is rewritten with every block counted, in fresh processes: with an empty store, with a full one that knows
this very rewrite, and with one that knows the regions but not the rewrite. Then the stages are timed one by one in
one process. Machines are noisy: figures are medians, ratios are of runs made by turns.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.children import Cost, median, run
from bench.stages import measure

DEFAULT = ("/usr/lib/x86_64-linux-gnu/libz.so.1", "/usr/lib/x86_64-linux-gnu/libsqlite3.so.0")
SCENARIOS = ("empty store", "regions known", "rewrite known")


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario of one binary."""

    binary: str
    scenario: str
    jobs: int
    instructions: int
    cost: Cost

    @property
    def speed(self) -> float:
        """Instructions a second of processor time."""
        return self.instructions / self.cost.cpu


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Time the engine.")
    parser.add_argument("binaries", nargs="*", type=Path, default=[Path(name) for name in DEFAULT])
    parser.add_argument("--probe", default="block:*")
    parser.add_argument("--jobs", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--optimise", choices=("loops", "all"), default="loops")
    parser.add_argument("--no-stages", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    found: dict[str, Any] = {"rows": [], "stages": {}}
    for binary in options.binaries:
        for row in _rows(binary, options):
            found["rows"].append({**asdict(row), "speed": row.speed})
        if not options.no_stages:
            stages = measure(binary, options.probe, options.optimise)
            found["stages"][binary.name] = stages
            print(f"  {_stages(stages)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _rows(binary: Path, options: argparse.Namespace) -> Iterator[Row]:
    costs: dict[tuple[str, int], list[Cost]] = {}
    instructions = 0
    for _ in range(options.repeat):
        for jobs in options.jobs:
            with tempfile.TemporaryDirectory(prefix="compile-") as name:
                for scenario in SCENARIOS:
                    if scenario == "regions known":
                        _forget_rewrites(Path(name))
                    cost, instructions = _rewrite(binary, Path(name), jobs, options)
                    costs.setdefault((scenario, jobs), []).append(cost)
    print(f"{binary.name}: {instructions:,} instructions")
    for (scenario, jobs), several in sorted(costs.items(), key=lambda item: (SCENARIOS.index(item[0][0]), item[0][1])):
        row = Row(binary.name, scenario, jobs, instructions, median(several))
        first = median(costs[scenario, options.jobs[0]]).wall
        print(
            f"  {scenario:14} jobs {jobs}: {row.cost.wall:7.2f} s, {row.cost.cpu:7.2f} s of processor,"
            f" {row.speed:9,.0f} instructions/s/core, {row.cost.memory >> 20:5} MB, x{first / row.cost.wall:.2f}",
            flush=True,
        )
        yield row


def _rewrite(binary: Path, directory: Path, jobs: int, options: argparse.Namespace) -> tuple[Cost, int]:
    report = directory / "report.json"
    command = [sys.executable, "-m", "jit", "rewrite", str(binary), "-o", str(directory / "out"), "--report"]
    command += [str(report), "--probe", options.probe, "--jobs", str(jobs), "--optimise", options.optimise]
    cost = run(command, {"XDG_CACHE_HOME": str(directory / "cache")})
    return cost, sum(json.loads(report.read_text())["instructions"].values())


def _forget_rewrites(directory: Path) -> None:
    """Leave only the regions in the store."""
    for path in directory.glob("cache/**/*.sqlite"):
        with sqlite3.connect(path) as connection:
            connection.execute("DELETE FROM plans")


def _stages(stages: dict[str, float]) -> str:
    counts = ("regions", "carried", "compiled")
    text = ", ".join(f"{name} {value:.2f}" for name, value in stages.items() if name not in counts)
    return f"stages, in seconds: {text}; " + ", ".join(f"{name} {stages[name]:,.0f}" for name in counts)


if __name__ == "__main__":
    sys.exit(main())
