"""What the first call of a function costs in a running program, and what the calls after it do.

    python -m bench.first_call [--functions 101] [--core N]

A program of functions of about 50 instructions, with and without a loop, calls each for the first time and takes the
time. Three runs for each kind of probe: *cold*; with the *code stored*, by a run with other probes, so that no
function is ready before it is called; and a *second run*, which finds all that the first one called in place.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HEAD: Final = """
#include <stdio.h>
#include <time.h>
typedef unsigned long word;
static word a[64];
static word now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ul + t.tv_nsec;
}
"""
_FUNCTION: Final = """
__attribute__((noinline)) word f{i}(word x)
{{
    word s = x ^ {i} * 7919;
    if (s & 1) s = s * {odd} + a[{i} % 64]; else s -= a[({i} + 3) % 64] * 5;
    a[({i} + 1) % 64] = s;
    if (s > {i} * 1000) {{ s ^= s >> 7; s += a[({i} + 9) % 64]; }}
    s = s << 3 | s >> 61;
    a[({i} + 5) % 64] += s;
    if ((s & 6) == 4) s = ~s * ({i} + 11); else {{ s += x; a[({i} + 7) % 64] ^= s; }}
    {loop}
    s -= a[({i} + 2) % 64];
    s ^= x * ({i} | 1);
    a[({i} + 4) % 64] = s >> 3;
    if (s & 8) s += 3;
    return s * ({i} + 5);
}}
"""
_LOOP: Final = "for (word j = 0; j < (x & 7); j++) s = s * 3 + a[j];"
_MAIN: Final = """
static word (*const functions[])(word) = {{ {names} }};
int main(void)
{{
    word s = 0, took[{count}];
    for (int turn = 0; turn < 2; turn++) {{
        for (int i = 0; i < {count}; i++) {{
            word begin = now();
            s += functions[i](s);
            took[i] = now() - begin;
        }}
        for (int i = 0; i < {count}; i++) printf("%lu ", took[i]);
        putchar('\\n');
    }}
    printf("%lx\\n", s);
}}
"""

PROBES: Final = ("entry:f*", "block:f*")
OTHER: Final = {"entry:f*": "entry:*", "block:f*": "block:*"}
"""Probes that have the code of the functions in common with those, but are another plan."""


@dataclass(frozen=True, slots=True)
class Took:
    """One run."""

    first: float
    """Median of the first calls, in milliseconds."""
    tenth: float
    """What the slowest tenth of them took more than."""
    second: float
    """Median of the second calls."""
    result: bytes
    """What the program worked out."""


def source(functions: int, loop: bool) -> str:
    """The program."""
    bodies = [_FUNCTION.format(i=i, odd=2 * i + 3, loop=_LOOP if loop else "") for i in range(functions)]
    names = ", ".join(f"f{i}" for i in range(functions))
    return _HEAD + "".join(bodies) + _MAIN.format(names=names, count=functions)


def build(directory: Path, functions: int, loop: bool) -> Path:
    """The program, compiled."""
    program = directory / ("loop" if loop else "straight")
    code = program.with_suffix(".c")
    code.write_text(source(functions, loop))
    subprocess.run(["gcc", "-O2", "-o", program, code], check=True)
    return program


def run(program: Path, probe: str, store: Path, core: int | None, report: Path | None = None) -> Took:
    """Run it under a probe ('' for none)."""
    command = [str(program)]
    if probe:
        output = str(report) if report is not None else "/dev/null"
        tool = [sys.executable, "-m", "jit", "run", "--probe", probe, "--format", "json", "--output", output]
        command = [*tool, "--", *command]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "XDG_CACHE_HOME": str(store)})
    first, second, result = done.stdout.splitlines()
    times = sorted(int(word) / 1e6 for word in first.split())
    again = statistics.median(int(word) / 1e6 for word in second.split())
    return Took(statistics.median(times), times[len(times) * 9 // 10], again, result)


def instructions(report: Path) -> float:
    """The median of the functions' instructions."""
    of: defaultdict[str, int] = defaultdict(int)
    for row in json.loads(report.read_text())["probes"]:
        if re.fullmatch(r"f\d+", row["function"]):
            of[row["function"]] += row["instructions"]
    return statistics.median(of.values())


def measure(program: Path, directory: Path, core: int | None) -> list[tuple[str, str, Took]]:
    """(probe, how, times) of all runs. Raises ValueError where a run works out something else."""
    rows = [("none", "", run(program, "", directory, core))]
    for number, probe in enumerate(PROBES):
        store, other = directory / f"store-{program.name}-{number}", directory / f"other-{program.name}-{number}"
        rows.append((probe, "cold", run(program, probe, store, core, directory / "report.json")))
        run(program, OTHER[probe], other, core)
        rows.append((probe, "code stored", run(program, probe, other, core)))
        rows.append((probe, "second run", run(program, probe, store, core)))
    if len({took.result for _, _, took in rows}) != 1:
        raise ValueError(f"{program.name}: results differ")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.first_call", description="Measure first calls.")
    parser.add_argument("--functions", type=int, default=101, help="%(default)s")
    parser.add_argument("--core", type=int, help="run all on one core")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        directory = Path(temporary)
        for loop in (False, True):
            program = build(directory, options.functions, loop)
            rows = measure(program, directory, options.core)
            size = instructions(directory / "report.json")
            print(f"{options.functions} functions of {size:g} instructions, {'with' if loop else 'without'} a loop")
            print(f"{'probe':10} {'':12} {'first call: median':>19} {'90%':>8} {'second':>10}  (milliseconds)")
            for probe, how, took in rows:
                print(f"{probe:10} {how:12} {took.first:19.4f} {took.tenth:8.3f} {took.second:10.5f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
