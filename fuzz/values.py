"""Random machine states in which interesting values are frequent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fuzz.state import FLAGS_AT, Batch, Region, memory_places

_ALL_FLAGS: Final = 0xCD5
"""CF, PF, AF, ZF, SF, DF, OF."""
_MXCSR_MASKED: Final = 0x1F80
_MXCSR_OTHERS: Final = 0xE07F
"""Rounding, FTZ, DAZ, sticky flags."""

BOUNDARIES: Final = np.array(
    [value % 2**64 for power in (0, 1, 3, 4, 5, 6, 7, 8, 15, 16, 31, 32, 63, 64) for near in (-1, 0, 1)
     for value in (2**power + near, -(2**power) + near)],
    np.uint64,
)  # fmt: skip
"""Powers of two and their neighbours, positive and negative."""

FLOATS: Final = np.array(
    [0.0, -0.0, 1.0, -1.0, 1.5, 2.0**31, -(2.0**31), 2.0**63, 1e30, 1e-30, 1e-40, np.inf, -np.inf, np.nan]
)
"""Values at which floating-point instructions behave differently."""


def random_words(count: int, columns: int, generator: np.random.Generator) -> NDArray[np.uint64]:
    """[count, columns] integers: a third boundary values, a third small, a third anything."""
    wide = generator.integers(0, 2**64, (count, columns), np.uint64)
    small = generator.integers(-40, 300, (count, columns)).astype(np.int64).view(np.uint64)
    boundary = generator.choice(BOUNDARIES, (count, columns))
    kind = generator.integers(0, 3, (count, columns))
    return np.where(kind == 0, wide, np.where(kind == 1, small, boundary))


def random_bytes(count: int, size: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """[count, size] bytes, `size` a multiple of 8: integers as above, floats of both sizes, zeros."""
    words = random_words(count, size // 8, generator)
    doubles = generator.choice(FLOATS, words.shape).view(np.uint64)
    with np.errstate(over="ignore"):
        singles = generator.choice(FLOATS, (count, size // 4)).astype(np.float32).view(np.uint64)
    kind = generator.integers(0, 6, words.shape)
    mixed = np.where(kind == 0, doubles, np.where(kind == 1, singles, np.where(kind == 2, np.uint64(0), words)))
    return mixed.view(np.uint8)


def random_batch(
    count: int, regions: Iterable[Region], generator: np.random.Generator, wild: bool = False
) -> Batch:
    """`count` random states. Unless `wild`, floating-point exceptions are masked and DF is mostly clear."""
    _, memory_size = memory_places(regions)
    batch = Batch.zeros(count, memory_size)
    batch.set_gprs(random_words(count, 16, generator))
    flags = generator.integers(0, 2**12, count, np.uint64) & np.uint64(_ALL_FLAGS)
    batch.gregs[:, FLAGS_AT] |= flags
    # A few distinct memories are enough, and much faster than as many as there are states.
    pool = random_bytes(min(count, 8), memory_size, generator)
    batch.memory[:] = pool[generator.integers(0, len(pool), count)]
    vectors = random_bytes(count, 512, generator).reshape(count, 16, 32)
    batch.xmm[:] = vectors[:, :, :16]
    batch.ymm_high[:] = vectors[:, :, 16:]
    if wild:
        batch.mxcsr[:] = generator.integers(0, 2**16, count, np.uint32)
    else:
        others = generator.integers(0, 2**16, count, np.uint32) & np.uint32(_MXCSR_OTHERS)
        batch.mxcsr[:] = np.where(generator.random(count) < 0.5, others, 0) | np.uint32(_MXCSR_MASKED)
    _randomise_x87(batch, generator)
    masks, high, more = batch.masks, batch.zmm_high, batch.zmm_more
    masks[:] = random_words(count, masks.shape[1], generator)
    for registers in (high, more):
        registers[:] = random_bytes(count, registers[0].size, generator).reshape(registers.shape)
    return batch


def _randomise_x87(batch: Batch, generator: np.random.Generator) -> None:
    """A full stack of valid numbers, any top of stack, any rounding and precision, exceptions masked."""
    count = len(batch.gregs)
    x87 = batch.x87
    control = np.uint16(0x7F) | (generator.integers(0, 16, count).astype(np.uint16) << np.uint16(8))
    x87[:, 0:2] = control.view(np.uint8).reshape(count, 2)
    status = generator.integers(0, 8, count).astype(np.uint16) << np.uint16(11)
    x87[:, 2:4] = status.view(np.uint8).reshape(count, 2)
    x87[:, 4] = 0xFF
    registers = x87[:, 24:].reshape(count, 8, 16)
    registers[:, :, :8] = generator.integers(0, 256, (count, 8, 8))
    registers[:, :, 7] |= 0x80
    exponents = generator.integers(0x3FF0, 0x4010, (count, 8)).astype(np.uint16)
    exponents |= generator.integers(0, 2, (count, 8)).astype(np.uint16) << np.uint16(15)
    registers[:, :, 8:10] = exponents[:, :, None].view(np.uint8)
    batch.set_x87(x87)
