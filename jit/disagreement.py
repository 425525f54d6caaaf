"""What to make of a difference between two runs: whether it is real, and where in the code it arose."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from codecache.types import Overlay
from jit import event_log
from jit.abi_history import AbiHistory
from jit.compare import Difference, Rules, compare
from jit.emulate import CODE_BYTES, Machine, Run, Tracer
from jit.emulated_memory import STACK, STACK_SIZE, EmulatedMemory
from jit.random_state import State
from lifter.decode import decode
from lifter.image.types import Image
from lifter.instruction import Instruction, Reg
from lifter.registers import ARITHMETIC_FLAGS, GPRS, R12, R13, R14, R15, RBP, RBX

_LINES: Final = 16
"""Instructions shown of each side."""
_CALLEE_SAVED: Final = frozenset((RBX, RBP, R12, R13, R14, R15))


@dataclass(frozen=True, slots=True)
class Listing:
    """The instructions that ran last before a difference, oldest first."""

    original: tuple[str, ...]
    instrumented: tuple[str, ...]


class SecondLook:
    """Slow machines to look at single runs again; made when first needed, and kept."""

    def __init__(self, image: Image, memory: EmulatedMemory, overlay: Overlay, red_zone: int) -> None:
        self._image = image
        self._memory = memory
        self._overlay = overlay
        self._red_zone = red_zone

    @cached_property
    def _tracer(self) -> Tracer:
        return Tracer(self._memory, None)

    @cached_property
    def _other_tracer(self) -> Tracer:
        return Tracer(self._memory, self._overlay)

    @cached_property
    def _scribbler(self) -> Machine:
        return Machine(self._memory, scribble=self._red_zone)

    def saves(self, entry: int, state: State, original: Run) -> npt.NDArray[np.intp]:
        """Numbers of the records at which the original saves callee-saved registers on the stack.

        Whether such a register holds anything that matters, its callers decide: where it does not, a region may have
        left something else in it. Where it does, the restored value makes a difference later.
        """
        trace = self._tracer.instructions(entry, state, CODE_BYTES)
        counts = np.array([records for records, _ in trace], np.intp)
        records = original.records
        stores = np.flatnonzero(
            (records["kind"] == event_log.WRITE)
            & (records["size"] == 8)
            & (records["place"] >= STACK)
            & (records["place"] < STACK + STACK_SIZE)
        )
        owners = np.searchsorted(counts, stores, "right") - 1
        return np.array(
            [store for store, owner in zip(stores, owners, strict=True) if self._is_save(trace[owner][1])], np.intp
        )

    def lost(self, entry: int, state: State, original: Run) -> list[int]:
        """Registers and flags that the ABI leaves undefined at each exit of the original, as masks."""
        history = AbiHistory(self._same_function)
        lost: list[int] = []
        for _, address in self._tracer.instructions(entry, state, CODE_BYTES):
            if self._memory.stub_at(address) is not None:
                lost.append(history.lost)
                history.outside()
                continue
            instruction = decode(self._tracer.machine.code_at(address, 15))
            if isinstance(instruction, Instruction):
                history.step(address - self._memory.base, instruction)
        lost += [history.lost] * (len(original.exits) - len(lost))
        return lost[: len(original.exits)]

    def _same_function(self, first: int, second: int) -> bool:
        function = self._image.function_at(first)
        return function is not None and function == self._image.function_at(second)

    def _is_save(self, address: int) -> bool:
        instruction = decode(self._tracer.machine.code_at(address, 15))
        if not isinstance(instruction, Instruction) or instruction.mnemonic not in ("push", "mov"):
            return False
        stored = instruction.operands[-1] if instruction.operands else None
        return isinstance(stored, Reg) and stored.width == 64 and stored.index in _CALLEE_SAVED

    def excuse(self, entry: int, state: State, original: Run, difference: Difference) -> str:
        """Why `difference` is none that a program has a right to, '' if it has."""
        if self._depends_on_dead_stack(entry, state, original, difference):
            return "result depends on memory below the stack pointer"
        if self._reads_patched_code(entry, state, difference):
            return "result depends on code bytes that are overwritten"
        return ""

    def _depends_on_dead_stack(self, entry: int, state: State, original: Run, difference: Difference) -> bool:
        """Whether the original itself comes to another result when memory below its red zone changes.

        Then it reads what it never wrote (the padding of a structure, an unused value that is copied along), and a
        region's frame may show through.
        """
        scribbled = self._scribbler.run(entry, state, CODE_BYTES)
        everything = [GPRS | ARITHMETIC_FLAGS] * len(original.exits)
        found = compare(original, scribbled, Rules((0, 0), self._red_zone), everything)
        return found is not None and found.original <= difference.original

    def _reads_patched_code(self, entry: int, state: State, difference: Difference) -> bool:
        """Whether the original reads bytes on which trampolines stand, as only random pointers make it do."""
        base = self._memory.base
        starts = [patch.address + base for patch in self._overlay.patches]
        ends = [patch.address + base + len(patch.after) for patch in self._overlay.patches]
        for records, address, size in self._tracer.reads(entry, state, CODE_BYTES):
            if records > difference.original:
                break
            number = bisect_right(ends, address)
            if number < len(starts) and starts[number] < address + size:
                return True
        return False

    def listing(self, entry: int, state: State, difference: Difference) -> Listing:
        """The code that ran last on both sides."""
        return Listing(
            self._last_lines(self._tracer, entry, state, difference.original),
            self._last_lines(self._other_tracer, entry, state, difference.instrumented),
        )

    def _last_lines(self, tracer: Tracer, entry: int, state: State, position: int) -> tuple[str, ...]:
        trace = tracer.instructions(entry, state, 16 * CODE_BYTES)
        lines = []
        for address in [address for records, address in trace if records <= position][-_LINES:]:
            stub = self._memory.stub_at(address)
            if stub is not None:
                lines.append(f"({stub})")
                continue
            instruction = decode(tracer.machine.code_at(address, 15))
            text = instruction.text if isinstance(instruction, Instruction) else f".byte {instruction.code.hex()}"
            lines.append(f"{address - self._memory.base:#x}: {text}")
        return tuple(lines)
