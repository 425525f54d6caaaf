"""First accesses to pages of the target, told of by userfaultfd while the accessing thread sleeps.

This is how a stub in the target calls the tracer: it loads a byte of a page that is missing. If the tracer dies, its
descriptor is closed, and the kernel lets the sleeping thread go on with a page of zeros: nothing deadly is ever left in
the target's code. In a child that fork makes, the pages read as zeros too.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jit.live.errors import RemoteCallError, TargetGoneError
from jit.live.maps import PAGE

if TYPE_CHECKING:
    from jit.live.target import Target

_SYS_CLOSE, _SYS_USERFAULTFD = 3, 323
_USER_MODE_ONLY: Final = 1
"""Faults of the target's own instructions, not of system calls that are given such a page: no privilege is needed."""
_API: Final = 0xAA
_FEATURE_THREAD_ID: Final = 1 << 8
_MODE_MISSING: Final = 1
_EVENT_PAGEFAULT: Final = 0x12
_MESSAGE: Final = struct.Struct("<B7xQQI4x")
_ALL: Final = struct.Struct("<QQ")


def _ioctl(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | 0xAA << 8 | number


_UFFDIO_API: Final = _ioctl(3, 0x3F, 24)
_UFFDIO_REGISTER: Final = _ioctl(3, 0x00, 32)
_UFFDIO_UNREGISTER: Final = _ioctl(2, 0x01, 16)
_UFFDIO_WAKE: Final = _ioctl(2, 0x02, 16)
_UFFDIO_COPY: Final = _ioctl(3, 0x03, 40)
_UFFDIO_ZEROPAGE: Final = _ioctl(3, 0x04, 32)


@dataclass(frozen=True, slots=True)
class PageFault:
    """A thread that sleeps until its page is there."""

    address: int
    """Of the page."""
    tid: int
    """0 if the thread is in another PID namespace than its first one."""


class PageFaults:
    """The userfaultfd of a target. Close it, or the target's threads wait for pages for ever while this process lives.

    `descriptor` can be given to `Tracer.watch`.
    """

    def __init__(self, target: Target) -> None:
        """Makes it, by a system call in the target. Raises RemoteCallError if the system does not allow it."""
        flags = os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY
        with target.stopped():  # a child made between would keep it, and threads asleep if this program dies
            try:
                number = target.syscall(_SYS_USERFAULTFD, flags)
            except RemoteCallError as problem:
                raise RemoteCallError(_SYS_USERFAULTFD, problem.errno, f"userfaultfd: {problem.reason}") from None
            try:
                self.descriptor = target.open_descriptor(number)
            finally:
                target.syscall(_SYS_CLOSE, number)
        fcntl.ioctl(self.descriptor, _UFFDIO_API, struct.pack("<QQQ", _API, _FEATURE_THREAD_ID, 0))

    def register(self, start: int, size: int) -> None:
        """From now on accesses to missing pages of a range are told of. It must be private anonymous memory, page by
        page. Raises OSError."""
        fcntl.ioctl(self.descriptor, _UFFDIO_REGISTER, struct.pack("<QQQQ", start, size, _MODE_MISSING, 0))

    def unregister(self, start: int, size: int) -> None:
        """Ends that; threads that sleep there go on, with zeros. Raises OSError."""
        fcntl.ioctl(self.descriptor, _UFFDIO_UNREGISTER, _ALL.pack(start, size))

    def read(self) -> list[PageFault]:
        """The accesses since last asked; never waits. The same may be told of twice, if a signal or a stop came
        between."""
        try:
            data = os.read(self.descriptor, _MESSAGE.size * 64)
        except BlockingIOError:
            return []
        found = []
        for at in range(0, len(data), _MESSAGE.size):
            event, _, address, tid = _MESSAGE.unpack_from(data, at)
            if event == _EVENT_PAGEFAULT:
                found.append(PageFault(address & -PAGE, tid))
        return found

    def copy(self, address: int, content: bytes, wake: bool = True) -> bool:
        """Makes whole missing pages with `content`, and wakes who sleeps for them. Returns False, and only wakes, if
        there is a page already. Raises TargetGoneError."""
        if len(content) % PAGE:
            content += bytes(-len(content) % PAGE)
        buffer = ctypes.create_string_buffer(content, len(content))
        request = struct.pack("<QQQQq", address, ctypes.addressof(buffer), len(content), 0 if wake else 1, 0)
        return self._resolve(_UFFDIO_COPY, request, address, len(content), wake)

    def zero(self, address: int, size: int = PAGE, wake: bool = True) -> bool:
        """Like `copy`, with zeros."""
        request = struct.pack("<QQQq", address, size, 0 if wake else 1, 0)
        return self._resolve(_UFFDIO_ZEROPAGE, request, address, size, wake)

    def _resolve(self, request: int, argument: bytes, address: int, size: int, wake: bool) -> bool:
        while True:
            try:
                fcntl.ioctl(self.descriptor, request, argument)
                return True
            except OSError as problem:
                if problem.errno == errno.EAGAIN:  # the mappings are changing just now
                    continue
                if problem.errno == errno.ESRCH:
                    raise TargetGoneError("the process has ended, or left this memory") from None
                if problem.errno != errno.EEXIST:
                    raise
                if wake:
                    self.wake(address, size)
                return False

    def wake(self, start: int, size: int = PAGE) -> None:
        """Wakes who sleeps for pages of a range; who finds none there sleeps again, and is told of again."""
        fcntl.ioctl(self.descriptor, _UFFDIO_WAKE, _ALL.pack(start, size))

    def close(self) -> None:
        """Ends it: all that sleep go on, with zeros, and missing pages are zeros from now on."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
