"""The process that analyses modules and compiles their functions while the tracer serves the target.

`jit.live.workshop` starts it, sends requests and reads answers on its standard input and output (see
`codecache.frames`). It ends when its standard input closes, so it never outlives the tracer; what it compiled is in the
store.

A thread of the target sleeps while its first call is served, so loops that LLVM makes better code of are put together
from their own bytes first. When nobody asks for anything, LLVM compiles them, and its code takes their place.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from pathlib import Path
from select import select as wait_for
from typing import Final

from codecache.frames import Frames, frame
from codecache.pool import Compiler
from codecache.store import Store
from ir.carry import CarriedRegion
from ir.probes import CompiledProbe
from jit import datafile
from jit.analysis import effective_update, load_probes
from jit.builtcache import plan_key
from jit.compiled import Result, compile_regions, compiled_whole
from jit.layout import CompiledFunction
from jit.live import stored
from jit.live.improver import Improver, Wanted
from jit.live.plan import LiveFunction, ModulePlan
from jit.live.waiting import intrusive, waits
from jit.options import Clock, CounterUpdate, LivenessMode, Options
from jit.prepare import Planned, Work, prepare
from jit.specs import Names
from jit.tracepoints import Spec
from lifter.errors import ProbeloomError, Refusal
from lifter.image.load import open_image
from lifter.image.types import Image

_IDLE: Final = 0.01
"""Seconds without a request until there is time for what nobody waits for."""
_LOWERING: Final = 25e-6
"""Seconds that an instruction takes to be lowered, about."""
_CAUTION: Final = 10
"""A first call that comes while a function is lowered waits for that, so the builder must have been idle for that many
times as long."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of all modules."""

    jobs: int
    liveness: LivenessMode
    counter_update: CounterUpdate
    use_cache: bool
    probes: Mapping[str, CompiledProbe]
    exact_faults: bool = False


@dataclass(frozen=True, slots=True)
class Open:
    """Analyse a module, or find it in the store."""

    module: int
    """A number that names it from then on."""
    path: str
    """Where its file can be read."""
    name: str
    """Its path as the target has it."""
    specs: tuple[Spec, ...]
    is_running: bool
    """Whether threads run through the module already: then nobody shall wait for more than a function to be compiled,
    and the answer comes when all is analysed. Otherwise it is the program that waits for the answer, and a plan from
    the store is taken; analysis then waits for a function that is not in the store."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to `Open`."""

    module: int
    name: str
    matched: Mapping[Spec, frozenset[str]]
    """The specs that name functions of it, and which."""
    unmatched: tuple[Spec, ...]
    """Those that do not."""
    plan: ModulePlan | None = None
    """None where no spec matches."""
    ready: tuple[CompiledFunction, ...] = ()
    """Functions that earlier runs called, with their code."""
    problem: ProbeloomError | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """Compile a function."""

    module: int
    function: int


@dataclass(frozen=True, slots=True)
class Know:
    """What an action means: there is no answer."""

    action: str
    probe: CompiledProbe


@dataclass(frozen=True, slots=True)
class Made:
    """The answer to `Build`."""

    module: int
    function: int
    result: CompiledFunction | Refusal
    is_better: bool = False
    """Whether it comes after another answer, whose code it shall replace."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The builder cannot go on: its last words."""

    text: str


class _Module:
    """A module that was opened."""

    def __init__(self, image: Image, specs: Sequence[Spec], options: Options, key: str) -> None:
        self.image = image
        self.specs = specs
        self.options = options
        self.key = key
        self.plan: ModulePlan | None = None
        self.made: dict[int, CompiledFunction] = {}
        self.changed = False
        """Whether `made` has functions that the store has not."""
        self._planned: dict[int, Planned] = {}
        self._refusals: list[Refusal] = []

    def recall(self, store: Store) -> None:
        """Take plan and code from the store, if they are there."""
        try:
            content = store.get_plan(self.key)
            if content is not None:
                self.plan = stored.decode_plan(content)
                code = store.get_plan(f"{self.key}-code")
                functions = stored.decode_functions(code) if code is not None else ()
                self.made = {function.entry: function for function in functions}
        except ValueError:
            self.plan = None

    def keep(self, store: Store) -> None:
        """Put plan and code into the store."""
        if self.changed and self.plan is not None:
            store.put_plan(self.key, stored.encode_plan(self.plan))
            store.put_plan(f"{self.key}-code", stored.encode_functions(list(self.made.values())))
            self.changed = False

    def analyse(self) -> ModulePlan:
        """Plan every selected function. Raises RefusedError or UsageError."""
        prepared = prepare(self.image, self.specs, self.options, Clock())
        self._planned = {planned.plan.graph.function.address: planned for planned in prepared.functions}
        tracepoints = [point for planned in prepared.functions for point in planned.actions.tracepoints]
        name = str(self.image.path)
        laid = datafile.layout(
            name,
            self.image.build_id,
            tracepoints,
            prepared.words,
            self.image.content,
            biased=self.options.counter_update == "biased",
        )
        functions = []
        for address, planned in self._planned.items():
            plan = planned.plan
            function = plan.graph.function
            functions.append(
                LiveFunction(address, function.end, function.demangled, waits(self.image, plan), intrusive(plan))
            )
        segment = datafile.encode(laid)
        guards = tuple(prepared.guards.items())
        self.plan = ModulePlan(segment, not self.image.is_go, tuple(functions), tuple(prepared.refusals), guards)
        return self.plan

    def build(self, address: int, compiler: Compiler) -> tuple[CompiledFunction | Refusal, int]:
        """A function's code; and if LLVM makes better code of it, its number of instructions, else 0."""
        known = self.made.get(address)
        if known is not None:
            return known, 0
        if not self._planned:
            self.analyse()
        work = self._planned[address].lower(in_haste=True)
        carried = [region for region in work.code.all_regions if isinstance(region, CarriedRegion)]
        hasty = any(region.provisional for region in carried)
        if hasty and len(carried) < len(work.code.all_regions):  # LLVM is needed all the same
            work, hasty = self.work(address), False
        made = compiled_whole(self.image, work, compile_regions(compiler, work.code.all_regions))
        if isinstance(made, Refusal):
            return made, 0
        self.made[address] = made
        self.changed = True
        return made, sum(len(block.instructions) for block in work.plan.graph.blocks.values()) if hasty else 0

    def work(self, address: int) -> Work:
        """A function as it shall be in the end."""
        return self._planned[address].lower()

    def improve(self, work: Work, results: Sequence[Result]) -> CompiledFunction | None:
        """A function's better code; None if it cannot be used."""
        made = compiled_whole(self.image, work, results)
        if isinstance(made, Refusal):
            return None
        self.made[made.entry] = made
        self.changed = True
        return made


class _Builder:
    """Serves requests one after the other."""

    def __init__(self, settings: Settings, answer: Callable[[object], None]) -> None:
        self.settings = settings
        self.answer = answer
        self.store = Store.open() if settings.use_cache else None
        self.compiler = Compiler(settings.jobs, self.store)
        self.hasty: list[tuple[int, int, int]] = []
        """A heap of the functions that LLVM makes better code of: instructions, module, address."""
        self.improver: Improver | None = None
        self.improving = 0
        """Functions that are with the improver."""
        self.modules: dict[int, _Module] = {}
        self.images: dict[str, Image] = {}
        self.known: dict[str, CompiledProbe] = {}

    def open(self, request: Open) -> Opened:
        """Serve `Open`."""
        image = self.images.get(request.path)
        if image is None:
            image = self.images[request.path] = replace(open_image(request.path), path=Path(request.name))
        names = Names(image.functions)
        named = {spec: names.select(spec.pattern) for spec in request.specs}
        matched = {spec: frozenset(f.demangled for f in found) for spec, found in named.items() if found}
        specs = tuple(matched)
        unmatched = tuple(spec for spec in request.specs if spec not in matched)
        if not specs:
            return Opened(request.module, request.name, matched, unmatched)
        probes = load_probes(specs, {**self.settings.probes, **self.known})
        settings = self.settings
        options = Options(
            liveness=settings.liveness,
            counter_update=effective_update(image, settings.counter_update),
            use_cache=settings.use_cache,
            probes=probes,
            placement="every",  # functions that run when they are instrumented are entered before they are counted
            # Go's runtime makes a panic of a fault at an address that it knows.
            exact_faults=settings.exact_faults or image.is_go,
            whole_pages=True,
        )
        guarded = ",".join(str(spec) for spec in specs if spec.guarded)
        how = ("live", settings.liveness, settings.counter_update, guarded, str(settings.exact_faults))
        key = plan_key(image, specs, probes, how)
        module = self.modules[request.module] = _Module(image, specs, options, key)
        if self.store is not None:
            module.recall(self.store)
        plan = module.plan
        if plan is None or request.is_running:
            module.changed = plan is None
            if any(spec.action != "count" or spec.guarded for spec in specs):
                self.compiler.start()  # such first calls wait for LLVM
            plan = module.analyse()
        return Opened(request.module, request.name, matched, unmatched, plan, tuple(module.made.values()))

    def serve(self, request: object) -> None:
        """Serve any request."""
        if isinstance(request, Open):
            try:
                self.answer(self.open(request))
            except ProbeloomError as problem:
                self.answer(Opened(request.module, request.name, {}, (), problem=problem))
        elif isinstance(request, Build):
            made, hasty = self.modules[request.module].build(request.function, self.compiler)
            if hasty:
                heappush(self.hasty, (hasty, request.module, request.function))
            self.answer(Made(request.module, request.function, made))
        elif isinstance(request, Know):
            self.known[request.action] = request.probe
        else:
            raise TypeError(f"no request: {request!r}")

    @property
    def patience(self) -> float | None:
        """Seconds without a request after which to `improve_next`; None if there is nothing to improve."""
        return max(_IDLE, _CAUTION * _LOWERING * self.hasty[0][0]) if self.hasty else None

    def improve_next(self) -> None:
        """Have LLVM compile the smallest of the functions that were made in haste."""
        if self.improver is None:
            self.improver = Improver(Compiler(self.settings.jobs, self.store))
        _, number, address = heappop(self.hasty)
        self.improver.want(Wanted(number, self.modules[number].work(address)))
        self.improving += 1

    def improved(self) -> None:
        """Send the better code that is there, at least one function's."""
        assert self.improver is not None
        for wanted, results in self.improver.made():
            self.improving -= 1
            better = self.modules[wanted.module].improve(wanted.work, results)
            if better is not None:
                self.answer(Made(wanted.module, better.entry, better, is_better=True))

    def finish(self) -> None:
        """When nobody asks any more: make all code as good as it gets, for the store."""
        if self.store is None:
            return
        self.answer = lambda message: None
        while self.hasty:
            self.improve_next()
        while self.improving:
            self.improved()

    def close(self) -> None:
        """Keep what was made, and end the compilers."""
        if self.improver is not None:
            self.improver.close()
        if self.store is not None:
            for module in self.modules.values():
                module.keep(self.store)
            self.store.close()
        self.compiler.close()


def _serve(builder: _Builder, descriptor: int, frames: Frames) -> None:
    while True:
        improver = builder.improver
        watched = [descriptor] if improver is None else [descriptor, improver.fileno()]
        ready, _, _ = wait_for(watched, [], [], builder.patience)
        if descriptor in ready:
            content = os.read(descriptor, 1 << 20)
            if not content:
                return
            for request in frames.feed(content):
                builder.serve(request)
        elif ready:
            builder.improved()
        else:
            builder.improve_next()


def main() -> None:
    """Serve what comes in until there is no more."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):  # the terminal's are the target's and the tracer's
        signal.signal(number, signal.SIG_IGN)
    # Regions come and go without reference cycles, and a thread of the target may be waiting.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    builder: _Builder | None = None

    def answer(message: object) -> None:
        content = frame(message)
        with suppress(BrokenPipeError):  # nobody waits for it any more
            while content:
                content = content[os.write(sys.stdout.fileno(), content) :]

    try:
        frames = Frames()
        requests: list[object] = []
        while not requests:
            content = os.read(sys.stdin.fileno(), 1 << 20)
            if not content:
                return
            requests = frames.feed(content)
        settings, *requests = requests
        if not isinstance(settings, Settings):
            raise TypeError(f"no settings: {settings!r}")
        builder = _Builder(settings, answer)
        for request in requests:
            builder.serve(request)
        _serve(builder, sys.stdin.fileno(), frames)
        builder.finish()
    except Exception as failure:
        import traceback

        answer(Failed("".join(traceback.format_exception(failure))))
        raise
    finally:
        if builder is not None:
            builder.close()
