"""Tracepoints and probes as the user names them, and as the data file describes them."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Point(enum.Enum):
    """Where a probe can be attached."""

    ENTRY = "entry"
    RETURN = "return"
    BLOCK = "block"
    INSN = "insn"


@dataclass(frozen=True, slots=True)
class Spec:
    """One `POINT:FUNCTION[=ACTION]`, parsed."""

    point: Point
    pattern: str
    """A glob over raw and demangled names, or '0x...' for an address."""
    offset: int | None = None
    """For `insn`: offset of the instruction from the function's address."""
    action: str = "count"
    """'count' or 'FILE.py:NAME'."""
    module: str = ""
    """A glob over modules of a process; '' for its executable (see `jit.live.scope`)."""
    guarded: bool = False
    """Whether its actions run only while a word of its own is not 0."""

    def __str__(self) -> str:
        module = f"{self.module}!" if self.module else ""
        offset = f"+{self.offset:#x}" if self.offset is not None else ""
        action = f"={self.action}" if self.action != "count" else ""
        return f"{self.point.value}:{module}{self.pattern}{offset}{action}"


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """One place with one probe: a row of the report."""

    point: Point
    function: str
    address: int
    """Of the image's file."""
    size: int
    """In bytes of original code that the count stands for (a block's size; an instruction's otherwise)."""
    instructions: int
    """Number of original instructions that the count stands for."""
    action: str = "count"
    terms: tuple[tuple[int, int], ...] = ()
    """The count is the sum over (index, factor) of counter[index] * factor: mostly ((i, 1),)."""
    words: tuple[int, int] = (0, 0)
    """Private words of a Python probe: first index among the counters, and how many; (0, 0) for none."""
