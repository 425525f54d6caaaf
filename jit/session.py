"""The library's live mode: probes in a running process, in a program that is started, or in this very process.

from jit import Session, count

with Session.attach(pid) as session:
    handle = session.instrument("entry:sqlite3_step", count)
    ...
    print(handle.count())
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any, Final, Literal

from ir.probes import Probe
from jit.live.builder import Settings
from jit.live.news import News
from jit.live.server import Answer, Channel, Do, Start
from jit.report import Report, Row
from jit.specs import parse_spec
from jit.tracepoints import Spec
from lifter.errors import ProbeloomError, UsageError

_START: Final = "from jit.live.server import main; main()"
_PR_SET_PTRACER: Final = 0x59616D61
Children = Literal["sum", "apart", "ignore"]


@dataclass(slots=True, eq=False)
class Handle:
    """One probe of a session."""

    session: Session
    spec: Spec
    number: int
    refused: tuple[str, ...] = ()
    """What could not be instrumented when it was put in, and why."""
    is_enabled: bool = True

    def disable(self) -> None:
        """Take it out of the code, every instruction of it; or if it is guarded, have it skipped."""
        self.session._ask("switch", self.number, False)
        self.is_enabled = False

    def enable(self) -> None:
        """Put it in again; it counts on from where it was."""
        self.session._ask("switch", self.number, True)
        self.is_enabled = True

    def remove(self) -> None:
        """Take it out for good. What it counted stays in the session's reports."""
        self.session._ask("remove", self.number)
        self.is_enabled = False

    def rows(self) -> list[Row]:
        """Its tracepoints and what was counted there so far; of functions with a name that the spec means."""
        names = self.session._ask("names", self.number)
        return [
            row
            for report in self.session.reports()
            for row in report.rows
            if row.tracepoint.point is self.spec.point
            and row.tracepoint.action == self.spec.action
            and row.tracepoint.function in names
        ]

    def count(self) -> int:
        """How often the program passed its tracepoints so far."""
        return sum(row.count for row in self.rows())


class Session:
    """A process under probes. A context manager: at its end the process is let go, and runs on as it was."""

    def __init__(self, start: Start) -> None:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
            )
        self._channel = Channel(ours)
        self._asked = 0
        self._news: deque[News] = deque()
        self._held = bool(start.argv)
        self._next = 0
        self._ended: list[Report] | None = None
        if start.pid == os.getpid():
            # Where only children may be traced (kernel.yama.ptrace_scope = 1), this one says who else may.
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, self._process.pid, 0, 0, 0)
        try:
            self._channel.send(start)
            self.pid: int = self._answer(0)
            """The process."""
        except BaseException:
            self._close()
            raise

    @classmethod
    def attach(
        cls, pid: int, *, children: Children = "sum", jobs: int | None = None, use_cache: bool = True
    ) -> Session:
        """A session with a running process.

        `children` says what becomes of those that it makes by fork: counted together with it, each for itself, or
        not at all; `jobs` is the number of processes that compile. Raises UsageError or RefusedError.
        """
        return cls(Start(_settings(jobs, use_cache), children, pid=pid))

    @classmethod
    def spawn(
        cls, argv: Sequence[str], *, children: Children = "sum", jobs: int | None = None, use_cache: bool = True
    ) -> Session:
        """A session with a program that is started, and held before its first instruction until `resume`, `wait` or
        `events` is called. It has the standard streams of this process. See `attach` for the rest."""
        return cls(Start(_settings(jobs, use_cache), children, tuple(argv)))

    @classmethod
    def self(cls, *, children: Children = "ignore", jobs: int | None = None, use_cache: bool = True) -> Session:
        """A session with this very process, for libraries that it has loaded. See `attach`."""
        return cls.attach(os.getpid(), children=children, jobs=jobs, use_cache=use_cache)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def instrument(
        self, spec: str, action: Probe | str = "count", *, switch: Literal["patch", "guard"] = "patch"
    ) -> Handle:
        """Put a probe in: `spec` is 'POINT:[MODULE!]FUNCTION', as on the command line; `action` is `count`, a Python
        probe, or 'FILE.py:NAME'.

        `switch` is how it is disabled and enabled: `patch` takes it out of the code, so that it costs nothing while it
        is off, but stops the process for a moment; `guard` has the code look whether it is on, each time.

        Nothing is compiled before a function is called. Raises UsageError for a malformed spec or action.
        """
        parsed = parse_spec(spec)
        compiled = None
        if isinstance(action, Probe):
            compiled = action.compile()
            file = Path(action.function.__code__.co_filename).name
            action = f"{file}:{action.name}"
        if action != "count":
            if parsed.action != "count":
                raise UsageError(f"'{spec}' has an action already, and another one was given")
            parsed = replaced(parsed, action=action)
        parsed = replaced(parsed, guarded=switch == "guard")
        self._next += 1
        notes = self._ask("add", self._next, parsed, compiled)
        return Handle(self, parsed, self._next, tuple(notes))

    def resume(self) -> None:
        """Let a program run that was started and held."""
        if self._held:
            self._held = False
            self._ask("go")

    def events(self, seconds: float | None = None) -> Iterator[News]:
        """What happens, as it does, until the process has ended (or for some seconds between two)."""
        self.resume()
        while True:
            while self._news:
                news = self._news.popleft()
                yield news
                if news.pid == self.pid and news.kind in ("exited", "killed"):
                    return
            try:
                message = self._channel.receive(seconds)
            except TimeoutError:
                return
            if message is None:
                return
            if isinstance(message, News):
                self._news.append(message)

    def wait(self) -> int:
        """Let the process run to its end. Returns its exit status, negative for a signal."""
        for news in self.events():
            if news.pid == self.pid and news.kind in ("exited", "killed"):
                return news.status if news.kind == "exited" else -news.status
        raise ProbeloomError("the process that traces has ended")

    def reports(self) -> list[Report]:
        """What was counted so far, by module."""
        if self._ended is not None:
            return self._ended
        found: list[Report] = self._ask("reports")
        return found

    def status(self) -> dict[str, Any]:
        """What is instrumented, and what it takes: as `probeloom status` shows it."""
        found: dict[str, Any] = self._ask("overview")
        return found

    def detach(self) -> None:
        """Take everything out of the process, and let it go."""
        if self._ended is None:
            self.resume()
            self._ended = self._ask("stop")
            self._close()

    def _close(self) -> None:
        self._channel.close()
        self._process.wait()

    def _ask(self, what: str, *arguments: Any) -> Any:
        self._asked += 1
        self._channel.send(Do(self._asked, what, arguments))
        return self._answer(self._asked)

    def _answer(self, number: int) -> Any:
        while True:
            message = self._channel.receive()
            if isinstance(message, News):
                self._news.append(message)
            elif isinstance(message, Answer):
                if message.number != number:
                    continue  # of something that Ctrl-C broke off
                if message.problem is not None:
                    raise message.problem
                return message.value
            else:
                raise ProbeloomError("the process that traces has ended")


def _settings(jobs: int | None, use_cache: bool) -> Settings:
    return Settings(jobs or len(os.sched_getaffinity(0)), "abi", "auto", use_cache, {})
