"""Makes cases: single instructions of every encoding with every prefix, pairs that fuse, short sequences."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Final

from fuzz.encodings import Encoding, find
from fuzz.lifted import WHERES, Case, decode_all, undefined_after
from fuzz.processor import features
from fuzz.rows import runnable
from lifter.decode import decode
from lifter.instruction import Flow, Handling, Instruction, Mem, Reg
from lifter.liftability import translation
from lifter.registers import ARITHMETIC_FLAGS, FLAG_SHIFT, RSP, X87

_POOL: Final = 600
"""Instructions that pairs and sequences are made of."""
_FEW: Final = 24
"""States for operands at the end of a page and beyond: one is as good as many."""
_ON_THE_STACK: Final = tuple(map(bytes.fromhex, (
    "50", "53", "4154", "58", "5b", "415c", "8f442408", "ff742410", "48890424", "488b0c24", "4889442408", "8b5c2404",
    "660fd60424", "f30f7e4c2408", "0f110424", "0f10542408", "f0480fc11c24", "f0ff0c24", "48870424", "48ff4c2408",
    "9c", "fd", "fc", "f8", "f9",
)))  # fmt: skip
"""Pushes, pops, loads and stores, lifted and carried, of the same few words, and flags: their order must be kept."""
_SHORT_JUMPS: Final = tuple(bytes((0x70 + code, 0x10)) for code in range(16))
_OTHER_JUMPS: Final = (
    *(bytes((opcode, 0x10)) for opcode in range(0xE0, 0xE4)),
    *(bytes((0x67, opcode, 0x10)) for opcode in range(0xE0, 0xE4)),
    b"\xeb\x10", b"\xe9\x10\0\0\0", b"\x0f\x8f\x20\0\0\0", b"\xf2\x72\x10",
)  # fmt: skip
"""loop, jrcxz, jmp and long forms. Their targets are past the end, where nothing is."""
_PREFIXES: Final = (0xF0, 0x64, 0x65, 0x2E, 0x3E, 0x36, 0x26, 0x66, 0x67, 0xF2, 0xF3, 0x40, 0x48)
"""lock, segments, sizes, repeats, REX: in front of what has none, most are without effect, and some are not."""
_LEAVING: Final = frozenset((Flow.JUMP, Flow.BRANCH, Flow.RETURN, Flow.JUMP_INDIRECT))
"""Ways to leave a region by its own last instruction."""
_AHEAD: Final = 0x10
"""Bytes from a jump to its target: past the end of the code, where nothing is."""
STORES_X87_ADDRESS: Final = ("fnstenv", "fstenv", "fnsave", "fsave", "fxsave", "fxsave64", "xsave", "xsave64")
"""They store the address of the last x87 instruction, which is where the lifted code is."""


def usable(instruction: Instruction, available: frozenset[str]) -> bool:
    """Whether regions hold it, and the processor here can run it."""
    return (
        runnable(instruction, available)
        and instruction.mnemonic not in STORES_X87_ADDRESS
        and (instruction.flow in _LEAVING or handling_of(instruction) is not Handling.NATIVE)
    )


def handling_of(instruction: Instruction) -> Handling:
    """How the instruction is translated; as its row says where trying it fails, which its case will show."""
    try:
        return translation(instruction).handling
    except AssertionError:
        return instruction.handling


def _jumping_ahead(jump: Instruction) -> Instruction:
    code = jump.code[: len(jump.code) - jump.imm_size] + _AHEAD.to_bytes(jump.imm_size, "little")
    found = decode(code)
    return found if isinstance(found, Instruction) else jump


def prefixed(instruction: Instruction, source: random.Random) -> Instruction:
    """The instruction with one more prefix in front, most often none; itself where that is none."""
    if source.random() < 0.7:
        return instruction
    found = decode(bytes([source.choice(_PREFIXES)]) + instruction.code)
    return found if isinstance(found, Instruction) else instruction


class Generator:
    """Makes cases from encodings: `lifted` have semantics, `verbatim` are carried as bytes."""

    def __init__(
        self, seed: int, states: int, lifted: Sequence[Encoding] = (), verbatim: Sequence[Encoding] = ()
    ) -> None:
        """`states` of each case."""
        self._source = random.Random(seed)
        self._states = states
        self._available = features()
        self._lifted = lifted
        self._verbatim = verbatim

    def single(self, encoding: Encoding, states: int) -> Case | None:
        """A random instruction of an encoding, if one is found that can be run, and so many states."""
        instruction = find(encoding, self._source, attempts=4)
        if instruction is None:
            return None
        instruction = prefixed(instruction, self._source)
        if instruction.target is not None:
            instruction = _jumping_ahead(instruction)
        return self._case(instruction, states) if usable(instruction, self._available) else None

    def pairs(self, count: int) -> Iterator[Case]:
        """An instruction that sets flags, and one that reads them."""
        made = 0
        setters = self._pool(writes=ARITHMETIC_FLAGS, reads=0)
        readers = self._pool(writes=0, reads=ARITHMETIC_FLAGS)
        while made < count:
            first = self._source.choice(setters)
            second = self._source.choice(readers).code if self._source.random() < 0.5 else self._jump()
            found = self._joined([first.code, second])
            if found is not None:
                made += 1
                yield found

    def sequences(self, count: int) -> Iterator[Case]:
        """Several instructions, perhaps with a jump at the end; only the first may access memory that is no stack."""
        pool = self._pool(writes=0, reads=0)
        verbatim = self._registers_only(self._verbatim, _POOL // 2) or pool
        made = 0
        while made < count:
            codes = []
            if self._source.random() < 0.3:
                start = find(self._source.choice(self._lifted), self._source)
                if start is not None and start.flow is Flow.NEXT and usable(start, self._available):
                    codes.append(start.code)
            on_stack = 0.5 if self._source.random() < 0.3 else 0.0
            for _ in range(self._source.randrange(2, 7)):
                if self._source.random() < on_stack:
                    codes.append(self._source.choice(_ON_THE_STACK))
                    continue
                kind = verbatim if self._source.random() < 0.15 else pool
                codes.append(self._source.choice(kind).code)
            if self._source.random() < 0.3:
                codes.append(self._jump())
            found = self._joined(codes)
            if found is not None:
                made += 1
                yield found

    def _jump(self) -> bytes:
        return self._source.choice(_SHORT_JUMPS if self._source.random() < 0.7 else _OTHER_JUMPS)

    def _joined(self, codes: Sequence[bytes]) -> Case | None:
        code = b"".join(codes)
        instructions = decode_all(code)
        if instructions is None or undefined_after(instructions) is None:
            return None
        return Case(code, self._live(), self._source.randrange(2**32), states=self._states // 2)

    def _case(self, instruction: Instruction, states: int) -> Case:
        where = "inside"
        if instruction.effects.memory and self._source.random() < 0.2:
            where, states = self._source.choice(WHERES[1:]), _FEW
        return Case(instruction.code, self._live(), self._source.randrange(2**32), where, states)

    def _live(self) -> int:
        """All flags mostly; else a few, since emitters and exits do less for those that are not live."""
        if self._source.random() < 0.75:
            return ARITHMETIC_FLAGS
        flags = [flag for flag in FLAG_SHIFT if flag & ARITHMETIC_FLAGS]
        return sum(self._source.sample(flags, self._source.randrange(3)))

    def _pool(self, writes: int, reads: int) -> list[Instruction]:
        """Lifted instructions on registers, some that write or read such flags."""
        found = self._registers_only(self._lifted, _POOL)
        return [
            i for i in found
            if (not writes or i.effects.writes & writes) and (not reads or i.effects.reads & reads)
        ]  # fmt: skip

    def _registers_only(self, encodings: Sequence[Encoding], count: int) -> list[Instruction]:
        found = []
        for _ in range(count):
            instruction = find(self._source.choice(encodings), self._source)
            if instruction is None or instruction.flow is not Flow.NEXT or not usable(instruction, self._available):
                continue
            stack = any(isinstance(o, Reg) and o.index == RSP for o in instruction.operands)
            memory = instruction.effects.memory or any(isinstance(o, Mem) and o.width for o in instruction.operands)
            if not memory and not stack and not instruction.effects.reads & X87:
                found.append(instruction)
        return found
