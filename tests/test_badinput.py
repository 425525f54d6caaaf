"""Bad inputs end in one clear line and the right exit code, and leave nothing half-written behind."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.corpus import Cell, Outcome, build, programs, run
from tests.elf_mutations import borders
from tests.tool import Tool, complaint, last_line

USAGE, REFUSED = 2, 3
pytestmark = pytest.mark.needs("gcc")


@pytest.fixture(scope="session")
def program(built: Path) -> Path:
    """A real executable to damage."""
    (source,) = (p for p in programs() if p.name == "recursion")
    return build(Cell(source, "gcc", "O2", "pie", stripped=False), built)


@pytest.fixture
def damaged(program: Path, tmp_path: Path) -> Callable[[int, bytes], Path]:
    """A copy of the program with bytes replaced at an offset."""

    def damage(offset: int, replacement: bytes) -> Path:
        content = bytearray(program.read_bytes())
        content[offset : offset + len(replacement)] = replacement
        path = tmp_path / "damaged"
        path.write_bytes(content)
        path.chmod(0o755)
        return path

    return damage


def check(outcome: Outcome, *codes: int, about: str = "") -> None:
    """One line on standard error, one of the exit codes, no sign of a bug."""
    assert not complaint(outcome)
    assert outcome.status in codes, f"exit status {outcome.status}: {last_line(outcome)}"
    message = outcome.stderr.decode()
    assert len(message.strip().splitlines()) == 1, message
    assert about in message, message


def rewrite(tool: Tool, binary: Path, out: Path, *options: str | Path, probe: str = "block:*") -> Outcome:
    return tool("rewrite", binary, "-o", out, "--probe", probe, *options, seconds=300)


def check_refused(tool: Tool, binary: Path, tmp_path: Path, *codes: int, about: str = "") -> None:
    folder = tmp_path / "result"
    folder.mkdir()
    check(rewrite(tool, binary, folder / "out"), *codes, about=about)
    assert not list(folder.iterdir())


# What is no executable of ours

HEADERS = {
    "32-bit": (4, b"\1", REFUSED),
    "big-endian": (5, b"\2", REFUSED),
    "no class": (4, b"\0", REFUSED),
    "object file": (16, struct.pack("<H", 1), REFUSED),
    "core file": (16, struct.pack("<H", 4), REFUSED),
    "type of its own": (16, struct.pack("<H", 0xFE00), REFUSED),
    "aarch64": (18, struct.pack("<H", 183), REFUSED),
    "riscv": (18, struct.pack("<H", 243), REFUSED),
    "i386": (18, struct.pack("<H", 3), REFUSED),
    "no magic": (0, b"\x7fELG", REFUSED),
    "program headers beyond the end": (32, struct.pack("<Q", 1 << 40), REFUSED),
    "program header size": (54, struct.pack("<H", 7), REFUSED),
    "no program headers": (56, struct.pack("<H", 0), REFUSED),
}


@pytest.mark.parametrize("name", HEADERS)
def test_header(name: str, tool: Tool, damaged: Callable[[int, bytes], Path], tmp_path: Path) -> None:
    offset, replacement, code = HEADERS[name]
    check_refused(tool, damaged(offset, replacement), tmp_path, code)


CONTENTS = {
    "empty": b"",
    "text": b"hello, world\n" * 100,
    "script": b"#!/bin/sh\nexit 0\n",
    "magic alone": b"\x7fELF",
    "header alone, cut": b"\x7fELF\2\1\1" + bytes(20),
    "Windows": b"MZ" + bytes(500),
    "archive": b"!<arch>\n" + bytes(100),
    "zeros": bytes(5000),
    "noise": random.Random(1).randbytes(5000),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_not_elf(name: str, tool: Tool, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(CONTENTS[name])
    check_refused(tool, path, tmp_path, REFUSED, about=str(path))


@pytest.mark.parametrize("command", ["list", "lift", "verify"])
def test_other_commands_refuse_alike(command: str, tool: Tool, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"not an executable")
    options = {"list": (), "lift": ("main",), "verify": ("--probe", "block:*")}[command]
    check(tool(command, path, *options), REFUSED, about=str(path))
    check(tool(command, tmp_path, *options), USAGE)
    check(tool(command, tmp_path / "missing", *options), USAGE)


def _unreadable(path: Path) -> Path:
    if os.geteuid() != 0:
        path.write_bytes(b"\x7fELF")
        path.chmod(0)
        return path
    return Path("/proc/self/mem")  # root may open everything, but nothing is mapped at 0


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def _loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


NO_FILES: dict[str, Callable[[Path], Path]] = {
    "missing": lambda path: path,
    "directory": lambda path: path.parent,
    "unreadable": _unreadable,
    "fifo": _fifo,
    "socket": _socket,
    "endless device": lambda path: Path("/dev/zero"),
    "symlink loop": _loop,
    "below a file": lambda path: Path(__file__) / "x",
    "name too long": lambda path: path.parent / ("x" * 300),
}


@pytest.mark.parametrize("name", NO_FILES)
def test_no_file(name: str, tool: Tool, tmp_path: Path) -> None:
    check_refused(tool, NO_FILES[name](tmp_path / "input"), tmp_path, USAGE)


def test_object_file(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int f(int a) { return a + 1; }")
    subprocess.run(["gcc", "-c", "a.c"], cwd=tmp_path, check=True)
    check_refused(tool, tmp_path / "a.o", tmp_path, REFUSED)


TRUNCATIONS = 8
"""Tests that share the borders out."""


@pytest.mark.parametrize("part", range(TRUNCATIONS))
def test_truncated_at_borders(part: int, tool: Tool, program: Path, tmp_path: Path) -> None:
    """At every border of a header, table, section or segment, every fourth one byte early instead."""
    content = program.read_bytes()
    cuts = [border - (index % 4 == 3) for index, border in enumerate(borders(content)) if 0 < border < len(content)]
    share = cuts[part::TRUNCATIONS]
    assert share
    for cut in share:
        folder = tmp_path / str(cut)
        folder.mkdir()
        path, out = folder / "input", folder / "out"
        path.write_bytes(content[:cut])
        path.chmod(0o755)
        outcome = rewrite(tool, path, out, probe="block:fib")
        if outcome.status != 0:
            check(outcome, REFUSED)
            assert not out.exists()
        else:
            assert not complaint(outcome)
            assert run([path], folder).difference(run([out], folder)) == "", f"cut at {cut}"


# What is asked wrongly


@pytest.mark.parametrize(
    "spec",
    [
        "",
        ":",
        "block",
        "block:",
        ":main",
        "blok:main",
        "insn:main",
        "insn:main+0xzz",
        "entry:main=",
        "entry:main=tally",
        "entry:main=nowhere.py:f",
        "entry:0x",
        "entry:0xnothex",
        "entry:main=x.py",
        "entry:main=x.py:",
        "block main",
    ],
)
def test_malformed_spec(spec: str, tool: Tool, program: Path, tmp_path: Path) -> None:
    check(rewrite(tool, program, tmp_path / "out", probe=spec), USAGE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "spec", ["block:no_such_function", "entry:zzz*", "entry:0x1", "block:0xffffffffffffffff", "insn:main+0xfffff"]
)
def test_spec_that_matches_nothing(spec: str, tool: Tool, program: Path, tmp_path: Path) -> None:
    check(rewrite(tool, program, tmp_path / "out", probe=spec), REFUSED)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["rewrite"],
        ["rewrite", "PROGRAM"],
        ["rewrite", "PROGRAM", "-o"],
        ["rewrite", "PROGRAM", "-o", "out"],
        ["rewrite", "PROGRAM", "-o", "out", "--probe"],
        ["rewrite", "PROGRAM", "-o", "out", "--probe", "block:*", "--no-such-option"],
        ["rewrite", "PROGRAM", "-o", "out", "--probe", "block:*", "--liveness", "lazy"],
        ["rewrite", "PROGRAM", "-o", "out", "--probe", "block:*", "--jobs", "many"],
        ["rewrite", "PROGRAM", "-o", "out", "--probe", "block:*", "--jobs", "0"],
        ["rewrite", "PROGRAM", "PROGRAM", "-o", "out", "--probe", "block:*"],
        ["report"],
        ["report", "missing.data"],
        ["report", "."],
        ["report", "PROGRAM"],
        ["report", "missing.data", "--format", "yaml"],
        ["lift", "PROGRAM"],
        ["lift", "PROGRAM", "main", "--stage", "llvm"],
        ["verify", "PROGRAM", "--probe", "block:*", "--samples", "0"],
        ["cache", "burn"],
    ],
    ids=" ".join,
)
def test_wrong_use(arguments: list[str], tool: Tool, program: Path, tmp_path: Path) -> None:
    real = [str(program) if a == "PROGRAM" else a for a in arguments]
    codes = (REFUSED,) if arguments == ["report", "PROGRAM"] else (USAGE,)
    check(tool(*real, directory=tmp_path), *codes)
    assert not list(tmp_path.iterdir())


def test_unknown_function_to_lift(tool: Tool, program: Path) -> None:
    check(tool("lift", program, "no_such_function"), REFUSED, about="no_such_function")


@pytest.mark.parametrize(
    "text",
    [
        "probes = [",
        "probes = 5",
        "probes = [5]",
        "probe = ['block:*']",
        "",
        "probes = []",
        "probes = ['blok:*']",
        "[probes]\nx = 1",
        "\x00",
        "probes = ['block:*'] # \udcff",
    ],
)
def test_malformed_list_of_probes(text: str, tool: Tool, program: Path, tmp_path: Path) -> None:
    path = tmp_path / "probes.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    outcome = tool("rewrite", program, "-o", tmp_path / "out", "--probes", path)
    check(outcome, USAGE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_list_of_probes_that_cannot_be_read(kind: str, tool: Tool, program: Path, tmp_path: Path) -> None:
    path = tmp_path if kind == "directory" else tmp_path / "missing.toml"
    check(tool("rewrite", program, "-o", tmp_path / "out", "--probes", path), USAGE)


PROBES = {
    "syntax error": "def f(ctx:\n",
    "missing name": "from jit import probe\n@probe\ndef other(ctx):\n    ctx.data[0] += 1\n",
    "exception at import": "raise RuntimeError('at import')\n",
    "exit at import": "import sys\nsys.exit(0)\n",
    "import error": "import no_such_module_anywhere\n",
    "not a function": "f = 5\n",
    "not a probe": "def f():\n    return 1\n",
    "unknown register": "from jit import probe\n@probe\ndef f(ctx):\n    ctx.data[0] = ctx.rzx\n",
    "what numba cannot compile": "from jit import probe\n@probe\ndef f(ctx):\n    ctx.data[0] = open('x')\n",
    "wrong arguments": "from jit import probe\n@probe\ndef f(a, b, c):\n    return a\n",
    "not text": "\x00\x01",
}


@pytest.mark.parametrize("name", PROBES)
def test_broken_probe_file(name: str, tool: Tool, program: Path, tmp_path: Path) -> None:
    path = tmp_path / "probes.py"
    path.write_text(PROBES[name])
    check(rewrite(tool, program, tmp_path / "out", probe=f"entry:fib={path}:f"), USAGE, about="probes.py")
    assert not (tmp_path / "out").exists()


# Where the output cannot go


@pytest.mark.parametrize("link", ["same", "symlink", "hard link", "dots"])
def test_output_is_input(link: str, tool: Tool, program: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copy(program, copy)
    if link == "same":
        out = copy
    elif link == "symlink":
        out.symlink_to(copy)
    elif link == "hard link":
        out.hardlink_to(copy)
    else:
        (tmp_path / "below").mkdir()
        out = tmp_path / "below" / ".." / "copy"
    check(rewrite(tool, copy, out), USAGE)
    assert copy.read_bytes() == program.read_bytes()


@pytest.mark.parametrize("place", ["missing/out", ".", "file/out", "/proc/out", "x" * 300])
def test_output_that_cannot_be_written(place: str, tool: Tool, program: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check(rewrite(tool, program, tmp_path / place), USAGE)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_output_is_a_device(tool: Tool, program: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check(rewrite(tool, program, pipe), USAGE)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_output_directory_without_permission(tool: Tool, program: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.geteuid() == 0:
        pytest.skip("permissions do not bind root; the read-only file system above does")
    folder.chmod(0o500)
    check(rewrite(tool, program, folder / "out"), USAGE)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("room", [0, 4096, 20000])
def test_full_disk(room: int, tool: Tool, program: Path, tmp_path: Path) -> None:
    """No file may grow beyond `room` bytes: writes fail as on a full disk."""
    command = [*tool.command, "rewrite", str(program), "-o", str(tmp_path / "out"), "--probe", "block:*", "--no-cache"]
    done = subprocess.run(
        command,
        capture_output=True,
        env={**os.environ, **tool.environment},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        timeout=300,
    )
    check(Outcome(done.returncode, done.stdout, done.stderr), USAGE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", [0.1, 0.5, 1.0, 1.5])
def test_killed_in_the_middle(number: int, moment: float, tool: Tool, program: Path, tmp_path: Path) -> None:
    folder = tmp_path / "result"
    folder.mkdir()
    command = [*tool.command, "rewrite", str(program), "-o", str(folder / "out"), "--probe", "block:*", "--no-cache"]
    running = subprocess.Popen(command, env={**os.environ, **tool.environment}, stderr=subprocess.PIPE, text=True)
    time.sleep(moment)
    running.send_signal(number)
    _, message = running.communicate(timeout=60)
    assert "Traceback" not in message
    left = {path.name for path in folder.iterdir()}
    if "out" in left:  # it had finished: then the file is whole
        assert run([program], folder).difference(run([folder / "out"], folder)) == ""
    elif number != signal.SIGKILL:
        assert not left


# What a run is given


@pytest.fixture(scope="session")
def instrumented(program: Path, tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program with every block of one function counted."""
    out = tmp_path_factory.mktemp("instrumented") / "out"
    outcome = rewrite(tool, program, out, probe="block:fib")
    assert outcome.status == 0, last_line(outcome)
    return out


@pytest.mark.parametrize(
    "kind", ["missing directory", "directory", "read-only", "too long", "garbage", "empty", "device", "percent"]
)
def test_data_file_that_cannot_be_used(kind: str, program: Path, instrumented: Path, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"garbage" * 1000)
    (tmp_path / "empty").write_bytes(b"")
    place = {
        "missing directory": "missing/data",
        "directory": ".",
        "read-only": "/proc/data",
        "too long": "x" * 5000,
        "garbage": "garbage",
        "empty": "empty",
        "device": "/dev/null",
        "percent": "%",
    }[kind]
    expected = run([program], tmp_path)
    assert expected.difference(run([instrumented], tmp_path, data=tmp_path / place)) == ""


@pytest.mark.parametrize("kind", ["empty", "noise", "cut", "longer", "damaged"])
def test_report_of_a_damaged_data_file(kind: str, tool: Tool, instrumented: Path, tmp_path: Path) -> None:
    data = tmp_path / "run.data"
    run([instrumented], tmp_path, data=data)
    content = data.read_bytes()
    source = random.Random(3)
    damaged = {
        "empty": [b""],
        "noise": [source.randbytes(len(content))],
        "cut": [content[: len(content) * part // 8] for part in range(1, 8)],
        "longer": [content + b"x" * 4096],
        "damaged": [_flip(content, source) for _ in range(12)],
    }[kind]
    for index, text in enumerate(damaged):
        path = tmp_path / f"{index}.data"
        path.write_bytes(text)
        outcome = tool("report", path, "--format", "json")
        assert not complaint(outcome)
        assert outcome.status in (0, REFUSED) if kind in ("longer", "damaged") else outcome.status == REFUSED


def _flip(content: bytes, source: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(8):
        damaged[source.randrange(min(len(content), 600))] ^= 1 << source.randrange(8)
    return bytes(damaged)
