"""Leaving a region: the machine state as the original code would have left it, at an original address.

Live registers are pinned by the constraints of an inline-assembly statement that puts RSP back and jumps. `<R+d>`
in its text becomes the instruction that makes RSP the program's (its value at entry + d), or nothing where
the machine's RSP is that already.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from lifter.builder import Builder
from lifter.instruction import Flow, Imm, Instruction
from lifter.registers import ARITHMETIC_FLAGS, GPR_NAMES, GPRS, RSP, bits

_FLAGS_SLOT = 0
_RSP_SLOT = 8


@dataclass(frozen=True, slots=True)
class Exit:
    """One way out of a region."""

    live: int
    """Registers and flags to hand over."""
    target: int | None = None
    """Original address that control goes to; None for a return or an indirect jump or call."""
    instruction: Instruction | None = None
    """The return, indirect jump or call that is carried out here."""
    address: int = 0
    """Of `instruction`, where its bytes are relative to it."""
    return_to: int | None = None
    """For a call: the original return address."""


def emit_exit(b: Builder, leaving: Exit, loose: int = 0) -> None:
    """Emit the statement that leaves; the block ends with it. `loose`: see `RegionSource`."""
    if leaving.return_to is not None:
        symbol = b.symbols.name("d", leaving.return_to)
        b.push(64, b.emit(f"ptrtoint ptr @{symbol} to i64"))
    flags = leaving.live & ARITHMETIC_FLAGS
    if flags:
        b.line(f"store i64 {b.rflags(flags)}, ptr {b.slot_address(_FLAGS_SLOT)}, align 8")
    if b.rsp_offset is None:
        b.line(f"store i64 {b.read_reg(RSP, 64)}, ptr {b.slot_address(_RSP_SLOT)}, align 8")
    pinned = leaving.live & GPRS & ~(1 << RSP)
    values = ", ".join([f"i64 {b.read_reg(index, 64)}" for index in bits(pinned)])
    if loose:
        values += _loose_values(loose, bool(pinned))
    constraints = _constraints(pinned, loose)
    text = _restore_stack(b, bool(flags)) + _jump(b, leaving)
    b.line(f'call void asm sideeffect "{text}", "{constraints}"({values})')
    b.line("unreachable")


@lru_cache(1 << 12)
def _constraints(pinned: int, loose: int) -> str:
    first, more = ("".join(f"{{{GPR_NAMES[index]}}}," for index in bits(mask)) for mask in (pinned, loose))
    return first + (f"<L{more}>" if loose else "") + "~{memory}"


@lru_cache(1 << 12)
def _loose_values(loose: int, others: bool) -> str:
    """Loose registers are as they were at entry, wherever the region leaves."""
    values = ", ".join(f"i64 %r{index}" for index in bits(loose))
    return f"<L, {values}>" if others else f"<L{values}>"


def _restore_stack(b: Builder, flags: bool) -> str:
    if b.rsp_offset is None:
        if flags:
            # popfq leaves RSP at the slot that holds the program's RSP.
            return "leaq L_fs(%rsp), %rsp;popfq;movq (%rsp), %rsp;"
        return f"movq L_fs+{_RSP_SLOT}(%rsp), %rsp;"
    if flags:
        return f"leaq L_fs(%rsp), %rsp;popfq;leaq <K{b.rsp_offset - 8:+d}>(%rsp), %rsp;"
    return f"<R{b.rsp_offset:+d}>"


def _jump(b: Builder, leaving: Exit) -> str:
    instruction = leaving.instruction
    if instruction is None or (leaving.target is not None and instruction.flow is Flow.CALL):
        assert leaving.target is not None
        return f"jmp {b.symbols.name('x', leaving.target)}"
    if instruction.flow is Flow.RETURN:
        released = instruction.operands[0] if instruction.operands else None
        return f"ret $${released.value & 0xFFFF}" if isinstance(released, Imm) else "ret"
    code = bytearray(instruction.code)
    # An indirect call whose return address is pushed already is the jump of the same operand.
    code[instruction.modrm_at] = (code[instruction.modrm_at] & ~0x38) | (4 << 3)
    mem = instruction.memory_operand
    if mem is not None and mem.rip:
        symbol = b.symbols.name("d", leaving.address + instruction.size + mem.disp)
        return f".byte {','.join(map(str, code[: instruction.modrm_at + 1]))};.long {symbol}-.-4"
    return f".byte {','.join(map(str, code))}"
