"""Regions compiled, cut out of the object, placed, and run."""

from __future__ import annotations

import struct
from dataclasses import replace

import codecache_samples as samples
import pytest
from codecache_samples import DATA, STACK_POINTER, run

from codecache import CompiledRegion, CompileFailure, RegionSource, assembly, compile_batch, optimised_text


def compiled(source: RegionSource) -> CompiledRegion:
    (result,) = compile_batch([source])
    assert isinstance(result, CompiledRegion), result
    return result


def test_branch_leaves_by_both_exits() -> None:
    region = compiled(samples.branch())
    assert (region.frame, region.shift, region.data) == (0, 0, b"")
    memory = {STACK_POINTER + 16: struct.pack("<Q", 40), DATA + 0x800: struct.pack("<Q", 7)}
    equal = run(region, {"rax": 2, "rdi": 42, "rbx": 5}, memory)
    other = run(region, {"rax": 2, "rdi": 43, "rbx": 5}, memory)
    assert (equal.exit, other.exit) == (0, 1)
    for end in (equal, other):
        assert end.registers["rax"] == 42
        assert end.registers["rbx"] == 5
        assert end.stack_pointer == STACK_POINTER
        assert end.word(DATA + 0x800) == 8


def test_a_region_without_a_frame_leaves_without_touching_rsp() -> None:
    assert b"\x48\x8d\xa4\x24" not in compiled(samples.branch()).code


def test_spilling_region_gets_a_frame_below_the_red_zone() -> None:
    region = compiled(samples.spilling())
    assert region.frame > 0
    assert region.shift == 192
    registers = {name: 1000 + i for i, name in enumerate(samples.REGISTERS)}
    words = [3**i for i in range(5)]
    red_zone = bytes(range(120))
    memory = {
        STACK_POINTER - 128: red_zone,
        STACK_POINTER + 8: struct.pack("<5Q", *words),
    }
    end = run(region, registers, memory)
    assert end.registers == {**registers, "r15": registers["r15"] + sum(words)}
    assert end.stack_pointer == STACK_POINTER
    assert end.word(STACK_POINTER - 8) == registers["rax"]
    assert bytes(end.memory.mem_read(STACK_POINTER - 128, 120)) == red_zone


@pytest.mark.parametrize(("clobbered", "pinned"), [("rbx", True), ("rcx", False)])
def test_a_loose_register_is_pinned_where_the_code_writes_it(clobbered: str, pinned: bool) -> None:
    source = samples.passing_through(clobbered)
    region = compiled(source)
    end = run(region, {"rax": 5, "rbx": 7})
    assert (end.registers["rax"], end.registers["rbx"]) == (6, 7)
    assert ("%rbx" in assembly(source)) == pinned


def test_switch_uses_its_jump_table() -> None:
    regions = [compiled(samples.switching(n)) for n in (8, 11)]
    regions += compile_batch([samples.switching(8), samples.branch(), samples.switching(11)])[::2]  # type: ignore[arg-type]
    for region, cases in zip(regions, (8, 11, 8, 11), strict=True):
        assert len(region.data) == 4 * cases
        assert {r.symbol for r in region.data_relocations} == {".code"}
        assert ".data" in {r.symbol for r in region.relocations}
        expected = 1
        for i in range(cases):
            constant = i * 2 + 3
            expected = (expected + constant, expected * constant, expected ^ constant)[i % 3]
        text = bytes(range(cases)) + b"\xff"
        end = run(region, {"rax": 1, "rsi": DATA}, {DATA: text})
        assert end.registers["rax"] == expected
        assert end.registers["rsi"] == DATA + cases
        assert end.stack_pointer == STACK_POINTER - 16


def test_equal_regions_compile_equal_wherever_they_stand_in_a_batch() -> None:
    batch = [samples.switching(), samples.branch(), samples.spilling(), samples.switching(), samples.branch()]
    results = compile_batch(batch)
    assert results[0] == results[3] == compiled(samples.switching())
    assert results[1] == results[4] == compiled(samples.branch())


def test_program_addresses_are_relocated() -> None:
    region = compiled(samples.addressing())
    memory = {DATA: struct.pack("<QQQQ", 30, 0, 12, 0)}
    for address in (samples.CODE, samples.CODE + 0x777):
        end = run(region, memory=memory, address=address)
        assert end.registers["rax"] == 42
        assert end.registers["rdx"] == DATA + 16


def test_passes_inline_a_probe() -> None:
    text = samples.branch().text.replace(
        "declare ptr",
        """\
define internal void @L_probe(ptr %context) #1 {
  %v = load i64, ptr %context
  %w = mul i64 %v, 3
  store i64 %w, ptr %context
  ret void
}
declare ptr""",
    )
    text = text.replace(
        "  %s = add i64 %rax, %v\n",
        """\
  %context = alloca i64
  store i64 %rax, ptr %context
  call void @L_probe(ptr %context)
  %changed = load i64, ptr %context
  %s = add i64 %changed, %v
""",
    )
    source = replace(samples.branch(), text=text, passes=True)
    region = compiled(source)
    assert region.frame == 0
    assert run(region, {"rax": 2, "rdi": 42}, {STACK_POINTER + 16: struct.pack("<Q", 36)}).registers["rax"] == 42
    optimised = optimised_text(source)
    assert "alloca" not in optimised
    assert "@L_probe" not in optimised
    assert "imul" in assembly(source) or "lea" in assembly(source)


REJECTED = [
    (("add i64 %rax, %v", "add i32 %rax, %v"), "LLVM rejects the IR"),
    (("icmp eq i64 %s, %rdi", "icmp eq i64 %s, %nowhere"), "LLVM rejects the IR"),
    (("jmp L_x0", "jmp elsewhere"), "undefined symbol elsewhere"),
    (("@L_c0 = external hidden global i64", "@L_c0 = internal global i64 1"), ".data"),
    (("@L_c0 = external hidden global i64", "@L_c0 = external global i64"), "relocation"),
    (("jmp L_x0", "movb $$L_x0, %al"), "relocation"),
    (("@L_region", "@L_other"), "missing"),
]


@pytest.mark.parametrize(("change", "reason"), REJECTED)
def test_one_bad_text_fails_alone(change: tuple[str, str], reason: str) -> None:
    bad = replace(samples.branch(), text=samples.branch().text.replace(*change))
    assert bad.text != samples.branch().text
    good = [samples.branch(), samples.switching(), samples.spilling()]
    results = compile_batch([good[0], bad, *good[1:]])
    assert isinstance(results[1], CompileFailure)
    assert reason in results[1].reason
    assert [results[0], *results[2:]] == compile_batch(good)


def test_a_library_call_is_a_failure() -> None:
    division = """\
  %w = zext i64 %rax to i128
  %u = shl i128 %w, 64
  %d = zext i64 %rdi to i128
  %q = udiv i128 %u, %d
  %s = trunc i128 %q to i64
"""
    text = samples.branch().text.replace("  %s = add i64 %rax, %v\n", division)
    (result,) = compile_batch([replace(samples.branch(), text=text)])
    assert result == CompileFailure("undefined symbol __udivti3")


def with_call(definition: str, call: str) -> RegionSource:
    """`branch` with something defined behind it, and rax changed by `call` (%rax to %changed) first."""
    text = samples.branch().text.replace("  %s = add i64 %rax, %v\n", call + "  %s = add i64 %changed, %v\n")
    return replace(samples.branch(), text=text + definition)


def test_a_probe_that_is_called_comes_with_the_region() -> None:
    source = with_call(
        """\
define internal preserve_mostcc i64 @L_probe(i64 %value) #2 {
  %w = mul i64 %value, 3
  ret i64 %w
}
""",
        "  %changed = call preserve_mostcc i64 @L_probe(i64 %rax)\n",
    )
    results = compile_batch([samples.branch(), source, samples.branch(), source])
    assert results[1] == results[3] == compiled(source)
    registers = {"rax": 2, "rdi": 42}
    end = run(compiled(source), registers, {STACK_POINTER + 16: struct.pack("<Q", 36)})
    assert end.registers["rax"] == 42
    assert end.registers["rdi"] == 42
    assert (end.exit, end.stack_pointer) == (0, STACK_POINTER)


def test_a_function_in_front_of_the_region_is_a_failure() -> None:
    source = with_call("", "  %changed = call i64 @L_probe(i64 %rax)\n")
    definition = "define internal i64 @L_probe(i64 %value) #2 {\n  ret i64 %value\n}\n"
    (result,) = compile_batch([replace(source, text=definition + source.text)])
    assert result == CompileFailure("the region's function is not the first of its text")


def test_constants_come_with_the_region_that_uses_them() -> None:
    definition = """\
@L_table = internal constant [3 x i64] [i64 10, i64 20, i64 30]
@L_pointers = internal constant [2 x ptr] [ptr @L_table, ptr @L_c0]
"""
    call = """\
  %e = getelementptr [3 x i64], ptr @L_table, i64 0, i64 %rax
  %o = getelementptr [2 x ptr], ptr @L_pointers, i64 0, i64 %rbx
  %q = load volatile ptr, ptr %o
  %u = load volatile i64, ptr %e
  %w = load volatile i64, ptr %q
  %changed = add i64 %u, %w
"""
    text = with_call(definition, call).text.replace("={rax},={rdi}", "={rax},={rdi},={rbx}")
    text = text.replace("call {i64,i64}", "call {i64,i64,i64}").replace(
        "extractvalue {i64,i64}", "extractvalue {i64,i64,i64}"
    )
    text = text.replace("  %sp =", "  %rbx = extractvalue {i64,i64,i64} %in, 2\n  %sp =")
    source = replace(samples.branch(), text=text)
    region = compile_batch([samples.switching(), source, samples.branch(), source])[3]
    assert isinstance(region, CompiledRegion)
    assert {r.symbol for r in region.data_relocations} == {".data", "L_c0"}
    memory = {STACK_POINTER + 16: struct.pack("<Q", 1), DATA + 0x800: struct.pack("<Q", 500)}
    for index, pointer, expected in ((0, 0, 21), (2, 0, 41), (1, 1, 522)):
        # the counter was incremented before it is read through the pointer
        end = run(region, {"rax": index, "rbx": pointer}, memory)
        assert end.registers["rax"] == expected


@pytest.mark.parametrize("size", [1, 8, 16, 24, 112, 120, 128, 136, 4000, 5000, 20000])
def test_frames_of_all_sizes_are_undone(size: int) -> None:
    body = f"""\
  %slot = alloca [{size} x i8]
  %last = getelementptr i8, ptr %slot, i64 {size - 1}
  store volatile i8 1, ptr %slot
  store volatile i8 77, ptr %last
  %b = load volatile i8, ptr %last
  %w = zext i8 %b to i64
"""
    region = compiled(samples.source(samples.region(body + samples.leave("x0", {"rax": "%w"}, "<R+24>"), ())))
    assert size <= region.frame < size + 16
    end = run(region, memory={STACK_POINTER: b"\x11" * 64})
    assert end.registers["rax"] == 77
    assert end.stack_pointer == STACK_POINTER + 24
    assert end.memory.mem_read(STACK_POINTER - 128, 192) == bytes(128) + b"\x11" * 64


def test_a_frame_of_unknown_size_is_a_failure() -> None:
    body = "  %slot = alloca i8, i64 %rax\n  store volatile i8 1, ptr %slot\n"
    source = samples.source(samples.region(body + samples.leave("x0", {"rax": "%rax"}), ("rax",)))
    good, bad = compile_batch([samples.branch(), source])
    assert isinstance(good, CompiledRegion)
    assert isinstance(bad, CompileFailure)
    assert "frame is not understood" in bad.reason
