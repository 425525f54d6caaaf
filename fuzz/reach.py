"""Which rows of the instruction table a campaign has run, from how many states, and why it could not run the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fuzz.campaign import Result
from fuzz.coverage import EMULATED, NATIVE, name_of
from fuzz.generators import STORES_X87_ADDRESS
from fuzz.processor import features
from fuzz.rows import NOT_REPEATED
from lifter.instruction import Handling
from lifter.x86.rows import Row
from lifter.x86.table import ROW_MODULES, TABLE

NOT_DECODED: Final = "no encoding is decoded as this form"


@dataclass(frozen=True, slots=True)
class Reach:
    """The rows of the table by what a campaign of instructions made of them."""

    native: Mapping[str, int]
    """Row that was run -> states on the processor."""
    emulated: Mapping[str, int]
    """Row that unicorn was asked about -> states in it."""
    others: Mapping[str, tuple[str, ...]]
    """Why rows were not run -> which."""

    def short_of(self, states: int) -> tuple[str, ...]:
        """The rows that were run from fewer states on either oracle."""
        few = {name for counts in (self.native, self.emulated) for name, count in counts.items() if count < states}
        return tuple(sorted(few))


def reach_of(result: Result) -> Reach:
    """What a campaign came to, row by row; what it could not run is judged by the processor here."""
    counts: dict[str, defaultdict[str, int]] = {NATIVE: defaultdict(int), EMULATED: defaultdict(int)}
    rows = dict(table_rows())
    for (form, _, oracle), (states, _) in result.cells.items():
        if form in rows:
            counts[oracle][form] += states
    others: defaultdict[str, list[str]] = defaultdict(list)
    for name, row in rows.items():
        if name not in counts[NATIVE]:
            others[why_not(row, features())].append(name)
    return Reach(counts[NATIVE], counts[EMULATED], {reason: tuple(names) for reason, names in sorted(others.items())})


def table_rows() -> Iterable[tuple[str, Row]]:
    """Every row of the table and its name; the first of those of one name is the one that counts."""
    assert ROW_MODULES
    seen: set[str] = set()
    for candidates in TABLE.values():
        for row in candidates:
            name = name_of(row)
            if name not in seen:
                seen.add(name)
                yield name, row


def why_not(row: Row, available: frozenset[str]) -> str:
    """Why a row was not run on a processor with such features."""
    if row.handling is Handling.NATIVE:
        return f"stays native: {row.reason}"
    if row.mnemonic in NOT_REPEATED:
        return "gives another result each time, or takes flags that are no part of a state"
    if row.mnemonic in STORES_X87_ADDRESS:
        return "stores the address of the last x87 instruction"
    wanted = row.feature.split()
    if wanted and available.isdisjoint(wanted):
        return f"needs {' or '.join(dict.fromkeys(wanted))}"
    return NOT_DECODED


def lines_of(reach: Reach, states: int) -> list[str]:
    """The figures for people; `states` is how many each row was to have."""
    short = reach.short_of(states)
    total = len(reach.native) + sum(map(len, reach.others.values()))
    lines = [f"{len(names):>9,} rows not run: {reason}" for reason, names in reach.others.items()]
    lines.append(
        f"{len(reach.native):,} of {total:,} rows run, {len(reach.emulated):,} of them in unicorn, too; "
        f"{len(short):,} from fewer than {states:,} states"
    )
    lines += [
        f"    {name}: {reach.native[name]:,}" + (f", unicorn {reach.emulated[name]:,}" * (name in reach.emulated))
        for name in short
    ]
    return lines
