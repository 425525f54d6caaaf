"""CI's slice of the matrix: each program at least once, the same cells in every run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.corpus import Cell, cells, programs
from tests.matrix import check_cell, sample
from tests.tool import Tool

SLICE = sample(list(cells()), count=len(programs()) + 4, seed=2, static_limit=2)
FLAVOURED = sample([cell for cell in cells(include_flavours=True) if cell.flavour], count=5, seed=2)
NEEDED = {"gcc": ("gcc", "g++"), "clang": ("clang", "clang++"), "go": ("go",), "rustc": ("rustc",)}


def _cell(number: int, cell: Cell) -> object:
    marks = pytest.mark.needs(*NEEDED[cell.compiler])
    return pytest.param(cell, ("loops", "all")[number % 2], id=str(cell), marks=marks)


@pytest.mark.parametrize(("cell", "optimise"), [_cell(*item) for item in enumerate((*SLICE, *FLAVOURED))])
def test_rewritten_program_behaves_the_same(cell: Cell, optimise: str, tool: Tool, built: Path) -> None:
    result = check_cell(cell, tool, built, ("--optimise", optimise))
    assert result.status == "ok", f"{result.status}: {result.detail}"


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("optimise", ["loops", "all"])
def test_no_frame_is_where_a_program_clears_its_stack(optimise: str, tool: Tool, built: Path) -> None:
    (cell,) = (cell for cell in cells() if str(cell) == "scrub:gcc-O2-pie")
    result = check_cell(cell, tool, built, ("--optimise", optimise))
    assert result.status == "ok", f"{result.status}: {result.detail}"


def test_slice_holds_every_program() -> None:
    inexact = {program.name for program in programs() if program.exact_faults}
    assert {cell.program.name for cell in SLICE} == {program.name for program in programs()} - inexact
