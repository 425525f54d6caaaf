"""What is mapped in the emulator: the image as a loader would leave it, scratch memory, and stubs for the outside.

The layout is the same on both sides of a comparison, and everything in it follows from a seed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from lifter.image.types import Image, Kind

PAGE: Final = 4096
READ, WRITE, EXECUTE = 1, 2, 4
"""Bits of `Area.access`."""

PIE_BASE: Final = 0x5555_0000_0000
"""Where images without an address of their own are loaded: far from 0, as the kernel does it."""
STUBS: Final = 0x7EEE_0000_0000
"""Stubs that stand for everything outside the image, `STUB_SIZE` bytes each."""
STUB_SIZE: Final = 16
ARENAS: Final = 0x7777_0000_0000
"""Scratch memory that random pointers point to."""
ARENA_SIZE: Final = 64 * PAGE
STACK: Final = 0x7FFD_1000_0000
STACK_SIZE: Final = 96 * PAGE
STACK_ENTRY: Final = STACK + 80 * PAGE
"""RSP at the entry of a function is a little below."""
THREAD: Final = 0x7FFF_2000_0000
"""Base of fs: thread-local storage of both signs around it."""
THREAD_SIZE: Final = 4 * PAGE

RETURN: Final = "return"
"""Name of the stub that the emulated function returns to."""
CALLBACKS: Final = 8
"""Functions of the outside that random memory points to."""
_HLT: Final = b"\xf4"
_BLOCK: Final = 16 * PAGE
"""How much is mapped at a time when code touches unmapped memory."""
_VARIANTS: Final = 16
"""Blocks of different content."""
_PLAUSIBLE: Final = (0x10000, 0x7FFF_FFFF_0000)
_POSSIBLE: Final = (0, (1 << 52) - 16 * PAGE)
"""Unicorn has 52 bits of addresses: those of higher ones are ignored."""


class World(enum.Enum):
    """What code finds besides its arguments."""

    FRESH = "fresh"
    """Variables are as in the file, and null pointers fault."""
    LENIENT = "lenient"
    """Null pointers and nonsense lead to scratch memory, so that code which follows them runs on. (In Go, null pointers
    fault in any world: code is compiled, and instrumented, so that what comes after such a fault never runs.)"""
    WILD = "wild"
    """Lenient; and zeros in the image's variables are replaced by random words, as if the program had run before."""


@dataclass(frozen=True, slots=True)
class Area:
    """Memory to be mapped: whole pages."""

    address: int
    data: bytes
    access: int

    @property
    def end(self) -> int:
        """First address after it."""
        return self.address + len(self.data)


@dataclass(frozen=True)
class EmulatedMemory:
    """The address space in which an image is emulated."""

    base: int
    """What is added to the addresses of the image's file."""
    seed: int
    areas: tuple[Area, ...]
    stubs: tuple[str, ...]
    """Names of the stubs in order of address."""
    code: tuple[int, ...]
    """Entry addresses of some of the image's functions, as loaded."""
    closed: tuple[tuple[int, int], ...]
    """Ranges in which nothing is ever mapped on demand."""
    possible: tuple[int, int]
    """Where else memory is mapped on demand, [start, end)."""

    def stub_address(self, name: str) -> int:
        """Where a stub stands."""
        return STUBS + STUB_SIZE * self.stubs.index(name)

    def stub_at(self, address: int) -> str | None:
        """Name of the stub that stands at `address`, or None."""
        index, rest = divmod(address - STUBS, STUB_SIZE)
        return self.stubs[index] if not rest and 0 <= index < len(self.stubs) else None

    def on_demand(self, address: int) -> tuple[int, bytes] | None:
        """What is mapped where code touches unmapped memory, as (start, content); None where that is a fault.

        It follows from the seed and the address alone, whenever it is asked.
        """
        lowest, highest = self.possible
        if not lowest <= address < highest or self.is_closed(address, address + 1):
            return None
        start, size = address & -_BLOCK, _BLOCK
        if self.is_closed(start, start + size):
            start, size = address & -PAGE, PAGE
        return start, self._blocks[(start >> 16) * 0x9E3779B1 >> 8 & _VARIANTS - 1][:size]

    def is_closed(self, start: int, end: int) -> bool:
        """Whether nothing is mapped on demand in part of [start, end)."""
        return any(start < last and first < end for first, last in self.closed)

    def random_area(self, start: int, size: int) -> bytes:
        """What stands in scratch memory that begins at `start`."""
        generator = np.random.default_rng((self.seed, start // PAGE))
        return random_words(generator, size // 8, self.pointers).tobytes()

    @cached_property
    def _blocks(self) -> tuple[bytes, ...]:
        return tuple(self.random_area(variant * PAGE, _BLOCK) for variant in range(_VARIANTS))

    @cached_property
    def pointers(self) -> npt.NDArray[np.uint64]:
        """Addresses that random data refers to besides the arenas: functions of the image and of the outside."""
        outside = [self.stub_address(name) for name in self.stubs[1 : 1 + CALLBACKS]]
        return np.array([*outside, *self.code], np.uint64)


def random_words(
    generator: np.random.Generator, number: int, functions: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Memory that code finds its way through for a while: pointers, small numbers, zeros, text, noise."""
    kind = generator.integers(0, 100, number)
    noise = generator.integers(0, 1 << 64, number, np.uint64)
    pointers = np.uint64(ARENAS) + noise % np.uint64(ARENA_SIZE - PAGE) // np.uint64(8) * np.uint64(8)
    text = noise & np.uint64(0x1F1F1F1F1F1F1F1F) | np.uint64(0x6060606060606060)
    words = np.select(
        [kind < 55, kind < 71, kind < 77, kind < 82, kind < 92, kind < 96],
        [
            pointers,
            noise % np.uint64(40),
            noise % np.uint64(40) | (noise >> np.uint64(32)) % np.uint64(40) << np.uint64(32),
            text,
            np.zeros(number, np.uint64),
            functions[noise % np.uint64(len(functions))],
        ],
        noise,
    )
    return words.astype(np.uint64)


def lay_out(
    image: Image, seed: int, reserved: Sequence[tuple[int, int]] = (), world: World = World.FRESH
) -> EmulatedMemory:
    """Load `image`, apply what the dynamic loader does to it, and add stack, arenas, thread area and stubs.

    Imported names become stubs. `reserved` are ranges (addresses of the file) that an overlay will occupy.
    """
    base = 0 if image.kind is Kind.FIXED else PIE_BASE
    names = sorted(set(image.got.values()) - {""})
    stubs = (RETURN, *(f"callback{i}" for i in range(CALLBACKS)), *names)
    code = tuple(f.address + base for f in image.functions[:: max(1, len(image.functions) // 64)])
    occupied = [(s.address, s.end) for s in image.segments] + list(reserved)
    closed = (
        (base + min(start for start, _ in occupied) - PAGE, base + max(end for _, end in occupied) + PAGE),
        (STUBS - PAGE, STUBS + len(stubs) * STUB_SIZE + 2 * PAGE),
    )
    lowest, highest = _PLAUSIBLE if world is World.FRESH else _POSSIBLE
    possible = (_PLAUSIBLE[0] if image.is_go else lowest, highest)
    memory = EmulatedMemory(base, seed, (), stubs, code, closed, possible)
    scratch = (
        (ARENAS, ARENA_SIZE),
        (STACK, STACK_SIZE),
        (THREAD - THREAD_SIZE // 2, THREAD_SIZE),
    )
    loaded = _image_areas(image, base, {name: STUBS + STUB_SIZE * i for i, name in enumerate(stubs)})
    areas = [
        *(_without_zeros(area, memory) if world is World.WILD and area.access & WRITE else area for area in loaded),
        Area(STUBS, _pad(_HLT * (len(stubs) * STUB_SIZE)), READ | EXECUTE),
        *(Area(start, memory.random_area(start, size), READ | WRITE) for start, size in scratch),
    ]
    return EmulatedMemory(base, seed, tuple(areas), stubs, code, closed, possible)


def _without_zeros(area: Area, memory: EmulatedMemory) -> Area:
    words = np.frombuffer(area.data, np.uint64)
    noise = np.frombuffer(memory.random_area(area.address, len(area.data)), np.uint64)
    return Area(area.address, np.where(words, words, noise).tobytes(), area.access)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % PAGE)


def _image_areas(image: Image, base: int, stubs: dict[str, int]) -> Iterable[Area]:
    """The segments, relocated. Segments that share a page share its access rights."""
    pages: dict[int, int] = {}
    for segment in image.segments:
        access = READ * segment.readable | WRITE * segment.writable | EXECUTE * segment.executable
        for page in range(segment.address // PAGE, -(-segment.end // PAGE)):
            pages[page] = pages.get(page, 0) | access
    for start, end, access in _runs(pages):
        content = bytearray(end - start)
        for segment in image.segments:
            first = max(start, segment.address)
            last = min(end, segment.address + len(segment.data))
            if first < last:
                part = segment.data[first - segment.address : last - segment.address]
                content[first - start : last - start] = part
        _relocate(content, start, base, image, stubs)
        yield Area(base + start, bytes(content), access)


def _runs(pages: dict[int, int]) -> Iterable[tuple[int, int, int]]:
    """Neighbouring pages of equal access as (start, end, access), in bytes."""
    run: tuple[int, int, int] | None = None
    for page in sorted(pages):
        if run is not None and run[1] == page * PAGE and run[2] == pages[page]:
            run = (run[0], (page + 1) * PAGE, run[2])
            continue
        if run is not None:
            yield run
        run = (page * PAGE, (page + 1) * PAGE, pages[page])
    if run is not None:
        yield run


def _relocate(content: bytearray, start: int, base: int, image: Image, stubs: dict[str, int]) -> None:
    """Write the words that the dynamic loader writes, where they lie in `content`, loaded from `start`."""
    end = start + len(content) - 7
    for address, name in image.got.items():
        if start <= address < end and name in stubs:
            content[address - start : address - start + 8] = stubs[name].to_bytes(8, "little")
    for address, target in image.words.items():
        if start <= address < end:
            value = target + base & 0xFFFFFFFFFFFFFFFF
            content[address - start : address - start + 8] = value.to_bytes(8, "little")
