"""Unwind information: where functions begin and end (.eh_frame), and where exceptions enter them (LSDA).

All but the rare encodings are read with numpy.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from lifter.errors import Refusal
from lifter.image.eh import (
    OMIT,
    PCREL_SDATA4,
    Addresses,
    Common,
    Malformed,
    Reader,
    SearchTable,
    read_call_sites,
    read_common,
)
from lifter.image.elf import ElfFile

_LONGEST_ENTRY: Final = 64
"""Bytes that are looked at of an FDE: its unwind instructions do not matter here."""
_CIE_START: Final = b"\0\0\0\0\x01zR\0\x01\x78\x10\x01\x1b"
"""Identifier, version, augmentation, alignments 1 and -8, return address register, pointer encoding."""
_TWO_WORDS: Final = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Frames:
    """All FDEs, sorted by address; three columns."""

    start: Addresses
    size: Addresses
    """In bytes of code."""
    lsda: Addresses
    """Address of the language-specific data; 0 where there is none."""
    refusals: tuple[Refusal, ...] = ()


def read_frames(elf: ElfFile) -> Frames:
    """All frame description entries of .eh_frame, found by its section or by PT_GNU_EH_FRAME."""
    table = SearchTable.of(elf)
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
    for extra in table.entries.tolist():
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
    cies: dict[int, Common | None] = {}
    groups: dict[Common, list[int]] = {}
    for at, cie_at in entries:
        if cie_at not in cies:
            cies[cie_at] = _read_cie(data, address, cie_at, refusals)
        cie = cies[cie_at]
        if cie is not None:
            groups.setdefault(cie, []).append(at)
    parts = [np.zeros((0, 3), np.int64)]
    for cie, offsets in groups.items():
        fast = cie.pointer == PCREL_SDATA4 and cie.sized and cie.lsda in (OMIT, PCREL_SDATA4)
        if fast:
            places = np.array(offsets, np.int64)
            whole = places + (21 if cie.lsda != OMIT else 16) <= len(data)
            if cie.lsda != OMIT:
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


def _read_fast(data: bytes, address: int, at: Addresses, cie: Common) -> npt.NDArray[np.int64]:
    words = np.ndarray((max(len(data) - 3, 0),), "<i4", data, 0, (1,))
    start = words[at + 8].astype(np.int64) + address + at + 8
    size = words[at + 12].astype(np.int64) & 0xFFFFFFFF
    if cie.lsda == OMIT:
        lsda = np.zeros(len(at), np.int64)
    else:
        stored = words[at + 17].astype(np.int64)
        lsda = np.where(stored == 0, 0, stored + address + at + 17)
    return np.stack([start, size, lsda], axis=1)


def _read_slow(
    data: bytes, address: int, offsets: Iterable[int], cie: Common, refusals: list[Refusal]
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
                if cie.lsda != OMIT:
                    lsda = reader.pointer(cie.lsda, start)
        except Malformed as problem:
            refusals.append(Refusal(address + at, f"unwind entry not understood: {problem}"))
            continue
        if start < 1 << 47 and size < 1 << 32 and lsda < 1 << 47:
            rows.append((start, size, lsda))
    return np.array(rows, np.int64).reshape(len(rows), 3)


def _read_cie(data: bytes, address: int, at: int, refusals: list[Refusal]) -> Common | None:
    try:
        if not 0 <= at <= len(data) - 9 or _TWO_WORDS.unpack_from(data, at)[1]:
            raise Malformed("an entry refers to no common entry")
        return read_common(Reader(data[at : at + 4 + _TWO_WORDS.unpack_from(data, at)[0]], address + at, 8))
    except Malformed as problem:
        refusals.append(Refusal(address + at, f"unwind entries not understood: {problem}"))
        return None


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
            sites = read_call_sites(Reader(segment.data, segment.address, lsda - segment.address), start)
            pads.update([sites.base + pad for pad in sites.values[2::4] if pad])
            budget -= sites.size
        except Malformed as problem:
            refusals.append(Refusal(start, f"exception table not understood: {problem}"))
        if budget < 0:
            refusals.append(Refusal(start, "exception tables overlap; the rest was not read"))
            break
    return sorted(pads), refusals
