"""Makes the case of a failure small: fewer instructions, and a state in which as much as possible is zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from fuzz.native import DATA, STACK
from fuzz.state import AVX512, FLAGS_AT, Batch
from lifter.registers import RSP

_ARITHMETIC: Final = 0x8D5
_MOST_ROUNDS: Final = 4
_WORD: Final = 8
_SIMPLE: Final = (0, 1, DATA.address + 0x400)

Fails = Callable[[Batch], bool]
"""Whether one state (a batch of one) still shows the failure."""


def shrink_code(parts: Sequence[bytes], fails: Callable[[Sequence[bytes]], bool]) -> list[bytes]:
    """As few of the instructions as still fail, in their order."""
    kept = list(parts)
    size = len(kept) // 2 or 1
    while size:
        at = 0
        while at < len(kept) and len(kept) > 1:
            shorter = kept[:at] + kept[at + size :]
            if shorter and fails(shorter):
                kept = shorter
            else:
                at += size
        size //= 2
    return kept


def expressible(state: Batch) -> Batch:
    """The state without what the line of a case has no place for: what only AVX-512 has is zero."""
    made = _copy(state)
    made.xsave[:, AVX512] = 0
    return made


def shrink_state(state: Batch, fails: Fails) -> Batch:
    """A state with fewer bits set that still fails."""
    best = state
    for _ in range(_MOST_ROUNDS):
        before = best
        for simpler in _simpler(best):
            candidate = simpler(best)
            if candidate is not None and fails(candidate):
                best = candidate
        if best is before:
            break
    return best


def _copy(state: Batch) -> Batch:
    return Batch(state.gregs.copy(), state.xsave.copy(), state.memory.copy())


Simplify = Callable[[Batch], Batch | None]
"""A simpler state, or None where it is as simple already."""


def _simpler(state: Batch) -> Iterator[Simplify]:
    """Attempts, the boldest first."""
    zeros = Batch.zeros(1, state.memory.shape[1])

    def plain_vectors(state: Batch) -> Batch | None:
        made = _copy(state)
        made.xsave[:] = zeros.xsave
        return _if_other(state, made)

    def no_memory(state: Batch) -> Batch | None:
        made = _copy(state)
        made.memory[:] = 0
        return _if_other(state, made)

    yield plain_vectors
    yield no_memory
    for part in (slice(0, 32), slice(32, 160), slice(160, 416), slice(576, 832)):
        yield _clearing("xsave", part, zeros)
    size = state.memory.shape[1]
    piece = size // 2
    while piece >= _WORD:
        yield from (_clearing("memory", slice(at, at + piece), zeros) for at in range(0, size, piece)
                    if state.memory[0, at : at + piece].any())  # fmt: skip
        piece //= 8
    for index in range(16):
        for value in (STACK.address + 0x800,) if index == RSP else _SIMPLE:
            yield _register(index, value)
    for flag in (1 << shift for shift in range(12) if _ARITHMETIC >> shift & 1):
        yield _flag(flag)


def _clearing(name: str, part: slice, zeros: Batch) -> Simplify:
    def simplify(state: Batch) -> Batch | None:
        made = _copy(state)
        getattr(made, name)[:, part] = getattr(zeros, name)[:, part]
        return _if_other(state, made)

    return simplify


def _register(index: int, value: int) -> Simplify:
    def simplify(state: Batch) -> Batch | None:
        gprs = state.gprs
        if int(gprs[0, index]) in _SIMPLE[: _SIMPLE.index(value) + 1 if value in _SIMPLE else 0]:
            return None
        gprs[0, index] = np.uint64(value)
        made = _copy(state)
        made.set_gprs(gprs)
        return _if_other(state, made)

    return simplify


def _flag(flag: int) -> Simplify:
    def simplify(state: Batch) -> Batch | None:
        made = _copy(state)
        made.gregs[:, FLAGS_AT] &= np.uint64(~flag % 2**64)
        return _if_other(state, made)

    return simplify


def _if_other(state: Batch, made: Batch) -> Batch | None:
    same = (
        (state.gregs == made.gregs).all() and (state.xsave == made.xsave).all() and (state.memory == made.memory).all()
    )
    return None if same else made
