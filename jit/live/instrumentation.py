"""The instrumentation of one address space: its modules, and the first calls that wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from jit.layout import CompiledFunction
from jit.live.books import Books
from jit.live.builder import Made, Opened
from jit.live.errors import TargetBusyError, TargetGoneError
from jit.live.faults import PageFault, PageFaults
from jit.live.maps import PAGE
from jit.live.module import LiveModule, State
from jit.live.symbols import SymbolFiles
from jit.live.target import Target
from jit.tracepoints import Spec

Ask = Callable[[int, int], None]
"""Called with (module, function) to have a function compiled."""

_INSTALLED: Final = bytes([1]) * PAGE


@dataclass(slots=True)
class Statistics:
    """What was done so far."""

    first_calls: int = 0
    installed: int = 0
    from_store: int = 0
    """Functions whose code earlier runs had made."""
    seconds_waited: float = 0.0
    """Between the news of a first call and its going on, added up."""
    seconds_stopped: float = 0.0
    """During which all threads stood still for an installation."""


class Instrumentation:
    """All that is done to one address space. Its methods are called from the tracer's thread."""

    def __init__(self, target: Target, faults: PageFaults, ask: Ask, books: Books) -> None:
        self.target = target
        self.modules: dict[int, LiveModule] = {}
        self.fresh: set[int] = set()
        """Modules that were instrumented before anything of them ran."""
        self.statistics = Statistics()
        self.off: set[Spec] = set()
        """Guarded specs whose actions do not run now."""
        self.symbols: SymbolFiles | None = None
        """Where code in the cache is named, if it is to be."""
        self._ask = ask
        self._books = books
        self._faults = faults
        self._pages: dict[int, tuple[int, int]] = {}
        """Page -> module and function."""
        self._waiting: dict[tuple[int, int], float] = {}
        """Functions asked for -> since when, 0 if nobody waits for them."""
        self._blocked: list[Made] = []
        """Functions that a thread stood in the way of, or that came while their plan was not in force."""

    @property
    def is_waiting(self) -> bool:
        """Whether functions that cannot wait for their first call are not instrumented yet."""
        return any(
            item.state is State.CALLED and item.stub is None
            for number, address in self._waiting
            if (module := self.modules.get(number)) is not None and (item := module.functions[address])
        )

    def add(self, opened: Opened, bias: int, before: int | None, *, fresh: bool) -> None:
        """Arm a module, which is `fresh` if nothing of it has run yet. Probes that were in the plan `before` find
        their words as they left them.

        Functions that earlier runs called are instrumented at once, those that cannot wait are asked for, all others
        wait for their first call. Raises ProbeloomError.
        """
        assert opened.plan is not None
        module = LiveModule(opened.module, bias, opened.plan)
        if self.symbols is not None:
            module.on_code = self.symbols.add
        with self.target.stopped():
            module.arm(self.target)
            self._show_dump(module)
            self._books.enter(module.number, module.data, module.counters)
            self._make_wait(module)
            self._take_over(module, before)
            self.modules[module.number] = module
            if fresh:
                self.fresh.add(module.number)
            try:
                module.lead_to_stubs(self.target, fresh=fresh)
                module.install(self.target, opened.ready, fresh=fresh)
            except TargetBusyError:
                module.suspend(self.target)
                self._forget(module.number)
                del self.modules[module.number]
                module.unmap(self.target)
                raise
        self.statistics.from_store += len(opened.ready)
        self._ask_for_called(module)

    def _show_dump(self, module: LiveModule) -> None:
        if self.symbols is not None and module.area is not None:
            with suppress(OSError):  # the files are written later, and what is wrong with that is told then
                self.symbols.dump.show(self.target, module.area.scratch)

    def switch(self, off: set[Spec]) -> None:
        """Let the actions of all guarded specs run, but for those that are `off`."""
        self.off = off
        for module in self.modules.values():
            module.switch(off)

    def _take_over(self, module: LiveModule, before: int | None) -> None:
        module.switch(self.off)
        known = self.modules.get(before) if before is not None else None
        if known is not None and known is not module:
            module.take_words(known)

    def _make_wait(self, module: LiveModule) -> None:
        pages = list(module.pages())
        if pages:
            self._faults.register(pages[0][0], pages[-1][0] + PAGE - pages[0][0])
            self._pages |= {page: (module.number, function) for page, function in pages}

    def _ask_for_called(self, module: LiveModule) -> None:
        for address, item in module.functions.items():
            if item.state is State.CALLED:
                self._wait_for(module.number, address)

    def _wait_for(self, module: int, function: int) -> None:
        if (module, function) not in self._waiting:
            self._waiting[module, function] = time.perf_counter()
            self._ask(module, function)

    def called(self, fault: PageFault) -> None:
        """A first call waits: have its function compiled."""
        found = self._pages.get(fault.address)
        if found is None:
            return
        module, function = found
        item = self.modules[module].functions[function]
        if item.state in (State.INSTRUMENTED, State.ORIGINAL):
            self._let_go(item.page, item.state)
            return
        if item.state is State.WAITS:
            item.state = State.CALLED
            self.statistics.first_calls += 1
        self._wait_for(module, function)

    def made(self, answer: Made) -> str:
        """Install a function that was asked for, if it was asked for here. Returns its name if it was installed."""
        module = self.modules.get(answer.module)
        if module is None:
            return ""
        item = module.functions[answer.function]
        since = self._waiting.pop((answer.module, answer.function), None)
        if answer.is_better:
            self._blocked = [other for other in self._blocked if not _is_of_same(other, answer)]
            if since is None and item.state is State.INSTRUMENTED:
                since = 0.0
        if since is None:
            return ""
        is_first = item.state is not State.INSTRUMENTED
        if isinstance(answer.result, CompiledFunction):
            if not module.is_active:
                # The memory to compare with may hold the jumps of the plan that is in force instead. Who came here
                # before goes on in the original code.
                self._let_go(item.page, State.ORIGINAL)
                self._note_waited(since)
                self._keep(answer, 0.0)
                return ""
            try:
                begun = time.perf_counter()
                with self.target.stopped():
                    module.install(self.target, [answer.result], fresh=answer.module in self.fresh)
                    self._let_go(item.page, item.state)
                self.statistics.seconds_stopped += time.perf_counter() - begun
            except TargetBusyError:
                self._keep(answer, since)
                return ""
            self.statistics.installed += is_first
        else:
            module.refuse(item, answer.result)
            self._let_go(item.page, item.state)
        self._note_waited(since)
        return item.function.name if is_first and item.state is State.INSTRUMENTED else ""

    def _note_waited(self, since: float) -> None:
        if since:
            self.statistics.seconds_waited += time.perf_counter() - since

    def _keep(self, answer: Made, since: float) -> None:
        self._waiting[answer.module, answer.function] = since
        self._blocked.append(answer)

    def _is_in_force(self, answer: Made) -> bool:
        module = self.modules.get(answer.module)
        return module is not None and module.is_active

    @property
    def is_unfinished(self) -> bool:
        """Whether `finish` has something to do."""
        return any(map(self._is_in_force, self._blocked)) or any(m.is_unfinished for m in self.modules.values())

    def finish(self) -> None:
        """Try again what threads stood in the way of, and install what came too late for its plan."""
        again = [answer for answer in self._blocked if self._is_in_force(answer)]
        self._blocked = [answer for answer in self._blocked if not self._is_in_force(answer)]
        for answer in again:
            self.made(answer)
        for module in self.modules.values():
            if module.is_unfinished:
                with self.target.stopped():
                    module.finish(self.target)

    def origin(self, address: int) -> int | None:
        """The original of the instruction at `address`, if that is in a code cache and one of the program's."""
        for module in self.modules.values():
            if module.area is not None and module.area.start <= address < module.area.code_end:
                return module.origin(address)
        return None

    def _let_go(self, page: int, state: State) -> None:
        """Those who wait at `page` go on: into the instrumented function or the original one."""
        if not page:
            return
        try:
            if state is State.INSTRUMENTED:
                self._faults.copy(page, _INSTALLED)
            else:
                self._faults.zero(page)
        except TargetGoneError:
            return

    def suspend(self, number: int) -> None:
        """Take a module's trampolines out. Raises TargetBusyError if a thread is in the way; try again then."""
        module = self.modules.get(number)
        if module is not None:
            with self.target.stopped():
                module.suspend(self.target)

    def resume(self, number: int, before: int | None) -> None:
        """Put them in again, after another plan `before`. Raises TargetBusyError likewise."""
        with self.target.stopped():
            self._take_over(self.modules[number], before)
            self.modules[number].resume(self.target)
            # From now on threads may be in the original code.
            self.fresh.discard(number)

    def discard(self, number: int) -> None:
        """Take a module's trampolines out for good, and when no thread is in its code cache, give that back.

        Raises TargetBusyError if it has to be called again.
        """
        module = self.modules[number]
        with self.target.stopped():
            module.suspend(self.target)
            pages = list(module.pages())
            if pages and any(at[0] == number for at in self._pages.values()):
                self._faults.unregister(pages[0][0], pages[-1][0] + PAGE - pages[0][0])
                self._forget(number)
            module.release(self.target)
            del self.modules[number]

    def remove(self) -> None:
        """Discard all modules. Raises TargetBusyError if it has to be called again."""
        with self.target.stopped():
            for number in [*self.modules]:
                self.discard(number)
            if self.symbols is not None:
                self.symbols.dump.hide(self.target)

    def _forget(self, number: int) -> None:
        self._pages = {page: at for page, at in self._pages.items() if at[0] != number}
        self._waiting = {at: since for at, since in self._waiting.items() if at[0] != number}
        self._blocked = [answer for answer in self._blocked if answer.module != number]

    def unloaded(self, bias: int) -> None:
        """A module's code is gone: nothing is left to be taken out of it."""
        for number, module in [*self.modules.items()]:
            if module.bias == bias:
                del self.modules[number]
                self._forget(number)
                with self.target.stopped():
                    module.unmap(self.target)

    def in_child(
        self, child: Target, faults: PageFaults, counting: Literal["sum", "apart", "ignore"]
    ) -> Instrumentation:
        """The same in a child that fork has just made, whose memory is a copy but for pages that wait.

        It counts in its parent's counters, in its own, or where nobody reads.
        """
        copy = Instrumentation(child, faults, self._ask, self._books)
        copy.fresh = set(self.fresh)
        copy.off = self.off
        for answer in self._blocked:
            copy._keep(answer, 0.0)
        if self.symbols is not None:
            copy.symbols = self.symbols.of_child(child)
        for number, module in self.modules.items():
            own = copy.modules[number] = module.in_child()
            if copy.symbols is not None:
                own.on_code = copy.symbols.add
            if counting == "sum":
                own.count_together(child)
            else:
                own.count_apart(child)
                if counting == "apart":
                    self._books.enter(number, own.data, own.counters)
            copy._show_dump(own)
            copy._make_wait(own)
            copy._ask_for_called(own)
        return copy


def _is_of_same(one: Made, other: Made) -> bool:
    return (one.module, one.function) == (other.module, other.function)
