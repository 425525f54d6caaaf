"""Checks lifted instructions against the processor: `python -m fuzz.instructions --seconds N --seed S`.

Single instructions of every encoding that regions hold, in rotation, from random and boundary values; pairs of one
that sets flags and one that reads them, since conditions fuse with comparisons; and short sequences. The first
difference ends the run with exit status 4 and a line that `--case` runs again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from fuzz.encodings import Encoding, all_encodings, find
from fuzz.lifted import WHERES, Case, Difference, Prepared, Rejected, compare, decode_all, prepare, undefined_after
from fuzz.native import NativeOracle
from fuzz.rows import REGIONS, features, runnable
from lifter.instruction import Flow, Handling, Instruction, Mem, Reg
from lifter.liftability import translation
from lifter.registers import ARITHMETIC_FLAGS, FLAG_SHIFT, RSP, X87

BATCH: Final = 200
"""Cases compiled at once."""
_FEW: Final = 24
"""States for operands at the end of a page and beyond: one is as good as many."""
_ON_THE_STACK: Final = tuple(map(bytes.fromhex, (
    "50", "53", "4154", "58", "5b", "415c", "8f442408", "ff742410", "48890424", "488b0c24", "4889442408", "8b5c2404",
    "660fd60424", "f30f7e4c2408", "0f110424", "0f10542408", "f0480fc11c24", "f0ff0c24", "48870424", "48ff4c2408",
    "9c", "fd", "fc", "f8", "f9",
)))  # fmt: skip
"""Pushes, pops, loads and stores, lifted and carried, of the same few words, and flags: their order must be kept."""
_SHORT_JUMPS: Final = tuple(bytes((0x70 + code, 0x10)) for code in range(16))
_OTHER_JUMPS: Final = (
    *(bytes((opcode, 0x10)) for opcode in range(0xE0, 0xE4)),
    *(bytes((0x67, opcode, 0x10)) for opcode in range(0xE0, 0xE4)),
    b"\xeb\x10", b"\xe9\x10\0\0\0", b"\x0f\x8f\x20\0\0\0", b"\xf2\x72\x10",
)  # fmt: skip
"""loop, jrcxz, jmp and long forms. Their targets are past the end, where nothing is."""
_STORES_X87_ADDRESS: Final = ("fnstenv", "fstenv", "fnsave", "fsave", "fxsave", "fxsave64", "xsave", "xsave64")
"""They store the address of the last x87 instruction, which is where the lifted code is."""


def _may_be_lifted(encoding: Encoding) -> bool:
    """Whether to look for lifted semantics there: not among x87 and vector opcodes, of which there are many."""
    if encoding.vex or encoding.map > 1:
        return encoding.opcode >= 0xF0 and not encoding.length
    return encoding.map == 1 or encoding.opcode not in range(0xD8, 0xE0)


def lifted_encodings(source: random.Random, share: float = 1.0, match: str = "") -> list[Encoding]:
    """Encodings of instructions with lifted semantics that this processor can run, or a random share of them.

    Only of mnemonics that contain `match`.
    """
    available = features()
    forms = []
    for encoding in filter(_may_be_lifted, all_encodings()):
        if source.random() >= share:
            continue
        instruction = find(encoding, source, attempts=2)
        if instruction is None or match not in instruction.mnemonic:
            continue
        if usable(instruction, available) and _is_lifted(instruction):
            forms.append(encoding)
    return forms


def _is_lifted(instruction: Instruction) -> bool:
    return _handling(instruction) is Handling.LIFTED


def usable(instruction: Instruction, available: frozenset[str]) -> bool:
    """Whether regions hold it, and the processor here can run it."""
    return (
        instruction.flow is Flow.NEXT
        and runnable(instruction, available)
        and instruction.mnemonic not in _STORES_X87_ADDRESS
        and _handling(instruction) is not Handling.NATIVE
    )


def _handling(instruction: Instruction) -> Handling:
    """How the instruction is translated; as its row says where trying it fails, which its case will show."""
    try:
        return translation(instruction).handling
    except AssertionError:
        return instruction.handling


class Generator:
    """Makes cases."""

    def __init__(self, seed: int, states: int = 200, match: str = "", share: float = 1.0) -> None:
        """`states` for each case; only mnemonics that contain `match`; a `share` of the encodings, to start sooner."""
        self._source = random.Random(seed)
        self._states = states
        self._match = match
        self._available = features()
        self.lifted = lifted_encodings(self._source, share, match)
        known = set(self.lifted)
        self._others = [encoding for encoding in all_encodings() if encoding not in known]

    def singles(self, encodings: Sequence[Encoding]) -> Iterator[Case]:
        """One random instruction of each encoding, where there is one."""
        for encoding in encodings:
            instruction = find(encoding, self._source, attempts=4)
            if instruction is not None and usable(instruction, self._available) and self._match in instruction.mnemonic:
                yield self._case(instruction)

    def endless(self) -> Iterator[Case]:
        """Lifted forms most often, then verbatim ones, pairs and sequences."""
        while True:
            self._source.shuffle(self.lifted)
            self._source.shuffle(self._others)
            pieces = [self.singles(list(self.lifted))]
            if not (self._match and self.lifted):
                pieces.append(self.singles(list(self._others)))
            if not self._match:
                pieces += [self.pairs(len(self.lifted)), self.sequences(len(self.lifted))]
            # In turn, so that a short run sees something of each.
            while pieces:
                for piece in list(pieces):
                    found = list(islice(piece, 50))
                    yield from found
                    if not found:
                        pieces.remove(piece)

    def pairs(self, count: int) -> Iterator[Case]:
        """An instruction that sets flags, and one that reads them."""
        made = 0
        setters = self._pool(writes=ARITHMETIC_FLAGS, reads=0)
        readers = self._pool(writes=0, reads=ARITHMETIC_FLAGS)
        while made < count:
            first = self._source.choice(setters)
            second = self._source.choice(readers).code if self._source.random() < 0.5 else self._jump()
            found = self._joined([first.code, second])
            if found is not None:
                made += 1
                yield found

    def sequences(self, count: int) -> Iterator[Case]:
        """Several instructions, perhaps with a jump at the end; only the first may access memory that is no stack."""
        pool = self._pool(writes=0, reads=0)
        verbatim = self._registers_only(self._others, min(400, len(self.lifted)))
        made = 0
        while made < count:
            codes = []
            if self._source.random() < 0.3:
                start = find(self._source.choice(self.lifted), self._source)
                if start is not None and usable(start, self._available):
                    codes.append(start.code)
            on_stack = 0.5 if self._source.random() < 0.3 else 0.0
            for _ in range(self._source.randrange(2, 7)):
                if self._source.random() < on_stack:
                    codes.append(self._source.choice(_ON_THE_STACK))
                    continue
                kind = verbatim if self._source.random() < 0.15 else pool
                codes.append(self._source.choice(kind).code)
            if self._source.random() < 0.3:
                codes.append(self._jump())
            found = self._joined(codes)
            if found is not None:
                made += 1
                yield found

    def _jump(self) -> bytes:
        return self._source.choice(_SHORT_JUMPS if self._source.random() < 0.7 else _OTHER_JUMPS)

    def _joined(self, codes: Sequence[bytes]) -> Case | None:
        code = b"".join(codes)
        instructions = decode_all(code)
        if instructions is None or undefined_after(instructions) is None:
            return None
        return Case(code, self._live(), self._source.randrange(2**32), states=self._states // 2)

    def _case(self, instruction: Instruction) -> Case:
        where, states = "inside", self._states
        if instruction.effects.memory and self._source.random() < 0.2:
            where, states = self._source.choice(WHERES[1:]), _FEW
        return Case(instruction.code, self._live(), self._source.randrange(2**32), where, states)

    def _live(self) -> int:
        """All flags mostly; else a few, since emitters and exits do less for those that are not live."""
        if self._source.random() < 0.75:
            return ARITHMETIC_FLAGS
        flags = [flag for flag in FLAG_SHIFT if flag & ARITHMETIC_FLAGS]
        return sum(self._source.sample(flags, self._source.randrange(3)))

    def _pool(self, writes: int, reads: int) -> list[Instruction]:
        """Lifted instructions on registers, some that write or read such flags."""
        found = self._registers_only(self.lifted, min(2000, 3 * len(self.lifted)))
        return [
            i for i in found
            if (not writes or i.effects.writes & writes) and (not reads or i.effects.reads & reads)
        ]  # fmt: skip

    def _registers_only(self, encodings: Sequence[Encoding], count: int) -> list[Instruction]:
        found = []
        for _ in range(count):
            instruction = find(self._source.choice(encodings), self._source)
            if instruction is None or not usable(instruction, self._available):
                continue
            stack = any(isinstance(o, Reg) and o.index == RSP for o in instruction.operands)
            memory = instruction.effects.memory or any(isinstance(o, Mem) and o.width for o in instruction.operands)
            if not memory and not stack and not instruction.effects.reads & X87:
                found.append(instruction)
        return found


@dataclass(slots=True)
class Tally:
    """What a run did."""

    cases: int = 0
    states: int = 0
    mnemonics: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(mnemonic, handling) of single instructions."""
    rejected: Counter[str] = field(default_factory=Counter)


def check(cases: Sequence[Case], oracle: NativeOracle, tally: Tally, passes: bool = False) -> Iterator[Difference]:
    """Differences of cases, compiled together, with IR passes or without."""
    for prepared in prepare(cases, passes=passes):
        found = prepared if isinstance(prepared, Rejected) else compare(prepared, oracle)
        if isinstance(found, Rejected):
            if found.is_bug:
                yield Difference(found.case, "", found.reason)
            else:
                tally.rejected[found.reason] += 1
            continue
        assert isinstance(prepared, Prepared)
        tally.cases += 1
        tally.states += prepared.case.states
        if len(prepared.instructions) == 1 and prepared.handlings:
            tally.mnemonics[prepared.instructions[0].mnemonic, prepared.handlings[0].value] += 1
        if found is not None:
            yield found


def campaign(seed: int, seconds: float, match: str, keep_going: bool) -> tuple[list[Difference], Tally]:
    """Check cases until the time is up, or a difference is found."""
    tally = Tally()
    found: list[Difference] = []
    cases = Generator(seed, match=match).endless()
    deadline = time.monotonic() + seconds
    with NativeOracle(REGIONS) as oracle:
        while time.monotonic() < deadline and (keep_going or not found):
            found += check(list(islice(cases, BATCH)), oracle, tally)
    return found, tally


def _job(arguments: tuple[int, float, str, bool]) -> tuple[list[Difference], Tally]:
    return campaign(*arguments)


def main() -> int:
    """Run a campaign, or one case; exit status 4 if lifted code does something else than the original."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--match", default="", help="only mnemonics that contain this")
    parser.add_argument("--keep-going", action="store_true", help="report every difference")
    parser.add_argument("--case", help="run one case, as a difference names it")
    arguments = parser.parse_args()
    if arguments.case:
        with NativeOracle(REGIONS) as oracle:
            differences = list(check([Case.parse(arguments.case)], oracle, Tally()))
        print(differences[0] if differences else "no difference")
        return 4 if differences else 0
    jobs = [
        (arguments.seed + job, arguments.seconds, arguments.match, arguments.keep_going)
        for job in range(arguments.jobs)
    ]
    if len(jobs) == 1:
        results = [_job(jobs[0])]
    else:
        with multiprocessing.Pool(len(jobs)) as pool:
            results = pool.map(_job, jobs, chunksize=1)
    differences = [difference for found, _ in results for difference in found]
    for difference in differences:
        print(difference)
    tallies = [tally for _, tally in results]
    kinds = {key for tally in tallies for key in tally.mnemonics}
    print(
        f"{sum(t.cases for t in tallies)} cases, {sum(t.states for t in tallies)} states, "
        f"{sum(kind == 'lifted' for _, kind in kinds)} mnemonics lifted, "
        f"{sum(kind == 'verbatim' for _, kind in kinds)} verbatim"
    )
    rejected = sum((t.rejected for t in tallies), Counter[str]())
    print("not run:", ", ".join(f"{count} {reason}" for reason, count in rejected.most_common()) or "none")
    return 4 if differences else 0


if __name__ == "__main__":
    raise SystemExit(main())
