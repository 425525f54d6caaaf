"""Verification against overlays made by hand: right ones pass, each kind of wrong one is caught."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from codecache.types import Overlay, Patch
from jit import datafile
from jit.datafile import COUNTERS_OFFSET
from jit.tracepoints import Point, Tracepoint
from jit.verify import Case, VerifyReport, render, replay, verify
from lifter.errors import UsageError
from lifter.image.types import Function, Image, Kind, Segment

TEXT, BUFFER, CODE, DATA = 0x401000, 0x480000, 0x500000, 0x600000

FUNCTIONS = """
store:                        # two stores and a result
    mov [rdi], rsi
    mov [rdi+8], edx
    lea rax, [rsi+rdx]
    ret
store_end:
loop:                         # a loop with a block of its own
    mov eax, 20
loop_body:
1:  dec eax
    jne 1b
loop_end: ret
fill:
    mov edi, offset 0x480000
    mov ecx, 40
    rep stosb
    ret
framed:                       # calls a function, keeps its frame
    push rbx
    mov rbx, rdi
    call inner
    add rax, rbx
    pop rbx
    ret
inner:
    sub rsp, 16
    mov [rsp], rsi
    mov rax, [rsp]
    add rsp, 16
    ret
keeper:
    push rbx
    mov ebx, 7
    add rdi, rbx
keeper_call:
    call framed
    pop rbx
    ret
callee:
    mov esi, 3
    mov r8d, 4
callee_end:
    ret
pointee:
    mov esi, 3
    mov r8d, 4
pointee_end:
    ret
pointed:
    lea r10, [rip + pointee]
    call r10
    mov edi, 1
    nop
pointed_end:
    mov r11d, 0x12345
    jmp r11
direct:
    call callee
    mov r11d, 0x12345
    jmp r11
part:
    mov [rdi], rax
    pop rbx
    pop rbp
    ret
switch:
    mov [rdi], rsp
    mov rsp, rsi
    pop rax
    jmp rax
into:
    lea r10, [rip + loop_body + 2]
    mov eax, 3
    test eax, eax
    jmp r10
astray:                       # into the middle of an instruction, from where another one reaches over `astray_end`
    lea r10, [rip + astray_body + 1]
    jmp r10
astray_body: mov al, 0xb8
astray_end: ret
    nop; nop; nop; nop
    ret
    ret
endless:
    mov [rdi], rax
    jmp endless
deep:
    sub rsp, 0xd8
    mov [rsp+0x10], rsi
    mov [rsp+0x18], rdi
    add rsp, 0xd8
    ret
flags:
    cmp rdi, rsi
    mov r8d, 0
    ret
uninitialised:                # copies what was on the stack below it
    mov rax, [rsp-256]
    mov [rdi], rax
    xor eax, eax
    ret
below:                        # writes far below its stack
    mov [rsp-256], rdi
    mov rax, rdi
    ret
choosing:                     # noise below its stack hardly ever decides otherwise
    xor eax, eax
    cmp qword ptr [rsp-256], 0x77
    sete al
    ret
avx:
    test rdi, 1
    jz 1f
    vaddps xmm0, xmm1, xmm2
1:  mov [rdi], rax
    ret
divide:
    mov rax, rdi
    xor edx, edx
    div rsi
    ret
outward:
    mov r11, rdi
    mov rdi, rsi
    jmp r11
chosen:                       # by a table, of which the last index is not checked
    and esi, 7
    mov eax, esi
    jmp [rax*8 + choices]
1:  xor eax, eax
    ret
2:  mov eax, 1
    ret
handler:                      # calls through memory
    push rbx
    call [rdi]
handler_back:
    pop rbx
    ret
releasing:                    # calls what is taken for the C library's `free`
    push rbx
    call releaser
releasing_end:
    mov ebx, 1
    pop rbx
    ret
releaser:
    syscall
    ret
.align 8
choices:
    .quad 1b, 2b, 0x123456789, 0x123456789, 0x123456789, 0x123456789, 0x123456789, 0x123456789
.align 16
end:
"""

Build = Callable[..., "Built"]


@dataclass(frozen=True)
class Built:
    """What `verify` needs of the engine's result, and the image that it is for."""

    image: Image
    overlay: Overlay
    tracepoints: tuple[Tracepoint, ...]

    def verify(self, name: str, **options: int) -> VerifyReport:
        function = next(f for f in self.image.functions if f.name == name)
        return verify(self.image, self, functions=[function], samples=options.pop("samples", 40), **options)


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    def make(code: str = "", patched: str = "", tracepoints: tuple[Tracepoint, ...] = (), offset: int = 0) -> Built:
        """Assembles FUNCTIONS, and `code` for the overlay; a jump to it stands at `offset` of function `patched`."""
        source = tmp_path / "f.s"
        source.write_text(
            f'.intel_syntax noprefix\n.text\n{FUNCTIONS}\n.section .overlay,"ax"\n.globl cache\ncache:\n{code}\n'
        )
        linked = tmp_path / "f"
        addresses = [
            f"-Wl,-Ttext={TEXT:#x},--section-start=.overlay={CODE:#x},--defsym=counters={DATA + COUNTERS_OFFSET:#x}"
        ]
        subprocess.run(
            ["gcc", "-nostdlib", "-no-pie", "-static", "-Wl,-e,0", *addresses, str(source), "-o", str(linked)],
            check=True,
        )
        with linked.open("rb") as stream:
            elf = ELFFile(stream)
            text = elf.get_section_by_name(".text").data()
            section = elf.get_section_by_name(".overlay")
            cache = section.data() if section else b""
            symbols = {s.name: s["st_value"] for s in elf.get_section_by_name(".symtab").iter_symbols()}
        names = "store loop fill framed inner keeper callee pointee pointed direct part switch into astray endless deep"
        names += " flags uninitialised below choosing avx divide outward chosen handler releasing releaser end"
        functions = tuple(
            Function(symbols[a], symbols[b] - symbols[a], a, a, address_taken=a == "pointee")
            for a, b in pairwise(names.split())
        )
        image = Image(
            path=linked, content=b"", kind=Kind.FIXED, is_static=True, is_go=False, entry=0, build_id="", soname="",
            segments=(
                Segment(TEXT, len(text), 0, text, True, False, True), Segment(BUFFER, 64, 0, b"", True, True, False),
            ), sections=(), functions=functions,
            plt={}, got={}, imports=frozenset(), needed=(), code_pointers=frozenset(),
        )  # fmt: skip
        patches = []
        if patched:
            at = symbols[patched] + offset
            before = text[at - TEXT : at - TEXT + 5]
            patches = [Patch(at, before, b"\xe9" + struct.pack("<i", CODE - at - 5))]
        data = datafile.encode(datafile.layout("f", "", (), 8))
        return Built(image, Overlay(CODE, cache, DATA, data, tuple(patches)), tracepoints)

    return make


def block(address: int, *terms: tuple[int, int]) -> Tracepoint:
    return Tracepoint(Point.BLOCK, "f", address, 1, 1, terms=terms)


def only_case(report: VerifyReport) -> Case:
    assert len(report.cases) == 1, render(report)
    return report.cases[0]


def test_code_that_does_the_same_passes(build: Build) -> None:
    same = "mov [rdi], rsi; mov [rdi+8], edx; lea rax, [rsi+rdx]; ret"
    report = build(same, "store").verify("store", strict=True)
    assert not report.cases
    assert report.functions[0].ends["returned"] > 20


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("mov [rdi], rsi; mov [rdi+8], edx; lea rax, [rsi+rdx+1]; ret", "rax:"),
        ("mov [rdi], rsi; lea rax, [rsi+rdx]; ret", "no further write found"),
        ("mov [rdi+8], edx; mov [rdi], rsi; lea rax, [rsi+rdx]; ret", "memory write number 1"),
        ("mov [rdi], rsi; mov [rdi+8], edx; mov [rdi+16], edx; lea rax, [rsi+rdx]; ret", "no further write expected"),
        ("mov [rdi], rsi; mov [rdi+8], rdx; lea rax, [rsi+rdx]; ret", "4 bytes"),
        ("mov [rdi], rsi; mov [rdi+8], edx; lea rax, [rsi+rdx]; ret 8", "rsp:"),
        ("mov [rdi], rsi; mov [rdi+8], edx; lea rax, [rsi+rdx]; xor ebx, ebx; ret", "rbx:"),
        ("mov [rdi], rsi; mov [rdi+8], edx; lea rax, [rsi+rdx]; pxor xmm7, xmm7; ret", "xmm7"),
        ("mov [rdi], rsi; mov [rdi+8], edx; lea rax, [rsi+rdx]; std; ret", "flags:"),
        ("mov [rdi], rsi; mov [rdi+8], edx; lea rax, [rsi+rdx]; fld1; ret", "x87"),
        ("mov [rdi], rsi; mov [rdi+8], edx; mov [rsp-8], rdx; lea rax, [rsi+rdx]; ret", "no further write expected"),
        ("1: jmp 1b", "runs on and on"),
        ("mov [rdi], rsi; mov [rdi+8], edx; ud2", "trapped"),
        ("mov [rdi], rsi; mov [rdi+8], edx; syscall; ret", "made a system call"),
        ("mov [rdi], rsi; mov [rdi+8], edx; mov rax, [0x7000000000000]; ret", "faulted"),
    ],
)
def test_what_differs_at_a_return_is_found(build: Build, code: str, found: str) -> None:
    case = only_case(build(code, "store").verify("store"))
    assert found in case.what


def test_a_region_may_use_dead_registers_and_dead_stack_unless_strict(build: Build) -> None:
    """r10 and flags are dead at a return, if the original changes them: `fill` does not, `divide` does."""
    code = "mov [rsp-0x88], rdx; mov r9, rsi; mov rax, rdi; xor edx, edx; div r9; mov r9, rsi; cmp r9, 0; ret"
    changed = "mov [rsp-0x88], rdx; mov rax, rdi; xor edx, edx; div rsi; cmp rax, 1; ret"
    assert not build(changed, "divide").verify("divide").cases
    assert "flags" in only_case(build("cmp rsi, rdi; mov r8d, 0; ret", "flags").verify("flags", strict=True)).what
    assert "r9:" in only_case(build(code, "divide").verify("divide")).what


def test_code_that_runs_longer_than_an_endless_original_is_no_difference(build: Build) -> None:
    """`endless` is stopped by us, and the slower overlay earlier in its work; a wrong overlay is found before."""
    slow = "1: mov [rdi], rax; " + "nop dword ptr [rax+rax+0x12345678]; " * 12 + "jmp 1b"
    report = build(slow, "endless").verify("endless")
    assert not report.cases
    assert report.functions[0].ends["ran on"] > 20
    assert "memory write" in only_case(build("1: mov [rdi], eax; jmp 1b", "endless").verify("endless")).what


def test_undefined_flags_are_not_compared(build: Build) -> None:
    """`div` leaves all arithmetic flags undefined; the `cmp` that follows in the overlay is then invisible."""
    code = "mov rax, rdi; xor edx, edx; div rsi; cmp rax, rdi; ret"
    assert not build(code, "divide").verify("divide", strict=True).cases


def test_no_flag_is_live_where_go_code_returns(build: Build) -> None:
    built = build("cmp rsi, rdi; mov r8d, 0; ret", "flags")
    assert "flags" in only_case(built.verify("flags", strict=True)).what
    go = replace(built, image=replace(built.image, is_go=True))
    assert not go.verify("flags", strict=True).cases


def test_a_frame_below_the_callers_stack_is_ignored_after_a_call(build: Build) -> None:
    """The region runs at the caller's RSP, while the run as a whole went deeper than its frame is."""
    code = "mov [rsp-0x90], rax; add rax, rbx; mov [rsp-0x98], rax; pop rbx; ret"
    assert not build(code, "framed", offset=9).verify("framed").cases
    code = "mov [rsp-0x60], rax; add rax, rbx; pop rbx; ret"
    assert "no further write expected" in only_case(build(code, "framed", offset=9).verify("framed")).what


def test_a_dead_callee_saved_register_may_be_saved_with_any_value(build: Build) -> None:
    """rbx is dead where `keeper` calls `framed`, which saves it all the same."""
    other = build(f"push rbx; add rdi, 7; jmp {TEXT:#x}+keeper_call-store", "keeper")
    assert not other.verify("keeper").cases
    assert "memory write number 3" in only_case(other.verify("keeper", strict=True)).what
    wrong = build(f"push rbx; mov rbx, rdi; add rdi, 8; jmp {TEXT:#x}+keeper_call-store", "keeper")
    assert "rax:" in only_case(wrong.verify("keeper")).what


def test_what_the_abi_loses_may_differ_where_it_is_handed_on(build: Build) -> None:
    """`pointee` is only called through a pointer: rsi and r8 are lost when it returns; not so in `callee`."""
    code = f"mov esi, 4; mov r8d, 5; jmp {TEXT:#x}+pointee_end-store"
    assert not build(code, "pointee").verify("pointed").cases
    code = f"mov esi, 4; mov r8d, 5; jmp {TEXT:#x}+callee_end-store"
    assert "registers differ" in only_case(build(code, "callee").verify("direct")).what
    code = f"xor edi, edi; xor r8d, r8d; jmp {TEXT:#x}+pointed_end-store"
    assert "rdi:" in only_case(build(code, "pointed", offset=10).verify("pointed")).what


def test_parts_of_functions_are_compared_as_far_as_their_own_frame_goes(build: Build) -> None:
    """`part` pops two registers that it never pushed, and returns to whatever is there."""
    report = build("mov [rdi], rax; pop rbp; pop rbx; ret", "part").verify("part")
    assert not report.cases
    assert report.functions[0].unchecked["a part of a function that pops what another part pushed (runs)"] > 20
    assert "memory write" in only_case(build("mov [rdi], eax; pop rbx; pop rbp; ret", "part").verify("part")).what


def test_another_stack_is_compared_if_it_can_be_one(build: Build) -> None:
    """The region keeps its frame below the new stack pointer, which may be a small number."""
    code = "mov [rsp-0x90], rsi; mov [rdi], rsp; mov rsp, rsi; mov [rsp-0x90], rdi; pop rax; jmp rax"
    report = build(code, "switch").verify("switch")
    assert not report.cases
    assert 0 < report.functions[0].unchecked["a stack pointer that random data made (runs)"] < 30
    code = "mov [rdi], rsp; mov rsp, rsi; mov [rsp-0x70], rdi; pop rax; jmp rax"
    assert "memory write" in only_case(build(code, "switch").verify("switch")).what


def test_a_frame_may_look_like_the_programs_next_write(build: Build) -> None:
    """`deep` first writes where the region, before it lowers RSP, spills the same value."""
    body = "mov [rsp+0x10], rsi; mov [rsp+0x18], rdi; add rsp, 0xd8; ret"
    code = f"mov [rsp-0xc8], rsi; mov [rsp-0xd0], rdi; sub rsp, 0xd8; {body}"
    assert not build(code, "deep").verify("deep").cases
    code = f"mov [rsp-0xc8], rsi; mov [rsp-0xd0], rdi; sub rsp, 0xd8; {body.replace('rdi', 'rdx')}"
    assert "memory write" in only_case(build(code, "deep").verify("deep")).what


def test_registers_are_compared_where_control_goes_outside(build: Build) -> None:
    code = "mov r11, rdi; lea rdi, [rsi+1]; jmp r11"
    case = only_case(build(code, "outward").verify("outward"))
    assert "rdi:" in case.what


def test_exits_of_traps_are_compared(build: Build) -> None:
    """A division by zero must stay one."""
    code = "mov rax, rdi; xor edx, edx; test rsi, rsi; jz 1f; div rsi; ret; 1: mov rax, rdi; xor edx, edx; ret"
    assert "trapped" in only_case(build(code, "divide").verify("divide", samples=200)).what


LOOP = "mov eax, 20; {}1: {}dec eax; jne 1b; {}ret"


def counting(build: Build, *code: str) -> VerifyReport:
    plain = build()
    start = plain.image.functions[1].address
    points = (block(start, (0, 1)), block(start + 5, (1, 1)), block(start + 9, (0, 2), (2, 1)))
    return build(LOOP.format(*code), "loop", points).verify("loop")


FIRST, SECOND, THIRD = (f"inc qword ptr [counters+{8 * index}]; " for index in range(3))


def test_counters_that_count_every_block_pass(build: Build) -> None:
    """Block 3 runs once: counters 0 and 2 give 2 * 1 + (2**64 - 1)."""
    report = counting(build, FIRST, SECOND, "sub qword ptr [counters+16], 1; ")
    assert not report.cases
    assert report.functions[0].counted == 40


@pytest.mark.parametrize(
    "code", [("", SECOND, ""), (FIRST, "", ""), (FIRST, SECOND + SECOND, ""), (FIRST, SECOND, THIRD)]
)
def test_wrong_counters_are_found(build: Build, code: tuple[str, ...]) -> None:
    assert "its counter says" in only_case(counting(build, *code)).what


def test_a_computed_jump_into_a_block_is_not_its_execution(build: Build) -> None:
    """`into` jumps to the second instruction of `loop`, which random data may do, but not the program."""
    start = build().image.functions[1].address
    points = (block(start + 5, (1, 1)),)
    plain = build("", "", (replace(points[0], size=4),))
    report = plain.verify("into")
    assert not report.cases
    assert report.functions[0].unchecked["a computed jump to where no block begins (runs)"] == 40
    assert "its counter says" in only_case(build("", "", points).verify("loop")).what


def test_a_computed_jump_that_runs_into_a_trampoline_is_no_difference(build: Build) -> None:
    astray = next(function for function in build().image.functions if function.name == "astray")
    body = (replace(block(astray.end - 9, (1, 1)), size=2),)
    report = build("ret", "astray_end", body).verify("astray")
    assert not report.cases
    assert report.functions[0].unchecked["a computed jump into overwritten code (runs)"] == 40
    assert build("ret", "astray_end").verify("astray").cases


def test_a_table_that_an_index_leaves_ends_what_is_counted(build: Build) -> None:
    start = next(function for function in build().image.functions if function.name == "chosen").address
    code = "and esi, 7; cmp esi, 1; ja 1f; {}1: mov eax, esi; jmp [rax*8 + choices]"
    report = build(code.format(FIRST), "chosen", (block(start, (0, 1)),)).verify("chosen")
    assert not report.cases
    assert 0 < report.functions[0].unchecked["a jump to where its table does not lead (runs)"] < 40
    report = build(code.format(""), "chosen", (block(start, (0, 1)),)).verify("chosen")
    assert "its counter says" in only_case(report).what


def test_a_return_address_may_be_pushed_before_the_target_is_read(build: Build) -> None:
    code = "push rbx; sub rsp, 8; mov qword ptr [rsp], offset handler_back{}; jmp [rdi]"
    report = build(code.format(""), "handler").verify("handler")
    assert not report.cases
    assert report.functions[0].ends["faulted"] > 3
    assert "memory write" in only_case(build(code.format("+1"), "handler").verify("handler")).what


def test_a_library_function_that_ends_the_program_ends_what_is_counted(build: Build) -> None:
    plain = build()
    start = next(function for function in plain.image.functions if function.name == "releasing").address
    code = "inc qword ptr [counters]; mov ebx, 1; pop rbx; ret"
    built = build(code, "releasing_end", (block(start, (0, 1)),))
    assert "its counter says" in only_case(built.verify("releasing")).what
    releaser = next(function for function in plain.image.functions if function.name == "releaser").address
    report = replace(built, image=replace(built.image, plt={releaser: "free"})).verify("releasing")
    assert not report.cases
    assert report.functions[0].unchecked["a function of the C library ends the program (runs)"] == 40


def test_a_repeated_string_instruction_counts_once(build: Build) -> None:
    start = next(f for f in build().image.functions if f.name == "fill").address
    points = (block(start + 10, (0, 1)),)
    code = f"inc qword ptr [counters]; mov edi, {BUFFER:#x}; mov ecx, 40; rep stosb; ret"
    report = build(code, "fill", points).verify("fill")
    assert not report.cases
    assert report.functions[0].counted == 40


def test_results_that_depend_on_dead_stack_are_no_differences(build: Build) -> None:
    """The region's frame shows through where the original reads what it never wrote."""
    code = "mov [rsp-256], rdi; mov rax, [rsp-256]; mov [rdi], rax; xor eax, eax; ret"
    report = build(code, "uninitialised").verify("uninitialised")
    assert not report.cases
    assert report.functions[0].unchecked["result depends on memory below the stack pointer (runs)"] > 0


def test_a_frame_that_the_original_overwrites_makes_no_difference(build: Build) -> None:
    lost = "lea rsp, [rsp-264]; mov [rsp], rsi; mov [rsp+8], rsi; mov [rsp+8], rdi; mov rsi, [rsp+8]; "
    report = build(lost + "lea rsp, [rsp+264]; mov rax, rdi; ret", "below").verify("below", strict=True)
    assert not report.cases
    assert report.functions[0].unchecked["a write to where frames of regions are (runs)"] > 30
    assert "rax:" in only_case(build("mov [rsp-256], rdi; mov rax, rsi; ret", "below").verify("below")).what


def test_a_choice_that_depends_on_dead_stack_is_no_difference(build: Build) -> None:
    """What the region leaves there decides, where noise would not."""
    code = "xor eax, eax; mov qword ptr [rsp-256], 0x77; cmp qword ptr [rsp-256], 0x77; sete al; ret"
    report = build(code, "choosing").verify("choosing")
    assert not report.cases
    assert report.functions[0].unchecked == {"result depends on memory below the stack pointer (runs)": 40}


def test_code_that_cannot_be_emulated_is_left_out_with_its_reason(build: Build) -> None:
    """Whatever the overlay does after the first such instruction is not compared."""
    code = "test rdi, 1; jz 1f; mov [rdi], rbx; xor ebx, ebx; ret; 1: mov [rdi], rax; ret"
    report = build(code, "avx").verify("avx")
    assert not report.cases
    reasons = report.functions[0].unchecked
    assert [reason for reason in reasons if "VEX" in reason and "(runs)" in reason]
    assert [reason for reason in reasons if "VEX" in reason and "(blocks)" in reason]
    assert "VEX" in render(report)


def test_a_case_is_saved_and_replayed(build: Build, tmp_path: Path) -> None:
    wrong = build("mov [rdi], rsi; mov [rdi+8], edx; lea rax, [rsi+rdx+1]; ret", "store")
    case = only_case(wrong.verify("store", seed=7))
    case.save(tmp_path / "case.json")
    loaded = Case.load(tmp_path / "case.json")
    assert loaded == case
    again = replay(loaded, wrong.image, wrong)
    assert again is not None
    assert again.what == case.what
    assert "lea rax, [rsi + rdx + 0x1]" in "\n".join(again.listing.instrumented)
    assert replay(loaded, wrong.image, build()) is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 1}', '{"format": 2}'])
def test_a_file_that_is_no_case_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "case.json").write_text(content)
    with pytest.raises(UsageError, match=r"case\.json"):
        Case.load(tmp_path / "case.json")


def test_a_case_of_another_file_is_refused(build: Build) -> None:
    wrong = build("ud2", "store")
    case = only_case(wrong.verify("store"))
    with pytest.raises(UsageError, match="build id"):
        replay(replace(case, build_id="12"), wrong.image, wrong)
    with pytest.raises(UsageError, match="has none"):
        replay(replace(case, address=TEXT + 1), wrong.image, wrong)


def test_a_patch_that_does_not_fit_is_an_error(build: Build) -> None:
    built = build("ret", "store")
    patch = built.overlay.patches[0]
    for wrong in (replace(patch, before=bytes(5)), replace(patch, address=DATA), replace(patch, after=b"")):
        with pytest.raises(ValueError, match="patch"):
            replace(built, overlay=replace(built.overlay, patches=(wrong,))).verify("store")


def test_runs_follow_from_the_seed(build: Build) -> None:
    built = build()
    assert built.verify("avx", seed=3) == built.verify("avx", seed=3)
    assert built.verify("avx", seed=3).functions[0] != built.verify("avx", seed=4).functions[0]
