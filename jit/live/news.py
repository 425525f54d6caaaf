"""What a session tells its user."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class News:
    """Something that happened to a process of the session."""

    kind: str
    """'instrumented' (a function, at its first call), 'loaded', 'unloaded' (a library), 'forked', 'executed',
    'exited', 'killed'."""
    pid: int
    """The process; of 'forked', the child."""
    name: str = ""
    """The function, or the path of the file."""
    status: int = 0
    """Exit status, or the signal's number."""
