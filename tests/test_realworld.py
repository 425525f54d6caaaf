"""Small work by real software, a few targets: the whole list is `python -m tests.realworld`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.realworld import QUICK, TARGETS, check, inputs
from tests.tool import Tool

CHOSEN = {"gzip": "gzip", "bzip2": "bzip2", "sort": "sort", "libz": "python3", "liblzma": "xz"}
LEAST_COVERAGE = 99.0


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that workloads read."""
    directory = tmp_path_factory.mktemp("given")
    inputs(directory, QUICK)
    return directory


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.needs(p, "openssl")) for n, p in CHOSEN.items()])
def test_real_software_does_the_same_work(name: str, tool: Tool, given: Path, tmp_path: Path) -> None:
    (target,) = (t for t in TARGETS if t.name == name)
    row = check(target, tool, tmp_path, given, QUICK)
    assert row.status == "equal", row.detail
    assert 100 * row.instrumented / row.blocks >= LEAST_COVERAGE, row.refused
