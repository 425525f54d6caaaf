"""Emulated verification: original and instrumented functions from the same random states, compared at every exit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from codecache.types import Overlay
from jit import event_log
from jit.compare import Difference, Rules, compare
from jit.datafile import COUNTERS_OFFSET
from jit.disagreement import Listing, depends_on_dead_stack, list_code
from jit.emulate import CODE_BYTES, INVALID, PAGES, PC_WORD, ExitKind, Machine, Run
from jit.emulated_memory import EmulatedMemory, lay_out
from jit.emulation_limits import StretchTable, is_trap, limits_of_graph
from jit.event_log import KEY_SHIFT
from jit.random_state import State, random_state
from jit.tracepoints import Point, Tracepoint
from lifter.cfg import build_all
from lifter.errors import Refusal, UsageError
from lifter.graph import FunctionGraph
from lifter.image.types import Function, Image
from lifter.registers import ARITHMETIC_FLAGS

_MORE_CODE: Final = 16
"""How many times more code than the original the instrumented one may execute, plus `CODE_BYTES`."""
_LIMIT: Final = "not emulated: "
_FORMAT: Final = 1
"""Of the JSON files of cases."""


class Built(Protocol):
    """What `jit.engine.build` makes, as far as it matters here."""

    @property
    def overlay(self) -> Overlay:
        """What was added to the image."""

    @property
    def tracepoints(self) -> Sequence[Tracepoint]:
        """Rows of the report, with the counters they are made of."""


@dataclass(frozen=True, slots=True)
class Case:
    """A difference that can be replayed."""

    path: str
    """Of the image."""
    build_id: str
    function: str
    address: int
    """Of the function, in the file."""
    seed: int
    """Of memory."""
    number: int
    """Of the state: `random_state(memory, seed, number)` gives it again."""
    state: State
    strict: bool
    what: str
    """The difference, for people."""
    listing: Listing
    """The code of both sides that ran last before it."""

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        content = {"format": _FORMAT, **asdict(self)}
        path.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Case:
        """Read what `save` wrote. Raises UsageError if it is something else."""
        try:
            content: dict[str, Any] = json.loads(path.read_text())
            if content.pop("format") != _FORMAT:
                raise ValueError("another version wrote it")
            state = content.pop("state")
            listing = content.pop("listing")
            return cls(
                **content,
                state=State(
                    tuple(state["registers"]),
                    state["flags"],
                    tuple(state["vectors"]),
                    state["seed"],
                    state["lenient"],
                ),
                listing=Listing(tuple(listing["original"]), tuple(listing["instrumented"])),
            )
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path}: not a case of `probeloom verify` ({error})") from None

    def __str__(self) -> str:
        lines = [f"{self.function} at {self.address:#x}, seed {self.seed}, state {self.number}: {self.what}"]
        lines += [f"  state: {self.state}", "  original code before it:"]
        lines += [f"    {line}" for line in self.listing.original]
        lines += ["  instrumented code before it:"]
        lines += [f"    {line}" for line in self.listing.instrumented]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class FunctionReport:
    """What was checked of one function."""

    function: str
    address: int
    states: int
    """Runs compared."""
    ends: Mapping[str, int]
    """How the original's runs ended -> how many."""
    blocks: int
    """Of the function."""
    reached: int
    """Of these, by some run."""
    counted: int
    """Runs in which the counters were compared with the blocks executed, too."""
    unchecked: Mapping[str, int]
    """Why something was not checked -> number of blocks (before emulating) or runs (while emulating)."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked, what was not and why, and what was found."""

    functions: tuple[FunctionReport, ...]
    cases: tuple[Case, ...]
    """Differences; empty if all is well."""
    refusals: tuple[Refusal, ...]
    """Functions that could not be run at all."""
    strict: bool
    seed: int


@dataclass
class _Tally:
    """A `FunctionReport` in the making."""

    states: int = 0
    counted: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    unchecked: Counter[str] = field(default_factory=Counter)
    reached: set[int] = field(default_factory=set)


def verify(
    image: Image,
    built: Built,
    *,
    functions: Iterable[Function],
    samples: int = 100,
    seed: int = 0,
    strict: bool = False,
    stop_after: int = 1,
) -> VerifyReport:
    """Run each of `functions` from `samples` random states on both sides, until `stop_after` differences were found.

    `strict` must be how the overlay was built: with `abi` liveness, registers that the ABI calls dead may differ.
    """
    chosen = list(functions)
    graphs = build_all(image, chosen)
    verifier = Verifier(image, built, seed=seed, strict=strict)
    reports: list[FunctionReport] = []
    cases: list[Case] = []
    refusals: list[Refusal] = []
    for function in chosen:
        graph = graphs[function.address]
        limits = limits_of_graph(graph)
        if graph.blocks and graph.function.address in limits:
            reason = f"cannot be emulated: {limits[function.address]} in its first block"
            refusals.append(Refusal(function.address, reason, function=function.name))
            continue
        tally = _Tally(unchecked=Counter({f"{reason} (blocks)": n for reason, n in Counter(limits.values()).items()}))
        for number in range(samples):
            case = verifier.check(function, graph, number, tally)
            if case is not None:
                cases.append(case)
                break
        reports.append(_function_report(function, graph, tally))
        if len(cases) >= stop_after:
            break
    return VerifyReport(tuple(reports), tuple(cases), tuple(refusals), strict, seed)


def replay(case: Case, image: Image, built: Built) -> Case | None:
    """Run a case again: what differs now, or None. Raises UsageError if it is about another file."""
    if case.build_id != image.build_id:
        raise UsageError(f"the case is about {case.path} with build id {case.build_id or 'unknown'}, not this file")
    function = image.function_at(case.address)
    if function is None or function.address != case.address:
        raise UsageError(f"the case is about a function at {case.address:#x}, where this file has none")
    verifier = Verifier(image, built, seed=case.seed, strict=case.strict)
    graph = build_all(image, [function])[function.address]
    return verifier.check_state(function, graph, case.number, case.state, _Tally())


class Verifier:
    """Both machines for one image, kept between functions."""

    def __init__(self, image: Image, built: Built, *, seed: int, strict: bool) -> None:
        """Raises ValueError if the overlay does not fit the image."""
        overlay = built.overlay
        self._image = image
        self._overlay = overlay
        self._seed = seed
        self._strict = strict
        reserved = [
            (overlay.code_address, overlay.code_address + len(overlay.code)),
            (overlay.data_address, overlay.data_address + len(overlay.data)),
        ]
        self.memory: EmulatedMemory = lay_out(image, seed, [part for part in reserved if part[0] < part[1]])
        self.original = Machine(self.memory)
        self.instrumented = Machine(self.memory, overlay)
        self._stretches = StretchTable(self.original.code_at)
        self._other_stretches = StretchTable(self.instrumented.code_at)
        start = overlay.data_address + self.memory.base
        self._rules = Rules(strict, (start, start + len(overlay.data)), 0 if image.is_go else 128)
        self._counters = _CounterCheck(built.tracepoints, self.memory.base)

    def check(self, function: Function, graph: FunctionGraph, number: int, tally: _Tally) -> Case | None:
        """Compare from state `number`."""
        state = random_state(self.memory, self._seed, number)
        return self.check_state(function, graph, number, state, tally)

    def check_state(
        self, function: Function, graph: FunctionGraph, number: int, state: State, tally: _Tally
    ) -> Case | None:
        """Compare from a given state."""
        entry = function.address + self.memory.base
        whole = self.original.run(entry, state)
        original = self._believed(whole, self._stretches, self.original)
        executed = int(whole.records["size"][whole.records["kind"] == event_log.BLOCK].sum())
        whole = self.instrumented.run(entry, state, executed * _MORE_CODE + CODE_BYTES, 8 * PAGES)
        instrumented = self._believed(whole, self._other_stretches, self.instrumented)
        last = original.exits[-1]
        tally.states += 1
        tally.ends[last.kind.value] += 1
        if last.kind is ExitKind.BUDGET and last.target.startswith(_LIMIT):
            tally.unchecked[f"{last.target[len(_LIMIT) :]} (runs)"] += 1
        tally.reached |= self._reached(original, graph)
        difference = compare(original, instrumented, state, self._rules, self._undefined(original))
        if difference is None and last.kind is ExitKind.RETURN and instrumented.exits[-1].kind is ExitKind.RETURN:
            tally.counted += 1
            difference = self._compare_counters(original, instrumented)
        if difference is None:
            return None
        if depends_on_dead_stack(self.memory, entry, state, original, difference, self._rules.red_zone):
            tally.unchecked["result depends on memory below the stack pointer (runs)"] += 1
            return None
        listing = list_code(self.memory, self._overlay, entry, state, difference)
        return Case(
            str(self._image.path),
            self._image.build_id,
            function.name,
            function.address,
            self._seed,
            number,
            state,
            self._strict,
            difference.what,
            listing,
        )

    def _believed(self, run: Run, stretches: StretchTable, machine: Machine) -> Run:
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
        else:
            return run
        kept = [exit for exit in run.exits[:-1] if exit.position <= position]
        stop = replace(last, kind=ExitKind.BUDGET, target=_LIMIT + reason, position=position)
        return Run(run.records[:position], (*kept, stop))

    def _reached(self, run: Run, graph: FunctionGraph) -> set[int]:
        """Blocks of `graph` that the original ran."""
        keys = run.records["value"][run.records["kind"] == event_log.BLOCK]
        reached: set[int] = set()
        for key in set(keys.tolist()):
            start = (key & (1 << KEY_SHIFT) - 1) - self.memory.base
            if graph.function.address <= start < graph.function.end or start in graph.blocks:
                end = start + (key >> KEY_SHIFT)
                reached.update(address for address in graph.blocks if start <= address < end)
        return reached

    def _undefined(self, run: Run) -> tuple[int, ...]:
        """The flags that are undefined at each exit of the original."""
        if not self._strict:
            return (0,) * len(run.exits)
        result = []
        for left in run.exits:
            records = run.records[: left.position]
            keys = records["value"][records["kind"] == event_log.BLOCK][::-1]
            undefined, open_flags = 0, ARITHMETIC_FLAGS
            for key in keys[:64].tolist():
                stretch = self._stretches[key]
                undefined |= stretch.undefined & open_flags
                open_flags &= ~stretch.settled
                if not open_flags:
                    break
            result.append(undefined)
        return tuple(result)

    def _compare_counters(self, original: Run, instrumented: Run) -> Difference | None:
        """Whether the counters say how often each block of the original ran."""
        data = self.instrumented.read(self._rules.private[0], len(self._overlay.data)) if self._overlay.data else b""
        records = original.records
        keys = records["value"][records["kind"] == event_log.BLOCK].tolist()
        what = self._counters.check(_visits(keys, self._stretches), data)
        if not what:
            return None
        leg = len(original.exits) - 1
        return Difference(what, leg, len(original.records), len(instrumented.records))


def _visits(keys: list[int], stretches: StretchTable) -> Counter[int]:
    """How often each stretch was entered: a repeated string instruction runs as a loop over itself, counted once."""
    visits: Counter[int] = Counter()
    end, start = 0, 0
    for key in keys:
        address = key & (1 << KEY_SHIFT) - 1
        if not (start <= address < end and stretches[key].repeats):
            visits[key] += 1
        start, end = address, address + (key >> KEY_SHIFT)
    return visits


class _CounterCheck:
    """Compares counters with executed blocks."""

    def __init__(self, tracepoints: Sequence[Tracepoint], base: int) -> None:
        self._base = base
        self._rows = {t.address: t for t in tracepoints if t.point is Point.BLOCK and t.action == "count" and t.terms}
        self._heads = sorted(self._rows)
        self._inside: dict[int, tuple[int, ...]] = {}
        self._used: dict[int, list[int]] = {}
        for address, row in self._rows.items():
            for index, _ in row.terms:
                self._used.setdefault(index, []).append(address)

    def check(self, visits: Counter[int], data: bytes) -> str:
        """What is wrong with the counters in the overlay's data segment, '' if nothing is."""
        expected: Counter[int] = Counter()
        for key, number in visits.items():
            for head in self._heads_in(key):
                expected[head] += number
        counters = np.frombuffer(data, "<u8", max(0, len(data) - COUNTERS_OFFSET) // 8, min(COUNTERS_OFFSET, len(data)))
        concerned = set(expected)
        for index in np.flatnonzero(counters).tolist():
            concerned.update(self._used.get(index, ()))
        for head in sorted(concerned):
            found = sum(int(counters[index]) * factor for index, factor in self._rows[head].terms)
            found &= 0xFFFFFFFFFFFFFFFF
            if found != expected[head]:
                row = self._rows[head]
                return f"block {head:#x} of {row.function} ran {expected[head]} times, its counter says {found}"
        return ""

    def _heads_in(self, key: int) -> tuple[int, ...]:
        """Tracepoints in the stretch of a BLOCK record."""
        known = self._inside.get(key)
        if known is None:
            start = (key & (1 << KEY_SHIFT) - 1) - self._base
            first, last = np.searchsorted(self._heads, [start, start + (key >> KEY_SHIFT)])
            known = self._inside[key] = tuple(self._heads[first:last])
        return known


def _function_report(function: Function, graph: FunctionGraph, tally: _Tally) -> FunctionReport:
    return FunctionReport(
        function.name,
        function.address,
        tally.states,
        dict(tally.ends),
        len(graph.blocks),
        len(tally.reached),
        tally.counted,
        dict(tally.unchecked),
    )


def render(report: VerifyReport) -> str:
    """The report for people."""
    lines = []
    for row in report.functions:
        ends = ", ".join(f"{number} {end}" for end, number in sorted(row.ends.items(), key=lambda item: -item[1]))
        lines.append(f"{row.function}: {row.states} states, {row.reached} of {row.blocks} blocks; {ends}")
        lines += [f"    not checked: {reason}: {number}" for reason, number in sorted(row.unchecked.items())]
    lines += [f"not run: {refusal}" for refusal in report.refusals]
    lines += [f"DIFFERENCE: {case}" for case in report.cases]
    states = sum(row.states for row in report.functions)
    reached = sum(row.reached for row in report.functions)
    blocks = sum(row.blocks for row in report.functions)
    counted = sum(row.counted for row in report.functions)
    mode = "strict" if report.strict else "abi"
    lines.append(
        f"{len(report.functions)} functions from {states} states (seed {report.seed}, {mode}): "
        f"{reached} of {blocks} blocks reached, counters compared in {counted} runs, "
        f"{len(report.refusals)} functions not run, {len(report.cases)} differences"
    )
    return "\n".join(lines)
