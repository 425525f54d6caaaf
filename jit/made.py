"""One function's instrumentation as it goes from the process that makes it to the one that puts all together.

Counters are numbered inside the function, since how many others need is not known yet. What is not needed at once stays
packed: there are tens of thousands of functions.
"""

from __future__ import annotations

import marshal
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from codecache.encoding import decode, encode, sizes
from codecache.link import Extent
from codecache.types import CompiledRegion, RegionSource
from ir.carry import CarriedRegion
from jit.attach import Attachments, FunctionActions
from jit.compiled import Result, instructions, refusal, unusable
from jit.frames import described
from jit.layout import Piece, stub
from jit.placement import Terms
from jit.prepare import Work
from jit.tracepoints import Point, Spec, Tracepoint
from jit.trampolines import Site
from lifter.errors import Refusal
from lifter.image.callframes import CallFrames
from lifter.image.types import Function, Image
from lifter.instruction import Handling

GUARDS: Final = 1 << 40
"""From here on, indexes are those of guards."""
WORDS: Final = 1 << 41
"""From here on, of the function's private words."""
_OTHERS: Final = 1 << 48
"""From here on, an index is the address of a block, whose counter is another function's."""
_POINTS: Final = tuple(Point)


class OtherCounters(dict[int, int]):
    """Stands for the counters of blocks of other functions."""

    def __missing__(self, block: int) -> int:
        return _OTHERS + block


@dataclass(slots=True)
class Made:
    """One function's code and tracepoints. It is pickled."""

    entry: int
    """Address of the function."""
    counted: tuple[int, ...]
    """Blocks that have a counter: the first of the function's."""
    counters: int
    words: int
    """Private words of its probes."""
    selected: int
    """Tracepoints that were asked for."""
    tracepoints: int
    """Those that there are."""
    left_out: tuple[Refusal, ...]
    refusals: tuple[Refusal, ...]
    lifted: int
    """Instructions that were translated, carried, and all of the function."""
    verbatim: int
    instructions: int
    lifted_bytes: int
    rows: bytes
    """Tracepoints, packed."""
    borders: bytes
    """Whether it has an entry stub, its sites and its redirects, packed."""
    code: bytes
    """Its pieces, packed."""
    sources: list[tuple[int, RegionSource]]
    """(Number among the function's regions, source) of what is to be compiled; emptied once it is."""
    counts: Mapping[int, Terms] | None = None
    """Block that calls another function -> how often it runs; None where counts are not known."""


def make(
    item: Attachments,
    work: Work,
    actions: FunctionActions,
    counts: Mapping[int, Terms] | None,
    frames: CallFrames | None,
) -> Made:
    """From everything that was found out about a function to what is kept of it. `frames` are the image's, where
    regions may make calls."""
    plan = work.plan
    kinds = list(instructions(work).values())
    sources = []
    pieces = []
    for number, region in enumerate(work.code.all_regions):
        source = region.source
        if isinstance(source, RegionSource):
            sources.append((number, source))
        code = None if isinstance(source, RegionSource) else encode(source)
        frame = None
        if frames is not None and isinstance(region, CarriedRegion) and region.calls:
            frame = described(region.origins, frames)
        pieces.append((region.head, region.flags_in, tuple(region.symbols.items()), code, frame))
    lifted = {(block.address, block.lifted_end) for region in plan.regions for block in region.blocks}
    sites = tuple((site.head, site.jump, site.springboard) for site in plan.sites)
    redirects = tuple((redirect.site, redirect.opcode, region.head) for redirect, region in work.code.redirects)
    rows = tuple(
        (_POINTS.index(t.point), t.address, t.size, t.instructions, t.action, t.terms, t.words)
        for t in actions.tracepoints
    )
    graph = plan.graph
    return Made(
        entry=graph.function.address,
        counted=plan.counted,
        counters=item.counters(plan),
        words=actions.words,
        selected=len(item.points),
        tracepoints=len(rows),
        left_out=item.refusals,
        refusals=actions.refusals,
        lifted=kinds.count(Handling.LIFTED),
        verbatim=kinds.count(Handling.VERBATIM),
        instructions=sum(len(block.instructions) for block in graph.blocks.values()),
        lifted_bytes=sum(end - start for start, end in lifted),
        rows=marshal.dumps(rows),
        borders=marshal.dumps((work.code.entry_stub is not None, sites, redirects)),
        code=marshal.dumps(tuple(pieces)),
        sources=sources,
        counts=counts,
    )


class Numbering:
    """The counters of all functions of an image, in address order; then the guards; then words of probes."""

    size: int
    """How many words there are."""

    def __init__(self, functions: Sequence[Made], guarded: Sequence[Spec]) -> None:
        """`functions` are in address order."""
        self._entries = [function.entry for function in functions]
        *self._starts, self._counts = accumulate((function.counters for function in functions), initial=0)
        *words, self.size = accumulate((f.words for f in functions), initial=self._counts + len(guarded))
        self._first = dict(zip(self._entries, self._starts, strict=True))
        self._words = dict(zip(self._entries, words, strict=True))
        self._blocks = {
            block: first + index
            for function, first in zip(functions, self._starts, strict=True)
            for index, block in enumerate(function.counted)
        }

    def index(self, function: int, number: int) -> int:
        """Among all words, of one that a function has numbered."""
        if number < GUARDS:
            return self._first[function] + number
        if number < WORDS:
            return self._counts + number - GUARDS
        if number < _OTHERS:
            return self._words[function] + number - WORDS
        return self._blocks[number - _OTHERS]

    def tracepoints(self, function: Function, made: Made) -> Iterator[Tracepoint]:
        """The rows of a function's report."""
        entry = made.entry
        name = function.demangled
        for point, address, size, count, action, terms, words in marshal.loads(made.rows):
            yield Tracepoint(
                _POINTS[point],
                name,
                address,
                size,
                count,
                action,
                tuple([(self.index(entry, number), factor) for number, factor in terms]),
                (self.index(entry, words[0]), words[1]) if words[1] else words,
            )

    def owner(self, index: int) -> int:
        """The function whose counter it is."""
        return self._entries[bisect_right(self._starts, index) - 1]


class StoredFunction:
    """A function as the linker wants it (`jit.layout.Linkable`), unpacked as far as is asked for."""

    def __init__(self, numbering: Numbering, made: Made, results: Mapping[int, Result]) -> None:
        """`results` are its regions that were compiled, by number."""
        self.entry = made.entry
        self.entry_stub, sites, self.redirects = marshal.loads(made.borders)
        self.sites = [Site(*fields) for fields in sites]
        self._numbering = numbering
        self._code = made.code
        self._results = results

    @property
    def pieces(self) -> Iterator[Piece]:
        """Its regions and stubs."""
        index = self._numbering.index
        for number, (head, flags_in, symbols, code, _) in enumerate(marshal.loads(self._code)):
            region = self._results[number] if code is None else decode(code)
            assert isinstance(region, CompiledRegion)
            named = {symbol: index(self.entry, value) if symbol[2] in "cwb" else value for symbol, value in symbols}
            yield Piece(head, region, flags_in, named)

    def frames(self) -> Iterator[tuple[int, int, bytes | None]]:
        """Head, bytes of code, and call frame instructions (where it makes calls) of each piece."""
        for (head, extent), piece in zip(self.extents(), marshal.loads(self._code), strict=True):
            yield head, extent.code, piece[-1]

    def extents(self) -> Iterator[tuple[int, Extent]]:
        """Head and extent of each piece."""
        for number, (head, flags_in, _, code, _) in enumerate(marshal.loads(self._code)):
            if code is None:
                region = self._results[number]
                assert isinstance(region, CompiledRegion)
                size, data, shift = len(region.code), len(region.data), region.shift
            else:
                size, data, shift = sizes(code)
            yield head, Extent(len(stub(shift, flags_in)), size, data)


def function_of(image: Image, made: Made) -> Function:
    """The function that this was made of."""
    function = image.function_at(made.entry)
    assert function is not None
    return function


def obstacle(image: Image, made: Made, results: Mapping[int, Result]) -> Refusal | None:
    """Why a function cannot be used with what became of its regions; None where it can."""
    pieces = marshal.loads(made.code) if results else ()
    for number, result in sorted(results.items()):
        head = pieces[number][0]
        reason = unusable(image, result, head == made.entry)
        if reason:
            return refusal(function_of(image, made), reason, head)
    return None
