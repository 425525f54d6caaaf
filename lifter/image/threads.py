"""Whether a program can run its own code in several threads at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from lifter.decode import decode_run
from lifter.image.scan import direct_branches
from lifter.image.types import Image, Kind
from lifter.instruction import Flow, Instruction
from lifter.registers import RDI, gpr

_CLONE: Final = frozenset(("clone", "__clone", "clone3", "__clone3"))
"""Functions that start one on a stack that they are given."""
_STARTERS: Final = _CLONE | frozenset(
    (
        "pthread_create", "thrd_create", "__clone_internal",
        "g_thread_new", "g_thread_try_new", "timer_create", "aio_read", "aio_write", "lio_listio", "mq_notify",
        "uv_thread_create", "uv_queue_work", "__kmpc_fork_call", "__kmpc_fork_teams", "SDL_CreateThread",
    )
)  # fmt: skip
"""Functions that start a thread which goes on in the program's code. A process made by fork does not count, although
it shares the counters: shells and interpreters fork, seldom go on in both, and would pay several times their time."""
_PREFIXES: Final = ("GOMP_parallel", "GOMP_task", "_ZNSt6thread", "_ZN3tbb", "g_thread_pool_")
_ANY: Final = "syscall"
"""The function that makes any system call (a C++ library linked into the program waits with it for other threads)."""
_BEFORE_CALL: Final = 48
"""Bytes before a call of it in which its number is looked for."""
_NUMBER: Final = re.compile(rb"(?=\xbf(....))", re.DOTALL)
"""mov edi, number"""
_CLONES: Final = (56, 435)
"""The numbers of clone and clone3."""
_SYSCALLS: Final = re.compile(rb"(?:\xb8|\xc7\xc0)(?:\x38|\xb3\x01)\x00{2,3}.{0,64}?\x0f\x05", re.DOTALL)
"""clone or clone3 called in place: its number into EAX, and a syscall soon after."""


def can_start_threads(image: Image) -> bool:
    """Whether counters must be exact where several threads add to them. True when in doubt.

    A library is always in doubt, since its callers may have threads, and so is a static file without symbols.
    A dynamic program is judged by what it imports, and by the numbers that it passes to `syscall`: threads that a
    library starts on its own, without one of the usual thread or parallel-loop functions being imported by the
    program, are not seen.
    """
    if image.kind is Kind.LIBRARY or image.is_go:
        return True
    if not image.is_static:
        return any(_starts(name) for name in image.imports) or (_ANY in image.imports and not _only_others(image))
    names = [
        name
        for function in image.functions
        if function.source in ("symbol", "dynamic-symbol")
        for name in (function.name, *function.aliases)
    ]
    if not names or any(_starts(name) or name == _ANY for name in names):
        return True
    return any(_SYSCALLS.search(segment.data) for segment in image.segments if segment.executable)


def may_share_stacks(image: Image) -> bool:
    """Whether a program starts threads on stacks of its choice, perhaps on a part of the main thread's: it calls
    `clone` itself, or `syscall` with its number. (Not known of a static one, whose C library does.)"""
    if image.is_static or image.kind is Kind.LIBRARY:
        return False
    if not _CLONE.isdisjoint(image.imports):
        return True
    return _ANY in image.imports and any(not numbers.isdisjoint(_CLONES) for numbers in _numbers_passed(image))


def _starts(name: str) -> bool:
    return name in _STARTERS or name.startswith(_PREFIXES)


def _only_others(image: Image) -> bool:
    """Whether each call of `syscall` has a number before it, and none is that of clone or clone3."""
    if _ANY not in image.plt.values() or sum(name == _ANY for name in image.got.values()) > 1:
        return False
    return all(numbers and numbers.isdisjoint(_CLONES) for numbers in _numbers_passed(image))


def _numbers_passed(image: Image) -> Iterator[set[int]]:
    """For each direct call of `syscall`, the numbers that it may be given, as far as they stand before it."""
    branches = direct_branches(image.segments)
    for stub in [address for address, name in image.plt.items() if name == _ANY]:
        for site in branches.sites(stub, stub + 1).site.tolist():
            segment = next(segment for segment in image.segments if segment.address <= site < segment.end)
            at = site - segment.address
            yield _numbers(segment.data[max(0, at - _BEFORE_CALL) : at])


def _numbers(code: bytes) -> set[int]:
    """What EDI may be set to in `code`, as control runs straight on to its end."""
    return {
        int.from_bytes(found[1], "little") for found in _NUMBER.finditer(code) if _keeps_rdi(code[found.start() + 5 :])
    }


def _keeps_rdi(code: bytes) -> bool:
    """Whether `code` is whole instructions that control passes one by one, and none writes RDI."""
    return all(
        isinstance(found, Instruction) and found.flow is Flow.NEXT and not found.effects.writes & gpr(RDI)
        for _, found in decode_run(code)
    )
