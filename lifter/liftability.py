"""Decides, once per opcode and set of operands, how an instruction is translated, by trying it.

The trial starts from a state that holds only what the instruction's row says it reads. An emitter that reads
more, or a row that says less, shows up here and not as wrong code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lifter.builder import Builder, Symbols
from lifter.instruction import Flow, Handling, Instruction
from lifter.registers import ARITHMETIC_FLAGS, GPRS, RSP, bits
from lifter.x86 import lift_arithmetic, lift_bits, lift_move, lift_shift
from lifter.x86.emit import EMITTERS, Unliftable

EMITTER_MODULES: Final = (lift_arithmetic, lift_bits, lift_move, lift_shift)
"""Imported for the emitters that they register."""


@dataclass(frozen=True, slots=True)
class Translation:
    """How one instruction is translated."""

    handling: Handling
    reason: str
    """Why it is native; '' otherwise."""
    stack_delta: int | None
    """What it adds to RSP in bytes; None where RSP is set to a value."""
    writes_memory: bool
    uses_stack: bool
    """Whether it addresses memory through RSP or reads RSP."""


_LIMIT: Final = 1 << 17
"""Instructions that are remembered, before all are forgotten."""
_known: dict[bytes, Translation] = {}
_alike: dict[tuple[bytes, int], Translation] = {}
"""Bytes before displacement and immediate, and the size -> translation, where neither of the two decides."""
_BY_IMMEDIATE: Final = frozenset(("shld", "shrd"))
"""Mnemonics whose count decides whether they are lifted."""


def translation(instruction: Instruction) -> Translation:
    """How `instruction` is translated; jumps and returns end blocks and are not asked about."""
    found = _known.get(instruction.code)
    if found is None:
        if len(_known) >= _LIMIT:
            _known.clear()
        found = _known[instruction.code] = _of_its_kind(instruction)
    return found


def _of_its_kind(instruction: Instruction) -> Translation:
    if instruction.effects.writes >> RSP & 1 or instruction.mnemonic in _BY_IMMEDIATE:
        return _decide(instruction)
    code = instruction.code
    end = instruction.disp_at if instruction.disp_size else len(code) - instruction.imm_size
    key = (code[:end], len(code))
    found = _alike.get(key)
    if found is None:
        found = _alike[key] = _decide(instruction)
    return found


def _decide(instruction: Instruction) -> Translation:
    if instruction.handling is Handling.NATIVE or instruction.flow is not Flow.NEXT:
        return _native(instruction.reason or "changes the flow of control")
    reason = "no emitter"
    attempts = [Handling.VERBATIM]
    if instruction.handling is Handling.LIFTED and instruction.mnemonic in EMITTERS and not instruction.lock:
        attempts.insert(0, Handling.LIFTED)
    for handling in attempts:
        if handling is Handling.VERBATIM and _names_rsp(instruction):
            return _native(reason)
        trial = _trial_state(instruction)
        try:
            if handling is Handling.LIFTED:
                trial.lift(instruction, 0, ARITHMETIC_FLAGS)
            else:
                trial.carry(instruction, 0, ARITHMETIC_FLAGS)
            trial.flush()
        except Unliftable as refusal:
            reason = str(refusal)
            continue
        effects = instruction.effects
        return Translation(
            handling,
            "",
            trial.rsp_offset,
            any(access.write for access in effects.memory),
            bool(effects.reads >> RSP & 1),
        )
    return _native(reason)


def _native(reason: str) -> Translation:
    return Translation(Handling.NATIVE, reason, 0, True, True)


def _names_rsp(instruction: Instruction) -> bool:
    """Whether a verbatim form would use RSP other than as the base of a memory operand."""
    mem = instruction.memory_operand
    if instruction.effects.writes >> RSP & 1:
        return True
    return bool(instruction.effects.reads >> RSP & 1) and (mem is None or mem.base != RSP or mem.vsib)


def _trial_state(instruction: Instruction) -> Builder:
    effects = instruction.effects
    builder = Builder(Symbols())
    readable = effects.reads | (effects.writes & ~effects.kills)
    for index in bits(readable & GPRS & ~(1 << RSP)):
        builder.set_register(index, f"%r{index}")
    for bit in bits(readable & ARITHMETIC_FLAGS):
        builder.set_flag(1 << bit, f"%f{bit}")
    return builder
