"""The tracer's side of the builder process: see `jit.live.builder`."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from codecache.frames import Frames, frame
from jit.live.builder import Build, Failed, Know, Made, Open, Opened, Settings
from lifter.errors import ProbeloomError

_START: Final = "from jit.live.builder import main; main()"


class Workshop:
    """A builder at work."""

    def __init__(self, settings: Settings) -> None:
        path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout.fileno()
        os.set_blocking(self._out, False)
        self._received = Frames()
        self._send(settings)

    def fileno(self) -> int:
        """For poll: readable when answers came."""
        return self._out

    def ask(self, request: Open | Build | Know) -> None:
        """Send a request; the answers come in the order of the requests."""
        self._send(request)

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame(message))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ProbeloomError("the process that compiles has ended") from None

    def answers(self, wait: bool = False) -> Iterator[Opened | Made]:
        """The answers that are there; with `wait`, at least one. Raises ProbeloomError if the builder is gone."""
        found = list(self._arrived())
        while wait and not found:
            select.select([self._out], [], [])
            found = list(self._arrived())
        yield from found

    def _arrived(self) -> Iterator[Opened | Made]:
        try:
            content = os.read(self._out, 1 << 20)
        except BlockingIOError:
            return
        if not content:
            raise ProbeloomError("the process that compiles has ended")
        for answer in self._received.feed(content):
            if isinstance(answer, Failed):
                raise ProbeloomError(f"the process that compiles failed: {answer.text}")
            assert isinstance(answer, Opened | Made)
            yield answer

    def close(self) -> None:
        """Let it keep what it made, and wait for its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
