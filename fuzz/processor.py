"""The processor that this runs on: its features, and where its XSAVE image keeps the vector registers."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

LEGACY_SIZE: Final = 512
"""Bytes of the FXSAVE area."""
HEADER_AT: Final = 512
"""Of the mask of parts that are present."""
YMM_AT: Final = 576
"""Of the upper halves of ymm0..ymm15. What comes after them stands elsewhere on other processors."""
_AVX_SIZE: Final = 832
_CPUID: Final = bytes.fromhex("53 89f8 89f1 4989d0 0fa2 418900 41895804 41894808 4189500c 5b c3")
"""void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t registers[4])"""
_XSTATE: Final = 0xD
"""Leaf of the parts of the XSAVE image: size in EAX and offset in EBX of each."""
_AVX: Final = 0b111
"""Parts: x87, SSE, AVX."""
_MASKS, _UPPER, _MORE = 5, 6, 7


@dataclass(frozen=True, slots=True)
class XsaveImage:
    """An XSAVE image up to the last vector register. Without AVX-512 its parts are empty."""

    size: int
    """In bytes."""
    present: int
    """The mask of its parts."""
    masks: slice
    """k0..k7, 8 bytes each."""
    upper: slice
    """Upper halves of zmm0..zmm15, 32 bytes each."""
    more: slice
    """zmm16..zmm31, 64 bytes each."""


@cache
def features() -> frozenset[str]:
    """What this processor can do, as /proc/cpuinfo spells it."""
    text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


@cache
def xsave_image() -> XsaveImage:
    """The image as the kernel here writes it into signal frames."""
    if "avx512f" not in features():
        none = slice(_AVX_SIZE, _AVX_SIZE)
        return XsaveImage(_AVX_SIZE, _AVX, none, none, none)
    parts = []
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(_CPUID)
        start = ctypes.c_char.from_buffer(page)
        registers = (ctypes.c_uint32 * 4)()
        cpuid = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(ctypes.addressof(start))
        for part in (_MASKS, _UPPER, _MORE):
            cpuid(_XSTATE, part, ctypes.addressof(registers))
            parts.append(slice(registers[1], registers[1] + registers[0]))
        del start, cpuid
    present = _AVX | 1 << _MASKS | 1 << _UPPER | 1 << _MORE
    return XsaveImage(max(part.stop for part in parts), present, *parts)
