"""The counters of a module: memory that the target and this process share.

They are a file without a name that the target makes and maps, and of which only this process keeps the descriptor. So
they can be read at any time without the target's help, and nothing is lost when it is killed or executes another
program. A child that fork makes counts in them too, unless it is given others.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from typing import Final

import numpy as np
import numpy.typing as npt

from jit.live.maps import PAGE
from jit.live.target import Target

_SYS_CLOSE: Final = 3
_SYS_MMAP: Final = 9
_SYS_MEMFD_CREATE: Final = 319
_CLOEXEC: Final = 1
_READ_WRITE: Final = 3
_SHARED: Final = 1
MAP_FIXED: Final = 0x10
_NAME: Final = b"probeloom\0"


class Counters:
    """The words of one module in one or several processes."""

    def __init__(self, words: int, biased: bool = False) -> None:
        """With `biased` there are as many again, which the main thread alone adds to (see `ir.carry`)."""
        self.words = words
        self.biased = biased
        self.size = max(PAGE, -(-8 * words * (1 + biased) // PAGE) * PAGE)
        """In bytes, whole pages."""
        self._descriptor = -1
        self._memory: mmap.mmap | None = None

    def map(self, target: Target, address: int, flags: int, scratch: int) -> None:
        """Map them in a target at `address`; all its threads are stopped. `flags` are further ones of mmap, `scratch`
        a place in the target's memory for a few bytes.

        The file is the target's own, so that no descriptor of this process has to be opened there. Raises
        RemoteCallError.
        """
        target.write(scratch, _NAME)
        number = target.syscall(_SYS_MEMFD_CREATE, scratch, _CLOEXEC)
        try:
            self._descriptor = target.open_descriptor(number)
            os.ftruncate(self._descriptor, self.size)
            self._memory = mmap.mmap(self._descriptor, self.size)
            target.syscall(_SYS_MMAP, address, self.size, _READ_WRITE, _SHARED | flags, number, 0)
        finally:
            target.syscall(_SYS_CLOSE, number)

    def values(self) -> npt.NDArray[np.uint64]:
        """What they are now, those of the main thread added."""
        if self._memory is None:
            return np.zeros(self.words, np.uint64)
        values = np.frombuffer(self._memory, np.uint64, self.words).copy()
        if self.biased:
            values += np.frombuffer(self._memory, np.uint64, self.words, 8 * self.words)
        return values

    def set(self, first: int, values: npt.NDArray[np.uint64]) -> None:
        """Replace some, from number `first` on."""
        if self._memory is not None:
            self._memory[8 * first : 8 * (first + len(values))] = values.tobytes()

    def close(self) -> None:
        """Let go of them."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        if self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1
