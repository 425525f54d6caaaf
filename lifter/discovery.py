"""Functions that neither symbols nor unwind information name: where known code calls, and where data points.

Stripped programs without unwind tables (Debian's busybox, Free Pascal's) have nothing else. What begins a function is
found out by recursive descent from what is known, so data is not taken for code; where one ends is not: it reaches up
to the next one. That is enough, as only what a known jump reaches becomes a block.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from lifter.descent import Descent
from lifter.exits import exits
from lifter.graph import FunctionGraph
from lifter.image.functions import Gap, is_padding
from lifter.image.scan import branch_targets, quadwords
from lifter.image.types import Function, Image, Kind
from lifter.instruction import Flow, Imm, Instruction, Reg
from lifter.jumptable import KnownTables

_SHORT: Final = 130
"""As far as a two-byte jump reaches."""


def discover(image: Image, gaps: Sequence[Gap]) -> tuple[tuple[Function, ...], Sequence[Gap]]:
    """The image's functions with those that are found in `gaps`, its code that belongs to none; and what is left of the
    gaps."""
    search = _Search(image, gaps)
    search.run()
    return search.functions(), search.left()


class _Survey(Descent):
    """Only what certainly belongs to a function of which the end is not known: no callees, nothing pointed to."""

    def _enter_callee(self, target: int) -> None:
        pass

    def _follow_pointers(self) -> None:
        pass

    def _note_unreached(self) -> None:
        pass


class _Judge(Descent):
    """Whether code in a gap is plausible, where other gaps may hold functions too."""

    def __init__(self, image: Image, function: Function, is_uncovered: Callable[[int], object]) -> None:
        super().__init__(image, function, frozenset(), KnownTables())
        self._is_uncovered = is_uncovered

    def _is_function(self, address: int) -> bool:
        return super()._is_function(address) or bool(self._is_uncovered(address))


class _Search:
    """The search in the gaps of one image, in rounds: each goes one call deeper, or follows what data points to."""

    def __init__(self, image: Image, gaps: Sequence[Gap]) -> None:
        self._image = image
        self._gaps = gaps
        self._gap_starts = [start for start, _ in gaps]
        self._tables = KnownTables.of(image)
        self._starts: list[int] = []
        """Of the functions found, in order."""
        self._sources: dict[int, str] = {}
        self._graphs: dict[int, FunctionGraph] = {}
        self._dirty: set[int] = set()
        """Functions whose graphs have to be made (again): new ones, and those that new ones cut short."""
        self._pointers: set[int] = set()
        """Addresses in gaps that code computes and hands on."""
        self._read: set[int] = set()
        """Addresses in gaps that code reads at."""
        self._arguments: set[tuple[int, int, int]] = set()
        """(callee, register, pointer) of pointers into gaps that are in a register at a call."""

    def run(self) -> None:
        """Search until nothing more is found."""
        graphs = [self._graph(function) for function in self._roots()]
        self._follow(graphs)
        # The start-up code hands `main` to the C library.
        entered = {pointer for graph in graphs if self._starts_program(graph) for pointer in self._handed(graph)}
        while True:
            while self._dirty:
                fresh = sorted(self._dirty)
                self._dirty.clear()
                for start in fresh:
                    self._graphs[start] = self._graph(self._function(start))
                self._follow([self._graphs[start] for start in fresh])
            if not self._enter(entered) and not self._dirty:
                return
            entered = self._stored() | self._pointers if self._starts else set()

    def functions(self) -> tuple[Function, ...]:
        """Those of the image and those found."""
        found = [*self._image.functions, *map(self._function, self._starts)]
        return tuple(sorted(found, key=lambda function: function.address))

    def left(self) -> list[Gap]:
        """The gaps up to the first function found in each."""
        left = []
        for start, end in self._gaps:
            at = bisect_left(self._starts, start)
            first = min(end, self._starts[at]) if at < len(self._starts) else end
            if not is_padding(self._image.read(start, first - start)):
                left.append((start, first))
        return left

    def _roots(self) -> list[Function]:
        """Functions of the image that may call or point into gaps: by byte patterns, a superset."""
        branches = branch_targets(self._image)
        entry = self._image.function_at(self._image.entry)
        found = {entry.address: entry} if entry is not None else {}
        for start, end in self._gaps:
            for site in branches.sites(start, end).site.tolist():
                function = self._image.function_at(site)
                if function is not None:
                    found[function.address] = function
            near = self._image.next_function(start - _SHORT)
            while near is not None and near.address < end + _SHORT:
                found[near.address] = near
                near = self._image.next_function(near.end)
        return list(found.values())

    def _starts_program(self, graph: FunctionGraph) -> bool:
        return graph.function.address <= self._image.entry < graph.function.end

    def _gap_end(self, address: int) -> int:
        """The end of the gap that has `address`; 0 where none has."""
        at = bisect_right(self._gap_starts, address) - 1
        return self._gaps[at][1] if at >= 0 and address < self._gaps[at][1] else 0

    def _function(self, start: int) -> Function:
        at = bisect_right(self._starts, start)
        end = self._gap_end(start)
        if at < len(self._starts):
            end = min(end, self._starts[at])
        source = self._sources[start]
        taken = source == "pointer" or start in self._image.code_pointers
        return Function(start, end - start, f"fn_{start:x}", address_taken=taken, source=source)

    def _graph(self, function: Function) -> FunctionGraph:
        return _Survey(self._image, function, frozenset(), self._tables.of_function()).build((), 0)

    def _follow(self, graphs: Iterable[FunctionGraph]) -> None:
        """Take what the graphs call, or jump to outside of themselves, for functions."""
        for graph in graphs:
            for block in graph.blocks.values():
                target = graph.callees.get(block.last_address, block.end)
                if block.last.flow is Flow.CALL and target != block.end:
                    self._add(target, "call-target", called=True)
            for target in exits(graph):
                self._add(target, "call-target", called=False)
            self._pointers.update(self._handed(graph))

    def _add(self, start: int, source: str, called: bool) -> None:
        """Note that a function begins at `start`, if that can be."""
        if not self._gap_end(start) or start in self._sources:
            return
        holder = self._holder(start)
        if holder is not None:
            known = self._graphs.get(holder)
            # What is jumped to inside of another function is an entry of that one.
            if known is not None and known.block_at(start) and not (called and known.has_instruction(start)):
                return
            self._dirty.add(holder)
        insort(self._starts, start)
        self._sources[start] = source
        self._dirty.add(start)

    def _holder(self, address: int) -> int | None:
        """The function found whose bytes have `address`."""
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._function(self._starts[at]).end:
            return None
        return self._starts[at]

    # --- what is pointed to

    def _stored(self) -> set[int]:
        """Pointers into gaps that the file's data holds."""
        image = self._image
        if image.kind is not Kind.FIXED:
            return {address for address in image.words.values() if self._gap_end(address)}
        found: set[int] = set()
        for segment in image.segments:
            if not segment.executable:
                words = quadwords(segment, -segment.address % 8)
                for start, end in self._gaps:
                    found.update(words[(words >= start) & (words < end)].tolist())
        return found

    def _handed(self, graph: FunctionGraph) -> set[int]:
        """Pointers into gaps that a function computes and stores, or has in a register at a call."""
        found: set[int] = set()
        for block in graph.blocks.values():
            held: dict[int, int] = {}
            """Register -> pointer."""
            for address, instruction in block.addressed():
                memory = instruction.memory_operand
                if memory is not None:
                    self._read.update(held[register] for register in (memory.base, memory.index) if register in held)
                pointer = self._computed(instruction, address + len(instruction.code))
                first = instruction.operands[0] if instruction.operands else None
                last = instruction.operands[-1] if instruction.operands else None
                if not pointer and instruction.mnemonic == "mov" and isinstance(last, Reg):
                    pointer = held.get(last.index, 0)
                if pointer and isinstance(first, Reg) and instruction.mnemonic != "push":
                    held[first.index] = pointer
                    continue
                if pointer:
                    found.add(pointer)
                elif instruction.mnemonic in ("push", "movq") and isinstance(last, Reg) and last.index in held:
                    found.add(held[last.index])
                for register in [register for register in held if instruction.effects.writes >> register & 1]:
                    del held[register]
            if block.last.flow in (Flow.CALL, Flow.CALL_INDIRECT, Flow.JUMP):
                found.update(held.values())
                callee = graph.callees.get(block.last_address)
                if callee is not None:
                    self._arguments.update((callee, register, pointer) for register, pointer in held.items())
        return found

    def _computed(self, instruction: Instruction, after: int) -> int:
        """The pointer into a gap that an instruction which ends at `after` computes or has as an immediate; else 0."""
        memory = instruction.memory_operand
        if memory is not None and memory.rip:
            pointer = after + memory.disp
            if instruction.mnemonic == "lea":
                return pointer if self._gap_end(pointer) else 0
            self._read.add(pointer)
        if self._image.kind is Kind.FIXED and instruction.mnemonic in ("mov", "push"):
            last = instruction.operands[-1]
            if isinstance(last, Imm) and self._gap_end(last.value):
                return last.value
        return 0

    def _enter(self, pointers: Iterable[int]) -> bool:
        """Take for functions what is pointed to, is not known yet and looks like one; whether any was."""
        entered = False
        self._read.update(pointer for callee, register, pointer in self._arguments if self._reads(callee, register))
        image = replace(self._image, functions=self.functions())
        judges: dict[int, _Judge] = {}
        for pointer in sorted(pointers):
            end = self._gap_end(pointer)
            if pointer in self._sources or pointer in self._read:
                continue
            holder = self._holder(pointer)
            around = self._graphs[holder] if holder is not None else None
            if around is not None and around.block_at(pointer):
                continue
            if end not in judges:
                start = self._gap_starts[bisect_right(self._gap_starts, pointer) - 1]
                judges[end] = _Judge(image, Function(start, end - start, ""), self._gap_end)
            judge = judges[end]
            at = pointer - judge.base
            follows_block = around is not None and around.block_at(pointer - 1) is not None
            if (follows_block or judge.may_begin(at)) and judge.looks_like_code(at):
                self._add(pointer, "pointer", called=True)
                # At once, so that labels in it are not taken for functions.
                self._graphs[pointer] = self._graph(self._function(pointer))
                if holder is not None:
                    self._graphs[holder] = self._graph(self._function(holder))
                entered = True
        return entered

    def _reads(self, callee: int, register: int) -> bool:
        """Whether a function reads where a register points at first."""
        graph = self._graphs.get(callee)
        if graph is None or callee not in graph.blocks:
            return False
        for instruction in graph.blocks[callee].instructions:
            memory = instruction.memory_operand
            if memory is not None and register in (memory.base, memory.index):
                return True
            if instruction.effects.writes >> register & 1:
                break
        return False
