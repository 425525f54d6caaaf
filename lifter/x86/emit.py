"""The registry of emitters: one function per group of mnemonics, from instruction to IR."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from lifter.instruction import Imm, Instruction, Mem, Operand, Reg

if TYPE_CHECKING:
    from lifter.builder import Builder

Emitter = Callable[["Builder", "Instruction"], None]

EMITTERS: Final[dict[str, Emitter]] = {}
"""Mnemonic -> emitter, filled by the `lift_*` modules when they are imported."""


class Unliftable(Exception):
    """Raised by an emitter for an operand form that it leaves native; the message is the reason."""


def lifts(*mnemonics: str) -> Callable[[Emitter], Emitter]:
    """Register an emitter for `mnemonics`."""

    def register(emitter: Emitter) -> Emitter:
        for mnemonic in mnemonics:
            if mnemonic in EMITTERS:
                raise AssertionError(f"two emitters for {mnemonic}")
            EMITTERS[mnemonic] = emitter
        return emitter

    return register


def width_of(operand: Operand) -> int:
    """Width in bits of a register, memory or immediate operand."""
    assert isinstance(operand, Reg | Mem | Imm)
    return operand.width


def undefined(_b: Builder) -> str:
    """The value given to a flag that the manual leaves undefined."""
    return "false"
