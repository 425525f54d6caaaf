"""docs/instructions.md is what the rows say."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifter.instruction import Handling
from lifter.reference import document
from lifter.x86.emit import EMITTERS
from lifter.x86.table import TABLE


def test_the_document_is_up_to_date() -> None:
    path = Path(__file__).parent.parent / "docs" / "instructions.md"
    assert path.read_text(encoding="utf-8") == document(), "run: python -m lifter.reference > docs/instructions.md"


@pytest.mark.parametrize(
    "line",
    [
        "| mul | r8/m8 (r) |  | cf of rax? | pf af zf sf | read 1 if m |  | lifted (`lift_arithmetic.mul`) |",
        "| popcnt | r (w), r/m (r) |  | cf pf af zf sf of |  | read size if m | popcnt | lifted (`lift_bits.popcnt`) |",
        "| syscall |  | rax rdx rsp rsi rdi r8 r9 r10 | ",
        "| crc32 | r (rw), r/m (r) |  |  |  | read size if m | sse4_2 | lifted (`lift_bits.crc32`) |",
        "| vmaskmovps vmaskmovpd | m (w?), xmm/ymm/zmm (r), xmm/ymm/zmm (r) |  |  |  | perhaps write vector | avx | ",
    ],
)
def test_lines(line: str) -> None:
    assert any(found.startswith(line) for found in document().splitlines())


def test_what_is_lifted_without_an_emitter_is_flow_of_control() -> None:
    rows = [row for candidates in TABLE.values() for row in candidates if row.handling is Handling.LIFTED]
    without = {row.mnemonic for row in rows if row.mnemonic not in EMITTERS}
    assert all(name[0] == "j" or name in ("loop", "loope", "loopne", "ret") for name in without), without
    assert all(row.section for row in rows)
