"""Give compiled regions addresses: place one, or lay thousands out one after the other."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from codecache.types import DATA_ALIGNMENT, CompiledRegion, Placed, Relocation, RelocationKind, Symbols

_FILLER = b"\xcc"
_PC32, _PC64 = RelocationKind.PC32, RelocationKind.PC64
_FORMATS = {
    RelocationKind.PC32: struct.Struct("<i"),
    RelocationKind.ABS32: struct.Struct("<I"),
    RelocationKind.ABS32S: struct.Struct("<i"),
    RelocationKind.ABS64: struct.Struct("<Q"),
    RelocationKind.PC64: struct.Struct("<q"),
}
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class LinkFailure:
    """A region that cannot stand where it was put."""

    reason: str
    symbol: str
    """The symbol that is missing or out of reach."""
    distance: int
    """The value that did not fit its field: a distance in bytes, or an address; 0 for a missing symbol."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A region to be laid out by `link`."""

    region: CompiledRegion
    stub: bytes
    """Machine code in front of it: lowers RSP by the region's `shift`."""
    symbols: Symbols
    """Addresses of its symbols."""
    entries: Mapping[str, int]
    """Symbols that stand for the entry (stub and all) of another unit, by its index."""


@dataclass(frozen=True, slots=True)
class Linked:
    """Regions laid out one after the other."""

    code: bytes
    addresses: tuple[int, ...]
    """Entry of each unit: its stub, or its code where it has none."""
    failures: Mapping[int, LinkFailure]
    """Units that could not be linked, by index: their bytes are breakpoints, and nothing may enter them."""


def place(region: CompiledRegion, address: int, symbols: Symbols, *, stub: bytes = b"") -> Placed | LinkFailure:
    """Stub, code and constant data of one region at an address.

    Starts the code at once behind the stub, and the data at the next multiple of 32.
    """
    data_offset = _data_offset(region, address, len(stub))
    content = bytearray(_FILLER) * (data_offset + len(region.data))
    failure = _write(content, 0, region, stub, address, data_offset, symbols)
    return failure or Placed(address, bytes(content))


@dataclass(frozen=True, slots=True)
class Arranged:
    """Where regions go, one after the other."""

    addresses: tuple[int, ...]
    """Entry of each: its stub, or its code where it has none."""
    end: int
    """First address after them all."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much room a region takes, in bytes."""

    stub: int
    code: int
    data: int


def arrange(regions: Iterable[Extent], base: int, alignment: int = 1) -> Arranged:
    """Addresses from `base` on for regions and the stubs in front of them, each entry at a multiple of `alignment`."""
    addresses: list[int] = []
    at = base
    for extent in regions:
        at += -at % alignment
        addresses.append(at)
        at += extent.stub + extent.code
        if extent.data:
            at += -at % DATA_ALIGNMENT + extent.data
    return Arranged(tuple(addresses), at)


def link(units: Iterable[Unit], base: int, alignment: int = 1, arranged: Arranged | None = None) -> Linked:
    """Lay units out from address `base` on, each entry at a multiple of `alignment`, and bind them to each other.

    `arranged` says where they go, if that was found out before. `units` may be made anew each time that they are gone
    through: that is once, but for failures and where they have to be arranged. A unit that is out of reach of one of
    its symbols fails; so does, in turn, each unit that jumps to it.
    """
    if arranged is None:
        extents = (Extent(len(unit.stub), len(unit.region.code), len(unit.region.data)) for unit in units)
        arranged = arrange(extents, base, alignment)
    addresses = arranged.addresses
    content = bytearray(_FILLER) * (arranged.end - base)
    failures: dict[int, LinkFailure] = {}
    for index, unit in enumerate(units):
        symbols = unit.symbols
        if unit.entries:
            symbols = {**symbols, **{name: addresses[other] for name, other in unit.entries.items()}}
        address = addresses[index]
        offset = _data_offset(unit.region, address, len(unit.stub))
        failure = _write(content, address - base, unit.region, unit.stub, address, offset, symbols)
        if failure:
            failures[index] = failure
    if failures:
        _spread(units, failures)
        ends = (*addresses[1:], arranged.end)
        for index in failures:
            start, end = addresses[index] - base, ends[index] - base
            content[start:end] = _FILLER * (end - start)
    return Linked(bytes(content), addresses, failures)


def _spread(units: Iterable[Unit], failures: dict[int, LinkFailure]) -> None:
    """Fail every unit that can reach a failed one."""
    users: dict[int, list[tuple[int, str]]] = {}
    for index, unit in enumerate(units):
        for name, other in unit.entries.items():
            users.setdefault(other, []).append((index, name))
    pending = list(failures)
    while pending:
        for index, name in users.get(pending.pop(), ()):
            if index not in failures:
                failures[index] = LinkFailure("continues in a region that could not be linked", name, 0)
                pending.append(index)


def _data_offset(region: CompiledRegion, address: int, stub: int) -> int:
    """Offset of the constant data from the entry; the size of stub and code where there is none."""
    end = stub + len(region.code)
    return end + (-(address + end) % DATA_ALIGNMENT if region.data else 0)


def _write(
    content: bytearray,
    start: int,
    region: CompiledRegion,
    stub: bytes,
    address: int,
    data_offset: int,
    symbols: Symbols,
) -> LinkFailure | None:
    """Write one region into `content` at `start`, relocated for `address`."""
    code_start = start + len(stub)
    content[start:code_start] = stub
    content[code_start : code_start + len(region.code)] = region.code
    code = address + len(stub)
    data = address + data_offset
    failure = _relocate(content, code_start, code, region.relocations, symbols, code, data)
    if region.data and not failure:
        data_start = start + data_offset
        content[data_start : data_start + len(region.data)] = region.data
        failure = _relocate(content, data_start, data, region.data_relocations, symbols, code, data)
    return failure


def _relocate(
    content: bytearray,
    start: int,
    address: int,
    relocations: tuple[Relocation, ...],
    symbols: Symbols,
    code: int,
    data: int,
) -> LinkFailure | None:
    for relocation in relocations:
        name = relocation.symbol
        target = symbols.get(name)
        if target is None:
            if name == ".code":
                target = code
            elif name == ".data":
                target = data
            else:
                return LinkFailure("a symbol of the region has no address", name, 0)
        kind = relocation.kind
        value = target + relocation.addend
        if kind is _PC32 or kind is _PC64:
            value -= address + relocation.offset
        elif kind is RelocationKind.ABS64:
            value &= _MASK
        try:
            _FORMATS[kind].pack_into(content, start + relocation.offset, value)
        except struct.error:
            return LinkFailure(f"out of reach of a {kind.value} reference", name, value)
    return None
