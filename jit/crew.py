"""Forked copies of this process that share out one kind of work.

They know what this process knows when they start, at no cost, so what is sent is small: tasks to them, results back.
They end with this process, however it ends.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import selectors
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Generic, TypeVar, cast

from codecache.frames import Frames, frame
from lifter.errors import ProbeloomError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD: Final = 2
"""Tasks that a member has at most: the next one is there when it ends one."""


@dataclass(slots=True, eq=False)
class _Member(Generic[T]):
    process: int
    requests: BinaryIO
    answers: int
    tasks: deque[T] = field(default_factory=deque)
    received: Frames = field(default_factory=Frames)


class Crew(Generic[T, R]):
    """Some processes that do `work` for each task, until `close` ends them.

    A ProbeloomError that `work` raises is raised here; any other becomes one.
    """

    def __init__(self, size: int, work: Callable[[T], R]) -> None:
        self._members: list[_Member[T]] = []
        self._selector = selectors.DefaultSelector()
        gc.freeze()  # what is shared shall not be written to by looking for cycles
        try:
            for _ in range(size):
                self._start(work)
        finally:
            gc.unfreeze()

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for member in self._members:
            os.kill(member.process, signal.SIGKILL)
            with contextlib.suppress(BrokenPipeError):  # of what is still in the buffer
                member.requests.close()
            os.close(member.answers)
            os.waitpid(member.process, 0)
        self._members.clear()
        self._selector.close()

    def _start(self, work: Callable[[T], R]) -> None:
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        process = os.fork()
        if not process:
            try:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_DFL)
                for descriptor in (request_write, answer_read, *(m.answers for m in self._members)):
                    os.close(descriptor)
                for member in self._members:
                    os.close(member.requests.fileno())
                _serve(work, request_read, os.fdopen(answer_write, "wb"))
            finally:
                os._exit(1)
        os.close(request_read)
        os.close(answer_write)
        member = _Member[T](process, os.fdopen(request_write, "wb"), answer_read)
        self._selector.register(answer_read, selectors.EVENT_READ, member)
        self._members.append(member)

    @property
    def wants(self) -> bool:
        """Whether a task would be begun with soon."""
        return any(len(member.tasks) < _AHEAD for member in self._members)

    @property
    def busy(self) -> bool:
        """Whether results are to come."""
        return any(member.tasks for member in self._members)

    def send(self, task: T) -> None:
        """Give a task to the member that has least to do."""
        member = min(self._members, key=lambda member: len(member.tasks))
        member.tasks.append(task)
        with contextlib.suppress(BrokenPipeError):  # it died: `receive` says so
            member.requests.write(frame(task))
            member.requests.flush()

    def receive(self) -> list[R]:
        """Wait for results: at least one, if one is to come. Raises ProbeloomError where a member fails."""
        results: list[R] = []
        while self.busy and not results:
            for key, _ in self._selector.select():
                results += self._read(key.data)
        return results

    def _read(self, member: _Member[T]) -> list[R]:
        content = os.read(member.answers, 1 << 20)
        if not content:
            raise ProbeloomError("a process that was to help ended without a word: is memory short?")
        results: list[R] = []
        for answer in member.received.feed(content):
            if isinstance(answer, ProbeloomError):
                raise answer
            member.tasks.popleft()
            results.append(cast(R, answer))
        return results


def _read_tasks(requests: int, tasks: queue.SimpleQueue[T]) -> None:
    frames = Frames()
    while content := os.read(requests, 1 << 20):
        for task in frames.feed(content):
            tasks.put(cast(T, task))
    os._exit(0)


def _serve(work: Callable[[T], R], requests: int, answers: BinaryIO) -> None:
    """What a member does until there are no more requests."""
    # Requests are always taken: while an answer is written, the other side may be writing, too.
    tasks: queue.SimpleQueue[T] = queue.SimpleQueue()
    threading.Thread(target=_read_tasks, args=(requests, tasks), daemon=True).start()
    while True:
        task = tasks.get()
        answer: R | ProbeloomError
        try:
            answer = work(task)
        except ProbeloomError as error:
            answer = error
        except Exception as error:
            answer = ProbeloomError("".join(traceback.format_exception(error)))
        answers.write(frame(answer))
        answers.flush()
