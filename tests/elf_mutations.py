"""Seeded damage to ELF files: each ends in a clean refusal or in a file that behaves as the damaged one does.

    python -m tests.elf_mutations --count 2000 --jobs 2 --seed 1 --keep DIR
    python -m tests.elf_mutations --replay 17 --seed 1 --keep DIR            one of them again

A failure is a traceback, a crash, a hang, an exit status outside the contract, a refusal without its one line, or a
rewritten program that behaves differently while the damaged original still runs and ends by itself.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tests.corpus import Cell, Outcome, build, programs
from tests.tool import Tool, complaint, last_line

BASES = (
    ("recursion", "gcc", "O2", "pie", False),
    ("switches", "gcc", "O2", "nopie", True),
    ("exceptions", "gcc", "O1", "pie", False),
    ("jumps_asm", "clang", "O1", "nopie", False),
    ("init", "clang", "Os", "pie", True),
)
"""The programs that are damaged: name, compiler, level, link, stripped."""

PROBES = ("block:*", "entry:*", "return:*")
NOBODY = 65534
TOOL_SECONDS = 120
RUN_SECONDS = 5

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
EHDR_FIELDS = [
    (16, 2),
    (18, 2),
    (20, 4),
    (24, 8),
    (32, 8),
    (40, 8),
    (48, 4),
    (52, 2),
    (54, 2),
    (56, 2),
    (58, 2),
    (60, 2),
    (62, 2),
]
PHDR_FIELDS = [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 8), (48, 8)]
SHDR_FIELDS = [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8)]
SYMBOL_FIELDS = [(0, 4), (4, 1), (5, 1), (6, 2), (8, 8), (16, 8)]
RELA_FIELDS = [(0, 8), (8, 8), (16, 8)]
DYNAMIC_FIELDS = [(0, 8), (8, 8)]


@dataclass(frozen=True, slots=True)
class Section:
    """What the section header table says of one section."""

    name: str
    kind: int
    address: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tables of a well-formed file are."""

    program_headers: tuple[int, ...]
    """File offsets."""
    section_headers: tuple[int, ...]
    """File offsets."""
    segments: tuple[tuple[int, int], ...]
    """File offset and size of each."""
    sections: tuple[Section, ...]


def layout(content: bytes) -> Layout:
    """Read the tables of a well-formed 64-bit file."""
    _, _, _, _, _, phoff, shoff, _, _, phsize, phnum, shsize, shnum, shstrndx = EHDR.unpack_from(content)
    headers = tuple(phoff + phsize * i for i in range(phnum))
    section_headers = tuple(shoff + shsize * i for i in range(shnum))
    raw = [struct.unpack_from("<IIQQQQ", content, offset) for offset in section_headers]
    names = raw[shstrndx][4]
    sections = []
    for name, kind, _, address, offset, size in raw:
        start = names + name
        sections.append(
            Section(content[start : content.index(0, start)].decode(), kind, address, offset, 0 if kind == 8 else size)
        )
    segments = tuple(struct.unpack_from("<Q16xQ", content, offset + 8) for offset in headers)
    return Layout(headers, section_headers, segments, tuple(sections))


def borders(content: bytes) -> list[int]:
    """Every offset at which a header, table, section or segment begins or ends."""
    tables = layout(content)
    found = {0, 64, len(content)}
    for start, size in [*tables.segments, *((s.offset, s.size) for s in tables.sections)]:
        found |= {start, start + size}
    for offset in tables.program_headers:
        found |= {offset, offset + 56}
    for offset in tables.section_headers:
        found |= {offset, offset + 64}
    return sorted(found)


def _value(source: random.Random, old: int, size: int) -> int:
    top = (1 << 8 * size) - 1
    choices: list[Callable[[], int]] = [
        lambda: 0,
        lambda: top,
        lambda: top >> 1,
        lambda: old + source.choice((-16, -8, -1, 1, 2, 8, 16, 4096, -4096)),
        lambda: old ^ 1 << source.randrange(8 * size),
        lambda: source.randrange(top + 1),
        lambda: source.randrange(64),
        lambda: 1 << source.randrange(8 * size),
    ]
    return source.choice(choices)() & top


def _field(source: random.Random, content: bytearray, base: int, fields: Sequence[tuple[int, int]]) -> str:
    offset, size = source.choice(fields)
    place = base + offset
    old = int.from_bytes(content[place : place + size], "little")
    new = _value(source, old, size)
    content[place : place + size] = new.to_bytes(size, "little")
    return f"+{offset} {old:#x} -> {new:#x}"


def _in_table(
    source: random.Random, content: bytearray, section: Section, entry: int, fields: Sequence[tuple[int, int]]
) -> str:
    index = source.randrange(max(section.size // entry, 1))
    return f"{section.name}[{index}] " + _field(source, content, section.offset + index * entry, fields)


def _bytes(source: random.Random, content: bytearray, start: int, size: int) -> str:
    changes = []
    for _ in range(source.choice((1, 1, 2, 8))):
        place = start + source.randrange(max(size, 1))
        if place < len(content):
            content[place] = source.randrange(256)
            changes.append(f"{place:#x}={content[place]:#x}")
    return " ".join(changes)


def mutate(original: bytes, source: random.Random) -> tuple[bytes, str]:
    """A damaged copy and what was done to it."""
    tables = layout(original)
    content = bytearray(original)
    named = {section.name: section for section in tables.sections}
    done = []
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        kind = source.choice(
            (
                "header",
                "segment",
                "segment",
                "section",
                "section",
                "symbol",
                "symbol",
                "dynamic",
                "relocation",
                "unwind",
                "unwind",
                "code",
                "code",
                "data",
                "anywhere",
                "anywhere",
                "cut",
                "grow",
                "zero",
                "copy",
            )
        )
        detail = ""
        if kind == "header":
            detail = _field(source, content, 0, EHDR_FIELDS)
        elif kind == "segment":
            index = source.randrange(len(tables.program_headers))
            detail = f"{index} " + _field(source, content, tables.program_headers[index], PHDR_FIELDS)
        elif kind == "section":
            index = source.randrange(len(tables.section_headers))
            detail = f"{tables.sections[index].name} " + _field(
                source, content, tables.section_headers[index], SHDR_FIELDS
            )
        elif kind == "symbol":
            symbols = [s for s in tables.sections if s.kind in (2, 11)]
            detail = _in_table(source, content, source.choice(symbols), 24, SYMBOL_FIELDS)
        elif kind == "dynamic":
            detail = _in_table(source, content, named[".dynamic"], 16, DYNAMIC_FIELDS)
        elif kind == "relocation":
            tables_of = [s for s in tables.sections if s.kind == 4 and s.size]
            detail = _in_table(source, content, source.choice(tables_of), 24, RELA_FIELDS)
        elif kind in ("unwind", "code", "data"):
            names = {
                "unwind": (".eh_frame", ".eh_frame_hdr", ".gcc_except_table"),
                "code": (".text", ".init", ".plt"),
                "data": (
                    ".rodata",
                    ".data",
                    ".init_array",
                    ".dynstr",
                    ".strtab",
                    ".got",
                    ".gnu.hash",
                    ".note.gnu.build-id",
                ),
            }[kind]
            section = source.choice([named[name] for name in names if name in named and named[name].size])
            detail = f"{section.name} " + _bytes(source, content, section.offset, section.size)
        elif kind == "anywhere":
            detail = _bytes(source, content, 0, len(content))
        elif kind == "cut":
            size = source.choice((source.randrange(len(content)), source.choice(borders(original))))
            del content[size:]
            detail = f"{size:#x}"
        elif kind == "grow":
            content += source.randbytes(source.choice((1, 100, 5000)))
        elif kind == "zero":
            start = source.randrange(len(content) or 1)
            size = source.choice((1, 16, 64, 4096))
            content[start : start + size] = bytes(len(content[start : start + size]))
            detail = f"{start:#x}+{size}"
        else:
            one, two = (source.randrange(max(len(content) - 64, 1)) for _ in range(2))
            content[one : one + 64] = content[two : two + 64]
            detail = f"{two:#x} to {one:#x}"
        done.append(f"{kind} {detail}".strip())
    return bytes(content), "; ".join(done)


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (RUN_SECONDS, RUN_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))


def _run_damaged(program: Path, directory: Path) -> Outcome | None:
    """Run a damaged program fenced in, as nobody when we are root; None when it does not end by itself."""
    account = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    try:
        done = subprocess.run(
            [str(program)],
            cwd=directory,
            env={"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=RUN_SECONDS * 2,
            preexec_fn=_limits,
            **account,  # type: ignore[arg-type]
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode < 0:
        return None
    name = str(program).encode()  # the dynamic linker names the program in its messages
    return Outcome(done.returncode, done.stdout.replace(name, b"PROGRAM"), done.stderr.replace(name, b"PROGRAM"))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one damaged file."""

    number: int
    what: str
    """The damage done."""
    kind: str
    """`refused`, `same`, `not comparable` (the damaged program itself does not run), or `FAILED`."""
    detail: str


def bases(built: Path) -> list[Path]:
    """The programs of BASES, built."""
    known = {program.name: program for program in programs()}
    return [build(Cell(known[name], *way), built) for name, *way in BASES]


def check(number: int, seed: int, originals: Sequence[Path], tool: Tool, directory: Path) -> Verdict:
    """Make, rewrite and run damaged file `number` of the campaign `seed`."""
    source = random.Random(f"{seed}/{number}")
    base = originals[number % len(originals)]
    content, what = mutate(base.read_bytes(), source)
    probe = source.choice(PROBES)
    what = f"{base.name}: {what} [{probe}]"
    damaged, out = directory / "damaged", directory / "out"
    damaged.write_bytes(content)
    damaged.chmod(0o755)
    outcome = tool("rewrite", damaged, "-o", out, "--probe", probe, "--jobs", "1", seconds=TOOL_SECONDS)
    if outcome.status == 124:
        return Verdict(number, what, "FAILED", f"no end within {TOOL_SECONDS} s")
    if problem := complaint(outcome):
        return Verdict(number, what, "FAILED", problem)
    if outcome.status != 0:
        lines = outcome.stderr.decode(errors="replace").strip().splitlines()
        if outcome.status != 3:
            return Verdict(number, what, "FAILED", f"exit status {outcome.status}: {last_line(outcome)}")
        if len(lines) != 1 or out.exists():
            return Verdict(number, what, "FAILED", f"a refusal of {len(lines)} lines, output left: {out.exists()}")
        return Verdict(number, what, "refused", lines[0])
    expected, again = _run_damaged(damaged, directory), _run_damaged(damaged, directory)
    if expected is None or expected != again:
        return Verdict(number, what, "not comparable", "")
    got = _run_damaged(out, directory)
    if got is None:
        return Verdict(number, what, "FAILED", f"does not end by itself, the damaged original exits {expected.status}")
    difference = expected.difference(got)
    return Verdict(number, what, "FAILED" if difference else "same", difference)


def campaign(
    numbers: Sequence[int], seed: int, tool: Tool, directory: Path, jobs: int = 1, keep: bool = False
) -> Iterator[Verdict]:
    """Check many; a passing file's directory is removed, a failing one's stays when `keep`."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    originals = bases(directory / "built")

    def one(number: int) -> Verdict:
        folder = directory / f"{number:05}"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        verdict = check(number, seed, originals, tool, folder)
        if not (keep and verdict.kind == "FAILED"):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        return verdict

    with ThreadPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(one, number) for number in numbers]):
            yield future.result()


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 when nothing failed, 1 otherwise."""
    parser = argparse.ArgumentParser(description="Rewrite damaged ELF files.")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--replay", type=int, metavar="NUMBER")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep failing files here")
    options = parser.parse_args(argv)
    numbers = [options.replay] if options.replay is not None else range(options.start, options.start + options.count)
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="mutations-") as temporary:
        directory = (options.keep or Path(temporary)).absolute()
        for verdict in campaign(numbers, options.seed, Tool.found(), directory, options.jobs, options.keep is not None):
            totals[verdict.kind] += 1
            if verdict.kind == "FAILED" or options.replay is not None:
                print(f"{verdict.number} {verdict.kind}: {verdict.detail}\n    {verdict.what}", flush=True)
    print(
        f"seed {options.seed}: {sum(totals.values())} files: "
        + ", ".join(f"{n} {kind}" for kind, n in sorted(totals.items()))
    )
    return 1 if totals["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
