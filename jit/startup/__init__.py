"""The start-up code of rewritten files: startup.c as LLVM IR, compiled and placed here."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from codecache.version import library_identity

_IR = Path(__file__).with_name("startup.ll")

_SHF_ALLOC = 2
_SHT_SYMTAB, _SHT_RELA = 2, 4
_R_X86_64_PC32, _R_X86_64_PLT32 = 2, 4

ALIGNMENT = 16
"""What the address of the code must be a multiple of."""


@dataclass(frozen=True, slots=True)
class _Blob:
    """The compiled code, its own references resolved: it runs at any address."""

    code: bytes
    symbols: dict[str, int]
    """Offsets of the symbols that it defines."""
    outside: tuple[tuple[int, str, int], ...]
    """(offset, symbol, addend) of 32-bit relative references to what it does not define."""


class Memory(Protocol):
    """What keeps bytes between runs (`codecache.store.Store` does)."""

    def get_plan(self, key: str) -> bytes | None:
        """What was put there, if it is still there."""

    def put_plan(self, key: str, value: bytes) -> None:
        """Keep bytes."""


class Startup:
    """The start-up code, compiled once."""

    def __init__(self, memory: Memory | None = None) -> None:
        """`memory` may have the compiled code of an earlier run."""
        self._blob = _remembered(memory) if memory is not None else _compiled()

    @property
    def size(self) -> int:
        """Size in bytes of what `build` returns."""
        return len(self._blob.code)

    def build(self, address: int, data_address: int, original: int | None, library: bool) -> tuple[bytes, int]:
        """The start-up code for `address` (a multiple of ALIGNMENT), and the address at which it is entered.

        `data_address` is where the data segment is, `original` what is to run afterwards: the program's entry
        point or the library's own DT_INIT function, None for a library without one. Addresses are those of the
        file.
        """
        blob = self._blob
        known = {
            "probeloom_data": data_address,
            "original_entry": address + blob.symbols["no_original_entry"] if original is None else original,
        }
        code = bytearray(blob.code)
        for offset, name, addend in blob.outside:
            struct.pack_into("<i", code, offset, known[name] + addend - (address + offset))
        return bytes(code), address + blob.symbols["library_start" if library else "program_start"]


def _remembered(memory: Memory) -> _Blob:
    key = "startup " + sha256(_IR.read_bytes() + Path(__file__).read_bytes() + library_identity().encode()).hexdigest()
    known = memory.get_plan(key)
    if known is None:
        blob = _compiled()
        memory.put_plan(key, json.dumps([blob.code.hex(), blob.symbols, blob.outside]).encode())
        return blob
    code, symbols, outside = json.loads(known)
    return _Blob(bytes.fromhex(code), symbols, tuple((offset, name, addend) for offset, name, addend in outside))


@cache
def _compiled() -> _Blob:
    # It takes a while to load.
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    module = llvm.parse_assembly(_IR.read_text())
    module.verify()
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    machine = target.create_target_machine(cpu="x86-64", reloc="pic", codemodel="small", opt=2)
    return _place(machine.emit_object(module))


def _place(elf: bytes) -> _Blob:
    """Puts an object's sections one after the other and resolves what they say of each other.

    Raises ValueError for a relocation that position-independent code without a loader cannot have.
    """
    table, count = struct.unpack_from("<Q", elf, 0x28)[0], struct.unpack_from("<H", elf, 0x3C)[0]
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, table + 64 * i) for i in range(count)]
    code = bytearray()
    starts: dict[int, int] = {}
    for index, (_, _, flags, _, offset, size, _, _, align, _) in enumerate(sections):
        if flags & _SHF_ALLOC and size:
            code += bytes(-len(code) % max(align, 1))
            starts[index] = len(code)
            code += elf[offset : offset + size]

    symtab = next(section for section in sections if section[1] == _SHT_SYMTAB)
    strings = sections[symtab[6]][4]

    def symbol(index: int) -> tuple[str, int | None]:
        """Name, and offset in the code: None if it is defined elsewhere."""
        name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", elf, symtab[4] + 24 * index)
        text = elf[strings + name : elf.index(b"\0", strings + name)].decode()
        return text, starts[section] + value if section in starts else None

    symbols = [symbol(index) for index in range(symtab[5] // 24)]
    outside: list[tuple[int, str, int]] = []
    for section in sections:
        if section[1] != _SHT_RELA or section[7] not in starts:
            continue
        for at in range(section[4], section[4] + section[5], 24):
            offset, info, addend = struct.unpack_from("<QQq", elf, at)
            if info & 0xFFFFFFFF not in (_R_X86_64_PC32, _R_X86_64_PLT32):
                raise ValueError(f"start-up code: relocation type {info & 0xFFFFFFFF}")
            offset += starts[section[7]]
            name, value = symbols[info >> 32]
            if value is None:
                outside.append((offset, name, addend))
            else:
                struct.pack_into("<i", code, offset, value + addend - offset)
    return _Blob(bytes(code), {n: v for n, v in symbols if n and v is not None}, tuple(outside))
