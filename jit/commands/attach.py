"""`probeloom attach`."""

from __future__ import annotations

from jit.commands.live import Options, note_vain, stopped_by_signals, supervisor, write_reports
from jit.live.control import Control


def attach(pid: int, seconds: float | None, options: Options) -> None:
    """Instrument a process for some seconds, or until told to stop; let it go, and report. Raises ProbeloomError."""
    follower = supervisor(options)
    try:
        with stopped_by_signals(follower):
            follower.attach(pid)
            control = Control(follower)
            try:
                follower.run(seconds)
            finally:
                control.close()
                follower.detach()
        note_vain(follower)
        write_reports(options, follower.books.reports(), to_output=True)
    finally:
        follower.close()
