"""What the tests share: the tool under test with a store of its own, the built corpus, and marks for needed tools."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.tool import Tool, require  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs(*tools): the programs a test runs; without them it is skipped, in CI it fails"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    require(*(name for mark in item.iter_markers("needs") for name in mark.args))


@pytest.fixture(scope="session")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for all workers of a session."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session")
def tool(shared_directory: Path) -> Tool:
    """The command line tool, its store shared by the session and by nobody else."""
    return Tool.found(shared_directory / "store")


@pytest.fixture(scope="session")
def built(shared_directory: Path) -> Path:
    """Where programs of the corpus are built, once a session."""
    return shared_directory / "built"
