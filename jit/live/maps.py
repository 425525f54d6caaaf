"""The mappings of a process, and room between them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jit.live.errors import CannotTraceError, NoProcessError

PAGE: Final = 4096
NEAR: Final = 1 << 31
"""How far a rel32 reaches."""
_LOWEST: Final = 1 << 16
"""Below it nothing may be mapped (vm.mmap_min_addr)."""
_HIGHEST: Final = (1 << 47) - PAGE


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/maps."""

    start: int
    end: int
    """First address after it."""
    readable: bool
    writable: bool
    executable: bool
    shared: bool
    offset: int
    """In the file, in bytes."""
    device: str
    inode: int
    path: str
    """Of the file, without ' (deleted)'; '[heap]', '[vdso]' and the like; '' where it is anonymous."""
    deleted: bool = False
    """The file has no name any more."""

    @property
    def size(self) -> int:
        """In bytes."""
        return self.end - self.start


class Mappings:
    """All mappings of a process, in address order, as they were when read."""

    def __init__(self, found: Iterable[Mapping]) -> None:
        self._all = tuple(found)
        self._starts = [mapping.start for mapping in self._all]

    def __iter__(self) -> Iterator[Mapping]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def at(self, address: int) -> Mapping | None:
        """The mapping that holds `address`, or None."""
        index = bisect_right(self._starts, address) - 1
        return self._all[index] if index >= 0 and address < self._all[index].end else None

    def named(self, path: str) -> list[Mapping]:
        """The mappings of a file, or of '[vdso]' and the like."""
        return [mapping for mapping in self._all if mapping.path == path]

    def gap(self, size: int, start: int, end: int) -> int | None:
        """A page-aligned address with `size` free bytes from which every byte of [start, end) and every byte of the
        gap reach each other by rel32; as near to [start, end) as can be, below it rather than above (the heap
        grows upwards). None if there is no such room."""
        size = -(-size // PAGE) * PAGE
        lowest, highest = max(_LOWEST, end - NEAR), min(_HIGHEST, start + NEAR)
        best: int | None = None
        for free_start, free_end in self._gaps():
            low, high = max(free_start, lowest), min(free_end, highest)
            low = -(-low // PAGE) * PAGE
            if high - low < size:
                continue
            below = free_end <= start
            address = (high - size) // PAGE * PAGE if below else low
            if best is None or _distance(address, size, start, end) < _distance(best, size, start, end):
                best = address
        return best

    def _gaps(self) -> Iterator[tuple[int, int]]:
        last = 0
        for mapping in self._all:
            # The kernel keeps a guard gap below a stack, which grows downwards.
            guard = 256 * PAGE if mapping.path == "[stack]" else 0
            if mapping.start - guard > last:
                yield last, mapping.start - guard
            last = mapping.end
        yield last, _HIGHEST


def _distance(address: int, size: int, start: int, end: int) -> int:
    return start - (address + size) if address < start else address - end


def read_mappings(pid: int) -> Mappings:
    """The mappings of a process now. Raises NoProcessError if it has ended, CannotTraceError if it is not to be
    looked at."""
    try:
        # Names may be any bytes, and a newline in one is written as \012 by the kernel.
        text = Path(f"/proc/{pid}/maps").read_bytes().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, ProcessLookupError):
        raise NoProcessError(f"process {pid}: no such process") from None
    except PermissionError:
        raise CannotTraceError(f"process {pid}: its memory is not to be looked at by this user") from None
    return Mappings(_parsed(line) for line in text.splitlines() if line)


def _parsed(line: str) -> Mapping:
    fields = line.split(None, 5)
    start, _, end = fields[0].partition("-")
    flags = fields[1]
    path = fields[5].replace("\\012", "\n") if len(fields) > 5 else ""
    deleted = path.endswith(" (deleted)")
    return Mapping(
        start=int(start, 16),
        end=int(end, 16),
        readable=flags[0] == "r",
        writable=flags[1] == "w",
        executable=flags[2] == "x",
        shared=flags[3] == "s",
        offset=int(fields[2], 16),
        device=fields[3],
        inode=int(fields[4]),
        path=path.removesuffix(" (deleted)"),
        deleted=deleted,
    )
