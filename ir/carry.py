"""Regions that gain nothing from an optimiser: their own instructions, with counters between them.

What the program's compiler made of a piece of code without loops, LLVM makes again at best, and takes a millisecond
for it. So such a region is put together from the bytes of its instructions: registers, flags and stack are where they
always were, nothing has to be live or pinned, and there is no frame. Only what depends on the place is written anew:
jumps, and operands relative to RIP. Where a region has a loop (its counters stay in registers), a probe in Python or
a call that pushes the original return address, `ir.lower` makes it instead. A region with calls that come back into it
(`Terminator.THROUGH`), or whose loops are left soon, is always put together here; so is one for a frame of which the
program's stack has no place, if it can be.

A fault in such a region is that of the original instruction, with the same registers (but for flags that nothing
reads): only the program counter is another, and `origins` says which it would have been.

A biased counter is two: one that the main thread adds to, alone and so without a lock, and one for all others. The
main thread is told by its stack, the highest of all: the *owner* word is the lowest address that is surely of it, with
the sign bit set, so that RSP minus the word is negative on that stack and positive below. If the word is 0, as it is
where nobody may go without a lock, the difference is always positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import count
from typing import Final

from ir.actions import NO_GUARD, Action, Count
from ir.blocks import LiftedBlock, Terminator
from ir.lower import LiveAt
from ir.machine import CompiledRegion, Relocation, RelocationKind
from ir.options import LoweringOptions
from ir.regions import Region
from lifter.builder import Symbols
from lifter.instruction import Flow, Instruction
from lifter.registers import ARITHMETIC_FLAGS, CF

_INC: Final = b"\x48\xff\x05"
"""inc qword [rip+disp32]"""
_CHANGED: Final = ARITHMETIC_FLAGS & ~CF
"""Flags that it changes (Intel SDM, volume 2A, INC)."""
_LOCK: Final = b"\xf0"
_CMP_RSP: Final = b"\x48\x3b\x25"
"""cmp rsp, [rip+disp32]"""
_NOT_SIGN: Final = 9
"""The condition of jns."""
_KEEP_FLAGS: Final = bytes.fromhex("488d6424809c")
"""lea rsp, [rsp-128]; pushfq: the flags, beyond the red zone"""
_FLAGS_BACK: Final = bytes.fromhex("9d488da42480000000")
"""popfq; lea rsp, [rsp+128]"""
_LOOP_ALIGNMENT: Final = 16
_NOPS: Final = tuple(map(bytes.fromhex, (
    "", "90", "6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000", "0f1f8000000000", "0f1f840000000000",
    "660f1f840000000000",
)))  # fmt: skip
"""The recommended no-operations of each size (Intel SDM, volume 2B, NOP)."""
_DIVISIONS: Final = ("div", "idiv")
_JMP8: Final = b"\xeb"
_JMP32: Final = b"\xe9"
_CALL32: Final = b"\xe8"
_CONDITIONS: Final = range(0x70, 0x80)
"""First byte of the short conditional jumps; the long ones are 0F and it + 0x10."""
_FIRST_LABEL: Final = 1 << 64
"""Labels are numbers that no block has for an address."""


@dataclass(frozen=True, slots=True)
class CarriedRegion:
    """A region that needs no compiler."""

    head: int
    source: CompiledRegion
    """Its machine code."""
    symbols: Mapping[str, int]
    """Symbol -> address in the image ('L_x', 'L_d'), or index among the counters ('L_c'; 'L_b': of the main thread's
    own; 'L_o': 0 for the owner word)."""
    origins: tuple[tuple[int, int], ...]
    """(offset in the code, original address) of each instruction that is the program's: a fault of one is the
    original's, with the same registers. Also of what counts behind the code, for the instruction that it leads to."""
    verbatim: int
    """Number of instructions."""
    calls: bool = False
    """Whether it makes calls that come back into it: unwinders have to know it."""
    flags_in: bool = False
    lifted: int = 0
    keeps_flags: bool = False
    """Whether a counter saves and restores the flags, which takes ten times as long as counting."""
    provisional: bool = False
    """Whether it is a loop that `ir.lower` makes better code of, carried because that was asked for."""


@dataclass(frozen=True, slots=True)
class _Alignment:
    """Padding in front of a loop that the program's compiler has aligned too."""


@dataclass(slots=True)
class _Jump:
    """A jump whose size is not known yet."""

    condition: int
    """0 to 15 as the processor numbers them; -1 for an unconditional one."""
    target: int
    """Address of a block of the region or of original code, or one of `_Carrying.labels`."""
    inside: bool
    long: bool


class _Unsuitable(Exception):
    """The region has something that only `ir.lower` can do."""


def carry(
    region: Region, actions: Mapping[int, Sequence[Action]], live_at: LiveAt, options: LoweringOptions
) -> CarriedRegion | None:
    """The region's own instructions with its counters; None where it has to be lowered. Arguments as in `lower`."""
    if options.nil_checks and not options.exact_faults:
        return None
    try:
        return _Carrying(region, actions, live_at, options).run()
    except _Unsuitable:
        return None


class _Carrying:
    """The work on one region."""

    def __init__(
        self, region: Region, actions: Mapping[int, Sequence[Action]], live_at: LiveAt, options: LoweringOptions
    ) -> None:
        self.region = region
        self.blocks = {block.address: block for block in region.blocks}
        self.actions = actions
        self.live_at = live_at
        self.symbols = Symbols()
        self.increment = _LOCK + _INC if options.atomic else _INC
        self.is_biased = options.update == "biased"
        self.labels = count(_FIRST_LABEL)
        self.behind: list[tuple[int, int, str, int]] = []
        """Increments under a lock that stand behind the code: (label, label to go back to, symbol, original address
        that they lead to)."""
        self.pieces: list[bytes | _Jump | _Alignment] = []
        self.fields: list[tuple[int, int, str, int]] = []
        """Fields to be relocated: (piece, offset in it, symbol, addend)."""
        self.starts: dict[int, int] = {}
        """Block or label -> its first piece."""
        self.origins: list[tuple[int, int]] = []
        """(piece, original address) of the program's own instructions."""
        self.exact = options.exact_faults
        self.loops = options.carry_loops
        self.provisional = False
        self.keeps_flags = False
        self.goes_through = any(block.terminator is Terminator.THROUGH for block in region.blocks)
        self.in_memory = region.in_memory or self.goes_through
        """Whether counters are in memory in loops too."""

    def run(self) -> CarriedRegion:
        """Lay out the blocks in address order, the head first. Raises _Unsuitable."""
        self._check()
        order = sorted(self.blocks, key=lambda address: (address < self.region.head, address))
        loops = self._loop_heads(order)
        for address, following in zip(order, [*order[1:], None], strict=True):
            if address in loops and not address % _LOOP_ALIGNMENT:
                self.pieces.append(_Alignment())
            self.starts[address] = len(self.pieces)
            block = self.blocks[address]
            self._emit_body(block)
            self._emit_end(block, following)
        self._emit_behind()
        code, relocations, origins = self._assemble()
        compiled = CompiledRegion(code, relocations, b"", (), 0, 0)
        return CarriedRegion(
            self.region.head,
            compiled,
            self.symbols.addresses,
            origins,
            self.region.instructions,
            calls=self.goes_through,
            keeps_flags=self.keeps_flags,
            provisional=self.provisional,
        )

    def _check(self) -> None:
        for block in self.blocks.values():
            if block.terminator is Terminator.CALL:
                raise _Unsuitable
            inside = [step.address for step in block.body]
            if block.terminator is not Terminator.FALL:
                inside.append(block.last_address)
            for address in inside:
                actions = self.actions.get(address, ())
                if actions and (address != block.address or not all(map(_is_plain, actions))):
                    raise _Unsuitable
        is_exact = self.exact and any(map(_can_fault, self.blocks.values()))
        if not self.in_memory and not is_exact and self._has_loop:
            if not self.loops:
                raise _Unsuitable
            self.provisional = True

    @cached_property
    def _has_loop(self) -> bool:
        """Whether control may come to a block of the region again."""
        # Blocks are in reverse post-order: only round a loop does control go to one that has been passed.
        passed = set()
        for block in self.region.blocks:
            passed.add(block.address)
            if any(target in passed and self._goes_to(block, target) for target in block.successors):
                return True
        return False

    def _loop_heads(self, order: Sequence[int]) -> set[int]:
        """Blocks that are jumped back to, as they are laid out."""
        place = {address: index for index, address in enumerate(order)}
        return {
            target
            for block in self.region.blocks
            for target in block.successors
            if self._goes_to(block, target) and place[target] <= place[block.address]
        }

    def _goes_to(self, block: LiftedBlock, target: int | None) -> bool:
        """Whether control stays in the region on the way to `target`: it has the block, and with RSP as it is then."""
        if target is None or target not in self.blocks or block.stack_delta is None:
            return False
        offsets = self.region.offsets
        return offsets[target] == offsets[block.address] + block.stack_delta

    # --- flags ------------------------------------------------------------------------------------------

    def _live_after(self, block: LiftedBlock, before: Mapping[int, int]) -> int:
        """Flags that are live after the body of a block, if those of `before` are at the starts of blocks."""
        last = block.last
        live = 0 if last is None else last.effects.reads
        match block.terminator:
            case Terminator.RETURN | Terminator.INDIRECT | Terminator.NATIVE | Terminator.THROUGH:
                return self.live_at(block.last_address) & ARITHMETIC_FLAGS
            case Terminator.BRANCH:
                targets: tuple[int | None, ...] = (block.target, block.following)
            case Terminator.JUMP:
                targets = (block.target,)
            case _:
                targets = (block.following,)
        for target in targets:
            assert target is not None
            live |= before[target] if self._goes_to(block, target) else self.live_at(target)
        return live & ARITHMETIC_FLAGS

    @cached_property
    def _live_before(self) -> dict[int, int]:
        """Block -> flags that are live at its start."""
        live: dict[int, int] = {}
        passing: list[tuple[LiftedBlock, int]] = []
        for block in reversed(self.region.blocks):
            live[block.address], killed = _flags_of(block)
            if killed != ARITHMETIC_FLAGS:
                passing.append((block, ~killed))
        while True:
            known = dict(live)
            for block, passed in passing:
                live[block.address] |= self._live_after(block, live) & passed
            if live == known or not self._has_loop:
                return live

    def _place_of_count(self, block: LiftedBlock, changed: int) -> int:
        """Before which instruction of a block, by number, none of the flags `changed` is live. -1 where one always
        is."""
        if not self._live_before[block.address] & changed:
            return 0
        live = self._live_after(block, self._live_before) & changed
        place = -1 if live else len(block.body)
        for number in range(len(block.body) - 1, 0, -1):
            effects = block.body[number].instruction.effects
            live = live & ~effects.kills | effects.reads & changed
            if not live:
                place = number
        return place

    # --- emission ---------------------------------------------------------------------------------------

    def _emit_body(self, block: LiftedBlock) -> None:
        counts = self.actions.get(block.address, ())
        is_biased = self.is_biased
        place = -1
        if counts:
            place = self._place_of_count(block, ARITHMETIC_FLAGS if is_biased else _CHANGED)
            if place < 0 and is_biased:
                place = self._place_of_count(block, _CHANGED)
                is_biased = False
        if counts and place < 0:
            if not self.in_memory:
                raise _Unsuitable
            self.keeps_flags = True
            self.pieces.append(_KEEP_FLAGS)
            self._emit_counts(counts)
            self.pieces.append(_FLAGS_BACK)
        for number, step in enumerate(block.body):
            if number == place:
                self._emit_counts(counts, step.address if is_biased else None)
            if step.instruction.mnemonic != "nop":
                self._emit(step.instruction, step.address)
        if place == len(block.body):
            end = block.following if block.terminator is Terminator.FALL else block.last_address
            self._emit_counts(counts, end if is_biased else None)

    def _emit_counts(self, counts: Sequence[Action], before: int | None = None) -> None:
        """Increments, of biased counters where no flag is live: the instruction at `before` comes next."""
        for action in counts:
            assert isinstance(action, Count)
            symbol = self.symbols.name("c", action.counter)
            if before is None:
                self._emit_counting(self.increment, symbol)
                continue
            elsewhere, back = next(self.labels), next(self.labels)
            self._emit_counting(_CMP_RSP, self.symbols.name("o", 0))
            self.pieces.append(_Jump(_NOT_SIGN, elsewhere, inside=True, long=False))
            self._emit_counting(_INC, self.symbols.name("b", action.counter))
            self.starts[back] = len(self.pieces)
            self.behind.append((elsewhere, back, symbol, before))

    def _emit_counting(self, opcode: bytes, symbol: str) -> None:
        self.fields.append((len(self.pieces), len(opcode), symbol, -4))
        self.pieces.append(opcode + bytes(4))

    def _emit_behind(self) -> None:
        for elsewhere, back, symbol, before in self.behind:
            self.starts[elsewhere] = len(self.pieces)
            self.origins.append((len(self.pieces), before))
            self._emit_counting(_LOCK + _INC, symbol)
            self.pieces.append(_Jump(-1, back, inside=True, long=False))

    def _emit(self, instruction: Instruction, address: int) -> None:
        code = instruction.code
        mem = instruction.memory_operand
        if mem is not None and mem.rip:
            if mem.address_width != 64:
                raise _Unsuitable
            symbol = self.symbols.name("d", address + len(code) + mem.disp)
            self.fields.append((len(self.pieces), instruction.disp_at, symbol, instruction.disp_at - len(code)))
        self.origins.append((len(self.pieces), address))
        self.pieces.append(code)

    def _emit_end(self, block: LiftedBlock, following: int | None) -> None:
        last = block.last
        match block.terminator:
            case Terminator.RETURN | Terminator.INDIRECT:
                assert last is not None
                self._emit(last, block.last_address)
            case Terminator.THROUGH:
                assert last is not None
                self._emit_call(last, block)
                self._emit_jump(-1, block, block.following, following)
            case Terminator.NATIVE:
                self._emit_jump(-1, block, block.last_address, None)
            case Terminator.BRANCH:
                assert last is not None
                condition = _condition(last)
                if self._goes_to(block, block.target) and block.target == following:
                    self._emit_jump(condition ^ 1, block, block.following, None)
                else:
                    self._emit_jump(condition, block, block.target, None)
                    self._emit_jump(-1, block, block.following, following)
            case _:
                target = block.target if block.terminator is Terminator.JUMP else block.following
                self._emit_jump(-1, block, target, following)

    def _emit_call(self, call: Instruction, block: LiftedBlock) -> None:
        if block.target is None:
            self._emit(call, block.last_address)
            return
        self.origins.append((len(self.pieces), block.last_address))
        self.fields.append((len(self.pieces), len(_CALL32), self.symbols.name("f", block.target), -4))
        self.pieces.append(_CALL32 + bytes(4))

    def _emit_jump(self, condition: int, block: LiftedBlock, target: int | None, following: int | None) -> None:
        """A jump to `target`; none where that is the block `following`, which comes next."""
        assert target is not None
        inside = block.terminator is not Terminator.NATIVE and self._goes_to(block, target)
        if inside and target == following:
            return
        if not inside:
            self.fields.append((len(self.pieces), 1 if condition < 0 else 2, self.symbols.name("x", target), -4))
        self.pieces.append(_Jump(condition, target, inside, not inside))

    def _assemble(self) -> tuple[bytes, tuple[Relocation, ...], tuple[tuple[int, int], ...]]:
        """Choose the sizes of the jumps (short ones become long until all reach), then put everything together."""
        while True:
            offsets = []
            at = 0
            for piece in self.pieces:
                offsets.append(at)
                at += -at % _LOOP_ALIGNMENT if isinstance(piece, _Alignment) else _size(piece)
            offsets.append(at)
            grown = False
            for number, piece in enumerate(self.pieces):
                if isinstance(piece, _Jump) and not piece.long:
                    distance = offsets[self.starts[piece.target]] - offsets[number + 1]
                    if not -128 <= distance < 128:
                        piece.long = grown = True
            if not grown:
                break
        code = bytearray()
        for number, piece in enumerate(self.pieces):
            if isinstance(piece, _Jump):
                distance = offsets[self.starts[piece.target]] - offsets[number + 1] if piece.inside else 0
                code += _encode(piece, distance)
            elif isinstance(piece, _Alignment):
                code += _nops(-len(code) % _LOOP_ALIGNMENT)
            else:
                code += piece
        relocations = tuple(
            _relocation(offsets[piece] + offset, symbol, addend) for piece, offset, symbol, addend in self.fields
        )
        return bytes(code), relocations, tuple((offsets[piece], address) for piece, address in self.origins)


def _nops(size: int) -> bytes:
    return _NOPS[min(size, 9)] + (_nops(size - 9) if size > 9 else b"")


def _flags_of(block: LiftedBlock) -> tuple[int, int]:
    """Flags that the body of a block reads before it writes them, and those that it surely writes."""
    reads, killed = 0, 0
    for step in block.body:
        effects = step.instruction.effects
        reads |= effects.reads & ~killed
        killed |= effects.kills & ARITHMETIC_FLAGS
        if killed == ARITHMETIC_FLAGS:
            break
    return reads & ARITHMETIC_FLAGS, killed


def _can_fault(block: LiftedBlock) -> bool:
    return any(step.instruction.effects.memory or step.instruction.mnemonic in _DIVISIONS for step in block.body)


@lru_cache(1 << 16)
def _relocation(offset: int, symbol: str, addend: int) -> Relocation:
    return Relocation(offset, RelocationKind.PC32, symbol, addend)


def _condition(branch: Instruction) -> int:
    """The number of a conditional jump's condition. Raises _Unsuitable for loop, jrcxz and the like."""
    code = branch.code
    if branch.flow is Flow.BRANCH:
        if len(code) >= 2 and code[-2] in _CONDITIONS and branch.imm_size == 1:
            return code[-2] & 15
        if len(code) >= 6 and code[-6] == 0x0F and code[-5] & 0xF0 == 0x80 and branch.imm_size == 4:
            return code[-5] & 15
    raise _Unsuitable


def _size(piece: bytes | _Jump) -> int:
    if isinstance(piece, _Jump):
        return 2 if not piece.long else 5 if piece.condition < 0 else 6
    return len(piece)


def _encode(jump: _Jump, distance: int) -> bytes:
    if not jump.long:
        opcode = _JMP8 if jump.condition < 0 else bytes((0x70 + jump.condition,))
        return opcode + distance.to_bytes(1, "little", signed=True)
    opcode = _JMP32 if jump.condition < 0 else bytes((0x0F, 0x80 + jump.condition))
    return opcode + distance.to_bytes(4, "little", signed=True)


def _is_plain(action: Action) -> bool:
    return isinstance(action, Count) and action.guard == NO_GUARD
