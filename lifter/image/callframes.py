"""Call frame information: where, at each instruction, the caller's frame and registers are (DWARF 5, section 6.4).

Whoever makes a call from another place than the original's has to tell the unwinder the same of that place. So the
rows are worked out for the original instructions, and written again for those of the code cache.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from lifter.image.elf import PT_GNU_EH_FRAME, ElfFile
from lifter.image.unwind import Malformed, Reader

_OMIT: Final = 0xFF
_DATAREL_SDATA4: Final = 0x3B
_RSP, _RETURN_ADDRESS = 7, 16
"""DWARF's numbers of registers (System V ABI, figure 3.36)."""
_CODE_ALIGNMENT, _DATA_ALIGNMENT = 1, -8

Rule = tuple[str, int | bytes]
"""How a register of the caller is found: ('offset', from the CFA), ('value', CFA plus), ('register', number),
('expression', DWARF), ('value expression', DWARF), ('same', 0) or ('undefined', 0)."""
Cfa = tuple[int, int] | bytes
"""(register, offset), or an expression."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is known at an instruction."""

    cfa: Cfa
    """The canonical frame address: RSP before the call that made the frame."""
    rules: Mapping[int, Rule]
    """By register; one that has none keeps the caller's value."""


_FIRST: Final = bytes((0x0C, _RSP, 8, 0x80 | _RETURN_ADDRESS, 1))
"""def_cfa: rsp + 8; offset: the return address at CFA - 8"""
_AT_ENTRY: Final = Row((_RSP, 8), {_RETURN_ADDRESS: ("offset", -8)})
"""Where every function begins, as the common entry written here says."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame description entry, read."""

    start: int
    end: int
    starts: Sequence[int]
    """Where rows begin, in order; the first is `start`."""
    rows: Sequence[Row]
    landing: Sequence[tuple[int, int]] | None
    """Ranges of code from which an exception goes on to the caller and nothing else happens; None for all of it."""

    def row_at(self, address: int) -> Row:
        """What is known at an instruction of the function."""
        return self.rows[bisect_right(self.starts, address) - 1]

    def passes_exceptions(self, call: int) -> bool:
        """Whether an exception that comes out of the call at `call` only goes on to the caller: nothing of this frame
        catches it, cleans up, or ends the program."""
        return self.landing is None or any(start <= call < end for start, end in self.landing)


@dataclass(slots=True)
class CallFrames:
    """The frame description entries of a file, which has a search table of them (.eh_frame_hdr)."""

    elf: ElfFile
    frames_address: int
    """Of .eh_frame."""
    table: Sequence[tuple[int, int]]
    """(start of the function, address of its entry), in order."""
    _read: dict[int, Frame | None] = field(default_factory=dict)

    @classmethod
    def of(cls, elf: ElfFile) -> CallFrames | None:
        """None where the file has no search table, or one that is not as linkers write it."""
        header = next((h for h in elf.program_headers if h.type == PT_GNU_EH_FRAME), None)
        if header is None:
            return None
        reader = Reader(elf.at(header.address, header.file_size), header.address)
        try:
            version, frames, count, encoding = (reader.byte() for _ in range(4))
            if version != 1 or _OMIT in (frames, count) or encoding != _DATAREL_SDATA4:
                return None
            address = reader.pointer(frames, table=reader.address)
            rows = reader.pointer(count)
            words = struct.unpack_from(f"<{2 * rows}i", reader.data, reader.at)
        except (Malformed, struct.error):
            return None
        base = header.address
        table = [(start + base, entry + base) for start, entry in zip(words[::2], words[1::2], strict=True)]
        return cls(elf, address, table) if table == sorted(table) and address else None

    def at(self, address: int) -> Frame | None:
        """The description of the function that has an instruction at `address`; None where there is none that is
        understood."""
        index = bisect_right(self.table, (address, 1 << 62)) - 1
        if index < 0:
            return None
        start, entry = self.table[index]
        if start not in self._read:
            try:
                self._read[start] = _read_frame(self.elf, entry)
            except Malformed:
                self._read[start] = None
        frame = self._read[start]
        return frame if frame is not None and frame.start <= address < frame.end else None


@dataclass(frozen=True, slots=True)
class _Common:
    code_alignment: int
    data_alignment: int
    pointer: int
    lsda: int
    program: bytes


def _entry(elf: ElfFile, address: int) -> Reader:
    """A reader behind the length of the entry at `address`, which ends where the entry does."""
    length = int.from_bytes(elf.at(address, 4), "little")
    if not 0 < length < 0xFFFFFFF0:
        raise Malformed("no entry")
    content = elf.at(address, 4 + length)
    if len(content) != 4 + length:
        raise Malformed("ends early")
    return Reader(content, address, 4)


def _read_common(elf: ElfFile, address: int) -> _Common:
    reader = _entry(elf, address)
    identifier, version = reader.pointer(0x3), reader.byte()
    end = reader.data.find(b"\0", reader.at)
    augmentation = reader.data[reader.at : end]
    if identifier or version not in (1, 3) or end < 0 or augmentation.strip(b"zRPL") or augmentation[:1] != b"z":
        raise Malformed("a common entry of another kind")
    reader.at = end + 1
    code_alignment, data_alignment = reader.uleb(), _sleb(reader)
    if (reader.byte() if version == 1 else reader.uleb()) != _RETURN_ADDRESS:
        raise Malformed("another return address")
    length = reader.uleb()
    end = reader.at + length
    pointer, lsda = 0, _OMIT
    for letter in augmentation[1:]:
        if letter == ord("R"):
            pointer = reader.byte()
        elif letter == ord("L"):
            lsda = reader.byte()
        else:
            encoding = reader.byte()
            reader.pointer(encoding)
    return _Common(code_alignment, data_alignment, pointer, lsda, reader.data[end:])


def _read_frame(elf: ElfFile, address: int) -> Frame:
    reader = _entry(elf, address)
    common = _read_common(elf, address + 4 - int.from_bytes(elf.at(address + 4, 4), "little"))
    reader.at += 4
    start = reader.pointer(common.pointer)
    size = reader.pointer(common.pointer & 0xF)
    length = reader.uleb()
    end = reader.at + length
    lsda = reader.pointer(common.lsda, start) if common.lsda != _OMIT else 0
    program = _Program(common, start)
    rows = {start: program.initial()}
    for where, row in program.run(reader.data[end:]):
        rows[where] = row
    landing = None if not lsda else list(_passing_calls(elf, lsda, start))
    return Frame(start, start + size, list(rows), list(rows.values()), landing)


def _sleb(reader: Reader) -> int:
    begin = reader.at
    value = reader.uleb()
    bits = 7 * (reader.at - begin)
    return value - (1 << bits) if reader.data[reader.at - 1] & 0x40 else value


def _block(reader: Reader) -> bytes:
    size = reader.uleb()
    reader.at += size
    return reader.data[reader.at - size : reader.at]


class _Program:
    """Runs call frame instructions."""

    def __init__(self, common: _Common, start: int) -> None:
        self._common = common
        self._where = start
        self._cfa: Cfa = (_RSP, 8)
        self._rules: dict[int, Rule] = {}
        self._first: dict[int, Rule] = {}
        self._kept: list[tuple[Cfa, dict[int, Rule]]] = []

    def initial(self) -> Row:
        """The row that the common entry gives. To be asked for first."""
        if len(list(self.run(self._common.program))) > 1:
            raise Malformed("a common entry that goes on")
        self._first = dict(self._rules)
        return Row(self._cfa, dict(self._rules))

    def run(self, program: bytes) -> Iterator[tuple[int, Row]]:
        """(address, row) from each place where something changes. The last one of an address counts."""
        reader = Reader(program, 0)
        changed = False
        while reader.at < len(program):
            opcode = reader.byte()
            step = self._advance(opcode, reader)
            if step:
                if changed:
                    yield self._where, Row(self._cfa, dict(self._rules))
                self._where += step * self._common.code_alignment
                changed = False
            elif step is None:
                self._change(opcode, reader)
                changed = True
        if changed:
            yield self._where, Row(self._cfa, dict(self._rules))

    @staticmethod
    def _advance(opcode: int, reader: Reader) -> int | None:
        """How far an instruction goes on; None for one that changes something."""
        if opcode >> 6 == 1:
            return opcode & 0x3F
        if opcode in (2, 3, 4):
            size = 1 << (opcode - 2)
            return int.from_bytes(bytes(reader.byte() for _ in range(size)), "little")
        return 0 if opcode == 0 else None

    def _change(self, opcode: int, reader: Reader) -> None:
        factor = self._common.data_alignment
        rules = self._rules
        low = opcode & 0x3F
        if opcode >> 6 == 2:
            rules[low] = ("offset", reader.uleb() * factor)
        elif opcode >> 6 == 3:
            self._restore(low)
        elif opcode in (0x05, 0x11):
            register = reader.uleb()
            rules[register] = ("offset", (reader.uleb() if opcode == 5 else _sleb(reader)) * factor)
        elif opcode == 0x06:
            self._restore(reader.uleb())
        elif opcode == 0x07:
            rules[reader.uleb()] = ("undefined", 0)
        elif opcode == 0x08:
            rules[reader.uleb()] = ("same", 0)
        elif opcode == 0x09:
            register = reader.uleb()
            rules[register] = ("register", reader.uleb())
        elif opcode == 0x0A:
            self._kept.append((self._cfa, dict(rules)))
        elif opcode == 0x0B and self._kept:
            self._cfa, self._rules = self._kept.pop()
        elif opcode in (0x0C, 0x12):
            register = reader.uleb()
            self._cfa = (register, reader.uleb() if opcode == 0x0C else _sleb(reader) * factor)
        elif opcode == 0x0D and isinstance(self._cfa, tuple):
            self._cfa = (reader.uleb(), self._cfa[1])
        elif opcode in (0x0E, 0x13) and isinstance(self._cfa, tuple):
            self._cfa = (self._cfa[0], reader.uleb() if opcode == 0x0E else _sleb(reader) * factor)
        elif opcode == 0x0F:
            self._cfa = _block(reader)
        elif opcode in (0x10, 0x16):
            register = reader.uleb()
            rules[register] = ("expression" if opcode == 0x10 else "value expression", _block(reader))
        elif opcode in (0x14, 0x15):
            register = reader.uleb()
            rules[register] = ("value", (reader.uleb() if opcode == 0x14 else _sleb(reader)) * factor)
        elif opcode == 0x2E:
            reader.uleb()  # size of pushed arguments: for landing pads only
        else:
            raise Malformed(f"call frame instruction {opcode:#04x}")

    def _restore(self, register: int) -> None:
        if register in self._first:
            self._rules[register] = self._first[register]
        else:
            self._rules.pop(register, None)


def _passing_calls(elf: ElfFile, lsda: int, function: int) -> Iterator[tuple[int, int]]:
    """The ranges of an exception table that have neither landing pad nor action."""
    segment = elf.segment_at(lsda)
    if segment is None:
        raise Malformed("an exception table outside the file")
    reader = Reader(segment.data, segment.address, lsda - segment.address)
    encoding = reader.byte()
    if encoding != _OMIT:
        reader.pointer(encoding, function)
    if reader.byte() != _OMIT:
        reader.uleb()
    encoding = reader.byte()
    length = reader.uleb()
    end = reader.at + length
    while reader.at < end:
        start = reader.pointer(encoding & 0xF)
        size = reader.pointer(encoding & 0xF)
        pad = reader.pointer(encoding & 0xF)
        action = reader.uleb()
        if not pad and not action:
            yield function + start, function + start + size


# --- writing ----------------------------------------------------------------------------------------------------------


def common_entry(pointer: int, identifier: int, augmentation: bytes, data: bytes) -> bytes:
    """A common entry whose functions begin as all do. `pointer` is the number of bytes to align to."""
    body = identifier.to_bytes(4, "little") + b"\x01" + augmentation + b"\0"
    body += _uleb(_CODE_ALIGNMENT) + _to_sleb(_DATA_ALIGNMENT) + bytes((_RETURN_ADDRESS,)) + data
    return with_length(body + _FIRST, pointer)


def with_length(body: bytes, alignment: int) -> bytes:
    """An entry: its length, and no-operations up to the alignment behind it."""
    body += bytes(-(4 + len(body)) % alignment)
    return len(body).to_bytes(4, "little") + body


def frame_program(rows: Sequence[tuple[int, Row]]) -> bytes:
    """Call frame instructions that give `rows`: (offset from the start of the code, row), in order.

    Raises Malformed for a row that cannot be written.
    """
    code = bytearray()
    before, where = _AT_ENTRY, 0
    for offset, row in rows:
        change = _transition(before, row)
        if not change:
            continue
        code += _advance(offset - where) + change
        before, where = row, offset
    return bytes(code)


def read_program(program: bytes) -> list[tuple[int, Row]]:
    """(offset, row) of what `frame_program` wrote, where it changes something. Raises Malformed."""
    reading = _Program(_Common(_CODE_ALIGNMENT, _DATA_ALIGNMENT, 0, _OMIT, _FIRST), 0)
    return [(0, reading.initial()), *reading.run(program)]


def _advance(distance: int) -> bytes:
    if distance == 0:
        return b""
    if distance < 0x40:
        return bytes((0x40 | distance,))
    for opcode, size in ((2, 1), (3, 2), (4, 4)):
        if distance < 1 << 8 * size:
            return bytes((opcode,)) + distance.to_bytes(size, "little")
    raise Malformed("code of more than 4 GiB")


def _transition(before: Row, after: Row) -> bytes:
    code = b""
    if before.cfa != after.cfa:
        if isinstance(after.cfa, bytes):
            code += b"\x0f" + _uleb(len(after.cfa)) + after.cfa
        elif after.cfa[1] >= 0:
            code += b"\x0c" + _uleb(after.cfa[0]) + _uleb(after.cfa[1])
        else:
            code += b"\x12" + _uleb(after.cfa[0]) + _to_sleb(_factored(after.cfa[1]))
    for register in sorted(before.rules.keys() | after.rules.keys()):
        rule = after.rules.get(register, ("same", 0))
        if before.rules.get(register, ("same", 0)) != rule:
            code += _rule(register, rule)
    return code


def _rule(register: int, rule: Rule) -> bytes:
    kind, value = rule
    number = _uleb(register)
    if isinstance(value, bytes):
        return (b"\x10" if kind == "expression" else b"\x16") + number + _uleb(len(value)) + value
    match kind:
        case "offset":
            factored = _factored(value)
            if factored >= 0 and register < 0x40:
                return bytes((0x80 | register,)) + _uleb(factored)
            return b"\x11" + number + _to_sleb(factored)
        case "value":
            return b"\x15" + number + _to_sleb(_factored(value))
        case "register":
            return b"\x09" + number + _uleb(value)
        case "same":
            return b"\x08" + number
        case _:
            return b"\x07" + number


def _factored(offset: int) -> int:
    if offset % _DATA_ALIGNMENT:
        raise Malformed("a register that is not aligned")
    return offset // _DATA_ALIGNMENT


def _uleb(value: int) -> bytes:
    code = bytearray()
    while value >= 0x80:
        code.append(value & 0x7F | 0x80)
        value >>= 7
    code.append(value)
    return bytes(code)


def _to_sleb(value: int) -> bytes:
    code = bytearray()
    while not -0x40 <= value < 0x40:
        code.append(value & 0x7F | 0x80)
        value >>= 7
    code.append(value & 0x7F)
    return bytes(code)
