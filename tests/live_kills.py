"""Killing probeloom at random moments: the program that it was at must go on, and be right.

python -m tests.live_kills [--kills 20] [--seed 0] [--interrupt] [TARGET...]

That many for each target and each way of use. With --interrupt it is Ctrl-C in place of SIGKILL.

Targets are a C, a Go and a Python program whose threads check their results. Each is started under `run`, attached to,
and has its probes disabled and enabled by a session, until SIGKILL comes: to the tracer alone (`run`, `attach`), or to
it and all of its helpers at once (the session).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.corpus import tool_path
from tests.live_programs import compiled
from tests.test_live_attach import HAMMER
from tests.tool import ROOT, Tool

_RIGHT = 7
"""Exit status of every target whose results were right."""
_PR_SET_CHILD_SUBREAPER = 36
_INTERRUPTED = 130
_PATIENCE = 90.0

GO = """
package main

import ("bufio"; "fmt"; "os"; "runtime"; "sync"; "sync/atomic")

type node struct { left, right *node; value int }

//go:noinline
func grow(depth, value int) *node {
	if depth == 0 { return nil }
	return &node{grow(depth-1, value*2), grow(depth-1, value*2+1), value}
}

//go:noinline
func (n *node) sum() int {
	if n == nil { return 0 }
	return n.left.sum()*3 ^ n.right.sum() + n.value
}

func main() {
	var stop atomic.Bool
	var wait sync.WaitGroup
	var work [8]int
	for i := range work { work[i] = grow(8, i).sum() }
	for thread := 0; thread < 4; thread++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for turn := 0; !stop.Load(); turn++ {
				if grow(8, turn%8).sum() != work[turn%8] { os.Exit(1) }
				if turn%64 == 0 { runtime.GC() }
			}
		}()
	}
	fmt.Println("begun")
	bufio.NewReader(os.Stdin).ReadString('\\n')
	stop.Store(true)
	wait.Wait()
	os.Exit(7)
}
"""

PYTHON = """
import hashlib, json, re, sys, threading
def work(n):
    text = json.dumps({str(i): [i * n, i / (n + 1)] for i in range(20)}, sort_keys=True)
    return hashlib.sha1(re.sub("[0-5]", "x", text).encode()).hexdigest()
expected = [work(n) for n in range(16)]
stop = False
wrong = []
def run():
    turn = 0
    while not stop:
        if work(turn % 16) != expected[turn % 16]: wrong.append(turn)
        turn += 1
threads = [threading.Thread(target=run) for _ in range(3)]
for thread in threads: thread.start()
print("begun", flush=True)
sys.stdin.readline()
stop = True
for thread in threads: thread.join()
sys.exit(1 if wrong else 7)
"""

SWITCHING = """
import sys
from jit import Session
with Session.attach(int(sys.argv[1]), use_cache=sys.argv[2] == "store") as session:
    handles = [session.instrument(spec) for spec in sys.argv[3:]]
    for _ in range(8):
        for handle in handles: handle.disable()
        for handle in handles: handle.enable()
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A program that goes on until a line comes, and then says by its exit status whether all was right."""

    name: str
    command: tuple[str, ...]
    probes: tuple[str, ...]


def targets(directory: Path) -> list[Target]:
    """Those that can be built here."""
    c = compiled(directory, "hammer", HAMMER)
    found = [Target("c", (str(c), "4"), ("block:*", "entry:libc.so.6!snprintf"))]
    go = tool_path("go")
    if go is not None:
        source = directory / "trees.go"
        source.write_text(GO)
        cache = f"{os.environ.get('BUILT', directory)}/go-cache"
        environment = {**os.environ, "GO111MODULE": "off", "GOCACHE": cache, "CGO_ENABLED": "0"}
        subprocess.run([go, "build", "-o", directory / "trees", source], check=True, env=environment)
        found.append(Target("go", (str(directory / "trees"),), ("block:main.*",)))
    python = shutil.which("python3", path="/usr/bin:/bin")
    if python is not None:
        script = directory / "work.py"
        script.write_text(PYTHON)
        found.append(Target("python", (python, str(script)), ("entry:PyDict_*", "block:PyUnicode_*")))
    return found


class Campaign:
    """Kills for one target."""

    def __init__(self, target: Target, tool: Tool, chance: random.Random, number: signal.Signals) -> None:
        self.target = target
        self.tool = tool
        self.chance = chance
        self.signal = number
        """What comes at a random moment."""
        self.environment = {**os.environ, **tool.environment}
        self.moments: Counter[str] = Counter()
        """What the tracer was at when it was killed."""
        self.seconds = 0.0
        """For how long the target was traced by `beside`."""

    def attach(self, pid: int, cached: bool) -> subprocess.Popen[bytes]:
        """`probeloom attach`, for a moment."""
        return self._start([*self.tool.command, "attach", str(pid), "--for=300ms", *self._options(cached)])

    def switch(self, pid: int, cached: bool) -> subprocess.Popen[bytes]:
        """A session that disables and enables its probes again and again."""
        how = "store" if cached else "none"
        return self._start([sys.executable, "-c", SWITCHING, str(pid), how, *self.target.probes])

    def _options(self, cached: bool) -> list[str]:
        probes = [f"--probe={probe}" for probe in self.target.probes]
        return [*probes, "--output=/dev/null", *([] if cached else ["--no-cache"])]

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            command, stdin=quiet, stdout=quiet, stderr=quiet, env=self.environment, cwd=ROOT, start_new_session=True
        )

    def beside(self, begin: Callable[[int, bool], subprocess.Popen[bytes]], cached: bool, after: float) -> str:
        """Start the target, `begin` to trace it, and kill that after so many seconds. Returns what went wrong.

        The seconds count from when it is traced.
        """
        with subprocess.Popen(self.target.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            if process.stdout.readline() != b"begun\n":
                return "it did not begin"
            tracer = begin(process.pid, cached)
            _await(lambda: _is_traced(process.pid) or tracer.poll() is not None)
            start = time.monotonic()
            with suppress(subprocess.TimeoutExpired):
                tracer.wait(after)
            self.seconds = time.monotonic() - start
            self.moments[_moment(process.pid, tracer)] += 1
            problem = self._kill(tracer, alone=begin == self.attach)
            time.sleep(0.1)
            return _end(process) or problem

    def under_run(self, cached: bool, after: float) -> str:
        """Start the target under `run`, and kill that so many seconds after the target is there."""
        command = [*self.tool.command, "run", *self._options(cached), "--", *self.target.command]
        pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
        with subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=quiet, env=self.environment, cwd=ROOT
        ) as tracer:
            _await(lambda: bool(self._started(tracer)) or tracer.poll() is not None)
            time.sleep(after)
            orphans = self._started(tracer)
            self.moments[_moment(orphans[0], tracer) if orphans else "before"] += 1
            tracer.send_signal(self.signal)
            if self.signal == signal.SIGKILL:
                tracer.wait()
            assert tracer.stdin is not None and tracer.stdout is not None
            if tracer.stdout.readline():
                time.sleep(1)  # each thread shall do something
            with suppress(BrokenPipeError):
                tracer.stdin.write(b"\n")
                tracer.stdin.close()
            if self.signal != signal.SIGKILL:
                # The program decides what comes of Ctrl-C, and has not got any.
                status = _waited(tracer)
                return "" if status == _RIGHT or (status == _INTERRUPTED and not orphans) else f"run ends with {status}"
            problems = [problem for pid in orphans if (problem := _reap(pid))]
            return ", ".join(problems)

    def until_begun(self, cached: bool) -> float:
        """Seconds from when the target is there until it has begun, under `run`."""
        command = [*self.tool.command, "run", *self._options(cached), "--", *self.target.command]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=self.environment, cwd=ROOT) as process:
            assert process.stdout is not None
            _await(lambda: bool(self._started(process)))
            start = time.monotonic()
            process.stdout.readline()
            took = time.monotonic() - start
            process.communicate(b"\n", timeout=_PATIENCE)
        return took

    def _started(self, tracer: subprocess.Popen[bytes]) -> list[int]:
        return [pid for pid in _children(tracer.pid) if _command_of(pid) == list(self.target.command)]

    def _kill(self, tracer: subprocess.Popen[bytes], alone: bool) -> str:
        is_over = tracer.poll() is not None
        with suppress(ProcessLookupError):
            if alone:
                tracer.send_signal(self.signal)
            else:
                os.killpg(tracer.pid, self.signal)
        status = _waited(tracer)
        if is_over or self.signal == signal.SIGKILL or status in (0, _INTERRUPTED, -self.signal):
            return ""
        return f"the tracer ends with {status}"


def _waited(process: subprocess.Popen[bytes]) -> int | None:
    """The exit status of a process that should end now; None if it does not."""
    try:
        return process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return None


def _await(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not true() and time.monotonic() < deadline:
        time.sleep(0.005)


def _is_traced(pid: int) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


def _moment(pid: int, tracer: subprocess.Popen[bytes]) -> str:
    if tracer.poll() is not None:
        return "after"
    if not _is_traced(pid):
        return "before"
    return "with a code cache" if "memfd:probeloom" in Path(f"/proc/{pid}/maps").read_text() else "traced"


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def _end(process: subprocess.Popen[bytes]) -> str:
    try:
        process.communicate(b"\n", timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return "it hangs"
    except BrokenPipeError:
        process.wait()
    return "" if process.returncode == _RIGHT else f"it ends with {process.returncode}"


def _reap(pid: int) -> str:
    """What went wrong with an orphan; '' if it ends as it should."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with suppress(ChildProcessError):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                code = os.waitstatus_to_exitcode(status)
                return "" if code == _RIGHT else f"it ends with {code}"
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    return "it hangs"


def run(campaign: Campaign, how: str, kills: int) -> int:
    """Kill that often, in one way of use; returns how many times the target was harmed."""
    ways = {"attach": campaign.attach, "switch": campaign.switch}
    lasts = {}
    for cached in (True, False):
        if how == "run":
            lasts[cached] = campaign.until_begun(cached) + 0.5
        else:
            problem = campaign.beside(ways[how], cached, _PATIENCE)
            if problem:
                print(f"{campaign.target.name}, {how}, not killed: {problem}", flush=True)
                return 1
            lasts[cached] = campaign.seconds
    campaign.moments.clear()
    harmed = 0
    for number in range(kills):
        cached = number % 2 == 0
        after = campaign.chance.uniform(0, lasts[cached])
        problem = campaign.under_run(cached, after) if how == "run" else campaign.beside(ways[how], cached, after)
        if problem:
            harmed += 1
            print(f"{campaign.target.name}, {how}, killed after {after:.3f} s, cached {cached}: {problem}", flush=True)
    shown = ", ".join(f"{count} {what}" for what, count in sorted(campaign.moments.items()))
    print(f"{campaign.target.name}, {how}: {kills} kills ({shown}), {harmed} harmed", flush=True)
    return harmed


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.live_kills", description="Kill the tracer, and look on."
    )
    parser.add_argument("--kills", type=int, default=20, help="for each target and way of use (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--interrupt", action="store_true", help="Ctrl-C in place of SIGKILL")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="c, go, python: all by default")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and theirs
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    harmed = 0
    with tempfile.TemporaryDirectory() as place:
        tool = Tool.found(Path(place) / "store")
        for target in targets(Path(place)):
            if options.targets and target.name not in options.targets:
                continue
            for how in ("attach", "switch", "run"):
                chance = random.Random(f"{options.seed} {target.name} {how}")
                number = signal.SIGINT if options.interrupt else signal.SIGKILL
                harmed += run(Campaign(target, tool, chance, number), how, options.kills)
    print(f"{harmed} harmed")
    return bool(harmed)


if __name__ == "__main__":
    sys.exit(main())
