"""`probeloom attach`: a busy process goes on, and is as before when it is let go."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live_programs import compiled
from tests.tool import Tool

pytestmark = pytest.mark.needs("gcc")

HAMMER = """
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static volatile int stop;
__attribute__((noinline)) unsigned long mix(unsigned long x, int n)
{
    for (int i = 0; i < n; i++) { x ^= x << 13; x ^= x >> 7; x ^= x << 17; if (x & 1) x += n; else x *= 3; }
    return x;
}
__attribute__((noinline)) int small(int a) { return a * 3 + 1; }
__attribute__((noinline)) unsigned long work(unsigned long s)
{
    unsigned long r = 0;
    char text[64];
    for (int i = 0; i < 20; i++) { r += mix(s + i, i % 7); r += small((int)r); }
    snprintf(text, sizeof text, "%lx", r);
    return r + strlen(text);
}
static void *run(void *argument)
{
    unsigned long expected[64], done = 0;
    for (int i = 0; i < 64; i++) expected[i] = work(i);
    while (!stop)
        for (int i = 0; i < 64; i++, done++)
            if (work(i) != expected[i]) abort();
    return (void *)done;
}
int main(int argc, char **argv)
{
    int count = atoi(argv[1]);
    pthread_t threads[64];
    for (int i = 0; i < count; i++) pthread_create(&threads[i], 0, run, 0);
    puts("begun");
    fflush(stdout);
    getchar();
    stop = 1;
    for (int i = 0; i < count; i++) {
        void *done;
        pthread_join(threads[i], &done);
        if (!done) return 1;
    }
    return 7;
}
"""


@pytest.fixture(scope="module")
def hammer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("hammer"), "hammer", HAMMER)


@contextmanager
def running(program: Path, threads: int) -> Iterator[subprocess.Popen[bytes]]:
    """The program at work; its threads check their results, and so does the end of the block."""
    with subprocess.Popen([program, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        process.communicate(b"\n", timeout=60)
        assert process.returncode == 7


def attach(tool: Tool, pid: int, *arguments: str, seconds: str = "1s") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*tool.command, "attach", str(pid), f"--for={seconds}", "--format=json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **tool.environment},
    )


def mapped(pid: int) -> list[str]:
    """The mappings, without what an allocator may change by itself."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [re.sub(r"\s+", " ", line) for line in lines if "[heap]" not in line]


def test_threads_are_counted_and_let_go(hammer: Path, tool: Tool) -> None:
    with running(hammer, 8) as process:
        before = mapped(process.pid)
        code = Path(f"/proc/{process.pid}/exe").read_bytes()
        for _ in range(2):
            attached = attach(tool, process.pid, "--probe=block:*", "--probe=entry:libc.so.6!snprintf")
            out, err = attached.communicate(timeout=120)
            assert (attached.returncode, err) == (0, b"")
            rows = json.loads(out)["probes"]
            assert {"mix", "small", "work"} <= {row["function"] for row in rows if row["count"]}
            assert next(row["count"] for row in rows if Path(row["module"]).name == "libc.so.6") > 100
            assert mapped(process.pid) == before
            start = int(before[0].partition("-")[0], 16)
            at = next(int(line.partition("-")[0], 16) for line in before if " r-xp " in line)
            with Path(f"/proc/{process.pid}/mem").open("rb") as memory:
                memory.seek(at)
                assert memory.read(2048) == code[at - start : at - start + 2048]


ALARMS = """
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>
static volatile int stop, wrong;
static unsigned expected;
__attribute__((noinline)) unsigned mix(unsigned x, int n) { while (n--) x = x * 5 ^ x >> 3; return x; }
static void tick(int number) { if (mix(7, 3) != 834) wrong = 1; }
static void *run(void *argument) { while (!stop) if (mix(1, 3000) != expected) wrong = 1; return 0; }
int main(void)
{
    pthread_t threads[3];
    struct itimerval often = {{0, 1000}, {0, 1000}};
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    expected = mix(1, 3000);
    sigaction(SIGALRM, &action, 0);
    setitimer(ITIMER_REAL, &often, 0);
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], 0, run, 0);
    puts("begun");
    fflush(stdout);
    getchar();
    stop = 1;
    for (int i = 0; i < 3; i++) pthread_join(threads[i], 0);
    return wrong ? 1 : 7;
}
"""


def test_signals_that_come_meanwhile_do_not_keep_the_cache(tmp_path: Path, tool: Tool) -> None:
    with running(compiled(tmp_path, "alarms", ALARMS), 3) as process:
        before = mapped(process.pid)
        attached = attach(tool, process.pid, "--probe=block:*", seconds="300ms")
        _, err = attached.communicate(timeout=120)
        assert (attached.returncode, err) == (0, b"")
        assert mapped(process.pid) == before


def test_another_process_of_the_same_library_sees_nothing(hammer: Path, tool: Tool) -> None:
    with running(hammer, 2) as process, running(hammer, 2) as other:
        attached = attach(tool, process.pid, "--probe=entry:libc.so.6!*snprintf*")
        library = next(line for line in mapped(other.pid) if " r-xp " in line and "libc.so.6" in line)
        start, _, end = library.partition(" ")[0].partition("-")
        with Path(f"/proc/{other.pid}/mem").open("rb") as memory:
            memory.seek(int(start, 16))
            before = memory.read(int(end, 16) - int(start, 16))
            while attached.poll() is None:
                memory.seek(int(start, 16))
                assert memory.read(len(before)) == before
                time.sleep(0.05)
        assert attached.returncode == 0


def test_ctrl_c_lets_go_and_reports(hammer: Path, tool: Tool) -> None:
    with running(hammer, 2) as process:
        attached = attach(tool, process.pid, "--probe=entry:work", seconds="1h")
        deadline = time.monotonic() + 60
        while "memfd:probeloom" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(4)
        attached.send_signal(signal.SIGINT)
        out, _ = attached.communicate(timeout=60)
        assert attached.returncode == 0
        assert json.loads(out)["probes"][0]["count"] > 0


@pytest.mark.parametrize("delay", [0.9, 1.1, 1.3, 1.6])
def test_killed_tracer_leaves_a_program_that_works(hammer: Path, tool: Tool, delay: float) -> None:
    with running(hammer, 4) as process:
        attached = attach(tool, process.pid, "--probe=block:*")
        time.sleep(delay)
        attached.kill()
        attached.communicate()


def test_errors_are_one_line(hammer: Path, tool: Tool) -> None:
    def fails(pid: int, *arguments: str) -> tuple[int, str]:
        done = attach(tool, pid, *arguments)
        _, err = done.communicate(timeout=60)
        text = err.decode()
        assert text.count("\n") == 1
        return done.returncode, text

    assert fails(1 << 22, "--probe=block:*") == (2, f"probeloom: error: process {1 << 22}: no such process\n")
    with running(hammer, 1) as process:
        code, text = fails(process.pid, "--probe=entry:main.so!work")
        assert (code, text) == (
            0,
            "probeloom: note: 'entry:main.so!work' matches no function of any module that was loaded\n",
        )
        assert fails(process.pid)[0] == 2
        assert "no time" in fails(process.pid, "--probe=block:*", "--for=soon")[1]
        script = f"from jit.live.target import Target; Target.attach({process.pid}); print('yes', flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
        ) as tracer:
            assert tracer.stdout is not None
            assert tracer.stdout.readline() == b"yes\n"
            code, text = fails(process.pid, "--probe=block:*")
            assert code == 3
            assert f"already traced by process {tracer.pid}" in text
            tracer.communicate(b"\n")
