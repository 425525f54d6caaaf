"""The ELF files that a target has mapped, where they lie, and word of it when that changes.

The dynamic loader calls `_dl_debug_state`, an empty function made for debuggers, before and after it changes what is
loaded. There a jump is put to a stub that loads a byte of a missing page (see `faults`): the thread sleeps, the tracer
looks, and lets it go on. When the tracer is dead, the stub finds a page of zeros and returns.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jit.live.errors import MemoryAccessError, TargetBusyError
from jit.live.faults import PageFault, PageFaults
from jit.live.maps import PAGE, Mapping
from lifter.errors import RefusedError
from lifter.image.elf import ElfFile

if TYPE_CHECKING:
    from jit.live.target import Target

_AT_BASE, _AT_ENTRY = 7, 9
_PT_LOAD: Final = 1
_ELF_START: Final = b"\x7fELF\x02\x01\x01"
_HEADER: Final = struct.Struct("<16sHHIQQQIHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_NOTIFIER: Final = b"_dl_debug_state"
_JUMP_SIZE: Final = 5
_EMPTY_FUNCTION: Final = re.compile(
    rb"(\xf3\x0f\x1e\xfa)?"
    rb"(\xf3?\xc3(?:\x66*\x2e?\x0f\x1f(?:\x00|\x40.|\x44..|\x80....|\x84.....)|\x66*\x90|\xcc)*)",
    re.DOTALL,
)
"""endbr64, ret, and the padding of whatever kind before the next function."""

_SYS_MMAP, _SYS_MPROTECT, _SYS_MUNMAP, _SYS_MADVISE = 9, 10, 11, 28
_MAP_PRIVATE_ANONYMOUS_FIXED_NOREPLACE: Final = 0x100022
_PROT_READ, _PROT_READ_EXECUTE = 1, 5
_MADV_DONTNEED: Final = 4
_PAGES: Final = 64
"""Notifications until the pages are taken back and used again."""


@dataclass(frozen=True, slots=True)
class Module:
    """An ELF file in the memory of a target."""

    path: str
    """As /proc/PID/maps gives it; '[vdso]' for the kernel's."""
    bias: int
    """Address in the target minus address in the file."""
    start: int
    """Lowest address that it occupies."""
    end: int
    """First address after it, as its program headers say."""
    inode: int
    is_deleted: bool = False
    """The file has no name any more, or another stands there now."""

    def __contains__(self, address: int) -> bool:
        return self.start <= address < self.end


@dataclass(frozen=True, slots=True)
class Changes:
    """What was loaded and unloaded."""

    loaded: tuple[Module, ...] = ()
    unloaded: tuple[Module, ...] = ()


def modules(target: Target) -> tuple[Module, ...]:
    """The ELF files with code in the target's memory, by address; the executable, dynamic loader and vdso too."""
    mappings = target.maps()
    code = [mapping for mapping in mappings if mapping.executable]
    found = []
    for mapping in mappings:
        is_file = mapping.inode and mapping.offset == 0
        if not mapping.readable or not (is_file or mapping.path == "[vdso]"):
            continue
        module = _module(target, mapping)
        if module is not None and any(_is_of(module, other) for other in code):
            found.append(module)
    return tuple(found)


def executable(target: Target, among: Iterable[Module]) -> Module | None:
    """The one that was executed."""
    entry = target.auxiliary_vector().get(_AT_ENTRY, 0)
    return next((module for module in among if entry in module), None)


def module_file(target: Target, module: Module) -> Path | None:
    """A path that opens the file of a module as the target sees it: in its root directory, or without a name any more.
    None if there is none (the vdso), or it cannot be opened."""
    candidates = [Path(f"/proc/{target.pid}/root{module.path}"), target.executable]
    candidates += [
        Path(f"/proc/{target.pid}/map_files/{mapping.start:x}-{mapping.end:x}")
        for mapping in target.maps()
        if mapping.inode == module.inode and mapping.start in module
    ]
    for path in candidates:
        try:
            if module.inode and path.stat().st_ino == module.inode:
                with path.open("rb"):
                    return path
        except OSError:
            continue
    return None


def _is_of(module: Module, mapping: Mapping) -> bool:
    return mapping.inode == module.inode and mapping.start in module and mapping.path == module.path


def _module(target: Target, mapping: Mapping) -> Module | None:
    try:
        start = target.read(mapping.start, min(mapping.size, PAGE))
    except MemoryAccessError:
        return None
    if not start.startswith(_ELF_START) or len(start) < _HEADER.size:
        return None
    header = _HEADER.unpack_from(start)
    offset, size, count = header[5], header[9], header[10]
    if size != _PROGRAM_HEADER.size or not count:
        return None
    try:
        table = target.read(mapping.start + offset, count * size)
    except MemoryAccessError:
        return None
    loads = [row for row in _PROGRAM_HEADER.iter_unpack(table) if row[0] == _PT_LOAD]
    if not loads:
        return None
    first = min(row[3] & -PAGE for row in loads)
    # The segment that holds the file's begin is not always the lowest.
    lowest = next((row[3] & -PAGE for row in loads if row[2] < PAGE), first)
    bias = mapping.start - lowest
    end = max(row[3] + row[6] for row in loads) + bias
    return Module(mapping.path, bias, first + bias, -(-end // PAGE) * PAGE, mapping.inode, mapping.deleted)


class LoadWatch:
    """Word of what the target's dynamic loader loads and unloads.

    A thread that loads sleeps until `changes` has been called for the fault that told of it.
    """

    def __init__(self, target: Target, faults: PageFaults, hook: int, original: bytes, area: int) -> None:
        self._target = target
        self._faults = faults
        self._hook = hook
        self._original = original
        self._area = area
        """A page of code, then the pages that sleeping needs."""
        self._next = 0
        self._known = modules(target)

    @classmethod
    def install(cls, target: Target, faults: PageFaults) -> LoadWatch | None:
        """Begins to watch. Returns None where nothing can be loaded later, or its loader is of an unknown kind."""
        hook = _notifier(target)
        if hook is None:
            return None
        with target.stopped():
            place = _room_at(target, hook)
            if place is None:
                return None
            at, original = place
            if target.step_out([(at + 1, at + _JUMP_SIZE)]):
                return None
            area = map_near(target, PAGE * (1 + _PAGES), at, at + _JUMP_SIZE)
            watch = cls(target, faults, at, original, area)
            watch._begin()
            return watch

    @property
    def _pages(self) -> int:
        return self._area + PAGE

    def _begin(self) -> None:
        target = self._target
        protect(target, self._area, PAGE, _PROT_READ_EXECUTE)
        self._faults.register(self._pages, PAGE * _PAGES)
        target.write(self._area, _stub(self._pages))
        target.write(self._hook, b"\xe9" + struct.pack("<i", self._area - self._hook - _JUMP_SIZE))

    def follow(self, child: Target, faults: PageFaults) -> LoadWatch:
        """The same in a child that fork made, which has a copy of all but the page faults."""
        child.syscall(_SYS_MADVISE, self._pages, PAGE * _PAGES, _MADV_DONTNEED)
        watch = LoadWatch(child, faults, self._hook, self._original, self._area)
        faults.register(self._pages, PAGE * _PAGES)
        child.write(self._area, _stub(self._pages))
        return watch

    def owns(self, fault: PageFault) -> bool:
        """Whether it is about what is loaded."""
        return self._pages <= fault.address < self._pages + PAGE * _PAGES

    def look(self) -> Changes:
        """What changed since last looked, without letting anybody go on."""
        before, now = self._known, modules(self._target)
        self._known = now
        return Changes(
            tuple(module for module in now if module not in before),
            tuple(module for module in before if module not in now),
        )

    def go_on(self, fault: PageFault) -> None:
        """Lets the thread that told of a change go on, ready for the next."""
        number = (fault.address - self._pages) // PAGE
        if number == self._next:  # and not the same told of twice
            self._next = (number + 1) % _PAGES
            if self._next == 0:
                self._take_back(0, number)
            elif self._next == 1:
                self._take_back(1, _PAGES)
            self._target.write(self._area, _stub(self._pages + PAGE * self._next))
        self._faults.zero(fault.address)

    def _take_back(self, first: int, end: int) -> None:
        """Makes pages missing again that nobody needs: one thread at a time loads, and sleeps for another page."""
        self._target.syscall(_SYS_MADVISE, self._pages + PAGE * first, PAGE * (end - first), _MADV_DONTNEED)

    def remove(self) -> None:
        """Ends the watching, and takes the jump and the stub out."""
        target = self._target
        with target.stopped():
            target.write(self._hook, self._original)
            self._faults.unregister(self._pages, PAGE * _PAGES)
            if not target.step_out([(self._area, self._area + PAGE)]):
                target.syscall(_SYS_MUNMAP, self._area, PAGE * (1 + _PAGES))


def map_near(target: Target, size: int, start: int, end: int) -> int:
    """Maps `size` bytes of readable memory in the target, from where rel32 reaches all of [start, end) and back.

    Raises RemoteCallError, or TargetBusyError if there is no room.
    """
    with target.stopped():
        address = target.maps().gap(size, start, end)
        if address is None:
            raise TargetBusyError(f"process {target.pid}: no {size} free bytes within 2 GiB of {start:#x}")
        flags = _MAP_PRIVATE_ANONYMOUS_FIXED_NOREPLACE
        return target.syscall(_SYS_MMAP, address, size, _PROT_READ, flags, (1 << 64) - 1, 0)


def protect(target: Target, start: int, size: int, protection: int) -> None:
    """mprotect in the target. Raises RemoteCallError."""
    target.syscall(_SYS_MPROTECT, start, size, protection)


def _notifier(target: Target) -> int | None:
    """The address of `_dl_debug_state` in the target; None if there is none."""
    vector = target.auxiliary_vector()
    where = vector.get(_AT_BASE) or vector.get(_AT_ENTRY, 0)
    loader = next((module for module in modules(target) if where in module), None)
    path = None if loader is None else module_file(target, loader)
    if loader is None or path is None:
        return None
    try:
        elf = ElfFile(path.read_bytes(), loader.path)
    except (OSError, RefusedError):
        return None
    for table in (elf.dynamic_symbols(), elf.static_symbols()):
        at = table.strings.find(b"\0" + _NOTIFIER + b"\0") + 1
        values = table.rows["value"][table.rows["name"] == at]
        if at and len(values) and values[0]:
            return int(values[0]) + loader.bias
    return None


def _room_at(target: Target, function: int) -> tuple[int, bytes] | None:
    """Where in an empty function a jump can be put, and what is there; None if it is not empty, or too short."""
    found = _EMPTY_FUNCTION.match(target.read(function, 32))
    if found is None or found.end(2) - found.start(2) < _JUMP_SIZE:
        return None
    return function + found.start(2), found[2][:_JUMP_SIZE]


def _stub(page: int) -> bytes:
    """push rax; mov rax, [rip + 8]; mov al, [rax]; pop rax; ret; and, at 16, the address of the page to sleep for."""
    return bytes.fromhex("50 488b0508000000 8a00 58 c3 cccccccc") + struct.pack("<Q", page)
