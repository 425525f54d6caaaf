"""What campaigns are made of, as hypothesis strategies: for tests of properties, with shrinking of their own."""

from __future__ import annotations

import random
from typing import TypeVar, cast

from hypothesis import strategies
from hypothesis.strategies import SearchStrategy

from fuzz.block_code import BlockCase
from fuzz.blocks import Inventor
from fuzz.encodings import Encoding, all_encodings, find
from fuzz.generators import Generator
from fuzz.insn import rows_of_encodings
from fuzz.lifted import Case
from lifter.instruction import Instruction

T = TypeVar("T")


def seeds() -> SearchStrategy[int]:
    """Of everything random."""
    return strategies.integers(0, 2**32 - 1)


def instructions() -> SearchStrategy[Instruction]:
    """Instructions of any encoding, those that cannot be run here, too."""

    def pick(encoding: Encoding, seed: int) -> Instruction | None:
        return find(encoding, random.Random(seed))

    return _found(strategies.builds(pick, strategies.sampled_from(list(all_encodings())), seeds()))


def cases(states: int = 24, row: str = "") -> SearchStrategy[Case]:
    """Instructions of the table's rows (whose name contains `row`) that are lifted or carried, with states."""

    def chosen() -> SearchStrategy[Case]:
        encodings = list(all_encodings())
        rows = [indexes for name, indexes in rows_of_encodings().items() if row in name]

        def pick(index: int, seed: int) -> Case | None:
            return Generator(seed, states).single(encodings[index], states)

        return _found(strategies.builds(pick, strategies.sampled_from(rows).flatmap(strategies.sampled_from), seeds()))

    # Finding the rows takes seconds: not before the first example.
    return strategies.deferred(chosen)


def blocks() -> SearchStrategy[BlockCase]:
    """Blocks of several random instructions, their borders live in part or whole."""

    def pick(seed: int) -> BlockCase | None:
        made = Inventor(random.Random(seed)).case()
        return None if isinstance(made, str) else made[0]

    return _found(strategies.builds(pick, seeds()))


def _found(strategy: SearchStrategy[T | None]) -> SearchStrategy[T]:
    """What a strategy gives, but for None."""
    return cast("SearchStrategy[T]", strategy.filter(lambda value: value is not None))
