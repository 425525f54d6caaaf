"""What the rest of the project knows of an ELF file."""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lifter.errors import Refusal
from lifter.image.demangle import demangle


class Kind(enum.Enum):
    """How the file is loaded."""

    FIXED = "fixed"
    """An executable at its own addresses (ET_EXEC)."""
    PIE = "pie"
    """A position-independent executable (ET_DYN with an entry), static-PIE too."""
    LIBRARY = "library"


@dataclass(frozen=True, slots=True)
class Segment:
    """A PT_LOAD segment."""

    address: int
    size: int
    """In memory, in bytes; the rest after `data` is zero."""
    offset: int
    """In the file."""
    data: bytes
    """The bytes that the file has for it."""
    readable: bool
    writable: bool
    executable: bool

    @property
    def end(self) -> int:
        """First address after it."""
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class Section:
    """A section header (absent where the file has none)."""

    name: str
    address: int
    size: int
    executable: bool
    writable: bool


@dataclass(frozen=True, slots=True)
class Function:
    """A function found in the image."""

    address: int
    size: int
    """In bytes: from the symbol, else from unwind information, else up to the next function."""
    name: str
    """As printed: the symbol's raw name, or 'fn_1234' (hexadecimal address) where there is none."""
    aliases: tuple[str, ...] = ()
    """Other symbols at the same address."""
    exported: bool = False
    """Other modules can call it by name (dynamic symbol)."""
    address_taken: bool = False
    """Its address is (or may be) stored or computed somewhere: it can be called indirectly.
    True in doubt: for Go, whose type information holds addresses as 32-bit offsets, and where nothing is seen to
    reach the function directly."""
    landing_pads: tuple[int, ...] = ()
    """Addresses where an exception enters it."""
    source: str = "symbol"
    """'symbol', 'dynamic-symbol', 'unwind', 'pclntab', 'entry', 'init-array', 'call-target', 'pointer'."""
    refusal: Refusal | None = None
    """Why it cannot be instrumented whatever the probe, where that is known from the image alone."""

    @property
    def end(self) -> int:
        """First address after it."""
        return self.address + self.size

    @property
    def guessed(self) -> bool:
        """Whether only code or data that refers to it says that a function begins here, and nothing where it ends."""
        return self.source in ("call-target", "pointer")

    @property
    def demangled(self) -> str:
        """The name as people write it, for C++ and Rust; equal to `name` elsewhere. Computed when asked for."""
        return demangle(self.name)


@dataclass(frozen=True)
class Image:
    """An ELF file of x86-64, parsed and checked. Addresses are those of the file (PIE: base 0)."""

    path: Path
    content: bytes
    """The whole file."""
    kind: Kind
    is_static: bool
    """No program interpreter."""
    is_go: bool
    entry: int
    """0 for a library without one."""
    build_id: str
    """Hexadecimal; '' where the file has none."""
    soname: str
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]
    functions: tuple[Function, ...]
    """In address order, not overlapping but where the symbols do (then with a refusal)."""
    plt: Mapping[int, str]
    """Address of each PLT stub -> imported name."""
    got: Mapping[int, str]
    """Address of each GOT slot filled by the loader -> imported name."""
    imports: frozenset[str]
    needed: tuple[str, ...]
    code_pointers: frozenset[int]
    """Addresses inside executable segments that data refers to, or may: relocations, aligned words of data in
    fixed-address files, targets of rip-relative lea. A superset is safe; it only costs speed."""
    words: Mapping[int, int] = field(default_factory=dict)
    """Address of each 8-byte word that the loader relocates -> the address in this image that it writes there
    (jump tables of 64-bit pointers are read through it: linkers may leave zeros in the file)."""
    has_shadow_stack: bool = False
    """Marked for Intel CET shadow stacks or IBT."""
    refusals: tuple[Refusal, ...] = ()
    """What the analysis of the image had to leave out."""
    notes: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _starts(self) -> list[int]:
        return [segment.address for segment in self.segments]

    @cached_property
    def _function_starts(self) -> list[int]:
        return [function.address for function in self.functions]

    @cached_property
    def _sorted_pointers(self) -> list[int]:
        return sorted(self.code_pointers)

    def code_pointers_in(self, start: int, end: int) -> list[int]:
        """The code pointers into [start, end), in order."""
        pointers = self._sorted_pointers
        return pointers[bisect_left(pointers, start) : bisect_left(pointers, end)]

    def segment_at(self, address: int) -> Segment | None:
        """The segment that holds `address`, or None."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self.segments[index].end:
            return self.segments[index]
        return None

    def read(self, address: int, size: int) -> bytes:
        """Up to `size` bytes at `address` as loaded before relocation; fewer at the end, b'' outside."""
        segment = self.segment_at(address)
        if segment is None:
            return b""
        start = address - segment.address
        size = min(size, segment.size - start)
        found = segment.data[start : start + size]
        return found + bytes(size - len(found))

    def is_code(self, address: int) -> bool:
        """Whether `address` lies in an executable segment."""
        segment = self.segment_at(address)
        return segment is not None and segment.executable

    def next_function(self, address: int) -> Function | None:
        """The first function that starts at `address` or after it, or None."""
        index = bisect_left(self._function_starts, address)
        return self.functions[index] if index < len(self.functions) else None

    def function_at(self, address: int) -> Function | None:
        """The function whose bytes contain `address`, or None."""
        index = bisect_right(self._function_starts, address) - 1
        if index >= 0 and address < self.functions[index].end:
            return self.functions[index]
        return None
