"""The loop that hears of everything traced threads do, and hands it on as events.

ptrace belongs to the thread that began it: all of this is used from one thread, which has one `Tracer`.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from signal import SIGTRAP
from typing import TYPE_CHECKING, Final

from jit.live import procfs, ptrace
from jit.live.events import (
    Cloned,
    Event,
    Execed,
    Exited,
    Forked,
    GroupStopped,
    Killed,
    Readable,
    SignalStop,
    ThreadExited,
    ThreadExiting,
    VForkDone,
    VForked,
)
from jit.live.memory import AddressSpace
from jit.live.threads import CREATIONS, Detour, TakenSignal, Thread
from jit.live.wakeup import FALLBACK_MILLISECONDS, Wakeup

if TYPE_CHECKING:
    from jit.live.target import Target

_ORPHAN_SECONDS: Final = 0.2
"""How long a new process may wait for the event that announces it. It never comes if its maker was killed."""
_PARK_SECONDS: Final = 0.05
"""A thread that waits uninterruptibly for so long is taken to be in a wait without known end."""
_SI_TKILL: Final = -6
_PATIENCE: Final = 2_000
"""System calls of a signal handler until it is no longer expected to return."""
_SIGRTMIN: Final = 32
"""Signals from here on are queued, those below are pending or not."""
_CLONE_VM: Final = 0x100
_SYS_CLONE, _SYS_FORK, _SYS_VFORK, _SYS_CLONE3 = 56, 57, 58, 435

_EINTR: Final = (1 << 64) - 4
_ERESTARTNOHAND: Final = (1 << 64) - 514
_ENDLESS: Final[dict[int, Callable[[ptrace.Registers], bool]]] = {
    232: lambda registers: registers.r10 & 0xFFFF_FFFF == 0xFFFF_FFFF,  # epoll_wait
    281: lambda registers: registers.r10 & 0xFFFF_FFFF == 0xFFFF_FFFF,  # epoll_pwait
    441: lambda registers: registers.r10 == 0,  # epoll_pwait2
    65: lambda _: True,  # semop
    220: lambda registers: registers.r10 == 0,  # semtimedop
    128: lambda registers: registers.rdx == 0,  # rt_sigtimedwait
    208: lambda registers: registers.r8 == 0,  # io_getevents
}
"""The calls that end with EINTR where others are begun again, and whether they wait without a time limit."""

_local = threading.local()


class Tracer:
    """All that the calling thread traces."""

    def __init__(self) -> None:
        self.targets: dict[int, Target] = {}
        """By process number."""
        self.threads: dict[int, Thread] = {}
        """By thread number."""
        self._queue: deque[Thread | Event] = deque()
        self._unannounced: dict[int, tuple[float, int]] = {}
        """Newborn threads that stopped before the event that tells of them: when, and their wait status."""
        self._current: Event | None = None
        self._current_thread: Thread | None = None
        self._started: list[Thread] = []
        """Those of programs just started."""
        self._wakeup = Wakeup()
        self._poll = select.poll()
        self._watched: set[int] = set()
        self._readable: deque[int] = deque()
        if self._wakeup.descriptor >= 0:
            self._poll.register(self._wakeup.descriptor, select.POLLIN)

    @staticmethod
    def current() -> Tracer:
        """The tracer of the calling thread, made when first asked for."""
        tracer: Tracer | None = getattr(_local, "tracer", None)
        if tracer is None:
            tracer = _local.tracer = Tracer()
        return tracer

    # Events

    @property
    def is_done(self) -> bool:
        """Whether nothing is traced any more, and every event was told."""
        return not self.threads and not self._queue

    def watch(self, descriptor: int) -> None:
        """Has `next_event` also tell when `descriptor` can be read."""
        self._poll.register(descriptor, select.POLLIN)
        self._watched.add(descriptor)

    def unwatch(self, descriptor: int) -> None:
        """Ends that; call it before the descriptor is closed."""
        if descriptor in self._watched:
            self._watched.discard(descriptor)
            self._poll.unregister(descriptor)
            self._readable = deque(other for other in self._readable if other != descriptor)

    def events(self, timeout: float | None = None) -> Iterator[Event | Readable]:
        """Events as they come, until nothing is traced or watched any more, or `timeout` seconds have passed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (event := self.next_event(None if deadline is None else deadline - time.monotonic())) is not None:
            yield event
            if deadline is not None and time.monotonic() >= deadline:
                self.conclude()
                return

    def next_event(self, timeout: float | None = None) -> Event | Readable | None:
        """Concludes the event before (its thread goes on), then waits for the next.

        Returns None after `timeout` seconds without one, or if nothing is traced or watched.
        """
        self.conclude()
        deadline = None if timeout is None else time.monotonic() + timeout
        wait = 0.0
        while True:
            self._look(wait)
            event = self._next_queued()
            if event is not None:
                return event
            if not self.threads and not self._watched and not self._unannounced:
                return None
            if deadline is None:
                wait = 3600.0
            else:
                wait = deadline - time.monotonic()
                if wait <= 0:
                    return None

    def _next_queued(self) -> Event | Readable | None:
        while self._queue:
            item = self._queue.popleft()
            event = item if isinstance(item, Event) else self._translated(item)
            if event is not None:
                self._current = event
                return event
        if self._readable:
            return Readable(self._readable.popleft())
        return None

    def conclude(self) -> None:
        """Ends the handling of the current event: its thread, and what it made, go on."""
        event, self._current = self._current, None
        thread, self._current_thread = self._current_thread, None
        for started in self._started:
            started.is_reported = False
            self.release(started)
        self._started.clear()
        if isinstance(event, Forked | VForked | Cloned):
            child = self.threads.get(event.child.pid if not isinstance(event, Cloned) else event.new_tid)
            if child is not None:
                child.is_newborn = False
                self.release(child)
        if thread is not None:
            thread.is_reported = False
            self.release(thread)

    def set_signal(self, event: SignalStop, number: int) -> None:
        """Has the thread of the current event go on with another signal, or with none (0)."""
        if event is not self._current or self._current_thread is None:
            raise ValueError("the event is over")
        thread = self._current_thread
        thread.signal = number
        for taken in [*thread.taken]:
            if taken.is_reported and not taken.is_sent:
                thread.taken.remove(taken)
                if number:
                    thread.taken.append(TakenSignal(number, taken.information, True))

    def raise_at(self, event: SignalStop, address: int) -> None:
        """Has the fault of the current event be one of the instruction at `address`, which is the same as that which
        faulted. If its handler returns there, the thread goes on where it was."""
        thread = self._current_thread
        if event is not self._current or thread is None:
            raise ValueError("the event is over")
        with suppress(ProcessLookupError):
            registers = ptrace.registers(thread.tid)
            thread.detour = Detour(address, registers.rip, _PATIENCE)
            if event.address == registers.rip:
                information = event.information[:16] + address.to_bytes(8, "little") + event.information[24:]
                ptrace.set_signal_information(thread.tid, information)
            registers.rip = address
            ptrace.set_registers(thread.tid, registers)

    @staticmethod
    def end_detour(thread: Thread) -> None:
        """If a thread has come back to where its fault was raised: lets it go on where that had happened."""
        detour = thread.detour
        if detour is None:
            return
        detour.patience -= 1
        with suppress(ProcessLookupError):
            registers = ptrace.registers(thread.tid)
            if registers.rip == detour.raised:
                registers.rip = detour.faulted
                ptrace.set_registers(thread.tid, registers)
                thread.detour = None
            elif not detour.patience:
                thread.detour = None

    # Waiting

    def _look(self, seconds: float) -> None:
        """Collects what there is; waits for `seconds` if that is nothing."""
        self.collect()
        if self._queue or self._readable:
            seconds = 0
        self._wait(seconds)
        self.collect()

    def _wait(self, seconds: float) -> None:
        milliseconds = seconds * 1000
        if milliseconds and self._wakeup.descriptor < 0 and self.threads:
            milliseconds = min(milliseconds, FALLBACK_MILLISECONDS)
        if milliseconds and self._unannounced:
            milliseconds = min(milliseconds, _ORPHAN_SECONDS * 1000)
        for descriptor, _ in self._poll.poll(max(0, milliseconds)):
            if descriptor == self._wakeup.descriptor:
                self._wakeup.drain()
            elif descriptor not in self._readable:
                self._readable.append(descriptor)

    def collect(self) -> None:
        """Takes in all stops and ends that are there, without waiting."""
        options = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT | ptrace.WALL
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, options)
            except ChildProcessError:
                break
            if found is None:
                break
            tid = found.si_pid
            if tid in self.threads or procfs.is_traced_by_this_thread(tid):
                self._take(tid)
            elif not self._collect_one_by_one():
                break  # a child of somebody else in this program, which has ended: not ours to reap
        if self._unannounced:
            self._let_orphans_go()

    def _collect_one_by_one(self) -> bool:
        return any([self._take(tid) for tid in [*self.threads]])

    def _take(self, tid: int) -> bool:
        try:
            pid, status = os.waitpid(tid, os.WNOHANG | ptrace.WALL)
        except ChildProcessError:
            return False
        if pid:
            self.note(tid, status)
        return pid != 0

    def wait_for(self, thread: Thread, may_park: bool = False) -> None:
        """Waits until a thread has stopped or is gone; with `may_park` also until it is seen to wait in the kernel
        without known end, or to have ended and to be kept for the other threads' sake (the first thread)."""
        begin = time.monotonic()
        while thread.is_running and not thread.is_gone and not self._take(thread.tid):
            self._wait(0.005)
            if not thread.is_running or self._take(thread.tid):
                return
            state = procfs.task_state(thread.tid)
            if not state:
                self._forget(thread)
            elif may_park and (state == "Z" or (state == "D" and time.monotonic() > begin + _PARK_SECONDS)):
                thread.is_parked = True
                return

    # Stops

    def note(self, tid: int, status: int) -> None:
        """Takes in what waitpid said of a thread."""
        thread = self.threads.get(tid)
        if thread is None and tid in self.targets:  # its first thread had ended before it was attached to; now execve
            thread = self.threads[tid] = Thread(tid, self.targets[tid])
        if thread is None:
            if ptrace.is_stop(status):
                self._unannounced[tid] = (time.monotonic(), status)
            else:
                self._unannounced.pop(tid, None)
            return
        if not ptrace.is_stop(status):
            self._note_end(thread, status)
            return
        thread.is_running = thread.is_parked = False
        thread.stop = status
        thread.signal = 0
        event = ptrace.stop_event(status)
        was_interrupted, thread.is_interrupted = thread.is_interrupted, False  # any stop ends a pending interrupt
        if event == ptrace.EVENT_STOP:
            if was_interrupted:
                self._keep_waiting(thread)
            self.end_detour(thread)
            if not thread.is_in_group_stop:
                thread.is_group_stopped = False
            elif not thread.is_group_stopped:
                thread.is_group_stopped = True
                self._enqueue(thread)
            self.release(thread)
            return
        if event:
            try:
                thread.message = ptrace.event_message(tid)
            except OSError:
                return  # killed meanwhile; its end comes next
            if event in CREATIONS:
                self._expect(thread)
            elif event == ptrace.EVENT_EXEC:
                self._note_exec(thread)
        elif ptrace.stop_signal(status) == ptrace.SYSCALL_STOP:
            self.end_detour(thread)
            self.release(thread)
            return
        elif self._give_back(thread):
            thread.signal = ptrace.stop_signal(status)
            self.release(thread)
            return
        self._enqueue(thread)

    @staticmethod
    def _keep_waiting(thread: Thread) -> None:
        """A few system calls end with EINTR if the thread is only stopped, as by SIGSTOP and SIGCONT; most are begun
        again unless a signal is handled. Those that wait without end are made to be like the others."""
        with suppress(ProcessLookupError):
            registers = ptrace.registers(thread.tid)
            is_endless = _ENDLESS.get(registers.orig_rax)
            if registers.rax == _EINTR and is_endless is not None and is_endless(registers):
                registers.rax = _ERESTARTNOHAND
                ptrace.set_registers(thread.tid, registers)

    def _enqueue(self, thread: Thread) -> None:
        thread.told = thread.stop
        thread.is_queued = True
        self._queue.append(thread)

    def _expect(self, maker: Thread) -> None:
        """Makes known what a thread has made, whether or not that has stopped yet."""
        tid = maker.message
        if tid in self.threads:
            return
        target = maker.target
        process = procfs.process_of(tid)
        if process == tid or ptrace.stop_event(maker.stop) != ptrace.EVENT_CLONE:
            target = target.child(tid, target.memory if self._shares_memory(maker) else AddressSpace(tid))
            self.targets[tid] = target
        newborn = Thread(tid, target, is_newborn=True)
        if maker.detour is not None and target is not maker.target:
            newborn.detour = replace(maker.detour)
        self.threads[tid] = newborn
        if (known := self._unannounced.pop(tid, None)) is not None:
            newborn.is_running = False
            newborn.stop = known[1]

    def _shares_memory(self, maker: Thread) -> bool:
        try:
            registers = ptrace.registers(maker.tid)
        except OSError:
            return False
        flags = 0
        if registers.orig_rax == _SYS_VFORK:
            flags = _CLONE_VM
        elif registers.orig_rax == _SYS_CLONE:
            flags = registers.rdi
        elif registers.orig_rax == _SYS_CLONE3:
            flags = int.from_bytes(maker.target.memory.read(registers.rdi, 8), "little")
        return bool(flags & _CLONE_VM)

    def _let_orphans_go(self) -> None:
        before = time.monotonic() - _ORPHAN_SECONDS
        for tid, (since, _) in [*self._unannounced.items()]:
            if since < before:
                del self._unannounced[tid]
                with suppress(OSError):
                    ptrace.detach(tid)

    def _note_exec(self, thread: Thread) -> None:
        target = thread.target
        for other in [*self.threads.values()]:
            if other.target is target and other is not thread:
                self._forget(other)
        thread.is_interrupted = thread.is_group_stopped = False
        thread.taken.clear()
        thread.detour = None
        target.move_to(AddressSpace(target.pid))

    def _note_end(self, thread: Thread, status: int) -> None:
        self._forget(thread)
        target = thread.target
        if thread.tid != target.pid and self.threads_of(target.memory):
            self._queue.append(ThreadExited(target, thread.tid))
            return
        for other in [*self.threads.values()]:
            if other.target is target:
                self._forget(other)
        target.ended()
        self.targets.pop(target.pid, None)
        if os.WIFEXITED(status):
            self._queue.append(Exited(target, thread.tid, os.WEXITSTATUS(status)))
        else:
            self._queue.append(Killed(target, thread.tid, os.WTERMSIG(status), os.WCOREDUMP(status)))

    def _forget(self, thread: Thread) -> None:
        thread.is_gone = True
        thread.is_running = False
        self.threads.pop(thread.tid, None)

    def _translated(self, thread: Thread) -> Event | None:
        thread.is_queued = False
        event = self._event_of(thread)
        if event is None:
            self.release(thread)
        elif not thread.is_gone:
            thread.is_reported = True
            self._current_thread = thread
        return event

    def _event_of(self, thread: Thread) -> Event | None:
        target, tid = thread.target, thread.tid
        kind = ptrace.stop_event(thread.told)
        if kind in CREATIONS:
            return self._creation(thread, kind)
        if thread.is_gone:
            return None
        if kind == ptrace.EVENT_EXEC:
            return Execed(target, tid)
        if kind == ptrace.EVENT_VFORK_DONE:
            return VForkDone(target, tid)
        if kind == ptrace.EVENT_EXIT:
            return ThreadExiting(target, tid, thread.message)
        if kind == ptrace.EVENT_STOP:
            return GroupStopped(target, tid, ptrace.stop_signal(thread.told)) if thread.is_group_stopped else None
        try:
            information = ptrace.signal_information(tid)
        except ProcessLookupError:
            return None  # killed meanwhile
        thread.signal = ptrace.stop_signal(thread.told)
        return SignalStop(target, tid, thread.signal, information)

    def _creation(self, thread: Thread, kind: int) -> Event | None:
        newborn = self.threads.get(thread.message)
        if newborn is None:
            return None
        self.wait_for(newborn)
        if newborn.is_gone:
            return None
        if newborn.target is thread.target:
            return Cloned(thread.target, thread.tid, newborn.tid)
        made = VForked if kind == ptrace.EVENT_VFORK else Forked
        return made(thread.target, thread.tid, newborn.target)

    @staticmethod
    def _give_back(thread: Thread) -> bool:
        """If signals of the number in whose stop the thread stands were taken from it and raised again: gives it the
        information of the first of them, whichever of the number it is now: they come in order. Returns whether that
        one has been reported."""
        number = ptrace.stop_signal(thread.stop)
        taken = next((taken for taken in thread.taken if taken.is_sent and taken.signal == number), None)
        if taken is None:
            return False
        thread.taken.remove(taken)
        with suppress(ProcessLookupError):
            event = SignalStop(thread.target, thread.tid, number, ptrace.signal_information(thread.tid))
            if number >= _SIGRTMIN and not (event.code == _SI_TKILL and event.sender in (os.getpid(), 0)):
                thread.taken.append(TakenSignal(number, event.information, False, is_sent=True))
            ptrace.set_signal_information(thread.tid, taken.information)
        return taken.is_reported

    # Going on

    def release(self, thread: Thread) -> None:
        """Lets a thread go on if nothing keeps it."""
        if not thread.is_gone and thread.may_go_on:
            self._go_on(thread)

    def pass_signals(self, kept: Container[int]) -> None:
        """Gives threads the signals that they stopped for, without an event, but for those `kept`. For who waits, while
        an event is handled, for threads to get on."""
        for thread in [*self.threads.values()]:
            if thread.is_queued and thread.is_in_signal_stop and thread.told == thread.stop:
                number = ptrace.stop_signal(thread.stop)
                if number not in kept:
                    self.unqueue(thread)
                    thread.signal = number
                    self.release(thread)

    def run_for(self, threads: Sequence[Thread], seconds: float) -> None:
        """Lets some of the threads run that stand still with the others, and stops them again. One that has a signal
        or event to be handled stays: it would lose it."""
        for thread in threads:
            if not thread.has_event:
                self._go_on(thread)
        time.sleep(seconds)
        self.collect()
        self.interrupt(threads)

    def interrupt(self, threads: Sequence[Thread]) -> None:
        """Stops threads, and waits until they stand (or are parked)."""
        for thread in threads:
            if thread.is_running and not (thread.is_gone or thread.is_interrupted):
                with suppress(ProcessLookupError):
                    ptrace.interrupt(thread.tid)
                    thread.is_interrupted = True
        for thread in threads:
            self.wait_for(thread, may_park=True)

    def _go_on(self, thread: Thread) -> None:
        with suppress(ProcessLookupError):  # killed; its end comes next
            self._raise_again(thread)
            if thread.is_in_group_stop:
                ptrace.listen(thread.tid)
            else:
                how = ptrace.PTRACE_CONT if thread.detour is None else ptrace.PTRACE_SYSCALL
                ptrace.resume(thread.tid, thread.signal if thread.is_in_signal_stop else 0, how)
        thread.is_running = True

    @staticmethod
    def _raise_again(thread: Thread) -> None:
        for taken in thread.taken:
            if not taken.is_sent:
                ptrace.send_signal(thread.target.pid, thread.tid, taken.signal)
                taken.is_sent = True

    def let_go(self, target: Target) -> None:
        """Ends the tracing of a target whose threads are stopped, and of the children that nobody heard of yet."""
        for thread in [*self.threads.values()]:
            if thread.target is not target:
                continue
            if thread.is_queued and ptrace.stop_event(thread.told) in CREATIONS:
                newborn = self.threads.get(thread.message)
                if newborn is not None and newborn.target is not target:
                    self.wait_for(newborn)
                    self.let_go(newborn.target)
            if not thread.is_running:
                with suppress(ProcessLookupError):
                    self._let_go(thread)
                self._forget(thread)
        self._queue = deque(item for item in self._queue if item.target is not target)
        if not any(thread.target is target for thread in self.threads.values()):
            self.targets.pop(target.pid, None)
            target.ended()

    def _let_go(self, thread: Thread) -> None:
        self._raise_again(thread)
        while thread.taken and not thread.is_in_signal_stop:
            ptrace.resume(thread.tid)
            _, thread.stop = os.waitpid(thread.tid, ptrace.WALL)
            if not ptrace.is_stop(thread.stop):
                return
            if thread.is_in_signal_stop:
                thread.is_queued = True
                self._give_back(thread)
        if thread.is_in_signal_stop and thread.is_queued:
            thread.signal = ptrace.stop_signal(thread.stop)
        ptrace.detach(thread.tid, thread.signal if thread.is_in_signal_stop else 0)

    def adopt_started(self, target: Target) -> None:
        """Begins with a target that stands at the end of its first execve: it goes on with the next event."""
        thread = Thread(target.pid, target, is_running=False, stop=SIGTRAP | ptrace.EVENT_EXEC << 16, is_reported=True)
        self.targets[target.pid] = target
        self.threads[target.pid] = thread
        self._started.append(thread)

    def unqueue(self, thread: Thread) -> None:
        """Takes a thread's stop out of what is to be reported."""
        thread.is_queued = False
        with suppress(ValueError):
            self._queue.remove(thread)

    def threads_of(self, memory: AddressSpace) -> list[Thread]:
        """The known threads that run in some memory."""
        return [thread for thread in self.threads.values() if thread.target.memory is memory]
