"""The ELF file as bytes: headers, tables and notes, each checked before it is believed.

Everything is read with struct and numpy rather than through a parser library, so that a damaged file can
cost nothing but one clear error: no table is larger than the file, and no number in it is trusted.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from lifter.errors import RefusedError
from lifter.image.types import Section, Segment

ET_EXEC: Final = 2
ET_DYN: Final = 3
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
PT_GNU_EH_FRAME: Final = 0x6474E550
PT_GNU_PROPERTY: Final = 0x6474E553
SHT_SYMTAB, SHT_RELA, SHT_NOBITS, SHT_REL, SHT_DYNSYM = 2, 4, 8, 9, 11
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
ADDRESS_LIMIT: Final = 1 << 47
"""Where user space ends on x86-64."""

_MACHINES: Final = {
    2: "SPARC", 3: "x86", 8: "MIPS", 20: "PowerPC", 21: "64-bit PowerPC", 22: "S/390", 40: "ARM",
    43: "SPARC V9", 183: "AArch64", 243: "RISC-V", 247: "BPF", 258: "LoongArch",
}  # fmt: skip
_FILE_TYPES: Final = {1: "an object file (link it first)", 4: "a core dump"}

_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER: Final = struct.Struct("<IIQQQQIIQQ")

SYMBOL: Final = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
RELA: Final = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])
_DYNAMIC: Final = np.dtype([("tag", "<i8"), ("value", "<u8")])

Table = npt.NDArray[np.void]
"""Rows of one of the dtypes above."""


@dataclass(frozen=True, slots=True)
class ProgramHeader:
    """One entry of the program header table."""

    type: int
    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int


@dataclass(frozen=True, slots=True)
class SectionHeader:
    """One entry of the section header table."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    entry_size: int


@dataclass(frozen=True, slots=True)
class SymbolTable:
    """A symbol table with its strings."""

    rows: Table
    """Of dtype SYMBOL."""
    strings: bytes

    def name(self, offset: int) -> str:
        """The string at `offset`; '' where there is none."""
        return string_at(self.strings, offset)


NO_SYMBOLS: Final = SymbolTable(np.zeros(0, SYMBOL), b"")


def string_at(strings: bytes, offset: int) -> str:
    """The zero-terminated string at `offset` of a string table; bytes that are not UTF-8 as \\xNN."""
    end = strings.find(b"\0", offset)
    return strings[offset : end if end >= 0 else offset].decode("utf-8", "backslashreplace")


def _machine(layout: str, content: bytes) -> str:
    number = struct.unpack_from(layout, content, 18)[0]
    return _MACHINES.get(number, f"machine {number}")


class ElfFile:
    """An ELF file of x86-64 whose headers have been checked against the file's size.

    Raises RefusedError, with the reason, for everything else.
    """

    def __init__(self, content: bytes, what: str) -> None:
        self.content = content
        self._what = what
        self.type, self.entry, program, sections = self._read_header()
        self.program_headers = self._read_program_headers(*program)
        self.headers_size = program[0] + program[1] * program[2]
        """Where the headers at the beginning of the file end."""
        self.section_headers = self._read_section_headers(*sections)
        self.segments = self._make_segments()
        self._starts = [segment.address for segment in self.segments]
        self.dynamic = self._read_dynamic()

    def _refuse(self, why: str) -> RefusedError:
        return RefusedError(f"{self._what}: {why}")

    def _read_header(self) -> tuple[int, int, tuple[int, int, int], tuple[int, int, int, int]]:
        content = self.content
        if not content:
            raise self._refuse("the file is empty")
        if content[:4] != b"\x7fELF":
            raise self._refuse("not an ELF file")
        if len(content) < 20:
            raise self._refuse("truncated: the ELF header is not complete")
        if content[5] == 2:
            raise self._refuse(f"big-endian, for {_machine('>H', content)}, not x86-64")
        if content[18:20] != b"\x3e\0":
            raise self._refuse(f"built for {_machine('<H', content)}, not for x86-64")
        if content[4] != 2:
            raise self._refuse("a 32-bit ELF file (x32 included); only 64-bit ones can be worked on")
        if content[5] != 1:
            raise self._refuse("damaged: the ELF header names no byte order")
        if len(content) < 64:
            raise self._refuse("truncated: the ELF header is not complete")
        (
            kind, _, _, entry, program_offset, section_offset, _, _,
            program_size, program_count, section_size, section_count, names,
        ) = struct.unpack_from("<HHIQQQIHHHHHH", content, 16)  # fmt: skip
        if kind not in (ET_EXEC, ET_DYN):
            found = _FILE_TYPES.get(kind, f"of ELF type {kind}")
            raise self._refuse(f"neither an executable nor a shared library, but {found}")
        return kind, entry, (program_offset, program_size, program_count), (
            section_offset, section_size, section_count, names,
        )  # fmt: skip

    def _read_program_headers(self, offset: int, size: int, count: int) -> tuple[ProgramHeader, ...]:
        if not count:
            raise self._refuse("no program headers: nothing of it would be loaded")
        if size != _PROGRAM_HEADER.size or count == 0xFFFF:
            raise self._refuse("damaged: program headers of unknown size or number")
        if offset + count * size > len(self.content):
            raise self._refuse("truncated: the program headers lie beyond the end of the file")
        headers = []
        for index in range(count):
            kind, flags, start, address, _, file_size, memory_size, _ = _PROGRAM_HEADER.unpack_from(
                self.content, offset + index * size
            )
            headers.append(ProgramHeader(kind, flags, start, address, file_size, memory_size))
        return tuple(headers)

    def _read_section_headers(self, offset: int, size: int, count: int, names: int) -> tuple[SectionHeader, ...]:
        if not offset:
            return ()
        if size != _SECTION_HEADER.size:
            if not count:
                return ()
            raise self._refuse("damaged: section headers of unknown size")
        if offset + size > len(self.content):
            raise self._refuse("truncated: the section headers lie beyond the end of the file")
        first = _SECTION_HEADER.unpack_from(self.content, offset)
        # Counts that do not fit the header's 16 bits stand in the first entry.
        count = count or first[5]
        names = first[6] if names == 0xFFFF else names
        if offset + count * size > len(self.content):
            raise self._refuse("truncated: the section headers lie beyond the end of the file")
        raw = [_SECTION_HEADER.unpack_from(self.content, offset + index * size) for index in range(count)]
        strings = b""
        if names < count and raw[names][1] != SHT_NOBITS:
            strings = self.content[raw[names][4] : raw[names][4] + raw[names][5]]
        headers = []
        for name_at, kind, flags, address, start, length, link, info, _, entry_size in raw:
            name = string_at(strings, name_at)
            if kind not in (0, SHT_NOBITS) and start + length > len(self.content):
                raise self._refuse(f"truncated: section {name!r} lies beyond the end of the file")
            if flags & SHF_ALLOC and address + length > ADDRESS_LIMIT:
                raise self._refuse(f"damaged: section {name!r} lies outside user space")
            headers.append(SectionHeader(name, kind, flags, address, start, length, link, info, entry_size))
        return tuple(headers)

    def _make_segments(self) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        for header in self.program_headers:
            if header.type != PT_LOAD or not header.memory_size:
                continue
            if header.offset + header.file_size > len(self.content):
                raise self._refuse("truncated: a segment lies beyond the end of the file")
            if header.file_size > header.memory_size or (header.address - header.offset) % 0x1000:
                raise self._refuse("damaged: a segment that cannot be mapped as it is described")
            if header.address + header.memory_size > ADDRESS_LIMIT:
                raise self._refuse("a segment lies outside user space (a kernel, or damaged)")
            if segments and header.address < segments[-1].end:
                raise self._refuse("damaged: segments overlap or are out of order")
            segments.append(
                Segment(
                    address=header.address,
                    size=header.memory_size,
                    offset=header.offset,
                    data=self.content[header.offset : header.offset + header.file_size],
                    readable=bool(header.flags & 4),
                    writable=bool(header.flags & 2),
                    executable=bool(header.flags & 1),
                )
            )
        if not segments:
            raise self._refuse("no loadable segment")
        if not any(segment.executable for segment in segments):
            raise self._refuse("no executable segment: it holds no code")
        return tuple(segments)

    def _read_dynamic(self) -> dict[int, list[int]]:
        result: dict[int, list[int]] = {}
        for header in self.program_headers:
            if header.type == PT_DYNAMIC:
                data = self.at(header.address, header.file_size)
                rows = np.frombuffer(data, _DYNAMIC, len(data) // _DYNAMIC.itemsize)
                for tag, value in zip(rows["tag"].tolist(), rows["value"].tolist(), strict=True):
                    if tag == 0:
                        break
                    result.setdefault(tag, []).append(value)
                break
        return result

    def dynamic_value(self, tag: int) -> int:
        """The first value of a dynamic tag; 0 where there is none."""
        return self.dynamic.get(tag, [0])[0]

    def segment_at(self, address: int) -> Segment | None:
        """The segment that holds `address`, or None."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self.segments[index].end:
            return self.segments[index]
        return None

    def is_code(self, address: int) -> bool:
        """Whether `address` lies in bytes of the file that are mapped executable."""
        segment = self.segment_at(address)
        return segment is not None and segment.executable and address < segment.address + len(segment.data)

    def at(self, address: int, size: int) -> bytes:
        """Up to `size` bytes of the file that are mapped at `address`; fewer or none where there are none."""
        segment = self.segment_at(address)
        if segment is None:
            return b""
        start = address - segment.address
        return segment.data[start : start + size]

    def sections(self) -> tuple[Section, ...]:
        """The sections that are mapped, by address; .tbss is not: threads get it elsewhere."""
        found = [
            Section(
                header.name, header.address, header.size,
                bool(header.flags & SHF_EXECINSTR), bool(header.flags & SHF_WRITE),
            )
            for header in self.section_headers
            if header.flags & SHF_ALLOC and not (header.type == SHT_NOBITS and header.flags & 0x400)
        ]  # fmt: skip
        return tuple(sorted(found, key=lambda section: (section.address, section.size)))

    def section_bytes(self, header: SectionHeader) -> bytes:
        """The contents that the file has for a section."""
        if header.type == SHT_NOBITS:
            return b""
        return self.content[header.offset : header.offset + header.size]

    def section(self, name: str) -> SectionHeader | None:
        """The first section of that name, or None."""
        return next((header for header in self.section_headers if header.name == name), None)

    def static_symbols(self) -> SymbolTable:
        """The table that `strip` removes (.symtab)."""
        for header in self.section_headers:
            if header.type == SHT_SYMTAB and header.link < len(self.section_headers):
                data = self.section_bytes(header)
                rows = np.frombuffer(data, SYMBOL, len(data) // SYMBOL.itemsize)
                return SymbolTable(rows, self.section_bytes(self.section_headers[header.link]))
        return NO_SYMBOLS

    def dynamic_symbols(self) -> SymbolTable:
        """The table that the loader uses, found through the dynamic section alone."""
        address = self.dynamic_value(6)
        if not address:
            return NO_SYMBOLS
        count = self._dynamic_symbol_count(address)
        data = self.at(address, count * SYMBOL.itemsize)
        rows = np.frombuffer(data, SYMBOL, len(data) // SYMBOL.itemsize)
        return SymbolTable(rows, self.at(self.dynamic_value(5), self.dynamic_value(10)))

    def _dynamic_symbol_count(self, address: int) -> int:
        for header in self.section_headers:
            if header.type == SHT_DYNSYM and header.address == address:
                return header.size // SYMBOL.itemsize
        if table := self.dynamic_value(4):
            # DT_HASH: the number of chains is the number of symbols.
            head = self.at(table, 8)
            return int(struct.unpack("<II", head)[1]) if len(head) == 8 else 0
        if table := self.dynamic_value(0x6FFFFEF5):
            return self._gnu_hash_count(table)
        return 0

    def _gnu_hash_count(self, table: int) -> int:
        head = self.at(table, 16)
        if len(head) < 16:
            return 0
        buckets, first, bloom, _ = struct.unpack("<IIII", head)
        at = table + 16 + 8 * bloom
        data = self.at(at, 4 * buckets)
        starts = np.frombuffer(data, "<u4", len(data) // 4)
        last = int(starts.max(initial=0))
        if last < first:
            # No exported symbol: those that are imported are not hashed; relocations know how many there are.
            return self._highest_relocated_symbol() + 1
        chain = self.at(at + 4 * buckets + 4 * (last - first), 1 << 24)
        hashes = np.frombuffer(chain, "<u4", len(chain) // 4)
        ends = np.flatnonzero(hashes & 1)
        return last + 1 + int(ends[0]) if len(ends) else 0

    def _highest_relocated_symbol(self) -> int:
        return max((int((rows["info"] >> 32).max(initial=0)) for rows in self.relocation_tables()), default=0)

    def relocation_tables(self) -> Iterator[Table]:
        """The loader's tables with addends: DT_RELA, then DT_JMPREL."""
        for start, size in ((7, 8), (23, 2)):
            data = self.at(self.dynamic_value(start), self.dynamic_value(size))
            yield np.frombuffer(data, RELA, len(data) // RELA.itemsize)

    def notes(self) -> Iterator[tuple[bytes, int, bytes]]:
        """Owner, type and contents of each note in a note segment."""
        for header in self.program_headers:
            if header.type not in (PT_NOTE, PT_GNU_PROPERTY):
                continue
            data = self.content[header.offset : header.offset + min(header.file_size, 1 << 20)]
            at = 0
            while at + 12 <= len(data):
                name_size, size, kind = struct.unpack_from("<III", data, at)
                name = data[at + 12 : at + 12 + name_size].rstrip(b"\0")
                start = at + 12 + (name_size + 3 & ~3)
                yield name, kind, data[start : start + size]
                # Only property notes are padded to 8 bytes.
                padding = 7 if kind == 5 and name == b"GNU" else 3
                at = start + (size + padding & ~padding)
