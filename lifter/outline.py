"""What the analysis of a whole image has to know of each function: made where its graph is made, and small."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lifter.instruction import Flow
from lifter.summaries import Piece

FLOWS: Final = tuple(Flow)
"""Their numbers, packed."""


@dataclass(frozen=True, slots=True)
class Outline:
    """One function as others see it."""

    exits: array[int]
    """Addresses outside of it where control goes directly."""
    falls_out: int | None
    """The address after it, if control runs into that."""
    overrun: int
    """The end of the instruction that crosses its end; 0 if none does."""
    packed_transfers: array[int]
    """See `transfers`."""
    needed_to_return: frozenset[int] | None
    """Functions that all have to return for this one to do so, once; None if something else may keep it from it."""
    looks_at_return: bool
    """Whether it reads or writes its return address, or may."""
    piece: Piece
    """Its equations for liveness."""

    def transfers(self) -> Iterator[tuple[int, int, Flow]]:
        """(Block, target, how) of each direct call of a function, itself too, and each direct jump out of it."""
        numbers = iter(self.packed_transfers)
        for block, target, flow in zip(numbers, numbers, numbers, strict=True):
            yield block, target, FLOWS[flow]
