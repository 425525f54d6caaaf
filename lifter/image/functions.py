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
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from lifter.errors import Refusal
from lifter.image.elf import SHF_EXECINSTR, ElfFile
from lifter.image.symbols import CodeSymbol, CodeSymbols
from lifter.image.unwind import Frames

_PADDING: Final = re.compile(
    rb"(?:\x90|\xcc|\x00|\xf4|(?:\x66|\x2e)*(?:\x66\x90|\x87\xf6|\x0f\x1f"
    rb"(?:\x00|\x40.|\x44\x00.|\x80\x00{4}|\x84\x00\x00{4}))|\x8d\x76.|\x8d\xb6\x00{4})*",
    re.DOTALL,
)
"""What assemblers and linkers put between functions: no-ops, int3, hlt, zeros."""


Gap = tuple[int, int]
"""(start, end) of addresses that belong to no function."""


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
    gaps: tuple[Gap, ...]
    """What is executable, belongs to no function and is no padding, in order."""


def find_functions(
    elf: ElfFile,
    symbols: CodeSymbols,
    frames: Frames,
    pclntab: Sequence[tuple[int, int, str]],
    called: Mapping[int, str],
    stubs: Sequence[tuple[int, int]],
    likely_starts: Sequence[int],
) -> FunctionTable:
    """Merges all sources.

    `pclntab`: address, size and name of Go's functions. `called`: addresses that the kernel or the loader
    calls, with the source to report ('entry', 'init-array'). `stubs`: address ranges of PLT stubs, which are
    no functions. `likely_starts`: targets of what looks like a direct call and addresses that are referred
    to, sorted: in code about which nothing else is known, a function ends there.
    """
    merger = _Merger(elf, symbols, sorted(stubs))
    sizes = {start: size for start, size in zip(frames.start.tolist(), frames.size.tolist(), strict=True)}
    merger.add_sized(sizes)
    merger.add_free((address, size, [name], "pclntab") for address, size, name in pclntab)
    known = {item.address for item in merger.found}
    merger.add_free(
        (start, size, merger.names(start), "unwind")
        for start, size in sizes.items()
        if start not in known and not merger.in_stubs(start, start + size)
    )
    merger.add_unsized(called, likely_starts)
    merger.add_labels()
    return FunctionTable(tuple(merger.found), frozenset(merger.labels), tuple(merger.refusals), tuple(merger.gaps()))


def is_padding(code: bytes) -> bool:
    """Whether the bytes are nothing but what assemblers and linkers put between functions."""
    return _PADDING.fullmatch(code) is not None


class _Merger:
    """The functions found so far: intervals that do not overlap, in address order."""

    def __init__(self, elf: ElfFile, symbols: CodeSymbols, stubs: Sequence[tuple[int, int]]) -> None:
        self._elf = elf
        self._symbols = symbols
        self._stubs = stubs
        self._stub_starts = [low for low, _ in stubs]
        self._borders = _borders(elf, stubs)
        self._starts: list[int] = []
        self.found: list[Found] = []
        self.labels: set[int] = set()
        self.refusals: list[Refusal] = []

    def in_stubs(self, low: int, high: int) -> bool:
        """Whether [low, high) meets a PLT stub."""
        index = bisect_left(self._stub_starts, high) - 1
        return index >= 0 and self._stubs[index][1] > low

    def names(self, address: int) -> list[str]:
        """Names of all symbols at `address`, typed ones first."""
        found = [
            symbol.names()
            for symbol in (self._symbols.typed.get(address), self._symbols.untyped.get(address))
            if symbol is not None
        ]
        return list(dict.fromkeys(name for names in found for name in names))

    def _at(self, address: int) -> Found | None:
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self.found[index].end:
            return self.found[index]
        return None

    def _limit(self, address: int) -> int:
        """The first function or border after `address`, which must be code."""
        limit = self._borders[bisect_right(self._borders, address)]
        index = bisect_right(self._starts, address)
        return min(limit, self._starts[index]) if index < len(self._starts) else limit

    def _is_padding(self, address: int, size: int) -> bool:
        return size < 64 and is_padding(self._elf.at(address, size))

    def _merge(self, new: Iterable[Found]) -> None:
        self.found = sorted([*self.found, *new], key=lambda item: item.address)
        self._starts = [item.address for item in self.found]

    def add_sized(self, sizes: Mapping[int, int]) -> None:
        """Symbols of functions that say, or whose unwind entry says (`sizes`), how long they are."""
        sized = []
        for address, symbol in self._symbols.typed.items():
            size = symbol.size or sizes.get(address, 0)
            if size > 0 and not self.in_stubs(address, address + 1):
                sized.append((address, min(size, self._limit(address) - address), symbol))
        kept: list[Found] = []
        for address, size, symbol in sorted(sized, key=lambda item: item[0]):
            outer = kept[-1] if kept else None
            if outer is not None and address < outer.end:
                outer_size = sizes.get(outer.address, outer.size)
                if address not in sizes or outer.address + outer_size > address:
                    self._refuse_inner(symbol, outer)
                    continue
                # Both have unwind entries that do not overlap: the outer symbol's size is wrong.
                outer.size = address - outer.address
            kept.append(Found(address, size, symbol.names(), symbol.source, symbol.exported))
        self._merge(kept)

    def _refuse_inner(self, symbol: CodeSymbol, outer: Found) -> None:
        self.labels.add(symbol.address)
        self.refusals.append(
            Refusal(
                symbol.address,
                "a symbol inside another function: an entry of that one, no function of its own",
                hint=f"instrument {outer.names[0]} instead",
                function=symbol.names()[0],
            )
        )

    def add_free(self, candidates: Iterable[tuple[int, int, list[str], str]]) -> None:
        """Adds candidates (address, size, names, source) where nothing is yet, cut where something begins."""
        new: list[Found] = []
        end = 0
        for address, size, names, source in sorted(candidates, key=lambda item: item[:2]):
            holder = self._at(address)
            if holder is None and address < end:
                holder = new[-1]
            if holder is None:
                if size > 0 and self._elf.is_code(address):
                    size = min(size, self._limit(address) - address)
                    # Unwind entries may cover padding (the C library's TLS descriptors have such).
                    if names or not self._is_padding(address, size):
                        new.append(Found(address, size, names, source))
                        end = address + size
            elif holder.address != address:
                self.labels.add(address)
            elif names and names != holder.names:
                holder.names = list(dict.fromkeys([*holder.names, *names]))
        self._merge(new)

    def add_unsized(self, called: Mapping[int, str], likely_starts: Sequence[int]) -> None:
        """Functions of which only the address is known: they reach up to whatever comes next."""
        sources = dict(called)
        for address, symbol in self._symbols.untyped.items():
            # Local labels are places inside something; a global one without type is old assembly's function.
            if symbol.visible:
                sources[address] = symbol.source
        sources.update((address, symbol.source) for address, symbol in self._symbols.typed.items())
        starts = []
        for address in sorted(sources):
            holder = self._at(address)
            if holder is None:
                if self._elf.is_code(address) and not self.in_stubs(address, address + 1):
                    starts.append(address)
            elif holder.address != address:
                self.labels.add(address)
        new = []
        for address, following in pairwise([*starts, 1 << 63]):
            end = min(self._limit(address), following)
            if address in called:
                index = bisect_right(likely_starts, address)
                end = min([end, *likely_starts[index : index + 1]])
            typed = self._symbols.typed.get(address)
            exported = typed is not None and typed.exported
            new.append(Found(address, end - address, self.names(address), sources[address], exported))
        self._merge(new)

    def add_labels(self) -> None:
        """Symbols without type: more names of the functions that begin there, entries of the others."""
        for address, symbol in self._symbols.untyped.items():
            holder = self._at(address)
            if holder is not None and holder.address == address:
                holder.names = list(dict.fromkeys([*holder.names, *symbol.names()]))
                holder.exported |= symbol.exported
            else:
                self.labels.add(address)

    def gaps(self) -> list[Gap]:
        """See `FunctionTable.gaps`."""
        known = sorted([(item.address, item.end) for item in self.found] + list(self._stubs))
        starts = [start for start, _ in known]
        gaps = []
        for low, high in _areas(self._elf):
            code = self._elf.at(low, high - low)
            at = low
            first, last = bisect_left(starts, low), bisect_left(starts, high)
            for start, end in [*known[max(first - 1, 0) : last], (high, high)]:
                if at < start:
                    padding = _PADDING.match(code, at - low, start - low)
                    at = low + padding.end() if padding is not None else at
                    if at < min(start, low + len(code)):
                        gaps.append((at, min(start, low + len(code))))
                at = max(at, end)
        return gaps


def _areas(elf: ElfFile) -> list[tuple[int, int]]:
    """Address ranges that hold code: sections, or segments where the file has no section headers."""
    return [
        (header.address, header.address + header.size)
        for header in elf.section_headers
        if header.flags & SHF_EXECINSTR and header.size
    ] or [
        # Some linkers map the file's headers executable, in front of the code.
        (
            segment.address + (0 if segment.offset else min(elf.headers_size, len(segment.data))),
            segment.address + len(segment.data),
        )
        for segment in elf.segments
        if segment.executable
    ]


def _borders(elf: ElfFile, stubs: Iterable[tuple[int, int]]) -> list[int]:
    """Addresses that no function reaches across: borders of code sections, PLT stubs, ends of segments."""
    borders = {border for area in (*stubs, *_areas(elf)) for border in area}
    borders.update(segment.address + len(segment.data) for segment in elf.segments if segment.executable)
    return sorted(borders)
