"""Both oracles together: what they say of a prepared case."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fuzz import differences
from fuzz.coverage import EMULATED, NATIVE
from fuzz.differences import Describer, Found
from fuzz.emulated import EmulatedOracle
from fuzz.lifted import (
    Difference,
    Prepared,
    Rejected,
    case_states,
    doubled,
    first_difference,
    halves,
    run_both,
    watch_of,
)
from fuzz.native import NativeOracle
from fuzz.rows import REGIONS
from fuzz.state import Batch, Results
from jit.emulation_limits import limit_of, unsure_flags
from lifter.instruction import Flow, Handling, Instruction
from lifter.registers import AMBIENT

_ENDLESS: Final = signal.SIGPROF


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a case."""

    native: int
    """States compared on the processor."""
    emulated: int
    """States compared in unicorn; 0 where that is not to be believed."""
    difference: Difference | None


class Oracles:
    """The native processor and unicorn. A context manager."""

    def __init__(self, capacity: int = 1024, emulate: bool = True) -> None:
        """`capacity` as for `NativeOracle`; without `emulate` the processor alone is asked."""
        self.native = NativeOracle(REGIONS, capacity)
        self._emulated = EmulatedOracle(REGIONS) if emulate else None

    def __enter__(self) -> Oracles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the native oracle's process."""
        self.native.close()

    def check(self, prepared: Prepared, most: int | None = None) -> Checked | Rejected:
        """Compare original and lifted code from all states of the case; in unicorn from `most` of them at most."""
        placed = case_states(prepared.case)
        if isinstance(placed, str):
            return Rejected(prepared.case, placed, False)
        return self.check_states(prepared, placed[1], most)

    def check_states(self, prepared: Prepared, states: Batch, most: int | None = None) -> Checked | Rejected:
        """Compare original and lifted code from such states; in unicorn from `most` of them at most."""
        original, lifted = run_both(prepared, states, self.native)
        if (original.signal == signal.SIGILL).all():
            return Rejected(prepared.case, "is no instruction of this processor", False)
        count = len(states.gregs)
        found = first_difference(prepared, states, original, lifted)
        if found is not None:
            return Checked(count, 0, _difference(prepared, states, found, NATIVE))
        if self._emulated is None or most == 0 or unsure_after(prepared.instructions) is None:
            return Checked(count, 0, None)
        first = np.arange(count) < (count if most is None else most)
        few = select(states, first)
        answer = self._check_emulated(
            self._emulated, prepared, few, _select_results(original, first), _select_results(lifted, first)
        )
        asked = len(few.gregs)
        if isinstance(answer, Found):
            return Checked(count, asked, _difference(prepared, few, answer, EMULATED))
        return Checked(count, asked if answer else 0, None)

    @staticmethod
    def _check_emulated(
        oracle: EmulatedOracle, prepared: Prepared, states: Batch, native: Results, native_lifted: Results
    ) -> Found | bool:
        """Whether unicorn knows the code, or what it found: both codes as on the processor, the order of their writes,
        and lifted code on the processor against unicorn's original.

        That last comparison says nothing of instructions that are carried as bytes: they are the same on both sides,
        and unicorn knows neither the sticky flags nor the NaNs of floating point.
        """
        ambient = any((i.effects.reads | i.effects.writes) & AMBIENT for i in prepared.instructions)
        both = oracle.run_batch(prepared.content, doubled(states), ambient, len(states.gregs))
        original, lifted = halves(both.results)
        if ((original.signal == signal.SIGILL) & (native.signal != signal.SIGILL)).any():
            return False
        ended = native.signal == signal.SIGTRAP
        watch = differences.without_flags(watch_of(prepared, states), unsure_after(prepared.instructions) or 0)
        describe = Describer(prepared.instructions, states)
        found = differences.first_difference(states, original, lifted, watch, describe)
        if found is None:
            count = len(states.gregs)
            compared = (original.signal != _ENDLESS) & (lifted.signal != _ENDLESS)
            found = differences.other_order(both.writes[:count], both.writes[count:], compared, watch, describe)
        if found is None and ended.any() and all(handling is Handling.LIFTED for handling in prepared.handlings):
            rows = np.flatnonzero(ended)
            found = differences.first_difference(
                select(states, ended), _select_results(original, ended), _select_results(native_lifted, ended),
                differences.select_watch(watch, ended), Describer(prepared.instructions, select(states, ended)),
            )  # fmt: skip
            found = found and Found(int(rows[found.row]), f"{found.what} (lifted on the processor)")
        return found is None or Found(found.row, f"unicorn: {found.what}")


def unsure_after(instructions: Sequence[Instruction]) -> int | None:
    """Flags that unicorn has wrong after some code; None where it is not to be asked about the code at all."""
    unsure = 0
    for instruction in instructions:
        if limit_of(instruction) or instruction.flow is Flow.HALT or instruction.effects.reads & unsure:
            return None
        unsure = unsure & ~instruction.effects.kills | unsure_flags(instruction)
    return unsure


def select(batch: Batch, rows: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Batch:
    """Some of the states."""
    return Batch(batch.gregs[rows], batch.xsave[rows], batch.memory[rows])


def _select_results(results: Results, rows: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Results:
    return Results(
        select(results.final, rows),
        results.signal[rows],
        results.code[rows],
        results.fault_address[rows],
        results.fault_write[rows],
    )


def _difference(prepared: Prepared, states: Batch, found: Found, oracle: str) -> Difference:
    only = np.zeros(len(states.gregs), bool)
    only[found.row] = True
    return Difference(prepared.case, prepared.text, found.what, oracle, select(states, only))
