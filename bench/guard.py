"""A guard against slow code that trusts no clock: instructions executed, counted by callgrind.

    python -m bench.guard            # compare with bench/expected.toml: 0 as expected, 1 slower
    python -m bench.guard --update   # write what is measured now into it

Small programs of one class each are compiled, instrumented and run. What is compared is the instructions that the
instrumented program executes outside of shared libraries for one of the original's: a figure that depends on the
compiler's version and on the engine, and on nothing else.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bench.contenders import KINDS
from bench.workloads import PROGRAMS
from jit import Binary

EXPECTED: Final = Path(__file__).with_name("expected.toml")
TOLERANCE: Final = 0.03
TOLERANCE_OTHER_COMPILER: Final = 0.15

SAMPLES: Final[Mapping[str, tuple[str, int]]] = {
    "loops": ("loops.c", 1),
    "calls": ("calls.c", 1),
    "compress": ("small_compress.c", 2),
    "vm": ("small_vm.c", 2),
    "store": ("small_store.c", 1),
}
"""Source and rounds of each program."""

Liveness = Literal["abi", "strict"]
VARIANTS: Final[Mapping[str, tuple[str, Liveness]]] = {
    "null": ("null", "abi"),
    "block": ("block", "abi"),
    "entry": ("entry", "abi"),
    "entry+return": ("entry+return", "abi"),
    "block, strict": ("block", "strict"),
}
"""Kind of probes and liveness of each figure."""


@dataclass(frozen=True, slots=True)
class Slower:
    """A figure that is worse than expected."""

    program: str
    variant: str
    expected: float
    found: float

    def __str__(self) -> str:
        return f"{self.program}, {self.variant}: {self.found:.3f} instructions for one, {self.expected:.3f} expected"


def compiler() -> str:
    """What the figures depend on: the compiler and its major version."""
    version = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True).stdout
    return f"gcc {version.strip().split('.')[0]}"


def executed(profile: str) -> int:
    """Instructions outside of shared libraries, from callgrind's output."""
    objects: dict[str, str] = {}
    current = ""
    total = 0
    inclusive = False
    for line in profile.splitlines():
        if match := re.match(r"(c?ob)=\((\d+)\)(?: (.*))?$", line):
            if match[3]:
                objects[match[2]] = match[3]
            if match[1] == "ob":
                current = objects[match[2]]
        elif line.startswith("calls="):
            inclusive = True  # the next line's cost is the callee's
        elif match := re.match(r"(?:\d+|[+-]\d+|\*) (\d+)$", line):
            if not inclusive and ".so" not in Path(current).name:
                total += int(match[1])
            inclusive = False
    return total


def count(program: Path, rounds: int, directory: Path) -> tuple[int, bytes]:
    """Instructions that a run of `program` executes, and its output. Raises RuntimeError when it or valgrind fails."""
    profile = directory / "callgrind.out"
    profile.unlink(missing_ok=True)
    done = subprocess.run(
        ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={profile}", str(program), str(rounds)],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if done.returncode != 0 or not profile.exists():
        raise RuntimeError(f"{program.name} under valgrind: {done.stderr.decode(errors='replace')[-300:]}")
    return executed(profile.read_text()), done.stdout


def measure(name: str, jobs: int = 1) -> dict[str, float]:
    """The figures of one program by variant. Raises RuntimeError when an output is not the original's."""
    source, rounds = SAMPLES[name]
    with tempfile.TemporaryDirectory(prefix="guard-") as temporary:
        directory = Path(temporary)
        program = directory / name
        subprocess.run(["gcc", "-O2", "-o", program, PROGRAMS / source], check=True)
        original, expected = count(program, rounds, directory)
        found: dict[str, float] = {}
        for variant, (kind, liveness) in VARIANTS.items():
            specs, bare = KINDS[kind]
            plan = Binary.open(program).instrument(specs[0])
            for spec in specs[1:]:
                plan = plan.instrument(spec)
            instrumented = directory / "instrumented" / name
            instrumented.parent.mkdir(exist_ok=True)
            plan.rewrite(instrumented, jobs=jobs, liveness=liveness, bare=bare, use_cache=False)
            instructions, output = count(instrumented, rounds, directory)
            if output != expected:
                raise RuntimeError(f"{name}, {variant}: output differs from the original's")
            found[variant] = round(instructions / original, 4)
    return found


def read_expected() -> tuple[str, dict[str, dict[str, float]]]:
    """The compiler that the kept figures are of, and the figures by program and variant."""
    content = tomllib.loads(EXPECTED.read_text())
    return content["compiler"], content["instructions"]


def slower(name: str, found: Mapping[str, float]) -> list[Slower]:
    """What of a program's figures is worse than expected by more than the tolerance."""
    made_with, everything = read_expected()
    tolerance = TOLERANCE if made_with == compiler() else TOLERANCE_OTHER_COMPILER
    return [
        Slower(name, variant, expected, found[variant])
        for variant, expected in everything[name].items()
        if found[variant] > expected * (1 + tolerance)
    ]


def write_expected(figures: Mapping[str, Mapping[str, float]]) -> None:
    """Keep these figures."""
    lines = [
        "# Instructions that instrumented programs execute for one of the original's. See bench/guard.py;",
        "# to change it: python -m bench.guard --update",
        f'compiler = "{compiler()}"',
    ]
    for name, found in figures.items():
        lines += ["", f"[instructions.{name}]", *(f'"{variant}" = {ratio}' for variant, ratio in found.items())]
    EXPECTED.write_text("\n".join(lines) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 when nothing is slower than expected, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.guard", description="Count instructions of instrumented code."
    )
    parser.add_argument("--update", action="store_true", help="keep what is measured now")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(argv)
    figures = {name: measure(name, options.jobs) for name in SAMPLES}
    kept = read_expected()[1] if EXPECTED.exists() else {}
    for name, found in figures.items():
        for variant, ratio in found.items():
            before = kept.get(name, {}).get(variant)
            print(f"{name:9} {variant:14} {ratio:8.3f}" + (f"  was {before:.3f}" if before is not None else ""))
    if options.update:
        write_expected(figures)
        return 0
    problems = [problem for name, found in figures.items() for problem in slower(name, found)]
    for problem in problems:
        print(f"slower: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
