"""The benchmarks of the engine run, and say what they are asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import compile as compile_bench
from bench import scale
from bench.stages import measure


@pytest.mark.needs("gcc")
def test_the_engine_is_timed_by_scenario_and_stage(tmp_path: Path) -> None:
    library = scale.library(200, tmp_path)
    found = tmp_path / "found.json"
    compile_bench.main([str(library), "--jobs", "1", "--repeat", "1", "--json", str(found)])
    content = json.loads(found.read_text())
    assert [row["scenario"] for row in content["rows"]] == list(compile_bench.SCENARIOS)
    assert all(row["instructions"] > 150 and row["speed"] > 0 for row in content["rows"])
    (stages,) = content["stages"].values()
    assert stages["carried"] > stages["compiled"] > 0  # each function has one loop


@pytest.mark.needs("gcc")
def test_stages_of_llvm_alone(tmp_path: Path) -> None:
    stages = measure(scale.library(100, tmp_path), "block:*", "all")
    assert stages["carried"] == 0 and stages["compiled"] > 0
    assert {"parse", "generate", "read"} <= stages.keys()


def test_functions_of_the_made_library_differ() -> None:
    assert len({scale.function(number) for number in range(500)}) == 500
