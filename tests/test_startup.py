"""The start-up code as machine code: what it gives back, and that it is what its source says."""

from __future__ import annotations

import shutil
import struct

import pytest
from unicorn import UC_ARCH_X86, UC_HOOK_INSN, UC_MODE_64, Uc
from unicorn import x86_const as x86

from jit import datafile
from jit.startup import ALIGNMENT, Startup
from jit.startup.generate import OUTPUT, clang_major, generate

CODE, DATA, ORIGINAL, STACK = 0x40_0000, 0x10_0000, 0x20_0000, 0x7FFF_0000_0000
NAMES = [
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    *("eflags", "mxcsr", "fpcw"),
    *(f"xmm{index}" for index in range(16)),
]
REGISTERS = {name: getattr(x86, f"UC_X86_REG_{name.upper()}") for name in NAMES}
ENOENT, AT_SECURE = 2, 23
SYS_GETRLIMIT, MEBI = 97, 1 << 20


class Process:
    """Nothing but a stack and the start-up code, in the emulator; every system call fails."""

    def __init__(
        self,
        library: bool,
        environment: list[bytes],
        secure: int = 0,
        original: int | None = ORIGINAL,
        stack: int = STACK,
        limit: int = 0,
    ):
        self.limit = limit
        """Of the stack; 0 where it cannot be asked for."""
        self.top = stack + 0x10000
        self.machine = Uc(UC_ARCH_X86, UC_MODE_64)
        for address in (CODE, DATA, ORIGINAL, stack):
            self.machine.mem_map(address, 0x10000)
        code, self.entry = Startup().build(CODE, DATA, original, library)
        self.machine.mem_write(CODE, code)
        strings = stack + 0xF000
        pointers = []
        for entry in environment:
            self.machine.mem_write(strings, entry + b"\0")
            pointers.append(strings)
            strings += len(entry) + 1
        words = [1, stack + 0xEFF0, 0, *pointers, 0, 6, 4096, AT_SECURE, secure, 0, 0]
        self.stack = stack + 0x8000
        self.machine.mem_write(self.stack, struct.pack(f"<{len(words)}Q", *words))
        self.before = {name: (0x0123_4567_89AB_CDEF * (i + 3)) & (2**64 - 1) for i, name in enumerate(REGISTERS)}
        self.before |= {"rsp": self.stack, "eflags": 0x246 | 0xC95, "mxcsr": 0x7F80, "fpcw": 0x27F}
        for name, value in self.before.items():
            self.machine.reg_write(REGISTERS[name], value)
        self.calls: list[int] = []
        self.machine.hook_add(UC_HOOK_INSN, self._refuse, None, 1, 0, x86.UC_X86_INS_SYSCALL)

    def _refuse(self, machine: Uc, _data: object) -> None:
        self.calls.append(machine.reg_read(x86.UC_X86_REG_RAX))
        if self.limit and self.calls[-1] == SYS_GETRLIMIT:
            machine.mem_write(machine.reg_read(x86.UC_X86_REG_RSI), struct.pack("<2Q", self.limit, 2**64 - 1))
            machine.reg_write(x86.UC_X86_REG_RAX, 0)
        else:
            machine.reg_write(x86.UC_X86_REG_RAX, -ENOENT & (2**64 - 1))
        machine.reg_write(x86.UC_X86_REG_RCX, 0xBAD)
        machine.reg_write(x86.UC_X86_REG_R11, 0xBAD)

    def run(self, until: int) -> None:
        above = self.machine.mem_read(self.stack, self.top - self.stack)
        self.machine.emu_start(self.entry, until, count=100_000)
        assert self.machine.reg_read(x86.UC_X86_REG_RIP) == until
        after = {name: self.machine.reg_read(number) for name, number in REGISTERS.items()}
        assert after == self.before
        assert self.machine.mem_read(self.stack, len(above)) == above


@pytest.mark.parametrize(
    ("environment", "secure", "called"),
    [
        ([], 0, False),
        ([b"PATH=/bin", b"PROBELOOM_DAT=x", b"PROBELOOM_DATA", b"XPROBELOOM_DATA=x"], 0, False),
        ([b"PATH=/bin", b"PROBELOOM_DATA=x"], 1, False),
        ([b"PATH=/bin", b"PROBELOOM_DATA=x", b"HOME=/"], 0, True),
    ],
)
def test_program_start_gives_everything_back(environment: list[bytes], secure: int, called: bool) -> None:
    process = Process(library=False, environment=environment, secure=secure)
    process.run(ORIGINAL)
    assert bool(process.calls) == called


def test_library_start_gives_everything_back() -> None:
    process = Process(library=True, environment=[])
    process.run(ORIGINAL)
    assert process.calls, "a library asks the kernel for the environment"


def test_a_library_without_initialiser_returns() -> None:
    process = Process(library=True, environment=[], original=None)
    process.machine.mem_write(process.stack, struct.pack("<Q", ORIGINAL))
    process.before["rsp"] += 8
    process.machine.reg_write(x86.UC_X86_REG_RSP, process.stack)
    process.run(ORIGINAL)


@pytest.mark.parametrize(
    ("stack", "limit", "below"),
    [
        (STACK, 8 * MEBI, 6 * MEBI),
        (STACK, 1 * MEBI, 0.75 * MEBI),
        (STACK, 2**64 - 1, 6 * MEBI),
        (STACK, 0, None),
        (0x40_0080_0000, 8 * MEBI, None),
    ],
    ids=["usual", "low limit", "no limit", "limit unknown", "emulator"],
)
def test_the_owner_word(stack: int, limit: int, below: float | None) -> None:
    """Set where it is known how far down the main thread's stack may reach, and that no other lies above."""
    process = Process(library=False, environment=[], stack=stack, limit=limit)
    segment = datafile.encode(datafile.layout("prog", "", (), 8, biased=True))
    process.machine.mem_write(DATA, segment)
    process.run(ORIGINAL)
    expected = segment if below is None else datafile.owned(segment, process.stack - int(below))
    assert process.machine.mem_read(DATA, len(segment)) == expected


def test_size_and_place() -> None:
    code, entry = Startup().build(CODE, DATA, ORIGINAL, library=False)
    assert len(code) == Startup().size
    assert CODE <= entry < CODE + len(code)
    assert CODE % ALIGNMENT == 0
    moved, moved_entry = Startup().build(CODE + 0x1230, DATA + 0x1230, ORIGINAL + 0x1230, library=False)
    assert (moved, moved_entry) == (code, entry + 0x1230), "it knows nothing but distances"


@pytest.mark.needs("clang")
def test_the_ir_is_what_clang_makes_of_the_source() -> None:
    assert shutil.which("clang")
    kept = OUTPUT.read_text()
    major = int(kept.split("made by clang ", 1)[1].split(":", 1)[0])
    if clang_major() != major:
        pytest.skip(f"startup.ll was made by clang {major}, here is {clang_major()}")
    assert generate() == kept.split("\n", 1)[1], "run: python -m jit.startup.generate"
