"""What the dynamic loader writes into the image: pointers into its own code, slots of imported names."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from lifter.image.elf import ADDRESS_LIMIT, RELA, SHF_ALLOC, SHT_RELA, ElfFile, SymbolTable, Table

R_64, R_GLOB_DAT, R_JUMP_SLOT, R_RELATIVE, R_IRELATIVE = 1, 6, 7, 8, 37
_DT_RELR, _DT_RELRSZ = 36, 35
_RELR_LIMIT: Final = 1 << 22
"""Words of packed relative relocations that are looked at: 2 GiB of pointers, more than any real file has."""


@dataclass(frozen=True, slots=True)
class Relocations:
    """The loader's work, sorted by what it is good for."""

    words: Mapping[int, int]
    """Address of each 8-byte word that gets an address inside this image -> that address."""
    slots: Mapping[int, str]
    """Address of each GOT slot bound to a symbol -> its name."""
    jump_slots: tuple[str, ...]
    """Names of the PLT's slots in the order of their relocations (lazy stubs push that index)."""
    resolvers: Mapping[int, int]
    """Address of each slot filled by an IFUNC resolver -> the resolver."""
    pointers: npt.NDArray[np.uint64]
    """All addresses that are written somewhere, whether or not they are code; the resolvers too."""


def read_relocations(elf: ElfFile, symbols: SymbolTable) -> Relocations:
    """All dynamic relocations of the file; `symbols` is the dynamic symbol table.

    Static executables without a dynamic section have only IRELATIVE ones, in a section.
    """
    rela, plt = elf.relocation_tables()
    if not elf.dynamic:
        plt = _static_relocations(elf)
    rela, plt = (table[table["offset"] < ADDRESS_LIMIT] for table in (rela, plt))
    slots: dict[int, str] = {}
    bound = _bound_to_symbols(rela, plt, symbols, slots)
    offsets, values = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for table in (rela, plt):
        kinds = table["info"] & 0xFFFFFFFF
        relative = table[kinds == R_RELATIVE]
        offsets.append(relative["offset"].astype(np.uint64))
        values.append(relative["addend"].astype(np.uint64))
    packed = _relr(elf)
    offsets.append(packed)
    values.append(np.array([_word(elf, at) for at in packed.tolist()], np.uint64))
    all_offsets, all_values = np.concatenate(offsets), np.concatenate(values)
    words = dict(zip(all_offsets.tolist(), all_values.tolist(), strict=True))
    words.update(bound)
    irelative = np.concatenate([table[(table["info"] & 0xFFFFFFFF) == R_IRELATIVE] for table in (rela, plt)])
    resolvers = dict(zip(irelative["offset"].tolist(), irelative["addend"].astype(np.uint64).tolist(), strict=True))
    pointers = np.concatenate(
        [
            all_values,
            np.fromiter(bound.values(), np.uint64, len(bound)),
            np.fromiter(resolvers.values(), np.uint64, len(resolvers)),
        ]
    )
    jump_slots = tuple(
        slots.get(offset, "") if kind == R_JUMP_SLOT else ""
        for offset, kind in zip(plt["offset"].tolist(), (plt["info"] & 0xFFFFFFFF).tolist(), strict=True)
    )
    return Relocations(words, slots, jump_slots, resolvers, np.unique(pointers))


def _bound_to_symbols(rela: Table, plt: Table, symbols: SymbolTable, slots: dict[int, str]) -> dict[int, int]:
    """Fills `slots`; returns the words that get the address of a symbol which this image itself defines."""
    bound: dict[int, int] = {}
    names: dict[int, str] = {}
    for table in (rela, plt):
        kinds = table["info"] & 0xFFFFFFFF
        chosen = table[(kinds == R_64) | (kinds == R_GLOB_DAT) | (kinds == R_JUMP_SLOT)]
        for offset, info, addend in zip(
            chosen["offset"].tolist(), chosen["info"].tolist(), chosen["addend"].tolist(), strict=True
        ):
            index, kind = info >> 32, info & 0xFFFFFFFF
            if index >= len(symbols.rows):
                continue
            row = symbols.rows[index]
            if kind != R_64:
                if index not in names:
                    names[index] = symbols.name(int(row["name"]))
                slots[offset] = names[index]
            if row["section"]:
                bound[offset] = int(row["value"]) + (addend if kind == R_64 else 0) & 0xFFFFFFFFFFFFFFFF
    return bound


def _static_relocations(elf: ElfFile) -> Table:
    for header in elf.section_headers:
        if header.type == SHT_RELA and header.flags & SHF_ALLOC:
            data = elf.section_bytes(header)
            return np.frombuffer(data, RELA, len(data) // RELA.itemsize)
    return np.zeros(0, RELA)


def _word(elf: ElfFile, address: int) -> int:
    data = elf.at(address, 8)
    return int(struct.unpack("<Q", data)[0]) if len(data) == 8 else 0


def _relr(elf: ElfFile) -> npt.NDArray[np.uint64]:
    """Addresses of the words that packed relative relocations (DT_RELR) adjust.

    An even entry is an address; an odd one is a bitmap of which of the next 63 words follow suit.
    """
    table = elf.dynamic_value(_DT_RELR)
    if not table:
        return np.zeros(0, np.uint64)
    data = elf.at(table, min(elf.dynamic_value(_DT_RELRSZ), _RELR_LIMIT))
    result: list[int] = []
    where = 0
    for entry in np.frombuffer(data, "<u8", len(data) // 8).tolist():
        if not entry & 1:
            result.append(entry)
            where = entry + 8
            continue
        bitmap, word = entry >> 1, where
        while bitmap:
            if bitmap & 1:
                result.append(word)
            bitmap >>= 1
            word += 8
        where += 63 * 8
    return np.array([address for address in result if address < ADDRESS_LIMIT], np.uint64)
