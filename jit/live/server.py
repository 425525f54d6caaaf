"""The process behind a `Session`: the tracer, told what to do over a socket.

A process cannot trace itself, and the user's program may have threads and children of its own, so the tracer is another
process.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from codecache.frames import Frames, frame
from jit.live.builder import Settings
from jit.live.control import Control
from jit.live.news import News
from jit.live.overview import overview
from jit.live.supervisor import Children, Supervisor
from jit.report import Report
from jit.tracepoints import Spec
from lifter.errors import ProbeloomError

_CHUNK: Final = 1 << 20


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

    number: int
    what: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to each message."""

    number: int
    """That of the `Do`; 0 for the answer to `Start`."""
    value: Any = None
    problem: ProbeloomError | None = None


class Channel:
    """Messages to and from the other side."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._frames = Frames()
        self._messages: deque[object] = deque()

    def send(self, message: object) -> None:
        """Send one message. Raises OSError."""
        self.socket.sendall(frame(message))

    def receive(self, timeout: float | None = None) -> Any:
        """The next message; None when the other side is gone. Raises TimeoutError.

        Ctrl-C in between loses nothing: the message comes next time.
        """
        self.socket.settimeout(timeout)
        try:
            while not self._messages:
                try:
                    content = self.socket.recv(_CHUNK)
                except ConnectionResetError:
                    return None
                if not content:
                    return None
                self._messages += self._frames.feed(content)
        finally:
            self.socket.settimeout(None)
        return self._messages.popleft()

    @property
    def has_more(self) -> bool:
        """Whether a message has come that was not asked for yet."""
        return bool(self._messages)

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


class _Server:
    """Does what the session asks."""

    def __init__(self, channel: Channel, start: Start) -> None:
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
        self.supervisor.watch(channel.socket.fileno(), self._serve)
        self.control = Control(self.supervisor)

    def _tell(self, news: News) -> None:
        try:
            self.channel.send(news)
        except OSError:
            self.supervisor.stopping = True

    def _serve(self) -> None:
        while True:
            request = self.channel.receive()
            if request is None:
                self.supervisor.stopping = True
                return
            self.channel.send(self._answer(request))
            if not self.channel.has_more:
                return

    def _answer(self, request: Do) -> Answer:
        try:
            return Answer(request.number, getattr(self, request.what)(*request.arguments))
        except ProbeloomError as problem:
            return Answer(request.number, problem=problem)

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


def main() -> None:
    """Serve the session whose socket is the descriptor that the first argument names."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):  # the terminal's are the user's program's
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    os.set_inheritable(channel.socket.fileno(), False)
    start = channel.receive()
    if not isinstance(start, Start):
        return
    try:
        server = _Server(channel, start)
    except ProbeloomError as problem:
        channel.send(Answer(0, problem=problem))
        return
    channel.send(Answer(0, server.supervisor.first_pid))
    server.run()
