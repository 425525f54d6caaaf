"""The loop of a live run: everything that happens to the processes it follows, and what is done about it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from jit.live.books import Books
from jit.live.builder import Build, Made, Open, Opened, Settings
from jit.live.errors import TargetGoneError
from jit.live.events import (
    Event,
    Execed,
    Exited,
    Forked,
    GroupStopped,
    Killed,
    Readable,
    VForked,
)
from jit.live.faults import PageFault, PageFaults
from jit.live.instrumentation import Instrumentation
from jit.live.loaded import LoadWatch, Module, executable, module_file, modules
from jit.live.memory import AddressSpace
from jit.live.scope import Scope
from jit.live.target import Target
from jit.live.tracer import Tracer
from jit.live.workshop import Workshop
from jit.tracepoints import Spec
from lifter.errors import ProbeloomError, RefusedError

Children = Literal["sum", "apart", "ignore"]


@dataclass(slots=True, eq=False)
class Space:
    """One address space that is followed."""

    instrumentation: Instrumentation
    faults: PageFaults
    is_own: bool
    """Whether it runs the executable that was started or attached to."""
    is_new: bool
    """Whether it is followed from its first instruction."""
    watch: LoadWatch | None = None
    opening: set[int] = field(default_factory=set)
    """Modules whose plan is being made."""
    sleeping: list[PageFault] = field(default_factory=list)
    """Threads that have loaded something, and wait until it is instrumented."""


class Supervisor:
    """Follows a process and its children. All of it runs in one thread."""

    def __init__(
        self, specs: Sequence[Spec], settings: Settings, children: Children, note: Callable[[str], None]
    ) -> None:
        self.tracer = Tracer.current()
        self.scope = Scope(specs)
        self.children = children
        self.books = Books()
        self.spaces: dict[AddressSpace, Space] = {}
        self.status = 0
        """Exit status of the first process, once it has ended by itself."""
        self.killed_by = 0
        """The signal that ended it otherwise."""
        self._note = note
        self._first: Target | None = None
        self._executable = (0, 0)
        """Device and inode of the executable."""
        self._workshop = Workshop(settings)
        self._numbers: dict[tuple[str, int, tuple[Spec, ...]], int] = {}
        """Path, inode and specs of each module that was opened -> its number."""
        self._opened: dict[int, Opened] = {}
        self._wanting: dict[int, list[tuple[Space, Module]]] = {}
        """Modules whose plan is being made -> where they are loaded."""
        self.tracer.watch(self._workshop.fileno())

    # Beginning

    def spawn(self, argv: Sequence[str]) -> None:
        """Start a program, and hold it until its own functions are ready. Raises ProbeloomError."""
        target = self._first = Target.spawn(argv)
        try:
            self._begin(target)
            self._settle()
        except BaseException:
            os.kill(target.pid, signal.SIGKILL)
            raise

    def _begin(self, target: Target, is_new: bool = True) -> None:
        """Look at a program that has just been executed (`is_new`), or attached to."""
        found = modules(target)
        main = executable(target, found)
        if main is None:
            raise RefusedError(f"process {target.pid}: its executable is not to be found in its memory")
        status = target.executable.stat()
        identity = (status.st_dev, status.st_ino)
        if target is self._first and self._executable == (0, 0):
            self._executable = identity
        is_own = identity == self._executable
        faults = PageFaults(target)
        space = Space(Instrumentation(target, faults, self._ask, self.books), faults, is_own, is_new)
        self.spaces[target.memory] = space
        self.tracer.watch(faults.descriptor)
        specs = self.scope.of_executable(main.path) if is_own else self.scope.of_other(main.path, False)
        self._open(space, main, specs)
        if is_own:
            while space.opening:
                self._serve_workshop(wait=True)
        if self.scope.names_modules:
            space.watch = LoadWatch.install(target, faults)
            for module in found:
                if module is not main:
                    self._open(space, module, self.scope.of_other(module.path, is_own))

    def _settle(self) -> None:
        """Wait until all that must be ready before the program runs is."""
        while any(space.opening or space.instrumentation.is_waiting for space in self.spaces.values()):
            self._serve_workshop(wait=True)

    # Modules

    def _open(self, space: Space, module: Module, specs: tuple[Spec, ...]) -> None:
        """Instrument a module, when its plan is there."""
        file = module_file(space.instrumentation.target, module) if specs else None
        if file is None:
            return
        key = (module.path, module.inode, specs)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            self._workshop.ask(Open(number, str(file), module.path, specs))
        known = self._opened.get(number)
        if known is not None:
            self._instrument(space, module, known)
            return
        space.opening.add(number)
        self._wanting.setdefault(number, []).append((space, module))

    def _on_opened(self, answer: Opened) -> None:
        self._opened[answer.module] = answer
        for space, module in self._wanting.pop(answer.module, ()):
            space.opening.discard(answer.module)
            self._instrument(space, module, answer)
            self._go_on(space)

    def _instrument(self, space: Space, module: Module, opened: Opened) -> None:
        is_executable = space.is_own and module.path == opened.name and not self.scope.elsewhere
        if is_executable:
            self.scope.left(opened.unmatched)
        if opened.problem is not None:
            if space.instrumentation.target is self._first and is_executable:
                raise opened.problem
            self._note(str(opened.problem))
        elif opened.plan is not None:
            try:
                space.instrumentation.add(opened, module.bias, fresh=space.is_new)
            except TargetGoneError:
                return

    def _go_on(self, space: Space) -> None:
        """Let those who loaded something go on once it is instrumented."""
        if space.opening or space.instrumentation.is_waiting or space.watch is None:
            return
        sleeping, space.sleeping = space.sleeping, []
        for fault in sleeping:
            space.watch.go_on(fault)

    # Functions

    def _ask(self, module: int, function: int) -> None:
        self._workshop.ask(Build(module, function))

    def _serve_workshop(self, wait: bool = False) -> None:
        for answer in self._workshop.answers(wait):
            if isinstance(answer, Opened):
                self._on_opened(answer)
            else:
                self._on_made(answer)

    def _on_made(self, answer: Made) -> None:
        for space in [*self.spaces.values()]:
            try:
                space.instrumentation.made(answer)
                self._go_on(space)
            except TargetGoneError:
                continue

    def _on_fault(self, space: Space) -> None:
        for fault in space.faults.read():
            if space.watch is None or not space.watch.owns(fault):
                space.instrumentation.called(fault)
                continue
            changes = space.watch.look()
            for module in changes.unloaded:
                space.instrumentation.unloaded(module.bias)
            for module in changes.loaded:
                self._open(space, module, self.scope.of_other(module.path, space.is_own))
            space.sleeping.append(fault)
            self._go_on(space)

    # Events

    def run(self, until: float | None = None) -> None:
        """Follow until no process is left, or for some seconds."""
        for event in self.tracer.events(until):
            self._handle(event)
            if not self.tracer.threads:
                return

    def _handle(self, event: Event | Readable) -> None:
        match event:
            case Readable(descriptor):
                if descriptor == self._workshop.fileno():
                    self._serve_workshop()
                else:
                    space = next((s for s in self.spaces.values() if s.faults.descriptor == descriptor), None)
                    if space is not None:
                        self._on_fault(space)
            case Forked(target, _, child) | VForked(target, _, child):
                if child.memory is not target.memory:
                    self._on_fork(target, child)
            case Execed(target, _):
                self._drop_empty()
                self._on_exec(target)
            case Exited(target, _, status):
                if target is self._first:
                    self.status = status
                self._drop_empty()
            case Killed(target, _, number, _):
                if target is self._first:
                    self.killed_by = number
                self._drop_empty()
            case GroupStopped(target, _, number):
                if target is self._first and number == signal.SIGTSTP:
                    os.kill(os.getpid(), signal.SIGSTOP)  # as the shell expects of the job it started
            case _:
                pass

    def _on_fork(self, parent: Target, child: Target) -> None:
        space = self.spaces.get(parent.memory)
        if space is None:
            return
        try:
            faults = PageFaults(child)
            instrumentation = space.instrumentation.in_child(child, faults, self.children)
            own = self.spaces[child.memory] = Space(instrumentation, faults, space.is_own, space.is_new)
            if space.watch is not None:
                own.watch = space.watch.follow(child, faults)
            self.tracer.watch(faults.descriptor)
        except TargetGoneError:
            self._drop_empty()

    def _on_exec(self, target: Target) -> None:
        try:
            self._begin(target)
        except ProbeloomError as problem:
            if not isinstance(problem, TargetGoneError):
                self._note(str(problem))

    def _drop_empty(self) -> None:
        """Forget address spaces that nobody uses any more."""
        for memory, space in [*self.spaces.items()]:
            if not memory.members:
                del self.spaces[memory]
                self.tracer.unwatch(space.faults.descriptor)
                space.faults.close()

    def close(self) -> None:
        """Let go of everything."""
        self.tracer.unwatch(self._workshop.fileno())
        self._workshop.close()
