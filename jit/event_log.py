"""What happens inside the emulator, written down by native code: blocks executed, memory written, traps.

A Python function called for every memory write costs more than a microsecond each time. These hooks are a
few lines of LLVM IR, compiled when first needed; they append 32-byte records to an array that numpy reads
after the run.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
from unicorn import Uc, unicorn_const, x86_const
from unicorn.unicorn_py3.unicorn import uc_hook_h, uclib

WRITE: Final = 1
"""A write to memory: place = address, value = what is written (zero-extended), size in bytes."""
BLOCK: Final = 2
"""A piece of straight-line code begins to run: place = its address, value = address | size << 48."""
INTERRUPT: Final = 3
"""A processor exception or software interrupt: value = its number; emulation stops."""
SYSCALL: Final = 4
"""A `syscall` instruction is about to run; emulation stops."""

KIND, SIZE, PLACE, VALUE, STACK = "kind", "size", "place", "value", "stack"
RECORD: Final = np.dtype([(SIZE, "<u4"), (KIND, "<u4"), (PLACE, "<u8"), (VALUE, "<u8"), (STACK, "<u8")])
"""One event. `stack` is RSP when it happened (for a `push`: before RSP is lowered)."""
KEY_SHIFT: Final = 48
"""Of the size in a BLOCK record's value."""

_MARGIN: Final = 1 << 14
"""Records kept free: the writes that may still come in the block that is stopped in."""

_HOOKS: Final = """
%log = type {{ ptr, ptr, i64 }}            ; next record, end of the array but for the margin, code bytes left

define internal void @record(ptr %uc, ptr %log, i32 %kind, i32 %size, i64 %place, i64 %value) {{
  %stack = alloca i64
  %next = load ptr, ptr %log
  call i32 inttoptr (i64 {reg_read} to ptr)(ptr %uc, i32 {rsp}, ptr %stack)
  %rsp = load i64, ptr %stack
  store i32 %size, ptr %next
  %kind_at = getelementptr i8, ptr %next, i64 4
  store i32 %kind, ptr %kind_at
  %place_at = getelementptr i8, ptr %next, i64 8
  store i64 %place, ptr %place_at
  %value_at = getelementptr i8, ptr %next, i64 16
  store i64 %value, ptr %value_at
  %stack_at = getelementptr i8, ptr %next, i64 24
  store i64 %rsp, ptr %stack_at
  %after = getelementptr i8, ptr %next, i64 32
  store ptr %after, ptr %log
  %end_at = getelementptr i8, ptr %log, i64 8
  %end = load ptr, ptr %end_at
  %full = icmp uge ptr %after, %end
  br i1 %full, label %stop, label %done
stop:
  call i32 inttoptr (i64 {emu_stop} to ptr)(ptr %uc)
  br label %done
done:
  ret void
}}

define void @on_write(ptr %uc, i32 %type, i64 %address, i32 %size, i64 %value, ptr %log) {{
  %narrow = icmp ult i32 %size, 8
  %bits = mul i32 %size, 8
  %wide = zext i32 %bits to i64
  %above = shl i64 -1, %wide
  %mask = xor i64 %above, -1
  %low = and i64 %value, %mask
  %written = select i1 %narrow, i64 %low, i64 %value
  call void @record(ptr %uc, ptr %log, i32 {write}, i32 %size, i64 %address, i64 %written)
  ret void
}}

define void @on_block(ptr %uc, i64 %address, i32 %size, ptr %log) {{
  %wide = zext i32 %size to i64
  %high = shl i64 %wide, {key_shift}
  %key = or i64 %high, %address
  call void @record(ptr %uc, ptr %log, i32 {block}, i32 %size, i64 %address, i64 %key)
  %left_at = getelementptr i8, ptr %log, i64 16
  %left = load i64, ptr %left_at
  %rest = sub i64 %left, %wide
  store i64 %rest, ptr %left_at
  %spent = icmp slt i64 %rest, 0
  br i1 %spent, label %stop, label %done
stop:
  call i32 inttoptr (i64 {emu_stop} to ptr)(ptr %uc)
  br label %done
done:
  ret void
}}

define void @on_interrupt(ptr %uc, i32 %number, ptr %log) {{
  %wide = zext i32 %number to i64
  call void @record(ptr %uc, ptr %log, i32 {interrupt}, i32 0, i64 0, i64 %wide)
  call i32 inttoptr (i64 {emu_stop} to ptr)(ptr %uc)
  ret void
}}

define void @on_syscall(ptr %uc, ptr %log) {{
  call void @record(ptr %uc, ptr %log, i32 {syscall}, i32 0, i64 0, i64 0)
  call i32 inttoptr (i64 {emu_stop} to ptr)(ptr %uc)
  ret void
}}
"""


def stretch(key: int, base: int = 0) -> range:
    """The addresses, relative to `base`, of the code that a BLOCK record with the value `key` is about."""
    start = (key & (1 << KEY_SHIFT) - 1) - base
    return range(start, start + (key >> KEY_SHIFT))


class EventLog:
    """The records of one emulator, oldest first. Attach it before anything is emulated.

    It stops the emulator when the array is full, when more bytes of code were executed than `limit` of
    `clear` allows, and at interrupts and system calls.
    """

    def __init__(self, capacity: int = 1 << 17) -> None:
        """`capacity` in records of 32 bytes."""
        self._records: npt.NDArray[np.void] = np.zeros(capacity + _MARGIN, RECORD)
        self._control = np.zeros(3, np.uint64)
        self._start = self._records.ctypes.data
        self._control[1] = self._start + capacity * RECORD.itemsize
        self.clear(0)

    def attach(self, uc: Uc) -> None:
        """Install the hooks. Code that was translated before is not observed."""
        hooks = _compile()
        for kind, name, *more in (
            (unicorn_const.UC_HOOK_MEM_WRITE, "on_write"),
            (unicorn_const.UC_HOOK_BLOCK, "on_block"),
            (unicorn_const.UC_HOOK_INTR, "on_interrupt"),
            (unicorn_const.UC_HOOK_INSN, "on_syscall", ctypes.c_int(x86_const.UC_X86_INS_SYSCALL)),
        ):
            status = uclib.uc_hook_add(
                uc._uch,
                ctypes.byref(uc_hook_h()),
                kind,
                ctypes.c_void_p(hooks.get_function_address(name)),
                ctypes.c_void_p(self._control.ctypes.data),
                ctypes.c_uint64(1),
                ctypes.c_uint64(0),
                *more,
            )
            if status:
                raise RuntimeError(f"unicorn refused the hook {name}: status {status}")

    def clear(self, limit: int) -> None:
        """Forget all records; stop after `limit` bytes of code."""
        self._control[0] = self._start
        self._control[2] = limit

    def __len__(self) -> int:
        return (int(self._control[0]) - self._start) // RECORD.itemsize

    @property
    def spent(self) -> bool:
        """Whether all bytes of code that `clear` allowed were used up."""
        return int(self._control[2]) >> 63 != 0

    @property
    def full(self) -> bool:
        """Whether the array is full."""
        return bool(self._control[0] >= self._control[1])

    def records(self) -> npt.NDArray[np.void]:
        """A view of what was recorded, of dtype `RECORD`; valid until the next `clear`."""
        return self._records[: len(self)]


@cache
def _compile() -> llvm.ExecutionEngine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(
        _HOOKS.format(
            reg_read=ctypes.cast(uclib.uc_reg_read, ctypes.c_void_p).value,
            emu_stop=ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value,
            rsp=x86_const.UC_X86_REG_RSP,
            write=WRITE,
            block=BLOCK,
            interrupt=INTERRUPT,
            syscall=SYSCALL,
            key_shift=KEY_SHIFT,
        )
    )
    machine = llvm.Target.from_default_triple().create_target_machine(opt=2)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine
