"""Room for trampolines: which original bytes may be overwritten, and how each entry gets its jump.

A jump of five bytes is written over the entry where those bytes are only ever executed in lifted form. Where
there are fewer, a jump of two bytes leads to a springboard: a jump of five in padding nearby, or in lifted bytes
that no entry needs. Nothing else is touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ir.blocks import LiftedBlock
from lifter.graph import FunctionGraph
from lifter.image.types import Image

JUMP: Final = 5
"""Size in bytes of `jmp rel32`."""
SHORT_JUMP: Final = 2
"""Size in bytes of `jmp rel8`."""
PAGE: Final = 4096
ENDBR64: Final = bytes.fromhex("f30f1efa")
_FARTHEST_PADDING: Final = 64
"""Bytes of padding looked at before and after a function."""

_NOPS: Final = re.compile(
    rb"(?:\xcc|\x90|\x66\x90|(?:\x66)*(?:\x2e)?\x0f\x1f(?:\x00|\x40.|\x44..|\x80....|\x84.....))+", re.DOTALL
)
"""Padding between functions and before aligned blocks: nop of every length, and int3."""


@dataclass(frozen=True, slots=True)
class Site:
    """How control gets from an original address into the code cache."""

    head: int
    """Address of the entry."""
    jump: int
    """Where the jump stands: the entry, or behind its endbr64."""
    springboard: int | None
    """Where the jump of five bytes stands if the one at the entry has only two; None if it has five."""

    def patches(self, target: int) -> list[tuple[int, bytes]]:
        """(address, new bytes) that make this site lead to `target`.

        Raises ValueError where the target is out of reach.
        """
        if self.springboard is None:
            return [(self.jump, jump_to(self.jump, target))]
        short = bytes((0xEB, (self.springboard - self.jump - SHORT_JUMP) & 0xFF))
        return [(self.jump, short), (self.springboard, jump_to(self.springboard, target))]


def jump_to(address: int, target: int, opcode: int = 0xE9) -> bytes:
    """`jmp rel32` (or `call rel32`) at `address` to `target`. Raises ValueError out of reach."""
    distance = target - address - JUMP
    if not -(1 << 31) <= distance < 1 << 31:
        raise ValueError(f"{target:#x} is out of reach of {address:#x}")
    return bytes((opcode,)) + distance.to_bytes(4, "little", signed=True)


def is_in_one_page(address: int, size: int) -> bool:
    """Whether `size` bytes at `address` can be written at once."""
    return address // PAGE == (address + size - 1) // PAGE


class Room:
    """The bytes of one function that trampolines may take."""

    def __init__(
        self,
        image: Image,
        graph: FunctionGraph,
        lifted: Mapping[int, LiftedBlock],
        entries: Iterable[int],
        whole_pages: bool = False,
    ) -> None:
        """`entries` are all addresses in the function at which code outside the cache can arrive. `whole_pages` keeps
        each trampoline, springboard and all, inside one page, where it can be written at once."""
        self._image = image
        self._graph = graph
        self._lifted = lifted
        self._whole_pages = whole_pages
        self._start = graph.function.address
        end = max(graph.function.end, max((b.end for b in graph.blocks.values()), default=0))
        self._bytes = bytearray(end - self._start + _FARTHEST_PADDING)
        """Per byte: 1 where it may be overwritten."""
        self._walls = set(entries)
        self._mark_lifted()
        self._padding: list[range] = []
        self._mark_padding(end)

    def _mark_lifted(self) -> None:
        for block in self._lifted.values():
            first, last = block.address - self._start, block.lifted_end - self._start
            if 0 <= first <= last <= len(self._bytes):
                self._bytes[first:last] = b"\1" * (last - first)

    def _mark_padding(self, end: int) -> None:
        """Padding in and right after the function: bytes in no block that are nops up to the next block.

        It ends where the next function starts, so no two functions have the same.
        """
        ends = sorted((block.address, block.end) for block in self._graph.blocks.values())
        refused = {refusal.address for refusal in self._graph.refusals}
        for (_, stop), (following, _) in zip(ends, [*ends[1:], (end + _FARTHEST_PADDING, 0)], strict=True):
            limit = min(following, self._next_function(stop))
            gap = self._image.read(stop, min(limit - stop, _FARTHEST_PADDING)) if limit > stop else b""
            match = _NOPS.match(gap)
            if not match or (following <= end and match.end() != limit - stop):
                continue
            span = range(stop, min(stop + match.end(), self._start + len(self._bytes)))
            if not refused.isdisjoint(span) or not self._walls.isdisjoint(span):
                continue
            self._padding.append(span)
            self._bytes[span.start - self._start : span.stop - self._start] = b"\1" * len(span)

    def _next_function(self, address: int) -> int:
        following = self._image.next_function(address)
        if following is not None:
            return following.address
        segment = self._image.segment_at(address)
        return min(segment.address + len(segment.data), address + _FARTHEST_PADDING) if segment else address

    def at(self, address: int) -> int:
        """How many bytes from `address` on may be overwritten, at most five."""
        first = address - self._start
        if not 0 <= first < len(self._bytes):
            return 0
        for length in range(JUMP):
            here = address + length
            if self._whole_pages and length and here % PAGE == 0:
                return length
            if first + length >= len(self._bytes) or not self._bytes[first + length]:
                return length
            if length and here in self._walls:
                return length
        return JUMP

    def within_one_instruction(self, address: int) -> int:
        """The same where a jump that is not known may arrive between instructions."""
        block = self._lifted.get(address)
        if block is None or not block.body:
            last = block.last if block else None
            return min(self.at(address), last.size if last else 0)
        return min(self.at(address), block.body[0].instruction.size)

    def claim(self, address: int, size: int) -> None:
        """Take bytes: nothing else gets them."""
        first = address - self._start
        self._bytes[first : first + size] = bytes(size)

    def springboard(self, jump: int) -> int | None:
        """Five bytes within reach of a two-byte jump at `jump`, or None."""
        origin = jump + SHORT_JUMP
        low = max(origin - 128, self._start)
        high = min(origin + 127, self._start + len(self._bytes) - JUMP)
        if self._whole_pages:
            low = max(low, jump & -PAGE)
            high = min(high, (jump & -PAGE) + PAGE - JUMP)
        if not self._graph.complete:
            # Lifted bytes may be jumped to: only padding is safe.
            spans = [span for span in self._padding if span.stop > low and span.start <= high]
        else:
            spans = [range(low, high + JUMP)]
        for span in spans:
            for address in range(max(span.start, low), min(span.stop - JUMP, high) + 1):
                if address + JUMP <= jump or address >= origin:
                    here = address - self._start
                    free = self._bytes[here : here + JUMP] == b"\1" * JUMP
                    if free and self._walls.isdisjoint(range(address, address + JUMP)):
                        return address
        return None


def find_sites(room: Room, image: Image, graph: FunctionGraph, heads: Iterable[int]) -> tuple[list[Site], list[int]]:
    """A site for each head that has room for one, and the heads that have none.

    The five-byte jumps go first: springboards take what they leave.
    """
    sites: list[Site] = []
    short: list[tuple[int, int]] = []
    without: list[int] = []
    measure = room.at if graph.complete else room.within_one_instruction
    for head in heads:
        jump = head
        if image.read(head, len(ENDBR64)) == ENDBR64:
            jump += len(ENDBR64)
            size = room.at(jump) if graph.complete else _second_instruction(room, graph, head)
        else:
            size = measure(head)
        if size == JUMP:
            room.claim(head, jump + JUMP - head)
            sites.append(Site(head, jump, None))
        elif size >= SHORT_JUMP:
            short.append((head, jump))
        else:
            without.append(head)
    for head, jump in short:
        room.claim(head, jump + SHORT_JUMP - head)
    for head, jump in short:
        springboard = room.springboard(jump)
        if springboard is None:
            without.append(head)
        else:
            room.claim(springboard, JUMP)
            sites.append(Site(head, jump, springboard))
    return sites, without


def _second_instruction(room: Room, graph: FunctionGraph, head: int) -> int:
    instructions = graph.blocks[head].instructions
    return min(room.at(head + len(ENDBR64)), instructions[1].size if len(instructions) > 1 else 0)
