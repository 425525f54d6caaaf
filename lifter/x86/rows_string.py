"""Rows of the string instructions, with and without repeat prefix."""

from __future__ import annotations

from lifter.instruction import Handling
from lifter.registers import RCX, gpr
from lifter.x86.rows import Draft, row, section
from lifter.x86.rows_integer import ARITHMETIC


def repeating(draft: Draft) -> None:
    """A repeat prefix counts RCX down; a count of zero does nothing at all."""
    if draft.form.rep:
        draft.reads |= gpr(RCX)
        draft.writes |= gpr(RCX)
        draft.flags_may_change()


def loading(draft: Draft) -> None:
    """A repeated lods may do nothing, and leave RAX as it was."""
    repeating(draft)
    if draft.form.rep:
        draft.kills = 0
        draft.reads |= draft.writes


section("Strings")

for _letter, _part in (("b", "al"), ("w", "ax"), ("d", "eax"), ("q", "rax")):
    row(f"movs{_letter}" if _letter != "d" else "movsd_string", reads="rsi rdi df", writes="rsi rdi",
        memory="r:w[rsi] w:w[rdi]", adjust=repeating)  # fmt: skip
    row(f"cmps{_letter}" if _letter != "d" else "cmpsd_string", reads="rsi rdi df", writes="rsi rdi",
        sets=ARITHMETIC, memory="r:w[rsi] r:w[rdi]", adjust=repeating)  # fmt: skip
    row(f"stos{_letter}", reads=f"{_part} rdi df", writes="rdi", memory="w:w[rdi]", adjust=repeating)
    row(f"lods{_letter}", reads="rsi df", writes=f"rsi {_part}", memory="r:w[rsi]", adjust=loading)
    row(f"scas{_letter}", reads=f"{_part} rdi df", writes="rdi", sets=ARITHMETIC, memory="r:w[rdi]",
        adjust=repeating)  # fmt: skip
    row(f"ins{_letter}", reads="rdx rdi df", writes="rdi", memory="w:w[rdi]", handling=Handling.NATIVE,
        reason="privileged", adjust=repeating)  # fmt: skip
    row(f"outs{_letter}", reads="rdx rsi df", writes="rsi", memory="r:w[rsi]", handling=Handling.NATIVE,
        reason="privileged", adjust=repeating)  # fmt: skip
