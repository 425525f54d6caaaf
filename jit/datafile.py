"""The data segment of a rewritten file, which is also the format of the data file that PROBELOOM_DATA names.

    offset                  what
    0                       header (HEADER), then zeros up to the next page
    COUNTERS_OFFSET         the counters: 64-bit words, little-endian, those of Python probes last
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
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jit.elfwriter import ElfEditor
from jit.tracepoints import Point, Tracepoint
from lifter.errors import RefusedError, UsageError

PAGE = 4096
MAGIC = b"PROBELM\n"
VERSION = 1

HEADER = struct.Struct("<8sII32s16sQQQQQQ256s")
"""magic, version, CRC-32 of the description, plan id, module id, size of the file, counters_offset, number of
counters, number of those that are counts (from the first; the others are words of probes),
description_offset, size of the description, file name of the module. Kept equal to `struct header` of
startup.c."""

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

    @property
    def counters_offset(self) -> int:
        """Of counter 0, from the start of the segment."""
        return COUNTERS_OFFSET

    @property
    def description_offset(self) -> int:
        """Page-aligned; header and counters are before it."""
        return COUNTERS_OFFSET + _pages(8 * self.counters)

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
    module: str, build_id: str, tracepoints: Sequence[Tracepoint], counters: int, content: bytes = b""
) -> DataLayout:
    """Lays out a data segment for `counters` words, of which those of Python probes must come last.

    `content` is the whole input file, an ELF file: two plans for different files never share a data file.
    Raises ValueError for a tracepoint whose terms or words are not among the counters, or stand in the wrong
    order.
    """
    counts = min((t.words[0] for t in tracepoints if t.words[1]), default=counters)
    for tracepoint in tracepoints:
        first, number = tracepoint.words
        if any(not 0 <= index < counts for index, _ in tracepoint.terms) or first + number > counters:
            raise ValueError(f"{tracepoint}: counters not among {counts} counts and {counters} words")
    described = _module(module, build_id, content)
    plain = _describe(described, tracepoints)
    identity = hashlib.blake2b(digest_size=32)
    identity.update(struct.pack("<QQQ", VERSION, counters, len(plain)) + plain)
    identity.update(content)
    return DataLayout(described.path, counters, counts, identity.digest(), zlib.compress(plain))


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
    _, version, checksum, plan, _, size, start, counters, counts, description_offset = fields[:10]
    if version != VERSION:
        raise RefusedError(f"{name}: data file of version {version}, this probeloom reads version {VERSION}")
    if len(content) < size:
        raise RefusedError(f"{name}: truncated data file: {len(content)} of {size} bytes")
    described = DataLayout("", counters, counts, plan, content[description_offset:size])
    if (
        start != COUNTERS_OFFSET
        or counts > counters
        or description_offset != described.description_offset
        or fields[10] != len(described.description)
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
    values = np.frombuffer(content, dtype="<u8", count=counters, offset=COUNTERS_OFFSET)
    return DataFile(module, plan, tracepoints, values.astype(np.uint64))


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


def _describe(module: Module, tracepoints: Sequence[Tracepoint]) -> bytes:
    """The table by columns, addresses as differences: 50,000 blocks are then a few hundred kilobytes
    compressed."""
    functions = {name: index for index, name in enumerate(dict.fromkeys(t.function for t in tracepoints))}
    actions = {name: index for index, name in enumerate(dict.fromkeys(t.action for t in tracepoints))}
    points = {point: index for index, point in enumerate(Point)}
    addresses = [t.address for t in tracepoints]
    table = {
        "module": [module.path, module.build_id, module.base, module.end, module.entry],
        "points": [point.value for point in points],
        "functions": list(functions),
        "actions": list(actions),
        "point": [points[t.point] for t in tracepoints],
        "function": [functions[t.function] for t in tracepoints],
        "address": addresses[:1] + [after - before for before, after in pairwise(addresses)],
        "size": [t.size for t in tracepoints],
        "instructions": [t.instructions for t in tracepoints],
        "action": [actions[t.action] for t in tracepoints],
        "terms": [
            t.terms[0][0] if len(t.terms) == 1 and t.terms[0][1] == 1 else [list(term) for term in t.terms]
            for t in tracepoints
        ],
        "words": {row: list(t.words) for row, t in enumerate(tracepoints) if t.words[1]},
    }
    return json.dumps(table, separators=(",", ":")).encode()


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
