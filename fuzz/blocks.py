"""`probeloom fuzz block`: basic blocks as the engine compiles them, random ones or blocks of ELF files.

A block becomes a region with counters, its borders as live as `strict` or `abi` liveness says, and is run beside the
original from states in which its pointers point into memory.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fuzz.block_code import (
    BLOCK_AT,
    COUNTERS,
    LIFTED_AT,
    MOST_COUNTED,
    REGIONS,
    BlockCase,
    PreparedBlock,
    as_block,
    compile_blocks,
    counters_for,
    moved,
    recorded,
    whole,
)
from fuzz.block_states import ROOM_BELOW, block_states, counter_columns, stack_columns
from fuzz.campaign import Failure, Job, Result, Settings, jobs
from fuzz.compiling import compile_safely
from fuzz.coverage import EMULATED, NATIVE, form_of, width_of
from fuzz.differences import Describer, Found, Watch, ended, first_difference, other_order, select_watch
from fuzz.emulated import EmulatedOracle
from fuzz.encodings import Encoding, all_encodings, find
from fuzz.generators import usable
from fuzz.lifted import RED_ZONE, halves, undefined_after
from fuzz.native import NativeOracle
from fuzz.oracles import select, unsure_after
from fuzz.processor import features
from fuzz.rows import runnable
from fuzz.shrink import shrink_code
from fuzz.state import Batch, Results
from ir.blocks import Terminator
from ir.options import Update
from jit.analysis import to_analyse
from lifter.borders import Borders
from lifter.cfg import build_all
from lifter.errors import UsageError
from lifter.graph import Block, FunctionGraph
from lifter.image.load import open_image
from lifter.image.types import Image
from lifter.instruction import Flow, Handling, Instruction
from lifter.liveness import Liveness, analyse
from lifter.registers import ARITHMETIC_FLAGS, DF, GPRS, RSP, gpr

UNITS: Final = "blocks"
DEFAULT_COUNT: Final = 1000
_UPDATES: Final[tuple[Update, ...]] = ("plain", "atomic", "biased")
_CHUNK: Final = 250
"""Blocks of a job."""
_FUNCTIONS: Final = 60
"""Functions that a job takes its blocks from."""
_SHRUNK: Final = 3
"""Failures of a job that are made small: more of them are mostly the same."""
_STATES: Final = 16
_EMULATED: Final = 6
"""Of these, in unicorn."""
_TRACKED: Final = GPRS | ARITHMETIC_FLAGS
_CARRIED_OUT: Final = (Terminator.CALL, Terminator.RETURN, Terminator.INDIRECT)
"""Ends that the region carries out itself: what counts is what is live before them, wherever they lead."""
_SHORT_JUMPS: Final = tuple(bytes((opcode, 0x10)) for opcode in (*range(0x70, 0x80), 0xEB, 0xE2, 0xE3))


def plan(settings: Settings) -> Iterator[Job]:
    """See `fuzz.campaign.Kind`."""
    for path in settings.binaries:
        _image(path)
    return jobs("block", settings.seed, _works(settings))


def _works(settings: Settings) -> Iterator[dict[str, Any]]:
    left = None if settings.seconds is not None else settings.count or DEFAULT_COUNT
    turn = 0
    while left is None or left > 0:
        blocks = _CHUNK if left is None else min(_CHUNK, left)
        path = settings.binaries[turn % len(settings.binaries)] if settings.binaries else ""
        yield {"path": path, "blocks": blocks, "match": settings.match}
        left = None if left is None else left - blocks
        turn += 1


@lru_cache(2)
def _image(path: str) -> Image:
    return open_image(Path(path))


class Sampler:
    """Takes blocks out of a file."""

    def __init__(self, path: str, match: str, source: random.Random) -> None:
        """Raises ProbeloomError for a file that cannot be worked on, UsageError where no function matches."""
        self._source = source
        image = _image(path)
        functions = [f for f in image.functions if f.refusal is None and match in f.name]
        if not functions:
            raise UsageError(f"{path}: no function whose name contains '{match}' can be taken apart")
        chosen = {f.address: f for f in source.sample(functions, min(_FUNCTIONS, len(functions)))}
        self._image, self._chosen = image, chosen
        self._graphs = build_all(image, to_analyse(image, chosen, "abi"))
        self._liveness = {mode: analyse(image, self._graphs, mode) for mode in ("abi", "strict")}

    def blocks(self) -> Iterator[tuple[FunctionGraph, Block]]:
        """Blocks at random, without end."""
        graphs = [graph for address, graph in self._graphs.items() if address in self._chosen and graph.blocks]
        if not graphs:
            return
        weights = [min(len(graph.blocks), 40) for graph in graphs]
        while True:
            (graph,) = self._source.choices(graphs, weights)
            yield graph, graph.blocks[self._source.choice(list(graph.blocks))]

    def case(self, graph: FunctionGraph, block: Block) -> tuple[BlockCase, str] | str:
        """The case of a block, and its liveness; the reason if it cannot be one."""
        source = self._source
        found = moved(block, source)
        if isinstance(found, str):
            return found
        code, origins = found
        mode = source.choice(("abi", "strict"))
        liveness: Liveness = self._liveness[mode]
        elsewhere = partial(liveness.elsewhere, self._image, self._graphs)
        borders = Borders(self._image, graph, liveness.of(graph.function.address), elsewhere)

        def live_at(address: int) -> int:
            return borders(origins.get(address, block.address + address - BLOCK_AT))

        take_call = block.last.flow in (Flow.CALL, Flow.CALL_INDIRECT) and source.random() < 0.5
        lifted = whole(code, take_call)
        if isinstance(lifted, str):
            return lifted
        case = BlockCase(
            code, recorded(lifted, live_at), take_call, counters_for(code, source), source.choice(_UPDATES),
            source.random() < 0.1, source.getrandbits(32), _STATES,
        )  # fmt: skip
        return case, mode


class Inventor:
    """Makes blocks up."""

    def __init__(self, source: random.Random) -> None:
        self._source = source
        self._available = features()

    def case(self) -> tuple[BlockCase, str] | str:
        """A block of several random instructions, perhaps with a jump at its end, back to its start now and then."""
        source = self._source
        parts: list[bytes] = []
        for _ in range(source.randrange(1, 9)):
            encoding = source.choice(_lifted_encodings() if source.random() < 0.8 else _encodings())
            found = find(encoding, source, attempts=3)
            usual = found is not None and found.flow is Flow.NEXT and usable(found, self._available)
            if found is not None and usual and not found.effects.writes & gpr(RSP):
                parts.append(found.code)
        if source.random() < 0.7:
            size = sum(map(len, parts))
            jump = bytearray(source.choice(_SHORT_JUMPS))
            if source.random() < 0.2 and size + 2 < 128 and jump[0] != 0xEB:
                jump[1] = 256 - size - 2
            parts.append(bytes(jump))
        made = as_block(b"".join(parts))
        if made is None:
            return "is not decoded as one block"
        result = moved(made, source)
        if isinstance(result, str):
            return result
        code = result[0]
        lifted = whole(code, False)
        if isinstance(lifted, str):
            return lifted
        instructions = (as_block(code) or made).instructions
        mode = source.choice(("strict", "some"))
        live = GPRS | (ARITHMETIC_FLAGS if source.random() < 0.5 else 0)
        if mode == "some":
            live = source.getrandbits(22) & _TRACKED | gpr(RSP)
        looping = BLOCK_AT in lifted.successors
        live = _TRACKED if looping and mode == "some" else live
        at = _live_inside(instructions, live)
        case = BlockCase(
            code, recorded(lifted, lambda address: at.get(address, live)), False, counters_for(code, source),
            source.choice(_UPDATES), source.random() < 0.1, source.getrandbits(32), _STATES,
        )  # fmt: skip
        return case, mode


def _live_inside(instructions: Sequence[Instruction], live: int) -> dict[int, int]:
    """Address of each instruction of a block at `BLOCK_AT` -> what is live before it, if `live` is after the block."""
    address = BLOCK_AT + sum(instruction.size for instruction in instructions)
    found = {address: live}
    for instruction in reversed(instructions):
        address -= instruction.size
        live = (live & ~instruction.effects.kills | instruction.effects.reads) & _TRACKED | gpr(RSP)
        found[address] = live
    return found


@cache
def _encodings() -> tuple[Encoding, ...]:
    return tuple(all_encodings())


@cache
def _lifted_encodings() -> tuple[Encoding, ...]:
    source = random.Random(0)
    found = []
    for encoding in _encodings():
        if encoding.vex or encoding.evex or encoding.map > 1:
            continue
        instruction = find(encoding, source, attempts=1)
        if instruction is not None and instruction.handling is Handling.LIFTED:
            found.append(encoding)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Verdict:
    native: int
    """States compared on the processor."""
    emulated: int
    ended: int
    """Of the native ones, how many ran to the end of the block."""
    astray: int
    """How many were left out because they read memory below the red zone, where frames of regions are."""
    found: Found | None
    oracle: str = ""


class BlockOracles:
    """Both oracles for blocks. A context manager."""

    def __init__(self) -> None:
        self._native = NativeOracle(REGIONS, capacity=128)
        self._emulated = EmulatedOracle(REGIONS)

    def __enter__(self) -> BlockOracles:
        return self

    def __exit__(self, *_: object) -> None:
        self._native.close()

    def check(self, block: PreparedBlock) -> _Verdict | str:
        """Compare the block with its region; the reason if it cannot be run."""
        undefined = undefined_after(block.instructions)
        if undefined is None:
            return "reads a flag that is undefined"
        if block.lowest < -ROOM_BELOW // 2:
            return "makes a frame larger than the stack that is mapped"
        before = block_states(block.instructions, block.case.seed, block.case.states)
        original, lifted = halves(self._native.run_batch(block.content, _twice(before)))
        if (original.signal == signal.SIGILL).all():
            return "is no code of this processor"
        watch = _watch(block, before, original, undefined)
        describe = Describer(block.instructions, before)
        astray = np.zeros(len(before.gregs), bool)
        while True:
            there = ended(original) & (original.signal != signal.SIGPROF)
            found = first_difference(before, original, lifted, watch, describe)
            found = found or _wrong_count(block, lifted, there & ended(lifted), describe)
            if found is None or not self._reads_dead_stack(block, before, watch, found.row):
                break
            astray[found.row] = True
            original.signal[astray] = signal.SIGPROF
        count, reached, left_out = len(before.gregs), int(there.sum()), int(astray.sum())
        unsure = unsure_after(block.instructions)
        if found is not None or unsure is None:
            return _Verdict(count, 0, reached, left_out, found, NATIVE)
        few = Batch(before.gregs[:_EMULATED], before.xsave[:_EMULATED], before.memory[:_EMULATED])
        answer = self._emulated.run_batch(block.content, _twice(few), generous_from=len(few.gregs))
        original, lifted = halves(answer.results)
        if (original.signal == signal.SIGILL).any():
            return _Verdict(count, 0, reached, left_out, None)
        original.signal[astray[:_EMULATED]] = signal.SIGPROF
        watch = _watch(block, few, original, undefined | unsure)
        found = first_difference(few, original, lifted, watch, describe)
        if found is None:
            half = len(original.signal)
            timely = (original.signal != signal.SIGPROF) & (lifted.signal != signal.SIGPROF)
            found = other_order(answer.writes[:half], answer.writes[half:], timely, watch, describe)
        if found is not None:
            found = Found(found.row, f"unicorn: {found.what}")
        return _Verdict(count, len(few.gregs), reached, left_out, found, EMULATED)

    def _reads_dead_stack(self, block: PreparedBlock, before: Batch, watch: Watch, row: int) -> bool:
        """Whether the original itself does something else where the stack below its red zone holds something else."""
        only = np.arange(len(before.gregs)) == row
        state = select(before, only)
        both = _twice(state)
        both.rip[:] = BLOCK_AT
        dead = stack_columns(int(watch.border[row]))
        both.memory[1, dead] = np.random.default_rng(row).integers(0, 256, dead.stop - dead.start, np.uint8)
        first, second = halves(self._native.run_batch(block.content, both))
        describe = Describer(block.instructions, state)
        return first_difference(state, first, second, select_watch(watch, only), describe) is not None


def _twice(batch: Batch) -> Batch:
    """The states for the original, and again for the lifted code."""
    both = Batch(*(np.concatenate([part, part]) for part in (batch.gregs, batch.xsave, batch.memory)))
    both.rip[: len(batch.gregs)] = BLOCK_AT
    both.rip[len(batch.gregs) :] = LIFTED_AT
    return both


def _watch(block: PreparedBlock, before: Batch, original: Results, undefined: int) -> Watch:
    """What is live where each run of the original ended."""
    live = dict(block.case.live)
    otherwise = live.get(block.lifted.last_address, _TRACKED)
    if block.lifted.terminator in _CARRIED_OUT:
        live = {}
    masks = [
        live.get(int(rip) - (number == signal.SIGTRAP), otherwise)
        for rip, number in zip(original.final.rip.tolist(), original.signal.tolist(), strict=True)
    ]
    gprs = np.array([[index == RSP or bool(mask >> index & 1) for index in range(16)] for mask in masks])
    flags = np.array([(mask & ARITHMETIC_FLAGS | DF) & ~undefined for mask in masks], np.uint64)
    border = before.gprs[:, RSP] + np.uint64((block.lowest - RED_ZONE) % 2**64)
    if block.lifted.terminator is Terminator.CALL:
        # A region pushes the return address before it reads the target from memory, and there is none if that faults.
        at_call = before.gprs[:, RSP] + np.uint64((block.lifted.stack_delta or 0) % 2**64)
        border = np.where(ended(original), border, at_call)
    return Watch(gprs, flags, border, REGIONS, (COUNTERS,))


def _wrong_count(
    block: PreparedBlock, lifted: Results, there: NDArray[np.bool_], describe: Describer
) -> Found | None:
    """Whether counters say something else than how often the block ran."""
    case = block.case
    words = lifted.final.memory[:, counter_columns()].copy().view(np.uint64)
    added = words[:, :MOST_COUNTED] + words[:, MOST_COUNTED:]
    for number in range(len(case.counted)):
        wrong = there & (added[:, number] != (added[:, 0] if block.is_loop else np.uint64(1)))
        ones = np.ones(len(added), np.uint64)
        if (wrong_row := describe.at(wrong, f"counter {number}", ones, added[:, number])) is not None:
            return wrong_row
    return None


@cache
def _oracles() -> BlockOracles:
    return BlockOracles()


def run(job: Job) -> Result:
    """See `fuzz.campaign.Kind`."""
    started = time.monotonic()
    source = random.Random(job.seed)
    result = Result()
    cases: list[tuple[BlockCase, str]] = []
    for made in _made(job, source):
        if isinstance(made, str):
            result.notes[made] += 1
        else:
            cases.append(made)
        if len(cases) == job.work["blocks"] or sum(result.notes.values()) > 20 * job.work["blocks"]:
            break
    prepared = compile_blocks([case for case, _ in cases], compile_safely)
    for (case, mode), block in zip(cases, prepared, strict=True):
        _check(case, mode, block, result)
    result.seconds = time.monotonic() - started
    return result


def _made(job: Job, source: random.Random) -> Iterator[tuple[BlockCase, str] | str]:
    """Cases, and reasons why others are none."""
    if job.work["path"]:
        sampler = Sampler(job.work["path"], job.work["match"], source)
        available = features()
        for graph, block in sampler.blocks():
            if all(runnable(instruction, available) for instruction in block.instructions[:-1]):
                yield sampler.case(graph, block)
            else:
                yield "has an instruction that cannot be run here"
    else:
        inventor = Inventor(source)
        while True:
            yield inventor.case()


def _check(case: BlockCase, mode: str, block: PreparedBlock | str, result: Result) -> None:
    """Run one block, and count it."""
    if isinstance(block, str):
        if block.startswith("bug: "):
            result.failures.append(Failure(str(case), block.removeprefix("bug: ")))
        else:
            result.notes[block] += 1
        return
    verdict = _oracles().check(block)
    if isinstance(verdict, str):
        result.notes[verdict] += 1
        return
    result.units += 1
    result.notes["runs that reached the end of their block"] += verdict.ended
    result.notes["runs that faulted in it, as the original did"] += verdict.native - verdict.ended - verdict.astray
    result.notes["runs that read memory below the red zone, where frames of regions are"] += verdict.astray
    form = f"block ending in {block.lifted.terminator.value}" + (", a loop" if block.is_loop else "")
    result.cover(form, mode, NATIVE, verdict.native, verdict.found is not None and verdict.oracle == NATIVE)
    states = result.states
    for instruction in block.instructions:
        name, width = form_of(instruction), width_of(instruction)
        result.cover(name, width, NATIVE, verdict.native)
        if verdict.emulated:
            result.cover(name, width, EMULATED, verdict.emulated)
    if verdict.emulated:
        result.cover(form, mode, EMULATED, verdict.emulated, verdict.found is not None and verdict.oracle == EMULATED)
    result.states = states
    if verdict.found is not None:
        small = len(result.failures) < _SHRUNK
        what = f"{block.text}: {verdict.found.what}"
        result.failures.append(_shrunk(case, what) if small else Failure(str(case), what))


def _shrunk(case: BlockCase, what: str) -> Failure:
    """The failure with as few of the block's instructions as show it, everything live around the rest."""
    best = case

    def smaller(parts: Sequence[bytes]) -> bool:
        nonlocal best, what
        code = b"".join(parts)
        lifted = whole(code, case.take_call)
        if isinstance(lifted, str):
            return False
        candidate = replace(case, code=code, counted=(0,))
        candidate = replace(candidate, live=recorded(lifted, lambda address: dict(case.live).get(address, _TRACKED)))
        again = _again(candidate)
        if again is None:
            return False
        best, what = candidate, again.what
        return True

    block = as_block(case.code)
    assert block is not None
    shrink_code([instruction.code for instruction in block.instructions], smaller)
    return Failure(str(best), what)


def _again(case: BlockCase) -> Failure | None:
    (block,) = compile_blocks([case], compile_safely)
    if isinstance(block, str):
        return Failure(str(case), block) if block.startswith("bug: ") else None
    verdict = _oracles().check(block)
    if isinstance(verdict, str) or verdict.found is None:
        return None
    return Failure(str(case), f"{block.text}: {verdict.found.what}")


def replay(case: str) -> Failure | None:
    """See `fuzz.campaign.Kind`."""
    try:
        return _again(BlockCase.parse(case))
    except ValueError:
        raise UsageError(f"'{case}' is not CODE/LIVE/COUNTED/FLAGS/SEED/STATES") from None
