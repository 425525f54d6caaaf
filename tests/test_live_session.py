"""`Session`: probes put in, disabled, enabled and taken out of processes that go on working."""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jit import PythonContext, Session, count, probe
from lifter.errors import UsageError
from tests.live_programs import compiled
from tests.test_live_attach import HAMMER, running
from tests.tool import Tool

pytestmark = pytest.mark.needs("gcc")

TURNS = int(os.environ.get("PROBELOOM_SWITCHES", "60"))
"""How often patches are taken out and put in under load: 10,000 in a campaign."""


OCCUPIED = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>
void spot(void);
__asm__(".globl spot\n.type spot, @function\n"
        "spot: nop\nfsin\nfsin\nfsin\nfsin\nret\n.size spot, . - spot\n");
static void handle(int number, siginfo_t *information, void *context)
{
    unsigned long at = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] - (unsigned long)spot;
    char byte;
    if (at >= 1 && at < 5) { write(1, "inside\n", 7); read(0, &byte, 1); }
}
int main(void)
{
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, 0);
    write(1, "begun\n", 6);
    __asm__ volatile("fldpi");
    for (;;) spot();
}
"""


@pytest.fixture(scope="module")
def hammer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("hammer"), "hammer", HAMMER)


@probe(words=2)
def largest(ctx: PythonContext) -> None:
    if ctx.rdi > ctx.data[0]:
        ctx.data[0] = ctx.rdi
    ctx.data.add(1, 1)


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_probes_come_and_go(hammer: Path, tool: Tool) -> None:
    with running(hammer, 2) as process, Session.attach(process.pid, use_cache=False) as session:
        counted = session.instrument("entry:work", count)
        until(lambda: counted.count() > 100)
        # A second probe in the same function: both count from then on.
        seen = session.instrument("entry:work", largest)
        first = counted.count()
        until(lambda: counted.count() > first + 100)
        (row,) = seen.rows()
        until(lambda: seen.rows()[0].words[0] == 63)
        assert row.words[1] <= counted.count()
        counted.disable()
        stopped, noted = counted.count(), seen.rows()[0].words[1]
        until(lambda: seen.rows()[0].words[1] > noted + 100)
        assert counted.count() == stopped
        counted.enable()
        until(lambda: counted.count() > stopped + 100)
        noted = seen.rows()[0].words[1]
        assert noted >= row.words[1]
        status = json.loads(tool("status", process.pid, "--json").stdout)
        assert any(m["active"] and m["functions"]["instrumented"] == 1 for m in status["processes"][0]["modules"])
        shown = tool("top", process.pid, "--for", "0.2s")
        assert b"hammer!work" in shown.stdout
        seen.remove()
        counted.remove()
        assert session.status()["processes"][0]["modules"] == []
        assert "memfd:probeloom" not in Path(f"/proc/{process.pid}/maps").read_text()


def test_guarded_probes_are_skipped_while_off(hammer: Path) -> None:
    with running(hammer, 2) as process, Session.attach(process.pid) as session:
        counted = session.instrument("block:work", count, switch="guard")
        noted = session.instrument("entry:small", largest, switch="guard")
        until(lambda: counted.count() > 100 and noted.rows()[0].words[1] > 100)
        code = session.status()["processes"][0]["modules"]
        counted.disable()
        noted.disable()
        off = counted.count(), noted.rows()[0].words[1]
        time.sleep(0.3)
        # A thread that had looked just before counts once more.
        assert counted.count() - off[0] < 10 and noted.rows()[0].words[1] - off[1] < 10
        assert session.status()["processes"][0]["modules"] == code
        counted.enable()
        until(lambda: counted.count() > off[0] + 100)
        assert noted.rows()[0].words[1] - off[1] < 10


def test_patched_while_eight_threads_run_through_it(hammer: Path) -> None:
    with running(hammer, 8) as process, Session.attach(process.pid) as session:
        handle = session.instrument("block:mix")
        session.instrument("entry:small")
        for _ in range(TURNS):
            handle.disable()
            handle.enable()
        assert process.poll() is None
        before = handle.count()
        until(lambda: handle.count() > before)


def test_a_thread_that_stands_in_the_way_for_long_only_delays_a_probe(tmp_path: Path) -> None:
    program = compiled(tmp_path, "occupied", OCCUPIED)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        while not select.select([process.stdout], [], [], 0.01)[0]:
            os.kill(process.pid, signal.SIGUSR1)
        assert process.stdout.readline() == b"inside\n"
        with Session.attach(process.pid) as session:
            handle = session.instrument("entry:spot")
            (note,) = handle.refused
            assert "signal handler that returns there: the probes change when it has left" in note
            assert handle.count() == 0
            process.stdin.write(b"x")
            process.stdin.flush()
            until(lambda: handle.count() > 0)
            handle.disable()
            stopped = handle.count()
            handle.enable()
            until(lambda: handle.count() > stopped)
        process.kill()


def test_a_program_from_its_start_to_its_end(hammer: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Session.spawn(["/bin/sh", "-c", "exit 3"]) as session:
        main = session.instrument("entry:main")
        news = list(session.events(60))
        assert news[-1].kind == "exited" and news[-1].status == 3
        assert any(n.kind == "loaded" and "libc" in n.name for n in news)
        assert main.count() <= 1
    with Session.spawn([str(hammer), "0"]) as session:
        entered = session.instrument("entry:main")
        assert entered.count() == 0
        os.kill(session.pid, 15)
        assert session.wait() == -15


def test_a_library_of_this_process(tmp_path: Path) -> None:
    source = "int twice(int n) { return n * 2; } int thrice(int n) { return twice(n) + n; }"
    library = ctypes.CDLL(str(compiled(tmp_path, "libmore.so", source, "-shared", "-fPIC", "-fno-inline")))
    with Session.self() as session:
        handle = session.instrument("entry:libmore.so!*ice")
        assert [library.thrice(5), library.twice(4)] == [15, 8]
        assert {row.tracepoint.function: row.count for row in handle.rows()} == {"twice": 2, "thrice": 1}
    assert library.thrice(6) == 18


INTERRUPTED = """
import signal, sys
from jit import Session
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
with Session.attach(int(sys.argv[1])) as session:
    handle = session.instrument("entry:work")
    for _ in range(20):
        try:
            print("ready", flush=True)
            while True: handle.rows()
        except KeyboardInterrupt:
            pass
    handle.disable()
    counted = handle.count()
    assert counted and counted == handle.count()
assert session.reports()[0].rows
print("fine")
"""


def test_ctrl_c_mixes_up_no_answers(hammer: Path) -> None:
    pauses = random.Random(1)
    with running(hammer, 2) as process:
        command = [sys.executable, "-c", INTERRUPTED, str(process.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as script:
            assert script.stdout is not None
            for line in script.stdout:
                if line == b"ready\n":
                    time.sleep(pauses.uniform(0, 0.05))
                    script.send_signal(signal.SIGINT)
            assert line == b"fine\n" and script.wait() == 0


def test_wrong_use_is_told(hammer: Path) -> None:
    with running(hammer, 1) as process:
        with Session.attach(process.pid) as session:
            with pytest.raises(UsageError, match="expected POINT:FUNCTION"):
                session.instrument("work")
            with pytest.raises(UsageError, match="no_such"):
                session.instrument("entry:work", "no_such.py:probe")
            handle = session.instrument("entry:work")
            until(lambda: handle.count() > 0)
        subprocess.run(["true"], check=True)
    with pytest.raises(UsageError, match="no such process"):
        Session.attach(1 << 22)
