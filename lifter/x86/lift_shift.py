"""Shifts and rotates (SDM volume 2). The count is masked; a count of zero leaves every flag alone."""

from __future__ import annotations

from collections.abc import Mapping

from lifter.builder import Builder
from lifter.flags import FlagSource, Thunk
from lifter.instruction import Imm, Instruction, Operand
from lifter.registers import AF, ARITHMETIC_FLAGS, CF, OF, bits
from lifter.x86.emit import Unliftable, lifts, undefined, width_of


def _count(b: Builder, ins: Instruction, width: int, operand: Operand | None) -> int | str:
    """The masked count: a number, or a value of 64 bits for counts in CL."""
    mask = 63 if width == 64 else 31
    if operand is None:
        return 1
    if isinstance(operand, Imm):
        return operand.value & mask
    return b.op("and", 64, b.zext(b.read(operand), 8, 64), str(mask))


def _set_flags(b: Builder, width: int, result: str, count: int | str, thunks: Mapping[int, Thunk], flags: int) -> None:
    """Set `flags`, keeping the old ones where a variable count is zero."""
    source = FlagSource("other", width, "", "", result, thunks)
    if isinstance(count, int):
        if count:
            b.set_flags(source, flags)
        return
    wanted = flags & b.live_flags
    if not wanted:
        b.set_flags(FlagSource("other", width, "", "", "", dict.fromkeys(_each(flags), undefined)), flags)
        return
    old = {flag: b.flag(flag) for flag in _each(wanted)}
    unchanged = b.icmp("eq", 64, count, "0")
    b.set_flags(source, flags)
    for flag, before in old.items():
        b.set_flag(flag, b.select(unchanged, 1, before, b.flag(flag)))


def _each(flags: int) -> list[int]:
    return [1 << bit for bit in bits(flags)]


def _bit(b: Builder, width: int, value: str, position: int | str) -> str:
    """Bit `position` of a value, as i1."""
    if position in (0, "0"):
        return b.trunc(value, width, 1)
    return b.trunc(b.op("lshr", width, value, str(position)), width, 1)


def _sign(b: Builder, width: int, value: str) -> str:
    return b.icmp("slt", width, value, "0")


@lifts("shl", "shr", "sar")
def shift(b: Builder, ins: Instruction) -> None:
    """SHL, SHR, SAR. Eight and sixteen bits are shifted in thirty-two, since counts go up to 31."""
    dst = ins.operands[0]
    w = width_of(dst)
    wide = max(w, 32)
    count = _count(b, ins, w, ins.operands[1] if len(ins.operands) > 1 else None)
    value = b.read(dst)
    if count == 0:
        b.write(dst, value)
        return
    amount = str(count) if isinstance(count, int) else b.trunc(count, 64, wide)
    operator = {"shl": "shl", "shr": "lshr", "sar": "ashr"}[ins.mnemonic]
    extended = (b.sext if operator == "ashr" else b.zext)(value, w, wide)
    shifted = b.op(operator, wide, extended, amount)
    result = b.trunc(shifted, wide, w)
    b.write(dst, result)

    def carry(b: Builder) -> str:
        # The last bit shifted out: one step before the end. In 64 bits, so that no count is too large.
        if operator == "shl":
            if wide == w:
                back = b.op("sub", wide, str(w), amount)
                return b.trunc(b.op("lshr", wide, extended, b.op("and", wide, back, str(wide - 1))), wide, 1)
            return b.trunc(b.op("lshr", wide, shifted, str(w)), wide, 1)
        before = b.op("sub", wide, amount, "1")
        return b.trunc(b.op(operator, wide, extended, b.op("and", wide, before, str(wide - 1))), wide, 1)

    def overflow(b: Builder) -> str:
        if operator == "shl":
            return b.op("xor", 1, _sign(b, w, result), carry(b))
        return _sign(b, w, value) if operator == "lshr" else "false"

    _set_flags(b, w, result, count, {CF: carry, OF: overflow, AF: undefined}, ARITHMETIC_FLAGS)


@lifts("rol", "ror")
def rotate(b: Builder, ins: Instruction) -> None:
    """ROL, ROR: only CF and OF change."""
    dst = ins.operands[0]
    w = width_of(dst)
    count = _count(b, ins, w, ins.operands[1] if len(ins.operands) > 1 else None)
    value = b.read(dst)
    if count == 0:
        b.write(dst, value)
        return
    # The intrinsic takes the count modulo the width, as the rotation itself does.
    amount = str(count % w) if isinstance(count, int) else b.trunc(count, 64, w)
    left = ins.mnemonic == "rol"
    result = b.funnel_shift("l" if left else "r", w, value, value, amount)
    b.write(dst, result)

    def carry(b: Builder) -> str:
        return b.trunc(result, w, 1) if left else _sign(b, w, result)

    def overflow(b: Builder) -> str:
        other = carry(b) if left else _bit(b, w, result, w - 2)
        return b.op("xor", 1, _sign(b, w, result), other)

    _set_flags(b, w, result, count, {CF: carry, OF: overflow}, CF | OF)


@lifts("rcl", "rcr")
def rotate_through_carry(b: Builder, ins: Instruction) -> None:
    """RCL, RCR: rotate the operand and CF as one number of width + 1 bits, in twice the width."""
    dst = ins.operands[0]
    w = width_of(dst)
    double = 2 * w
    count = _count(b, ins, w, ins.operands[1] if len(ins.operands) > 1 else None)
    value = b.read(dst)
    if count == 0:
        b.write(dst, value)
        return
    if isinstance(count, int):
        left_by = count % (w + 1)
        if ins.mnemonic == "rcr":
            left_by = (w + 1 - left_by) % (w + 1)
        up, down = str(left_by), str(w + 1 - left_by)
    else:
        turn = b.op("urem", 64, count, str(w + 1))
        if ins.mnemonic == "rcr":
            turn = b.op("urem", 64, b.op("sub", 64, str(w + 1), turn), str(w + 1))
        narrow = b.trunc(turn, 64, double) if double <= 64 else b.zext(turn, 64, double)
        up, down = narrow, b.op("sub", double, str(w + 1), narrow)
    carry_in = b.op("shl", double, b.zext(b.flag(CF), 1, double), str(w))
    whole = b.op("or", double, carry_in, b.zext(value, w, double))
    turned = b.op("or", double, b.op("shl", double, whole, up), b.op("lshr", double, whole, down))
    result = b.trunc(turned, double, w)
    b.write(dst, result)

    def carry(b: Builder) -> str:
        return _bit(b, double, turned, w)

    def overflow(b: Builder) -> str:
        other = carry(b) if ins.mnemonic == "rcl" else _bit(b, w, result, w - 2)
        return b.op("xor", 1, _sign(b, w, result), other)

    _set_flags(b, w, result, count, {CF: carry, OF: overflow}, CF | OF)


@lifts("shld", "shrd")
def double_shift(b: Builder, ins: Instruction) -> None:
    """SHLD, SHRD. Counts of 16 and more of 16-bit operands are left to the processor: undefined above 16."""
    dst, src, amount_operand = ins.operands
    w = width_of(dst)
    count = _count(b, ins, w, amount_operand)
    if w == 16 and not (isinstance(count, int) and count < 16):
        raise Unliftable("shifts 16 bits by a count that may be larger")
    value, other = b.read(dst), b.read(src)
    if count == 0:
        b.write(dst, value)
        return
    amount = str(count) if isinstance(count, int) else b.trunc(count, 64, w)
    left = ins.mnemonic == "shld"
    high, low = (value, other) if left else (other, value)
    result = b.funnel_shift("l" if left else "r", w, high, low, amount)
    b.write(dst, result)

    def carry(b: Builder) -> str:
        position = b.op("sub", w, str(w), amount) if left else b.op("sub", w, amount, "1")
        return _bit(b, w, value, b.op("and", w, position, str(w - 1)))

    def overflow(b: Builder) -> str:
        return _sign(b, w, b.op("xor", w, result, value))

    _set_flags(b, w, result, count, {CF: carry, OF: overflow, AF: undefined}, ARITHMETIC_FLAGS)


@lifts("shlx", "shrx", "sarx")
def shift_without_flags(b: Builder, ins: Instruction) -> None:
    """SHLX, SHRX, SARX."""
    dst, src, count = ins.operands
    w = width_of(dst)
    value = b.read(src)
    amount = b.op("and", w, b.read(count), str(w - 1))
    b.write(dst, b.op({"shlx": "shl", "shrx": "lshr", "sarx": "ashr"}[ins.mnemonic], w, value, amount))


@lifts("rorx")
def rotate_without_flags(b: Builder, ins: Instruction) -> None:
    """RORX."""
    dst, src, count = ins.operands
    w = width_of(dst)
    assert isinstance(count, Imm)
    value = b.read(src)
    b.write(dst, b.funnel_shift("r", w, value, value, str(count.value % w)))
