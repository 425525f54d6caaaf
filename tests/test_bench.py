"""The benchmarks themselves: pairs and their statistics, wrong outputs found, missing tools named, results written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import micro, sources, workloads
from bench.measure import Command, Outcome, Series, alternate, last_core


def test_ratios_are_of_pairs() -> None:
    series = Series((1.0, 2.0, 4.0), (2.0, 2.0, 6.0))
    assert series.ratios == (2.0, 1.0, 1.5) and series.ratio == 1.5 and series.spread == 0.5
    assert Series((1.0,) * 5, (1.0, 1.1, 1.2, 1.3, 9.0)).spread < 3


def test_runs_alternate_and_wrong_outputs_are_found(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def shell(name: str, script: str) -> Command:
        return Command(("/bin/sh", "-c", f"echo {name} >> {log}; {script}"))

    contenders = {
        "same": shell("same", "echo hello"),
        "other": shell("other", "echo hullo"),
        "fails": shell("fails", "echo hello; exit 3"),
        "broken": Command((), run=lambda *_: Outcome(0.0, 0, b"hello\n", problem="no agent")),
    }
    series, wrong = alternate(shell("original", "echo hello"), contenders, 2, last_core())
    assert series.keys() == {"same"} and len(series["same"].ratios) == 2
    assert wrong == {
        "other": "output differs from the original's",
        "fails": "exits 3 instead of 0",
        "broken": "no agent",
    }
    assert log.read_text().split() == [
        *("original", "original", "same", "original", "other", "original", "fails", "original"),
        *("original", "same"),
    ]


def test_sources_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(sources.UnavailableError, match=r"^sources of zlib cannot be had: [^\n]*not installed[^\n]*$"):
        sources.fetch("zlib", tmp_path / "cache")
    with pytest.raises(sources.UnavailableError, match=r"^no-such-compiler is not installed$"):
        workloads.build(workloads.WORKLOADS[0], tmp_path / "cache", "no-such-compiler")


def test_nanoseconds_of_a_run() -> None:
    assert micro.nanoseconds(Outcome(0.1, 0, b"5\n", b"1.2500\n\n Performance counter stats\n 100 probe\n")) == 1.25
    with pytest.raises(sources.UnavailableError, match="status 1"):
        micro.nanoseconds(Outcome(0.1, 1, b"", b""))


@pytest.mark.needs("gcc")
def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    tools = ["probeloom block", "probeloom entry", "gcc --coverage", "e9patch"]
    arguments = ["--classes", "loops", "probe", "--quick", "--runs", "2", "--jobs", "1", "--tools", *tools]
    assert bench.main([*arguments, "--output", str(out), "--cache", str(tmp_path / "cache")]) == 0
    shown = capsys.readouterr().out
    assert shown == (out / "bench.txt").read_text()
    content = json.loads((out / "bench.json").read_text())
    measured = {row["tool"]: row for row in content["measurements"]}
    assert set(tools[:3]) <= measured.keys()
    assert all(len(row["user_seconds"]) == 2 and 0.3 < row["ratio"] < 30 for row in measured.values())
    assert {cost["tool"] for cost in content["nanoseconds_a_call"]} >= set(tools[:3])
    assert content["code_size"]["probeloom block"]["loops"] > 0
    added = ["--classes", "loops", "--quick", "--runs", "1", "--tools", "probeloom null", "probeloom entry", "--add"]
    assert bench.main([*added, "--output", str(out), "--cache", str(tmp_path / "cache")]) == 0
    more = json.loads((out / "bench.json").read_text())
    assert {row["tool"] for row in more["measurements"]} == {*measured, "probeloom null"}
    assert [len(row["user_seconds"]) for row in more["measurements"] if row["tool"] == "probeloom entry"] == [1]
    assert more["nanoseconds_a_call"] == content["nanoseconds_a_call"]
    (out / "bench.json").write_text("{}")
    assert bench.main([*added, "--output", str(out), "--cache", str(tmp_path / "cache")]) == 2
    assert "not written by bench" in capsys.readouterr().err
    page = (out / "bench.html").read_text()
    assert all(tool in page for tool in measured) and "http" not in page
