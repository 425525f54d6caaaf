"""Liveness against an emulator: what is called dead is overwritten with noise, and nothing may change.

Code runs from a random block in a random state, memory appearing as it is touched, its contents a function of the
address. At the k-th block passed (in whatever function that is by then), everything that the analysis calls dead
there is changed, and the rest of the run must go the same way and write the same memory as without. Imports are left
out: a call of one fills the registers that it may change with constants.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import unicorn
from unicorn import x86_const

from lifter.graph import FunctionGraph
from lifter.image.types import Image
from lifter.liveness import Liveness
from lifter.noreturn import names_noreturn
from lifter.registers import FLAG_SHIFT, GPR_NAMES, bits
from lifter.summaries import CLOBBERED, TRACKED

_REGISTERS = [getattr(x86_const, f"UC_X86_REG_{name.upper()}") for name in GPR_NAMES]
_FLAGS = {mask.bit_length() - 1: 1 << shift for mask, shift in FLAG_SHIFT.items()}
_PAGE = 0x1000
_BASE = 0x5555_0000_0000
_DATA = 0x6666_0000_0000
_RETURN = 0x7777_7777_7000
_FLAGS_REGISTER = x86_const.UC_X86_REG_EFLAGS


@dataclass(frozen=True)
class Difference:
    """A run that changed although only dead state did."""

    start: int
    """Address of the block where the run began."""
    block: int
    """Address of the block before which dead state was changed."""
    changed: int
    """What was changed, as a mask."""
    seed: int
    expected: tuple[object, ...]
    got: tuple[object, ...]


class Oracle:
    """Runs code of an image whose graphs and liveness are known."""

    def __init__(
        self,
        image: Image,
        graphs: Mapping[int, FunctionGraph],
        liveness: Liveness,
        start_in: Collection[int] | None = None,
    ) -> None:
        """`start_in`: addresses of the functions where runs begin; all of them without it."""
        self.image = image
        self.bias = 0 if image.segments[0].address >= 0x10000 else _BASE
        self.live: dict[int, int] = {}
        self.starts: list[int] = []
        for graph in graphs.values():
            live = liveness.live_in(graph)
            self.live.update(live)
            if start_in is None or graph.function.address in start_in:
                # Not where a table is indexed: the check of the index would be left out.
                dispatch = {block.address for block in graph.blocks.values() if block.last_address in graph.tables}
                self.starts.extend(address for address in live if address not in dispatch)
        self.machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.mapped: set[int] = set()
        self.dirty: dict[int, bytes] = {}
        self._map_image()
        self._hook()
        self.machine.reg_write(x86_const.UC_X86_REG_MXCSR, 0x1F80)
        self.machine.reg_write(x86_const.UC_X86_REG_FPCW, 0x37F)
        self.fresh = self.machine.context_save()
        self.trace: list[object] = []
        self.blocks = 0
        self.clobber_at = -1
        self.noise = random.Random(0)
        self.clobbered = (0, 0)
        self.limit = 0

    def _map_image(self) -> None:
        pages: dict[int, bytearray] = {}
        rights: dict[int, int] = {}
        for segment in self.image.segments:
            for offset in range(0, len(segment.data), _PAGE):
                address = segment.address + offset
                for at, byte_run in _split(address, segment.data[offset : offset + _PAGE]):
                    page = pages.setdefault(at - at % _PAGE, bytearray(_PAGE))
                    page[at % _PAGE : at % _PAGE + len(byte_run)] = byte_run
            for at in range(segment.address - segment.address % _PAGE, segment.end, _PAGE):
                pages.setdefault(at, bytearray(_PAGE))
                # Random pointers must not make a program overwrite its own code.
                right = unicorn.UC_PROT_READ | (unicorn.UC_PROT_WRITE if segment.writable else 0)
                rights[at] = rights.get(at, 0) | right | (unicorn.UC_PROT_EXEC if segment.executable else 0)
        for slot, value in self.image.words.items():
            page = pages.get(slot - slot % _PAGE)
            if page is not None and slot % _PAGE <= _PAGE - 8:
                page[slot % _PAGE : slot % _PAGE + 8] = struct.pack("<Q", value + self.bias)
        for at, data in pages.items():
            self.machine.mem_map(at + self.bias, _PAGE, rights[at])
            self.machine.mem_write(at + self.bias, bytes(data))
            self.mapped.add(at + self.bias)

    def _hook(self) -> None:
        machine = self.machine
        machine.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED, self._on_unmapped)
        machine.hook_add(unicorn.UC_HOOK_MEM_WRITE, self._on_write)
        machine.hook_add(unicorn.UC_HOOK_CODE, self._on_code)

    def _on_unmapped(self, machine: unicorn.Uc, access: int, address: int, size: int, value: int, _: object) -> bool:
        if access == unicorn.UC_MEM_FETCH_UNMAPPED:
            return False
        for page in {address & -_PAGE, (address + size - 1) & -_PAGE}:
            if not 0x10000 <= page < 1 << 47 or page == _RETURN:
                return False
            if page not in self.mapped:
                machine.mem_map(page, _PAGE, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
                machine.mem_write(page, _contents(page))
                self.mapped.add(page)
        return True

    def _on_write(self, machine: unicorn.Uc, access: int, address: int, size: int, value: int, _: object) -> None:
        for page in {address & -_PAGE, (address + size - 1) & -_PAGE}:
            if page not in self.dirty:
                try:
                    self.dirty[page] = bytes(machine.mem_read(page, _PAGE))
                except unicorn.UcError:
                    self.dirty[page] = b""
        self.trace.append((address, size, value & (1 << 8 * size) - 1))

    def _on_code(self, machine: unicorn.Uc, address: int, size: int, _: object) -> None:
        where = address - self.bias
        imported = self.image.plt.get(where)
        if imported is not None:
            self.trace.append(imported)
            if names_noreturn(imported):
                machine.emu_stop()
                return
            stack = machine.reg_read(x86_const.UC_X86_REG_RSP)
            back = struct.unpack("<Q", machine.mem_read(stack, 8))[0]
            for register in bits(CLOBBERED & 0xFFFF):
                machine.reg_write(_REGISTERS[register], 0x1234_5678 * (register + 1))
            machine.reg_write(_FLAGS_REGISTER, 0x202)
            machine.reg_write(x86_const.UC_X86_REG_RSP, stack + 8)
            machine.reg_write(x86_const.UC_X86_REG_RIP, back)
            return
        live = self.live.get(where)
        if live is None:
            return
        self.trace.append(where)
        if self.blocks == self.clobber_at:
            dead = TRACKED & ~live
            self.clobbered = where, dead
            self._clobber(dead)
        self.blocks += 1
        if self.blocks > self.limit:
            machine.emu_stop()

    def _clobber(self, dead: int) -> None:
        machine = self.machine
        flags = machine.reg_read(_FLAGS_REGISTER)
        for bit in bits(dead):
            if bit < 16:
                machine.reg_write(_REGISTERS[bit], self.noise.getrandbits(64))
            else:
                flags ^= _FLAGS[bit]
        machine.reg_write(_FLAGS_REGISTER, flags)

    def _run(self, start: int, seed: int, clobber_at: int) -> tuple[object, ...]:
        machine, chance = self.machine, random.Random(seed)
        for page, data in self.dirty.items():
            if data:
                machine.mem_write(page, data)
        self.dirty.clear()
        machine.context_restore(self.fresh)
        self.trace, self.blocks, self.clobber_at = [], 0, clobber_at
        for number, register in enumerate(_REGISTERS):
            kind = chance.random()
            value = _DATA + (number << 20) + chance.randrange(0, 0x800, 8)
            if kind < 0.2:
                value = chance.randrange(0, 70)
            machine.reg_write(register, value)
        stack = _DATA + 0x7000_0000
        machine.reg_write(x86_const.UC_X86_REG_RSP, stack)
        machine.reg_write(x86_const.UC_X86_REG_FS_BASE, _DATA + 0x6000_0000)
        machine.reg_write(_FLAGS_REGISTER, 0x202 | chance.getrandbits(12) & 0x8D5)
        try:
            machine.emu_start(start + self.bias, _RETURN, count=self.limit * 40)
            self.trace.append("end")
        except unicorn.UcError as error:
            self.trace.append(str(error))
        return tuple(self.trace)

    def check(self, seed: int, limit: int = 60) -> Difference | None:
        """One random run twice; None when changing what is dead changed nothing."""
        chance = random.Random(seed)
        start = chance.choice(self.starts)
        self.limit = limit
        expected = self._run(start, seed, -1)
        passed = self.blocks
        if passed < 2:
            return None
        self.noise = random.Random(seed + 1)
        self.clobbered = (0, 0)
        got = self._run(start, seed, chance.randrange(min(passed, limit)))
        clobbered = self.clobbered
        if got == expected or self._run(start, seed, -1) != expected:
            # The latter where code reads a clock.
            return None
        return Difference(start, *clobbered, seed, expected, got)


def _split(address: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Pieces of `data` that lie within one page each."""
    room = _PAGE - address % _PAGE
    yield address, data[:room]
    if len(data) > room:
        yield address + room, data[room:]


def _contents(page: int) -> bytes:
    """What a page holds that nobody wrote: pointers into the same area and small numbers, mixed."""
    chance = random.Random(page)
    words = []
    for _ in range(_PAGE // 8):
        if chance.random() < 0.5:
            words.append(_DATA + (chance.randrange(1 << 10) << 12) + chance.randrange(0, 0x800, 8))
        else:
            words.append(chance.randrange(0, 300))
    return struct.pack(f"<{len(words)}Q", *words)
