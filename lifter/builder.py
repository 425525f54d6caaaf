"""Text of LLVM IR for straight-line code: values, registers, memory and flags of one block at a time.

The state of a block is a register file of SSA values. A register holds what is known of it by width, so that a
32-bit result read as 32 bits needs neither an extension nor a truncation. RSP is special: the machine's RSP
is below the program's by a fixed distance (see docs/architecture.md), so the program's RSP is tracked as
an offset from its value at the region's entry, and becomes a value only where it is set to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lifter.flags import FlagSource, compute_condition, compute_flag, known_flag
from lifter.instruction import Imm, Instruction, Mem, Operand, Reg
from lifter.registers import ARITHMETIC_FLAGS, FLAG_SHIFT, RSP, bits
from lifter.verbatim import ARITHMETIC_RFLAGS, VerbatimGroup
from lifter.x86.emit import EMITTERS, Unliftable, undefined

_SEGMENT_SPACE: Final = {"fs": 257, "gs": 256}
"""LLVM's address spaces for segment-relative pointers on x86."""

_RegState = dict[int, str]
"""Width in bits -> SSA value or literal; -8 for bits 8..15. Wider widths are derived when first read."""

BlockState = tuple[list[_RegState], dict[int, FlagSource], dict[tuple[FlagSource, int], str], int | None]
"""Registers, flag sources, flags computed already, and the program's RSP, at the end of a block."""


_UNDEFINED: Final = FlagSource("other", 8, "", "", "", dict.fromkeys(FLAG_SHIFT, undefined))


def literal(value: int, width: int) -> str:
    """`value` as LLVM spells it in an integer type of `width` bits: signed, two's complement."""
    value &= (1 << width) - 1
    return str(value - (1 << width) if value >> (width - 1) else value)


class Symbols:
    """Canonical symbols of a region, in order of first use, and the addresses that they stand for."""

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}
        """Symbol (`d0`, `x0`) -> address in the image."""
        self._names: dict[tuple[str, int], str] = {}
        self._next: dict[str, int] = {}

    def name(self, kind: str, address: int) -> str:
        """The symbol of `kind` ('d' data or code address, 'x' exit, 'f' called function, 'c' counter) for `address`."""
        key = (kind, address)
        found = self._names.get(key)
        if found is None:
            index = self._next.get(kind, 0)
            self._next[kind] = index + 1
            found = f"L_{kind}{index}"
            self._names[key] = found
            self.addresses[found] = address
        return found

    def of_kind(self, kind: str) -> list[str]:
        """All symbols of `kind`, in order of first use."""
        return [f"L_{kind}{index}" for index in range(self._next.get(kind, 0))]


class Builder:
    """Emits the IR of a region's blocks. Emitters (`lifter.x86.lift_*`) call its methods."""

    def __init__(self, symbols: Symbols) -> None:
        self.symbols = symbols
        self.lines: list[str] = []
        self.intrinsics: set[str] = set()
        """Declarations that the module needs."""
        self.needs_stack = False
        """Whether the region uses memory below its own frame or the slots above it (pushfq and the like)."""
        self.lowest = 0
        """The deepest that the program's RSP gets, relative to its value at entry (bytes, <= 0)."""
        self._count = 0
        self._regs: list[_RegState] = [{} for _ in range(16)]
        self._flags: dict[int, FlagSource] = {}
        self._memo: dict[tuple[FlagSource, int], str] = {}
        self._verbatim = VerbatimGroup()
        self._stack_pointer = ""
        self.rsp_offset: int | None = 0
        """Program's RSP minus its value at the region's entry; None once it was set from a register."""
        self.address = 0
        """Of the instruction being lifted."""
        self.next_address = 0
        self.live_flags = 0
        """Flags that can be read after the instruction being lifted."""

    # --- blocks -----------------------------------------------------------------------------------------

    def start_block(self, label: str) -> None:
        """Begin a block of IR; the state stays as `restore` or the caller sets it."""
        self.lines.append(f"{label}:")
        self._stack_pointer = ""

    def snapshot(self) -> BlockState:
        """The state at the end of a block, for the blocks that it dominates."""
        self.flush()
        return [dict(state) for state in self._regs], dict(self._flags), dict(self._memo), self.rsp_offset

    def restore(self, state: BlockState) -> None:
        """Continue from a snapshot (copied: several blocks may start from one)."""
        regs, flags, memo, self.rsp_offset = state
        self._regs = [dict(reg) for reg in regs]
        self._flags = dict(flags)
        self._memo = dict(memo)

    def set_register(self, index: int, value: str) -> None:
        """Give a register a 64-bit value (entry of a region, phi)."""
        self._regs[index] = {64: value}

    def set_flag(self, flag: int, value: str) -> None:
        """Give a flag an i1 value (entry of a region, phi, verbatim instruction)."""
        self.flush()
        self._flags[flag] = known_flag(value, flag)

    # --- values -----------------------------------------------------------------------------------------

    def name(self) -> str:
        """A fresh SSA name."""
        self._count += 1
        return f"%v{self._count}"

    def emit(self, text: str) -> str:
        """Append `%name = text` and return the name."""
        name = self.name()
        self.lines.append(f"  {name} = {text}")
        return name

    def line(self, text: str) -> None:
        """Append an instruction without a result."""
        self.lines.append(f"  {text}")

    def op(self, operator: str, width: int, left: str, right: str) -> str:
        """A binary operation on integers of `width` bits."""
        return self.emit(f"{operator} i{width} {left}, {right}")

    def icmp(self, predicate: str, width: int, left: str, right: str) -> str:
        """A comparison, as i1."""
        return self.emit(f"icmp {predicate} i{width} {left}, {right}")

    def select(self, condition: str, width: int, yes: str, no: str) -> str:
        """`yes` if the i1 `condition` else `no`."""
        return self.emit(f"select i1 {condition}, i{width} {yes}, i{width} {no}")

    def trunc(self, value: str, wide: int, narrow: int) -> str:
        """The low `narrow` bits."""
        return value if wide == narrow else self._cast("trunc", value, wide, narrow)

    def zext(self, value: str, narrow: int, wide: int) -> str:
        """Zero extension."""
        return value if wide == narrow else self._cast("zext", value, narrow, wide)

    def sext(self, value: str, narrow: int, wide: int) -> str:
        """Sign extension."""
        return value if wide == narrow else self._cast("sext", value, narrow, wide)

    def _cast(self, how: str, value: str, source: int, target: int) -> str:
        if value[0] != "%" and value not in ("true", "false"):
            number = int(value)
            if how == "zext":
                number &= (1 << source) - 1
            return literal(number, target)
        return self.emit(f"{how} i{source} {value} to i{target}")

    def call_unary(self, intrinsic: str, width: int, value: str) -> str:
        """`llvm.<intrinsic>.i<width>(value)`: ctpop, bswap."""
        self.intrinsics.add(f"declare i{width} @llvm.{intrinsic}.i{width}(i{width})")
        return self.emit(f"call i{width} @llvm.{intrinsic}.i{width}(i{width} {value})")

    def count_zeros(self, intrinsic: str, width: int, value: str) -> str:
        """`llvm.cttz` or `llvm.ctlz`, defined (the width) for zero."""
        self.intrinsics.add(f"declare i{width} @llvm.{intrinsic}.i{width}(i{width}, i1)")
        return self.emit(f"call i{width} @llvm.{intrinsic}.i{width}(i{width} {value}, i1 false)")

    def funnel_shift(self, direction: str, width: int, high: str, low: str, count: str) -> str:
        """`llvm.fshl` or `llvm.fshr` ('l' or 'r'); the count is taken modulo the width."""
        function = f"@llvm.fsh{direction}.i{width}"
        self.intrinsics.add(f"declare i{width} {function}(i{width}, i{width}, i{width})")
        return self.emit(f"call i{width} {function}(i{width} {high}, i{width} {low}, i{width} {count})")

    def assembly(self, template: str, width: int, inputs: Sequence[tuple[int, str]]) -> str:
        """The result of one instruction that cannot fault, in AT&T syntax: `$0` is the destination, of `width` bits,
        the others follow. Inputs are (width, value)."""
        arguments = ", ".join(f"i{bits_of} {value}" for bits_of, value in inputs)
        constraints = ",".join(["=r", *("r" for _ in inputs), "~{flags}"])
        return self.emit(f'call i{width} asm "{template}", "{constraints}"({arguments})')

    # --- registers --------------------------------------------------------------------------------------

    def read_reg(self, index: int, width: int, high: bool = False) -> str:
        """The value of a register or a part of it."""
        self.flush()
        if index == RSP:
            value = self._rsp_value()
            return self.trunc(value, 64, width)
        state = self._regs[index]
        key = -8 if high else width
        found = state.get(key)
        if found is not None:
            return found
        if not state:
            raise AssertionError(
                f"{self.address:#x}: register {index} is read, which the instruction's row does not say"
            )
        if high:
            wide = self.read_reg(index, 64)
            found = self.trunc(self.op("lshr", 64, wide, "8"), 64, 8)
        else:
            wider = min((w for w in state if w > width), default=0)
            if wider:
                found = self.trunc(state[wider], wider, width)
            else:
                found = self._widen(index, state, width)
        state[key] = found
        return found

    def _widen(self, index: int, state: _RegState, width: int) -> str:
        """A width above all that are known: only after a 32-bit write, which zeroes the upper half."""
        if width == 64 and 32 in state:
            return self.zext(state[32], 32, 64)
        raise AssertionError(f"{self.address:#x}: register {index} known by {sorted(state)} is read as {width}")

    def write_reg(self, index: int, width: int, value: str, high: bool = False) -> None:
        """Write a register: 32 bits zero the upper half, 8 and 16 keep the rest (SDM volume 1, 3.4.1.1)."""
        self.flush()
        if index == RSP:
            if width < 32:
                raise Unliftable("changes a part of the stack pointer")
            self.set_rsp(self.zext(value, width, 64))
            return
        if width >= 32:
            self._regs[index] = {width: value}
            return
        old = self.read_reg(index, 64)
        if high:
            kept = self.op("and", 64, old, literal(~0xFF00, 64))
            added = self.op("shl", 64, self.zext(value, 8, 64), "8")
            self._regs[index] = {64: self.op("or", 64, kept, added), -8: value}
        else:
            kept = self.op("and", 64, old, literal(-(1 << width), 64))
            added = self.zext(value, width, 64)
            self._regs[index] = {64: self.op("or", 64, kept, added), width: value}

    def settle(self, registers: int) -> None:
        """Make each of `registers` known as 64 bits alone, for other blocks.

        Extending a 32-bit result costs nothing where it is computed, and an instruction elsewhere.
        """
        self.flush()
        for index in bits(registers):
            state = self._regs[index]
            if state:
                self._regs[index] = {64: self.read_reg(index, 64)}

    def extend_registers(self, count: int) -> None:
        """Make room for variables beyond the registers (local counters): `count` in all."""
        self._regs.extend({} for _ in range(count - len(self._regs)))

    def forget_register(self, index: int) -> None:
        """Make reading a register an error: no path agrees on a value, and nothing needs one."""
        self._regs[index] = {}

    def forget_flag(self, flag: int) -> None:
        """The same for a flag."""
        self._flags.pop(flag, None)

    # --- the stack pointer ------------------------------------------------------------------------------

    def _machine_stack(self) -> str:
        # Asked for anew in each block: only there does it fold into an address.
        if not self._stack_pointer:
            self._stack_pointer = self.emit("call ptr @llvm.addressofreturnaddress.p0()")
        return self._stack_pointer

    def stack_address(self, offset: int) -> str:
        """Pointer to the program's stack: `offset` bytes above its RSP at the region's entry."""
        return self.emit(f"getelementptr i8, ptr {self._machine_stack()}, i64 <K{offset:+d}>")

    def slot_address(self, offset: int) -> str:
        """Pointer to the region's own slots above its frame (flags at 0, stack pointer at 8)."""
        self.needs_stack = True
        return self.emit(f"getelementptr i8, ptr {self._machine_stack()}, i64 {offset}")

    def _rsp_value(self) -> str:
        if self.rsp_offset is None:
            return self._regs[RSP][64]
        return self.emit(f"ptrtoint ptr {self.stack_address(self.rsp_offset)} to i64")

    def move_rsp(self, delta: int) -> None:
        """Add a constant to the program's RSP."""
        self.flush()
        if self.rsp_offset is None:
            self._regs[RSP] = {64: self.op("add", 64, self._regs[RSP][64], literal(delta, 64))}
        else:
            self.rsp_offset += delta
            self.lowest = min(self.lowest, self.rsp_offset)

    def set_rsp(self, value: str) -> None:
        """Set the program's RSP to a value that is not known to be RSP plus a constant (leave, sub rsp, rax).

        From here to the end of the region nothing is written to memory: the new stack may lie where the
        region's frame is (see docs/architecture.md).
        """
        self.flush()
        self._regs[RSP] = {64: value}
        self.rsp_offset = None
        self.needs_stack = True

    def push(self, width: int, value: str) -> None:
        """Store below the program's RSP and lower it (SDM volume 2, PUSH)."""
        self.move_rsp(-(width // 8))
        self.store_at(self.stack_pointer_address(), width, value)

    def pop(self, width: int) -> str:
        """Load from the program's RSP and raise it (SDM volume 2, POP)."""
        value = self.load_at(self.stack_pointer_address(), width)
        self.move_rsp(width // 8)
        return value

    def stack_pointer_address(self) -> str:
        """The program's RSP as a pointer."""
        self.flush()
        if self.rsp_offset is None:
            return "ptr " + self.emit(f"inttoptr i64 {self._regs[RSP][64]} to ptr")
        return "ptr " + self.stack_address(self.rsp_offset)

    # --- memory -----------------------------------------------------------------------------------------

    def pointer(self, mem: Mem) -> str:
        """Type and value of the pointer that a memory operand denotes."""
        self.flush()
        if mem.segment or mem.address_width == 32:
            address = self.effective_address(mem)
            if mem.segment:
                space = _SEGMENT_SPACE[mem.segment]
                return f"ptr addrspace({space}) " + self.emit(f"inttoptr i64 {address} to ptr addrspace({space})")
            return "ptr " + self.emit(f"inttoptr i64 {address} to ptr")
        if mem.rip:
            base = "@" + self.symbols.name("d", self.next_address + mem.disp)
            displacement = 0
        elif mem.base == RSP and self.rsp_offset is not None:
            base = self.stack_address(self.rsp_offset + mem.disp)
            displacement = 0
        elif mem.base is not None:
            base = self.emit(f"inttoptr i64 {self.read_reg(mem.base, 64)} to ptr")
            displacement = mem.disp
        else:
            address = self.effective_address(mem)
            return "ptr " + self.emit(f"inttoptr i64 {address} to ptr")
        if mem.index is not None:
            base = self.emit(f"getelementptr i8, ptr {base}, i64 {self._scaled_index(mem, 64)}")
        if displacement:
            base = self.emit(f"getelementptr i8, ptr {base}, i64 {displacement}")
        return f"ptr {base}"

    def _scaled_index(self, mem: Mem, width: int) -> str:
        assert mem.index is not None
        index = self.read_reg(mem.index, width)
        return index if mem.scale == 1 else self.op("shl", width, index, str(mem.scale.bit_length() - 1))

    def effective_address(self, mem: Mem) -> str:
        """The address that a memory operand denotes, as i64, without its segment's base (lea)."""
        self.flush()
        width = mem.address_width
        if mem.rip:
            pointer = "@" + self.symbols.name("d", self.next_address + mem.disp)
            value = self.emit(f"ptrtoint ptr {pointer} to i64")
            if width == 32:
                value = self.trunc(value, 64, 32)
        elif mem.base is None:
            value = literal(mem.disp, width)
        elif mem.base == RSP and self.rsp_offset is not None:
            value = self.emit(f"ptrtoint ptr {self.stack_address(self.rsp_offset + mem.disp)} to i64")
            if width == 32:
                value = self.trunc(value, 64, 32)
        else:
            value = self.read_reg(mem.base, width)
            if mem.disp:
                value = self.op("add", width, value, literal(mem.disp, width))
        if mem.index is not None:
            value = self.op("add", width, value, self._scaled_index(mem, width))
        return self.zext(value, width, 64)

    def load_at(self, pointer: str, width: int) -> str:
        """A load by the program: once, in program order, whatever the alignment."""
        return self.emit(f"load volatile i{width}, {pointer}, align 1")

    def store_at(self, pointer: str, width: int, value: str) -> None:
        """A store by the program: once, in program order, whatever the alignment."""
        if self.rsp_offset is None:
            raise Unliftable("writes memory after the stack pointer was set from a register")
        self.line(f"store volatile i{width} {value}, {pointer}, align 1")

    def load(self, mem: Mem, width: int) -> str:
        """Load through a memory operand."""
        return self.load_at(self.pointer(mem), width)

    def store(self, mem: Mem, width: int, value: str) -> None:
        """Store through a memory operand."""
        self.store_at(self.pointer(mem), width, value)

    # --- operands ---------------------------------------------------------------------------------------

    def read(self, operand: Operand) -> str:
        """The value of a register, immediate or memory operand."""
        if isinstance(operand, Reg):
            return self.read_reg(operand.index, operand.width, operand.high)
        if isinstance(operand, Imm):
            return literal(operand.value, operand.width)
        if isinstance(operand, Mem):
            return self.load(operand, operand.width)
        raise Unliftable("has an operand that regions do not hold")

    def write(self, operand: Operand, value: str) -> None:
        """Write a register or memory operand."""
        if isinstance(operand, Reg):
            self.write_reg(operand.index, operand.width, value, operand.high)
        elif isinstance(operand, Mem):
            self.store(operand, operand.width, value)
        else:
            raise Unliftable("has an operand that regions do not hold")

    # --- flags ------------------------------------------------------------------------------------------

    def set_flags(self, source: FlagSource, flags: int = ARITHMETIC_FLAGS) -> None:
        """Make `source` the one that `flags` come from."""
        self.flush()
        for bit in bits(flags):
            self._flags[1 << bit] = source

    def flag_sources(self, flags: int) -> set[FlagSource]:
        """The distinct sources of `flags`."""
        self.flush()
        return {self._flag_source(1 << bit) for bit in bits(flags)}

    def _flag_source(self, flag: int) -> FlagSource:
        found = self._flags.get(flag)
        if found is None:
            raise AssertionError(f"{self.address:#x}: flag {flag:#x} is read, which the instruction's row does not say")
        return found

    def flag(self, flag: int) -> str:
        """The i1 value of a flag."""
        self.flush()
        source = self._flag_source(flag)
        key = (source, flag)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = compute_flag(self, source, flag)
        return found

    def condition(self, code: str) -> str:
        """The i1 value of a condition code ('e', 'nle' is 'g', ...)."""
        self.flush()
        return compute_condition(self, code)

    def flags_word(self, flags: int) -> str:
        """The given flags at their places in RFLAGS, the other bits zero, as i64."""
        word = "0"
        for bit in bits(flags):
            value = self.zext(self.flag(1 << bit), 1, 64)
            shift = FLAG_SHIFT[1 << bit]
            if shift:
                value = self.op("shl", 64, value, str(shift))
            word = value if word == "0" else self.op("or", 64, word, value)
        return word

    def rflags(self, flags: int) -> str:
        """RFLAGS as i64: the given flags as they are here, the bits that are no arithmetic flags as the machine has
        them."""
        self.flush()
        self.needs_stack = True
        now = self.emit('call i64 asm sideeffect "pushfq;popq $0", "=r,~{memory}"()')
        kept = self.op("and", 64, now, literal(~ARITHMETIC_RFLAGS, 64))
        return self.op("or", 64, kept, self.flags_word(flags))

    def flags_from_word(self, word: str, flags: int) -> None:
        """Set flags from a 64-bit RFLAGS image."""
        for bit in bits(flags):
            flag = 1 << bit
            shifted = self.op("lshr", 64, word, str(FLAG_SHIFT[flag])) if FLAG_SHIFT[flag] else word
            self.set_flag(flag, self.trunc(shifted, 64, 1))

    # --- instructions -----------------------------------------------------------------------------------

    def lift(self, instruction: Instruction, address: int, live_flags: int) -> None:
        """Emit one instruction with lifted semantics.

        Raises `Unliftable` where its operands are of a form that stays native, and AssertionError where
        the emitter and the instruction's row disagree (a bug of ours).
        """
        self.address = address
        self.next_address = address + instruction.size
        self.live_flags = live_flags
        EMITTERS[instruction.mnemonic](self, instruction)
        for bit in bits(instruction.effects.undefined & ARITHMETIC_FLAGS):
            # An emitter may leave an undefined flag as it was, and it may never have been anything.
            self._flags.setdefault(1 << bit, _UNDEFINED)

    def carry(self, instruction: Instruction, address: int, live_flags: int) -> None:
        """Emit one instruction verbatim; neighbours share one statement."""
        self.address = address
        self.next_address = address + instruction.size
        if not self._verbatim.accepts(instruction):
            self.flush()
        self._verbatim.add(self, instruction, live_flags)
        if self._verbatim.must_close:
            self.flush()

    def flush(self) -> None:
        """Emit the verbatim instructions gathered so far."""
        if self._verbatim.pending:
            group, self._verbatim = self._verbatim, VerbatimGroup()
            group.emit(self)
