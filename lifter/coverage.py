"""How regions hold the instructions of a program: the figures of `probeloom coverage`.

An instruction is *lifted* where LLVM knows what it does. It is *carried exactly* where its own bytes run inside the
region and its row names every register, flag and byte of memory that it reads, writes or leaves undefined, checked on
the processor: vector and floating-point instructions (LLVM promises neither NaN payloads nor rounding modes nor sticky
flags), atomic ones and string instructions. It is *verbatim* where the row is coarser: the x87 unit and the masks of
AVX-512 are one register each, and CPUID or RDTSC depend on more than the state. What is *native* runs in place.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from lifter.graph import Block
from lifter.instruction import Flow, Handling, Imm, Instruction, Mem, Operand, Reg
from lifter.liftability import translation
from lifter.registers import OPMASKS, RSP, X87
from lifter.x86.rows_system import VARYING

EXACT_FEATURES: Final = frozenset((
    "", "pni", "ssse3", "sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "cx16", "popcnt", "bmi1", "bmi2", "abm",
    "movbe", "adx",
))  # fmt: skip
"""CPU features whose rows count as exact: those that compilers use. AES, SHA, AVX-512 and the like are verbatim."""


class Holding(enum.Enum):
    """How a region holds an instruction."""

    LIFTED = "lifted"
    CARRIED = "carried exactly"
    VERBATIM = "verbatim"
    NATIVE = "native"
    """It runs in place for another reason than those below."""
    CALL = "call"
    SYSCALL = "system call"
    INDIRECT_JUMP = "indirect jump"
    TRAP = "trap"
    """`ud2`, `hlt`, `int3`: mostly where control never comes; the signal is to name their own address."""


BY_DESIGN: Final = (Holding.CALL, Holding.SYSCALL, Holding.INDIRECT_JUMP, Holding.TRAP)
"""What runs in place because that is how the engine works."""
_BY_FLOW: Final = {
    Flow.CALL: Holding.CALL, Flow.CALL_INDIRECT: Holding.CALL, Flow.SYSCALL: Holding.SYSCALL,
    Flow.JUMP_INDIRECT: Holding.INDIRECT_JUMP, Flow.HALT: Holding.TRAP, Flow.JUMP: Holding.LIFTED,
    Flow.BRANCH: Holding.LIFTED, Flow.RETURN: Holding.LIFTED,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of instruction, as far as figures tell kinds apart."""

    holding: Holding
    text: str
    """Mnemonic and operands without their values: `add r64, m64`."""
    reason: str
    """Why it is native; '' otherwise."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How many instructions of each form; or how often they were executed."""

    forms: Counter[Form] = field(default_factory=Counter)

    def __getitem__(self, holding: Holding) -> int:
        return sum(count for form, count in self.forms.items() if form.holding is holding)

    @property
    def instructions(self) -> int:
        """All of them."""
        return self.forms.total()

    @property
    def by_design(self) -> int:
        """Calls, system calls, indirect jumps and traps."""
        return sum(self[holding] for holding in BY_DESIGN)

    @property
    def holdable(self) -> int:
        """What regions could hold: all but those."""
        return self.instructions - self.by_design

    def most_frequent(self, holdings: Iterable[Holding], count: int) -> list[tuple[Form, int]]:
        """The most frequent forms that are held in one of these ways."""
        wanted = frozenset(holdings)
        return Counter({form: n for form, n in self.forms.items() if form.holding in wanted}).most_common(count)


_known: dict[bytes, Form] = {}


def form_of(instruction: Instruction) -> Form:
    """The form of an instruction, worked out once for each distinct encoding."""
    found = _known.get(instruction.code)
    if found is None:
        holding, reason = _holding(instruction)
        found = _known[instruction.code] = Form(holding, _shape(instruction), reason)
    return found


def _holding(instruction: Instruction) -> tuple[Holding, str]:
    by_flow = _BY_FLOW.get(instruction.flow)
    if by_flow is Holding.LIFTED and instruction.handling is Handling.NATIVE:
        by_flow = Holding.NATIVE
    if by_flow is not None:
        return by_flow, "" if by_flow is Holding.LIFTED else instruction.reason
    how = translation(instruction)
    if how.handling is Handling.NATIVE:
        return Holding.NATIVE, how.reason
    if how.handling is Handling.LIFTED:
        return Holding.LIFTED, ""
    return (Holding.CARRIED if is_exact(instruction) else Holding.VERBATIM), ""


def is_exact(instruction: Instruction) -> bool:
    """Whether the row of a carried instruction names all that it does, to the register and the byte."""
    effects = instruction.effects
    if effects.feature not in EXACT_FEATURES or instruction.mnemonic in VARYING:
        return False
    if (effects.reads | effects.writes) & (X87 | OPMASKS):
        return False
    return bool(instruction.rep) or all(access.size for access in effects.memory)


def _shape(instruction: Instruction) -> str:
    operands = ", ".join(filter(None, map(_operand, instruction.operands)))
    prefixes = ("lock " if instruction.lock else "") + (f"{instruction.rep} " if instruction.rep else "")
    return f"{prefixes}{instruction.mnemonic} {operands}".rstrip()


def _operand(operand: Operand) -> str:
    if isinstance(operand, Reg):
        return "rsp" if operand.index == RSP and operand.width == 64 else f"r{operand.width}"
    if isinstance(operand, Mem):
        return "vm" if operand.vsib else f"m{operand.width or ''}"
    return "imm" if isinstance(operand, Imm) else operand.kind


def count_blocks(blocks: Iterable[Block]) -> Figures:
    """Figures of the instructions of blocks."""
    return add_up((instruction, 1) for block in blocks for instruction in block.instructions)


def add_up(counted: Iterable[tuple[Instruction, int]]) -> Figures:
    """Figures of instructions, each with how often it counts."""
    # By their bytes first: there are few distinct ones, and looking up a form is not cheap.
    counts: Counter[bytes] = Counter()
    known: dict[bytes, Instruction] = {}
    for instruction, count in counted:
        counts[instruction.code] += count
        known[instruction.code] = instruction
    figures = Figures()
    for code, count in counts.items():
        figures.forms[form_of(known[code])] += count
    return figures
