"""The second oracle: runs machine code in unicorn, with the same interface as the native one, and sees what that one
cannot: the order of memory writes.

It is to be asked where `jit.emulation_limits` does not say that unicorn is wrong. States go in by an `fxrstor` and come
out by an `fxsave` that are emulated themselves, which is the one way to move all of the x87 state.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from unicorn import UC_ARCH_X86, UC_HOOK_MEM_INVALID, UC_MODE_64, Uc, unicorn_const, x86_const
from unicorn.unicorn_py3.unicorn import uclib

from fuzz.native import CODE_ADDRESS, CODE_SIZE, DATA, PAGE, SEGMENT_BASE, STACK
from fuzz.processor import LEGACY_SIZE
from fuzz.state import FLAGS_AT, GREGS, RIP_AT, Batch, Region, Results, memory_places
from jit import event_log
from jit.emulate import CPU
from jit.event_log import EventLog

CODE_BYTES: Final = 4000
"""Code that one run may execute: beyond it counts as endless."""
_GENEROUS: Final = 20
_SCRATCH: Final = 0x0800_0000
"""A page of ours: the x87 and SSE image, and the code that loads and saves it."""
_LOAD_AT, _SAVE_AT = _SCRATCH + 0x800, _SCRATCH + 0x900
_ENTRY_AT: Final = _SCRATCH + 0x700
"""Where the code under test begins, for the jump after loading."""
_LOAD: Final = bytes.fromhex("480fae0c25") + _SCRATCH.to_bytes(4, "little")
_JUMP: Final = bytes.fromhex("ff2425") + _ENTRY_AT.to_bytes(4, "little")
_SAVE: Final = bytes.fromhex("480fae0425") + _SCRATCH.to_bytes(4, "little")
_SAVED: Final = 416
"""Bytes of the image that the processor writes."""
_NOWHERE: Final = 0x1000
_NAMES: Final = ("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", *(f"R{i}" for i in range(8, 16)))
_REGISTERS: Final = (
    *(getattr(x86_const, f"UC_X86_REG_{_NAMES[index]}") for index in GREGS),
    x86_const.UC_X86_REG_RIP,
    x86_const.UC_X86_REG_RFLAGS,
)
"""In the order of `Batch.gregs`."""
_SIGNALS: Final = {0: signal.SIGFPE, 1: signal.SIGTRAP, 3: signal.SIGTRAP, 6: signal.SIGILL, 16: signal.SIGFPE,
                   19: signal.SIGFPE}  # fmt: skip
"""Of the processor's exceptions by number; others are SIGSEGV."""
_WRITES: Final = (unicorn_const.UC_MEM_WRITE_UNMAPPED, unicorn_const.UC_MEM_WRITE_PROT)
_PROTECTION: Final = (unicorn_const.UC_MEM_WRITE_PROT, unicorn_const.UC_MEM_READ_PROT, unicorn_const.UC_MEM_FETCH_PROT)

Write = tuple[int, int, int]
"""(address, size, value) of a write to memory, at most 8 bytes of it."""


@dataclass(slots=True)
class Emulated:
    """What became of a batch in the emulator."""

    results: Results
    writes: list[list[Write]]
    """Of each run, in order."""


class EmulatedOracle:
    """Runs code in unicorn. Not for use from several threads at once."""

    def __init__(self, regions: Sequence[Region] = (DATA, STACK)) -> None:
        """`regions` are mapped while the code runs, besides the code's."""
        self.regions = tuple(regions)
        self._places, self._memory_size = memory_places(self.regions)
        self._uc: Any = Uc(UC_ARCH_X86, UC_MODE_64, CPU)
        self._handle = self._uc._uch
        self._log = EventLog(1 << 16)
        self._log.attach(self._uc)
        self._uc.hook_add(UC_HOOK_MEM_INVALID, self._on_fault)
        self._uc.mem_map(CODE_ADDRESS, CODE_SIZE, unicorn_const.UC_PROT_READ | unicorn_const.UC_PROT_EXEC)
        self._uc.mem_map(_SCRATCH, PAGE)
        self._uc.mem_write(_LOAD_AT, _LOAD + _JUMP)
        self._uc.mem_write(_SAVE_AT, _SAVE)
        for region in self.regions:
            access = unicorn_const.UC_PROT_READ | (unicorn_const.UC_PROT_WRITE if region.writable else 0)
            self._uc.mem_map(region.address, region.size, access)
            if region.content is not None:
                self._uc.mem_write(region.address, region.content)
        self._uc.reg_write(x86_const.UC_X86_REG_FS_BASE, SEGMENT_BASE)
        self._uc.reg_write(x86_const.UC_X86_REG_GS_BASE, SEGMENT_BASE)
        self._gregs = np.zeros(len(_REGISTERS), np.uint64)
        start = self._gregs.ctypes.data
        self._numbers = (ctypes.c_int * len(_REGISTERS))(*_REGISTERS)
        self._pointers = (ctypes.c_void_p * len(_REGISTERS))(*(start + 8 * i for i in range(len(_REGISTERS))))
        self._buffer = ctypes.create_string_buffer(max(LEGACY_SIZE, *(region.size for region in self.regions)))
        self._content: NDArray[np.uint8] = np.frombuffer(memoryview(self._buffer), np.uint8)
        self._start = self._uc.context_save()
        self._now: NDArray[np.uint8] | None = None
        """What the memory holds; None where code has written to it."""
        self._budget = CODE_BYTES
        self._fault: tuple[int, int] | None = None
        self._code = b""

    def run_batch(self, code: bytes, batch: Batch, ambient: bool = True, generous_from: int | None = None) -> Emulated:
        """Run `code` once from each state of `batch`; a `rip` of 0 means the first byte of the code.

        Without `ambient`, vectors, x87 and MXCSR are neither loaded nor looked at: for code that does not name them.
        From row `generous_from` on, runs may take longer than before: lifted code executes more than the original.
        """
        self._set_code(code)
        count = len(batch.gregs)
        final = Batch(batch.gregs.copy(), batch.xsave.copy(), batch.memory.copy())
        signals, codes = np.zeros(count, np.int64), np.zeros(count, np.int64)
        addresses, faults = np.zeros(count, np.uint64), np.zeros(count, bool)
        writes = []
        for row in range(count):
            generous = generous_from is not None and row >= generous_from
            self._budget = CODE_BYTES * (_GENEROUS if generous else 1)
            found = self._run(batch, row, ambient)
            final.gregs[row] = self._gregs
            signals[row], codes[row], addresses[row], faults[row] = found
            writes.append(self._writes())
            if writes[-1]:
                self._read_memory(final, row)
                self._now = None
            if ambient:
                self._save(final.xsave[row])
        return Emulated(Results(final, signals, codes, addresses, faults), writes)

    def _set_code(self, code: bytes) -> None:
        if code != self._code:
            self._uc.mem_write(CODE_ADDRESS, code + b"\xcc" * max(1, len(self._code) - len(code)))
            if not self._code:
                self._uc.mem_write(CODE_ADDRESS + len(code), b"\xcc" * (CODE_SIZE - len(code)))
            self._uc.ctl_remove_cache(CODE_ADDRESS, CODE_ADDRESS + CODE_SIZE)
            self._code = code

    def _run(self, batch: Batch, row: int, ambient: bool) -> tuple[int, int, int, bool]:
        """Run one state; signal, si_code, address and whether it was a write, as far as unicorn tells."""
        memory = batch.memory[row]
        if self._now is None or not np.array_equal(self._now, memory):
            for region in self.regions:
                if region.content is None:
                    at = self._places[region.address]
                    self._write(region.address, memory[at : at + region.size])
            self._now = memory.copy()
        if ambient:
            self._write(_SCRATCH, batch.xsave[row, :LEGACY_SIZE])
        # What an exception leaves behind would make the next one a double fault.
        uclib.uc_context_restore(self._handle, self._start.context)
        self._gregs[:] = batch.gregs[row]
        entry = int(self._gregs[RIP_AT]) or CODE_ADDRESS
        if ambient:
            self._write(_ENTRY_AT, np.array([entry], np.uint64))
        uclib.uc_reg_write_batch(self._handle, self._numbers, self._pointers, len(_REGISTERS))
        self._log.clear(self._budget)
        self._fault = None
        status = uclib.uc_emu_start(self._handle, _LOAD_AT if ambient else entry, _NOWHERE, 0, 0)
        uclib.uc_reg_read_batch(self._handle, self._numbers, self._pointers, len(_REGISTERS))
        self._gregs[FLAGS_AT] |= np.uint64(0x200)
        return self._ending(status)

    def _ending(self, status: int) -> tuple[int, int, int, bool]:
        if self._fault is not None:
            access, address = self._fault
            return signal.SIGSEGV, 2 if access in _PROTECTION else 1, address, access in _WRITES
        records = self._log.records()
        if len(records) and records[-1]["kind"] == event_log.INTERRUPT:
            return _SIGNALS.get(int(records[-1]["value"]), signal.SIGSEGV), 0, 0, False
        if len(records) and records[-1]["kind"] == event_log.SYSCALL:
            return signal.SIGSYS, 0, 0, False
        if status == unicorn_const.UC_ERR_OK:
            return signal.SIGPROF, 0, 0, False
        if status in (unicorn_const.UC_ERR_FETCH_UNMAPPED, unicorn_const.UC_ERR_FETCH_PROT):
            return signal.SIGSEGV, 1, int(self._gregs[RIP_AT]), False
        return signal.SIGILL, 0, 0, False

    def _writes(self) -> list[Write]:
        records = self._log.records()
        records = records[records["kind"] == event_log.WRITE]
        return list(zip(*(records[name].tolist() for name in ("place", "size", "value")), strict=True))

    def _read_memory(self, final: Batch, row: int) -> None:
        for region in self.regions:
            if region.content is None:
                at = self._places[region.address]
                final.memory[row, at : at + region.size] = self._read(region.address, region.size)

    def _save(self, image: NDArray[np.uint8]) -> None:
        """Read the x87 and SSE state into the first bytes of `image`, an XSAVE image."""
        self._log.clear(CODE_BYTES)
        uclib.uc_emu_start(self._handle, _SAVE_AT, _SAVE_AT + len(_SAVE), 0, 1)
        image[:_SAVED] = self._read(_SCRATCH, _SAVED)

    def _write(self, address: int, content: NDArray[Any]) -> None:
        status = uclib.uc_mem_write(self._handle, address, content.tobytes(), content.nbytes)
        assert status == 0, status

    def _read(self, address: int, size: int) -> NDArray[np.uint8]:
        """A view of a buffer that the next call overwrites."""
        uclib.uc_mem_read(self._handle, address, self._buffer, size)
        return self._content[:size]

    def _on_fault(self, uc: Uc, access: int, address: int, size: int, value: int, _: object) -> bool:
        self._fault = (access, address)
        return False
