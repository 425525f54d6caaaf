"""Read what LLVM emitted: an ELF relocatable file, cut into regions.

It knows what LLVM makes of regions, and refuses anything else by name: a relocation, a symbol or a section that a
region uses and this module does not know makes a `CompileFailure` of that region.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from codecache.types import DATA_ALIGNMENT, CompiledRegion, CompileFailure, Relocation, RelocationKind
from lifter.decode import decode_run
from lifter.instruction import Undecodable
from lifter.registers import GPRS, RSP, gpr

_KINDS = {
    1: RelocationKind.ABS64,
    2: RelocationKind.PC32,
    4: RelocationKind.PC32,  # R_X86_64_PLT32: there is no PLT
    10: RelocationKind.ABS32,
    11: RelocationKind.ABS32S,
    24: RelocationKind.PC64,
}
_SHT_NOBITS, _SHF_MERGE, _SHF_STRINGS = 8, 0x10, 0x20
_STT_OBJECT, _STT_FUNC = 1, 2
_UNDEFINED, _FIRST_RESERVED = 0, 0xFF00


class ObjectError(Exception):
    """The object, or one region of it, holds something unknown; the message names it."""


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


@dataclass(frozen=True, slots=True)
class _Symbol:
    name: str
    type: int
    section: int
    value: int
    size: int


_Entry = tuple[int, int, int, int]
"""A relocation: offset, symbol, type, addend."""


class ObjectFile:
    """Sections, symbols and relocations of an ELF64 x86-64 relocatable file.

    Raises ObjectError where it is none.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        if content[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<HH", content, 16) != (1, 62):
            raise ObjectError("not an x86-64 ELF relocatable file")
        (table,) = struct.unpack_from("<Q", content, 40)
        entry_size, count, names = struct.unpack_from("<HHH", content, 58)
        rows = [struct.unpack_from("<IIQQQQIIQQ", content, table + i * entry_size) for i in range(count)]
        name_offset = rows[names][4]
        self.sections = [
            _Section(self._string(name_offset + r[0]), r[1], r[2], r[4], r[5], r[6], r[7], r[8], r[9]) for r in rows
        ]
        self.index = {section.name: i for i, section in enumerate(self.sections)}
        self.relocation_section = {section.info: i for i, section in enumerate(self.sections) if section.type == 4}

    def _string(self, offset: int) -> str:
        return self.content[offset : self.content.index(b"\0", offset)].decode()

    def bytes_of(self, index: int) -> bytes:
        """Content of a section."""
        section = self.sections[index]
        if section.type == _SHT_NOBITS:
            return bytes(section.size)
        return self.content[section.offset : section.offset + section.size]

    @cached_property
    def symbols(self) -> list[_Symbol]:
        """In file order, which relocations refer to."""
        section = next(section for section in self.sections if section.type == 2)
        names = self.bytes_of(section.link)
        result = []
        rows = self.content[section.offset : section.offset + section.size]
        for name, info, _, index, value, size in struct.iter_unpack("<IBBHQQ", rows):
            text = names[name : names.index(b"\0", name)].decode()
            result.append(_Symbol(text, info & 15, index, value, size))
        return result

    def relocations(self, index: int) -> list[_Entry]:
        """Relocations of a section, in order of offset."""
        where = self.relocation_section.get(index)
        if where is None:
            return []
        rows = [
            (offset, info >> 32, info & 0xFFFFFFFF, addend)
            for offset, info, addend in struct.iter_unpack("<QQq", self.bytes_of(where))
        ]
        rows.sort()
        return rows


def read_regions(content: bytes, shifts: Sequence[int]) -> list[CompiledRegion | CompileFailure]:
    """Cut the regions with the prefixes R0_, R1_, ... (see `codecache.module`) out of an object.

    `shifts` holds the K that each was compiled with. Raises ObjectError where the object as a whole is not understood.
    """
    reader = _Reader(ObjectFile(content))
    result: list[CompiledRegion | CompileFailure] = []
    for number, shift in enumerate(shifts):
        try:
            result.append(reader.region(number, shift))
        except ObjectError as error:
            result.append(CompileFailure(str(error)))
    return result


class _Reader:
    """One object, with what cutting regions out of it needs to look up."""

    def __init__(self, file: ObjectFile) -> None:
        self.file = file
        self.symbols = file.symbols
        self.text_index = file.index[".text"]
        self.text = file.bytes_of(self.text_index)
        self.entries = file.relocations(self.text_index)
        self.offsets = [entry[0] for entry in self.entries]
        self.functions: dict[str, list[_Symbol]] = {}
        self.objects: dict[int, list[_Symbol]] = {}
        for symbol in self.symbols:
            if symbol.type == _STT_FUNC and symbol.section == self.text_index:
                self.functions.setdefault(symbol.name.partition("_")[0], []).append(symbol)
            elif symbol.type == _STT_OBJECT and symbol.section != _UNDEFINED:
                self.objects.setdefault(symbol.section, []).append(symbol)
        self.frames = _frames(file, self.text_index, self.text)
        self.data_entries: dict[int, list[_Entry]] = {}
        self.starts = self._starts()

    def _starts(self) -> dict[int, list[int]]:
        """Where in other sections the code of any region points, by section: there nameless data begins."""
        starts: dict[int, set[int]] = {}
        for _, index, kind, addend in self.entries:
            symbol = self.symbols[index]
            if symbol.section not in (_UNDEFINED, self.text_index):
                offset = symbol.value + addend + (4 if kind in (2, 4) else 0)
                starts.setdefault(symbol.section, set()).add(offset)
        return {section: sorted(offsets) for section, offsets in starts.items()}

    def region(self, number: int, shift: int) -> CompiledRegion:
        prefix = f"R{number}"
        functions = self.functions.get(prefix, [])
        head = next((f for f in functions if f.name == f"{prefix}_region"), None)
        if head is None:
            raise ObjectError("the region's function is missing from the object")
        if head.value != min(f.value for f in functions):
            raise ObjectError("the region's function is not the first of its text")
        start, end = head.value, max(f.value + f.size for f in functions)
        frame = self.frames.get(start)
        if frame is None or isinstance(frame, str):
            raise ObjectError(f"the region's frame is not understood: {frame or 'no frame description'}")
        cutter = _Cutter(self, prefix, start, end)
        code = bytearray(self.text[start:end])
        relocations: list[Relocation] = []
        low, high = bisect_right(self.offsets, start - 1), bisect_right(self.offsets, end - 1)
        for entry in self.entries[low:high]:
            relocation = cutter.relocation(entry, entry[0] - start)
            if relocation.symbol == "L_fs":
                _apply_frame(code, relocation, frame)
            else:
                relocations.append(relocation)
        data, data_relocations = cutter.data()
        return CompiledRegion(bytes(code), tuple(relocations), data, data_relocations, frame, shift)


class _Cutter:
    """Translates the relocations of one region and gathers the constant data that it uses."""

    def __init__(self, reader: _Reader, prefix: str, start: int, end: int) -> None:
        self.reader = reader
        self.prefix = prefix
        self.start = start
        self.end = end
        self.pieces: dict[tuple[int, int], tuple[int, int]] = {}
        """Piece (section, start) -> (end, offset in the region's data)."""
        self.size = 0
        self.pending: list[tuple[int, int]] = []

    def relocation(self, entry: _Entry, offset: int) -> Relocation:
        """The region's relocation at `offset` for one of the object.

        Raises ObjectError.
        """
        _, index, number, addend = entry
        kind = _KINDS.get(number)
        symbol = self.reader.symbols[index]
        if kind is None:
            raise ObjectError(f"unknown relocation type {number} against {symbol.name or 'a section'}")
        if symbol.section == _UNDEFINED:
            prefix, _, name = symbol.name.partition("_")
            if prefix != self.prefix or not name:
                raise ObjectError(f"undefined symbol {symbol.name}")
            return Relocation(offset, kind, f"L_{name}", addend)
        if symbol.section >= _FIRST_RESERVED:
            raise ObjectError(f"symbol {symbol.name} in reserved section {symbol.section:#x}")
        if symbol.section == self.reader.text_index:
            return Relocation(offset, kind, ".code", symbol.value + addend - self.start)
        bias = 4 if kind is RelocationKind.PC32 else 0
        target = symbol.value + addend + bias
        return Relocation(offset, kind, ".data", self._data_offset(symbol.section, target) - bias)

    def _data_offset(self, section: int, target: int) -> int:
        start, end = self._extent(section, target)
        piece = self.pieces.get((section, start))
        if piece is None:
            alignment = self.reader.file.sections[section].alignment
            self.size += (start - self.size) % alignment
            piece = self.pieces[section, start] = (end, self.size)
            self.pending.append((section, start))
            self.size += end - start
        return piece[1] + target - start

    def _extent(self, index: int, target: int) -> tuple[int, int]:
        """First and last-but-one offset of the constant at `target` in a section."""
        section = self.reader.file.sections[index]
        what = f"{section.name}+{target:#x}"
        if not section.name.startswith((".rodata", ".data.rel.ro")) or section.alignment > DATA_ALIGNMENT:
            raise ObjectError(f"a reference to {what}: only constants can be placed")
        if section.flags & _SHF_MERGE and not section.flags & _SHF_STRINGS:
            start = target - target % section.entry_size
            return start, start + section.entry_size
        for symbol in self.reader.objects.get(index, ()):
            if symbol.value <= target < symbol.value + symbol.size:
                if symbol.name.partition("_")[0] != self.prefix:
                    raise ObjectError(f"a reference to {what}, the constant {symbol.name} of another region")
                return symbol.value, symbol.value + symbol.size
        return self._jump_table(index, target, what)

    def _jump_table(self, index: int, start: int, what: str) -> tuple[int, int]:
        """Extent of the jump table at `start`: 32-bit distances from the table to places in this region's code."""
        starts = self.reader.starts.get(index, [])
        following = bisect_right(starts, start)
        end = starts[following] if following < len(starts) else self.reader.file.sections[index].size
        expected = start
        for offset, symbol_index, kind, addend in self._entries(index, start, end):
            symbol = self.reader.symbols[symbol_index]
            target = symbol.value + addend - (offset - start)
            if (
                offset != expected
                or kind != 2
                or symbol.section != self.reader.text_index
                or not self.start <= target < self.end
            ):
                break
            expected += 4
        if expected == start or any(self.reader.file.bytes_of(index)[expected:end]):
            raise ObjectError(f"constant data at {what} is not understood")
        return start, expected

    def _entries(self, index: int, start: int, end: int) -> list[_Entry]:
        entries = self.reader.data_entries.get(index)
        if entries is None:
            entries = self.reader.data_entries[index] = self.reader.file.relocations(index)
        low = bisect_right(entries, (start - 1, 1 << 62, 0, 0))
        high = bisect_right(entries, (end - 1, 1 << 62, 0, 0))
        return entries[low:high]

    def data(self) -> tuple[bytes, tuple[Relocation, ...]]:
        """The constant data used so far, and by that data."""
        relocations = []
        while self.pending:
            section, start = self.pending.pop()
            end, offset = self.pieces[section, start]
            for entry in self._entries(section, start, end):
                relocations.append(self.relocation(entry, entry[0] - start + offset))
        content = bytearray(self.size)
        for (section, start), (end, offset) in self.pieces.items():
            content[offset : offset + end - start] = self.reader.file.bytes_of(section)[start:end]
        return bytes(content), tuple(sorted(relocations, key=lambda r: r.offset))


def _apply_frame(code: bytearray, relocation: Relocation, frame: int) -> None:
    """Put the frame size, an absolute symbol, into the code."""
    if relocation.kind not in (RelocationKind.ABS32, RelocationKind.ABS32S):
        raise ObjectError(f"the frame size is used by a {relocation.kind.value} relocation")
    struct.pack_into("<i", code, relocation.offset, frame + relocation.addend)


def _frames(file: ObjectFile, text_index: int, text: bytes) -> dict[int, int | str]:
    """Frame size by function address as .eh_frame states it, or what is not understood about it."""
    index = file.index.get(".eh_frame")
    if index is None:
        return {}
    content = file.bytes_of(index)
    functions = {}
    for offset, symbol_index, _, addend in file.relocations(index):
        symbol = file.symbols[symbol_index]
        if symbol.section == text_index:
            functions[offset] = symbol.value + addend
    frames: dict[int, int | str] = {}
    at = 0
    while at + 8 <= len(content):
        length, cie = struct.unpack_from("<II", content, at)
        if cie:
            address = functions.get(at + 8)
            if address is None or content[at + 16] != 0:
                raise ObjectError("a frame description without a function of .text")
            frames[address] = _frame(content[at + 17 : at + 4 + length], text, address)
        at += 4 + length
    return frames


def _frame(instructions: bytes, text: bytes, address: int) -> int | str:
    """Frame size from the call frame instructions of a function: at most one change, by the prologue."""
    instructions = instructions.rstrip(b"\0")
    if not instructions:
        return 0
    # DW_CFA_advance_loc, DW_CFA_def_cfa_offset: the distance of RSP from the frame's upper end
    if len(instructions) < 3 or instructions[0] >> 6 != 1 or instructions[1] != 0x0E:
        return f"call frame instructions {instructions.hex(' ')}"
    offset = shift = 0
    for i, byte in enumerate(instructions[2:]):
        offset |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 and i != len(instructions) - 3:
            return f"call frame instructions {instructions.hex(' ')}"
    frame = offset - 8
    prologue = text[address : address + (instructions[0] & 0x3F)]
    adjustments = [
        b"\x48\x81\xec" + struct.pack("<I", frame),
        b"\x48\x8d\xa4\x24" + struct.pack("<i", -frame),
    ]
    if frame <= 128:
        adjustments.append(b"\x48\x83\xec" + struct.pack("<b", frame) if frame < 128 else b"\x48\x83\xc4\x80")
        adjustments.append(b"\x48\x8d\x64\x24" + struct.pack("<b", -frame))
    if frame == 8:
        adjustments += [bytes([byte]) for byte in range(0x50, 0x58)]
    if not prologue.endswith(tuple(adjustments)):
        return f"prologue {prologue.hex(' ')} for a frame of {frame}"
    return frame


def written_registers(code: bytes) -> int:
    """General-purpose registers that machine code may write, RSP apart; all if some of it cannot be decoded."""
    mask = 0
    for _, instruction in decode_run(code):
        if isinstance(instruction, Undecodable):
            return GPRS
        mask |= instruction.effects.writes
    return mask & GPRS & ~gpr(RSP)
