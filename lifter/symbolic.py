"""A small symbolic evaluator: what registers and stack slots hold at the end of a path, as sums of unknowns.

It serves jump tables only, so it is deliberately lax: sign and zero extensions are remembered but looked through
when bounds are compared, and a store through one pointer is assumed to leave the slots of others alone. A wrong answer
costs coverage (the `switch` made of a table falls back to the original jump), never correctness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lifter.instruction import Flow, Imm, Instruction, Mem, Operand, Reg
from lifter.registers import ARITHMETIC_FLAGS, GPRS, RAX, RBP, RSP, bits

CALLER_SAVED = (0, 1, 2, 6, 7, 8, 9, 10, 11)
"""Registers that a call may change."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a register held where the path begins."""

    register: int


@dataclass(frozen=True, slots=True)
class Fresh:
    """A value that the evaluator does not follow."""

    number: int


@dataclass(frozen=True, slots=True)
class Load:
    """What memory held at the beginning of the path."""

    address: Value
    size: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Extend:
    """The low bits of a value, extended to 64."""

    value: Value
    bits: int
    signed: bool


@dataclass(frozen=True, slots=True)
class Masked:
    """A value and a constant mask."""

    value: Value
    mask: int


@dataclass(frozen=True, slots=True)
class Shifted:
    """A value shifted right logically."""

    value: Value
    amount: int


Atom = Start | Fresh | Load | Extend | Masked | Shifted


@dataclass(frozen=True, slots=True)
class Value:
    """constant + sum of coefficient x atom."""

    constant: int
    terms: frozenset[tuple[Atom, int]] = frozenset()

    def atom(self) -> Atom | None:
        """The atom that this value is, when it is just one."""
        if self.constant == 0 and len(self.terms) == 1:
            (found, coefficient), *_ = self.terms
            if coefficient == 1:
                return found
        return None

    def plus(self, other: Value, factor: int = 1) -> Value:
        """self + factor x other."""
        constant = self.constant + factor * other.constant
        if not other.terms or not factor:
            return Value(constant, self.terms)
        terms = dict(self.terms)
        for atom, coefficient in other.terms:
            total = terms.get(atom, 0) + factor * coefficient
            if total:
                terms[atom] = total
            else:
                del terms[atom]
        return Value(constant, frozenset(terms.items()))


def of_atom(atom: Atom) -> Value:
    """The value that is just `atom`."""
    return Value(0, frozenset(((atom, 1),)))


def extended(value: Value, width: int, signed: bool) -> Value:
    """The low `width` bits of `value`, extended to 64."""
    if width >= 64:
        return value
    if not value.terms:
        low = value.constant & ((1 << width) - 1)
        return Value(low - (1 << width) if signed and low >> (width - 1) else low)
    atom = value.atom()
    if isinstance(atom, Extend):
        if width <= atom.bits:
            value = atom.value
        elif not atom.signed:
            return value
    return of_atom(Extend(value, width, signed))


def stripped(value: Value) -> Value:
    """`value` with all extensions looked through."""
    if not any(isinstance(atom, Extend) for atom, _ in value.terms):
        return value
    result = Value(value.constant)
    for atom, coefficient in value.terms:
        inner = stripped(atom.value) if isinstance(atom, Extend) else of_atom(atom)
        result = result.plus(inner, coefficient)
    return result


_UPPER_WHEN_TAKEN = {"jb": -1, "jbe": 0, "jl": -1, "jle": 0, "je": 0}
_UPPER_WHEN_NOT_TAKEN = {"ja": 0, "jae": -1, "jg": 0, "jge": -1, "jne": 0}
"""Branch -> upper bound of the left side relative to the right side of the comparison before it."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A range of values."""

    low: int
    high: int
    compared: bool
    """Whether its upper end follows from a comparison, and not from the width or a mask alone: a compiler that knows
    more of the value than that makes a shorter table."""


@dataclass(slots=True)
class Machine:
    """Registers, stores made on the path, last comparison, and the bounds that the path's branches imply."""

    registers: list[Value] = field(default_factory=lambda: [of_atom(Start(index)) for index in range(16)])
    memory: dict[tuple[Value, int], Value] = field(default_factory=dict)
    compared: tuple[Value, int] | None = None
    """Left side and constant right side of the comparison that the flags hold."""
    uppers: dict[frozenset[tuple[Atom, int]], list[tuple[int, int]]] = field(default_factory=dict)
    """Terms of a stripped value -> (its constant, inclusive upper bound of the whole), in path order."""
    fresh: int = 0

    def unknown(self) -> Value:
        """A new value unlike any other."""
        self.fresh += 1
        return of_atom(Fresh(self.fresh))

    def address(self, operand: Mem, end: int) -> Value:
        """The address that `operand` of an instruction ending at `end` computes."""
        result = Value(operand.disp + (end if operand.rip else 0))
        if operand.segment or operand.vsib:
            return self.unknown()
        if operand.base is not None:
            result = result.plus(self.registers[operand.base])
        if operand.index is not None:
            result = result.plus(self.registers[operand.index], operand.scale)
        return extended(result, 32, False) if operand.address_width == 32 else result

    def read(self, operand: Operand, end: int) -> Value:
        """The value of an operand, zero-extended."""
        if isinstance(operand, Imm):
            return Value(operand.value)
        if isinstance(operand, Reg):
            return self.unknown() if operand.high else extended(self.registers[operand.index], operand.width, False)
        if isinstance(operand, Mem) and operand.width in (8, 16, 32, 64):
            return self.load(self.address(operand, end), operand.width // 8)
        return self.unknown()

    def load(self, address: Value, size: int) -> Value:
        """What a zero-extending load gives."""
        known = self.memory.get((address, size))
        if known is None:
            for wider in (8, 4, 2):
                if wider > size and (address, wider) in self.memory:
                    known = extended(self.memory[address, wider], size * 8, False)
                    break
        if known is not None:
            return known
        return extended(of_atom(Load(address, size)), size * 8, False)

    def write(self, operand: Operand, value: Value, end: int) -> None:
        """Store a value into an operand."""
        if isinstance(operand, Reg):
            if operand.width == 64:
                self.registers[operand.index] = value
            elif operand.width == 32:
                self.registers[operand.index] = extended(value, 32, False)
            elif operand.width == 8 and not operand.high:
                self.registers[operand.index] = extended(value, 8, False)
            else:
                self.registers[operand.index] = self.unknown()
        elif isinstance(operand, Mem):
            address = self.address(operand, end)
            size = operand.width // 8
            for other in (1, 2, 4, 8):
                self.memory.pop((address, other), None)
            self.memory[address, size] = value

    def branch(self, instruction: Instruction, taken: bool) -> None:
        """Note what passing a conditional branch says about the last comparison."""
        if self.compared is None:
            return
        table = _UPPER_WHEN_TAKEN if taken else _UPPER_WHEN_NOT_TAKEN
        delta = table.get(instruction.mnemonic)
        if delta is None:
            return
        left, right = self.compared
        key = stripped(left)
        if key.terms and right + delta >= 0:
            self.uppers.setdefault(key.terms, []).append((key.constant, right + delta))

    def after_call(self) -> None:
        """Forget what a call may change."""
        for register in CALLER_SAVED:
            self.registers[register] = self.unknown()
        self.compared = None

    def step(self, instruction: Instruction, end: int) -> None:
        """Execute one instruction that ends at address `end` (branches: see `branch`)."""
        flow = instruction.flow
        if flow is Flow.CALL or flow is Flow.CALL_INDIRECT:
            self.after_call()
            return
        handler = _STEPS.get(instruction.mnemonic)
        if handler is not None and handler(self, instruction, end):
            return
        effects = instruction.effects
        for register in bits(effects.writes & GPRS):
            self.registers[register] = self.unknown()
        if effects.writes & ARITHMETIC_FLAGS:
            self.compared = None
        for operand in instruction.operands[:1]:
            if isinstance(operand, Mem) and any(access.write for access in effects.memory):
                self.write(operand, self.unknown(), end)

    def upper_bound(self, value: Value) -> Bound | None:
        """What `value`, used as an unsigned index, can be; None when unknown."""
        plain = stripped(value)
        if not plain.terms:
            return Bound(plain.constant, plain.constant, True)
        best: Bound | None = None
        for constant, upper in self.uppers.get(plain.terms, ()):
            low = plain.constant - constant
            best = _both(best, Bound(low, upper + low, True))
        implied = self._implied(value)
        return best if implied is None else _both(best, implied)

    @staticmethod
    def width_of(value: Value) -> int:
        """Bits that `value` can occupy, as far as zero extensions tell."""
        atom = value.atom()
        return atom.bits if isinstance(atom, Extend) and not atom.signed else 64

    def _implied(self, value: Value) -> Bound | None:
        """What follows from how `value` was computed."""
        if len(value.terms) != 1:
            return None
        (atom, coefficient), *_ = value.terms
        if coefficient != 1:
            return None
        found: Bound | None = None
        if isinstance(atom, Masked):
            found = Bound(0, atom.mask, False)
        elif isinstance(atom, Shifted):
            inner = atom.value.atom()
            width = inner.bits if isinstance(inner, Extend) and not inner.signed else 64
            if 0 < width - atom.amount <= 12:
                found = Bound(0, (1 << (width - atom.amount)) - 1, False)
                shifted = self.upper_bound(atom.value)
                if shifted is not None and shifted.low >= 0:
                    amount = atom.amount
                    found = _both(found, Bound(shifted.low >> amount, shifted.high >> amount, shifted.compared))
        elif isinstance(atom, Extend):
            found = self.upper_bound(atom.value)
        if found is None:
            return None
        return Bound(found.low + value.constant, found.high + value.constant, found.compared)


def _both(one: Bound | None, other: Bound) -> Bound:
    """What two ranges have in common; the one with the lower end where they have nothing (a path never taken)."""
    if one is None:
        return other
    nearer = min(one, other, key=lambda bound: (bound.high, not bound.compared))
    low = max(one.low, other.low)
    return replace(nearer, low=low) if low <= nearer.high else nearer


def _mov(machine: Machine, instruction: Instruction, end: int) -> bool:
    destination, source = instruction.operands
    machine.write(destination, machine.read(source, end), end)
    return True


def _sign_extend(machine: Machine, instruction: Instruction, end: int) -> bool:
    destination, source = instruction.operands
    width = source.width if isinstance(source, Reg | Mem) else 0
    if width not in (8, 16, 32):
        return False
    machine.write(destination, extended(machine.read(source, end), width, True), end)
    return True


def _lea(machine: Machine, instruction: Instruction, end: int) -> bool:
    destination, source = instruction.operands
    if not isinstance(source, Mem):
        return False
    machine.write(destination, machine.address(source, end), end)
    return True


def _add_or_subtract(factor: int) -> Callable[[Machine, Instruction, int], bool]:
    def step(machine: Machine, instruction: Instruction, end: int) -> bool:
        destination, source = instruction.operands
        left, right = machine.read(destination, end), machine.read(source, end)
        machine.write(destination, left.plus(right, factor), end)
        machine.compared = (left, right.constant) if factor < 0 and not right.terms else None
        return True

    return step


def _compare(machine: Machine, instruction: Instruction, end: int) -> bool:
    first, second = instruction.operands
    left, right = machine.read(first, end), machine.read(second, end)
    width = first.width if isinstance(first, Reg | Mem) else 64
    machine.compared = None if right.terms else (left, right.constant & ((1 << width) - 1))
    return True


def _and(machine: Machine, instruction: Instruction, end: int) -> bool:
    destination, source = instruction.operands
    left, right = machine.read(destination, end), machine.read(source, end)
    machine.compared = None
    if right.terms:
        left, right = right, left
    if right.terms or right.constant < 0:
        machine.write(destination, machine.unknown(), end)
    else:
        machine.write(destination, of_atom(Masked(left, right.constant)), end)
    return True


def _xor(machine: Machine, instruction: Instruction, end: int) -> bool:
    destination, source = instruction.operands
    machine.compared = None
    if destination != source:
        return False
    machine.write(destination, Value(0), end)
    return True


def _shift_left(machine: Machine, instruction: Instruction, end: int) -> bool:
    destination, amount = instruction.operands[0], instruction.operands[-1]
    if not isinstance(amount, Imm) or not 0 <= amount.value < 8 or len(instruction.operands) != 2:
        return False
    machine.compared = None
    machine.write(destination, Value(0).plus(machine.read(destination, end), 1 << amount.value), end)
    return True


def _shift_right(machine: Machine, instruction: Instruction, end: int) -> bool:
    destination, amount = instruction.operands[0], instruction.operands[-1]
    if not isinstance(amount, Imm) or len(instruction.operands) != 2:
        return False
    machine.compared = None
    machine.write(destination, of_atom(Shifted(machine.read(destination, end), amount.value & 63)), end)
    return True


def _widen_rax(machine: Machine, instruction: Instruction, end: int) -> bool:
    machine.registers[RAX] = extended(machine.registers[RAX], 32, True)
    return True


def _push(machine: Machine, instruction: Instruction, end: int) -> bool:
    value = machine.read(instruction.operands[0], end)
    machine.registers[RSP] = machine.registers[RSP].plus(Value(-8))
    machine.memory[machine.registers[RSP], 8] = value
    return True


def _pop(machine: Machine, instruction: Instruction, end: int) -> bool:
    value = machine.load(machine.registers[RSP], 8)
    machine.registers[RSP] = machine.registers[RSP].plus(Value(8))
    machine.write(instruction.operands[0], value, end)
    return True


def _leave(machine: Machine, instruction: Instruction, end: int) -> bool:
    machine.registers[RSP] = machine.registers[RBP].plus(Value(8))
    machine.registers[RBP] = machine.load(machine.registers[RBP], 8)
    return True


def _conditional_move(machine: Machine, instruction: Instruction, end: int) -> bool:
    """`cmp x, n; cmova x, n` limits x to n: keep the bound, not the value."""
    destination, source = instruction.operands
    limit = machine.read(source, end)
    old = machine.read(destination, end)
    upper = None
    if machine.compared is not None and not limit.terms and stripped(machine.compared[0]) == stripped(old):
        delta = {"cmova": 0, "cmovae": -1, "cmovg": 0, "cmovge": -1}.get(instruction.mnemonic)
        if delta is not None:
            upper = max(machine.compared[1] + delta, limit.constant)
    value = machine.unknown()
    machine.write(destination, value, end)
    if upper is not None:
        machine.uppers[stripped(value).terms] = [(0, upper)]
    return True


_STEPS: dict[str, Callable[[Machine, Instruction, int], bool]] = {
    "mov": _mov, "movzx": _mov, "movsx": _sign_extend, "movsxd": _sign_extend, "lea": _lea,
    "add": _add_or_subtract(1), "sub": _add_or_subtract(-1), "cmp": _compare, "and": _and, "xor": _xor,
    "shl": _shift_left, "shr": _shift_right, "cdqe": _widen_rax, "push": _push, "pop": _pop, "leave": _leave,
    **{f"cmov{condition}": _conditional_move
       for condition in ("a", "ae", "b", "be", "e", "ne", "g", "ge", "l", "le", "s", "ns", "o", "no", "p", "np")},
}  # fmt: skip
