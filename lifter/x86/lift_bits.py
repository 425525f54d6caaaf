"""Bit tests, scans and BMI (SDM volume 2)."""

from __future__ import annotations

from lifter.builder import Builder
from lifter.flags import FlagSource, Thunk
from lifter.instruction import Imm, Instruction, Mem, Operand, Reg
from lifter.registers import AF, ARITHMETIC_FLAGS, CF, OF, PF, SF
from lifter.x86.emit import Unliftable, lifts, undefined, width_of


@lifts("bt", "bts", "btr", "btc")
def bit_test(b: Builder, ins: Instruction) -> None:
    """BT, BTS, BTR, BTC: CF is the bit; ZF stays, the rest is undefined (and stays on every processor).

    With a register index and a memory operand the index reaches beyond the operand: a bit string.
    """
    base, index = ins.operands
    w = width_of(base)
    if isinstance(base, Mem) and isinstance(index, Reg):
        if ins.mnemonic != "bt" and base.segment:
            raise Unliftable("changes a bit string in a segment")
        if base.address_width == 32:
            raise Unliftable("a bit string whose address wraps at 32 bits")
        wide = b.sext(b.read(index), w, 64)
        step = b.op("ashr", 64, wide, str(w.bit_length() - 1))
        offset = b.op("shl", 64, step, str((w // 8).bit_length() - 1))
        kind, pointer = b.pointer(base).rsplit(" ", 1)
        pointer = f"{kind} " + b.emit(f"getelementptr i8, {kind} {pointer}, i64 {offset}")
        value = b.load_at(pointer, w)
    else:
        pointer = b.pointer(base) if isinstance(base, Mem) else ""
        value = b.load_at(pointer, w) if pointer else b.read(base)
    if isinstance(index, Imm):
        position = str(index.value % w)
    else:
        position = b.op("and", w, b.read(index), str(w - 1))
    carry = b.trunc(b.op("lshr", w, value, position), w, 1)
    if ins.mnemonic != "bt":
        mask = b.op("shl", w, "1", position)
        if ins.mnemonic == "bts":
            changed = b.op("or", w, value, mask)
        elif ins.mnemonic == "btc":
            changed = b.op("xor", w, value, mask)
        else:
            changed = b.op("and", w, value, b.op("xor", w, mask, "-1"))
        if pointer:
            b.store_at(pointer, w, changed)
        else:
            b.write(base, changed)
    b.set_flag(CF, carry)


@lifts("bsf", "bsr")
def bit_scan(b: Builder, ins: Instruction) -> None:
    """BSF, BSR: ZF = the source is zero, the destination then stays; other flags are undefined."""
    dst, src = ins.operands
    w = width_of(dst)
    value = b.read(src)
    zero = b.icmp("eq", w, value, "0")
    if ins.mnemonic == "bsf":
        found = b.count_zeros("cttz", w, value)
    else:
        found = b.op("sub", w, str(w - 1), b.count_zeros("ctlz", w, value))
    if w == 32:
        # A 32-bit destination that stays keeps its upper half too.
        kept = b.read_reg(_index(dst), 64)
        b.write_reg(_index(dst), 64, b.select(zero, 64, kept, b.zext(found, 32, 64)))
    else:
        b.write(dst, b.select(zero, w, b.read(dst), found))
    thunks: dict[int, Thunk] = dict.fromkeys((CF, PF, AF, SF, OF), undefined)
    b.set_flags(FlagSource("other", w, "", "", value, thunks))


def _index(operand: Operand) -> int:
    assert isinstance(operand, Reg)
    return operand.index


@lifts("tzcnt", "lzcnt")
def count_zeros(b: Builder, ins: Instruction) -> None:
    """TZCNT, LZCNT: CF = the source is zero, ZF = the result is; other flags are undefined."""
    dst, src = ins.operands
    w = width_of(dst)
    value = b.read(src)
    result = b.count_zeros("cttz" if ins.mnemonic == "tzcnt" else "ctlz", w, value)
    b.write(dst, result)

    def carry(b: Builder) -> str:
        return b.icmp("eq", w, value, "0")

    thunks: dict[int, Thunk] = dict.fromkeys((PF, AF, SF, OF), undefined)
    b.set_flags(FlagSource("other", w, "", "", result, {CF: carry, **thunks}))


@lifts("popcnt")
def popcnt(b: Builder, ins: Instruction) -> None:
    """POPCNT: ZF = the source is zero, the other flags are clear. LLVM's own count is slow on older processors."""
    dst, src = ins.operands
    w = width_of(dst)
    result = b.assembly("popcnt $1, $0", w, [(w, b.read(src))])
    b.write(dst, result)
    b.set_flags(FlagSource("logic", w, "", "", result, dict.fromkeys((PF, AF, SF), clear)))


def clear(_b: Builder) -> str:
    """The value of a flag that is always cleared."""
    return "false"


@lifts("pdep", "pext")
def deposit_or_extract(b: Builder, ins: Instruction) -> None:
    """PDEP, PEXT: no flags."""
    dst, src, mask = ins.operands
    w = width_of(dst)
    b.write(dst, b.assembly(f"{ins.mnemonic} $2, $1, $0", w, [(w, b.read(src)), (w, b.read(mask))]))


@lifts("crc32")
def crc32(b: Builder, ins: Instruction) -> None:
    """CRC32: only the low half of a 64-bit destination takes part, and its upper half becomes zero. No flags."""
    dst, src = ins.operands
    w = width_of(src)
    wide = max(w, 32)
    before = b.trunc(b.read(dst), width_of(dst), 32)
    suffix = {8: "b", 16: "w", 32: "l", 64: "q"}[w]
    inputs = f"i{wide} {b.zext(before, 32, wide)}, i{w} {b.read(src)}"
    text = f'call i{wide} asm "crc32{suffix} $2, $0", "=r,0,r,~{{flags}}"({inputs})'
    b.write(dst, b.zext(b.trunc(b.emit(text), wide, 32), 32, width_of(dst)))


@lifts("bzhi")
def zero_high_bits(b: Builder, ins: Instruction) -> None:
    """BZHI: bits from the index on become zero; CF = the index is beyond the operand. AF and PF are undefined."""
    dst, src, index = ins.operands
    w = width_of(dst)
    value = b.read(src)
    number = b.op("and", w, b.read(index), "255")
    inside = b.icmp("ult", w, number, str(w))
    result = _low_bits(b, w, value, number, inside)
    b.write(dst, result)

    def carry(b: Builder) -> str:
        return b.op("xor", 1, inside, "true")

    b.set_flags(FlagSource("logic", w, "", "", result, {CF: carry}))


def _low_bits(b: Builder, width: int, value: str, number: str, inside: str) -> str:
    """The lowest `number` bits of a value: all where `inside` says that there are not as many."""
    upper = b.op("shl", width, "-1", b.op("and", width, number, str(width - 1)))
    kept = b.op("and", width, value, b.op("xor", width, upper, "-1"))
    return b.select(inside, width, kept, value)


@lifts("bextr")
def extract_bits(b: Builder, ins: Instruction) -> None:
    """BEXTR: start in bits 0..7 of the control, length in bits 8..15. CF = OF = 0; AF, SF and PF are undefined."""
    dst, src, control = ins.operands
    w = width_of(dst)
    value, both = b.read(src), b.read(control)
    start = b.op("and", w, both, "255")
    length = b.op("and", w, b.op("lshr", w, both, "8"), "255")
    shifted = b.op("lshr", w, value, b.op("and", w, start, str(w - 1)))
    shifted = b.select(b.icmp("ult", w, start, str(w)), w, shifted, "0")
    result = _low_bits(b, w, shifted, length, b.icmp("ult", w, length, str(w)))
    b.write(dst, result)
    b.set_flags(FlagSource("logic", w, "", "", result))


@lifts("andn")
def andn(b: Builder, ins: Instruction) -> None:
    """ANDN: not the first source, and the second. CF = OF = 0, AF and PF are undefined."""
    dst, first, second = ins.operands
    w = width_of(dst)
    result = b.op("and", w, b.op("xor", w, b.read(first), "-1"), b.read(second))
    b.write(dst, result)
    b.set_flags(FlagSource("logic", w, "", "", result))


@lifts("blsr", "blsi", "blsmsk")
def lowest_bit(b: Builder, ins: Instruction) -> None:
    """BLSR, BLSI, BLSMSK: CF = the source is zero (BLSI: is not); OF = 0; AF and PF are undefined."""
    dst, src = ins.operands
    w = width_of(dst)
    value = b.read(src)
    if ins.mnemonic == "blsi":
        result = b.op("and", w, value, b.op("sub", w, "0", value))
    else:
        result = b.op("and" if ins.mnemonic == "blsr" else "xor", w, value, b.op("sub", w, value, "1"))
    b.write(dst, result)

    def carry(b: Builder) -> str:
        return b.icmp("ne" if ins.mnemonic == "blsi" else "eq", w, value, "0")

    b.set_flags(FlagSource("logic", w, "", "", result, {CF: carry}), ARITHMETIC_FLAGS)
