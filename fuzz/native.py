"""The native oracle: runs machine code on the real processor, from any state, and survives what it does.

A forked child holds the code under test. It consists of one signal handler: each run begins with `rt_sigreturn`
from a signal frame that was filled with the state wanted, and ends with a signal (the `int3` after the code, or
a fault), whose frame holds the state reached. The kernel does all loading and saving of registers. States and
outcomes are in memory shared with the parent, so that a batch of any size costs two pipe messages.

In the child the only system calls possible are read, write, exit and sigreturn (strict seccomp): code that makes
another one dies, and the child is started anew. Endless loops end by a timer that counts processor time.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import signal
import struct
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from typing import Final

import llvmlite.binding as llvm
import numpy as np
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from fuzz.state import FLAGS_AT, RIP_AT, XSAVE_SIZE, Batch, Outcome, Region, Results, State, memory_places
from lifter.errors import ProbeloomError

PAGE: Final = mmap.PAGESIZE
CODE_ADDRESS: Final = 0x1000_0000
"""Where the code runs."""
CODE_SIZE: Final = 16 * PAGE
DATA: Final = Region(0x2000_0000, PAGE)
STACK: Final = Region(0x3000_0000, PAGE)
SEGMENT_BASE: Final = DATA.address
"""What fs and gs point at while the code runs."""

_TICK_MICROSECONDS: Final = 10_000
_TICKS: Final = 3
"""A run that takes this many timer ticks of processor time counts as endless."""
_PATIENCE_SECONDS: Final = 120.0
"""No batch takes this long; the child is then killed."""
_CAUGHT: Final = (
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGPROF,
)  # fmt: skip

_SIGINFO_SIZE: Final = 32
_SAVED_GREGS: Final = 24
"""Words of the frame that are kept: 16 registers, rip, flags, segments, error, trap, mask, cr2, fpstate."""
_ERROR_AT: Final = 19
_LOADED_GREGS: Final = 18
_IN_FIXED: Final = _LOADED_GREGS * 8 + XSAVE_SIZE
_OUT_FIXED: Final = _SIGINFO_SIZE + _SAVED_GREGS * 8 + XSAVE_SIZE
_PAGE_FAULT_WRITE: Final = 2
_RESUME_FLAG: Final = 1 << 16
"""Set by the processor in the frame of a fault; of no meaning to the program."""

_GO, _DONE = 1020, 1021
"""File descriptors of the child, which code under test is unlikely to name when it makes a system call."""
_HEADER: Final = struct.Struct("<10Q")
"""started, remaining, index, tick index, ticks, in, out, backing, words of memory, go byte."""

_ASSEMBLY: Final = f"""
.intel_syntax noprefix
handler:
    movabs r15, {{header}}
    mov r14, rdx
    mov r13, rsi
    cmp edi, {signal.SIGPROF.value}
    jne ended
    mov rax, [r15 + 16]
    cmp rax, [r15 + 24]
    jne new_run
    inc qword ptr [r15 + 32]
    cmp qword ptr [r15 + 32], {_TICKS}
    jb resume
    jmp ended
new_run:
    mov [r15 + 24], rax
    mov qword ptr [r15 + 32], 1
    jmp resume
ended:
    cmp qword ptr [r15], 0
    je wait_for_batch
    # signal, code, address
    mov rdi, [r15 + 48]
    mov ecx, {_SIGINFO_SIZE // 8}
    rep movsq
    # registers
    lea rsi, [r14 + 40]
    mov ecx, {_SAVED_GREGS}
    rep movsq
    mov rsi, [r14 + 40 + 184]
    mov ecx, {XSAVE_SIZE // 8}
    rep movsq
    # memory
    mov rsi, [r15 + 56]
    mov rcx, [r15 + 64]
    rep movsq
    mov [r15 + 48], rdi
    inc qword ptr [r15 + 16]
    dec qword ptr [r15 + 8]
    jnz load
wait_for_batch:
    mov eax, 1
    mov edi, {{done}}
    mov rsi, r15
    mov edx, 1
    syscall
    xor eax, eax
    mov edi, {{go}}
    lea rsi, [r15 + 72]
    mov edx, 1
    syscall
    cmp rax, 1
    jne leave
    mov qword ptr [r15], 1
    mov qword ptr [r15 + 24], -1
load:
    mov rsi, [r15 + 40]
    lea rdi, [r14 + 40]
    mov ecx, {_LOADED_GREGS}
    rep movsq
    # the kernel's own bytes 464..511 stay
    mov rdi, [r14 + 40 + 184]
    mov ecx, {464 // 8}
    rep movsq
    add rsi, 48
    add rdi, 48
    mov ecx, {(XSAVE_SIZE - 512) // 8}
    rep movsq
    mov rdi, [r15 + 56]
    mov rcx, [r15 + 64]
    rep movsq
    mov [r15 + 40], rsi
resume:
    mov rsp, r14
restorer:
    mov eax, 15
    syscall
leave:
    mov eax, 60
    xor edi, edi
    syscall
start:
    # arch_prctl: fs, gs; then prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)
    mov eax, 158
    mov edi, 0x1002
    movabs rsi, {{segment}}
    syscall
    mov eax, 158
    mov edi, 0x1001
    syscall
    mov eax, 157
    mov edi, 22
    mov esi, 1
    syscall
    int3
"""


class OracleError(ProbeloomError):
    """The native oracle cannot work here (a region's addresses are taken, no AVX, no memory)."""


@cache
def _initialise_llvm() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    return llvm.Target.from_default_triple().create_target_machine()


def _assemble(text: str) -> tuple[bytes, dict[str, int]]:
    """Machine code of `text` and the offsets of its labels."""
    machine = _initialise_llvm()
    lines = "\n".join(f'module asm "{line}"' for line in text.strip().splitlines())
    obj = ELFFile(BytesIO(machine.emit_object(llvm.parse_assembly(lines))))
    symbols, text_section = obj.get_section_by_name(".symtab"), obj.get_section_by_name(".text")
    assert isinstance(symbols, SymbolTableSection) and text_section is not None
    return text_section.data(), {symbol.name: symbol["st_value"] for symbol in symbols.iter_symbols()}


class NativeOracle:
    """Runs code on the processor. A context manager; not for use from several threads at once."""

    def __init__(
        self, regions: Sequence[Region] = (DATA, STACK), capacity: int = 1024, segment_base: int = SEGMENT_BASE
    ) -> None:
        """`regions` are mapped while the code runs; `capacity` is how many states fit in shared memory at once;
        `segment_base` is what fs and gs point at.

        Raises `OracleError` where the processor or the address space does not allow it.
        """
        self.regions = tuple(regions)
        _, self._memory_size = memory_places(self.regions)
        self._in_size = _IN_FIXED + self._memory_size
        self._out_size = _OUT_FIXED + self._memory_size
        self.capacity = capacity
        self._segment_base = segment_base
        self._in_at = PAGE
        self._out_at = self._in_at + capacity * self._in_size
        self._backing_at = _round_up(self._out_at + capacity * self._out_size)
        fixed = sum(region.size for region in self.regions if region.content is not None)
        self._code_at = self._backing_at + self._memory_size + fixed
        total = self._code_at + CODE_SIZE
        self._fd = os.memfd_create("native-oracle")
        os.ftruncate(self._fd, total)
        self._shared = mmap.mmap(self._fd, total)
        self._view = np.frombuffer(self._shared, np.uint8)
        self._base = int(self._view.ctypes.data)
        self._child = 0
        self._go = self._done = -1
        self._code = b""
        self._place_fixed_content()
        self._start()

    def __enter__(self) -> NativeOracle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child and free the shared memory."""
        self._stop()
        if self._fd >= 0:
            del self._view
            # Arrays handed out earlier are copies, so nothing holds the mapping any more.
            self._shared.close()
            os.close(self._fd)
            self._fd = -1

    def run(self, code: bytes, states: Sequence[State]) -> list[Outcome]:
        """Run `code` (at `CODE_ADDRESS`) once from each of `states`."""
        results = self.run_batch(code, Batch.of(states, self.regions))
        return [results.outcome(row, self.regions) for row in range(len(states))]

    def run_batch(self, code: bytes, batch: Batch) -> Results:
        """Run `code` once from each state of `batch`; a `rip` of 0 means the first byte of the code."""
        if len(code) >= CODE_SIZE:
            raise OracleError(f"{len(code)} bytes of code, at most {CODE_SIZE - 1} fit")
        self._set_code(code)
        count = len(batch.gregs)
        results = [
            self._run_piece(batch, start, min(start + self.capacity, count)) for start in range(0, count, self.capacity)
        ]
        out = np.concatenate(results) if results else np.zeros((0, self._out_size), np.uint8)
        return self._unpack(out, code)

    def _set_code(self, code: bytes) -> None:
        if code != self._code:
            self._view[self._code_at : self._code_at + max(len(code), len(self._code))] = 0xCC
            self._view[self._code_at : self._code_at + len(code)] = np.frombuffer(code, np.uint8)
            self._code = code

    def _run_piece(self, batch: Batch, start: int, stop: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """Outcome records of the states start..stop-1, which fit in shared memory."""
        count = stop - start
        slots = self._view[self._in_at : self._in_at + count * self._in_size].reshape(count, self._in_size)
        gregs = batch.gregs[start:stop].copy()
        gregs[:, RIP_AT] = np.where(gregs[:, RIP_AT] == 0, np.uint64(CODE_ADDRESS), gregs[:, RIP_AT])
        slots[:, : _LOADED_GREGS * 8] = gregs.view(np.uint8).reshape(count, -1)
        slots[:, _LOADED_GREGS * 8 : _IN_FIXED] = batch.xsave[start:stop]
        slots[:, _IN_FIXED:] = batch.memory[start:stop]
        out = self._view[self._out_at : self._out_at + count * self._out_size].reshape(count, self._out_size)
        out[:, :4] = 0
        done = 0
        while done < count:
            finished = self._send(done, count)
            if finished < count - done:
                # The child died in the run after those that it finished.
                status = self._restart()
                out[done + finished, :_OUT_FIXED] = 0
                out[done + finished, :4] = np.frombuffer(struct.pack("<i", -(status or 1)), np.uint8)
                finished += 1
            done += finished
        return out.copy()

    def _send(self, first: int, count: int) -> int:
        """Let the child run slots first..count-1; returns how many it finished."""
        header = (
            1, count - first, 0, 0, 0,
            self._base + self._in_at + first * self._in_size,
            self._base + self._out_at + first * self._out_size,
            self._base + self._backing_at, self._memory_size // 8, 0,
        )  # fmt: skip
        self._shared[: _HEADER.size] = _HEADER.pack(*header)
        with contextlib.suppress(BrokenPipeError):
            os.write(self._go, b"g")
        ready, _, _ = select.select([self._done], [], [], _PATIENCE_SECONDS)
        if not ready or os.read(self._done, 1) != b"\x01":
            return int(_HEADER.unpack(self._shared[: _HEADER.size])[2])
        return count - first

    def _unpack(self, out: np.ndarray[tuple[int, int], np.dtype[np.uint8]], code: bytes) -> Results:
        count = len(out)
        info = np.ascontiguousarray(out[:, :_SIGINFO_SIZE])
        words = np.ascontiguousarray(out[:, _SIGINFO_SIZE : _SIGINFO_SIZE + _SAVED_GREGS * 8]).view(np.uint64)
        signals = info.view(np.int32)[:, 0].astype(np.int64).reshape(count)
        codes = info.view(np.int32)[:, 2].astype(np.int64).reshape(count)
        gregs = words[:, :_LOADED_GREGS].copy()
        # The filler's int3 reports the address after it: such a run ended, at the filler.
        at = gregs[:, RIP_AT] - np.uint64(1)
        filler = (signals == signal.SIGTRAP) & (at >= CODE_ADDRESS + len(code)) & (at < CODE_ADDRESS + CODE_SIZE)
        gregs[:, RIP_AT] = np.where(filler, at, gregs[:, RIP_AT])
        signals[filler] = 0
        gregs[:, FLAGS_AT] &= ~np.uint64(_RESUME_FLAG)
        faulted = np.isin(signals, (signal.SIGSEGV, signal.SIGBUS))
        xsave = out[:, _SIGINFO_SIZE + _SAVED_GREGS * 8 : _OUT_FIXED].copy()
        return Results(
            Batch(gregs, xsave, out[:, _OUT_FIXED:].copy()),
            signals,
            codes,
            np.where(faulted, info.view(np.uint64)[:, 2], np.uint64(0)),
            faulted & (words[:, _ERROR_AT] & np.uint64(_PAGE_FAULT_WRITE) != 0),
        )

    def _place_fixed_content(self) -> None:
        self._view[self._code_at : self._code_at + CODE_SIZE] = 0xCC
        at = self._backing_at + self._memory_size
        for region in self.regions:
            if region.content is not None:
                self._view[at : at + len(region.content)] = np.frombuffer(region.content, np.uint8)
                at += region.size

    def _mappings(self) -> list[tuple[Region, int]]:
        """Regions, the code's too, and where their bytes stand in the shared memory."""
        places, _ = memory_places(self.regions)
        fixed_at = self._backing_at + self._memory_size
        result = [(Region(CODE_ADDRESS, CODE_SIZE, writable=False, executable=True), self._code_at)]
        for region in self.regions:
            if region.content is None:
                result.append((region, self._backing_at + places[region.address]))
            else:
                result.append((region, fixed_at))
                fixed_at += region.size
        return result

    def _start(self) -> None:
        """Fork the child and wait until it is ready."""
        go_read, self._go = os.pipe()
        self._done, done_write = os.pipe()
        text = _ASSEMBLY.format(header=self._base, go=_GO, done=_DONE, segment=self._segment_base)
        machine_code, labels = _assemble(text)
        self._shared[: _HEADER.size] = bytes(_HEADER.size)
        # One core for all oracles of a process: CPUID and RDPID tell cores apart.
        cores = sorted(os.sched_getaffinity(0))
        core = cores[os.getpid() % len(cores)]
        # The byte that the child writes to say that it is done is the low byte of 'started'.
        self._child = os.fork()
        if self._child == 0:
            try:
                os.sched_setaffinity(0, {core})
                _become_oracle(machine_code, labels, self._fd, self._mappings(), (go_read, done_write))
            finally:
                os._exit(3)
        os.close(go_read)
        os.close(done_write)
        if os.read(self._done, 1) != b"\x00":
            status = self._reap()
            self._child = 0
            raise OracleError(f"the native oracle did not start (status {status}): an address of a region is taken?")

    def _reap(self) -> int:
        """Wait for the child's end: the signal that killed it, or 0."""
        if not self._child:
            return 0
        _, status = os.waitpid(self._child, 0)
        self._child = 0
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    def _stop(self) -> int:
        if not self._child:
            return 0
        # It has nothing to tidy up. One that died before keeps the status that it died with.
        os.kill(self._child, signal.SIGKILL)
        status = self._reap()
        os.close(self._go)
        os.close(self._done)
        return status

    def _restart(self) -> int:
        status = self._stop()
        self._start()
        return status


def _round_up(size: int) -> int:
    return (size + PAGE - 1) // PAGE * PAGE


_MAP_SHARED, _MAP_PRIVATE, _MAP_ANONYMOUS, _MAP_FIXED_NOREPLACE = 0x1, 0x2, 0x20, 0x100000
_SA_SIGINFO, _SA_ONSTACK, _SA_RESTORER = 0x4, 0x08000000, 0x04000000
_SYS_RT_SIGACTION: Final = 13
_PR_SET_PDEATHSIG: Final = 1


class _KernelSigaction(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("restorer", ctypes.c_uint64),
        ("mask", ctypes.c_uint64),
    )


class _Stack(ctypes.Structure):
    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def _become_oracle(
    machine_code: bytes, labels: dict[str, int], fd: int, mappings: list[tuple[Region, int]], pipes: tuple[int, int]
) -> None:
    """In the child: map the regions, install the handler, keep only the `pipes`, and never come back."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    )  # fmt: skip
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL.value)
    for region, offset in mappings:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if region.writable else 0)
        protection |= mmap.PROT_EXEC if region.executable else 0
        flags = _MAP_SHARED | _MAP_FIXED_NOREPLACE
        if libc.mmap(region.address, region.size, protection, flags, fd, offset) != region.address:
            return
    writable = mmap.PROT_READ | mmap.PROT_WRITE
    private = _MAP_PRIVATE | _MAP_ANONYMOUS
    code = libc.mmap(None, PAGE, writable | mmap.PROT_EXEC, private, -1, 0)
    stack_size = 16 * PAGE
    stack = _Stack(libc.mmap(None, stack_size, writable, private, -1, 0), 0, stack_size)
    ctypes.memmove(code, machine_code, len(machine_code))
    libc.sigaltstack(ctypes.byref(stack), None)
    action = _KernelSigaction(
        code + labels["handler"],
        _SA_SIGINFO | _SA_ONSTACK | _SA_RESTORER,
        code + labels["restorer"],
        (1 << 64) - 1,
    )
    for number in _CAUGHT:
        libc.syscall(_SYS_RT_SIGACTION, number.value, ctypes.byref(action), None, 8)
    os.dup2(pipes[0], _GO)
    os.dup2(pipes[1], _DONE)
    os.closerange(0, _GO)
    os.closerange(_DONE + 1, os.sysconf("SC_OPEN_MAX"))
    signal.setitimer(signal.ITIMER_PROF, _TICK_MICROSECONDS / 1e6, _TICK_MICROSECONDS / 1e6)
    ctypes.CFUNCTYPE(None)(code + labels["start"])()
