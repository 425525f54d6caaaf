"""Instructions as Intel-syntax text, for people."""

from __future__ import annotations

from typing import Final

from lifter.instruction import Imm, Mem, Operand, Reg, Vec
from lifter.registers import GPR_NAMES

_LOW_BYTES: Final = ("al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil")
_HIGH_BYTES: Final = ("ah", "ch", "dh", "bh")
_SIZES: Final = {
    8: "byte ptr ", 16: "word ptr ", 32: "dword ptr ", 64: "qword ptr ", 80: "tbyte ptr ",
    128: "xmmword ptr ", 256: "ymmword ptr ", 512: "zmmword ptr ",
}  # fmt: skip
_SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs")


def register_name(index: int, width: int, high: bool = False) -> str:
    """Name of a general-purpose register or of a part of one."""
    if width == 64:
        return GPR_NAMES[index]
    if high:
        return _HIGH_BYTES[index]
    if index >= 8:
        return GPR_NAMES[index] + {32: "d", 16: "w", 8: "b"}[width]
    if width == 8:
        return _LOW_BYTES[index]
    return ("e" if width == 32 else "") + GPR_NAMES[index][1:]


def format_operand(operand: Operand) -> str:
    """One operand in Intel syntax."""
    if isinstance(operand, Reg):
        return register_name(operand.index, operand.width, operand.high)
    if isinstance(operand, Imm):
        value = operand.value
        return str(value) if -10 < value < 10 else hex(value)
    if isinstance(operand, Vec):
        if operand.kind == "seg":
            return _SEGMENTS[operand.index]
        return f"st({operand.index})" if operand.kind == "st" else f"{operand.kind}{operand.index}"
    return _format_memory(operand)


def _format_memory(operand: Mem) -> str:
    terms = []
    if operand.rip:
        terms.append("rip" if operand.address_width == 64 else "eip")
    if operand.base is not None:
        terms.append(register_name(operand.base, operand.address_width))
    if operand.index is not None:
        name = f"v{operand.index}" if operand.vsib else register_name(operand.index, operand.address_width)
        terms.append(f"{name}*{operand.scale}" if operand.scale > 1 else name)
    address = " + ".join(terms)
    disp = operand.disp
    if not terms:
        address = hex(disp & ((1 << operand.address_width) - 1))
    elif disp:
        address += f" {'-' if disp < 0 else '+'} {hex(abs(disp))}"
    segment = f"{operand.segment}:" if operand.segment else ""
    return f"{_SIZES.get(operand.width, '')}{segment}[{address}]"


def format_instruction(
    mnemonic: str,
    operands: tuple[Operand, ...],
    target: int | None,
    size: int,
    lock: bool,
    rep: str,
    mask: int = 0,
    zeroing: bool = False,
) -> str:
    """The whole instruction; `$` in a branch target is the address of the instruction."""
    parts = [format_operand(operand) for operand in operands]
    if mask and parts:
        parts[0] += f" {{k{mask}}}" + (" {z}" if zeroing else "")
    if target is not None:
        distance = target + size
        parts.append(f"${'-' if distance < 0 else '+'}{hex(abs(distance))}")
    head = ("lock " if lock else "") + (f"{rep} " if rep else "") + mnemonic
    return f"{head} {', '.join(parts)}" if parts else head
