from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.encodings import all_encodings
from lifter.decode import decode, decode_run
from lifter.instruction import Flow, Handling, Imm, Instruction, Mem, Reg, Undecodable, Vec
from lifter.registers import RAX, RBP, RCX, RDI, RDX, RSI, RSP

R8, R12, R13 = 8, 12, 13


def one(code: str) -> Instruction:
    found = decode(bytes.fromhex(code))
    assert isinstance(found, Instruction), found
    return found


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("4801d8", "add rax, rbx"),
        ("7405", "je $+0x7"),
        ("0f84fbffffff", "je $+0x1"),
        ("0f92c0", "setb al"),
        ("480f42c3", "cmovb rax, rbx"),
        ("f3c3", "ret"),
        ("f2c3", "ret"),
        ("3effe0", "jmp rax"),
        ("f2ff2500000000", "jmp qword ptr [rip]"),
        ("6648e800000000", "call $+0x7"),
        ("f0480fb10a", "lock cmpxchg qword ptr [rdx], rcx"),
        ("a5", "movsd_string"),
        ("f20f1000", "movsd xmm0, qword ptr [rax]"),
        ("f3a5", "rep movsd_string"),
        ("f348ab", "rep stosq"),
        ("f2ae", "repne scasb"),
        ("f2a4", "rep movsb"),
        ("a7", "cmpsd_string"),
        ("f20fc2c101", "cmpsd xmm0, xmm1, 1"),
        ("c5f0c2c20d", "vcmpps xmm0, xmm1, xmm2, 0xd"),
        ("62f37d483fc902", "vpcmpb k1, zmm0, zmm1, 2"),
        ("62f37d483ec902", "vpcmpub k1, zmm0, zmm1, 2"),
        ("62f3fd481fc902", "vpcmpq k1, zmm0, zmm1, 2"),
        ("48b88877665544332211", "mov rax, 0x1122334455667788"),
        ("48a11122334455667788", "mov rax, qword ptr [0x8877665544332211]"),
        ("c0f001", "shl al, 1"),
        ("d110", "rcl dword ptr [rax], 1"),
        ("66480f6ec4", "movq xmm0, rsp"),
        ("f30f1efa", "endbr64"),
        ("f3480f1ec8", "rdsspq rax"),
        ("c6f810", "xabort 0x10"),
        ("660f3814c1", "blendvps xmm0, xmm1"),
        ("c4e3714ac230", "vblendvps xmm0, xmm1, xmm2, xmm3"),
        ("64488b042528000000", "mov rax, qword ptr fs:[0x28]"),
        ("678b00", "mov eax, dword ptr [eax]"),
        ("41f6c601", "test r14b, 1"),
        ("f6c401", "test ah, 1"),
        ("40f6c401", "test spl, 1"),
        ("c4e2f190040b", "vpgatherdq xmm0, xmmword ptr [rbx + v1], xmm1"),
        ("62f17cc958c1", "vaddps zmm0 {k1} {z}, zmm0, zmm1"),
        ("62f17c48104001", "vmovups zmm0, zmmword ptr [rax + 0x40]"),
        ("62f1fd087e4002", "vmovq qword ptr [rax + 0x10], xmm0"),
        ("62f1fd08d64002", "vmovq qword ptr [rax + 0x10], xmm0"),
    ],
)
def test_text(code, text):
    found = one(code)
    assert found.text == text
    assert found.code.hex() == code


@pytest.mark.parametrize(
    ("code", "operands"),
    [
        ("4883c0ff", (Reg(RAX, 64), Imm(-1, 64))),
        ("83c0ff", (Reg(RAX, 32), Imm(-1, 32))),
        ("04ff", (Reg(RAX, 8), Imm(-1, 8))),
        ("48c7c0ffffffff", (Reg(RAX, 64), Imm(-1, 64))),
        ("b8ffffffff", (Reg(RAX, 32), Imm(-1, 32))),
        ("66b8ffff", (Reg(RAX, 16), Imm(-1, 16))),
        ("6aff", (Imm(-1, 64),)),
        ("c1e0ff", (Reg(RAX, 32), Imm(255, 8))),
        ("d1e0", (Reg(RAX, 32), Imm(1, 8))),
        ("d3e0", (Reg(RAX, 32), Reg(RCX, 8))),
        ("c2ffff", (Imm(0xFFFF, 16),)),
        ("88e5", (Reg(1, 8, high=True), Reg(0, 8, high=True))),
        ("488b6c2408", (Reg(RBP, 64), Mem(RSP, None, 1, 8, 64))),
        ("4b8b448c80", (Reg(RAX, 64), Mem(R12, 9, 4, -0x80, 64))),
        ("8b04850000f0ff", (Reg(RAX, 32), Mem(None, RAX, 4, -0x100000, 32))),
        ("418b4500", (Reg(RAX, 32), Mem(R13, None, 1, 0, 32))),
        ("8b05fcffffff", (Reg(RAX, 32), Mem(None, None, 1, -4, 32, rip=True))),
        ("65678b00", (Reg(RAX, 32), Mem(RAX, None, 1, 0, 32, "gs", address_width=32))),
        ("8d0408", (Reg(RAX, 32), Mem(RAX, RCX, 1, 0, 0))),
        ("f30f1000", (Vec("xmm", 0), Mem(RAX, None, 1, 0, 32))),
        ("0fbe00", (Reg(RAX, 32), Mem(RAX, None, 1, 0, 8))),
        ("f3a4", ()),
        ("c8100001", (Imm(0x10, 16), Imm(1, 8))),
        ("8ed8", (Vec("seg", 3), Reg(RAX, 32))),
    ],
)
def test_operands(code, operands):
    assert one(code).operands == operands


@pytest.mark.parametrize(
    ("code", "flow", "target"),
    [
        ("ebfe", Flow.JUMP, -2),
        ("e900010000", Flow.JUMP, 256),
        ("7f80", Flow.BRANCH, -128),
        ("e2fe", Flow.BRANCH, -2),
        ("67e310", Flow.BRANCH, 16),
        ("c7f810000000", Flow.BRANCH, 16),
        ("e8fbffffff", Flow.CALL, -5),
        ("ffd0", Flow.CALL_INDIRECT, None),
        ("ff20", Flow.JUMP_INDIRECT, None),
        ("c3", Flow.RETURN, None),
        ("c20800", Flow.RETURN, None),
        ("0f05", Flow.SYSCALL, None),
        ("cd80", Flow.SYSCALL, None),
        ("0f0b", Flow.HALT, None),
        ("cc", Flow.HALT, None),
        ("f4", Flow.HALT, None),
        ("0fb900", Flow.HALT, None),
        ("4801d8", Flow.NEXT, None),
        ("f390", Flow.NEXT, None),
    ],
)
def test_flow(code, flow, target):
    found = one(code)
    assert (found.flow, found.target) == (flow, target)


@pytest.mark.parametrize(
    ("code", "width"),
    [("50", 64), ("6650", 16), ("9c", 64), ("a4", 8), ("66a5", 16), ("48a5", 64), ("98", 32), ("6699", 16)],
)
def test_width(code, width):
    assert one(code).width == width


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("4801d8", (2, -1, 0, 0)),
        ("48c744240801000000", (2, 4, 1, 4)),
        ("c70500000000ffffffff", (1, 2, 4, 4)),
        ("48a11122334455667788", (-1, 2, 8, 0)),
        ("e800000000", (-1, -1, 0, 4)),
        ("c4e371" "0f05" "00000000" "20", (4, 5, 4, 1)),
        ("62f17c48104001", (5, 6, 1, 0)),
        ("0f0fc19e", (2, -1, 0, 1)),
        ("f6052000000010", (1, 2, 4, 1)),
        ("f71520000000", (1, 2, 4, 0)),
    ],
)
def test_parts(code, parts):
    found = one(code)
    assert (found.modrm_at, found.disp_at, found.disp_size, found.imm_size) == parts


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "truncated"),
        ("48", "truncated"),
        ("e80000", "truncated"),
        ("06", "no instruction in 64-bit mode"),
        ("66e800000000", "near branch with an operand-size prefix: its size differs between processors"),
        ("f2e110", "loope or loopne with a repeat prefix: the prefix chooses the condition on some processors"),
        ("f3e010", "loope or loopne with a repeat prefix: the prefix chooses the condition on some processors"),
        ("66" * 15 + "90", "longer than 15 bytes"),
        ("f0c5f058c1", "prefix that VEX forbids"),
        ("48c5f058c1", "prefix that VEX forbids"),
        ("8fc0", None),
        ("ffff", "unknown to the disassembler"),
        ("f001c8", "unknown to the disassembler"),
    ],
)
def test_what_is_no_instruction(code, reason):
    found = decode(bytes.fromhex(code))
    if reason is None:
        assert isinstance(found, Instruction)
    else:
        assert isinstance(found, Undecodable)
        assert found.reason == reason
        assert found.code.hex() == code[:2]


@pytest.mark.parametrize(
    ("code", "handling", "reason"),
    [
        ("4883ec08", Handling.LIFTED, ""),
        ("4829c4", Handling.LIFTED, ""),
        ("4883e4f0", Handling.LIFTED, ""),
        ("4889ec", Handling.LIFTED, ""),
        ("4889c4", Handling.LIFTED, ""),
        ("6689c4", Handling.NATIVE, "changes a part of the stack pointer"),
        ("4088c4", Handling.NATIVE, "changes a part of the stack pointer"),
        ("488d65d8", Handling.LIFTED, ""),
        ("488d642408", Handling.LIFTED, ""),
        ("488d240c", Handling.LIFTED, ""),
        ("83c408", Handling.LIFTED, ""),
        ("4889e0", Handling.LIFTED, ""),
        ("54", Handling.LIFTED, ""),
        ("5c", Handling.LIFTED, ""),
        ("c9", Handling.LIFTED, ""),
        ("66480f6ec4", Handling.NATIVE, "reads the stack pointer"),
        ("66480f7ec4", Handling.NATIVE, "changes the stack pointer"),
        ("0f280424", Handling.VERBATIM, ""),
        ("670f280424", Handling.NATIVE, "32-bit address from the stack or instruction pointer"),
        ("678b0500000000", Handling.NATIVE, "32-bit address from the stack or instruction pointer"),
        ("f00108", Handling.VERBATIM, ""),
        ("8708", Handling.VERBATIM, ""),
        ("91", Handling.LIFTED, ""),
        ("4894", Handling.LIFTED, ""),
        ("48f7f1", Handling.LIFTED, ""),
        ("e800000000", Handling.NATIVE, "call"),
        ("ffe0", Handling.NATIVE, "indirect jump"),
        ("6650", Handling.NATIVE, "16-bit stack access"),
        ("8fe97812c0", Handling.NATIVE, "no row in the instruction table"),
    ],
)
def test_handling(code, handling, reason):
    found = one(code)
    assert (found.handling, found.reason) == (handling, reason)


def test_a_pop_to_memory_keeps_the_stack_operand():
    found = one("8f442410")  # pop [rsp + 0x10]
    implicit, explicit = found.effects.memory
    assert (implicit.operand.disp, implicit.read, implicit.write) == (0, True, False)
    assert (explicit.operand.disp, explicit.read, explicit.write) == (0x10, False, True)


def test_equal_bytes_are_one_object():
    assert decode(b"\x48\x01\xd8\x90") is decode(b"\x48\x01\xd8\xc3")


def test_a_run_yields_offsets_and_goes_on_after_rubbish():
    code = bytes.fromhex("4801d8" "06" "c3" "e80000")
    assert [(at, type(found)) for at, found in decode_run(code)] == [
        (0, Instruction), (3, Undecodable), (4, Instruction), (5, Undecodable), (6, Instruction),
    ]  # fmt: skip
    assert [at for at, _ in decode_run(code, 3, 5)] == [3, 4]


def test_a_known_instruction_cut_short_is_truncated():
    assert isinstance(decode(bytes.fromhex("c78424a8020000000000" "00")), Instruction)
    cut = decode(bytes.fromhex("c78424a802000000"))
    assert cut == Undecodable(b"\xc7", "truncated")
    run = list(decode_run(bytes.fromhex("c78424a802000000")))
    assert run[0] == (0, cut)


def rebuilt(found: Instruction) -> bytes:
    """The bytes, put together again from prefix and opcode bytes and the decoded parts."""
    code = bytearray(found.code)
    memory = found.memory_operand
    if found.disp_size and memory is not None and not memory.vsib and found.code[0] != 0x62:
        size = found.disp_size
        code[found.disp_at : found.disp_at + size] = memory.disp.to_bytes(size, "little", signed=True)
    if found.imm_size:
        numbers = [operand.value for operand in found.operands if isinstance(operand, Imm)]
        if found.target is not None:
            numbers = [found.target]
        if len(numbers) == 1:
            at = len(code) - found.imm_size
            code[at:] = (numbers[0] % 2 ** (8 * found.imm_size)).to_bytes(found.imm_size, "little")
    return bytes(code)


@given(st.binary(min_size=15, max_size=15))
@settings(max_examples=500, deadline=None)
def test_any_bytes_decode_or_not_without_a_crash(code):
    found = decode(code)
    assert code.startswith(found.code)
    assert decode(found.code) is found or isinstance(found, Undecodable)


@given(st.integers(0, 2**32), st.sampled_from(list(all_encodings())))
@settings(max_examples=500, deadline=None)
def test_parts_give_the_bytes_again(seed, encoding):
    found = decode(encoding.build(random.Random(seed)))
    if isinstance(found, Instruction):
        assert rebuilt(found) == found.code
        effects = found.effects
        assert effects.kills & ~effects.writes == 0
        assert effects.undefined & ~effects.writes == 0


def test_registers_by_number():
    found = one("4c8b4c3704")  # mov r9, [rdi + rsi + 4]
    assert found.operands == (Reg(9, 64), Mem(RDI, RSI, 1, 4, 64))
    assert found.effects.reads == 1 << RDI | 1 << RSI
    assert found.effects.kills == 1 << 9
    assert one("4d8b02").operands == (Reg(R8, 64), Mem(10, None, 1, 0, 64))
    assert one("f7e2").effects.kills & 0xFFFF == 1 << RAX | 1 << RDX
