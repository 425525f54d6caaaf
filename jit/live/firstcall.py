"""What an entry leads to until its function is instrumented: a stub that waits for it once.

The stub loads a byte of a page that is the function's own and that waits at its first access (see `userfault`). If the
byte is 1 the function is instrumented by then, and the stub goes on to its first region. If it is 0 the function stays
as it is (nobody is there to instrument it, or it cannot be): the stub runs a copy of the instructions that its jump
was written over, and goes on behind them. Neither way needs this process to be alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from jit.trampolines import JUMP, jump_to
from lifter.graph import Block
from lifter.instruction import Flow, Instruction

_LOWER_STACK: Final = bytes.fromhex("488d642480")
"""lea rsp, [rsp - 128]: below the red zone, flags kept."""
_RAISE_STACK: Final = bytes.fromhex("488da42480000000")
_PUSH_RCX: Final = b"\x51"
_POP_RCX: Final = b"\x59"
_LOAD_BYTE: Final = bytes.fromhex("0fb60d")
"""movzx ecx, byte [rip + ...]."""
_JRCXZ: Final = 0xE3
_RIP_RELATIVE_JCC: Final = 0x80
_SHORT_JCC: Final = range(0x70, 0x80)
ALIGNMENT: Final = 16


@dataclass(frozen=True, slots=True)
class Displaced:
    """Instructions that can run elsewhere: those that a jump at their address would overwrite."""

    address: int
    """Of the first one: where the jump is written."""
    before: bytes
    """What stands there: as many bytes as the jump has."""
    parts: tuple[tuple[bytes, int | None], ...]
    """Machine code of each, and the address that its last four bytes shall reach (None: copied as it is). Where an
    immediate follows the displacement, the code behind it is the next part."""
    following: int | None
    """Where control goes on; None if the last one never goes on."""

    def at(self, place: int) -> bytes:
        """The code for `place`. Raises ValueError where something is out of reach."""
        code = bytearray()
        for content, target in self.parts:
            code += content
            if target is not None:
                distance = target - (place + len(code))
                if not -(1 << 31) <= distance < 1 << 31:
                    raise ValueError(f"{target:#x} is out of reach of {place:#x}")
                code[-4:] = distance.to_bytes(4, "little", signed=True)
        if self.following is not None:
            code += jump_to(place + len(code), self.following)
        return bytes(code)


def displaced(block: Block, jump: int, before: bytes, may_fault: bool) -> Displaced | None:
    """The instructions of `block` under a jump of five bytes at `jump`; None if they cannot run elsewhere.

    Such that would see where they run, or call from there, cannot; nor those that access memory other than by
    the stack pointer, unless `may_fault`.
    """
    parts: list[tuple[bytes, int | None]] = []
    following: int | None = block.end
    for address, instruction in block.addressed():
        if address < jump:
            continue
        if address >= jump + JUMP:
            following = address
            break
        moved = _moved(address, instruction, may_fault)
        if moved is None:
            return None
        parts += moved
        if instruction.flow in (Flow.JUMP, Flow.RETURN, Flow.JUMP_INDIRECT):
            following = None
    return Displaced(jump, before, tuple(parts), following)


def _moved(address: int, instruction: Instruction, may_fault: bool) -> list[tuple[bytes, int | None]] | None:
    code = instruction.code
    end = address + len(code)
    if instruction.flow in (Flow.JUMP, Flow.BRANCH):
        assert instruction.target is not None
        opcode = _near_form(instruction)
        return None if opcode is None else [(opcode + bytes(4), end + instruction.target)]
    if instruction.flow not in (Flow.NEXT, Flow.RETURN, Flow.JUMP_INDIRECT):
        return None
    memory = instruction.memory_operand
    if memory is None:
        return [(code, None)]
    if not memory.rip:
        return [(code, None)] if may_fault or memory.base == 4 or memory.width == 0 else None
    if instruction.disp_size != 4 or not may_fault:
        return None
    # The displacement counts from the end of the instruction, behind the immediate that may follow it.
    split = instruction.disp_at + 4
    behind = code[split:]
    moved: list[tuple[bytes, int | None]] = [(code[:split], end + memory.disp - len(behind))]
    return [*moved, (behind, None)] if behind else moved


def _near_form(instruction: Instruction) -> bytes | None:
    """The opcode of the same jump or branch with a displacement of 32 bits."""
    code = instruction.code
    if instruction.flow is Flow.JUMP:
        return b"\xe9" if code[0] in (0xEB, 0xE9) else None
    if code[0] in _SHORT_JCC:
        return bytes((0x0F, _RIP_RELATIVE_JCC | (code[0] & 0x0F)))
    if code[0] == 0x0F and code[1] & 0xF0 == _RIP_RELATIVE_JCC:
        return code[:2]
    return None


@dataclass(frozen=True, slots=True)
class FirstCallStub:
    """The stub at an address."""

    address: int
    code: bytes
    ready: int
    """Address of the jump of five bytes that is taken once the byte is 1: to the passive path, until it is known
    where to."""
    passive: int
    """Address of the displaced instructions, or of a jump of five bytes over them."""

    @property
    def inside(self) -> tuple[int, int]:
        """The addresses at which no thread may stand while that jump is written: it would go on in the jump, or go back
        to the original code of a function that is patched by then."""
        return self.passive + 1, self.address + len(self.code)


def first_call_stub(address: int, page: int, original: Displaced, red_zone: bool) -> FirstCallStub:
    """The stub for `address`, whose byte is at `page`. Raises ValueError where something is out of reach."""
    raised = _POP_RCX + (_RAISE_STACK if red_zone else b"")
    code = bytearray((_LOWER_STACK if red_zone else b"") + _PUSH_RCX + _LOAD_BYTE)
    code += (page - (address + len(code) + 4)).to_bytes(4, "little", signed=True)
    code += bytes((_JRCXZ, len(raised) + JUMP)) + raised
    ready = address + len(code)
    code += jump_to(ready, ready + JUMP + len(raised)) + raised
    passive = address + len(code)
    return FirstCallStub(address, bytes(code) + original.at(passive), ready, passive)
