"""What to make of a difference between two runs: whether it is real, and where in the code it arose."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from codecache.types import Overlay, Patch
from jit import event_log
from jit.compare import Difference, Rules, compare
from jit.emulate import CODE_BYTES, Machine, Run, Tracer
from jit.emulated_memory import STACK, STACK_SIZE, EmulatedMemory
from jit.random_state import State
from jit.watched import ImageLiveness
from lifter.decode import decode
from lifter.instruction import Flow, Instruction, Reg
from lifter.registers import ARITHMETIC_FLAGS, GPRS, R12, R13, R14, R15, RBP, RBX
from lifter.summaries import ARGUMENTS, CLOBBERED

_LINES: Final = 16
"""Instructions shown of each side."""
_COMPUTED: Final = (Flow.JUMP_INDIRECT, Flow.CALL_INDIRECT, Flow.RETURN)
_CALLEE_SAVED: Final = frozenset((RBX, RBP, R12, R13, R14, R15))


@dataclass(frozen=True, slots=True)
class Listing:
    """The instructions that ran last before a difference, oldest first."""

    original: tuple[str, ...]
    instrumented: tuple[str, ...]


class _Patches:
    """Where the overlay overwrites code, as loaded."""

    def __init__(self, patches: Sequence[Patch], base: int) -> None:
        self._starts = [patch.address + base for patch in patches]
        self._ends = [patch.address + base + len(patch.after) for patch in patches]

    def touched(self, start: int, end: int) -> bool:
        """Whether [start, end) has overwritten bytes."""
        number = bisect_right(self._ends, start)
        return number < len(self._starts) and self._starts[number] < end

    def covers(self, address: int) -> bool:
        """Whether `address` is in overwritten bytes, but not the first of them."""
        number = bisect_right(self._ends, address)
        return number < len(self._starts) and self._starts[number] < address


class SecondLook:
    """Slow machines to look at single runs again; made when first needed, and kept."""

    def __init__(self, memory: EmulatedMemory, overlay: Overlay, red_zone: int) -> None:
        self._memory = memory
        self._overlay = overlay
        self._red_zone = red_zone
        self._patches = _Patches(overlay.patches, memory.base)

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

    def lost(self, entry: int, state: State, original: Run, liveness: ImageLiveness) -> list[int]:
        """Registers and flags that nobody counts on any more at each exit of the original, as masks.

        They were dead at the end of some block and were not written since: a region may have left other garbage in
        them than the original, which shows where the garbage is handed on, say as the unused sixth argument of a call.
        """
        lost, dead = 0, 0
        result: list[int] = []
        for _, address in self._tracer.instructions(entry, state, CODE_BYTES):
            if self._memory.stub_at(address) is not None:
                result.append(lost)
                lost &= ~CLOBBERED
                dead = 0
                continue
            lost |= dead
            instruction = decode(self._tracer.machine.code_at(address, 15))
            if isinstance(instruction, Instruction):
                lost &= ~instruction.effects.kills
                dead = liveness.dead_at(address - self._memory.base)
                if instruction.flow is not Flow.RETURN:
                    dead &= ~ARGUMENTS
        result += [lost] * (len(original.exits) - len(result))
        return result[: len(original.exits)]

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
        if any(self._patches.covers(address) for address in self._computed_targets(entry, state, difference)):
            return "a computed jump into overwritten code"
        return ""

    def excuse_count(
        self, entry: int, state: State, difference: Difference, inside_block: Callable[[int], bool]
    ) -> str:
        """Why a difference between a counter and the executions of its block is none, '' if it is one."""
        if any(inside_block(address) for address in self._computed_targets(entry, state, difference)):
            return "a computed jump to where no block begins"
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
        return any(
            self._patches.touched(address, address + size)
            for records, address, size in self._tracer.reads(entry, state, CODE_BYTES)
            if records <= difference.original
        )

    def _computed_targets(self, entry: int, state: State, difference: Difference) -> Iterator[int]:
        """Where computed jumps of the original go.

        Random data makes them go to the middle of blocks and instructions; that the program never does this is what
        the control-flow graph has to prove.
        """
        computed = False
        for records, address in self._tracer.instructions(entry, state, CODE_BYTES):
            if records > difference.original:
                return
            if computed:
                yield address
            instruction = decode(self._tracer.machine.code_at(address, 15))
            computed = isinstance(instruction, Instruction) and instruction.flow in _COMPUTED

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
