"""What goes through the code cache: a region's IR text in, placed machine code out.

A region's IR never names an address. It refers to symbols of its own (canonical names in order of first use),
so that equal regions have equal text wherever they stand: the text is the key of the store, and regions that
repeat inside one program are compiled once. The addresses come back in at link time, through `Binding`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from ir.source import RegionSource as RegionSource


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


@dataclass(frozen=True, slots=True)
class CompileFailure:
    """A region that LLVM could not compile (or died on): becomes a refusal."""

    reason: str


@dataclass(frozen=True, slots=True)
class Placed:
    """A linked piece of the code cache."""

    address: int
    """Where a trampoline jumps to: the stub, or the code itself where there is none."""
    code: bytes
    """Stub, code and constant data, relocated for `address`."""


Symbols = Mapping[str, int]
"""Addresses (as signed or unsigned 64-bit integers) of a region's symbols."""


@dataclass(frozen=True, slots=True)
class Patch:
    """Original bytes overwritten: a trampoline, a springboard, a call sent to a stub."""

    address: int
    before: bytes
    """What must stand there."""
    after: bytes
    """As long as `before`."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """All that is added to an image, the same in a file, in a process and in the emulator."""

    code_address: int
    """Page-aligned, within 2 GiB of the image's code."""
    code: bytes
    """Mapped readable and executable."""
    data_address: int
    """Page-aligned, within 2 GiB of the image's code."""
    data: bytes
    """Mapped readable and writable: header, counters, words of probes, description (see `jit.datafile`)."""
    patches: tuple[Patch, ...]
    """In address order, not overlapping."""
