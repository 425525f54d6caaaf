"""What a block's last instruction reads, and the condition on which it jumps."""

from __future__ import annotations

from typing import Final

from lifter.builder import Builder
from lifter.flags import CONDITION_FLAGS, NEGATED
from lifter.instruction import Flow, Instruction
from lifter.registers import ARITHMETIC_FLAGS, GPRS, RCX, RSP, ZF

STATE: Final = (GPRS & ~(1 << RSP)) | ARITHMETIC_FLAGS
"""What a region keeps in variables: all registers but RSP, and the flags."""


def terminator_reads(last: Instruction) -> int:
    """Registers and flags that a jump's or call's decision reads (its target included)."""
    mask = last.effects.reads & STATE
    if last.flow is Flow.RETURN:
        return 0
    return mask


def branch_condition(b: Builder, last: Instruction) -> str:
    """The i1 condition of a conditional jump (SDM volume 2, Jcc, LOOP, JRCXZ)."""
    name = last.mnemonic
    if name in ("jrcxz", "jecxz"):
        width = 64 if name == "jrcxz" else 32
        return b.icmp("eq", width, b.read_reg(RCX, width), "0")
    if name in ("loop", "loope", "loopne"):
        width = 32 if 0x67 in last.code[:-2] else 64
        count = b.op("sub", width, b.read_reg(RCX, width), "1")
        b.write_reg(RCX, width, count)
        more = b.icmp("ne", width, count, "0")
        if name == "loop":
            return more
        zero = b.flag(ZF)
        return b.op("and", 1, more, zero if name == "loope" else b.op("xor", 1, zero, "true"))
    code = name[1:]
    assert code in CONDITION_FLAGS or code in NEGATED, name
    return b.condition(code)
