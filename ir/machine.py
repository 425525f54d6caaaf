"""A region as machine code: what the compiler makes of IR, and `ir.carry` of a region's own instructions."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class RelocationKind(enum.Enum):
    """How a symbol's address enters the code."""

    PC32 = "pc32"
    """S + A - P, 32 bits signed."""
    ABS32 = "abs32"
    """S + A, 32 bits unsigned (R_X86_64_32)."""
    ABS32S = "abs32s"
    """S + A, 32 bits signed."""
    ABS64 = "abs64"
    PC64 = "pc64"


@dataclass(frozen=True, slots=True)
class Relocation:
    """One place in a region's code that depends on an address."""

    offset: int
    """From the start of the code (or of the constant data, for those)."""
    kind: RelocationKind
    symbol: str
    """Symbol of the region's text; '.code' and '.data' are its own code and constant data."""
    addend: int


@dataclass(frozen=True, slots=True)
class CompiledRegion:
    """A region as machine code without addresses. `frame` is already applied (the symbol `fs`)."""

    code: bytes
    relocations: tuple[Relocation, ...]
    data: bytes
    """Constants (jump tables of switches and the like), placed read-only beside the code; b'' mostly."""
    data_relocations: tuple[Relocation, ...]
    frame: int
    """Bytes of frame that the prologue makes."""
    shift: int
    """The K that it was compiled with: the stub in front must lower RSP by it."""
