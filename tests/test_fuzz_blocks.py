"""Blocks as the engine compiles them, random ones and blocks of files, on both oracles."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from fuzz import blocks, strategies
from fuzz.assembler import assemble
from fuzz.block_code import BLOCK_AT, BlockCase, PreparedBlock, compile_blocks, recorded, whole
from fuzz.blocks import BlockOracles
from fuzz.campaign import Result, Settings
from fuzz.processor import features
from lifter.registers import ARITHMETIC_FLAGS, GPRS, R11, gpr
from tests.corpus import tool_path
from tests.test_lifted_semantics import NEEDED

from codecache import compile_batch  # isort: skip

pytestmark = pytest.mark.skipif(not features() >= NEEDED, reason="this processor lacks some of the instructions")


@pytest.fixture(scope="module")
def oracles():
    with BlockOracles() as opened:
        yield opened


def case_of(text: str, live: int = GPRS | ARITHMETIC_FLAGS, **more: object) -> BlockCase:
    (code,) = assemble([text])
    lifted = whole(code, bool(more.get("take_call")))
    assert not isinstance(lifted, str), lifted
    return BlockCase(code, recorded(lifted, lambda _: live), **more)  # type: ignore[arg-type]


def prepared(case: BlockCase) -> PreparedBlock:
    (block,) = compile_blocks([case], compile_batch)
    assert isinstance(block, PreparedBlock), block
    return block


@pytest.mark.parametrize(
    "case",
    [
        case_of("mov rax, qword ptr [rdi + 8]; mov rbx, qword ptr [rax + 16]; add qword ptr [rbx], rax; .byte 117, 4"),
        case_of("push rbp; mov rbp, rsp; sub rsp, 64; mov qword ptr [rbp], rdi; .byte 232, 0, 1, 0, 0", take_call=True),
        case_of("mov dword ptr [rsi], 1; mov word ptr [rsi + 2], cx; inc byte ptr [rsi]; ret"),
        case_of("movups xmm0, xmmword ptr [rdi]; vpaddd ymm1, ymm1, ymm0; movups xmmword ptr [rdi], xmm1; leave"),
        case_of("lea rax, [rip + 64]; cmpxchg qword ptr [rdi], rcx; rep movsb", counted=(0, 7), update="atomic"),
        case_of("mov rax, qword ptr [rdi]; add rax, rcx; setc bl; adc rdx, 1", counted=(0, 6), update="biased"),
        case_of("mov rax, qword ptr [rdi]; jmp rax", GPRS),
        case_of("mov rax, qword ptr [rdi]; call rax", GPRS, take_call=True, passes=True),
        case_of("add rdi, 8; sub ecx, 1; .byte 0x75, 0xf7", gpr(7)),
        case_of("xor eax, eax; div ecx; cpuid; mov rbx, rcx", counted=(0, 2)),
    ],
    ids=lambda case: case.code.hex(),
)
def test_a_block(oracles, case):
    assert BlockCase.parse(str(case)) == case
    verdict = oracles.check(prepared(case))
    assert not isinstance(verdict, str), verdict
    assert verdict.found is None
    assert verdict.native == case.states
    assert verdict.emulated or b"\xc5" in case.code
    assert verdict.ended or b"\xf7\xf1" in case.code


def test_a_read_of_the_stack_below_the_red_zone_is_no_difference(oracles):
    """A block of libavcodec whose random index led there, into the region's frame."""
    case = BlockCase.parse("4863c748c1e004488b4c0428/c:3fffff,0:3fffff/0/-/4223113379/16")
    verdict = oracles.check(prepared(case))
    assert not isinstance(verdict, str), verdict
    assert verdict.found is None and verdict.astray == 1 and verdict.emulated


def test_loops_count_every_turn(oracles):
    case = case_of("sub ecx, 1; .byte 0x75, 0xfb", counted=(0,))
    block = prepared(case)
    assert block.is_loop
    verdict = oracles.check(block)
    assert not isinstance(verdict, str) and verdict.found is None


def test_registers_that_are_dead_may_differ_and_live_ones_may_not(oracles):
    block = prepared(case_of("mov r11, rax; lea rbx, [rax + 8]", GPRS & ~gpr(R11)))
    at = block.content.index(bytes.fromhex("4989c3"), 0x1000)
    assert at == BLOCK_AT - 0x10000000
    for broken, differs in ((bytes.fromhex("4989cb"), False), (bytes.fromhex("4989c3488d5909"), True)):
        content = block.content[:at] + broken + block.content[at + len(broken) :]
        verdict = oracles.check(PreparedBlock(block.case, block.instructions, block.lifted, content))
        assert not isinstance(verdict, str)
        assert (verdict.found is not None) == differs


def test_a_store_in_another_order_is_found(oracles):
    block = prepared(case_of("mov qword ptr [rdi], rax; mov qword ptr [rdi + 8], rbx"))
    first, second = bytes.fromhex("488907"), bytes.fromhex("48895f08")
    content = block.content.replace(first + second, second + first, 1)
    verdict = oracles.check(PreparedBlock(block.case, block.instructions, block.lifted, content))
    assert not isinstance(verdict, str) and verdict.found is not None
    assert verdict.found.what.startswith("unicorn: writes")


def test_what_cannot_be_a_case():
    assert whole(bytes.fromhex("0f05"), False) == "begins with an instruction that stays native"
    assert whole(bytes.fromhex("eb0290"), False) == "is not decoded as one block"


@hypothesis_settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=strategies.blocks())
def test_any_block(oracles, case):
    (block,) = compile_blocks([case], compile_batch)
    if isinstance(block, str):
        assert not block.startswith("bug"), block
        return
    verdict = oracles.check(block)
    assert isinstance(verdict, str) or verdict.found is None, verdict


@pytest.mark.parametrize("path", ["", "/usr/bin/gzip"])
def test_a_slice_of_the_campaign(path):
    if path and tool_path("gzip") is None:
        pytest.skip("not installed: gzip")
    total = Result()
    for job in blocks.plan(Settings("block", (path,) if path else (), count=80, seed=6)):
        total.add(blocks.run(job))
    assert total.failures == []
    assert total.units > 25
    assert {cell[2] for cell in total.cells} == {"native", "unicorn"}
    if path:
        assert {"abi", "strict"} <= {cell[1] for cell in total.cells}
        reached = total.notes["runs that reached the end of their block"]
        assert reached > 0.6 * total.units * 16
