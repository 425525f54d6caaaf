"""What unwinders and debuggers have to know of calls made from the code cache: each region with such has a description.

The rows are those of the original instructions, so the code cache can be unwound from everywhere in it, but where it
counts with the flags kept on the stack. An exception passes through: calls with a landing pad are not made from here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from lifter.image.callframes import CallFrames, Row
from lifter.image.eh import DATAREL_SDATA4, PCREL_SDATA4
from lifter.image.framewriter import common_entry, frame_program, with_length

_ALIGNMENT: Final = 8
_UDATA4: Final = 0x03
_NEAR: Final = struct.Struct("<iI")
_FAR: Final = struct.Struct("<QQ")
_DEBUG_COMMON: Final = 0xFFFFFFFF


class _Function(Protocol):
    """What is needed of a function (see `jit.made.StoredFunction`)."""

    @property
    def entry(self) -> int:
        """Its address."""

    def frames(self) -> Iterable[tuple[int, int, bytes | None]]:
        """Head, bytes of code, and call frame instructions (where it makes calls) of each region."""


@dataclass(frozen=True, slots=True)
class _Code:
    """A region."""

    function: int
    is_entry: bool
    start: int
    size: int
    program: bytes | None
    """Call frame instructions; None if it makes no calls."""


@dataclass(frozen=True, slots=True)
class Described:
    """All regions that make calls, and those by which functions are entered."""

    frames: CallFrames
    regions: tuple[_Code, ...]

    @classmethod
    def of(cls, frames: CallFrames, functions: Iterable[_Function], places: Mapping[int, int]) -> Described | None:
        """None where no region makes a call. `places` says where regions are."""
        found = [
            _Code(function.entry, head == function.entry, places[head], size, program)
            for function in functions
            for head, size, program in function.frames()
            if program is not None or head == function.entry
        ]
        return cls(frames, tuple(found)) if any(code.program is not None for code in found) else None

    @property
    def _calling(self) -> list[tuple[_Code, bytes]]:
        return [(code, code.program) for code in self.regions if code.program is not None]

    def search_table(self, address: int) -> bytes:
        """A search table (.eh_frame_hdr) to stand at `address`, of the image's own entries and new ones for the
        regions, which follow it (.eh_frame).

        Raises struct.error where something is out of reach.
        """
        table = list(self.frames.table)
        calling = self._calling
        size = 12 + 8 * (len(table) + len(calling))
        base = address + size + -size % _ALIGNMENT
        content = bytearray(common_entry(_ALIGNMENT, 0, b"zR", b"\x01" + bytes((PCREL_SDATA4,))))
        for code, program in calling:
            entry = base + len(content)
            table.append((code.start, entry))
            head = (len(content) + 4).to_bytes(4, "little") + _NEAR.pack(code.start - entry - 8, code.size)
            content += with_length(head + b"\0" + program, _ALIGNMENT)
        content += bytes(4)
        table.sort()
        head = struct.pack(
            "<BBBBiI",
            1,
            PCREL_SDATA4,
            _UDATA4,
            DATAREL_SDATA4,
            self.frames.frames_address - address - 4,
            len(table),
        )
        rows = b"".join(struct.pack("<ii", start - address, entry - address) for start, entry in table)
        return head + rows + bytes(-size % _ALIGNMENT) + bytes(content)

    def debug_frames(self) -> bytes:
        """The same descriptions as .debug_frame: debuggers know of one .eh_frame only, which is the image's."""
        content = bytearray(common_entry(_ALIGNMENT, _DEBUG_COMMON, b"", b""))
        for code, program in self._calling:
            content += with_length(bytes(4) + _FAR.pack(code.start, code.size) + program, _ALIGNMENT)
        return bytes(content)

    def names(self, name: Callable[[int], str]) -> tuple[tuple[int, int, str], ...]:
        """(address, size, name) of each region: the function's `name` at its entry, so that breakpoints find it."""
        return tuple(
            (code.start, code.size, name(code.function) + ("" if code.is_entry else " [probeloom]"))
            for code in self.regions
        )


def described(origins: Iterable[tuple[int, int]], frames: CallFrames) -> bytes:
    """Call frame instructions for a region whose instructions at the offsets are those at the original addresses."""
    rows: list[tuple[int, Row]] = []
    for offset, original in origins:
        frame = frames.at(original)
        if frame is not None:
            rows.append((offset if rows else 0, frame.row_at(original)))
    return frame_program(rows)
