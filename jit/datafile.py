"""The data segment of a rewritten file, which is also the format of the data file that PROBELOOM_DATA names.

    offset                  what
    0                       header (HEADER), then zeros up to the next page
    COUNTERS_OFFSET         the counters: 64-bit words, little-endian, those of Python probes last
                            where they are biased (see `ir.carry`): as many words that the main thread alone adds to
    owner_offset            where they are biased: a page, of which the first word is the owner word
    description_offset      page-aligned: what the counters mean, compressed; never touched by the program

The start-up code (`jit/startup/startup.c`) knows the header and the counters, and maps both from the data
file over those of the process. The description is only copied into a new data file, which so can be read
without the program.

PROBELOOM_DATA=FILE, in which %p is the process id, %m the module's file name and %% a percent sign:

    FILE is                 then
    missing, or empty       it is made
    of this very rewrite    counts are added to it, by several processes at once if need be
    of another rewrite      it is replaced by a new one; processes that still count in the old one keep that
    of the same module
    of another module       FILE.MODULE is used instead, by the same rules
    anything else           it is left alone, and nothing is kept

A child made by fork shares its parent's file, whatever %p says. If anything fails, the program runs as without
FILE. A set-user-id program ignores the variable.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from jit.elfwriter import ElfEditor
from jit.tracepoints import Point, Tracepoint
from lifter.errors import RefusedError, UsageError

PAGE = 4096
MAGIC = b"PROBELM\n"
VERSION = 2

HEADER = struct.Struct("<8sII32s16sQQQQQQQQ256s")
"""magic, version, CRC-32 of the description, plan id, module id, size of the file, counters_offset, number of
counters, number of those that are counts (from the first; the others are words of probes),
description_offset, size of the description, owner_offset (0 where counters are not biased), which process's main
thread may count without a lock (0 if none has claimed that), file name of the module. Kept equal to `struct header`
of startup.c."""
_COUNTERS: Final = 7
_OWNER_OFFSET: Final = 11
"""Places of two of them."""

COUNTERS_OFFSET = PAGE
"""Counter i is at data_address + COUNTERS_OFFSET + 8 * i, whatever the rest of the layout."""

_MAX_DESCRIPTION = 1 << 30
"""Uncompressed; more can only be a bomb."""


@dataclass(frozen=True, slots=True)
class DataLayout:
    """What a data segment contains, and where."""

    module: str
    """Absolute path of the file that is instrumented."""
    counters: int
    """How many 64-bit words, private words of probes included."""
    counts: int
    """How many of them, from the first, are counts: the others belong to Python probes."""
    plan_id: bytes
    """32 bytes that identify the instrumentation: same input file, same tracepoints, same counters."""
    description: bytes
    """Compressed."""
    biased: bool = False
    """Whether there are words of the main thread's own, and an owner word."""

    @property
    def counters_offset(self) -> int:
        """Of counter 0, from the start of the segment."""
        return COUNTERS_OFFSET

    @property
    def own_offset(self) -> int:
        """Of the main thread's own counter 0, where counters are biased."""
        return COUNTERS_OFFSET + 8 * self.counters

    @property
    def owner_offset(self) -> int:
        """Page-aligned; 0 where counters are not biased."""
        return COUNTERS_OFFSET + _pages(16 * self.counters) if self.biased else 0

    @property
    def description_offset(self) -> int:
        """Page-aligned; header and counters are before it."""
        return self.owner_offset + PAGE if self.biased else COUNTERS_OFFSET + _pages(8 * self.counters)

    @property
    def size(self) -> int:
        """Of the segment and of the data file, in bytes."""
        return self.description_offset + len(self.description)


@dataclass(frozen=True, slots=True)
class Module:
    """What the data file says of the file that is instrumented."""

    path: str
    """Absolute."""
    build_id: str
    """Hexadecimal; '' where the module has none."""
    base: int = 0
    """Lowest address that it loads (page-aligned): 0 for position-independent files."""
    end: int = 0
    """First address after all that it loads."""
    entry: int = 0
    """Its entry point."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file as read."""

    module: Module
    plan_id: bytes
    tracepoints: tuple[Tracepoint, ...]
    counters: npt.NDArray[np.uint64]
    biased: bool = False
    """Whether they are biased; the main thread's own are in `counters` already."""

    def count(self, tracepoint: Tracepoint) -> int:
        """How often the program passed it: the sum over its terms, modulo 2**64.

        0 for a difference that is negative: what was read is not the end of a run, or of one that broke off.
        """
        total = sum(int(self.counters[index]) * factor for index, factor in tracepoint.terms)
        total &= 0xFFFF_FFFF_FFFF_FFFF
        return 0 if len(tracepoint.terms) > 1 and total >> 63 else total

    def words(self, tracepoint: Tracepoint) -> tuple[int, ...]:
        """The private words of its probe; () where it has none."""
        first, number = tracepoint.words
        return tuple(int(word) for word in self.counters[first : first + number])


def layout(
    module: str,
    build_id: str,
    tracepoints: Iterable[Tracepoint],
    counters: int,
    content: bytes = b"",
    *,
    biased: bool = False,
) -> DataLayout:
    """Lays out a data segment for `counters` words, of which those of Python probes must come last.

    `tracepoints` are gone through once. `content` is the whole input file, an ELF file: two plans for different files
    never share a data file. Raises ValueError for a tracepoint whose terms or words are not among the counters, or
    stand in the wrong order.
    """
    described = _module(module, build_id, content)
    table = _Table(described, counters)
    for tracepoint in tracepoints:
        table.add(tracepoint)
    counts = table.counts()
    plain = table.encode()
    identity = hashlib.blake2b(digest_size=32)
    identity.update(struct.pack("<QQQQ", VERSION, counters, biased, len(plain)) + plain)
    identity.update(content)
    return DataLayout(described.path, counters, counts, identity.digest(), zlib.compress(plain), biased)


def encode(layout: DataLayout) -> bytes:
    """The data segment as it stands in the file: every counter zero. `layout.size` bytes."""
    module = os.fsencode(layout.module)
    header = HEADER.pack(
        MAGIC,
        VERSION,
        zlib.crc32(layout.description),
        layout.plan_id,
        hashlib.blake2b(module, digest_size=16).digest(),
        layout.size,
        layout.counters_offset,
        layout.counters,
        layout.counts,
        layout.description_offset,
        len(layout.description),
        layout.owner_offset,
        0,
        os.fsencode(Path(layout.module).name)[:255],
    )
    return header + bytes(layout.description_offset - len(header)) + layout.description


def read(path: str | os.PathLike[str]) -> DataFile:
    """Reads a data file; one that a running program still counts in, too.

    Raises UsageError for a path that cannot be read, RefusedError for what is not a whole data file.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    return decode(content, str(path))


def decode(content: bytes, name: str) -> DataFile:
    """As `read`, for the content of a data file or a data segment; `name` is for messages."""
    if not content:
        raise RefusedError(f"{name}: empty, not a probeloom data file")
    if content[: len(MAGIC)] != MAGIC:
        raise RefusedError(f"{name}: not a probeloom data file")
    if len(content) < HEADER.size:
        raise RefusedError(f"{name}: truncated data file: {len(content)} bytes")
    fields = HEADER.unpack_from(content)
    _, version, checksum, plan, _, size, start, counters, counts, description_offset, description_size = fields[:11]
    owner_offset = fields[_OWNER_OFFSET]
    if version != VERSION:
        raise RefusedError(f"{name}: data file of version {version}, this probeloom reads version {VERSION}")
    if len(content) < size:
        raise RefusedError(f"{name}: truncated data file: {len(content)} of {size} bytes")
    described = DataLayout("", counters, counts, plan, content[description_offset:size], owner_offset != 0)
    if (
        start != COUNTERS_OFFSET
        or counts > counters
        or owner_offset != described.owner_offset
        or description_offset != described.description_offset
        or description_size != len(described.description)
        or checksum != zlib.crc32(described.description)
    ):
        raise RefusedError(f"{name}: damaged data file")
    try:
        module, tracepoints = _undescribe(described.description)
    except (ValueError, KeyError, TypeError, IndexError, zlib.error) as error:
        raise RefusedError(f"{name}: damaged data file ({error})") from None
    for tracepoint in tracepoints:
        indices = [index for index, _ in tracepoint.terms]
        out_of_range = any(not 0 <= index < counts for index in indices)
        if out_of_range or min(tracepoint.words) < 0 or sum(tracepoint.words) > counters:
            raise RefusedError(f"{name}: damaged data file (counter out of range)")
    return DataFile(module, plan, tracepoints, words(content), owner_offset != 0)


def words(segment: bytes) -> npt.NDArray[np.uint64]:
    """The counters of a data segment or file, those of the main thread added."""
    fields = HEADER.unpack_from(segment)
    counters = fields[_COUNTERS]
    found = np.frombuffer(segment, "<u8", counters, COUNTERS_OFFSET).astype(np.uint64)
    if fields[_OWNER_OFFSET]:
        found += np.frombuffer(segment, "<u8", counters, COUNTERS_OFFSET + 8 * counters)
    return found


def owned(segment: bytes, stack: int) -> bytes:
    """A data segment in which whoever's stack pointer is at least `stack` counts without a lock: for emulation. One
    without biased counters, or without anything, is as it was."""
    owner_offset = HEADER.unpack_from(segment)[_OWNER_OFFSET] if segment else 0
    if not owner_offset:
        return segment
    return segment[:owner_offset] + owner_word(stack).to_bytes(8, "little") + segment[owner_offset + 8 :]


def owner_word(stack: int) -> int:
    """The word that lets count without a lock whose stack pointer is at least `stack` (see `ir.carry`)."""
    return 1 << 63 | stack


def _pages(size: int) -> int:
    """`size` rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


def _module(path: str, build_id: str, content: bytes) -> Module:
    path = os.path.abspath(path)  # noqa: PTH100 - the path as given, links not followed, no file needed
    if not content:
        return Module(path, build_id)
    elf = ElfEditor(content)
    base = min(segment.address for segment in elf.loaded) // PAGE * PAGE
    end = max(segment.address + segment.memory_size for segment in elf.loaded)
    return Module(path, build_id, base, end, elf.header.entry)


class _Table:
    """The description: tracepoints by columns, addresses as differences. 50,000 blocks are then a few hundred kilobytes
    compressed; in memory they are text at once, for there may be a million."""

    def __init__(self, module: Module, counters: int) -> None:
        self._module = module
        self._counters = counters
        self._functions: dict[str, int] = {}
        self._actions: dict[str, int] = {}
        self._columns = {
            name: StringIO() for name in ("point", "function", "address", "size", "instructions", "action", "terms")
        }
        self._words: dict[int, list[int]] = {}
        self._rows = 0
        self._last = 0
        self._highest: tuple[int, Tracepoint] | None = None
        """The highest index of a count, and whose it is."""

    def add(self, row: Tracepoint) -> None:
        """One more row. Raises ValueError."""
        first, number = row.words
        indices = [index for index, _ in row.terms]
        if min(indices, default=0) < 0 or first + number > self._counters:
            raise self._wrong(row)
        if indices and (self._highest is None or max(indices) > self._highest[0]):
            self._highest = max(indices), row
        values = (
            _POINTS[row.point],
            self._functions.setdefault(row.function, len(self._functions)),
            row.address - self._last,
            row.size,
            row.instructions,
            self._actions.setdefault(row.action, len(self._actions)),
            row.terms[0][0] if len(row.terms) == 1 and row.terms[0][1] == 1 else _pairs(row.terms),
        )
        for column, value in zip(self._columns.values(), values, strict=True):
            column.write(f",{value}" if self._rows else str(value))
        self._last = row.address
        if number:
            self._words[self._rows] = [first, number]
        self._rows += 1

    def counts(self) -> int:
        """How many words are counts. Raises ValueError where one of them comes after a word of a probe."""
        counts = min((first for first, _ in self._words.values()), default=self._counters)
        if self._highest is not None and self._highest[0] >= counts:
            raise self._wrong(self._highest[1], counts)
        return counts

    def _wrong(self, row: Tracepoint, counts: int | None = None) -> ValueError:
        counts = self._counters if counts is None else counts
        return ValueError(f"{row}: counters not among {counts} counts and {self._counters} words")

    def encode(self) -> bytes:
        """The table as JSON."""
        module = self._module
        heads = {
            "module": [module.path, module.build_id, module.base, module.end, module.entry],
            "points": [point.value for point in _POINTS],
            "functions": list(self._functions),
            "actions": list(self._actions),
        }
        parts = [_json(heads)[:-1]]
        parts += [f',"{name}":[{column.getvalue()}]' for name, column in self._columns.items()]
        parts.append(f',"words":{_json(self._words)}}}')
        return "".join(parts).encode()


_POINTS: Final = {point: number for number, point in enumerate(Point)}


def _pairs(terms: Iterable[tuple[int, int]]) -> str:
    return f"[{','.join([f'[{index},{factor}]' for index, factor in terms])}]"


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _undescribe(description: bytes) -> tuple[Module, tuple[Tracepoint, ...]]:
    stream = zlib.decompressobj()
    plain = stream.decompress(description, _MAX_DESCRIPTION)
    if not stream.eof:
        raise ValueError("description is cut off")
    table: dict[str, Any] = json.loads(plain)
    points = [Point(value) for value in table["points"]]
    columns = zip(
        table["point"],
        table["function"],
        accumulate(table["address"]),
        table["size"],
        table["instructions"],
        table["action"],
        table["terms"],
        strict=True,
    )
    words = table["words"]
    path, build_id, base, end, entry = table["module"]
    return (
        Module(str(path), str(build_id), int(base), int(end), int(entry)),
        tuple(
            Tracepoint(
                points[point],
                str(table["functions"][function]),
                int(address),
                int(size),
                int(instructions),
                str(table["actions"][action]),
                ((terms, 1),) if isinstance(terms, int) else tuple((int(i), int(f)) for i, f in terms),
                (int(words[str(row)][0]), int(words[str(row)][1])) if str(row) in words else (0, 0),
            )
            for row, (point, function, address, size, instructions, action, terms) in enumerate(columns)
        ),
    )
