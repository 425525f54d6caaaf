"""What happens to a target, as values: see `Tracer.next_event`.

The thread an event speaks of stands still while the event is handled, and goes on when the next one is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jit.live.target import Target


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a thread of a target."""

    target: Target
    tid: int


@dataclass(frozen=True, slots=True)
class SignalStop(Event):
    """A signal is about to reach a thread. It will, unless `Tracer.set_signal` says otherwise."""

    signal: int
    information: bytes
    """The siginfo_t, 128 bytes."""

    @property
    def code(self) -> int:
        """si_code: above 0 for signals that the kernel raised, for a fault or otherwise."""
        return int.from_bytes(self.information[8:12], "little", signed=True)

    @property
    def sender(self) -> int:
        """si_pid: of a signal that a process sent. 0 if that is not seen from the target's PID namespace."""
        return int.from_bytes(self.information[16:20], "little")

    @property
    def address(self) -> int:
        """si_addr: of a fault, what could not be accessed (SIGSEGV, SIGBUS) or executed (SIGILL, SIGFPE, SIGTRAP)."""
        return int.from_bytes(self.information[16:24], "little")


@dataclass(frozen=True, slots=True)
class GroupStopped(Event):
    """Job control stopped the thread (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU); it stays so until SIGCONT."""

    signal: int


@dataclass(frozen=True, slots=True)
class Forked(Event):
    """A new process, traced and stopped where it begins. With clone's flags it may share the memory of its parent
    (`child.memory is target.memory`)."""

    child: Target


@dataclass(frozen=True, slots=True)
class VForked(Event):
    """A new process that its parent thread waits for until it ends or calls execve; as a rule it uses the parent's
    memory until then."""

    child: Target


@dataclass(frozen=True, slots=True)
class VForkDone(Event):
    """The child of a vfork has left its parent's memory."""


@dataclass(frozen=True, slots=True)
class Cloned(Event):
    """A new thread of the target, stopped where it begins."""

    new_tid: int


@dataclass(frozen=True, slots=True)
class Execed(Event):
    """The target executes another program, whose first instruction (of the dynamic loader, if it has one) comes next.
    Its other threads are gone, its memory is new, `tid` is its process number."""


@dataclass(frozen=True, slots=True)
class ThreadExiting(Event):
    """A thread ends; it runs no more instructions, but the memory of the target is still there."""

    status: int
    """As of wait(2), of the whole process if that ends."""


@dataclass(frozen=True, slots=True)
class ThreadExited(Event):
    """A thread that was not the last has ended."""


@dataclass(frozen=True, slots=True)
class Exited(Event):
    """The target ended by itself. It is no longer traced."""

    status: int
    """Its exit status, 0 to 255."""


@dataclass(frozen=True, slots=True)
class Killed(Event):
    """A signal ended the target. It is no longer traced."""

    signal: int
    core_dumped: bool


@dataclass(frozen=True, slots=True)
class Readable:
    """A descriptor given to `Tracer.watch` can be read (or has hung up)."""

    descriptor: int
