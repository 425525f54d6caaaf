"""From compiled functions to code at addresses, and to the patches that lead there.

All addresses are the image's own: a mode that loads the image elsewhere subtracts the distance from the addresses that
it chooses, since the code refers to everything relative to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from codecache.link import LinkFailure, Unit, link
from codecache.types import CompiledRegion, Patch
from jit.trampolines import JUMP, Site, jump_to
from lifter.errors import ProbeloomError

CODE_ALIGNMENT: Final = 16


@dataclass(frozen=True, slots=True)
class Piece:
    """A region or stub of a function, compiled."""

    head: int
    """Address of the block by which it is entered; negative for stubs."""
    region: CompiledRegion
    flags_in: bool
    """Whether the flags are live at the head."""
    symbols: Mapping[str, int]
    """Symbol -> address in the image ('L_x', 'L_d'), or index among the counters ('L_c', 'L_w')."""
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


@dataclass(frozen=True, slots=True)
class LaidOut:
    """Functions at addresses."""

    code: bytes
    places: Mapping[int, int]
    """Head of each region (negative for stubs) -> the address by which it is entered."""
    failures: Mapping[int, LinkFailure]
    """Functions that cannot stand there, by index: nothing of them may be entered."""


def lay_out(functions: Sequence[CompiledFunction], code_address: int, counters: int) -> LaidOut:
    """Every region of `functions` from `code_address` on; counter i is at `counters` + 8 * i.

    Jumps between regions stay in the cache. A jump or call from another function goes to the entry's stub where there
    is one: it is an entry.
    """
    stubs = {function.entry for function in functions if function.entry_stub}
    everything = [(number, piece) for number, function in enumerate(functions) for piece in function.pieces]
    index_of = {piece.head: index for index, (_, piece) in enumerate(everything)}
    units = []
    for number, piece in everything:
        symbols: dict[str, int] = {}
        entries: dict[str, int] = {}
        own_entry = functions[number].entry
        inside = piece.head >= 0 or (piece.head == -own_entry and own_entry in stubs)
        for symbol, value in piece.symbols.items():
            kind = symbol[2]
            if kind in "cw":
                symbols[symbol] = counters + 8 * value
                continue
            stub_first = not (inside and value == own_entry)
            target = index_of.get(-value) if stub_first and value in stubs else None
            if target is None:
                target = index_of.get(value)
            if kind == "x" and target is not None:
                entries[symbol] = target
            else:
                symbols[symbol] = value
        units.append(Unit(piece.region, stub(piece.region.shift, piece.flags_in), symbols, entries))
    linked = link(units, code_address, CODE_ALIGNMENT)
    places = {piece.head: linked.addresses[index] for index, (_, piece) in enumerate(everything)}
    failures = {everything[index][0]: failure for index, failure in linked.failures.items()}
    return LaidOut(linked.code, places, failures)


def trampolines(
    read: Callable[[int, int], bytes], functions: Iterable[CompiledFunction], places: Mapping[int, int]
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
