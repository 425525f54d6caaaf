"""Campaigns: deterministic, resumable, whatever does their jobs; and their commands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from codecache import CompiledRegion, CompileFailure
from fuzz.campaign import Failure, Job, Result, Settings, kind_of
from fuzz.insn import rows_of_encodings
from fuzz.journal import Journal, read_campaign
from fuzz.processor import features
from fuzz.reach import NOT_DECODED, lines_of, reach_of, table_rows, why_not
from fuzz.runner import Means, run_campaign
from fuzz.workers import LocalWorkers, case_of, job_of
from jit.cli import main
from lifter.errors import DifferenceError, ProbeloomError, UsageError
from tests import codecache_samples as samples
from tests.campaign_jobs import die_at_two, wrong
from tests.test_lifted_semantics import NEEDED
from tests.tool import Tool

pytestmark = pytest.mark.skipif(not features() >= NEEDED, reason="this processor lacks some of the instructions")
SMALL = Settings("insn", count=60, seed=3, match="bswap")


def numbered(count: int) -> list[Job]:
    return [Job(number, "insn", number, {}) for number in range(count)]


def result_of(states: int, failure: str = "") -> Result:
    result = Result(units=1, seconds=0.5)
    result.cover("add rw:rm,r", "32", "native", states, bool(failure))
    result.notes["why not"] += 2
    if failure:
        result.failures.append(Failure(failure, "it differs"))
    return result


def test_a_process_that_dies_is_a_failure_and_the_rest_goes_on():
    workers = LocalWorkers(2, die_at_two)
    try:
        answers = dict((answer[0].number, answer[1]) for answer in workers.run(iter(numbered(5))) if answer is not None)
    finally:
        workers.close()
    assert sorted(answers) == [0, 1, 2, 3, 4]
    (failure,) = answers[2].failures
    assert "SIGABRT" in failure.what
    assert job_of(failure.case) == numbered(5)[2]
    assert not any(answers[number].failures for number in (0, 1, 3, 4))


def test_a_region_that_ends_llvm_is_a_failure_of_its_own_and_the_job_goes_on():
    from fuzz.compiling import compile_safely

    found = compile_safely([samples.hopeless(), samples.branch()])
    assert isinstance(found[0], CompileFailure)
    assert found[0].reason.startswith("LLVM gave up")
    assert isinstance(found[1], CompiledRegion)


def test_a_fault_of_ours_in_a_job_ends_the_campaign_and_names_it():
    workers = LocalWorkers(1, wrong)
    try:
        with pytest.raises(ProbeloomError, match=r"ValueError: nothing works") as caught:
            list(workers.run(iter(numbered(1))))
    finally:
        workers.close()
    assert case_of(numbered(1)[0]) in str(caught.value)


def test_results_survive_in_the_journal_but_for_a_line_cut_short(tmp_path):
    with Journal(tmp_path, SMALL) as journal:
        journal.add(0, result_of(10), 1.0)
        journal.add(1, result_of(20, "90/none/0/inside/1"), 2.5)
    path = tmp_path / "jobs.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"job": 2, "elapsed": 3')
    with Journal(tmp_path, SMALL) as journal:
        assert journal.progress.done == {0, 1}
        assert journal.progress.elapsed == 2.5
        journal.add(2, result_of(5), 4.0)
    settings, progress = read_campaign(tmp_path)
    assert settings == SMALL
    assert progress.total.states == 35
    assert progress.total.cells["add rw:rm,r", "32", "native"] == [35, 1]
    assert progress.total.notes == {"why not": 6}
    assert (tmp_path / "cases.txt").read_text() == "90/none/0/inside/1  # it differs\n"
    assert path.read_bytes().startswith(whole)


def test_a_directory_with_another_campaign_is_refused(tmp_path):
    Journal(tmp_path, SMALL).__exit__()
    with pytest.raises(UsageError, match="another campaign"):
        Journal(tmp_path, Settings("insn", count=60, seed=4, match="bswap"))
    with pytest.raises(UsageError, match="holds no campaign"):
        read_campaign(tmp_path / "none")
    (tmp_path / "campaign.json").write_text("[1]")
    with pytest.raises(UsageError, match="not written by"):
        read_campaign(tmp_path)


def test_plans_are_the_same_each_time_and_others_for_another_seed():
    def first(seed: int) -> list[Job]:
        return list(islice(kind_of("insn").plan(Settings("insn", seconds=1, seed=seed)), 8))

    assert first(1) == first(1)
    assert first(1) != first(2)
    assert [job.number for job in first(1)] == list(range(8))


def cells(result: Result) -> dict[str, list[int]]:
    content = result.as_json()["cells"]
    assert isinstance(content, dict)
    return content


def test_what_is_covered_does_not_depend_on_how_it_was_run(tmp_path):
    settings = Settings("insn", count=50, seed=5, match="bts")
    alone = run_campaign(settings, Means(1))
    assert alone.result.failures == []
    assert len({cell[2] for cell in alone.result.cells}) == 2
    assert all(
        states >= 50 for (form, _, oracle), (states, _) in _by_form(alone.result).items() if form != "sequence"
    ), alone.result.cells
    run_campaign(settings, Means(2, tmp_path))
    path = tmp_path / "jobs.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1]) + lines[-1][:20])
    resumed = run_campaign(settings, Means(1, tmp_path))
    assert cells(resumed.result) == cells(alone.result)
    assert resumed.result.units == alone.result.units


def _by_form(result: Result) -> dict[tuple[str, str, str], list[int]]:
    found: dict[tuple[str, str, str], list[int]] = {}
    for (form, _, oracle), (states, failures) in result.cells.items():
        counts = found.setdefault((form, "", oracle), [0, 0])
        counts[0] += states
        counts[1] += failures
    return found


class Cli:
    """Runs the command line in this process, which knows the rows of the table already."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit status, output, errors."""
        self._monkeypatch.setattr(sys, "argv", ["probeloom", "fuzz", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = self._capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, captured.out, captured.err


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(monkeypatch, capsys)


def test_the_command_and_its_report(cli: Cli, tmp_path):
    out = tmp_path / "campaign"
    options = ("--count", "40", "--match", "bswap", "--jobs", "1", "--seed", "2", "--out", out)
    status, text, errors = cli("insn", *options)
    assert status == 0, errors
    assert re.search(r"seed 2: 0 differences$", text.strip())
    started = time.monotonic()
    assert cli("insn", *options)[1].splitlines()[:-1] == text.splitlines()[:-1]
    assert time.monotonic() - started < 5
    assert json.loads((out / "campaign.json").read_text())["match"] == "bswap"
    assert cli("report", out)[0] == 0
    page = (out / "report.html").read_text()
    assert "<td>bswap rw:r</td>" in page
    assert "src=" not in page and "href=" not in page


def test_it_is_found_by_its_name(tool: Tool):
    assert b"fuzz " in tool("--help").stdout
    done = tool("fuzz", "--help")
    assert done.status == 0
    assert all(name in done.stdout for name in (b"insn", b"block", b"report"))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("insn", "--count", "1", "--seconds", "1"), 2, "either --count or --seconds"),
        (("insn", "--match", "nothing has this"), 2, "no form of the table"),
        (("insn", "--case", "garbage"), 2, "neither"),
        (("insn", "--case", "zz | rax=1"), 2, "non-hexadecimal"),
        (("block", "--case", "90/1"), 2, "is not CODE/"),
        (("block", "/dev/null"), 2, "not a regular file"),
        (("block", __file__), 3, "ELF"),
        (("block", "/nowhere"), 2, "no such file"),
        (("insn", "--case", '{"job":1}'), 2, "not a job"),
        (("report", "/nowhere"), 2, "holds no campaign"),
        (("insn", "--cluster", "tcp://127.0.0.1:9", "--count", "1"), 2, "no dask scheduler"),
        (("insn", "--out", "/dev/null/x"), 2, "cannot use"),
    ],
)
def test_wrong_use(cli: Cli, arguments, status, message):
    found, _, errors = cli(*arguments)
    assert found == status, errors
    assert message in errors.splitlines()[-1]
    assert errors.splitlines()[-1].startswith("probeloom: error: ")


def test_cases_without_a_difference(cli: Cli):
    for kind, case in (("insn", "480fc8 | rax=0x1234"), ("insn", "01d8/cf/17/inside/5")):
        status, text, errors = cli(kind, "--case", case)
        assert (status, text) == (0, "no difference\n"), errors


def test_a_difference_ends_with_4_and_how_to_see_it_again(monkeypatch, tmp_path, capsys):
    from fuzz import commands

    failure = Failure("480fc8 | rax=0x12", "bswap rax: rax 0x1, lifted 0x2")
    monkeypatch.setattr("fuzz.workers.LocalWorkers.run", lambda self, jobs: iter([(next(jobs), _failed(failure))]))
    saved = tmp_path / "found.txt"
    with pytest.raises(DifferenceError, match=r"again with: probeloom fuzz insn --case '480fc8 | rax=0x12'"):
        commands.insn(count=10, match="bswap", jobs=1, out=tmp_path / "out", save_to=saved, seed=0)
    assert "DIFFERENCE: bswap rax" in capsys.readouterr().out
    assert saved.read_text() == "480fc8 | rax=0x12 => ?\n"


def _failed(failure: Failure) -> Result:
    result = result_of(3)
    result.failures.append(failure)
    return result


def test_the_engine_does_not_import_fuzz():
    code = "import sys, jit.cli, jit.api, jit.verify; sys.exit(any(n.split('.')[0] == 'fuzz' for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0


def test_a_cluster_gives_the_same_result():
    distributed = pytest.importorskip("distributed")
    settings = Settings("insn", count=40, seed=5, match="bswap")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, processes=True) as cluster:
        remote = run_campaign(settings, Means(1, cluster=cluster.scheduler_address))
    assert cells(remote.result) == cells(run_campaign(settings, Means(1)).result)


@pytest.mark.needs("gzip")
def test_functions_of_a_file():
    settings = Settings("function", ("/usr/bin/gzip",), count=4, seed=2)
    outcome = run_campaign(settings, Means(1))
    assert outcome.result.failures == []
    assert 1 <= outcome.result.units <= 4
    assert outcome.result.states >= 24
    assert any(cell[2] == "unicorn" for cell in outcome.result.cells)


@pytest.mark.needs("csmith", "gcc", "/usr/include/csmith/csmith.h")
def test_programs():
    total = Result()
    for job in islice(kind_of("program").plan(Settings("program", seconds=1, seed=1, match="gcc")), 1, 3):
        total.add(kind_of("program").run(job))
    assert total.failures == []
    assert total.units + sum(total.notes.values()) == 2


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("functions", "0x1000,0x2040:abi:atomic:block+entry:7:24:/usr/bin/with:colon"),
        ("programs", "17:gcc:-O2 -static:block+return:strict:auto"),
    ],
)
def test_cases_are_read_back_as_they_were_written(kind, text):
    from fuzz.functions import Group
    from fuzz.programs import Recipe

    parse = {"functions": Group.parse, "programs": Recipe.parse}[kind]
    assert str(parse(text)) == text


def test_a_program_that_behaves_otherwise_is_a_difference(monkeypatch, tmp_path):
    from fuzz import programs

    recipe = programs.Recipe(3, "gcc", ("-O1",), ("entry",), "abi", "plain")
    if shutil.which("csmith") is None or shutil.which("gcc") is None:
        pytest.skip("not installed: csmith, gcc")
    monkeypatch.setattr(programs.engine, "write", lambda image, built, output: _script(output))
    assert "instrumented" in programs.check(recipe)


def _script(output: Path) -> None:
    output.write_text("#!/bin/sh\necho other\n")
    output.chmod(0o755)


@pytest.mark.needs("gzip")
def test_functions_on_the_processor_and_a_wrong_instruction_in_the_cache(tmp_path):
    """The instrumented functions do what the original ones do, until a byte of the code cache is another."""
    from fuzz.native_functions import NativeFunctions
    from jit import engine
    from jit.options import Options
    from jit.tracepoints import Point, Spec
    from lifter.image.load import open_image

    image = open_image(Path("/usr/bin/gzip"))
    functions = [function for function in image.functions if function.refusal is None and 60 < function.size < 400][:12]
    specs = [Spec(Point.BLOCK, f"{function.address:#x}") for function in functions]
    built = engine.build(image, specs, Options(1, "strict", use_cache=False))
    ends: dict[str, int] = {}
    with NativeFunctions(image, built.overlay, 3) as native:
        for function in functions:
            found, how = native.check(function.address, range(4))
            assert found is None, (function.name, found)
            for end, number in how.items():
                ends[end] = ends.get(end, 0) + number
    assert sum(ends.values()) == 48
    assert ends["returned, or called what never returns"] > 4
    code = built.overlay.code
    broken = replace(built.overlay, code=b"\x48\xff\xc3\x90" * (len(code) // 4))
    with NativeFunctions(image, broken, 3) as native:
        assert any(native.check(function.address, range(4))[0] is not None for function in functions)


@pytest.mark.needs("gzip")
def test_a_flag_that_a_jump_out_of_the_function_reads_is_live_beyond_it():
    """`je` into a part of the function that was not analysed: the zero flag is still what it was there."""
    from functools import partial

    from lifter.borders import Borders
    from lifter.cfg import build_all
    from lifter.image.load import open_image
    from lifter.instruction import Flow
    from lifter.liveness import analyse

    image = open_image(Path("/usr/bin/gzip"))
    seen = 0
    for function in [f for f in image.functions if f.refusal is None][:200]:
        graphs = build_all(image, [function])
        graph = graphs[function.address]
        liveness = analyse(image, graphs, "strict")
        borders = Borders(image, graph, liveness.of(function.address), partial(liveness.elsewhere, image, graphs))
        for block in graph.blocks.values():
            target = graph.callees.get(block.last_address)
            if block.last.flow is Flow.BRANCH and target is not None and block.last_address in graph.tail_calls:
                seen += 1
                reads = block.last.effects.reads
                assert borders(target) & reads == reads
    assert seen


def test_every_row_of_the_table_is_run_or_it_is_known_why_not():
    """With all features that the table names; of x87, the decoder has one of the notations that the table has."""
    everything = frozenset(word for _, row in table_rows() for word in row.feature.split())
    found = rows_of_encodings(everything)
    left = {name: row for name, row in table_rows() if name not in found and why_not(row, everything) == NOT_DECODED}
    features_left = {row.feature for name, row in left.items() if not name.startswith("f")}
    not_encoded = {"xop", "fma4", "tbm", "3dnow", "sse4a"}
    not_disassembled = {"avx512_bf16", "avx512_vp2intersect", "serialize"}
    assert features_left <= not_encoded | not_disassembled
    assert all(row.mnemonic[0] == "f" for row in left.values() if not row.feature)


def test_rows_are_reported_with_what_they_are_short_of():
    result = Result()
    result.cover("bswap rw:r", "64", "native", 3)
    result.cover("bswap rw:r", "64", "unicorn", 1)
    result.cover("sequence", "-", "native", 9)
    reach = reach_of(result)
    assert (dict(reach.native), dict(reach.emulated)) == ({"bswap rw:r": 3}, {"bswap rw:r": 1})
    assert reach.short_of(2) == ("bswap rw:r",)
    assert reach.short_of(1) == ()
    assert "syscall" in reach.others["stays native: system call"]
    *_, total, short = lines_of(reach, 2)
    assert total.startswith("1 of ") and "1 of them in unicorn, too; 1 from fewer than 2 states" in total
    assert short == "    bswap rw:r: 3, unicorn 1"
