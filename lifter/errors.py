"""What can go wrong, in two shapes: an error ends the command, a refusal is reported and work goes on."""

from __future__ import annotations

from dataclasses import dataclass


class ProbeloomError(Exception):
    """An error with one clear line for the user and the exit code of the command line."""

    exit_code = 5


class UsageError(ProbeloomError):
    """Wrong use: a malformed spec or option, a missing, unreadable or wrong kind of file."""

    exit_code = 2


class RefusedError(ProbeloomError):
    """The input cannot be worked on: not ELF, truncated, another architecture, nothing matches."""

    exit_code = 3


class DifferenceError(ProbeloomError):
    """Original and instrumented code behaved differently."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that was left alone, and why: a value, never a crash or a silent skip."""

    address: int
    """Where, as a virtual address of the image."""
    reason: str
    """What stands in the way, in a few words that do not vary with the address."""
    code: bytes = b""
    """The bytes concerned, where bytes are concerned."""
    hint: str = ""
    """What the user can do about it."""
    function: str = ""
    """The function it belongs to, as it is printed."""

    def __str__(self) -> str:
        where = f"{self.function} at {self.address:#x}" if self.function else f"{self.address:#x}"
        code = f" [{self.code.hex(' ')}]" if self.code else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{code}: {self.reason}{hint}"
