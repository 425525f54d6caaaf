"""The command line as a contract: options, output, exit codes, and one clear line for what goes wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

import jit.commands.cache
from jit import console
from jit.cli import main
from lifter.errors import ProbeloomError
from tests.tool import require

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
TEXT = b"the quick brown fox\njumps over the lazy dog, the dog is incomprehensible\n"


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong."""
        lines = [line for line in self.err.splitlines() if not line.startswith("probeloom: note: ")]
        assert len(lines) == 1 and lines[0].startswith("probeloom: error: "), self.err
        return lines[0].removeprefix("probeloom: error: ")


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("gcc")
    binary = tmp_path_factory.mktemp("cli") / "words"
    subprocess.run(["gcc", "-O2", "-g", "-o", binary, EXAMPLES / "words.c"], check=True)
    return binary


class Cli:
    """Runs the command line: in this process, which is fast, or as a command."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.monkeypatch = monkeypatch
        self.capsys = capsys
        variables = {"XDG_CACHE_HOME": str(directory / "cache"), "PYTHONPATH": str(ROOT)}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("tempfile.tempdir", str(directory))
        monkeypatch.chdir(directory)

    def __call__(self, *arguments: object) -> Run:
        self.monkeypatch.setattr(sys, "argv", ["probeloom", *map(str, arguments)])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = self.capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Run(caught.value.code, captured.out, captured.err)

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "jit", *map(str, arguments)]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def run_program(program: Path, data: Path | None = None) -> tuple[int, bytes]:
    environment = {key: value for key, value in os.environ.items() if key != "PROBELOOM_DATA"}
    if data is not None:
        environment["PROBELOOM_DATA"] = str(data)
    done = subprocess.run([program], input=TEXT, env=environment, capture_output=True)
    return done.returncode, done.stdout


WRONG_USE = {
    "": "Missing command",
    "frobnicate": "No such command 'frobnicate'",
    "list": "Missing argument",
    "list --frob BINARY": "No such option",
    "list absent": "absent: no such file",
    "list .": "directory",
    "lift BINARY": "Missing argument",
    "lift BINARY main --stage soup": "--stage",
    "lift BINARY *": "give an address",
    "lift BINARY main --probe entry:add_word": "no --probe is about main",
    "rewrite BINARY -o out": "no probe given",
    "rewrite BINARY --probe block:*": "-o OUT",
    "rewrite BINARY -o out --probe blocks:*": "expected POINT:FUNCTION",
    "rewrite BINARY -o out --probe insn:main": "insn needs an offset",
    "rewrite BINARY -o out --probe entry:main=absent.py:seen": "absent.py",
    "rewrite BINARY -o out --probes absent.toml": "absent.toml",
    "rewrite BINARY -o out --probe block:* --jobs 0": "--jobs",
    "rewrite BINARY -o out --probe block:* --jobs many": "--jobs",
    "rewrite BINARY -o out --probe block:* --liveness maybe": "--liveness",
    "rewrite BINARY -o out --probe block:* --report .": "is a directory",
    "rewrite BINARY -o out --probe block:* --report BINARY": "cannot write the report",
    "rewrite BINARY -o out --probe block:* --report ./out": "cannot write the report",
    "rewrite BINARY -o /dev/stdout --probe block:main": "not a plain file",
    "rewrite BINARY -o . --probe block:main": "is a directory",
    "rewrite BINARY -o absent/out --probe block:main": "cannot write",
    "rewrite BINARY -o BINARY --probe block:main": "cannot write",
    "rewrite absent -o out --probe block:*": "absent: no such file",
    "report": "Missing argument",
    "report absent": "No such file",
    "report .": "directory",
    "report BINARY --format soup": "--format",
    "report BINARY --sort soup": "--sort",
    "report BINARY --top -1": "--top",
    "verify BINARY --samples 0": "--samples",
    "verify BINARY --replay absent.json": "absent.json",
    "cache": "Missing command",
    "cache empty": "No such command",
}

REFUSED = {
    "list TEXT": "ELF",
    "lift BINARY nowhere": "matches no function",
    "lift BINARY 0x1": "matches no function",
    "rewrite TEXT -o out --probe block:*": "ELF",
    "rewrite EMPTY -o out --probe block:*": "",
    "rewrite BINARY -o out --probe entry:add_wrod": "'entry:add_wrod' matches no function; did you mean add_word",
    "report TEXT": "not a probeloom data file",
    "report EMPTY": "not a probeloom data file",
    "verify BINARY --function nowhere": "matches no function",
}


@pytest.mark.parametrize(("line", "code"), [*((k, 2) for k in WRONG_USE), *((k, 3) for k in REFUSED)])
def test_what_goes_wrong_is_one_line_and_an_exit_code(line: str, code: int, words: Path, cli: Cli) -> None:
    (cli.directory / "text").write_text("no program\n" * 100)
    (cli.directory / "empty").touch()
    names = {"BINARY": str(words), "TEXT": "text", "EMPTY": "empty"}
    done = cli(*(names.get(part, part) for part in line.split()))
    assert done.code == code, done.err
    assert (WRONG_USE | REFUSED)[line] in done.error
    assert done.out == ""
    assert not (cli.directory / "out").exists()
    assert not list(cli.directory.glob("probeloom-bug-*"))


def test_rewrite_run_report(words: Path, cli: Cli) -> None:
    done = cli(
        "rewrite", words, "-o", "out", "--probe", "block:*", "--probe", "entry:add_word", "--probe",
        "return:parse_line", "--report", "report.json", "--jobs", "1",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert re.match(r"out: \d+ of \d+ tracepoints in \d+ of \d+ functions; ", done.out.splitlines()[-1])
    report = json.loads((cli.directory / "report.json").read_text())
    assert report.keys() == {
        "functions", "tracepoints", "instructions", "bytes", "refused", "seconds", "cache"
    }  # fmt: skip
    assert report["functions"].keys() == {"total", "selected", "instrumented"}
    assert report["tracepoints"].keys() == {"selected", "instrumented"}
    assert report["instructions"].keys() == {"lifted", "verbatim", "native"}
    assert min(report["instructions"].values()) >= 0
    assert 0 < report["bytes"]["lifted"] < 2 * report["bytes"]["cache"]
    assert report["cache"].keys() == {"hits", "misses"} and report["cache"]["hits"] == 0
    assert all(entry.keys() == {"function", "address", "reason"} for entry in report["refused"])

    out, data = cli.directory / "out", cli.directory / "run.data"
    assert run_program(out) == run_program(words)
    assert not data.exists()
    assert run_program(out, data) == run_program(words)
    shown = json.loads(cli("report", data, "--format", "json").out)
    assert shown["module"] == str(words)
    counts: Counter[tuple[str, str]] = Counter()
    for row in shown["probes"]:
        counts[row["point"], row["function"]] += row["count"]
    assert counts["entry", "add_word"] == 13 and counts["return", "parse_line"] == 2
    assert counts["block", "hash_word"] > len(TEXT) // 2
    assert all(
        row.keys() >= {"point", "function", "address", "size", "instructions", "count"} for row in shown["probes"]
    )
    table = cli("report", data, "--sort", "count", "--top", "3").out
    assert "hash_word" in table and len(table.splitlines()) == 6
    assert cli("report", data, "--format", "drcov", "-o", "cov").code == 0
    assert (cli.directory / "cov").read_bytes().startswith(b"DRCOV VERSION: 2\n")
    assert "words.c" in cli("report", data, "--format", "lcov").out
    again = cli("rewrite", words, "-o", "out", "--probe", "block:*", "--report", "report.json")
    assert again.code == 0
    assert json.loads((cli.directory / "report.json").read_text())["cache"]["hits"] > 0
    assert "regions    0" not in cli("cache", "info").out
    assert cli("cache", "clear").code == 0
    assert "regions    0" in cli("cache", "info").out


def test_python_probes_from_a_file_of_specs(words: Path, cli: Cli) -> None:
    pytest.importorskip("numba", reason="numba is an optional extra")
    for name in ("probes.py", "team.toml"):
        shutil.copy(EXAMPLES / name, cli.directory)
    done = cli("rewrite", words, "-o", "out", "--probes", "team.toml")
    assert (done.code, done.err) == (0, "")
    data = cli.directory / "run.data"
    assert run_program(cli.directory / "out", data) == run_program(words)
    shown = json.loads(cli("report", data, "--format", "json").out)
    found = {
        (row["function"], row["action"].rpartition(":")[2]): row["words"] for row in shown["probes"] if "words" in row
    }
    assert found["add_word", "lengths"] == [len("incomprehensible"), 1]
    letters = [0] * 16
    for word in re.findall(rb"\w+", TEXT):
        letters[word[0] & 15] += 1
    assert found["hash_word", "first_letters"] == letters


def test_a_probe_changes_arguments(words: Path, cli: Cli) -> None:
    pytest.importorskip("numba", reason="numba is an optional extra")
    shutil.copy(EXAMPLES / "probes.py", cli.directory)
    done = cli("rewrite", words, "-o", "out", "--probe", "entry:add_word=probes.py:cut_short")
    assert (done.code, done.err) == (0, "")
    distinct = len({word[:4] for word in re.findall(rb"\w+", TEXT)})
    assert run_program(cli.directory / "out") == (0, b"13 words, %d distinct\n" % distinct)


IGNORES = """
#include <stdio.h>
volatile int sink;
__attribute__((noinline, noipa)) int ignore(int used, int unused) { sink = used; return used; }
int main(int count, char **names) {
    int sum = 0;
    for (int i = 0; i < 10; i++)
        sum += ignore(i, 1000 * count + i);
    printf("%d\\n", sum);
}
"""


def test_a_probe_sees_an_argument_that_its_function_ignores(cli: Cli) -> None:
    pytest.importorskip("numba", reason="numba is an optional extra")
    (cli.directory / "ignores.c").write_text(IGNORES)
    subprocess.run(["gcc", "-O2", "-o", "ignores", "ignores.c"], check=True)
    (cli.directory / "p.py").write_text(
        "from jit import probe\n@probe(words=1)\ndef add_second(ctx): ctx.data[0] += ctx.esi\n"
    )
    done = cli("rewrite", "ignores", "-o", "out", "--probe", "block:*", "--probe", "entry:ignore=p.py:add_second")
    assert done.code == 0
    assert run_program(cli.directory / "out", cli.directory / "run.data") == (0, b"45\n")
    shown = json.loads(cli("report", "run.data", "--format", "json").out)
    assert [row["words"] for row in shown["probes"] if "words" in row] == [[10_045]]


def test_words_without_end_are_refused(words: Path, cli: Cli) -> None:
    pytest.importorskip("numba", reason="numba is an optional extra")
    (cli.directory / "p.py").write_text(
        "from jit import probe\n@probe(words=65536)\ndef large(ctx): ctx.data[0] += 1\n"
    )
    done = cli("rewrite", words, "--dry-run", *(f"--probe=insn:{f}+0=p.py:large" for f in ("add_word", "main")))
    assert done.code == 0
    monster = "from jit import probe\n" + "".join(
        f"@probe(words=65536)\ndef p{i}(ctx): ctx.data[0] += {i}\n" for i in range(12)
    )
    (cli.directory / "p.py").write_text(monster)
    done = cli("rewrite", words, "--dry-run", *(f"--probe=block:*=p.py:p{i}" for i in range(12)))
    assert done.code == 3
    assert "choose fewer tracepoints, or fewer words" in done.error


def test_small_probes_are_inlined(words: Path, cli: Cli) -> None:
    pytest.importorskip("numba", reason="numba is an optional extra")
    probe = f"entry:hash_word={EXAMPLES / 'probes.py'}:first_letters"
    assert "call void @L_probe" in cli("lift", words, "hash_word", "--stage", "probe", "--probe", probe).out
    assert not re.search(r"\bcall\b", cli("lift", words, "hash_word", "--stage", "asm", "--probe", probe).out)


def test_lift_shows_every_stage(words: Path, cli: Cli) -> None:
    shown = {stage: cli("lift", words, "hash_word", "--stage", stage) for stage in ("cfg", "ir", "probe", "opt", "asm")}
    assert all(done.code == 0 and not done.err for done in shown.values())
    assert "hash_word at 0x" in shown["cfg"].out
    assert "define ghccc void" in shown["ir"].out and "L_c" not in shown["ir"].out
    assert "L_c" in shown["probe"].out
    assert "define ghccc void" in shown["opt"].out
    assert "define" not in shown["asm"].out


def test_list(words: Path, cli: Cli) -> None:
    shown = json.loads(cli("list", words, "*_word", "--json").out)
    assert shown["module"] == str(words)
    assert [row["name"] for row in shown["functions"]] == ["hash_word", "add_word"]
    assert all(row["instrumentable"] and row["blocks"] and row["size"] for row in shown["functions"])
    table = cli("list", words)
    assert table.code == 0 and "parse_line" in table.out and "functions: " in table.err


def test_verify(words: Path, cli: Cli) -> None:
    done = cli("verify", words, "--probe", "block:*", "--function", "*_word", "--samples", "5", "--seed", "3")
    assert (done.code, done.err) == (0, "")
    assert "0 differences" in done.out and "hash_word: 5 states" in done.out


def test_a_difference_is_exit_code_4_and_can_be_replayed(words: Path, cli: Cli) -> None:
    pytest.importorskip("numba", reason="numba is an optional extra")
    shutil.copy(EXAMPLES / "probes.py", cli.directory)
    changes = "--probe=entry:hash_word=probes.py:cut_short"
    done = cli("verify", words, changes, "--samples", "20")
    assert done.code == 4
    assert "hash_word differs: " in done.error
    command = shlex.split(done.error.partition("again with: ")[2])
    assert command[:2] == ["probeloom", "verify"]
    again = cli(*command[1:])
    assert again.code == 4 and "hash_word still differs: " in again.error
    healed = cli("verify", words, "--probe=entry:hash_word", "--replay=probeloom-case.json")
    assert (healed.code, healed.err) == (0, "")


def test_refused_tracepoints_and_strict_coverage(words: Path, cli: Cli) -> None:
    inside = "insn:hash_word+0x1"
    done = cli("rewrite", words, "-o", "out", "--probe", "block:main", "--probe", inside)
    assert done.code == 0
    assert "1 refused: 1 " in done.out.splitlines()[-1]
    strict = cli("rewrite", words, "-o", "out", "--probe", "block:main", "--probe", inside, "--strict-coverage")
    assert strict.code == 3
    assert "1 refused: 1 " in strict.error


def test_dry_run_writes_nothing(words: Path, cli: Cli) -> None:
    done = cli("rewrite", words, "--dry-run", "--probe", "block:main")
    assert done.code == 0 and done.out.startswith("dry run: ")
    assert {path.name for path in cli.directory.iterdir()} <= {"cache"}


def test_output_that_nobody_reads_or_that_cannot_be_written(words: Path, cli: Cli) -> None:
    command = " ".join(cli.command("list", words))
    short = " ".join(cli.command("cache", "info"))
    closed = subprocess.run(
        ["bash", "-c", f"{short} | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert closed.returncode in (0, 1) and "Traceback" not in closed.stderr
    full = subprocess.run(
        ["bash", "-c", f"{command} --json > /dev/full"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert full.returncode == 2
    assert full.stderr == "probeloom: error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("place", ["-", "/dev/stdout", "/proc/self/fd/1"])
def test_output_that_goes_to_a_file_is_not_replaced_by_the_report(words: Path, cli: Cli, place: str) -> None:
    with (cli.directory / "log").open("wb") as log:
        log.write(b"before\n")
        log.flush()
        command = cli.command("rewrite", words, "--dry-run", "--probe", "block:main", "--report", place)
        subprocess.run(command, stdout=log, check=True)
    text = (cli.directory / "log").read_text()
    assert text.startswith("before\n") and '"tracepoints"' in text and "\ndry run: " in text


def test_interrupt(words: Path, cli: Cli) -> None:
    script = (
        "import jit.commands.cache as c, time\n"
        "c.info = lambda: (print('ready', flush=True), time.sleep(60))\n"
        "from jit.__main__ import main; main()"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", script, "cache", "info"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout is not None and running.stdout.readline() == b"ready\n"
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=20)
    assert running.returncode == -signal.SIGINT and not err


@pytest.mark.parametrize("failure", [ZeroDivisionError("oops\nhere"), ProbeloomError("broken inside")])
def test_a_bug_is_exit_code_5_with_a_report(failure: Exception, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise failure

    monkeypatch.setattr(jit.commands.cache, "info", fail)
    done = cli("cache", "info")
    (file,) = cli.directory.glob("probeloom-bug-*.txt")
    assert done.code == 5
    assert "please report it" in done.error and str(file) in done.error
    assert "Traceback" in file.read_text() and "'cache', 'info'" in file.read_text()


def test_progress_is_drawn_on_a_terminal_only(words: Path, cli: Cli) -> None:
    primary, secondary = pty.openpty()
    done = subprocess.run(
        cli.command("rewrite", words, "-o", "out", "--probe", "block:main", "--no-cache", "--jobs", "1"),
        env={**os.environ, "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=secondary,
    )  # fmt: skip
    os.close(secondary)
    drawn = b""
    try:
        while chunk := os.read(primary, 65536):
            drawn += chunk
    except OSError:
        pass
    os.close(primary)
    assert done.returncode == 0
    assert b"compile" in drawn and b"compile" not in done.stdout


def test_interrupted_progress_shows_the_cursor_again(words: Path, cli: Cli) -> None:
    primary, secondary = pty.openpty()
    running = subprocess.Popen(
        cli.command("rewrite", words, "-o", "out", "--probe", "block:*", "--no-cache", "--jobs", "1"),
        env={**os.environ, "TERM": "xterm"}, stdout=subprocess.DEVNULL, stderr=secondary,
    )  # fmt: skip
    os.close(secondary)
    drawn = b""
    try:
        while chunk := os.read(primary, 65536):
            if b"\x1b[?25l" in chunk:
                running.send_signal(signal.SIGINT)
            drawn += chunk
    except OSError:
        pass
    os.close(primary)
    assert running.wait(20) == -signal.SIGINT
    assert drawn.rfind(b"\x1b[?25h") > drawn.rfind(b"\x1b[?25l") and b"Traceback" not in drawn
    assert not (cli.directory / "out").exists()


def test_messages_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.error(ProbeloomError("first\n  second"))
    assert capsys.readouterr().err == "probeloom: error: first second\n"


def test_starts_without_llvm(cli: Cli) -> None:
    script = (
        "import sys; sys.argv = ['probeloom', '--help']\ntry:\n    from jit.cli import main; main()\nfinally:\n"
        "    heavy = {'llvmlite', 'numba', 'numpy', 'capstone', 'lief', 'unicorn'} & set(sys.modules)\n"
        "    print('heavy:', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "heavy: []" in done.stdout and "rewrite" in done.stdout


def test_library(words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="numba is an optional extra")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    from jit import Binary, count, probe
    from jit.report import load_report
    from lifter.errors import RefusedError, UsageError

    @probe(words=1)
    def longest(ctx):  # type: ignore[no-untyped-def]
        if ctx.rsi > ctx.data[0]:
            ctx.data[0] = ctx.rsi

    binary = Binary.open(words)
    assert [function.name for function in binary.functions("*_line")] == ["parse_line"]
    plan = binary.instrument("entry:parse_line", count).instrument("entry:add_word", longest)
    result = plan.rewrite(tmp_path / "out", jobs=1)
    assert result.report["tracepoints"] == {"selected": 2, "instrumented": 2} and result.refused == ()
    assert run_program(tmp_path / "out", tmp_path / "data") == run_program(words)
    rows = {row.tracepoint.function: row for row in load_report(tmp_path / "data").rows}
    assert rows["parse_line"].count == 2
    assert rows["add_word"].words == (len("incomprehensible"),)
    with pytest.raises(RefusedError, match="matches no function"):
        binary.instrument("entry:nowhere")
    with pytest.raises(UsageError, match="has an action already"):
        binary.instrument("entry:main=p.py:x", longest)
    with pytest.raises(UsageError, match="no such file"):
        Binary.open(tmp_path / "absent")
