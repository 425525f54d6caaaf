"""`probeloom run`."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Sequence

from jit.commands.live import Options, note_vain, supervisor, write_reports
from jit.live.control import Control

_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTOU)
"""What a terminal sends to the whole job: the program decides what comes of it."""


def run(argv: Sequence[str], options: Options) -> int:
    """Run a program under probes until it and its children have ended; returns its exit status, or dies as it did.

    Raises ProbeloomError.
    """
    follower = supervisor(options)
    before = {number: signal.getsignal(number) for number in _TERMINAL}
    try:
        # The program inherits what is ignored here, so it must be started before.
        follower.spawn(argv)
        for number in _TERMINAL:
            signal.signal(number, signal.SIG_IGN)
        control = Control(follower)
        follower.run()
        control.close()
        note_vain(follower)
        write_reports(options, follower.books.reports())
    finally:
        follower.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    if follower.killed_by:
        _die_of(follower.killed_by)
    return follower.status


def _die_of(number: int) -> None:
    """End by the signal that ended the program, for those who look at how this process ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
