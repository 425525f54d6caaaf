"""Threads leave code that is about to change.

Threads that are inside are let run for some microseconds, again and again until they are found outside, while the
others stand still: nothing is done that would be left undone if this program were killed. (A single step ends in a
SIGTRAP, which kills the target if the tracer has died meanwhile.)

A thread can be inside without its program counter being there: a signal handler may return to it. Such frames are
looked for on the stack, by the address of the code that ends a handler (rt_sigreturn), and are not touched: the caller
is told, and tries again later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jit.live import procfs, ptrace
from jit.live.errors import MemoryAccessError
from jit.live.maps import Mapping, Mappings
from jit.live.remote import RESTARTS
from jit.live.threads import Thread

if TYPE_CHECKING:
    from jit.live.target import Target

_RETURNERS: Final = (bytes.fromhex("48c7c00f0000000f05"), bytes.fromhex("b80f0000000f05"))
"""mov rax, 15; syscall: as glibc, Go and musl end a signal handler."""
_FRAME_RIP, _FRAME_RSP = 176, 168
"""Offsets in struct rt_sigframe, of registers in its ucontext."""
_STACK_MOST: Final = 1 << 20
_PAUSES: Final = (*(20e-6,) * 11, 200e-6, 2e-3)
"""Seconds that threads are let run, in turn: mostly short, for a thread that is nearly always at one place inside
(behind a `pause` that a virtual machine intercepts) needs many tries; sometimes long enough to be given a processor. A
prime number of them: each thread comes to each."""
_TOGETHER: Final = os.cpu_count() or 1
"""How many are let run at a time: each is to get a processor at once."""


@dataclass(frozen=True, slots=True)
class Straggler:
    """A thread that is still inside."""

    tid: int
    address: int
    """Where it is inside."""
    reason: str


def leave(target: Target, ranges: Sequence[tuple[int, int]], seconds: float) -> list[Straggler]:
    """Has every stopped thread that is inside one of the byte ranges [start, end) leave them all, within `seconds`.
    Returns those that did not.

    Those stay that wait in a system call made from inside, or for a page, that have
    a signal or event to be handled, that will return inside from a signal handler, and that go round and round inside.
    """
    tracer = target.tracer
    deadline = time.monotonic() + seconds
    turn = 0
    while True:
        threads = tracer.threads_of(target.memory)  # those that run may make others
        found = {thread: problem for thread in threads if (problem := _inside(thread, ranges))}
        movable = [thread for thread, problem in found.items() if not problem.reason]
        if not movable or time.monotonic() > deadline:
            break
        while movable and time.monotonic() < deadline:
            some, movable = movable[:_TOGETHER], movable[_TOGETHER:]
            tracer.run_for(some, _PAUSES[turn % len(_PAUSES)])
            movable += [thread for thread in some if (problem := _inside(thread, ranges)) and not problem.reason]
            turn += 1
    stragglers = [
        replace(problem, reason=problem.reason or "goes round inside, or was given no time")
        for problem in found.values()
    ]
    mappings = target.maps()
    returners = _returners(target, mappings)
    for thread in threads:
        if thread not in found and not (thread.is_running or thread.is_gone or thread.is_exiting):
            problem = _in_handler(thread, ranges, mappings, returners)
            if problem is not None:
                stragglers.append(problem)
    return stragglers


def _inside(thread: Thread, ranges: Sequence[tuple[int, int]]) -> Straggler | None:
    """Where inside the thread is, with the reason if it cannot be let run."""
    if thread.is_gone or thread.is_exiting or (thread.is_running and procfs.task_state(thread.tid) == "Z"):
        return None
    reason = ""
    if thread.is_running:
        address = procfs.program_counter(thread.tid)
        reason = "waits in the kernel"
    else:
        registers = ptrace.registers(thread.tid)
        address = registers.rip
        if registers.orig_rax >> 63 == 0 and registers.rax in RESTARTS:
            reason = "waits in a system call"
        elif thread.has_event:
            reason = "has a signal or event to be handled"
        elif thread.is_in_group_stop:
            reason = "is stopped by job control"
    if address is not None and not _is_in(address, ranges):
        return None
    return Straggler(thread.tid, address or 0, reason)


def _is_in(address: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(start <= address < end for start, end in ranges)


def _in_handler(
    thread: Thread, ranges: Sequence[tuple[int, int]], mappings: Mappings, returners: Sequence[int]
) -> Straggler | None:
    """Whether a signal handler that the thread is in will return inside."""
    registers = ptrace.registers(thread.tid)
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
            stack = thread.target.read(start, min(mapping.end - start, _STACK_MOST))
        except MemoryAccessError:
            continue
        for frame in _frames(stack, returners):
            address = int.from_bytes(stack[frame + _FRAME_RIP :][:8], "little")
            if _is_in(address, ranges):
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


def _returners(target: Target, mappings: Mappings) -> list[int]:
    """Where code ends signal handlers, in the files that are mapped. Looked for once in each."""
    known = target.memory.returners
    found: list[int] = []
    for mapping in mappings:
        if not mapping.executable or not (mapping.inode or mapping.path == "[vdso]"):
            continue
        if mapping not in known:
            known[mapping] = _search(target, mapping)
        found += known[mapping]
    return found


def _search(target: Target, mapping: Mapping) -> list[int]:
    try:
        code = _from_file(target, mapping) or target.read(mapping.start, mapping.size)
    except MemoryAccessError:
        return []
    found = []
    for pattern in _RETURNERS:
        at = code.find(pattern)
        while at >= 0:
            found.append(mapping.start + at)
            at = code.find(pattern, at + 1)
    return found


def _from_file(target: Target, mapping: Mapping) -> bytes:
    """The bytes that a mapping has of its file: read through the target, they would all become resident in it. b'' if
    the file cannot be had."""
    if not mapping.inode:
        return b""
    for path in (f"map_files/{mapping.start:x}-{mapping.end:x}", f"root{mapping.path}"):
        try:
            with Path(f"/proc/{target.pid}/{path}").open("rb") as file:
                if os.fstat(file.fileno()).st_ino == mapping.inode:
                    return os.pread(file.fileno(), mapping.size, mapping.offset)
        except OSError:
            continue
    return b""
