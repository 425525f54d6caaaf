"""Counts are exact: they equal callgrind's, function by function."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.callgrind import check, executions
from tests.corpus import PROGRAMS, Cell, build, programs, tool_path
from tests.tool import Tool

CELLS = [("algorithms", "gcc", "O2", "pie"), ("virtuals", "clang", "O1", "nopie"), ("switches", "gcc", "O0", "pie")]
AT_LEAST = 20


@pytest.mark.needs("valgrind", "objdump", "gcc", "g++", "clang++")
@pytest.mark.parametrize(("name", "compiler", "level", "link"), CELLS)
def test_counts_equal_callgrind(
    name: str, compiler: str, level: str, link: str, tool: Tool, built: Path, tmp_path: Path
) -> None:
    (program,) = (p for p in programs() if p.name == name)
    result = check(build(Cell(program, compiler, level, link, stripped=False), built), [], tool, tmp_path)
    assert [str(mismatch) for mismatch in result.mismatches] == []
    assert result.executed >= min(AT_LEAST, result.functions)
    assert result.entries >= result.functions


REAL = {"gzip": ["-9", "-n", "-c"], "bzip2": ["-9", "-c"], "sort": ["-k2"]}


@pytest.mark.needs("valgrind", "objdump", *REAL)
@pytest.mark.parametrize("name", REAL)
def test_counts_of_real_programs_equal_callgrind(name: str, tool: Tool, tmp_path: Path) -> None:
    path = Path(tool_path(name) or name).resolve()
    result = check(path, REAL[name], tool, tmp_path, stdin=PROGRAMS / "algorithms.c")
    assert [str(mismatch) for mismatch in result.mismatches] == []
    assert result.executed >= 9


def test_profile_is_read_by_address() -> None:
    text = """positions: instr line
events: Ir
ob=(1) /x/prog
fn=(1) main
0x1000 0 3
cob=(2) /lib/libc.so.6
cfn=(2) puts
calls=2 0x5000 0
0x1004 0 900
0x1004 0 2
+5 0 7
ob=(2)
fn=(2)
0x1000 0 50
ob=(1)
fn=(3) other
* 0 1
calls=3 0x1000 0
+1 0 99
"""
    assert executions(text, "/x/prog") == ({0x1000: 4, 0x1004: 2, 0x1009: 7}, {0x1000: 3})
