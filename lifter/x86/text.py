"""Instructions as Intel-syntax text, for people."""

from __future__ import annotations

from typing import Final

from lifter.instruction import Imm, Instruction, Mem, Operand, Reg, Vec
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


def displacement_text(operand: Mem) -> str:
    """The displacement of a memory operand, as the last term of its address."""
    disp = operand.disp
    if operand.base is None and operand.index is None and not operand.rip:
        return hex(disp & ((1 << operand.address_width) - 1))
    return f" - {hex(-disp)}" if disp < 0 else f" + {hex(disp)}" if disp else ""


def immediate_text(value: int) -> str:
    """An immediate: small ones in decimal."""
    return str(value) if -10 < value < 10 else hex(value)


def target_text(distance: int) -> str:
    """A branch target; `$` is the address of the instruction."""
    return f"$-{hex(-distance)}" if distance < 0 else f"$+{hex(distance)}"


def _operand_text(operand: Operand, displacement: str) -> str:
    if isinstance(operand, Reg):
        return register_name(operand.index, operand.width, operand.high)
    if isinstance(operand, Imm):
        return immediate_text(operand.value)
    if isinstance(operand, Vec):
        if operand.kind == "seg":
            return _SEGMENTS[operand.index]
        return f"st({operand.index})" if operand.kind == "st" else f"{operand.kind}{operand.index}"
    terms = []
    if operand.rip:
        terms.append("rip" if operand.address_width == 64 else "eip")
    if operand.base is not None:
        terms.append(register_name(operand.base, operand.address_width))
    if operand.index is not None:
        name = f"v{operand.index}" if operand.vsib else register_name(operand.index, operand.address_width)
        terms.append(f"{name}*{operand.scale}" if operand.scale > 1 else name)
    segment = f"{operand.segment}:" if operand.segment else ""
    return f"{_SIZES.get(operand.width, '')}{segment}[{' + '.join(terms)}{displacement}]"


def text_pattern(
    instruction: Instruction, displacement: bool, immediates: int, branch: bool, mask: int, zeroing: bool
) -> str:
    """Text of an instruction with `%s` for its displacement, its last `immediates` operands and its target."""
    operands = instruction.operands[: len(instruction.operands) - immediates]
    parts = [_operand_text(operand, "%s" if displacement else "") for operand in operands]
    if mask and parts:
        parts[0] += f" {{k{mask}}}" + (" {z}" if zeroing else "")
    parts += ["%s"] * (immediates + branch)
    prefixes = ("lock " if instruction.lock else "") + (f"{instruction.rep} " if instruction.rep else "")
    return f"{prefixes}{instruction.mnemonic} {', '.join(parts)}".rstrip()
