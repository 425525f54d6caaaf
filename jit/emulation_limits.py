"""What unicorn cannot run, or runs wrongly: found before (or right after) emulating, never believed.

Unicorn 2.1 contains QEMU 5.0.1. tests/test_unicorn_facts.py shows each of its faults, so that an upgrade shows
what has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from jit.event_log import KEY_SHIFT
from lifter.decode import decode
from lifter.graph import FunctionGraph
from lifter.instruction import Flow, Instruction, Mem, Undecodable
from lifter.registers import AF, ARITHMETIC_FLAGS, OF, SF

_LEGACY_PREFIXES: Final = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_GENERAL_VEX: Final = frozenset((
    "andn", "blsmsk", "blsr", "mulx", "pdep", "pext", "rorx", "sarx", "shlx", "shrx",
))  # fmt: skip
"""VEX-coded instructions on general-purpose registers that unicorn runs correctly: not bzhi (index of 64 and
more), not bextr (what reaches beyond the operand), not blsi (CF)."""
_VEX: Final = "VEX and EVEX code (unicorn runs it as SSE code or not at all)"
_MOVBE: Final = "movbe to memory (unicorn reports the value before its bytes are swapped)"
_NARROW: Final = {
    "cmpxchg": "32-bit cmpxchg (unicorn clears the upper half of rax)",
    "bsf": "32-bit bsf (unicorn clears the upper half of a destination that stays)",
    "bsr": "32-bit bsr (unicorn clears the upper half of a destination that stays)",
    "pdep": "32-bit pdep (unicorn deposits beyond bit 31)",
}
"""What is wrong with the 32-bit forms alone."""
_ADOX: Final = "adox with an operand-size prefix (unicorn takes it for adcx)"
_RORX: Final = "rorx relative to RIP (unicorn forgets the immediate, and reads one byte before)"
_LAHF: Final = "lahf or sahf with a REX prefix (unicorn takes spl for ah)"
_REASONS: Final[dict[str, str]] = {
    **dict.fromkeys((
        "rdtsc", "rdtscp", "rdrand", "rdseed", "rdpid", "rdpmc",
    ), "an instruction that gives another result each time"),
    **dict.fromkeys((
        "fxsave", "fxsave64", "fnstenv", "fstenv", "fnsave", "fsave", "xsave", "xsave64", "xsavec", "xsavec64",
        "xsaveopt", "xsaveopt64", "xsaves", "xsaves64",
    ), "an instruction that stores the address of the last x87 instruction"),
    **dict.fromkeys((
        "cli", "sti", "in", "out", "insb", "insw", "insd", "outsb", "outsw", "outsd", "rdmsr", "wrmsr", "invd",
        "wbinvd", "lgdt", "lidt", "lldt", "ltr", "lmsw", "clts", "invlpg", "iret", "iretd", "iretq", "sysret",
        "sysexit", "swapgs", "retf", "retfq", "vmcall", "vmmcall",
    ), "a privileged instruction (unicorn runs it)"),
    **dict.fromkeys((
        "pcmpestri", "pcmpestrm",
    ), "pcmpestri and pcmpestrm (unicorn reads beyond its registers, to its end, for a length of -2^31)"),
    "enter": "enter (unicorn does not touch the end of the new frame, as the processor and lifted code do)",
    **dict.fromkeys(("loope", "loopne"), "loope and loopne (unicorn loses all flags where the count ends the loop)"),
    **dict.fromkeys(("xbegin", "xend", "xabort", "xtest"), "a memory transaction"),
}  # fmt: skip


_UNSURE: Final = dict.fromkeys(("fcomi", "fcomip", "fucomi", "fucomip"), AF | SF | OF)
"""Flags that unicorn leaves wrong: x87 comparisons do not clear these."""


def unsure_flags(instruction: Instruction) -> int:
    """Flags that are not to be compared after an instruction, besides those that are undefined."""
    return _UNSURE.get(instruction.mnemonic, 0)


def limit_of(instruction: Instruction) -> str:
    """Why what unicorn makes of `instruction` is not to be compared; '' if it is."""
    mnemonic = instruction.mnemonic
    if _is_vex(instruction.code) and mnemonic not in _GENERAL_VEX:
        return _VEX
    if mnemonic in _NARROW and any(getattr(operand, "width", 0) == 32 for operand in instruction.operands):
        return _NARROW[mnemonic]
    if mnemonic == "movbe" and isinstance(instruction.operands[0], Mem):
        return _MOVBE
    if mnemonic == "adox" and 0x66 in instruction.code[: instruction.code.index(0x0F)]:
        return _ADOX
    if mnemonic == "rorx" and instruction.memory_operand is not None and instruction.memory_operand.rip:
        return _RORX
    if mnemonic in ("lahf", "sahf") and len(instruction.code) > 1 and instruction.code[-2] >> 4 == 4:
        return _LAHF
    return _REASONS.get(mnemonic, "")


def _is_vex(code: bytes) -> bool:
    """Whether the first byte after the prefixes begins a VEX, EVEX or XOP encoding (or REX2: never run)."""
    for index, byte in enumerate(code):
        if byte not in _LEGACY_PREFIXES:
            if byte == 0x8F:
                return index + 1 < len(code) and code[index + 1] & 0x1F >= 8
            return byte in (0xC4, 0xC5, 0x62, 0xD5)
    return False


def limits_of_graph(graph: FunctionGraph) -> dict[int, str]:
    """The blocks of a function that cannot be checked in the emulator, with the first reason in each."""
    found: dict[int, str] = {}
    for address, block in graph.blocks.items():
        for instruction in block.instructions:
            reason = limit_of(instruction)
            if reason:
                found[address] = reason
                break
    return found


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of straight-line code as unicorn runs it: its translation block."""

    limit: str
    """Why it cannot be believed, '' if it can."""
    undefined: int
    """Flags that it leaves undefined."""
    settled: int
    """Flags whose state after it does not depend on what was before."""
    repeats: bool
    """Whether it is one repeated string instruction, which unicorn runs as a loop over itself."""


class StretchTable:
    """What is to be known of each stretch that was executed, by the key of its BLOCK record."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        """`read(address, size)` gives code bytes as loaded."""
        self._read = read
        self._known: dict[int, Stretch] = {}

    def __getitem__(self, key: int) -> Stretch:
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._examine(key & (1 << KEY_SHIFT) - 1, key >> KEY_SHIFT)
        return known

    def _examine(self, address: int, size: int) -> Stretch:
        code = self._read(address, size)
        limit, undefined, settled, repeats = "", 0, 0, False
        offset = 0
        while offset < size:
            instruction = decode(code[offset:])
            if isinstance(instruction, Undecodable):
                limit = limit or "bytes that the decoder does not know"
                break
            limit = limit or limit_of(instruction)
            effects = instruction.effects
            undefined = undefined & ~effects.kills | effects.undefined | unsure_flags(instruction)
            settled |= effects.kills | effects.undefined
            repeats = bool(instruction.rep) and offset == 0
            offset += instruction.size
        return Stretch(limit, undefined & ARITHMETIC_FLAGS, settled & ARITHMETIC_FLAGS, repeats)


def is_trap(code: bytes) -> bool:
    """Whether the instruction at the start of `code` is meant to raise an exception."""
    instruction = decode(code)
    return isinstance(instruction, Instruction) and instruction.flow is Flow.HALT
