"""Rows of the integer instructions: data movement, arithmetic, logic, shifts, bits."""

from __future__ import annotations

from functools import partial
from typing import Final

from lifter.instruction import Handling, Imm, Mem, Reg
from lifter.registers import ARITHMETIC_FLAGS, CF, OF
from lifter.x86.rows import Draft, row, section

lifted = partial(row, handling=Handling.LIFTED)

ARITHMETIC: Final = "cf pf af zf sf of"

CONDITIONS: Final = {
    "o": "of", "no": "of", "b": "cf", "ae": "cf", "e": "zf", "ne": "zf", "be": "cf zf", "a": "cf zf",
    "s": "sf", "ns": "sf", "p": "pf", "np": "pf", "l": "sf of", "ge": "sf of", "le": "zf sf of",
    "g": "zf sf of",
}  # fmt: skip
"""Condition -> the flags that it reads."""


def _same_registers(draft: Draft) -> bool:
    """Whether source and destination are one whole register."""
    first, second = draft.form.operands
    return first == second and isinstance(first, Reg) and first.width >= 32


def zeroing(draft: Draft) -> None:
    """`xor a, a` and `sub a, a` do not depend on a."""
    if _same_registers(draft):
        draft.reads = 0


def borrowing(draft: Draft) -> None:
    """`sbb a, a` depends on nothing but the carry."""
    if _same_registers(draft):
        draft.reads = CF


def setting(draft: Draft) -> None:
    """`or a, -1` and `and a, 0` do not depend on a: how gcc -Os loads these constants."""
    destination, source = draft.form.operands
    constant = -1 if draft.form.mnemonic == "or" else 0
    if isinstance(destination, Reg) and destination.width >= 32 and source == Imm(constant, destination.width):
        draft.reads = 0


def shift_count(draft: Draft) -> None:
    """A shift by nothing leaves the flags alone; OF is defined for a shift by one only."""
    destination, count = draft.form.operands[0], draft.form.operands[-1]
    assert isinstance(destination, Reg | Mem)
    if not isinstance(count, Imm):
        draft.flags_may_change()
        return
    value = count.value & (63 if destination.width == 64 else 31)
    if value == 0:
        draft.flags_unchanged()
        return
    if value == 1:
        draft.undefined &= ~OF
    if value > destination.width and draft.form.mnemonic in ("shl", "shr"):
        draft.undefined |= CF


def double_shift_count(draft: Draft) -> None:
    """As `shift_count`; a 16-bit double shift by more than 16 leaves all of its result undefined."""
    shift_count(draft)
    destination, count = draft.form.operands[0], draft.form.operands[-1]
    assert isinstance(destination, Reg | Mem)
    if destination.width == 16 and not (isinstance(count, Imm) and count.value & 31 <= 16):
        draft.undefined |= draft.writes & ARITHMETIC_FLAGS


def bit_index(draft: Draft) -> None:
    """With a register as index into memory, the index is an offset from the operand: any address."""
    first, index = draft.form.operands
    if isinstance(first, Mem) and isinstance(index, Reg):
        access = draft.memory[0]
        draft.memory[0] = type(access)(access.operand, 0, access.read, access.write)


section("Data movement")

lifted("mov", "w:rm,r:ri")
lifted("mov", "w:r,r:m")
row("mov", "w:rm,r:seg")
row("mov", "w:seg,r:rm", handling=Handling.NATIVE, reason="changes a segment register")
row("mov", "w:r,r:cr", handling=Handling.NATIVE, reason="privileged")
row("mov", "w:r,r:dr", handling=Handling.NATIVE, reason="privileged")
row("mov", "w:cr,r:r", handling=Handling.NATIVE, reason="privileged")
row("mov", "w:dr,r:r", handling=Handling.NATIVE, reason="privileged")
# With 16 bits from memory: as many are read, but for what older manuals say.
row("movsxd", "w:r16,r:m16")
lifted("movzx movsx movsxd", "w:r,r:rm")
lifted("movbe", "w:r,r:m=", feature="movbe")
lifted("movbe", "w:m=,r:r", feature="movbe")
row("movnti", "w:m,r:r")
lifted("lea", "w:r,a:m")
lifted("xchg", "rw:r,rw:r")
row("xchg", "rw:m,rw:r")
lifted("bswap", "rw:r")
for _condition, _flags in CONDITIONS.items():
    lifted(f"cmov{_condition}", "rw:r,r:rm", reads=_flags)
    lifted(f"set{_condition}", "w:rm8", reads=_flags)
lifted("cbw", reads="al", writes="ax")
lifted("cwde", reads="ax", writes="eax")
lifted("cdqe", reads="eax", writes="rax")
lifted("cwd", reads="ax", writes="dx")
lifted("cdq", reads="eax", writes="edx")
lifted("cqo", reads="rax", writes="rdx")
# The byte at RBX + AL: no operand can say that, so its place counts as unknown.
lifted("xlatb", reads="rax rbx", writes="al", memory="r:0[rbx]")

section("Arithmetic and logic")

lifted("add", "rw:rm,r:rmi", sets=ARITHMETIC)
lifted("sub", "rw:rm,r:rmi", sets=ARITHMETIC, adjust=zeroing)
lifted("adc", "rw:rm,r:rmi", reads="cf", sets=ARITHMETIC)
lifted("sbb", "rw:rm,r:rmi", reads="cf", sets=ARITHMETIC, adjust=borrowing)
lifted("cmp", "r:rm,r:rmi", sets=ARITHMETIC)
lifted("test", "r:rm,r:ri", sets="cf pf zf sf of", undefined="af")
lifted("and or", "rw:rm,r:rmi", sets="cf pf zf sf of", undefined="af", adjust=setting, needs_immediate=True)
lifted("xor", "rw:rm,r:rmi", sets="cf pf zf sf of", undefined="af", adjust=zeroing)
lifted("inc dec", "rw:rm", sets="pf af zf sf of")
lifted("neg", "rw:rm", sets=ARITHMETIC)
lifted("not", "rw:rm")
lifted("xadd", "rw:rm,rw:r", sets=ARITHMETIC)
lifted("adcx", "rw:r,r:rm", reads="cf", sets="cf", feature="adx")
lifted("adox", "rw:r,r:rm", reads="of", sets="of", feature="adx")

for _size, _low, _high in ((16, "ax", "dx"), (32, "eax", "edx"), (64, "rax", "rdx")):
    _both = f"{_low} {_high}"
    lifted("mul imul", f"r:rm{_size}", reads=_low, writes=_both, sets="cf of", undefined="pf af zf sf")
    lifted("div idiv", f"r:rm{_size}", reads=_both, writes=_both, undefined=ARITHMETIC)
lifted("mul imul", "r:rm8", reads="al", writes="ax", sets="cf of", undefined="pf af zf sf")
lifted("div idiv", "r:rm8", reads="ax", writes="ax", undefined=ARITHMETIC)
lifted("imul", "rw:r,r:rm", sets="cf of", undefined="pf af zf sf")
lifted("imul", "w:r,r:rm,r:i", sets="cf of", undefined="pf af zf sf")
lifted("mulx", "w:r32,w:r,r:rm", reads="edx", feature="bmi2")
lifted("mulx", "w:r64,w:r,r:rm", reads="rdx", feature="bmi2")

section("Shifts and rotates")

shifting = partial(lifted, adjust=shift_count, needs_immediate=True)
shifting("shl shr sar", "rw:rm,r:ri", sets="cf pf zf sf", undefined="af of")
shifting("rol ror", "rw:rm,r:ri", sets="cf", undefined="of")
shifting("rcl rcr", "rw:rm,r:ri", reads="cf", sets="cf", undefined="of")
lifted("shld shrd", "rw:rm,r:r,r:ri", sets="cf pf zf sf", undefined="af of", adjust=double_shift_count,
       needs_immediate=True)  # fmt: skip
lifted("sarx shlx shrx", "w:r,r:rm,r:r", feature="bmi2")
lifted("rorx", "w:r,r:rm,r:i", feature="bmi2")

section("Bits")

lifted("bt", "r:rm,r:ri", sets="cf", undefined="pf af sf of", adjust=bit_index)
lifted("bts btr btc", "rw:rm,r:ri", sets="cf", undefined="pf af sf of", adjust=bit_index)
# The manuals leave the destination undefined for a zero source; every processor keeps it.
lifted("bsf bsr", "m:r,r:rm=", sets="zf", undefined="cf pf af sf of")
lifted("tzcnt", "w:r,r:rm", sets="cf zf", undefined="pf af sf of", feature="bmi1")
lifted("lzcnt", "w:r,r:rm", sets="cf zf", undefined="pf af sf of", feature="abm")
lifted("popcnt", "w:r,r:rm", sets=ARITHMETIC, feature="popcnt")
lifted("andn", "w:r,r:r,r:rm", sets="cf zf sf of", undefined="pf af", feature="bmi1")
lifted("bextr", "w:r,r:rm,r:r", sets="cf zf of", undefined="pf af sf", feature="bmi1")
lifted("blsi blsmsk blsr", "w:r,r:rm", sets="cf zf sf of", undefined="pf af", feature="bmi1")
lifted("bzhi", "w:r,r:rm,r:r", sets="cf zf sf of", undefined="pf af", feature="bmi2")
lifted("pdep pext", "w:r,r:r,r:rm", feature="bmi2")
lifted("crc32", "rw:r,r:rm", feature="sse4_2")
row("bextr", "w:r,r:rm,r:i", sets="cf zf of", undefined="pf af sf", feature="tbm")
row("blcfill blci blcic blcmsk blcs blsfill blsic t1mskc tzmsk", "w:r,r:rm", sets="cf zf sf of",
    undefined="pf af", feature="tbm")  # fmt: skip

section("Compare and exchange")

for _size, _low in ((8, "al"), (16, "ax"), (32, "eax"), (64, "rax")):
    lifted("cmpxchg", f"rw:rm{_size},r:r", reads=_low, writes=f"{_low}?", sets=ARITHMETIC)
row("cmpxchg8b", "rw:m64", reads="rax rbx rcx rdx", writes="rax? rdx?", sets="zf")
row("cmpxchg16b", "rw:m128", reads="rax rbx rcx rdx", writes="rax? rdx?", sets="zf", feature="cx16")

section("Flags")

lifted("lahf", reads="cf pf af zf sf", writes="ah")
lifted("sahf", reads="ah", sets="cf pf af zf sf")
lifted("clc stc", sets="cf")
lifted("cmc", reads="cf", sets="cf")
row("cld std", sets="df")
