"""`probeloom fuzz function`: whole functions of ELF files from random states, original against instrumented.

A job instruments some functions of a file, at random liveness and kind of counter, and runs each from random states in
unicorn as `probeloom verify` does, with its explanations of what may differ. With `strict` liveness it runs them on the
processor, too (see `fuzz.native_functions`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from fuzz.campaign import Failure, Job, Result, Settings, jobs
from fuzz.coverage import EMULATED, NATIVE
from fuzz.native import OracleError
from fuzz.native_functions import MOST_CALLS, NativeFunctions
from jit import engine
from jit.analysis import effective_liveness, go_runtime_refusal
from jit.emulated_memory import World
from jit.engine import Built
from jit.options import CounterUpdate, LivenessMode, Options
from jit.random_state import State
from jit.tracepoints import Point, Spec
from jit.verifier import Verifier
from jit.verify import FunctionReport, verify
from lifter.cfg import build_all
from lifter.errors import RefusedError, UsageError
from lifter.image.load import open_image
from lifter.image.types import Function, Image

UNITS: Final = "functions"
DEFAULT_COUNT: Final = 200
_CHUNK: Final = 25
"""Functions of a job."""
_SAMPLES: Final = 24
"""States of a function."""
_NATIVE: Final = 8
"""States of a function on the processor."""
_MUCH_CODE: Final = 1 << 20
"""Bytes of code that the processor is taken to execute in one run: unicorn's runs are shorter."""
_LARGEST: Final = 20_000
"""Bytes of a function: beyond it, instrumenting takes longer than running."""
_LIVENESS: Final[tuple[LivenessMode, ...]] = ("abi", "strict")
_UPDATES: Final[tuple[CounterUpdate, ...]] = ("plain", "biased", "atomic", "auto")
_POINTS: Final = ((Point.BLOCK,), (Point.BLOCK, Point.ENTRY), (Point.BLOCK, Point.RETURN), (Point.ENTRY, Point.RETURN))


@dataclass(frozen=True, slots=True)
class Group:
    """Functions instrumented together, and how."""

    path: str
    functions: tuple[int, ...]
    """Addresses."""
    liveness: LivenessMode
    update: CounterUpdate
    points: tuple[str, ...]
    seed: int
    samples: int

    def __str__(self) -> str:
        addresses = ",".join(f"{address:#x}" for address in self.functions)
        rest = (self.liveness, self.update, "+".join(self.points), str(self.seed), str(self.samples), self.path)
        return ":".join((addresses, *rest))

    @classmethod
    def parse(cls, text: str) -> Group:
        """The group that `str` wrote. Raises ValueError."""
        addresses, liveness, update, points, seed, samples, path = text.split(":", 6)
        return cls(
            path,
            tuple(int(address, 16) for address in addresses.split(",")),
            next(mode for mode in _LIVENESS if mode == liveness),
            next(kind for kind in _UPDATES if kind == update),
            tuple(Point(point).value for point in points.split("+")),
            int(seed),
            int(samples),
        )


def plan(settings: Settings) -> Iterator[Job]:
    """See `fuzz.campaign.Kind`."""
    if not settings.binaries:
        raise UsageError("fuzz function needs binaries to take functions from")
    for path in settings.binaries:
        if not _candidates(path, settings.match):
            raise UsageError(f"{path}: no function whose name contains '{settings.match}' can be instrumented")
    return jobs("function", settings.seed, _works(settings))


def _works(settings: Settings) -> Iterator[dict[str, Any]]:
    left = None if settings.seconds is not None else settings.count or DEFAULT_COUNT
    source = random.Random(settings.seed)
    waiting: dict[str, list[int]] = {path: [] for path in settings.binaries}
    turn = 0
    while left is None or left > 0:
        path = settings.binaries[turn % len(settings.binaries)]
        if not waiting[path]:
            waiting[path] = [function.address for function in _candidates(path, settings.match)]
            source.shuffle(waiting[path])
        number = _CHUNK if left is None else min(_CHUNK, left)
        chosen = [waiting[path].pop() for _ in range(min(number, len(waiting[path])))]
        yield {"path": path, "functions": sorted(chosen)}
        left = None if left is None else left - len(chosen)
        turn += 1


@lru_cache(2)
def _image(path: str) -> Image:
    return open_image(Path(path))


def _candidates(path: str, match: str) -> list[Function]:
    image = _image(path)
    return [
        function
        for function in image.functions
        if function.refusal is None
        and match in function.name
        and 1 < function.size <= _LARGEST
        and go_runtime_refusal(image, function) is None
    ]


def run(job: Job) -> Result:
    """See `fuzz.campaign.Kind`."""
    started = time.monotonic()
    source = random.Random(job.seed)
    group = Group(
        job.work["path"],
        tuple(job.work["functions"]),
        source.choice(_LIVENESS),
        source.choice(_UPDATES),
        tuple(point.value for point in source.choice(_POINTS)),
        job.seed,
        _SAMPLES,
    )
    result = check(group)
    result.seconds = time.monotonic() - started
    return result


def check(group: Group) -> Result:
    """Instrument and run a group of functions."""
    result = Result()
    image = _image(group.path)
    functions = [function for address in group.functions if (function := image.function_at(address)) is not None]
    try:
        built = _build(image, group)
    except RefusedError as error:
        result.notes[f"functions not instrumented: {str(error).partition(':')[0]}"] += len(functions)
        return result
    instrumented = {tracepoint.function for tracepoint in built.tracepoints}
    chosen = [function for function in functions if function.name in instrumented or function.demangled in instrumented]
    result.notes["functions of which nothing could be instrumented"] += len(functions) - len(chosen)
    strict = effective_liveness(image, group.liveness) == "strict"
    never = len(chosen) + 1
    report = verify(
        image, built, functions=chosen, samples=group.samples, seed=group.seed, strict=strict, stop_after=never
    )
    failed = {case.address for case in report.cases}
    for row in report.functions:
        _count(row, group, row.address in failed, result)
    for refusal in report.refusals:
        result.notes[f"functions not run: {refusal.reason}"] += 1
    for case in report.cases:
        result.failures.append(_shrunk(group, case.address, f"{case.function}: {case.what}"))
    if strict:
        states = result.states
        for function, what in _run_natively(image, built, chosen, group, result):
            if function.address not in failed:
                result.failures.append(_shrunk(group, function.address, f"{function.name}: on the processor: {what}"))
        # The same functions as in unicorn, from fewer states.
        result.states = states
    return result


def _run_natively(
    image: Image, built: Built, functions: Sequence[Function], group: Group, result: Result
) -> list[tuple[Function, str]]:
    """Run functions on the processor, and say what differs in which."""
    found: list[tuple[Function, str]] = []
    form = f"{Path(group.path).name}: {'+'.join(group.points)}"
    try:
        opened = NativeFunctions(image, built.overlay, group.seed)
    except OracleError as error:
        result.notes[f"functions not run on the processor: {error}"] += len(functions)
        return found
    with opened as native:
        for function in functions:
            difference, ends = native.check(function.address, range(_NATIVE))
            what = "" if difference is None else difference.what
            if difference is not None:
                excuse = _explained(image, built, function, native.state(difference.row), group.seed)
                if excuse:
                    what = ""
                    result.notes[f"not compared to its end on the processor: {excuse} (runs)"] += 1
            result.cover(form, f"{group.liveness}, {group.update}", NATIVE, _NATIVE, bool(what))
            for end, number in ends.items():
                result.notes[f"runs on the processor that {end}"] += number
            if what:
                found.append((function, what))
    return found


def _explained(image: Image, built: Built, function: Function, state: State, seed: int) -> str:
    """Why original and instrumented function may differ from a state: what unicorn's checks find out about it."""
    graph = build_all(image, [function])[function.address]
    verifier = Verifier(image, built, seed=seed, strict=True)
    state = replace(state, world=World.FRESH)
    outcome = verifier.check(graph, state)
    if not outcome.unchecked and verifier.reads_patched_code(graph, state, _MUCH_CODE, MOST_CALLS):
        return "result depends on code bytes that are overwritten"
    return outcome.unchecked


def _build(image: Image, group: Group) -> Built:
    specs = [Spec(Point(point), f"{address:#x}") for address in group.functions for point in group.points]
    # Functions are entered directly here: their callers' counters cannot tell how often.
    options = Options(1, group.liveness, group.update, placement="function", use_cache=False)
    return engine.build(image, specs, options)


def _count(row: FunctionReport, group: Group, failed: bool, result: Result) -> None:
    result.units += 1
    form = f"{Path(group.path).name}: {'+'.join(group.points)}"
    result.cover(form, f"{group.liveness}, {group.update}", EMULATED, row.states, failed)
    for end, number in row.ends.items():
        result.notes[f"runs that {end}"] += number
    result.notes["runs whose counters were compared"] += row.counted
    result.notes["blocks"] += row.blocks
    result.notes["blocks reached"] += row.reached
    for reason, number in row.unchecked.items():
        result.notes[f"not compared to its end: {reason}"] += number


def _shrunk(group: Group, address: int, what: str) -> Failure:
    """The failure with as few functions instrumented as show it: one, or all."""
    alone = Group(group.path, (address,), group.liveness, group.update, group.points, group.seed, group.samples)
    if len(group.functions) > 1 and (again := replay(str(alone))) is not None:
        return again
    return Failure(str(group), what)


def replay(case: str) -> Failure | None:
    """See `fuzz.campaign.Kind`."""
    try:
        group = Group.parse(case)
    except (ValueError, StopIteration):
        raise UsageError(f"'{case}' is not ADDRESSES:LIVENESS:UPDATE:POINTS:SEED:SAMPLES:PATH") from None
    image = _image(group.path)
    strict = effective_liveness(image, group.liveness) == "strict"
    functions = [function for address in group.functions if (function := image.function_at(address)) is not None]
    built = _build(image, group)
    report = verify(image, built, functions=functions, samples=group.samples, seed=group.seed, strict=strict)
    if report.cases:
        return Failure(case, str(report.cases[0]))
    natively = _run_natively(image, built, functions, group, Result()) if strict else []
    return Failure(case, f"{natively[0][0].name}: on the processor: {natively[0][1]}") if natively else None
