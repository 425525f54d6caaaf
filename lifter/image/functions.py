"""Functions of an image, merged from all that names or bounds them.

Symbols with a size come first, then pclntab, unwind entries without a symbol, symbols without a size, and at
last the addresses that the loader calls. What begins inside a function that is already known is no function
of its own but one more entry of that one: it goes to the labels (which become code pointers), and a symbol
that claims a size there is reported.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from lifter.errors import Refusal
from lifter.image.elf import SHF_EXECINSTR, ElfFile, SymbolTable
from lifter.image.unwind import Frames

_NOTYPE, _FUNC, _IFUNC = 0, 2, 10
_ABSOLUTE: Final = 0xFFF1
_LINKER_MARKS: Final = frozenset(("etext", "_etext", "__etext", "runtime.text", "runtime.etext"))
"""Symbols that mark an end or a beginning, no code."""
_PADDING: Final = re.compile(
    rb"(?:\x90|\xcc|\x00|\xf4|(?:\x66|\x2e)*(?:\x66\x90|\x87\xf6|\x0f\x1f"
    rb"(?:\x00|\x40.|\x44\x00.|\x80\x00{4}|\x84\x00\x00{4}))|\x8d\x76.|\x8d\xb6\x00{4})*",
    re.DOTALL,
)


@dataclass(slots=True)
class Found:
    """A function under construction."""

    address: int
    size: int
    names: list[str]
    """Best first; may be empty."""
    source: str
    exported: bool = False

    @property
    def end(self) -> int:
        """First address after it."""
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class FunctionTable:
    """What `find_functions` found."""

    functions: tuple[Found, ...]
    """In address order, not overlapping."""
    labels: frozenset[int]
    """Addresses of symbols and unwind entries inside functions: further entries."""
    refusals: tuple[Refusal, ...]


@dataclass(slots=True)
class _Symbol:
    """All typed symbols at one address."""

    size: int = 0
    names: list[tuple[tuple[bool, int, int, int, str], str]] = field(default_factory=list)
    """With a key: the best name sorts first."""
    exported: bool = False
    static: bool = False
    """Seen in .symtab (else only in the dynamic table)."""


class _Symbols:
    """The symbols that lie in code, by address."""

    def __init__(self) -> None:
        self.typed: dict[int, _Symbol] = {}
        self.untyped: dict[int, _Symbol] = {}
        """Labels of assembly: whether they begin a function, nothing says."""

    def add(self, elf: ElfFile, table: SymbolTable, dynamic: bool) -> None:
        """Takes the symbols of `table` that are defined in executable bytes."""
        rows = table.rows
        kinds = rows["info"] & 0xF
        chosen = (kinds == _FUNC) | (kinds == _IFUNC) | (kinds == _NOTYPE)
        chosen &= (rows["section"] != 0) & (rows["section"] != _ABSOLUTE) & (rows["value"] != 0)
        rows = rows[chosen]
        for name_at, info, other, value, size in zip(
            *(rows[column].tolist() for column in ("name", "info", "other", "value", "size")), strict=True
        ):
            if not elf.is_code(value):
                continue
            name = table.name(name_at)
            if not dynamic:
                name = _without_version(name)
            if not name or name in _LINKER_MARKS:
                continue
            kind, binding, visibility = info & 0xF, info >> 4, other & 3
            symbols = self.untyped if kind == _NOTYPE else self.typed
            symbol = symbols.get(value)
            if symbol is None:
                symbol = symbols[value] = _Symbol()
            is_exported = dynamic and binding != 0 and visibility in (0, 3)
            symbol.exported |= is_exported
            symbol.static |= not dynamic
            symbol.size = max(symbol.size, size)
            key = (not is_exported, (2, 0, 1)[min(binding, 2)], _underscores(name), len(name), name)
            symbol.names.append((key, name))


def _underscores(name: str) -> int:
    """How much a name looks internal; mangled names all start with one underscore."""
    return len(name) - len(name.lstrip("_"))


def _without_version(name: str) -> str:
    at = name.find("@")
    return name[:at] if at > 0 and re.fullmatch(r"@@?[\w.]+", name[at:]) else name


def _names(*symbols: _Symbol | None) -> list[str]:
    keyed = sorted(set(entry for symbol in symbols if symbol is not None for entry in symbol.names))
    return list(dict.fromkeys(name for _, name in keyed))


class _Extents:
    """Intervals that do not overlap, sorted by address."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.found: list[Found] = []

    def at(self, address: int) -> Found | None:
        """The one that holds `address`."""
        index = bisect_right(self.starts, address) - 1
        if index >= 0 and address < self.found[index].end:
            return self.found[index]
        return None

    def next_start(self, address: int) -> int | None:
        """Start of the first one after `address`."""
        index = bisect_right(self.starts, address)
        return self.starts[index] if index < len(self.starts) else None

    def merge(self, new: Iterable[Found]) -> None:
        """Adds intervals that overlap none of those that exist."""
        self.found = sorted([*self.found, *new], key=lambda item: item.address)
        self.starts = [item.address for item in self.found]


def find_functions(
    elf: ElfFile,
    static: SymbolTable,
    dynamic: SymbolTable,
    frames: Frames,
    pclntab: Sequence[tuple[int, int, str]],
    called: Mapping[int, str],
    stubs: Iterable[tuple[int, int]],
) -> FunctionTable:
    """Merges all sources.

    `pclntab`: address, size and name of Go's functions. `called`: addresses that the kernel or the loader
    calls, with the source to report ('entry', 'init-array'). `stubs`: address ranges of PLT stubs, which are
    no functions.
    """
    symbols = _Symbols()
    symbols.add(elf, static, dynamic=False)
    symbols.add(elf, dynamic, dynamic=True)
    stub_ranges = sorted(stubs)
    in_stubs = _Ranges(stub_ranges)
    frame_sizes = {
        start: size
        for start, size in zip(frames.start.tolist(), frames.size.tolist(), strict=True)
        if elf.is_code(start)
    }
    extents, labels, refusals = _Extents(), set[int](), list[Refusal]()
    _add_sized(symbols, frame_sizes, in_stubs, extents, labels, refusals)
    for address, _, name in pclntab:
        holder = extents.at(address)
        if holder is None:
            continue
        if holder.address == address and name not in holder.names:
            holder.names.append(name)
    _add_free(extents, ((a, s, [n], "pclntab") for a, s, n in pclntab if elf.is_code(a)), labels)
    _add_free(
        extents,
        (
            (start, size, _names(symbols.typed.get(start), symbols.untyped.get(start)), "unwind")
            for start, size in frame_sizes.items()
            if not in_stubs.overlaps(start, start + size)
        ),
        labels,
    )
    borders = _borders(elf, stub_ranges)
    _add_unsized(elf, symbols, called, borders, in_stubs, extents, labels)
    for address, label in symbols.untyped.items():
        holder = extents.at(address)
        if holder is not None and holder.address == address:
            holder.names = list(dict.fromkeys([*holder.names, *_names(label)]))
            holder.exported |= label.exported
        else:
            labels.add(address)
    refusals.extend(_gaps(elf, extents.found, stub_ranges))
    return FunctionTable(tuple(extents.found), frozenset(labels), tuple(refusals))


class _Ranges:
    """Sorted address ranges to ask about overlap."""

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._starts = [low for low, _ in ranges]
        self._ends = [high for _, high in ranges]

    def overlaps(self, low: int, high: int) -> bool:
        """Whether [low, high) meets one of them."""
        index = bisect_left(self._starts, high) - 1
        return index >= 0 and self._ends[index] > low


def _add_sized(
    symbols: _Symbols,
    frame_sizes: Mapping[int, int],
    in_stubs: _Ranges,
    extents: _Extents,
    labels: set[int],
    refusals: list[Refusal],
) -> None:
    """Symbols of functions that say, or whose unwind entry says, how long they are."""
    sized = []
    for address, symbol in symbols.typed.items():
        size = symbol.size or frame_sizes.get(address, 0)
        if size and not in_stubs.overlaps(address, address + 1):
            sized.append((address, -size, symbol))
    kept: list[Found] = []
    for address, negative, symbol in sorted(sized, key=lambda item: item[:2]):
        outer = kept[-1] if kept else None
        if outer is not None and address < outer.end:
            outer_size = frame_sizes.get(outer.address, outer.size)
            if address in frame_sizes and outer.address + outer_size <= address:
                # Both have unwind entries that do not overlap: the outer symbol's size is wrong.
                outer.size = address - outer.address
            else:
                labels.add(address)
                name = _names(symbol)[0]
                refusals.append(
                    Refusal(
                        address,
                        "a symbol inside another function: an entry of that one, no function of its own",
                        hint=f"instrument {outer.names[0]} instead",
                        function=name,
                    )
                )
                continue
        source = "symbol" if symbol.static else "dynamic-symbol"
        kept.append(Found(address, -negative, _names(symbol), source, symbol.exported))
    extents.merge(kept)


def _add_free(extents: _Extents, candidates: Iterable[tuple[int, int, list[str], str]], labels: set[int]) -> None:
    """Adds candidates (address, size, names, source) where nothing is yet, cut where something begins."""
    new: list[Found] = []
    end = 0
    for address, size, names, source in sorted(candidates, key=lambda item: item[:2]):
        holder = extents.at(address)
        if holder is not None or address < end:
            if holder is None or holder.address != address:
                labels.add(address)
            continue
        following = extents.next_start(address)
        if following is not None:
            size = min(size, following - address)
        if new and new[-1].address == address:
            continue
        new.append(Found(address, size, names, source))
        end = address + size
    extents.merge(new)


def _borders(elf: ElfFile, stubs: Sequence[tuple[int, int]]) -> list[int]:
    """Addresses that no function reaches across: borders of code sections, PLT stubs, ends of segments."""
    borders = {border for stub in stubs for border in stub}
    for header in elf.section_headers:
        if header.flags & SHF_EXECINSTR:
            borders.update((header.address, header.address + header.size))
    for segment in elf.segments:
        if segment.executable:
            borders.add(segment.address + len(segment.data))
    return sorted(borders)


def _add_unsized(
    elf: ElfFile,
    symbols: _Symbols,
    called: Mapping[int, str],
    borders: Sequence[int],
    in_stubs: _Ranges,
    extents: _Extents,
    labels: set[int],
) -> None:
    """Functions of which only the address is known: they reach up to whatever comes next."""
    sources: dict[int, tuple[str, bool, list[str]]] = {}
    for address, source in called.items():
        sources[address] = (source, False, [])
    for address, symbol in symbols.untyped.items():
        # Local labels are places inside something; a global one without type is old assembly's function.
        if symbol.exported or any(key[1] == 0 for key, _ in symbol.names):
            source = "symbol" if symbol.static else "dynamic-symbol"
            sources[address] = (source, symbol.exported, _names(symbol))
    for address, symbol in symbols.typed.items():
        source = "symbol" if symbol.static else "dynamic-symbol"
        sources[address] = (source, symbol.exported, _names(symbol, symbols.untyped.get(address)))
    starts = []
    for address in sorted(sources):
        if not elf.is_code(address) or in_stubs.overlaps(address, address + 1):
            continue
        holder = extents.at(address)
        if holder is None:
            starts.append(address)
        elif holder.address != address:
            labels.add(address)
        else:
            source, exported, names = sources[address]
            holder.names = list(dict.fromkeys([*holder.names, *names]))
            holder.exported |= exported
    new = []
    for index, address in enumerate(starts):
        ends = [borders[bisect_right(borders, address)]]
        if index + 1 < len(starts):
            ends.append(starts[index + 1])
        if (following := extents.next_start(address)) is not None:
            ends.append(following)
        source, exported, names = sources[address]
        new.append(Found(address, min(ends) - address, names, source, exported))
    extents.merge(new)


def _gaps(elf: ElfFile, found: Sequence[Found], stubs: Sequence[tuple[int, int]]) -> list[Refusal]:
    """Executable bytes that belong to no function and are no padding."""
    known = sorted([(item.address, item.end) for item in found] + list(stubs))
    areas = [
        (header.address, header.address + header.size) for header in elf.section_headers if header.flags & SHF_EXECINSTR
    ] or [(segment.address, segment.address + len(segment.data)) for segment in elf.segments if segment.executable]
    refusals = []
    starts = np.array([start for start, _ in known], np.int64)
    for low, high in areas:
        at = low
        first, last = np.searchsorted(starts, [low, high]).tolist()
        for start, end in [*known[max(first - 1, 0) : last], (high, high)]:
            if at < start:
                code = elf.at(at, start - at)
                padding = _PADDING.match(code)
                skipped = padding.end() if padding is not None else 0
                if skipped < len(code):
                    refusals.append(
                        Refusal(
                            at + skipped,
                            "code or data that no symbol and no unwind information covers",
                            code[skipped : skipped + 16],
                            "keep symbols or unwind tables to have it instrumented",
                        )
                    )
            at = max(at, end)
    return refusals
