"""Writes call frame information, in the form of `lifter.image.callframes` (DWARF 5, section 6.4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lifter.image.callframes import RETURN_ADDRESS, RSP, Row, Rule
from lifter.image.eh import Malformed

_CODE_ALIGNMENT, _DATA_ALIGNMENT = 1, -8
_FIRST: Final = bytes((0x0C, RSP, 8, 0x80 | RETURN_ADDRESS, 1))
"""def_cfa: rsp + 8; offset: the return address at CFA - 8"""
_AT_ENTRY: Final = Row((RSP, 8), {RETURN_ADDRESS: ("offset", -8)})
"""Where every function begins, as the common entry written here says."""


def common_entry(pointer: int, identifier: int, augmentation: bytes, data: bytes) -> bytes:
    """A common entry whose functions begin as all do. `pointer` is the number of bytes to align to."""
    body = identifier.to_bytes(4, "little") + b"\x01" + augmentation + b"\0"
    body += _uleb(_CODE_ALIGNMENT) + _to_sleb(_DATA_ALIGNMENT) + bytes((RETURN_ADDRESS,)) + data
    return with_length(body + _FIRST, pointer)


def with_length(body: bytes, alignment: int) -> bytes:
    """An entry: its length, and no-operations up to the alignment behind it."""
    body += bytes(-(4 + len(body)) % alignment)
    return len(body).to_bytes(4, "little") + body


def frame_program(rows: Sequence[tuple[int, Row]]) -> bytes:
    """Call frame instructions that give `rows`: (offset from the start of the code, row), in order.

    Raises Malformed for a row that cannot be written.
    """
    code = bytearray()
    before, where = _AT_ENTRY, 0
    for offset, row in rows:
        change = _transition(before, row)
        if not change:
            continue
        code += _advance(offset - where) + change
        before, where = row, offset
    return bytes(code)


def _advance(distance: int) -> bytes:
    if distance == 0:
        return b""
    if distance < 0x40:
        return bytes((0x40 | distance,))
    for opcode, size in ((2, 1), (3, 2), (4, 4)):
        if distance < 1 << 8 * size:
            return bytes((opcode,)) + distance.to_bytes(size, "little")
    raise Malformed("code of more than 4 GiB")


def _transition(before: Row, after: Row) -> bytes:
    code = b""
    if before.cfa != after.cfa:
        if isinstance(after.cfa, bytes):
            code += b"\x0f" + _uleb(len(after.cfa)) + after.cfa
        elif after.cfa[1] >= 0:
            code += b"\x0c" + _uleb(after.cfa[0]) + _uleb(after.cfa[1])
        else:
            code += b"\x12" + _uleb(after.cfa[0]) + _to_sleb(_factored(after.cfa[1]))
    for register in sorted(before.rules.keys() | after.rules.keys()):
        rule = after.rules.get(register, ("same", 0))
        if before.rules.get(register, ("same", 0)) != rule:
            code += _rule(register, rule)
    return code


def _rule(register: int, rule: Rule) -> bytes:
    kind, value = rule
    number = _uleb(register)
    if isinstance(value, bytes):
        return (b"\x10" if kind == "expression" else b"\x16") + number + _uleb(len(value)) + value
    match kind:
        case "offset":
            factored = _factored(value)
            if factored >= 0 and register < 0x40:
                return bytes((0x80 | register,)) + _uleb(factored)
            return b"\x11" + number + _to_sleb(factored)
        case "value":
            return b"\x15" + number + _to_sleb(_factored(value))
        case "register":
            return b"\x09" + number + _uleb(value)
        case "same":
            return b"\x08" + number
        case _:
            return b"\x07" + number


def _factored(offset: int) -> int:
    if offset % _DATA_ALIGNMENT:
        raise Malformed("a register that is not aligned")
    return offset // _DATA_ALIGNMENT


def _uleb(value: int) -> bytes:
    code = bytearray()
    while value >= 0x80:
        code.append(value & 0x7F | 0x80)
        value >>= 7
    code.append(value)
    return bytes(code)


def _to_sleb(value: int) -> bytes:
    code = bytearray()
    while not -0x40 <= value < 0x40:
        code.append(value & 0x7F | 0x80)
        value >>= 7
    code.append(value & 0x7F)
    return bytes(code)
