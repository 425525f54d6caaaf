"""Where indirect jumps go: tables of `switch` statements and of computed gotos.

The value that a jump goes to is computed symbolically along the paths that lead to it, shortest first and a few
blocks deep. It has to come out as `load(table + size * index)`, perhaps plus a base; what the path's comparisons
say about the index bounds the table. With a mask alone, or nothing, it reaches to the next piece of data that code
refers to at the most, and with nothing only for as long as its entries make sense. Reading too little would leave a
target unknown; reading too far takes another table's offsets for its own, and the middle of instructions for blocks.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from lifter.graph import JumpTable
from lifter.image.types import Function, Image, Kind
from lifter.instruction import Flow, Imm, Instruction, Mem, Reg
from lifter.registers import RBP, RSP
from lifter.symbolic import Atom, Bound, Extend, Load, Machine, Start, Value, of_atom

Line = tuple[int, Instruction]
"""An instruction and its address."""

_PATHS = 24
"""Paths evaluated per jump."""
_PATHS_TO_BOUND = 8
"""The same once the table is known and only its bound is looked for: it stands close by, if there is one."""
_DEPTH = 10
"""Blocks per path."""
_ENTRIES = 4096
"""Longest table."""


@dataclass(frozen=True, slots=True)
class Flowchart:
    """The blocks of a function as far as they are known while it is explored."""

    blocks: Mapping[int, Sequence[Line]]
    predecessors: Mapping[int, Sequence[int]]
    plausible: Callable[[int], bool]
    """Whether an address inside the function can be the start of an instruction."""
    looks_like_code: Callable[[int], bool]
    """Whether also what follows it looks like code."""


class KnownTables:
    """Where data begins that code refers to: no table without a bound reaches into the next piece of data."""

    def __init__(self, starts: Iterable[int] = ()) -> None:
        self._starts = sorted(starts)
        self._own: list[int] = []

    def of_function(self) -> KnownTables:
        """The same, to be added to while one function is explored: no other one sees that, so that it does not matter
        which is explored first."""
        result = KnownTables()
        result._starts = self._starts
        return result

    @classmethod
    def of(cls, image: Image) -> KnownTables:
        """What the instructions that compute or index an address refer to, found by their byte patterns."""
        found: set[int] = set()
        for segment in image.segments:
            if not segment.executable or len(segment.data) < 8:
                continue
            code = np.frombuffer(segment.data, np.uint8)
            words = np.ndarray((len(code) - 3,), "<i4", segment.data, 0, (1,))
            modrm = code[1 : len(words) - 1]
            # lea reg, [rip + d]
            at = np.flatnonzero((code[: len(modrm)] == 0x8D) & (modrm & 0xC7 == 0x05)) + 2
            found.update((words[at].astype(np.int64) + (at + 4 + segment.address)).tolist())
            if image.kind is not Kind.FIXED:
                continue
            # jmp [d + reg * 8] and mov reg, [d + reg * scale]
            sib = code[2 : len(words)]
            opcode, modrm = code[: len(sib)], code[1 : len(sib) + 1]
            indexed = ((opcode == 0xFF) & (modrm == 0x24)) | ((opcode == 0x8B) & (modrm & 0xC7 == 0x04))
            at = np.flatnonzero(indexed & (sib & 7 == 5)) + 3
            found.update(words[at[at < len(words)]].tolist())
        return cls(address for address in found if not image.is_code(address))

    def add(self, address: int) -> None:
        """Note that a table begins at `address`."""
        insort(self._own, address)

    def after(self, address: int) -> int:
        """Where the first piece of data beyond `address` starts."""
        found = 1 << 64
        for starts in (self._starts, self._own):
            index = bisect_right(starts, address)
            if index < len(starts):
                found = min(found, starts[index])
        return found


@dataclass(frozen=True, slots=True)
class Resolution:
    """What is known of an indirect jump."""

    table: JumpTable | None = None
    external: bool = False
    """It goes through a slot of the loader or a table of function pointers: it leaves the function."""
    bounded: bool = False
    """The table's length follows from a comparison."""
    computed: bool = False
    """No table was found, but the target is the sum of one's entry and a base: no pointer to a function."""
    indexed: bool = False
    """No table was found, but the target is, or is computed from, an entry of one."""


UNKNOWN = Resolution()


@dataclass(frozen=True, slots=True)
class _Shape:
    """target = base + load(table + size * index); `table` and `base` may have an unknown term, often the same."""

    size: int
    signed: bool
    table: Value
    index: Value
    base: Value


_Key = tuple[int, int, int, bool]
"""Table, base, size of an entry, whether entries are signed: everything constant about a table."""


def _key_of(shape: _Shape | None) -> _Key | None:
    """The table of a shape when its address is known."""
    if shape is None or shape.table.terms or shape.base.terms:
        return None
    return shape.table.constant, shape.base.constant, shape.size, shape.signed


def _first_index(key: _Key) -> int:
    """The index of a table's first entry.

    Offsets are relative to where the table begins. If that is behind the address that index 0 would have, the index
    never is 0 (what was compared is another register): what stands there belongs to another table.
    """
    table, base, size, _ = key
    return (base - table) // size if table < base < table + _ENTRIES * size else 0


def _is_sane(bound: Bound) -> bool:
    return 0 <= bound.low <= bound.high < bound.low + _ENTRIES


def _either(one: Bound | None, other: Bound) -> Bound:
    """What either of two ranges has."""
    if one is None:
        return other
    return Bound(min(one.low, other.low), max(one.high, other.high), one.compared and other.compared)


def _length(resolution: Resolution) -> int:
    return len(resolution.table.targets) if resolution.table is not None else 0


def _merged(found: list[Resolution]) -> Resolution:
    """One answer for a jump that several tables lead to (compilers merge equal ends of code)."""
    tables = [one.table for one in found if one.table is not None]
    if len(tables) < 2:
        return next((one for one in found if one.table is not None), found[0] if found else UNKNOWN)
    targets = tuple(target for table in tables for target in table.targets)
    return Resolution(replace(tables[0], targets=targets), bounded=all(one.bounded for one in found))


def resolve(image: Image, function: Function, chart: Flowchart, start: int, known: KnownTables) -> Resolution:
    """Where the indirect jump that ends block `start` goes."""
    jump, instruction = chart.blocks[start][-1]
    slot = instruction.memory_operand
    if slot is not None and slot.rip and slot.index is None:
        address = jump + len(instruction.code) + slot.disp
        return Resolution(external=address in image.got)
    return _Search(image, function, chart, start, known).run()


class _Search:
    """The search for the table of one jump."""

    def __init__(self, image: Image, function: Function, chart: Flowchart, start: int, known: KnownTables) -> None:
        self.image, self.function, self.chart, self.known = image, function, chart, known
        self.start = start
        self.jump = chart.blocks[start][-1][0]

    def run(self) -> Resolution:
        """Evaluate paths until table and bound are known on all of them, or the allowance is used up."""
        queue: deque[tuple[int, ...]] = deque([(self.start,)])
        bounds: dict[_Key, Bound] = {}
        unbounded: dict[_Key, int] = {}
        """Tables that some path reaches with an index that nothing limits but its width -> entries at most."""
        partial: _Shape | None = None
        fixed: set[int] = set()
        """Targets on paths that compute them without any table."""
        open_ended = False
        evaluated = 0
        while queue:
            path = queue.popleft()
            evaluated += 1
            machine, target = self._evaluate(path)
            if not target.terms and self._inside(target.constant):
                fixed.add(target.constant)
                continue
            shape = _shape_of(target)
            partial = shape or partial
            key = _key_of(shape)
            if shape is not None and key is not None:
                bound = machine.upper_bound(shape.index)
                if bound is not None and _is_sane(bound):
                    bounds[key] = _either(bounds.get(key), bound)
                    continue
            before = [block for block in self.chart.predecessors.get(path[0], ()) if block not in path]
            allowed = _PATHS if key is None else _PATHS_TO_BOUND
            if len(path) < _DEPTH and evaluated < allowed and before:
                queue.extend((block, *path) for block in before)
            elif shape is None:
                open_ended = True
            elif key is not None:
                most = min(_ENTRIES, 1 << machine.width_of(shape.index))
                unbounded[key] = max(most, unbounded.get(key, 0))
            if evaluated >= _PATHS:
                break
        found = self._choose(bounds, unbounded, partial)
        if fixed and found.table is not None:
            targets = (*found.table.targets, *sorted(fixed - set(found.table.targets)))
            return replace(found, table=replace(found.table, targets=targets))
        if fixed and partial is None and not open_ended:
            return Resolution(JumpTable(self.jump, self.jump, tuple(sorted(fixed))), bounded=True)
        if found is UNKNOWN and partial is not None:
            return Resolution(computed=bool(partial.base.terms or partial.base.constant), indexed=True)
        return found

    def _inside(self, address: int) -> bool:
        return self.function.address <= address < self.function.end

    def _choose(
        self, bounds: Mapping[_Key, Bound], unbounded: Mapping[_Key, int], partial: _Shape | None
    ) -> Resolution:
        found: list[Resolution] = []
        for key, bound in bounds.items():
            read = [self._read(key, bound)]
            if key in unbounded:
                # A path that gives no bound may allow more than the others do.
                read.append(self._read(key, Bound(bound.low, bound.low + unbounded[key] - 1, False), open_ended=True))
            found.extend(sorted((one for one in read if one is not None), key=_length)[-1:])
        for key in sorted(unbounded.keys() - bounds.keys()):
            one = self._read(key, Bound(0, unbounded[key] - 1, False), open_ended=True)
            if one is not None:
                found.append(one)
        if not found and partial is not None and _key_of(partial) is None:
            return self._guess_base(partial)
        return _merged(found)

    def _evaluate(self, path: tuple[int, ...]) -> tuple[Machine, Value]:
        machine = Machine()
        for position, start in enumerate(path):
            lines = self.chart.blocks[start]
            for address, instruction in lines[:-1]:
                machine.step(instruction, address + len(instruction.code))
            address, instruction = lines[-1]
            end = address + len(instruction.code)
            if position + 1 == len(path):
                return machine, machine.read(instruction.operands[0], end)
            if instruction.flow is Flow.BRANCH:
                machine.branch(instruction, path[position + 1] != end)
            else:
                machine.step(instruction, end)
        raise AssertionError("a path is never empty")

    def _guess_base(self, shape: _Shape) -> Resolution:
        """The table's address comes from further away: try the constants that the register or slot is given."""
        unknown = sorted({*shape.table.terms, *shape.base.terms}, key=repr)
        if any(coefficient != 1 for _, coefficient in unknown) or len(shape.table.terms) > 1 or len(unknown) > 2:
            return UNKNOWN
        best = UNKNOWN
        for constants in product(*(sorted(self._constants_for(atom)) for atom, _ in unknown)):
            known = dict(zip(unknown, constants, strict=True))
            table = shape.table.constant + sum(known[term] for term in shape.table.terms)
            base = shape.base.constant + sum(known[term] for term in shape.base.terms)
            key = (table, base, shape.size, shape.signed)
            found = self._guessed_bound(key)
            if found is None or found.table is None:
                continue
            if best.table is None or len(found.table.targets) > len(best.table.targets):
                best = found
        return best

    def _guessed_bound(self, key: _Key) -> Resolution | None:
        """Read a table whose address was guessed, with the bound that the nearest paths give."""
        queue: deque[tuple[int, ...]] = deque([(self.start,)])
        widest: Bound | None = None
        bounded = True
        for _ in range(_PATHS):
            if not queue:
                break
            path = queue.popleft()
            machine, target = self._evaluate(path)
            shape = _shape_of(target)
            bound = machine.upper_bound(shape.index) if shape is not None else None
            if bound is not None and _is_sane(bound):
                widest = _either(widest, bound)
                continue
            before = [block for block in self.chart.predecessors.get(path[0], ()) if block not in path]
            bounded = bounded and bool(before) and len(path) < _DEPTH
            queue.extend((block, *path) for block in before)
        if bounded and widest is not None:
            return self._read(key, widest)
        return self._read(key, Bound(0, _ENTRIES - 1, False), open_ended=True)

    def _constants_for(self, atom: Atom) -> set[int]:
        """Constants that code of the function puts into a register or a stack slot."""
        if isinstance(atom, Extend):
            inner = atom.value.atom()
            return self._constants_for(inner) if inner is not None else set()
        slot: tuple[int, int] | None = None
        if isinstance(atom, Load):
            base = Value(0, atom.address.terms).atom()
            if not isinstance(base, Start) or base.register not in (RSP, RBP):
                return set()
            slot = (base.register, atom.address.constant)
        elif not isinstance(atom, Start):
            return set()
        found: set[int] = set()
        for lines in self.chart.blocks.values():
            constants: dict[int, int] = {}
            for address, instruction in lines:
                operands = instruction.operands
                if instruction.mnemonic not in ("lea", "mov") or len(operands) != 2:
                    continue
                destination, source = operands
                if isinstance(destination, Reg):
                    constant = _constant(instruction, source, address + len(instruction.code))
                    if constant is None:
                        constants.pop(destination.index, None)
                        continue
                    constants[destination.index] = constant
                    if isinstance(atom, Start) and atom.register == destination.index:
                        found.add(constant)
                elif (
                    isinstance(destination, Mem)
                    and isinstance(source, Reg)
                    and (destination.base, destination.disp) == slot
                    and source.index in constants
                ):
                    found.add(constants[source.index])
        return found

    def _read(self, key: _Key, index: Bound, open_ended: bool = False) -> Resolution | None:
        """Read the entries of a table that `index` allows; if that is `open_ended`, as far as they make sense."""
        table, base, size, signed = key
        low = max(index.low, _first_index(key))
        first = table + low * size
        chart = self.chart
        segment = self.image.segment_at(first)
        if segment is None:
            return None
        limit = segment.end
        if not index.compared:
            limit = min(self.known.after(first), segment.address + len(segment.data))
        bounded = not open_ended and first + (index.high - low + 1) * size <= limit
        targets: list[int] = []
        for address in range(first, min(table + (index.high + 1) * size, limit - size + 1), size):
            target = self._entry(address, size, signed, base)
            if self._inside(target):
                if not chart.plausible(target) or (open_ended and not chart.looks_like_code(target)):
                    break
            elif size == 8 and not base and not targets and self._starts_function(target):
                return Resolution(external=True)
            elif not self._same_function(target) and (
                # Cold parts have no name in stripped files; only whole pointers are believed without a bound.
                not self.image.is_code(target) or (open_ended and (size < 8 or self._starts_function(target)))
            ):
                break
            targets.append(target)
        while open_ended and targets and not self._inside(targets[-1]) and not self._same_function(targets[-1]):
            targets.pop()
        if not any(self._inside(target) for target in targets):
            return None
        return Resolution(JumpTable(self.jump, first, tuple(targets)), bounded=bounded)

    def _entry(self, address: int, size: int, signed: bool, base: int) -> int:
        word = self.image.words.get(address) if size == 8 else None
        if word is None:
            word = int.from_bytes(self.image.read(address, size), "little", signed=signed)
        return (base + word) & (1 << 64) - 1

    def _starts_function(self, target: int) -> bool:
        found = self.image.function_at(target)
        return found is not None and found.address == target and target != self.function.address

    def _same_function(self, target: int) -> bool:
        """Whether `target` lies in the cold or hot other part of the function."""
        found = self.image.function_at(target)
        if found is None:
            return False
        mine, other = self.function.name.split(".cold")[0], found.name.split(".cold")[0]
        return mine == other


def _constant(instruction: Instruction, source: object, end: int) -> int | None:
    if instruction.mnemonic == "lea" and isinstance(source, Mem) and source.rip:
        return end + source.disp
    if instruction.mnemonic == "mov" and isinstance(source, Imm):
        return source.value & 0xFFFFFFFF if source.width == 32 else source.value
    return None


def _shape_of(target: Value) -> _Shape | None:
    """`target` as an entry of a table."""
    for atom, coefficient in target.terms:
        load, signed = atom, False
        if isinstance(atom, Extend):
            inner = atom.value.atom()
            if inner is None:
                continue
            load, signed = inner, atom.signed
        if coefficient != 1 or not isinstance(load, Load) or load.size not in (4, 8):
            continue
        indexed = [(term, factor) for term, factor in load.address.terms if factor and factor % load.size == 0]
        if not indexed:
            continue
        index = Value(0, frozenset((term, factor // load.size) for term, factor in indexed))
        table = load.address.plus(index, -load.size)
        base = target.plus(of_atom(atom), -1)
        return _Shape(load.size, signed, table, index, base)
    return None
