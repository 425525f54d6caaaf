"""What stands in the way of controlling a process, as errors of one clear line each."""

from __future__ import annotations

from lifter.errors import ProbeloomError, RefusedError, UsageError


class NoProcessError(UsageError):
    """There is no process of that number, or it has ended and only waits to be reaped."""


class CannotTraceError(RefusedError):
    """The process exists but cannot be controlled: traced already, another user's, a kernel thread, 32 bits."""


class CannotStartError(UsageError):
    """The program cannot be executed."""


class TargetGoneError(ProbeloomError):
    """The process (or the thread worked on) ended in the middle: killed, exited or replaced by execve."""

    exit_code = 3


class TargetBusyError(ProbeloomError):
    """No thread can do what is asked now: all of them exit, wait in the kernel uninterruptibly, or the like."""

    exit_code = 3


class MemoryAccessError(ProbeloomError):
    """Memory of the process that is not there, or cannot be written."""

    exit_code = 3

    def __init__(self, address: int, size: int, writing: bool, reason: str) -> None:
        verb = "written" if writing else "read"
        super().__init__(f"{size} bytes at {address:#x} of the process cannot be {verb}: {reason}")
        self.address = address


class RemoteCallError(ProbeloomError):
    """A system call made in the target failed."""

    exit_code = 3

    def __init__(self, number: int, errno: int, reason: str) -> None:
        super().__init__(f"system call {number} made in the process failed: {reason}")
        self.errno = errno
        self.reason = reason
