"""The one-line cases of tests/cases: the processor says what they say, and so does lifted code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fuzz.cases import CaseError, Line, main, read, run, state_of
from fuzz.native import NativeOracle
from fuzz.processor import features
from fuzz.rows import REGIONS
from lifter.registers import RAX, RSP
from tests.test_lifted_semantics import NEEDED

AVX512 = {"avx512f", "avx512vl", "avx512bw", "avx512dq"}
FILES = sorted((Path(__file__).parent / "cases").glob("*.txt"))

pytestmark = pytest.mark.skipif(not features() >= NEEDED, reason="this processor lacks some of the instructions")


@pytest.fixture(scope="module")
def oracle():
    with NativeOracle(REGIONS, capacity=16) as opened:
        yield opened


def cases(path: Path) -> Sequence[Line]:
    return [line for line in read(path) if isinstance(line, Line)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_cases(oracle, path):
    if path.stem == "avx512" and not features() >= AVX512:
        pytest.skip("this processor has no AVX-512")
    wrong = []
    for answer in run(cases(path), oracle):
        line = answer.line
        if answer.problem:
            wrong.append(f"{line.place}: {line}: {answer.problem}")
        elif answer.processor != line.expected:
            wrong.append(f"{line.place}: {line}: the processor says {answer.processor}")
    assert wrong == []


def test_there_are_cases():
    assert sum(len(cases(path)) for path in FILES) > 1500


def line(text: str, tmp_path: Path) -> Line:
    path = tmp_path / "one.txt"
    path.write_text(text + "\n", encoding="utf-8")
    (found,) = cases(path)
    return found


def test_a_state(tmp_path):
    state = state_of(line("nop | rax=-2 cf=1 rsp=stack-8 [data+8]=0x0102 xmm2=5 =>", tmp_path))
    assert state.gprs[RAX] == 2**64 - 2
    assert state.gprs[RSP] == 0x3000_07F8
    assert state.flags & 0x8D5 == 1
    assert state.memory[0x2000_0000][0x408:0x40A] == b"\x02\x01"
    assert state.vectors[64] == 5


def test_a_wrong_answer_and_a_case_that_should_be_native_show(oracle, tmp_path):
    (found,) = run([line("add al, 1 | rax=0xff => rax=0x100", tmp_path)], oracle)
    assert found.problem == ""
    assert found.processor == "rax=0x0 cf=1 pf=1 af=1 zf=1 sf=0 of=0"
    (found,) = run([line("! add al, 1", tmp_path)], oracle)
    assert "native" in found.problem


def test_blessing_writes_answers_and_keeps_the_rest(tmp_path, capsys):
    path = tmp_path / "cases.txt"
    path.write_text("# two\n\nsetb al | cf=1 rax=0xffff => ?\n! syscall\n", encoding="utf-8")
    assert run_main(path) == 4
    assert "cases.txt:3" in capsys.readouterr().out
    assert run_main("--bless", path) == 0
    assert path.read_text(encoding="utf-8") == "# two\n\nsetb al | cf=1 rax=0xffff => rax=0xff01\n! syscall\n"
    assert run_main(path) == 0


def run_main(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("add al, 1", "no '|'"),
        ("nop | rax=zero =>", "no number"),
        ("nop | eax=1 =>", "no such register"),
        ("nop | [stack+0x10000]=1 =>", "nothing is mapped"),
    ],
)
def test_lines_that_are_no_cases(tmp_path, text, message):
    with pytest.raises(CaseError, match=message.replace("|", r"\|")):
        state_of(line(text, tmp_path))
