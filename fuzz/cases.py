"""One-line cases: code, a state, and what the processor makes of it, for people to read and to add to.

    setb al | cf=1 rax=0xffff => rax=0xff01

Left of the bar is the code, in Intel syntax (several instructions with `;`) or as hexadecimal bytes; then the state,
and after the arrow everything that the code changes, `rip` where it jumps (the code is at 0x10000000). `[data]` and
`[stack+8]` are words of 64 bits in memory; `data` is also the initial rdi and `stack` the initial rsp; all else is 0,
but for `mxcsr`, which is 0x1f80. Vectors can be given as floats, lowest first: `xmm0=1.5d,-0d` or `ymm1=0.1s,nan`. A
line that begins with `!` is code that must stay native. `python -m fuzz.cases --bless FILES` writes the processor's
answers behind the arrows. Cases that fuzzing found may have `x87` (as in `State.x87`), too.
"""

from __future__ import annotations

import argparse
import signal
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from fuzz.assembler import assemble
from fuzz.lifted import Case, Prepared, decode_all, first_difference, lift, prepare, run_both, undefined_after
from fuzz.native import CODE_ADDRESS, DATA, STACK, NativeOracle
from fuzz.rows import REGIONS
from fuzz.state import DEFAULT_MXCSR, DEFAULT_X87, FIXED_FLAGS, Batch, Results, State, memory_places
from lifter.errors import UsageError
from lifter.registers import ARITHMETIC_FLAGS, FLAG_SHIFT, GPR_NAMES, RDI, RSP, bits, names

PLACES: Final = {"data": DATA.address + 0x400, "stack": STACK.address + 0x800}
"""Names of addresses."""
_FLAGS: Final = {names(flag)[0]: shift for flag, shift in FLAG_SHIFT.items()}
_VECTORS: Final = {"xmm": 16, "ymm": 32}
"""Bytes of a vector register."""
_MASK: Final = 2**64 - 1


class CaseError(UsageError):
    """A line that is no case."""


@dataclass(frozen=True, slots=True)
class Line:
    """A case as it stands in a file."""

    text: str
    """The code."""
    given: str
    expected: str
    native: bool
    """Whether the code must stay native."""
    place: str
    """File and line number."""

    def __str__(self) -> str:
        if self.native:
            return f"! {self.text}"
        return f"{self.text} | {self.given} => {self.expected}".replace("|  =>", "| =>")


def read(path: Path) -> list[Line | str]:
    """The lines of a file: cases, and comments and empty lines as they are. Raises `CaseError`."""
    found: list[Line | str] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        place = f"{path.name}:{number}"
        stripped = text.strip()
        if not stripped or stripped.startswith("#"):
            found.append(text)
        else:
            found.append(parse_line(stripped, place))
    return found


def parse_line(text: str, place: str) -> Line:
    """One case; `place` says where it stands. Raises `CaseError`."""
    if text.startswith("!"):
        return Line(text[1:].strip(), "", "", True, place)
    code, bar, rest = text.partition("|")
    if not bar:
        raise CaseError(f"{place}: no '|' between code and state: {text}")
    given, _, expected = rest.partition("=>")
    return Line(code.strip(), given.strip(), expected.strip(), False, place)


def _number(text: str, place: str) -> int:
    name, sign, offset = text.partition("+") if "+" in text else text.partition("-")
    if name in PLACES:
        return PLACES[name] + (int(sign + offset, 0) if offset else 0)
    try:
        return int(text, 0) & _MASK
    except ValueError:
        raise CaseError(f"{place}: no number: {text}") from None


def state_of(line: Line) -> State:
    """The state that a case begins with. Raises `CaseError`."""
    gprs = [0] * 16
    gprs[RDI], gprs[RSP] = PLACES["data"], PLACES["stack"]
    flags = FIXED_FLAGS
    vectors = bytearray(512)
    mxcsr, x87 = DEFAULT_MXCSR, DEFAULT_X87
    memory = {region.address: bytearray(region.size) for region in (DATA, STACK)}
    for item in line.given.split():
        name, _, text = item.partition("=")
        if name in GPR_NAMES:
            gprs[GPR_NAMES.index(name)] = _number(text, line.place)
        elif name in _FLAGS:
            flags |= int(text) << _FLAGS[name]
        elif name[:3] in _VECTORS and name[3:].isdigit() and int(name[3:]) < 16:
            at, size = 32 * int(name[3:]), _VECTORS[name[:3]]
            vectors[at : at + size] = _vector(text, size, line.place)
        elif name == "mxcsr":
            mxcsr = _number(text, line.place)
        elif name == "x87":
            x87 = bytes.fromhex(text)
        elif name[:1] == "[" and name[-1:] == "]":
            address = _number(name[1:-1], line.place)
            region = next((region for region in (DATA, STACK) if region.address <= address < region.end), None)
            if region is None:
                raise CaseError(f"{line.place}: nothing is mapped at {name}")
            at = address - region.address
            memory[region.address][at : at + 8] = _number(text, line.place).to_bytes(8, "little")
        else:
            raise CaseError(f"{line.place}: no such register: {name}")
    contents = {address: bytes(content) for address, content in memory.items()}
    return State(tuple(gprs), flags, 0, bytes(vectors), mxcsr, x87, contents)


def _vector(text: str, size: int, place: str) -> bytes:
    """The bytes of a vector: one integer, or floats of one size with `d` (64 bits) or `s` (32 bits) behind each."""
    try:
        if text[:2] == "0x" or text.lstrip("-").isdigit():
            return (int(text, 0) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        parts = [struct.pack("<d" if part[-1:] == "d" else "<f", float(part[:-1])) for part in text.split(",")]
        return b"".join(parts).ljust(size, b"\0")[:size]
    except (ValueError, OverflowError):
        raise CaseError(f"{place}: no vector: {text}") from None


def outcome(prepared: Prepared, before: Batch, results: Results) -> str:
    """What a run changed or set, as a case says it."""
    number = int(results.signal[0])
    if number != signal.SIGTRAP:
        return signal.Signals(number).name
    writes = 0
    for instruction in prepared.instructions:
        writes |= instruction.effects.writes
    undefined = undefined_after(prepared.instructions) or 0
    gprs = results.final.gprs[0]
    found = []
    end = int(results.final.rip[0]) - 1
    if end != CODE_ADDRESS + len(prepared.case.code):
        found.append(f"rip={end:#x}")
    for index in bits(writes & 0xFFFF):
        value = int(gprs[index])
        found.append(f"{GPR_NAMES[index]}={_relative(value)}")
    for flag, shift in FLAG_SHIFT.items():
        if writes & flag & ~undefined:
            found.append(f"{names(flag)[0]}={int(results.final.flags[0]) >> shift & 1}")
    found += _changed_vectors(before, results.final)
    if before.mxcsr[0] != results.final.mxcsr[0]:
        found.append(f"mxcsr={int(results.final.mxcsr[0]):#x}")
    places, _ = memory_places(REGIONS)
    for name, address in PLACES.items():
        region = DATA if name == "data" else STACK
        start = places[region.address]
        old = before.memory[0, start : start + region.size].view(np.uint64)
        new = results.final.memory[0, start : start + region.size].view(np.uint64)
        for word in np.flatnonzero(old != new):
            offset = region.address + 8 * int(word) - address
            found.append(f"[{name}{offset:+d}]={int(new[word]):#x}".replace("+0]", "]"))
    return " ".join(found) or "nothing"


def _changed_vectors(before: Batch, after: Batch) -> list[str]:
    found = []
    for vector in range(16):
        low, high = after.xmm[0, vector].tobytes(), after.ymm_high[0, vector].tobytes()
        if high != before.ymm_high[0, vector].tobytes():
            found.append(f"ymm{vector}={int.from_bytes(low + high, 'little'):#x}")
        elif low != before.xmm[0, vector].tobytes():
            found.append(f"xmm{vector}={int.from_bytes(low, 'little'):#x}")
    return found


def line_of(code: bytes, state: Batch) -> Line:
    """The case of some code and one state (a batch of one): `state_of` gives the state again."""
    given = []
    for index, value in enumerate(state.gprs[0]):
        start = {RDI: PLACES["data"], RSP: PLACES["stack"]}.get(index, 0)
        if int(value) != start:
            given.append(f"{GPR_NAMES[index]}={_relative(int(value))}")
    flags = int(state.flags[0])
    given += [f"{name}=1" for name, shift in _FLAGS.items() if flags >> shift & 1]
    for index in range(16):
        low, high = state.xmm[0, index].tobytes(), state.ymm_high[0, index].tobytes()
        if any(high):
            given.append(f"ymm{index}={int.from_bytes(low + high, 'little'):#x}")
        elif any(low):
            given.append(f"xmm{index}={int.from_bytes(low, 'little'):#x}")
    if int(state.mxcsr[0]) != DEFAULT_MXCSR:
        given.append(f"mxcsr={int(state.mxcsr[0]):#x}")
    if state.x87[0].tobytes() != DEFAULT_X87:
        given.append(f"x87={state.x87[0].tobytes().hex()}")
    places, _ = memory_places(REGIONS)
    for name, address in PLACES.items():
        region = DATA if name == "data" else STACK
        start = places[region.address]
        words = state.memory[0, start : start + region.size].view(np.uint64)
        for word in np.flatnonzero(words):
            offset = region.address + 8 * int(word) - address
            given.append(f"[{name}{offset:+d}]={int(words[word]):#x}".replace("+0]", "]"))
    return Line(code.hex(), " ".join(given), "", False, "fuzz")


def _relative(value: int) -> str:
    for name, address in PLACES.items():
        if abs(value - address) < 0x100:
            return f"{name}{value - address:+d}".removesuffix("+0")
    return hex(value)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a case."""

    line: Line
    processor: str
    """Of the original bytes; '' for a case that must stay native."""
    problem: str
    """What lifted code does otherwise; '' if nothing."""


def run(lines: Sequence[Line], oracle: NativeOracle) -> list[Answer]:
    """Run cases, as lifted code and on the processor."""
    codes = assemble([line.text for line in lines])
    answers: dict[int, Answer] = {}
    lifted = [index for index, line in enumerate(lines) if not line.native]
    for index, line in enumerate(lines):
        if line.native:
            instructions = decode_all(codes[index])
            stays = instructions is None or isinstance(lift(instructions, ARITHMETIC_FLAGS), str)
            answers[index] = Answer(line, "", "" if stays else "is lifted, but must stay native")
    prepared = prepare([Case(codes[index]) for index in lifted], placing=False)
    for index, found in zip(lifted, prepared, strict=True):
        line = lines[index]
        if not isinstance(found, Prepared):
            answers[index] = Answer(line, "", found.reason)
            continue
        before = Batch.of([state_of(line)], REGIONS)
        original, other = run_both(found, before, oracle)
        problem = first_difference(found, before, original, other)
        answers[index] = Answer(line, outcome(found, before, original), "" if problem is None else problem.what)
    return [answers[index] for index in range(len(lines))]


def main(given: Sequence[str] | None = None) -> int:
    """Check files of cases; exit status 4 if lifted code is wrong or an answer is another one."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--bless", action="store_true", help="write the processor's answers into the files")
    arguments = parser.parse_args(given)
    failed = False
    with NativeOracle(REGIONS) as oracle:
        for path in arguments.files:
            lines = read(path)
            answers = {a.line.place: a for a in run([line for line in lines if isinstance(line, Line)], oracle)}
            for answer in answers.values():
                if answer.problem or (answer.processor != answer.line.expected and not arguments.bless):
                    failed = True
                    print(f"{answer.line.place}: {answer.line}: {answer.problem or answer.processor}")
            if arguments.bless:
                blessed = [
                    line
                    if isinstance(line, str)
                    else str(Line(line.text, line.given, answers[line.place].processor, line.native, line.place))
                    for line in lines
                ]
                path.write_text("\n".join(blessed) + "\n", encoding="utf-8")
    return 4 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
