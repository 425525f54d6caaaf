"""Which registers must be equal where control leaves the emulated code."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Final

from jit import event_log
from jit.analysis import to_analyse
from jit.emulate import Exit, ExitKind, Run
from jit.emulation_limits import StretchTable
from jit.event_log import stretch
from lifter.cfg import build_all
from lifter.graph import Block, FunctionGraph
from lifter.image.types import Function, Image
from lifter.liveness import analyse
from lifter.registers import (
    ARITHMETIC_FLAGS,
    GPRS,
    R8,
    R9,
    R10,
    R12,
    R13,
    R14,
    R15,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    RSP,
    gpr,
)
from lifter.summaries import TRACKED

_FLAG_HISTORY: Final = 64
"""Stretches of code before an exit that are searched for who defined the flags."""
_SAVED: Final = sum(map(gpr, (RBX, RBP, RSP, R12, R13, R14, R15)))
_RESULTS: Final = gpr(RAX) | gpr(RDX)
_ARGUMENTS: Final = sum(map(gpr, (RDI, RSI, RDX, RCX, R8, R9)))
_SYSCALL: Final = sum(map(gpr, (RAX, RDI, RSI, RDX, R8, R9, R10)))


class ImageLiveness:
    """What is live at the end of each block of an image, by the analysis that the engine uses, too."""

    def __init__(self, image: Image, selected: Mapping[int, Function]) -> None:
        """`selected` are the functions, by address, that are instrumented."""
        graphs = build_all(image, to_analyse(image, selected, "abi"))
        self._liveness = analyse(image, graphs, "abi")
        self._blocks: dict[int, tuple[FunctionGraph, Block]] = {}
        for graph in graphs.values():
            for address, block in graph.blocks.items():
                self._blocks.setdefault(address, (graph, block))
        self._starts = sorted(self._blocks)
        self._dead: dict[int, int] = {}

    def block_at(self, address: int) -> tuple[FunctionGraph, Block] | None:
        """The block that holds `address`, with its function."""
        number = bisect_right(self._starts, address) - 1
        if number < 0:
            return None
        graph, block = self._blocks[self._starts[number]]
        return (graph, block) if address < block.end else None

    def dead_at(self, address: int) -> int:
        """What is dead before the instruction at `address` if it ends a block; 0 anywhere else."""
        found = self._dead.get(address)
        if found is None:
            found, block = 0, self.block_at(address)
            if block is not None and block[1].last_address == address:
                found = TRACKED & ~self.before_end(*block)
            self._dead[address] = found
        return found

    def before_end(self, graph: FunctionGraph, block: Block) -> int:
        """What is live before the last instruction of `block`."""
        return self._liveness.live_at(graph, block.last_address)


class Watched:
    """The registers and flags to be compared at exits, as masks of `lifter.registers`.

    With liveness from an analysis, what is dead there may differ; what the ABI promises to code outside the image
    must be equal whatever the analysis says.
    """

    def __init__(self, image: Image, base: int, liveness: ImageLiveness | None, stretches: StretchTable) -> None:
        """`liveness` is None where everything must be equal."""
        self._base = base
        self._is_go = image.is_go
        self._plt = image.plt
        self._liveness = liveness
        self._stretches = stretches

    def at(self, run: Run, left: Exit) -> int:
        """What to compare at exit `left` of the original."""
        if left.kind in (ExitKind.FAULT, ExitKind.TRAP, ExitKind.BUDGET):
            return 0
        if self._is_go:
            # Its ABI: no flag is live at calls, returns and entries, every register may be.
            return GPRS
        records = run.records[: left.position]
        keys = records["value"][records["kind"] == event_log.BLOCK][::-1]
        defined = ARITHMETIC_FLAGS & ~self._undefined(keys[:_FLAG_HISTORY].tolist())
        if self._liveness is None:
            return GPRS | defined
        promised = {ExitKind.CALL: _ARGUMENTS, ExitKind.JUMP: 0, ExitKind.SYSCALL: _SYSCALL}.get(left.kind, 0)
        found = self._last_block(keys[:4].tolist())
        if found is None:
            return promised
        graph, block = found
        function = graph.function
        if left.kind is ExitKind.RETURN and (function.exported or function.address_taken):
            promised = _RESULTS | _SAVED
        live = self._liveness.before_end(graph, block)
        return live & GPRS | live & defined | promised

    def _last_block(self, keys: list[int]) -> tuple[FunctionGraph, Block] | None:
        """The block of a known function that ran last, newest of `keys` first; stubs of the PLT are passed over."""
        assert self._liveness is not None
        for key in keys:
            run = stretch(key, self._base)
            found = self._liveness.block_at(run.stop - 1)
            if found is not None and not any(address in self._plt for address in (run.start, run.start - 4)):
                return found
        return None

    def _undefined(self, keys: list[int]) -> int:
        """The flags that the code which ran last, newest of `keys` first, leaves undefined."""
        undefined, unknown = 0, ARITHMETIC_FLAGS
        for key in keys:
            stretch = self._stretches[key]
            undefined |= stretch.undefined & unknown
            unknown &= ~stretch.settled
            if not unknown:
                break
        return undefined
