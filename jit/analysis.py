"""What is known of an image and of the probes before any function is planned.

image -> functions -> graphs -> liveness, calls

`Analysis` is about the whole image, and in little memory: graphs are packed. What is about one function alone (its
graph, its plan) is done from a task that says all that it depends on, in whichever process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ir.blocks import Terminator
from ir.options import LoweringOptions, Update
from ir.probes import CompiledProbe, load_probe
from ir.regions import Region
from jit.arrivals import CallSites
from jit.attach import Attachments, attach
from jit.options import Clock, CounterUpdate, LivenessMode, Options
from jit.placement import Arrivals, CounterPlacing, Terms
from jit.planner import FunctionPlan, plan_function
from jit.specs import match
from jit.through import ThroughCalls
from jit.tracepoints import Spec
from lifter.borders import Borders
from lifter.cfg import Share, build_all
from lifter.errors import Refusal
from lifter.graph import FunctionGraph
from lifter.image.scan import branch_targets
from lifter.image.threads import can_start_threads, may_share_stacks
from lifter.image.types import Function, Image
from lifter.liveness import LiveBlocks, analyse
from lifter.packing import unpack
from lifter.registers import GPRS
from lifter.returning import find_returning

_SMALL_IMAGE: Final = 200_000
"""Bytes of code that are analysed whole however few functions are selected: about a second."""
_MOST_CALLERS: Final = 1_000


def effective_liveness(image: Image, mode: LivenessMode) -> LivenessMode:
    """Go has an ABI of its own: there everything is live at every border."""
    return "strict" if image.is_go else mode


def effective_update(image: Image, wanted: CounterUpdate) -> Update:
    """How counters are added to. A goroutine's stack is nobody's in particular."""
    if wanted != "auto":
        return wanted
    if not can_start_threads(image):
        return "plain"
    return "atomic" if image.is_go or may_share_stacks(image) else "biased"


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


class Request:
    """An image and what is asked for in it: all that is known before anything is analysed.

    Whoever has it can do a piece of work on one function, given what others found out (`FunctionTask`).
    """

    def __init__(self, image: Image, specs: Sequence[Spec], options: Options) -> None:
        """Raises RefusedError for a spec that matches nothing, UsageError for a probe that cannot be loaded."""
        self.image = image
        self.options = options
        self.probes = load_probes(specs, options.probes)
        self.guarded = tuple(spec for spec in specs if spec.guarded)
        self.mode = effective_liveness(image, options.liveness)
        self.lowering = LoweringOptions(
            update=effective_update(image, options.counter_update),
            red_zone=0 if image.is_go else 128,
            nil_checks=image.is_go,
            exact_faults=options.exact_faults,
            carry=options.optimise == "loops",
        )
        self.through = ThroughCalls(image, options)
        chosen = match(specs, image.functions)
        self.selected = {function.address: function for functions in chosen.values() for function in functions}
        self.refused: dict[int, Refusal] = {}
        """Functions that are left alone, by address."""
        for address, function in sorted(self.selected.items()):
            refusal = function.refusal or go_runtime_refusal(image, function)
            if refusal is not None:
                self.refused[address] = refusal
        instrumented = sorted(self.selected.keys() - self.refused.keys())
        self.specs: dict[int, list[Spec]] = {address: [] for address in instrumented}
        """Those that are instrumented, in address order, and what is asked for in each."""
        for spec, matched in chosen.items():
            for function in matched:
                if function.address in self.specs:
                    self.specs[function.address].append(spec)

    def plan(self, task: FunctionTask) -> Draft:
        """Decide what is done with one function."""
        image, graph = self.image, task.graph(self.image)
        item = attach(image, graph, self.specs[task.function])
        if not item.points:  # nothing to be counted, in a function of which nothing may be understood
            return Draft(item, FunctionPlan(graph, (), (), (), False, (), {}, {}), placed=False)
        if not self._may_place(item):
            return Draft(item, self._planned(item, None), placed=False)

        def planned(calls: frozenset[int] | None) -> FunctionPlan:
            return self._planned(
                item, CounterPlacing(image, graph, task.returning, item.probed, task.arrivals, calls)
            )

        calls = self.through.of(graph, task.blind) if not item.probed else None
        plan = planned(calls)
        if any(map(_mixes_calls, plan.regions)):
            plan = planned(None)
        return Draft(item, plan, placed=True)

    def _planned(self, item: Attachments, placing: CounterPlacing | None) -> FunctionPlan:
        whole_pages = self.options.whole_pages
        return plan_function(
            self.image, item.graph, item.probed, item.counted, item.entry_apart, placing, whole_pages
        )

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


@dataclass(frozen=True, slots=True)
class FunctionTask:
    """A function to be planned, with all that others have to do with it. It is pickled."""

    function: int
    """Its address."""
    packed: bytes
    """Its graph."""
    arrivals: Arrivals | None
    """How often it is entered, if that is known (see `CallSites.arrivals`)."""
    returning: frozenset[int]
    """Those of its callees that come back whenever they are called."""
    blind: frozenset[int]
    """Those that do not look at their return address."""
    live: LiveBlocks
    elsewhere: Mapping[int, int]
    """What is live where it goes to outside of itself, as far as known."""

    def graph(self, image: Image) -> FunctionGraph:
        """Its graph."""
        function = image.function_at(self.function)
        assert function is not None
        return unpack(image, function, self.packed)

    def borders(self, graph: FunctionGraph, image: Image) -> Borders:
        """What is live where control leaves its regions."""
        return Borders(image, graph, self.live, self.elsewhere.get)


@dataclass(frozen=True, slots=True)
class Draft:
    """A function that was planned, but whose counters have no numbers yet."""

    item: Attachments
    plan: FunctionPlan
    placed: bool
    """Whether its counts may be told by others."""


class Analysis:
    """What is known of an image before any function is planned, for all functions that are asked for."""

    def __init__(self, request: Request, clock: Clock, share: Share | None = None) -> None:
        """`share` makes the graphs (see `build_all`)."""
        self.request = request
        image, options = request.image, request.options
        with clock.stage("graph"):
            self._graphs = build_all(image, to_analyse(image, request.selected, request.mode), share)
        with clock.stage("liveness"):
            self._liveness = analyse(image, self._graphs, request.mode, self._observed())
        with clock.stage("plan"):
            placing = options.placement != "every" and not image.is_go
            self._returning = find_returning(image, self._graphs) if placing else frozenset()
            whole = options.placement == "minimal" and len(self._graphs) == sum(
                function.refusal is None for function in image.functions
            )
            self._sites = CallSites(image, self._graphs) if whole else None
            order = self._sites.callers_first(list(request.specs)) if self._sites else list(request.specs)
            self.order = order
            """The functions that are instrumented in the order to plan them: callers first, as far as there is such
            an order, whose counts say how often their callees are entered."""
            self.callers = self._sites.callers_before(order) if self._sites else {}
            """Functions that can be told how often they are entered -> those that have to be planned before."""
            self.calling = self._sites.calling_blocks(self.callers) if self._sites else {}
            """Function -> its blocks that call one of those."""

    def _observed(self) -> dict[int, int]:
        """Address of each tracepoint with a probe -> registers that the probe reads."""
        request = self.request
        observed: dict[int, int] = {}
        for address, specs in request.specs.items():
            if all(spec.action == "count" for spec in specs):
                continue
            for point in attach(request.image, self._graphs[address], specs).points:
                if point.action != "count":
                    reads = request.probes[point.action].reads & GPRS
                    observed[point.address] = observed.get(point.address, 0) | reads
        return observed

    def size(self, function: int) -> int:
        """Of a function, in bytes."""
        return self._graphs.function(function).size

    def task(self, function: int, counts: Mapping[int, Mapping[int, Terms]]) -> FunctionTask:
        """The task to plan a function. `counts` are those of `calling` blocks of the functions that were planned."""
        arrivals = self._sites.arrivals(function, counts) if self._sites and function in self.callers else None
        outline = self._graphs.outline(function)
        callees = {target for _, target, _ in outline.transfers()}
        returning = frozenset(callees & self._returning)
        blind = frozenset(
            target
            for target in callees
            if target in self._graphs and not self._graphs.outline(target).looks_at_return
        )
        elsewhere = {}
        for address in outline.exits:
            live = self._liveness.elsewhere(self.request.image, self._graphs, address)
            if live is not None:
                elsewhere[address] = live
        packed, live_blocks = self._graphs.packed(function), self._liveness.of(function)
        return FunctionTask(function, packed, arrivals, returning, blind, live_blocks, elsewhere)


def _mixes_calls(region: Region) -> bool:
    """Whether a region has calls that come back into it and others that push the original return address."""
    kinds = {block.terminator for block in region.blocks}
    return Terminator.THROUGH in kinds and Terminator.CALL in kinds


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
