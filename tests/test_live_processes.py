"""Live targets that fork, execute others, are stopped by job control, traced by somebody else, or die; and tracers that
are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from jit.live import procfs
from jit.live.errors import CannotTraceError, TargetBusyError, TargetGoneError
from jit.live.events import (
    Cloned,
    Event,
    Execed,
    Exited,
    Forked,
    GroupStopped,
    Killed,
    Readable,
    SignalStop,
    VForkDone,
    VForked,
)
from jit.live.target import Target
from tests.live_programs import compiled, none_left

pytestmark = pytest.mark.needs("gcc")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with none_left():
        yield


CHILDREN = """
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile int shared;
static char stack[65536];
static int child(void *value) { shared += (long)value; return 3; }
static void *in_thread(void *argv) { execv(((char **)argv)[0], argv); return 0; }
static int reaped(pid_t pid, int options)
{
    int status = -1;
    waitpid(pid, &status, options);
    return WEXITSTATUS(status);
}
int main(int argc, char **argv)
{
    char *how = argv[1];
    if (!strcmp(how, "fork")) {
        pid_t pid = fork();
        if (!pid) { shared = 4; _exit(3); }
        return reaped(pid, 0) + shared;
    }
    if (!strcmp(how, "vfork")) {
        pid_t pid = vfork();
        if (!pid) { shared = 4; execl("/bin/sh", "sh", "-c", "exit 3", (char *)0); }
        return reaped(pid, 0) + shared;
    }
    if (!strcmp(how, "vfork-slow")) {
        pid_t pid = vfork();
        if (!pid) { usleep(300000); shared = 4; _exit(3); }
        return reaped(pid, 0) + shared;
    }
    if (!strcmp(how, "shared-memory")) {
        pid_t pid = clone(child, stack + sizeof stack, CLONE_VM | SIGCHLD, (void *)4);
        return reaped(pid, 0) + shared;
    }
    if (!strcmp(how, "no-signal")) {
        pid_t pid = clone(child, stack + sizeof stack, CLONE_VM | CLONE_FS | CLONE_FILES, (void *)4);
        return reaped(pid, __WALL) + shared;
    }
    if (!strcmp(how, "untraced")) {
        pid_t pid = clone(child, stack + sizeof stack, CLONE_VM | CLONE_UNTRACED | SIGCHLD, (void *)4);
        return reaped(pid, 0) + shared;
    }
    if (!strcmp(how, "exec-in-thread")) {
        char *arguments[] = { argv[0], "exit", 0 };
        pthread_t threads[3];
        for (int i = 0; i < 2; i++) pthread_create(&threads[i], 0, (void *(*)(void *))pause, 0);
        pthread_create(&threads[2], 0, in_thread, arguments);
        pause();
    }
    if (!strcmp(how, "leader-leaves")) {
        pthread_t thread;
        pthread_create(&thread, 0, (void *(*)(void *))usleep, (void *)300000);
        pthread_exit(0);
    }
    if (!strcmp(how, "filtered")) {
        struct sock_filter rows[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpid, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog filter = { 4, rows };
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) return 1;
        usleep(200000);
    }
    return !strcmp(how, "exit") ? 7 : 0;
}
"""

COUNTER = """
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>
static volatile sig_atomic_t alarms;
static void on_alarm(int number) { alarms++; }
static void *count(void *start)
{
    unsigned long hash = (unsigned long)start;
    for (int i = 0; i < 150; i++) {
        for (int j = 0; j < 20000; j++) hash = hash * 6364136223846793005 + j;
        int pipes[2];
        char byte = hash;
        pipe(pipes);
        write(pipes[1], &byte, 1);
        char got = 0;
        if (read(pipes[0], &got, 1) != 1 || got != byte) abort();
        close(pipes[0]), close(pipes[1]);
        usleep(50);
    }
    return (void *)hash;
}
int main(void)
{
    signal(SIGALRM, on_alarm);
    struct itimerval often = { { 0, 2000 }, { 0, 2000 } };
    setitimer(ITIMER_REAL, &often, 0);
    pthread_t threads[3];
    unsigned long sum = 0;
    for (long i = 0; i < 3; i++) pthread_create(&threads[i], 0, count, (void *)i);
    for (int i = 0; i < 3; i++) { void *result; pthread_join(threads[i], &result); sum += (unsigned long)result; }
    printf("%lx %d\\n", sum, alarms > 0);
    return 0;
}
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def children(directory: Path) -> Path:
    return compiled(directory, "children", CHILDREN)


def ended(target: Target, seen: list[Event | Readable] | None = None) -> int:
    """Exit status of the target, once it and all its children have ended."""
    status = -1
    for event in target.events(60):
        if seen is not None:
            seen.append(event)
        if isinstance(event, Exited) and event.target is target:
            status = event.status
        if isinstance(event, Exited | Killed) and not target.tracer.targets:
            break
    return status


@pytest.mark.parametrize(
    ("how", "status", "made", "is_shared"),
    [
        ("fork", 3, Forked, False),
        ("vfork", 7, VForked, True),
        ("vfork-slow", 7, VForked, True),
        ("shared-memory", 7, Forked, True),
        ("no-signal", 7, Forked, True),
    ],
)
def test_children(children: Path, how: str, status: int, made: type[Event], is_shared: bool) -> None:
    target = Target.spawn([str(children), how])
    births = 0
    found = -1
    for event in target.events(60):
        if isinstance(event, Forked | VForked):
            assert isinstance(event, made)
            births += 1
            assert (event.child.memory is target.memory) is is_shared
            assert event.child.registers(event.child.pid).rax == 0
            if not isinstance(event, VForked):
                assert event.child.syscall(39) == event.child.pid
            assert event.child.pid in target.tracer.targets
        elif isinstance(event, Execed):
            assert event.target.memory is not target.memory or event.target is target
        elif isinstance(event, Exited):
            assert event.status == (status if event.target is target else 3)
            if event.target is target:
                found = event.status
            if not target.tracer.targets:
                break
    assert births == 1
    assert found == status


def test_vfork_is_not_waited_for(children: Path) -> None:
    target = Target.spawn([str(children), "vfork-slow"])
    seen: list[Event | Readable] = []
    for event in target.events(60):
        seen.append(event)
        if isinstance(event, VForked):
            break
    list(target.events(0.05))
    begin = time.monotonic()
    with target.stopped():
        assert time.monotonic() - begin < 0.25
        assert target.syscall(39) != target.pid, "only the child can make one"
        assert target.step_out([(0, 1)]) == []
    assert ended(target, seen) == 7
    assert [event for event in seen if isinstance(event, VForkDone)]


def test_child_made_untraced_is_left_alone(children: Path) -> None:
    target = Target.spawn([str(children), "untraced"])
    seen: list[Event | Readable] = []
    assert ended(target, seen) == 7
    assert not [event for event in seen if isinstance(event, Forked | VForked)]


def test_execve_in_a_thread(children: Path) -> None:
    target = Target.spawn([str(children), "exec-in-thread"])
    seen: list[Event | Readable] = []
    memory = target.memory
    assert ended(target, seen) == 7
    assert [event.tid for event in seen if isinstance(event, Execed)] == [target.pid]
    assert len([event for event in seen if isinstance(event, Cloned)]) == 3
    assert target.memory is not memory


def test_filtered_system_calls(children: Path) -> None:
    target = Target.spawn([str(children), "filtered"])
    list(target.events(0.1))
    assert procfs.status(target.pid)["Seccomp"] == "2"
    if os.geteuid() == 0:
        assert target.syscall(39) == target.pid
    else:
        with pytest.raises(TargetBusyError, match="only root"):
            target.syscall(39)
    assert ended(target) == 0


def test_first_thread_leaves(children: Path) -> None:
    target = Target.spawn([str(children), "leader-leaves"])
    list(target.events(0.1))
    assert target.syscall(39) == target.pid
    assert ended(target) == 0


def test_attached_after_the_first_thread_left(children: Path) -> None:
    with subprocess.Popen([children, "leader-leaves"]) as process:
        while procfs.task_state(process.pid) != "Z":
            time.sleep(0.001)
        target = Target.attach(process.pid)
        assert target.syscall(39) == process.pid
        assert ended(target) == 0
        assert process.wait(30) == 0


def next_events(target: Target, count: int) -> list[type]:
    """The kinds of the next events, however long a busy machine takes."""
    found = [type(event) for event in islice(target.events(30), count)]
    target.tracer.conclude()
    return found


def test_job_control() -> None:
    """Stopped and continued from outside, as a shell does; system calls of ours between leave it stopped."""
    # A process group of its own, as a shell gives it: SIGTSTP does nothing in an orphaned one.
    process = subprocess.Popen(["/bin/sleep", "1"], process_group=0)
    target = Target.attach(process.pid)
    list(target.events(0.05))
    process.send_signal(signal.SIGTSTP)
    assert next_events(target, 2) == [SignalStop, GroupStopped]
    assert target.syscall(39) == process.pid
    with target.stopped():
        pass
    assert list(target.events(0.1)) == []
    assert procfs.task_state(process.pid) == "t"
    assert int(procfs.status(process.pid)["ShdPnd"], 16) == 0
    process.send_signal(signal.SIGCONT)
    assert next_events(target, 1) == [SignalStop]
    assert list(target.events(0.1)) == []
    assert procfs.task_state(process.pid) == "S"
    assert ended(target) == 0
    process.wait()


def test_let_go_while_stopped() -> None:
    process = subprocess.Popen(["/bin/sleep", "0.3"])
    process.send_signal(signal.SIGSTOP)
    while procfs.task_state(process.pid) != "T":
        pass
    target = Target.attach(process.pid)
    assert [type(event) for event in target.events(0.1)] == [GroupStopped]
    assert target.syscall(39) == process.pid
    target.detach()
    time.sleep(0.05)
    assert procfs.task_state(process.pid) == "T"
    process.send_signal(signal.SIGCONT)
    assert process.wait(30) == 0


def test_traced_already() -> None:
    code = (
        "import sys; sys.path[:0] = {!r}; from jit.live.target import Target; "
        "target = Target.attach({}); print(flush=True); target.wait()"
    )
    with (
        subprocess.Popen(["/bin/sleep", "60"]) as process,
        subprocess.Popen([sys.executable, "-c", code.format(sys.path, process.pid)], stdout=subprocess.PIPE) as tracer,
    ):
        assert tracer.stdout is not None
        tracer.stdout.readline()
        with pytest.raises(CannotTraceError, match=f"already traced by process {tracer.pid} \\(python"):
            Target.attach(process.pid)
        process.kill()
        tracer.wait(30)


def test_kernel_thread_and_another_users() -> None:
    if os.geteuid() != 0:
        with pytest.raises(CannotTraceError, match=r"process 1 \(.*\): belongs to another user \(root\)"):
            Target.attach(1)
        return
    kernel_threads = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and procfs.status(int(entry.name)).get("Kthread") == "1"
    ]
    if kernel_threads:
        with pytest.raises(CannotTraceError, match="is a kernel thread"):
            Target.attach(kernel_threads[0])
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setgid(65534)
            os.setuid(65534)
            try:
                Target.attach(process.pid)
            except CannotTraceError as problem:
                os.write(writer, str(problem).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        os.close(writer)
        message = os.read(reader, 1000).decode()
        os.close(reader)
        assert message == f"process {process.pid} (sleep): belongs to another user (root); run as that user or as root"
        process.kill()


def test_dies_in_the_middle() -> None:
    target = Target.spawn(["/bin/sleep", "60"])
    list(target.events(0.05))
    with pytest.raises(TargetGoneError), target.stopped():
        os.kill(target.pid, signal.SIGKILL)
        for _ in range(1000):
            target.syscall(39)
    assert [event.signal for event in target.events(30) if isinstance(event, Killed)] == [signal.SIGKILL]
    assert not target.is_alive
    with pytest.raises(TargetGoneError), target.stopped():
        pass
    with pytest.raises(TargetGoneError):
        target.maps()
    target.detach()


def traced_until_killed(pid: int) -> None:
    """What a tracer does, without end: the function for a child that is killed."""
    target = Target.attach(pid)
    while True:
        with target.stopped():
            address = target.syscall(9, 0, 8192, 7, 0x22, (1 << 64) - 1, 0)
            target.write(address, b"\x90" * 4096)
            where = [target.registers(tid).rip for tid in target.tids]
            target.step_out([(rip, rip + 1) for rip in where])
            target.syscall(11, address, 8192)
        list(target.events(random.uniform(0, 0.002)))


def test_killed_tracers_do_no_harm(directory: Path, kills: int = 40) -> None:
    program = compiled(directory, "counter", COUNTER)
    expected = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    chance = random.Random(1)
    while kills > 0:
        with subprocess.Popen([program], stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None and kills > 0:
                pid = os.fork()
                if pid == 0:
                    try:
                        traced_until_killed(process.pid)
                    finally:
                        os._exit(1)
                time.sleep(chance.uniform(0, 0.012))
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                kills -= 1
            output, _ = process.communicate(timeout=60)
        assert (process.returncode, output) == (0, expected)
