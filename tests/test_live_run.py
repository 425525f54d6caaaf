"""`probeloom run`: the program as without it, and every count as the rewritten program's."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from codecache.frames import Frames, frame
from codecache.store import Store
from jit.live.builder import Build, Made, Open, Opened, Settings
from jit.live.firstcall import Displaced, displaced, first_call_stub
from jit.specs import parse_spec
from lifter.decode import decode
from lifter.graph import Block
from lifter.instruction import Instruction
from tests.corpus import Cell, programs
from tests.live_corpus import compare
from tests.live_programs import compiled
from tests.tool import Tool

CHOSEN = ("calls", "switches", "tailcalls", "dynamic", "exceptions", "forks", "reexec")

LIBRARY_CALLS = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv)
{
    char line[100];
    for (int i = 0; i < 100; i++) free(malloc(i + 1));
    while (fgets(line, sizeof line, stdin)) printf("%zu %s", strlen(line), line);
    if (argc > 1) raise(atoi(argv[1]));
    return 42;
}
"""


@pytest.fixture(scope="module")
def library_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("calls"), "calls", LIBRARY_CALLS, "-fno-builtin")


def run(tool: Tool, *arguments: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*tool.command, "run", *map(str, arguments)],
        input=given,
        capture_output=True,
        env={**os.environ, **tool.environment},
        timeout=120,
    )


@pytest.mark.needs("gcc", "g++")
@pytest.mark.parametrize("name", CHOSEN)
def test_counts_are_those_of_the_rewritten_program(name: str, tool: Tool, built: Path, tmp_path: Path) -> None:
    (program,) = (program for program in programs() if program.name == name)
    assert compare(Cell(program, "gcc", "O2", program.links[0], stripped=False), tool, built, tmp_path)[0] == ""


@pytest.mark.needs("gcc")
def test_streams_and_status_are_the_programs(tool: Tool, library_calls: Path, tmp_path: Path) -> None:
    report = tmp_path / "counts.json"
    done = run(
        tool, "--probe=entry:malloc", "--probe=entry:main", "--format=json", f"--output={report}", "--", library_calls,
        given=b"one\nthree\n",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (42, b"4 one\n6 three\n", b"")
    content = json.loads(report.read_text())
    assert content["module"] == str(library_calls)
    assert [Path(module["module"]).name for module in content["modules"]] == [library_calls.name, "libc.so.6"]
    own, libc = content["probes"]
    assert (own["module"], own["count"]) == (str(library_calls), 1)
    assert Path(libc["module"]).name == "libc.so.6"
    assert 100 <= libc["count"] < 200


@pytest.mark.needs("gcc")
def test_a_module_can_be_named(tool: Tool, library_calls: Path) -> None:
    done = run(tool, "--probe", "entry:libc.so*!fgets", "--format=json", library_calls, given=b"a\nb\n")
    assert done.returncode == 42
    assert [row["count"] for row in json.loads(done.stderr)["probes"]] == [3]


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL])
def test_dies_of_what_killed_the_program(tool: Tool, library_calls: Path, number: signal.Signals) -> None:
    done = run(tool, "--probe=entry:free", "--format=json", library_calls, str(number.value))
    assert done.returncode == -number
    assert sum(row["count"] for row in json.loads(done.stderr)["probes"]) >= 100


@pytest.mark.needs("gcc", "gdb")
def test_code_in_the_cache_has_names(tool: Tool, library_calls: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*tool.command, "run", "--symbols", "--probe=block:main", f"--output={tmp_path}/report", library_calls],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={**os.environ, **tool.environment},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    names = r"[0-9a-f]+ [0-9a-f]+ main \[probeloom\]"
    while not (children := Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()) or not (
        found := [p for pid in children if (p := Path(f"/tmp/perf-{pid}.map")).exists()]
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    dump = Path(str(found[0]).replace("perf-", "jit-").replace(".map", ".dump"))
    mapped = Path(f"/proc/{found[0].stem.removeprefix('perf-')}/maps").read_text()
    assert any("r-xp" in line and line.endswith(str(dump)) for line in mapped.splitlines())
    process.communicate(b"", timeout=60)
    symbols = Path(str(found[0]).replace("perf-", "probeloom-").replace(".map", ".symbols"))
    try:
        (line,) = [line for line in found[0].read_text().splitlines() if re.fullmatch(names, line)]
        said = subprocess.run(
            ["gdb", "-batch", "-ex", f"add-symbol-file {symbols}", "-ex", f"info symbol 0x{line.split()[0]}"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert "main [probeloom]" in said.stdout
        magic, version, header, machine = struct.unpack_from("<4I", dump.read_bytes())
        assert (magic, version, machine) == (0x4A695444, 1, 62)
        record = dump.read_bytes()[header:]
        kind, size, *_, address, _, length, number = struct.unpack_from("<IIQIIQQQQ", record)
        assert (kind, size, number) == (0, len(record), 0)
        assert line == f"{address:x} {length:x} main [probeloom]"
        assert record[56 : size - length] == b"main [probeloom]\0"
    finally:
        for path in (found[0], symbols, dump):
            path.unlink()


FORKING = """
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
__attribute__((noipa)) int before(int x) { return x * 1000003 + 12345; }
__attribute__((noipa)) int after(int x) { return x * 1000033 + 54321; }
int main(void)
{
    before(1);
    pid_t child = fork();
    if (!child) { after(2); printf("%d %d\\n", getppid(), getpid()); fflush(stdout); return getchar() != '\\n'; }
    int status;
    waitpid(child, &status, 0);
    return status;
}
"""


@pytest.mark.needs("gcc")
def test_code_in_a_child_has_names_of_its_own(tool: Tool, tmp_path: Path) -> None:
    program = compiled(tmp_path, "forking", FORKING)
    command = [*tool.command, "run", "--symbols", "--probe=block:before", "--probe=block:after", program]
    environment = {**os.environ, **tool.environment}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        parent, child = process.stdout.readline().decode().split()
        dumps = {pid: Path(f"/tmp/jit-{pid}.dump") for pid in (parent, child)}
        for pid, dump in dumps.items():
            maps = Path(f"/proc/{pid}/maps").read_text()
            assert re.findall(r"\S+\.dump$", maps, re.MULTILINE) == [str(dump)]
        process.communicate(b"\n", timeout=60)
        assert process.returncode == 0
    try:
        assert re.findall(rb"before|after", dumps[parent].read_bytes()) == [b"before"]
        assert re.findall(rb"before|after", dumps[child].read_bytes()) == [b"before", b"after"]
        for pid, dump in dumps.items():
            content = dump.read_bytes()
            assert struct.unpack_from("<IIIIII", content)[2:] == (40, 62, 0, int(pid))
            at = 40
            while at < len(content):
                kind, size, _, owner, _, address, _, length, _ = struct.unpack_from("<IIQIIQQQQ", content, at)
                assert (kind, owner) == (0, int(pid))
                names = Path(f"/tmp/perf-{pid}.map").read_text()
                name = content[at + 56 : at + size - length - 1].decode()
                assert f"{address:x} {length:x} {name}\n" in names
                at += size
    finally:
        for pid in dumps:
            for path in (f"/tmp/perf-{pid}.map", f"/tmp/probeloom-{pid}.symbols", f"/tmp/jit-{pid}.dump"):
                Path(path).unlink()


UNLOADING = """
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    void *library = dlopen(argv[1], RTLD_NOW);
    int (*work)(int) = (int (*)(int))dlsym(library, "work");
    work(1);
    dlclose(library);
    pid_t child = fork();
    if (!child) return 7;
    int status;
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
}
"""


@pytest.mark.needs("gcc")
def test_a_child_has_no_names_of_code_that_is_gone(tool: Tool, tmp_path: Path) -> None:
    source = "int work(int x) { return x * 1000003 + 12345; }"
    library = compiled(tmp_path, "libwork.so", source, "-shared", "-fPIC")
    program = compiled(tmp_path, "unloading", UNLOADING)
    before = set(Path("/tmp").glob("*.dump"))
    done = run(tool, "--symbols", "--probe=entry:libwork.so!work", "--format=json", program, str(library))
    try:
        assert done.returncode == 7, done.stderr
        assert [row["count"] for row in json.loads(done.stderr)["probes"]] == [1]
    finally:
        for dump in set(Path("/tmp").glob("*.dump")) - before:
            pid = dump.stem.removeprefix("jit-")
            for path in (f"/tmp/perf-{pid}.map", f"/tmp/probeloom-{pid}.symbols", dump):
                Path(path).unlink(missing_ok=True)


LOOPS = """
#include <stdio.h>
#include <unistd.h>
__attribute__((noinline)) unsigned long turns(unsigned long x, int n) { while (n--) x = x * 5 ^ x >> 3; return x; }
int main(void)
{
    unsigned long done = 0, x = 1;
    for (int i = 0; i < 400; i++) { x = turns(x, i % 9); done += i % 9; usleep(2000); }
    printf("%lu %lx\\n", done, x);
}
"""


@pytest.mark.needs("gcc")
def test_code_made_in_haste_is_replaced_while_it_runs(tool: Tool, tmp_path: Path) -> None:
    """The first call does not wait for LLVM. No count is lost when its code comes."""
    program = compiled(tmp_path, "loops", LOOPS)
    report = tmp_path / "report"
    tail = ["--probe=block:turns", "--format=json", f"--output={report}", "--", program]
    for turn in range(2):
        process = subprocess.Popen(
            [*tool.command, "run", "--symbols", *tail], stdout=subprocess.PIPE, env={**os.environ, **tool.environment}
        )
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        maps: set[Path] = set()
        while process.poll() is None:
            with suppress(OSError):
                found = [Path(f"/tmp/perf-{pid}.map") for pid in children.read_text().split()]
                maps |= {path for path in found if path.exists()}
            time.sleep(0.05)
        assert process.stdout is not None
        done, _ = process.communicate()[0].split()
        assert max(row["count"] for row in json.loads(report.read_text())["probes"]) == int(done)
        (names,) = maps
        # In haste, then by LLVM; the second run finds the latter in the store.
        assert names.read_text().count("turns [probeloom]") == (2 if turn == 0 else 1)
        pid = names.stem.removeprefix("perf-")
        for path in (names, Path(f"/tmp/probeloom-{pid}.symbols"), Path(f"/tmp/jit-{pid}.dump")):
            path.unlink()


@pytest.mark.needs("gcc")
def test_builder_goes_on_when_nobody_listens(tmp_path: Path) -> None:
    """LLVM's code comes when the tracer is gone: it is for the store."""
    program = str(compiled(tmp_path, "loops", LOOPS))
    process = subprocess.Popen(
        [sys.executable, "-c", "from jit.live.builder import main; main()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[1],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(frame(Settings(1, "abi", "auto", True, {})))
    process.stdin.write(frame(Open(0, program, program, (parse_spec("block:turns"),), is_running=False)))
    process.stdin.flush()
    frames = Frames()
    answers: list[object] = []
    while not answers:
        answers = frames.feed(os.read(process.stdout.fileno(), 1 << 20))
    (opened,) = answers
    assert isinstance(opened, Opened) and opened.plan is not None
    process.stdin.write(frame(Build(0, opened.plan.functions[0].address)))
    process.stdin.flush()
    (made,) = frames.feed(os.read(process.stdout.fileno(), 1 << 20))
    assert isinstance(made, Made) and not made.is_better
    process.stdout.close()
    store = Store.open(tmp_path / "probeloom")
    deadline = time.monotonic() + 60
    while not store.info().entries:  # LLVM's code: its answer comes at once
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    assert process.poll() is None
    process.stdin.close()
    assert (process.stderr.read(), process.wait()) == (b"", 0)


@pytest.mark.needs("go")
def test_go(tool: Tool, built: Path, tmp_path: Path) -> None:
    (program,) = (program for program in programs() if program.name == "scheduler")
    assert compare(Cell(program, "go", "O2", "static", stripped=False), tool, built, tmp_path)[0] == ""


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--probe=entry:main", "no/such/program"], b"no/such/program"),
        (["--probe=entry", "/bin/true"], b"expected POINT:FUNCTION"),
        (["/bin/true"], b"no probe given"),
        (["--no-such-option", "/bin/true"], b"no-such-option"),
    ],
)
def test_own_failures_end_with_125(tool: Tool, arguments: list[str], reason: bytes) -> None:
    done = run(tool, *arguments)
    assert done.returncode == 125
    assert reason in done.stderr and done.stderr.count(b"\n") == 1


def block(address: int, code: str) -> Block:
    content = bytes.fromhex(code)
    instructions = []
    while content:
        instruction = decode(content)
        assert isinstance(instruction, Instruction)
        instructions.append(instruction)
        content = content[instruction.size :]
    return Block(address, tuple(instructions), ())


@pytest.mark.parametrize(
    ("code", "there"),
    [
        ("5548 89e5 5d c3", "554889e5 5d e9"),  # push rbp; mov rbp, rsp; pop rbp
        ("488b0510000000 c3", "488b05 10100000 e9"),  # mov rax, [rip + 16], which is 0x1017
        ("c60510000000 01 c3", "c605 10100000 01 e9"),  # mov byte [rip + 16], 1: an immediate follows
        ("4885ff 7404", "4885ff 0f84 ???????? e9"),  # test rdi, rdi; je
        ("31c0 4885c0 ebf0", "31c0 4885c0 e9"),
        ("0f05 90909090", None),  # the kernel sees where it runs
        ("e800000000 c3", None),  # so does the callee
        ("e2f0 90909090", None),  # no near form
    ],
)
def test_displaced_instructions(code: str, there: str | None) -> None:
    content = bytes.fromhex(code)
    found = displaced(block(0x1000, code), 0x1000, content[:5], may_fault=True)
    if there is None:
        assert found is None
        return
    assert isinstance(found, Displaced)
    moved = found.at(0)
    expected = there.replace(" ", "")
    shown = moved.hex()[: len(expected)]
    assert "".join("?" if e == "?" else s for s, e in zip(shown, expected, strict=True)) == expected


def test_stub_ends_in_the_displaced_instructions() -> None:
    found = displaced(block(0x1000, "5548 89e5 5d c3"), 0x1000, bytes(5), may_fault=True)
    assert found is not None
    for red_zone in (False, True):
        stub = first_call_stub(0x5000, 0x9000, found, red_zone)
        assert stub.code[stub.passive - stub.address :] == found.at(stub.passive)
        assert stub.code[stub.ready - stub.address] == 0xE9
