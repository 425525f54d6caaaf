"""Memory made in a target for one module: code, counters, and pages that wait for their first access."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from jit.live.counters import Counters
from jit.live.errors import RemoteCallError
from jit.live.maps import PAGE
from jit.live.target import Target
from lifter.errors import RefusedError

_SYS_MMAP: Final = 9
_SYS_MUNMAP: Final = 11
_PROT_READ, _PROT_EXEC = 1, 4
_FIXED_NOREPLACE: Final = 0x100000
_FLAGS: Final = 0x02 | 0x20 | 0x4000 | _FIXED_NOREPLACE
"""MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED_NOREPLACE."""
_EEXIST: Final = 17
_SCRATCH: Final = 64
_ATTEMPTS: Final = 8


@dataclass(slots=True)
class Area:
    """Three mappings side by side, within reach of a module. Code is never mapped writable: it is written through
    /proc/PID/mem."""

    start: int
    code_end: int
    counters: int
    """Address of counter 0."""
    counters_end: int
    pages: int
    """Address of the first waiting page."""
    end: int
    used: int
    """First free address of the code."""

    @property
    def size(self) -> int:
        """In bytes, all three."""
        return self.end - self.start

    @property
    def scratch(self) -> int:
        """Where no code is put: for strings that system calls made in the target are given, shorter than 56 bytes."""
        return self.code_end - _SCRATCH

    @property
    def owner(self) -> int:
        """Of the owner word of biased counters: behind that. A child that fork makes has its own."""
        return self.code_end - 8

    def take(self, size: int, alignment: int) -> int | None:
        """An address for `size` bytes of code; None if the area is full."""
        address = -(-self.used // alignment) * alignment
        if address + size > self.scratch:
            return None
        self.used = address + size
        return address


def make_area(target: Target, low: int, high: int, code: int, counters: Counters, pages: int) -> Area:
    """An area whose every byte reaches every byte of [low, high): `code` bytes, the counters, `pages` pages.

    All threads of the target must be stopped. Raises RefusedError if there is no room within reach.
    """
    code_size, counters_size = _pages(code), counters.size
    size = code_size + counters_size + pages * PAGE
    for _ in range(_ATTEMPTS):
        start = target.maps().gap(size, low, high)
        if start is None:
            break
        area = Area(
            start, start + code_size, start + code_size, start + code_size + counters_size,
            start + code_size + counters_size, start + size, start,
        )  # fmt: skip
        try:
            _map(target, area.start, area.code_end, _PROT_READ | _PROT_EXEC)
            if pages:
                _map(target, area.pages, area.end, _PROT_READ)
            counters.map(target, area.counters, _FIXED_NOREPLACE, area.scratch)
        except RemoteCallError as problem:
            target.syscall(_SYS_MUNMAP, start, size)
            if problem.errno != _EEXIST:
                raise
            continue
        return area
    raise RefusedError(f"no room for {size >> 10} KiB within 2 GiB of the code at {low:#x}")


def _map(target: Target, first: int, last: int, protection: int) -> None:
    target.syscall(_SYS_MMAP, first, last - first, protection, _FLAGS, -1, 0)


def unmap_area(target: Target, area: Area) -> None:
    """Give all of it back."""
    target.syscall(_SYS_MUNMAP, area.start, area.size)


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE
