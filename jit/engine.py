r"""The engine: from an image and a list of probes to all that must be added to the image.

image -> functions -> graphs -> tracepoints -> plans -> IR -> compiled regions -> linked code -> patches
\________________________ jit.prepare _____________________/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from codecache.pool import Compiler
from codecache.store import Store, region_key

from codecache.link import Linked, Unit, link
from codecache.types import CompiledRegion, CompileFailure, Overlay, Patch
from ir.source import RegionSource
from jit import datafile, offline
from jit.prepare import Clock, Options, Prepared, Work, prepare
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
    layout: datafile.DataLayout
    tracepoints: tuple[Tracepoint, ...]
    refusals: tuple[Refusal, ...]
    report: Mapping[str, Any]
    """As `probeloom rewrite --report` writes it."""
    entries: Mapping[int, int]
    """Original address of each region's head -> its address in the code cache."""


def build(image: Image, specs: Sequence[Spec], options: Options) -> Built:
    """Make the instrumentation of `image` that `specs` ask for.

    Raises RefusedError where nothing can be instrumented, UsageError for probes that cannot be loaded.
    """
    clock = Clock()
    return _Build(image, options, prepare(image, specs, options, clock), clock).run()


class _Build:
    """The second half: compile, link, patch."""

    def __init__(self, image: Image, options: Options, prepared: Prepared, clock: Clock) -> None:
        self.image = image
        self.options = options
        self.prepared = prepared
        self.clock = clock
        self.refusals = list(prepared.refusals)
        self.hits = self.misses = 0

    def run(self) -> Built:
        """All stages."""
        works = self.prepared.works
        with self.clock.stage("compile"):
            compiled = self._compile([region.source for work in works for region in work.code.all_regions])
        with self.clock.stage("link"):
            return self._finish(works, compiled)

    def _compile(self, sources: Sequence[RegionSource]) -> dict[RegionSource, CompiledRegion | CompileFailure]:
        """Each distinct source once, from the store where it has it."""
        distinct = list(dict.fromkeys(sources))
        keys = {source: region_key(source) for source in distinct}
        results: dict[RegionSource, CompiledRegion | CompileFailure] = {}
        store = Store.open() if self.options.use_cache else None
        if store is not None:
            found = store.get_many(list(keys.values()))
            results.update({source: found[key] for source, key in keys.items() if key in found})
        missing = [source for source in distinct if source not in results]
        self.hits, self.misses = len(results), len(missing)
        done = 0
        with Compiler(self.options.jobs) as compiler:
            for index, result in compiler.compile_all(missing):
                results[missing[index]] = result
                done += 1
                self._progress("compile", done, len(missing))
        if store is not None:
            fresh = {keys[s]: r for s in missing if isinstance(r := results[s], CompiledRegion)}
            store.put_many(fresh)
            store.close()
        return results

    # --- result -----------------------------------------------------------------------------------------

    def _finish(
        self,
        works: Sequence[Work],
        compiled: Mapping[RegionSource, CompiledRegion | CompileFailure],
    ) -> Built:
        kept = [work for work in works if self._compiled_whole(work, compiled)]
        data_address = offline.reserve(self.image)
        while True:
            tracepoints = [point for work in kept for point in work.tracepoints]
            if not tracepoints:
                raise RefusedError(self._nothing_left())
            layout = datafile.layout(
                str(self.image.path), self.image.build_id, tracepoints, self.prepared.words, self.image.content
            )
            code_address = offline.after_data(data_address, layout.size)
            counters = data_address + layout.counters_offset
            linked, owners, placed = self._link(kept, compiled, code_address, counters)
            if not linked.failures:
                break
            failed = {id(owners[index]): failure for index, failure in linked.failures.items()}
            for work in kept:
                if id(work) in failed:
                    reason = f"the code cannot be linked: {failed[id(work)].reason}"
                    self._refuse_function(work, reason)
            kept = [work for work in kept if id(work) not in failed]
        patches = self._patches(kept, placed)
        overlay = Overlay(code_address, linked.code, data_address, datafile.encode(layout), tuple(patches))
        report = self._report(kept, tracepoints)
        heads = {head: address for head, address in placed.items() if head >= 0}
        return Built(overlay, layout, tuple(tracepoints), tuple(self.refusals), report, heads)

    def _compiled_whole(self, work: Work, compiled: Mapping[RegionSource, CompiledRegion | CompileFailure]) -> bool:
        for region in work.code.all_regions:
            result = compiled[region.source]
            if isinstance(result, CompileFailure):
                self._refuse_function(work, f"a region cannot be compiled: {result.reason}", region.head)
                return False
            if self.image.is_go and result.frame + result.shift > _GO_FRAME_LIMIT:
                self._refuse_function(work, "a region needs more stack than Go guarantees", region.head)
                return False
        return True

    def _refuse_function(self, work: Work, reason: str, address: int | None = None) -> None:
        function = work.plan.graph.function
        where = function.address if address is None or address < 0 else address
        self.refusals.append(Refusal(where, reason, hint="please report it", function=function.demangled))

    def _link(
        self,
        kept: Sequence[Work],
        compiled: Mapping[RegionSource, CompiledRegion | CompileFailure],
        code_address: int,
        counters: int,
    ) -> tuple[Linked, list[Work], dict[int, int]]:
        """Lay out every region; jumps between regions stay in the cache.

        A jump or call from another function goes to the entry's stub where there is one: it is an entry.
        """
        stubs = {work.plan.graph.function.address for work in kept if work.code.entry_stub is not None}
        everything = [(work, region) for work in kept for region in work.code.all_regions]
        index_of = {region.head: index for index, (_, region) in enumerate(everything)}
        units = []
        for work, region in everything:
            symbols: dict[str, int] = {}
            entries: dict[str, int] = {}
            own_entry = work.plan.graph.function.address
            inside = region.head >= 0 or region is work.code.entry_stub
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
            result = compiled[region.source]
            assert isinstance(result, CompiledRegion)
            units.append(Unit(result, stub(result.shift, region.flags_in), symbols, entries))
        linked = link(units, code_address, CODE_ALIGNMENT)
        placed = {region.head: linked.addresses[index] for index, (_, region) in enumerate(everything)}
        return linked, [work for work, _ in everything], placed

    def _patches(self, kept: Sequence[Work], placed: Mapping[int, int]) -> list[Patch]:
        patches: list[Patch] = []
        for work in kept:
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
        kept: Sequence[Work],
        tracepoints: Sequence[Tracepoint],
    ) -> dict[str, Any]:
        lifted = sum(region.lifted for work in kept for region in work.code.all_regions)
        verbatim = sum(region.verbatim for work in kept for region in work.code.all_regions)
        total = sum(len(block.instructions) for work in kept for block in work.plan.graph.blocks.values())
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
