"""How far RSP is from where it was at a function's entry: tells tail calls from jumps inside the function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from lifter.instruction import Flow, Imm, Instruction, Mem, Reg
from lifter.registers import R12, R13, R14, R15, RBP, RBX, RSP, gpr

State = tuple[int | None, int | None]
"""RSP and RBP relative to RSP at the entry; None where unknown."""

_FRAME: Final = gpr(RSP) | gpr(RBP)


def step(state: State, instruction: Instruction) -> State:
    """RSP and RBP after an instruction; calls are taken to leave both as they found them."""
    rsp, rbp = state
    mnemonic, operands = instruction.mnemonic, instruction.operands
    writes = instruction.effects.writes
    if mnemonic in ("push", "pushf"):
        return (None if rsp is None else rsp - instruction.width // 8), rbp
    if mnemonic in ("pop", "popf"):
        popped = operands[0] if operands else None
        if isinstance(popped, Reg) and popped.index == RSP:
            return None, rbp
        if isinstance(popped, Reg) and popped.index == RBP:
            rbp = None
        return (None if rsp is None else rsp + instruction.width // 8), rbp
    if mnemonic == "leave":
        return (None if rbp is None else rbp + 8), None
    if instruction.flow in (Flow.CALL, Flow.CALL_INDIRECT) or not writes & _FRAME:
        return state
    destination = operands[0] if operands else None
    if not isinstance(destination, Reg) or destination.width != 64 or destination.index not in (RSP, RBP):
        return (None if writes & gpr(RSP) else rsp), (None if writes & gpr(RBP) else rbp)
    value: int | None = None
    source = operands[1] if len(operands) > 1 else None
    own = rsp if destination.index == RSP else rbp
    if mnemonic in ("add", "sub") and isinstance(source, Imm) and own is not None:
        value = own + (source.value if mnemonic == "add" else -source.value)
    elif mnemonic == "mov" and isinstance(source, Reg) and source.index in (RSP, RBP):
        value = rsp if source.index == RSP else rbp
    elif mnemonic == "lea" and isinstance(source, Mem) and source.index is None and source.base in (RSP, RBP):
        base = rsp if source.base == RSP else rbp
        value = None if base is None else base + source.disp
    return (value, rbp) if destination.index == RSP else (rsp, value)


def depths(
    entries: Iterable[int],
    blocks: Mapping[int, Sequence[tuple[int, Instruction]]],
    successors: Mapping[int, Sequence[int]],
) -> dict[int, State]:
    """State *before the last instruction* of each block that is reached from the entries, which calls go to."""
    result = {}
    for start, state in depths_at_starts(entries, blocks, successors).items():
        for _, instruction in blocks[start][:-1]:
            if instruction.effects.writes & _FRAME:
                state = step(state, instruction)
        result[start] = state
    return result


def depths_at_starts(
    entries: Iterable[int],
    blocks: Mapping[int, Sequence[tuple[int, Instruction]]],
    successors: Mapping[int, Sequence[int]],
) -> dict[int, State]:
    """State before the first instruction of each block that is reached from the entries, which calls go to."""
    at_start: dict[int, State] = {entry: (0, None) for entry in entries if entry in blocks}
    work = list(at_start)
    while work:
        start = work.pop()
        state = at_start[start]
        for _, instruction in blocks[start]:
            if instruction.effects.writes & _FRAME:
                state = step(state, instruction)
        for successor in successors.get(start, ()):
            if successor not in blocks:
                continue
            known = at_start.get(successor)
            if known is None:
                at_start[successor] = state
            else:
                met: State = (
                    known[0] if known[0] == state[0] else None,
                    known[1] if known[1] == state[1] else None,
                )
                if met == known:
                    continue
                at_start[successor] = met
            work.append(successor)
    return at_start


def is_epilogue(lines: Sequence[tuple[int, Instruction]]) -> bool:
    """Whether the last thing a block does before its jump is to give its stack frame back."""
    for _, instruction in reversed(lines[:-1]):
        operands = instruction.operands
        first = operands[0] if operands else None
        if instruction.mnemonic == "leave":
            return True
        if instruction.mnemonic == "pop":
            # Callee-saved registers only: popping a return address to jump to it is something else.
            return isinstance(first, Reg) and first.index in (RBX, RBP, R12, R13, R14, R15)
        if instruction.effects.writes & gpr(RSP):
            return instruction.mnemonic == "add" and isinstance(first, Reg) and first.index == RSP
    return False
