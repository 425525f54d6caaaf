"""Whole functions on the processor: original and instrumented image, each mapped in a child of its own.

Every run begins from the image as loaded. What the functions call outside of it are stubs that note their arguments,
overwrite what a callee may, and return what the state says. Only with `strict` liveness, where nothing but the stack
below the function's frame may differ.
"""

from __future__ import annotations

import signal
import struct
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

import numpy as np

from codecache.types import Overlay
from fuzz.assembler import assemble
from fuzz.differences import Describer, Found, Watch, first_difference, watched_registers
from fuzz.native import PAGE, NativeOracle, OracleError
from fuzz.state import FIXED_FLAGS, Batch, Region
from jit.datafile import owned
from jit.emulate import overlay_areas, patched_areas
from jit.emulated_memory import EXECUTE, RETURN, STACK, STUBS, THREAD, WRITE, Area, EmulatedMemory, lay_out
from jit.random_state import State, random_results, random_state
from lifter.image.types import Image
from lifter.noreturn import names_noreturn
from lifter.registers import DF, RSP

MOST_WRITABLE: Final = 4 << 20
"""Bytes of writable memory that an image may have: each run brings its own."""
_LOG: Final = Region(0x2100_0000, 4 * PAGE)
"""What stubs note: the address of the next entry, then entries."""
_FIRST: Final = 64
_ENTRY: Final = struct.Struct("<10Q")
"""rdi, rsi, rdx, rcx, r8, r9, rsp, return address, number of the stub, what it returns."""
MOST_CALLS: Final = (_LOG.size - _FIRST) // _ENTRY.size
"""Calls of the outside in one run: the log has no room for more."""
_ENDS: Final = {
    int(signal.SIGTRAP): "returned, or called what never returns",
    -int(signal.SIGKILL): "made a system call",
    -int(signal.SIGSEGV): "made a system call",  # sigreturn, without a signal
}
_CAPACITY: Final = 8
_COMMON: Final = (
    "movabs rax, qword ptr [{log}]; mov qword ptr [rax], rdi; mov qword ptr [rax + 8], rsi; "
    "mov qword ptr [rax + 16], rdx; mov qword ptr [rax + 24], rcx; mov qword ptr [rax + 32], r8; "
    "mov qword ptr [rax + 40], r9; lea r10, [rsp + 8]; mov qword ptr [rax + 48], r10; mov r10, qword ptr [rsp + 8]; "
    "mov qword ptr [rax + 56], r10; pop r10; mov qword ptr [rax + 64], r10; mov rcx, qword ptr [rax + 72]; "
    "add rax, 80; movabs qword ptr [{log}], rax; mov rax, rcx; mov ecx, 0x11111111; mov edx, 0x22222222; "
    "mov esi, 0x33333333; mov edi, 0x44444444; mov r8d, 0x55555555; mov r9d, 0x66666666; mov r10d, 0x77777777; "
    "mov r11d, 0x12345678; test eax, eax; ret"
)
"""Overwrites every register that a callee may."""


class NativeFunctions:
    """Runs functions of an image and of its instrumented form. A context manager."""

    def __init__(self, image: Image, overlay: Overlay, seed: int) -> None:
        """Raises OracleError where the addresses are taken or the writable memory is too large."""
        pieces = ((overlay.code_address, overlay.code), (overlay.data_address, overlay.data))
        reserved = [(start, start + len(content)) for start, content in pieces]
        self.memory: EmulatedMemory = lay_out(image, seed, [part for part in reserved if part[0] < part[1]])
        self._seed = seed
        self._beside = [(start + self.memory.base, end + self.memory.base + PAGE) for start, end in reserved]
        """Where the one image ends in nothing and the other has what was added to it."""
        areas = [area for area in self.memory.areas if area.address != STUBS]
        base = self.memory.base
        if seed % 2:  # as by the main thread; otherwise as by another
            overlay = replace(overlay, data=owned(overlay.data, STACK))
        added = overlay_areas(overlay, base)
        stubs = _stubs(self.memory)
        writable = [area for area in areas if area.access & WRITE]
        self._initial = b"".join(area.data for area in writable)
        if len(self._initial) > MOST_WRITABLE:
            raise OracleError("more writable memory than each run can bring")
        self._common = (*map(_region, writable), _LOG)
        private = [_region(area) for area in added if area.access & WRITE]
        fixed = [_region(area) for area in areas if not area.access & WRITE]
        changed = [_region(area) for area in patched_areas(areas, overlay, base) if not area.access & WRITE]
        cached = [_region(area) for area in added if not area.access & WRITE]
        self._added = b"".join(area.data for area in added if area.access & WRITE)
        self._original = NativeOracle((*self._common, *fixed, stubs), _CAPACITY, THREAD)
        try:
            self._instrumented = NativeOracle((*self._common, *private, *changed, *cached, stubs), _CAPACITY, THREAD)
        except BaseException:
            self._original.close()
            raise

    def __enter__(self) -> NativeFunctions:
        return self

    def __exit__(self, *_: object) -> None:
        self._original.close()
        self._instrumented.close()

    def state(self, number: int) -> State:
        """State `number`: the one of `jit.verify`."""
        return random_state(self.memory, self._seed, number)

    def check(self, address: int, numbers: Sequence[int]) -> tuple[Found | None, dict[str, int]]:
        """Run the function at `address` (of the file) from states; the first difference, and how runs ended."""
        states = [self.state(number) for number in numbers]
        before = self._batch(address, states, b"")
        original = self._original.run_batch(b"\xcc", before)
        found = self._instrumented.run_batch(b"\xcc", self._batch(address, states, self._added))
        width = before.memory.shape[1]
        lifted = replace(found, final=Batch(found.final.gregs, found.final.xsave, found.final.memory[:, :width]))
        entry = before.gprs[:, RSP]
        watch = Watch(watched_registers(), np.full(len(states), DF, np.uint64), entry, self._common, (), STACK)
        ends: dict[str, int] = {}
        for number in original.signal.tolist():
            name = _ENDS.get(number) or signal.Signals(number).name
            ends[name] = ends.get(name, 0) + 1
        for start, end in self._beside:
            beside = (original.fault_address >= start) & (original.fault_address < end)
            original.signal[beside] = signal.SIGPROF
        while True:
            difference = first_difference(before, original, lifted, watch, Describer((), before))
            if difference is None or not self._reads_dead_stack(address, states, difference.row):
                return difference, ends
            original.signal[difference.row] = signal.SIGPROF

    def _reads_dead_stack(self, address: int, states: Sequence[State], row: int) -> bool:
        """Whether the original itself does something else where the stack below it holds something else."""
        first = self._batch(address, [states[row]], b"")
        other = self._batch(address, [states[row]], b"")
        at = self._column(STACK)
        top = int(first.gprs[0, RSP]) - STACK
        noise = np.random.default_rng(row).integers(0, 256, top, np.uint8)
        other.memory[0, at : at + top] = noise
        results = [self._original.run_batch(b"\xcc", batch) for batch in (first, other)]
        watch = Watch(watched_registers(), np.full(1, DF, np.uint64), first.gprs[:, RSP], self._common, (), STACK)
        return first_difference(first, results[0], results[1], watch, Describer((), first)) is not None

    def _column(self, address: int) -> int:
        at = 0
        for region in self._common:
            if region.address == address:
                return at
            at += region.size
        raise KeyError(address)

    def _batch(self, address: int, states: Sequence[State], more: bytes) -> Batch:
        content = np.frombuffer(self._initial + bytes(_LOG.size) + more, np.uint8)
        batch = Batch.zeros(len(states), len(content))
        batch.memory[:] = content
        gprs = np.array([state.registers for state in states], np.uint64)
        batch.set_gprs(gprs)
        batch.rip[:] = np.uint64(address + self.memory.base)
        log, stack = self._column(_LOG.address), self._column(STACK)
        back = self.memory.stub_address(RETURN)
        for row, state in enumerate(states):
            batch.flags[row] = FIXED_FLAGS | state.flags
            vectors = b"".join(value.to_bytes(16, "little") for value in state.vectors)
            batch.xmm[row] = np.frombuffer(vectors, np.uint8).reshape(16, 16)
            at = stack + state.registers[RSP] - STACK
            batch.memory[row, at : at + 8] = np.frombuffer(back.to_bytes(8, "little"), np.uint8)
            entries = self._entries(state)
            batch.memory[row, log : log + len(entries)] = np.frombuffer(entries, np.uint8)
        return batch

    def _entries(self, state: State) -> bytes:
        """The log as it begins: where the first entry goes, and what each call returns."""
        results = islice(random_results(self.memory, state.seed), MOST_CALLS)
        entries = [_ENTRY.pack(*(0,) * 9, result) for result in results]
        return (_LOG.address + _FIRST).to_bytes(8, "little").ljust(_FIRST, b"\0") + b"".join(entries)


def _region(area: Area) -> Region:
    writable = bool(area.access & WRITE)
    content = None if writable else area.data
    return Region(area.address, len(area.data), writable, bool(area.access & EXECUTE), content)


def _stubs(memory: EmulatedMemory) -> Region:
    """The stubs of the outside as code that runs: they go on to one piece behind them all."""
    size = memory.stub_address(memory.stubs[-1]) + 16 - STUBS
    end = -(-size // 16) * 16
    content = bytearray(b"\xcc" * end)
    for number, name in enumerate(memory.stubs):
        if name != RETURN and not names_noreturn(name):
            at = 16 * number
            jump = (end - at - 10).to_bytes(4, "little")
            content[at : at + 10] = b"\x68" + number.to_bytes(4, "little") + b"\xe9" + jump
    (common,) = assemble([_COMMON.format(log=_LOG.address)])
    content += common
    content += b"\xcc" * (-len(content) % PAGE)
    return Region(STUBS, len(content), writable=False, executable=True, content=bytes(content))
