"""Compile many regions in worker processes, and survive whatever LLVM does with one of them.

A worker that dies or hangs takes its batch with it: the regions of that batch are then sent one by one, so that the
one at fault is known and becomes a `CompileFailure`.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import cast

from codecache.compiler import Result
from codecache.encoding import decode, encode, source_key
from codecache.frames import Frames, frame
from codecache.store import Store
from codecache.types import CompiledRegion, CompileFailure, RegionSource
from codecache.worker import Response
from lifter.errors import ProbeloomError

_BATCH_REGIONS = 96
_BATCH_TEXT = 1 << 18
"""A batch is full with this many regions or characters: LLVM's memory for it stays in the tens of MB."""
_AHEAD = 2
"""Batches a worker has been given at most: the next one is there when it ends one."""
_CHUNK = 32
"""Regions asked for and looked up in the store at a time: the workers' needs are seen to in between."""
_WRITE = 512
"""Results written to the store at a time."""
_STARTING = 60.0
"""Seconds that a worker may take more when it starts."""
_START = "from codecache.worker import main; main()"


@dataclass(slots=True)
class _Batch:
    keys: list[bytes]
    sources: list[RegionSource]
    retried: bool = False
    """Whether the one region in it went down with a killed worker before."""


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    log: int
    """Descriptor of an unnamed file that takes what LLVM prints."""
    batches: deque[_Batch] = field(default_factory=deque)
    received: Frames = field(default_factory=Frames)
    since: float = 0.0
    """When it began with its first batch."""
    ready: bool = False
    """Whether it has said that it started well."""
    memory: int = 0
    """KiB."""


class Compiler:
    """Persistent worker processes that compile regions. A context manager; `close` ends the processes.

    They start when there is work for them, and end with this process, however it ends.
    """

    def __init__(
        self, jobs: int = 1, store: Store | None = None, *, timeout: float = 120.0, memory: int = 1 << 30
    ) -> None:
        """`timeout`: seconds a batch may take; `memory`: bytes from which on a worker is replaced by a new one."""
        self.jobs = max(1, jobs)
        self.store = store
        self.timeout = timeout
        self.memory = memory
        self.hits = 0
        """Distinct regions that came out of the store."""
        self.misses = 0
        """Distinct regions that were compiled."""
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._queue: deque[_Batch] = deque()

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, whatever they are at."""
        for worker in list(self._workers):
            self._end(worker)
        self._queue.clear()
        self._selector.close()
        self._selector = selectors.DefaultSelector()

    def start(self) -> None:
        """Start the workers now, so that they are ready when the first regions come."""
        while len(self._workers) < self.jobs:
            self._start()

    def compile_all(
        self, sources: Iterable[RegionSource | CompiledRegion], progress: Callable[[int], None] | None = None
    ) -> Iterator[tuple[int, Result]]:
        """Compile regions; yield (index, result) in the order in which they get ready. One call at a time.

        `sources` may be a generator: it is only asked for more while the workers have enough to do, and what it does
        goes on beside them. Equal sources are compiled once; a region that needs no compiler is its own result.
        `progress` is called with the number of results so far.
        """
        waiting: dict[bytes, list[int]] = {}
        """Key of a source that is being compiled -> the indices that want it."""
        known: dict[bytes, bytes] = {}
        fresh: dict[bytes, bytes] = {}
        """Results to be stored."""
        pending: list[tuple[bytes, RegionSource]] = []
        """Regions of the next batch."""
        done = 0
        numbered = enumerate(sources)
        more = True
        try:
            while more or waiting:
                ready: list[tuple[int, Result]] = []
                if more and len(self._queue) < 2 * self.jobs:
                    chunk = list(islice(numbered, _CHUNK))
                    more = len(chunk) == _CHUNK
                    ready += self._sort(chunk, waiting, known, pending)
                    self._fill(pending, all_of_it=not more)
                wait = bool(waiting) and not ready and not (more and len(self._queue) < 2 * self.jobs)
                for key, content, lasting in self._poll(wait):
                    known[key] = content
                    if lasting:
                        fresh[key] = content
                    result = decode(content)
                    ready += [(index, result) for index in waiting.pop(key)]
                if self.store is not None and (len(fresh) >= _WRITE or not waiting):
                    self.store.put_many(fresh)
                    fresh = {}
                for index, result in ready:
                    done += 1
                    if progress is not None:
                        progress(done)
                    yield index, result
        finally:
            if self.store is not None and fresh:
                self.store.put_many(fresh)
            if waiting:
                self.close()

    def _sort(
        self,
        chunk: list[tuple[int, RegionSource | CompiledRegion]],
        waiting: dict[bytes, list[int]],
        known: dict[bytes, bytes],
        pending: list[tuple[bytes, RegionSource]],
    ) -> list[tuple[int, Result]]:
        """Split new regions into those with a result, which are returned, and those to compile."""
        ready: list[tuple[int, Result]] = []
        keyed = []
        for index, source in chunk:
            if isinstance(source, CompiledRegion):
                ready.append((index, source))
            else:
                keyed.append((index, source, source_key(source)))
        unknown = [key for _, _, key in keyed if key not in known and key not in waiting]
        decoded: dict[bytes, Result] = {}
        if self.store is not None:
            for key, content in self.store.get_many(unknown).items():
                with contextlib.suppress(ValueError):
                    decoded[key] = decode(content)
                    known[key] = content
            self.hits += len(decoded)
        for index, source, key in keyed:
            if key in known:
                ready.append((index, decoded.get(key) or decode(known[key])))
            elif key in waiting:
                waiting[key].append(index)
            else:
                waiting[key] = [index]
                self.misses += 1
                pending.append((key, source))
        return ready

    def _fill(self, pending: list[tuple[bytes, RegionSource]], all_of_it: bool) -> None:
        """Make batches of regions of one kind."""
        pending.sort(key=lambda item: (item[1].passes, item[1].features))
        batch = _Batch([], [])
        size = 0
        kind = None
        for key, source in pending:
            this = (source.passes, source.features)
            full = len(batch.keys) >= _BATCH_REGIONS or size + len(source.text) > _BATCH_TEXT
            if batch.keys and (full or this != kind):
                self._queue.append(batch)
                batch, size = _Batch([], []), 0
            kind = this
            batch.keys.append(key)
            batch.sources.append(source)
            size += len(source.text)
        pending.clear()
        if all_of_it and batch.keys:
            self._queue.append(batch)
        else:
            pending.extend(zip(batch.keys, batch.sources, strict=True))

    def _poll(self, wait: bool) -> list[tuple[bytes, bytes, bool]]:
        """Give the workers work and take results: (key, encoded result, whether it would be the same again).

        Raises ProbeloomError where a worker does not even start.
        """
        self._feed()
        results: list[tuple[bytes, bytes, bool]] = []
        while True:
            for selected, _ in self._selector.select(0.2 if wait else 0):
                results += self._receive(selected.data)
            now = time.monotonic()
            for worker in [w for w in self._workers if w.batches and now - w.since > self._patience(w)]:
                results += self._lose(worker, f"compiling took more than {self.timeout:g} seconds")
            self._feed()
            if results or not wait:
                return results

    def _patience(self, worker: _Worker) -> float:
        return self.timeout if worker.ready else self.timeout + _STARTING

    def _feed(self) -> None:
        while self._queue:
            worker = min(self._workers, key=lambda w: len(w.batches), default=None)
            if (worker is None or worker.batches) and len(self._workers) < self.jobs:
                worker = self._start()
            if worker is None or len(worker.batches) >= _AHEAD:
                return
            batch = self._queue.popleft()
            if not worker.batches:
                worker.since = time.monotonic()
            worker.batches.append(batch)
            assert worker.process.stdin is not None
            fields = [(s.text, s.shift, s.shift_framed, s.passes, s.features, s.loose) for s in batch.sources]
            try:
                worker.process.stdin.write(frame(fields))
                worker.process.stdin.flush()
            except BrokenPipeError:
                return  # it died: `_receive` sees the end of its output

    def _start(self) -> _Worker:
        log = os.memfd_create("probeloom-worker")  # no directory is needed for it, and none may be writable
        path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": path},
        )
        worker = _Worker(process, log)
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._workers.append(worker)
        return worker

    def _end(self, worker: _Worker) -> None:
        """Kill a worker and let go of all that is its."""
        assert worker.process.stdin is not None
        assert worker.process.stdout is not None
        self._workers.remove(worker)
        self._selector.unregister(worker.process.stdout)
        worker.process.kill()
        with contextlib.suppress(BrokenPipeError):  # of what is still in the buffer
            worker.process.stdin.close()
        worker.process.stdout.close()
        worker.process.wait()
        os.close(worker.log)

    def _receive(self, worker: _Worker) -> list[tuple[bytes, bytes, bool]]:
        """Read what a worker sent; its end, if it sent that."""
        assert worker.process.stdout is not None
        content = os.read(worker.process.stdout.fileno(), 1 << 20)
        if not content:
            worker.process.wait()
            return self._lose(worker, "")
        results: list[tuple[bytes, bytes, bool]] = []
        for response in worker.received.feed(content):
            worker.memory, encoded = cast(Response, response)
            worker.since = time.monotonic()
            if not worker.ready:
                worker.ready = True
                continue
            batch = worker.batches.popleft()
            results += [(key, result, True) for key, result in zip(batch.keys, encoded, strict=True)]
        if results and worker.memory << 10 > self.memory:
            self._queue.extendleft(reversed(worker.batches))
            self._end(worker)
        return results

    def _lose(self, worker: _Worker, reason: str) -> list[tuple[bytes, bytes, bool]]:
        """A worker died or hangs: find out which region it was, or say so if it is known."""
        code = worker.process.returncode
        said = os.pread(worker.log, 1 << 16, max(0, os.fstat(worker.log).st_size - (1 << 16)))
        batches = list(worker.batches)
        self._end(worker)
        if not worker.ready:
            raise ProbeloomError(f"a compile worker does not start: {_essence(said.decode(errors='replace'), code)}")
        if not batches:
            return []
        first, rest = batches[0], batches[1:]
        self._queue.extendleft(reversed(rest))
        if len(first.keys) > 1:
            for key, source in zip(reversed(first.keys), reversed(first.sources), strict=True):
                self._queue.appendleft(_Batch([key], [source]))
            return []
        killed = code == -signal.SIGKILL and not reason
        if killed and not first.retried:
            first.retried = True
            self._queue.appendleft(first)
            return []
        failure = CompileFailure(reason or f"LLVM gave up: {_essence(said.decode(errors='replace'), code)}")
        return [(first.keys[0], encode(failure), not reason and not killed)]


def _essence(said: str, code: int | None) -> str:
    """The line of a worker's last words that says what is wrong."""
    lines = [line.strip() for line in said.splitlines()]
    for mark in ("error:", "LLVM ERROR", "Assertion", "UNREACHABLE", "Error"):
        for line in reversed(lines):
            if mark in line:
                return line[:300]
    if code is None:
        return "it hangs"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
