"""Services under load, attached to again and again: no request may fail, and nothing may be left behind.

python -m tests.live_services [--times 10] [--seconds 10] [SERVICE...]     nginx, redis, postgres, python

For each service: the 100 functions that it calls most get a probe at their entry, while a load runs. Memory and latency
are shown beside those of the same load without probeloom.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tool import ROOT, Tool

_FUNCTIONS = 100
_MEMORY_KB = 1024
"""More private memory than that must not be left behind."""
_STARTING = 30.0


@dataclass(slots=True)
class Load:
    """What a load saw."""

    requests: int = 0
    failed: int = 0
    p99: list[float] = field(default_factory=list)
    """Milliseconds, of each of its parts."""
    longest: float = 0.0

    def __str__(self) -> str:
        p99 = f"{statistics.median(self.p99):.1f}" if self.p99 else "?"
        return f"{self.requests:,} requests, {self.failed} failed, p99 {p99} ms, longest {self.longest:.1f} ms"


class Service(ABC):
    """A server, and a load for it. Runs in a directory of its own."""

    candidates = "entry:*"
    """Among these functions, those that it calls most are looked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = _free_port()

    @abstractmethod
    def start(self) -> subprocess.Popen[bytes]:
        """Start it."""

    def pid(self, process: subprocess.Popen[bytes]) -> int:
        """The process to attach to."""
        return process.pid

    @abstractmethod
    def load(self, stop: threading.Event) -> Load:
        """Ask it until told to stop."""


class Nginx(Service):
    """wrk, four connections that are kept."""

    def start(self) -> subprocess.Popen[bytes]:
        (self.directory / "index.html").write_text("hello\n" * 100)
        text = f"""
            daemon off; worker_processes 1; pid {self.directory}/pid; error_log {self.directory}/error.log;
            events {{ worker_connections 64; }}
            http {{ access_log off; server {{ listen 127.0.0.1:{self.port}; root {self.directory}; }} }}
        """
        self.directory.chmod(0o755)
        (self.directory / "nginx.conf").write_text(text)
        return subprocess.Popen(["nginx", "-p", self.directory, "-c", self.directory / "nginx.conf"])

    def pid(self, process: subprocess.Popen[bytes]) -> int:
        return _children(process.pid)[0]

    def load(self, stop: threading.Event) -> Load:
        url = f"http://127.0.0.1:{self.port}/index.html"
        command = ["wrk", "-t1", "-c4", "-d3600s", "--timeout", "30s", "--latency", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
            stop.wait()
            wrk.send_signal(signal.SIGINT)
            said, _ = wrk.communicate()
        requests = re.search(r"(\d+) requests in", said)
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
        failed = sum(map(int, errors.groups())) if errors else 0
        other = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
        failed += int(other[1]) if other else 0
        longest = re.search(r"Latency\s+\S+\s+\S+\s+(\S+)", said)
        p99 = re.search(r"99%\s+(\S+)", said)
        if requests is None or longest is None or p99 is None:
            return Load(failed=1)
        return Load(int(requests[1]), failed, [_milliseconds(p99[1])], _milliseconds(longest[1]))


class Redis(Service):
    """redis-benchmark, again and again."""

    def start(self) -> subprocess.Popen[bytes]:
        options = ["--port", str(self.port), "--save", "", "--dir", str(self.directory)]
        return subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)

    def load(self, stop: threading.Event) -> Load:
        load = Load()
        kinds = "set,get,incr"
        command = ["redis-benchmark", "-p", str(self.port), "-c", "4", "-n", "4000", "-t", kinds, "-r", "1000", "--csv"]
        while not stop.is_set():
            done = subprocess.run(command, capture_output=True, text=True)
            rows = [line.strip('"').split('","') for line in done.stdout.splitlines() if line.startswith('"')][1:]
            load.requests += 4000 * len(rows)
            load.failed += done.returncode != 0 or len(rows) != 3 or "rror" in done.stderr
            load.p99 += [float(row[6]) for row in rows]
            load.longest = max([load.longest, *(float(row[7]) for row in rows)])
        return load


class Postgres(Service):
    """pgbench for all the time, with one connection: its backend is attached to."""

    def start(self) -> subprocess.Popen[bytes]:
        shutil.chown(self.directory, "postgres")
        self.programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
        self._as_user(self.programs / "initdb", "-D", self.directory / "data", "--auth=trust")
        options = f"-p {self.port} -k {self.directory} -c listen_addresses= -c shared_buffers=32MB"
        as_user = ["runuser", "-u", "postgres", "--"]
        program = [*as_user, self.programs / "postgres", "-D", self.directory / "data", *options.split()]
        server = subprocess.Popen(program, stderr=subprocess.DEVNULL)
        while not (self.directory / f".s.PGSQL.{self.port}").exists():
            time.sleep(0.1)
        time.sleep(1)
        self._as_user("pgbench", "-i", "-s", "1", *self._where)
        command = ["runuser", "-u", "postgres", "--", "pgbench", "-n", "-c", "1", "-T", "36000", "-l", *self._where]
        self.client = subprocess.Popen(command, cwd=self.directory, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(1)
        return server

    @property
    def _where(self) -> list[str]:
        return ["-h", str(self.directory), "-p", str(self.port), "postgres"]

    def _as_user(self, *command: str | Path) -> None:
        done = ["runuser", "-u", "postgres", "--", *map(str, command)]
        subprocess.run(done, check=True, capture_output=True, cwd=self.directory)

    def pid(self, process: subprocess.Popen[bytes]) -> int:
        for pid in _descendants(process.pid):
            if b"[local]" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise RuntimeError("no backend")

    def load(self, stop: threading.Event) -> Load:
        (log,) = self.directory.glob("pgbench_log.*")
        with log.open() as lines:
            lines.seek(0, os.SEEK_END)
            stop.wait()
            rows = [line.split() for line in lines.read().splitlines()[1:-1]]
        took = sorted(int(row[2]) / 1000 for row in rows)
        failed = int(self.client.poll() is not None)
        return Load(len(rows), failed, [took[len(took) * 99 // 100]] if took else [], took[-1] if took else 0.0)


class Python(Service):
    """ab against the threaded server of Python's library."""

    candidates = "entry:Py[DLTU]*"

    def start(self) -> subprocess.Popen[bytes]:
        (self.directory / "index.html").write_text("hello\n" * 100)
        command = ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", str(self.port)]
        return subprocess.Popen(command, cwd=self.directory, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def load(self, stop: threading.Event) -> Load:
        load = Load()
        command = ["ab", "-q", "-n", "100", "-c", "4", "-s", "60", f"http://127.0.0.1:{self.port}/index.html"]
        while not stop.is_set():
            done = subprocess.run(command, capture_output=True, text=True)
            found = {
                name: float(match[1]) if (match := re.search(pattern, done.stdout)) else 0.0
                for name, pattern in (
                    ("complete", r"Complete requests:\s+(\d+)"),
                    ("failed", r"Failed requests:\s+(\d+)"),
                    ("other", r"Non-2xx responses:\s+(\d+)"),
                    ("99", r"\s99%\s+(\d+)"),
                    ("100", r"100%\s+(\d+)"),
                )
            }
            load.requests += int(found["complete"])
            load.failed += int(found["failed"] + found["other"]) + (done.returncode != 0)
            load.p99.append(found["99"])
            load.longest = max(load.longest, found["100"])
        return load


SERVICES: dict[str, type[Service]] = {"nginx": Nginx, "redis": Redis, "postgres": Postgres, "python": Python}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _descendants(child)


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\D+)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[unit]


def memory(pid: int) -> dict[str, int]:
    """KiB: private pages, those of shared memory, and the number of mappings."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    status = Path(f"/proc/{pid}/status").read_text()

    def of(name: str, text: str) -> int:
        match = re.search(rf"^{name}:\s+(\d+)", text, re.M)
        return int(match[1]) if match else 0

    private = of("Private_Dirty", rollup) + of("Private_Clean", rollup)
    maps = len(Path(f"/proc/{pid}/maps").read_text().splitlines())
    return {"private": private, "anonymous": of("RssAnon", status), "shared": of("RssShmem", status), "maps": maps}


@contextmanager
def loaded(service: Service) -> Iterator[list[Load]]:
    """The load, for as long as the block takes. The list has what it saw afterwards."""
    stop = threading.Event()
    found: list[Load] = []
    thread = threading.Thread(target=lambda: found.append(service.load(stop)))
    thread.start()
    time.sleep(0.5)
    try:
        yield found
        time.sleep(0.5)
    finally:
        stop.set()
        thread.join()


def attach(tool: Tool, pid: int, seconds: float, probes: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The report of an attach, and what went wrong."""
    command = [*tool.command, "attach", str(pid), f"--for={seconds:g}s", "--format=json", "--jobs=1"]
    command += [f"--probe={probe}" for probe in probes]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **tool.environment}, cwd=ROOT)
    problem = done.stderr.decode().strip()
    return (json.loads(done.stdout) if done.returncode == 0 else {"probes": []}), problem


def most_called(tool: Tool, service: Service, pid: int) -> list[str]:
    """Probes for the functions that the service calls most under its load."""
    with loaded(service):
        report, problem = attach(tool, pid, 2, [service.candidates])
    if problem:
        print(f"  {problem}")
    rows = sorted(report["probes"], key=lambda row: -row["count"])
    names = dict.fromkeys(row["function"] for row in rows)
    return [f"entry:{name}" for name in names if re.fullmatch(r"\w+", name)][:_FUNCTIONS]


def campaign(service: Service, tool: Tool, times: int, seconds: float) -> int:
    """Attach that often; returns how many times something was wrong."""
    process = service.start()
    wrong = 0
    try:
        time.sleep(1)
        pid = service.pid(process)
        probes = most_called(tool, service, pid)
        before = memory(pid)
        for _ in range(2):
            with loaded(service) as control:
                time.sleep(seconds)
            print(f"  without: {control[0]}; {memory(pid)}", flush=True)
        first = memory(pid)
        for number in range(times):
            with loaded(service) as load:
                begin = time.monotonic()
                report, problem = attach(tool, pid, seconds, probes)
                took = time.monotonic() - begin
            hit = sum(row["count"] > 0 for row in report["probes"])
            now = memory(pid)
            bad = bool(problem) or bool(load[0].failed) or not hit or process.poll() is not None
            wrong += bad
            shown = f"{hit} of {len(report['probes'])} functions called, {took:.1f} s"
            print(f"  {number + 1}: {load[0]}; {shown}; {now} {problem}", flush=True)
        last = memory(pid)
        print(f"  before {before}, before the first {first}, after {last}", flush=True)
        wrong += last["private"] - first["private"] - (last["shared"] - first["shared"]) > _MEMORY_KB
    finally:
        if isinstance(service, Postgres):
            service.client.terminate()
        process.send_signal(signal.SIGINT if isinstance(service, Python) else signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STARTING)
        process.kill()
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.live_services", description="Attach to services under load.")
    parser.add_argument("--times", type=int, default=10, help="%(default)s")
    parser.add_argument("--seconds", type=float, default=10, help="for each (%(default)s)")
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=", ".join(SERVICES))
    options = parser.parse_args()
    wrong = 0
    for name, kind in SERVICES.items():
        if options.services and name not in options.services:
            continue
        with tempfile.TemporaryDirectory() as place:
            directory = Path(place) / name
            directory.mkdir()
            Path(place).chmod(0o755)
            print(f"{name}: {options.times} times {options.seconds:g} seconds", flush=True)
            wrong += campaign(kind(directory), Tool.found(Path(place) / "store"), options.times, options.seconds)
    print(f"{wrong} wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
