"""Moving threads out of code that is about to change, one instruction at a time.

A thread can be inside without its program counter being there: a signal handler may return to it. Such frames are
looked for on the stack, by the address of the code that ends a handler (rt_sigreturn), and are not touched: the caller
is told, and tries again later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP
from typing import TYPE_CHECKING, Final

from jit.live import procfs, ptrace
from jit.live.errors import MemoryAccessError, TargetGoneError
from jit.live.maps import Mapping
from jit.live.remote import borrowed, syscall
from jit.live.threads import TakenSignal, Thread

if TYPE_CHECKING:
    from jit.live.target import Target

_RETURNERS: Final = (bytes.fromhex("48c7c00f0000000f05"), bytes.fromhex("b80f0000000f05"))
"""mov rax, 15; syscall: as glibc, Go and musl end a signal handler."""
_FRAME_RIP, _FRAME_RSP = 176, 168
"""Offsets in struct rt_sigframe, of registers in its ucontext."""
_STACK_MOST: Final = 1 << 20
_SECONDS: Final = 0.05
"""How long one instruction may take: one that waits (a system call, a page on its way) is given up."""
_SYS_RT_SIGACTION: Final = 13
_SIGACTION_SIZE: Final = 32
_BELOW_RED_ZONE: Final = 1024
_FAULTS: Final = (SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL)
_RESTARTS: Final = frozenset((1 << 64) - code for code in (512, 513, 514, 516))
"""What a system call returns that is begun again: ERESTARTSYS and its kin."""
_PREFIXES: Final = frozenset(b"\x66\x67\xf0\xf2\xf3\x26\x2e\x36\x3e\x64\x65")
_STRING_OPCODES: Final = frozenset(b"\x6c\x6d\x6e\x6f\xa4\xa5\xa6\xa7\xaa\xab\xac\xad\xae\xaf")


@dataclass(frozen=True, slots=True)
class Straggler:
    """A thread that could not be moved out."""

    tid: int
    address: int
    """Where it is inside."""
    reason: str


def step_out(target: Target, ranges: Sequence[tuple[int, int]], steps: int) -> list[Straggler]:
    """Moves every stopped thread that is inside one of the byte ranges [start, end) out of them all, with at most
    `steps` instructions each (one with a repeat prefix is one). Returns those that stayed.

    Signals wait meanwhile, other threads stand still. Stay: who waits in a system call made from inside, whose next
    instruction faults or waits for memory, and who will return inside from a signal handler.
    """
    stragglers = []
    for thread in target.tracer.threads_of(target.memory):
        problem = _moved(thread, ranges, steps) if thread.is_usable else _still(thread, ranges)
        if problem is None and not thread.is_running:
            problem = _in_handler(thread, ranges)
        if problem is not None:
            stragglers.append(problem)
    return stragglers


def _inside(address: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(start <= address < end for start, end in ranges)


def _still(thread: Thread, ranges: Sequence[tuple[int, int]]) -> Straggler | None:
    """For a thread that cannot be moved: it exits, or waits in the kernel for its vfork child."""
    if thread.is_running:
        address = procfs.program_counter(thread.tid)
    elif ptrace.stop_event(thread.stop) == ptrace.EVENT_EXIT:
        return None
    else:
        address = ptrace.registers(thread.tid).rip
    if address is None or _inside(address, ranges):
        return Straggler(thread.tid, address or 0, "waits in the kernel")
    return None


def _moved(thread: Thread, ranges: Sequence[tuple[int, int]], steps: int) -> Straggler | None:
    registers = ptrace.registers(thread.tid)
    if not _inside(registers.rip, ranges):
        return None
    if registers.orig_rax >> 63 == 0 and registers.rax in _RESTARTS:
        return Straggler(thread.tid, registers.rip, "waits in a system call")
    with _ignored_trap_kept(thread), borrowed(thread) as borrow:
        if not _inside(borrow.registers.rip, ranges):  # it was in a restartable sequence
            return None
        faults = sum(1 << number - 1 for number in _FAULTS)
        # A fault whose signal is blocked would be the end of its handler; a step's trap likewise.
        ptrace.set_signal_mask(thread.tid, ~faults & (1 << 64) - 1 | borrow.mask & faults & ~(1 << SIGTRAP - 1))
        for _ in range(steps):
            reason = _step(thread, borrow.registers.rip)
            borrow.registers = ptrace.registers(thread.tid)
            if reason or not _inside(borrow.registers.rip, ranges):
                break
        else:
            reason = f"is still inside after {steps} instructions"
        return Straggler(thread.tid, borrow.registers.rip, reason) if reason else None


def _step(thread: Thread, address: int) -> str:
    """One instruction. Returns why it could not be executed, '' if it was."""
    after = _after_repeated(thread.target, address)
    if after:
        ptrace.set_breakpoint(thread.tid, after)
    try:
        ptrace.resume(thread.tid, 0, ptrace.PTRACE_CONT if after else ptrace.PTRACE_SINGLESTEP)
        status = _waited(thread, None if after else _SECONDS)
        if not status:
            ptrace.interrupt(thread.tid)
            status = _waited(thread, None)
    finally:
        if after and not thread.is_gone:
            ptrace.set_breakpoint(thread.tid, 0)
    thread.stop = status
    event, number = ptrace.stop_event(status), ptrace.stop_signal(status)
    if event == ptrace.EVENT_STOP:
        return "waits in the kernel"
    if event or number == ptrace.SYSCALL_STOP:
        return "makes a thread or process"
    information = ptrace.signal_information(thread.tid)
    if number == SIGTRAP and information[8:12] != bytes(4):
        return ""
    if number in _FAULTS and int.from_bytes(information[8:12], "little", signed=True) > 0:
        return "faults"  # and will again
    thread.taken.append(TakenSignal(number, information, False))
    return ""


def _waited(thread: Thread, seconds: float | None) -> int:
    """Its next wait status; 0 if there is none for so long."""
    deadline = None if seconds is None else time.monotonic() + seconds
    flags = ptrace.WALL if deadline is None else ptrace.WALL | os.WNOHANG
    while True:
        pid, status = os.waitpid(thread.tid, flags)
        if pid == 0:
            if deadline is not None and time.monotonic() > deadline:
                return 0
            os.sched_yield()
            continue
        if not ptrace.is_stop(status) or ptrace.stop_event(status) == ptrace.EVENT_EXIT:
            thread.target.tracer.note(thread.tid, status)
            raise TargetGoneError(f"process {thread.target.pid} has been killed")
        return status


def _after_repeated(target: Target, address: int) -> int:
    """The address after the string instruction with a repeat prefix at `address`; 0 if there is none."""
    try:
        code = target.read(address, 8)
    except MemoryAccessError:
        return 0
    at = 0
    while at < 7 and code[at] in _PREFIXES:
        at += 1
    if not set(code[:at]) & {0xF2, 0xF3}:
        return 0
    if code[at] >> 4 == 4:  # REX
        at += 1
    return address + at + 1 if code[at] in _STRING_OPCODES else 0


@contextmanager
def _ignored_trap_kept(thread: Thread) -> Iterator[None]:
    """If the target ignores SIGTRAP, a step's trap makes the kernel forget that; so it is told again."""
    ignored = int(procfs.status(thread.tid).get("SigIgn", "0"), 16)
    if not ignored & 1 << SIGTRAP - 1:
        yield
        return
    target = thread.target
    buffer = (ptrace.registers(thread.tid).rsp - _BELOW_RED_ZONE) & ~15
    before = target.read(buffer, _SIGACTION_SIZE)
    arguments = (SIGTRAP, 0, buffer, 8)
    syscall(target, _SYS_RT_SIGACTION, arguments)
    action = target.read(buffer, _SIGACTION_SIZE)
    target.write(buffer, before)
    try:
        yield
    finally:
        if not thread.is_gone:
            buffer = (ptrace.registers(thread.tid).rsp - _BELOW_RED_ZONE) & ~15
            before = target.read(buffer, _SIGACTION_SIZE)
            target.write(buffer, action)
            syscall(target, _SYS_RT_SIGACTION, (SIGTRAP, buffer, 0, 8))
            target.write(buffer, before)


def _in_handler(thread: Thread, ranges: Sequence[tuple[int, int]]) -> Straggler | None:
    """Whether a signal handler that the thread is in will return inside."""
    target = thread.target
    returners = _returners(target)
    registers = ptrace.registers(thread.tid)
    mappings = target.maps()
    starts = [registers.rsp]
    if any(returner < registers.rip <= returner + 9 for returner in returners):
        starts = [registers.rsp - 8]  # its frame's first word is popped already
    seen: set[int] = set()
    while starts:
        start = starts.pop()
        mapping = mappings.at(start)
        if mapping is None or start in seen:
            continue
        seen.add(start)
        try:
            stack = target.read(start, min(mapping.end - start, _STACK_MOST))
        except MemoryAccessError:
            continue
        for frame in _frames(stack, returners):
            address = int.from_bytes(stack[frame + _FRAME_RIP :][:8], "little")
            if _inside(address, ranges):
                return Straggler(thread.tid, address, "is in a signal handler that returns there")
            interrupted = int.from_bytes(stack[frame + _FRAME_RSP :][:8], "little")
            if not start <= interrupted < start + len(stack):
                starts.append(interrupted)
    return None


def _frames(stack: bytes, returners: Sequence[int]) -> Iterator[int]:
    for returner in returners:
        word = returner.to_bytes(8, "little")
        at = stack.find(word)
        while at >= 0:
            if at + _FRAME_RIP + 8 <= len(stack):
                yield at
            at = stack.find(word, at + 1)


def _returners(target: Target) -> list[int]:
    """Where code ends signal handlers, in the files that are mapped. Looked for once in each."""
    known = target.memory.returners
    found: list[int] = []
    for mapping in target.maps():
        if not mapping.executable or not (mapping.inode or mapping.path == "[vdso]"):
            continue
        if mapping not in known:
            known[mapping] = _search(target, mapping)
        found += known[mapping]
    return found


def _search(target: Target, mapping: Mapping) -> list[int]:
    try:
        code = target.read(mapping.start, mapping.size)
    except MemoryAccessError:
        return []
    found = []
    for pattern in _RETURNERS:
        at = code.find(pattern)
        while at >= 0:
            found.append(mapping.start + at)
            at = code.find(pattern, at + 1)
    return found
