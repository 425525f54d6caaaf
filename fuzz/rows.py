"""Checks the instruction table against the processor: does an instruction read, write and access what its row says?

For each instruction, states are run in pairs that differ in everything the row calls not read. Whatever the row
calls written may differ from the initial state, nothing else; whatever it calls overwritten must be equal in
both; and memory beside the accesses stays as it was. Accesses are put at the end of a page with nothing behind,
and into read-only memory, which shows their size and direction.
"""

from __future__ import annotations

import argparse
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fuzz.encodings import Encoding, all_encodings, find
from fuzz.native import CODE_ADDRESS, DATA, STACK, NativeOracle
from fuzz.placing import place
from fuzz.processor import features
from fuzz.state import Batch, Region, Results
from fuzz.values import random_batch
from lifter.decode import decode
from lifter.instruction import Flow, Handling, Instruction, Mem
from lifter.registers import FLAG_SHIFT, MXCSR, OPMASKS, RSP, VECTOR_SHIFT, X87, names
from lifter.x86.rows_system import VARYING

READ_ONLY: Final = Region(0x4000_0000, 4096, writable=False, content=random.Random(0).randbytes(4096))
REGIONS: Final = (DATA, STACK, READ_ONLY)

_FORBIDDEN: Final = frozenset((
    "system call", "privileged", "changes a segment register", "segment register", "changes a segment base", "trap",
    "transaction", "shadow stack", "far branch",
))  # fmt: skip
"""Reasons of native handling for which an instruction cannot or must not be run."""
NOT_REPEATED: Final = VARYING | {"popf"}
"""Their result depends on more than the state, or the state (trap flag, features) must not be random."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A contradiction between a row and the processor."""

    instruction: Instruction
    what: str
    """What the row says and the processor does not do."""

    def __str__(self) -> str:
        return f"{self.instruction.code.hex()} {self.instruction.text}: {self.what}"


@dataclass(slots=True)
class Coverage:
    """What was checked, and what rows claim that was never seen to matter."""

    instructions: int = 0
    states: int = 0
    mnemonics: Counter[str] = field(default_factory=Counter)
    faulted: Counter[str] = field(default_factory=Counter)
    """Mnemonics that only ever faulted."""
    claimed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(mnemonic, register) that a row calls read -> how many instructions were tried."""
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    """The same -> in how many of them the register's value changed the outcome."""


def runnable(instruction: Instruction, available: frozenset[str]) -> bool:
    """Whether the instruction can be checked on a processor with the features `available`."""
    if instruction.handling is Handling.NATIVE and instruction.reason in _FORBIDDEN:
        return False
    feature = instruction.effects.feature
    return instruction.mnemonic not in NOT_REPEATED and (not feature or feature in available)


class RowChecker:
    """Checks instructions against the processor, one at a time."""

    def __init__(self, oracle: NativeOracle, seed: int, redecode: bool = True) -> None:
        """`redecode` is False for instructions whose effects are not those of the table (to test the checker)."""
        self.oracle = oracle
        self.redecode = redecode
        self.coverage = Coverage()
        self._random = np.random.default_rng(seed)
        self._source = random.Random(seed)

    def check(self, instruction: Instruction, states: int = 12) -> list[Finding]:
        """Run the instruction from `states` random states and variations of each."""
        if instruction.target is not None and -len(instruction.code) <= instruction.target < 0:
            return []  # It jumps into itself: what runs next is another instruction.
        self.coverage.instructions += 1
        self.coverage.mnemonics[instruction.mnemonic] += 1
        findings: list[Finding] = []
        for where in ("inside", "end", "beyond", "read-only"):
            if where != "inside" and not _sized(instruction):
                continue
            batch = random_batch(states, self.oracle.regions, self._random)
            placed = place(instruction, batch, where, READ_ONLY, self._source)
            if placed is None:
                continue
            code, good = placed
            batch = _select(batch, good)
            moved = decode(code) if self.redecode else instruction
            if len(batch.gregs) == 0 or not isinstance(moved, Instruction):
                continue
            findings += self._check_pairs(moved, batch, where)
            if findings:
                break
        return findings

    def _run(self, code: bytes, batch: Batch) -> Results:
        self.coverage.states += len(batch.gregs)
        return self.oracle.run_batch(code, batch)

    def _check_pairs(self, instruction: Instruction, batch: Batch, where: str) -> list[Finding]:
        effects, code = instruction.effects, instruction.code
        base = self._run(code, batch)
        if (base.signal == signal.SIGILL).all():
            self.coverage.faulted[instruction.mnemonic] += where == "inside"
            return []
        if where == "inside" and not _completed(base).any():
            self.coverage.faulted[instruction.mnemonic] += 1
        found = _wrong_length(instruction, base)
        found += _unclaimed_writes(instruction, batch, base, where)
        found += _placement_faults(instruction, base, where)
        if found:
            return found
        varied = self._vary(batch, ~effects.reads, instruction)
        other = self._run(code, varied)
        found = _differences(instruction, varied, base, other, batch)
        if not found and where == "inside":
            self._count_reads(instruction, code, batch, base)
        return found

    def _count_reads(self, instruction: Instruction, code: bytes, batch: Batch, base: Results) -> None:
        """Note which of the registers that the row calls read do matter."""
        addresses = _address_registers(instruction)
        for bit in _bits(instruction.effects.reads & ~addresses):
            name = names(1 << bit)[0]
            key = (instruction.mnemonic, name)
            self.coverage.claimed[key] += 1
            if self.coverage.seen[key]:
                continue
            varied = self._vary(batch, 1 << bit, instruction)
            if _depends(1 << bit, batch, base, varied, self._run(code, varied)):
                self.coverage.seen[key] += 1

    def _vary(self, batch: Batch, mask: int, instruction: Instruction) -> Batch:
        """A copy with other values in the registers of `mask`, and in memory that is not read."""
        fresh = random_batch(len(batch.gregs), self.oracle.regions, self._random, wild=True)
        varied = Batch(batch.gregs.copy(), batch.xsave.copy(), batch.memory.copy())
        gprs, fresh_gprs = varied.gprs, fresh.gprs
        for index in range(16):
            if mask >> index & 1:
                gprs[:, index] = fresh_gprs[:, index]
        varied.set_gprs(gprs)
        for flag, shift in FLAG_SHIFT.items():
            if mask & flag:
                varied.flags[:] ^= np.uint64(1 << shift)
        for index in range(16):
            if mask >> (VECTOR_SHIFT + index) & 1:
                varied.xmm[:, index] = fresh.xmm[:, index]
                varied.ymm_high[:, index] = fresh.ymm_high[:, index]
                varied.zmm_high[:, index : index + 1] = fresh.zmm_high[:, index : index + 1]
            if mask >> (VECTOR_SHIFT + 16 + index) & 1:
                varied.zmm_more[:, index : index + 1] = fresh.zmm_more[:, index : index + 1]
        if mask & OPMASKS:
            varied.masks[:] = fresh.masks
        if mask & MXCSR:
            varied.mxcsr[:] = fresh.mxcsr
        if mask & X87:
            varied.set_x87(fresh.x87)
        if mask & (mask - 1):
            covered = _covered(instruction, batch)
            if covered is not None:
                varied.memory[:] = np.where(covered, batch.memory, fresh.memory)
        return varied


def _sized(instruction: Instruction) -> bool:
    """Whether it has one access whose place can be chosen."""
    return any(access.size for access in instruction.effects.memory) and not instruction.rep


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _address_registers(instruction: Instruction) -> int:
    mask = 0
    for operand in (*instruction.operands, *(access.operand for access in instruction.effects.memory)):
        if isinstance(operand, Mem):
            if operand.base is not None:
                mask |= 1 << operand.base
            if operand.index is not None:
                mask |= 1 << (operand.index + (VECTOR_SHIFT if operand.vsib else 0))
    return mask


def _select(batch: Batch, rows: NDArray[np.bool_]) -> Batch:
    return Batch(batch.gregs[rows], batch.xsave[rows], batch.memory[rows])


def addresses_of(operand: Mem, batch: Batch, instruction: Instruction) -> NDArray[np.uint64]:
    """[n] effective addresses of an operand of an instruction at `CODE_ADDRESS`."""
    gprs = batch.gprs
    total = np.full(len(gprs), operand.disp % 2**64, np.uint64)
    if operand.rip:
        total += np.uint64(CODE_ADDRESS + len(instruction.code))
    if instruction.mnemonic == "pop" and operand is instruction.memory_operand and operand.base == RSP:
        # Pop computes the address of its operand after it has moved the stack pointer.
        total += np.uint64(instruction.width // 8)
    if operand.base is not None:
        total += gprs[:, operand.base]
    if operand.index is not None and not operand.vsib:
        total += gprs[:, operand.index] * np.uint64(operand.scale)
    if operand.address_width == 32:
        total &= np.uint64(0xFFFF_FFFF)
    if operand.segment:
        total += np.uint64(DATA.address)
    return total


def _covered(instruction: Instruction, batch: Batch) -> NDArray[np.bool_] | None:
    """[n, memory] bytes that the instruction may access; None where that is not known."""
    mask = np.zeros(batch.memory.shape, bool)
    if instruction.rep:
        return None
    columns = _columns()
    for access in instruction.effects.memory:
        if not access.size:
            return None
        start = addresses_of(access.operand, batch, instruction)[:, None]
        mask |= (columns - start) < np.uint64(access.size)
    return mask


def _columns() -> NDArray[np.uint64]:
    """Address of each byte of a row of `Batch.memory`."""
    parts = [np.arange(region.address, region.end, dtype=np.uint64) for region in (DATA, STACK)]
    return np.concatenate(parts)[None, :]


def _wrong_length(instruction: Instruction, results: Results) -> list[Finding]:
    """Whether the processor went on elsewhere than after the instruction's last byte."""
    ended = results.final.rip[results.signal == 0]
    if instruction.flow is Flow.NEXT and (ended != CODE_ADDRESS + len(instruction.code)).any():
        return [Finding(instruction, "is not as long as the processor has it")]
    return []


def _unclaimed_writes(instruction: Instruction, before: Batch, after: Results, where: str) -> list[Finding]:
    """What changed although the row does not call it written."""
    effects = instruction.effects
    found = []
    changed = _changed(before, after.final) & ~effects.writes
    # The flags in the frame of a fault are those of the processor in the middle of the instruction.
    if changed:
        found.append(Finding(instruction, f"changes {', '.join(names(changed))}, not called written ({where})"))
    differs = before.memory != after.final.memory
    if differs.any():
        writes = [access for access in effects.memory if access.write]
        if not writes:
            found.append(Finding(instruction, "changes memory, not called written"))
        elif all(access.size for access in writes) and not instruction.rep:
            allowed = np.zeros(differs.shape, bool)
            for access in writes:
                start = addresses_of(access.operand, before, instruction)[:, None]
                allowed |= (_columns() - start) < np.uint64(access.size)
            if (differs & ~allowed).any():
                found.append(Finding(instruction, "changes memory beside its operand"))
    return found


def _changed(before: Batch, after: Batch) -> int:
    """Mask of the registers and flags that differ in any state."""
    mask = 0
    for index in np.flatnonzero((before.gprs != after.gprs).any(axis=0)):
        mask |= 1 << int(index)
    flags = np.bitwise_or.reduce(before.flags ^ after.flags, initial=np.uint64(0))
    for flag, shift in FLAG_SHIFT.items():
        if int(flags) >> shift & 1:
            mask |= flag
    for first, mine, theirs in (
        (0, before.xmm, after.xmm), (0, before.ymm_high, after.ymm_high), (0, before.zmm_high, after.zmm_high),
        (16, before.zmm_more, after.zmm_more),
    ):  # fmt: skip
        for index in np.flatnonzero((mine != theirs).any(axis=(0, 2))):
            mask |= 1 << (VECTOR_SHIFT + first + int(index))
    if (before.masks != after.masks).any():
        mask |= OPMASKS
    if (before.mxcsr != after.mxcsr).any():
        mask |= MXCSR
    if (before.x87 != after.x87).any():
        mask |= X87
    return mask


def _placement_faults(instruction: Instruction, results: Results, where: str) -> list[Finding]:
    """Whether accesses at the end of a page, beyond it, and into read-only memory fault as they should."""
    accesses = [access for access in instruction.effects.memory if access.size]
    # A jump to an address that is not mapped faults there, not here.
    faults = (results.signal == signal.SIGSEGV) & (results.final.rip == CODE_ADDRESS)
    if where == "end" and faults.any():
        kinds = set(results.code[faults].tolist())
        if 128 not in kinds:
            return [Finding(instruction, "accesses more bytes than its row says")]
    if where == "beyond" and not faults.all() and not _conditional(instruction):
        return [Finding(instruction, "accesses fewer bytes than its row says")]
    if where == "read-only":
        writes = any(access.write for access in accesses[-1:])
        if not writes and (faults & results.fault_write).any():
            return [Finding(instruction, "writes memory, not called written")]
        if writes and not faults.all() and not _conditional(instruction):
            return [Finding(instruction, "does not write memory, called written")]
    return []


_CONDITIONAL: Final = ("maskmov", "bt", "movddup")


def _conditional(instruction: Instruction) -> bool:
    """Whether the access may not happen, or the instruction faults before it."""
    if instruction.effects.reads & OPMASKS:
        # Of what the mask leaves out nothing is accessed.
        return True
    return any(part in instruction.mnemonic for part in _CONDITIONAL) or instruction.mnemonic in ("div", "idiv")


def _completed(results: Results) -> NDArray[np.bool_]:
    """[n] runs in which the instruction itself did not fault (what it jumped to may have)."""
    done: NDArray[np.bool_] = (results.signal == 0) | (results.final.rip != CODE_ADDRESS)
    return done


def _differences(
    instruction: Instruction, varied: Batch, base: Results, other: Results, before: Batch
) -> list[Finding]:
    """How two runs differ whose states, `before` and `varied`, differ only in what is not read."""
    effects = instruction.effects
    if (base.signal != other.signal).any() or (base.final.rip != other.final.rip).any():
        return [Finding(instruction, "ends otherwise for another value of something not called read")]
    # What is not read keeps its own value where it is not overwritten.
    own = ~effects.reads & ~effects.kills
    done = _completed(base)
    wrong = _changed(varied, other.final) & own & ~effects.writes
    same = _changed(_select(base.final, done), _select(other.final, done))
    wrong |= same & ~own & ~effects.undefined
    found = []
    if wrong:
        found.append(Finding(instruction, f"{', '.join(names(wrong))} depends on something not called read"))
    partial = _partial_differences(base, other, same & own & effects.writes, done)
    if partial:
        found.append(Finding(instruction, f"low half of {', '.join(names(partial))} depends on something not read"))
    expected = np.where(before.memory == varied.memory, base.final.memory, varied.memory)
    if (other.final.memory != expected)[done].any():
        found.append(Finding(instruction, "memory depends on something not called read"))
    return found


def _depends(mask: int, before: Batch, base: Results, varied: Batch, other: Results) -> bool:
    """Whether the value of the register or flag `mask` matters: more than that it is kept or overwritten."""
    if (base.signal != other.signal).any() or (base.final.rip != other.final.rip).any():
        return True
    if (base.final.memory != other.final.memory).any() or _changed(base.final, other.final) & ~mask:
        return True
    overwritten = not _changed(base.final, other.final) & mask
    kept = not (_changed(before, base.final) | _changed(varied, other.final)) & mask
    return not (overwritten or kept)


def _partial_differences(base: Results, other: Results, mask: int, done: NDArray[np.bool_]) -> int:
    """Vectors of `mask` that are partly written and differ in their low half."""
    wrong = 0
    for bit in _bits(mask):
        index = bit - VECTOR_SHIFT
        if 0 <= index < 16 and (base.final.xmm[done, index] != other.final.xmm[done, index]).any():
            wrong |= 1 << bit
    return wrong


def instructions(
    encodings: Sequence[Encoding], source: random.Random, available: frozenset[str]
) -> Iterator[Instruction]:
    """A random instruction of each encoding that this processor can run."""
    for encoding in encodings:
        found = find(encoding, source)
        if found is not None and runnable(found, available):
            yield found


def main() -> int:
    """Check random instructions of all encodings for a while; exit status 4 if a row is wrong."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--match", default="", help="only mnemonics that contain this")
    arguments = parser.parse_args()
    source = random.Random(arguments.seed)
    available = features()
    encodings = list(all_encodings())
    deadline = time.monotonic() + arguments.seconds
    findings: dict[tuple[str, str], list[Finding]] = {}
    with NativeOracle(REGIONS) as oracle:
        checker = RowChecker(oracle, arguments.seed)
        while time.monotonic() < deadline:
            source.shuffle(encodings)
            for instruction in instructions(encodings, source, available):
                if time.monotonic() > deadline:
                    break
                if arguments.match not in instruction.mnemonic:
                    continue
                for finding in checker.check(instruction):
                    findings.setdefault((instruction.mnemonic, finding.what), []).append(finding)
    for (_, _), examples in sorted(findings.items()):
        print(f"{len(examples)} x {examples[0]}")
    coverage = checker.coverage
    print(f"{coverage.instructions} instructions, {len(coverage.mnemonics)} mnemonics, {coverage.states} states")
    always = sorted(name for name, count in coverage.faulted.items() if count == coverage.mnemonics[name])
    print(f"only faulted: {' '.join(always)}")
    unseen = sorted(key for key, count in coverage.claimed.items() if count >= 5 and not coverage.seen[key])
    print("called read, never seen to matter:", ", ".join(f"{name} {register}" for name, register in unseen))
    return 4 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
