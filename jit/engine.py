r"""The engine: from an image and a list of probes to all that must be added to the image.

image -> functions -> graphs -> tracepoints -> plans -> IR -> compiled regions -> linked code -> patches
\________________________ jit.prepare _____________________/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from codecache.compiler import Result
from codecache.link import Linked, Unit, link
from codecache.pool import Compiler
from codecache.store import Store
from codecache.types import CompiledRegion, CompileFailure, Overlay, Patch
from ir.lower import SLOTS_SIZE, LoweredRegion
from ir.source import RegionSource
from jit import datafile, offline
from jit.builtcache import decode, encode, plan_key
from jit.prepare import Clock, Options, Prepared, Work, load_probes, prepare
from jit.tracepoints import Spec, Tracepoint
from jit.trampolines import JUMP, jump_to
from lifter.errors import ProbeloomError, Refusal, RefusedError
from lifter.image.types import Image

CODE_ALIGNMENT: Final = 16
_GO_FRAME_LIMIT: Final = 512
"""Bytes that a region may use below a goroutine's stack pointer: Go keeps 800 below its guard for functions that
do not check, and none of those is instrumented."""


@dataclass(frozen=True, slots=True)
class Built:
    """Everything that a mode (offline, live, emulated) needs."""

    overlay: Overlay
    tracepoints: tuple[Tracepoint, ...]
    refusals: tuple[Refusal, ...]
    report: Mapping[str, Any]
    """As `probeloom rewrite --report` writes it."""


def build(image: Image, specs: Sequence[Spec], options: Options) -> Built:
    """Make the instrumentation of `image` that `specs` ask for.

    Raises RefusedError where nothing can be instrumented, UsageError for probes that cannot be loaded.
    """
    clock = Clock()
    store = Store.open() if options.use_cache else None
    try:
        return _build(image, specs, options, clock, store)
    finally:
        if store is not None:
            store.close()


def _build(image: Image, specs: Sequence[Spec], options: Options, clock: Clock, store: Store | None) -> Built:
    probes = load_probes(specs, options.probes)
    options = replace(options, probes=probes)
    key = ""
    if store is not None:
        settings = (options.liveness, options.counter_update, str(options.bare))
        with clock.stage("cache"):
            key = plan_key(image, specs, probes, settings)
            known = _recall(store, key)
        if known is not None:
            regions = known.report["cache"]["hits"] + known.report["cache"]["misses"]
            report = {**known.report, "seconds": clock.seconds, "cache": {"hits": regions, "misses": 0}}
            return replace(known, report=report)
    built = _Build(image, options, prepare(image, specs, options, clock), clock, store).run()
    if store is not None:
        store.put_plan(key, encode(built.overlay, built.tracepoints, built.refusals, built.report))
    return built


def _recall(store: Store, key: str) -> Built | None:
    content = store.get_plan(key)
    if content is None:
        return None
    try:
        return Built(*decode(content))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True, eq=False)
class _Compiled:
    """A function that can be linked."""

    work: Work
    regions: tuple[CompiledRegion, ...]
    """In the order of `work.code.all_regions`."""


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

        def sources() -> Iterator[RegionSource]:
            for work in self.prepared.works:
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
            self._pin_what_was_written(compiler, works, results)
            self.hits, self.misses = compiler.hits, compiler.misses
        return works, results

    @staticmethod
    def _pin_what_was_written(compiler: Compiler, works: list[Work], results: list[list[Result]]) -> None:
        """Compile again, with every live register pinned, regions whose code writes one that was left loose."""
        places: list[tuple[int, int]] = []
        sources: list[RegionSource] = []
        for number, (work, found) in enumerate(zip(works, results, strict=True)):
            written = frozenset(
                position
                for position, (region, result) in enumerate(zip(work.code.all_regions, found, strict=True))
                if isinstance(result, CompiledRegion) and result.writes & region.loose
            )
            if written:
                works[number] = work = replace(work, code=work.pin(work.code, written))
                places += [(number, position) for position in written]
                sources += [work.code.regions[position].source for position in written]
        for index, result in compiler.compile_all(sources):
            number, position = places[index]
            results[number][position] = result

    # --- result -----------------------------------------------------------------------------------------

    def _finish(
        self,
        works: Sequence[Work],
        results: Sequence[Sequence[Result]],
    ) -> Built:
        kept: list[_Compiled] = []
        for work, found in zip(works, results, strict=True):
            regions = self._compiled_whole(work, found)
            if regions is not None:
                kept.append(_Compiled(work, regions))
        data_address = offline.reserve(self.image)
        while True:
            tracepoints = [point for item in kept for point in item.work.tracepoints]
            if not tracepoints:
                raise RefusedError(self._nothing_left())
            layout = datafile.layout(
                str(self.image.path), self.image.build_id, tracepoints, self.prepared.words, self.image.content
            )
            code_address = offline.after_data(data_address, layout.size)
            counters = data_address + layout.counters_offset
            linked, owners, placed = self._link(kept, code_address, counters)
            if not linked.failures:
                break
            failed = {id(owners[index]): failure for index, failure in linked.failures.items()}
            for item in kept:
                if id(item) in failed:
                    reason = f"the code cannot be linked: {failed[id(item)].reason}"
                    self._refuse_function(item.work, reason)
            kept = [item for item in kept if id(item) not in failed]
        patches = self._patches(kept, placed)
        overlay = Overlay(code_address, linked.code, data_address, datafile.encode(layout), tuple(patches))
        report = self._report(kept, tracepoints)
        return Built(overlay, tuple(tracepoints), tuple(self.refusals), report)

    def _compiled_whole(self, work: Work, results: Sequence[Result]) -> tuple[CompiledRegion, ...] | None:
        """The function's regions if all of them can be used; else None, and a refusal."""
        regions = []
        for region, result in zip(work.code.all_regions, results, strict=True):
            if isinstance(result, CompileFailure):
                self._refuse_function(work, f"a region cannot be compiled: {result.reason}", region.head)
                return None
            if self.image.is_go and self._below_stack(work, region, result) > _GO_FRAME_LIMIT:
                self._refuse_function(work, "a region needs more stack than Go guarantees", region.head)
                return None
            regions.append(result)
        return tuple(regions)

    @staticmethod
    def _below_stack(work: Work, region: LoweredRegion, result: CompiledRegion) -> int:
        """Bytes that a region uses below what the original code may: all of it before a function's stack check."""
        whole = result.frame + result.shift
        if region.head == work.plan.graph.function.address:
            return whole
        return min(whole, result.frame + SLOTS_SIZE + 8)

    def _refuse_function(self, work: Work, reason: str, address: int | None = None) -> None:
        function = work.plan.graph.function
        where = function.address if address is None or address < 0 else address
        self.refusals.append(Refusal(where, reason, hint="please report it", function=function.demangled))

    def _link(
        self,
        kept: Sequence[_Compiled],
        code_address: int,
        counters: int,
    ) -> tuple[Linked, list[_Compiled], dict[int, int]]:
        """Lay out every region; jumps between regions stay in the cache.

        A jump or call from another function goes to the entry's stub where there is one: it is an entry.
        """
        stubs = {i.work.plan.graph.function.address for i in kept if i.work.code.entry_stub is not None}
        everything = [
            (item, region, result)
            for item in kept
            for region, result in zip(item.work.code.all_regions, item.regions, strict=True)
        ]
        index_of = {region.head: index for index, (_, region, _) in enumerate(everything)}
        units = []
        for item, region, result in everything:
            symbols: dict[str, int] = {}
            entries: dict[str, int] = {}
            own_entry = item.work.plan.graph.function.address
            inside = region.head >= 0 or region is item.work.code.entry_stub
            for symbol, value in region.symbols.items():
                kind = symbol[2]
                if kind in "cw":
                    symbols[symbol] = counters + 8 * value
                    continue
                stub_first = not (inside and value == own_entry)
                target = index_of.get(-value) if stub_first and value in stubs else None
                if target is None:
                    target = index_of.get(value)
                if kind == "x" and target is not None:
                    entries[symbol] = target
                else:
                    symbols[symbol] = value
            units.append(Unit(result, stub(result.shift, region.flags_in), symbols, entries))
        linked = link(units, code_address, CODE_ALIGNMENT)
        placed = {region.head: linked.addresses[index] for index, (_, region, _) in enumerate(everything)}
        return linked, [item for item, _, _ in everything], placed

    def _patches(self, kept: Sequence[_Compiled], placed: Mapping[int, int]) -> list[Patch]:
        patches: list[Patch] = []
        for work in (item.work for item in kept):
            entry = work.plan.graph.function.address if work.code.entry_stub else None
            for site in work.plan.sites:
                target = placed[-site.head if site.head == entry else site.head]
                patches += [Patch(*patch) for patch in site.patches(self.image, target)]
            for redirect, region in work.code.redirects:
                before = self.image.read(redirect.site, JUMP)
                after = jump_to(redirect.site, placed[region.head], redirect.opcode)
                patches.append(Patch(redirect.site, before, after))
        patches.sort(key=lambda patch: patch.address)
        for first, second in pairwise(patches):
            if first.address + len(first.after) > second.address:
                raise ProbeloomError(f"two trampolines overlap at {second.address:#x}")
        return patches

    def _nothing_left(self) -> str:
        if not self.refusals:
            return "nothing can be instrumented"
        more = f", and {len(self.refusals) - 1} more" if len(self.refusals) > 1 else ""
        return f"nothing can be instrumented: {self.refusals[0]}{more}"

    def _report(
        self,
        kept: Sequence[_Compiled],
        tracepoints: Sequence[Tracepoint],
    ) -> dict[str, Any]:
        regions = [region for item in kept for region in item.work.code.all_regions]
        lifted = sum(region.lifted for region in regions)
        verbatim = sum(region.verbatim for region in regions)
        graphs = [item.work.plan.graph for item in kept]
        total = sum(len(block.instructions) for graph in graphs for block in graph.blocks.values())
        return {
            "functions": {
                "total": len(self.image.functions),
                "selected": self.prepared.functions_selected,
                "instrumented": len(kept),
            },
            "tracepoints": {
                "selected": self.prepared.tracepoints_selected,
                "instrumented": len(tracepoints),
            },
            "instructions": {"lifted": lifted, "verbatim": verbatim, "native": total - lifted - verbatim},
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


def stub(shift: int, flags_in: bool) -> bytes:
    """The machine code in front of a region: lowers RSP by `shift` bytes, pushing the flags where they are live."""
    lowered = shift - 8 if flags_in else shift
    if lowered == 0:
        code = b""
    elif lowered <= 128:
        code = bytes((0x48, 0x8D, 0x64, 0x24, -lowered & 0xFF))
    else:
        code = b"\x48\x8d\xa4\x24" + (-lowered).to_bytes(4, "little", signed=True)
    return code + b"\x9c" if flags_in else code


def write(image: Image, built: Built, output: Path) -> tuple[str, ...]:
    """Write the instrumented executable; notes for the user. See `jit.offline.write`."""
    return offline.write(image, built.overlay, output)
