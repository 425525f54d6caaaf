"""Biased counters: exact whoever counts, and without a lock only where the main thread does."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from jit import Binary, datafile
from jit.analysis import effective_update
from jit.live.owner import owner_word
from jit.live.target import Target
from lifter.image.load import open_image
from tests.handmade import LINKS, build
from tests.tool import Tool, require

PROGRAM = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
__attribute__((noipa)) long work(long x) { return x * 3 + 1; }
static void *worker(void *times) {
    long sum = 0;
    for (long i = 0; i < (long)times; i++) sum += work(i);
    return (void *)sum;
}
static long deep(long levels) {
    volatile char frame[4096];
    frame[0] = levels;
    work(levels);
    return levels ? deep(levels - 1) + frame[0] : 0;
}
static ucontext_t here, elsewhere;
static void coroutine(void) { worker((void *)700); }
int main(int argc, char **argv) {
    char *what = argc > 1 ? argv[1] : "";
    pthread_t threads[3];
    worker((void *)1000);
    if (!strcmp(what, "threads")) {
        for (int i = 0; i < 3; i++) pthread_create(&threads[i], 0, worker, (void *)100000);
        worker((void *)100000);
        for (int i = 0; i < 3; i++) pthread_join(threads[i], 0);
    } else if (!strcmp(what, "fork")) {
        pid_t child = fork();
        worker((void *)(child ? 100000L : 70000L));
        if (!child) _exit(0);
        waitpid(child, 0, 0);
    } else if (!strcmp(what, "exec")) {
        execv(argv[0], (char *[]){argv[0], 0});
    } else if (!strcmp(what, "coroutine")) {
        getcontext(&elsewhere);
        elsewhere.uc_stack.ss_sp = malloc(1 << 16);
        elsewhere.uc_stack.ss_size = 1 << 16;
        elsewhere.uc_link = &here;
        makecontext(&elsewhere, coroutine, 0);
        swapcontext(&here, &elsewhere);
    } else if (!strcmp(what, "deep")) {
        deep(1700);
    } else if (!strcmp(what, "wait")) {
        puts("ready"); fflush(stdout);
        getchar();
    }
    return 0;
}
"""
USER = r"""
#include <dlfcn.h>
#include <pthread.h>
static long (*work)(long);
static void *load(void *path) {
    void *library = dlopen(path, RTLD_NOW);
    work = library ? dlsym(library, "work") : 0;
    for (int i = 0; work && i < 1000; i++) work(i);
    return work;
}
int main(int argc, char **argv) {
    pthread_t thread;
    void *found;
    pthread_create(&thread, 0, load, argv[1]);
    pthread_join(thread, &found);
    for (int i = 0; i < 50; i++) work(i);
    return !found;
}
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """Calls of `work`, and how many of them were counted without a lock."""

    calls: int
    unlocked: int


def counted(path: Path) -> Counted:
    content = path.read_bytes()
    data = datafile.read(path)
    (row,) = [t for t in data.tracepoints if t.function == "work"]
    ((index, factor),) = row.terms
    own = np.frombuffer(content, "<u8", len(data.counters), datafile.COUNTERS_OFFSET + 8 * len(data.counters))
    return Counted(data.count(row), factor * int(own[index]))


def rewritten(program: Path, update: Literal["auto", "biased"] = "auto") -> Path:
    output = program.with_name(program.name + ".inst")
    plan = Binary.open(program).instrument("entry:work")
    plan.rewrite(output, counter_update=update, jobs=1, use_cache=False)
    return output


@pytest.fixture(scope="module", params=[link for link in LINKS if not link.startswith("musl")])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("gcc")
    path = build(PROGRAM, tmp_path_factory.mktemp(request.param) / "prog", *LINKS[request.param], "-pthread")
    return rewritten(path)


@pytest.mark.parametrize(
    ("what", "calls", "unlocked"),
    [
        ("", 1000, 1000),
        ("threads", 401_000, 101_000),
        ("fork", 171_000, 101_000),
        ("exec", 2000, 2000),
        ("coroutine", 1700, 1000),
    ],
)
def test_who_counts_without_a_lock(program: Path, what: str, calls: int, unlocked: int, tmp_path: Path) -> None:
    for times in (1, 2):
        subprocess.run([program, what], env={"PROBELOOM_DATA": str(tmp_path / "data")}, check=True, timeout=100)
        assert counted(tmp_path / "data") == Counted(times * calls, times * unlocked)
    subprocess.run([program, what], env={}, check=True, timeout=100)


def test_deep_down_the_stack_is_not_believed(program: Path, tmp_path: Path) -> None:
    """Seven of eight mebibytes deep, and with a limit so low that another stack could be near."""
    for kilobytes, least, most in ((8192, 2400, 2690), (7400, 2300, 2500)):
        data = tmp_path / f"data{kilobytes}"
        command = f'ulimit -s {kilobytes}; exec "$0" deep'
        subprocess.run(["bash", "-c", command, program], env={"PROBELOOM_DATA": str(data)}, check=True, timeout=100)
        found = counted(data)
        assert found.calls == 2701 and least < found.unlocked < most


def test_one_process_at_a_time(program: Path, tmp_path: Path) -> None:
    """Others that count in the same file meanwhile do it under a lock; one that comes later need not."""
    environment = {"PROBELOOM_DATA": str(tmp_path / "data")}
    command = [str(program), "wait"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline() == b"ready\n"
        subprocess.run([program], env=environment, check=True, timeout=100)
        assert counted(tmp_path / "data") == Counted(2000, 1000)
        first.communicate(b"\n", timeout=100)
    subprocess.run([program], env=environment, check=True, timeout=100)
    assert counted(tmp_path / "data") == Counted(3000, 2000)


def test_the_thread_that_loads_a_library_owns_nothing(tmp_path: Path) -> None:
    require("gcc")
    source = "__attribute__((noipa)) long work(long x) { return x * 3 + 1; }"
    library = rewritten(build(source, tmp_path / "libwork.so", "gcc", "-shared", "-fPIC"))
    user = build(USER, tmp_path / "user", "gcc", "-ldl", "-pthread")
    environment = {"PROBELOOM_DATA": str(tmp_path / "data")}
    subprocess.run([user, library], env=environment, check=True, timeout=100)
    assert counted(tmp_path / "data") == Counted(1050, 50)


def test_musl(tmp_path: Path) -> None:
    require("musl-gcc")
    for link in ("musl", "musl-static"):
        source = PROGRAM[: PROGRAM.index("static ucontext_t")].replace("#include <ucontext.h>", "") + (
            "int main(void) { pthread_t t; pthread_create(&t, 0, worker, (void *)1000); worker((void *)500);"
            " return pthread_join(t, 0); }"
        )
        program = rewritten(build(source, tmp_path / link, *LINKS[link]))
        subprocess.run([program], env={"PROBELOOM_DATA": str(tmp_path / f"{link}.data")}, check=True, timeout=100)
        assert counted(tmp_path / f"{link}.data") == Counted(1500, 500)


@pytest.mark.parametrize(("what", "calls"), [("threads", 401_000), ("fork", 171_000), ("coroutine", 1700)])
def test_live(what: str, calls: int, tmp_path: Path) -> None:
    """A child that counts in its parent's counters owns nothing there."""
    require("gcc")
    tool = Tool.found(tmp_path / "cache")
    path = build(PROGRAM, tmp_path / "prog", "gcc", "-pthread")
    for children in ("sum", "apart"):
        report = tmp_path / f"{children}.json"
        options = ["--probe=entry:work", "--format=json", f"--children={children}", f"--output={report}"]
        done = tool("run", *options, "--", path, what)
        assert done.status == 0, done.stderr
        (row,) = json.loads(report.read_text())["probes"]
        assert row["count"] == calls


def test_the_owner_of_a_live_target() -> None:
    """Its word is on the stack, and what is above belongs to the stack or to the kernel."""
    target = Target.spawn(["/bin/true"])
    word = owner_word(target)
    assert word >> 63
    lowest = word & (1 << 63) - 1
    assert lowest < target.registers(target.pid).rsp < lowest + (8 << 20)
    above = {mapping.path for mapping in target.maps() if mapping.end > lowest}
    assert above <= {"[stack]", "[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"}
    for _ in target.events(30):
        pass


def test_when_counters_are_biased(tmp_path: Path) -> None:
    require("gcc")
    threads = "#include <pthread.h>\nint main(void) { pthread_t t; return pthread_create(&t, 0, (void *)main, 0); }"
    clones = "#define _GNU_SOURCE\n#include <sched.h>\nint main(void) { return clone((void *)main, 0, 0, 0); }"
    image = open_image(build(threads, tmp_path / "threads"))
    assert effective_update(image, "auto") == "biased"
    assert effective_update(image, "plain") == "plain"
    assert effective_update(open_image(build(clones, tmp_path / "clones")), "auto") == "atomic", "on a stack of its own"
    assert effective_update(open_image(build("int main() {}", tmp_path / "plain")), "auto") == "plain"
