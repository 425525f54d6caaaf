"""The memory of a target, shared by all its threads and sometimes by a child that vfork made."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from jit.live.errors import MemoryAccessError, NoProcessError, TargetGoneError
from jit.live.maps import Mapping, Mappings, read_mappings
from jit.live.procfs import living_thread

if TYPE_CHECKING:
    from jit.live.target import Target


class AddressSpace:
    """Memory, and who runs in it. Read and written through /proc/PID/mem, which also writes to pages that the process
    itself may not write (a private copy of the page is made: nobody else sees the change)."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._file = -1
        self.members: set[Target] = set()
        self.holds = 0
        """How often its threads were stopped and not released again."""
        self.call_place = 0
        """Where system calls of ours are made; 0 until it is known."""
        self.returners: dict[Mapping, list[int]] = {}
        """Where the code of a mapping ends signal handlers, for those looked through."""

    def __del__(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)

    def _opened(self) -> int:
        if self._file < 0:
            try:
                self._file = os.open(f"/proc/{living_thread(self._pid)}/mem", os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                raise TargetGoneError(f"process {self._pid} has ended") from None
        return self._file

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at `address`. Raises MemoryAccessError if not all of them are there."""
        parts: list[bytes] = []
        done = 0
        while done < size:
            try:
                part = os.pread(self._opened(), size - done, address + done)
            except (OSError, OverflowError) as problem:
                raise MemoryAccessError(address, size, False, _reason(problem)) from None
            if not part:
                raise TargetGoneError(f"process {self._pid} has ended, or left this memory")
            if done == 0 and len(part) == size:
                return part
            parts.append(part)
            done += len(part)
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Replaces bytes. Raises MemoryAccessError if not all of them could be."""
        done = 0
        while done < len(data):
            try:
                written = os.pwrite(self._opened(), data[done:], address + done)
            except (OSError, OverflowError) as problem:
                raise MemoryAccessError(address, len(data), True, _reason(problem)) from None
            if not written:
                raise TargetGoneError(f"process {self._pid} has ended, or left this memory")
            done += written

    def mappings(self) -> Mappings:
        """Its mappings now."""
        pids = [self._pid, *(member.pid for member in self.members)]
        for pid in dict.fromkeys(pids):
            with suppress(NoProcessError):
                return read_mappings(living_thread(pid))
        raise TargetGoneError(f"process {self._pid} has ended")


def _reason(problem: Exception) -> str:
    return (problem.strerror or "") if isinstance(problem, OSError) else "no such address"
