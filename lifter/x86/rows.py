"""The instruction table: one row per mnemonic and operand shape, and how a row becomes an instruction's effects.

A row says for each explicit operand how it is accessed, and names everything implicit. `resolve` finds the row of a
decoded form and works out registers, flags, memory and handling. A form without a row is native and is assumed
to read and change everything: never wrong, only slow. The rows themselves are in the `rows_*` modules; importing
`lifter.x86.table` loads them all.

The notation of `row`:

    row("add sub", "rw:rm,r", sets="cf pf af zf sf of")
    row("mul", "r:rm8", reads="al", writes="ax", sets="cf of", undefined="pf af zf sf")

An operand is `access` or `access:kind`. Access: `r` read, `w` wholly written, `rw` both, `m` may be written (else it
keeps its value), `a` only its address is computed. Kind: see `_KINDS`; without one, any operand fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from lifter.instruction import Effects, Handling, Imm, Mem, MemoryAccess, Operand, Reg, Vec
from lifter.registers import (
    AMBIENT,
    ARITHMETIC_FLAGS,
    FLAG_NAMES,
    GPRS,
    MXCSR,
    OPMASKS,
    RBP,
    RSP,
    X87,
    gpr,
    vector,
)
from lifter.x86.layout import Layout

EVERYTHING: Final = GPRS | ARITHMETIC_FLAGS | AMBIENT


@dataclass(frozen=True, slots=True)
class Form:
    """A decoded instruction before the table has been asked."""

    mnemonic: str
    operands: tuple[Operand, ...]
    width: int
    lock: bool
    rep: str
    layout: Layout
    mask: int = 0
    """EVEX write mask register, 0 without one."""
    zeroing: bool = False
    """EVEX: masked elements become zero (else they keep their value)."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What the table says of a form."""

    handling: Handling
    reason: str
    effects: Effects
    operands: tuple[Operand, ...]
    """As given, memory operands with the width that the row knows."""
    needs_immediate: bool = False
    """The answer depends on the value of the immediate."""


@dataclass(slots=True)
class Draft:
    """Effects while they are worked out: what an `adjust` function of a row may change."""

    form: Form
    reads: int = 0
    writes: int = 0
    kills: int = 0
    undefined: int = 0
    memory: list[MemoryAccess] = field(default_factory=list)
    handling: Handling = Handling.NATIVE
    reason: str = ""

    def native(self, reason: str) -> None:
        """Make the form native."""
        if self.handling is not Handling.NATIVE:
            self.handling, self.reason = Handling.NATIVE, reason


Adjust = Callable[[Draft], None]


def resolve(form: Form) -> Resolution:
    """What the table says of `form`."""
    return Resolution(
        Handling.NATIVE,
        "no row in the instruction table",
        Effects(EVERYTHING, EVERYTHING, 0),
        form.operands,
    )
