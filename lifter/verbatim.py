"""Instructions carried verbatim: their own bytes in inline assembly, general registers pinned by constraints.

Vector, x87 and mask registers need no constraint: region code never touches them, so they are where the
instruction expects them. Consecutive instructions share one statement, since each statement costs LLVM an
assembler of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lifter.instruction import Instruction
from lifter.registers import AF, ARITHMETIC_FLAGS, CF, GPR_NAMES, GPRS, OF, PF, RSP, SF, ZF, bits
from lifter.x86.emit import Unliftable

if TYPE_CHECKING:
    from lifter.builder import Builder

_MOST_IN_A_GROUP: Final = 24
_RSP_BIT: Final = 1 << RSP
_SET: Final = {CF: "setb", PF: "setp", ZF: "sete", SF: "sets", OF: "seto"}
"""How a flag gets into a register. LLVM's own flag outputs (`={@ccz}`) are not used: where two of them are read,
LLVM 22 puts a flag-clobbering `xor` in front of the second reader."""


def encoding(b: Builder, instruction: Instruction) -> str:
    """The instruction as assembler data directives, with stack- and RIP-relative operands made relocatable."""
    code = instruction.code
    mem = instruction.memory_operand
    if mem is None or not (mem.rip or mem.base == RSP) or instruction.modrm_at < 0:
        return _bytes(code)
    if mem.address_width != 64:
        raise Unliftable("addresses the stack or code with 32 bits")
    modrm = instruction.modrm_at
    tail = code[len(code) - instruction.imm_size :] if instruction.imm_size else b""
    if mem.rip:
        symbol = b.symbols.name("d", b.next_address + mem.disp)
        head = _bytes(code[: modrm + 1])
        middle = f".long {symbol}-.-{4 + instruction.imm_size}"
    else:
        if b.rsp_offset is None:
            raise Unliftable("uses the stack after the stack pointer was set from a register")
        # mod = 10: a 32-bit displacement follows the SIB byte.
        head = _bytes(code[:modrm] + bytes(((code[modrm] & 0x3F) | 0x80, code[modrm + 1])))
        middle = f".long L_fs+<K{b.rsp_offset + mem.disp:+d}>"
    return ";".join(filter(None, (head, middle, _bytes(tail))))


def _bytes(code: bytes) -> str:
    return ".byte " + ",".join(map(str, code)) if code else ""


class VerbatimGroup:
    """Consecutive verbatim instructions on their way into one inline-assembly statement."""

    def __init__(self) -> None:
        self.pending: list[str] = []
        self.must_close = False
        """Set when its flags are read: nothing may follow in the same statement."""
        self._reads = 0
        self._writes = 0
        self._kills = 0
        self._flags_in = 0
        self._flags_out = 0

    def accepts(self, instruction: Instruction) -> bool:
        """Whether `instruction` can join; if not, close the group first."""
        if not self.pending:
            return True
        return len(self.pending) < _MOST_IN_A_GROUP and not instruction.effects.reads & ARITHMETIC_FLAGS

    def add(self, b: Builder, instruction: Instruction, live_flags: int) -> None:
        """Append an instruction. Raises `Unliftable` where its operands cannot be re-encoded."""
        effects = instruction.effects
        if b.rsp_offset is None and any(access.write for access in effects.memory):
            raise Unliftable("writes memory after the stack pointer was set from a register")
        kept = effects.writes & ~effects.kills & ARITHMETIC_FLAGS & live_flags
        flags_in = (effects.reads & ARITHMETIC_FLAGS) | kept
        if flags_in and self.pending:
            b.flush()
            b.carry(instruction, b.address, live_flags)
            return
        self.pending.append(encoding(b, instruction))
        self._flags_in |= flags_in
        self._reads |= effects.reads & GPRS & ~_RSP_BIT & ~self._kills
        # A register that is only partly written keeps the rest: it goes in as well.
        self._reads |= effects.writes & ~effects.kills & GPRS & ~self._kills
        self._writes |= effects.writes & GPRS
        self._kills |= effects.kills & GPRS
        self._flags_out = effects.writes & ARITHMETIC_FLAGS & live_flags
        self.must_close = bool(self._flags_out)

    def emit(self, b: Builder) -> None:
        """Emit the statement and take its results into the builder's state."""
        whole_word = bool(self._flags_out & AF)
        outputs: list[tuple[str, str]] = [("i64", f"={{{GPR_NAMES[i]}}}") for i in bits(self._writes)]
        if whole_word:
            outputs.append(("i64", "=r"))
        else:
            outputs += [("i8", "=r")] * self._flags_out.bit_count()
        inputs = [(f"{{{GPR_NAMES[i]}}}", b.read_reg(i, 64)) for i in bits(self._reads)]
        lines = list(self.pending)
        if self._flags_in:
            # The other bits of RFLAGS, the direction flag among them, stay as they are.
            b.needs_stack = True
            inputs.append(("r", b.flags_word(self._flags_in)))
            operand = len(outputs) + len(inputs) - 1
            lines.insert(0, f"pushfq;andq $${~ARITHMETIC_RFLAGS}, (%rsp);orq ${operand}, (%rsp);popfq")
        if whole_word:
            b.needs_stack = True
            lines.append(f"pushfq;popq ${len(outputs) - 1}")
        else:
            first = self._writes.bit_count()
            lines += [f"{_SET[1 << bit]} ${first + n}" for n, bit in enumerate(bits(self._flags_out))]
        constraints = [constraint for _, constraint in outputs] + [constraint for constraint, _ in inputs]
        constraints += ["~{memory}", "~{flags}"]
        arguments = ", ".join(f"i64 {value}" for _, value in inputs)
        types = [kind for kind, _ in outputs]
        result_type = "void" if not types else types[0] if len(types) == 1 else "{" + ", ".join(types) + "}"
        text = f'call {result_type} asm sideeffect "{";".join(lines)}", "{",".join(constraints)}"({arguments})'
        if not types:
            b.line(text)
            return
        result = b.emit(text)
        values = (
            [result]
            if len(types) == 1
            else [b.emit(f"extractvalue {result_type} {result}, {i}") for i in range(len(types))]
        )
        for index, value in zip(bits(self._writes), values, strict=False):
            b.set_register(index, value)
        flag_values = values[self._writes.bit_count() :]
        if whole_word:
            b.flags_from_word(flag_values[0], self._flags_out)
        else:
            for bit, value in zip(bits(self._flags_out), flag_values, strict=True):
                b.set_flag(1 << bit, b.trunc(value, 8, 1))


ARITHMETIC_RFLAGS: Final = 0x8D5
"""CF, PF, AF, ZF, SF and OF at their places in RFLAGS."""
