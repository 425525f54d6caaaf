"""System calls made by a thread of the target for us.

The thread stands in the stop that PTRACE_INTERRUPT makes, where nothing is half done: if it was in a system call, that
has returned one of the kernel's ERESTART codes, and whether it is begun again is decided from the registers when the
thread goes on. So other registers are put in, the call is made with all signals blocked, and the first registers are
put in again, the codes among them: the kernel restarts the call, with the rest of its time, as it would have done.

This program may be killed at any moment between. So the call is made by a few instructions, in bytes of zeros at the
end of some code (the vdso's as a rule), which afterwards unblock the signals, load the registers and jump back by
themselves. At each step the thread goes on correctly if it is left alone.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from jit.live import procfs, ptrace
from jit.live.errors import MemoryAccessError, RemoteCallError, TargetBusyError, TargetGoneError
from jit.live.threads import TakenSignal, Thread

if TYPE_CHECKING:
    from jit.live.target import Target

_NONE: Final = (1 << 64) - 1
"""orig_rax of a thread that is in no system call."""
_ERRNO_MOST: Final = 4095
ERESTART_RESTARTBLOCK: Final = (1 << 64) - 516
RESTARTS: Final = frozenset(((1 << 64) - 512, (1 << 64) - 513, (1 << 64) - 514, ERESTART_RESTARTBLOCK))
"""What a system call returns that is to be begun again: ERESTARTSYS and its kin."""
_SYS_RT_SIGPROCMASK, _SYS_RESTART_SYSCALL = 14, 219
_SIG_SETMASK: Final = 2
_SYSCALL: Final = b"\x0f\x05"
_JUMP: Final = bytes.fromhex("ff2500000000")
"""jmp [rip]: to the address that follows."""
_CODE_SIZE: Final = 2 * len(_SYSCALL) + 14 * 10 + len(_JUMP) + 16
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
    thread = choose(target)
    place = _place(target)
    come_to_rest(thread)
    _leave_restartable_sequence(thread)
    with _filter_suspended(thread):
        result = _call(thread, place, number, arguments)
    if result > _NONE - _ERRNO_MOST:
        errno = _NONE - result + 1
        raise RemoteCallError(number, errno, os.strerror(errno))
    return result


def _call(thread: Thread, place: int, number: int, arguments: Sequence[int]) -> int:
    memory = thread.target.memory
    saved = ptrace.registers(thread.tid)
    mask = ptrace.signal_mask(thread.tid)
    memory.write(place, _code(place, saved, mask))
    changed = saved.copy()
    changed.rip, changed.rax, changed.orig_rax = place, number, _NONE
    padded = [value & _NONE for value in (*arguments, 0, 0, 0, 0, 0, 0)][:6]
    changed.rdi, changed.rsi, changed.rdx, changed.r10, changed.r8, changed.r9 = padded
    ptrace.set_registers(thread.tid, changed)
    ptrace.set_signal_mask(thread.tid, _ALL_SIGNALS)
    for _ in range(2):  # to the call's beginning, and to its end
        _go_to(thread, ptrace.PTRACE_SYSCALL, ptrace.SYSCALL_STOP)
    result = ptrace.registers(thread.tid).rax
    _interrupt(thread)
    ptrace.set_signal_mask(thread.tid, mask)
    ptrace.set_registers(thread.tid, saved)
    memory.write(place, bytes(_CODE_SIZE))
    return result


@contextmanager
def _filter_suspended(thread: Thread) -> Iterator[None]:
    """A seccomp filter, which may end the target for a system call that it does not know, does not see ours."""
    if procfs.status(thread.tid).get("Seccomp", "0") == "0":
        yield
        return
    try:
        ptrace.set_options(thread.tid, ptrace.OPTIONS | ptrace.O_SUSPEND_SECCOMP)
    except PermissionError:
        raise TargetBusyError(
            f"process {thread.target.pid}: its system calls are filtered (seccomp), and only root can make others in it"
        ) from None
    try:
        yield
    finally:
        if not thread.is_gone:
            ptrace.set_options(thread.tid, ptrace.OPTIONS)


def _code(place: int, saved: ptrace.Registers, mask: int) -> bytes:
    """The call, then, should the thread be left alone: rt_sigprocmask(SIG_SETMASK, &mask, 0, 8), the registers that
    calls and their arguments changed, and a jump to where it was. No instruction touches the flags."""
    rip, rax = saved.rip, saved.rax
    if saved.orig_rax >> 63 == 0 and rax in RESTARTS:
        rip -= 2
        rax = _SYS_RESTART_SYSCALL if rax == ERESTART_RESTARTBLOCK else saved.orig_rax
    loads = (
        ("48b8", _SYS_RT_SIGPROCMASK), ("48bf", _SIG_SETMASK), ("48be", place + _CODE_SIZE - 8), ("48ba", 0),
        ("49ba", 8),
    ), (
        ("48b8", rax), ("48b9", saved.rcx), ("48ba", saved.rdx), ("48be", saved.rsi), ("48bf", saved.rdi),
        ("49b8", saved.r8), ("49b9", saved.r9), ("49ba", saved.r10), ("49bb", saved.r11),
    )  # fmt: skip
    unblock, restore = (
        b"".join(bytes.fromhex(code) + value.to_bytes(8, "little") for code, value in row) for row in loads
    )
    return _SYSCALL + unblock + _SYSCALL + restore + _JUMP + struct.pack("<QQ", rip, mask)


def choose(target: Target) -> Thread:
    """The thread that is the least trouble: in no signal's stop if possible."""
    threads = target.tracer.threads_of(target.memory)
    usable = [thread for thread in threads if thread.is_usable]
    if all(thread.is_exiting for thread in threads):
        raise TargetGoneError(f"process {target.pid} is at its end")
    if not usable:
        raise TargetBusyError(f"process {target.pid}: no thread can make a system call now")
    own = [thread for thread in usable if thread.target is target] or usable
    return min(own, key=lambda thread: (thread.is_in_signal_stop, thread.is_queued or thread.is_reported))


def come_to_rest(thread: Thread) -> None:
    """To the stop of an interrupted thread. A signal in whose stop it stood is raised again first, so that it cannot be
    lost; when it arrives, it gets the information that this one has."""
    if thread.is_at_rest:
        return
    tid = thread.tid
    number = 0
    if thread.is_in_signal_stop:
        number = ptrace.stop_signal(thread.stop) if thread.is_queued else thread.signal
    if not number:
        _interrupt(thread)
        thread.target.tracer.end_detour(thread)
        return
    thread.taken.insert(0, TakenSignal(number, ptrace.signal_information(tid), not thread.is_queued, is_sent=True))
    if thread.is_queued:
        thread.target.tracer.unqueue(thread)
    ptrace.send_signal(thread.target.pid, tid, number)
    _interrupt(thread)


def _interrupt(thread: Thread) -> None:
    _go_to(thread, ptrace.PTRACE_CONT, None)


def _go_to(thread: Thread, how: int, signal_wanted: int | None) -> None:
    """Lets the thread run to a system call's stop, or with None to that of an interrupted thread."""
    while True:
        if signal_wanted is None:
            ptrace.interrupt(thread.tid)
        ptrace.resume(thread.tid, 0, how)
        _, status = os.waitpid(thread.tid, ptrace.WALL)
        if not ptrace.is_stop(status) or ptrace.stop_event(status) == ptrace.EVENT_EXIT:
            thread.target.tracer.note(thread.tid, status)
            raise TargetGoneError(f"process {thread.target.pid} has been killed")
        thread.stop = status
        thread.is_interrupted = False
        event, number = ptrace.stop_event(status), ptrace.stop_signal(status)
        if event == ptrace.EVENT_STOP:
            if signal_wanted is None:
                return
        elif number == signal_wanted:
            return
        elif not event and number != ptrace.SYSCALL_STOP:
            # All are blocked but SIGSTOP. It is raised again once the thread is on its way.
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


def _place(target: Target) -> int:
    """Where zeros at the end of some code have room for ours: the vdso as a rule."""
    memory = target.memory
    if memory.call_place:
        return memory.call_place
    code = [mapping for mapping in target.maps() if mapping.executable and mapping.path != "[vsyscall]"]
    for mapping in sorted(code, key=lambda mapping: mapping.path != "[vdso]"):
        start = (mapping.end - _CODE_SIZE) & -16
        try:
            if not any(target.read(start, mapping.end - start)):
                memory.call_place = start
                return start
        except MemoryAccessError:
            continue
    raise TargetBusyError(f"process {target.pid}: its code has no room for a system call of ours")
