"""Rows of the x87 instructions. The whole unit is one register here: its stack, control, status and tag words.

What only reads a part of it still depends on all of it; nothing overwrites all of it but fninit.
"""

from __future__ import annotations

from typing import Final

from lifter.instruction import MemoryAccess
from lifter.x86.rows import Draft, row, section

_STACK_ONLY: Final = (
    "fabs fchs ftst fxam fsqrt f2xm1 fyl2x fyl2xp1 fpatan fptan fsin fcos fsincos frndint fscale fprem fprem1 "
    "fxtract fld1 fldl2e fldl2t fldlg2 fldln2 fldpi fldz fincstp fdecstp fnop fcompp fucompp fnclex fninit wait "
    "feni8087_nop fdisi8087_nop fsetpm"
)
_ARITHMETIC: Final = "fadd fsub fsubr fmul fdiv fdivr fcom fcomp"
_INTEGER: Final = "fiadd fisub fisubr fimul fidiv fidivr ficom ficomp fild"
_REGISTERS: Final = (
    "faddp fsubp fsubrp fmulp fdivp fdivrp fxch ffree ffreep fucom fucomp fcom2 fcomp3 fcomp5 fxch4 fxch7 fstp8 "
    "fstp9 fstpnce fld fst fstp"
)


def environment(draft: Draft) -> None:
    """With an operand-size prefix the environment has seven words instead of seven doublewords."""
    if 0x66 in draft.form.layout.prefixes and not draft.form.layout.rex & 8:
        access = draft.memory[0]
        draft.memory[0] = MemoryAccess(access.operand, access.size - 14, access.read, access.write)


def _x87(names: str, *shapes: str, reads: str = "", writes: str = "", sets: str = "") -> None:
    for shape in shapes:
        row(names, shape, reads=f"x87 {reads}", writes=f"x87 {writes}", sets=sets)


section("x87: the whole unit counts as one register")

_x87(_STACK_ONLY, "")
_x87(_ARITHMETIC, "-:st", "-:st,-:st", "r:m")
_x87(_INTEGER, "r:m")
_x87(_REGISTERS, "", "-:st", "-:st,-:st")
_x87("fld", "r:m")
_x87("fst fstp fist fistp fisttp", "w:m")
_x87("fbld", "r:m80")
_x87("fbstp", "w:m80")
for _condition, _flags in {
    "b": "cf", "nb": "cf", "e": "zf", "ne": "zf", "be": "cf zf", "nbe": "cf zf", "u": "pf", "nu": "pf",
}.items():  # fmt: skip
    _x87(f"fcmov{_condition}", "-:st", "-:st,-:st", reads=_flags)
_x87("fcomi fcomip fucomi fucomip", "-:st", "-:st,-:st", sets="cf pf af zf sf of")
_x87("fldcw", "r:m16")
row("fldenv", "r:m224", reads="x87", writes="x87", adjust=environment)
row("frstor", "r:m864", reads="x87", writes="x87", adjust=environment)
row("fnstenv", "w:m224", reads="x87", writes="x87", adjust=environment)
row("fnsave", "w:m864", reads="x87", writes="x87", adjust=environment)
row("fnstcw", "w:m16", reads="x87")
row("fnstsw", "w:rm16", reads="x87")
