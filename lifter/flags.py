"""Lazy flags: remember the operation that set them, and compute a flag or a condition only where it is read.

`cmp a, b; jle` becomes `icmp sle a, b`. A formula over SF, OF and ZF would say the same, but LLVM cannot fold
it back into a comparison, and the code would be twice as slow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lifter.registers import AF, CF, OF, PF, SF, ZF

if TYPE_CHECKING:
    from lifter.builder import Builder

CONDITION_FLAGS: Final[Mapping[str, int]] = {
    "o": OF, "b": CF, "e": ZF, "be": CF | ZF, "s": SF, "p": PF, "l": SF | OF, "le": ZF | SF | OF,
}  # fmt: skip
"""Flags that a condition reads (SDM volume 1, appendix B.1); the negated ones read the same."""

NEGATED: Final[Mapping[str, str]] = {
    "no": "o", "ae": "b", "ne": "e", "a": "be", "ns": "s", "np": "p", "ge": "l", "g": "le",
}  # fmt: skip

_COMPARISONS: Final[Mapping[str, str]] = {
    "b": "ult", "ae": "uge", "e": "eq", "ne": "ne", "be": "ule", "a": "ugt",
    "l": "slt", "ge": "sge", "le": "sle", "g": "sgt",
}  # fmt: skip
"""What a condition means after a subtraction or comparison."""

_AGAINST_ZERO: Final[Mapping[str, str]] = {
    "e": "eq", "ne": "ne", "be": "eq", "a": "ne", "l": "slt", "ge": "sge", "le": "sle", "g": "sgt",
    "s": "slt", "ns": "sge",
}  # fmt: skip
"""What a condition means for a result with CF = OF = 0 (and, for e, ne, s, ns, for any result)."""

Thunk = Callable[["Builder"], str]


@dataclass(frozen=True, slots=True, eq=False)
class FlagSource:
    """An operation that set flags: enough to compute any of them later."""

    kind: str
    """'sub' (cmp, sub, neg, dec), 'add' (add, inc), 'logic' (CF = OF = 0) or 'other' (all in `thunks`
    but what follows from the result)."""
    width: int
    """In bits."""
    left: str
    right: str
    result: str
    """Values of the operation; '' where `thunks` covers every flag that would need them. A comparison's result
    is '' until a flag needs it."""
    thunks: Mapping[int, Thunk] = field(default_factory=dict)
    """Flags computed in their own way."""


def known_flag(value: str, flag: int) -> FlagSource:
    """A source for one flag whose i1 value is there already."""
    return FlagSource("other", 8, "", "", "", {flag: lambda _b: value})


def compute_flag(b: Builder, source: FlagSource, flag: int) -> str:
    """The i1 value of `flag` as `source` left it."""
    thunk = source.thunks.get(flag)
    if thunk is not None:
        return thunk(b)
    w = source.width
    result = source.result
    if not result and source.kind == "sub" and flag in (SF, PF, AF, OF):
        result = b.op("sub", w, source.left, source.right)
    if flag == ZF:
        if source.kind == "sub":
            return b.icmp("eq", w, source.left, source.right)
        return b.icmp("eq", w, result, "0")
    if flag == SF:
        return b.icmp("slt", w, result, "0")
    if flag == PF:
        low = b.trunc(result, w, 8)
        ones = b.call_unary("ctpop", 8, low)
        odd = b.trunc(ones, 8, 1)
        return b.op("xor", 1, odd, "true")
    if source.kind == "logic":
        return "false"
    if flag == AF:
        mixed = b.op("xor", w, b.op("xor", w, source.left, source.right), result)
        return b.icmp("ne", w, b.op("and", w, mixed, "16"), "0")
    if flag == CF:
        if source.kind == "sub":
            return b.icmp("ult", w, source.left, source.right)
        return b.icmp("ult", w, result, source.left)
    if flag == OF:
        first = b.op("xor", w, source.left, source.right if source.kind == "sub" else result)
        second = b.op("xor", w, result, source.left if source.kind == "sub" else source.right)
        return b.icmp("slt", w, b.op("and", w, first, second), "0")
    raise AssertionError(f"no such flag: {flag:#x}")


def compute_condition(b: Builder, condition: str) -> str:
    """The i1 value of a condition code ('e', 'ne', 'l', ...) from the builder's flags."""
    positive = NEGATED.get(condition, condition)
    needed = CONDITION_FLAGS[positive]
    sources = b.flag_sources(needed)
    if len(sources) == 1:
        (source,) = sources
        if not any(flag in source.thunks for flag in (CF, ZF, SF, OF, PF) if flag & needed):
            # With a borrow (sbb) it is no comparison of the two.
            if source.kind == "sub" and not source.thunks and condition in _COMPARISONS:
                return b.icmp(_COMPARISONS[condition], source.width, source.left, source.right)
            if source.kind == "logic" and condition in _AGAINST_ZERO:
                return b.icmp(_AGAINST_ZERO[condition], source.width, source.result, "0")
            if source.result and condition in ("e", "ne", "s", "ns"):
                return b.icmp(_AGAINST_ZERO[condition], source.width, source.result, "0")
    value = _from_flags(b, positive)
    return b.op("xor", 1, value, "true") if condition in NEGATED else value


def _from_flags(b: Builder, positive: str) -> str:
    match positive:
        case "o":
            return b.flag(OF)
        case "b":
            return b.flag(CF)
        case "e":
            return b.flag(ZF)
        case "s":
            return b.flag(SF)
        case "p":
            return b.flag(PF)
        case "be":
            return b.op("or", 1, b.flag(CF), b.flag(ZF))
        case "l":
            return b.op("xor", 1, b.flag(SF), b.flag(OF))
        case "le":
            return b.op("or", 1, b.flag(ZF), b.op("xor", 1, b.flag(SF), b.flag(OF)))
    raise AssertionError(f"no such condition: {positive}")
