"""Machine states to start from: random, but such that code runs on for a while."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from jit.emulated_memory import ARENA_SIZE, ARENAS, PAGE, STACK_ENTRY, EmulatedMemory, World
from lifter.registers import AF, CF, FLAG_SHIFT, GPR_NAMES, OF, PF, RDI, RDX, RSI, RSP, SF, ZF

_BOUNDARIES = (
    0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000,
    0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF80000000,
)  # fmt: skip
_FLAGS = tuple(1 << FLAG_SHIFT[flag] for flag in (CF, PF, AF, ZF, SF, OF))
_WORLDS = tuple(World)
_ALWAYS = 0x202
"""Interrupts on, and the bit that is always 1."""


@dataclass(frozen=True, slots=True)
class State:
    """The registers at the entry of a function; memory follows from the seed of `EmulatedMemory`."""

    registers: tuple[int, ...]
    """The 16 general-purpose registers in hardware order."""
    flags: int
    """RFLAGS."""
    vectors: tuple[int, ...]
    """xmm0 to xmm15."""
    seed: int
    """For what calls to the outside return."""
    world: World

    def __str__(self) -> str:
        registers = " ".join(f"{name}={value:#x}" for name, value in zip(GPR_NAMES, self.registers, strict=True))
        return f"{registers} flags={self.flags:#x}, {self.world.value} memory"


def random_value(source: random.Random, memory: EmulatedMemory, pointer: int = 45) -> int:
    """A register's value; `pointer` is the percentage of pointers into scratch memory."""
    kind = source.randrange(100)
    noise = source.getrandbits(64)
    if kind < pointer:
        return ARENAS + noise % (ARENA_SIZE - PAGE) & (-8 if kind % 5 else -1)
    kind = (kind - pointer) * 100 // (100 - pointer)
    if kind < 20:
        return noise % 16
    if kind < 40:
        return noise % 300
    if kind < 50:
        return -(noise % 16) & 0xFFFFFFFFFFFFFFFF
    if kind < 62:
        return _BOUNDARIES[noise % len(_BOUNDARIES)]
    if kind < 72:
        return noise & 0xFFFFFFFF
    if kind < 80:
        return STACK_ENTRY + noise % PAGE & -8
    if kind < 90:
        return int(memory.pointers[noise % len(memory.pointers)])
    return noise


def random_results(memory: EmulatedMemory, seed: int) -> Iterator[int]:
    """What calls of the outside return, one after the other, in a run from a state of `seed`."""
    source = random.Random(seed)
    while True:
        yield random_value(source, memory)


def random_state(memory: EmulatedMemory, seed: int, number: int) -> State:
    """State `number` of the sequence that `seed` stands for."""
    source = random.Random(seed << 32 | number)
    registers = [random_value(source, memory, 65 if index in (RDI, RSI, RDX) else 40) for index in range(16)]
    registers[RSP] = STACK_ENTRY - 8 - 16 * source.randrange(64)
    flags = _ALWAYS
    for flag in _FLAGS:
        flags |= flag * source.randrange(2)
    vectors = tuple(source.getrandbits(128) for _ in range(16))
    return State(tuple(registers), flags, vectors, seed << 32 | number, _WORLDS[number % len(_WORLDS)])
