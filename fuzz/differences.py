"""Compares what original and lifted code left, state by state: the same signal, place, registers, flags and memory."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fuzz.emulated import Write
from fuzz.native import STACK
from fuzz.state import Batch, Region, Results
from lifter.instruction import Instruction
from lifter.registers import ARITHMETIC_FLAGS, FLAG_SHIFT, GPR_NAMES, GPRS, RSP, bits, names

_FIP: Final = slice(6, 16)
"""Opcode and address of the last x87 instruction, which is the lifted code's own, in `Batch.x87`."""
_KERNEL_CODE: Final = 128
"""si_code of a fault for which the processor gives no address (not canonical)."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What must be equal, in each of n states."""

    gprs: NDArray[np.bool_]
    """[n, 16] or [1, 16]: registers, where the code ended."""
    flags: NDArray[np.uint64]
    """[n] masks of `lifter.registers`."""
    border: NDArray[np.uint64]
    """[n] addresses: what the stack holds below them may differ."""
    regions: tuple[Region, ...]
    """Of the states' memory."""
    private: tuple[Region, ...] = ()
    """Those that only lifted code writes."""
    stack: int = STACK.address
    """Where the stack begins."""


def without_flags(watch: Watch, flags: int) -> Watch:
    """The same, but for some flags."""
    return replace(watch, flags=watch.flags & np.uint64(~flags % 2**64))


def select_watch(watch: Watch, rows: NDArray[np.bool_]) -> Watch:
    """The same for some of the states."""
    gprs = watch.gprs if len(watch.gprs) == 1 else watch.gprs[rows]
    return replace(watch, gprs=gprs, flags=watch.flags[rows], border=watch.border[rows])


@dataclass(frozen=True, slots=True)
class Found:
    """A difference."""

    row: int
    """The number of the state."""
    what: str
    """For people."""


class Describer:
    """Says what differs, and from which state."""

    def __init__(self, instructions: Sequence[Instruction], before: Batch) -> None:
        self._before = before
        reads = 0
        for instruction in instructions:
            reads |= instruction.effects.reads
        self._reads = bits(reads & GPRS)
        self._flags = reads & ARITHMETIC_FLAGS

    def at(
        self, wrong: NDArray[np.bool_], name: str, original: NDArray[np.generic], lifted: NDArray[np.generic]
    ) -> Found | None:
        """About the first row of `wrong`, if there is one."""
        if not wrong.any():
            return None
        row = int(wrong.argmax())
        return self.row(row, name, int(original[row]), int(lifted[row]))

    def row(self, row: int, name: str, original: int | str, lifted: int | str) -> Found:
        """About one row."""
        values = [hex(value) if isinstance(value, int) else value for value in (original, lifted)]
        gprs = self._before.gprs[row]
        state = [f"{GPR_NAMES[index]}={int(gprs[index]):#x}" for index in self._reads]
        flags = int(self._before.flags[row])
        state += [f"{names(f)[0]}={flags >> s & 1}" for f, s in FLAG_SHIFT.items() if self._flags & f]
        return Found(row, f"{name} {values[0]}, lifted {values[1]} (from {' '.join(state)})")


def ended(results: Results) -> NDArray[np.bool_]:
    """[n] whether the code ran to where it leads: to a breakpoint, or to where there is no code."""
    there: NDArray[np.bool_] = (results.signal == signal.SIGTRAP) | (results.signal == 0)
    there |= (results.signal == signal.SIGSEGV) & (results.fault_address == results.final.rip)
    return there


def first_difference(
    before: Batch, original: Results, lifted: Results, watch: Watch, describe: Describer
) -> Found | None:
    """How the outcomes differ in the first state in which they do.

    Of endless runs of the original, and of those that took its process with them, nothing is compared.
    """
    timely = (original.signal != signal.SIGPROF) & (original.signal >= 0)
    there = ended(original) & timely
    signals = (_one_fault(original.signal) != _one_fault(lifted.signal)) & timely
    if (found := describe.at(signals, "ends", original.signal, lifted.signal)) is not None:
        return found
    rips = there & (original.final.rip != lifted.final.rip)
    if (found := describe.at(rips, "goes to", original.final.rip, lifted.final.rip)) is not None:
        return found
    known = (original.signal == signal.SIGSEGV) & (original.code != _KERNEL_CODE)
    places = known & (original.fault_address != lifted.fault_address)
    if (found := describe.at(places, "faults at", original.fault_address, lifted.fault_address)) is not None:
        return found
    mine, theirs = original.final.gprs, lifted.final.gprs
    for index in range(16):
        wrong = there & watch.gprs[:, index] & (mine[:, index] != theirs[:, index])
        if (found := describe.at(wrong, GPR_NAMES[index], mine[:, index], theirs[:, index])) is not None:
            return found
    for flag, shift in FLAG_SHIFT.items():
        mask = np.uint64(1 << shift)
        first, second = original.final.flags & mask, lifted.final.flags & mask
        wrong = there & (first != second) & (watch.flags & np.uint64(flag) != 0)
        shown = (first >> np.uint64(shift), second >> np.uint64(shift))
        if (found := describe.at(wrong, names(flag)[0], *shown)) is not None:
            return found
    found = _memory_difference(original.final, lifted.final, timely, watch, describe)
    return found or _ambient_difference(original.final, lifted.final, there, describe)


def _memory_difference(
    original: Batch, lifted: Batch, timely: NDArray[np.bool_], watch: Watch, describe: Describer
) -> Found | None:
    # Whole words first, which is where the time goes: they differ in few rows.
    suspects = (original.memory.view(np.uint64) != lifted.memory.view(np.uint64)).any(axis=1) & timely
    for row in np.flatnonzero(suspects).tolist():
        columns = columns_of(watch.regions)
        wrong = original.memory[row] != lifted.memory[row]
        wrong &= ~((columns >= watch.stack) & (columns < watch.border[row]))
        for region in watch.private:
            wrong &= ~((columns >= region.address) & (columns < region.end))
        if wrong.any():
            column = int(wrong.argmax())
            name = f"memory at {int(columns[column]):#x}"
            return describe.row(row, name, int(original.memory[row, column]), int(lifted.memory[row, column]))
    return None


def _ambient_difference(original: Batch, lifted: Batch, there: NDArray[np.bool_], describe: Describer) -> Found | None:
    """In what regions never touch: vectors, x87, MXCSR."""
    x87 = [batch.x87 for batch in (original, lifted)]
    for image in x87:
        image[:, _FIP] = 0
    for name, left, right in (
        ("xmm", original.xmm, lifted.xmm), ("ymm", original.ymm_high, lifted.ymm_high),
        ("zmm", original.zmm_high, lifted.zmm_high), ("zmm16 to zmm31", original.zmm_more, lifted.zmm_more),
        ("k", original.masks, lifted.masks), ("x87", x87[0], x87[1]), ("mxcsr", original.mxcsr, lifted.mxcsr),
    ):  # fmt: skip
        rows = (left != right).reshape(len(left), -1).any(axis=1) & there
        if rows.any():
            row = int(rows.argmax())
            return describe.row(row, name, left[row].tobytes().hex(), right[row].tobytes().hex())
    return None


def other_order(
    original: Sequence[Sequence[Write]],
    lifted: Sequence[Sequence[Write]],
    compared: NDArray[np.bool_],
    watch: Watch,
    describe: Describer,
) -> Found | None:
    """The first of the `compared` states in which memory is written otherwise, or in another order."""
    stack_end = next(region.end for region in watch.regions if region.address == watch.stack)
    for row in np.flatnonzero(compared).tolist():
        if original[row] == lifted[row]:
            continue
        border = int(watch.border[row])
        mine, theirs = (
            [write for write in writes[row] if not _is_free(write, border, (watch.stack, stack_end), watch.private)]
            for writes in (original, lifted)
        )
        if mine != theirs:
            shown = [" ".join(f"{a:#x}/{s}={v:#x}" for a, s, v in writes) or "nothing" for writes in (mine, theirs)]
            return describe.row(row, "writes", *shown)
    return None


def _is_free(write: Write, border: int, stack: tuple[int, int], private: Sequence[Region]) -> bool:
    address, size, _ = write
    if stack[0] <= address < stack[1]:
        return address + size <= border
    return any(region.address <= address < region.end for region in private)


@lru_cache
def columns_of(regions: tuple[Region, ...]) -> NDArray[np.uint64]:
    """[memory] address of each byte of a row of `Batch.memory`."""
    parts = [np.arange(r.address, r.end, dtype=np.uint64) for r in regions if r.content is None]
    return np.concatenate(parts)


def _one_fault(signals: NDArray[np.int64]) -> NDArray[np.int64]:
    """SIGBUS counts as SIGSEGV: which it is for an address that is not canonical depends on the base register."""
    return np.where(signals == signal.SIGBUS, np.int64(signal.SIGSEGV.value), signals)


def watched_registers(mask: int = GPRS) -> NDArray[np.bool_]:
    """[1, 16] for `Watch.gprs`: those of a mask, and always RSP."""
    return np.array([[index == RSP or bool(mask >> index & 1) for index in range(16)]])
