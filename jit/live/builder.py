"""The process that analyses modules and compiles their functions while the tracer serves the target.

`jit.live.workshop` starts it, sends requests and reads answers: pickles behind an 8-byte length on its standard input
and output. It ends when its standard input closes, so it never outlives the tracer; what it compiled is in the store.
"""

from __future__ import annotations

import pickle
import signal
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from codecache.pool import Compiler
from codecache.store import Store
from codecache.types import CompileFailure
from codecache.worker import frame
from ir.probes import CompiledProbe
from jit import datafile
from jit.builtcache import plan_key
from jit.compiled import Result, compiled_whole
from jit.layout import CompiledFunction
from jit.live import stored
from jit.live.plan import LiveFunction, ModulePlan
from jit.live.waiting import intrusive, waits
from jit.prepare import Clock, CounterUpdate, LivenessMode, Options, Planned, load_probes, prepare
from jit.regions import AnyRegion
from jit.specs import select
from jit.tracepoints import Spec
from lifter.errors import ProbeloomError, Refusal
from lifter.image.load import open_image
from lifter.image.types import Image

_LENGTH: Final = struct.Struct("<Q")
_NOT_COMPILED: Final = CompileFailure("it was never compiled")


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
        laid = datafile.layout(name, self.image.build_id, tracepoints, prepared.words, self.image.content)
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

    def build(self, address: int, compiler: Compiler) -> CompiledFunction | Refusal:
        """A function's code."""
        known = self.made.get(address)
        if known is not None:
            return known
        if not self._planned:
            self.analyse()
        work = self._planned[address].lower()
        results = _compile(compiler, work.code.all_regions)
        made = compiled_whole(self.image, work, results)
        if isinstance(made, CompiledFunction):
            self.made[address] = made
            self.changed = True
        return made


def _compile(compiler: Compiler, regions: Iterable[AnyRegion]) -> list[Result]:
    sources = [region.source for region in regions]
    results: list[Result] = [_NOT_COMPILED] * len(sources)
    for index, result in compiler.compile_all(sources):
        results[index] = result
    return results


class _Builder:
    """Serves requests one after the other."""

    def __init__(self, settings: Settings, answer: Callable[[object], None]) -> None:
        self.settings = settings
        self.answer = answer
        self.store = Store.open() if settings.use_cache else None
        self.compiler = Compiler(settings.jobs, self.store)
        self.modules: dict[int, _Module] = {}
        self.images: dict[str, Image] = {}
        self.known: dict[str, CompiledProbe] = {}

    def open(self, request: Open) -> Opened:
        """Serve `Open`."""
        image = self.images.get(request.path)
        if image is None:
            image = self.images[request.path] = replace(open_image(request.path), path=Path(request.name))
        named = {spec: select(spec.pattern, image.functions) for spec in request.specs}
        matched = {spec: frozenset(f.demangled for f in found) for spec, found in named.items() if found}
        specs = tuple(matched)
        unmatched = tuple(spec for spec in request.specs if spec not in matched)
        if not specs:
            return Opened(request.module, request.name, matched, unmatched)
        probes = load_probes(specs, {**self.settings.probes, **self.known})
        settings = self.settings
        options = Options(
            liveness=settings.liveness,
            counter_update=settings.counter_update,
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
            self.compiler.start()
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
            made = self.modules[request.module].build(request.function, self.compiler)
            self.answer(Made(request.module, request.function, made))
        elif isinstance(request, Know):
            self.known[request.action] = request.probe
        else:
            raise TypeError(f"no request: {request!r}")

    def close(self) -> None:
        """Keep what was made, and end the compilers."""
        if self.store is not None:
            for module in self.modules.values():
                module.keep(self.store)
            self.store.close()
        self.compiler.close()


def _read(stream: BinaryIO) -> object | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    content = stream.read(*_LENGTH.unpack(head))
    request: object = pickle.loads(content)
    return request


def main() -> None:
    """Serve what comes in until there is no more."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):  # the terminal's are the target's and the tracer's
        signal.signal(number, signal.SIG_IGN)
    out = sys.stdout.buffer

    def answer(message: object) -> None:
        out.write(frame(message))
        out.flush()

    settings = _read(sys.stdin.buffer)
    if not isinstance(settings, Settings):
        return
    builder = _Builder(settings, answer)
    try:
        while (request := _read(sys.stdin.buffer)) is not None:
            builder.serve(request)
    except BrokenPipeError:
        pass  # nobody waits for the answer any more
    except Exception as failure:
        import traceback

        answer(Failed("".join(traceback.format_exception(failure))))
        raise
    finally:
        builder.close()
