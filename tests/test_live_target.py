"""Control of a process from outside: threads, memory, system calls made in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jit.live.errors import CannotStartError, CannotTraceError, MemoryAccessError, NoProcessError
from jit.live.events import Exited, Killed, SignalStop, ThreadExiting
from jit.live.target import Target
from tests.live_programs import alike, compiled, none_left

pytestmark = pytest.mark.needs("gcc")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with none_left():
        yield


SPINNER = """
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
volatile long turns[8];
volatile int over;
static void *spin(void *number) { while (!over) turns[(long)number]++; return 0; }
int main(int argc, char **argv)
{
    pthread_t threads[8];
    for (long i = 0; i < atoi(argv[1]); i++) pthread_create(&threads[i], 0, spin, (void *)i);
    char byte;
    while (read(0, &byte, 1) == 1) write(1, &byte, 1);
    over = 1;
    for (long i = 0; i < atoi(argv[1]); i++) pthread_join(threads[i], 0);
    return 7;
}
"""


@pytest.fixture(scope="module")
def spinner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("spinner"), "spinner", SPINNER)


def exit_status(target: Target) -> int:
    for event in target.events(30):
        if isinstance(event, Exited) and event.target is target:
            return event.status
    raise AssertionError("it did not end")


def test_spawned_stands_before_its_first_instruction() -> None:
    target = Target.spawn(["/bin/echo", "hello"])
    loader = target.maps().at(target.registers(target.pid).rip)
    assert loader is not None
    assert "ld-linux" in loader.path
    assert not [mapping for mapping in target.maps() if "libc.so" in mapping.path]
    assert exit_status(target) == 0


def test_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(CannotStartError, match="no-such-command: command not found"):
        Target.spawn(["no-such-command"])
    (tmp_path / "file").write_text("text")
    with pytest.raises(CannotStartError, match="Permission denied"):
        Target.spawn([str(tmp_path / "file")])


def test_attached_and_let_go(spinner: Path) -> None:
    with subprocess.Popen([spinner, "3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"a")
        process.stdin.flush()
        assert process.stdout.read(1) == b"a"
        while "S" not in alike(process.pid)["State"]:
            pass
        before = alike(process.pid)
        target = Target.attach(process.pid)
        with target.stopped(), target.stopped():
            assert len(target.tids) == 4
            assert target.syscall(39) == process.pid  # getpid
            counter = Path(f"/proc/{process.pid}/comm").read_text()
        target.detach()
        while "S" not in alike(process.pid)["State"]:
            pass
        assert alike(process.pid) == before
        assert counter == "spinner\n"
        process.stdin.write(b"b")
        process.stdin.flush()
        assert process.stdout.read(1) == b"b"
        process.stdin.close()
        assert process.wait(30) == 7


def test_memory_that_is_not_there() -> None:
    target = Target.spawn(["/bin/true"])
    with pytest.raises(MemoryAccessError, match="4 bytes at 0x10 of the process cannot be read"):
        target.read(0x10, 4)
    with pytest.raises(MemoryAccessError, match="cannot be written"):
        target.write(1 << 62, b"1234")
    assert exit_status(target) == 0


def test_code_is_written_in_a_private_copy(spinner: Path) -> None:
    first, second = (Target.spawn([str(spinner), "0"]) for _ in range(2))
    codes = [target.registers(target.pid).rip for target in (first, second)]
    before = second.read(codes[1], 16)
    first.write(codes[0], b"\xcc" * 16)
    assert first.read(codes[0], 16) == b"\xcc" * 16
    assert second.read(codes[1], 16) == before
    for target in (first, second):
        os.kill(target.pid, 9)
    assert [type(event) for event in first.events(30) if isinstance(event, Killed)] == [Killed, Killed]


@pytest.mark.parametrize("number", [10, 12, 15])
def test_signals_are_passed_on(number: int) -> None:
    target = Target.spawn([sys.executable, "-c", f"import os; os.kill(os.getpid(), {number})"])
    events = list(target.events(30))
    assert [event.signal for event in events if isinstance(event, SignalStop)] == [number]
    assert not target.is_alive


def test_a_signal_waits_for_its_event(spinner: Path) -> None:
    """While others are let run, a thread stays that a signal has stopped."""
    with subprocess.Popen([spinner, "0"], stdin=subprocess.PIPE) as process:
        target = Target.attach(process.pid)
        with target.stopped():
            process.send_signal(signal.SIGTERM)
            target.tracer.run_for(target.tracer.threads_of(target.memory), 0.1)
            target.tracer.run_for(target.tracer.threads_of(target.memory), 0.1)
        told = [event for event in target.events(30) if not isinstance(event, ThreadExiting)]
        assert [type(event) for event in told] == [SignalStop, Killed]
        process.returncode = -signal.SIGTERM


def test_no_such_process() -> None:
    with pytest.raises(NoProcessError, match="process 4194305: no such process"):
        Target.attach(4194305)
    with pytest.raises(CannotTraceError, match="is this process"):
        Target.attach(os.getpid())
