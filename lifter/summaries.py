"""What liveness needs of each block, as integers: masks of reads and kills, and what its end does.

The tracked state is the 16 general-purpose registers and the arithmetic flags; the rest is ambient.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from lifter.exits import falls_out
from lifter.graph import Block, FunctionGraph
from lifter.image.types import Function, Image
from lifter.instruction import Flow, Instruction, Mem, Reg
from lifter.noreturn import import_of
from lifter.registers import (
    ARITHMETIC_FLAGS,
    GPRS,
    R8,
    R9,
    R10,
    R11,
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
)  # fmt: skip
from lifter.stackdepth import depths


def _mask(*registers: int) -> int:
    return sum(gpr(register) for register in registers)


TRACKED: Final = GPRS | ARITHMETIC_FLAGS
"""Everything that can be live: the answer wherever something is unknown."""
ARGUMENTS: Final = _mask(RDI, RSI, RDX, RCX, R8, R9, RAX, R10, RSP)
"""What a function of the System V ABI may read: arguments, number of vector arguments, static chain, stack."""
CALLEE_SAVED: Final = _mask(RBX, RBP, R12, R13, R14, R15)
CLOBBERED: Final = _mask(RAX, RCX, RDX, RSI, RDI, R8, R9, R10, R11) | ARITHMETIC_FLAGS
"""What a caller takes for lost after a call of the ABI."""
RETURNED: Final = _mask(RAX, RDX, RCX, RSP) | CALLEE_SAVED
"""What the caller may use after a return: LLVM returns up to three words."""
SYSCALL_READS: Final = _mask(RAX, RDI, RSI, RDX, R10, R8, R9, RSP)
SYSCALL_KILLS: Final = _mask(RAX, RCX, R11)

_TWICE: Final = frozenset(("setjmp", "_setjmp", "__sigsetjmp", "sigsetjmp", "vfork", "getcontext", "savectx"))
_PRESERVING: Final = frozenset(("mcount", "_mcount", "__fentry__", "__tls_get_addr_opt"))
_PRESERVING_PREFIXES: Final = ("__asan_check_", "swift_retain", "swift_release", "__regcall")

Summary = tuple[int, int]
"""(uses, kills) of a callee."""

UNKNOWN_CALLEE: Final[Summary] = (TRACKED, 0)
ABI_CALLEE: Final[Summary] = (ARGUMENTS, CLOBBERED)
INDIRECT_CALLEE: Final[Summary] = (ARGUMENTS | CALLEE_SAVED, 0)
"""It may be a function of the image, with which the compiler has agreed on more than the ABI says: gcc's -fipa-ra keeps
values in registers that the callee leaves alone, Swift passes arguments in callee-saved ones."""


def import_summary(name: str) -> Summary:
    """What a call of an imported function reads and surely changes, as far as its caller may assume."""
    if name in _TWICE:
        return ARGUMENTS | CALLEE_SAVED, CLOBBERED
    if name in _PRESERVING or name.startswith(_PRESERVING_PREFIXES):
        return UNKNOWN_CALLEE
    return ABI_CALLEE


@dataclass(slots=True)
class Piece:
    """The blocks of one function, numbered in address order, with what the equations need of each.

    There is one for every function of an image at the same time: masks are packed into arrays.
    """

    function: Function
    addresses: array[int]
    reads: array[int]
    """Upward-exposed reads; of the last instruction its own, not what a callee does."""
    kills: array[int]
    fixed: array[int]
    """Live at the end of the block whatever follows."""
    opaque: bytearray
    """Control may go on from the block, or return to the caller, without anything more being changed for sure."""
    has_call: bytearray
    """Whether the block ends in a call: an exception may leave from there to a landing pad."""
    jumps: array[int]
    """(block, successor) of all jumps inside the function, one after the other."""
    summary: dict[int, Summary] = field(default_factory=dict)
    """Of the callee that ends a block. For callees of the image filled in later."""
    packed_calls: array[int] = field(default_factory=lambda: array("q"))
    packed_leaves: array[int] = field(default_factory=lambda: array("q"))
    """See `calls` and `leaves`."""
    returns: list[int] = field(default_factory=list)
    """Blocks that end in a return instruction."""
    abi_exits: list[int] = field(default_factory=list)
    """Blocks that end in a tail call of an unknown function, which is taken to follow the ABI."""
    foreign_calls: list[int] = field(default_factory=list)
    """Blocks that end in a call or tail call whose target is not code of the image, or not known."""
    pads: list[int] = field(default_factory=list)
    writes: int = 0
    """Everything that any of its own instructions may change."""

    def calls(self) -> Iterator[tuple[int, int]]:
        """(Block, target) of the direct calls whose target is code of the image."""
        return _pairs(self.packed_calls)

    def leaves(self) -> Iterator[tuple[int, int]]:
        """(Block, target) of the jumps to other functions of the image, and of running into the next one."""
        return _pairs(self.packed_leaves)

    def number(self, address: int) -> int:
        """The block that starts at `address`; -1 if none does."""
        index = bisect_left(self.addresses, address)
        return index if index < len(self.addresses) and self.addresses[index] == address else -1

    def edges(self) -> tuple[list[list[int]], list[list[int]]]:
        """Successors and predecessors of each block."""
        count = len(self.addresses)
        successors: list[list[int]] = [[] for _ in range(count)]
        predecessors: list[list[int]] = [[] for _ in range(count)]
        for before, after in _pairs(self.jumps):
            successors[before].append(after)
            predecessors[after].append(before)
        return successors, predecessors


def _pairs(flat: array[int]) -> Iterator[tuple[int, int]]:
    numbers = iter(flat)
    return zip(numbers, numbers, strict=True)


NO_SUMMARY: Final[Summary] = (0, 0)
"""Of a block that ends in no call."""


def masks(count: int, value: int = 0) -> array[int]:
    """So many masks of tracked state."""
    return array("I", [value]) * count


def make_piece(image: Image, graph: FunctionGraph, observed: Mapping[int, int]) -> Piece:
    """Everything about a function that does not depend on others.

    `observed` says what probes read, by the address of the instruction before which they run.
    """
    addresses = list(graph.blocks)
    index = {address: number for number, address in enumerate(addresses)}
    count = len(addresses)
    piece = Piece(
        graph.function, array("Q", addresses), masks(count), masks(count), masks(count), bytearray(count),
        bytearray(count), array("I"),
    )  # fmt: skip
    for number, block in enumerate(graph.blocks.values()):
        piece.reads[number], piece.kills[number] = _body(block, observed)
        for successor in block.successors:
            if successor in index:
                piece.jumps.extend((number, index[successor]))
            else:
                _leave_unknown(piece, number)
        if block.last.flow is not Flow.NEXT:
            _end(image, graph, piece, number, block)
    out = falls_out(graph)
    if out is not None:
        piece.packed_leaves.extend((count - 1, out))
    piece.pads = [index[pad] for pad in graph.function.landing_pads if pad in index]
    for block in graph.blocks.values():
        for instruction in block.instructions:
            piece.writes |= instruction.effects.writes
    for address in _returns_elsewhere(graph, [addresses[number] for number in piece.returns]):
        piece.fixed[index[address]] = TRACKED
    if piece.writes & gpr(RSP) and any(_loads_rsp(block.instructions) for block in graph.blocks.values()):
        # It may return on another stack, to wherever that one's owner waits.
        for number in piece.returns:
            piece.fixed[number] = TRACKED
    return piece


def _leave_unknown(piece: Piece, number: int) -> None:
    """Control goes from the block to code that was not analysed."""
    piece.fixed[number] = TRACKED
    piece.opaque[number] = True


def _body(block: Block, observed: Mapping[int, int]) -> tuple[int, int]:
    reads = kills = 0
    address = block.end
    for instruction in reversed(block.instructions):
        effects = instruction.effects
        killed = effects.kills
        address -= len(instruction.code)
        reads = reads & ~killed | effects.reads | observed.get(address, 0)
        kills |= killed
    last = block.last
    if last.flow is Flow.CALL or last.flow is Flow.CALL_INDIRECT or last.flow is Flow.RETURN:
        # RSP moves within such an instruction, but it is back (or irrelevant) when control is elsewhere.
        reads |= gpr(RSP)
    return reads & TRACKED, kills & TRACKED & ~gpr(RSP)


def _end(image: Image, graph: FunctionGraph, piece: Piece, number: int, block: Block) -> None:
    """Note what the instruction does that ends the block."""
    last, where = block.last, block.last_address
    flow = last.flow
    if flow is Flow.CALL or flow is Flow.CALL_INDIRECT:
        piece.has_call[number] = True
        if flow is Flow.CALL and graph.callees[where] not in image.plt:
            piece.packed_calls.extend((number, graph.callees[where]))
        else:
            piece.summary[number] = _outside_call(image, graph, block)
            piece.foreign_calls.append(number)
        if where in graph.noreturn:
            # Unwinding restores callee-saved registers of frames above from the registers where this frame has not
            # saved them.
            piece.fixed[number] |= CALLEE_SAVED | gpr(RSP)
    elif flow is Flow.SYSCALL:
        piece.summary[number] = (SYSCALL_READS, SYSCALL_KILLS) if last.mnemonic == "syscall" else UNKNOWN_CALLEE
    elif flow is Flow.RETURN:
        piece.returns.append(number)
        piece.opaque[number] = True
        if _overwrites_return_address(graph, block):
            piece.fixed[number] = TRACKED
    elif flow is Flow.HALT:
        # A signal handler may look at any register.
        piece.fixed[number] = TRACKED
    elif flow is Flow.JUMP_INDIRECT:
        table = graph.tables.get(where)
        if table is not None and where not in graph.unresolved:
            outside = {target for target in table.targets if target not in graph.blocks}
            for target in sorted(outside):
                piece.packed_leaves.extend((number, target))
        elif where in graph.tail_calls:
            piece.abi_exits.append(number)
            piece.foreign_calls.append(number)
            piece.opaque[number] = True
            name = import_of(image, last, block.end)
            piece.summary[number] = import_summary(name) if name else INDIRECT_CALLEE
        else:
            _leave_unknown(piece, number)
    elif where in graph.tail_calls:
        target = graph.callees[where]
        if target in image.plt:
            # A conditional one falls through as well, hence no kills.
            piece.abi_exits.append(number)
            piece.foreign_calls.append(number)
            piece.opaque[number] = True
            uses, kills = import_summary(image.plt[target])
            piece.summary[number] = uses, 0 if flow is Flow.BRANCH else kills
        else:
            piece.packed_leaves.extend((number, target))


def _outside_call(image: Image, graph: FunctionGraph, block: Block) -> Summary:
    last, where = block.last, block.last_address
    if last.flow is Flow.CALL:
        return import_summary(image.plt[graph.callees[where]])
    name = import_of(image, last, block.end)
    return import_summary(name) if name is not None else INDIRECT_CALLEE


def _returns_elsewhere(graph: FunctionGraph, addresses: Sequence[int]) -> Iterator[int]:
    """Blocks that return where RSP is not known to be as at the entry: `push rax; ret`, or to the caller's caller.

    Calls of labels inside the function are entries too: gcc's return thunk calls such a one, which drops the return
    address again.
    """
    blocks = graph.blocks
    roots = {graph.function.address, *graph.callees.values()} & blocks.keys()
    lines = {address: block.addressed() for address, block in blocks.items()}
    states = depths(roots, lines, {address: block.successors for address, block in blocks.items()})
    for address in addresses:
        if address in states and states[address][0] != 0:
            yield address


def _overwrites_return_address(graph: FunctionGraph, block: Block) -> bool:
    """Whether a return goes to an address that the function itself has put there, as retpolines do."""
    lines = block.instructions
    if len(lines) == 1:
        above = next((other for other in graph.blocks.values() if other.end == block.address), None)
        lines = (*above.instructions, *lines) if above is not None else lines
    if len(lines) < 2:
        return False
    before = lines[-2]
    first = before.operands[0] if before.operands else None
    return (
        before.mnemonic in ("mov", "add", "sub", "xchg", "xor")
        and isinstance(first, Mem)
        and first.base == RSP
        and first.index is None
        and first.disp == 0
    )


def _loads_rsp(instructions: tuple[Instruction, ...]) -> bool:
    """Whether RSP gets a value that comes neither from itself nor from RBP."""
    for instruction in instructions:
        if not instruction.effects.writes & gpr(RSP) or not instruction.operands:
            continue
        destination = instruction.operands[0]
        if not isinstance(destination, Reg) or destination.index != RSP:
            continue
        if instruction.mnemonic in ("mov", "xchg", "pop"):
            source = instruction.operands[-1]
            if not (isinstance(source, Reg) and source.index == RBP):
                return True
    return False
