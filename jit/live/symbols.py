"""Names for code in the cache: a map and a dump for perf, and a symbol file for gdb.

perf reads /tmp/perf-PID.map by itself: a line of address, size and name a function. gdb is given the other file with
`add-symbol-file /tmp/probeloom-PID.symbols` (it is an ELF file with nothing but symbols at absolute addresses). The
dump, /tmp/jit-PID.dump, is for `perf inject --jit` (see `jit.live.jitdump`).
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from jit.atomicfile import replacing
from jit.live.errors import MemoryAccessError
from jit.live.jitdump import JitDump
from jit.live.target import Target

_SUFFIX: Final = " [probeloom]"
_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_SHDR: Final = struct.Struct("<IIQQQQIIQQ")
_SYM: Final = struct.Struct("<IBBHQQ")
_NOBITS, _SYMTAB, _STRTAB = 8, 2, 3
_ALLOC_EXECUTE: Final = 6
_GLOBAL_FUNCTION: Final = 0x12
_SECTION_NAMES: Final = b"\0.text\0.symtab\0.strtab\0"


@dataclass(slots=True)
class SymbolFiles:
    """The files of one process."""

    pid: int
    directory: Path = Path("/tmp")
    _known: list[tuple[int, int, str]] = field(default_factory=list)
    _written: int = 0
    dump: JitDump = field(init=False)

    def __post_init__(self) -> None:
        self.dump = JitDump(self.directory / f"jit-{self.pid}.dump", self.pid)

    @property
    def perf_map(self) -> Path:
        """The map for perf."""
        return self.directory / f"perf-{self.pid}.map"

    @property
    def symbol_file(self) -> Path:
        """The ELF file for gdb."""
        return self.directory / f"probeloom-{self.pid}.symbols"

    def add(self, address: int, code: bytes, name: str) -> None:
        """Name a piece of code. A newline in a name (there is none in C) would end the line."""
        name = name.replace("\n", " ") + _SUFFIX
        self._known.append((address, len(code), name))
        self.dump.add(address, code, name)

    def of_child(self, child: Target) -> SymbolFiles:
        """Those of a child that fork has just made, whose memory is a copy: what is still there of the code."""
        files = SymbolFiles(child.pid, self.directory)
        for address, size, name in self._known:
            with suppress(MemoryAccessError):  # a library's that was unloaded
                files.dump.add(address, child.read(address, size), name)
                files._known.append((address, size, name))
        self.dump.hide_from_child(child)
        return files

    def write(self) -> None:
        """Bring the files up to date. Raises OSError."""
        if self._written == len(self._known):
            return
        lines = [f"{address:x} {size:x} {name}\n" for address, size, name in self._known[self._written :]]
        # The program may write the same map, of code that it makes itself: lines are only ever added.
        with self.perf_map.open("a") as file:
            file.write("".join(lines))
        with replacing(self.symbol_file) as descriptor, open(descriptor, "wb", closefd=False) as symbols:
            symbols.write(_elf(self._known))
        self.dump.write()
        self._written = len(self._known)


def _elf(known: list[tuple[int, int, str]]) -> bytes:
    """An ELF file of these symbols."""
    low, high = min(address for address, _, _ in known), max(address + size for address, size, _ in known)
    names = bytearray(b"\0")
    table = bytearray(_SYM.size)
    for address, size, name in known:
        table += _SYM.pack(len(names), _GLOBAL_FUNCTION, 0, 1, address, size)
        names += name.encode("utf-8", "surrogateescape") + b"\0"
    start = _EHDR.size + _PHDR.size
    at_names, at_sections = start + len(table), start + len(table) + len(names)
    headers = at_sections + len(_SECTION_NAMES)
    headers += -headers % 8
    sections = [
        (0,) * 10,
        (1, _NOBITS, _ALLOC_EXECUTE, low, start, high - low, 0, 0, 16, 0),
        (7, _SYMTAB, 0, 0, start, len(table), 3, 1, 8, _SYM.size),
        (15, _STRTAB, 0, 0, at_names, len(names), 0, 0, 1, 0),
        (15, _STRTAB, 0, 0, at_sections, len(_SECTION_NAMES), 0, 0, 1, 0),
    ]
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = _EHDR.pack(
        ident, 2, 62, 1, 0, _EHDR.size, headers, 0, _EHDR.size, _PHDR.size, 1, _SHDR.size, len(sections), 4
    )
    program = _PHDR.pack(1, 5, 0, low, low, 0, high - low, 16)
    content = head + program + bytes(table) + bytes(names) + _SECTION_NAMES
    return content.ljust(headers, b"\0") + b"".join(_SHDR.pack(*section) for section in sections)
