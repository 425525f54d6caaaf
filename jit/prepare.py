"""The first half of the engine: from an image and a list of probes to the IR of every region.

image -> functions -> graphs -> tracepoints -> plans -> IR
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal

from ir.options import LoweringOptions
from ir.probes import CompiledProbe, load_probe
from jit.arrivals import CallSites
from jit.attach import Attachments, FunctionActions, attach
from jit.placement import CounterPlacing, Terms
from jit.planner import FunctionPlan, plan_function
from jit.regions import FunctionCode, lower_function
from jit.specs import match
from jit.tracepoints import Spec, Tracepoint
from lifter.borders import Borders
from lifter.cfg import build_all
from lifter.errors import Refusal, RefusedError
from lifter.graph import FunctionGraph
from lifter.image.scan import branch_targets
from lifter.image.threads import can_start_threads
from lifter.image.types import Function, Image
from lifter.liveness import analyse
from lifter.registers import GPRS
from lifter.returning import find_returning

_MAXIMUM_WORDS: Final = 1 << 25
"""Each tracepoint has its own copy of its probe's words, and all of them are in the file that is written."""

_SMALL_IMAGE: Final = 200_000
"""Bytes of code that are analysed whole however few functions are selected: about a second."""
_MOST_CALLERS: Final = 1_000

LivenessMode = Literal["abi", "strict"]
CounterUpdate = Literal["auto", "plain", "atomic"]
Effort = Literal["loops", "all"]
"""What LLVM compiles: regions with a loop or a probe in Python (the others are put together from their own bytes, see
`ir.carry`), or every region."""
Placement = Literal["minimal", "function", "every"]
"""Whether blocks are counted by as few counters as tell all counts, by as few as tell those of each function whoever
calls it, or each by its own."""
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


@dataclass(frozen=True, slots=True)
class Options:
    """How instrumentation is made."""

    jobs: int = 1
    liveness: LivenessMode = "abi"
    counter_update: CounterUpdate = "auto"
    placement: Placement = "minimal"
    use_cache: bool = True
    probes: Mapping[str, CompiledProbe] = field(default_factory=dict)
    """Probes by the action that names them; others are loaded from the file that their action names."""
    progress: Progress | None = None
    optimise: Effort = "loops"
    bare: bool = False
    """Recompile the chosen blocks without probes: what the engine itself costs, and what lifting alone gives."""
    exact_faults: bool = False
    """Loops that can fault are put together from their own bytes too: of those instructions it is known which they
    were. Costs a counter in memory for each turn."""
    whole_pages: bool = False
    """Keep every patch inside a page, so that it can be written at once in a running process."""


@dataclass(slots=True)
class Clock:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)


@dataclass(frozen=True, slots=True)
class Work:
    """One function on its way through the engine."""

    plan: FunctionPlan
    code: FunctionCode
    tracepoints: tuple[Tracepoint, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """One function whose counters and trampolines are decided, and whose code can be made at any time."""

    plan: FunctionPlan
    actions: FunctionActions
    borders: Callable[[], Borders]
    options: LoweringOptions

    def lower(self, in_haste: bool = False) -> Work:
        """Its regions as IR; `in_haste` has loops put together from their own bytes too."""
        options = replace(self.options, carry_loops=True) if in_haste else self.options
        code = lower_function(self.plan, self.actions, self.borders(), options)
        return Work(self.plan, code, self.actions.tracepoints)


@dataclass(slots=True)
class Prepared:
    """All that is known before lowering, which goes on while regions are compiled."""

    functions: tuple[Planned, ...]
    """In address order."""
    refusals: list[Refusal]
    """What was left out."""
    words: int
    """Number of counters, private words of probes included."""
    functions_selected: int
    tracepoints_selected: int
    guards: Mapping[Spec, int]
    """Guarded specs -> index among the counters of the word that switches their actions."""


def effective_liveness(image: Image, mode: LivenessMode) -> LivenessMode:
    """Go has an ABI of its own: there everything is live at every border."""
    return "strict" if image.is_go else mode


def to_analyse(image: Image, selected: Mapping[int, Function], mode: LivenessMode) -> list[Function]:
    """The functions that liveness is worked out for together, so that the selected ones (by address) are right."""
    if mode == "strict":
        functions = selected
    elif _wants_whole_image(image, len(selected)):
        functions = {function.address: function for function in image.functions}
    else:
        functions = {**_callers(image, selected.values()), **selected}
    return [function for function in functions.values() if function.refusal is None]


def _wants_whole_image(image: Image, selected: int) -> bool:
    """Whether to analyse every function: callers' and callees' use of registers is then exact."""
    return 4 * selected >= len(image.functions) or (sum(function.size for function in image.functions) <= _SMALL_IMAGE)


def _callers(image: Image, selected: Iterable[Function]) -> dict[int, Function]:
    """Functions that may call `selected` or run into them: what is live at a return, only they can say.

    None where they are too many to be worth it; everything is then live at those returns.
    """
    branches = branch_targets(image)
    found: dict[int, Function] = {}
    for function in selected:
        sites = branches.sites(function.address, function.end).site.tolist()
        for site in (*sites, function.address - 1):
            caller = image.function_at(site)
            if caller is not None:
                found[caller.address] = caller
        if len(found) > _MOST_CALLERS:
            return {}
    return found


def prepare(image: Image, specs: Sequence[Spec], options: Options, clock: Clock) -> Prepared:
    """Plan and lower the instrumentation of `image` that `specs` ask for.

    Raises RefusedError for a spec that matches nothing, UsageError for a probe that cannot be loaded.
    """
    return _Preparation(image, specs, options).run(clock)


def load_probes(specs: Sequence[Spec], known: Mapping[str, CompiledProbe]) -> dict[str, CompiledProbe]:
    """The probes that the specs' actions name, by action; those in `known` are not loaded again.

    Raises UsageError for a probe that cannot be loaded.
    """
    probes: dict[str, CompiledProbe] = {}
    for action in dict.fromkeys(spec.action for spec in specs):
        if action in known:
            probes[action] = known[action]
        elif action != "count":
            file, _, name = action.rpartition(":")
            probes[action] = load_probe(Path(file), name)
    return probes


class _Preparation:
    """One run of the first half."""

    def __init__(self, image: Image, specs: Sequence[Spec], options: Options) -> None:
        self.image = image
        self.specs = specs
        self.options = options
        self.refusals: list[Refusal] = []
        self.selected = self.words = 0
        self.guards: dict[Spec, int] = {}
        self.probes = load_probes(specs, options.probes)
        self.mode = effective_liveness(image, options.liveness)
        atomic = options.counter_update == "atomic" or (options.counter_update == "auto" and can_start_threads(image))
        self.lowering = LoweringOptions(
            atomic=atomic,
            red_zone=0 if image.is_go else 128,
            nil_checks=image.is_go,
            exact_faults=options.exact_faults,
            carry=options.optimise == "loops",
        )

    def run(self, clock: Clock) -> Prepared:
        """All stages but lowering."""
        with clock.stage("select"):
            chosen = match(self.specs, self.image.functions)
        with clock.stage("graph"):
            graphs = self._graphs(chosen)
        with clock.stage("plan"):
            attachments = self._attach(chosen, graphs)
        with clock.stage("liveness"):
            liveness = analyse(self.image, graphs, self.mode, self._observed(attachments))
        with clock.stage("plan"):
            plans = self._plan(attachments, graphs)
            actions = self._actions(attachments, plans)
        functions = {function.address for matched in chosen.values() for function in matched}
        planned = tuple(
            Planned(plan, acts, partial(Borders, self.image, graphs, liveness, plan.graph), self.lowering)
            for plan, acts in zip(plans, actions, strict=True)
        )
        return Prepared(planned, self.refusals, self.words, len(functions), self.selected, self.guards)

    # --- analysis ---------------------------------------------------------------------------------------

    def _graphs(self, chosen: Mapping[Spec, Sequence[Function]]) -> dict[int, FunctionGraph]:
        selected = {function.address: function for functions in chosen.values() for function in functions}
        return build_all(self.image, to_analyse(self.image, selected, self.mode))

    def _attach(
        self, chosen: Mapping[Spec, Sequence[Function]], graphs: Mapping[int, FunctionGraph]
    ) -> list[Attachments]:
        by_function: dict[int, list[Spec]] = {}
        functions: dict[int, Function] = {}
        for spec, matched in chosen.items():
            for function in matched:
                functions[function.address] = function
                by_function.setdefault(function.address, []).append(spec)
        result = []
        for address in sorted(by_function):
            function = functions[address]
            refusal = function.refusal or go_runtime_refusal(self.image, function)
            if refusal is not None:
                self.refusals.append(refusal)
                continue
            attachments = attach(self.image, graphs[address], by_function[address])
            self.refusals.extend(attachments.refusals)
            self.selected += len(attachments.points)
            if attachments.points:
                result.append(attachments)
        return result

    def _observed(self, attachments: Sequence[Attachments]) -> dict[int, int]:
        """Address of each tracepoint with a probe -> registers that the probe reads."""
        observed: dict[int, int] = {}
        for item in attachments:
            for point in item.points:
                if point.action != "count":
                    reads = self.probes[point.action].reads & GPRS
                    observed[point.address] = observed.get(point.address, 0) | reads
        return observed

    def _plan(self, attachments: Sequence[Attachments], graphs: Mapping[int, FunctionGraph]) -> list[FunctionPlan]:
        """Plan each function; callers first, whose counts say how often their callees are entered."""
        items = {item.graph.function.address: item for item in attachments}
        placed = {address for address, item in items.items() if self._may_place(item)}
        returning = find_returning(self.image, graphs) if placed else frozenset()
        whole = self.options.placement == "minimal" and len(graphs) == sum(
            f.refusal is None for f in self.image.functions
        )
        sites = CallSites(self.image, graphs) if whole else None
        counts: dict[int, Mapping[int, Terms]] = {}
        padding: set[int] = set()
        plans: dict[int, FunctionPlan] = {}
        for address in sites.callers_first(list(items)) if sites else items:
            self._progress("plan", len(plans), len(items))
            item, placing = items[address], None
            if address in placed:
                arrivals = sites.arrivals(address, counts) if sites else None
                placing = CounterPlacing(self.image, item.graph, returning, item.probed, arrivals)
            plan = plan_function(
                self.image,
                item.graph,
                item.probed,
                item.counted,
                item.entry_apart,
                padding,
                placing,
                self.options.whole_pages,
            )
            plans[address] = plan
            if placing is not None:
                counts[address] = plan.counts
        return [plans[address] for address in items]

    def _may_place(self, item: Attachments) -> bool:
        """Whether blocks may be counted by others: where every way into and out of the function is understood.

        A panic that Go recovers from leaves a function anywhere and enters another one in its middle.
        """
        graph = item.graph
        return (
            self.options.placement != "every"
            and not self.image.is_go
            and graph.complete
            and len(item.counted) == len(graph.blocks)
        )

    # --- code -------------------------------------------------------------------------------------------

    def _actions(self, attachments: Sequence[Attachments], plans: Sequence[FunctionPlan]) -> list[FunctionActions]:
        """Give out counters, then words of probes."""
        needed = (item.counters(plan) for item, plan in zip(attachments, plans, strict=True))
        firsts = list(accumulate(needed, initial=0))
        next_word = firsts.pop()
        self.guards = {spec: next_word + number for number, spec in enumerate(s for s in self.specs if s.guarded)}
        next_word += len(self.guards)
        counters = {
            block: first + index
            for first, plan in zip(firsts, plans, strict=True)
            for index, block in enumerate(plan.counted)
        }
        result = []
        for item, plan, first in zip(attachments, plans, firsts, strict=True):
            actions = item.actions(plan, first, counters, next_word, self.probes.__getitem__, self.guards)
            next_word += actions.words
            self.refusals.extend(actions.refusals)
            result.append(actions.bare() if self.options.bare else actions)
        if next_word > _MAXIMUM_WORDS:
            megabytes = f"{8 * next_word >> 20} MiB of at most {8 * _MAXIMUM_WORDS >> 20}"
            raise RefusedError(
                f"counters and words of probes take {megabytes}: choose fewer tracepoints, or fewer words"
            )
        self.words = next_word
        return result

    def _progress(self, stage: str, done: int, total: int) -> None:
        if self.options.progress is not None:
            self.options.progress(stage, done, total)


_GO_UNTOUCHABLE: Final = (
    "runtime.",
    "runtime/",
    "internal/runtime/",
    "internal/bytealg.",
    "internal/cpu.",
    "internal/abi.",
    "_rt0_",
    "gogo",
    "callRet",
)


def go_runtime_refusal(image: Image, function: Function) -> Refusal | None:
    """Go's runtime switches stacks and is scanned by itself: nothing in it is instrumented."""
    if not image.is_go or not function.name.startswith(_GO_UNTOUCHABLE):
        return None
    return Refusal(
        function.address,
        "belongs to Go's runtime, which must not be touched",
        hint="choose functions of the program's own packages, for example 'block:main.*'",
        function=function.demangled,
    )
