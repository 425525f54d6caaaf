"""Threads of a live target: stopped, used for system calls and moved out of code while they do what they do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jit.live import procfs
from jit.live.books import Books
from jit.live.builder import Build, Made, Open, Opened, Settings
from jit.live.errors import TargetGoneError
from jit.live.events import Exited, Killed, SignalStop
from jit.live.faults import PageFaults
from jit.live.instrumentation import Instrumentation
from jit.live.loaded import executable, modules
from jit.live.target import Target
from jit.live.workshop import Workshop
from jit.specs import parse_spec
from tests.live_programs import compiled, none_left

pytestmark = pytest.mark.needs("gcc")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with none_left():
        yield


HEAD = """
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
"""

COMING_AND_GOING = (
    HEAD
    + """
static atomic_long sum;
static void *work(void *value) { for (volatile int i = 0; i < 2000; i++); sum += (long)value; return 0; }
static void *maker(void *first)
{
    for (long i = 0; i < 300; i++) {
        pthread_t thread;
        if (pthread_create(&thread, 0, work, (void *)((long)first + i))) abort();
        if (i % 3) pthread_join(thread, 0); else pthread_detach(thread);
    }
    return 0;
}
int main(void)
{
    pthread_t makers[3];
    for (long i = 0; i < 3; i++) pthread_create(&makers[i], 0, maker, (void *)(i * 1000));
    for (int i = 0; i < 3; i++) pthread_join(makers[i], 0);
    while (sum != 3 * 300 * 299 / 2 + 300 * 3000) usleep(100);
    return 5;
}
"""
)

SIGNALS = (
    HEAD
    + """
static volatile sig_atomic_t queued, wrong, alarms;
static void on_queued(int number, siginfo_t *info, void *context)
{
    if (info->si_value.sival_int != queued || info->si_code != SI_QUEUE || info->si_pid != getpid()) {
        if (!wrong++) dprintf(2, "%d, not %d; code %d\\n", info->si_value.sival_int, queued, info->si_code);
    }
    queued++;
}
static void on_alarm(int number) { alarms++; }
static void *sender(void *thread)
{
    for (int i = 0; i < 2000; i++) {
        union sigval value = { .sival_int = i };
        while (pthread_sigqueue(*(pthread_t *)thread, SIGRTMIN + 1, value) == EAGAIN) usleep(100);
        if (i % 8 == 0) usleep(50);
    }
    return 0;
}
int main(int argc, char **argv)
{
    struct sigaction action = { .sa_sigaction = on_queued, .sa_flags = SA_SIGINFO };
    sigaction(SIGRTMIN + 1, &action, 0);
    signal(SIGALRM, on_alarm);
    struct itimerval often = { { 0, 500 }, { 0, 500 } };
    setitimer(ITIMER_REAL, &often, 0);
    pthread_t self = pthread_self(), thread;
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    pthread_create(&thread, 0, sender, &self);
    unsigned long turns = 0, hash = 0;
    while (queued < 2000) { for (int i = 0; i < 1000; i++) hash = hash * 31 + i; turns++; }
    pthread_join(thread, 0);
    unsigned long again = 0;
    while (turns--) for (int i = 0; i < 1000; i++) again = again * 31 + i;
    return (wrong != 0) | (!alarms) << 1 | (again != hash) << 2;
}
"""
)

BLOCKED = (
    HEAD
    + """
static int futex_word;
static void *waker(void *pipes)
{
    usleep(300000);
    futex_word = 1;
    syscall(SYS_futex, &futex_word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
    write(((int *)pipes)[1], "x", 1);
    return 0;
}
int main(int argc, char **argv)
{
    int pipes[2], result = 0;
    char byte = 0, *how = argv[1];
    struct epoll_event event = { .events = EPOLLIN };
    struct timespec time = { 0, 400000000 };
    struct pollfd waited;
    double begin = now();
    pipe(pipes);
    waited = (struct pollfd){ pipes[0], POLLIN, 0 };
    pthread_t thread;
    pthread_create(&thread, 0, waker, pipes);
    if (!strcmp(how, "read")) result = read(pipes[0], &byte, 1) != 1 || byte != 'x';
    if (!strcmp(how, "nanosleep")) result = nanosleep(&time, 0);
    if (!strcmp(how, "futex")) {
        /* A stop between the store and the wake makes the kernel wait again, for a value that is gone: EAGAIN. */
        result = (syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0) != 0 && errno != EAGAIN)
                 || futex_word != 1;
    }
    if (!strcmp(how, "epoll")) {
        int poller = epoll_create1(0);
        epoll_ctl(poller, EPOLL_CTL_ADD, pipes[0], &event);
        result = epoll_wait(poller, &event, 1, -1) != 1;
    }
    if (!strcmp(how, "poll")) result = poll(&waited, 1, 5000) != 1;
    if (!strcmp(how, "poll-timeout")) { waited.fd = pipes[1]; waited.events = POLLIN; result = poll(&waited, 1, 400); }
    if (!strcmp(how, "join")) result = pthread_join(thread, 0);
    double took = now() - begin;
    int ends = !strcmp(how, "nanosleep") || !strcmp(how, "poll-timeout");
    if (took < (ends ? 0.4 : 0.3) || took > (ends ? 0.6 : 0.5)) result |= 2;
    if (result) fprintf(stderr, "%s: %d, errno %d, %f s\\n", how, result, errno, took);
    return result;
}
"""
)

HANDLED_WAIT = (
    HEAD
    + """
static volatile sig_atomic_t got;
static void on_signal(int number) { got = 1; }
int main(void)
{
    struct sigaction action = { .sa_handler = on_signal };
    sigaction(SIGUSR1, &action, 0);
    struct epoll_event event;
    int poller = epoll_create1(0);
    puts("waits");
    fflush(stdout);
    int result = epoll_wait(poller, &event, 1, -1);
    return !(result == -1 && errno == EINTR && got);
}
"""
)

HAMMERED = (
    HEAD
    + """
int plus(int value);
__asm__(".globl plus\\n.p2align 4\\nplus: pause\\nadd $3, %edi\\nadd $4, %edi\\nmov %edi, %eax\\nret\\n"
        ".globl other\\n.p2align 4\\nother: pause\\nadd $3, %edi\\nlock incl taken(%rip)\\njmp plus+5\\n"
        ".data\\n.globl taken\\ntaken: .long 0\\n.text\\n");
extern int taken;
extern char other[];
static volatile int over;
static atomic_int wrong;
static void *hammer(void *unused)
{
    while (!over)
        for (int i = 0; i < 1000; i++)
            if (plus(i) != i + 7) wrong++;
    return 0;
}
int main(void)
{
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) pthread_create(&threads[i], 0, hammer, 0);
    printf("%p %p %p\\n", plus, other, &taken);
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) == -1);
    over = 1;
    for (int i = 0; i < 8; i++) pthread_join(threads[i], 0);
    return wrong != 0;
}
"""
)

IN_HANDLER = (
    HEAD
    + """
static void on_signal(int number) { puts("in"); fflush(stdout); char byte; read(0, &byte, 1); }
void wait_here(void);
__asm__(".globl wait_here\\n.p2align 4\\nwait_here: nop\\n1: jmp 1b\\n");
int main(int argc, char **argv)
{
    stack_t stack = { .ss_sp = malloc(100000), .ss_size = 100000 };
    sigaltstack(&stack, 0);
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = argc > 1 ? SA_ONSTACK : 0 };
    sigaction(SIGUSR1, &action, 0);
    printf("%p\\n", wait_here);
    fflush(stdout);
    wait_here();
}
"""
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("threads")


def run_while(target: Target, action: Callable[[], object], pause: float = 0.001) -> int:
    """Calls `action` again and again until the target has ended. Returns its exit status."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for event in target.events(pause):
            if isinstance(event, Exited):
                return event.status
            assert not isinstance(event, Killed)
        try:
            action()
        except TargetGoneError:
            continue
    raise AssertionError("it did not end")


def test_threads_that_come_and_go(directory: Path) -> None:
    target = Target.spawn([str(compiled(directory, "coming", COMING_AND_GOING))])

    def look() -> None:
        with target.stopped():
            known = set(target.tids)
            for tid in procfs.tasks(target.pid):
                assert procfs.task_state(tid) in "tZX", "it runs"
                assert tid in known or procfs.task_state(tid) in "ZX"
            assert target.syscall(39) == target.pid

    assert run_while(target, look) == 5


def test_attached_while_threads_come_and_go(directory: Path) -> None:
    program = compiled(directory, "coming2", COMING_AND_GOING)
    for _ in range(20):
        pid = os.posix_spawn(program, [program], os.environ)
        time.sleep(0.002)
        target = Target.attach(pid)
        with target.stopped():
            assert all(procfs.task_state(tid) in "tZX" for tid in procfs.tasks(pid))
        target.detach()
        assert procfs.status(pid)["TracerPid"] == "0"
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5


def test_signals_are_kept_while_system_calls_are_made(directory: Path) -> None:
    target = Target.spawn([str(compiled(directory, "signals", SIGNALS))])
    assert run_while(target, lambda: target.syscall(39)) == 0


def test_system_call_while_a_signal_is_handled(directory: Path) -> None:
    """In the only thread, which stands before its delivery: the signal comes all the same, once, as it was."""
    target = Target.spawn([str(compiled(directory, "signals2", SIGNALS))])
    seen = []
    for event in target.events(60):
        if isinstance(event, SignalStop):
            seen.append(event.signal)
            assert target.syscall(39) == target.pid
        elif isinstance(event, Exited):
            assert event.status == 0
            break
    assert len([number for number in seen if number >= 34]) == 2000


@pytest.mark.parametrize("how", ["read", "nanosleep", "futex", "epoll", "poll", "poll-timeout", "join"])
def test_waiting_goes_on(directory: Path, how: str) -> None:
    program = compiled(directory, f"blocked-{how}", BLOCKED)
    target = Target.spawn([str(program), how])
    assert run_while(target, lambda: target.syscall(39), 0.01) == 0


def test_signal_ends_a_wait_as_it_should(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = Target.spawn([str(compiled(directory, "handled", HANDLED_WAIT))])
    while "waits" not in capfd.readouterr().out:
        list(target.events(0.01))
    for _ in range(5):
        list(target.events(0.01))
        target.syscall(39)
    with target.stopped():
        os.kill(target.pid, 10)
    assert run_while(target, lambda: None) == 0


def test_eight_threads_hammer_what_is_patched(directory: Path, turns: int = 250) -> None:
    program = compiled(directory, "hammered", HAMMERED)
    reader, writer = os.pipe()
    input_reader, input_writer = os.pipe()
    saved = os.dup(0), os.dup(1)
    os.dup2(input_reader, 0)
    os.dup2(writer, 1)
    try:
        target = Target.spawn([str(program)])
    finally:
        os.dup2(saved[0], 0)
        os.dup2(saved[1], 1)
    for descriptor in (writer, input_reader, *saved):
        os.close(descriptor)
    while len(target.tids) < 9:
        list(target.events(0.01))
    list(target.events(0.05))
    plus, other, taken = (int(word, 16) for word in os.read(reader, 100).split())
    original = target.read(plus, 5)
    jump = b"\xe9" + (other - plus - 5).to_bytes(4, "little", signed=True)
    moved = 0
    for _ in range(turns):
        for code in (jump, original):
            while True:
                with target.stopped():
                    inside = [tid for tid in target.tids if plus < target.registers(tid).rip < plus + 5]
                    moved += len(inside)
                    if not target.step_out([(plus + 1, plus + 5)]):
                        assert not [tid for tid in target.tids if plus < target.registers(tid).rip < plus + 5]
                        target.write(plus, code)
                        break
                target.tracer.next_event(0.001)  # on a busy machine it was given no time
            target.tracer.next_event(0.0003)
    assert int.from_bytes(target.read(taken, 4), "little") > 0
    os.write(input_writer, b"x")
    assert run_while(target, lambda: None) == 0
    os.close(reader)
    os.close(input_writer)
    assert moved > 0


@pytest.mark.parametrize("stack", ["its own", "another"])
def test_handler_that_returns_inside(directory: Path, capfd: pytest.CaptureFixture[str], stack: str) -> None:
    program = compiled(directory, "in-handler", IN_HANDLER)
    reader, writer = os.pipe()
    saved = os.dup(0)
    os.dup2(reader, 0)
    target = Target.spawn([str(program), *(["x"] if stack == "another" else [])])
    os.dup2(saved, 0)
    text = ""
    while "0x" not in text:
        list(target.events(0.01))
        text += capfd.readouterr().out
    loop = int(text, 16) + 1
    with target.stopped():
        (straggler,) = target.step_out([(loop, loop + 2)], 0.01)
        assert straggler.reason == "goes round inside, or was given no time"
        os.kill(target.pid, 10)
    while "in" not in capfd.readouterr().out:
        list(target.events(0.01))
    with target.stopped():
        (straggler,) = target.step_out([(loop, loop + 2)])
        assert straggler.address == loop
        assert "signal handler" in straggler.reason
        assert target.step_out([(loop + 8, loop + 20)]) == []
    os.kill(target.pid, 9)
    list(target.events())
    for descriptor in (reader, writer, saved):
        os.close(descriptor)


SPOTS = r"""
#include <pthread.h>
void spot(int, ...);  /* whose callers clear rax: the end of a jump, add byte ptr [rax], al, then faults */
__asm__(".globl spot\n.type spot, @function\n.p2align 4\n"
        "spot: nop\nfsin\nfsin\nret\n.size spot, . - spot\n.p2align 4\n");
static void *run(void *argument)
{
    __asm__ volatile("fldpi");
    for (;;) spot(0);
    return argument;
}
int main(void)
{
    pthread_t thread;
    for (int i = 0; i < 3; i++) pthread_create(&thread, 0, run, 0);
    run(0);
}
"""


def test_a_stub_is_left_before_it_leads_elsewhere(directory: Path) -> None:
    """Threads that waited for a function while its plan was taken out of force run its first instructions in the stub;
    none stands among these when a jump to the instrumented function is written over them."""
    program = compiled(directory, "spots", SPOTS)
    workshop = Workshop(Settings(jobs=1, liveness="abi", counter_update="auto", use_cache=False, probes={}))
    target = Target.spawn([str(program)])
    try:
        list(target.events(0.3))
        faults, books = PageFaults(target), Books()
        asked: list[int] = []
        instrumentation = Instrumentation(target, faults, lambda module, function: asked.append(function), books)
        main = executable(target, modules(target))
        assert main is not None
        workshop.ask(Open(0, str(program), main.path, (parse_spec("entry:spot"),), is_running=True))
        (opened,) = workshop.answers(wait=True)
        assert isinstance(opened, Opened)
        instrumentation.add(opened, main.bias, None, fresh=False)
        while not asked:
            list(target.events(0.01))
            for fault in faults.read():
                instrumentation.called(fault)
        workshop.ask(Build(0, asked[0]))
        (made,) = workshop.answers(wait=True)
        assert isinstance(made, Made)
        instrumentation.suspend(0)
        instrumentation.made(made)
        instrumentation.resume(0, None)
        (report,) = books.reports()
        assert report.rows[0].count == 0
        while instrumentation.is_unfinished:
            list(target.events(0.1))
            instrumentation.finish()
        list(target.events(0.2))
        assert target.is_alive
        (report,) = books.reports()
        assert report.rows[0].count > 0
        faults.close()
    finally:
        if target.is_alive:
            os.kill(target.pid, 9)
            list(target.events())
        workshop.close()
