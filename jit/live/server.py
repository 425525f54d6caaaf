"""The process behind a `Session`: the tracer, told what to do over a socket.

A process cannot trace itself, and the user's program may have threads and children of its own, so the tracer is another
process. Frames are an 8-byte length and a pickle, between two processes of one user and one program.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from codecache.worker import frame
from jit.live.builder import Settings
from jit.live.control import Control
from jit.live.news import News
from jit.live.overview import overview
from jit.live.supervisor import Children, Supervisor
from jit.report import Report
from jit.tracepoints import Spec
from lifter.errors import ProbeloomError

_LENGTH: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Start:
    """The first message: what to follow."""

    settings: Settings
    children: Children
    argv: Sequence[str] = ()
    """A program to start, or none."""
    pid: int = 0
    """A process to attach to otherwise."""


@dataclass(frozen=True, slots=True)
class Do:
    """Every other message: a method of `_Server` with its arguments."""

    what: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to each message."""

    value: Any = None
    problem: ProbeloomError | None = None


def send(channel: socket.socket, message: object) -> None:
    """Send one message."""
    channel.sendall(frame(message))


def receive(channel: socket.socket) -> Any:
    """The next message; None when the other side is gone."""
    head = _exactly(channel, _LENGTH.size)
    if head is None:
        return None
    content = _exactly(channel, *_LENGTH.unpack(head))
    return None if content is None else pickle.loads(content)


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        try:
            part = channel.recv(size - len(parts))
        except ConnectionResetError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)


class _Server:
    """Does what the session asks."""

    def __init__(self, channel: socket.socket, start: Start) -> None:
        self.channel = channel
        self.specs: dict[int, Spec] = {}
        """By the number of the handle."""
        self.off: set[int] = set()
        self.notes: list[str] = []
        self.supervisor = Supervisor([], start.settings, start.children, self.notes.append, keep_modules=True)
        self.supervisor.on_news = self._tell
        if start.argv:
            self.supervisor.spawn(start.argv, hold=True)
        else:
            self.supervisor.attach(start.pid)
        self.supervisor.watch(channel.fileno(), self._serve)
        self.control = Control(self.supervisor)

    def _tell(self, news: News) -> None:
        try:
            send(self.channel, news)
        except OSError:
            self.supervisor.stopping = True

    def _serve(self) -> None:
        request = receive(self.channel)
        if request is None:
            self.supervisor.stopping = True
            return
        send(self.channel, _answer(lambda: getattr(self, request.what)(*request.arguments)))

    def run(self) -> None:
        """Serve until the session ends."""
        try:
            while not self.supervisor.stopping:
                self.supervisor.step(None)
        finally:
            self.control.close()
            self.supervisor.detach()
            self.supervisor.close()

    # What can be asked

    def add(self, handle: int, spec: Spec, probe: Any) -> list[str]:
        """Put a probe into force; returns what could not be done. Raises ProbeloomError."""
        if probe is not None:
            self.supervisor.know_probe(spec.action, probe)
        self.specs[handle] = spec
        try:
            self._apply()
        except ProbeloomError:
            del self.specs[handle]
            raise
        notes, self.notes[:] = list(self.notes), []
        return notes

    def switch(self, handle: int, on: bool) -> None:
        """Enable or disable a handle."""
        self.off.discard(handle) if on else self.off.add(handle)
        if self.specs[handle].guarded:
            self.supervisor.switch(self.specs[other] for other in self.off)
        else:
            self._apply()

    def remove(self, handle: int) -> None:
        """Disable a handle for good, and give its memory back."""
        spec = self.specs.pop(handle)
        self.off.discard(handle)
        self.supervisor.switch(self.specs[other] for other in self.off)
        self._apply()
        if spec not in self.specs.values():
            self.supervisor.discard(spec)

    def _apply(self) -> None:
        specs = [spec for handle, spec in self.specs.items() if handle not in self.off or spec.guarded]
        self.supervisor.set_specs(list(dict.fromkeys(specs)))
        self.supervisor.settle()

    def go(self) -> None:
        """Let a program run that was started and held."""
        self.supervisor.let_run()

    def reports(self) -> list[Report]:
        """What was counted so far."""
        return self.supervisor.books.reports()

    def names(self, handle: int) -> frozenset[str]:
        """The functions that a handle's spec names, by their names."""
        return self.supervisor.names_of(replace(self.specs[handle], module=""))

    def overview(self) -> dict[str, Any]:
        """As `probeloom status` shows it."""
        return overview(self.supervisor)

    def stop(self) -> list[Report]:
        """Let everything go, and say what was counted."""
        self.supervisor.detach()
        self.supervisor.stopping = True
        return self.supervisor.books.reports()


def _answer(action: Callable[[], Any]) -> Answer:
    try:
        return Answer(action())
    except ProbeloomError as problem:
        return Answer(problem=problem)


def main() -> None:
    """Serve the session whose socket is the descriptor that the first argument names."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):  # the terminal's are the user's program's
        signal.signal(number, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(channel.fileno(), False)
    start = receive(channel)
    if not isinstance(start, Start):
        return
    try:
        server = _Server(channel, start)
    except ProbeloomError as problem:
        send(channel, Answer(problem=problem))
        return
    send(channel, Answer(server.supervisor.first_pid))
    server.run()
