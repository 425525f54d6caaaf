"""The control-flow graph of a function: blocks that end wherever control can leave or another block begins.

A block ends at every jump, branch, call, system call, return and native instruction, so that its count times
its number of instructions is exact even when a call never comes back.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lifter.decode import decode, decode_run
from lifter.errors import Refusal
from lifter.image.types import Function
from lifter.instruction import Flow, Instruction, Undecodable


class Block:
    """A basic block of the original code. Not to be changed.

    Its instructions are given, or decoded from its bytes when they are first asked for: of most blocks most of the
    time only the last one matters.
    """

    __slots__ = ("_last", "_last_size", "_lines", "address", "flow", "size", "successors")

    def __init__(self, address: int, instructions: Sequence[Instruction], successors: tuple[int, ...]) -> None:
        self.address = address
        self.successors = successors
        """Addresses where control goes next *inside the function*: branch target and fall-through, jump-table
        targets, the instruction after a call that can return. One that is not in the graph's `blocks` is code that
        was left out (see `refusals`): control leaves to the original there."""
        self.size = sum([len(instruction.code) for instruction in instructions])
        """In bytes."""
        self.flow = instructions[-1].flow
        """How control leaves its last instruction."""
        self._lines: tuple[Instruction, ...] | bytes = tuple(instructions)
        self._last: Instruction | None = instructions[-1]
        self._last_size = len(instructions[-1].code)

    @classmethod
    def of_code(cls, address: int, code: bytes, last_size: int, flow: Flow, successors: tuple[int, ...]) -> Block:
        """The block with these bytes, of which the last instruction has `last_size`, and `flow`."""
        block = cls.__new__(cls)
        block.address = address
        block.successors = successors
        block.size = len(code)
        block.flow = flow
        block._lines = code
        block._last = None
        block._last_size = last_size
        return block

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """At least one."""
        lines = self._lines
        if isinstance(lines, bytes):
            lines = self._lines = tuple([_decoded(found) for _, found in decode_run(lines)])
        return lines

    @property
    def end(self) -> int:
        """First address after it."""
        return self.address + self.size

    @property
    def last(self) -> Instruction:
        """The instruction that ends it."""
        last = self._last
        if last is None:
            lines = self._lines
            last = self._last = _decoded(decode(lines[-self._last_size :])) if isinstance(lines, bytes) else lines[-1]
        return last

    @property
    def last_address(self) -> int:
        """Address of the instruction that ends it."""
        return self.address + self.size - self._last_size

    def addressed(self) -> list[tuple[int, Instruction]]:
        """Its instructions with their addresses."""
        result = []
        address = self.address
        for instruction in self.instructions:
            result.append((address, instruction))
            address += len(instruction.code)
        return result

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Block):
            return NotImplemented
        same = self.address == other.address and self.successors == other.successors
        return same and self.instructions == other.instructions

    def __hash__(self) -> int:
        return hash((self.address, self.size))

    def __repr__(self) -> str:
        return f"Block({self.address:#x}, {self.instructions!r}, {self.successors!r})"


def _decoded(found: Instruction | Undecodable) -> Instruction:
    assert isinstance(found, Instruction), "the bytes of a block were decoded before"
    return found


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

    def block_at(self, address: int) -> Block | None:
        """The block that has the byte at `address`, or None."""
        starts = list(self.blocks)
        at = bisect_right(starts, address) - 1
        block = self.blocks[starts[at]] if at >= 0 else None
        return block if block is not None and address < block.end else None

    def has_instruction(self, address: int) -> bool:
        """Whether an instruction of a known block starts at `address`."""
        if address in self.blocks:
            return True
        block = self.block_at(address)
        return block is not None and any(where == address for where, _ in block.addressed())

    @property
    def complete(self) -> bool:
        """Whether every jump inside the function is understood."""
        return not self.unresolved
