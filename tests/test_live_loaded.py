"""The modules of a live target, and word of those loaded and unloaded later."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jit.live.events import Exited, Forked, Readable
from jit.live.faults import PageFaults
from jit.live.loaded import LoadWatch, executable, module_file, modules
from jit.live.target import Target
from tests.live_programs import compiled, none_left

pytestmark = pytest.mark.needs("gcc")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with none_left():
        yield


LOADER = """
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static int turns(const char *path, int count)
{
    int sum = 0;
    for (int i = 0; i < count; i++) {
        void *library = dlopen(path, RTLD_NOW);
        if (!library) return puts(dlerror()), 1;
        sum += ((int (*)(int))dlsym(library, "plus"))(i);
        dlclose(library);
    }
    return sum;
}
int main(int argc, char **argv)
{
    int count = atoi(argv[2]), status = 0;
    printf("%d\\n", turns(argv[1], count));
    fflush(stdout);
    if (argc > 3) {
        if (fork() == 0) _exit(turns(argv[1], count) & 127);
        wait(&status);
    }
    return WEXITSTATUS(status);
}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("loading")
    compiled(directory, "loader", LOADER)
    compiled(directory, "static", "int main() { return 3; }", "-static", "-s")
    compiled(directory, "libplus.so", "int plus(int n) { return n + 1; }", "-shared", "-fPIC")
    return directory


def watched(built: Path, *arguments: str) -> tuple[list[str], int]:
    """The names loaded (+) and unloaded (-), and the exit status."""
    target = Target.spawn([str(built / "loader"), str(built / "libplus.so"), *arguments], env={"PATH": "/usr/bin"})
    seen: list[str] = []
    watches: dict[int, tuple[PageFaults, LoadWatch]] = {}

    def watch(faults: PageFaults, load_watch: LoadWatch | None) -> None:
        assert load_watch is not None
        watches[faults.descriptor] = (faults, load_watch)
        target.tracer.watch(faults.descriptor)

    faults = PageFaults(target)
    watch(faults, LoadWatch.install(target, faults))
    status = -1
    for event in target.events(60):
        if isinstance(event, Readable):
            faults, load_watch = watches[event.descriptor]
            for fault in faults.read():
                assert load_watch.owns(fault)
                changes = load_watch.look()
                seen += ["+" + Path(module.path).name for module in changes.loaded]
                seen += ["-" + Path(module.path).name for module in changes.unloaded]
                load_watch.go_on(fault)
        elif isinstance(event, Forked):
            faults = PageFaults(event.child)
            watch(faults, next(iter(watches.values()))[1].follow(event.child, faults))
        elif isinstance(event, Exited) and event.target is target:
            status = event.status
            break
    for faults, _ in watches.values():
        target.tracer.unwatch(faults.descriptor)
        faults.close()
    return seen, status


def test_every_load_is_told_of(built: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen, status = watched(built, "100")
    assert status == 0
    assert capfd.readouterr().out == "5050\n"
    assert seen[0] == "+libc.so.6"
    assert seen[1:] == ["+libplus.so", "-libplus.so"] * 100


def test_forked_child_is_followed(built: Path) -> None:
    seen, status = watched(built, "40", "fork")
    assert status == 820 & 127
    assert seen[1:] == ["+libplus.so", "-libplus.so"] * 80


def test_static_program_loads_nothing(built: Path) -> None:
    target = Target.spawn([str(built / "static")])
    faults = PageFaults(target)
    assert LoadWatch.install(target, faults) is None
    assert [Path(module.path).name for module in modules(target)] == ["static", "[vdso]"]
    faults.close()
    assert [event.status for event in target.events(30) if isinstance(event, Exited)] == [3]


def test_modules_as_their_headers_say(built: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        while "libc" not in Path(f"/proc/{process.pid}/maps").read_text():
            pass
        target = Target.attach(process.pid)
        found = modules(target)
        main = executable(target, found)
        assert main is not None
        assert Path(main.path).samefile(sys.executable)
        for module in found:
            file = module_file(target, module)
            assert (file is None) == (module.path == "[vdso]")
            assert target.read(module.start, 4) == b"\x7fELF"
        target.detach()
        process.communicate(b"\n", timeout=30)


def test_tracer_killed_while_somebody_loads(built: Path, tmp_path: Path) -> None:
    """A program that loads 2,000 times; the tracer goes in the middle, without a word."""
    script = tmp_path / "tracer.py"
    script.write_text(f"""
import os, sys
sys.path[:0] = {sys.path!r}
from jit.live.events import Readable
from jit.live.faults import PageFaults
from jit.live.loaded import LoadWatch
from jit.live.target import Target
target = Target.spawn([{str(built / "loader")!r}, {str(built / "libplus.so")!r}, "2000"])
faults = PageFaults(target)
watch = LoadWatch.install(target, faults)
target.tracer.watch(faults.descriptor)
print(target.pid, flush=True)
seen = 0
for event in target.events():
    if isinstance(event, Readable):
        for fault in faults.read():
            seen += 1
            if seen == 100:
                os.kill(os.getpid(), 9)  # the thread sleeps
            watch.go_on(fault)
""")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as tracer:
        output, _ = tracer.communicate(timeout=60)
    assert tracer.returncode == -signal.SIGKILL
    assert output.splitlines()[1:] == [str(2000 * 2001 // 2)]
