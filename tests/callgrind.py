"""Exactness: block counts of the rewritten program against callgrind's of the original, function by function.

    python -m tests.callgrind PROGRAM [ARGUMENT ...]

For every function of the program itself: the sum over its blocks of count x instructions must equal the instructions
that callgrind saw executed at the same addresses, and the entry count must equal callgrind's calls of the function, or
the executions of its first instruction (a function may be entered by a jump that callgrind calls no call, and a jump of
a function to its own beginning may be a loop or a tail call). Callgrind counts each iteration of a repeated string
instruction: it is taken to run as often as its neighbour in the block. Functions that hold refused blocks are compared
by entries only. IFUNC resolvers and CPUID may choose otherwise under valgrind, whose processor is another one.
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifter.descent import UNREACHED
from tests.elf_mutations import layout
from tests.tool import Tool, counts, last_line, rows

STRING_INSTRUCTION = re.compile(
    r"^\s*([0-9a-f]+):\s.*\brep(?:z|nz|e|ne)?\s+(?:movs|stos|lods|cmps|scas|ins|outs)", re.M
)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One function that callgrind counts otherwise."""

    function: str
    address: int
    what: str
    """`instructions` or `entries`."""
    ours: int
    callgrind: int

    def __str__(self) -> str:
        return f"{self.function} ({self.address:#x}): {self.what} {self.ours}, callgrind {self.callgrind}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison came to."""

    functions: int
    """Functions compared by instructions."""
    entries: int
    """Functions compared by entries."""
    executed: int
    """Of the functions compared by instructions, those that ran at all."""
    skipped: tuple[str, ...]
    """Functions whose instructions were not compared, with the reason."""
    mismatches: tuple[Mismatch, ...]


def executions(profile: str, module: str) -> tuple[dict[int, int], dict[int, int]]:
    """Instruction address -> times executed, and address -> times called, in one object file.

    From callgrind's output with --dump-instr=yes.

    Addresses are relative to the file when it is position independent, as callgrind writes them. Positions may be
    compressed: absolute, `+n`, `-n` or `*` relative to the line before.
    """
    found: defaultdict[int, int] = defaultdict(int)
    calls: defaultdict[int, int] = defaultdict(int)
    objects: dict[str, str] = {}
    current = callee = ""
    address = 0
    after_call = False
    for line in profile.splitlines():
        if match := re.match(r"(c?ob)=\((\d+)\)(?: (.*))?$", line):
            if match[3]:
                objects[match[2]] = match[3]
            callee = objects[match[2]]
            if match[1] == "ob":
                current = callee
            continue
        if match := re.match(r"calls=(\d+) (0x[0-9a-f]+)", line):
            if callee == module:
                calls[int(match[2], 16)] += int(match[1])
            callee = current
            after_call = True
            continue
        match = re.match(r"(0x[0-9a-f]+|[+-]\d+|\*) (?:\d+|[+-]\d+|\*)(?: (\d+))?", line)
        if not match:
            continue
        place = match[1]
        if place.startswith("0x"):
            address = int(place, 16)
        elif place != "*":
            address += int(place)
        if after_call:  # this line's cost is inclusive: the callee's
            after_call = False
        elif current == module:
            found[address] += int(match[2] or 0)
    return dict(found), dict(calls)


def _executed(
    span: tuple[int, int], ordered: Sequence[int], executed: Mapping[int, int], strings: Collection[int]
) -> int:
    """Instructions that callgrind saw in a block, each iteration of a string instruction not counted."""
    places = ordered[bisect.bisect_left(ordered, span[0]) : bisect.bisect_left(ordered, span[1])]
    plain = next((executed[place] for place in places if place not in strings), None)
    return sum(plain if plain is not None and place in strings else executed[place] for place in places)


def compare(
    report: Mapping[str, object],
    executed: Mapping[int, int],
    called: Mapping[int, int],
    text: range,
    strings: Collection[int],
    refused: Sequence[int],
) -> Comparison:
    """Compare a report (blocks and entries) with callgrind's executions.

    `text` is the section .text: valgrind attributes what is outside (_init, _fini) to no file. `strings` are the
    addresses of repeated string instructions, `refused` those of blocks without a counter.
    """
    blocks: defaultdict[str, list[Mapping[str, int]]] = defaultdict(list)
    for row in rows(report, "block"):
        blocks[row["function"]].append(row)
    ordered = sorted(executed)
    entries = {row["address"]: row for row in rows(report, "entry") if row["address"] in text}
    skipped: list[str] = []
    mismatches: list[Mismatch] = []
    compared = ran = 0
    for function, members in sorted(blocks.items()):
        if members[0]["address"] not in text:
            skipped.append(f"{function}: outside .text")
            continue
        spans = [(row["address"], row["address"] + row["size"]) for row in members]
        low, high = min(span[0] for span in spans), max(span[1] for span in spans)
        if any(low <= place < high for place in refused):
            skipped.append(f"{function}: holds blocks that were refused")
            continue
        ours = sum(row["count"] * row["instructions"] for row in members)
        theirs = sum(_executed(span, ordered, executed, strings) for span in spans)
        compared += 1
        ran += theirs > 0
        if ours != theirs:
            mismatches.append(Mismatch(function, low, "instructions", ours, theirs))
    for address, row in sorted(entries.items()):
        if row["count"] not in (executed.get(address, 0), called.get(address, 0)):
            mismatches.append(Mismatch(row["function"], address, "entries", row["count"], executed.get(address, 0)))
    return Comparison(compared, len(entries), ran, tuple(skipped), tuple(mismatches))


def run_on(
    command: Sequence[str], directory: Path, stdin: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command with a file as its input: how much a read of a pipe brings is chance, and is counted."""
    with stdin.open("rb") as opened:
        return subprocess.run(
            command,
            cwd=directory,
            env={"PATH": os.environ["PATH"], **environment},
            stdin=opened,
            capture_output=True,
        )


def profile(command: Sequence[str], directory: Path, stdin: Path, environment: Mapping[str, str]) -> str:
    """Callgrind's output for a command. Raises RuntimeError when valgrind fails."""
    output = directory / "callgrind.out"
    valgrind = [
        "valgrind",
        "-q",
        "--tool=callgrind",
        "--dump-instr=yes",
        "--compress-pos=no",
        "--skip-plt=no",
        f"--callgrind-out-file={output}",
    ]
    done = run_on([*valgrind, *command], directory, stdin, environment)
    if not output.exists():
        raise RuntimeError(f"valgrind: {done.stderr.decode(errors='replace')[-300:]}")
    return output.read_text()


def check(
    program: Path,
    arguments: Sequence[str],
    tool: Tool,
    directory: Path,
    stdin: Path = Path(os.devnull),
    environment: Mapping[str, str] | None = None,
) -> Comparison:
    """Run the original under callgrind, the rewritten program plainly, and compare. RuntimeError when either fails."""
    report, data = directory / "rewrite.json", directory / "run.data"
    original, instrumented = directory / "1" / program.name, directory / "2" / program.name  # names of equal length
    for path in (original, instrumented):
        path.parent.mkdir()
    shutil.copy(program, original)
    outcome = tool(
        "rewrite", program, "-o", instrumented, "--probe", "block:*", "--probe", "entry:*", "--report", report
    )
    if outcome.status != 0:
        raise RuntimeError(f"rewrite exits {outcome.status}: {last_line(outcome)}")
    clean = {"LC_ALL": "C", **(environment or {})}
    run_on([str(instrumented), *arguments], directory, stdin, {"PROBELOOM_DATA": str(data), **clean})
    refusals = json.loads(report.read_text())["refused"]
    disassembly = subprocess.run(
        ["objdump", "-d", "-w", str(program)], capture_output=True, text=True, check=True
    ).stdout
    strings = {int(match[1], 16) for match in STRING_INSTRUCTION.finditer(disassembly)}
    text = profile([str(original), *arguments], directory, stdin, clean)
    executed, called = executions(text, str(original.resolve()))
    if not executed:
        raise RuntimeError(f"callgrind saw nothing of {program}")
    # Code that nothing known reaches is no reason to leave out a function, unless it did run.
    refused = [row["address"] for row in refusals if row["reason"] != UNREACHED or row["address"] in executed]
    section = next(s for s in layout(program.read_bytes()).sections if s.name == ".text")
    text_section = range(section.address, section.address + section.size)
    return compare(
        counts(tool, data),
        executed,
        called,
        text_section,
        strings,
        refused,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 when all functions agree, 1 otherwise."""
    parser = argparse.ArgumentParser(description="Compare block counts with callgrind's.")
    parser.add_argument("--stdin", type=Path, default=Path(os.devnull))
    parser.add_argument("program", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="callgrind-") as temporary:
        result = check(options.program.resolve(), options.arguments, Tool.found(), Path(temporary), options.stdin)
    for reason in result.skipped:
        print(f"not compared: {reason}")
    for mismatch in result.mismatches:
        print(mismatch)
    compared = (
        f"{result.functions} functions compared by instructions ({result.executed} ran), {result.entries} by entries"
    )
    print(f"{compared}, {len(result.skipped)} skipped, {len(result.mismatches)} differ")
    return 1 if result.mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
