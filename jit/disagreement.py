"""What to make of a difference between two runs: whether it is real, and where in the code it arose."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Final

import numpy as np
import numpy.typing as npt

from codecache.types import Overlay, Patch
from jit import event_log
from jit.compare import Difference, Rules, compare
from jit.emulate import CALLS_PER_RUN, CODE_BYTES, Machine, Run, Tracer
from jit.emulated_memory import STACK, STACK_SIZE, EmulatedMemory
from jit.random_state import State
from jit.watched import ImageLiveness
from lifter.decode import decode
from lifter.instruction import Flow, Instruction, Mem, Reg
from lifter.registers import ARITHMETIC_FLAGS, GPRS, RBP, RSP, gpr
from lifter.summaries import ARGUMENTS, CALLEE_SAVED, CLOBBERED

_LINES: Final = 16
"""Instructions shown of each side."""
_STRAY: Final = 16
"""Instructions for which code that is entered in the middle of another instruction may differ from the program's."""
_COMPUTED: Final = (Flow.JUMP_INDIRECT, Flow.CALL_INDIRECT, Flow.RETURN)


@dataclass(frozen=True, slots=True)
class Listing:
    """The instructions that ran last before a difference, oldest first."""

    original: tuple[str, ...]
    instrumented: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Garbage:
    """What may differ between two runs, because no code may count on it."""

    exits: list[int]
    """Registers and flags at each exit of the original, as masks."""
    writes: npt.NDArray[np.intp]
    """Numbers of the records at which the original stores such a register on the stack."""


class _Patches:
    """Where the overlay overwrites code, as loaded."""

    def __init__(self, patches: Sequence[Patch], base: int) -> None:
        self._starts = [patch.address + base for patch in patches]
        self._ends = [patch.address + base + len(patch.after) for patch in patches]

    def touched(self, start: int, end: int) -> bool:
        """Whether [start, end) has overwritten bytes."""
        first = self._start(start)
        return first is not None and first < end

    def covers(self, address: int) -> bool:
        """Whether `address` is in overwritten bytes, but not the first of them."""
        start = self._start(address)
        return start is not None and start < address

    def begins_at(self, address: int) -> bool:
        """Whether `address` is the first of overwritten bytes."""
        return self._start(address) == address

    def _start(self, address: int) -> int | None:
        """The start of the first overwritten bytes that do not end before `address`."""
        number = bisect_right(self._ends, address)
        return self._starts[number] if number < len(self._starts) else None


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

    def garbage(self, entry: int, state: State, original: Run, liveness: ImageLiveness) -> Garbage:
        """What the original hands on that nobody counts on any more.

        A register is garbage once it was dead at the end of some block, until it is written: a region may have left
        something else in it. What is stored from it may differ, and so may every callee-saved register that a function
        saves: whether it holds anything that matters, the callers decide. Where it does, the restored value makes a
        difference later.
        """
        lost, dead = 0, 0
        exits: list[int] = []
        writes: set[int] = set()
        for number, address in self._tracer.instructions(entry, state, CODE_BYTES):
            if self._memory.stub_at(address) is not None:
                exits.append(lost)
                lost &= ~CLOBBERED
                dead = 0
                continue
            lost |= dead
            instruction = decode(self._tracer.machine.code_at(address, 15))
            if isinstance(instruction, Instruction):
                if _stored_register(instruction) & (lost | CALLEE_SAVED):
                    writes.add(number)
                lost &= ~instruction.effects.kills
                dead = liveness.dead_at(address - self._memory.base)
                if instruction.flow is not Flow.RETURN:
                    dead &= ~ARGUMENTS
        exits += [lost] * (len(original.exits) - len(exits))
        positions = np.flatnonzero(original.records["kind"] == event_log.WRITE)
        free = positions[[number for number in sorted(writes) if number < len(positions)]]
        return Garbage(exits[: len(original.exits)], free)

    def excuse(
        self,
        entry: int,
        state: State,
        original: Run,
        instrumented: Run,
        difference: Difference,
        inside_block: Callable[[int], bool],
    ) -> str:
        """Why `difference` is none that a program has a right to, '' if it has."""
        if self._writes_frames(original, instrumented, difference):
            return "a write to where frames of regions are"
        if self._depends_on_dead_stack(entry, state, original, instrumented, difference):
            return "result depends on memory below the stack pointer"
        if self.reads_patched_code(entry, state, until=difference.original):
            return "result depends on code bytes that are overwritten"
        for address in self._computed_targets(entry, state, difference):
            if self._patches.covers(address) or (inside_block(address) and self._runs_into_patch(address)):
                return "a computed jump into overwritten code"
        return ""

    def excuse_count(
        self, entry: int, state: State, difference: Difference, inside_block: Callable[[int], bool]
    ) -> str:
        """Why a difference between a counter and the executions of its block is none, '' if it is one."""
        if any(inside_block(address) for address in self._computed_targets(entry, state, difference)):
            return "a computed jump to where no block begins"
        return ""

    def _runs_into_patch(self, address: int) -> bool:
        """Whether code from `address`, in the middle of a block, runs into overwritten bytes beside their beginning."""
        for _ in range(_STRAY):
            instruction = decode(self._tracer.machine.code_at(address, 15))
            if not isinstance(instruction, Instruction):
                return False
            end = address + len(instruction.code)
            if self._patches.touched(address, end):
                return not self._patches.begins_at(address)
            if instruction.flow not in (Flow.NEXT, Flow.BRANCH):
                return False
            address = end
        return False

    def _writes_frames(self, original: Run, instrumented: Run, difference: Difference) -> bool:
        """Whether the original writes below its red zone, as only random pointers make it do, where the instrumented
        code had frames by then."""
        writes, others = (
            run.records[run.records["kind"] == event_log.WRITE][:number]
            for run, number in ((original, difference.original), (instrumented, difference.instrumented))
        )
        on_stack = others["stack"][others["stack"] >= STACK]
        end = writes["place"] + writes["size"]
        below = (writes["place"] >= STACK) & (end <= writes["stack"] - self._red_zone)
        return len(on_stack) > 0 and bool(np.any(below & (end > on_stack.min())))

    def _depends_on_dead_stack(
        self, entry: int, state: State, original: Run, instrumented: Run, difference: Difference
    ) -> bool:
        """Whether the original itself comes to another result when memory below its red zone changes.

        Then it reads what it never wrote (the padding of a structure, an unused value that is copied along, what a
        function of the outside would have filled), and a region's frame may show through. Noise does not always make
        it go another way; what the instrumented code left there does.
        """
        everything = [GPRS | ARITHMETIC_FLAGS] * len(original.exits)
        for dead_stack in (None, self._stack_of(instrumented, difference.instrumented)):
            scribbled = self._scribbler.run(entry, state, CODE_BYTES, dead_stack=dead_stack)
            found = compare(original, scribbled, Rules((0, 0), self._red_zone), everything)
            if found is not None and found.original <= difference.original:
                return True
        return False

    def _stack_of(self, run: Run, number: int) -> bytes:
        """The stack as so many first memory writes of a run leave it."""
        content = bytearray(next(area.data for area in self._memory.areas if area.address == STACK))
        writes = run.records[run.records["kind"] == event_log.WRITE][:number]
        for place, size, value in zip(*(writes[name].tolist() for name in ("place", "size", "value")), strict=True):
            if STACK <= place <= STACK + STACK_SIZE - size:
                content[place - STACK : place - STACK + size] = value.to_bytes(size, "little")
        return bytes(content)

    def reads_patched_code(
        self, entry: int, state: State, *, until: float = inf, code_bytes: int = CODE_BYTES, calls: int = CALLS_PER_RUN
    ) -> bool:
        """Whether the original, before its memory write number `until`, reads bytes on which trampolines stand, as only
        random pointers make it do. The budget of the run is as in `Machine.run`."""
        return any(
            self._patches.touched(address, address + size)
            for writes, address, size in self._tracer.reads(entry, state, code_bytes, calls)
            if writes <= until
        )

    def _computed_targets(self, entry: int, state: State, difference: Difference) -> Iterator[int]:
        """Where computed jumps of the original go.

        Random data makes them go to the middle of blocks and instructions; that the program never does this is what
        the control-flow graph has to prove.
        """
        computed = False
        for writes, address in self._tracer.instructions(entry, state, CODE_BYTES):
            if writes > difference.original:
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
        for address in [address for writes, address in trace if writes <= position][-_LINES:]:
            stub = self._memory.stub_at(address)
            if stub is not None:
                lines.append(f"({stub})")
                continue
            instruction = decode(tracer.machine.code_at(address, 15))
            text = instruction.text if isinstance(instruction, Instruction) else f".byte {instruction.code.hex()}"
            lines.append(f"{address - self._memory.base:#x}: {text}")
        return tuple(lines)


def _stored_register(instruction: Instruction) -> int:
    """Mask of the register whose 64 bits an instruction stores on the stack; 0 if it does something else."""
    if instruction.mnemonic not in ("push", "mov") or not instruction.operands:
        return 0
    *places, stored = instruction.operands
    on_stack = all(isinstance(place, Mem) and place.base in (RSP, RBP) for place in places)
    return gpr(stored.index) if on_stack and isinstance(stored, Reg) and stored.width == 64 else 0
