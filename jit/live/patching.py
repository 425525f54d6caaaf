"""Writing jumps over code: in an order in which every moment leaves a correct program, should this process be killed.

One write inside a page happens whole or not at all, whatever becomes of the writer. Patches that only touch the
block that they lead away from (or padding) are right in any order and alone. The others are written over bytes that
are only executed where an entry has no jump yet: they come when all of the former are in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from jit.live.maps import PAGE
from jit.live.memory import AddressSpace


@dataclass(frozen=True, slots=True, order=True)
class Write:
    """Bytes of code replaced."""

    address: int
    before: bytes
    after: bytes

    @property
    def end(self) -> int:
        """First address after it."""
        return self.address + len(self.after)

    @property
    def inverse(self) -> Write:
        """What takes it back."""
        return Write(self.address, self.after, self.before)

    @property
    def inside(self) -> tuple[int, int]:
        """The addresses at which no thread may stand while it is written."""
        return self.address + 1, self.end


def write_all(memory: AddressSpace, writes: Iterable[Write]) -> None:
    """Write what belongs to a page in one go, page after page. Raises MemoryAccessError.

    The caller sees to it that the threads are stopped, and none of them inside.
    """
    for _, group in groupby(sorted(writes), key=lambda write: write.address // PAGE):
        inside = list(group)
        first, last = inside[0].address, max(write.end for write in inside)
        content = bytearray(memory.read(first, last - first))
        for write in inside:
            content[write.address - first : write.end - first] = write.after
        memory.write(first, bytes(content))


def mismatch(memory: AddressSpace, writes: Sequence[Write]) -> Write | None:
    """The first of `writes` at whose place something else stands than it expects; None if all is as expected."""
    return next((w for w in writes if memory.read(w.address, len(w.before)) != w.before), None)
