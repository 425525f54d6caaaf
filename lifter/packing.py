"""Graphs of many functions in little memory: packed as bytes, and made again when they are looked at.

An instruction takes a kilobyte as objects. Packed, a block is some twenty bytes and its instructions are none: they are
the image's own, and decoding them again is quick.
"""

from __future__ import annotations

import marshal
from array import array
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from lifter.errors import Refusal
from lifter.graph import Block, FunctionGraph, JumpTable
from lifter.image.types import Function, Image
from lifter.outline import FLOWS, Outline

_KEPT: Final = 64
"""Graphs that stay unpacked: those that were looked at last."""


def pack(graph: FunctionGraph) -> bytes:
    """A graph without its function, as bytes."""
    base = graph.function.address
    blocks = array("i")
    for address, block in graph.blocks.items():
        size = block.end - block.last_address
        form = size | FLOWS.index(block.flow) << 4 | len(block.successors) << 8
        blocks.extend((address - base, block.size, form, *[s - base for s in block.successors]))
    return marshal.dumps(
        (
            blocks.tobytes(),
            tuple(graph.entries),
            tuple(graph.open_entries),
            tuple((table.jump, table.address, table.targets) for table in graph.tables.values()),
            tuple(graph.tail_calls),
            graph.unresolved,
            dict(graph.callees),
            tuple(graph.noreturn),
            tuple((r.address, r.reason, r.code, r.hint, r.function) for r in graph.refusals),
        )
    )


def unpack(image: Image, function: Function, content: bytes) -> FunctionGraph:
    """The graph of `function` that was packed."""
    packed, entries, open_entries, tables, tail_calls, unresolved, callees, noreturn, refusals = marshal.loads(content)
    base = function.address
    code = image.read(base, function.size)
    numbers = array("i")
    numbers.frombytes(packed)
    blocks: dict[int, Block] = {}
    at = 0
    while at < len(numbers):
        offset, size, form = numbers[at : at + 3]
        after = at + 3 + (form >> 8)
        successors = tuple([base + successor for successor in numbers[at + 3 : after]])
        at = after
        blocks[base + offset] = Block.of_code(
            base + offset, code[offset : offset + size], form & 15, FLOWS[form >> 4 & 15], successors
        )
    return FunctionGraph(
        function=function,
        blocks=blocks,
        entries=frozenset(entries),
        open_entries=frozenset(open_entries),
        tables={jump: JumpTable(jump, address, targets) for jump, address, targets in tables},
        tail_calls=frozenset(tail_calls),
        unresolved=unresolved,
        callees=callees,
        noreturn=frozenset(noreturn),
        refusals=tuple(Refusal(*fields) for fields in refusals),
    )


def spans_of(content: bytes, base: int) -> npt.NDArray[np.int64]:
    """(First address, end) of each block of a packed graph of the function at `base`, in address order."""
    packed = np.frombuffer(marshal.loads(content)[0], np.int32).tolist()
    spans = []
    at = 0
    while at < len(packed):
        spans.append((base + packed[at], base + packed[at] + packed[at + 1]))
        at += 3 + (packed[at + 2] >> 8)
    return np.array(spans, np.int64).reshape(-1, 2)


class Graphs(Mapping[int, FunctionGraph]):
    """The graphs of an image's functions by address, packed."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._functions: dict[int, Function] = {}
        self._packed: dict[int, bytes] = {}
        self._outlines: dict[int, Outline] = {}
        self._unpacked: dict[int, FunctionGraph] = {}

    def put(self, function: Function, packed: bytes, outline: Outline) -> None:
        """Keep the graph of a function, in place of one that was there."""
        self._outlines[function.address] = outline
        self._functions[function.address] = function
        self._packed[function.address] = packed
        self._unpacked.pop(function.address, None)

    def sort(self) -> None:
        """Put the graphs into address order."""
        self._packed = dict(sorted(self._packed.items()))

    def outline(self, address: int) -> Outline:
        """What there is to know about the function at `address` from outside."""
        return self._outlines[address]

    def packed(self, address: int) -> bytes:
        """The graph of the function at `address`, for `unpack`."""
        return self._packed[address]

    def function(self, address: int) -> Function:
        """The function at `address`."""
        return self._functions[address]

    def __getitem__(self, address: int) -> FunctionGraph:
        graph = self._unpacked.pop(address, None)
        if graph is None:
            graph = unpack(self._image, self._functions[address], self._packed[address])
            if len(self._unpacked) >= _KEPT:
                del self._unpacked[next(iter(self._unpacked))]
        self._unpacked[address] = graph
        return graph

    def __contains__(self, address: object) -> bool:
        return address in self._packed

    def __iter__(self) -> Iterator[int]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def bounds(self) -> npt.NDArray[np.int64]:
        """(Address, end) of every function, in address order."""
        return np.array(sorted((a, function.end) for a, function in self._functions.items()), np.int64).reshape(-1, 2)

    def spans(self) -> npt.NDArray[np.int64]:
        """(First address, end) of every block, in address order."""
        found = [spans_of(self._packed[address], address) for address in sorted(self._packed)]
        return np.concatenate(found) if found else np.zeros((0, 2), np.int64)
