"""The engine: from an image and a list of probes to all that must be added to the image.

image -> functions -> graphs -> tracepoints -> plans -> IR -> compiled regions -> linked code -> patches
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

from codecache.pool import Compiler
from codecache.store import Store, region_key
from lifter.liveness import Liveness, analyse

from codecache.link import Linked, Unit, link
from codecache.types import CompiledRegion, CompileFailure, Overlay, Patch
from ir.lower import LoweringOptions
from ir.probes import CompiledProbe, load_probe
from ir.source import RegionSource
from jit import datafile, offline
from jit.attach import Attachments, attach
from jit.planner import FunctionPlan, plan_function
from jit.regions import FunctionCode, lower_function
from jit.specs import match
from jit.tracepoints import Spec, Tracepoint
from jit.trampolines import JUMP, jump_to
from lifter.cfg import build_all
from lifter.errors import ProbeloomError, Refusal, RefusedError
from lifter.graph import FunctionGraph
from lifter.image.threads import can_start_threads
from lifter.image.types import Function, Image

CODE_ALIGNMENT: Final = 16
_GO_FRAME_LIMIT: Final = 512
"""Bytes that a region may use below a goroutine's stack pointer: Go keeps 800 below its guard for functions that
do not check, and none of those is instrumented."""

LivenessMode = Literal["abi", "strict"]
CounterUpdate = Literal["auto", "plain", "atomic"]
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


@dataclass(frozen=True, slots=True)
class Options:
    """How instrumentation is made."""

    jobs: int = 1
    liveness: LivenessMode = "abi"
    counter_update: CounterUpdate = "auto"
    use_cache: bool = True
    probes: Mapping[str, CompiledProbe] = field(default_factory=dict)
    """Probes by the action that names them; others are loaded from the file that their action names."""
    progress: Progress | None = None


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


@dataclass(slots=True)
class _Clock:
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
class _Work:
    """One function on its way through the engine."""

    plan: FunctionPlan
    code: FunctionCode
    tracepoints: tuple[Tracepoint, ...]


def effective_liveness(image: Image, mode: LivenessMode) -> LivenessMode:
    """Go has an ABI of its own: there everything is live at every border."""
    return "strict" if image.is_go else mode


def build(image: Image, specs: Sequence[Spec], options: Options) -> Built:
    """Make the instrumentation of `image` that `specs` ask for.

    Raises RefusedError where nothing can be instrumented, UsageError for probes that cannot be loaded.
    """
    return _Build(image, specs, options).run()


class _Build:
    """One run of the engine."""

    def __init__(self, image: Image, specs: Sequence[Spec], options: Options) -> None:
        self.image = image
        self.specs = specs
        self.options = options
        self.clock = _Clock()
        self.refusals: list[Refusal] = []
        self.hits = self.misses = self.selected = 0
        self.probes = dict(options.probes)
        self.mode = effective_liveness(image, options.liveness)
        atomic = options.counter_update == "atomic" or (options.counter_update == "auto" and can_start_threads(image))
        self.lowering = LoweringOptions(atomic=atomic, red_zone=0 if image.is_go else 128)

    def run(self) -> Built:
        """All stages."""
        clock = self.clock
        with clock.stage("select"):
            chosen = match(self.specs, self.image.functions)
        with clock.stage("graph"):
            graphs, liveness = self._analyse(chosen)
        with clock.stage("plan"):
            attachments = self._attach(chosen, graphs)
            plans = self._plan(attachments)
        with clock.stage("lower"):
            works = self._lower(attachments, plans, liveness)
        with clock.stage("compile"):
            compiled = self._compile([region.source for work in works for region in work.code.all_regions])
        with clock.stage("link"):
            return self._finish(chosen, attachments, works, compiled)

    # --- analysis ---------------------------------------------------------------------------------------

    def _analyse(self, chosen: Mapping[Spec, Sequence[Function]]) -> tuple[dict[int, FunctionGraph], Liveness]:
        selected = {function.address: function for functions in chosen.values() for function in functions}
        whole = self.mode == "abi" and self._wants_whole_image(len(selected))
        functions = self.image.functions if whole else tuple(selected.values())
        graphs = build_all(self.image, [f for f in functions if f.refusal is None])
        return graphs, analyse(self.image, graphs, self.mode)

    def _wants_whole_image(self, selected: int) -> bool:
        """Whether to analyse every function: callers' and callees' use of registers is then exact."""
        return 4 * selected >= len(self.image.functions)

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

    def _plan(self, attachments: Sequence[Attachments]) -> list[FunctionPlan]:
        padding: set[int] = set()
        plans = []
        for number, item in enumerate(attachments):
            self._progress("plan", number, len(attachments))
            plans.append(
                plan_function(self.image, item.graph, item.blocks, item.counted_blocks, item.entry_apart, padding)
            )
        return plans

    # --- code -------------------------------------------------------------------------------------------

    def _lower(
        self, attachments: Sequence[Attachments], plans: Sequence[FunctionPlan], liveness: Liveness
    ) -> list[_Work]:
        counters = sum(item.counters(plan) for item, plan in zip(attachments, plans, strict=True))
        next_counter, next_word = 0, counters
        works = []
        for number, (item, plan) in enumerate(zip(attachments, plans, strict=True)):
            self._progress("lower", number, len(plans))
            actions = item.actions(plan, next_counter, next_word, self._find_probe)
            next_counter += item.counters(plan)
            next_word += actions.words
            self.refusals.extend(actions.refusals)
            code = lower_function(plan, actions, liveness.live_at(plan.graph), self.lowering)
            works.append(_Work(plan, code, actions.tracepoints))
        self.words = next_word
        return works

    def _find_probe(self, action: str) -> CompiledProbe:
        if action not in self.probes:
            file, _, name = action.rpartition(":")
            self.probes[action] = load_probe(Path(file), name)
        return self.probes[action]

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
        chosen: Mapping[Spec, Sequence[Function]],
        attachments: Sequence[Attachments],
        works: Sequence[_Work],
        compiled: Mapping[RegionSource, CompiledRegion | CompileFailure],
    ) -> Built:
        kept = [work for work in works if self._compiled_whole(work, compiled)]
        data_address = offline.reserve(self.image)
        while True:
            tracepoints = [point for work in kept for point in work.tracepoints]
            if not tracepoints:
                raise RefusedError(self._nothing_left())
            layout = datafile.layout(
                str(self.image.path), self.image.build_id, tracepoints, self.words, self.image.content
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
        report = self._report(chosen, attachments, kept, tracepoints)
        heads = {head: address for head, address in placed.items() if head >= 0}
        return Built(overlay, layout, tuple(tracepoints), tuple(self.refusals), report, heads)

    def _compiled_whole(self, work: _Work, compiled: Mapping[RegionSource, CompiledRegion | CompileFailure]) -> bool:
        for region in work.code.all_regions:
            result = compiled[region.source]
            if isinstance(result, CompileFailure):
                self._refuse_function(work, f"a region cannot be compiled: {result.reason}", region.head)
                return False
            if self.image.is_go and result.frame + result.shift > _GO_FRAME_LIMIT:
                self._refuse_function(work, "a region needs more stack than Go guarantees", region.head)
                return False
        return True

    def _refuse_function(self, work: _Work, reason: str, address: int | None = None) -> None:
        function = work.plan.graph.function
        where = function.address if address is None or address < 0 else address
        self.refusals.append(Refusal(where, reason, hint="please report it", function=function.demangled))

    def _link(
        self,
        kept: Sequence[_Work],
        compiled: Mapping[RegionSource, CompiledRegion | CompileFailure],
        code_address: int,
        counters: int,
    ) -> tuple[Linked, list[_Work], dict[int, int]]:
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

    def _patches(self, kept: Sequence[_Work], placed: Mapping[int, int]) -> list[Patch]:
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
        chosen: Mapping[Spec, Sequence[Function]],
        attachments: Sequence[Attachments],
        kept: Sequence[_Work],
        tracepoints: Sequence[Tracepoint],
    ) -> dict[str, Any]:
        selected = {function.address for functions in chosen.values() for function in functions}
        lifted = sum(region.lifted for work in kept for region in work.code.all_regions)
        verbatim = sum(region.verbatim for work in kept for region in work.code.all_regions)
        total = sum(len(block.instructions) for work in kept for block in work.plan.graph.blocks.values())
        return {
            "functions": {
                "total": len(self.image.functions),
                "selected": len(selected),
                "instrumented": len(kept),
            },
            "tracepoints": {
                "selected": self.selected,
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


def write(image: Image, built: Built, output: Path) -> tuple[str, ...]:
    """Write the instrumented executable; notes for the user. See `jit.offline.write`."""
    return offline.write(image, built.overlay, output)
