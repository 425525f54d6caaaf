"""A basic block moved to where the oracles run code, and the region that the engine makes of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from codecache import CompiledRegion, CompileFailure, LinkFailure
from codecache import place as place_region
from fuzz.generators import STORES_X87_ADDRESS
from fuzz.lifted import CompileAll, decode_all
from fuzz.native import CODE_ADDRESS, PAGE
from fuzz.state import Region as Memory
from ir.actions import Action, Count
from ir.blocks import LiftedBlock, Terminator, lift_block
from ir.lower import LoweredRegion, lower
from ir.options import LoweringOptions, Update
from ir.regions import Region
from jit.layout import Words, stub
from lifter.graph import Block
from lifter.instruction import Flow, Instruction

DATA: Final = Memory(0x2000_0000, 4 * PAGE)
STACK: Final = Memory(0x3000_0000, 2 * PAGE)
COUNTERS: Final = Memory(0x1800_0000, PAGE)
REGIONS: Final = (DATA, STACK, COUNTERS)
BLOCK_AT: Final = CODE_ADDRESS + 0x1000
"""Where the original stands; breakpoints around it."""
LIFTED_AT: Final = CODE_ADDRESS + 0x4000
ELSEWHERE: Final = CODE_ADDRESS + 0x2800
"""Where far jumps and calls go: breakpoints."""
_LARGEST: Final = 0x1000
MOST_COUNTED: Final = 2
"""Counters of a block: so many words, then as many of the main thread's own, then the owner word."""
OWNER_AT: Final = 16 * MOST_COUNTED
_WORDS: Final = Words(
    COUNTERS.address, COUNTERS.address + 8 * MOST_COUNTED, COUNTERS.address + OWNER_AT
).places()
_LETTERS: Final[Mapping[Update, str]] = {"plain": "", "atomic": "a", "biased": "b"}
_BRANCHES: Final = (Flow.JUMP, Flow.BRANCH, Flow.CALL)


@dataclass(frozen=True, slots=True)
class BlockCase:
    """A block that can be compiled and run: all that decides what the engine makes of it."""

    code: bytes
    """At `BLOCK_AT`."""
    live: tuple[tuple[int, int], ...]
    """(address, mask): what is live before the instructions that control leaves to."""
    take_call: bool = False
    """Whether the region makes the call that ends the block."""
    counted: tuple[int, ...] = (0,)
    """Offsets of instructions with a counter."""
    update: Update = "plain"
    passes: bool = False
    """Whether it is compiled as regions with probes in Python are."""
    seed: int = 0
    """Decides the states."""
    states: int = 16

    def __str__(self) -> str:
        live = ",".join(f"{address - BLOCK_AT:x}:{mask:x}" for address, mask in self.live)
        counted = ",".join(f"{offset:x}" for offset in self.counted)
        flags = "c" * self.take_call + _LETTERS[self.update] + "p" * self.passes
        return f"{self.code.hex()}/{live}/{counted}/{flags or '-'}/{self.seed}/{self.states}"

    @classmethod
    def parse(cls, text: str) -> BlockCase:
        """The case that `str` wrote. Raises ValueError."""
        code, live, counted, flags, seed, states = text.split("/")
        pairs = (pair.split(":") for pair in live.split(",") if pair)
        return cls(
            bytes.fromhex(code),
            tuple((int(address, 16) + BLOCK_AT, int(mask, 16)) for address, mask in pairs),
            "c" in flags,
            tuple(int(offset, 16) for offset in counted.split(",") if offset),
            next((update for update, letter in _LETTERS.items() if letter and letter in flags), "plain"),
            "p" in flags,
            int(seed),
            int(states),
        )


@dataclass(frozen=True, slots=True)
class PreparedBlock:
    """A block case, lifted and compiled."""

    case: BlockCase
    instructions: tuple[Instruction, ...]
    lifted: LiftedBlock
    content: bytes
    """Original and lifted code, to stand at `CODE_ADDRESS`."""

    @property
    def text(self) -> str:
        """The code for people."""
        return "; ".join(instruction.text for instruction in self.instructions)

    @property
    def is_loop(self) -> bool:
        """Whether it may go back to its own start."""
        return BLOCK_AT in self.lifted.successors

    @property
    def lowest(self) -> int:
        """The deepest that RSP gets, relative to its value at entry."""
        return min(0, self.lifted.stack_delta or 0)


def moved(block: Block, source: random.Random) -> tuple[bytes, dict[int, int]] | str:
    """The block's code as it is to stand at `BLOCK_AT`: addresses of data in `DATA`, far targets `ELSEWHERE`.

    Also where each address that control goes to came from. The reason, for a block that cannot be moved.
    """
    code = bytearray()
    origins: dict[int, int] = {}
    for instruction in block.instructions:
        if instruction.mnemonic in ("xbegin", "int3", "int1"):
            return "has an instruction of debuggers or transactions"
        if instruction.mnemonic in STORES_X87_ADDRESS:
            return "stores the address of the last x87 instruction"
        part = bytearray(instruction.code)
        following = len(code) + len(part)
        if instruction.flow in _BRANCHES and instruction.target is not None:
            at = following + instruction.target
            if 0 < at < block.end - block.address:
                return "jumps into its own middle"
            if instruction.imm_size == 4 and at != 0:
                part[-4:] = (ELSEWHERE - BLOCK_AT - following).to_bytes(4, "little", signed=True)
                origins[ELSEWHERE] = block.address + at
        mem = instruction.memory_operand
        size = instruction.disp_size
        if mem is not None and (mem.rip or mem.base is None) and size >= 4:
            place = source.randrange(0, 0x800, 16)
            place = place if mem.segment else DATA.address + 0x800 + place
            value = place - (BLOCK_AT + following) if mem.rip else place
            part[instruction.disp_at : instruction.disp_at + size] = value.to_bytes(size, "little", signed=True)
        code += part
    if len(code) > _LARGEST:
        return "is too large"
    return bytes(code), origins


def as_block(code: bytes) -> Block | None:
    """The code as a block at `BLOCK_AT`; None where it is none."""
    instructions = decode_all(code)
    if not instructions or any(instruction.flow is not Flow.NEXT for instruction in instructions[:-1]):
        return None
    end = BLOCK_AT + len(code)
    last = instructions[-1]
    successors = [end] if last.target is None else [end, end + last.target]
    return Block(BLOCK_AT, instructions, tuple(successors))


def whole(code: bytes, take_call: bool) -> LiftedBlock | str:
    """The block as a region has it; the reason if it has nothing of it."""
    block = as_block(code)
    if block is None:
        return "is not decoded as one block"
    lifted = lift_block(block, take_call=take_call)
    if not lifted.body and lifted.terminator is Terminator.NATIVE:
        return "begins with an instruction that stays native"
    return lifted


def recorded(lifted: LiftedBlock, live_at: Callable[[int], int]) -> tuple[tuple[int, int], ...]:
    """What `BlockCase.live` is for a block, from what is live at any address."""
    addresses = [lifted.last_address]
    if lifted.target is not None:
        addresses.append(lifted.target)
    addresses += [lifted.following, BLOCK_AT]
    return tuple((address, live_at(address)) for address in dict.fromkeys(addresses))


def compile_blocks(cases: Sequence[BlockCase], compile_all: CompileAll) -> list[PreparedBlock | str]:
    """Lift and compile blocks as the engine does."""
    results: dict[int, PreparedBlock | str] = {}
    waiting: list[tuple[int, LiftedBlock, LoweredRegion]] = []
    for index, case in enumerate(cases):
        lifted = whole(case.code, case.take_call)
        if isinstance(lifted, str):
            results[index] = lifted
            continue
        try:
            waiting.append((index, lifted, _lower(case, lifted)))
        except AssertionError as error:
            results[index] = f"bug: {error}"
    compiled = compile_all([region.source for _, _, region in waiting])
    for (index, lifted, region), result in zip(waiting, compiled, strict=True):
        results[index] = _placed(cases[index], lifted, region, result)
    return [results[index] for index in range(len(cases))]


def _lower(case: BlockCase, lifted: LiftedBlock) -> LoweredRegion:
    live: Mapping[int, int] = dict(case.live)
    actions: dict[int, tuple[Action, ...]] = {
        BLOCK_AT + offset: (Count(number),) for number, offset in enumerate(case.counted)
    }
    region = Region(BLOCK_AT, (lifted,), {BLOCK_AT: 0})
    lowered = lower(region, actions, live.__getitem__, LoweringOptions(update=case.update))
    if case.passes:
        return replace(lowered, source=replace(lowered.source, passes=True))
    return lowered


def _placed(
    case: BlockCase, lifted: LiftedBlock, region: LoweredRegion, compiled: CompiledRegion | CompileFailure
) -> PreparedBlock | str:
    if isinstance(compiled, CompileFailure):
        return f"bug: {compiled.reason}"
    symbols = {
        symbol: _WORDS[symbol[2]] + 8 * value if symbol[2] in _WORDS else value
        for symbol, value in region.symbols.items()
    }
    linked = place_region(compiled, LIFTED_AT, symbols, stub=stub(compiled.shift, region.flags_in))
    if isinstance(linked, LinkFailure):
        return f"bug: {linked.reason} ({linked.symbol})"
    code = case.code
    if lifted.terminator is Terminator.NATIVE:
        # Both sides end where the instruction that runs in place would.
        code = code[: lifted.last_address - BLOCK_AT]
    before = b"\xcc" * (BLOCK_AT - CODE_ADDRESS)
    between = b"\xcc" * (LIFTED_AT - BLOCK_AT - len(code))
    instructions = decode_all(code)
    assert instructions is not None
    return PreparedBlock(case, instructions, lifted, before + code + between + linked.code)


def counters_for(code: bytes, source: random.Random) -> tuple[int, ...]:
    """Offsets of a block's instructions to be counted: the first, and perhaps another."""
    lifted = whole(code, False)
    if isinstance(lifted, str) or len(lifted.body) < 2 or source.random() < 0.5:
        return (0,)
    return (0, source.choice(lifted.body[1:]).address - BLOCK_AT)
