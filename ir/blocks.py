"""Lifted blocks: what of an original block goes into a region, and how control leaves it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from lifter.graph import Block
from lifter.instruction import Flow, Handling, Instruction
from lifter.liftability import translation


class Terminator(enum.Enum):
    """How control leaves a lifted block."""

    FALL = "fall"
    """Into the block that follows."""
    JUMP = "jump"
    BRANCH = "branch"
    RETURN = "return"
    INDIRECT = "indirect"
    """An indirect jump: carried as its own bytes, once every register and the stack pointer are back."""
    NATIVE = "native"
    """To an original instruction that runs in place: a call, a system call, one that cannot be lifted."""
    CALL = "call"
    """A direct or indirect call made by the region, which pushes the original return address: exact, but
    the return is mispredicted. Only where the call's own bytes are needed for a trampoline."""
    THROUGH = "through"
    """A call that the region makes with its own instruction, and that comes back into the region: the return address
    is one in the cache, which the unwinder has to know (see `jit.frames`)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of a block's body."""

    address: int
    instruction: Instruction
    handling: Handling
    """LIFTED or VERBATIM."""


@dataclass(frozen=True, slots=True)
class LiftedBlock:
    """A block, or the part of it up to the first instruction that stays native."""

    address: int
    body: tuple[Step, ...]
    terminator: Terminator
    last: Instruction | None
    """The jump, branch or return that ends it; None where it falls through or leaves to native code."""
    last_address: int
    """Of `last`; for NATIVE, of the original instruction that control leaves to."""
    target: int | None
    """Of a direct jump, branch or call."""
    following: int
    """First address after the original block, where it falls through to."""
    stack_delta: int | None
    """What the body adds to RSP; None where it sets RSP to a value."""
    cut: bool = False
    """Whether native instructions remain after the body that are not the original block's last."""

    @property
    def successors(self) -> tuple[int, ...]:
        """Blocks that control can go to without leaving the region, if they are lifted too."""
        return () if self.stack_delta is None else self._targets

    @property
    def left_to(self) -> tuple[int, ...]:
        """Blocks that control can go to only by leaving the region, since RSP was set to a value."""
        return self._targets if self.stack_delta is None else ()

    @property
    def _targets(self) -> tuple[int, ...]:
        match self.terminator:
            case Terminator.FALL | Terminator.THROUGH:
                return (self.following,)
            case Terminator.JUMP:
                assert self.target is not None
                return (self.target,)
            case Terminator.BRANCH:
                assert self.target is not None
                return (self.target, self.following)
            case _:
                return ()

    @property
    def lifted_end(self) -> int:
        """First address whose instruction runs in place, or the end of the block."""
        return self.last_address if self.terminator is Terminator.NATIVE else self.following


_DIRECT = {Flow.JUMP: Terminator.JUMP, Flow.BRANCH: Terminator.BRANCH}


def lift_block(block: Block, *, take_call: bool = False, through: bool = False) -> LiftedBlock:
    """Split a block into a body and a terminator.

    `take_call` lets the region make the block's call itself, so that the call's bytes may be overwritten; `through`
    has the call come back into the region as well.
    """
    steps: list[Step] = []
    delta: int | None = 0
    address = block.address
    last_index = len(block.instructions) - 1
    for index, instruction in enumerate(block.instructions):
        if index == last_index and instruction.flow is not Flow.NEXT:
            break
        how = translation(instruction)
        native = how.handling is Handling.NATIVE or (
            # With RSP set to a value the new stack may lie where the region's frame is: nothing is written.
            delta is None and (how.writes_memory or (how.uses_stack and how.handling is Handling.VERBATIM))
        )
        if native:
            return LiftedBlock(
                block.address, tuple(steps), Terminator.NATIVE, None, address, None, block.end, delta,
                cut=index != last_index,
            )  # fmt: skip
        steps.append(Step(address, instruction, how.handling))
        if how.stack_delta is None or delta is None:
            delta = None
        else:
            delta += how.stack_delta
        address += instruction.size
    body = tuple(steps)
    last = block.last
    if last.flow is Flow.NEXT:
        return LiftedBlock(block.address, body, Terminator.FALL, None, block.end, None, block.end, delta)
    target = None if last.target is None else address + last.size + last.target
    terminator = _terminator(last, take_call and delta is not None, through and delta is not None)
    kept = None if terminator is Terminator.NATIVE else last
    return LiftedBlock(block.address, body, terminator, kept, address, target, block.end, delta)


def _terminator(last: Instruction, take_call: bool, through: bool) -> Terminator:
    if last.flow in _DIRECT and last.mnemonic not in ("xbegin",):
        return _DIRECT[last.flow]
    if last.flow is Flow.RETURN:
        return Terminator.RETURN
    mem = last.memory_operand
    carried = mem is None or (not mem.segment and mem.address_width == 64)
    if last.flow is Flow.JUMP_INDIRECT and carried and _is_near(last):
        return Terminator.INDIRECT
    if through and (
        (last.flow is Flow.CALL and last.size == 5) or (last.flow is Flow.CALL_INDIRECT and carried and _is_near(last))
    ):
        return Terminator.THROUGH
    if take_call and last.flow is Flow.CALL:
        return Terminator.CALL
    stack_based = mem is not None and 4 in (mem.base, mem.index)
    takes_register = bool(last.operands) and not stack_based
    if take_call and last.flow is Flow.CALL_INDIRECT and carried and takes_register and _is_near(last):
        return Terminator.CALL
    return Terminator.NATIVE


def _is_near(instruction: Instruction) -> bool:
    """Whether an indirect jump or call is FF /4 or FF /2, not the far form; RSP as target stays native."""
    if instruction.modrm_at < 1 or instruction.code[instruction.modrm_at - 1] != 0xFF:
        return False
    modrm = instruction.code[instruction.modrm_at]
    return (modrm >> 3) & 7 in (2, 4) and not (modrm >> 6 == 3 and modrm & 7 == 4 and not _extended(instruction))


def _extended(instruction: Instruction) -> bool:
    """Whether REX.B is set: the register is r12, not rsp."""
    prefix = instruction.code[instruction.modrm_at - 2] if instruction.modrm_at >= 2 else 0
    return prefix >> 4 == 4 and bool(prefix & 1)
