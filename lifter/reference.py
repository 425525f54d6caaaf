"""The instruction table for people: `python -m lifter.reference` prints docs/instructions.md."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Final

from lifter import liftability
from lifter.instruction import Handling
from lifter.registers import GPR_NAMES, GPRS, OPMASKS, VECTORS, names
from lifter.x86.emit import EMITTERS
from lifter.x86.rows import Access, Row
from lifter.x86.table import ROW_MODULES, TABLE

_KINDS: Final = {
    "r": "r", "m": "m", "i": "imm", "xmm": "xmm", "ymm": "ymm", "zmm": "zmm", "mm": "mm", "k": "k", "st": "st",
    "seg": "seg", "cr": "cr", "dr": "dr", "bnd": "bnd",
}  # fmt: skip
"""Operand kinds in the order in which they are shown."""

_MODES: Final = {"m": "w?", "a": "-"}
"""Modes of access that are shown otherwise than rows say them."""

_INTRODUCTION: Final = """\
# Instructions

Every form of instruction that the table knows ({rows} rows, {mnemonics} mnemonics), generated from the rows in
`lifter/x86/` by `python -m lifter.reference > docs/instructions.md`; [add-an-instruction.md](add-an-instruction.md)
says how to change them. What has no row stays native and is assumed to read and change everything.

- **Operands**: `r` general-purpose, `m` memory, `imm`, `xmm ymm zmm mm k st` by name; a number is a width in bits;
  in parentheses: `r` read, `w` overwritten, `rw` both, `w?` perhaps written, `-` only its address or nothing of it.
- **Reads, writes**: what is not an operand. `?`: perhaps, or in part, so that the former value still matters. An
  explicit destination of 8 or 16 bits keeps the rest of its register, an old SSE encoding that of its vector.
- **Undefined**: flags that the manual leaves undefined: they are compared with nothing, and may be anything.
- **Memory**: direction and bytes of each access. `size` is the operand's, `vector` that of the widest vector operand,
  `varies` is what depends on a mask, an index or a count. Strings with a repeat prefix: the size of one element.
- **Feature**: as in /proc/cpuinfo; nothing for the baseline. Three of them: of the 128-bit, the 256-bit and the EVEX
  encoding.
- **Handling**: `lifted` by an emitter, `verbatim` as its own bytes in the region, `native` in place, and why. With a
  `lock` prefix, what is lifted is carried verbatim; so are the few forms that an emitter leaves to the processor. The
  bit masks of AVX-512 are one register, `k`, and the x87 unit is one, `x87`.
"""


def document() -> str:
    """The whole text."""
    assert ROW_MODULES and liftability.EMITTER_MODULES
    rows = [row for candidates in TABLE.values() for row in candidates]
    sections: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for row in rows:
        lines = sections.setdefault(row.section, {})
        mnemonics = lines.setdefault(_columns(row), [])
        if row.mnemonic not in mnemonics:
            mnemonics.append(row.mnemonic)
    text = [_INTRODUCTION.format(rows=f"{len(rows):,}", mnemonics=f"{len(TABLE):,}")]
    for title, lines in sections.items():
        text += [f"## {title}", "", "| | operands | reads | writes | undefined | memory | feature | handling |"]
        text.append("|---|---|---|---|---|---|---|---|")
        text += [f"| {' '.join(mnemonics)} | {' | '.join(columns)} |" for columns, mnemonics in lines.items()]
        notes = dict.fromkeys(_note(row) for row in rows if row.section == title and row.adjust is not None)
        text += ["", *(f"- {note}" for note in notes), ""] if notes else [""]
    return "\n".join(text).rstrip() + "\n"


def _columns(row: Row) -> tuple[str, ...]:
    return (
        ", ".join(_operand(access) for access in row.accesses),
        _registers(row.reads & ~(row.writes & ~row.kills & GPRS)),
        " ".join(filter(None, (_registers(row.kills & ~row.undefined), _partly(row)))),
        _registers(row.undefined),
        "; ".join(dict.fromkeys((*_explicit_memory(row), *_implicit_memory(row)))),
        " / ".join(dict.fromkeys(row.feature.split())),
        _handling(row) + _encodings(row),
    )


def _operand(access: Access) -> str:
    kinds = [shown for kind, shown in _KINDS.items() if kind in access.kinds]
    width = str(access.width or "")
    shown = "/".join(f"{kind}{width if kind in ('r', 'm') else ''}" for kind in kinds) or "any"
    return f"{shown} ({_MODES.get(access.mode, access.mode)})"


def _registers(mask: int) -> str:
    vectors, others = mask & VECTORS, mask & ~VECTORS
    found = ["all gprs"] if others & GPRS == GPRS else names(others & GPRS)
    found += names(others & ~GPRS)
    if vectors:
        count = vectors.bit_count()
        found.append(names(vectors)[0].replace("zmm", "xmm") if count == 1 else f"{count} vectors")
    return " ".join(found)


def _partly(row: Row) -> str:
    partly = row.writes & ~row.kills & ~OPMASKS
    shown = [f"{name}?" if name in GPR_NAMES else name for name in _registers(partly).split(" ") if name]
    return " ".join(shown) + (" k" if row.writes & OPMASKS else "")


_DIRECTIONS: Final = {"r": "read", "w": "write", "rw": "read and write", "m": "perhaps write"}


def _explicit_memory(row: Row) -> Iterator[str]:
    for access in row.accesses:
        if "m" not in access.kinds or access.mode not in _DIRECTIONS:
            continue
        if access.fraction:
            size = "vector" if access.fraction == 1 else f"vector/{access.fraction}"
        elif access.width:
            size = str(access.width // 8)
        else:
            size = "size"
        only = "" if access.kinds == {"m"} else " if m"
        yield f"{_DIRECTIONS[access.mode]} {size}{only}"


def _implicit_memory(row: Row) -> Iterator[str]:
    for mode, size, base, offset in row.memory:
        shown = {"w": "size", "0": "varies"}.get(size, size)
        below = "" if offset == "0" else f"-{'size' if offset == 'w' else offset}"
        yield f"{_DIRECTIONS[mode]} {shown} at [{GPR_NAMES[base]}{below}]"


def _handling(row: Row) -> str:
    if row.handling is Handling.NATIVE:
        return f"native: {row.reason}"
    emitter = EMITTERS.get(row.mnemonic)
    if row.handling is Handling.LIFTED and emitter is not None:
        return f"lifted (`{emitter.__module__.rpartition('.')[2]}.{emitter.__name__}`)"
    # Jumps and returns have no emitter: the region's own control flow does what they do.
    return "lifted (`ir.lower`)" if row.handling is Handling.LIFTED else "verbatim"


def _encodings(row: Row) -> str:
    """Which encodings the row is for, where it says so and the mnemonic does not."""
    return "" if row.encodings <= {""} else f" ({', '.join(sorted(row.encodings))})"


def _note(row: Row) -> str:
    """What a row's `adjust` says of conditions: the first paragraph of its docstring."""
    text = inspect.getdoc(row.adjust) or ""
    return " ".join(text.split("\n\n")[0].split())


def main() -> None:
    """Print the text."""
    sys.stdout.write(document())


if __name__ == "__main__":
    main()
