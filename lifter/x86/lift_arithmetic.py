"""Addition, subtraction, logic, multiplication (SDM volume 2). Order: read, compute, write, flags last."""

from __future__ import annotations

from lifter.builder import Builder, literal
from lifter.flags import FlagSource, Thunk
from lifter.instruction import Imm, Instruction, Mem, Operand, Reg
from lifter.registers import AF, ARITHMETIC_FLAGS, CF, OF, RAX, RDX, RSP, ZF
from lifter.x86.emit import Unliftable, lifts, undefined, width_of


def _same_register(left: Operand, right: Operand) -> bool:
    return isinstance(left, Reg) and left == right


def _adjust_stack(b: Builder, ins: Instruction, sign: int) -> bool:
    """`add rsp, imm` and `sub rsp, imm`; False for all others."""
    dst, src = ins.operands
    if dst != Reg(RSP, 64) or not isinstance(src, Imm):
        return False
    wanted = bool(b.live_flags & ARITHMETIC_FLAGS)
    left = b.read_reg(RSP, 64) if wanted else ""
    b.move_rsp(sign * src.value)
    if wanted:
        kind = "add" if sign > 0 else "sub"
        b.set_flags(FlagSource(kind, 64, left, literal(src.value, 64), b.read_reg(RSP, 64)))
    return True


@lifts("add")
def add(b: Builder, ins: Instruction) -> None:
    """ADD."""
    if _adjust_stack(b, ins, 1):
        return
    dst, src = ins.operands
    w = width_of(dst)
    left, right = b.read(dst), b.read(src)
    total = b.op("add", w, left, right)
    b.write(dst, total)
    b.set_flags(FlagSource("add", w, left, right, total))


@lifts("sub")
def sub(b: Builder, ins: Instruction) -> None:
    """SUB."""
    if _adjust_stack(b, ins, -1):
        return
    dst, src = ins.operands
    w = width_of(dst)
    if _same_register(dst, src):
        b.write(dst, "0")
        b.set_flags(FlagSource("sub", w, "0", "0", "0"))
        return
    left, right = b.read(dst), b.read(src)
    difference = b.op("sub", w, left, right)
    b.write(dst, difference)
    b.set_flags(FlagSource("sub", w, left, right, difference))


@lifts("cmp")
def cmp(b: Builder, ins: Instruction) -> None:
    """CMP: the flags of a subtraction."""
    first, second = ins.operands
    w = width_of(first)
    left, right = b.read(first), b.read(second)
    b.set_flags(FlagSource("sub", w, left, right, ""))


@lifts("neg")
def neg(b: Builder, ins: Instruction) -> None:
    """NEG: 0 - operand; CF is set unless the operand is zero."""
    (dst,) = ins.operands
    w = width_of(dst)
    value = b.read(dst)
    result = b.op("sub", w, "0", value)
    b.write(dst, result)
    b.set_flags(FlagSource("sub", w, "0", value, result))


@lifts("inc")
def inc(b: Builder, ins: Instruction) -> None:
    """INC: CF stays."""
    _step(b, ins, "add")


@lifts("dec")
def dec(b: Builder, ins: Instruction) -> None:
    """DEC: CF stays."""
    _step(b, ins, "sub")


def _step(b: Builder, ins: Instruction, kind: str) -> None:
    (dst,) = ins.operands
    w = width_of(dst)
    value = b.read(dst)
    result = b.op(kind, w, value, "1")
    b.write(dst, result)
    b.set_flags(FlagSource(kind, w, value, "1", result), ARITHMETIC_FLAGS & ~CF)


@lifts("adc", "sbb")
def with_carry(b: Builder, ins: Instruction) -> None:
    """ADC, SBB."""
    dst, src = ins.operands
    w = width_of(dst)
    operator, kind = ("add", "add") if ins.mnemonic == "adc" else ("sub", "sub")
    carry = b.flag(CF)
    if kind == "sub" and _same_register(dst, src):
        # The usual way to spread CF over a register: the old value does not matter.
        left = right = middle = "0"
    else:
        left, right = b.read(dst), b.read(src)
        middle = b.op(operator, w, left, right)
    result = b.op(operator, w, middle, b.zext(carry, 1, w))
    b.write(dst, result)

    def carry_out(b: Builder) -> str:
        if kind == "add":
            first, second = b.icmp("ult", w, middle, left), b.icmp("ult", w, result, middle)
        else:
            first, second = b.icmp("ult", w, left, right), b.icmp("ugt", w, result, middle)
        return b.op("or", 1, first, second)

    def zero(b: Builder) -> str:
        return b.icmp("eq", w, result, "0")

    b.set_flags(FlagSource(kind, w, left, right, result, {CF: carry_out, ZF: zero}))


@lifts("and", "or", "xor", "test")
def logic(b: Builder, ins: Instruction) -> None:
    """AND, OR, XOR, TEST: CF = OF = 0, AF is undefined."""
    dst, src = ins.operands
    w = width_of(dst)
    operator = "and" if ins.mnemonic == "test" else ins.mnemonic
    if ins.mnemonic == "xor" and _same_register(dst, src):
        result = "0"
    elif ins.mnemonic == "or" and isinstance(dst, Reg) and isinstance(src, Imm) and src.value == -1:
        result = "-1"
    elif ins.mnemonic == "and" and isinstance(dst, Reg) and isinstance(src, Imm) and src.value == 0:
        result = "0"
    elif _same_register(dst, src):
        result = b.read(dst)
    else:
        left, right = b.read(dst), b.read(src)
        result = b.op(operator, w, left, right)
    if ins.mnemonic != "test":
        b.write(dst, result)
    b.set_flags(FlagSource("logic", w, "", "", result))


@lifts("not")
def invert(b: Builder, ins: Instruction) -> None:
    """NOT: no flags."""
    (dst,) = ins.operands
    b.write(dst, b.op("xor", width_of(dst), b.read(dst), "-1"))


@lifts("imul")
def imul(b: Builder, ins: Instruction) -> None:
    """IMUL with one, two or three operands: CF = OF = the product does not fit; the rest is undefined."""
    if len(ins.operands) == 1:
        _wide_multiply(b, ins, signed=True)
        return
    dst, *sources = ins.operands
    w = width_of(dst)
    left, right = (b.read(dst), b.read(sources[0])) if len(sources) == 1 else map(b.read, sources)
    result = b.op("mul", w, left, right)
    b.write(dst, result)

    def overflow(b: Builder) -> str:
        product = b.op("mul", 2 * w, b.sext(left, w, 2 * w), b.sext(right, w, 2 * w))
        return b.icmp("ne", 2 * w, product, b.sext(result, w, 2 * w))

    _multiplication_flags(b, w, result, overflow)


@lifts("mul")
def mul(b: Builder, ins: Instruction) -> None:
    """MUL: CF = OF = the upper half is not zero; the rest is undefined."""
    _wide_multiply(b, ins, signed=False)


def _wide_multiply(b: Builder, ins: Instruction, *, signed: bool) -> None:
    (src,) = ins.operands
    w = width_of(src)
    extend = b.sext if signed else b.zext
    left, right = b.read_reg(RAX, w), b.read(src)
    product = b.op("mul", 2 * w, extend(left, w, 2 * w), extend(right, w, 2 * w))
    low = b.trunc(product, 2 * w, w)
    if w == 8:
        b.write_reg(RAX, 16, product)
    else:
        high = b.trunc(b.op("lshr", 2 * w, product, str(w)), 2 * w, w)
        b.write_reg(RAX, w, low)
        b.write_reg(RDX, w, high)

    def overflow(b: Builder) -> str:
        return b.icmp("ne", 2 * w, product, extend(low, w, 2 * w))

    _multiplication_flags(b, w, low, overflow)


@lifts("div", "idiv")
def divide(b: Builder, ins: Instruction) -> None:
    """DIV, IDIV: by the processor's own instruction, which faults as it should and divides numbers of twice the width.
    All flags are undefined."""
    (src,) = ins.operands
    w = width_of(src)
    divisor = b.read(src)
    name = ins.mnemonic
    if w == 8:
        both = b.read_reg(RAX, 16)
        text = f'call i16 asm sideeffect "{name}b $2", "={{ax}},{{ax}},q,~{{flags}}"(i16 {both}, i8 {divisor})'
        b.write_reg(RAX, 16, b.emit(text))
        return
    low, high = {16: ("ax", "dx"), 32: ("eax", "edx"), 64: ("rax", "rdx")}[w]
    constraints = f"={{{low}}},={{{high}}},{{{low}}},{{{high}}},r,~{{flags}}"
    arguments = f"i{w} {b.read_reg(RAX, w)}, i{w} {b.read_reg(RDX, w)}, i{w} {divisor}"
    kind = f"{{i{w}, i{w}}}"
    result = b.emit(f'call {kind} asm sideeffect "{name} $4", "{constraints}"({arguments})')
    b.write_reg(RAX, w, b.emit(f"extractvalue {kind} {result}, 0"))
    b.write_reg(RDX, w, b.emit(f"extractvalue {kind} {result}, 1"))


def _multiplication_flags(b: Builder, width: int, result: str, overflow: Thunk) -> None:
    others = dict.fromkeys((ZF, AF), undefined)
    b.set_flags(FlagSource("other", width, "", "", result, {CF: overflow, OF: overflow, **others}))


@lifts("mulx")
def mulx(b: Builder, ins: Instruction) -> None:
    """MULX: rDX times the source, no flags. Where both destinations are one register, the upper half stays."""
    high, low, src = ins.operands
    w = width_of(src)
    product = b.op("mul", 2 * w, b.zext(b.read_reg(RDX, w), w, 2 * w), b.zext(b.read(src), w, 2 * w))
    b.write(low, b.trunc(product, 2 * w, w))
    b.write(high, b.trunc(b.op("lshr", 2 * w, product, str(w)), 2 * w, w))


@lifts("adcx", "adox")
def add_with_one_flag(b: Builder, ins: Instruction) -> None:
    """ADCX, ADOX: add with carry in CF, or in OF, alone."""
    dst, src = ins.operands
    w = width_of(dst)
    flag = CF if ins.mnemonic == "adcx" else OF
    left, right, carry = b.read(dst), b.read(src), b.flag(flag)
    middle = b.op("add", w, left, right)
    result = b.op("add", w, middle, b.zext(carry, 1, w))
    b.write(dst, result)
    first, second = b.icmp("ult", w, middle, left), b.icmp("ult", w, result, middle)
    b.set_flag(flag, b.op("or", 1, first, second))


@lifts("xadd")
def xadd(b: Builder, ins: Instruction) -> None:
    """XADD: exchange and add. The sum wins where both operands are one register."""
    dst, src = ins.operands
    w = width_of(dst)
    # The address first: the source may be part of it.
    pointer = b.pointer(dst) if isinstance(dst, Mem) else ""
    left, right = b.load_at(pointer, w) if pointer else b.read(dst), b.read(src)
    total = b.op("add", w, left, right)
    b.write(src, left)
    if pointer:
        b.store_at(pointer, w, total)
    else:
        b.write(dst, total)
    b.set_flags(FlagSource("add", w, left, right, total))


@lifts("cmpxchg")
def cmpxchg(b: Builder, ins: Instruction) -> None:
    """CMPXCHG: the flags of comparing the accumulator with the destination; memory is written in either case."""
    dst, src = ins.operands
    w = width_of(dst)
    if w == 32 and isinstance(dst, Reg):
        raise Unliftable("leaves the upper half of its destination alone on some processors only")
    pointer = b.pointer(dst) if isinstance(dst, Mem) else ""
    old, new, expected = b.load_at(pointer, w) if pointer else b.read(dst), b.read(src), b.read_reg(RAX, w)
    equal = b.icmp("eq", w, expected, old)
    result = b.select(equal, w, new, old)
    whole = b.read_reg(RAX, 64)
    if pointer:
        b.store_at(pointer, w, result)
    if w == 32:
        # Where they are equal, nothing is written to the accumulator, not even its upper half.
        b.write_reg(RAX, 64, b.select(equal, 64, whole, b.zext(old, 32, 64)))
    else:
        b.write_reg(RAX, w, old)
    if not pointer:
        b.write(dst, result)
    b.set_flags(FlagSource("sub", w, expected, old, ""))
