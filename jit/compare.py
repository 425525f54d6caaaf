"""Two runs from the same state: do they agree in everything that the program can tell?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from jit import event_log
from jit.emulate import FLAGS_WORD, PC_WORD, SNAPSHOT, SPENT, TOP_WORD, VECTOR_WORD, X87_WORD, Exit, ExitKind, Run
from lifter.registers import DF, FLAG_SHIFT, GPR_NAMES, RSP, gpr

_FRAMES: Final = 1 << 22
"""How far below the program's stack the frames of regions can be."""
_STATELESS: Final = frozenset((ExitKind.FAULT, ExitKind.TRAP, ExitKind.BUDGET))
"""Exits inside a region, where the program's registers are wherever the compiler put them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing in which two runs differ."""

    what: str
    """For people, one line or more."""
    leg: int
    """How many calls of the outside were made before it."""
    original: int
    """Memory writes of the original before it."""
    instrumented: int
    """Memory writes of the instrumented code before it, those of the instrumentation included."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is compared anywhere in a run."""

    private: tuple[int, int]
    """Addresses [start, end) of the overlay's data, which only the instrumentation writes."""
    red_zone: int
    """Bytes below RSP that belong to the program."""


def compare(
    original: Run,
    instrumented: Run,
    rules: Rules,
    watched: Sequence[int],
    free: npt.NDArray[np.intp] | None = None,
) -> Difference | None:
    """The first difference, or None.

    `watched` are the general-purpose registers and flags to be compared at each exit of the original, as a mask of
    `lifter.registers`. Vector and x87 state, MXCSR and DF always are: no region may touch them. `free` are numbers of
    records of the original whose values may differ.
    """
    free = np.zeros(0, np.intp) if free is None else free
    endless = original.exits[-1].kind is ExitKind.BUDGET
    start, other_start = 0, 0
    for leg, (left, right) in enumerate(zip(original.exits, instrumented.exits, strict=False)):
        partial = ExitKind.BUDGET in (left.kind, right.kind)
        expected = original.records[start : left.position]
        found = _without(instrumented.records[other_start : right.position], rules.private)
        any_value = np.isin(np.flatnonzero(expected["kind"] == event_log.WRITE) + start, free)
        where = _compare_writes(expected, found[0], any_value, int(left.registers[RSP]), rules.red_zone, partial)
        if where is not None:
            what = _describe_writes(expected, found[0], *where)
            index = count_writes(original, start) + where[0]
            other = other_start + _nth(found[1], where[1], right.position - other_start)
            return Difference(what, leg, index, count_writes(instrumented, other))
        if (right.kind, right.target) == (ExitKind.BUDGET, SPENT) and not endless:
            what = f"the original {left.kind.value} ({left.target}), the instrumented code runs on and on"
            return _at_exits(what, leg, original, instrumented)
        if partial:
            return None
        what = _compare_exits(left, right, watched[leg])
        if what:
            return _at_exits(what, leg, original, instrumented)
        start, other_start = left.position, right.position
    if len(original.exits) != len(instrumented.exits):
        raise AssertionError("runs that agree at every exit end at the same one")
    return None


def count_writes(run: Run, position: int) -> int:
    """Number of memory writes among the first `position` records."""
    return int(np.count_nonzero(run.records["kind"][:position] == event_log.WRITE))


def _at_exits(what: str, leg: int, original: Run, instrumented: Run) -> Difference:
    first, second = (count_writes(run, run.exits[leg].position) for run in (original, instrumented))
    return Difference(what, leg, first, second)


def _without(
    records: npt.NDArray[np.void], private: tuple[int, int]
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.intp]]:
    """The writes among `records` outside of `private`, and their numbers."""
    place = records["place"]
    kept = (records["kind"] == event_log.WRITE) & ((place < private[0]) | (place >= private[1]))
    numbers = np.flatnonzero(kept)
    return records[numbers], numbers


def _compare_writes(
    expected: npt.NDArray[np.void],
    found: npt.NDArray[np.void],
    any_value: npt.NDArray[np.bool_],
    final_stack: int,
    red_zone: int,
    partial: bool,
) -> tuple[int, int] | None:
    """Where the sequences of writes part: (number of the write expected, number of the write found), or None.

    `expected` are all records of the original, `found` only writes; `any_value` says for each expected write whether
    its value may differ. With `partial`, one may go on after the other.
    """
    writes = expected[expected["kind"] == event_log.WRITE]
    length = min(len(writes), len(found))
    equal = (
        (writes["place"][:length] == found["place"][:length])
        & ((writes["value"][:length] == found["value"][:length]) | any_value[:length])
        & (writes["size"][:length] == found["size"][:length])
    )
    if equal.all() and (partial or len(writes) == len(found)):
        return None
    return _merge(writes, found, any_value, _stacks(expected, final_stack), red_zone, partial)


def _stacks(expected: npt.NDArray[np.void], final_stack: int) -> list[list[int]]:
    """RSP in its different values between each write of the original and the one before it, and after the last."""
    stack = [*expected["stack"].tolist(), final_stack]
    numbers = np.flatnonzero(expected["kind"] == event_log.WRITE).tolist()
    return [sorted(set(stack[start : end + 1])) for start, end in pairwise((0, *numbers, len(stack) - 1))]


def _merge(
    writes: npt.NDArray[np.void],
    found: npt.NDArray[np.void],
    any_value: npt.NDArray[np.bool_],
    stacks: list[list[int]],
    red_zone: int,
    partial: bool,
) -> tuple[int, int] | None:
    """As `_compare_writes`, skipping what regions write to dead stack memory: their own frames.

    Region code runs somewhere between two writes, with its frame below the red zone of then. A write of the frame may
    look like the next one of the program, so every number of writes matched so far is kept in mind.
    """
    left = _as_tuples(writes)
    matched = {0}
    for number, (place, size, value) in enumerate(_as_tuples(found)):
        if partial and len(left) in matched:
            return None
        after = set()
        for at in matched:
            if at < len(left) and (place, size) == left[at][:2] and (value == left[at][2] or any_value[at]):
                after.add(at + 1)
            if any(stack - red_zone - _FRAMES <= place <= stack - red_zone - size for stack in stacks[at]):
                after.add(at)
        if not after:
            return max(matched), number
        matched = after
    return None if partial or len(left) in matched else (max(matched), len(found))


def _as_tuples(writes: npt.NDArray[np.void]) -> list[tuple[int, int, int]]:
    return list(zip(*(writes[name].tolist() for name in ("place", "size", "value")), strict=True))


def _compare_exits(left: Exit, right: Exit, watched: int) -> str:
    """What differs between two exits, '' if nothing does."""
    if (left.kind, left.target) != (right.kind, right.target):
        return (
            f"the original {left.kind.value} ({left.target}), the instrumented code {right.kind.value} ({right.target})"
        )
    if left.kind in _STATELESS:
        return ""
    different = (left.registers ^ right.registers) & _mask(watched)
    if not different.any():
        return ""
    lines = [f"registers differ where the code {left.kind.value} ({left.target}):"]
    lines += [
        f"  {_name(word)}: {int(left.registers[word]):#x} expected, {int(right.registers[word]):#x} found"
        for word in np.flatnonzero(different).tolist()
    ]
    return "\n".join(lines)


@lru_cache(4096)
def _mask(watched: int) -> npt.NDArray[np.uint64]:
    """The bits of a snapshot that must be equal where `watched` is to be compared."""
    mask = np.full(SNAPSHOT, np.uint64(0xFFFFFFFFFFFFFFFF))
    mask[PC_WORD] = 0
    mask[FLAGS_WORD] = _flag_bits(watched | DF)
    mask[[index for index in range(16) if not (watched | gpr(RSP)) >> index & 1]] = 0
    return mask


def _flag_bits(flags: int) -> int:
    """A set of flags as bits of RFLAGS."""
    return sum(1 << shift for flag, shift in FLAG_SHIFT.items() if flags & flag)


def _name(word: int) -> str:
    if word < FLAGS_WORD:
        return GPR_NAMES[word]
    if word < TOP_WORD:
        return ("flags", "mxcsr", "x87 control word", "x87 status word", "x87 tag word")[word - FLAGS_WORD]
    if word < VECTOR_WORD:
        return "return address on the stack"
    if word < X87_WORD:
        return f"xmm{(word - VECTOR_WORD) // 2} ({'high' if word % 2 else 'low'} half)"
    return f"st{(word - X87_WORD) // 2}"


def _nth(numbers: npt.NDArray[np.intp], index: int, end: int) -> int:
    return int(numbers[index]) if index < len(numbers) else end


def _describe_writes(expected: npt.NDArray[np.void], found: npt.NDArray[np.void], at: int, other: int) -> str:
    writes = expected[expected["kind"] == event_log.WRITE]
    wanted = _describe_write(writes[at]) if at < len(writes) else "no further write"
    got = _describe_write(found[other]) if other < len(found) else "no further write"
    return f"memory write number {at + 1}: {wanted} expected, {got} found"


def _describe_write(record: np.void) -> str:
    return f"{int(record['size'])} bytes {int(record['value']):#x} to {int(record['place']):#x}"
