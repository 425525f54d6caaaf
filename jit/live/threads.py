"""What is known of one traced thread: whether it stands still, why, and what keeps it so."""

from __future__ import annotations

from dataclasses import dataclass, field
from signal import SIGTRAP
from typing import TYPE_CHECKING, Final

from jit.live import ptrace

if TYPE_CHECKING:
    from jit.live.target import Target

CREATIONS: Final = (ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE)


@dataclass(slots=True)
class TakenSignal:
    """A signal taken from a thread in its stop, so that the thread can be used; it gets it back before it goes on."""

    signal: int
    information: bytes
    is_reported: bool
    """The event was seen already; not to be told again."""
    is_sent: bool = False
    """Raised again; when it arrives, it is given the information it had."""


@dataclass(slots=True)
class Detour:
    """A fault was moved to another instruction that is the same. When its signal handler returns there, the thread goes
    on at the one that faulted."""

    raised: int
    faulted: int
    patience: int
    """System calls of the handler that are looked at until it is taken not to return (longjmp)."""


@dataclass(slots=True, eq=False)
class Thread:
    """A traced thread. It is resumed only when nothing below keeps it."""

    tid: int
    target: Target
    is_running: bool = True
    """As far as is known: no stop of it has been waited for since it was resumed."""
    stop: int = 0
    """The wait status of the stop it is in, or was in last."""
    told: int = 0
    """The wait status that is to be reported; `stop` may be another by now, if the thread was used meanwhile."""
    message: int = 0
    """What PTRACE_GETEVENTMSG said at the stop to be reported."""
    is_queued: bool = False
    """`told` is to be reported."""
    is_reported: bool = False
    """`told` is what the caller handles just now."""
    is_newborn: bool = False
    """It was made by a traced thread, and the event of its making has not been handled."""
    is_interrupted: bool = False
    """PTRACE_INTERRUPT was asked for; that stop is yet to come."""
    is_parked: bool = False
    """It waits uninterruptibly in the kernel, and will stop when that is over, before it runs an instruction; or it has
    ended."""
    is_group_stopped: bool = False
    """Told of, and not over."""
    is_gone: bool = False
    signal: int = 0
    """Passed on when it goes on from a signal's stop."""
    taken: list[TakenSignal] = field(default_factory=list)
    detour: Detour | None = None

    @property
    def is_at_rest(self) -> bool:
        """Whether it stands in an interrupted thread's stop, by request or by job control."""
        return not self.is_running and ptrace.stop_event(self.stop) == ptrace.EVENT_STOP

    @property
    def is_in_signal_stop(self) -> bool:
        """Whether it stands in the stop before a signal is delivered."""
        return (
            not self.is_running
            and not ptrace.stop_event(self.stop)
            and ptrace.stop_signal(self.stop) != ptrace.SYSCALL_STOP
        )

    @property
    def is_in_group_stop(self) -> bool:
        """Whether it stands still because of job control."""
        return self.is_at_rest and ptrace.stop_signal(self.stop) != SIGTRAP

    @property
    def is_exiting(self) -> bool:
        """Whether it stands at its end, and will run no instruction more."""
        return not self.is_running and ptrace.stop_event(self.stop) == ptrace.EVENT_EXIT

    @property
    def is_usable(self) -> bool:
        """Whether it stands still where it can be made to run a system call for us: not in vfork."""
        return not (self.is_running or self.is_exiting or ptrace.stop_event(self.stop) == ptrace.EVENT_VFORK)

    @property
    def has_event(self) -> bool:
        """Whether a signal or event of it is still to be handled."""
        return self.is_queued or self.is_reported or self.is_newborn

    @property
    def may_go_on(self) -> bool:
        """Whether nothing keeps it."""
        return not (self.is_running or self.has_event or self.target.memory.holds)
