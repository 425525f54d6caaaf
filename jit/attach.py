"""From specs to tracepoints of one function, and from its plan to what runs where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Final

from ir.actions import NO_GUARD, Action, Call, Count
from ir.probes import CompiledProbe
from jit.planner import FunctionPlan, entry_is_jumped_to
from jit.tracepoints import Point, Spec, Tracepoint
from lifter.errors import Refusal
from lifter.graph import Block, FunctionGraph
from lifter.image.types import Image
from lifter.instruction import Flow, Instruction

FindProbe = Callable[[str], CompiledProbe]
"""The probe that an action names."""


NO_COUNTER: Final = -1
"""In place of a counter: nothing is counted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One tracepoint with one probe, before it is known whether it can be instrumented."""

    point: Point
    address: int
    block: int
    """Address of the block that holds it."""
    action: str
    size: int
    instructions: int
    leaves_early: bool = False
    """A tail call: the function's result is not there yet."""
    guard: Spec | None = None
    """The spec whose word decides whether the action runs, if one does."""


@dataclass(frozen=True, slots=True)
class FunctionActions:
    """What runs where in one function."""

    at: Mapping[int, tuple[Action, ...]]
    """Address of an instruction -> what runs before it."""
    at_entry: tuple[Action, ...]
    """What the entry's stub runs, where there is one."""
    redirected: Mapping[int, int]
    """Block counted by a redirected call -> its counter."""
    tracepoints: tuple[Tracepoint, ...]
    words: int
    """Private words of its Python probes."""
    refusals: tuple[Refusal, ...]

    def bare(self) -> FunctionActions:
        """The same without anything that runs."""
        return replace(self, at={}, at_entry=(), redirected=dict.fromkeys(self.redirected, NO_COUNTER))


@dataclass(frozen=True)
class Attachments:
    """The tracepoints of one function."""

    graph: FunctionGraph
    points: tuple[Wanted, ...]
    refusals: tuple[Refusal, ...]

    @property
    def probed(self) -> frozenset[int]:
        """Blocks that must run lifted: they hold a probe other than a plain count."""
        probed = frozenset(point.block for point in self.points if point.action != "count" or point.guard)
        return probed | ({self.graph.function.address} if self.entry_apart else frozenset())

    @cached_property
    def counted(self) -> frozenset[int]:
        """Blocks whose counts are asked for."""
        return frozenset(
            point.block
            for point in self.points
            if point.action == "count" and not point.guard and not (self.entry_apart and point.point is Point.ENTRY)
        )

    @cached_property
    def entry_apart(self) -> bool:
        """Whether entries are asked for, and must be told from jumps back to the first block."""
        return any(point.point is Point.ENTRY for point in self.points) and entry_is_jumped_to(self.graph)

    def counters(self, plan: FunctionPlan) -> int:
        """How many counters its plan needs."""
        return len(plan.counted) + self._counts_entries(plan) + len(self._guarded_counts(plan))

    def _guarded_counts(self, plan: FunctionPlan) -> list[Wanted]:
        """Counts that a word of their own switches: each has a counter to itself."""
        return [p for p in self.points if p.action == "count" and p.guard and p.block not in plan.refused]

    def _counts_entries(self, plan: FunctionPlan) -> bool:
        return plan.entry_stub and any(
            p.point is Point.ENTRY and p.action == "count" and not p.guard for p in self.points
        )

    def actions(
        self,
        plan: FunctionPlan,
        first_counter: int,
        all_counters: Mapping[int, int],
        first_word: int,
        find_probe: FindProbe,
        guards: Mapping[Spec, int] = MappingProxyType({}),
    ) -> FunctionActions:
        """Give out counters and words from the given indexes on, and say what runs where.

        `all_counters` maps counted blocks to their counters, those of other functions too, which counts are made of.
        `guards` are the indexes of the words that switch specs.
        """
        counters = {block: first_counter + index for index, block in enumerate(plan.counted)}
        entry_counter = first_counter + len(plan.counted)
        own_counter = entry_counter + self._counts_entries(plan)
        redirected = {redirect.block for redirect in plan.redirects}
        run = _Actions(first_word)
        for block, counter in counters.items():
            if block not in redirected:
                run.at.setdefault(block, []).append(Count(counter))
        if self._counts_entries(plan):
            run.at_entry.append(Count(entry_counter))
        native = _native_addresses(plan)
        for point in self.points:
            refusal = plan.refused.get(point.block) or self._obstacle(point, native)
            if refusal is not None:
                run.refusals.append(refusal)
                continue
            apart = plan.entry_stub and point.point is Point.ENTRY
            guard = guards[point.guard] if point.guard else NO_GUARD
            if point.action == "count" and point.guard:
                count = Count(own_counter, guard)
                (run.at_entry if apart else run.at.setdefault(point.block, [])).append(count)
                run.tracepoints.append(self._row(point, ((own_counter, 1),), (0, 0)))
                own_counter += 1
                continue
            if point.action == "count":
                if apart:
                    terms: tuple[tuple[int, int], ...] = ((entry_counter, 1),)
                else:
                    terms = tuple(
                        (counters.get(block, all_counters[block]), factor) for block, factor in plan.counts[point.block]
                    )
                run.tracepoints.append(self._row(point, terms, (0, 0)))
                continue
            probe = find_probe(point.action)
            call = Call(probe, first_word + run.words, point.address, guard)
            run.words += probe.words
            (run.at_entry if apart else run.at.setdefault(point.address, [])).append(call)
            run.tracepoints.append(self._row(point, (), (call.words, probe.words)))
        return FunctionActions(
            {address: tuple(actions) for address, actions in run.at.items()},
            tuple(run.at_entry),
            {block: counters[block] for block in redirected},
            tuple(run.tracepoints),
            run.words,
            tuple(run.refusals),
        )

    def _row(self, point: Wanted, terms: tuple[tuple[int, int], ...], words: tuple[int, int]) -> Tracepoint:
        name = self.graph.function.demangled
        return Tracepoint(point.point, name, point.address, point.size, point.instructions, point.action, terms, words)

    def _obstacle(self, point: Wanted, native: frozenset[int]) -> Refusal | None:
        """Why a Python probe cannot run there; a count needs only its block."""
        if point.action == "count":
            return None
        name = self.graph.function.demangled
        if point.leaves_early:
            reason, hint = "a tail call: the result is not known yet", "probe the function that it jumps to"
            return Refusal(point.address, reason, hint=hint, function=name)
        if point.address in native:
            reason = "comes after an instruction that stays native in its block"
            return Refusal(point.address, reason, function=name)
        return None


@dataclass(slots=True)
class _Actions:
    """What is collected on the way through a function's tracepoints."""

    first_word: int
    at: dict[int, list[Action]] = field(default_factory=dict)
    at_entry: list[Action] = field(default_factory=list)
    tracepoints: list[Tracepoint] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    words: int = 0


def _native_addresses(plan: FunctionPlan) -> frozenset[int]:
    """Instructions of lifted blocks that run in place after another one that does: no probe can run before them."""
    result: set[int] = set()
    for region in plan.regions:
        for lifted in region.blocks:
            if lifted.cut:
                block = plan.graph.blocks[lifted.address]
                result.update(a for a, _ in block.addressed() if a > lifted.last_address)
    return frozenset(result)


def attach(image: Image, graph: FunctionGraph, specs: Iterable[Spec]) -> Attachments:
    """The tracepoints that `specs` select in a function that all of them match."""
    points: dict[tuple[Point, int, str], Wanted] = {}
    refusals: list[Refusal] = []
    for spec in specs:
        found = _select(image, graph, spec, refusals)
        for wanted in found:
            points.setdefault((wanted.point, wanted.address, wanted.action), wanted)
    ordered = sorted(points.values(), key=lambda wanted: (wanted.address, wanted.point.value))
    return Attachments(graph, tuple(ordered), tuple(refusals))


def _select(image: Image, graph: FunctionGraph, spec: Spec, refusals: list[Refusal]) -> Sequence[Wanted]:
    function = graph.function
    name = function.demangled
    if not graph.blocks:
        reason = "no code was found in it"
        refusals.append(Refusal(function.address, reason, function=name))
        return []
    match spec.point:
        case Point.BLOCK:
            refusals.extend(graph.refusals)
            return [
                Wanted(spec.point, b.address, b.address, spec.action, b.size, len(b.instructions), guard=_guard(spec))
                for b in graph.blocks.values()
            ]
        case Point.ENTRY:
            if function.address not in graph.blocks:
                refusals.append(Refusal(function.address, "its first instruction is not understood", function=name))
                return []
            return [_at(graph.blocks[function.address], function.address, spec)]
        case Point.RETURN:
            found = _returns(image, graph, spec, refusals)
            if not found:
                refusals.append(Refusal(function.address, "it never returns", function=name))
            return found
        case Point.INSN:
            address = function.address + (spec.offset or 0)
            for block in graph.blocks.values():
                if block.address <= address < block.end and any(a == address for a, _ in block.addressed()):
                    return [_at(block, address, spec)]
            refusals.append(Refusal(address, "no instruction begins there", function=name))
            return []


def _at(block: Block, address: int, spec: Spec, leaves_early: bool = False) -> Wanted:
    size = next(instruction.size for a, instruction in block.addressed() if a == address)
    return Wanted(spec.point, address, block.address, spec.action, size, 1, leaves_early, _guard(spec))


def _guard(spec: Spec) -> Spec | None:
    return spec if spec.guarded else None


def _returns(image: Image, graph: FunctionGraph, spec: Spec, refusals: list[Refusal]) -> list[Wanted]:
    """Returns and tail calls. A conditional tail call returns only when it is taken: refused."""
    found = []
    for block in graph.blocks.values():
        address = block.last_address
        if block.last.flow is Flow.RETURN:
            found.append(_at(block, address, spec))
        elif address in graph.tail_calls and not _stays(image, graph, address, block.last):
            if block.last.flow is Flow.BRANCH:
                reason = "a conditional jump out of the function: it is a return only when taken"
                refusals.append(Refusal(address, reason, block.last.code, function=graph.function.demangled))
            else:
                found.append(_at(block, address, spec, leaves_early=True))
    return found


def _stays(image: Image, graph: FunctionGraph, address: int, jump: Instruction) -> bool:
    """Whether a jump out of the function's bounds goes to another part of it (`foo` and `foo.cold`)."""
    target = graph.callees.get(address)
    other = image.function_at(target) if target is not None else None
    if other is None or target is None:
        return jump.flow is Flow.BRANCH and target is None
    stem = graph.function.name.split(".cold")[0]
    return other.name.split(".cold")[0] == stem or target != other.address
