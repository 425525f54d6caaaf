"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)
"""What a file system or kernel without nameless files says."""

_DEADLY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def is_descriptor(path: Path) -> bool:
    """Whether a path names an open file of this process, as /dev/stdout does: a file to write to, never to replace."""
    return str(path) in ("/dev/stdout", "/dev/stderr") or str(path.parent) in ("/dev/fd", "/proc/self/fd")


@contextmanager
def replacing(target: Path) -> Iterator[int]:
    """Gives a file descriptor to write to; at the end the file is at `target`, in one step, instead of what
    was.

    On an exception nothing is left, and `target` is as before. The file has no name while it is written, so
    that even a kill leaves nothing; where the file system knows no nameless files, it has a temporary name,
    and signals that end the process wait. Raises OSError.
    """
    directory = target.parent
    try:
        file = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        file = -1
    if file >= 0 and not Path(f"/proc/self/fd/{file}").exists():  # needed to give it a name
        os.close(file)
        file = -1
    if file < 0:
        with _signals_wait():
            file, name = tempfile.mkstemp(prefix=".probeloom-", dir=directory)
            with _published(file, Path(name), target):
                yield file
        return
    try:
        yield file
        with _signals_wait():
            name = tempfile.mktemp(prefix=".probeloom-", dir=directory)
            # With a descriptor given (any: the path is absolute), Python follows the link as it is told to.
            os.link(f"/proc/self/fd/{file}", name, src_dir_fd=file, follow_symlinks=True)
            _rename(Path(name), target)
    finally:
        os.close(file)


@contextmanager
def _published(file: int, name: Path, target: Path) -> Iterator[None]:
    try:
        yield
        os.close(file)
        file = -1
        _rename(name, target)
    except BaseException:
        if file >= 0:
            os.close(file)
        name.unlink(missing_ok=True)
        raise


def _rename(name: Path, target: Path) -> None:
    try:
        name.replace(target)
    except BaseException:
        with suppress(OSError):
            name.unlink()
        raise


@contextmanager
def _signals_wait() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEADLY)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
