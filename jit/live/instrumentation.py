"""The instrumentation of one address space: its modules, and the first calls that wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from jit.layout import CompiledFunction
from jit.live.builder import Made, Opened
from jit.live.errors import TargetGoneError
from jit.live.faults import PageFaults
from jit.live.maps import PAGE
from jit.live.module import LiveModule, State
from jit.live.target import Target

Ask = Callable[[int, int], None]
"""Called with (module, function) to have a function compiled."""

_INSTALLED = bytes([1]) * PAGE


@dataclass(slots=True)
class Statistics:
    """What was done so far."""

    first_calls: int = 0
    installed: int = 0
    from_store: int = 0
    """Functions whose code earlier runs had made."""
    seconds_waited: float = 0.0
    """Between the news of a first call and its going on, added up."""


class Instrumentation:
    """All that is done to one address space. Its methods are called from the tracer's thread."""

    def __init__(self, target: Target, ask: Ask) -> None:
        self.target = target
        self.modules: dict[int, LiveModule] = {}
        self.statistics = Statistics()
        self._ask = ask
        self._faults: PageFaults | None = None
        self._pages: dict[int, tuple[int, int]] = {}
        """Page -> module and function."""
        self._waiting: dict[tuple[int, int], float] = {}
        """Functions asked for -> since when."""

    @property
    def descriptor(self) -> int | None:
        """Readable when a first call waits."""
        return self._faults.descriptor if self._faults is not None else None

    def add(self, opened: Opened, bias: int) -> LiveModule:
        """Arm a module: functions that earlier runs called are instrumented at once, those that cannot wait are asked
        for, all others wait for their first call. Raises ProbeloomError."""
        assert opened.plan is not None
        module = LiveModule(opened.module, bias, opened.plan)
        with self.target.stopped():
            module.arm(self.target)
            pages = list(module.pages())
            if pages:
                if self._faults is None:
                    self._faults = PageFaults(self.target)
                self._faults.register(pages[0][0], pages[-1][0] + PAGE - pages[0][0])
                self._pages |= {page: (module.number, function) for page, function in pages}
            self.modules[module.number] = module
            module.lead_to_stubs(self.target)
            module.install(self.target, opened.ready)
        self.statistics.from_store += len(opened.ready)
        for address, item in module.functions.items():
            if item.state is State.CALLED:
                self._wait_for(module.number, address)
        return module

    def _wait_for(self, module: int, function: int) -> None:
        if (module, function) not in self._waiting:
            self._waiting[module, function] = time.perf_counter()
            self._ask(module, function)

    @property
    def is_waiting(self) -> bool:
        """Whether code of a function is being made."""
        return bool(self._waiting)

    def serve(self) -> None:
        """See which first calls came, and have their functions compiled."""
        assert self._faults is not None
        for fault in self._faults.read():
            found = self._pages.get(fault.address)
            if found is None:
                continue
            module, function = found
            item = self.modules[module].functions[function]
            if item.state in (State.INSTRUMENTED, State.ORIGINAL):
                self._let_go(item.page, item.state)
                continue
            if item.state is State.WAITS:
                item.state = State.CALLED
                self.statistics.first_calls += 1
            self._wait_for(module, function)

    def made(self, answer: Made) -> None:
        """Install a function that was asked for, if it was asked for here."""
        since = self._waiting.pop((answer.module, answer.function), None)
        module = self.modules.get(answer.module)
        if since is None or module is None:
            return
        item = module.functions[answer.function]
        if isinstance(answer.result, CompiledFunction):
            with self.target.stopped():
                module.install(self.target, [answer.result])
                self._let_go(item.page, item.state)
            self.statistics.installed += 1
        else:
            module.refuse(item, answer.result)
            self._let_go(item.page, item.state)
        self.statistics.seconds_waited += time.perf_counter() - since

    def _let_go(self, page: int, state: State) -> None:
        """Those who wait at `page` go on: into the instrumented function or the original one."""
        if not page or self._faults is None:
            return
        try:
            if state is State.INSTRUMENTED:
                self._faults.copy(page, _INSTALLED)
            else:
                self._faults.zero(page)
        except TargetGoneError:
            return

    def close(self) -> None:
        """The address space is gone, or nothing of ours is left in it."""
        if self._faults is not None:
            self._faults.close()
            self._faults = None
