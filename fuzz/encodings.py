"""Random encodings of every instruction: opcode space enumerated, registers, addresses and immediates at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from lifter.decode import decode
from lifter.instruction import Instruction

_PREFIXES: Final = (0, 0x66, 0xF3, 0xF2)
"""By the number that VEX gives them."""
_GROUPS: Final = {
    0: frozenset((0x80, 0x81, 0x83, 0x8F, 0xC0, 0xC1, 0xC6, 0xC7, *range(0xD0, 0xD4), 0xF6, 0xF7, 0xFE, 0xFF)),
    1: frozenset((0x00, 0x01, 0x0D, 0x18, 0x1C, 0x1E, 0x71, 0x72, 0x73, 0x78, 0xAE, 0xBA, 0xC7)),
    2: frozenset((0xC6, 0xC7, 0xF3)),
}
"""Opcodes whose ModRM.reg is part of the opcode, by map."""
_X87: Final = range(0xD8, 0xE0)
_ESCAPES: Final = {0: b"", 1: b"\x0f", 2: b"\x0f\x38", 3: b"\x0f\x3a"}
_NO_OPCODES: Final = frozenset(
    (0x0F, 0x26, 0x2E, 0x36, 0x3E, *range(0x40, 0x50), 0x62, *range(0x64, 0x68), 0xC4, 0xC5, 0xF0, 0xF2, 0xF3)
)
"""Bytes of the one-byte map that are prefixes or escapes."""
_COUNTED: Final = range(0xE0, 0xE4)
"""Jumps by a count, which the address size makes one of 32 bits."""
_ENTER: Final = 0xC8
_INDEXED: Final = frozenset((*range(0x90, 0x94), *range(0xA0, 0xA4), 0xC6, 0xC7))
"""Gathers and scatters of map 2: a vector is the index of their address, and EVEX ones need a mask."""
_IMMEDIATES: Final = (0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 63, 64, 0x7F, 0x80, 0xFF)


@dataclass(frozen=True, slots=True)
class Encoding:
    """One opcode with everything that decides which instruction it is."""

    vex: bool
    map: int
    opcode: int
    prefix: int
    """Index into `_PREFIXES`."""
    wide: bool
    """REX.W, VEX.W."""
    length: int = 0
    """VEX.L."""
    reg: int | None = None
    """ModRM.reg where that is part of the opcode."""
    rm: int | None = None
    """ModRM.rm where that is part of the opcode."""
    memory: bool = False
    """A memory operand, if there is a ModRM byte."""
    evex: bool = False
    """An EVEX prefix (then `vex` is False): length, mask, broadcast or rounding are random."""

    def build(self, source: random.Random, addresses: bool = True) -> bytes:
        """Bytes with random registers, address and immediate, padded to 15 at random: decode tells the length.

        Without `addresses`, the memory operand is `[base]` with as few registers as can be.
        """
        reg = self.reg if self.reg is not None else source.randrange(8)
        rm = self.rm if self.rm is not None else source.randrange(8)
        mod = 3
        tail = b""
        if self.memory:
            mod = source.choice((0, 0, 1, 1, 2)) if addresses else 0
            if self._is_indexed() or (addresses and source.random() < 0.4):
                rm = 4
            elif not addresses:
                rm = source.choice((0, 1, 2, 3, 6, 7))
            if rm == 4:
                tail += bytes([source.randrange(256)])
        tail = bytes([mod << 6 | reg << 3 | rm]) + tail
        if self.memory and mod != 0:
            tail += self._displacement(source, mod)
        elif self.memory and (rm == 5 or (rm == 4 and tail[1] & 7 == 5)):
            tail += source.randbytes(4)
        tail += self._immediate(source)
        if self.opcode == _ENTER and self.map == 0:
            # A frame for which there is room, nested anyhow.
            tail = bytes([source.randrange(129), 0, source.randrange(256)])
        extension = source.randrange(8) if source.random() < 0.6 else 0
        if self.evex:
            return self._evex(source, extension) + bytes([self.opcode]) + tail
        if self.vex:
            return self._vex(source, extension) + bytes([self.opcode]) + tail
        counts = self.map == 0 and self.opcode in _COUNTED
        narrow = self.memory and addresses and source.random() < (0.5 if counts else 0.03)
        head = b"\x67" if narrow else b""
        head += bytes([_PREFIXES[self.prefix]]) if self.prefix else b""
        rex = 0x40 | self.wide << 3 | extension
        if rex != 0x40 or source.random() < 0.1:
            head += bytes([rex])
        return (head + _ESCAPES[self.map] + bytes([self.opcode]) + tail)[:15]

    def _is_indexed(self) -> bool:
        return (self.vex or self.evex) and self.memory and self.map == 2 and self.opcode in _INDEXED

    def simplest(self) -> Iterator[bytes]:
        """Bytes with the lowest registers, with VEX and EVEX: one of them decodes, if there is such an instruction."""
        rm = self.rm if self.rm is not None else 4 if self.memory else 1
        modrm = (0 if self.memory else 3) << 6 | (2 if self.reg is None else self.reg) << 3 | rm
        tail = bytes([self.opcode, modrm]) + b"\x08" * self.memory + b"\1" * 8
        for register in (0, 1):
            if self.vex:
                yield self._vex_prefix(0, register) + tail
                continue
            for mask, length in product((0, 1), range(3)):
                yield self._evex_prefix(0, register, mask, length) + tail

    def _vex(self, source: random.Random, extension: int) -> bytes:
        # Half of all have no register here: then it is 0, which is stored inverted.
        return self._vex_prefix(extension, source.randrange(16) if source.random() < 0.6 else 0)

    def _vex_prefix(self, extension: int, register: int) -> bytes:
        last = self.wide << 7 | (register ^ 15) << 3 | self.length << 2 | self.prefix
        return bytes([0xC4, (extension ^ 7) << 5 | self.map, last])

    def _evex(self, source: random.Random, extension: int) -> bytes:
        indexed = self._is_indexed()
        register = source.randrange(32) if source.random() < 0.5 else 0
        if indexed:
            # The high bit is that of the index.
            register &= 16
        high = source.random() < 0.3
        mask = source.randrange(1, 8) if indexed or source.random() < 0.5 else 0
        zeroing = bool(mask) and source.random() < 0.3
        broadcast = source.random() < 0.15
        length = source.randrange(4 if broadcast and not self.memory else 3)
        return self._evex_prefix(extension, register, mask, length, high, zeroing, broadcast)

    def _evex_prefix(
        self,
        extension: int,
        register: int,
        mask: int,
        length: int,
        high: bool = False,
        zeroing: bool = False,
        broadcast: bool = False,
    ) -> bytes:
        first = (extension ^ 7) << 5 | (not high) << 4 | self.map
        second = self.wide << 7 | (register & 15 ^ 15) << 3 | 4 | self.prefix
        third = zeroing << 7 | length << 5 | broadcast << 4 | (register < 16) << 3 | mask
        return bytes([0x62, first, second, third])

    @staticmethod
    def _displacement(source: random.Random, mod: int) -> bytes:
        if mod == 1:
            return bytes([source.randrange(256)])
        return source.randrange(-0x1000, 0x1000).to_bytes(4, "little", signed=True)

    @staticmethod
    def _immediate(source: random.Random) -> bytes:
        if source.random() < 0.5:
            value = source.choice(_IMMEDIATES)
            return value.to_bytes(8, "little") if source.random() < 0.5 else bytes([value]) + b"\xff" * 7
        return source.randbytes(8)


def all_encodings() -> Iterator[Encoding]:
    """Every legacy, VEX and EVEX opcode with every prefix (VEX: and length), valid or not."""
    for opcode_map in range(4):
        for opcode in range(256):
            if opcode_map == 0 and opcode in _NO_OPCODES:
                continue
            if opcode_map == 1 and opcode in (0x38, 0x3A, 0x0F):
                continue
            for prefix in range(4):
                for wide in (False, True):
                    yield from _shapes(Encoding(False, opcode_map, opcode, prefix, wide))
    for opcode_map in (1, 2, 3):
        for opcode in range(256):
            for prefix in range(4):
                for wide in (False, True):
                    for length in (0, 1):
                        yield from _shapes(Encoding(True, opcode_map, opcode, prefix, wide, length))
    for opcode_map in (1, 2, 3):
        for opcode in range(256):
            for prefix in range(4):
                for wide in (False, True):
                    yield from _shapes(Encoding(False, opcode_map, opcode, prefix, wide, evex=True))


def _shapes(model: Encoding) -> Iterator[Encoding]:
    legacy = not model.vex and not model.evex
    x87 = legacy and model.map == 0 and model.opcode in _X87
    numbered = x87 or (legacy and model.map == 1 and model.opcode in (0x01, 0x1E, 0xAE))
    if x87 or model.opcode in _GROUPS.get(model.map, ()):
        for reg in range(8):
            yield replace(model, reg=reg, memory=True)
            if numbered:
                yield from (replace(model, reg=reg, rm=rm) for rm in range(8))
            else:
                yield replace(model, reg=reg)
        return
    yield model
    yield replace(model, memory=True)


def exists(encoding: Encoding) -> bool:
    """Whether there is an instruction of a VEX or EVEX encoding; quicker than not to find one."""
    return any(isinstance(decode(code), Instruction) for code in encoding.simplest())


def find(encoding: Encoding, source: random.Random, attempts: int = 8, addresses: bool = True) -> Instruction | None:
    """A random instruction of `encoding`, or None if there seems to be none."""
    for _ in range(attempts):
        found = decode(encoding.build(source, addresses))
        if isinstance(found, Instruction):
            return found
    if encoding.vex or encoding.evex:
        # Of some, few operands are allowed.
        simple = [found for code in encoding.simplest() if isinstance(found := decode(code), Instruction)]
        return source.choice(simple) if simple else None
    return None
