"""The register file as bit masks: one Python integer is a set of registers and flags.

Only whole architectural registers have a bit; a partial write (8 or 16 bits) counts as a read and a write.
Vector, x87 and mask registers are *ambient*: region code is generated without SSE and x87, so it never
touches them, and verbatim instructions find them in place. Their bits exist for reports and fuzzing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

GPR_NAMES: Final = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
"""In hardware order: the index is the encoding's register number."""

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 = range(16)

FLAG_NAMES: Final = ("cf", "pf", "af", "zf", "sf", "of", "df")
CF, PF, AF, ZF, SF, OF, DF = (1 << (16 + i) for i in range(7))
"""Masks (not indexes) of the flags."""
FLAG_SHIFT: Final = {CF: 0, PF: 2, AF: 4, ZF: 6, SF: 7, OF: 11, DF: 10}
"""Bit number of each flag in RFLAGS (SDM volume 1, 3.4.3)."""

ARITHMETIC_FLAGS: Final = CF | PF | AF | ZF | SF | OF
GPRS: Final = 0xFFFF
VECTOR_SHIFT: Final = 24
VECTORS: Final = ((1 << 32) - 1) << VECTOR_SHIFT
"""zmm0..zmm31; xmm and ymm are their low parts."""
X87: Final = 1 << 56
"""The x87 stack, its control, status and tag words, and MMX."""
MXCSR: Final = 1 << 57
OPMASKS: Final = 1 << 58
"""k0..k7 as one."""
AMBIENT: Final = VECTORS | X87 | MXCSR | OPMASKS | DF
"""State that region code never moves or touches except by verbatim instructions."""


def gpr(index: int) -> int:
    """Mask of general-purpose register `index`."""
    return 1 << index


def vector(index: int) -> int:
    """Mask of vector register `index` (any width)."""
    return 1 << (VECTOR_SHIFT + index)


@lru_cache(1 << 16)
def bits(mask: int) -> tuple[int, ...]:
    """Indexes of the bits set in `mask`, lowest first. The same few masks are asked about again and again."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return tuple(found)


def names(mask: int) -> list[str]:
    """Names of the registers and flags in `mask`, for reports."""
    result: list[str] = []
    for bit in bits(mask):
        if bit < 16:
            result.append(GPR_NAMES[bit])
        elif bit < 23:
            result.append(FLAG_NAMES[bit - 16])
        elif VECTOR_SHIFT <= bit < 56:
            result.append(f"zmm{bit - VECTOR_SHIFT}")
        else:
            result.append({56: "x87", 57: "mxcsr", 58: "k"}[bit])
    return result
