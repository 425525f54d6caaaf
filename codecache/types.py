"""What goes through the code cache: a region's IR text in, placed machine code out.

A region's IR never names an address. It refers to symbols of its own (canonical names in order of first use),
so that equal regions have equal text wherever they stand: the text is the key of the store, and regions that
repeat inside one program are compiled once. The addresses come back in at link time, through `Binding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ir.machine import CompiledRegion as CompiledRegion
from ir.machine import Relocation as Relocation
from ir.machine import RelocationKind as RelocationKind
from ir.source import RegionSource as RegionSource

DATA_ALIGNMENT = 32
"""Constant data is placed at multiples of it."""


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
    frames_address: int = 0
    """Page-aligned; 0 without such."""
    frames: bytes = b""
    """What unwinders have to know of the code: a search table (.eh_frame_hdr) with the image's own entries in it, and
    the entries of the code behind it."""
    debug_frames: bytes = b""
    """The same entries as debuggers read them (.debug_frame)."""
    names: tuple[tuple[int, int, str], ...] = ()
    """(address, size, name) of code that makes calls, for debuggers."""
