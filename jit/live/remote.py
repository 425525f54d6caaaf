"""System calls made by a thread of the target for us.

The thread stands in some stop. It is brought to the one that PTRACE_INTERRUPT makes, where nothing is half done: if it
was in a system call, that has returned one of the kernel's ERESTART codes, and whether it is begun again is decided
from the registers when the thread goes on. So other registers are put in, the call is made with all signals blocked,
and once back in such a stop the first registers are put in again, the codes among them: the kernel restarts the
call, with the rest of its time, as it would have done.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jit.live import ptrace
from jit.live.errors import MemoryAccessError, RemoteCallError, TargetBusyError, TargetGoneError
from jit.live.threads import TakenSignal, Thread

if TYPE_CHECKING:
    from jit.live.target import Target

_SYSCALL: Final = b"\x0f\x05"
_NONE: Final = (1 << 64) - 1
"""orig_rax of a thread that is in no system call."""
_ERRNO_MOST: Final = 4095
_ALL_SIGNALS: Final = (1 << 64) - 1
_RSEQ_CS_OFFSET: Final = 8
_SYS_PIDFD_GETFD: Final = 438

_libc = ctypes.CDLL(None, use_errno=True)


def take_descriptor(pidfd: int, number: int) -> int:
    """A copy, in this process, of a descriptor of the process that `pidfd` stands for (close-on-exec).

    Raises OSError.
    """
    descriptor = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
    if descriptor < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"descriptor {number} of the process cannot be taken: {os.strerror(errno)}")
    return int(descriptor)


def syscall(target: Target, number: int, arguments: Sequence[int]) -> int:
    """Makes a system call in a target all of whose threads are stopped. Returns its result.

    Raises RemoteCallError if it fails, TargetBusyError if no thread can do it now.
    """
    thread = _choose(target)
    instruction = _instruction(target)
    with borrowed(thread) as borrow:
        changed = borrow.registers.copy()
        changed.rip, changed.rax, changed.orig_rax = instruction, number, _NONE
        padded = [value & _NONE for value in (*arguments, 0, 0, 0, 0, 0, 0)][:6]
        changed.rdi, changed.rsi, changed.rdx, changed.r10, changed.r8, changed.r9 = padded
        ptrace.set_registers(thread.tid, changed)
        for _ in range(2):  # to the call's beginning, and to its end
            _go_to(thread, ptrace.PTRACE_SYSCALL, ptrace.SYSCALL_STOP)
        result = ptrace.registers(thread.tid).rax
    if result > _NONE - _ERRNO_MOST:
        errno = _NONE - result + 1
        raise RemoteCallError(number, errno, os.strerror(errno))
    return result


def _choose(target: Target) -> Thread:
    """The thread that is the least trouble: in no signal's stop if possible."""
    usable = [thread for thread in target.tracer.threads_of(target.memory) if thread.is_usable]
    if not usable:
        raise TargetBusyError(f"process {target.pid}: no thread can make a system call now")
    own = [thread for thread in usable if thread.target is target] or usable
    return min(own, key=lambda thread: (thread.is_in_signal_stop, thread.is_queued or thread.is_reported))


@dataclass(slots=True)
class Borrow:
    """What a thread that is used for us had."""

    registers: ptrace.Registers
    """Those it will have again; may be replaced."""
    mask: int
    """The signals that it blocks."""


@contextmanager
def borrowed(thread: Thread) -> Iterator[Borrow]:
    """A stopped thread may be made to run inside, all its signals blocked. Afterwards it has its registers and signals
    again, and is as if interrupted in the place where it was."""
    _come_to_rest(thread)
    _leave_restartable_sequence(thread)
    tid = thread.tid
    borrow = Borrow(ptrace.registers(tid), ptrace.signal_mask(tid))
    ptrace.set_signal_mask(tid, _ALL_SIGNALS)
    try:
        yield borrow
    finally:
        if not thread.is_gone:
            if not thread.is_at_rest:
                _interrupt(thread)
            ptrace.set_registers(tid, borrow.registers)
            ptrace.set_signal_mask(tid, borrow.mask)


def _come_to_rest(thread: Thread) -> None:
    """To the stop of an interrupted thread. A signal in whose stop it stood is remembered."""
    if thread.is_at_rest:
        return
    if thread.is_in_signal_stop:
        number = ptrace.stop_signal(thread.stop) if thread.is_queued else thread.signal
        if number:
            thread.taken.append(TakenSignal(number, ptrace.signal_information(thread.tid), not thread.is_queued))
        if thread.is_queued:
            thread.target.tracer.unqueue(thread)
    _interrupt(thread)


def _interrupt(thread: Thread) -> None:
    ptrace.interrupt(thread.tid)
    thread.is_interrupted = True
    _go_to(thread, ptrace.PTRACE_CONT, None)


def _go_to(thread: Thread, how: int, signal_wanted: int | None) -> None:
    """Lets the thread run to a system call's stop, or with None to that of an interrupted thread."""
    while True:
        ptrace.resume(thread.tid, 0, how)
        _, status = os.waitpid(thread.tid, ptrace.WALL)
        if not ptrace.is_stop(status) or ptrace.stop_event(status) == ptrace.EVENT_EXIT:
            thread.target.tracer.note(thread.tid, status)
            raise TargetGoneError(f"process {thread.target.pid} has been killed")
        thread.stop = status
        event, number = ptrace.stop_event(status), ptrace.stop_signal(status)
        if event == ptrace.EVENT_STOP:
            thread.is_interrupted = False
            if signal_wanted is None:
                return
        elif number == signal_wanted:
            return
        elif not event and number != ptrace.SYSCALL_STOP:
            # Only SIGSTOP cannot be blocked. It comes again once the thread is on its way.
            thread.taken.append(TakenSignal(number, ptrace.signal_information(thread.tid), False))


def _leave_restartable_sequence(thread: Thread) -> None:
    """Aborts a restartable sequence (rseq) that the thread is in, as the kernel does with every thread that was
    stopped, but may not see any more once the registers are others."""
    area = ptrace.rseq_area(thread.tid)
    if not area:
        return
    memory = thread.target.memory
    try:
        descriptor = int.from_bytes(memory.read(area + _RSEQ_CS_OFFSET, 8), "little")
        if not descriptor:
            return
        fields = memory.read(descriptor, 32)
    except MemoryAccessError:
        return
    start, length, abort = (int.from_bytes(fields[at : at + 8], "little") for at in (8, 16, 24))
    registers = ptrace.registers(thread.tid)
    if start <= registers.rip < start + length:
        registers.rip = abort
        ptrace.set_registers(thread.tid, registers)
        memory.write(area + _RSEQ_CS_OFFSET, bytes(8))


def _instruction(target: Target) -> int:
    """Address of a `syscall` instruction: two such bytes in any code, the vdso's as a rule."""
    memory = target.memory
    if memory.syscall_instruction and _is_syscall(target, memory.syscall_instruction):
        return memory.syscall_instruction
    code = [mapping for mapping in target.maps() if mapping.executable and mapping.path != "[vsyscall]"]
    for mapping in sorted(code, key=lambda mapping: mapping.path != "[vdso]"):
        try:
            found = target.read(mapping.start, mapping.size).find(_SYSCALL)
        except MemoryAccessError:
            continue
        if found >= 0:
            memory.syscall_instruction = mapping.start + found
            return memory.syscall_instruction
    raise TargetBusyError(f"process {target.pid}: no syscall instruction in its code")


def _is_syscall(target: Target, address: int) -> bool:
    try:
        return target.read(address, 2) == _SYSCALL
    except MemoryAccessError:
        return False
