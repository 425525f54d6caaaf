"""The two sides of a comparison: the same state run by the original and by the instrumented image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from codecache.types import Overlay
from jit import event_log
from jit.compare import Difference, Rules, compare, count_writes
from jit.counter_check import CounterCheck, count_visits
from jit.datafile import owned
from jit.disagreement import Listing, SecondLook
from jit.emulate import BESIDE, BLOCKS, CODE_BYTES, INVALID, PC_WORD, Exit, ExitKind, Machine, Run
from jit.emulated_memory import ARENA_SIZE, ARENAS, PAGE, STACK, STACK_SIZE, STUBS, EmulatedMemory, World, lay_out
from jit.emulation_limits import StretchTable, is_trap
from jit.random_state import State, random_state
from jit.tracepoints import Tracepoint
from jit.watched import ImageLiveness, Watched
from lifter.cfg import build_all
from lifter.decode import decode
from lifter.graph import Block, FunctionGraph
from lifter.image.types import Function, Image
from lifter.instruction import Flow, Instruction
from lifter.registers import RSP
from lifter.returning import calls_library

_MORE_CODE: Final = 16
"""How many times more code than the original the instrumented one may execute, plus `CODE_BYTES`."""
_SOME_CODE: Final = 5
"""The same, where the original itself ran until its budget was spent: only what both did is compared."""
_ROOM: Final = 4 * PAGE
"""Below a stack pointer, in bytes: for the frames of regions."""
_COUNTED: Final = (ExitKind.RETURN, ExitKind.CALL, ExitKind.JUMP, ExitKind.SYSCALL)
"""Ends at which every region was left, so that its counters are up to date."""
_LEFT_TO_OTHERS: Final = (ExitKind.CALL, ExitKind.JUMP)
_NOT_EMULATED: Final = "not emulated: "


class Built(Protocol):
    """What `jit.engine.build` makes, as far as it matters here."""

    @property
    def overlay(self) -> Overlay:
        """What was added to the image."""

    @property
    def tracepoints(self) -> Sequence[Tracepoint]:
        """Rows of the report, with the counters they are made of."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one state."""

    end: str
    """How the original's run ended."""
    unchecked: str
    """Why it was not compared to its end, '' if it was."""
    counted: bool
    """Whether the counters were compared, too."""
    reached: frozenset[int]
    """Blocks of the function that the original ran."""
    difference: Difference | None
    listing: Listing | None
    """Where there is a difference: the code that ran last before it."""


class Verifier:
    """Runs states on both sides of one instrumented image; the machines are kept between functions."""

    def __init__(self, image: Image, built: Built, *, seed: int, strict: bool) -> None:
        """Raises ValueError if the overlay does not fit the image."""
        self._image = image
        self._built = built
        self._seed = seed
        self._liveness = None if strict else ImageLiveness(image, _instrumented(image, built))
        self._benches: dict[World, _Bench] = {}
        self._bench(World.FRESH)

    def state(self, number: int) -> State:
        """State `number` of the sequence that the seed stands for."""
        return random_state(self._bench(World.FRESH).memory, self._seed, number)

    def check(self, graph: FunctionGraph, state: State) -> Outcome:
        """Run the function of `graph` from `state` on both sides and compare."""
        return self._bench(state.world).check(graph, state)

    def reads_patched_code(self, graph: FunctionGraph, state: State, code_bytes: int, calls: int) -> bool:
        """Whether the original, for so much code and so many calls of the outside, reads bytes that are overwritten."""
        return self._bench(state.world).reads_patched_code(graph, state, code_bytes, calls)

    def _bench(self, world: World) -> _Bench:
        bench = self._benches.get(world)
        if bench is None:
            bench = self._benches[world] = _Bench(self._image, self._built, self._seed, self._liveness, world)
        return bench


def _instrumented(image: Image, built: Built) -> dict[int, Function]:
    """The functions that have tracepoints, by address; all if nothing has."""
    found = {function.address: function for t in built.tracepoints if (function := image.function_at(t.address))}
    return found or {function.address: function for function in image.functions}


class _Bench:
    """Both machines, over the same memory."""

    def __init__(self, image: Image, built: Built, seed: int, liveness: ImageLiveness | None, world: World) -> None:
        overlay = built.overlay
        self._image = image
        self._overlay = overlay
        self._liveness = liveness
        reserved = [
            (overlay.code_address, overlay.code_address + len(overlay.code)),
            (overlay.data_address, overlay.data_address + len(overlay.data)),
        ]
        self.memory: EmulatedMemory = lay_out(image, seed, [part for part in reserved if part[0] < part[1]], world)
        self._original = Machine(self.memory)
        # Main threads run fresh programs; in other worlds, biased counters are added to as by other threads.
        data = owned(overlay.data, STACK) if world is World.FRESH else overlay.data
        self._instrumented = Machine(self.memory, replace(overlay, data=data))
        self._stretches = StretchTable(self._original.code_at)
        self._other_stretches = StretchTable(self._instrumented.code_at)
        start = overlay.data_address + self.memory.base
        self._rules = Rules((start, start + len(overlay.data)), 0 if image.is_go else 128)
        self._second_look = SecondLook(self.memory, overlay, self._rules.red_zone)
        self._watched = Watched(image, self.memory.base, liveness, self._stretches)
        self._counters = CounterCheck(built.tracepoints, self.memory.base)

    def check(self, graph: FunctionGraph, state: State) -> Outcome:
        entry = graph.function.address + self.memory.base
        run = self._original.run(entry, state)
        executed = int(run.records["size"][run.records["kind"] == event_log.BLOCK].sum())
        endless = run.exits[-1].kind is ExitKind.BUDGET
        original = _on_stack(_believed(run, self._stretches, self._original), state.registers[RSP] + 8)
        limit = executed * (_SOME_CODE if endless else _MORE_CODE) + CODE_BYTES * (not endless)
        run = self._instrumented.run(entry, state, limit, 8 * BLOCKS)
        run = self._without_return_address(run, original.exits[-1])
        instrumented = _believed(run, self._other_stretches, self._instrumented)
        last = original.exits[-1]
        unchecked = last.target[len(_NOT_EMULATED) :] if last.target.startswith(_NOT_EMULATED) else ""
        reached = self._reached(original, graph)
        watched = [self._watched.at(original, left) for left in original.exits]
        difference = compare(original, instrumented, self._rules, watched)
        if difference is not None and self._liveness is not None:
            garbage = self._second_look.garbage(entry, state, original, self._liveness)
            watched = [mask & ~gone for mask, gone in zip(watched, garbage.exits, strict=True)]
            difference = compare(original, instrumented, self._rules, watched, garbage.writes)
        counted = difference is None and last.kind in _COUNTED and instrumented.exits[-1].kind in _COUNTED
        listing = None
        if counted:
            difference = self._compare_counters(original, instrumented)
        if difference is not None:
            inside = self._counters.is_inside
            unchecked = self._second_look.excuse(entry, state, original, instrumented, difference, inside)
            if counted and not unchecked:
                unchecked = self._second_look.excuse_count(entry, state, difference, inside)
                unchecked = unchecked or self._surprise(original)
            difference = None if unchecked else difference
        if difference is not None:
            listing = self._second_look.listing(entry, state, difference)
        return Outcome(last.kind.value, unchecked, counted, reached, difference, listing)

    def _reached(self, run: Run, graph: FunctionGraph) -> frozenset[int]:
        """Blocks of `graph` that the original ran."""
        function = graph.function
        reached: set[int] = set()
        for key in set(_keys(run)):
            piece = event_log.stretch(key, self.memory.base)
            if function.address <= piece.start < function.end or piece.start in graph.blocks:
                reached.update(address for address in graph.blocks if address in piece)
        return frozenset(reached)

    def reads_patched_code(self, graph: FunctionGraph, state: State, code_bytes: int, calls: int) -> bool:
        entry = graph.function.address + self.memory.base
        return self._second_look.reads_patched_code(entry, state, code_bytes=code_bytes, calls=calls)

    def _without_return_address(self, instrumented: Run, left: Exit) -> Run:
        """`instrumented` without what it wrote last, where the original's end, `left`, is a call through memory that
        cannot be read: a region pushes the return address first."""
        pc = int(left.registers[PC_WORD])
        call = decode(self._original.code_at(pc, 15)) if left.kind is ExitKind.FAULT else None
        if not isinstance(call, Instruction) or call.flow is not Flow.CALL_INDIRECT or not len(instrumented.records):
            return instrumented
        last = instrumented.records[-1]
        pushed = (event_log.WRITE, int(left.registers[RSP]) - 8, pc + call.size)
        if (int(last["kind"]), int(last["place"]), int(last["value"])) != pushed:
            return instrumented
        position = len(instrumented.records) - 1
        *before, end = instrumented.exits
        return Run(instrumented.records[:-1], (*before, replace(end, position=min(end.position, position))))

    def _surprise(self, run: Run) -> str:
        """What random data made the original do, '' if nothing, that the program never does and counters rely on."""
        pieces = [event_log.stretch(key, self.memory.base) for key in _keys(run)]
        went = [piece.start for piece in pieces[1:]] + [int(run.exits[-1].registers[PC_WORD]) - self.memory.base]
        functions = {piece.start: self._image.function_at(piece.start) for piece in pieces}
        graphs = build_all(self._image, {found for found in functions.values() if found is not None})
        for piece, target in set(zip(pieces, went, strict=True)):
            function = functions[piece.start]
            graph = graphs[function.address] if function is not None else None
            if graph is not None and target not in graph.blocks and any(jump in piece for jump in graph.tables):
                return "a jump to where its table does not lead"
        if run.exits[-1].kind is ExitKind.SYSCALL:
            for graph in graphs.values():
                for block in graph.blocks.values():
                    if calls_library(self._image, graph, block) and not _came_back(block, pieces):
                        return "a function of the C library ends the program"
        return ""

    def _compare_counters(self, original: Run, instrumented: Run) -> Difference | None:
        """Whether the counters say how often each block of the original ran."""
        if not self._overlay.data:
            return None
        data = self._instrumented.read(self._rules.private[0], len(self._overlay.data))
        what = self._counters.check(count_visits(_keys(original), self._stretches), data)
        if not what:
            return None
        leg = len(original.exits) - 1
        first, second = (count_writes(run, len(run.records)) for run in (original, instrumented))
        return Difference(what, leg, first, second)


def _came_back(block: Block, pieces: Sequence[range]) -> bool:
    """Whether control came back each time to behind the call that ends `block`; never behind a jump."""
    called = sum(block.last_address in piece for piece in pieces)
    back = sum(block.end in piece for piece in pieces) if block.successors else 0
    return called <= back


def _keys(run: Run) -> list[int]:
    """The values of a run's BLOCK records."""
    values: list[int] = run.records["value"][run.records["kind"] == event_log.BLOCK].tolist()
    return values


def _believed(run: Run, stretches: StretchTable, machine: Machine) -> Run:
    """`run` up to the first code that unicorn cannot run right."""
    blocks = run.records["kind"] == event_log.BLOCK
    keys = run.records["value"][blocks]
    wrong = {key: stretches[key].limit for key in set(keys.tolist()) if stretches[key].limit}
    last = run.exits[-1]
    if wrong:
        which = np.isin(keys, np.array(list(wrong), np.uint64))
        position = int(np.flatnonzero(blocks)[np.flatnonzero(which)[0]])
        reason = wrong[int(run.records["value"][position])]
    elif (last.kind, last.target) == (ExitKind.TRAP, INVALID):
        position, pc = last.position, int(last.registers[PC_WORD])
        if is_trap(machine.code_at(pc, 15)):
            return run
        reason = "an instruction that unicorn does not know"
    elif last.kind is ExitKind.JUMP and machine.memory.is_closed(pc := int(last.registers[PC_WORD]), pc + 1):
        position, reason = last.position, "a jump beside the image, where the overlay is"
    elif (last.kind, last.target) == (ExitKind.FAULT, BESIDE):
        position, reason = int(np.flatnonzero(blocks)[-1]), "an access beside the image, where the overlay is"
    else:
        return run
    return _cut(run, position, reason)


def _on_stack(run: Run, top: int) -> Run:
    """`run` as long as its stack is one.

    A part of a function that runs on its own (the cold part of another, say) pops what it never pushed; random data as
    stack pointer leads to where there is no room below it.
    """
    records = run.records
    stack = records["stack"]
    sound = (stack >= STACK) & (stack < STACK + STACK_SIZE)
    popped = sound & (stack > top) & (records["kind"] == event_log.BLOCK)
    popped &= (records["place"] < STUBS) | (records["place"] >= STACK)
    sound |= (stack >= ARENAS + _ROOM) & (stack < ARENAS + ARENA_SIZE)
    ends = {"a part of a function that pops what another part pushed": np.flatnonzero(popped)[:1].tolist()}
    ends["a stack pointer that random data made"] = np.flatnonzero(~sound)[:1].tolist()
    for left in run.exits:
        pointer = int(left.registers[RSP])
        if left.kind in _LEFT_TO_OTHERS and top < pointer < STACK + STACK_SIZE:
            ends["a part of a function that pops what another part pushed"].append(left.position)
        elif not (STACK <= pointer < STACK + STACK_SIZE or ARENAS + _ROOM <= pointer < ARENAS + ARENA_SIZE):
            ends["a stack pointer that random data made"].append(max(0, left.position - 1))
    found = [(min(positions), reason) for reason, positions in ends.items() if positions]
    return _cut(run, *min(found)) if found else run


def _cut(run: Run, position: int, reason: str) -> Run:
    """The run up to record number `position`, where it is left off for `reason`."""
    kept = [left for left in run.exits[:-1] if left.position < position]
    stop = replace(run.exits[-1], kind=ExitKind.BUDGET, target=_NOT_EMULATED + reason, position=position)
    return Run(run.records[:position], (*kept, stop))
