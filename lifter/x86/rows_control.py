"""Rows of the instructions that move the stack pointer or control, of hints and fences."""

from __future__ import annotations

from lifter.instruction import Handling, Imm, MemoryAccess, Reg
from lifter.registers import RSP, gpr
from lifter.x86.rows import Draft, row, section
from lifter.x86.rows_integer import ARITHMETIC, CONDITIONS, lifted

NATIVE = Handling.NATIVE


def sixty_four(draft: Draft) -> None:
    """With an operand-size prefix the instruction moves two bytes; nothing but a test suite does that."""
    if draft.form.width == 16:
        draft.reads |= draft.kills & ~gpr(RSP)
        draft.kills &= gpr(RSP)
        draft.native("16-bit stack access")


def popping(draft: Draft) -> None:
    """`pop rsp` loads the stack pointer: the former value of RSP is only the address."""
    sixty_four(draft)
    if draft.form.operands == (Reg(RSP, 64),):
        draft.kills |= gpr(RSP)


def entering(draft: Draft) -> None:
    """With a nesting level, `enter` copies frame pointers from below RBP, and pushes as many."""
    sixty_four(draft)
    pushed, copied = draft.memory
    level = draft.form.operands[1]
    assert isinstance(level, Imm)
    if level.value % 32:
        draft.memory[0] = MemoryAccess(pushed.operand, 0, pushed.read, pushed.write)
    else:
        draft.memory.remove(copied)


section("Stack")

lifted("push", "r:rmi", reads="rsp", writes="rsp", memory="w:w[rsp-w]", adjust=sixty_four)
row("push", "r:seg", reads="rsp", writes="rsp", memory="w:w[rsp-w]", handling=NATIVE,
    reason="segment register")  # fmt: skip
# The address of a memory operand that uses RSP is computed after RSP has moved.
lifted("pop", "w:rm", reads="rsp", writes="rsp", memory="r:w[rsp]", adjust=popping)
row("pop", "w:seg", reads="rsp", writes="rsp", memory="r:w[rsp]", handling=NATIVE,
    reason="segment register")  # fmt: skip
lifted("leave", reads="rbp", writes="rsp rbp", memory="r:w[rbp]", adjust=sixty_four)
lifted("enter", "r:i,r:i", reads="rbp rsp", writes="rsp rbp", memory="w:w[rsp-w] r:0[rbp]", adjust=entering,
       needs_immediate=True)  # fmt: skip
lifted("pushf", reads=f"rsp df {ARITHMETIC}", writes="rsp", memory="w:w[rsp-w]", adjust=sixty_four)
lifted("popf", reads="rsp", writes="rsp", sets=f"df {ARITHMETIC}", memory="r:w[rsp]", adjust=sixty_four)

section("Flow of control")

lifted("jmp")
row("jmp", "r:rm", handling=NATIVE, reason="indirect jump")
for _condition, _flags in CONDITIONS.items():
    lifted(f"j{_condition}", reads=_flags)
lifted("jrcxz", reads="rcx")
lifted("jecxz", reads="ecx")
lifted("loop", reads="rcx", writes="rcx")
lifted("loope loopne", reads="rcx zf", writes="rcx")
row("call", reads="rsp", writes="rsp", memory="w:8[rsp-8]", handling=NATIVE, reason="call")
row("call", "r:rm", reads="rsp", writes="rsp", memory="w:8[rsp-8]", handling=NATIVE, reason="indirect call")
lifted("ret", reads="rsp", writes="rsp", memory="r:8[rsp]")
lifted("ret", "r:i", reads="rsp", writes="rsp", memory="r:8[rsp]")
# R11 also takes the flags, but the kernel's interface calls it destroyed: nobody reads flags there.
row("syscall", reads="rax rdi rsi rdx r10 r8 r9 rsp", writes="rax rcx r11", handling=NATIVE,
    reason="system call")  # fmt: skip

section("Hints and fences")

lifted("nop endbr64 endbr32")
lifted("nop", "-:rm")
lifted("nop", "-:rm,-:r")
row("pause")
row("prefetch prefetchw prefetchwt1 prefetcht0 prefetcht1 prefetcht2 prefetchnta cldemote", "a:m")
row("lfence mfence sfence")
row("serialize", feature="serialize")
row("clflush", "r:m8", feature="clflush")
row("clflushopt", "r:m8", feature="clflushopt")
row("clwb", "r:m8", feature="clwb")
