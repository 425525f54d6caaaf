"""LLVM at work while the builder serves first calls: a thread waits for the compilers, so that the builder does not."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from codecache.pool import Compiler
from jit.compiled import Result, compile_regions
from jit.prepare import Work


@dataclass(frozen=True, slots=True)
class Wanted:
    """A function that is to be compiled."""

    module: int
    work: Work


class Improver:
    """Functions on their way through the compilers. Close it, or its thread outlives all else."""

    def __init__(self, compiler: Compiler) -> None:
        """`compiler` is used by nobody else from now on, and closed in the end."""
        self._compiler = compiler
        self._wanted: queue.SimpleQueue[Wanted | None] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[tuple[Wanted, list[Result]] | Exception] = queue.SimpleQueue()
        self._reader, self._writer = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """For select: readable when `made` has something."""
        return self._reader

    def want(self, wanted: Wanted) -> None:
        """Have a function compiled."""
        self._wanted.put(wanted)

    def made(self) -> Iterator[tuple[Wanted, list[Result]]]:
        """What is done, with the results for its regions; waits for at least one. Raises what the compilers raised."""
        for _ in os.read(self._reader, 1 << 12):
            found = self._made.get()
            if isinstance(found, Exception):
                raise found
            yield found

    def close(self) -> None:
        """End it. What was wanted and is not done yet is not done."""
        self._wanted.put(None)
        self._thread.join()
        self._compiler.close()
        os.close(self._reader)
        os.close(self._writer)

    def _run(self) -> None:
        try:
            while (first := self._wanted.get()) is not None:
                batch = [first]
                while not self._wanted.empty():
                    further = self._wanted.get()
                    if further is None:
                        return
                    batch.append(further)
                self._compile(batch)
        except Exception as failure:
            self._put(failure)

    def _compile(self, batch: Sequence[Wanted]) -> None:
        regions = [wanted.work.code.all_regions for wanted in batch]
        results = iter(compile_regions(self._compiler, [region for some in regions for region in some]))
        for wanted, some in zip(batch, regions, strict=True):
            self._put((wanted, [next(results) for _ in some]))

    def _put(self, found: tuple[Wanted, list[Result]] | Exception) -> None:
        self._made.put(found)
        os.write(self._writer, b"\0")
