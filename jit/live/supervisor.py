"""The loop of a live run: everything that happens to the processes it follows, and what is done about it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Literal

from ir.probes import CompiledProbe
from jit.layout import CompiledFunction
from jit.live.books import Books
from jit.live.builder import Build, Know, Made, Open, Opened, Settings
from jit.live.errors import TargetBusyError, TargetGoneError
from jit.live.events import Event, Execed, Exited, Forked, GroupStopped, Killed, Readable, SignalStop, VForked
from jit.live.faults import PageFault, PageFaults
from jit.live.instrumentation import Instrumentation
from jit.live.loaded import LoadWatch, Module, executable, module_file, modules
from jit.live.memory import AddressSpace
from jit.live.news import News
from jit.live.scope import Scope
from jit.live.symbols import SymbolFiles
from jit.live.target import Target
from jit.live.tracer import Tracer
from jit.live.workshop import Workshop
from jit.tracepoints import Spec
from lifter.errors import ProbeloomError, RefusedError

Children = Literal["sum", "apart", "ignore"]

_RETRY: Final = 0.05
"""Seconds until something is tried again that a thread stood in the way of."""
_LONGEST_PAUSE: Final = 0.1
"""It grows to this: on a busy machine, a thread that is stopped again too soon never gets its turn on a processor."""
_FAULTS: Final = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
_LEAVE: Final = 2.0
"""Seconds that detaching waits for threads to come out of the code cache."""


@dataclass(slots=True, eq=False)
class Space:
    """One address space that is followed."""

    instrumentation: Instrumentation
    faults: PageFaults
    is_own: bool
    """Whether it runs the executable that was started or attached to."""
    is_new: bool
    """Whether it is followed from its first instruction."""
    main: Module | None = None
    placed: dict[Module, int] = field(default_factory=dict)
    """Loaded modules -> number of the plan that is in force, or was until now."""
    delayed: dict[Module, Opened | None] = field(default_factory=dict)
    """Modules that a thread stands in the way of -> the plan to put into force, or none."""
    watch: LoadWatch | None = None
    opening: set[int] = field(default_factory=set)
    """Modules whose plan is being made."""
    sleeping: list[PageFault] = field(default_factory=list)
    """Threads that have loaded something, and wait until it is instrumented."""
    hold: ExitStack = field(default_factory=ExitStack)
    """Keeps a new program from running until its own functions are ready."""

    @property
    def target(self) -> Target:
        """A process that runs in it."""
        return self.instrumentation.target

    @property
    def is_ready(self) -> bool:
        """Whether all that must be instrumented before it is called is."""
        return not self.opening and not self.instrumentation.is_waiting


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A module whose plan is being made, for an address space."""

    space: Space
    module: Module
    fresh: bool
    """Whether nothing of it has run yet."""


class Supervisor:
    """Follows a process and its children. All of it runs in one thread."""

    def __init__(
        self,
        specs: Sequence[Spec],
        settings: Settings,
        children: Children,
        note: Callable[[str], None],
        *,
        keep_modules: bool = False,
        name_code: bool = False,
    ) -> None:
        """`note` is called with what the user should know; `keep_modules` looks at all that is loaded even if no spec
        asks for it: specs come later; `name_code` writes files for perf and gdb (see `symbols`)."""
        self.tracer = Tracer.current()
        self.scope = Scope(specs)
        self.children = children
        self.books = Books()
        self.spaces: dict[AddressSpace, Space] = {}
        self.status = 0
        """Exit status of the first process, once it has ended by itself."""
        self.killed_by = 0
        """The signal that ended it otherwise."""
        self.stopping = False
        """Set to end `run`."""
        self.on_news: Callable[[News], None] = lambda news: None
        """Called with what happens, for those who want to know."""
        self._keep_modules = keep_modules
        self._name_code = name_code
        self._note = note
        self._first: Target | None = None
        self._held = ExitStack()
        self._off: set[Spec] = set()
        self._is_held = False
        self._executable = (0, 0)
        """Device and inode of the executable."""
        self._workshop = Workshop(settings)
        self._numbers: dict[tuple[str, int, tuple[Spec, ...]], int] = {}
        """Path, inode and specs of each module that was opened -> its number."""
        self._opened: dict[int, Opened] = {}
        self._wanted: dict[int, list[_Wanted]] = {}
        self._watched: dict[int, Callable[[], None]] = {}
        self._pause = _RETRY
        """Seconds until what a thread stands in the way of is tried again, if nothing happens before."""
        self.watch(self._workshop.fileno(), self._serve_workshop)

    def watch(self, descriptor: int, serve: Callable[[], None]) -> None:
        """Have `serve` called whenever `descriptor` can be read."""
        self._watched[descriptor] = serve
        self.tracer.watch(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """End that."""
        self._watched.pop(descriptor, None)
        self.tracer.unwatch(descriptor)

    # Beginning

    def spawn(self, argv: Sequence[str], hold: bool = False) -> None:
        """Start a program, and hold it until its own functions are ready, or with `hold` until `let_run`. Raises
        ProbeloomError."""
        target = Target.spawn(argv)
        if hold:
            self._held.enter_context(target.stopped())
            self._is_held = True
        self._begin_with(target, is_new=True)

    def let_run(self) -> None:
        """Let the program that `spawn` held run."""
        self._is_held = False
        with suppress(TargetGoneError):
            self._held.close()

    @property
    def first_pid(self) -> int:
        """The process that was started or attached to."""
        assert self._first is not None
        return self._first.pid

    def attach(self, pid: int) -> None:
        """Instrument a running process, which runs on. Raises ProbeloomError."""
        self._begin_with(Target.attach(pid), is_new=False)

    def _begin_with(self, target: Target, is_new: bool) -> None:
        self._first = target
        status = target.executable.stat()
        self._executable = (status.st_dev, status.st_ino)
        self._begin(target, is_new)

    def _begin(self, target: Target, is_new: bool) -> None:
        """Look at a program that has just been executed (`is_new`), or attached to."""
        status = target.executable.stat()
        is_own = (status.st_dev, status.st_ino) == self._executable
        if not is_own and not self.scope.names_modules and not self._keep_modules:
            return
        main = executable(target, modules(target))
        if main is None:
            raise RefusedError(f"process {target.pid}: its executable is not to be found in its memory")
        faults = PageFaults(target)
        space = Space(Instrumentation(target, faults, self._ask, self.books), faults, is_own, is_new, main)
        space.instrumentation.off = self._off
        if self._name_code:
            space.instrumentation.symbols = SymbolFiles(target.pid)
        self._add(space)
        if is_new:
            space.hold.enter_context(target.stopped())
        self._open(space, main, self._specs_of(space, main), is_new)
        if not space.opening:
            self._open_others(space, is_new)
            self._go_on(space)

    def _add(self, space: Space) -> None:
        self.spaces[space.target.memory] = space
        self.watch(space.faults.descriptor, lambda: self._on_fault(space))

    def _open_others(self, space: Space, fresh: bool) -> None:
        """Once it is known what the executable leaves to them: the modules that are loaded, and word of later ones."""
        if not (self.scope.names_modules or self._keep_modules or space.placed):
            return
        with space.target.stopped():
            if space.watch is None:
                space.watch = LoadWatch.install(space.target, space.faults)
            for module in modules(space.target):
                if module != space.main:
                    self._open(space, module, self._specs_of(space, module), fresh)

    # Modules

    def _open(self, space: Space, module: Module, specs: tuple[Spec, ...], fresh: bool) -> None:
        """Instrument a module, when its plan is there."""
        file = module_file(space.target, module) if specs else None
        if file is None:
            self._change(space, module, None, fresh)
            return
        key = (module.path, module.inode, specs)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            self._workshop.ask(Open(number, str(file), module.path, specs, is_running=not fresh))
        wanted = _Wanted(space, module, fresh)
        known = self._opened.get(number)
        if known is not None:
            self._instrument(wanted, known)
        else:
            space.opening.add(number)
            self._wanted.setdefault(number, []).append(wanted)

    def _on_opened(self, answer: Opened) -> None:
        self._opened[answer.module] = answer
        for wanted in self._wanted.pop(answer.module, ()):
            space = wanted.space
            space.opening.discard(answer.module)
            if self.spaces.get(space.target.memory) is not space:
                continue
            self._instrument(wanted, answer)
            if wanted.module == space.main:
                self._open_others(space, wanted.fresh)
            self._go_on(space)

    def _instrument(self, wanted: _Wanted, opened: Opened) -> None:
        space = wanted.space
        is_main = space.is_own and wanted.module == space.main
        self.scope.matched(opened.matched)
        if is_main:
            self.scope.left(opened.unmatched)
        try:
            if opened.problem is not None:
                raise opened.problem
            self._change(space, wanted.module, opened, wanted.fresh)
        except TargetGoneError:
            return
        except ProbeloomError as problem:
            if is_main and space.target is self._first and not self.books.accounts:
                raise
            self._note(f"{wanted.module.path}: {problem}")

    def _change(self, space: Space, module: Module, opened: Opened | None, fresh: bool) -> None:
        """Put the plan of a module into force, or none, instead of another if there is one.

        Where threads stand in the way for long, `step` goes on trying. Raises ProbeloomError.
        """
        space.delayed.pop(module, None)
        try:
            self._retried(lambda: self._place(space, module, opened, fresh))
        except TargetBusyError as problem:
            space.delayed[module] = opened
            self._note(f"{module.path}: {problem}: the probes change when it has left")

    def _place(self, space: Space, module: Module, opened: Opened | None, fresh: bool) -> None:
        """Raises TargetBusyError if it has to be called again: what is done by then is not done twice."""
        instrumentation = space.instrumentation
        before = space.placed.get(module)
        if before is not None and (opened is None or before != opened.module):
            instrumentation.suspend(before)
        if opened is None or opened.plan is None:
            space.placed.pop(module, None)
            return
        if opened.module in instrumentation.modules:
            instrumentation.resume(opened.module, before)
        else:
            instrumentation.add(opened, module.bias, before, fresh=fresh)
        space.placed[module] = opened.module
        self.books.put_in_force(opened.module)

    def _change_delayed(self, space: Space) -> None:
        for module, opened in [*space.delayed.items()]:
            try:
                self._place(space, module, opened, fresh=False)
            except TargetBusyError:
                continue
            except TargetGoneError:
                return
            except ProbeloomError as problem:
                self._note(f"{module.path}: {problem}")
            del space.delayed[module]

    def _retried(self, action: Callable[[], None]) -> None:
        """Do what a thread may stand in the way of for a moment. Raises TargetBusyError if it does for long."""
        deadline = time.monotonic() + _LEAVE
        pause = _RETRY / 10
        while True:
            try:
                action()
                return
            except TargetBusyError:
                if time.monotonic() > deadline:
                    raise
            resume = time.monotonic() + pause
            while time.monotonic() < resume:
                self.tracer.collect()
                self.tracer.pass_signals(_FAULTS)
                time.sleep(_RETRY / 10)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _go_on(self, space: Space) -> None:
        """Let the program, or those who loaded something, go on once all is instrumented."""
        if not space.is_ready:
            return
        space.hold.close()
        if space.watch is not None:
            sleeping, space.sleeping = space.sleeping, []
            for fault in sleeping:
                space.watch.go_on(fault)

    def set_specs(self, specs: Sequence[Spec]) -> None:
        """Put other specs into force, in all processes, as soon as their plans are there. Raises ProbeloomError."""
        self.scope.specs = specs
        self.scope.elsewhere.clear()
        for space in [*self.spaces.values()]:
            if space.main is not None:
                fresh = space.is_new and space.target is self._first and self._is_held
                self._open(space, space.main, self._specs_of(space, space.main), fresh)
                if not space.opening:
                    self._open_others(space, fresh)

    def know_probe(self, action: str, probe: CompiledProbe) -> None:
        """What an action means that is not the name of a file and a function in it."""
        self._workshop.ask(Know(action, probe))

    def names_of(self, spec: Spec) -> frozenset[str]:
        """The functions that a spec without module names in the modules that it was looked for in."""
        return frozenset().union(*(opened.matched.get(spec, ()) for opened in self._opened.values()))

    def _specs_of(self, space: Space, module: Module) -> tuple[Spec, ...]:
        if module == space.main and space.is_own:
            return self.scope.of_executable(module.path)
        return self.scope.of_other(module.path, space.is_own)

    def switch(self, off: Iterable[Spec]) -> None:
        """Let the actions of guarded specs run in all processes, but for those that are `off`."""
        self._off = {replace(spec, module="") for spec in off}
        for space in self.spaces.values():
            space.instrumentation.switch(self._off)

    def discard(self, spec: Spec) -> None:
        """Give back the memory of plans that `spec` has a part in and that are not in force."""
        bare = replace(spec, module="")
        numbers = {number for (_, _, specs), number in self._numbers.items() if bare in specs}
        for space in self.spaces.values():
            for number in numbers & space.instrumentation.modules.keys() - set(space.placed.values()):
                try:
                    self._retried(partial(space.instrumentation.discard, number))
                except TargetBusyError as problem:
                    self._note(f"process {space.target.pid}: a code cache stays mapped: {problem}")

    # Functions

    def _ask(self, module: int, function: int) -> None:
        self._workshop.ask(Build(module, function))

    def _serve_workshop(self) -> None:
        for answer in self._workshop.answers():
            if isinstance(answer, Opened):
                self._on_opened(answer)
            else:
                self._on_made(answer)

    def _on_made(self, answer: Made) -> None:
        opened = self._opened.get(answer.module)
        if opened is not None and isinstance(answer.result, CompiledFunction):
            others = [function for function in opened.ready if function.entry != answer.function]
            self._opened[answer.module] = replace(opened, ready=(*others, answer.result))
        for space in [*self.spaces.values()]:
            with suppress(TargetGoneError):
                name = space.instrumentation.made(answer)
                if name:
                    self.on_news(News("instrumented", space.target.pid, name))
                self._go_on(space)

    def _on_fault(self, space: Space) -> None:
        for fault in space.faults.read():
            if space.watch is None or not space.watch.owns(fault):
                space.instrumentation.called(fault)
                continue
            changes = space.watch.look()
            for module in changes.unloaded:
                space.placed.pop(module, None)
                space.delayed.pop(module, None)
                self.on_news(News("unloaded", space.target.pid, module.path))
                space.instrumentation.unloaded(module.bias)
            for module in changes.loaded:
                self.on_news(News("loaded", space.target.pid, module.path))
                self._open(space, module, self._specs_of(space, module), fresh=True)
            space.sleeping.append(fault)
            self._go_on(space)

    # Events

    def run(self, seconds: float | None = None, *, counted_from_start: bool = False) -> None:
        """Follow until no process is left, until told to stop, or for some seconds: from when all that is loaded is
        instrumented, or `counted_from_start` from now. Raises ProbeloomError."""
        deadline = time.monotonic() + seconds if seconds is not None and counted_from_start else None
        while not self.stopping and not self.tracer.is_done:
            if seconds is not None and deadline is None and self.is_settled:
                deadline = time.monotonic() + seconds
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            self.step(left)
        self.tracer.conclude()

    @property
    def is_settled(self) -> bool:
        """Whether all that is loaded is instrumented, or waits for its first call."""
        return all(space.is_ready for space in self.spaces.values())

    def settle(self) -> None:
        """Go on until that is so."""
        while not self.is_settled:
            self.step(None)

    def step(self, seconds: float | None) -> None:
        """Wait for something to happen, at most for some seconds, and do what is to be done about it."""
        if any(space.delayed or space.instrumentation.is_unfinished for space in self.spaces.values()):
            seconds = self._pause if seconds is None else min(seconds, self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        else:
            self._pause = _RETRY
        event = self.tracer.next_event(seconds)
        if event is not None:
            self._handle(event)
        for space in [*self.spaces.values()]:
            with suppress(TargetGoneError):
                self._change_delayed(space)
                space.instrumentation.finish()
                self._write_symbols(space)
                self._go_on(space)

    def _write_symbols(self, space: Space) -> None:
        if space.instrumentation.symbols is not None:
            try:
                space.instrumentation.symbols.write()
            except OSError as problem:
                space.instrumentation.symbols = None
                self._note(f"the files for perf and gdb cannot be written: {problem}")

    def _handle(self, event: Event | Readable) -> None:
        match event:
            case Readable(descriptor):
                serve = self._watched.get(descriptor)
                if serve is not None:
                    with suppress(TargetGoneError):
                        serve()
            case Forked(target, _, child) | VForked(target, _, child):
                if child.memory is not target.memory:
                    self._on_fork(target, child)
            case Execed(target, _):
                self._drop_empty()
                self.on_news(News("executed", target.pid, str(target.executable.readlink())))
                self._on_exec(target)
            case Exited(target, _, status):
                if target is self._first:
                    self.status = status
                self.on_news(News("exited", target.pid, status=status))
                self._drop_empty()
            case Killed(target, _, number, _):
                if target is self._first:
                    self.killed_by = number
                self.on_news(News("killed", target.pid, status=number))
                self._drop_empty()
            case SignalStop() if event.signal in _FAULTS and event.code > 0:
                with suppress(TargetGoneError):
                    self._move_fault(event)
            case GroupStopped(target, _, number):
                if target is self._first and number == signal.SIGTSTP:
                    os.kill(os.getpid(), signal.SIGSTOP)  # as the shell expects of the job it started
            case _:
                pass

    def _move_fault(self, event: SignalStop) -> None:
        """A fault in the code cache is raised at the original instruction."""
        space = self.spaces.get(event.target.memory)
        if space is not None:
            origin = space.instrumentation.origin(event.target.registers(event.tid).rip)
            if origin is not None:
                self.tracer.raise_at(event, origin)

    def _on_fork(self, parent: Target, child: Target) -> None:
        space = self.spaces.get(parent.memory)
        if space is None:
            return
        with suppress(TargetGoneError):
            faults = PageFaults(child)
            instrumentation = space.instrumentation.in_child(child, faults, self.children)
            own = Space(
                instrumentation, faults, space.is_own, space.is_new, space.main, {**space.placed}, {**space.delayed}
            )
            if space.watch is not None:
                own.watch = space.watch.follow(child, faults)
            self._add(own)
            self.on_news(News("forked", child.pid))
        self._drop_empty()

    def _on_exec(self, target: Target) -> None:
        try:
            self._begin(target, is_new=True)
        except TargetGoneError:
            self._drop_empty()
        except ProbeloomError as problem:
            self._note(str(problem))

    # End

    def _drop_empty(self) -> None:
        """Forget address spaces that nobody uses any more."""
        for memory, space in [*self.spaces.items()]:
            if not memory.members:
                self._drop(memory, space)

    def _drop(self, memory: AddressSpace, space: Space) -> None:
        del self.spaces[memory]
        self.unwatch(space.faults.descriptor)
        space.faults.close()
        with suppress(TargetGoneError):
            space.hold.close()

    def detach(self) -> None:
        """Take everything out of all processes, and let them go."""
        self.tracer.conclude()
        for memory, space in [*self.spaces.items()]:
            with suppress(TargetGoneError):
                self._leave(space)
            self._drop(memory, space)
        for target in [*self.tracer.targets.values()]:
            target.detach()

    def _leave(self, space: Space) -> None:
        if space.watch is not None:
            for fault in space.sleeping:
                space.watch.go_on(fault)
            space.watch.remove()
        try:
            self._retried(space.instrumentation.remove)
        except TargetBusyError as problem:
            self._note(f"process {space.target.pid}: the code cache stays mapped: {problem}")

    def close(self) -> None:
        """End the process that compiles, when it has stored what it made."""
        self.unwatch(self._workshop.fileno())
        self._workshop.close()
