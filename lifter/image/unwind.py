"""Unwind information: where functions begin and end (.eh_frame), and where exceptions enter them (LSDA).

This is the DWARF of the LSB's core specification: pointers in one of a dozen encodings, frame description
entries (FDE) that share common information entries (CIE). All but the rare encodings are read with numpy.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from lifter.errors import Refusal
from lifter.image.elf import PT_GNU_EH_FRAME, ElfFile

_OMIT: Final = 0xFF
_PCREL, _DATAREL, _FUNCREL, _INDIRECT = 0x10, 0x30, 0x40, 0x80
_PCREL_SDATA4: Final = 0x1B
_FORMATS: Final = {
    0x0: struct.Struct("<Q"), 0x2: struct.Struct("<H"), 0x3: struct.Struct("<I"), 0x4: struct.Struct("<Q"),
    0xA: struct.Struct("<h"), 0xB: struct.Struct("<i"), 0xC: struct.Struct("<q"),
}  # fmt: skip
_ULEB, _SLEB = 0x1, 0x9
_LONGEST_ENTRY: Final = 64
"""Bytes that are looked at of an FDE: its unwind instructions do not matter here."""
_CIE_START: Final = b"\0\0\0\0\x01zR\0\x01\x78\x10\x01\x1b"
"""Identifier, version, augmentation, alignments 1 and -8, return address register, pointer encoding."""
_TWO_WORDS: Final = struct.Struct("<II")

Addresses = npt.NDArray[np.int64]


class Malformed(Exception):
    """Unwind data that contradicts itself; becomes a refusal."""


@dataclass(frozen=True, slots=True)
class Frames:
    """All FDEs, sorted by address; three columns."""

    start: Addresses
    size: Addresses
    """In bytes of code."""
    lsda: Addresses
    """Address of the language-specific data; 0 where there is none."""
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class _Cie:
    pointer: int
    """Encoding of code addresses."""
    lsda: int
    """Encoding of the LSDA pointer, or _OMIT."""
    sized: bool
    """Whether FDEs carry a length of augmentation data ('z')."""
    signal: bool = False
    """Whether it describes the frame of a signal handler's return ('S')."""


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

    def pointer(self, encoding: int, function: int = 0, table: int = 0) -> int:
        """A pointer in a DW_EH_PE encoding; one that is zero as stored is 0. Indirect ones give the slot."""
        where = self.address + self.at
        form = encoding & 0xF
        if form in (_ULEB, _SLEB):
            start = self.at
            value = self.uleb()
            if form == _SLEB and self.data[self.at - 1] & 0x40:
                value -= 1 << 7 * (self.at - start)
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


def read_frames(elf: ElfFile) -> Frames:
    """All frame description entries of .eh_frame, found by its section or by PT_GNU_EH_FRAME."""
    table = _SearchTable(elf)
    header = elf.section(".eh_frame")
    if header is not None and header.size and elf.at(header.address, header.size):
        address, data, bounded = header.address, elf.at(header.address, header.size), True
    elif table.frames:
        segment = elf.segment_at(table.frames)
        address, data, bounded = table.frames, elf.at(table.frames, segment.size if segment else 0), False
    elif address := _first_cie(elf):
        segment = elf.segment_at(address)
        data, bounded = elf.at(address, segment.size if segment else 0), False
    else:
        nothing = np.zeros(0, np.int64)
        return Frames(nothing, nothing, nothing)
    refusals: list[Refusal] = []
    entries = _walk(data, bounded)
    seen = {entry for entry, _ in entries}
    for extra in table.entries:
        at = extra - address
        if at not in seen and 0 <= at <= len(data) - 8:
            entries.append((at, at + 4 - _TWO_WORDS.unpack_from(data, at)[1]))
    return _read_entries(data, address, entries, refusals)


def _first_cie(elf: ElfFile) -> int:
    """Address of the first common entry as gcc and clang write it, for static files that have lost their
    section headers and never had a search table; 0 where there is none."""
    for segment in elf.segments:
        at = segment.data.find(_CIE_START)
        if at >= 4:
            return segment.address + at - 4
    return 0


class _SearchTable:
    """.eh_frame_hdr: where .eh_frame is, and a sorted table of its FDEs."""

    def __init__(self, elf: ElfFile) -> None:
        self.frames = 0
        """Address of .eh_frame; 0 where it is not known."""
        self.entries: list[int] = []
        """Addresses of the FDEs."""
        for header in elf.program_headers:
            if header.type == PT_GNU_EH_FRAME:
                data = elf.at(header.address, header.file_size)
                try:
                    self._read(Reader(data, header.address))
                except Malformed:
                    self.entries = []

    def _read(self, reader: Reader) -> None:
        version, frames, count, table = reader.byte(), reader.byte(), reader.byte(), reader.byte()
        if version != 1 or frames == _OMIT:
            return
        self.frames = reader.pointer(frames, table=reader.address)
        if count == _OMIT or table != _DATAREL | 0xB:
            return
        rows = min(reader.pointer(count), (len(reader.data) - reader.at) // 8)
        words = np.frombuffer(reader.data, "<i4", 2 * rows, reader.at).astype(np.int64)
        self.entries = (words[1::2] + reader.address).tolist()


def _walk(data: bytes, bounded: bool) -> list[tuple[int, int]]:
    """Offsets of all FDEs with the offsets of their CIEs. A zero length ends the table, but where its bounds
    are known the walk goes on: linkers may leave terminators in the middle."""
    found = []
    at, end = 0, len(data) - 8
    unpack = _TWO_WORDS.unpack_from
    while at <= end:
        length, back = unpack(data, at)
        if not length:
            if not bounded:
                break
            at += 4
            continue
        if length == 0xFFFFFFFF:
            break
        if back:
            found.append((at, at + 4 - back))
        at += 4 + length
    return found


def _read_entries(data: bytes, address: int, entries: list[tuple[int, int]], refusals: list[Refusal]) -> Frames:
    cies: dict[int, _Cie | None] = {}
    groups: dict[_Cie, list[int]] = {}
    for at, cie_at in entries:
        if cie_at not in cies:
            cies[cie_at] = _read_cie(data, address, cie_at, refusals)
        cie = cies[cie_at]
        if cie is not None:
            groups.setdefault(cie, []).append(at)
    parts = [np.zeros((0, 3), np.int64)]
    for cie, offsets in groups.items():
        fast = cie.pointer == _PCREL_SDATA4 and cie.sized and cie.lsda in (_OMIT, _PCREL_SDATA4)
        if fast:
            places = np.array(offsets, np.int64)
            whole = places + (21 if cie.lsda != _OMIT else 16) <= len(data)
            if cie.lsda != _OMIT:
                # Longer augmentation data than 127 bytes would need another byte for its length.
                whole &= _bytes_at(data, np.minimum(places + 16, len(data) - 1)) < 0x80
            parts.append(_read_fast(data, address, places[whole], cie))
            offsets = places[~whole].tolist()
        parts.append(_read_slow(data, address, offsets, cie, refusals))
        if cie.signal:
            for part in parts[-2:] if fast else parts[-1:]:
                _skip_nop(part)
    rows = np.concatenate(parts)
    # A function that the linker discarded has its FDE left with address 0 or no length.
    rows = rows[(rows[:, 1] > 0) & (rows[:, 0] > 0)]
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return Frames(rows[:, 0].copy(), rows[:, 1].copy(), rows[:, 2].copy(), tuple(refusals))


def _skip_nop(rows: npt.NDArray[np.int64]) -> None:
    """The C library's signal return (__restore_rt) is described from one byte before it, so that unwinders,
    which look up the return address minus one, find it: that byte is padding."""
    early = rows[:, 0] % 16 == 15
    rows[early] += (1, -1, 0)


def _bytes_at(data: bytes, at: Addresses) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)[at]


def _read_fast(data: bytes, address: int, at: Addresses, cie: _Cie) -> npt.NDArray[np.int64]:
    words = np.ndarray((max(len(data) - 3, 0),), "<i4", data, 0, (1,))
    start = words[at + 8].astype(np.int64) + address + at + 8
    size = words[at + 12].astype(np.int64) & 0xFFFFFFFF
    if cie.lsda == _OMIT:
        lsda = np.zeros(len(at), np.int64)
    else:
        stored = words[at + 17].astype(np.int64)
        lsda = np.where(stored == 0, 0, stored + address + at + 17)
    return np.stack([start, size, lsda], axis=1)


def _read_slow(
    data: bytes, address: int, offsets: Iterable[int], cie: _Cie, refusals: list[Refusal]
) -> npt.NDArray[np.int64]:
    rows = []
    for at in offsets:
        entry = data[at : at + 4 + min(_TWO_WORDS.unpack_from(data, at)[0], _LONGEST_ENTRY)]
        reader = Reader(entry, address + at, 8)
        try:
            start = reader.pointer(cie.pointer)
            size = reader.pointer(cie.pointer & 0xF)
            lsda = 0
            if cie.sized:
                reader.uleb()
                if cie.lsda != _OMIT:
                    lsda = reader.pointer(cie.lsda, start)
        except Malformed as problem:
            refusals.append(Refusal(address + at, f"unwind entry not understood: {problem}"))
            continue
        if start < 1 << 47 and size < 1 << 32 and lsda < 1 << 47:
            rows.append((start, size, lsda))
    return np.array(rows, np.int64).reshape(len(rows), 3)


def _read_cie(data: bytes, address: int, at: int, refusals: list[Refusal]) -> _Cie | None:
    try:
        if not 0 <= at <= len(data) - 9 or _TWO_WORDS.unpack_from(data, at)[1]:
            raise Malformed("an entry refers to no common entry")
        return _parse_cie(Reader(data, address, at + 8))
    except Malformed as problem:
        refusals.append(Refusal(address + at, f"unwind entries not understood: {problem}"))
        return None


def _parse_cie(reader: Reader) -> _Cie:
    version = reader.byte()
    if version not in (1, 3):
        raise Malformed(f"version {version}")
    end = reader.data.find(b"\0", reader.at, reader.at + 16)
    if end < 0:
        raise Malformed("augmentation without end")
    augmentation = reader.data[reader.at : end]
    reader.at = end + 1
    reader.uleb()
    reader.uleb()
    if version == 1:
        reader.byte()
    else:
        reader.uleb()
    if not augmentation:
        return _Cie(0, _OMIT, False)
    if augmentation[:1] != b"z":
        raise Malformed(f"augmentation {augmentation!r}")
    reader.uleb()
    pointer, lsda, signal = 0, _OMIT, False
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
        elif letter != ord("B"):
            raise Malformed(f"augmentation {augmentation!r}")
    return _Cie(pointer, lsda, True, signal)


def read_landing_pads(elf: ElfFile, frames: Frames) -> tuple[list[int], list[Refusal]]:
    """Addresses of all landing pads that the frames' LSDAs name, sorted."""
    chosen = np.flatnonzero(frames.lsda)
    pads: set[int] = set()
    refusals = []
    # Tables do not overlap: together they cannot be larger than the file, unless they are garbage.
    budget = len(elf.content)
    for start, lsda in zip(frames.start[chosen].tolist(), frames.lsda[chosen].tolist(), strict=True):
        segment = elf.segment_at(lsda)
        if segment is None:
            refusals.append(Refusal(start, "its exception table lies outside the file"))
            continue
        try:
            budget -= _read_lsda(Reader(segment.data, segment.address, lsda - segment.address), start, pads)
        except Malformed as problem:
            refusals.append(Refusal(start, f"exception table not understood: {problem}"))
        if budget < 0:
            refusals.append(Refusal(start, "exception tables overlap; the rest was not read"))
            break
    return sorted(pads), refusals


def _read_lsda(reader: Reader, function: int, pads: set[int]) -> int:
    """Adds the landing pads of one LSDA to `pads`; returns its size. `function` is the start of its FDE."""
    base = function
    encoding = reader.byte()
    if encoding != _OMIT:
        base = reader.pointer(encoding, function)
    if reader.byte() != _OMIT:
        reader.uleb()
    encoding = reader.byte()
    length = reader.uleb()
    end = reader.at + length
    if end > len(reader.data):
        raise Malformed("ends early")
    if encoding == _ULEB:
        _read_call_sites(reader, end, base, pads)
        return length
    while reader.at < end:
        reader.pointer(encoding)
        reader.pointer(encoding)
        if pad := reader.pointer(encoding):
            pads.add(base + pad)
        reader.uleb()
    return length


def _read_call_sites(reader: Reader, end: int, base: int, pads: set[int]) -> None:
    """The call-site table as gcc and clang write it: four ULEB128 a row, the third the landing pad."""
    values: list[int] = []
    value = shift = 0
    for byte in reader.data[reader.at : end]:
        if byte < 0x80:
            values.append(value | byte << shift)
            value = shift = 0
        else:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise Malformed("a number has too many bytes")
    if shift or len(values) % 4:
        raise Malformed("call sites end early")
    pads.update([base + pad for pad in values[2::4] if pad])
