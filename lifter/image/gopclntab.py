"""Go's own table of functions (pclntab): names and bounds that survive `strip`.

Layouts of Go 1.18 to 1.27 (magic 0xfffffff0 and 0xfffffff1); see runtime/symtab.go of the Go sources.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from lifter.errors import Refusal
from lifter.image.elf import ElfFile, string_at
from lifter.image.scan import quadwords

_MAGICS: Final = (0xFFFFFFF1, 0xFFFFFFF0)
_OLD_MAGICS: Final = (0xFFFFFFFB, 0xFFFFFFFA)
_HEADER: Final = struct.Struct("<IBBBBQQQQQQQQ")
_BUILD_INFO: Final = b"\xff Go buildinf:"
_SECTIONS: Final = (".gopclntab", ".go.buildinfo", ".note.go.buildid")
_MINPC: Final = 8 + 6 * 24 + 8
"""Offset in the runtime's moduledata of minpc; maxpc, text and etext follow."""


@dataclass(frozen=True, slots=True)
class GoFunction:
    """One row of the table."""

    address: int
    size: int
    """Up to the next function, padding included."""
    name: str
    recovery: int
    """Where the runtime resumes it after a recovered panic; 0 for functions without `defer`."""


@dataclass(frozen=True, slots=True)
class GoProgram:
    """What is known of the Go part of an image."""

    present: bool
    """Whether there is Go code at all."""
    functions: tuple[GoFunction, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def read_go(elf: ElfFile, words: Mapping[int, int]) -> GoProgram:
    """Finds and reads the table. `words` are the image's relocated words (address -> value)."""
    marked = any(elf.section(name) is not None for name in _SECTIONS) or any(
        _BUILD_INFO in segment.data[: 1 << 16] for segment in elf.segments if not segment.executable
    )
    old = False
    for address in _candidates(elf):
        data = _from(elf, address)
        header = _Header.parse(data)
        if header is None:
            old |= len(data) >= 4 and struct.unpack_from("<I", data)[0] in _OLD_MAGICS
            continue
        text = _text_start(elf, address, header, data, words)
        if text is None:
            continue
        functions = tuple(_read_functions(data, header, text))
        if functions:
            return GoProgram(True, functions)
    if not marked:
        return GoProgram(old)
    reason = "Go's function table is older than Go 1.18" if old else "Go's function table was not found"
    hint = "symbols and unwind tables are used instead"
    return GoProgram(True, (), (Refusal(elf.entry, reason, hint=hint),))


@dataclass(frozen=True, slots=True)
class _Header:
    functions: int
    text: int
    """0 since Go 1.26, which keeps it in moduledata alone."""
    names: int
    """Offset of the function names, as the next one from the header."""
    rows: int
    """Offset of the table itself."""

    @classmethod
    def parse(cls, data: bytes) -> _Header | None:
        if len(data) < _HEADER.size:
            return None
        magic, *sizes, functions, _, text, names, _, _, _, rows = _HEADER.unpack_from(data)
        if magic not in _MAGICS or sizes != [0, 0, 1, 8]:
            return None
        if not functions or rows + 8 * functions + 4 > len(data) or names >= len(data):
            return None
        return cls(functions, text, names, rows)


def _from(elf: ElfFile, address: int) -> bytes:
    segment = elf.segment_at(address)
    return segment.data[address - segment.address :] if segment is not None else b""


def _candidates(elf: ElfFile) -> Iterator[int]:
    section = elf.section(".gopclntab")
    if section is not None:
        yield section.address
    for magic in (*_MAGICS, *_OLD_MAGICS):
        pattern = struct.pack("<IBBBB", magic, 0, 0, 1, 8)
        for segment in elf.segments:
            at = segment.data.find(pattern)
            while at >= 0:
                if at % 8 == 0:
                    yield segment.address + at
                at = segment.data.find(pattern, at + 1)


def _text_start(elf: ElfFile, table: int, header: _Header, data: bytes, words: Mapping[int, int]) -> int | None:
    """The address that the table's offsets are relative to: runtime.text, as moduledata has it."""
    first = struct.unpack_from("<I", data, header.rows)[0]
    last = struct.unpack_from("<I", data, header.rows + 8 * header.functions)[0]
    for module in _references(elf, table, words):
        low, high, text = (_word(elf, module + _MINPC + 8 * index, words) for index in range(3))
        if low == text + first and high == text + last and elf.is_code(low):
            return text
    if header.text and elf.is_code(header.text + first):
        return header.text
    section = elf.section(".text")
    return section.address if section is not None and elf.is_code(section.address + first) else None


def _references(elf: ElfFile, value: int, words: Mapping[int, int]) -> Iterator[int]:
    """Addresses of aligned data words that hold `value`."""
    yield from [address for address, word in words.items() if word == value]
    for segment in elf.segments:
        if segment.writable:
            skip = -segment.address % 8
            found = quadwords(segment, skip)
            yield from (np.flatnonzero(found == value) * 8 + segment.address + skip).tolist()


def _word(elf: ElfFile, address: int, words: Mapping[int, int]) -> int:
    if address in words:
        return words[address]
    data = elf.at(address, 8)
    return int(struct.unpack("<Q", data)[0]) if len(data) == 8 else 0


def _read_functions(data: bytes, header: _Header, text: int) -> Iterator[GoFunction]:
    words = np.frombuffer(data, "<u4", 2 * header.functions + 1, header.rows).astype(np.int64)
    starts, ends, rows = words[0:-1:2], words[2::2], words[1::2]
    for start, end, row in zip(starts.tolist(), ends.tolist(), rows.tolist(), strict=True):
        at = header.rows + row
        if end <= start or at + 16 > len(data):
            continue
        _, name_at, _, recovery = struct.unpack_from("<IiiI", data, at)
        name = string_at(data, header.names + name_at) if name_at >= 0 else ""
        if 0 < len(name) < 1 << 16:
            inside = 0 < recovery < end - start
            yield GoFunction(text + start, end - start, name, text + start + recovery if inside else 0)
