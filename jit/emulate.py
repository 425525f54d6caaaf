"""One side of a comparison: an image, original or instrumented, that runs functions from given states in unicorn."""

from __future__ import annotations

import ctypes
import enum
import random
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from unicorn import (
    UC_ARCH_X86,
    UC_HOOK_BLOCK,
    UC_HOOK_CODE,
    UC_HOOK_MEM_PROT,
    UC_HOOK_MEM_READ,
    UC_HOOK_MEM_UNMAPPED,
    UC_MODE_64,
    Uc,
    unicorn_const,
    x86_const,
)
from unicorn.unicorn_py3.unicorn import uclib

from codecache.types import Overlay
from jit import event_log
from jit.emulated_memory import (
    EXECUTE,
    PAGE,
    READ,
    RETURN,
    STACK,
    STACK_ENTRY,
    STACK_SIZE,
    STUBS,
    THREAD,
    WRITE,
    Area,
    EmulatedMemory,
)
from jit.event_log import EventLog
from jit.random_state import State, random_results
from lifter.noreturn import names_noreturn
from lifter.registers import R8, R9, R10, R11, RAX, RCX, RDI, RDX, RSI, RSP

CPU: Final = x86_const.UC_CPU_X86_SKYLAKE_CLIENT
"""The emulated model with the most of today's instructions that unicorn can run."""
MXCSR, FPCW = 0x1F80, 0x37F
"""What the kernel starts a process with; unicorn starts with zeros."""
CODE_BYTES: Final = 32_000
"""Code that one run executes, some 8,000 instructions, before it ends with `ExitKind.BUDGET`."""
BLOCKS: Final = 16
"""Pieces of memory mapped on demand in one run, before it ends with `ExitKind.BUDGET`."""
_SCRIBBLED: Final = 1024
"""Bytes of dead stack that `Machine(scribble=...)` changes before each block."""
_NO_BLOCKS: Final = "memory"
_BLOCKS_KEPT: Final = 60
"""Unicorn maps slower the more is mapped: beyond this number, what was mapped on demand is unmapped again."""
_NOWHERE: Final = STUBS - PAGE
"""Where emulation would end by itself; nothing is mapped there."""
CALLS_PER_RUN: Final = 50
"""Calls of the outside in one run, if nothing else is said, before it ends with `ExitKind.BUDGET`."""


INVALID: Final = "invalid instruction"
"""Target of a `ExitKind.TRAP` exit at an instruction that unicorn does not know, or that is meant to trap."""
BESIDE: Final = "memory beside the image"
"""Target of a `ExitKind.FAULT` exit where an access went to where the overlay is on the other side."""
SPENT: Final = "instructions"
"""Target of a `ExitKind.BUDGET` exit where the allowed amount of code was executed."""


class ExitKind(enum.Enum):
    """How control leaves the emulated code."""

    RETURN = "returned"
    CALL = "called the outside"
    """Call of (or jump to) a stub; the run goes on unless the callee never returns."""
    JUMP = "jumped out"
    """Control went to where there is no code."""
    SYSCALL = "made a system call"
    FAULT = "faulted"
    """A memory access that stays forbidden."""
    TRAP = "trapped"
    """An exception of the processor, or an interrupt instruction."""
    BUDGET = "ran on"
    """Stopped by us: too long, too many pages. The state means nothing then."""


SNAPSHOT: Final = 71
"""Words of a snapshot: 16 general-purpose registers, RFLAGS, MXCSR, x87 control, status and tag words, the word
at RSP (of calls), xmm0 to xmm15 by two, the x87 stack by two, and RIP (differs between sides)."""
FLAGS_WORD, MXCSR_WORD, TOP_WORD, VECTOR_WORD, X87_WORD, PC_WORD = 16, 17, 21, 22, 54, 70
_CLOBBERED: Final = np.array([RCX, RDX, RSI, RDI, R8, R9, R10, R11, *range(VECTOR_WORD, VECTOR_WORD + 32)], np.intp)
"""Words of a snapshot that functions of the outside do not preserve, besides the result in rax."""
_CLOBBERS: Final = np.random.default_rng(0).integers(0, 1 << 64, (16, len(_CLOBBERED)), np.uint64)
_NAMED = (
    *(getattr(x86_const, f"UC_X86_REG_{name}") for name in (
        "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15",
        "RFLAGS", "MXCSR", "FPCW", "FPSW", "FPTAG",
    )),
)  # fmt: skip
_VECTORS = tuple(x86_const.UC_X86_REG_XMM0 + i for i in range(16))
_STACK = tuple(x86_const.UC_X86_REG_ST0 + i for i in range(8))


@dataclass(frozen=True, slots=True)
class Exit:
    """Control left the emulated code."""

    kind: ExitKind
    target: str
    """What it left to: a stub's name, an address, what faulted."""
    position: int
    """Number of records in the log before it."""
    registers: npt.NDArray[np.uint64]
    """`SNAPSHOT` words."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one side did."""

    records: npt.NDArray[np.void]
    """Of dtype `event_log.RECORD`; valid until the machine runs again."""
    exits: tuple[Exit, ...]
    """In order; the last one ended the run."""


class _Registers:
    """A batch of registers, read or written in one call, over an array of 64-bit words."""

    def __init__(self, handle: ctypes.c_void_p, places: dict[int, int]) -> None:
        """`places` maps unicorn's register numbers to word indexes."""
        self.words = np.zeros(SNAPSHOT, np.uint64)
        self._handle = handle
        self._count = len(places)
        self._numbers = (ctypes.c_int * len(places))(*places)
        start = self.words.ctypes.data
        self._pointers = (ctypes.c_void_p * len(places))(*(start + 8 * word for word in places.values()))

    def read(self) -> None:
        uclib.uc_reg_read_batch(self._handle, self._numbers, self._pointers, self._count)

    def write(self) -> None:
        uclib.uc_reg_write_batch(self._handle, self._numbers, self._pointers, self._count)


class Machine:
    """An image mapped into unicorn, with an overlay applied or without."""

    def __init__(self, memory: EmulatedMemory, overlay: Overlay | None = None, scribble: int | None = None) -> None:
        """With `scribble`, memory further below RSP than that many bytes keeps changing while code runs: see `run`.

        Raises ValueError if the overlay's patches do not fit the image.
        """
        self.memory = memory
        self._uc: Any = Uc(UC_ARCH_X86, UC_MODE_64, CPU)
        self.log = EventLog()
        self.log.attach(self._uc)
        self._uc.hook_add(UC_HOOK_MEM_UNMAPPED, self._on_unmapped)
        self._uc.hook_add(UC_HOOK_MEM_PROT, self._on_forbidden)
        self._scribbler = random.Random()
        self._dead_stack: bytes | None = None
        if scribble is not None:
            self._uc.hook_add(UC_HOOK_BLOCK, self._scribble, scribble)
        areas = list(memory.areas)
        if overlay is not None:
            areas = patched_areas(areas, overlay, memory.base) + overlay_areas(overlay, memory.base)
        self._areas = areas
        for area in areas:
            self._uc.mem_map(area.address, len(area.data), area.access)
            self._uc.mem_write(area.address, area.data)
        self._pristine: dict[int, bytes] = {}
        self._extra: dict[int, bytes] = {}
        self._scribbled: set[int] = set()
        self._blocks_left = 0
        self._fault = ""
        self._buffer = ctypes.create_string_buffer(8)
        named = {number: index for index, number in enumerate(_NAMED)}
        vectors = {number: VECTOR_WORD + 2 * index for index, number in enumerate(_VECTORS)}
        x87 = {number: X87_WORD + 2 * index for index, number in enumerate(_STACK)}
        pc = {x86_const.UC_X86_REG_RIP: PC_WORD}
        handle = self._uc._uch
        self._handle = handle
        self._all = _Registers(handle, named | vectors | x87 | pc)
        general = dict(list(named.items())[: FLAGS_WORD + 1])
        self._entry = _Registers(handle, general | vectors)
        self._uc.reg_write(x86_const.UC_X86_REG_MXCSR, MXCSR)
        self._uc.reg_write(x86_const.UC_X86_REG_FPCW, FPCW)
        self._uc.reg_write(x86_const.UC_X86_REG_FS_BASE, THREAD)
        self._start = self._uc.context_save()

    def read(self, address: int, size: int) -> bytes:
        """Memory as it is now. Raises unicorn's UcError where nothing is mapped."""
        return bytes(self._uc.mem_read(address, size))

    def code_at(self, address: int, size: int) -> bytes:
        """Up to `size` bytes of what is mapped at `address` from the start; b'' outside."""
        for area in self._areas:
            if area.address <= address < area.end:
                return area.data[address - area.address : address - area.address + size]
        return b""

    def observe(self, instructions: list[tuple[int, int]], reads: list[tuple[int, int, int]]) -> None:
        """Note every instruction as (records so far, address), and reads from code as (records so far, address, size).

        Call it before the first run.
        """
        self._uc.hook_add(UC_HOOK_CODE, lambda uc, address, size, _: instructions.append((len(self.log), address)))
        for area in self._areas:
            if area.access & EXECUTE:
                self._uc.hook_add(
                    UC_HOOK_MEM_READ,
                    lambda uc, access, address, size, value, _: reads.append((len(self.log), address, size)),
                    None,
                    area.address,
                    area.end - 1,
                )

    def run(
        self,
        entry: int,
        state: State,
        code_bytes: int = CODE_BYTES,
        blocks: int = BLOCKS,
        calls: int = CALLS_PER_RUN,
        dead_stack: bytes | None = None,
    ) -> Run:
        """Run from `entry` (as loaded) until control leaves for good, or a budget is spent.

        `dead_stack` is what a machine that scribbles finds below RSP, for the whole stack; otherwise it is noise.
        The memory that it leaves can be read until the next run, which begins with the first memory again.
        """
        self._restore_memory()
        self.log.clear(code_bytes)
        self._blocks_left = blocks
        self._scribbler.seed(state.seed)
        self._dead_stack = dead_stack
        self._set(state)
        exits: list[Exit] = []
        results = random_results(self.memory, state.seed)
        pc = entry
        while True:
            self._fault = ""
            status = uclib.uc_emu_start(self._handle, pc, _NOWHERE, 0, 0)
            left = self._leave(status)
            if len(exits) >= calls:
                left = replace(left, kind=ExitKind.BUDGET, target="calls")
            exits.append(left)
            if left.kind is not ExitKind.CALL or names_noreturn(left.target):
                return Run(self.log.records(), tuple(exits))
            pc = self._return_from_stub(left, next(results), _CLOBBERS[len(exits) % len(_CLOBBERS)])

    def _set(self, state: State) -> None:
        self._uc.context_restore(self._start)
        words = self._entry.words
        words[:16] = state.registers
        words[FLAGS_WORD] = state.flags
        for index, value in enumerate(state.vectors):
            words[VECTOR_WORD + 2 * index] = value & 0xFFFFFFFFFFFFFFFF
            words[VECTOR_WORD + 2 * index + 1] = value >> 64
        self._entry.write()
        back = self.memory.stub_address(RETURN)
        self._uc.mem_write(state.registers[RSP], back.to_bytes(8, "little"))

    def _leave(self, status: int) -> Exit:
        """Find out why emulation stopped."""
        self._all.read()
        words = self._all.words.copy()
        position = len(self.log)
        kind, target = self._reason(status, int(words[PC_WORD]))
        if kind is ExitKind.CALL:
            words[TOP_WORD] = int.from_bytes(self._word(int(words[RSP])), "little")
        return Exit(kind, target, position, words)

    def _reason(self, status: int, pc: int) -> tuple[ExitKind, str]:
        last = self.log.records()[-1] if len(self.log) else None
        if self._fault:
            return ExitKind.BUDGET if self._fault == _NO_BLOCKS else ExitKind.FAULT, self._fault
        if status == unicorn_const.UC_ERR_FETCH_UNMAPPED or status == unicorn_const.UC_ERR_FETCH_PROT:
            return ExitKind.JUMP, f"{pc:#x}"
        if status:
            return ExitKind.TRAP, INVALID if status == unicorn_const.UC_ERR_INSN_INVALID else f"status {status}"
        if last is not None and last["kind"] == event_log.INTERRUPT:
            return ExitKind.TRAP, f"interrupt {last['value']}"
        if last is not None and last["kind"] == event_log.SYSCALL:
            return ExitKind.SYSCALL, "syscall"
        stub = self.memory.stub_at(pc - 1)
        if stub is not None:
            return (ExitKind.RETURN if stub == RETURN else ExitKind.CALL), stub
        if self.log.spent:
            return ExitKind.BUDGET, SPENT
        if self.log.full:
            return ExitKind.BUDGET, "full log"
        return ExitKind.TRAP, "hlt"

    def _return_from_stub(self, left: Exit, result: int, clobbers: npt.NDArray[np.uint64]) -> int:
        """Do what an outside function does as far as its caller can tell; the address to go on at."""
        words = self._entry.words
        words[:] = left.registers
        words[RSP] += 8
        words[RAX] = result
        words[FLAGS_WORD] = 0x202
        words[_CLOBBERED] = clobbers
        self._entry.write()
        return int(left.registers[TOP_WORD])

    def _word(self, address: int) -> bytes:
        unreadable = uclib.uc_mem_read(self._handle, address, self._buffer, 8)
        return bytes(8) if unreadable else self._buffer.raw

    def _restore_memory(self) -> None:
        """Undo the writes of the last run."""
        records = self.log.records()
        written = records["kind"] == event_log.WRITE
        places = records["place"][written]
        pages = set(np.unique(places >> np.uint64(12)).tolist())
        pages.update(np.unique((places + records["size"][written] - np.uint64(1)) >> np.uint64(12)).tolist())
        pages.add((STACK_ENTRY >> 12) - 1)
        pages |= self._scribbled
        self._scribbled.clear()
        if len(self._extra) > _BLOCKS_KEPT:
            for start, content in self._extra.items():
                self._uc.mem_unmap(start, len(content))
            self._extra.clear()
        for page in pages:
            content = self._pristine.get(page) or self._original(page << 12)
            if content:
                uclib.uc_mem_write(self._handle, page << 12, content, PAGE)

    def _original(self, address: int) -> bytes:
        """The page at `address` before any run; b'' where nothing is mapped."""
        content = self.code_at(address, PAGE)
        if content:
            self._pristine[address >> 12] = content
            return content
        block = self.memory.on_demand(address)
        if block is None or block[0] not in self._extra:
            return b""
        return block[1][address - block[0] : address - block[0] + PAGE]

    def _on_unmapped(self, uc: Uc, access: int, address: int, size: int, value: int, _: object) -> bool:
        """Map a scratch page where code that goes on plausibly would find memory."""
        if access == unicorn_const.UC_MEM_FETCH_UNMAPPED:
            return False
        block = self.memory.on_demand(address)
        if block is None and self.memory.is_closed(address, address + size):
            self._fault = BESIDE
            return False
        if block is None:
            self._fault = f"{'read of' if access == unicorn_const.UC_MEM_READ_UNMAPPED else 'write to'} {address:#x}"
            return False
        if not self._blocks_left:
            self._fault = _NO_BLOCKS
            return False
        self._blocks_left -= 1
        start, content = block
        uc.mem_map(start, len(content), READ | WRITE)
        uc.mem_write(start, content)
        self._extra[start] = content
        return True

    def _on_forbidden(self, uc: Uc, access: int, address: int, size: int, value: int, _: object) -> bool:
        if access != unicorn_const.UC_MEM_FETCH_PROT:
            self._fault = f"forbidden access to {address:#x}"
        return False

    def _scribble(self, uc: Uc, address: int, size: int, red_zone: int) -> None:
        end = int(uc.reg_read(x86_const.UC_X86_REG_RSP)) - red_zone
        if STACK + _SCRIBBLED <= end < STACK + STACK_SIZE:
            known = self._dead_stack
            dead = known[end - _SCRIBBLED - STACK : end - STACK] if known else self._scribbler.randbytes(_SCRIBBLED)
            uc.mem_write(end - _SCRIBBLED, dead)
            self._scribbled.update((end - _SCRIBBLED >> 12, end - 1 >> 12))


class Tracer:
    """A machine that notes every instruction and every read of code as data: slow, for looking at one run."""

    def __init__(self, memory: EmulatedMemory, overlay: Overlay | None) -> None:
        self.machine = Machine(memory, overlay)
        self._instructions: list[tuple[int, int]] = []
        self._reads: list[tuple[int, int, int]] = []
        self.machine.observe(self._instructions, self._reads)

    def instructions(self, entry: int, state: State, code_bytes: int) -> list[tuple[int, int]]:
        """Every instruction of a run as (number of memory writes before it, address)."""
        writes = self._run(entry, state, code_bytes)
        return [(writes[records], address) for records, address in self._instructions]

    def reads(
        self, entry: int, state: State, code_bytes: int, calls: int = CALLS_PER_RUN
    ) -> list[tuple[int, int, int]]:
        """Every read from executable memory as (number of memory writes before it, address, size)."""
        writes = self._run(entry, state, code_bytes, calls)
        return [(writes[records], address, size) for records, address, size in self._reads]

    def _run(self, entry: int, state: State, code_bytes: int, calls: int = CALLS_PER_RUN) -> list[int]:
        """How many writes are among so many first records: other records differ where every instruction is watched."""
        self._instructions.clear()
        self._reads.clear()
        records = self.machine.run(entry, state, code_bytes, 8 * BLOCKS, calls).records
        return [0, *np.cumsum(records["kind"] == event_log.WRITE).tolist()]


def patched_areas(areas: list[Area], overlay: Overlay, base: int) -> list[Area]:
    """The areas with the overlay's patches written."""
    result = []
    contents = {area.address: bytearray(area.data) for area in areas if area.access & EXECUTE}
    for patch in overlay.patches:
        address = patch.address + base
        area = next((a for a in areas if a.address <= address and address + len(patch.after) <= a.end), None)
        if area is None or area.address not in contents or len(patch.before) != len(patch.after):
            raise ValueError(f"the patch at {patch.address:#x} is not inside the image's code")
        at = address - area.address
        if area.data[at : at + len(patch.before)] != patch.before:
            raise ValueError(f"the patch at {patch.address:#x} expects other bytes than the image has")
        contents[area.address][at : at + len(patch.after)] = patch.after
    for area in areas:
        content = contents.get(area.address)
        result.append(area if content is None else Area(area.address, bytes(content), area.access))
    return result


def overlay_areas(overlay: Overlay, base: int) -> list[Area]:
    """What an overlay adds to an image that is loaded at `base`."""
    parts = (
        (overlay.code_address, overlay.code, READ | EXECUTE),
        (overlay.data_address, overlay.data, READ | WRITE),
    )
    return [Area(address + base, data + bytes(-len(data) % PAGE), access) for address, data, access in parts if data]
