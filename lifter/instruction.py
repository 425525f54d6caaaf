"""A decoded instruction, without its address: decoding is memoised by bytes.

These types are all that the rest of the project knows of an instruction; capstone stops at `lifter.decode`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Flow(enum.Enum):
    """How control leaves an instruction."""

    NEXT = "next"
    JUMP = "jump"
    """Unconditional direct jump."""
    BRANCH = "branch"
    """Conditional direct jump: jcc, loop, loope, loopne, jrcxz, jecxz, xbegin."""
    CALL = "call"
    """Direct call."""
    JUMP_INDIRECT = "jump-indirect"
    CALL_INDIRECT = "call-indirect"
    RETURN = "return"
    """Near return, with or without an immediate."""
    SYSCALL = "syscall"
    """syscall, sysenter, int n: the kernel runs, then the next instruction (perhaps never, or twice)."""
    HALT = "halt"
    """ud2, hlt, int3 and the like: nothing is known to follow."""


class Handling(enum.Enum):
    """What the lifter does with an instruction form."""

    LIFTED = "lifted"
    """Has semantics in LLVM IR."""
    VERBATIM = "verbatim"
    """Carried as its own bytes inside inline assembly, its general-purpose registers pinned."""
    NATIVE = "native"
    """Runs where it always was; ends a region."""


@dataclass(frozen=True, slots=True)
class Reg:
    """A general-purpose register operand, whole or in part."""

    index: int
    """0..15, hardware order."""
    width: int
    """In bits: 8, 16, 32 or 64."""
    high: bool = False
    """True for ah, ch, dh, bh (then `index` is 0..3)."""


@dataclass(frozen=True, slots=True)
class Imm:
    """An immediate operand. Targets of direct branches are not operands: see `Instruction.target`."""

    value: int
    """Sign-extended as the instruction does it, as a signed Python integer."""
    width: int
    """Width in bits of the operation that it takes part in."""


@dataclass(frozen=True, slots=True)
class Mem:
    """A memory operand."""

    base: int | None
    """Register index, or None."""
    index: int | None
    """Register index, or None. For VSIB, the vector register's number and `vsib` is set."""
    scale: int
    disp: int
    """Signed. For `rip`-relative operands, relative to the end of the instruction."""
    width: int
    """Width in bits of what is accessed; 0 where nothing is (lea, nop, prefetch) or the size varies."""
    segment: str = ""
    """'fs', 'gs' or '' (the others have base 0 in long mode)."""
    rip: bool = False
    address_width: int = 64
    """32 with an address-size prefix: the address is then truncated to 32 bits."""
    vsib: bool = False


@dataclass(frozen=True, slots=True)
class Vec:
    """A vector, x87, MMX, mask, segment, control or other register that regions never hold: ambient."""

    kind: str
    """'xmm', 'ymm', 'zmm', 'mm', 'st', 'k', 'seg', 'cr', 'dr', 'bnd'."""
    index: int


Operand = Reg | Imm | Mem | Vec


@dataclass(frozen=True, slots=True)
class MemoryAccess:
    """One memory access that an instruction makes."""

    operand: Mem
    """Explicit, or the implicit one (push, movs, ...) written out as an operand."""
    size: int
    """In bytes; 0 where it varies (xsave, rep string instructions as a whole: per element then)."""
    read: bool
    write: bool


@dataclass(frozen=True, slots=True)
class Effects:
    """What an instruction form does to the state: masks as in `lifter.registers`."""

    reads: int
    """Registers and flags whose former value can matter, address registers and partly written ones too."""
    writes: int
    """Registers and flags that it may change."""
    kills: int
    """Registers and flags that it always overwrites wholly (a subset of `writes`); undefined flags too."""
    undefined: int = 0
    """Flags left undefined by the manual (a subset of `kills` or of `writes`)."""
    memory: tuple[MemoryAccess, ...] = ()
    feature: str = ""
    """CPU feature beyond the x86-64 baseline, as /proc/cpuinfo spells it; '' for the baseline."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction."""

    code: bytes
    mnemonic: str
    """Intel mnemonic without prefixes, lower case, one name per operation: 'je', never 'jz'; 'movsd' is the
    SSE move, the string instruction is 'movsd_string' (likewise cmpsd_string)."""
    operands: tuple[Operand, ...]
    """Explicit operands in Intel order, destination first. Direct branch targets are left out."""
    flow: Flow
    handling: Handling
    effects: Effects
    target: int | None = None
    """For direct branches: displacement from the *end* of the instruction, signed."""
    lock: bool = False
    rep: str = ""
    """'rep', 'repne' where the prefix repeats a string instruction, else ''."""
    width: int = 0
    """Operand size in bits where the mnemonic has one (string instructions, push, cwd family): 8..64; else 0."""
    reason: str = ""
    """Why the handling is NATIVE."""
    modrm_at: int = -1
    """Offset of the ModRM byte in `code`, -1 without one."""
    disp_at: int = -1
    """Offset of the displacement in `code`, -1 without one."""
    disp_size: int = 0
    """In bytes: 0, 1, 4 (or 8 for moffs)."""
    imm_size: int = field(default=0)
    """Bytes of immediate at the end of `code`."""
    text: str = ""
    """Intel syntax, for people; branch targets shown relative."""
    resets_stack: bool = False
    """Whether it sets RSP to what is neither RSP nor RBP plus a constant: the last of its block, since a region
    must not write memory after it."""

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.code)

    @property
    def memory_operand(self) -> Mem | None:
        """The explicit memory operand, if there is one (x86 has at most one)."""
        for operand in self.operands:
            if isinstance(operand, Mem):
                return operand
        return None


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Bytes that are no instruction as far as the decoder knows."""

    code: bytes
    reason: str
