"""Real software at real work: programs and libraries as Debian ships them, every block counted, equal results.

    python -m tests.realworld [--targets gzip libz ...] [--quick] [--json FILE]

A target is rewritten with `block:*`. Its workload, a list of shell commands in an empty directory, runs with the
original and with the rewritten file ($P is the program; a rewritten library is found by LD_LIBRARY_PATH). Exit status,
output and every file left behind must be equal. The table shows coverage, user time against the original's, and what the
rewrite cost. Debian packages: gzip xz-utils bzip2 gawk perl python3 openssl coreutils sqlite3 lua5.4 g++ clang.
"""
# ruff: noqa: E501 - shell commands stay on one line

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.corpus import PROGRAMS, Outcome, tool_path
from tests.scripts import SNIPPETS, script, statements
from tests.tool import Tool, complaint, counts, last_line

LIBRARIES = (Path("/usr/lib/x86_64-linux-gnu"), Path("/lib/x86_64-linux-gnu"), Path("/usr/lib64"), Path("/usr/lib"))
KEY = "00112233445566778899aabbccddeeff"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work a workload does."""

    data: int
    """Bytes to compress, encrypt and the like."""
    lines: int
    """Lines to sort."""
    statements: int
    """SQL statements."""
    script_lines: int
    seconds: int
    """For benchmarks that run by the clock."""


FULL = Scale(50_000_000, 1_000_000, 6000, 1000, 1)
QUICK = Scale(1_500_000, 30_000, 600, 300, 1)


@dataclass(frozen=True, slots=True)
class Target:
    """One file to rewrite and the work that shows whether it still does what it did."""

    name: str
    file: str
    """Command or library name."""
    program: str
    """What $P is: the target itself, or the unmodified program that uses the library."""
    commands: Callable[[Scale], Sequence[str]]
    """Shell commands, run one after the other."""

    @property
    def library(self) -> bool:
        """Whether it is a shared library under an unmodified program."""
        return self.file != self.program


def _compressor(suffix: str, level: str, check: str = "") -> Callable[[Scale], Sequence[str]]:
    def commands(scale: Scale) -> Sequence[str]:
        return [
            f"$P {level} -c < data > data.{suffix}",
            f"$P -dc < data.{suffix} | sha256sum > round-trip",
            f"head -c {scale.data // 10} data | $P -9 -c > best.{suffix}; $P -t best.{suffix}",
            f"head -c 3000 data.{suffix} > cut.{suffix}; $P -dc cut.{suffix} > cut.out; test $? -ne 0",
            "$P --help; true",
            check or "true",
        ]

    return commands


def _script(language: str, run: str = "$P") -> Callable[[Scale], Sequence[str]]:
    return lambda scale: [f"{run} script.{language}", f"{run} script.{language} | sha256sum", *EXTRA.get(language, ())]


EXTRA: Mapping[str, Sequence[str]] = {
    "awk": [
        "head -c 400000 data | $P '{ for (i = 1; i <= NF; i++) n[$i]++ } END { for (w in n) print n[w], w }' | sort | sha256sum",
        "seq 1 20000 | $P -F1 '$2 ~ /^[3-5]/ { s += $1; printf \"%s;\", substr($0, 2) } END { print s, NR }' | sha256sum",
        "echo 1 | $P '{ while ((getline line < \"script.awk\") > 0) n++; print n; system(\"exit 3\"); print strftime(\"%Y\", 0, 1) }'",
    ],
    "perl": [
        "$P -ne 'BEGIN { $/ = \\4096 } $n{$_}++ for split /\\W+/; END { print \"$_ $n{$_}\\n\" for sort keys %n }' data | sha256sum",
        "$P -MData::Dumper -MList::Util=sum -MPOSIX=floor -MDigest::SHA=sha1_hex -e '$Data::Dumper::Sortkeys = 1; print Dumper([map { {n => $_, s => sha1_hex($_)} } 1 .. 50]), sum(1 .. 999), floor(2.7)' | sha256sum",
        "$P -e 'for (1 .. 20000) { my %h = map { $_ => $_ ** 2 } 1 .. 5; $s += $h{3} } print \"$s\\n\"; die \"end\\n\"'; test $? -eq 255",
    ],
    "python": [
        "$P -c 'import this' | sha256sum",
        "$P -c 'import sqlite3, decimal, datetime, collections, itertools, csv, io, textwrap; c = sqlite3.connect(\":memory:\"); c.execute(\"create table t(a)\"); c.executemany(\"insert into t values(?)\", [(i,) for i in range(2000)]); print(c.execute(\"select sum(a) from t\").fetchone(), decimal.Decimal(2).sqrt(), datetime.date(2024, 2, 29), list(itertools.permutations(range(4)))[7])'",
        "$P -c 'import ast, sys; t = ast.parse(open(\"script.python\").read()); print(len(ast.dump(t)), len(compile(t, \"x\", \"exec\").co_code))'",
        "$P -c 'import threading; r = []; t = [threading.Thread(target=lambda k: r.append(sum(range(k))), args=(k,)) for k in range(50)]; [x.start() for x in t]; [x.join() for x in t]; print(sorted(r)[-3:])'",
        "$P -c 'raise SystemExit(3)'; test $? -eq 3; $P -c 'x = 1 / 0'; test $? -eq 1",
    ],
    "lua": [
        "$P -e 'local t = {} for i = 1, 100000 do t[i] = (i * 7919) % 100003 end table.sort(t) print(t[1], t[50000], #t) local n = 0 for l in io.lines(\"script.lua\") do n = n + #l end print(n)'",
        "$P -e 'error(\"end\")'; test $? -eq 1",
    ],
}  # fmt: skip


def _openssl(scale: Scale) -> Sequence[str]:
    ciphers = [
        "aes-256-cbc",
        "aes-128-ctr",
        "chacha20",
        "camellia-192-cbc",
        "aria-256-cbc",
        "des-ede3-cbc -provider legacy -provider default",
    ]
    digests = ["md5", "sha1", "sha256", "sha512", "sha3-384", "blake2b512", "sm3", "ripemd160"]
    enc = [
        f"$P enc -{c} -K {KEY * 2} -iv {KEY} -in data -out c{i}.enc 2>&1; $P enc -d -{c} -K {KEY * 2} -iv {KEY} -in c{i}.enc 2>&1 | sha256sum"
        for i, c in enumerate(ciphers)
    ]
    return [
        *(f"$P dgst -{d} data" for d in digests),
        *enc,
        "$P enc -aes-128-cbc -pbkdf2 -iter 20000 -S 0102030405060708 -k secret -in data -out p.enc; $P base64 -in p.enc | sha256sum",
        "$P dgst -sha256 -sign rsa.pem -out rsa.sig data && $P dgst -sha256 -verify rsa.pub -signature rsa.sig data",
        "head -c 2000 data > small; $P pkeyutl -sign -rawin -inkey ed.pem -in small -out ed.sig && $P pkeyutl -verify -rawin -inkey ed.pem -in small -sigfile ed.sig",
        "$P ec -in ec.pem -text -noout; $P rsa -in rsa.pem -check -noout; $P asn1parse -in rsa.pem | tail -3",
        "$P genrsa 1536 2> /dev/null | $P rsa -check -noout",
        "$P dgst -sha256 -mac HMAC -macopt hexkey:0011 data; $P dgst -mac CMAC -macopt cipher:aes-128-cbc -macopt hexkey:" + KEY + " data",
        "$P prime 170141183460469231731687303715884105727; $P rand 16 > /dev/null; $P version",
        f"$P speed -seconds {scale.seconds} -bytes 4096 sha256 aes-128-cbc chacha20-poly1305 > /dev/null 2>&1",
        f"$P speed -seconds {scale.seconds} rsa1024 ecdsap256 ed25519 > /dev/null 2>&1",
    ]  # fmt: skip


def _sort(scale: Scale) -> Sequence[str]:
    return ["$P lines | sha256sum", "$P -n -k2,2 -k1,1r lines | sha256sum", "$P -u -t, -k3 lines | sha256sum", "$P -R --random-source=data lines | sha256sum",
            "$P -h --parallel=4 -S 4M lines | sha256sum", "$P -V lines > sorted; $P -cV sorted", "$P -m sorted sorted | wc -l", "$P -c lines; test $? -eq 1"]  # fmt: skip


def _sqlite(scale: Scale) -> Sequence[str]:
    return [
        "$P work.db < work.sql",
        "$P work.db .dump | sha256sum",
        "$P -json work.db 'SELECT * FROM item ORDER BY name, id LIMIT 20'",
        "$P work.db 'SELEC 1'; test $? -ne 0",
        "rm -f work.db*",
    ]


def _zlib(scale: Scale) -> Sequence[str]:
    program = "import sys, zlib; d = open('data', 'rb').read(); " \
        "[print(level, hash(zlib.decompress(c) == d), len(c), zlib.adler32(c), zlib.crc32(c)) for level in (1, 6, 9) for c in [zlib.compress(d, level)]]"  # fmt: skip
    return [f'$P -c "{program}"', "$P -c \"import gzip; print(len(gzip.compress(open('data', 'rb').read()[:300000], mtime=0)))\"",
            "$P -c \"import zlib; zlib.decompress(b'garbage')\" 2> failed; test $? -eq 1"]  # fmt: skip


def _sqlite_library(scale: Scale) -> Sequence[str]:
    return _sqlite(scale)


def _stdcxx(scale: Scale) -> Sequence[str]:
    builds = [
        f"g++ -std=c++17 -O1 -o {name} {PROGRAMS / name}.cc -pthread"
        for name in ("containers", "exceptions", "lambdas", "cxxthreads", "virtuals")
    ]
    runs = [f"./{name}; rm {name}" for name in ("containers", "exceptions", "lambdas", "cxxthreads", "virtuals")]
    return [
        *(f"env -u LD_LIBRARY_PATH {line}" for line in builds),
        *runs,
        f"$P -O2 -std=c++17 -c -o compiled.o {PROGRAMS / 'containers.cc'}",
    ]


TARGETS = (
    Target("gzip", "gzip", "gzip", _compressor("gz", "-6n")),
    Target("xz", "xz", "xz", _compressor("xz", "-2")),
    Target("bzip2", "bzip2", "bzip2", _compressor("bz2", "-5")),
    Target("gawk", "gawk", "gawk", _script("awk", "$P -f")),
    Target("perl", "perl", "perl", _script("perl")),
    Target("python3", "/usr/bin/python3", "/usr/bin/python3", _script("python")),
    Target("openssl", "openssl", "openssl", _openssl),
    Target("sort", "sort", "sort", _sort),
    Target("sqlite3", "sqlite3", "sqlite3", _sqlite),
    Target("lua", "lua5.4", "lua5.4", _script("lua")),
    Target("libz", "libz.so.1", "/usr/bin/python3", _zlib),
    Target("libsqlite3", "libsqlite3.so.0", "sqlite3", _sqlite_library),
    Target("libcrypto", "libcrypto.so.3", "openssl", _openssl),
    Target("libstdc++", "libstdc++.so.6", "clang++", _stdcxx),
    Target("liblzma", "liblzma.so.5", "xz", _compressor("xz", "-2")),
    Target("libbz2", "libbz2.so.1.0", "bzip2", _compressor("bz2", "-5")),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    target: str
    status: str
    """`equal`, or what went wrong."""
    detail: str = ""
    blocks: int = 0
    instrumented: int = 0
    refused: Mapping[str, int] | None = None
    """Reason -> number of blocks."""
    rewrite_seconds: float = 0.0
    rewrite_megabytes: int = 0
    """The largest process of the rewrite."""
    original_seconds: float = 0.0
    """User time of the workload."""
    ratio: float = 0.0
    """User time of the instrumented workload against the original's."""
    counted: int = 0
    """Blocks with a count, from the report."""


def located(file: str) -> Path | None:
    """Where a command or library is; None where it is not installed."""
    if ".so" in file:
        return next((folder / file for folder in LIBRARIES if (folder / file).exists()), None)
    found = tool_path(file)
    return Path(found).resolve() if found else None


def inputs(directory: Path, scale: Scale) -> None:
    """The files that workloads read: the same for the same scale, but for what this machine's programs hold."""
    source = random.Random(1)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randrange(2, 10))) for _ in range(3000)]
    chunks: list[bytes] = []
    size = 0
    while size < scale.data:
        text = " ".join(source.choices(words, k=20_000)).encode()
        chunk = source.choice([text, text, source.randbytes(20_000), bytes(30_000), text.replace(b"e", b"\n")])
        chunks.append(chunk)
        size += len(chunk)
    (directory / "data").write_bytes(b"".join(chunks)[: scale.data])
    with (directory / "lines").open("w") as out:
        for number in range(scale.lines):
            out.write(
                f"{source.choice(words)} {source.randrange(100000)},{number % 977},v{source.randrange(50)}.{number % 13}\n"
            )
    for language in SNIPPETS:
        (directory / f"script.{language}").write_text(script(language, scale.script_lines))
    (directory / "work.sql").write_text(statements(scale.statements))
    for kind, name in (
        ("RSA -pkeyopt rsa_keygen_bits:2048", "rsa"),
        ("ED25519", "ed"),
        ("EC -pkeyopt ec_paramgen_curve:P-256", "ec"),
    ):
        subprocess.run(
            f"openssl genpkey -algorithm {kind} -out {name}.pem", shell=True, cwd=directory, capture_output=True
        )
    subprocess.run("openssl pkey -in rsa.pem -pubout -out rsa.pub", shell=True, cwd=directory, capture_output=True)


@dataclass(frozen=True, slots=True)
class Work:
    """What a workload came to."""

    results: tuple[tuple[str, int, str], ...]
    """Command, exit status, digest of its output and errors."""
    outputs: tuple[bytes, ...]
    """Output and errors of each command."""
    files: Mapping[str, str]
    """Name -> digest of each file left in the directory."""
    seconds: float
    """User time."""


def work(commands: Sequence[str], program: Path, directory: Path, given: Path, environment: Mapping[str, str]) -> Work:
    """Run a workload in a new directory that links to the given inputs."""
    directory.mkdir()
    for path in given.iterdir():
        (directory / path.name).symlink_to(path)
    clean = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "HOME": str(directory),
        "P": str(program),
        **environment,
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    results, outputs = [], []
    for command in commands:
        try:
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=directory,
                env=clean,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=1800,
            )
            status, output = done.returncode, done.stdout + b"\n--- errors\n" + done.stderr
        except subprocess.TimeoutExpired:
            status, output = 124, b"killed after 1800 seconds"
        output = output.replace(str(program).encode(), b"$P").replace(program.name.encode() + b":", b"$P:")
        results.append((command, status, hashlib.sha256(output).hexdigest()))
        outputs.append(output)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    files = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(directory.iterdir())
        if not p.is_symlink() and p.is_file()
    }
    return Work(tuple(results), tuple(outputs), files, seconds)


def difference(expected: Work, got: Work) -> str:
    """One line on the first difference, empty when there is none."""
    for index, (left, right) in enumerate(zip(expected.results, got.results, strict=True)):
        if left != right:
            where = next(
                (
                    f"{b[:150]!r} instead of {a[:150]!r}"
                    for a, b in zip(expected.outputs[index].splitlines(), got.outputs[index].splitlines(), strict=False)
                    if a != b
                ),
                "its length",
            )
            return f"`{left[0][:100]}` exits {right[1]} ({left[1]}): {where}"
    changed = sorted(
        name for name in expected.files.keys() | got.files.keys() if expected.files.get(name) != got.files.get(name)
    )
    return f"files differ: {', '.join(changed)}" if changed else ""


def _measured(tool: Tool, directory: Path, *arguments: str | Path) -> tuple[Outcome, int]:
    """Run the tool; also how many megabytes the largest of its processes took."""
    command = [*tool.command, *(str(argument) for argument in arguments)]
    with (directory / "tool.out").open("w+b") as out, (directory / "tool.err").open("w+b") as err:
        running = subprocess.Popen(command, env={**os.environ, **tool.environment}, stdout=out, stderr=err)
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Outcome(running.returncode, out.read(), err.read()), usage.ru_maxrss // 1024


def rewritten(target: Target, path: Path, tool: Tool, directory: Path, liveness: str) -> tuple[Path, Row]:
    """The rewritten file, named as the original in a directory of its own, and the figures so far."""
    folder = directory / "rewritten"
    folder.mkdir()
    out, report = folder / path.name, directory / "rewrite.json"
    started = time.monotonic()
    asked = ("--probe", "block:*", "--liveness", liveness, "--report", report)
    outcome, largest = _measured(tool, directory, "rewrite", path, "-o", out, *asked)
    seconds = time.monotonic() - started
    if outcome.status != 0 or complaint(outcome):
        return out, Row(
            target.name, "rewrite", complaint(outcome) or f"exit status {outcome.status}: {last_line(outcome)}"
        )
    done = json.loads(report.read_text())
    reasons = Counter(row["reason"] for row in done["refused"])
    tracepoints = done["tracepoints"]
    return out, Row(
        target.name, "", "", tracepoints["selected"], tracepoints["instrumented"], dict(reasons), seconds, largest
    )


def check(target: Target, tool: Tool, directory: Path, given: Path, scale: Scale, liveness: str = "abi") -> Row:
    """Rewrite one target and run its workload both ways."""
    file, program = located(target.file), located(target.program)
    if file is None or program is None:
        return Row(target.name, "missing", f"{target.file if file is None else target.program} is not installed")
    out, row = rewritten(target, file.resolve(), tool, directory, liveness)
    if row.status:
        return row
    commands = target.commands(scale)
    expected = work(commands, program, directory / "expected", given, {})
    data = directory / "run.data"
    environment = {"PROBELOOM_DATA": str(data)}
    if target.library:
        if out.name != target.file:
            (out.parent / target.file).symlink_to(out)
        environment["LD_LIBRARY_PATH"] = str(out.parent)
    got = work(commands, program if target.library else out, directory / "got", given, environment)
    problem = difference(expected, got)
    counted = 0
    if not problem:
        try:
            counted = sum(1 for probe in counts(tool, data)["probes"] if probe["count"])
        except ValueError as error:
            problem = str(error)
        if not problem and not counted:
            problem = "nothing was counted"
    figures = asdict(row) | {"status": "DIFFERS" if problem else "equal", "detail": problem, "counted": counted}
    figures |= {"original_seconds": expected.seconds, "ratio": got.seconds / max(expected.seconds, 0.001)}
    return Row(**figures)


HEADER = f"{'target':12} {'result':8} {'blocks':>8} {'coverage':>9} {'counted':>8} {'rewrite':>9} {'memory':>8} {'original':>9} {'ratio':>6}"


def line(row: Row) -> str:
    """A row as text."""
    coverage = 100 * row.instrumented / row.blocks if row.blocks else 0
    text = f"{row.target:12} {row.status:8} {row.blocks:8} {coverage:8.2f}% {row.counted:8} {row.rewrite_seconds:8.1f}s {row.rewrite_megabytes:6}MB {row.original_seconds:8.2f}s {row.ratio:6.2f}"
    return text + (f"  {row.detail}" if row.detail else "")


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 when all results are equal and coverage is at least 99%, 1 otherwise."""
    parser = argparse.ArgumentParser(description="Rewrite real software and let it work.")
    parser.add_argument("--targets", nargs="+", choices=[target.name for target in TARGETS])
    parser.add_argument("--quick", action="store_true", help="little work, for CI")
    parser.add_argument("--liveness", choices=("abi", "strict"), default="abi")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep everything here")
    parser.add_argument(
        "--coverage", type=float, default=99.0, help="the least share of instrumented blocks, in percent"
    )
    options = parser.parse_args(argv)
    scale = QUICK if options.quick else FULL
    rows: list[Row] = []
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory(prefix="realworld-") as temporary:
        base = (options.keep or Path(temporary)).absolute()
        given = base / "given"
        given.mkdir(parents=True)
        inputs(given, scale)
        for target in TARGETS:
            if options.targets and target.name not in options.targets:
                continue
            directory = base / target.name
            directory.mkdir()
            row = check(target, Tool.found(), directory, given, scale, options.liveness)
            rows.append(row)
            print(line(row), flush=True)
            if options.json:
                options.json.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    blocks, instrumented = sum(r.blocks for r in rows), sum(r.instrumented for r in rows)
    coverage = 100 * instrumented / blocks if blocks else 0.0
    print(
        f"{sum(r.status == 'equal' for r in rows)} of {len(rows)} equal; {coverage:.2f}% of {blocks} blocks instrumented"
    )
    return 0 if all(r.status == "equal" for r in rows) and coverage >= options.coverage else 1


if __name__ == "__main__":
    sys.exit(main())
