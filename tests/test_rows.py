from __future__ import annotations

import random
from dataclasses import replace

import pytest

from fuzz.encodings import all_encodings, find
from fuzz.native import NativeOracle
from fuzz.processor import features
from fuzz.rows import REGIONS, RowChecker, instructions
from lifter.decode import decode
from lifter.instruction import Handling, Instruction, MemoryAccess
from lifter.registers import AF, ARITHMETIC_FLAGS, CF, DF, MXCSR, OF, PF, SF, X87, ZF, names
from lifter.x86 import rows
from lifter.x86.table import TABLE

VECTOR_FEATURE = "avx2"
"""What the oracle's signal frames and half of the encodings need."""

pytestmark = pytest.mark.skipif(VECTOR_FEATURE not in features(), reason="this processor has no AVX2")


@pytest.fixture(scope="module")
def oracle():
    with NativeOracle(REGIONS, capacity=256) as opened:
        yield opened


def one(code: str) -> Instruction:
    found = decode(bytes.fromhex(code))
    assert isinstance(found, Instruction), found
    return found


def effects(code: str) -> tuple[str, str, str]:
    """Registers and flags read, written, overwritten, by name."""
    found = one(code).effects
    return tuple(" ".join(names(mask)) for mask in (found.reads, found.writes, found.kills))


@pytest.mark.parametrize(
    ("code", "reads", "writes", "kills"),
    [
        ("4801d8", "rax rbx", "rax cf pf af zf sf of", "rax cf pf af zf sf of"),
        ("00d8", "rax rbx", "rax cf pf af zf sf of", "cf pf af zf sf of"),
        ("6601d8", "rax rbx", "rax cf pf af zf sf of", "cf pf af zf sf of"),
        ("89d8", "rbx", "rax", "rax"),
        ("88d8", "rax rbx", "rax", ""),
        ("88e3", "rax rbx", "rbx", ""),
        ("31c0", "", "rax cf pf af zf sf of", "rax cf pf af zf sf of"),
        ("30c0", "rax", "rax cf pf af zf sf of", "cf pf af zf sf of"),
        ("19c0", "cf", "rax cf pf af zf sf of", "rax cf pf af zf sf of"),
        ("83c8ff", "", "rax cf pf af zf sf of", "rax cf pf af zf sf of"),
        ("83c8fe", "rax", "rax cf pf af zf sf of", "rax cf pf af zf sf of"),
        ("480f42c3", "rax rbx cf", "rax", "rax"),
        ("0f9fc1", "rcx zf sf of", "rcx", ""),
        ("0fbcc3", "rax rbx", "rax cf pf af zf sf of", "cf pf af zf sf of"),
        ("f30fbcc3", "rbx", "rax cf pf af zf sf of", "rax cf pf af zf sf of"),
        ("f7e3", "rax rbx", "rax rdx cf pf af zf sf of", "rax rdx cf pf af zf sf of"),
        ("f6e3", "rax rbx", "rax cf pf af zf sf of", "cf pf af zf sf of"),
        ("66f7e3", "rax rdx rbx", "rax rdx cf pf af zf sf of", "cf pf af zf sf of"),
        ("c1e000", "rax", "rax", "rax"),
        ("c1e020", "rax", "rax", "rax"),
        ("c1e001", "rax", "rax cf pf af zf sf of", "rax cf pf af zf sf of"),
        ("d3e0", "rax rcx", "rax cf pf af zf sf of", "rax"),
        ("d3c0", "rax rcx", "rax cf of", "rax"),
        ("d1d0", "rax cf", "rax cf of", "rax cf of"),
        ("50", "rax rsp", "rsp", "rsp"),
        ("58", "rsp", "rax rsp", "rax rsp"),
        ("c9", "rbp", "rsp rbp", "rsp rbp"),
        ("99", "rax", "rdx", "rdx"),
        ("480fb10b", "rax rcx rbx", "rax cf pf af zf sf of", "cf pf af zf sf of"),
        ("7405", "zf", "", ""),
        ("7f05", "zf sf of", "", ""),
        ("e305", "rcx", "", ""),
        ("674be305", "rcx", "", ""),
        ("0f1f4408ff", "", "", ""),
        ("a4", "rsi rdi df", "rsi rdi", "rsi rdi"),
        ("f3a4", "rcx rsi rdi df", "rcx rsi rdi", "rsi rdi"),
        ("f3a6", "rcx rsi rdi df", "rcx rsi rdi cf pf af zf sf of", "rsi rdi"),
        ("f3ac", "rax rcx rsi df", "rax rcx rsi", ""),
        ("0f28c1", "zmm1", "zmm0", ""),
        ("c5f828c1", "zmm1", "zmm0", "zmm0"),
        ("660fefc0", "", "zmm0", ""),
        ("c5f1efc1", "", "zmm0", "zmm0"),
        ("f30f10c1", "zmm0 zmm1", "zmm0", ""),
        ("0f58c1", "zmm0 zmm1 mxcsr", "zmm0 mxcsr", ""),
        ("62f17c4958c1", "zmm0 zmm1 mxcsr k", "zmm0 mxcsr", ""),
        ("62f17cc958c1", "zmm0 zmm1 mxcsr k", "zmm0 mxcsr", "zmm0"),
        ("6271f50d55f9", "zmm1 zmm15 k", "zmm15", ""),
        ("62f17d48fac0", "", "zmm0", "zmm0"),
        ("62f27d484ec1", "zmm1 mxcsr", "zmm0", "zmm0"),
        ("62f37d0866c101", "zmm1 mxcsr", "k", ""),
        ("0f7ec0", "x87", "rax x87", "rax"),
        ("dac1", "cf x87", "x87", ""),
    ],
)
def test_effects(code, reads, writes, kills):
    assert effects(code) == (reads, writes, kills)


@pytest.mark.parametrize(
    ("code", "undefined"),
    [
        ("21d8", AF),
        ("c1e001", AF),
        ("c1e002", AF | OF),
        ("c0e009", AF | OF | CF),
        ("d3e0", AF | OF),
        ("0fbcc3", CF | PF | AF | SF | OF),
        ("f7e3", PF | AF | ZF | SF),
        ("f7f3", ARITHMETIC_FLAGS),
        ("01d8", 0),
        ("0fa3d8", PF | AF | SF | OF),
    ],
)
def test_undefined_flags(code, undefined):
    assert one(code).effects.undefined == undefined


@pytest.mark.parametrize(
    ("code", "accesses"),
    [
        ("0103", [(4, True, True)]),
        ("8b03", [(4, True, False)]),
        ("8803", [(1, False, True)]),
        ("8d03", []),
        ("0f1803", []),
        ("50", [(8, False, True)]),
        ("ff33", [(8, False, True), (8, True, False)]),
        ("c3", [(8, True, False)]),
        ("48a5", [(8, True, False), (8, False, True)]),
        ("f30f1103", [(4, False, True)]),
        ("f20f5803", [(8, True, False)]),
        ("c5fd6f03", [(32, True, False)]),
        ("c4e27d3003", [(16, True, False)]),
        ("62f17c48104001", [(64, True, False)]),
        ("62f17c585800", [(4, True, False)]),
        ("66633e", [(2, True, False)]),
        ("62f37d48660611", [(64, True, False)]),
        ("62f3dd10ce1e01", [(8, True, False)]),
        ("0fa30b", [(0, True, False)]),
        ("0fba2305", [(4, True, False)]),
        ("dd33", [(108, False, True)]),
        ("66d933", [(14, False, True)]),
    ],
)
def test_memory(code, accesses):
    found = one(code).effects.memory
    assert [(access.size, access.read, access.write) for access in found] == accesses


def test_an_unknown_row_is_native_and_assumes_everything(monkeypatch):
    monkeypatch.setitem(TABLE, "blsi", [])  # not deleted: it would come back in another place
    found = one("c4e228f3db")
    assert found.handling is Handling.NATIVE
    assert found.reason == "no row in the instruction table"
    assert found.effects.kills == 0
    assert found.effects.reads == found.effects.writes
    assert found.effects.reads & (ARITHMETIC_FLAGS | DF | MXCSR | X87 | 0xFFFF) == (
        ARITHMETIC_FLAGS | DF | MXCSR | X87 | 0xFFFF
    )


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ("q:r", {}, "operand not understood: q:r"),
        ("w:gpr", {}, "operand not understood: w:gpr"),
        ("w:r", {"reads": "rbz"}, "register not understood: rbz"),
        ("w:r", {"memory": "8[rsp]"}, r"memory access not understood: 8\[rsp\]"),
    ],
)
def test_a_row_that_cannot_be_read_is_an_error(shape, options, message):
    with pytest.raises(ValueError, match=message):
        rows.row("nothing", shape, **options)


def test_every_legacy_and_vex_encoding_has_a_row():
    source = random.Random(2)
    encodings = source.sample(list(all_encodings()), 1500)
    found = [instruction for encoding in encodings if (instruction := find(encoding, source, attempts=2))]
    assert len(found) > 200
    assert [one.text for one in found if one.reason == "no row in the instruction table"] == []


@pytest.mark.parametrize("seed", range(4))
def test_rows_hold_on_the_processor(oracle, seed):
    source = random.Random(seed)
    encodings = source.sample(list(all_encodings()), 160)
    checker = RowChecker(oracle, seed)
    findings = [
        str(finding)
        for instruction in instructions(encodings, source, features())
        for finding in checker.check(instruction, states=6)
    ]
    assert findings == []
    assert checker.coverage.instructions > 15


COMMON = [
    "4801d8", "0fafc3", "486bc305", "0fb6c0", "48630411", "c1e805", "d3f8", "0fa4d805", "0fb0cb", "0fc1c8",
    "0fba2b05", "0fbdc3", "f30fbdc3", "48f7e1", "4898", "4899", "0f94c0", "480f4fc1", "50", "58", "c9",
    "c3", "480fc8", "0fb103", "f3a4", "f2ae", "aa", "48ab", "0f58c1", "f20f5903", "f30f2ac0", "f2480f2cc1",
    "660f6ec0", "660fefc9", "660f3800c1", "660f70c11b", "c5f158c2", "c5fd6f03", "c4e27d18c1", "c5f877",
    "c4e2f9b8c2", "d9c0", "dec1", "dbe9", "d93b", "0f6fc1", "dbe3", "86c4", "d7", "f5", "9e",
]  # fmt: skip


@pytest.mark.parametrize("code", COMMON)
def test_common_rows_hold_on_the_processor(oracle, code):
    assert [str(finding) for finding in RowChecker(oracle, 1).check(one(code), states=8)] == []


def check_with(oracle, code, **changes):
    """Findings for an instruction whose row says something else."""
    instruction = one(code)
    wrong = replace(instruction, effects=replace(instruction.effects, **changes))
    return " ".join(finding.what for finding in RowChecker(oracle, 3, redecode=False).check(wrong, states=64))


def test_a_wrong_row_is_found(oracle):
    add = one("4801d8").effects  # add rax, rbx
    assert "rax" in check_with(oracle, "4801d8", writes=add.writes & ~1, kills=add.kills & ~1)
    assert "cf" in check_with(oracle, "4801d8", writes=add.writes & ~CF, kills=add.kills & ~CF)
    assert "depends on" in check_with(oracle, "4801d8", reads=add.reads & ~8)
    shift = one("d3e0").effects  # shl eax, cl
    assert "depends on" in check_with(oracle, "d3e0", kills=shift.kills | CF)
    store = one("8903").effects.memory[0]  # mov [rbx], eax
    for size, message in ((2, "beside|more bytes"), (8, "fewer bytes")):
        access = MemoryAccess(store.operand, size, read=False, write=True)
        found = check_with(oracle, "8903", memory=(access,))
        assert any(part in found for part in message.split("|"))
    access = MemoryAccess(store.operand, 4, read=True, write=False)
    assert "not called written" in check_with(oracle, "8903", memory=(access,))
    load = one("8b03").effects.memory[0]  # mov eax, [rbx]
    access = MemoryAccess(load.operand, 4, read=False, write=True)
    assert "called written" in check_with(oracle, "8b03", memory=(access,))
    halves = one("0f28c1").effects  # movaps xmm0, xmm1 leaves the high half alone
    assert check_with(oracle, "0f28c1", kills=halves.kills | halves.writes)
