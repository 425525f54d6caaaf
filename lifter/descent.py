"""Recursive descent inside a function's bounds: from bytes to the blocks of one graph.

Only what a known jump reaches becomes a block, so that data between instructions is never taken for code.
Of instructions that overlap (a jump into the middle of another one, such as one that skips a `lock` prefix) none
becomes part of a block: their bytes belong to no block, and nobody writes there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from lifter.decode import decode_run
from lifter.errors import Refusal
from lifter.graph import Block, FunctionGraph, JumpTable
from lifter.image.functions import is_padding
from lifter.image.types import Function, Image, Kind
from lifter.instruction import Flow, Handling, Imm, Instruction, Reg, Undecodable
from lifter.jumptable import Flowchart, KnownTables, Line, resolve
from lifter.noreturn import import_of, names_noreturn, never_returns
from lifter.stackdepth import depths, is_epilogue

OVERLAP: Final = "instructions that overlap"
UNREACHED: Final = "not reached by any known jump"
NO_CODE: Final = "no instruction known to the decoder"
CROSSES_END: Final = "an instruction crosses the end of the function"
CROSSED: Final = "an instruction of the function before reaches into this one"
MISPLACED_POINTER: Final = "a pointer into the middle of an instruction"

_ROUNDS: Final = 8
"""Of jump table search: each may find code that holds further tables, or further paths to a known one."""
_INTERIORS: Final = tuple(b"\2" * size for size in range(16))
_PADDING: Final = ("nop", "int3", "ud2")
_TRIAL: Final = 256
"""Instructions that are looked at to judge whether a pointer points to code."""
_ALIGNMENT: Final = 16
"""Of functions and of hot labels, as compilers align them."""
_UNLIKELY: Final = frozenset(
    ("in", "out", "hlt", "cli", "sti", "iret", "retf", "jmp_far", "call_far", "int1", "ud0", "ud1", "lds", "les", "lfs",
     "lgs", "lss", "insb", "insd", "outsb", "outsd", "enter", "xlatb", "int", "sysenter", "sysexit", "sysret")
)  # fmt: skip


class Descent:
    """The exploration of one function. Offsets are relative to its start, addresses absolute."""

    def __init__(self, image: Image, function: Function, noreturn: frozenset[int], known_tables: KnownTables) -> None:
        self.image, self.function, self.proved = image, function, noreturn
        self.known_tables = known_tables
        self.base, self.limit = function.address, function.end
        self.code = image.read(self.base, function.size + 15)
        self.size = min(function.size, len(self.code))
        self.owner = bytearray(self.size)
        """Per byte: 0 free, 1 first byte of an instruction, 2 a further byte of one."""
        self.instructions: dict[int, Instruction] = {}
        self.leaders: set[int] = set()
        self.next: dict[int, tuple[int, ...]] = {}
        """Address of each instruction that ends a block by itself -> successors inside the function."""
        self.work: list[int] = []
        self.after_calls: list[tuple[int, int]] = []
        """(address, the call or system call before it) yet to be explored."""
        self.entries: set[int] = set()
        """Where control may arrive from elsewhere; see `FunctionGraph.open_entries`."""
        self.resumed: set[int] = set()
        """After calls, system calls and native instructions."""
        self.tail_calls: set[int] = set()
        self.callees: dict[int, int] = {}
        self.noreturn: set[int] = set()
        self.indirect: list[int] = []
        self.tables: dict[int, JumpTable] = {}
        self.searched: dict[int, tuple[int, tuple[int, ...]]] = {}
        """Indirect jump -> its block and that block's predecessors when its table was last looked for."""
        self.bounded: set[int] = set()
        self.external: set[int] = set()
        self.computed: set[int] = set()
        self.doomed: set[int] = set()
        self.overlaps: set[int] = set()
        """Offsets of second readings that have been dealt with."""
        self.refusals: dict[int, Refusal] = {}

    def build(self, extra_entries: Iterable[int], crossed: int) -> FunctionGraph:
        """Explore from everything that is certain, then from what data points to.

        The bytes up to the address `crossed` belong to an instruction that starts before the function, if any do: there
        control comes out of it.
        """
        roots = [self.base, *self.function.landing_pads, *extra_entries, crossed]
        roots = [root for root in dict.fromkeys(roots) if self.base <= root < self.limit]
        self.entries.update(roots)
        self.work.extend(reversed(roots))
        self._explore_all()
        self._follow_pointers()
        if crossed > self.base:
            self._doom(0, min(crossed - self.base, self.size))
            self._refuse(self.base, CROSSED, self.code[: crossed - self.base])
        self._remove_doomed()
        return self._graph()

    def _explore_all(self) -> None:
        self._explore()
        for _ in range(_ROUNDS):
            if not self.indirect or not self._search_tables():
                return
            self._explore()

    def _explore(self) -> None:
        while True:
            while self.work:
                self._run(self.work.pop(), None)
            if not self.after_calls:
                return
            address, call = self.after_calls.pop()
            self._run(address, call)

    def _run(self, address: int, call: int | None) -> None:
        """Decode from `address` to the next instruction that ends a block; `call` is what stands before, if a call."""
        base, owner, instructions = self.base, self.owner, self.instructions
        first = address - base
        if not 0 <= first < self.size:
            return
        self.leaders.add(address)
        if owner[first] == 1:
            return
        for at, instruction in decode_run(self.code, first, self.size):
            if owner[at] == 1:
                self.leaders.add(base + at)
                return
            if isinstance(instruction, Undecodable):
                self._give_up(first, at, call, NO_CODE)
                return
            size = len(instruction.code)
            after = at + size
            if after > self.size:
                self._give_up(first, at, call, CROSSES_END)
                return
            if owner.count(0, at, after) != size:
                self._overlap(at)
                return
            owner[at] = 1
            owner[at + 1 : after] = _INTERIORS[size - 1]
            instructions[base + at] = instruction
            if instruction.flow is not Flow.NEXT or instruction.handling is Handling.NATIVE or instruction.resets_stack:
                if call is not None and instruction.flow is Flow.HALT and self._is_padding(first, after):
                    self._take_back(first, after, call)
                else:
                    self._end_block(base + at, base + after, instruction)
                return
        if call is not None and self._is_padding(first, self.size):
            self._take_back(first, self.size, call)

    def _give_up(self, first: int, at: int, call: int | None, reason: str) -> None:
        """The run from `first` does not decode at `at`; after a call, it is data and the call does not return."""
        where = first if call is not None else at
        if call is not None:
            self._take_back(first, at, call)
        self._refuse(self.base + where, reason, self.code[where : min(at + 8, self.size)])

    def _is_padding(self, first: int, after: int) -> bool:
        """Whether the instructions in [first, after) do nothing but fill."""
        address = self.base + first
        while address < self.base + after:
            instruction = self.instructions.get(address)
            if instruction is None or instruction.mnemonic not in _PADDING[:2]:
                return False
            address += len(instruction.code)
        return True

    def _take_back(self, first: int, after: int, call: int) -> None:
        """Forget the run [first, after): the call before it is taken for one that never returns."""
        address = self.base + first
        self.leaders.discard(address)
        self.entries.discard(address)
        self.resumed.discard(address)
        while address < self.base + after and address in self.instructions:
            address += len(self.instructions.pop(address).code)
        self.owner[first:after] = bytes(after - first)
        self.next[call] = ()
        self.noreturn.add(call)

    def _refuse(self, address: int, reason: str, code: bytes) -> None:
        if address not in self.refusals:
            self.refusals[address] = Refusal(address, reason, code, function=self.function.name)

    def _inside(self, address: int) -> bool:
        return self.base <= address < self.limit

    def _end_block(self, address: int, end: int, instruction: Instruction) -> None:
        """Note where control goes after an instruction that ends a block."""
        flow = instruction.flow
        successors: list[int] = []
        if flow is Flow.JUMP or flow is Flow.BRANCH:
            assert instruction.target is not None
            target = end + instruction.target
            if self._inside(target):
                successors.append(target)
            else:
                self.tail_calls.add(address)
                self.callees[address] = target
            if flow is Flow.BRANCH and end < self.limit and end != target:
                successors.append(end)
            self.work.extend(reversed(successors))
            if instruction.handling is Handling.NATIVE:
                self.resumed.update(successors)
        elif flow is Flow.CALL or flow is Flow.CALL_INDIRECT or flow is Flow.SYSCALL:
            if (flow is not Flow.SYSCALL and self._note_call(address, end, instruction)) or end >= self.limit:
                self.noreturn.add(address)
            else:
                successors.append(end)
                self.resumed.add(end)
                self.after_calls.append((end, address))
        elif flow is Flow.NEXT:
            if end < self.limit:
                successors.append(end)
                if instruction.handling is Handling.NATIVE:
                    self.resumed.add(end)
                self.work.append(end)
        elif flow is Flow.JUMP_INDIRECT:
            self.indirect.append(address)
        self.next[address] = tuple(successors)

    def _note_call(self, address: int, end: int, instruction: Instruction) -> bool:
        """Note a call's target; whether it never returns."""
        image = self.image
        if instruction.flow is Flow.CALL_INDIRECT:
            imported = import_of(image, instruction, end)
            return imported is not None and names_noreturn(imported)
        assert instruction.target is not None
        target = end + instruction.target
        self.callees[address] = target
        if self._inside(target) and target != self.base:
            self._enter_callee(target)
        return never_returns(image, target, self.proved)

    def _enter_callee(self, target: int) -> None:
        """Go on at a call's target inside the function."""
        self.entries.add(target)
        self.work.append(target)

    def _overlap(self, at: int) -> None:
        """Code from offset `at` overlaps known instructions: leave out both readings until they agree again."""
        if at in self.overlaps:
            return
        self.overlaps.add(at)
        begin = pos = at
        while pos < self.size and self.owner[pos] != 1 and pos - begin < 64:
            instruction = next(decode_run(self.code, pos, self.size))[1]
            after = pos + len(instruction.code)
            if isinstance(instruction, Undecodable) or after > self.size:
                break
            if instruction.target is not None:
                target = self.base + after + instruction.target
                if self._inside(target):
                    self.work.append(target)
                    self.entries.add(target)
            pos = after
            if instruction.flow not in (Flow.NEXT, Flow.BRANCH, Flow.CALL, Flow.CALL_INDIRECT, Flow.SYSCALL):
                break
        else:
            if pos < self.size and self.owner[pos] == 1:
                self.leaders.add(self.base + pos)
                self.entries.add(self.base + pos)
        start = self._doom(begin, pos)
        self._refuse(self.base + start, OVERLAP, self.code[start:pos])

    def _doom(self, begin: int, end: int) -> int:
        """Mark the instructions that touch [begin, end) for removal; the offset where the first of them starts."""
        start = begin
        if self.owner[begin] == 2:
            while self.owner[start] != 1:
                start -= 1
        address = self.base + start
        while address < self.base + max(end, begin + 1):
            instruction = self.instructions.get(address)
            if instruction is not None:
                self.doomed.add(address)
            address += len(instruction.code) if instruction is not None else 1
        return start

    def _remove_doomed(self) -> None:
        for address in self.doomed:
            instruction = self.instructions.pop(address)
            after = self.next.pop(address, None)
            entered = (address + len(instruction.code),) if after is None else after
            self.entries.update(entered)
            self.leaders.update(entered)
            for known in (self.callees, self.tables):
                known.pop(address, None)
            for group in (self.tail_calls, self.noreturn, self.external):
                group.discard(address)
        self.indirect = [jump for jump in self.indirect if jump in self.instructions]

    def _search_tables(self) -> bool:
        """Look for the tables of all indirect jumps; whether that gave new targets."""
        chart = self._chart()
        starts = {lines[-1][0]: start for start, lines in chart.blocks.items()}
        grown = False
        for jump in self.indirect:
            start = starts.get(jump)
            if start is None:
                continue
            # The shortest paths decide almost always, so only a change in them is worth another look.
            seen = tuple(sorted(chart.predecessors.get(start, ())))
            if jump in self.tables and self.searched.get(jump) == (start, seen):
                continue
            self.searched[jump] = (start, seen)
            found = resolve(self.image, self.function, chart, start, self.known_tables)
            if found.external:
                self.external.add(jump)
            if found.computed or (found.indexed and self.function.guessed):
                # The labels of a table may have been taken for functions where nothing says where functions end.
                self.computed.add(jump)
            table, old = found.table, self.tables.get(jump)
            if table is None or (old is not None and len(old.targets) >= len(table.targets)):
                continue
            self.tables[jump] = table
            self.known_tables.add(table.address)
            if found.bounded:
                self.bounded.add(jump)
            else:
                self.bounded.discard(jump)
            inside = tuple(target for target in dict.fromkeys(table.targets) if self._inside(target))
            self.next[jump] = inside
            self.work.extend(reversed(inside))
            grown = True
        return grown

    def _chart(self) -> Flowchart:
        blocks = self._blocks()
        lines: dict[int, list[Line]] = {start: block.addressed() for start, block in blocks.items()}
        predecessors: dict[int, list[int]] = {}
        for start, block in blocks.items():
            for successor in block.successors:
                predecessors.setdefault(successor, []).append(start)
        return Flowchart(
            lines,
            predecessors,
            lambda target: target - self.base < self.size and self.owner[target - self.base] != 2,
            lambda target: self.looks_like_code(target - self.base),
        )

    def _follow_pointers(self) -> None:
        """Enter code where data points to it, if it looks like code."""
        for pointer in self.image.code_pointers_in(self.base, self.limit):
            offset = pointer - self.base
            if offset >= self.size:
                continue
            if self.owner[offset] == 2:
                # Only the loader's own words are sure to be pointers; others look like one by chance.
                if self.image.kind is Kind.FIXED or not self._is_stored(pointer):
                    continue
                start = self._doom(offset, offset)
                self._refuse(self.base + start, MISPLACED_POINTER, self.code[start : offset + 1])
            elif self.owner[offset] == 1:
                self.leaders.add(pointer)
                self.entries.add(pointer)
            elif (
                not self.function.guessed  # Then the bytes may belong to other functions.
                and self.may_begin(offset)
                and (self._is_stored(pointer) or self._is_passed_on(pointer))
                and self.looks_like_code(offset)
            ):
                self.entries.add(pointer)
                self.work.append(pointer)
                self._explore_all()

    def _is_stored(self, pointer: int) -> bool:
        """Whether a word of data holds the pointer, rather than an instruction that may want to read a table."""
        image = self.image
        if image.kind is not Kind.FIXED:
            return pointer in image.words.values()
        word = pointer.to_bytes(8, "little")
        return any(word in segment.data for segment in image.segments if not segment.executable)

    def _is_passed_on(self, pointer: int) -> bool:
        """Whether code of the function computes the pointer and then stores or pushes it, but does not read there."""
        immediates = (Imm(pointer, 32), Imm(pointer, 64))
        for address in self.leaders:
            register = -1
            while (instruction := self.instructions.get(address)) is not None:
                address += len(instruction.code)
                operands = instruction.operands
                memory = instruction.memory_operand
                if instruction.mnemonic == "lea" and memory is not None and memory.rip:
                    first = operands[0]
                    if address + memory.disp == pointer and isinstance(first, Reg):
                        register = first.index
                        continue
                if instruction.mnemonic in ("mov", "push") and operands[-1] in immediates:
                    return True
                if register >= 0:
                    if memory is not None and register in (memory.base, memory.index):
                        return False
                    used = any(isinstance(operand, Reg) and operand.index == register for operand in operands)
                    if used and instruction.mnemonic in ("mov", "push", "movq", "call", "jmp"):
                        return True
                    if instruction.effects.writes >> register & 1:
                        register = -1
                if address in self.leaders or address - len(instruction.code) in self.next:
                    break
        return False

    def may_begin(self, offset: int) -> bool:
        """Whether what stands before `offset` lets a pointer to it be one to code that begins there."""
        if self.image.kind is not Kind.FIXED or (self.base + offset) % _ALIGNMENT == 0:
            return True
        if offset and self.owner[offset - 1]:
            return True
        before = self.image.read(self.base + offset - 5, 5)
        return is_padding(before[-1:]) or before[-1:] == b"\xc3" or before[:1] == b"\xe9" or before[-2:-1] == b"\xeb"

    def looks_like_code(self, offset: int) -> bool:
        """Whether everything reachable from `offset`, as far as it is new, is plausible code.

        Tables between functions are pointed to as well; to take one for code would be to overwrite it.
        """
        work, seen, count = [offset], set[int](), 0
        while work:
            at = work.pop()
            while at not in seen and count < _TRIAL:
                if at >= self.size or self.owner[at] == 2:
                    return False
                if self.owner[at] == 1:
                    break
                seen.add(at)
                count += 1
                instruction = next(decode_run(self.code, at, self.size))[1]
                at += len(instruction.code)
                if (
                    isinstance(instruction, Undecodable)
                    or at > self.size
                    or instruction.mnemonic in _UNLIKELY
                    or instruction.code.startswith(b"\0\0")
                ):
                    return False
                if instruction.target is not None:
                    target = self.base + at + instruction.target
                    if self._inside(target):
                        if instruction.flow is not Flow.CALL:
                            work.append(target - self.base)
                    elif not self._is_function(target) and (
                        # Cold parts are functions of their own, which are jumped into anywhere.
                        instruction.flow is Flow.CALL or self.image.function_at(target) is None
                    ):
                        return False
                if instruction.flow in (Flow.JUMP, Flow.JUMP_INDIRECT, Flow.RETURN, Flow.HALT):
                    break
                if instruction.flow in (Flow.CALL, Flow.CALL_INDIRECT) and self._stays_away(instruction, at):
                    break
        return True

    def _stays_away(self, call: Instruction, after: int) -> bool:
        """Whether a call that ends at offset `after` never returns: nothing stands there for it to return to."""
        if after == self.size:
            return True
        return call.target is not None and never_returns(self.image, self.base + after + call.target, self.proved)

    def _is_function(self, address: int) -> bool:
        if address in self.image.plt:
            return True
        found = self.image.function_at(address)
        return found is not None and found.address == address

    def _blocks(self) -> dict[int, Block]:
        """Cut the instructions into blocks at the leaders and after whatever ends a block."""
        blocks: dict[int, Block] = {}
        instructions, leaders, ends = self.instructions, self.leaders, self.next
        for leader in sorted(leaders):
            instruction = instructions.get(leader)
            if instruction is None:
                continue
            lines: list[Instruction] = []
            address = leader
            while True:
                lines.append(instruction)
                after = ends.get(address)
                address += len(instruction.code)
                if after is not None:
                    break
                if address in leaders or address not in instructions:
                    after = (address,) if address < self.limit else ()
                    break
                instruction = instructions[address]
            blocks[leader] = Block(leader, tuple(lines), after)
        return blocks

    def _graph(self) -> FunctionGraph:
        blocks = self._blocks()
        self._note_unreached()
        pending = [jump for jump in self.indirect if jump not in self.tables]
        unresolved = self._classify(pending, blocks) if pending else []
        if self._has_unreached():
            # A table whose length nothing limits may be longer than it seemed: the rest of it leads there.
            unresolved += [jump for jump in self.tables if jump not in self.bounded]
        return FunctionGraph(
            function=self.function,
            blocks=blocks,
            entries=frozenset((self.entries | self.resumed) & blocks.keys()),
            open_entries=frozenset(self.entries & blocks.keys()),
            tables=self.tables,
            tail_calls=frozenset(self.tail_calls),
            unresolved=tuple(sorted(unresolved)),
            callees=self.callees,
            noreturn=frozenset(self.noreturn),
            refusals=tuple(self.refusals[address] for address in sorted(self.refusals)),
        )

    def _classify(self, pending: list[int], blocks: Mapping[int, Block]) -> list[int]:
        """Sort indirect jumps without a table into tail calls and unresolved ones.

        Where data points into the function for no known reason, or where code is that nothing known reaches, such a
        jump may well go there.
        """
        state = depths(
            (self.base,),
            {start: block.addressed() for start, block in blocks.items()},
            {start: block.successors for start, block in blocks.items()},
        )
        enclosing = {block.last_address: block for block in blocks.values()}
        # Where nothing says where the function ends, what is not reached may well belong to others.
        suspect = self._unexplained_labels(blocks) or (self._has_unreached() and not self.function.guessed)
        unresolved = []
        for jump in pending:
            block = enclosing[jump]
            depth = state.get(block.address, (None, None))[0]
            leaves = depth == 0 or (depth is None and is_epilogue(block.addressed()))
            if jump in self.external or (leaves and not suspect and jump not in self.computed):
                self.tail_calls.add(jump)
            else:
                unresolved.append(jump)
        return unresolved

    def _has_unreached(self) -> bool:
        return any(refusal.reason == UNREACHED for refusal in self.refusals.values())

    def _unexplained_labels(self, blocks: Mapping[int, Block]) -> bool:
        """Whether data points into the function's middle for no known reason."""
        explained = {self.base, *self.function.landing_pads}
        for jump, table in self.tables.items():
            if jump in self.bounded:
                explained.update(table.targets)
        pointers = self.image.code_pointers_in(self.base, self.limit)
        return any(pointer not in explained and pointer in blocks for pointer in pointers)

    def _note_unreached(self) -> None:
        """Report the ranges that no known jump reaches, but for padding. Control may run out of them into a block."""
        at = self.owner.find(0)
        while 0 <= at < self.size:
            after = at
            while after < self.size and not self.owner[after]:
                after += 1
            begin = at
            for begin, instruction in decode_run(self.code, at, after):
                if instruction.code == b"\0\0" or (
                    not isinstance(instruction, Undecodable) and (instruction.mnemonic in _PADDING)
                ):
                    continue
                if self.code[begin:after].strip(b"\0"):
                    self._refuse(self.base + begin, UNREACHED, self.code[begin : min(after, begin + 16)])
                    self.entries.add(self.base + after)
                break
            at = self.owner.find(0, after)
