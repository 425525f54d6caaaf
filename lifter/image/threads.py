"""Whether a program can run its own code in several threads at once."""

from __future__ import annotations

import re
from typing import Final

from lifter.image.types import Image, Kind

_STARTERS: Final = frozenset(
    (
        "pthread_create", "thrd_create", "clone", "__clone", "clone3", "__clone3", "__clone_internal",
        "g_thread_new", "g_thread_try_new", "timer_create", "aio_read", "aio_write", "lio_listio", "mq_notify",
        "uv_thread_create", "uv_queue_work", "__kmpc_fork_call", "__kmpc_fork_teams", "SDL_CreateThread",
        "syscall",
    )
)  # fmt: skip
"""Functions that start a thread which goes on in the program's code. A process made by fork does not count, although
it shares the counters: shells and interpreters fork, seldom go on in both, and would pay several times their time."""
_PREFIXES: Final = ("GOMP_parallel", "GOMP_task", "_ZNSt6thread", "_ZN3tbb", "g_thread_pool_")
_SYSCALLS: Final = re.compile(rb"(?:\xb8|\xc7\xc0)(?:\x38|\xb3\x01)\x00{2,3}.{0,64}?\x0f\x05", re.DOTALL)
"""clone or clone3 called in place: its number into EAX, and a syscall soon after."""


def can_start_threads(image: Image) -> bool:
    """Whether counters must be updated atomically to be exact. True when in doubt.

    A library is always in doubt, since its callers may have threads, and so is a static file without symbols.
    A dynamic program is judged by what it imports: threads that a library starts on its own, without one of
    the usual thread or parallel-loop functions being imported by the program, are not seen.
    """
    if image.kind is Kind.LIBRARY or image.is_go:
        return True
    if not image.is_static:
        return any(_starts(name) for name in image.imports)
    names = [
        name
        for function in image.functions
        if function.source in ("symbol", "dynamic-symbol")
        for name in (function.name, *function.aliases)
    ]
    if not names or any(_starts(name) for name in names):
        return True
    return any(_SYSCALLS.search(segment.data) for segment in image.segments if segment.executable)


def _starts(name: str) -> bool:
    return name in _STARTERS or name.startswith(_PREFIXES)
