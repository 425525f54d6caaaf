"""Symbols that lie in code, by address, with the best name of each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from lifter.image.elf import SHF_EXECINSTR, ElfFile, SymbolTable

_NOTYPE, _FUNC, _IFUNC = 0, 2, 10
_ABSOLUTE: Final = 0xFFF1
_GLOBAL: Final = 1
_LINKER_MARKS: Final = frozenset(("etext", "_etext", "__etext", "runtime.text", "runtime.etext"))
"""Symbols that mark an end or a beginning, no code."""
_RANKS: Final = (3, 1, 2)
"""Of the bindings local, global and weak; exported ones have rank 0."""


@dataclass(slots=True)
class CodeSymbol:
    """All symbols of one kind (with or without type) at one address."""

    address: int
    size: int = 0
    """The largest that one of them claims, in bytes; 0 where none does."""
    ranks: dict[str, int] = field(default_factory=dict)
    """Name -> how far it is visible, 0 best."""
    is_static: bool = False
    """Seen in .symtab (else only in the dynamic table)."""

    @property
    def exported(self) -> bool:
        """Other modules can refer to it by name."""
        return 0 in self.ranks.values()

    @property
    def visible(self) -> bool:
        """Global or exported: a name for other object files."""
        return any(rank <= _GLOBAL for rank in self.ranks.values())

    @property
    def source(self) -> str:
        """As functions report it."""
        return "symbol" if self.is_static else "dynamic-symbol"

    def names(self) -> list[str]:
        """Best first: visible ones, then those that look least internal, then short ones."""
        if len(self.ranks) == 1:
            return list(self.ranks)
        return sorted(self.ranks, key=lambda name: (self.ranks[name], _underscores(name), len(name), name))


class CodeSymbols:
    """The symbols of both tables that are defined in executable bytes."""

    def __init__(self, elf: ElfFile, static: SymbolTable, dynamic: SymbolTable) -> None:
        self.typed: dict[int, CodeSymbol] = {}
        """Functions and IFUNC resolvers, by address."""
        self.untyped: dict[int, CodeSymbol] = {}
        """Labels of assembly: whether they begin a function, nothing says."""
        self._add(elf, static, dynamic=False)
        self._add(elf, dynamic, dynamic=True)

    def _add(self, elf: ElfFile, table: SymbolTable, dynamic: bool) -> None:
        rows = table.rows
        kinds = rows["info"] & 0xF
        chosen = (kinds == _FUNC) | (kinds == _IFUNC) | (kinds == _NOTYPE)
        chosen &= (rows["section"] != 0) & (rows["section"] != _ABSOLUTE) & (rows["value"] != 0)
        inside = np.zeros(len(rows), np.bool_)
        for segment in elf.segments:
            if segment.executable:
                inside |= (rows["value"] >= segment.address) & (rows["value"] < segment.address + len(segment.data))
        rows = rows[chosen & inside & _in_executable_section(elf, table)]
        for name_at, info, other, value, size in zip(
            *(rows[column].tolist() for column in ("name", "info", "other", "value", "size")), strict=True
        ):
            name = table.name(name_at)
            if not dynamic and "@" in name:
                name = _without_version(name)
            if not name or name in _LINKER_MARKS:
                continue
            symbols = self.untyped if info & 0xF == _NOTYPE else self.typed
            symbol = symbols.get(value)
            if symbol is None:
                symbol = symbols[value] = CodeSymbol(value)
            binding = info >> 4
            # Hidden and internal symbols stay inside the module whatever their binding.
            rank = 0 if dynamic and binding and other & 3 in (0, 3) else _RANKS[min(binding, 2)]
            symbol.ranks[name] = min(symbol.ranks.get(name, rank), rank)
            if size > symbol.size:
                symbol.size = size
            if not dynamic:
                symbol.is_static = True


def _in_executable_section(elf: ElfFile, table: SymbolTable) -> npt.NDArray[np.bool_]:
    """Which symbols stand in sections of code: a segment may hold constants beside it. All, without headers."""
    sections = table.rows["section"]
    if not elf.section_headers:
        return np.ones(len(sections), np.bool_)
    holding = [index for index, header in enumerate(elf.section_headers) if header.flags & SHF_EXECINSTR]
    return np.isin(sections, holding)


def _underscores(name: str) -> int:
    """How much a name looks internal; mangled names all start with one underscore."""
    return len(name) - len(name.lstrip("_"))


def _without_version(name: str) -> str:
    at = name.find("@")
    return name[:at] if at > 0 and re.fullmatch(r"@@?[\w.]+", name[at:]) else name
