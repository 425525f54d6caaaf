"""The ptrace requests that live mode uses, as functions that raise OSError, and the words of its wait statuses.

Threads are seized (PTRACE_SEIZE): they can be interrupted and can wait in job control's stops as if nobody
traced them. PTRACE_O_EXITKILL is not among the options: if the tracer dies, the kernel lets every thread go on.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

PTRACE_CONT: Final = 7
PTRACE_DETACH: Final = 17
PTRACE_SYSCALL: Final = 24
PTRACE_SETOPTIONS: Final = 0x4200
PTRACE_GETEVENTMSG: Final = 0x4201
PTRACE_GETSIGINFO: Final = 0x4202
PTRACE_SETSIGINFO: Final = 0x4203
PTRACE_GETREGSET: Final = 0x4204
PTRACE_SETREGSET: Final = 0x4205
PTRACE_SEIZE: Final = 0x4206
PTRACE_INTERRUPT: Final = 0x4207
PTRACE_LISTEN: Final = 0x4208
PTRACE_GETSIGMASK: Final = 0x420A
PTRACE_SETSIGMASK: Final = 0x420B
PTRACE_GET_RSEQ_CONFIGURATION: Final = 0x420F

EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_VFORK_DONE, EVENT_EXIT = 1, 2, 3, 4, 5, 6
EVENT_STOP: Final = 128

_O_TRACESYSGOOD: Final = 1
OPTIONS: Final = _O_TRACESYSGOOD | sum(
    1 << event for event in (EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_VFORK_DONE, EVENT_EXIT)
)
"""Children, threads, execve and exits stop and tell; a system call's stop is not mistaken for a SIGTRAP."""
O_SUSPEND_SECCOMP: Final = 1 << 21

SYSCALL_STOP: Final = 5 | 0x80
"""The stop signal of a system call's beginning and end."""
WALL: Final = 0x4000_0000
"""Wait for children of any kind (__WALL)."""

_NT_PRSTATUS: Final = 1
_NT_X86_XSTATE: Final = 0x202
_SIGINFO_SIZE: Final = 128
_XSTATE_MOST: Final = 16384

_libc = ctypes.CDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_SYS_TGKILL: Final = 234


class _IoVector(ctypes.Structure):
    base: int | None
    length: int
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


_NAMES: Final = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax",
    "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
)  # fmt: skip


class Registers(ctypes.Structure):
    """The general registers of a stopped thread (struct user_regs_struct): unsigned 64-bit numbers, to be changed
    at will and given back with `Target.set_registers`."""

    r15: int
    r14: int
    r13: int
    r12: int
    rbp: int
    rbx: int
    r11: int
    r10: int
    r9: int
    r8: int
    rax: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    orig_rax: int
    rip: int
    cs: int
    eflags: int
    rsp: int
    ss: int
    fs_base: int
    gs_base: int
    ds: int
    es: int
    fs: int
    gs: int
    _fields_ = [(name, ctypes.c_uint64) for name in _NAMES]

    def copy(self) -> Registers:
        """An independent copy."""
        return Registers.from_buffer_copy(self)


_REGISTERS_SIZE: Final = ctypes.sizeof(Registers)


def _request(request: int, tid: int, address: int | None = None, data: object = None) -> int:
    result = _ptrace(request, tid, address, data)
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return int(result)


def seize(tid: int) -> None:
    """Begins to trace a thread, which goes on running."""
    _request(PTRACE_SEIZE, tid, None, OPTIONS)


def set_options(tid: int, options: int) -> None:
    """Replaces the options of a stopped thread."""
    _request(PTRACE_SETOPTIONS, tid, None, options)


def interrupt(tid: int) -> None:
    """Makes a thread stop soon, with `EVENT_STOP`."""
    _request(PTRACE_INTERRUPT, tid)


def resume(tid: int, signal: int = 0, how: int = PTRACE_CONT) -> None:
    """Lets a stopped thread run, with a signal if it stands in that signal's stop. With
    PTRACE_SYSCALL for `how` it stops at the next begin or end of a system call."""
    _request(how, tid, None, signal)


def listen(tid: int) -> None:
    """Leaves a thread in its group-stop, to be told when that ends."""
    _request(PTRACE_LISTEN, tid)


def detach(tid: int, signal: int = 0) -> None:
    """Ends the tracing of a stopped thread, which goes on."""
    _request(PTRACE_DETACH, tid, None, signal)


def event_message(tid: int) -> int:
    """The number that belongs to the event: a new process, a former thread, an exit status."""
    message = ctypes.c_ulong()
    _request(PTRACE_GETEVENTMSG, tid, None, ctypes.byref(message))
    return message.value


def signal_information(tid: int) -> bytes:
    """The siginfo_t of the signal whose stop the thread stands in."""
    buffer = ctypes.create_string_buffer(_SIGINFO_SIZE)
    _request(PTRACE_GETSIGINFO, tid, None, buffer)
    return buffer.raw


def set_signal_information(tid: int, information: bytes) -> None:
    """Replaces the siginfo_t that the thread will see."""
    _request(PTRACE_SETSIGINFO, tid, None, ctypes.create_string_buffer(information, _SIGINFO_SIZE))


def signal_mask(tid: int) -> int:
    """The signals that the thread blocks: bit n - 1 for signal n."""
    mask = ctypes.c_uint64()
    _request(PTRACE_GETSIGMASK, tid, 8, ctypes.byref(mask))
    return mask.value


def set_signal_mask(tid: int, mask: int) -> None:
    """Replaces the signals that the thread blocks."""
    _request(PTRACE_SETSIGMASK, tid, 8, ctypes.byref(ctypes.c_uint64(mask)))


def registers(tid: int) -> Registers:
    """The general registers of a stopped thread. Raises OSError (EMEDIUMTYPE) for one in 32-bit mode."""
    found = Registers()
    vector = _IoVector(ctypes.addressof(found), _REGISTERS_SIZE)
    _request(PTRACE_GETREGSET, tid, _NT_PRSTATUS, ctypes.byref(vector))
    return found


def set_registers(tid: int, values: Registers) -> None:
    """Replaces the general registers of a stopped thread."""
    vector = _IoVector(ctypes.addressof(values), _REGISTERS_SIZE)
    _request(PTRACE_SETREGSET, tid, _NT_PRSTATUS, ctypes.byref(vector))


def extended_state(tid: int) -> bytes:
    """x87, vector and mask registers of a stopped thread, in XSAVE's format."""
    buffer = ctypes.create_string_buffer(_XSTATE_MOST)
    vector = _IoVector(ctypes.addressof(buffer), _XSTATE_MOST)
    _request(PTRACE_GETREGSET, tid, _NT_X86_XSTATE, ctypes.byref(vector))
    return buffer.raw[: vector.length]


def set_extended_state(tid: int, state: bytes) -> None:
    """Replaces what `extended_state` gave."""
    buffer = ctypes.create_string_buffer(state, len(state))
    vector = _IoVector(ctypes.addressof(buffer), len(state))
    _request(PTRACE_SETREGSET, tid, _NT_X86_XSTATE, ctypes.byref(vector))


def rseq_area(tid: int) -> int:
    """Address of the thread's struct rseq; 0 where it has none, or the kernel does not say."""
    configuration = (ctypes.c_uint64 * 3)()
    try:
        _request(PTRACE_GET_RSEQ_CONFIGURATION, tid, ctypes.sizeof(configuration), configuration)
    except OSError:
        return 0
    return int(configuration[0])


def send_signal(pid: int, tid: int, signal: int) -> None:
    """Sends a signal to one thread of a process."""
    if _syscall(_SYS_TGKILL, pid, tid, signal) < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def is_stop(status: int) -> bool:
    """Whether a wait status says that the thread stopped (and not that it ended)."""
    return status & 0xFF == 0x7F


def stop_signal(status: int) -> int:
    """The signal of a stop, `SYSCALL_STOP` at a system call."""
    return status >> 8 & 0xFF


def stop_event(status: int) -> int:
    """The EVENT_ number of a stop; 0 where a signal or system call stopped the thread."""
    return status >> 16
