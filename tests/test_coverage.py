"""`probeloom coverage`: what counts as lifted, and the figures of a program and of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.assembler import assemble
from jit.coverage import measure
from lifter.cfg import build_graph
from lifter.coverage import Holding, add_up, form_of
from lifter.decode import decode
from lifter.image.load import open_image
from lifter.instruction import Instruction
from tests.tool import require

ROOT = Path(__file__).parent.parent


def one(code: bytes) -> Instruction:
    found = decode(code)
    assert isinstance(found, Instruction)
    return found


@pytest.mark.parametrize(
    ("text", "holding", "form"),
    [
        ("add rax, qword ptr [rdi + 8]", Holding.LIFTED, "add r64, m64"),
        ("sub rsp, rax", Holding.LIFTED, "sub rsp, r64"),
        ("div ecx", Holding.LIFTED, "div r32"),
        ("ret", Holding.LIFTED, "ret"),
        ("addsd xmm0, qword ptr [rsp + 8]", Holding.CARRIED, "addsd xmm, m64"),
        ("vfmadd231pd ymm0, ymm1, ymm2", Holding.CARRIED, "vfmadd231pd ymm, ymm, ymm"),
        ("rep movsb", Holding.CARRIED, "rep movsb"),
        ("lock xadd dword ptr [rdi], eax", Holding.CARRIED, "lock xadd m32, r32"),
        ("aesenc xmm0, xmm1", Holding.VERBATIM, "aesenc xmm, xmm"),
        ("fld qword ptr [rdi]", Holding.VERBATIM, "fld m64"),
        ("vpaddd zmm0, zmm1, zmm2", Holding.VERBATIM, "vpaddd zmm, zmm, zmm"),
        ("vgatherdps xmm0, dword ptr [rdi + xmm1], xmm2", Holding.VERBATIM, "vgatherdps xmm, vm, xmm"),
        ("cpuid", Holding.VERBATIM, "cpuid"),
        ("ud2", Holding.TRAP, "ud2"),
        ("xend", Holding.NATIVE, "xend"),
        ("call rax", Holding.CALL, "call r64"),
        ("syscall", Holding.SYSCALL, "syscall"),
        ("jmp qword ptr [rax]", Holding.INDIRECT_JUMP, "jmp m64"),
    ],
)
def test_what_counts_as_what(text: str, holding: Holding, form: str) -> None:
    (code,) = assemble([text])
    found = form_of(one(code))
    assert (found.holding, found.text) == (holding, form)


def test_figures_count_each_instruction_as_often_as_it_is_there() -> None:
    figures = add_up([(one(b"\x90"), 3), (one(b"\xff\xd0"), 2), (one(b"\x0f\x01\xd5"), 1), (one(b"\x90"), 4)])
    assert (figures.instructions, figures.by_design, figures.holdable) == (10, 2, 8)
    assert figures[Holding.LIFTED] == 7
    found = [(form.text, form.reason, count) for form, count in figures.most_frequent([Holding.NATIVE], 5)]
    assert found == [("xend", "transaction", 1)]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("gcc")
    binary = tmp_path_factory.mktemp("coverage") / "words"
    subprocess.run(["gcc", "-O2", "-o", binary, ROOT / "examples" / "words.c"], check=True)
    return binary


def tool(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jit.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)


def test_parts_that_only_other_functions_jump_to_are_found(tmp_path: Path) -> None:
    """f.cold has two parts, and f jumps to each of them."""
    require("gcc", "strip")
    source = """__attribute__((cold, noinline)) void c(int *x) { *x *= 3; }
    __attribute__((noinline)) int f(int x, int y) {
      if (x == 7) { c(&x); x /= 5; }
      if (y == 9) { c(&y); y /= 7; }
      return x - y; }
    int main(int n, char **v) { (void)v; return f(n, n + 1); }
    """
    (tmp_path / "parts.c").write_text(source)
    program = tmp_path / "parts"
    subprocess.run(["gcc", "-O2", "-s", "-o", program, tmp_path / "parts.c"], check=True)
    image = open_image(program)
    alone = [block for function in image.functions for block in build_graph(image, function).blocks.values()]
    assert measure(image).instructions > sum(len(block.instructions) for block in alone)


def test_figures_of_a_program_and_of_a_run(words: Path, tmp_path: Path) -> None:
    made = tool("rewrite", words, "-o", tmp_path / "out", "--probe", "block:*", XDG_CACHE_HOME=str(tmp_path))
    assert made.returncode == 0, made.stderr
    variables = {"PROBELOOM_DATA": str(tmp_path / "run.data")}
    subprocess.run([tmp_path / "out"], input="one two two", text=True, env=variables, check=True, capture_output=True)
    done = tool("coverage", words, "--data", tmp_path / "run.data", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    for figures in (found, found["executed"]):
        assert figures["lifted"] + figures["verbatim"] + figures["native"] == figures["instructions"]
        assert figures["lifted"] == figures["lifted_to_ir"] + figures["carried_exactly"]
        by_design = sum(figures[kind] for kind in ("calls", "system_calls", "indirect_jumps", "traps"))
        assert figures["native"] == figures["other_native"] + by_design
        assert figures["lifted"] > 0.8 * figures["instructions"]
        assert figures["native_forms"][0]["form"] == "call"
    assert found["module"] == str(words) and found["executed"]["instructions"] > found["instructions"]

    shown = tool("coverage", words, "--data", tmp_path / "run.data")
    row, executed = [line.split() for line in shown.stdout.splitlines()[1:3]]
    assert row[0] == str(words) and row[1] == f"{found['instructions']:,}"
    assert executed[:2] == ["executed", f"{found['executed']['instructions']:,}"]
    assert "run in place by design" in shown.stdout

    other = tool("coverage", "/bin/true", "--data", tmp_path / "run.data")
    assert other.returncode == 3 and "none of the binaries" in other.stderr


def test_a_data_file_without_blocks_is_refused(words: Path, tmp_path: Path) -> None:
    made = tool("rewrite", words, "-o", tmp_path / "out", "--probe", "entry:*", XDG_CACHE_HOME=str(tmp_path))
    assert made.returncode == 0, made.stderr
    variables = {"PROBELOOM_DATA": str(tmp_path / "run.data")}
    subprocess.run([tmp_path / "out"], input="one", text=True, env=variables, check=True, capture_output=True)
    done = tool("coverage", words, "--data", tmp_path / "run.data")
    assert done.returncode == 3 and "counts no blocks" in done.stderr


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no ELF file")
    done = tool("coverage", tmp_path / "text")
    assert done.returncode == 3 and done.stdout == "" and len(done.stderr.splitlines()) == 1
