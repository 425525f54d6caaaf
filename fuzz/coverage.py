"""By what the work of a campaign is counted: forms of instructions (rows of the table) and their widths."""

from __future__ import annotations

from functools import lru_cache

from lifter.instruction import Flow, Instruction, Mem, Reg, Vec
from lifter.x86.layout import parse
from lifter.x86.rows import Form, Row, find_row

NATIVE, EMULATED = "native", "unicorn"
"""Names of the oracles."""
_VECTOR_BITS = {"xmm": 128, "ymm": 256, "zmm": 512, "mm": 64, "st": 80}


def form_of(instruction: Instruction) -> str:
    """The instruction's row in the table: mnemonic, and kinds of operands with what is done to them."""
    return _form_of(instruction)[0]


def width_of(instruction: Instruction) -> str:
    """The width of the widest operand in bits, '-' without one."""
    return _form_of(instruction)[1]


@lru_cache(1 << 16)
def _form_of(instruction: Instruction) -> tuple[str, str]:
    layout = parse(instruction.code)
    form = Form(
        instruction.mnemonic, instruction.operands, instruction.width, instruction.lock, instruction.rep, layout
    )
    row = find_row(form)
    return (name_of(row) if row is not None else instruction.mnemonic), _width(instruction)


def name_of(row: Row) -> str:
    """The name of a row."""
    encodings = f" ({' '.join(sorted(row.encodings)) or 'legacy'})" if row.encodings else ""
    return f"{row.mnemonic} {row.shape}".rstrip() + encodings


def _width(instruction: Instruction) -> str:
    if instruction.flow is not Flow.NEXT:
        return "-"
    widths = [instruction.width]
    for operand in instruction.operands:
        if isinstance(operand, Reg | Mem):
            widths.append(operand.width)
        elif isinstance(operand, Vec):
            widths.append(_VECTOR_BITS.get(operand.kind, 0))
    widths += [8 * access.size for access in instruction.effects.memory]
    return str(max(widths)) if max(widths) else "-"
