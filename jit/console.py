"""What the command line says beside its results, all on standard error: errors, notes, progress."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lifter.errors import ProbeloomError


def say(kind: str, message: str) -> None:
    """One line `probeloom: KIND: MESSAGE`."""
    line = " ".join(message.split())
    print(f"probeloom: {kind}: {line}", file=sys.stderr, flush=True)


def error(failure: ProbeloomError) -> None:
    """The line for what went wrong."""
    say("error", str(failure))


def note(message: str) -> None:
    """A line for what the user should know."""
    say("note", message)


def bug(failure: BaseException) -> None:
    """The line for a fault of our own: what to send, and where the traceback is."""
    text = "".join(traceback.format_exception(failure))
    summary = f"{type(failure).__name__}: {failure}"
    try:
        handle, name = tempfile.mkstemp(prefix="probeloom-bug-", suffix=".txt")
        with os.fdopen(handle, "w", errors="backslashreplace") as file:
            file.write(f"command: {sys.argv}\npython: {sys.version}\n\n{text}")
    except OSError:
        sys.stderr.write(text)
        name = "the traceback above"
    say("error", f"{summary} (a bug in probeloom: please report it with {name} and the input file)")


def is_terminal() -> bool:
    """Whether progress can be drawn."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """A function to be called with (stage, done, total), which draws a bar; None where there is no terminal."""
    if not is_terminal():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _cursor_shown_at_death(), Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield update


@contextmanager
def _cursor_shown_at_death() -> Iterator[None]:
    """Where a signal ends the process, show the cursor, which is hidden while progress is drawn."""

    def end(number: int, _: object) -> None:
        os.write(sys.stderr.fileno(), b"\r\x1b[K\x1b[?25h")  # not by rich, which may be in the middle of something
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    deadly = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    taken = [number for number in deadly if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def write_output(content: str | bytes, output: Path | None) -> None:
    """Write a result to `output`, whole or not at all, or to standard output if it is None or '-'."""
    if output is None or str(output) in ("-", "/dev/stdout"):
        if isinstance(content, bytes):
            sys.stdout.flush()
            sys.stdout.buffer.write(content)
        else:
            sys.stdout.write(content)
        return
    from jit.atomicfile import is_descriptor, replacing
    from lifter.errors import UsageError

    raw = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    try:
        if output.exists() and (is_descriptor(output) or not output.is_file()):
            with output.open("ab") as stream:
                stream.write(raw)
            return
        with replacing(output.resolve()) as file:
            view = memoryview(raw)
            while view:
                view = view[os.write(file, view) :]
            os.fchmod(file, 0o666 & ~_umask())
    except OSError as problem:
        raise UsageError(f"cannot write {output}: {problem.strerror}") from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
