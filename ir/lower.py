"""A region as LLVM IR: pinned registers in, blocks in SSA form, pinned registers out at every exit.

See docs/architecture.md ('A region as an LLVM function') for the frame, K and the slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ir.actions import NO_GUARD, Action, Call, Count
from ir.blocks import LiftedBlock, Terminator
from ir.dominance import dominance_frontiers, immediate_dominators, in_loops, phi_masks
from ir.entries import entry_statement
from ir.exits import Exit, emit_exit
from ir.options import LoweringOptions
from ir.probes import RIP_SLOT, SLOTS, CompiledProbe
from ir.regions import Region
from ir.source import RegionSource
from ir.terminators import STATE, branch_condition, terminator_reads
from lifter.builder import BlockState, Builder, Symbols
from lifter.instruction import Handling, Instruction, Mem
from lifter.registers import ARITHMETIC_FLAGS, GPRS, RAX, RCX, RDI, RDX, RSI, RSP, bits, gpr

_RSP_BIT: Final = 1 << RSP
_COUNTER_SHIFT: Final = 64
"""First bit of the counters among a region's variables: registers, flags, local counters."""
_MOST_WITH_LOOSE: Final = 24
"""Instructions of a region up to which registers are left loose: larger ones need most registers themselves."""
_FIRST_PAGE: Final = 4096
_TRAMPOLINE: Final = 5
"""Bytes of the jump to a region, at most."""
_SELDOM_USED: Final = GPRS & ~(gpr(RAX) | gpr(RCX) | gpr(RDX) | gpr(RSI) | gpr(RDI))
"""Registers that LLVM's allocator takes only when it has used up the others."""
SLOTS_SIZE: Final = 16
"""Bytes of a region's own slots above its frame: flags, stack pointer."""
_ADD_BIASED: Final = "cmpq $2, %rsp; jns 1f; addq $3, $0; jmp 2f; 1: lock addq $3, $1; 2:"
"""Adds operand 3 to counter 0, the main thread's own, or to counter 1 under a lock; operand 2 is the owner word (see
`ir.carry`)."""
_MOST_FLUSHES: Final = 192
"""Local counters times exits: beyond this the code that adds them up outweighs what they save."""

LiveAt = Callable[[int], int]
"""Address of an original instruction -> mask of what is live before it."""


@dataclass(frozen=True, slots=True)
class LoweredRegion:
    """A region's IR and what its symbols stand for."""

    head: int
    source: RegionSource
    symbols: Mapping[str, int]
    """Symbol -> address in the image ('L_x', 'L_d'), or index among the counters ('L_c', 'L_w')."""
    flags_in: bool
    """Whether the stub must push the flags: they are live at the head."""
    lifted: int
    """Number of instructions with lifted semantics, jumps and returns included."""
    verbatim: int


class _Lowering:
    """The work on one region."""

    def __init__(
        self,
        region: Region,
        actions: Mapping[int, Sequence[Action]],
        live_at: LiveAt,
        options: LoweringOptions,
        firm: bool,
    ) -> None:
        self.firm = firm
        self.touched = 0
        """Registers that instructions and probes of the region read or write."""
        self.region = region
        self.blocks = region.blocks
        self.actions = actions
        self.live_at = live_at
        self.options = options
        self.symbols = Symbols()
        self.b = Builder(self.symbols)
        self.number = {block.address: index + 1 for index, block in enumerate(region.blocks)}
        """Node of each block; node 0 is the entry, before the head."""
        self.allocas: list[str] = []
        self.probes: dict[CompiledProbe, int] = {}
        """Distinct probes -> their number in the text."""
        self.exits: list[tuple[str, BlockState, Exit]] = []
        self.nil_exits: dict[int, tuple[Mem, ...]] = {}
        """Address of an instruction that may fault on nil -> the memory that it accesses."""
        self.end_labels: dict[int, str] = {0: "entry"}
        self.terminators: dict[int, int] = {}
        """Line of a node's last instruction -> the node."""
        self.local: dict[int, int] = {}
        """Counter -> its variable's bit, for counters kept in registers while the region runs."""

    # --- analysis ---------------------------------------------------------------------------------------

    def _edges(self, block: LiftedBlock) -> list[int]:
        """Nodes of this region that the block goes to: those that expect RSP where the block leaves it."""
        if block.stack_delta is None:
            return []
        offset = self.region.offsets[block.address] + block.stack_delta
        return [
            self.number[successor]
            for successor in block.successors
            if successor in self.number and self.region.offsets[successor] == offset
        ]

    def _leaving(self, block: LiftedBlock) -> list[int]:
        """Original addresses by which the block leaves the region: what must be live is known there."""
        match block.terminator:
            case Terminator.RETURN | Terminator.INDIRECT | Terminator.NATIVE | Terminator.CALL:
                return [block.last_address]
        inside = set(self._edges(block))
        targets = (block.target, block.following) if block.terminator is Terminator.BRANCH else (self._next(block),)
        return [t for t in targets if t is not None and self.number.get(t) not in inside]

    def _next(self, block: LiftedBlock) -> int:
        target = block.target if block.terminator is Terminator.JUMP else block.following
        assert target is not None
        return target

    def _analyse(self) -> None:
        """Edges, liveness inside the region, local counters, phis."""
        self.successors = [[1]] + [self._edges(block) for block in self.blocks]
        count = len(self.successors)
        self.predecessors: list[list[int]] = [[] for _ in range(count)]
        for node, targets in enumerate(self.successors):
            for target in targets:
                if node not in self.predecessors[target]:
                    self.predecessors[target].append(node)
        leaving = [self._leaving(block) for block in self.blocks]
        if self.options.nil_checks:
            self.nil_exits = {
                step.address: pointers
                for block in self.blocks
                for step in block.body
                if (pointers := _pointers(step.instruction)) and not self._is_overwritten(step.address)
            }
        self._choose_local_counters(sum(map(len, leaving)))
        self.exit_live: dict[int, int] = {}
        for targets in leaving:
            for target in targets:
                self._note_exit(target)
        for target in self.nil_exits:
            self._note_exit(target)
        uses, kills, self.defines = [0], [0], [0]
        for block, targets in zip(self.blocks, leaving, strict=True):
            use, kill, define = self._summary(block)
            for target in targets:
                use |= self.exit_live[target] & ~kill
            uses.append(use)
            kills.append(kill)
            self.defines.append(define)
        self.live_in = list(uses)
        self.live_out = [0] * count
        changed = True
        while changed:
            changed = False
            for node in range(count - 1, -1, -1):
                out = 0
                for target in self.successors[node]:
                    out |= self.live_in[target]
                self.live_out[node] = out
                live = uses[node] | (out & ~kills[node])
                if live != self.live_in[node]:
                    self.live_in[node] = live
                    changed = True
        local = sum(1 << bit for bit in self.local.values())
        self.pinned = self.live_in[1] & GPRS & ~_RSP_BIT
        self.flags_in = self.live_in[1] & ARITHMETIC_FLAGS
        small = self.region.instructions <= _MOST_WITH_LOOSE
        self.loose = 0 if self.firm or not small else self.pinned & ~self.touched & _SELDOM_USED
        self.pinned &= ~self.loose
        self.exit_live = {target: live & ~self.loose for target, live in self.exit_live.items()}
        self.defines[0] = self.pinned | self.flags_in | local
        self.idom = immediate_dominators(self.predecessors)
        self.phis = phi_masks(dominance_frontiers(self.predecessors, self.idom), self.defines)

    def _is_overwritten(self, address: int) -> bool:
        """Whether the jump to this region may stand in the original instruction's place: none can be left to there."""
        return self.region.head <= address < self.region.head + _TRAMPOLINE

    def _note_exit(self, target: int) -> None:
        if target not in self.exit_live:
            self.exit_live[target] = self.live_at(target) & STATE

    def _summary(self, block: LiftedBlock) -> tuple[int, int, int]:
        """Upward-exposed uses, kills and definitions of a block, exits apart."""
        use = kill = define = 0
        for step in block.body:
            probe_use, probe_define = self._actions_effect(step.address)
            effects = step.instruction.effects
            self.touched |= probe_use | probe_define | effects.reads | effects.writes
            use |= probe_use & ~kill
            kill |= probe_define & GPRS
            if step.address in self.nil_exits:
                use |= self.exit_live[step.address] & ~kill
            use |= effects.reads & STATE & ~kill
            kill |= effects.kills & STATE
            define |= (effects.writes & STATE) | probe_define
        if block.terminator is not Terminator.FALL:
            probe_use, probe_define = self._actions_effect(block.last_address)
            self.touched |= probe_use | probe_define
            use |= probe_use & ~kill
            kill |= probe_define & GPRS
            define |= probe_define
        if block.last is not None and block.terminator is not Terminator.JUMP:
            self.touched |= block.last.effects.reads | block.last.effects.writes
            use |= terminator_reads(block.last) & ~kill
            if block.last.mnemonic.startswith("loop"):
                define |= 1 << RCX
                kill |= 1 << RCX
        return use, kill, define

    def _actions_effect(self, address: int) -> tuple[int, int]:
        use = define = 0
        for action in self.actions.get(address, ()):
            if isinstance(action, Call):
                use |= (action.probe.reads | action.probe.writes) & GPRS & ~_RSP_BIT
                define |= action.probe.writes & GPRS & ~_RSP_BIT
            elif action.counter in self.local:
                define |= 1 << self.local[action.counter]
        return use, define

    def _choose_local_counters(self, exits: int) -> None:
        loops = in_loops(self.successors)
        counters = [
            action.counter
            for block in self.blocks
            if self.number[block.address] in loops
            for address in self._tracepoints(block)
            for action in self.actions.get(address, ())
            if isinstance(action, Count)
        ]
        counters = list(dict.fromkeys(counters))
        if len(counters) * exits <= _MOST_FLUSHES:
            self.local = {counter: _COUNTER_SHIFT + index for index, counter in enumerate(counters)}

    def _tracepoints(self, block: LiftedBlock) -> list[int]:
        addresses = [step.address for step in block.body]
        return addresses if block.terminator is Terminator.FALL else [*addresses, block.last_address]

    # --- emission ---------------------------------------------------------------------------------------

    def run(self) -> LoweredRegion:
        """Lower the region."""
        self._analyse()
        b = self.b
        b.extend_registers(_COUNTER_SHIFT + len(self.local))
        self._emit_entry()
        ends: dict[int, BlockState] = {0: b.snapshot()}
        pending_phis: list[tuple[int, int, dict[int, str]]] = []
        lifted = verbatim = 0
        for block in self.blocks:
            node = self.number[block.address]
            self._begin(node, ends, pending_phis)
            self.current_label = f"n{node}"
            self._emit_body(block)
            self._emit_terminator(block)
            ends[node] = b.snapshot()
            self.end_labels[node] = self.current_label
            self.terminators[len(b.lines) - 1] = node
            lifted += sum(step.handling is Handling.LIFTED for step in block.body) + (block.last is not None)
            verbatim += sum(step.handling is Handling.VERBATIM for step in block.body)
        tails = self._edge_values(pending_phis, ends)
        for label, state, leaving in self.exits:
            b.restore(state)
            b.start_block(label)
            self._leave(leaving)
        text = self._assemble(tails)
        framed = -b.lowest + self.options.red_zone + SLOTS_SIZE
        framed += -framed % 8
        unframed = framed if b.needs_stack or self.flags_in else -b.lowest
        source = RegionSource(text, unframed, framed, passes=bool(self.probes), loose=self.loose)
        return LoweredRegion(
            self.region.head, source, dict(self.symbols.addresses), bool(self.flags_in), lifted, verbatim
        )

    def _emit_entry(self) -> None:
        b = self.b
        b.lines += entry_statement(self.pinned, self.loose)
        for index in bits(self.pinned):
            b.set_register(index, f"%r{index}")
        if self.flags_in:
            # The stub pushed them: they are where the machine's RSP points at entry.
            word = b.emit(f"load i64, ptr {b.slot_address(0)}, align 8")
            b.flags_from_word(word, self.flags_in)
        for bit in self.local.values():
            b.set_register(bit, "0")
        b.line("br label %n1")
        self.terminators[len(b.lines) - 1] = 0

    def _begin(self, node: int, ends: Mapping[int, BlockState], pending: list[tuple[int, int, dict[int, str]]]) -> None:
        """Start a block: state from the one that dominates it, phis where paths meet."""
        b = self.b
        b.restore(ends[self.idom[node]])
        b.start_block(f"n{node}")
        joined = self.phis[node]
        if joined:
            names: dict[int, str] = {}
            for bit in bits(joined):
                if self._wanted(node, bit):
                    names[bit] = f"%p{node}.{bit}"
                    self._set(bit, names[bit])
                else:
                    self._forget(bit)
            pending.append((len(b.lines), node, names))
        block = self.blocks[node - 1]
        b.rsp_offset = self.region.offsets[block.address]

    def _wanted(self, node: int, bit: int) -> bool:
        return bit >= _COUNTER_SHIFT or bool(self.live_in[node] >> bit & 1)

    def _set(self, bit: int, value: str) -> None:
        if 16 <= bit < _COUNTER_SHIFT:
            self.b.set_flag(1 << bit, value)
        else:
            self.b.set_register(bit, value)

    def _forget(self, bit: int) -> None:
        if 16 <= bit < _COUNTER_SHIFT:
            self.b.forget_flag(1 << bit)
        else:
            self.b.forget_register(bit)

    def _emit_body(self, block: LiftedBlock) -> None:
        b = self.b
        live = self._flags_after_steps(block)
        checked: set[str] = set()
        for step, live_flags in zip(block.body, live, strict=True):
            self._emit_actions(step.address)
            for mem in self.nil_exits.get(step.address, ()):
                self._check_nil(step.address, mem, checked)
            if step.handling is Handling.LIFTED:
                b.lift(step.instruction, step.address, live_flags)
            else:
                b.carry(step.instruction, step.address, live_flags)
        b.flush()

    def _flags_after_steps(self, block: LiftedBlock) -> list[int]:
        live = self.live_out[self.number[block.address]]
        for target in self._leaving(block):
            live |= self.exit_live[target]
        if block.last is not None and block.terminator is not Terminator.JUMP:
            live |= terminator_reads(block.last)
        live &= ARITHMETIC_FLAGS
        result = []
        for step in reversed(block.body):
            result.append(live)
            effects = step.instruction.effects
            live = (live & ~effects.kills) | (effects.reads & ARITHMETIC_FLAGS)
            if step.address in self.nil_exits:
                live |= self.exit_live[step.address] & ARITHMETIC_FLAGS
        result.reverse()
        return result

    def _check_nil(self, address: int, mem: Mem, checked: set[str]) -> None:
        """Leave before an access to the first page; once for each pointer in a block. With an index, either register
        may be the pointer."""
        b = self.b
        b.flush()
        assert mem.base is not None
        pointer = b.read_reg(mem.base, 64) if mem.index is None else b.effective_address(mem)
        if pointer in checked:
            return
        checked.add(pointer)
        leave = self._exit_label(Exit(self.exit_live[address], target=address))
        label = f"c{len(self.exits)}"
        b.line(f"br i1 {b.icmp('ult', 64, pointer, str(_FIRST_PAGE))}, label %{leave}, label %{label}, !prof !6")
        b.start_block(label)
        self.current_label = label

    def _emit_actions(self, address: int) -> None:
        for action in self.actions.get(address, ()):
            self.b.flush()
            if isinstance(action, Count) and action.counter in self.local:
                bit = self.local[action.counter]
                amount = "1" if action.guard == NO_GUARD else self._guard(action.guard)
                self.b.set_register(bit, self.b.op("add", 64, self.b.read_reg(bit, 64), amount))
            elif action.guard == NO_GUARD:
                self._emit_action(action)
            else:
                self._emit_guarded(action)

    def _emit_action(self, action: Action) -> None:
        if isinstance(action, Call):
            self._call_probe(action)
        else:
            self._add_to_counter(action.counter, "1")

    def _guard(self, word: int) -> str:
        """The word as it is now: whoever switches it does not wait for regions to end."""
        return self.b.emit(f"load volatile i64, ptr @{self.symbols.name('c', word)}, align 8")

    def _emit_guarded(self, action: Action) -> None:
        b = self.b
        writes = action.probe.writes & GPRS & ~_RSP_BIT if isinstance(action, Call) else 0
        reads = action.probe.reads & GPRS & ~_RSP_BIT if isinstance(action, Call) else 0
        # Values made inside are not there for what comes after.
        before = {index: b.read_reg(index, 64) for index in bits(reads | writes)}
        runs = b.icmp("ne", 64, self._guard(action.guard), "0")
        state = b.snapshot()
        came_from = self.current_label
        inside, after = f"g{len(b.lines)}", f"h{len(b.lines)}"
        b.line(f"br i1 {runs}, label %{inside}, label %{after}")
        b.start_block(inside)
        self._emit_action(action)
        made = {index: b.read_reg(index, 64) for index in bits(writes)}
        b.line(f"br label %{after}")
        b.restore(state)
        b.start_block(after)
        self.current_label = after
        for index, value in made.items():
            b.set_register(index, b.emit(f"phi i64 [ {value}, %{inside} ], [ {before[index]}, %{came_from} ]"))

    def _add_to_counter(self, counter: int, amount: str) -> None:
        b = self.b
        place = "@" + self.symbols.name("c", counter)
        if self.options.update == "biased":
            own, owner = "@" + self.symbols.name("b", counter), "@" + self.symbols.name("o", 0)
            pointers = ", ".join(f"ptr elementtype(i64) {word}" for word in (own, place, owner))
            b.line(
                f'call void asm sideeffect "{_ADD_BIASED}", "=*m,=*m,*m,er,~{{flags}},~{{memory}}"'
                f"({pointers}, i64 {amount})"
            )
            return
        if self.options.atomic:
            b.line(f"atomicrmw add ptr {place}, i64 {amount} monotonic, align 8")
            return
        old = b.emit(f"load i64, ptr {place}, align 8")
        b.line(f"store i64 {b.op('add', 64, old, amount)}, ptr {place}, align 8")

    def _flush_counters(self) -> None:
        for counter, bit in self.local.items():
            value = self.b.read_reg(bit, 64)
            if value != "0":
                self._add_to_counter(counter, value)

    def _call_probe(self, call: Call) -> None:
        b = self.b
        probe = call.probe
        number = self.probes.setdefault(probe, len(self.probes))
        context = f"%ctx{len(self.allocas)}"
        self.allocas.append(f"  {context} = alloca [{SLOTS} x i64], align 8")
        for index in bits((probe.reads | probe.writes) & GPRS):
            slot = b.emit(f"getelementptr i64, ptr {context}, i64 {index}")
            b.line(f"store i64 {b.read_reg(index, 64)}, ptr {slot}, align 8")
        if probe.reads >> RIP_SLOT & 1:
            slot = b.emit(f"getelementptr i64, ptr {context}, i64 {RIP_SLOT}")
            b.line(f"store i64 {call.address}, ptr {slot}, align 8")
        words = "@" + self.symbols.name("w", call.words)
        b.line(f"call void @L_probe{number}(ptr {context}, ptr {words})")
        for index in bits(probe.writes & GPRS & ~_RSP_BIT):
            slot = b.emit(f"getelementptr i64, ptr {context}, i64 {index}")
            b.set_register(index, b.emit(f"load i64, ptr {slot}, align 8"))

    def _emit_terminator(self, block: LiftedBlock) -> None:
        b = self.b
        if block.terminator is not Terminator.FALL:
            self._emit_actions(block.last_address)
        if block.last is not None:
            b.address = block.last_address
            b.next_address = block.last_address + block.last.size
            b.live_flags = 0
        live = self.live_out[self.number[block.address]]
        for target in self._leaving(block):
            live |= self.exit_live[target]
        b.settle(live & GPRS & ~_RSP_BIT)
        match block.terminator:
            case Terminator.FALL | Terminator.JUMP:
                self._go(block, self._next(block))
            case Terminator.BRANCH:
                assert block.last is not None and block.target is not None
                condition = branch_condition(b, block.last)
                taken, other = self._label(block, block.target), self._label(block, block.following)
                b.line(f"br i1 {condition}, label %{taken}, label %{other}")
            case Terminator.NATIVE:
                self._leave(Exit(self.exit_live[block.last_address], target=block.last_address))
            case Terminator.CALL:
                live = self.exit_live[block.last_address]
                self._leave(Exit(live, block.target, block.last, block.last_address, block.following))
            case Terminator.RETURN | Terminator.INDIRECT:
                live = self.exit_live[block.last_address]
                self._leave(Exit(live, instruction=block.last, address=block.last_address))

    def _go(self, block: LiftedBlock, target: int) -> None:
        node = self.number.get(target)
        if node is not None and node in self._edges(block):
            self.b.line(f"br label %n{node}")
        else:
            self._leave(Exit(self.exit_live[target], target=target))

    def _leave(self, leaving: Exit) -> None:
        """End the block by leaving the region."""
        self._flush_counters()
        emit_exit(self.b, leaving, self.loose)

    def _label(self, block: LiftedBlock, target: int) -> str:
        """Where one side of a branch goes: a block, or a block of its own that leaves."""
        node = self.number.get(target)
        if node is not None and node in self._edges(block):
            return f"n{node}"
        return self._exit_label(Exit(self.exit_live[target], target=target))

    def _exit_label(self, leaving: Exit) -> str:
        """A block of its own that leaves the region from the present state."""
        label = f"x{len(self.exits)}"
        self.exits.append((label, self.b.snapshot(), leaving))
        return label

    def _edge_values(
        self, pending: list[tuple[int, int, dict[int, str]]], ends: dict[int, BlockState]
    ) -> list[tuple[int, list[str]]]:
        """Lines of the phis, each with the line number where it belongs."""
        conversions: dict[int, dict[int, str]] = {}
        result = []
        self.converted: dict[int, list[str]] = {}
        for line, node, names in pending:
            phis = []
            for bit, name in names.items():
                kind = "i1" if 16 <= bit < _COUNTER_SHIFT else "i64"
                arms = []
                for source in self.predecessors[node]:
                    values = conversions.setdefault(source, {})
                    if bit not in values:
                        values[bit] = self._value_at_end(source, bit, ends)
                    arms.append(f"[ {values[bit]}, %{self.end_labels[source]} ]")
                phis.append(f"  {name} = phi {kind} {', '.join(arms)}")
            result.append((line, phis))
        return result

    def _value_at_end(self, node: int, bit: int, ends: dict[int, BlockState]) -> str:
        """The value of a variable at the end of a block; what must be computed for it goes before its branch."""
        b = self.b
        before = len(b.lines)
        b.restore(ends[node])
        value = b.flag(1 << bit) if 16 <= bit < _COUNTER_SHIFT else b.read_reg(bit, 64)
        added = b.lines[before:]
        if added:
            del b.lines[before:]
            self.converted.setdefault(node, []).extend(added)
            ends[node] = b.snapshot()
        return value

    def _with_late_lines(self, phis: Mapping[int, Sequence[str]]) -> list[str]:
        lines: list[str] = []
        for number, line in enumerate(self.b.lines):
            if number in phis:
                lines.extend(phis[number])
            node = self.terminators.get(number)
            if node is not None:
                lines.extend(self.converted.pop(node, ()))
            lines.append(line)
        assert not self.converted
        return lines

    def _assemble(self, phis: list[tuple[int, list[str]]]) -> str:
        """The function's text: phis after their labels, late conversions before their block's branch."""
        lines = self.b.lines
        if phis or self.converted:
            lines = self._with_late_lines(dict(phis))
        declarations = ["declare ptr @llvm.addressofreturnaddress.p0()", *sorted(self.b.intrinsics)]
        for kind, type_name in (("d", "{}"), ("c", "i64"), ("b", "i64"), ("o", "i64"), ("w", "i64")):
            declarations += [f"@{s} = external hidden global {type_name}" for s in self.symbols.of_kind(kind)]
        declarations += [probe.named(number, self.options.atomic) for probe, number in self.probes.items()]
        head = ["define ghccc void @L_region() #0 {", "entry:", *self.allocas]
        return "\n".join([*declarations, *head, *lines, "}", ""])


def _pointers(instruction: Instruction) -> tuple[Mem, ...]:
    """What an instruction accesses through a pointer, but RSP. With a larger displacement a nil pointer does not lead
    to the first page: Go then checks it itself, or it is an index into a static array."""
    found = []
    for access in instruction.effects.memory:
        mem = access.operand
        plain = not mem.segment and not mem.vsib and mem.base is not None and mem.base != RSP
        if plain and 0 <= mem.disp < _FIRST_PAGE and mem not in found:
            found.append(mem)
    return tuple(found)


def lower(
    region: Region,
    actions: Mapping[int, Sequence[Action]],
    live_at: LiveAt,
    options: LoweringOptions,
    firm: bool = False,
) -> LoweredRegion:
    """The IR of a region.

    `actions` maps instruction addresses to what runs before them; `live_at` says what is live before an
    original instruction. `firm` pins every register that is live (see `RegionSource.loose`).

    Raises AssertionError where an emitter reads what the instruction's row does not
    declare: a bug of ours, never of the program.
    """
    return _Lowering(region, actions, live_at, options, firm).run()
