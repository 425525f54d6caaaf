"""Bytes to instructions. The only module that knows capstone.

Capstone gives names and registers. Everything else is read from the bytes by `lifter.x86.layout`
(lengths, memory operands, immediates, where the parts stand) or comes from the instruction table
`lifter.x86.table` (effects, handling). An instruction on whose length the two decoders disagree is not
believed.

Three memos make it fast. The length of an instruction depends on its first bytes only, so `_LENGTHS` maps
those to it; `_INSTRUCTIONS` interns by exact bytes; and `_TEMPLATES` maps the bytes before displacement and
immediate to an instruction that differs in nothing else, so capstone is asked once per template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import capstone

from lifter.instruction import (
    Effects,
    Flow,
    Imm,
    Instruction,
    Mem,
    MemoryAccess,
    Operand,
    Reg,
    Undecodable,
    Vec,
)
from lifter.x86 import layout
from lifter.x86.layout import MAX_SIZE, Layout, LayoutError
from lifter.x86.table import Form, resolve
from lifter.x86.text import displacement_text, immediate_text, target_text, text_pattern

_KEY: Final = 4
"""Bytes of an instruction that mostly determine its length."""
_LONG_KEY: Final = 8
_LIMIT: Final = 1 << 17
"""Entries per memo, before it is emptied: a hundred megabytes of instructions. Most of those of a large program occur
once."""

_LENGTHS: Final[dict[bytes, int]] = {}
"""First 4 (or 8) bytes -> length; 0 where more bytes are needed to know it."""
_LAYOUTS: Final[dict[bytes, tuple[int, int]]] = {}
"""The same, or the first byte where it is enough -> (length, bytes before displacement and immediate)."""
_INSTRUCTIONS: Final[dict[bytes, Instruction | Undecodable]] = {}
_TEMPLATES: Final[dict[tuple[bytes, int], _Template | str]] = {}
"""(bytes before displacement and immediate, length) -> template, or why the bytes are no instruction."""


def _fixed_lengths() -> bytes:
    """First byte -> length of the instruction, where that byte alone decides it; else 0."""
    lengths = bytearray(256)
    for byte in range(256):
        try:
            parts = layout.parse(bytes([byte]) + bytes(MAX_SIZE - 1))
        except LayoutError:
            continue
        if parts.opcode_at == 0 and parts.map == 0 and parts.modrm_at < 0:
            lengths[byte] = parts.size
    return bytes(lengths)


_FIXED: Final = _fixed_lengths()


def decode(code: bytes) -> Instruction | Undecodable:
    """Decode the first instruction of `code` (up to 15 bytes of it matter)."""
    size = (_FIXED[code[0]] if code else 0) or _LENGTHS.get(code[:_KEY], 0) or _LENGTHS.get(code[:_LONG_KEY], 0)
    if size and size <= len(code):
        known = _INSTRUCTIONS.get(code[:size])
        if known is not None:
            return known
    return _decode_new(code[:MAX_SIZE])


def decode_run(
    code: bytes, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, Instruction | Undecodable]]:
    """Decode `code` linearly from offset `start` up to `stop`: (offset, instruction) pairs.

    An instruction may extend beyond `stop` but not beyond `code`. After an undecodable byte the run goes on
    with the next one.
    """
    if stop is None:
        stop = len(code)
    fixed, lengths, instructions = _FIXED, _LENGTHS, _INSTRUCTIONS
    at = start
    while at < stop:
        size = (
            fixed[code[at]]
            or lengths.get(code[at : at + _KEY], 0)
            or lengths.get(code[at : at + _LONG_KEY], 0)
        )
        found = instructions.get(code[at : at + size]) if size else None
        if found is None:
            found = _decode_new(code[at : at + MAX_SIZE])
        yield at, found
        at += len(found.code)


@dataclass(frozen=True, slots=True)
class _Template:
    """An instruction with the places where displacement and immediate go."""

    instruction: Instruction
    layout: Layout
    form: Form
    immediates: tuple[tuple[int, int, bool, int], ...]
    """Immediates at the end of the operands: (offset from the code's end, bytes, signed, width in bits)."""
    scale: int
    """Factor of a one-byte displacement (EVEX compresses it)."""
    branch: bool
    """The immediate is a branch displacement."""
    fixed: bool
    """Effects and handling do not depend on the immediate."""
    position: int
    """Of the memory operand with a displacement among the operands; -1 without one."""
    pattern: str
    """The text, with a `%s` for displacement, immediates or target."""


def _decode_new(window: bytes) -> Instruction | Undecodable:
    """Decode what is not interned, and intern it."""
    known = _LAYOUTS.get(window[:1]) or _LAYOUTS.get(window[:_KEY]) or _LAYOUTS.get(window[:_LONG_KEY])
    parts = None
    if known is None or known[0] > len(window):
        try:
            parts = layout.parse(window)
        except LayoutError as error:
            return Undecodable(window[:1], str(error))
        known = _remember(window, parts)
    size, head_size = known
    code = window[:size]
    result = _INSTRUCTIONS.get(code)
    if result is not None:
        return result
    key = (window[:head_size], size)
    template = _TEMPLATES.get(key)
    if len(_INSTRUCTIONS) >= _LIMIT:
        _INSTRUCTIONS.clear()
    if template is None:
        if len(_TEMPLATES) >= _LIMIT:
            _TEMPLATES.clear()
        template = _TEMPLATES[key] = _make_template(code, parts or layout.parse(code))
    if isinstance(template, str):
        # Not interned: what is interned advances a run by the known length, this by one byte.
        return Undecodable(code[:1], template)
    result = _INSTRUCTIONS[code] = _fill(template, code)
    return result


def _head_size(parts: Layout) -> int:
    """Bytes before displacement and immediate, or all where the immediate decides what the instruction is."""
    if _immediate_selects(parts):
        return parts.size
    return parts.imm_at if parts.disp_at < 0 else parts.disp_at


def _remember(window: bytes, parts: Layout) -> tuple[int, int]:
    """Enter length and head under the shortest key that determines them: everything up to ModRM and SIB."""
    if len(_LAYOUTS) >= _LIMIT:
        _LENGTHS.clear()
        _LAYOUTS.clear()
    found = (parts.size, _head_size(parts))
    needed = parts.opcode_at + 1 if parts.modrm_at < 0 else parts.modrm_at + 2
    if _FIXED[window[0]]:
        _LAYOUTS[window[:1]] = found
        return found
    for size in (_KEY, _LONG_KEY):
        if needed <= size or parts.size <= size:
            _LENGTHS[window[:size]] = parts.size
            _LAYOUTS[window[:size]] = found
            break
    return found


_REGISTER_IMMEDIATES: Final = frozenset(
    (*range(0x48, 0x4D), *range(0x5C, 0x60), *range(0x68, 0x70), *range(0x78, 0x80))
)
"""VEX map 3: variable blends, FMA4 and vpermil2."""


def _immediate_selects(parts: Layout) -> bool:
    """Whether the immediate is part of the opcode (3DNow) or names a register (VEX /is4)."""
    if parts.encoding == "":
        return parts.map == 1 and parts.opcode == 0x0F
    if parts.encoding == "vex" and parts.map == 3:
        return parts.opcode in _REGISTER_IMMEDIATES
    return parts.encoding == "xop" and parts.map == 8 and not 0xC0 <= parts.opcode <= 0xEF


_SIGNED_IMMEDIATE_8: Final = frozenset(
    [base + 4 for base in range(0, 0x40, 8)] + [0x80, 0xA8, *range(0xB0, 0xB8), 0xC6, 0xF6]
)
_SIGNED_IMMEDIATE: Final = frozenset(
    [base + 5 for base in range(0, 0x40, 8)] + [0x69, 0x6B, 0x81, 0x83, 0xA9, *range(0xB8, 0xC0), 0xC7, 0xF7]
)


def _immediates(parts: Layout) -> tuple[tuple[int, int, bool, int], ...]:
    size = parts.imm_size
    if not size or _immediate_selects(parts):
        return ()
    operand_width = _operand_width(parts)
    if parts.encoding == "" and parts.map == 0:
        if parts.opcode in _SIGNED_IMMEDIATE_8:
            return ((-size, size, True, 8),)
        if parts.opcode in _SIGNED_IMMEDIATE:
            return ((-size, size, True, operand_width),)
        if parts.opcode in (0x68, 0x6A):
            return ((-size, size, True, 16 if operand_width == 16 else 64),)
        if parts.opcode == 0xC8:
            return ((-3, 2, False, 16), (-1, 1, False, 8))
    if parts.encoding == "" and parts.map == 1 and parts.opcode == 0x78:
        return ((-2, 1, False, 8), (-1, 1, False, 8))
    return ((-size, size, False, size * 8),)


def _operand_width(parts: Layout) -> int:
    """Of an integer instruction with 16, 32 and 64-bit forms."""
    return 64 if parts.rex & 8 else 16 if 0x66 in parts.prefixes else 32


_BRANCHES: Final = re.compile(r"j[a-z]+|loop(e|ne)?|call|xbegin")
_COMPARE: Final = re.compile(r"v?cmp[a-z_]*(ps|pd|ss|sd|ph|sh)$")
_ALIASES: Final = {
    "movabs": "mov", "sal": "shl", "fucompi": "fucomip", "fcompi": "fcomip", "pushfq": "pushf",
    "popfq": "popf", "iretd": "iret", "iretq": "iret", "retfq": "retf", "sysretq": "sysret",
    "sysexitq": "sysexit", "ljmp": "jmp_far", "lcall": "call_far",
}  # fmt: skip
"""Capstone's name -> the one name used here, where they differ by more than a prefix."""
_STRING_OPCODES: Final = {
    0x6C: "ins", 0x6E: "outs", 0xA4: "movs", 0xA6: "cmps", 0xAA: "stos", 0xAC: "lods", 0xAE: "scas",
}  # fmt: skip
_PREDICATED: Final = {0x3E: "vpcmpu", 0x3F: "vpcmp", 0x1E: "vpcmpu", 0x1F: "vpcmp"}
_HALTS: Final = frozenset(
    ("ud0", "ud1", "ud2", "hlt", "int3", "int1", "retf", "iret", "sysret", "sysexit", "rsm", "uiret")
)
_IMPLICIT_XMM0: Final = frozenset(("blendvps", "blendvpd", "pblendvb", "sha256rnds2"))
"""Their last operand is always xmm0: not an operand here."""
_SIZED: Final = frozenset(
    (*range(0x40, 0x50), 0xA3, 0xA4, 0xA5, 0xAB, 0xAC, 0xAD, 0xAF, 0xB1, 0xB3, 0xBA, 0xBB, 0xC1)
)
"""Opcodes of map 1 whose memory operand has the operand size: cmov, bit tests, shld, shrd, imul, cmpxchg, xadd."""
_WIDTHS: Final = {
    "cbw": 16, "cwde": 32, "cdqe": 64, "cwd": 16, "cdq": 32, "cqo": 64,
}  # fmt: skip


_DISASSEMBLER: Final = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def _register_names() -> dict[str, Operand]:
    """Capstone's register names -> operands."""
    names: dict[str, Operand] = {}
    low = ("a", "c", "d", "b")
    for index, letter in enumerate(low):
        names[f"{letter}l"], names[f"{letter}h"] = Reg(index, 8), Reg(index, 8, high=True)
        for prefix, width in (("", 16), ("e", 32), ("r", 64)):
            names[f"{prefix}{letter}x"] = Reg(index, width)
    for index, name in enumerate(("sp", "bp", "si", "di"), 4):
        names[f"{name}l"] = Reg(index, 8)
        for prefix, width in (("", 16), ("e", 32), ("r", 64)):
            names[f"{prefix}{name}"] = Reg(index, width)
    for index in range(8, 16):
        for suffix, width in (("b", 8), ("w", 16), ("d", 32), ("", 64)):
            names[f"r{index}{suffix}"] = Reg(index, width)
    for kind in ("xmm", "ymm", "zmm"):
        names.update((f"{kind}{index}", Vec(kind, index)) for index in range(32))
    for index in range(8):
        names[f"mm{index}"], names[f"k{index}"] = Vec("mm", index), Vec("k", index)
        names[f"st({index})"] = Vec("st", index)
    names.update((name, Vec("seg", index)) for index, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs")))
    for kind in ("cr", "dr"):
        names.update((f"{kind}{index}", Vec(kind, index)) for index in range(16))
    names.update((f"bnd{index}", Vec("bnd", index)) for index in range(4))
    return names


_REGISTERS: Final = _register_names()
_MEMORY: Final = re.compile(r"(?:([a-z]+) )?(?:ptr )?(?:[c-gs]s:)?\[([^]]*)\]")
_MEMORY_WIDTHS: Final = {
    "byte": 8, "word": 16, "dword": 32, "fword": 48, "qword": 64, "tbyte": 80, "xword": 80, "xmmword": 128,
    "ymmword": 256, "zmmword": 512,
}  # fmt: skip


def _make_template(code: bytes, parts: Layout) -> _Template | str:
    """Ask capstone for name and registers; a string says why there is no instruction."""
    scale = 1
    if parts.encoding == "evex" and parts.disp_size == 1:
        code = code[: parts.disp_at] + b"\x01" + code[parts.disp_at + 1 :]
    # Capstone's text is read instead of its details, which take four times as long to get.
    found = next(_DISASSEMBLER.disasm_lite(code, 0, 1), None)
    if found is None:
        return "unknown to the disassembler"
    _, size, names, shown = found
    name = names.split()[-1]
    if size != parts.size and name not in ("ud0", "ud1"):
        return "the disassembler sees another length"

    if parts.encoding == "" and parts.map == 0 and parts.opcode == 0xFF:
        # Capstone takes some far branches with needless prefixes for near ones.
        name = {3: "lcall", 5: "ljmp"}.get(code[parts.modrm_at] >> 3 & 7, name)
    mnemonic, width = _canonical(name, parts)
    immediates = _immediates(parts)
    branch = bool(parts.imm_size and parts.encoding == "" and _BRANCHES.fullmatch(mnemonic))
    operands: list[Operand] = []
    for piece in shown.split(", ") if shown else ():
        piece = piece.split(" {")[0]
        register = _REGISTERS.get(piece)
        if register is not None:
            operands.append(register)
            continue
        memory = _MEMORY.match(piece)
        if memory is not None:
            if parts.encoding == "evex" and parts.disp_size == 1:
                # Capstone doubles it in the store of vmovq.
                scale = 8 if mnemonic == "vmovq" else int(memory[2].split()[-1], 0)
            memory_width = width if mnemonic in ("push", "pop") else _MEMORY_WIDTHS.get(memory[1], 0)
            if parts.repeat and parts.encoding == "" and parts.map == 1 and parts.opcode in _SIZED:
                # Capstone overlooks the operand-size prefix beside a repeat prefix, which means nothing here.
                memory_width = _operand_width(parts)
            operands.append(_memory(code, parts, memory_width, mnemonic))
        elif piece[0].isdigit() or piece[0] == "-":
            if not parts.imm_size:
                operands.append(Imm(int(piece, 0), 8))
        elif piece[0] != "{":
            return f"operand unknown to the decoder: {piece}"
    if parts.encoding == "" and parts.map == 0 and parts.opcode in (0xD0, 0xD1):
        # Capstone forgets the count of rcl m, 1.
        operands[1:] = [Imm(1, 8)]
    if mnemonic in _IMPLICIT_XMM0 and parts.encoding == "":
        operands.pop()
    if parts.encoding == "" and parts.map == 0 and parts.opcode & ~1 in _STRING_OPCODES:
        operands.clear()
    if branch:
        immediates = ()
    operands.extend(Imm(0, entry[3]) for entry in immediates)

    rep = ""
    if parts.repeat and width and parts.map == 0 and parts.opcode & ~1 in _STRING_OPCODES:
        rep = "repne" if parts.repeat == 0xF2 and mnemonic[:4] in ("cmps", "scas") else "rep"
    form = Form(
        mnemonic=mnemonic,
        operands=tuple(operands),
        width=width,
        lock=0xF0 in parts.prefixes,
        rep=rep,
        layout=parts,
    )
    resolution = resolve(form)
    instruction = Instruction(
        code=code,
        mnemonic=mnemonic,
        operands=resolution.operands,
        flow=_flow(mnemonic, branch),
        handling=resolution.handling,
        effects=resolution.effects,
        lock=form.lock,
        rep=rep,
        width=width,
        reason=resolution.reason,
        modrm_at=parts.modrm_at,
        disp_at=parts.disp_at,
        disp_size=parts.disp_size,
        imm_size=parts.imm_size,
        resets_stack=resolution.resets_stack,
    )
    position = -1
    if parts.disp_size:
        position = next((at for at, entry in enumerate(instruction.operands) if isinstance(entry, Mem)), -1)
    return _Template(
        instruction, parts, form, immediates, scale, branch,
        fixed=not (immediates and resolution.needs_immediate), position=position,
        pattern=text_pattern(instruction, position >= 0, len(immediates), branch, parts.mask, parts.zeroing),
    )  # fmt: skip


def _canonical(name: str, parts: Layout) -> tuple[str, int]:
    """The one mnemonic of an operation, and its width where that is not an operand's."""
    width = 0
    name = _ALIASES.get(name, name)
    if parts.encoding == "":
        if parts.map == 0 and parts.opcode & ~1 in _STRING_OPCODES:
            width = 8 if not parts.opcode & 1 else _operand_width(parts)
            if parts.opcode & ~1 in (0x6C, 0x6E):
                width = min(width, 32)
            name = _STRING_OPCODES[parts.opcode & ~1] + {8: "b", 16: "w", 32: "d", 64: "q"}[width]
            return (f"{name}_string" if name in ("movsd", "cmpsd") else name), width
        if parts.map == 0 and parts.opcode == 0xE3:
            # Capstone overlooks the address-size prefix before others.
            return "jecxz" if 0x67 in parts.prefixes else "jrcxz", 0
        if name in ("push", "pop", "pushf", "popf", "leave", "enter"):
            return name, 16 if 0x66 in parts.prefixes and not parts.rex & 8 else 64
        if parts.map == 1 and parts.opcode == 0xC2 and _COMPARE.fullmatch(name):
            suffix = {0xF3: "ss", 0xF2: "sd"}.get(parts.repeat, "pd" if 0x66 in parts.prefixes else "ps")
            return f"cmp{suffix}", 0
        return name, _WIDTHS.get(name, 0)
    if parts.opcode == 0xC2 and parts.map in (1, 3):
        kind = ("ps", "pd", "ss", "sd") if parts.map == 1 else ("ph", "", "sh", "")
        return f"vcmp{kind[parts.pp]}", 0
    if parts.encoding == "evex" and parts.map == 3 and parts.opcode in _PREDICATED:
        wide = bool(parts.rex & 8)
        letters = "bw" if parts.opcode >= 0x3E else "dq"
        signed = "" if parts.opcode & 1 else "u"
        return f"vpcmp{signed}{letters[wide]}", 0
    return name, 0


def _flow(mnemonic: str, direct: bool) -> Flow:
    if direct:
        return {"jmp": Flow.JUMP, "call": Flow.CALL}.get(mnemonic, Flow.BRANCH)
    if mnemonic in _HALTS:
        return Flow.HALT
    return {
        "jmp": Flow.JUMP_INDIRECT,
        "jmp_far": Flow.JUMP_INDIRECT,
        "call": Flow.CALL_INDIRECT,
        "call_far": Flow.CALL_INDIRECT,
        "ret": Flow.RETURN,
        "syscall": Flow.SYSCALL,
        "sysenter": Flow.SYSCALL,
        "int": Flow.SYSCALL,
    }.get(mnemonic, Flow.NEXT)


def _memory(code: bytes, parts: Layout, width: int, mnemonic: str) -> Mem:
    """The memory operand without its displacement, from ModRM and SIB."""
    segment = {0x64: "fs", 0x65: "gs"}.get(parts.segment, "")
    address_width = 32 if 0x67 in parts.prefixes else 64
    if parts.modrm_at < 0:
        return Mem(None, None, 1, 0, width, segment, address_width=address_width)
    modrm = code[parts.modrm_at]
    mod, rm = modrm >> 6, modrm & 7
    extend_base, extend_index = (parts.rex & 1) << 3, (parts.rex & 2) << 2
    base: int | None = rm | extend_base
    index: int | None = None
    scale, rip, vsib = 1, False, False
    if rm == 4:
        sib = code[parts.modrm_at + 1]
        base = sib & 7 | extend_base
        if sib & 7 == 5 and mod == 0:
            base = None
        vsib = "gather" in mnemonic or "scatter" in mnemonic
        number = sib >> 3 & 7 | extend_index
        if vsib and parts.high_index:
            number |= 16
        if vsib or number != 4:
            index, scale = number, 1 << (sib >> 6)
    elif rm == 5 and mod == 0:
        base, rip = None, True
    return Mem(base, index, scale, 0, width, segment, rip, address_width, vsib)


def _fill(template: _Template, code: bytes) -> Instruction:
    """The template's instruction with the displacement and immediate of `code`."""
    model, parts = template.instruction, template.layout
    operands, effects = model.operands, model.effects
    handling, reason, resets_stack = model.handling, model.reason, model.resets_stack
    target = None
    shown: list[str] = []
    if template.position >= 0:
        disp = int.from_bytes(code[parts.disp_at : parts.disp_at + parts.disp_size], "little", signed=True)
        if parts.disp_size == 1:
            disp *= template.scale
        old = operands[template.position]
        assert isinstance(old, Mem)
        new = Mem(old.base, old.index, old.scale, disp, old.width, old.segment, old.rip, old.address_width, old.vsib)
        operands = (*operands[: template.position], new, *operands[template.position + 1 :])
        shown.append(displacement_text(new))
        if effects.memory:
            effects = _with_operand(effects, old, new)
    if template.immediates:
        end = len(code)
        values = [
            Imm(int.from_bytes(code[end + at : end + at + size], "little", signed=signed), width)
            for at, size, signed, width in template.immediates
        ]
        operands = (*operands[: -len(values)], *values)
        shown += [immediate_text(value.value) for value in values]
    elif template.branch:
        target = int.from_bytes(code[parts.imm_at :], "little", signed=True)
        shown.append(target_text(target + len(code)))
    if not template.fixed:
        resolution = resolve(replace(template.form, operands=operands))
        operands, effects = resolution.operands, resolution.effects
        handling, reason, resets_stack = resolution.handling, resolution.reason, resolution.resets_stack
    return Instruction(
        code, model.mnemonic, operands, model.flow, handling, effects, target, model.lock, model.rep, model.width,
        reason, parts.modrm_at, parts.disp_at, parts.disp_size, parts.imm_size, template.pattern % tuple(shown),
        resets_stack,
    )  # fmt: skip


def _with_operand(effects: Effects, old: Mem, new: Mem) -> Effects:
    """`effects` with the explicit memory operand replaced."""
    # By identity: an implicit access may look like the explicit one (pop [rsp]).
    memory = tuple(
        MemoryAccess(new, access.size, access.read, access.write) if access.operand is old else access
        for access in effects.memory
    )
    return Effects(effects.reads, effects.writes, effects.kills, effects.undefined, memory, effects.feature)
