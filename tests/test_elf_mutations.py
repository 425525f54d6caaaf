"""A short slice of the campaign in elf_mutations, always the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.elf_mutations import campaign
from tests.tool import Tool

FOUND = ((333, 5),)
"""(Number, seed) of files that the campaign failed on: a function of which nothing can be decoded."""
FILES_A_TEST = 6
TESTS = 6


@pytest.mark.needs("gcc", "g++", "clang")
@pytest.mark.parametrize("part", range(TESTS))
def test_damaged_files_are_refused_or_work(part: int, tool: Tool, tmp_path: Path) -> None:
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)  # damaged programs run as nobody where the tests run as root
    numbers = range(part * FILES_A_TEST, (part + 1) * FILES_A_TEST)
    verdicts = list(campaign(numbers, 7, tool, tmp_path / "campaign"))
    assert [f"{v.number} {v.detail}: {v.what}" for v in verdicts if v.kind == "FAILED"] == []
    assert len(verdicts) == FILES_A_TEST


@pytest.mark.needs("gcc", "g++", "clang")
@pytest.mark.parametrize(("number", "seed"), FOUND)
def test_what_the_campaign_has_found(number: int, seed: int, tool: Tool, tmp_path: Path) -> None:
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    (verdict,) = campaign([number], seed, tool, tmp_path / "campaign")
    assert verdict.kind != "FAILED", verdict.detail
