"""Runs original code and the region lifted from it from the same states, and compares what they leave.

A case is a short straight piece of code, perhaps with a branch at its end. It becomes a region of one block, with
every register and the flags asked for live at both borders, compiled and placed beside the original bytes. The
exits of the region lead where the original ends, so that equal runs end at equal addresses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from codecache import CompiledRegion, CompileFailure, LinkFailure, RegionSource, compile_batch
from codecache import place as place_region
from fuzz import differences
from fuzz.differences import Describer, Found, Watch
from fuzz.native import CODE_ADDRESS, STACK
from fuzz.placing import place
from fuzz.rows import READ_ONLY, REGIONS, addresses_of
from fuzz.state import Batch, Results
from fuzz.values import random_batch, random_words
from ir.blocks import LiftedBlock, Terminator, lift_block
from ir.lower import LoweredRegion, lower
from ir.options import LoweringOptions
from ir.regions import Region
from jit.layout import stub
from lifter.decode import decode
from lifter.graph import Block
from lifter.instruction import Handling, Imm, Instruction, Reg
from lifter.liftability import translation
from lifter.registers import (
    AF,
    ARITHMETIC_FLAGS,
    CF,
    DF,
    FLAG_SHIFT,
    GPRS,
    OF,
    PF,
    RAX,
    RCX,
    RDX,
    RSP,
    SF,
    ZF,
    names,
)
from lifter.x86.emit import width_of

LIFTED_AT: Final = CODE_ADDRESS + 0x400
"""Where the stub of the lifted code stands: beyond the original and what its branches reach."""
WHERES: Final = ("inside", "end", "beyond", "read-only")
"""Where memory operands are put (see `fuzz.placing`)."""
RED_ZONE: Final = 128
"""Bytes below RSP that a region leaves alone. What lies deeper may differ."""

_POOL_SIZE: Final = 512
_ROOM_BELOW, _ROOM_ABOVE = 1024, 256
"""Of the stack, in bytes: frames, slots and pushes fit into it."""
_SHIFTS: Final = frozenset(("shl", "shr", "sar", "rol", "ror", "rcl", "rcr", "shld", "shrd"))


@dataclass(frozen=True, slots=True)
class Case:
    """A piece of code and the states that it is run from."""

    code: bytes
    live: int = ARITHMETIC_FLAGS
    """Flags live after it. All registers are."""
    seed: int = 0
    """Decides the states."""
    where: str = "inside"
    """One of `WHERES`."""
    states: int = 200

    def __str__(self) -> str:
        flags = ",".join(names(self.live)) or "none"
        return f"{self.code.hex()}/{flags}/{self.seed}/{self.where}/{self.states}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case that `str` wrote. Raises ValueError."""
        code, flags, seed, where, states = text.split("/")
        by_name = {names(flag)[0]: flag for flag in FLAG_SHIFT}
        live = 0 if flags == "none" else sum(by_name[name] for name in flags.split(","))
        if where not in WHERES:
            raise ValueError(f"no such place: {where}")
        return cls(bytes.fromhex(code), live, int(seed), where, int(states))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case that is lifted and compiled."""

    case: Case
    instructions: tuple[Instruction, ...]
    handlings: tuple[Handling, ...]
    """Of the block's body."""
    content: bytes
    """Original and lifted code, to stand at `CODE_ADDRESS`."""
    lowest: int
    """The deepest that RSP gets, relative to its value at entry."""

    @property
    def text(self) -> str:
        """The code for people."""
        return "; ".join(instruction.text for instruction in self.instructions)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A case that is not run."""

    case: Case
    reason: str
    is_bug: bool
    """Whether it should have been possible."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A state from which lifted code does something else than the original."""

    case: Case
    text: str
    """The code, for people."""
    what: str
    oracle: str = ""
    """Who says so."""
    state: Batch | None = None
    """The one state; None where lifting itself failed."""

    def __str__(self) -> str:
        return f"{self.case}  {self.text}: {self.what}"


def decode_all(code: bytes) -> tuple[Instruction, ...] | None:
    """The instructions of `code`; None if there is something else in it."""
    found = []
    while code:
        instruction = decode(code[:15])
        if not isinstance(instruction, Instruction):
            return None
        found.append(instruction)
        code = code[instruction.size :]
    return tuple(found)


def lift(instructions: Sequence[Instruction], live: int) -> tuple[LiftedBlock, LoweredRegion] | str:
    """A region of the instructions as one block at `CODE_ADDRESS`; the reason if one of them stays native."""
    last = instructions[-1]
    size = sum(instruction.size for instruction in instructions)
    successors = [CODE_ADDRESS + size]
    if last.target is not None:
        successors.append(CODE_ADDRESS + size + last.target)
    lifted = lift_block(Block(CODE_ADDRESS, tuple(instructions), tuple(successors)))
    if lifted.terminator in (Terminator.NATIVE, Terminator.CALL):
        return "stays native"
    region = Region(CODE_ADDRESS, (lifted,), {CODE_ADDRESS: 0})
    return lifted, lower(region, {}, lambda _: GPRS | live, LoweringOptions(), firm=True)


CompileAll = Callable[[Sequence[RegionSource]], Sequence[CompiledRegion | CompileFailure]]
"""`codecache.compile_batch`, or something like it."""


def prepare(
    cases: Sequence[Case], placing: bool = True, passes: bool = False, compile_all: CompileAll = compile_batch
) -> list[Prepared | Rejected]:
    """Lift and compile cases, all in one batch. Without `placing` their displacements stay as they are; with `passes`
    they are compiled as regions with probes in Python are.
    """
    results: dict[int, Prepared | Rejected] = {}
    waiting: list[tuple[int, Case, tuple[Instruction, ...], LiftedBlock, LoweredRegion]] = []
    for index, case in enumerate(cases):
        instructions = decode_all(case.code)
        if placing and instructions is not None and _placed_by_displacement(instructions[0]):
            placed = case_states(case)
            if isinstance(placed, str):
                results[index] = Rejected(case, placed, False)
                continue
            case = placed[0]
            instructions = decode_all(case.code)
        if instructions is None:
            results[index] = Rejected(case, "cannot be decoded", False)
            continue
        try:
            lifted = lift(instructions, case.live)
        except AssertionError as error:
            results[index] = Rejected(case, f"{'; '.join(i.text for i in instructions)}: {error}", True)
            continue
        if isinstance(lifted, str):
            results[index] = Rejected(case, lifted, False)
        else:
            waiting.append((index, case, instructions, *lifted))
    compiled = compile_all([replace(lowered.source, passes=passes) for *_, lowered in waiting])
    for (index, case, instructions, block, lowered), region in zip(waiting, compiled, strict=True):
        results[index] = _placed(case, instructions, block, lowered, region)
    return [results[index] for index in range(len(cases))]


def _placed(
    case: Case,
    instructions: tuple[Instruction, ...],
    block: LiftedBlock,
    lowered: LoweredRegion,
    region: CompiledRegion | CompileFailure,
) -> Prepared | Rejected:
    text = "; ".join(instruction.text for instruction in instructions)
    if isinstance(region, CompileFailure):
        return Rejected(case, f"{text}: {region.reason}", True)
    front = stub(region.shift, lowered.flags_in)
    linked = place_region(region, LIFTED_AT, lowered.symbols, stub=front)
    if isinstance(linked, LinkFailure):
        return Rejected(case, f"{text}: {linked.reason} ({linked.symbol})", True)
    padding = b"\xcc" * (LIFTED_AT - CODE_ADDRESS - len(case.code))
    lowest = min(0, block.stack_delta or 0)
    handlings = tuple(step.handling for step in block.body)
    return Prepared(case, instructions, handlings, case.code + padding + linked.code, lowest)


@cache
def _pool() -> Batch:
    return random_batch(_POOL_SIZE, REGIONS, np.random.default_rng(0))


def case_states(case: Case) -> tuple[Case, Batch] | str:
    """The states of a case, and the case with its displacement changed where that is what places its operand.

    The reason, if its operands cannot be placed.
    """
    instructions = decode_all(case.code)
    if instructions is None:
        return "cannot be decoded"
    generator = np.random.default_rng(case.seed)
    source = random.Random(case.seed)
    pool = _pool()
    rows = generator.integers(0, _POOL_SIZE, case.states)
    batch = Batch(pool.gregs[rows], pool.xsave[rows], pool.memory[rows])
    gprs = random_words(case.states, 16, generator)
    room = generator.integers(_ROOM_BELOW, STACK.size - _ROOM_ABOVE, case.states, np.uint64)
    gprs[:, RSP] = np.uint64(STACK.address) + (room & np.uint64(~7 % 2**64))
    batch.set_gprs(gprs)
    flags = generator.integers(0, 2**12, case.states, np.uint64) & np.uint64(0x8D5)
    batch.flags[:] = (batch.flags & np.uint64(~0x8D5 % 2**64)) | flags
    code = case.code
    at = 0
    for number, instruction in enumerate(instructions):
        touches = instruction.effects.memory or instruction.memory_operand
        if touches and number > 0 and not _only_stack(instruction):
            return "accesses memory after other instructions"
        if touches and number == 0:
            placed = place(instruction, batch, case.where, READ_ONLY, source)
            if placed is None:
                return "has an operand that cannot be placed"
            code = placed[0] + code[at + instruction.size :]
            good = placed[1]
            batch = Batch(batch.gregs[good], batch.xsave[good], batch.memory[good])
        elif case.where != "inside":
            return "has no operand to be placed"
        at += instruction.size
    _count_operands(instructions, batch, generator)
    _equal_operands(instructions, batch, generator)
    batch = _with_room(instructions, batch)
    if not len(batch.gregs):
        return "has no state that fits"
    return Case(code, case.live, case.seed, case.where, case.states), batch


def _placed_by_displacement(instruction: Instruction) -> bool:
    """Whether the place of its operand is in its bytes."""
    mem = instruction.memory_operand
    return mem is not None and mem.base is None and mem.index is None


def _only_stack(instruction: Instruction) -> bool:
    """Whether its memory is where RSP is, which every state has room for."""
    accesses = [access.operand for access in instruction.effects.memory]
    mem = instruction.memory_operand
    operands = accesses if mem is None else [*accesses, mem]
    return all(mem.base == RSP and mem.index is None and abs(mem.disp) < RED_ZONE // 2 for mem in operands)


def _with_room(instructions: Sequence[Instruction], batch: Batch) -> Batch:
    """The states whose stack a region can use, without accesses below the red zone."""
    rsp = batch.gprs[:, RSP]
    good = (rsp >= STACK.address + _ROOM_BELOW // 2) & (rsp <= STACK.end - _ROOM_ABOVE // 2)
    for instruction in instructions:
        first = instruction.operands[0] if instruction.operands else None
        moved = translation(instruction).stack_delta if instruction.effects.writes >> RSP & 1 else 0
        if moved is not None and abs(moved) > RED_ZONE:
            # A region's frame is below where RSP comes to.
            after = rsp + np.uint64(moved % 2**64)
            good &= (after >= STACK.address + _ROOM_BELOW // 2) & (after <= STACK.end - _ROOM_ABOVE // 2)
        if instruction.mnemonic == "enter" and isinstance(first, Imm) and first.value > RED_ZONE:
            # The region's frame is deeper still, where nothing is mapped.
            good[:] = False
        for access in instruction.effects.memory:
            mem = access.operand
            if mem.base == RSP and mem.disp < -RED_ZONE and instruction.mnemonic not in ("push", "pop"):
                good[:] = False
            if mem.base == RSP and mem.index is not None and not mem.vsib:
                # A negative index may lead there, too.
                at = addresses_of(mem, batch, instruction)
                good &= (at >= rsp - np.uint64(RED_ZONE)) | (at < np.uint64(STACK.address))
            index = instruction.operands[-1] if instruction.operands else None
            if mem.base == RSP and instruction.mnemonic.startswith("bt") and isinstance(index, Reg):
                # A bit string that begins in the red zone may reach below it.
                sign = np.uint64(1 << (index.width - 1))
                good &= batch.gprs[:, index.index] & sign == 0
    return Batch(batch.gregs[good], batch.xsave[good], batch.memory[good])


def _count_operands(instructions: Sequence[Instruction], batch: Batch, generator: np.random.Generator) -> None:
    """Small counts in CL are as interesting for shifts as all others together."""
    if instructions[0].mnemonic in _SHIFTS and not _addressed_by(instructions[0], RCX):
        gprs = batch.gprs
        counts = generator.choice(np.array([0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65], np.uint64), len(gprs))
        chosen = generator.random(len(gprs)) < 0.5
        gprs[:, RCX] = np.where(chosen, (gprs[:, RCX] & np.uint64(~0xFF % 2**64)) | counts, gprs[:, RCX])
        batch.set_gprs(gprs)


def _equal_operands(instructions: Sequence[Instruction], batch: Batch, generator: np.random.Generator) -> None:
    """Compare and exchange finds what it expects in half of the states: random values never are equal."""
    first = instructions[0]
    if not first.mnemonic.startswith("cmpxchg") or _addressed_by(first, RAX) or _addressed_by(first, RDX):
        return
    gprs = batch.gprs
    chosen = np.flatnonzero(generator.random(len(gprs)) < 0.5)
    mem, destination = first.memory_operand, first.operands[0]
    if mem is None:
        if isinstance(destination, Reg) and not destination.high:
            gprs[chosen, RAX] = gprs[chosen, destination.index]
    else:
        columns = differences.columns_of(REGIONS)
        places = np.searchsorted(columns, addresses_of(mem, batch, first))
        size = mem.width // 8
        parts = (RAX,) if first.mnemonic == "cmpxchg" else (RAX, RDX)
        for row in chosen:
            content = batch.memory[row, places[row] : places[row] + size].tobytes()
            each = len(content) // len(parts)
            for number, register in enumerate(parts):
                gprs[row, register] = int.from_bytes(content[each * number : each * (number + 1)], "little")
    batch.set_gprs(gprs)


def _addressed_by(instruction: Instruction, register: int) -> bool:
    mem = instruction.memory_operand
    return mem is not None and register in (mem.base, mem.index)


def undefined_after(instructions: Sequence[Instruction]) -> int | None:
    """Flags undefined after the code; None if one of the instructions reads an undefined one."""
    undefined = 0
    for instruction in instructions:
        effects = instruction.effects
        if effects.reads & undefined:
            return None
        undefined = (undefined & ~effects.kills) | effects.undefined
    return undefined


class Oracle(Protocol):
    """Runs code from many states."""

    def run_batch(self, code: bytes, batch: Batch) -> Results:
        """Run `code` once from each state of `batch`; a `rip` of 0 means the first byte of the code."""


def run_both(prepared: Prepared, batch: Batch, oracle: Oracle) -> tuple[Results, Results]:
    """What the original and the lifted code make of the states."""
    return halves(oracle.run_batch(prepared.content, doubled(batch)))


def doubled(batch: Batch) -> Batch:
    """The states twice: to begin with the original, and to begin with the lifted code."""
    both = Batch(*(np.concatenate([part, part]) for part in (batch.gregs, batch.xsave, batch.memory)))
    both.rip[len(batch.gregs) :] = LIFTED_AT
    return both


def halves(results: Results) -> tuple[Results, Results]:
    """The first and the second half of the rows."""
    count = len(results.signal) // 2
    return _half(results, 0, count), _half(results, count, 2 * count)


def _half(results: Results, start: int, stop: int) -> Results:
    final = results.final
    return Results(
        Batch(final.gregs[start:stop], final.xsave[start:stop], final.memory[start:stop]),
        results.signal[start:stop],
        results.code[start:stop],
        results.fault_address[start:stop],
        results.fault_write[start:stop],
    )


def first_difference(prepared: Prepared, before: Batch, original: Results, lifted: Results) -> Found | None:
    """How the outcomes differ in the first state in which they do."""
    watch = watch_of(prepared, before)
    return differences.first_difference(before, original, lifted, watch, Describer(prepared.instructions, before))


def watch_of(prepared: Prepared, before: Batch) -> Watch:
    """Everything but flags that are undefined or dead, and the stack below the red zone."""
    border = before.gprs[:, RSP] + np.uint64((prepared.lowest - RED_ZONE) % 2**64)
    return Watch(differences.watched_registers(), defined_flags(prepared, before), border, REGIONS)


def defined_flags(prepared: Prepared, before: Batch) -> NDArray[np.uint64]:
    """[n] flags to compare in each state: what the manual defines, and only what is live.

    A count that is known tells more than the row does, which is for all counts.
    """
    undefined = undefined_after(prepared.instructions)
    assert undefined is not None
    live = prepared.case.live | DF
    result = np.full(len(before.gregs), live & ~undefined, np.uint64)
    if len(prepared.instructions) > 1 or prepared.instructions[0].mnemonic not in _SHIFTS:
        return result
    (instruction,) = prepared.instructions
    return result | (_shift_flags(instruction, before) & np.uint64(live))


def _shift_flags(instruction: Instruction, before: Batch) -> NDArray[np.uint64]:
    """[n] flags that a shift or rotation leaves defined (SDM volume 2, SAL/SAR/SHL/SHR, SHLD, RCL/ROL)."""
    double = instruction.mnemonic in ("shld", "shrd")
    width = width_of(instruction.operands[0])
    operand = instruction.operands[-1] if len(instruction.operands) > (2 if double else 1) else None
    mask = np.uint64(63 if width == 64 else 31)
    if operand is None:
        counts = np.full(len(before.gregs), 1, np.uint64)
    elif isinstance(operand, Imm):
        counts = np.full(len(before.gregs), operand.value & 0xFF, np.uint64) & mask
    else:
        counts = before.gprs[:, RCX] & mask
    every = np.uint64(ARITHMETIC_FLAGS)
    rotation = instruction.mnemonic[0] == "r"
    several = np.uint64(ARITHMETIC_FLAGS & ~OF if rotation else PF | ZF | SF | CF)
    once = every if rotation else np.uint64(ARITHMETIC_FLAGS & ~AF)
    if not rotation and instruction.mnemonic != "sar":
        # Beyond the width nothing is left for the carry.
        too_far = np.uint64(PF | ZF | SF) if not double else np.uint64(0)
        several_each = np.where(counts > width if double else counts >= width, too_far, several)
    else:
        several_each = np.full(len(counts), several, np.uint64)
    return np.where(counts == 0, every, np.where(counts == 1, once, several_each))
