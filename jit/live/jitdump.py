"""Code in the cache for `perf inject --jit`: with its bytes, and from when on it was there.

perf finds the file, jit-PID.dump, by an executable mapping of it in the process. The format is perf's own
(tools/perf/Documentation/jitdump-specification.txt in the kernel's sources).
"""

from __future__ import annotations

import os
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from jit.live.errors import RemoteCallError, TargetBusyError
from jit.live.maps import PAGE
from jit.live.target import Target

_HEADER: Final = struct.Struct("<IIIIIIQQ")
"""Magic, version, size, machine, padding, process, time, flags."""
_RECORD: Final = struct.Struct("<IIQIIQQQQ")
"""Kind, size, time; process, thread, address where it runs and where it is, size, number."""
_MAGIC: Final = 0x4A695444
_LOAD: Final = 0
_EM_X86_64: Final = 62
_AT_FDCWD: Final = -100
_SYS_CLOSE, _SYS_MMAP, _SYS_MUNMAP, _SYS_OPENAT = 3, 9, 11, 257
_READ_EXECUTE: Final = 5
_PRIVATE: Final = 2


@dataclass(slots=True)
class JitDump:
    """The file of one process."""

    path: Path
    pid: int
    _number: int = 0
    _pending: bytearray = field(default_factory=bytearray)
    _mapped: int = 0
    """Where the target has it mapped."""

    def add(self, address: int, code: bytes, name: str) -> None:
        """A piece of code that is in the cache from now on."""
        label = name.encode("utf-8", "surrogateescape") + b"\0"
        size = _RECORD.size + len(label) + len(code)
        self._pending += _RECORD.pack(
            _LOAD, size, _now(), self.pid, self.pid, address, address, len(code), self._number
        )
        self._pending += label + code
        self._number += 1

    def write(self) -> None:
        """Bring the file up to date. Raises OSError."""
        with self.path.open("ab") as file:
            file.write(self._pending)
        self._pending.clear()

    def show(self, target: Target, scratch: int) -> None:
        """Have the target map the file, for perf to see; all its threads are stopped. `scratch` is a place in its
        memory for the path. Where it cannot (another root directory, no executable files in /tmp), perf does without.

        Raises OSError.
        """
        if self._mapped:
            return
        self.path.write_bytes(_HEADER.pack(_MAGIC, 1, _HEADER.size, _EM_X86_64, 0, self.pid, _now(), 0))
        target.write(scratch, os.fsencode(self.path) + b"\0")
        with suppress(RemoteCallError):
            number = target.syscall(_SYS_OPENAT, _AT_FDCWD, scratch, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._mapped = target.syscall(_SYS_MMAP, 0, PAGE, _READ_EXECUTE, _PRIVATE, number, 0)
            finally:
                target.syscall(_SYS_CLOSE, number)

    def hide(self, target: Target) -> None:
        """Take the mapping out again."""
        self.hide_from_child(target)
        self._mapped = 0

    def hide_from_child(self, child: Target) -> None:
        """Take it out of a child that fork has made, which has a dump of its own."""
        if self._mapped:
            with suppress(RemoteCallError, TargetBusyError):
                child.syscall(_SYS_MUNMAP, self._mapped, PAGE)


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
