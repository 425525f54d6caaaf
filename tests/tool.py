"""Calling the command line tool as a user does, and reading what it writes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.corpus import Outcome, tool_path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Tool:
    """How to call the tool: by default the sources beside these tests, or what the variable PROBELOOM says."""

    command: tuple[str, ...]
    """Program and first arguments."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's environment."""

    @staticmethod
    def found(cache_directory: Path | None = None) -> Tool:
        """The tool to test; `cache_directory` keeps its store out of the user's own."""
        command = tuple(shlex.split(os.environ.get("PROBELOOM", ""))) or (sys.executable, "-m", "jit")
        environment = {"PYTHONPATH": str(ROOT)}
        if cache_directory is not None:
            environment["XDG_CACHE_HOME"] = str(cache_directory)
        return Tool(command, environment)

    def __call__(self, *arguments: str | Path, directory: Path | None = None, seconds: float = 1800) -> Outcome:
        """Run the tool; a run longer than `seconds` is killed and reported with status 124."""
        environment = {**os.environ, **self.environment}
        command = [*self.command, *(str(argument) for argument in arguments)]
        try:
            done = subprocess.run(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as expired:
            return Outcome(124, expired.stdout or b"", b"killed after %d seconds" % seconds)
        return Outcome(done.returncode, done.stdout, done.stderr)


def require(*tools: str) -> None:
    """Skip the running test where one of the programs is not installed; in CI it fails."""
    missing = [name for name in tools if tool_path(name) is None]
    if missing:
        reason = f"not installed: {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def complaint(outcome: Outcome) -> str:
    """What is wrong with the way the tool ended, whatever it was asked: a traceback, a signal, a fault of its own."""
    text = (outcome.stderr + outcome.stdout).decode(errors="replace")
    if "Traceback (most recent call last)" in text:
        return "traceback: " + text.strip().splitlines()[-1]
    if outcome.status < 0:
        return f"killed by signal {-outcome.status}: {text.strip()[-200:]}"
    if outcome.status not in (0, 2, 3, 4):
        return f"exit status {outcome.status}: {text.strip()[-300:]}"
    return ""


def last_line(outcome: Outcome) -> str:
    """The last line a user sees."""
    lines = (outcome.stderr or outcome.stdout).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "(nothing printed)"


def counts(tool: Tool, data: Path) -> dict[str, Any]:
    """The report of a data file as JSON. Raises ValueError with one line when it cannot be had."""
    outcome = tool("report", data, "--format", "json")
    if outcome.status != 0:
        raise ValueError(f"report exits {outcome.status}: {last_line(outcome)}")
    report: dict[str, Any] = json.loads(outcome.stdout)
    missing = {"module", "build_id", "probes"} - report.keys()
    if missing:
        raise ValueError(f"report lacks {sorted(missing)}")
    return report


def rows(report: Mapping[str, Any], point: str, function: str | None = None) -> list[Mapping[str, Any]]:
    """The report's rows of one kind of tracepoint, of one function when given."""
    probes: Sequence[Mapping[str, Any]] = report["probes"]
    return [row for row in probes if row["point"] == point and function in (None, row["function"])]
