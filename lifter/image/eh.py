"""The parts of unwind information (.eh_frame and what belongs to it) that all its readers share.

This is the DWARF of the LSB's core specification: pointers in one of a dozen encodings, frame description entries (FDE)
that share common information entries (CIE), a search table, call-site tables (LSDA).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from lifter.image.elf import PT_GNU_EH_FRAME, ElfFile

OMIT: Final = 0xFF
ULEB: Final = 0x1
_SLEB: Final = 0x9
_PCREL, _DATAREL, _FUNCREL = 0x10, 0x30, 0x40
PCREL_SDATA4: Final = 0x1B
DATAREL_SDATA4: Final = 0x3B
_FORMATS: Final = {
    0x0: struct.Struct("<Q"), 0x2: struct.Struct("<H"), 0x3: struct.Struct("<I"), 0x4: struct.Struct("<Q"),
    0xA: struct.Struct("<h"), 0xB: struct.Struct("<i"), 0xC: struct.Struct("<q"),
}  # fmt: skip

Addresses = npt.NDArray[np.int64]


class Malformed(Exception):
    """Unwind data that contradicts itself; becomes a refusal."""


class Reader:
    """A cursor over bytes at a known address. Raises Malformed at the end of the bytes."""

    def __init__(self, data: bytes, address: int, at: int = 0) -> None:
        self.data, self.address, self.at = data, address, at

    def byte(self) -> int:
        """The next byte."""
        if self.at >= len(self.data):
            raise Malformed("ends early")
        self.at += 1
        return self.data[self.at - 1]

    def uleb(self) -> int:
        """A number in unsigned LEB128."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise Malformed("a number has too many bytes")

    def sleb(self) -> int:
        """A number in signed LEB128."""
        begin = self.at
        value = self.uleb()
        return value - (1 << 7 * (self.at - begin)) if self.data[self.at - 1] & 0x40 else value

    def block(self) -> bytes:
        """Bytes behind their number."""
        size = self.uleb()
        if size > len(self.data) - self.at:
            raise Malformed("ends early")
        self.at += size
        return self.data[self.at - size : self.at]

    def pointer(self, encoding: int, function: int = 0, table: int = 0) -> int:
        """A pointer in a DW_EH_PE encoding; one that is zero as stored is 0. Indirect ones give the slot."""
        where = self.address + self.at
        form = encoding & 0xF
        if form in (ULEB, _SLEB):
            value = self.sleb() if form == _SLEB else self.uleb()
        elif form in _FORMATS:
            layout = _FORMATS[form]
            if self.at + layout.size > len(self.data):
                raise Malformed("ends early")
            (value,) = layout.unpack_from(self.data, self.at)
            self.at += layout.size
        else:
            raise Malformed(f"unknown pointer encoding {encoding:#04x}")
        if not value:
            return 0
        bases = {0: 0, _PCREL: where, _DATAREL: table, _FUNCREL: function}
        if encoding & 0x70 not in bases:
            raise Malformed(f"unknown pointer encoding {encoding:#04x}")
        return (int(value) + bases[encoding & 0x70]) & 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True)
class Common:
    """A common information entry."""

    pointer: int
    """Encoding of code addresses."""
    lsda: int
    """Encoding of the LSDA pointer, or OMIT."""
    sized: bool
    """Whether FDEs carry a length of augmentation data ('z')."""
    signal: bool
    """Whether it describes the frame of a signal handler's return ('S')."""
    code_alignment: int
    data_alignment: int
    return_address: int
    """DWARF's number of the register that stands for it."""
    program: bytes
    """Call frame instructions."""


def read_common(reader: Reader) -> Common:
    """The common entry whose identifier ends at the reader and which ends where the reader's bytes do.

    Raises Malformed.
    """
    version = reader.byte()
    if version not in (1, 3):
        raise Malformed(f"version {version}")
    end = reader.data.find(b"\0", reader.at, reader.at + 16)
    if end < 0:
        raise Malformed("augmentation without end")
    augmentation = reader.data[reader.at : end]
    reader.at = end + 1
    code_alignment, data_alignment = reader.uleb(), reader.sleb()
    return_address = reader.byte() if version == 1 else reader.uleb()
    pointer, lsda, signal = 0, OMIT, False
    if augmentation:
        if augmentation[:1] != b"z":
            raise Malformed(f"augmentation {augmentation!r}")
        length = reader.uleb()
        end = reader.at + length
        for letter in augmentation[1:]:
            if letter == ord("R"):
                pointer = reader.byte()
            elif letter == ord("L"):
                lsda = reader.byte()
            elif letter == ord("P"):
                encoding = reader.byte()
                reader.pointer(encoding)
            elif letter == ord("S"):
                signal = True
            else:
                raise Malformed(f"augmentation {augmentation!r}")
        reader.at = end
    program = reader.data[reader.at :]
    return Common(pointer, lsda, bool(augmentation), signal, code_alignment, data_alignment, return_address, program)


@dataclass(frozen=True, slots=True)
class SearchTable:
    """.eh_frame_hdr: where .eh_frame is, and a sorted table of its FDEs."""

    frames: int = 0
    """Address of .eh_frame; 0 where it is not known."""
    starts: Addresses = field(default_factory=lambda: np.zeros(0, np.int64))
    """Of functions."""
    entries: Addresses = field(default_factory=lambda: np.zeros(0, np.int64))
    """Addresses of their FDEs."""
    whole: bool = False
    """Whether the table is there, has the form that linkers give it, all its rows, and these in order."""

    @classmethod
    def of(cls, elf: ElfFile) -> SearchTable:
        """As much of the file's as can be read."""
        header = next((header for header in elf.program_headers if header.type == PT_GNU_EH_FRAME), None)
        if header is None:
            return cls()
        reader = Reader(elf.at(header.address, header.file_size), header.address)
        frames = 0
        try:
            version, encoding, count, table = reader.byte(), reader.byte(), reader.byte(), reader.byte()
            if version != 1 or encoding == OMIT:
                return cls()
            frames = reader.pointer(encoding, table=reader.address)
            if count == OMIT or table != DATAREL_SDATA4:
                return cls(frames)
            stated = reader.pointer(count)
        except Malformed:
            return cls(frames)
        rows = min(stated, (len(reader.data) - reader.at) // 8)
        words = np.frombuffer(reader.data, "<i4", 2 * rows, reader.at).astype(np.int64) + reader.address
        starts, entries = words[::2], words[1::2]
        return cls(frames, starts, entries, rows == stated and frames != 0 and bool(np.all(starts[1:] >= starts[:-1])))


@dataclass(frozen=True, slots=True)
class CallSites:
    """The call-site table of one LSDA."""

    base: int
    """Landing pads are relative to this address."""
    values: list[int]
    """Four a row: start and size of the code, relative to the function; the landing pad, 0 for none; the action."""
    size: int
    """Bytes of the table."""


def read_call_sites(reader: Reader, function: int) -> CallSites:
    """The table of the LSDA at the reader; `function` is the start of its FDE. Raises Malformed."""
    base = function
    encoding = reader.byte()
    if encoding != OMIT:
        base = reader.pointer(encoding, function)
    if reader.byte() != OMIT:
        reader.uleb()
    encoding = reader.byte()
    size = reader.uleb()
    end = reader.at + size
    if end > len(reader.data):
        raise Malformed("ends early")
    values: list[int] = []
    if encoding == ULEB:
        values = _numbers(reader.data[reader.at : end])
    else:
        while reader.at < end:
            values += [reader.pointer(encoding), reader.pointer(encoding), reader.pointer(encoding), reader.uleb()]
    if len(values) % 4:
        raise Malformed("call sites end early")
    return CallSites(base, values, size)


def _numbers(data: bytes) -> list[int]:
    """The numbers in unsigned LEB128 that the bytes are: the table as gcc and clang write it."""
    values: list[int] = []
    value = shift = 0
    for byte in data:
        if byte < 0x80:
            values.append(value | byte << shift)
            value = shift = 0
        else:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise Malformed("a number has too many bytes")
    if shift:
        raise Malformed("call sites end early")
    return values
