"""Starting a program so that it is traced from its first instruction."""

from __future__ import annotations

import os
import shutil
import signal
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from jit.live import ptrace
from jit.live.errors import CannotStartError, CannotTraceError, TargetGoneError


def start_stopped(argv: Sequence[str], env: Mapping[str, str] | None, cwd: Path | str | None) -> int:
    """Starts a program, seized and stopped where its execve ends. Returns its process number.

    Raises CannotStartError if it cannot be executed, with the name as it was given.
    """
    environment = os.environ if env is None else env
    path = _found(argv[0], environment, cwd)
    go_reader, go_writer = os.pipe2(os.O_CLOEXEC)
    error_reader, error_writer = os.pipe2(os.O_CLOEXEC)
    try:
        with warnings.catch_warnings():
            # Threads are no danger: the child does nothing but system calls until it is another program.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _become(path, argv, environment, cwd, go_reader, error_writer)
        os.close(error_writer)
        error_writer = -1
        try:
            ptrace.seize(pid)
        except OSError as problem:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise CannotTraceError(f"this system does not allow ptrace: {problem.strerror}") from None
        os.write(go_writer, b"g")
        _await_exec(pid, argv[0], error_reader)
        return pid
    finally:
        for descriptor in (go_reader, go_writer, error_reader, error_writer):
            if descriptor >= 0:
                os.close(descriptor)


def _found(name: str, environment: Mapping[str, str], cwd: Path | str | None) -> str:
    if "/" in name:
        return name
    path = shutil.which(name, path=environment.get("PATH", os.defpath))
    if path is None:
        raise CannotStartError(f"{name}: command not found")
    return path if cwd is None else str(Path(path).absolute())


def _become(
    path: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path | str | None,
    go: int,
    error: int,
) -> NoReturn:
    """In the child: waits until it is traced, then executes the program."""
    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python, not by whoever started it
            signal.signal(number, signal.SIG_DFL)
        if cwd is not None:
            os.chdir(cwd)
        if os.read(go, 1):
            os.execve(path, [*argv], dict(environment))
    except OSError as problem:
        os.write(error, str(problem.errno).encode())
    finally:
        os._exit(127)


def _await_exec(pid: int, name: str, error: int) -> None:
    while True:
        _, status = os.waitpid(pid, ptrace.WALL)
        if not ptrace.is_stop(status):
            problem = os.read(error, 16)
            if problem:
                raise CannotStartError(f"{name}: {os.strerror(int(problem))}")
            raise TargetGoneError(f"{name}: was killed before it began")
        event = ptrace.stop_event(status)
        if event == ptrace.EVENT_EXEC:
            return
        if event == ptrace.EVENT_STOP and ptrace.stop_signal(status) != signal.SIGTRAP:
            ptrace.listen(pid)
        else:
            ptrace.resume(pid, 0 if event else ptrace.stop_signal(status))
