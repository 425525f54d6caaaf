"""The instruction table: one row per mnemonic and operand shape, and what a row means for a decoded form.

A row says for each explicit operand how it is accessed, and names everything implicit. `resolve` finds the
row of a form and works out registers, flags, memory and handling. A form without a row is native and is
assumed to read and change everything: never wrong, only slow. The rows themselves are in the `rows_*`
modules; `lifter.x86.table` loads them all.

The notation:

    row("add sub", "rw:rm,r", sets="cf pf af zf sf of")
    row("mul", "r:rm8", reads="al", writes="ax", sets="cf of", undefined="pf af zf sf")
    row("push", "r:rm", reads="rsp", writes="rsp", memory="w:w[rsp-w]")

An operand is `access` or `access:kind`. Access: `r` read, `w` wholly written, `rw` both, `m` may be written
(else it keeps its value), `a` only its address is computed, `-` not looked at. Kind: one of `r`
(general-purpose), `m` (memory), `i` (immediate), `x y z` (xmm, ymm, zmm), `v` (any of these), `mm`, `k`, `st`,
`seg`, `cr`, `dr`, `bnd`, or several of them as `rm`, `ri`, `rmi`, `xm`, `vm`, `mmm`, `km`; then a width in bits:
`r16` and `rm16` fit that width only, while `m64` or `xm64` give the memory operand that width, `vm/2` half that
of the widest vector operand, and `rm=` that of the register operand (where the disassembler is wrong about it).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from lifter import registers
from lifter.instruction import Effects, Handling, Imm, Mem, MemoryAccess, Operand, Reg, Vec
from lifter.registers import AMBIENT, ARITHMETIC_FLAGS, GPR_NAMES, GPRS, MXCSR, OPMASKS, RBP, RSP, X87
from lifter.x86.layout import Layout

EVERYTHING: Final = GPRS | ARITHMETIC_FLAGS | AMBIENT


@dataclass(frozen=True, slots=True)
class Form:
    """A decoded instruction before the table has been asked."""

    mnemonic: str
    operands: tuple[Operand, ...]
    width: int
    lock: bool
    rep: str
    layout: Layout

    @property
    def address_width(self) -> int:
        """64, or 32 with an address-size prefix."""
        return 32 if 0x67 in self.layout.prefixes else 64


@dataclass(slots=True)
class Draft:
    """Effects while they are worked out: what a row's `adjust` may change."""

    form: Form
    handling: Handling
    reason: str
    reads: int = 0
    writes: int = 0
    kills: int = 0
    undefined: int = 0
    memory: list[MemoryAccess] = field(default_factory=list)
    resets_stack: bool = False
    """Whether RSP becomes what is neither RSP nor RBP plus a constant."""

    def native(self, reason: str) -> None:
        """Make the form native, unless it already is for another reason."""
        if self.handling is not Handling.NATIVE:
            self.handling, self.reason = Handling.NATIVE, reason

    def flags_may_change(self) -> None:
        """Turn 'sets these flags' into 'may set these flags'."""
        self.kills &= ~ARITHMETIC_FLAGS

    def flags_unchanged(self) -> None:
        """The flags are not written after all."""
        self.writes &= ~ARITHMETIC_FLAGS
        self.kills &= ~ARITHMETIC_FLAGS
        self.undefined = 0


Adjust = Callable[[Draft], None]


@dataclass(frozen=True, slots=True)
class Access:
    """How a row accesses one operand, and which operands it fits."""

    mode: str
    """'r', 'w', 'rw', 'm', 'a' or '-'."""
    kinds: frozenset[str]
    """Kinds that fit; empty for any."""
    width: int = 0
    """Of a register that fits, or given to a memory operand; 0 where the row does not say."""
    fraction: int = 0
    """Memory has this fraction of the widest vector operand's width; 0 where the row does not say."""
    equal: bool = False
    """Memory has the width of the register operand."""

    def fits(self, operand: Operand) -> bool:
        """Whether `operand` is of this kind and width."""
        if not self.kinds:
            return True
        if isinstance(operand, Reg):
            return "r" in self.kinds and self.width in (0, operand.width)
        if isinstance(operand, Mem):
            return "m" in self.kinds and ("r" not in self.kinds or self.width in (0, operand.width))
        return ("i" if isinstance(operand, Imm) else operand.kind) in self.kinds


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    mnemonic: str
    shape: str
    """The operands as they stand in the table."""
    accesses: tuple[Access, ...]
    handling: Handling
    reason: str
    reads: int
    """Implicit registers and flags read."""
    writes: int
    kills: int
    undefined: int
    memory: tuple[tuple[str, str, int, str], ...]
    """Implicit accesses: (mode, size, base register, offset); 'w' stands for the form's width in bytes."""
    feature: str
    """As in `Effects`, or three: of the 128-bit, the 256-bit and the EVEX encoding."""
    adjust: Adjust | None
    needs_immediate: bool
    encodings: frozenset[str]
    """'' legacy, 'vex', 'evex', 'xop'; empty for any."""
    section: str
    """What the rows around it are about, for docs/instructions.md."""

    def fits(self, form: Form) -> bool:
        """Whether this row describes `form`."""
        if len(self.accesses) != len(form.operands):
            return False
        if self.encodings and form.layout.encoding not in self.encodings:
            return False
        return all(access.fits(operand) for access, operand in zip(self.accesses, form.operands, strict=True))


TABLE: Final[dict[str, list[Row]]] = {}
"""Mnemonic -> its rows; the first that fits counts."""

_VECTOR_BITS: Final = {"xmm": 128, "ymm": 256, "zmm": 512}
_KINDS: Final[dict[str, frozenset[str]]] = {
    "r": frozenset("r"), "m": frozenset("m"), "i": frozenset("i"), "rm": frozenset("rm"),
    "ri": frozenset("ri"), "rmi": frozenset("rmi"), "mm": frozenset(["mm"]), "mmm": frozenset(["mm", "m"]),
    "x": frozenset(["xmm"]), "y": frozenset(["ymm"]), "z": frozenset(["zmm"]),
    "v": frozenset(["xmm", "ymm", "zmm"]), "xm": frozenset(["xmm", "m"]), "ym": frozenset(["ymm", "m"]),
    "zm": frozenset(["zmm", "m"]), "vm": frozenset(["xmm", "ymm", "zmm", "m"]),
    "xi": frozenset(["xmm", "i"]), "mmi": frozenset(["mm", "i"]),
    "k": frozenset("k"), "km": frozenset("km"), "st": frozenset(["st"]), "seg": frozenset(["seg"]),
    "cr": frozenset(["cr"]), "dr": frozenset(["dr"]), "bnd": frozenset(["bnd"]),
    "bndm": frozenset(["bnd", "m"]),
}  # fmt: skip
_ACCESS: Final = re.compile(r"(rw|[rwma-])(?::([a-z]+)(\d*)(?:/(\d+))?(=)?)?")
_MEMORY: Final = re.compile(r"(rw|r|w):(\d+|w)\[(\w+)(?:-(\w+))?\]")


_section: Final = [""]


def section(title: str) -> None:
    """Say what the rows that follow are about."""
    _section[0] = title


def row(
    mnemonics: str,
    shape: str = "",
    *,
    reads: str = "",
    writes: str = "",
    sets: str = "",
    undefined: str = "",
    memory: str = "",
    feature: str = "",
    handling: Handling = Handling.VERBATIM,
    reason: str = "",
    adjust: Adjust | None = None,
    needs_immediate: bool = False,
    encodings: str = "",
) -> None:
    """Add one row for each of `mnemonics`.

    `reads` and `writes` name implicit registers and flags (a part of a register by its own name: 'al', 'eax';
    with '?' it may be written), `sets` the flags that get a defined value, `undefined` those that get any.
    """
    accesses = tuple(_parse_access(part) for part in shape.split(",")) if shape else ()
    write_mask = kill_mask = 0
    read_mask = 0
    for word in reads.split():
        read_mask |= _mask(word)[0]
    for word in writes.split():
        mask, whole = _mask(word.rstrip("?"))
        write_mask |= mask
        if whole and not word.endswith("?"):
            kill_mask |= mask
        else:
            read_mask |= mask & GPRS
    flags = 0
    for word in sets.split():
        flags |= _mask(word)[0]
    unknown = 0
    for word in undefined.split():
        unknown |= _mask(word)[0]
    implicit = []
    for word in memory.split():
        match = _MEMORY.fullmatch(word)
        if match is None:
            raise ValueError(f"memory access not understood: {word}")
        implicit.append((match[1], match[2], GPR_NAMES.index(match[3]), match[4] or "0"))
    for mnemonic in mnemonics.split():
        added = Row(
            mnemonic, shape, accesses, handling, reason, read_mask, write_mask | flags | unknown,
            kill_mask | flags | unknown, unknown, tuple(implicit), feature, adjust, needs_immediate,
            frozenset("" if word == "legacy" else word for word in encodings.split()), _section[0],
        )  # fmt: skip
        TABLE.setdefault(mnemonic, []).append(added)


def _parse_access(text: str) -> Access:
    match = _ACCESS.fullmatch(text.strip())
    if match is None or (match[2] and match[2] not in _KINDS):
        raise ValueError(f"operand not understood: {text}")
    kinds = _KINDS[match[2]] if match[2] else frozenset[str]()
    return Access(match[1], kinds, int(match[3] or 0), int(match[4] or 0), bool(match[5]))


_PARTS: Final = re.compile(r"(?:([er])?([abcd])x|([abcd])[lh]|([er])?(sp|bp|si|di))")
_OTHERS: Final = {"x87": X87, "mxcsr": MXCSR, "k": OPMASKS, "vectors": registers.VECTORS, "gprs": GPRS}


def _mask(word: str) -> tuple[int, bool]:
    """Mask of a register or flag by name, and whether naming it means all of it."""
    if word in registers.FLAG_NAMES:
        return 1 << (16 + registers.FLAG_NAMES.index(word)), True
    if word in _OTHERS:
        return _OTHERS[word], False
    if word.startswith("xmm"):
        return registers.vector(int(word[3:])), False
    if word.startswith("r") and word[1:].isdigit():
        return registers.gpr(int(word[1:])), True
    match = _PARTS.fullmatch(word)
    if match is None:
        raise ValueError(f"register not understood: {word}")
    letter = match[2] or match[3]
    name = f"r{letter}x" if letter else f"r{match[5]}"
    return registers.gpr(GPR_NAMES.index(name)), bool(match[1] or match[4])


@dataclass(frozen=True, slots=True)
class Resolution:
    """What the table says of a form."""

    handling: Handling
    reason: str
    effects: Effects
    operands: tuple[Operand, ...]
    """As given; memory operands have the width that the row knows."""
    needs_immediate: bool = False
    """The answer depends on the value of the immediate."""
    resets_stack: bool = False
    """As in `Instruction`."""
    row: Row | None = None


def find_row(form: Form) -> Row | None:
    """The row that describes `form`, or None."""
    for candidate in TABLE.get(form.mnemonic, ()):
        if candidate.fits(form):
            return candidate
    return None


def resolve(form: Form) -> Resolution:
    """What the table says of `form`."""
    found = find_row(form)
    if found is None:
        unknown = Effects(EVERYTHING, EVERYTHING, 0)
        return Resolution(Handling.NATIVE, "no row in the instruction table", unknown, form.operands)
    operands = _with_widths(found, form)
    if operands != form.operands:
        form = replace(form, operands=operands)
    draft = Draft(
        form, found.handling, found.reason, found.reads, found.writes, found.kills, found.undefined
    )
    _add_implicit_memory(draft, found)
    for position, (access, operand) in enumerate(zip(found.accesses, operands, strict=True)):
        mode = access.mode
        if position == 0 and form.layout.mask and not form.layout.zeroing and mode == "w":
            mode = "m"
        _add_operand(draft, mode, operand)
    if form.layout.mask:
        draft.reads |= OPMASKS
    if found.adjust is not None:
        found.adjust(draft)
    _restrict(draft)
    effects = Effects(
        draft.reads, draft.writes, draft.kills & draft.writes, draft.undefined & draft.writes,
        tuple(draft.memory), _feature(found, form),
    )  # fmt: skip
    return Resolution(
        draft.handling, draft.reason, effects, operands, found.needs_immediate, draft.resets_stack, found
    )


def _feature(found: Row, form: Form) -> str:
    """The CPU feature: rows of vector instructions name those of 128 bits, of 256 bits and of EVEX."""
    words = found.feature.split()
    if len(words) < 2:
        return found.feature
    if form.layout.encoding == "evex":
        return words[2]
    return words[any(isinstance(operand, Vec) and operand.kind == "ymm" for operand in form.operands)]


def _with_widths(found: Row, form: Form) -> tuple[Operand, ...]:
    operands = list(form.operands)
    for position, (access, operand) in enumerate(zip(found.accesses, operands, strict=True)):
        if not isinstance(operand, Mem):
            continue
        width = operand.width
        if access.mode in ("a", "-"):
            width = 0
        elif form.layout.broadcast:
            width = 64 if form.layout.rex & 8 else 32
        elif access.fraction:
            vectors = [_VECTOR_BITS.get(o.kind, 0) for o in operands if isinstance(o, Vec)]
            # Comparisons of memory with classes have no vector register to tell by.
            width = (max(vectors) or 128 << form.layout.length) // access.fraction
        elif access.equal:
            width = next(o.width for o in operands if isinstance(o, Reg))
        elif access.width and "r" not in access.kinds:
            width = access.width
        if width != operand.width:
            operands[position] = replace(operand, width=width)
    return tuple(operands)


def _add_implicit_memory(draft: Draft, found: Row) -> None:
    form = draft.form
    for mode, size, base, offset in found.memory:
        count = form.width // 8 if size == "w" else int(size)
        disp = -(form.width // 8) if offset == "w" else -int(offset)
        # A segment prefix changes where DS is implied: not for the stack, not for ES:RDI of string instructions.
        fixed = base in (RSP, RBP) or (base == registers.RDI and form.width)
        segment = "" if fixed else {0x64: "fs", 0x65: "gs"}.get(form.layout.segment, "")
        address_width = 64 if base == RSP else form.address_width
        operand = Mem(base, None, 1, disp, count * 8, segment, address_width=address_width)
        draft.memory.append(MemoryAccess(operand, count, "r" in mode, "w" in mode))


def _add_operand(draft: Draft, mode: str, operand: Operand) -> None:
    """Enter one explicit operand's effects."""
    if mode == "-":
        return
    if isinstance(operand, Mem):
        if operand.base is not None:
            draft.reads |= registers.gpr(operand.base)
        if operand.index is not None:
            draft.reads |= (registers.vector if operand.vsib else registers.gpr)(operand.index)
        if mode != "a":
            size = 0 if operand.vsib else operand.width // 8
            draft.memory.append(MemoryAccess(operand, size, "r" in mode, mode != "r"))
        return
    if isinstance(operand, Imm):
        return
    whole = mode != "m"
    if isinstance(operand, Reg):
        mask = registers.gpr(operand.index)
        partial = operand.width < 32 and mode != "r"
        whole = whole and not partial
        if mode != "w" or partial:
            draft.reads |= mask
    elif operand.kind in ("xmm", "ymm", "zmm"):
        mask = registers.vector(operand.index)
        # The old encodings leave bits 128 and up of the register alone.
        whole = whole and draft.form.layout.encoding != ""
        if mode != "w":
            draft.reads |= mask
    else:
        mask = {"mm": X87, "st": X87, "k": OPMASKS}.get(operand.kind, 0)
        whole = False
        if mode != "w":
            draft.reads |= mask
        if operand.kind == "mm":
            # Even reading an MMX register resets the x87 stack's top and tags.
            mode = "rw"
    if mode != "r":
        draft.writes |= mask
        if whole:
            draft.kills |= mask


def _restrict(draft: Draft) -> None:
    """What holds for any instruction: prefixes and the stack pointer."""
    form = draft.form
    memory = next((operand for operand in form.operands if isinstance(operand, Mem)), None)
    if form.lock and draft.handling is Handling.LIFTED:
        draft.handling = Handling.VERBATIM
    if memory is not None and memory.address_width == 32 and (memory.base == RSP or memory.rip):
        draft.native("32-bit address from the stack or instruction pointer")
    names_rsp = any(isinstance(operand, Reg) and operand.index == RSP for operand in form.operands)
    if draft.handling is Handling.VERBATIM and names_rsp:
        writes = draft.writes & registers.gpr(RSP)
        draft.native("changes the stack pointer" if writes else "reads the stack pointer")
    if draft.handling is Handling.LIFTED and draft.writes & registers.gpr(RSP) and not _is_tracked(form):
        draft.resets_stack = True
        if any(isinstance(operand, Reg) and operand.index == RSP and operand.width < 32 for operand in form.operands):
            draft.native("changes a part of the stack pointer")


_STACK_INSTRUCTIONS: Final = frozenset(("push", "pop", "leave", "ret", "enter", "pushf", "popf"))


def _is_tracked(form: Form) -> bool:
    """Whether the stack pointer after a lifted instruction is known: RSP or RBP plus a constant."""
    if form.mnemonic in _STACK_INSTRUCTIONS:
        return form.operands != (Reg(RSP, 64),) or form.mnemonic == "push"
    if form.operands[0] != Reg(RSP, 64):
        return False
    source = form.operands[-1]
    if form.mnemonic in ("add", "sub"):
        return isinstance(source, Imm)
    if form.mnemonic == "mov":
        return source in (Reg(RBP, 64), Reg(RSP, 64))
    if form.mnemonic == "lea" and isinstance(source, Mem):
        return source.base in (RSP, RBP) and source.index is None and source.address_width == 64
    return False
