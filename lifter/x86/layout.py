"""Where the parts of an encoded instruction stand: prefixes, opcode, ModRM, displacement, immediate.

Written from the manuals (SDM volume 2, chapter 2 and the opcode maps of appendix A; AMD APM volume 3 for
XOP) and independent of the disassembler: `lifter.decode` believes an instruction only where both agree on its
length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_SIZE: Final = 15
"""No instruction is longer; the processor faults."""

_LEGACY_PREFIXES: Final = frozenset(
    (0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65)
)

_Z: Final = -1
"""Immediate of 4 bytes, 2 with an operand-size prefix (never 8)."""
_V: Final = -2
"""Immediate of the operand size: 2, 4 or 8 bytes (mov r, imm)."""
_MOFFS: Final = -3
"""An absolute address of the address size in place of an immediate."""
_NEAR: Final = -4
"""Displacement of a near jump or call: 4 bytes, 2 on AMD with an operand-size prefix and without REX.W."""

_MODRM_0: Final = frozenset(
    [base + low for base in range(0, 0x40, 8) for low in range(4)]
    + [0x62, 0x63, 0x69, 0x6B, 0x80, 0x81, 0x83, *range(0x84, 0x90), 0xC0, 0xC1, 0xC4, 0xC5, 0xC6, 0xC7]
    + [*range(0xD0, 0xD4), *range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF]
)
_IMMEDIATE_0: Final = {
    **{base + 4: 1 for base in range(0, 0x40, 8)},
    **{base + 5: _Z for base in range(0, 0x40, 8)},
    **dict.fromkeys([0x6A, 0x6B, *range(0x70, 0x80), 0x80, 0x83, 0xA8, *range(0xB0, 0xB8)], 1),
    **dict.fromkeys([0xC0, 0xC1, 0xC6, 0xCD, *range(0xE0, 0xE8), 0xEB], 1),
    **dict.fromkeys([0x68, 0x69, 0x81, 0xA9, 0xC7], _Z),
    **dict.fromkeys(range(0xB8, 0xC0), _V),
    **dict.fromkeys(range(0xA0, 0xA4), _MOFFS),
    **dict.fromkeys([0xE8, 0xE9], _NEAR),
    **dict.fromkeys([0xC2, 0xCA], 2),
    0xC8: 3,
}
_INVALID_0: Final = frozenset((
    0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F, 0x27, 0x2F, 0x37, 0x3F, 0x60, 0x61, 0x82, 0x9A, 0xCE,
    0xD4, 0xD5, 0xD6, 0xEA,
))  # fmt: skip
_NO_MODRM_1: Final = frozenset(
    [*range(0x05, 0x0A), 0x0B, 0x0E, *range(0x30, 0x38), 0x77, *range(0x80, 0x90),
     0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA, *range(0xC8, 0xD0)]
)  # fmt: skip
_IMMEDIATE_1: Final = {
    **dict.fromkeys([0x0F, *range(0x70, 0x74), 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6], 1),
    **dict.fromkeys(range(0x80, 0x90), _NEAR),
}
_INVALID_1: Final = frozenset(
    [0x04, 0x0A, 0x0C, *range(0x24, 0x28), 0x36, 0x39, *range(0x3B, 0x40), 0x7A, 0x7B, 0xA6, 0xA7]
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts of one encoded instruction."""

    size: int
    """Of the whole instruction, in bytes."""
    encoding: str
    """'' for legacy encodings, else 'vex', 'evex' or 'xop'."""
    prefixes: frozenset[int]
    """Legacy prefix bytes that are present."""
    repeat: int
    """The last of the F2 and F3 prefixes (it wins), or 0."""
    segment: int
    """The last segment prefix that counts in long mode: 0x64 (fs), 0x65 (gs) or 0."""
    rex: int
    """The REX byte, 0 without one (VEX and EVEX: the equivalent of its W, R, X, B bits in 0..15)."""
    map: int
    """Opcode map: 0 one byte, 1 0F, 2 0F38, 3 0F3A, more under EVEX and XOP."""
    opcode: int
    opcode_at: int
    pp: int
    """Mandatory prefix of VEX, EVEX and XOP: 0 none, 1 66, 2 F3, 3 F2."""
    modrm_at: int
    """Offset of ModRM, -1 without one."""
    disp_at: int
    """Offset of the displacement (or absolute address), -1 without one."""
    disp_size: int
    """0, 1, 2 (never in 64-bit mode), 4 or 8 bytes."""
    imm_size: int
    """Bytes of immediate (or branch displacement) at the end."""
    mask: int = 0
    """EVEX: number of the write mask register, 0 without one."""
    zeroing: bool = False
    """EVEX: masked elements become zero (else they keep their value)."""
    broadcast: bool = False
    """EVEX: one element of memory is repeated (with a register operand: rounding, or no exceptions)."""
    length: int = 0
    """EVEX: 0, 1, 2 for vectors of 128, 256, 512 bits; the rounding mode where a register operand has `broadcast`."""
    high_index: bool = False
    """EVEX: bit 4 of the vector register number of a VSIB index."""

    @property
    def imm_at(self) -> int:
        """Offset of the immediate."""
        return self.size - self.imm_size


class LayoutError(Exception):
    """The bytes are no instruction, or not all of one; the message says why."""


def parse(code: bytes) -> Layout:
    """Layout of the first instruction in `code`. Raises `LayoutError`."""
    try:
        return _parse(code)
    except IndexError:
        pass
    if len(code) >= MAX_SIZE:
        raise LayoutError("longer than 15 bytes")
    raise LayoutError("truncated")


def _parse(code: bytes) -> Layout:
    at = 0
    rex = repeat = segment = 0
    seen: set[int] = set()
    while True:
        byte = code[at]
        if byte in _LEGACY_PREFIXES:
            seen.add(byte)
            rex = 0
            if byte in (0xF2, 0xF3):
                repeat = byte
            elif byte in (0x64, 0x65):
                segment = byte
        elif byte & 0xF0 == 0x40:
            rex = byte
        else:
            break
        at += 1

    encoding, opcode_map, pp = "", 0, 0
    if byte == 0x0F:
        at += 1
        opcode_map = {0x38: 2, 0x3A: 3}.get(code[at], 1)
        at += opcode_map > 1
    elif byte == 0xC5:
        encoding, opcode_map, pp = "vex", 1, code[at + 1] & 3
        rex_bits = (~code[at + 1] >> 5) & 4
        at += 2
    elif byte == 0xC4 or (byte == 0x8F and code[at + 1] & 0x1F >= 8):
        encoding = "vex" if byte == 0xC4 else "xop"
        opcode_map, pp = code[at + 1] & 0x1F, code[at + 2] & 3
        rex_bits = ((~code[at + 1] >> 5) & 7) | ((code[at + 2] >> 4) & 8)
        at += 3
    elif byte == 0x62:
        encoding, opcode_map, pp = "evex", code[at + 1] & 7, code[at + 2] & 3
        rex_bits = ((~code[at + 1] >> 5) & 7) | ((code[at + 2] >> 4) & 8)
        if code[at + 1] & 8 or not code[at + 2] & 4:
            raise LayoutError("EVEX prefix with reserved bits")
        at += 4
    if encoding:
        if rex or seen & {0x66, 0xF2, 0xF3, 0xF0}:
            raise LayoutError(f"prefix that {encoding.upper()} forbids")
        rex = rex_bits
    opcode_at = at
    opcode = code[at]
    evex = code[at - 1] if encoding == "evex" else 8
    at += 1

    if encoding == "" and opcode_map == 0 and opcode == 0x90 and repeat == 0xF3 and rex & 1:
        raise LayoutError("pause with REX.B: an exchange of r8 on some processors")
    short = encoding == "" and opcode_map == 0 and 0x66 in seen and not rex & 8
    if short and _is_near_branch(opcode, code[at : at + 1]):
        raise LayoutError("near branch with an operand-size prefix: its size differs between processors")
    if encoding == "" and opcode_map == 0 and opcode in (0xE0, 0xE1) and repeat:
        raise LayoutError("loope or loopne with a repeat prefix: the prefix chooses the condition on some processors")
    has_modrm, immediate = _shape(encoding, opcode_map, opcode, pp, code, at, seen, repeat)
    modrm_at = disp_at = -1
    disp_size = 0
    if has_modrm:
        modrm_at = at
        modrm = code[at]
        at += 1
        mod, rm = modrm >> 6, modrm & 7
        if mod != 3 and not (opcode_map == 1 and not encoding and 0x20 <= opcode <= 0x23):
            base = rm
            if rm == 4:
                base = code[at] & 7
                at += 1
            disp_size = (4 if base == 5 else 0, 1, 4)[mod]
            if disp_size:
                disp_at = at
                at += disp_size

    if immediate == _MOFFS:
        disp_at, disp_size = at, 4 if 0x67 in seen else 8
        at += disp_size
        immediate = 0
    elif immediate == _Z:
        immediate = 2 if 0x66 in seen and not rex & 8 else 4
    elif immediate == _V:
        immediate = 8 if rex & 8 else 2 if 0x66 in seen else 4
    elif immediate == _NEAR:
        if 0x66 in seen and not rex & 8:
            raise LayoutError("near branch with an operand-size prefix: its size differs between processors")
        immediate = 4
    size = at + immediate
    if size > MAX_SIZE:
        raise LayoutError("longer than 15 bytes")
    if size > len(code):
        raise LayoutError("truncated")
    return Layout(
        size, encoding, frozenset(seen), repeat, segment, rex, opcode_map, opcode, opcode_at, pp,
        modrm_at, disp_at, disp_size, immediate, evex & 7, bool(evex & 0x80), bool(evex & 0x10),
        evex >> 5 & 3, not evex & 8,
    )  # fmt: skip


def _is_near_branch(opcode: int, modrm: bytes) -> bool:
    """Near return, jump or call, but for those of 0F80..0F8F."""
    if opcode == 0xFF:
        return bool(modrm) and modrm[0] >> 3 & 7 in (2, 4)
    return opcode in (0xC2, 0xC3, 0xE8, 0xE9, 0xEB) or 0x70 <= opcode < 0x80 or 0xE0 <= opcode < 0xE4


def _shape(
    encoding: str, opcode_map: int, opcode: int, pp: int, code: bytes, at: int, seen: set[int], repeat: int
) -> tuple[bool, int]:
    """Whether a ModRM byte follows the opcode, and the size (or kind) of immediate."""
    if encoding == "xop":
        if opcode_map not in (8, 9, 10):
            raise LayoutError("unknown XOP map")
        return True, {8: 1, 9: 0, 10: 4}[opcode_map]
    if encoding and opcode_map == 1:
        return opcode != 0x77, 1 if opcode in (0x70, 0x71, 0x72, 0x73, 0xC2, 0xC4, 0xC5, 0xC6) else 0
    if encoding and opcode_map not in ((1, 2, 3) if encoding == "vex" else (1, 2, 3, 5, 6)):
        raise LayoutError(f"unknown {encoding.upper()} map")
    if opcode_map == 0:
        if opcode in _INVALID_0:
            raise LayoutError("no instruction in 64-bit mode")
        immediate = _IMMEDIATE_0.get(opcode, 0)
        if opcode in (0xF6, 0xF7) and not code[at] & 0x30:
            immediate = 1 if opcode == 0xF6 else _Z
        if opcode == 0xC7 and code[at] == 0xF8:
            immediate = _NEAR
        return opcode in _MODRM_0, immediate
    if opcode_map == 1:
        if opcode in _INVALID_1:
            raise LayoutError("no instruction in 64-bit mode")
        immediate = _IMMEDIATE_1.get(opcode, 0)
        if opcode == 0x78 and (0x66 in seen or repeat == 0xF2):
            immediate = 2
        return opcode not in _NO_MODRM_1, immediate
    return True, 1 if opcode_map == 3 else 0
