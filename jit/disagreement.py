"""What to make of a difference between two runs: where in the code it arose, and whether it is real."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

from codecache.types import Overlay
from jit.compare import Difference, Rules, compare
from jit.emulate import CODE_BYTES, Machine, Run, Tracer
from jit.emulated_memory import EmulatedMemory
from jit.random_state import State
from lifter.decode import decode
from lifter.instruction import Instruction
from lifter.registers import ARITHMETIC_FLAGS, GPRS

_LINES: Final = 16
"""Instructions shown of each side."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The instructions that ran last before a difference, oldest first."""

    original: tuple[str, ...]
    instrumented: tuple[str, ...]


def list_code(memory: EmulatedMemory, overlay: Overlay, entry: int, state: State, difference: Difference) -> Listing:
    """Run both sides once more, watching every instruction."""
    return Listing(
        _last_instructions(memory, None, entry, state, difference.original),
        _last_instructions(memory, overlay, entry, state, difference.instrumented),
    )


def _last_instructions(
    memory: EmulatedMemory, overlay: Overlay | None, entry: int, state: State, position: int
) -> tuple[str, ...]:
    tracer = Tracer(memory, overlay)
    lines = []
    for address in tracer.addresses_before(entry, state, position, 16 * CODE_BYTES)[-_LINES:]:
        stub = memory.stub_at(address)
        if stub is not None:
            lines.append(f"({stub})")
            continue
        instruction = decode(tracer.machine.code_at(address, 15))
        text = instruction.text if isinstance(instruction, Instruction) else f".byte {instruction.code.hex()}"
        lines.append(f"{address - memory.base:#x}: {text}")
    return tuple(lines)


def excuse(
    memory: EmulatedMemory,
    overlay: Overlay,
    entry: int,
    state: State,
    original: Run,
    difference: Difference,
    red_zone: int,
) -> str:
    """Why `difference` is none that a program has a right to, '' if it has."""
    if _depends_on_dead_stack(memory, entry, state, original, difference, red_zone):
        return "result depends on memory below the stack pointer"
    if _reads_patched_code(memory, overlay, entry, state, difference):
        return "result depends on code bytes that are overwritten"
    return ""


def _depends_on_dead_stack(
    memory: EmulatedMemory, entry: int, state: State, original: Run, difference: Difference, red_zone: int
) -> bool:
    """Whether the original itself comes to another result when memory below its red zone changes.

    Then it reads what it never wrote (the padding of a structure, an unused value that is copied along), and a
    region's frame may show through.
    """
    machine = Machine(memory, scribble=red_zone)
    scribbled = machine.run(entry, state, CODE_BYTES)
    found = compare(original, scribbled, Rules((0, 0), red_zone), [GPRS | ARITHMETIC_FLAGS] * len(original.exits))
    return found is not None and found.original <= difference.original


def _reads_patched_code(
    memory: EmulatedMemory, overlay: Overlay, entry: int, state: State, difference: Difference
) -> bool:
    """Whether the original reads bytes on which trampolines stand, as only random pointers make it do."""
    starts = [patch.address + memory.base for patch in overlay.patches]
    ends = [patch.address + memory.base + len(patch.after) for patch in overlay.patches]
    for address, size in Tracer(memory, None).reads_before(entry, state, difference.original, CODE_BYTES):
        number = bisect_right(ends, address)
        if number < len(starts) and starts[number] < address + size:
            return True
    return False
