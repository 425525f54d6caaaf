"""A descriptor that can be read when a child or traced thread may have something to tell.

A signal handler of the interpreter's own writes to it, so it works whichever thread of this process the kernel
chooses for SIGCHLD. signalfd does not: a thread that does not block the signal (numpy's start some) may take it.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Final

FALLBACK_MILLISECONDS: Final = 1
"""How long to wait at most where there is no descriptor."""


class Wakeup:
    """SIGCHLD as a descriptor, from its making to `close`.

    Only the main thread can have it, and only if nobody else (asyncio) uses the interpreter's one wake-up descriptor;
    otherwise `descriptor` is -1, and one has to look every `FALLBACK_MILLISECONDS`.
    """

    def __init__(self) -> None:
        self.descriptor = -1
        self._writer = -1
        self._before: object = None
        if threading.current_thread() is not threading.main_thread():
            return
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        other = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        if other != -1:
            signal.set_wakeup_fd(other)
            os.close(reader)
            os.close(writer)
            return
        self.descriptor, self._writer = reader, writer
        self._before = signal.getsignal(signal.SIGCHLD)
        signal.signal(signal.SIGCHLD, self._on_child)

    def _on_child(self, number: int, frame: FrameType | None) -> None:
        if callable(self._before):
            self._before(number, frame)

    def drain(self) -> None:
        """Forgets what was written, before one looks."""
        if self.descriptor >= 0:
            with suppress(BlockingIOError):
                while len(os.read(self.descriptor, 4096)) == 4096:
                    pass

    def close(self) -> None:
        """Puts back what was."""
        if self.descriptor < 0:
            return
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, self._before if self._before is not None else signal.SIG_DFL)  # type: ignore[arg-type]
        os.close(self.descriptor)
        os.close(self._writer)
        self.descriptor = -1
