"""Call frame information: where, at each instruction, the caller's frame and registers are (DWARF 5, section 6.4).

Whoever makes a call from another place than the original's has to tell the unwinder the same of that place. So the
rows are worked out for the original instructions, to be written again (`lifter.image.framewriter`) for those of the
code cache.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lifter.image.eh import OMIT, Common, Malformed, Reader, SearchTable, read_call_sites, read_common
from lifter.image.elf import ElfFile

RSP, RETURN_ADDRESS = 7, 16
"""DWARF's numbers of registers (System V ABI, figure 3.36)."""

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
        found = SearchTable.of(elf)
        return (
            cls(elf, found.frames, list(zip(found.starts.tolist(), found.entries.tolist(), strict=True)))
            if found.whole
            else None
        )

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


def _entry(elf: ElfFile, address: int) -> Reader:
    """A reader behind the length of the entry at `address`, which ends where the entry does."""
    length = int.from_bytes(elf.at(address, 4), "little")
    if not 0 < length < 0xFFFFFFF0:
        raise Malformed("no entry")
    content = elf.at(address, 4 + length)
    if len(content) != 4 + length:
        raise Malformed("ends early")
    return Reader(content, address, 4)


def _read_frame(elf: ElfFile, address: int) -> Frame:
    reader = _entry(elf, address)
    common = _read_common(elf, address + 4 - int.from_bytes(elf.at(address + 4, 4), "little"))
    reader.at += 4
    start = reader.pointer(common.pointer)
    size = reader.pointer(common.pointer & 0xF)
    length = reader.uleb()
    end = reader.at + length
    lsda = reader.pointer(common.lsda, start) if common.lsda != OMIT else 0
    program = Program(common, start)
    rows = {start: program.initial()}
    for where, row in program.run(reader.data[end:]):
        rows[where] = row
    return Frame(start, start + size, list(rows), list(rows.values()), _passing(elf, lsda, start) if lsda else None)


def _read_common(elf: ElfFile, address: int) -> Common:
    reader = _entry(elf, address)
    if reader.pointer(0x3):
        raise Malformed("no common entry")
    common = read_common(reader)
    if not common.sized or common.signal or common.return_address != RETURN_ADDRESS:
        raise Malformed("a common entry of another kind")
    return common


def _passing(elf: ElfFile, lsda: int, function: int) -> list[tuple[int, int]]:
    """The ranges of an exception table that have neither landing pad nor action."""
    segment = elf.segment_at(lsda)
    if segment is None:
        raise Malformed("an exception table outside the file")
    sites = iter(read_call_sites(Reader(segment.data, segment.address, lsda - segment.address), function).values)
    return [
        (function + start, function + start + size)
        for start, size, pad, action in zip(sites, sites, sites, sites, strict=True)
        if not pad and not action
    ]


class Program:
    """Runs the call frame instructions of a function that begins at `start`."""

    def __init__(self, common: Common, start: int) -> None:
        self._common = common
        self._where = start
        self._cfa: Cfa = (RSP, 8)
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
            rules[register] = ("offset", (reader.uleb() if opcode == 5 else reader.sleb()) * factor)
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
            self._cfa = (register, reader.uleb() if opcode == 0x0C else reader.sleb() * factor)
        elif opcode == 0x0D and isinstance(self._cfa, tuple):
            self._cfa = (reader.uleb(), self._cfa[1])
        elif opcode in (0x0E, 0x13) and isinstance(self._cfa, tuple):
            self._cfa = (self._cfa[0], reader.uleb() if opcode == 0x0E else reader.sleb() * factor)
        elif opcode == 0x0F:
            self._cfa = reader.block()
        elif opcode in (0x10, 0x16):
            register = reader.uleb()
            rules[register] = ("expression" if opcode == 0x10 else "value expression", reader.block())
        elif opcode in (0x14, 0x15):
            register = reader.uleb()
            rules[register] = ("value", (reader.uleb() if opcode == 0x14 else reader.sleb()) * factor)
        elif opcode == 0x2E:
            reader.uleb()  # size of pushed arguments: for landing pads only
        else:
            raise Malformed(f"call frame instruction {opcode:#04x}")

    def _restore(self, register: int) -> None:
        if register in self._first:
            self._rules[register] = self._first[register]
        else:
            self._rules.pop(register, None)
