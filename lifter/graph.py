"""The control-flow graph of a function: blocks that end wherever control can leave or another block begins.

A block ends at every jump, branch, call, system call, return and native instruction, so that its count times
its number of instructions is exact even when a call never comes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lifter.errors import Refusal
from lifter.image.types import Function
from lifter.instruction import Instruction


@dataclass(frozen=True, slots=True)
class Block:
    """A basic block of the original code."""

    address: int
    instructions: tuple[Instruction, ...]
    """At least one."""
    successors: tuple[int, ...]
    """Addresses where control goes next *inside the function*: branch target and fall-through, jump-table
    targets, the instruction after a call that can return. One that is not in the graph's `blocks` is code that
    was left out (see `refusals`): control leaves to the original there."""

    size: int = field(init=False)
    """In bytes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", sum(len(instruction.code) for instruction in self.instructions))

    @property
    def end(self) -> int:
        """First address after it."""
        return self.address + self.size

    @property
    def last(self) -> Instruction:
        """The instruction that ends it."""
        return self.instructions[-1]

    @property
    def last_address(self) -> int:
        """Address of the instruction that ends it."""
        return self.end - len(self.last.code)

    def addressed(self) -> list[tuple[int, Instruction]]:
        """Its instructions with their addresses."""
        result = []
        address = self.address
        for instruction in self.instructions:
            result.append((address, instruction))
            address += len(instruction.code)
        return result


@dataclass(frozen=True, slots=True)
class JumpTable:
    """A resolved table of an indirect jump."""

    jump: int
    """Address of the indirect jump."""
    address: int
    """Of the table; the jump's own where code computes the targets (labels as values) and there is no table."""
    targets: tuple[int, ...]
    """In table order, repeated where the table repeats."""


@dataclass(frozen=True, slots=True)
class FunctionGraph:
    """A function's control-flow graph."""

    function: Function
    blocks: Mapping[int, Block]
    """By address, in address order. Blocks do not overlap."""
    entries: frozenset[int]
    """Blocks that code outside the regions of this function can enter: its entry, other entry points (direct
    jumps or calls from other functions), the instruction after each call and system call, landing pads,
    addresses taken (code_pointers), successors of native instructions."""
    open_entries: frozenset[int]
    """Those of `entries` where control may arrive from elsewhere than the blocks that have them as a successor: how
    often these ran does not say how often the entry did. Calls and system calls are not in this: whether they come
    back, and once, is another question (`lifter.returning`)."""
    tables: Mapping[int, JumpTable]
    """Jump tables by the address of the jump; whole, unless the jump is `unresolved`, too."""
    tail_calls: frozenset[int]
    """Addresses of jumps (direct, conditional or indirect) that leave the function for another one."""
    unresolved: tuple[int, ...]
    """Addresses of indirect jumps, not tail calls, whose targets are not known, or not all of them: any byte of the
    function that is no known entry may then be jumped to."""
    callees: Mapping[int, int]
    """Address of each direct call or tail call -> target address."""
    noreturn: frozenset[int]
    """Addresses of calls that never come back (their block has no successor)."""
    refusals: tuple[Refusal, ...]
    """Code inside the function that was left out (data, undecodable bytes, overlapping instructions). Its bytes are
    in no block and must never be written: of instructions that overlap, none is in a block."""

    @property
    def complete(self) -> bool:
        """Whether every jump inside the function is understood."""
        return not self.unresolved
