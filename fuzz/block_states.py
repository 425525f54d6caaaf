"""States from which a block runs on: registers that it addresses memory with point into memory, and so does memory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fuzz.block_code import COUNTERS, DATA, ELSEWHERE, OWNER_AT, REGIONS, STACK
from fuzz.state import FLAGS_AT, Batch, memory_places
from fuzz.values import random_batch, random_bytes, random_words
from jit.datafile import owner_word
from lifter.instruction import Instruction, Mem
from lifter.registers import RBP, RCX, RSP

_POOL: Final = 64
ROOM_BELOW, _ROOM_ABOVE = 0xC00, 0x600
"""Bytes of the stack below and above RSP."""
_MARGIN: Final = 0x1000
"""Bytes of `DATA` at both ends that pointers in memory keep away from: fields of what they point to fit."""
_SMALL_INDEX: Final = 24
_ARITHMETIC: Final = 0x8D5
_MOST_REPEATS: Final = 12


def _pool() -> Batch:
    """Memory and vectors to draw from."""
    generator = np.random.default_rng(0)
    _, size = memory_places(REGIONS)
    batch = random_batch(_POOL, (), generator)
    memory = np.zeros((_POOL, size), np.uint8)
    places, _ = memory_places(REGIONS)
    for region in (DATA, STACK):
        words = _plausible(_POOL, region.size // 8, generator)
        at = places[region.address]
        memory[:, at : at + region.size] = words.view(np.uint8)
    # Half of the states are those of a main thread.
    at = places[COUNTERS.address] + OWNER_AT
    memory[::2, at : at + 8] = np.frombuffer(owner_word(STACK.address).to_bytes(8, "little"), np.uint8)
    return Batch(batch.gregs, batch.xsave, memory)


def _plausible(count: int, columns: int, generator: np.random.Generator) -> NDArray[np.uint64]:
    """[count, columns] words: pointers to data and code, numbers, floats."""
    kind = generator.integers(0, 100, (count, columns))
    pointers = DATA.address + generator.integers(_MARGIN, DATA.size - _MARGIN, (count, columns), np.uint64) // 8 * 8
    code = ELSEWHERE + generator.integers(0, 0x400, (count, columns), np.uint64)
    floats = random_bytes(count, 8 * columns, generator).view(np.uint64)
    numbers = random_words(count, columns, generator)
    small = generator.integers(0, 40, (count, columns), np.uint64)
    return np.select([kind < 45, kind < 52, kind < 67, kind < 82], [pointers, code, numbers, small], floats)


_known: list[Batch] = []


def block_states(instructions: Sequence[Instruction], seed: int, count: int) -> Batch:
    """`count` states for a block at its start."""
    if not _known:
        _known.append(_pool())
    pool = _known[0]
    generator = np.random.default_rng(seed)
    source = random.Random(seed)
    rows = generator.integers(0, _POOL, count)
    batch = Batch(pool.gregs[rows], pool.xsave[generator.integers(0, _POOL, count)], pool.memory[rows])
    gprs = random_words(count, 16, generator)
    pointer = generator.random((count, 16)) < 0.3
    where = DATA.address + generator.integers(_MARGIN, DATA.size - _MARGIN, (count, 16), np.uint64) // 8 * 8
    gprs = np.where(pointer, where, gprs)
    room = generator.integers(ROOM_BELOW, STACK.size - _ROOM_ABOVE, count, np.uint64)
    gprs[:, RSP] = np.uint64(STACK.address) + (room & np.uint64(~15 % 2**64)) + np.uint64(8) * (room & np.uint64(1))
    _place_operands(instructions, gprs, generator, source)
    batch.set_gprs(gprs)
    flags = generator.integers(0, 2**12, count, np.uint64) & np.uint64(_ARITHMETIC)
    batch.gregs[:, FLAGS_AT] = np.uint64(0x202) | flags
    return batch


def _place_operands(
    instructions: Sequence[Instruction], gprs: NDArray[np.uint64], generator: np.random.Generator, source: random.Random
) -> None:
    """Choose registers that still have their first value where an operand uses them."""
    count = len(gprs)
    written, placed = 1 << RSP, 0
    # What lies below the stack pointer's red zone is nobody's: a frame is placed with all its operands above.
    in_frame = [
        mem.disp
        for instruction in instructions
        for mem in (*(access.operand for access in instruction.effects.memory), instruction.memory_operand)
        if isinstance(mem, Mem) and mem.base == RBP
    ]
    lowest = min(in_frame, default=0)
    for instruction in instructions:
        if instruction.rep and not written >> RCX & 1:
            gprs[:, RCX] = generator.integers(0, _MOST_REPEATS, count, np.uint64)
            written |= 1 << RCX
        operands = [access.operand for access in instruction.effects.memory]
        if instruction.memory_operand is not None:
            operands.append(instruction.memory_operand)
        for mem in operands:
            if not isinstance(mem, Mem) or mem.vsib:
                continue
            free = ~(written | placed)
            if mem.index is not None and free >> mem.index & 1 and mem.index != mem.base:
                gprs[:, mem.index] = generator.integers(0, _SMALL_INDEX, count, np.uint64)
                placed |= 1 << mem.index
            if mem.base is None or not free >> mem.base & 1 or mem.segment:
                continue
            low, high = _MARGIN // 2, DATA.size - _MARGIN // 2
            goal = DATA.address + generator.integers(low, high, count, np.uint64)
            goal = np.where(generator.random(count) < 0.8, goal & np.uint64(~15 % 2**64), goal)
            if mem.base == RBP and -0x400 < lowest < 0 and mem.disp < 0 and source.random() < 0.7:
                goal = gprs[:, RSP] + np.uint64(generator.integers(0, 16)) * np.uint64(8)
                gprs[:, RBP] = goal - np.uint64(lowest % 2**64)
            else:
                gprs[:, mem.base] = goal - np.uint64(mem.disp % 2**64)
            placed |= 1 << mem.base
        written |= instruction.effects.writes & 0xFFFF


def counter_columns() -> slice:
    """Where the counters stand in a row of memory."""
    places, _ = memory_places(REGIONS)
    return slice(places[COUNTERS.address], places[COUNTERS.address] + OWNER_AT)


def stack_columns(end: int) -> slice:
    """Where the stack below address `end` stands in a row of memory."""
    places, _ = memory_places(REGIONS)
    return slice(places[STACK.address], places[STACK.address] + end - STACK.address)
