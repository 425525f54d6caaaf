"""`probeloom fuzz insn`: instructions of every row of the table, lifted or carried, against the processor and unicorn.

A job is a few rows; it goes on until each has been run from as many states as asked for. Every fifth job is pairs of
an instruction that sets flags and one that reads them (conditions fuse with comparisons), and short sequences.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, Final

from fuzz.campaign import Failure, Job, Result, Settings, jobs
from fuzz.cases import CaseError, Line, line_of, parse_line, state_of
from fuzz.compiling import compile_safely
from fuzz.coverage import EMULATED, NATIVE, form_of, width_of
from fuzz.encodings import Encoding, all_encodings, exists, find
from fuzz.generators import Generator, handling_of, usable
from fuzz.lifted import Case, Difference, Prepared, Rejected, decode_all, prepare
from fuzz.oracles import Checked, Oracles
from fuzz.processor import features
from fuzz.rows import REGIONS
from fuzz.shrink import expressible, shrink_code, shrink_state
from fuzz.state import Batch
from lifter.errors import UsageError
from lifter.instruction import Flow, Handling
from lifter.registers import ARITHMETIC_FLAGS

UNITS: Final = "instructions"
DEFAULT_COUNT: Final = 2000
"""States of each form."""
_ROWS: Final = 6
"""Rows of a job."""
_MIXED: Final = 60
"""Pairs and sequences of a job."""
_ENCODINGS: Final = 300
"""Encodings that a job with pairs and sequences draws from."""
_CASES: Final = 8
"""Cases of each row that are compiled at a time."""
_STATES, _FEWEST = 200, 40
"""States of a case, at most and at least."""
_SHRUNK: Final = 3
"""Failures of a job that are made small: more of them are mostly the same."""
_ROUNDS: Final = 12
"""Times that cases of a row are made, before it is left with what it has."""
_TRIES, _PATIENCE = 3, 3
"""Instructions of each encoding that are looked at for rows, and random operands and prefixes tried for each."""
_MORE_TRIES, _MORE_PATIENCE = 10, 24
"""The same for VEX and EVEX encodings, of which few operands may be allowed, and the length decides."""


def plan(settings: Settings) -> Iterator[Job]:
    """See `fuzz.campaign.Kind`."""
    if settings.binaries:
        raise UsageError("fuzz insn takes no binaries: 'fuzz block' samples code of files")
    rows = rows_of_encodings()
    chosen = sorted(name for name in rows if settings.match in name)
    if not chosen:
        raise UsageError(f"no form of the table contains '{settings.match}'; docs/instructions.md lists them")
    works = _works(chosen, rows, settings.count or DEFAULT_COUNT, settings.seed, settings.seconds is not None)
    return jobs("insn", settings.seed, works)


def _works(
    chosen: Sequence[str], rows: Mapping[str, Sequence[int]], states: int, seed: int, endless: bool
) -> Iterator[dict[str, Any]]:
    source = random.Random(seed)
    order = list(chosen)
    pools: dict[bool, list[int]] = {True: [], False: []}
    encodings = _encodings()
    for name in chosen:
        for index in rows[name]:
            found = find(encodings[index], source, attempts=2)
            if found is not None and found.flow is Flow.NEXT:
                pools[handling_of(found) is Handling.LIFTED].append(index)
    while True:
        source.shuffle(order)
        for number, start in enumerate(range(0, len(order), _ROWS)):
            yield {"rows": [[name, rows[name]] for name in order[start : start + _ROWS]], "states": states}
            if number % 4 == 3 and pools[True]:
                lifted, verbatim = (source.sample(p, min(_ENCODINGS, len(p))) for p in (pools[True], pools[False]))
                yield {"lifted": lifted, "verbatim": verbatim, "cases": _MIXED}
        if not endless:
            return


@cache
def _encodings() -> tuple[Encoding, ...]:
    return tuple(all_encodings())


@cache
def rows_of_encodings(available: frozenset[str] | None = None) -> dict[str, list[int]]:
    """Name of each row that can be run -> numbers of the encodings that it may describe, in `all_encodings`.

    `available` are the processor's features, by default those of the one here.
    """
    available = features() if available is None else available
    source = random.Random(0)
    rows: defaultdict[str, set[int]] = defaultdict(set)
    for index, encoding in enumerate(_encodings()):
        prefixed = encoding.vex or encoding.evex
        if prefixed and not exists(encoding):
            continue
        # Operands at random decide between rows of one encoding, too.
        tries, attempts = (_MORE_TRIES, _MORE_PATIENCE) if prefixed else (_TRIES, _PATIENCE)
        for _ in range(tries):
            instruction = find(encoding, source, attempts)
            if instruction is None:
                break
            if usable(instruction, available):
                rows[form_of(instruction)].add(index)
    return {name: sorted(indexes) for name, indexes in sorted(rows.items())}


class _Run:
    """One job at work."""

    def __init__(self, job: Job, oracles: Oracles) -> None:
        self._job = job
        self._oracles = oracles
        self.result = Result()

    def rows(self, names: Sequence[tuple[str, Sequence[int]]], states: int) -> None:
        """Run cases of each row until it has been seen in as many states, on each oracle that can be asked."""
        generator = Generator(self._job.seed, min(_STATES, states))
        source = random.Random(self._job.seed)
        missing = {name: states for name, _ in names}
        unasked = dict(missing)
        for _ in range(_ROUNDS * max(1, -(-states // (_CASES * _STATES)))):
            cases = []
            for name, indexes in names:
                if missing[name] > 0 or 0 < unasked[name] < states:
                    chosen = source.sample(indexes, len(indexes)) if len(indexes) > _CASES else list(indexes) * _CASES
                    wanted = max(_CASES, len(indexes))
                    each = min(_STATES, max(_FEWEST, -(-6 * states // (5 * wanted))))
                    made = (generator.single(_encodings()[index], each) for index in chosen)
                    cases += [case for case in islice(made, wanted) if case is not None]
            if not cases:
                return
            for name, checked in self._check(cases, unasked):
                if name in missing:
                    missing[name] -= checked.native
                    unasked[name] -= checked.emulated

    def mixed(self, lifted: Sequence[int], verbatim: Sequence[int], cases: int) -> None:
        """Run pairs and sequences."""
        encodings = _encodings()
        generator = Generator(
            self._job.seed, _STATES, [encodings[i] for i in lifted], [encodings[i] for i in verbatim]
        )
        for _ in self._check([*generator.pairs(cases), *generator.sequences(cases)], {}):
            pass

    def _check(self, cases: Sequence[Case], unasked: Mapping[str, int]) -> Iterator[tuple[str, Checked]]:
        """Run cases; each with its form. `unasked` is how many states of a form unicorn is still to see."""
        for prepared in prepare(cases, compile_all=compile_safely):
            if isinstance(prepared, Rejected):
                checked: Checked | Rejected = prepared
            else:
                form = form_of(prepared.instructions[0]) if len(prepared.instructions) == 1 else "sequence"
                checked = self._oracles.check(prepared, max(0, unasked.get(form, _FEWEST)))
            if isinstance(checked, Rejected):
                if checked.is_bug:
                    self.result.failures.append(Failure(str(checked.case), checked.reason))
                else:
                    self.result.notes[checked.reason] += 1
                continue
            assert isinstance(prepared, Prepared)
            self._count(form, prepared, checked)
            yield form, checked

    def _count(self, form: str, prepared: Prepared, checked: Checked) -> None:
        result = self.result
        result.units += 1
        width = width_of(prepared.instructions[0]) if len(prepared.instructions) == 1 else "-"
        difference = checked.difference
        blamed = difference.oracle if difference is not None else ""
        result.cover(form, width, NATIVE, checked.native, blamed == NATIVE)
        if checked.emulated:
            # The same states as on the processor: counted once.
            result.cover(form, width, EMULATED, checked.emulated, blamed == EMULATED)
            result.states -= checked.emulated
        if difference is not None:
            small = len(result.failures) < _SHRUNK
            what = f"{difference.text}: {difference.what}"
            result.failures.append(
                shrink(difference, self._oracles) if small else Failure(str(difference.case), what)
            )


@cache
def _oracles() -> Oracles:
    return Oracles()


def run(job: Job) -> Result:
    """See `fuzz.campaign.Kind`."""
    started = time.monotonic()
    running = _Run(job, _oracles())
    work = job.work
    if "rows" in work:
        running.rows(work["rows"], work["states"])
    else:
        running.mixed(work["lifted"], work["verbatim"], work["cases"])
    running.result.seconds = time.monotonic() - started
    return running.result


def shrink(difference: Difference, oracles: Oracles) -> Failure:
    """The failure as a case of one line, as small as it gets."""
    state, case = difference.state, difference.case
    instructions = decode_all(case.code)
    if state is None or instructions is None:
        return Failure(str(case), f"{difference.text}: {difference.what}")
    state = expressible(state)
    found = _again(case.code, state, oracles)
    if found is None:
        # It shows only with the flags of the case live, with its displacement, or with masks and wide vectors.
        return Failure(str(case), f"{difference.text}: {difference.what}")
    parts = shrink_code(
        [instruction.code for instruction in instructions],
        lambda parts: _again(b"".join(parts), state, oracles) is not None,
    )
    code = b"".join(parts)
    smaller = shrink_state(state, lambda candidate: _again(code, candidate, oracles) is not None)
    last = _again(code, smaller, oracles)
    assert last is not None
    return Failure(str(line_of(code, smaller)).removesuffix(" =>"), f"{last.text}: {last.what}")


def _again(code: bytes, state: Batch, oracles: Oracles) -> Difference | None:
    """The difference between some code and its lifted form from one state."""
    (prepared,) = prepare([Case(code, ARITHMETIC_FLAGS)], placing=False, compile_all=compile_safely)
    if isinstance(prepared, Rejected):
        return None
    checked = oracles.check_states(prepared, state)
    return None if isinstance(checked, Rejected) else checked.difference


def replay(case: str) -> Failure | None:
    """See `fuzz.campaign.Kind`."""
    with Oracles(capacity=256) as oracles:
        if "|" in case:
            return _replay_line(parse_line(case, "--case"), oracles)
        try:
            (prepared,) = prepare([Case.parse(case)], compile_all=compile_safely)
        except (ValueError, KeyError):
            raise UsageError(f"'{case}' is neither CODE | STATE nor CODE/FLAGS/SEED/WHERE/STATES") from None
        if isinstance(prepared, Rejected):
            return Failure(case, prepared.reason) if prepared.is_bug else None
        checked = oracles.check(prepared)
        if isinstance(checked, Rejected) or checked.difference is None:
            return None
        return Failure(case, f"{prepared.text}: {checked.difference.what}")


def _replay_line(line: Line, oracles: Oracles) -> Failure | None:
    try:
        state = Batch.of([state_of(line)], REGIONS)
        code = bytes.fromhex(line.text)
    except (CaseError, ValueError) as error:
        raise UsageError(str(error)) from None
    instructions = decode_all(code)
    if instructions is None:
        raise UsageError(f"no code that is decoded: {line.text}")
    found = _again(code, state, oracles)
    if found is None:
        return None
    return Failure(str(line), f"{found.text}: {found.what}")
