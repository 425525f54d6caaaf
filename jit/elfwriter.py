"""Adds segments to an ELF file by appending to it: the original bytes stay where they are, but for patches.

LIEF's writer lays the file out anew, which moves or loses things (addresses of a PIE, line information). Here
the file is copied byte for byte, and what is added goes behind it: a data segment, a code segment that also
holds the new program header table, and a new section header table that names both.

Where the table lies matters: kernels before 5.18 tell the program that its program headers are at `load
address + e_phoff`. So each added segment lies in the file as far from the first segment as in memory; where
that is beyond the end of the file (a large .bss), the file has a hole, which takes no space on disk.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from codecache.types import Patch
from lifter.errors import ProbeloomError, RefusedError
from lifter.image.elf import PT_DYNAMIC, PT_GNU_EH_FRAME, PT_INTERP, PT_LOAD

PAGE = 4096

PT_PHDR = 6
PT_PROBELOOM = 0x6C6F6F6D
"""Marks a rewritten file, and covers its program header table: a type of our own, which loaders ignore."""

PF_X, PF_W, PF_R = 1, 2, 4
DT_NULL, DT_INIT, DT_RELACOUNT = 0, 12, 0x6FFFFFF9

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_GLOBAL_FUNCTION, _HIDDEN = 0x12, 2
_DYN = struct.Struct("<qQ")
EHDR_SIZE = _EHDR.size

_SHT_PROGBITS, _SHT_SYMTAB, _SHT_NOBITS, _SHT_DYNAMIC = 1, 2, 8, 6
_SHF_WRITE, _SHF_ALLOC, _SHF_EXECINSTR = 1, 2, 4


@dataclass(frozen=True, slots=True)
class ProgramHeader:
    """One entry of the program header table, in the order of the file's own fields."""

    type: int
    flags: int
    offset: int
    address: int
    physical: int
    file_size: int
    memory_size: int
    align: int


@dataclass(frozen=True, slots=True)
class _Header:
    """The ELF header."""

    ident: bytes
    type: int
    machine: int
    version: int
    entry: int
    phoff: int
    shoff: int
    flags: int
    ehsize: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int


@dataclass(frozen=True, slots=True)
class Added:
    """A segment to be added."""

    name: str
    """Of the section that shows it to debuggers."""
    address: int
    """Page-aligned, after everything that the file loads."""
    content: bytes
    flags: int
    """PF_R, PF_W, PF_X."""


Chunk = tuple[int, bytes]
"""(offset in the file, bytes): what is between chunks is a hole of zeros."""


class ElfEditor:
    """An ELF file of x86-64 that is about to be written with additions.

    Raises RefusedError for a file that is damaged, or laid out so that nothing can be added.
    """

    def __init__(self, content: bytes) -> None:
        try:
            self.header = _Header(*_EHDR.unpack_from(content))
            self.segments = [
                ProgramHeader(*_PHDR.unpack_from(content, self.header.phoff + i * _PHDR.size))
                for i in range(self.header.phnum)
            ]
        except struct.error:
            raise RefusedError("truncated ELF file: no room for its program headers") from None
        self.content = content
        self._edits: list[Chunk] = []
        self._debugging: tuple[str, bytes, Sequence[tuple[int, int, str]]] = ("", b"", ())
        loaded = self.loaded
        if not loaded:
            raise RefusedError("no loadable segment in the file")
        self.bias = loaded[0].address - loaded[0].offset
        """Address minus file offset of the first segment, and of everything that is added."""
        if self.bias % PAGE:
            raise RefusedError("segments are not page-aligned in the file")
        for before, after in pairwise(loaded):
            if after.address < before.address + before.memory_size:
                raise RefusedError("segments overlap or are not in address order")
        if any(s.offset + s.file_size > len(content) or s.file_size > s.memory_size for s in loaded):
            raise RefusedError("segments reach beyond the end of the file")
        table, end = self.header.phoff, self.header.phoff + len(self.segments) * _PHDR.size
        seen = any(s.offset <= table and end <= s.offset + s.file_size for s in loaded)
        if not seen and any(s.type == PT_INTERP for s in self.segments):
            raise RefusedError("damaged: no segment loads the program headers, which the dynamic linker reads")

    @property
    def loaded(self) -> list[ProgramHeader]:
        """The PT_LOAD entries."""
        return [segment for segment in self.segments if segment.type == PT_LOAD]

    @property
    def free_address(self) -> int:
        """First page after everything in memory and, as file offsets go along with addresses, in the file."""
        memory = max(segment.address + segment.memory_size for segment in self.loaded)
        return -(-max(memory, len(self.content) + self.bias) // PAGE) * PAGE

    def offset_of(self, address: int, size: int) -> int | None:
        """Where the file has the `size` bytes at `address`; None where it does not have all of them."""
        for segment in self.loaded:
            if segment.address <= address and address + size <= segment.address + segment.file_size:
                return address - segment.address + segment.offset
        return None

    def patch(self, patches: Sequence[Patch]) -> None:
        """Overwrites original bytes. Raises ProbeloomError for a patch that does not fit: our own fault."""
        end = 0
        for patch in patches:
            offset = self.offset_of(patch.address, len(patch.before))
            if offset is None or len(patch.before) != len(patch.after):
                raise ProbeloomError(f"patch at {patch.address:#x} is not in the file")
            if patch.address < end:
                raise ProbeloomError(f"patch at {patch.address:#x} overlaps the one before")
            if self.content[offset : offset + len(patch.before)] != patch.before:
                raise ProbeloomError(f"patch at {patch.address:#x}: unexpected original bytes")
            end = patch.address + len(patch.after)
            self._edits.append((offset, patch.after))

    def set_entry(self, address: int) -> None:
        """Lets the program start at `address`."""
        self.header = replace(self.header, entry=address)

    def initialiser(self) -> int | None:
        """Address of the DT_INIT function; None where there is none."""
        for tag, value in self.dynamic_table():
            if tag == DT_INIT:
                return value
            if tag == DT_NULL:
                break
        return None

    def set_initialiser(self, address: int, spare: int) -> bytes:
        """Lets the loader call `address` before all other initialisers of a library.

        Uses the DT_INIT entry, else a spare one, else moves the dynamic table: returns then its bytes, for
        the writable address `spare`; b'' otherwise. Raises RefusedError for a file without a dynamic table.
        """
        table = self.dynamic_table()
        place = self._dynamic_segment()
        if place is None or not table:
            raise RefusedError("library without a dynamic table")
        tags = [tag for tag, _ in table]
        end = tags.index(DT_NULL) if DT_NULL in tags else len(tags)
        if DT_INIT in tags[:end]:
            index = tags.index(DT_INIT)
        elif end + 1 < len(tags) and tags[end + 1] == DT_NULL:
            index = end
        elif DT_RELACOUNT in tags[:end]:
            index = tags.index(DT_RELACOUNT)  # a hint: how many relocations need no symbol
        else:
            moved = b"".join(_DYN.pack(*entry) for entry in [(DT_INIT, address), *table[:end], (DT_NULL, 0)])
            self._move_dynamic(place, spare, len(moved))
            return moved
        offset, _ = self.dynamic_place()
        self._edits.append((offset + index * _DYN.size, _DYN.pack(DT_INIT, address)))
        return b""

    def set_frame_table(self, address: int, size: int) -> None:
        """Lets unwinders find the search table at `address`, in place of the file's own (PT_GNU_EH_FRAME)."""
        for index, segment in enumerate(self.segments):
            if segment.type == PT_GNU_EH_FRAME:
                self.segments[index] = self._moved(segment, address, size)

    def set_debugging(self, section: str, frames: bytes, names: Sequence[tuple[int, int, str]]) -> None:
        """Lets debuggers know of code in one of the added sections: its call frames, unless the file has a
        .debug_frame of its own, and the (address, size, name) of functions, where the file has symbols."""
        self._debugging = (section, frames, names)

    def finish(self, added: Sequence[Added]) -> tuple[list[Chunk], int]:
        """The file with all changes, as chunks in file order, and its size.

        The last of `added` gets the program header table behind its content.
        """
        added = sorted(added, key=lambda segment: segment.address)
        self._check_room(added)
        last = added[-1]
        table_address = -(-(last.address + len(last.content)) // 8) * 8
        self.segments.append(ProgramHeader(PT_PROBELOOM, PF_R, 0, 0, 0, 0, 0, 8))
        count = len(self.segments) + len(added)
        padding = bytes(table_address - last.address - len(last.content))
        segments = [
            ProgramHeader(
                PT_LOAD,
                segment.flags,
                segment.address - self.bias,
                segment.address,
                segment.address,
                len(segment.content),
                len(segment.content),
                PAGE,
            )
            for segment in added
        ]
        size = len(last.content) + len(padding) + count * _PHDR.size
        segments[-1] = replace(segments[-1], file_size=size, memory_size=size)
        table = self._program_headers(segments, table_address)
        chunks = [(segment.address - self.bias, segment.content) for segment in added]
        chunks[-1] = (chunks[-1][0], last.content + padding + table)
        sections = self._section_headers(added, table_address, chunks[-1][0] + size)
        if sections:
            chunks.append(sections)
        self.header = replace(self.header, phoff=table_address - self.bias, phnum=count)
        original = bytearray(self.content)
        for offset, new in self._edits:
            original[offset : offset + len(new)] = new
        original[: _EHDR.size] = _EHDR.pack(*(getattr(self.header, name) for name in _Header.__slots__))
        return [(0, bytes(original)), *chunks], chunks[-1][0] + len(chunks[-1][1])

    def _check_room(self, added: Sequence[Added]) -> None:
        end = self.free_address
        for segment in added:
            if segment.address % PAGE or segment.address < end:
                raise ProbeloomError(f"segment at {segment.address:#x} is not page-aligned after {end:#x}")
            end = segment.address + len(segment.content)

    def dynamic_place(self) -> tuple[int, int]:
        """Offset and size of the dynamic table where the loader reads it, at its address; (0, 0) for none."""
        place = self._dynamic_segment()
        if place is None:
            return 0, 0
        for segment in self.loaded:
            room = segment.address + segment.file_size - place.address
            if segment.address <= place.address and room > 0:
                size = min(place.file_size, room) // _DYN.size * _DYN.size
                return place.address - segment.address + segment.offset, size
        return 0, 0

    def dynamic_table(self) -> list[tuple[int, int]]:
        """(tag, value) of each entry, those behind the final DT_NULL too; [] for none."""
        offset, size = self.dynamic_place()
        return list(_DYN.iter_unpack(self.content[offset : offset + size]))

    def _dynamic_segment(self) -> ProgramHeader | None:
        return next((segment for segment in self.segments if segment.type == PT_DYNAMIC), None)

    def _move_dynamic(self, place: ProgramHeader, address: int, size: int) -> None:
        self.segments[self.segments.index(place)] = self._moved(place, address, size)

    def _moved(self, header: ProgramHeader, address: int, size: int) -> ProgramHeader:
        """An entry for what is in the file, whole, where `address` is in memory."""
        return replace(
            header,
            offset=address - self.bias,
            address=address,
            physical=address,
            file_size=size,
            memory_size=size,
        )

    def _program_headers(self, new: Sequence[ProgramHeader], address: int) -> bytes:
        """The table at `address`: the new segments follow the last PT_LOAD, in address order as the loaders
        want."""
        last = max(index for index, segment in enumerate(self.segments) if segment.type == PT_LOAD)
        table = [*self.segments[: last + 1], *new, *self.segments[last + 1 :]]
        size = len(table) * _PHDR.size
        for index, segment in enumerate(table):
            if segment.type in (PT_PHDR, PT_PROBELOOM):
                table[index] = self._moved(segment, address, size)
        return b"".join(_PHDR.pack(*(getattr(segment, name) for name in ProgramHeader.__slots__)) for segment in table)

    def _section_headers(self, added: Sequence[Added], table_address: int, offset: int) -> Chunk | None:
        """A new table at `offset` or soon after; None for a file without a (whole) one, which keeps what it
        has."""
        header = self.header
        size = header.shnum * _SHDR.size
        if (
            not 0 < header.shstrndx < header.shnum < 0xFF00 - len(added)
            or header.shentsize != _SHDR.size
            or header.shoff + size > len(self.content)
        ):
            return None
        sections = list(_SHDR.iter_unpack(self.content[header.shoff : header.shoff + size]))
        names_offset, names_size = sections[header.shstrndx][4:6]
        names = self.content[names_offset : names_offset + names_size]
        if len(names) != names_size or sections[header.shstrndx][1] == _SHT_NOBITS:
            return None
        new = [(s.name, _section_flags(s.flags), s.address, len(s.content)) for s in added]
        # GNU strip and objcopy put the program headers behind the ELF header, over what is there. They refuse the
        # file instead when a segment that is not loaded has both the program headers and a section in it.
        new.append((".probeloom.phdr", 0, table_address, (len(self.segments) + len(added)) * _PHDR.size))
        for name, flags, address, length in new:
            start = address - self.bias
            sections.append((len(names), _SHT_PROGBITS, _SHF_ALLOC | flags, address, start, length, 0, 0, 8, 0))
            names += name.encode() + b"\0"
        dynamic = self._dynamic_segment()
        for index, section in enumerate(sections):
            if section[1] == _SHT_DYNAMIC and dynamic and section[3] != dynamic.address:
                where = (dynamic.address, dynamic.offset, dynamic.file_size)
                sections[index] = (*section[:3], *where, *section[6:])
        names, contents = self._add_debugging(sections, names, offset)
        old = sections[header.shstrndx]
        sections[header.shstrndx] = (*old[:4], offset + len(contents), len(names), *old[6:])
        contents += names
        contents += bytes(-(offset + len(contents)) % 8)
        self.header = replace(header, shoff=offset + len(contents), shnum=len(sections))
        return offset, contents + b"".join(_SHDR.pack(*section) for section in sections)

    def _add_debugging(self, sections: list[tuple[int, ...]], names: bytes, offset: int) -> tuple[bytes, bytes]:
        """Adds to `sections`, whose contents go to `offset`: the sections' names, with one more, and the contents."""
        where, frames, functions = self._debugging
        titles = [names[section[0] :].partition(b"\0")[0] for section in sections]
        contents = bytes(-offset % 8)
        if frames and b".debug_frame" not in titles:
            place = offset + len(contents)
            sections.append((len(names), _SHT_PROGBITS, 0, 0, place, len(frames), 0, 0, 8, 0))
            names += b".debug_frame\0"
            contents += frames
        symbols = next((index for index, section in enumerate(sections) if section[1] == _SHT_SYMTAB), None)
        if not functions or symbols is None or where.encode() not in titles:
            return names, contents
        table, strings = sections[symbols], sections[sections[symbols][6]]
        rows = bytearray(self.content[table[4] : table[4] + table[5]])
        texts = bytearray(self.content[strings[4] : strings[4] + strings[5]])
        for address, size, name in functions:
            rows += _SYM.pack(len(texts), _GLOBAL_FUNCTION, _HIDDEN, titles.index(where.encode()), address, size)
            texts += name.encode("utf-8", "surrogateescape") + b"\0"
        sections[table[6]] = (*strings[:4], offset + len(contents), len(texts), *strings[6:])
        contents += bytes(texts)
        contents += bytes(-(offset + len(contents)) % 8)
        sections[symbols] = (*table[:4], offset + len(contents), len(rows), *table[6:])
        return names, contents + bytes(rows)


def _section_flags(flags: int) -> int:
    return (_SHF_WRITE if flags & PF_W else 0) | (_SHF_EXECINSTR if flags & PF_X else 0)
