"""A process under control: its threads, its memory, and system calls made in it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from jit.live import leaving, procfs, ptrace, remote
from jit.live.errors import MemoryAccessError, TargetBusyError, TargetGoneError
from jit.live.events import Event, Readable
from jit.live.maps import Mappings
from jit.live.memory import AddressSpace
from jit.live.ptrace import Registers
from jit.live.spawn import start_stopped
from jit.live.threads import Thread
from jit.live.tracer import Tracer

_DETACH_SECONDS: Final = 2.0
"""How long detaching waits for threads that cannot stop now (in vfork)."""


class Target:
    """A process that the calling thread traces. Made by `spawn`, `attach`, or by the tracer for a child.

    Its threads run, but while an event of theirs is handled and inside `stopped`. All methods that need a stopped
    thread raise TargetGoneError if that has been killed meanwhile.
    """

    def __init__(self, tracer: Tracer, pid: int, memory: AddressSpace) -> None:
        self.tracer = tracer
        self.pid = pid
        self.is_alive = True
        """False once it has ended, or is no longer traced."""
        self.memory = memory
        """Shared with another target where a child runs in its parent's memory."""
        memory.members.add(self)

    def __repr__(self) -> str:
        return f"<Target {self.pid}>"

    # Beginning and end

    @classmethod
    def spawn(cls, argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | str | None = None) -> Target:
        """Starts a program, and holds it before the first instruction of its dynamic loader (or its own, if it has
        none) until the next event is asked for.

        It has the standard streams, process group, terminal, and signal mask of this process, and what this process
        ignores it ignores (but for SIGPIPE and SIGXFSZ, which Python itself ignores). Raises CannotStartError.
        """
        tracer = Tracer.current()
        pid = start_stopped(argv, env, cwd)
        target = cls(tracer, pid, AddressSpace(pid))
        tracer.adopt_started(target)
        return target

    @classmethod
    def attach(cls, pid: int) -> Target:
        """Takes control of a running process with all its threads, which run on.

        Raises NoProcessError or CannotTraceError.
        """
        procfs.check_traceable(pid)
        tracer = Tracer.current()
        target = cls(tracer, pid, AddressSpace(pid))
        try:
            ptrace.seize(pid)
        except OSError as problem:
            if procfs.task_state(pid) != "Z" or problem.errno not in (1, 3):
                raise procfs.refusal(pid, problem) from None
            # The first thread has ended and the others run on.
        else:
            tracer.threads[pid] = Thread(pid, target)
        tracer.targets[pid] = target
        while target._seize_new():
            pass
        return target

    def child(self, pid: int, memory: AddressSpace) -> Target:
        """The target that a child is; the tracer makes it."""
        return Target(self.tracer, pid, memory)

    def detach(self) -> None:
        """Ends the control: every thread goes on as if it had never been, in job control's stop if it was in one.

        A thread whose vfork child has not let it go yet is waited for a short while; after that it stays traced until
        this program ends, and goes on by itself.
        """
        if not self.is_alive:
            return
        deadline = time.monotonic() + _DETACH_SECONDS
        self.tracer.conclude()
        with suppress(TargetGoneError):
            while True:
                with self.stopped():
                    running = [thread for thread in self._threads() if thread.is_running]
                    parked = [thread for thread in running if procfs.task_state(thread.tid) != "Z"]
                    if not parked or time.monotonic() > deadline:
                        self.tracer.let_go(self)
                        return
                self.tracer.collect()
                time.sleep(0.001)

    def move_to(self, memory: AddressSpace) -> None:
        """After execve: it runs in memory of its own. The tracer calls this."""
        self.memory.members.discard(self)
        self.memory = memory
        memory.members.add(self)

    def ended(self) -> None:
        """It is no longer traced. The tracer calls this."""
        self.is_alive = False
        self.memory.members.discard(self)

    # Events

    def wait(self, timeout: float | None = None) -> Event | Readable | None:
        """The next event of any target of this thread: see `Tracer.next_event`."""
        return self.tracer.next_event(timeout)

    def events(self, timeout: float | None = None) -> Iterator[Event | Readable]:
        """Events as they come, of any target of this thread: see `Tracer.events`."""
        return self.tracer.events(timeout)

    # Threads

    @property
    def tids(self) -> list[int]:
        """Its threads, as far as known; all of them inside `stopped`."""
        return [thread.tid for thread in self._threads()]

    def _threads(self) -> list[Thread]:
        return [thread for thread in self.tracer.threads.values() if thread.target is self]

    def _seize_new(self) -> bool:
        """Takes control of threads that are not traced: there when attached to, or made with CLONE_UNTRACED."""
        found = False
        for tid in procfs.tasks(self.pid):
            if tid in self.tracer.threads:
                continue
            try:
                ptrace.seize(tid)
            except OSError:
                continue  # it has ended, or is traced already as the child of a traced thread, and will tell
            self.tracer.threads[tid] = Thread(tid, self)
            found = True
        return found

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """All threads that run in its memory stand still inside; may be nested.

        A thread that waits in the kernel without known end (vfork) is not waited for: it executes no instruction
        before it stops too. Raises TargetGoneError if no thread is left.
        """
        memory = self.memory
        memory.holds += 1
        try:
            if memory.holds == 1:
                self._stop_all(memory)
            if not self.is_alive:
                raise TargetGoneError(f"process {self.pid} has ended")
            yield
        finally:
            memory.holds -= 1
            if not memory.holds:
                for thread in self.tracer.threads_of(memory):
                    self.tracer.release(thread)

    def _stop_all(self, memory: AddressSpace) -> None:
        while True:
            self.tracer.interrupt(self.tracer.threads_of(memory))
            self.tracer.collect()
            is_new = any([member._seize_new() for member in [*memory.members]])
            threads = self.tracer.threads_of(memory)
            if not is_new and not any(thread.is_running and not thread.is_parked for thread in threads):
                return

    def _stopped_thread(self, tid: int) -> Thread:
        thread = self.tracer.threads.get(tid)
        if thread is None:
            raise TargetGoneError(f"thread {tid} of process {self.pid} has ended")
        if thread.is_running:
            raise TargetBusyError(f"thread {tid} of process {self.pid} is not stopped")
        return thread

    def registers(self, tid: int) -> Registers:
        """The general registers of a stopped thread."""
        self._stopped_thread(tid)
        with self._alive():
            return ptrace.registers(tid)

    def set_registers(self, tid: int, values: Registers) -> None:
        """Replaces them."""
        self._stopped_thread(tid)
        with self._alive():
            ptrace.set_registers(tid, values)

    def extended_state(self, tid: int) -> bytes:
        """x87, vector and mask registers of a stopped thread, in XSAVE's format."""
        self._stopped_thread(tid)
        with self._alive():
            return ptrace.extended_state(tid)

    def set_extended_state(self, tid: int, state: bytes) -> None:
        """Replaces them."""
        self._stopped_thread(tid)
        with self._alive():
            ptrace.set_extended_state(tid, state)

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except ProcessLookupError:
            raise TargetGoneError(f"process {self.pid} has been killed") from None

    def step_out(self, ranges: Sequence[tuple[int, int]], seconds: float = 0.5) -> list[leaving.Straggler]:
        """Has every thread that is inside one of the byte ranges [start, end) leave them; called inside `stopped`.
        Returns those that did not within `seconds`: see `leaving.leave`."""
        with self.stopped(), self._alive():
            return leaving.leave(self, ranges, seconds)

    def end_detours(self, start: int, end: int) -> None:
        """Threads whose fault in [start, end) was moved stay where it was raised: that range will be gone."""
        for thread in self.tracer.threads_of(self.memory):
            if thread.detour is not None and start <= thread.detour.faulted < end:
                thread.detour = None

    # Memory and system calls

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of its memory. Raises MemoryAccessError."""
        return self.memory.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Replaces bytes of its memory, also where itself it may not write. Raises MemoryAccessError."""
        self.memory.write(address, data)

    def read_string(self, address: int, most: int = 4096) -> bytes:
        """The bytes at `address` up to a zero byte, at most `most` of them. Raises MemoryAccessError."""
        found = b""
        while len(found) < most and b"\0" not in found:
            room = 4096 - (address + len(found)) % 4096
            try:
                found += self.read(address + len(found), min(room, most - len(found)))
            except MemoryAccessError:
                if not found:
                    raise
                break
        return found.partition(b"\0")[0]

    def maps(self) -> Mappings:
        """Its mappings now."""
        return self.memory.mappings()

    @property
    def executable(self) -> Path:
        """The file it executes, as a path that opens that very file even if its name is gone or another's."""
        return Path(f"/proc/{procfs.living_thread(self.pid)}/exe")

    def auxiliary_vector(self) -> dict[int, int]:
        """What the kernel told its program at the start: AT_ number -> value."""
        try:
            words = Path(f"/proc/{procfs.living_thread(self.pid)}/auxv").read_bytes()
        except OSError:
            raise TargetGoneError(f"process {self.pid} has ended") from None
        numbers = [int.from_bytes(words[at : at + 8], "little") for at in range(0, len(words) // 16 * 16, 8)]
        return dict(zip(numbers[::2], numbers[1::2], strict=True))

    def syscall(self, number: int, *arguments: int) -> int:
        """Makes one of its threads do a system call, and returns the result.

        The threads are stopped for it if they are not yet; the one used goes on as if nothing had been. Only calls that
        end by themselves. Raises RemoteCallError if it fails, TargetBusyError if no thread can do it now.
        """
        with self.stopped(), self._alive():
            return remote.syscall(self, number, arguments)

    def open_descriptor(self, number: int) -> int:
        """A descriptor of this process for what descriptor `number` of the target is."""
        pidfd = os.pidfd_open(self.pid)
        try:
            return remote.take_descriptor(pidfd, number)
        finally:
            os.close(pidfd)
