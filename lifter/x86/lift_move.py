"""Moves, extensions, conditional moves and sets, stack moves (SDM volume 2)."""

from __future__ import annotations

from lifter.builder import Builder
from lifter.flags import NEGATED
from lifter.instruction import Imm, Instruction, Mem, Reg
from lifter.registers import AF, ARITHMETIC_FLAGS, CF, PF, RAX, RBP, RDX, RSP, SF, ZF
from lifter.x86.emit import Unliftable, lifts

_CONDITIONS = (*NEGATED, *NEGATED.values())


@lifts("mov")
def mov(b: Builder, ins: Instruction) -> None:
    """MOV."""
    dst, src = ins.operands
    b.write(dst, b.read(src))


@lifts("movzx")
def movzx(b: Builder, ins: Instruction) -> None:
    """MOVZX."""
    dst, src = ins.operands
    assert isinstance(dst, Reg) and isinstance(src, Reg | Mem)
    b.write(dst, b.zext(b.read(src), src.width, dst.width))


@lifts("movsx", "movsxd")
def movsx(b: Builder, ins: Instruction) -> None:
    """MOVSX, MOVSXD. With a 16-bit operand size MOVSXD is a move of the low half."""
    dst, src = ins.operands
    assert isinstance(dst, Reg) and isinstance(src, Reg | Mem)
    value = b.read(src)
    narrows = src.width > dst.width
    b.write(dst, b.trunc(value, src.width, dst.width) if narrows else b.sext(value, src.width, dst.width))


@lifts("lea")
def lea(b: Builder, ins: Instruction) -> None:
    """LEA. From RSP to RSP it adds a constant."""
    dst, src = ins.operands
    assert isinstance(dst, Reg) and isinstance(src, Mem)
    if dst == Reg(RSP, 64) and src.base == RSP and src.index is None:
        b.move_rsp(src.disp)
        return
    b.write(dst, b.trunc(b.effective_address(src), 64, dst.width))


@lifts("xchg")
def xchg(b: Builder, ins: Instruction) -> None:
    """XCHG between registers; with memory it is atomic and carried verbatim."""
    left, right = ins.operands
    if isinstance(left, Mem) or isinstance(right, Mem):
        raise Unliftable("exchanges with memory atomically")
    first, second = b.read(left), b.read(right)
    b.write(left, second)
    b.write(right, first)


@lifts("push")
def push(b: Builder, ins: Instruction) -> None:
    """PUSH. The operand is read before RSP moves."""
    (src,) = ins.operands
    b.push(ins.width or 64, b.read(src))


@lifts("pop")
def pop(b: Builder, ins: Instruction) -> None:
    """POP. A memory operand based on RSP uses RSP after it moved."""
    (dst,) = ins.operands
    b.write(dst, b.pop(ins.width or 64))


@lifts("pushf")
def pushf(b: Builder, ins: Instruction) -> None:
    """PUSHF."""
    b.push(64, b.rflags(ARITHMETIC_FLAGS))


@lifts("popf")
def popf(b: Builder, ins: Instruction) -> None:
    """POPF: the bits that are no arithmetic flags (direction, alignment check) are the machine's own."""
    word = b.pop(64)
    b.needs_stack = True
    b.line(f'call void asm sideeffect "pushq $0;popfq", "r,~{{memory}},~{{flags}}"(i64 {word})')
    b.flags_from_word(word, ARITHMETIC_FLAGS)


@lifts("enter")
def enter(b: Builder, ins: Instruction) -> None:
    """ENTER: push RBP, the frame pointers of enclosing frames, and the new one, which RBP becomes.

    It ends with an access to where RSP then points, as if to write, which changes nothing.
    """
    size, nesting = ins.operands
    assert isinstance(size, Imm) and isinstance(nesting, Imm)
    level = nesting.value % 32
    outer = b.read_reg(RBP, 64)
    b.push(64, outer)
    frame = b.read_reg(RSP, 64)
    for above in range(1, level):
        b.push(64, b.load_at("ptr " + b.emit(f"inttoptr i64 {b.op('sub', 64, outer, str(8 * above))} to ptr"), 64))
    if level:
        b.push(64, frame)
    b.write_reg(RBP, 64, frame)
    b.move_rsp(-size.value)
    if size.value:
        place = b.stack_pointer_address()
        b.line(f'call void asm sideeffect "lock;orq $$0, ($0)", "r,~{{memory}},~{{flags}}"({place})')


@lifts("leave")
def leave(b: Builder, ins: Instruction) -> None:
    """LEAVE: RSP = RBP, pop RBP."""
    b.set_rsp(b.read_reg(RBP, 64))
    b.write_reg(RBP, 64, b.pop(64))


@lifts(*(f"cmov{condition}" for condition in _CONDITIONS))
def cmov(b: Builder, ins: Instruction) -> None:
    """CMOVcc. The source is read, and a 32-bit destination's upper half zeroed, whatever the condition."""
    dst, src = ins.operands
    assert isinstance(dst, Reg)
    value = b.read(src)
    b.write(dst, b.select(b.condition(ins.mnemonic[4:]), dst.width, value, b.read(dst)))


@lifts(*(f"set{condition}" for condition in _CONDITIONS))
def setcc(b: Builder, ins: Instruction) -> None:
    """SETcc."""
    (dst,) = ins.operands
    b.write(dst, b.zext(b.condition(ins.mnemonic[3:]), 1, 8))


@lifts("cbw", "cwde", "cdqe")
def extend_accumulator(b: Builder, ins: Instruction) -> None:
    """CBW, CWDE, CDQE: sign-extend the lower half of the accumulator."""
    width = {"cbw": 16, "cwde": 32, "cdqe": 64}[ins.mnemonic]
    b.write_reg(RAX, width, b.sext(b.read_reg(RAX, width // 2), width // 2, width))


@lifts("cwd", "cdq", "cqo")
def spread_sign(b: Builder, ins: Instruction) -> None:
    """CWD, CDQ, CQO: fill rDX with the sign of rAX."""
    width = {"cwd": 16, "cdq": 32, "cqo": 64}[ins.mnemonic]
    b.write_reg(RDX, width, b.op("ashr", width, b.read_reg(RAX, width), str(width - 1)))


@lifts("bswap")
def bswap(b: Builder, ins: Instruction) -> None:
    """BSWAP of 32 or 64 bits (undefined for 16)."""
    (dst,) = ins.operands
    assert isinstance(dst, Reg)
    if dst.width == 16:
        raise Unliftable("bswap of 16 bits is undefined")
    b.write(dst, b.call_unary("bswap", dst.width, b.read(dst)))


@lifts("movbe")
def movbe(b: Builder, ins: Instruction) -> None:
    """MOVBE: move with the bytes swapped."""
    dst, src = ins.operands
    assert isinstance(dst, Reg | Mem)
    b.write(dst, b.call_unary("bswap", dst.width, b.read(src)))


@lifts("xlatb")
def xlatb(b: Builder, ins: Instruction) -> None:
    """XLATB: AL = the byte at RBX + AL. With a segment or 32-bit addresses it is carried verbatim."""
    table = ins.effects.memory[0].operand
    if table.segment or table.address_width != 64:
        raise Unliftable("looks up a table in a segment or below 4 GiB")
    index = b.zext(b.read_reg(RAX, 8), 8, 64)
    pointer = b.emit(f"getelementptr i8, {b.pointer(table)}, i64 {index}")
    b.write_reg(RAX, 8, b.load_at(f"ptr {pointer}", 8))


@lifts("nop", "endbr64", "endbr32")
def nop(b: Builder, ins: Instruction) -> None:
    """NOP of any length, ENDBR64: nothing."""


@lifts("lahf")
def lahf(b: Builder, ins: Instruction) -> None:
    """LAHF: SF ZF 0 AF 0 PF 1 CF into AH."""
    word = b.flags_word(CF | PF | AF | ZF | SF)
    b.write_reg(RAX, 8, b.trunc(b.op("or", 64, word, "2"), 64, 8), high=True)


@lifts("sahf")
def sahf(b: Builder, ins: Instruction) -> None:
    """SAHF: the same flags from AH; OF stays."""
    b.flags_from_word(b.zext(b.read_reg(RAX, 8, high=True), 8, 64), CF | PF | AF | ZF | SF)


@lifts("clc")
def clc(b: Builder, ins: Instruction) -> None:
    """CLC."""
    b.set_flag(CF, "false")


@lifts("stc")
def stc(b: Builder, ins: Instruction) -> None:
    """STC."""
    b.set_flag(CF, "true")


@lifts("cmc")
def cmc(b: Builder, ins: Instruction) -> None:
    """CMC."""
    b.set_flag(CF, b.op("xor", 1, b.flag(CF), "true"))
