r"""The engine: from an image and a list of probes to all that must be added to the image.

image -> functions -> graphs -> tracepoints -> plans -> IR -> compiled regions -> linked code -> patches
\________________________ jit.prepare _____________________/
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from codecache.compiler import Result
from codecache.pool import Compiler
from codecache.store import Store
from codecache.types import CompiledRegion, CompileFailure, Overlay
from ir.source import RegionSource
from jit import datafile, offline
from jit.builtcache import decode, encode, plan_key
from jit.compiled import compiled_whole, instructions, refusal
from jit.layout import CompiledFunction, lay_out, trampolines
from jit.prepare import Clock, Options, Prepared, Work, load_probes, prepare
from jit.tracepoints import Spec, Tracepoint
from lifter.errors import Refusal, RefusedError
from lifter.image.types import Image
from lifter.instruction import Handling


@dataclass(frozen=True)
class Built:
    """Everything that a mode (offline, live, emulated) needs."""

    overlay: Overlay
    refusals: tuple[Refusal, ...]
    report: Mapping[str, Any]
    """As `probeloom rewrite --report` writes it."""

    @cached_property
    def tracepoints(self) -> tuple[Tracepoint, ...]:
        """What is counted where, as the overlay's data describe it."""
        return tuple(datafile.decode(self.overlay.data, "the overlay").tracepoints)


def build(image: Image, specs: Sequence[Spec], options: Options) -> Built:
    """Make the instrumentation of `image` that `specs` ask for.

    Raises RefusedError where nothing can be instrumented, UsageError for probes that cannot be loaded.
    """
    clock = Clock()
    store = Store.open() if options.use_cache else None
    try:
        with _no_search_for_cycles():
            return _build(image, specs, options, clock, store)
    finally:
        if store is not None:
            store.close()


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Millions of objects are made here, none of them in reference cycles: to look for those takes an eighth of the
    time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _build(image: Image, specs: Sequence[Spec], options: Options, clock: Clock, store: Store | None) -> Built:
    probes = load_probes(specs, options.probes)
    options = replace(options, probes=probes)
    key = ""
    if store is not None:
        settings = (options.liveness, options.counter_update, options.placement, options.optimise, str(options.bare))
        with clock.stage("cache"):
            key = plan_key(image, specs, probes, settings)
            known = _recall(store, key)
        if known is not None:
            regions = known.report["cache"]["hits"] + known.report["cache"]["misses"]
            report = {**known.report, "seconds": clock.seconds, "cache": {"hits": regions, "misses": 0}}
            return replace(known, report=report)
    built = _Build(image, options, prepare(image, specs, options, clock), clock, store).run()
    if store is not None:
        store.put_plan(key, encode(built.overlay, built.refusals, built.report))
    return built


def _recall(store: Store, key: str) -> Built | None:
    content = store.get_plan(key)
    if content is None:
        return None
    try:
        return Built(*decode(content))
    except ValueError:
        return None


_NOT_COMPILED: Final = CompileFailure("it was never compiled")


class _Build:
    """The second half: compile, link, patch."""

    def __init__(self, image: Image, options: Options, prepared: Prepared, clock: Clock, store: Store | None) -> None:
        self.image = image
        self.store = store
        self.options = options
        self.prepared = prepared
        self.clock = clock
        self.refusals = prepared.refusals
        self.hits = self.misses = 0

    def run(self) -> Built:
        """All stages."""
        with self.clock.stage("compile"):
            works, compiled = self._compile()
        with self.clock.stage("link"):
            return self._finish(works, compiled)

    def _compile(self) -> tuple[list[Work], list[list[Result]]]:
        """Every function's regions compiled: lowering goes on here while workers compile."""
        works: list[Work] = []
        results: list[list[Result]] = []
        places: list[tuple[int, int]] = []

        def sources() -> Iterator[RegionSource | CompiledRegion]:
            for number, planned in enumerate(self.prepared.functions):
                self._progress("lower", number, len(self.prepared.functions))
                work = planned.lower()
                regions = work.code.all_regions
                places.extend((len(works), position) for position in range(len(regions)))
                works.append(work)
                results.append([_NOT_COMPILED] * len(regions))
                yield from (region.source for region in regions)

        done = 0
        with Compiler(self.options.jobs, self.store) as compiler:
            for index, result in compiler.compile_all(sources()):
                function, position = places[index]
                results[function][position] = result
                done += 1
                self._progress("compile", done, len(places))
            self.hits, self.misses = compiler.hits, compiler.misses
        return works, results

    # --- result -----------------------------------------------------------------------------------------

    def _finish(
        self,
        works: Sequence[Work],
        results: Sequence[Sequence[Result]],
    ) -> Built:
        kept: list[tuple[Work, CompiledFunction]] = []
        for work, found in zip(works, results, strict=True):
            function = compiled_whole(self.image, work, found)
            if isinstance(function, Refusal):
                self.refusals.append(function)
            else:
                kept.append((work, function))
        data_address = offline.reserve(self.image)
        while True:
            tracepoints = self._countable([work for work, _ in kept], len(kept) == len(works))
            if not tracepoints:
                raise RefusedError(self._nothing_left())
            layout = datafile.layout(
                str(self.image.path), self.image.build_id, tracepoints, self.prepared.words, self.image.content
            )
            code_address = offline.after_data(data_address, layout.size)
            counters = data_address + layout.counters_offset
            laid = lay_out([function for _, function in kept], code_address, counters)
            if not laid.failures:
                break
            for index, failure in laid.failures.items():
                self.refusals.append(refusal(kept[index][0], f"the code cannot be linked: {failure.reason}"))
            kept = [item for index, item in enumerate(kept) if index not in laid.failures]
        patches = trampolines(self.image.read, (function for _, function in kept), laid.places)
        overlay = Overlay(code_address, laid.code, data_address, datafile.encode(layout), patches)
        report = self._report([work for work, _ in kept], tracepoints, len(laid.code))
        return Built(overlay, tuple(self.refusals), report)

    def _countable(self, kept: Sequence[Work], all_kept: bool) -> list[Tracepoint]:
        """The tracepoints of functions that are kept, but for those that others would have to count."""
        tracepoints = [point for work in kept for point in work.tracepoints]
        if all_kept or self.options.bare:
            return tracepoints
        counted = {
            value
            for work in kept
            for region in work.code.all_regions
            for symbol, value in region.symbols.items()
            if symbol[2] == "c"
        }
        result = []
        for point in tracepoints:
            if all(index in counted for index, _ in point.terms):
                result.append(point)
            else:
                reason = "counted by blocks of a function that was left out"
                self.refusals.append(Refusal(point.address, reason, function=point.function))
        return result

    def _nothing_left(self) -> str:
        if not self.refusals:
            return "nothing can be instrumented"
        more = f", and {len(self.refusals) - 1} more" if len(self.refusals) > 1 else ""
        return f"nothing can be instrumented: {self.refusals[0]}{more}"

    def _report(
        self,
        works: Sequence[Work],
        tracepoints: Sequence[Tracepoint],
        cache_bytes: int,
    ) -> dict[str, Any]:
        kinds = Counter(kind for work in works for kind in instructions(work).values())
        lifted, verbatim = kinds[Handling.LIFTED], kinds[Handling.VERBATIM]
        graphs = [work.plan.graph for work in works]
        total = sum(len(block.instructions) for graph in graphs for block in graph.blocks.values())
        regions_planned = (region for work in works for region in work.plan.regions)
        blocks = {(block.address, block.lifted_end) for region in regions_planned for block in region.blocks}
        return {
            "functions": {
                "total": len(self.image.functions),
                "selected": self.prepared.functions_selected,
                "instrumented": len(works),
            },
            "tracepoints": {
                "selected": self.prepared.tracepoints_selected,
                "instrumented": len(tracepoints),
            },
            "instructions": {"lifted": lifted, "verbatim": verbatim, "native": total - lifted - verbatim},
            "bytes": {"lifted": sum(end - start for start, end in blocks), "cache": cache_bytes},
            "refused": [
                {"function": refusal.function, "address": refusal.address, "reason": refusal.reason}
                for refusal in self.refusals
            ],
            "seconds": dict(self.clock.seconds),
            "cache": {"hits": self.hits, "misses": self.misses},
        }

    def _progress(self, stage: str, done: int, total: int) -> None:
        if self.options.progress is not None:
            self.options.progress(stage, done, total)


def write(image: Image, built: Built, output: Path) -> tuple[str, ...]:
    """Write the instrumented executable; notes for the user. See `jit.offline.write`."""
    return offline.write(image, built.overlay, output)
