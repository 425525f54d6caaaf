"""Puts the memory operands of one instruction where the test wants them, by choosing registers and displacement."""

from __future__ import annotations

import random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fuzz.native import CODE_ADDRESS, DATA, STACK
from fuzz.state import Batch, Region
from lifter.instruction import Instruction, Mem, Reg
from lifter.registers import RCX, RSP

_MARGIN: Final = 1024
"""Bytes of a region kept free at both ends where the place is otherwise of no matter."""


def place(
    instruction: Instruction, batch: Batch, where: str, read_only: Region, source: random.Random
) -> tuple[bytes, NDArray[np.bool_]] | None:
    """Set registers of `batch` so that the accesses fall 'inside' a region, at its 'end', one byte 'beyond' it, or
    in the 'read-only' one. Returns the code (its displacement may be another) and which states are as wanted, or
    None where that cannot be had.
    """
    gprs = batch.gprs
    code = instruction.code
    free = set(range(16))
    good = np.ones(len(gprs), bool)
    accesses = list(instruction.effects.memory)
    targets = [access.operand for access in accesses]
    targets += [o for o in instruction.operands if isinstance(o, Mem) and o not in targets and o.width]
    if instruction.rep:
        gprs[:, RCX] = [source.randrange(6) for _ in gprs]
    for number, operand in enumerate(targets):
        size = accesses[number].size if number < len(accesses) else 1
        goal = _goal(operand, size, where if number == len(targets) - 1 else "inside", read_only, source, len(gprs))
        if operand.base == RSP and RSP not in free:
            # The stack access has decided where this one is.
            if where != "inside":
                return None
            continue
        solved = _solve(operand, goal, gprs, free, code, instruction, source)
        if solved is None:
            return None
        code, fits = solved
        good &= fits
    index = instruction.operands[1] if len(instruction.operands) > 1 else None
    if instruction.mnemonic[:2] == "bt" and targets and isinstance(index, Reg) and index.index in free:
        gprs[:, index.index] = [source.randrange(-2000, 2000) % 2**64 for _ in gprs]
    batch.set_gprs(gprs)
    _small_indexes(targets, batch, source)
    return code, good


def _goal(
    operand: Mem, size: int, where: str, read_only: Region, source: random.Random, count: int
) -> NDArray[np.uint64]:
    """[count] addresses wanted for the operand."""
    region = STACK if operand.base == RSP else DATA
    if where == "end":
        return np.full(count, region.end - size, np.uint64)
    if where == "beyond":
        return np.full(count, region.end - size + 1, np.uint64)
    if where == "read-only":
        region = read_only
    span = range(region.address + _MARGIN, region.end - _MARGIN)
    # Half of them aligned, for the instructions that insist.
    choices = [source.choice(span) for _ in range(count)]
    return np.array([at & -64 if source.random() < 0.6 else at for at in choices], np.uint64)


def _solve(
    operand: Mem,
    goal: NDArray[np.uint64],
    gprs: NDArray[np.uint64],
    free: set[int],
    code: bytes,
    instruction: Instruction,
    source: random.Random,
) -> tuple[bytes, NDArray[np.bool_]] | None:
    """Choose registers (or the displacement) so that the operand's address is `goal`."""
    wanted = goal - np.uint64(DATA.address if operand.segment else 0)
    everything = np.ones(len(goal), bool)
    if operand.rip or (operand.base is None and operand.index is None):
        # One displacement for all states.
        if instruction.disp_size < 4:
            return None
        value = int(wanted[0]) - (CODE_ADDRESS + len(code) if operand.rip else 0)
        at = instruction.disp_at
        size = instruction.disp_size
        return code[:at] + (value % 2 ** (8 * size)).to_bytes(size, "little") + code[at + size :], everything
    wanted = wanted - np.uint64(operand.disp % 2**64)
    mask = np.uint64(2**64 - 1)
    if operand.vsib or operand.index is None or operand.index == operand.base:
        if operand.base is None or operand.base not in free:
            return None
        factor = 1 + (operand.scale if operand.index == operand.base and not operand.vsib else 0)
        gprs[:, operand.base] = wanted // np.uint64(factor)
        free.discard(operand.base)
        return code, everything if factor == 1 else gprs[:, operand.base] * np.uint64(factor) == wanted
    if operand.base is None:
        if operand.index not in free:
            return None
        gprs[:, operand.index] = wanted // np.uint64(operand.scale)
        free.discard(operand.index)
        return code, gprs[:, operand.index] * np.uint64(operand.scale) & mask == wanted
    if operand.base not in free:
        return None
    if operand.base == RSP:
        # Far from its region otherwise: pushes need it there.
        gprs[:, operand.index] = np.uint64(0)
    gprs[:, operand.base] = wanted - gprs[:, operand.index] * np.uint64(operand.scale)
    free.discard(operand.base)
    free.discard(operand.index)
    return code, everything


def _small_indexes(targets: list[Mem], batch: Batch, source: random.Random) -> None:
    """Give gathers small indexes."""
    for operand in targets:
        if operand.vsib and operand.index is not None:
            low = (batch.xmm, batch.ymm_high, batch.zmm_high)
            for part in low if operand.index < 16 else (batch.zmm_more,):
                words = part.shape[2] // 8
                values = [source.randrange(-8, 8) for _ in range(len(batch.gregs) * words)]
                index = operand.index % 16
                part[:, index : index + 1] = np.array(values, np.int64).view(np.uint8).reshape(-1, 1, 8 * words)
