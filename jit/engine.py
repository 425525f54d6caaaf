r"""The engine: from an image and a list of probes to all that must be added to the image.

image -> functions -> graphs -> liveness -> plans -> IR -> compiled regions -> linked code -> patches
\________ jit.analysis ______________/ \_ jit.making _/

The analysis is of the whole image; from there on each function goes its way alone (`jit.making`), and only what is
needed to put all of them together is kept of it (`jit.made`).
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codecache.compiler import Result
from codecache.pool import Compiler
from codecache.store import Store
from codecache.types import Overlay
from ir.source import RegionSource
from jit import datafile, offline
from jit.analysis import Analysis, Request, load_probes
from jit.builtcache import encode
from jit.compiled import refusal
from jit.frames import Described
from jit.layout import Words, lay_out, trampolines
from jit.made import Made, Numbering, StoredFunction, function_of, obstacle
from jit.making import Workforce
from jit.options import Clock, Options
from jit.prepare import check_words, in_order
from jit.recall import Built as Built
from jit.recall import key_of, recall
from jit.tracepoints import Spec, Tracepoint
from lifter.errors import Refusal, RefusedError
from lifter.image.types import Image


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
    options = replace(options, probes=load_probes(specs, options.probes))
    if store is None:
        return _Build(image, specs, options, clock, store).run()
    with clock.stage("cache"):
        key = key_of(image, specs, options, options.probes)
    built = recall(store, key, clock)
    if built is None:
        built = _Build(image, specs, options, clock, store).run()
        store.put_plan(key, encode(built.overlay, built.refusals, built.report))
    return built


class _Build:
    """Analyse, make each function's code, link, patch."""

    def __init__(
        self, image: Image, specs: Sequence[Spec], options: Options, clock: Clock, store: Store | None
    ) -> None:
        self.image = image
        self.store = store
        self.options = options
        self.clock = clock
        with clock.stage("select"):
            self.request = Request(image, specs, options)
        self.hits = self.misses = 0
        self.results: dict[int, dict[int, Result]] = {}
        """Function -> number of each of its regions that was compiled -> what became of it."""

    def run(self) -> Built:
        """All stages."""
        with Workforce(self.request, self.options.jobs) as workforce:
            analysis = Analysis(self.request, self.clock, workforce.make_graphs)
            with self.clock.stage("compile"):
                functions = self._make(workforce.make_functions(analysis))
            del analysis
        with self.clock.stage("link"):
            return self._finish(functions)

    def _make(self, making: Iterator[Made]) -> list[Made]:
        """Every function, in address order; what LLVM has to do is done while others are planned and lowered."""
        made: dict[int, Made] = {}
        places: list[tuple[int, int]] = []
        total = len(self.request.specs)

        def sources() -> Iterator[RegionSource]:
            for function in making:
                made[function.entry] = function
                self._progress("plan", len(made), total)
                places.extend((function.entry, number) for number, _ in function.sources)
                yield from [source for _, source in function.sources]
                function.sources.clear()

        done = 0
        with Compiler(self.options.jobs, self.store) as compiler:
            for index, result in compiler.compile_all(sources()):
                function, number = places[index]
                self.results.setdefault(function, {})[number] = result
                done += 1
                self._progress("compile", done, len(places))
            self.hits, self.misses = compiler.hits, compiler.misses
        return [made[address] for address in sorted(made)]

    # --- result -----------------------------------------------------------------------------------------

    def _finish(self, made: Sequence[Made]) -> Built:
        numbering = Numbering(made, self.request.guarded)
        check_words(numbering.size)
        left_out = {function.entry: function.left_out for function in made}
        left_out.update((address, (refusal,)) for address, refusal in self.request.refused.items())
        refusals = in_order(left_out)
        refusals += [refusal for function in made for refusal in function.refusals]
        selected = [function for function in made if function.selected]
        kept = []
        for function in selected:
            obstructed = obstacle(self.image, function, self.results.get(function.entry, {}))
            if obstructed is None:
                kept.append(function)
            else:
                refusals.append(obstructed)
        data_address = offline.reserve(self.image)
        while True:
            rows = _Rows(self.image, numbering, kept, all_of_them=self.options.bare or len(kept) == len(selected))
            layout = datafile.layout(
                str(self.image.path),
                self.image.build_id,
                rows,
                numbering.size,
                self.image.content,
                biased=self.request.lowering.update == "biased",
            )
            if not rows.number:
                raise RefusedError(_nothing_left([*refusals, *rows.refusals]))
            code_address = offline.after_data(data_address, layout.size)
            functions = _Stored(numbering, kept, self.results)
            words = Words(
                data_address + layout.counters_offset,
                data_address + layout.own_offset,
                data_address + layout.owner_offset,
            )
            laid = lay_out(functions, code_address, words)
            if not laid.failures:
                break
            for index, failure in laid.failures.items():
                reason = f"the code cannot be linked: {failure.reason}"
                refusals.append(refusal(function_of(self.image, kept[index]), reason))
            kept = [function for index, function in enumerate(kept) if index not in laid.failures]
        refusals += rows.refusals
        patches = trampolines(self.image.read, functions, laid.places)
        overlay = Overlay(code_address, laid.code, data_address, datafile.encode(layout), patches)
        frames = self.request.through.frames
        described = Described.of(frames, functions, laid.places) if frames is not None else None
        if described is not None:
            frames_address = offline.after_code(code_address, len(laid.code))
            named = {function.entry: function_of(self.image, function).name for function in kept}
            overlay = replace(
                overlay,
                frames_address=frames_address,
                frames=described.search_table(frames_address),
                debug_frames=described.debug_frames(),
                names=described.names(named.__getitem__),
            )
        return Built(overlay, tuple(refusals), self._report(made, kept, rows.number, len(laid.code), refusals))

    def _report(
        self, made: Sequence[Made], kept: Sequence[Made], tracepoints: int, cache: int, refusals: Sequence[Refusal]
    ) -> dict[str, Any]:
        lifted, verbatim = sum(function.lifted for function in kept), sum(function.verbatim for function in kept)
        total = sum(function.instructions for function in kept)
        return {
            "functions": {
                "total": len(self.image.functions),
                "selected": len(self.request.selected),
                "instrumented": len(kept),
            },
            "tracepoints": {
                "selected": sum(function.selected for function in made),
                "instrumented": tracepoints,
            },
            "instructions": {"lifted": lifted, "verbatim": verbatim, "native": total - lifted - verbatim},
            "bytes": {"lifted": sum(function.lifted_bytes for function in kept), "cache": cache},
            "refused": [
                {"function": refusal.function, "address": refusal.address, "reason": refusal.reason}
                for refusal in refusals
            ],
            "seconds": dict(self.clock.seconds),
            "cache": {"hits": self.hits, "misses": self.misses},
        }

    def _progress(self, stage: str, done: int, total: int) -> None:
        if self.options.progress is not None:
            self.options.progress(stage, done, total)


class _Rows(Iterable[Tracepoint]):
    """The tracepoints of the functions that are kept, but for those that others would have to count."""

    def __init__(self, image: Image, numbering: Numbering, kept: Sequence[Made], all_of_them: bool) -> None:
        self._image = image
        self._numbering = numbering
        self._kept = kept
        self._entries = None if all_of_them else {function.entry for function in kept}
        self.number = 0
        """How many there were, once they have been gone through."""
        self.refusals: list[Refusal] = []

    def __iter__(self) -> Iterator[Tracepoint]:
        self.number = 0
        self.refusals.clear()
        numbering, entries = self._numbering, self._entries
        for made in self._kept:
            for point in numbering.tracepoints(function_of(self._image, made), made):
                if entries is None or all(numbering.owner(index) in entries for index, _ in point.terms):
                    self.number += 1
                    yield point
                else:
                    reason = "counted by blocks of a function that was left out"
                    self.refusals.append(Refusal(point.address, reason, function=point.function))


@dataclass(frozen=True, slots=True)
class _Stored(Iterable[StoredFunction]):
    """The functions that are kept as the linker wants them, made as they are gone through."""

    numbering: Numbering
    kept: Sequence[Made]
    results: Mapping[int, Mapping[int, Result]]

    def __iter__(self) -> Iterator[StoredFunction]:
        for made in self.kept:
            yield StoredFunction(self.numbering, made, self.results.get(made.entry, {}))


def _nothing_left(refusals: Sequence[Refusal]) -> str:
    if not refusals:
        return "nothing can be instrumented"
    more = f", and {len(refusals) - 1} more" if len(refusals) > 1 else ""
    return f"nothing can be instrumented: {refusals[0]}{more}"


def write(image: Image, built: Built, output: Path) -> tuple[str, ...]:
    """Write the instrumented executable; notes for the user. See `jit.offline.write`."""
    return offline.write(image, built.overlay, output)
