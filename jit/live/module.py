"""A module of a target while it is instrumented: its area, its functions, and what is written over its code."""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from codecache.types import Patch
from jit import datafile
from jit.datafile import DataFile
from jit.layout import CODE_ALIGNMENT, CompiledFunction, Piece, Words, lay_out, trampolines
from jit.live.area import Area, make_area, unmap_area
from jit.live.counters import MAP_FIXED, Counters
from jit.live.errors import TargetBusyError
from jit.live.firstcall import ALIGNMENT, FirstCallStub, first_call_stub
from jit.live.maps import PAGE
from jit.live.owner import owner_word
from jit.live.patching import Write, mismatch, write_all
from jit.live.plan import LiveFunction, ModulePlan
from jit.live.target import Target
from jit.tracepoints import Spec
from jit.trampolines import jump_to
from lifter.errors import Refusal

_CODE_PER_BYTE: Final = 10
"""Bytes of code cache for a byte of selected functions: far more than was ever needed, and not touched until then."""
_CODE_LEAST: Final = 1 << 16
_STUB_SIZE: Final = 96
_CODE_MOST: Final = 1 << 29
_PATIENCE: Final = 0.01
"""Seconds that threads are given to leave code while all others stand still; then it is tried again later."""


class State(enum.Enum):
    """How far a function is."""

    WAITS = "waits"
    """Its first call will stop."""
    CALLED = "called"
    """A call has stopped, or it cannot wait: its code is being made."""
    INSTRUMENTED = "instrumented"
    ORIGINAL = "original"
    """It stays as it is: it cannot be instrumented."""


@dataclass(slots=True)
class Instrumented:
    """A selected function of the module."""

    function: LiveFunction
    state: State = State.CALLED
    stub: FirstCallStub | None = None
    page: int = 0
    writes: tuple[Write, ...] = ()
    """What is written over its code now."""
    late: tuple[Write, ...] = ()
    """What will be, once no thread runs the original code that it is written over."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A function that is about to be installed."""

    item: Instrumented
    compiled: CompiledFunction
    at: int
    code: bytes
    places: dict[int, int]
    """Head -> entry, of its regions."""
    now: list[Write]
    late: tuple[Write, ...]


class LiveModule:
    """One module in one address space."""

    def __init__(self, number: int, bias: int, plan: ModulePlan) -> None:
        self.number = number
        self.bias = bias
        """What is added to the image's addresses."""
        self.plan = plan
        self.data: DataFile = datafile.decode(plan.segment, "plan")
        self.functions = {function.address: Instrumented(function) for function in plan.functions}
        self.refusals: list[Refusal] = list(plan.refusals)
        self.counters = self._new_counters()
        self.area: Area | None = None
        self._pieces: list[tuple[int, Piece]] = []
        """Where each region's code begins, in order, and what it is."""
        self.is_active = True
        """Whether its writes stand over the code."""
        self.on_code: Callable[[int, bytes, str], None] = lambda address, code, name: None
        """Called with address, content and name of what is placed in the code cache."""

    # Beginning

    def arm(self, target: Target) -> None:
        """Make the area, and lead the entry of every function that can wait to a stub. All threads are stopped.

        The pages of the area must be made to wait before anything runs.
        """
        waiting = [item for item in self.functions.values() if item.function.waits is not None]
        size = sum(item.function.end - item.function.address for item in self.functions.values())
        code = min(_CODE_LEAST + _CODE_PER_BYTE * size + _STUB_SIZE * len(waiting), _CODE_MOST)
        module = self.data.module
        low, high = module.base + self.bias, module.end + self.bias
        self.area = make_area(target, low, high, code, self.counters, len(waiting))
        if self.data.biased:
            target.write(self.area.owner, owner_word(target).to_bytes(8, "little"))
        self._make_stubs(waiting)

    def _make_stubs(self, waiting: Sequence[Instrumented]) -> None:
        area = self.area
        assert area is not None
        for number, item in enumerate(waiting):
            address = -(-area.used // ALIGNMENT) * ALIGNMENT
            page = area.pages + number * PAGE
            original = item.function.waits
            assert original is not None
            made = first_call_stub(address - self.bias, page - self.bias, original, self.plan.red_zone)
            item.stub = FirstCallStub(address, made.code, made.ready + self.bias, made.passive + self.bias)
            item.page = page
            area.used = address + len(made.code)

    def lead_to_stubs(self, target: Target, *, fresh: bool) -> None:
        """Write the stubs, then the jumps to them. All threads are stopped. See `install` for `fresh`."""
        memory = target.memory
        armed: list[Instrumented] = []
        for item in self.functions.values():
            if item.stub is None or item.state is not State.CALLED:
                continue
            assert item.function.waits is not None
            at = item.function.waits.address + self.bias
            write = Write(at, item.function.waits.before, jump_to(at, item.stub.address))
            if mismatch(memory, [write]):
                self._leave(item, write)
                continue
            item.writes = (write,)
            armed.append(item)
        if not armed:
            return
        first = min(item.stub.address for item in armed if item.stub)
        code = bytearray()
        for item in armed:
            assert item.stub is not None
            code += b"\xcc" * (item.stub.address - first - len(code)) + item.stub.code
        memory.write(first, bytes(code))
        writes = [item.writes[0] for item in armed]
        if not fresh:
            self._expect_out(target, [write.inside for write in writes])
        write_all(memory, writes)
        for item in armed:
            item.state = State.WAITS

    def pages(self) -> Iterator[tuple[int, int]]:
        """(page, function) of every stub."""
        for address, item in self.functions.items():
            if item.page:
                yield item.page, address

    # Functions

    def install(self, target: Target, made: Iterable[CompiledFunction], *, fresh: bool) -> None:
        """Place the code of functions and lead there, instead of other code of theirs if they have it. All threads are
        stopped, and the plan is in force. Raises TargetBusyError if a thread stands in the way, and nothing is changed.

        `fresh` promises that none of them has ever been in the original code of these functions; otherwise what cannot
        be written yet is left for `finish`.
        """
        area = self.area
        assert area is not None
        memory = target.memory
        used, pieces = area.used, len(self._pieces)
        first: list[Write] = []
        ready: list[_Ready] = []
        for compiled in made:
            item = self.functions[compiled.entry]
            placed = self._place(area, compiled)
            if placed is None:
                if item.state is not State.INSTRUMENTED:
                    self._refuse(item, "the code cache is full")
                continue
            at, code, places = placed
            writes = self._writes(target, item, compiled, places)
            wrong = mismatch(memory, writes)
            if wrong is not None:
                self._leave(item, wrong)
                continue
            late = self._late(item, writes)
            now = [write for write in writes if write not in late]
            first += now
            ready.append(_Ready(item, compiled, at, code, places, now, late))
        if not fresh:
            stubs = [new.item.stub.inside for new in ready if new.item.stub is not None]
            try:
                self._expect_out(target, [*stubs, *(write.inside for write in first)])
            except TargetBusyError:
                area.used = used
                del self._pieces[pieces:]
                raise
        for new in ready:
            memory.write(new.at, new.code)
            self.on_code(new.at, new.code, new.item.function.name)
            if new.item.stub is not None:
                self._open_stub(target, new.item, new.compiled, new.places)
            new.item.writes, new.item.late = self._kept(new.item, new.now), new.late
            new.item.state = State.INSTRUMENTED
        write_all(memory, first)
        self._finish(target, [new.item for new in ready if new.late], fresh)

    def _late(self, item: Instrumented, writes: Sequence[Write]) -> tuple[Write, ...]:
        """Those of `writes` under which threads may run original code: not where there is a jump already."""
        jumps = {write.address for write in item.writes}
        intrusive = item.function.intrusive
        return tuple(w for w in writes if w.address not in jumps and w.address - self.bias in intrusive)

    def finish(self, target: Target) -> None:
        """Write what could not be written yet, where it can be now. All threads are stopped."""
        self._finish(target, [item for item in self.functions.values() if item.late], fresh=False)

    @property
    def is_unfinished(self) -> bool:
        """Whether `finish` has something to do."""
        return self.is_active and any(item.late for item in self.functions.values())

    def _finish(self, target: Target, items: Sequence[Instrumented], fresh: bool) -> None:
        for item in items:
            function = item.function
            whole = (function.address + self.bias, function.end + self.bias)
            if not fresh and target.step_out([whole, *(write.inside for write in item.late)], _PATIENCE):
                continue
            write_all(target.memory, item.late)
            item.writes += self._kept(item, item.late)
            item.late = ()

    def _expect_out(self, target: Target, ranges: Sequence[tuple[int, int]]) -> None:
        """Move threads out of what is to be overwritten. Raises TargetBusyError if one stays inside."""
        stragglers = target.step_out(ranges, _PATIENCE)
        if stragglers:
            raise TargetBusyError(f"thread {stragglers[0].tid} at {stragglers[0].address:#x} {stragglers[0].reason}")

    def _place(self, area: Area, compiled: CompiledFunction) -> tuple[int, bytes, dict[int, int]] | None:
        """(address, code, entries of its regions) of a function in the code cache."""
        at = -(-area.used // CODE_ALIGNMENT) * CODE_ALIGNMENT
        counters = area.counters - self.bias
        words = Words(counters, counters + 8 * self.counters.words, area.owner - self.bias)
        laid = lay_out([compiled], at - self.bias, words)
        if laid.failures or area.take(len(laid.code), CODE_ALIGNMENT) != at:
            return None
        places = {head: place + self.bias for head, place in laid.places.items()}
        # Those whose instructions are the program's own have no stub in front.
        self._pieces += sorted((places[piece.head], piece) for piece in compiled.pieces if piece.origins)
        return at, laid.code, places

    def origin(self, address: int) -> int | None:
        """The original of the instruction at `address` in the code cache, if it is one of the program's."""
        index = bisect_right(self._pieces, address, key=lambda piece: piece[0]) - 1
        if index < 0:
            return None
        start, piece = self._pieces[index]
        original = dict(piece.origins).get(address - start)
        return None if original is None else original + self.bias

    def _open_stub(
        self, target: Target, item: Instrumented, compiled: CompiledFunction, places: dict[int, int]
    ) -> None:
        """Let the stub lead to the function's first region: those who wait in it go there."""
        assert item.stub is not None
        site = next((site for site in compiled.sites if site.head == compiled.entry), None)
        head = -compiled.entry if compiled.entry_stub else compiled.entry
        goal = places[head] if site is not None else compiled.entry + self.bias
        target.write(item.stub.ready, jump_to(item.stub.ready, goal))
        if site is not None:
            # From now on original code of the function may be overwritten: nobody shall go on there.
            target.write(item.stub.passive, jump_to(item.stub.passive, goal))

    def _writes(
        self, target: Target, item: Instrumented, compiled: CompiledFunction, places: dict[int, int]
    ) -> list[Write]:
        """What to write over the code as it stands now."""
        bias = self.bias
        image_places = {head: place - bias for head, place in places.items()}

        def original(address: int, size: int) -> bytes:
            content = bytearray(target.read(address + bias, size))
            for write in item.writes:
                for position, byte in enumerate(write.before):
                    if 0 <= write.address + position - address - bias < size:
                        content[write.address + position - address - bias] = byte
            return bytes(content)

        patches = trampolines(original, [compiled], image_places)
        return _differences(item.writes, [_moved(patch, bias) for patch in patches])

    def _kept(self, item: Instrumented, writes: Sequence[Write]) -> tuple[Write, ...]:
        """`writes` with the original bytes as those before."""
        before = {w.address + i: b for w in item.writes for i, b in enumerate(w.before)}
        kept = []
        for write in writes:
            originals = bytes(before.get(write.address + i, b) for i, b in enumerate(write.before))
            if originals != write.after:
                kept.append(Write(write.address, originals, write.after))
        return tuple(kept)

    def refuse(self, item: Instrumented, refusal: Refusal) -> None:
        """Let a function be what it was: who waits for it goes on in the original code."""
        item.state = State.ORIGINAL
        self.refusals.append(refusal)

    def _leave(self, item: Instrumented, write: Write) -> None:
        self._refuse(item, "its code in memory is not that of its file", write.address - self.bias)

    def _refuse(self, item: Instrumented, reason: str, address: int | None = None) -> None:
        where = item.function.address if address is None else address
        self.refuse(item, Refusal(where, reason, function=item.function.name))

    def in_child(self) -> LiveModule:
        """The same in a child that fork has just made: a copy of the memory, so of what was done to it."""
        copy = LiveModule(self.number, self.bias, self.plan)
        copy.counters = self.counters
        copy.area = replace(self.area) if self.area is not None else None
        copy.refusals = list(self.refusals)
        copy.is_active = self.is_active
        copy.on_code = self.on_code
        copy._pieces = list(self._pieces)
        for address, item in self.functions.items():
            state = State.WAITS if item.state is State.CALLED and item.stub is not None else item.state
            copy.functions[address] = replace(item, state=state)
        return copy

    def count_apart(self, target: Target) -> None:
        """Give a child counters of its own."""
        assert self.area is not None
        self.counters = self._new_counters()
        self.counters.map(target, self.area.counters, MAP_FIXED, self.area.scratch)

    def count_together(self, target: Target) -> None:
        """Let a child count in the counters of its parent: nobody owns them there."""
        assert self.area is not None
        if self.data.biased:
            target.write(self.area.owner, bytes(8))

    def _new_counters(self) -> Counters:
        return Counters(len(self.data.counters), self.data.biased)

    def switch(self, off: Container[Spec]) -> None:
        """Let the actions of guarded specs run, but for those that are `off`. No thread has to stand still for it."""
        for spec, word in self.plan.guards:
            self.counters.set(word, np.array([spec not in off], np.uint64))

    def take_words(self, other: LiveModule) -> None:
        """Give the probes that `other` has too the words that they have there."""
        values = other.counters.values()
        places = {(t.point, t.address, t.action): t.words for t in other.data.tracepoints if t.words[1]}
        for tracepoint in self.data.tracepoints:
            first, size = tracepoint.words
            there = places.get((tracepoint.point, tracepoint.address, tracepoint.action))
            if size and there is not None and there[1] == size:
                self.counters.set(first, values[there[0] : there[0] + size])

    # End

    def suspend(self, target: Target) -> None:
        """Take everything out of the code again; it is kept for `resume`. All threads are stopped.

        Raises TargetBusyError if a thread stands on a jump between two others, and nothing is changed.
        """
        if not self.is_active:
            return
        late: list[Write] = []
        rest: list[Write] = []
        for item in self.functions.values():
            for write in item.writes:
                (late if write.address - self.bias in item.function.intrusive else rest).append(write.inverse)
        # A thread may stand at the second of two jumps, which leads nowhere without the first.
        self._expect_out(target, [(write.address, write.end) for write in late])
        write_all(target.memory, late)
        write_all(target.memory, rest)
        if self.area is not None:
            target.end_detours(self.area.start, self.area.code_end)
        self.is_active = False

    def resume(self, target: Target) -> None:
        """Write everything over the code again. All threads are stopped. Raises TargetBusyError if one is inside."""
        if self.is_active:
            return
        early: list[Write] = []
        for item in self.functions.values():
            now = tuple(w for w in item.writes if w.address - self.bias not in item.function.intrusive)
            early += now
        self._expect_out(target, [write.inside for write in early])
        write_all(target.memory, early)
        for item in self.functions.values():
            item.late += tuple(w for w in item.writes if w.address - self.bias in item.function.intrusive)
            item.writes = tuple(w for w in item.writes if w not in item.late)
        self.is_active = True
        self.finish(target)

    def release(self, target: Target) -> None:
        """Give the area back. All threads are stopped. Raises TargetBusyError if one is in it."""
        if self.area is not None:
            stragglers = target.step_out([(self.area.start, self.area.code_end)], _PATIENCE)
            if stragglers:
                raise TargetBusyError(f"thread {stragglers[0].tid} {stragglers[0].reason}")
            self.unmap(target)

    def unmap(self, target: Target) -> None:
        """Give the area back, where no thread can be in it."""
        if self.area is not None:
            unmap_area(target, self.area)
            self.area = None


def _moved(patch: Patch, bias: int) -> Write:
    return Write(patch.address + bias, patch.before, patch.after)


def _differences(present: Sequence[Write], wanted: Sequence[Write]) -> list[Write]:
    """The writes that make of code with `present` written over it code with `wanted` written over it."""
    bytes_now: dict[int, int] = {}
    originals: dict[int, int] = {}
    for write in present:
        for position, byte in enumerate(write.after):
            bytes_now[write.address + position] = byte
            originals[write.address + position] = write.before[position]
    result = []
    covered: set[int] = set()
    for write in wanted:
        span = range(write.address, write.end)
        covered.update(span)
        before = bytes(bytes_now.get(address, write.before[position]) for position, address in enumerate(span))
        result.append(Write(write.address, before, write.after))
    for write in present:
        rest = [address for address in range(write.address, write.end) if address not in covered]
        if rest and len(rest) == len(write.after):
            result.append(write.inverse)
        elif rest:
            result += [Write(a, bytes([bytes_now[a]]), bytes([originals[a]])) for a in rest]
    return sorted(result)
