"""From compiled functions to code at addresses, and to the patches that lead there.

All addresses are the image's own: a mode that loads the image elsewhere subtracts the distance from the addresses that
it chooses, since the code refers to everything relative to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

from codecache.link import Extent, LinkFailure, Unit, arrange, link
from codecache.types import CompiledRegion, Patch
from jit.trampolines import JUMP, Site, jump_to
from lifter.errors import ProbeloomError

CODE_ALIGNMENT: Final = 16


@dataclass(frozen=True, slots=True)
class Words:
    """Addresses of the words that regions refer to."""

    counters: int
    """Of counter 0; the others follow, 8 bytes each."""
    own: int = 0
    """Of the main thread's own counter 0, where counters are biased (see `ir.carry`)."""
    owner: int = 0
    """Of the owner word."""

    def places(self) -> dict[str, int]:
        """Kind of symbol -> address of what its number 0 stands for."""
        return {"c": self.counters, "w": self.counters, "b": self.own, "o": self.owner}


@dataclass(frozen=True, slots=True)
class Piece:
    """A region or stub of a function, compiled."""

    head: int
    """Address of the block by which it is entered; negative for stubs."""
    region: CompiledRegion
    flags_in: bool
    """Whether the flags are live at the head."""
    symbols: Mapping[str, int]
    """Symbol -> address in the image ('L_x', 'L_d'), or index among the counters ('L_c', 'L_w', 'L_b'; 0 of 'L_o')."""
    origins: tuple[tuple[int, int], ...] = ()
    """(offset in the code, original address) of instructions that are the program's own (see `ir.carry`)."""


@dataclass(frozen=True, slots=True)
class CompiledFunction:
    """A function that can be linked."""

    entry: int
    entry_stub: bool
    """Whether entries run a stub first, with the head -`entry`."""
    pieces: tuple[Piece, ...]
    sites: tuple[Site, ...]
    redirects: tuple[tuple[int, int, int], ...]
    """(address, opcode, head of the stub that it is sent to) of each redirected call or jump."""

    def extents(self) -> Iterator[tuple[int, Extent]]:
        """Head and extent of each piece."""
        for piece in self.pieces:
            region = piece.region
            yield piece.head, Extent(len(stub(region.shift, piece.flags_in)), len(region.code), len(region.data))


class Linkable(Protocol):
    """What is needed of a `CompiledFunction`. Its pieces may be made when they are asked for."""

    @property
    def entry(self) -> int:
        """Address of the function."""

    @property
    def entry_stub(self) -> bool:
        """As in `CompiledFunction`, like the others."""

    @property
    def pieces(self) -> Iterable[Piece]:
        """Its regions and stubs."""

    @property
    def sites(self) -> Iterable[Site]:
        """How control gets into them."""

    @property
    def redirects(self) -> Iterable[tuple[int, int, int]]:
        """Calls and jumps that are sent to stubs."""

    def extents(self) -> Iterable[tuple[int, Extent]]:
        """Head and extent of each piece, in the order of these."""


@dataclass(frozen=True, slots=True)
class LaidOut:
    """Functions at addresses."""

    code: bytes
    places: Mapping[int, int]
    """Head of each region (negative for stubs) -> the address by which it is entered."""
    failures: Mapping[int, LinkFailure]
    """Functions that cannot stand there, by index: nothing of them may be entered."""


def lay_out(functions: Iterable[Linkable], code_address: int, words: Words) -> LaidOut:
    """Every region of `functions` from `code_address` on.

    Jumps between regions stay in the cache. A jump or call from another function goes to the entry's stub where there
    is one: it is an entry. `functions` are gone through twice, and may be made anew.
    """
    stubs: set[int] = set()
    index_of: dict[int, int] = {}
    owners: list[int] = []

    def extents() -> Iterator[Extent]:
        for number, function in enumerate(functions):
            if function.entry_stub:
                stubs.add(function.entry)
            for head, extent in function.extents():
                index_of[head] = len(owners)
                owners.append(number)
                yield extent

    arranged = arrange(extents(), code_address, CODE_ALIGNMENT)
    linked = link(_Units(functions, words.places(), stubs, index_of), code_address, CODE_ALIGNMENT, arranged)
    places = {head: linked.addresses[index] for head, index in index_of.items()}
    failures = {owners[index]: failure for index, failure in linked.failures.items()}
    return LaidOut(linked.code, places, failures)


@dataclass(frozen=True, slots=True)
class _Units:
    """The regions of functions as the linker wants them, made as they are gone through."""

    functions: Iterable[Linkable]
    words: Mapping[str, int]
    """See `Words.places`."""
    stubs: set[int]
    """Entries of functions that have a stub for them."""
    index_of: Mapping[int, int]
    """Head of each region -> its number."""

    def __iter__(self) -> Iterator[Unit]:
        for function in self.functions:
            for piece in function.pieces:
                yield self._unit(function, piece)

    def _unit(self, function: Linkable, piece: Piece) -> Unit:
        symbols: dict[str, int] = {}
        entries: dict[str, int] = {}
        own_entry, index_of, stubs, words = function.entry, self.index_of, self.stubs, self.words
        inside = piece.head >= 0 or (piece.head == -own_entry and own_entry in stubs)
        for symbol, value in piece.symbols.items():
            kind = symbol[2]
            first = words.get(kind)
            if first is not None:
                symbols[symbol] = first + 8 * value
                continue
            stub_first = value in stubs and (kind == "f" or not (inside and value == own_entry))
            target = index_of.get(-value) if stub_first else None
            if target is None:
                target = index_of.get(value)
            if kind in "xf" and target is not None:
                entries[symbol] = target
            else:
                symbols[symbol] = value
        return Unit(piece.region, stub(piece.region.shift, piece.flags_in), symbols, entries)


def trampolines(
    read: Callable[[int, int], bytes], functions: Iterable[Linkable], places: Mapping[int, int]
) -> tuple[Patch, ...]:
    """The patches of `functions`, in address order. `read` gives the original bytes, `places` where regions are.

    Raises ProbeloomError for patches that overlap: a fault of the planner.
    """
    patches: list[Patch] = []
    for function in functions:
        entry = function.entry if function.entry_stub else None
        for site in function.sites:
            target = places[-site.head if site.head == entry else site.head]
            patches += [Patch(at, read(at, len(after)), after) for at, after in site.patches(target)]
        for at, opcode, head in function.redirects:
            patches.append(Patch(at, read(at, JUMP), jump_to(at, places[head], opcode)))
    patches.sort(key=lambda patch: patch.address)
    for first, second in pairwise(patches):
        if first.address + len(first.after) > second.address:
            raise ProbeloomError(f"two trampolines overlap at {second.address:#x}")
    return tuple(patches)


def stub(shift: int, flags_in: bool) -> bytes:
    """The machine code in front of a region: lowers RSP by `shift` bytes, pushing the flags where they are live."""
    lowered = shift - 8 if flags_in else shift
    if lowered == 0:
        code = b""
    elif lowered <= 128:
        code = bytes((0x48, 0x8D, 0x64, 0x24, -lowered & 0xFF))
    else:
        code = b"\x48\x8d\xa4\x24" + (-lowered).to_bytes(4, "little", signed=True)
    return code + b"\x9c" if flags_in else code
