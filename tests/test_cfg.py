"""Control-flow graphs: blocks, entries, jump tables, calls that do not return, code that is no code."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from lifter.cfg import build_all, build_graph, foreign_targets
from lifter.descent import CROSSED, CROSSES_END, MISPLACED_POINTER, NO_CODE, OVERLAP, UNREACHED
from lifter.graph import FunctionGraph
from lifter.image.load import open_image
from lifter.image.types import Image
from lifter.instruction import Flow
from lifter.liveness import analyse
from lifter.registers import RBX, gpr
from tests.corpus import Cell, build, programs

Graphs = Mapping[int, FunctionGraph]


def assemble(tmp_path: Path, text: str, *flags: str) -> tuple[Image, dict[str, int]]:
    """An executable without C library made of assembly (AT&T syntax), and its symbols."""
    source, output = tmp_path / "code.s", tmp_path / "code"
    source.write_text(f".text\n.globl _start\n{text}\n")
    command = ["gcc", "-nostdlib", "-static", "-Wl,--build-id=none", *flags, "-o", str(output), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    names = subprocess.run(["nm", str(output)], check=True, capture_output=True, text=True).stdout
    symbols = {name: int(value, 16) for value, _, name in (line.split() for line in names.splitlines())}
    return open_image(output), symbols


def function(name: str, body: str) -> str:
    return f".type {name},@function\n{name}:\n{body}\n.size {name}, .-{name}\n"


def graphs_of(image: Image) -> dict[int, FunctionGraph]:
    graphs = build_all(image, image.functions)
    for graph in graphs.values():
        check_invariants(graph)
    return graphs


def check_invariants(graph: FunctionGraph) -> None:
    """What the documentation of the types promises."""
    end = graph.function.address
    for address, block in graph.blocks.items():
        assert address == block.address >= end
        end = block.end
        assert end <= graph.function.end
        for instruction in block.instructions[:-1]:
            assert instruction.flow is Flow.NEXT
        for where, instruction in block.addressed():
            if instruction.target is None or instruction.flow is Flow.CALL:
                continue
            target = where + instruction.size + instruction.target
            assert target in block.successors or where in graph.tail_calls
        for successor in block.successors:
            left_out = any(refusal.address <= successor for refusal in graph.refusals)
            assert successor in graph.blocks or left_out
        if block.last.flow in (Flow.CALL, Flow.CALL_INDIRECT, Flow.SYSCALL):
            assert set(block.successors) <= graph.entries
    assert graph.entries <= graph.blocks.keys()


def cell(name: str, compiler: str, optimisation: str, link: str, stripped: bool = False) -> Cell:
    program = next(program for program in programs() if program.name == name)
    return Cell(program, compiler, optimisation, link, stripped)


@pytest.mark.needs("gcc", "clang")
@pytest.mark.parametrize(
    ("compiler", "optimisation", "link", "stripped"),
    [
        ("gcc", "O0", "pie", False),
        ("gcc", "O2", "pie", True),
        ("gcc", "Os", "nopie", False),
        ("clang", "O0", "nopie", True),
        ("clang", "O2", "pie", False),
    ],
)
def test_switches_are_resolved(built: Path, compiler: str, optimisation: str, link: str, stripped: bool) -> None:
    image = open_image(build(cell("switches", compiler, optimisation, link, stripped), built))
    graphs = graphs_of(image)
    assert [jump for graph in graphs.values() for jump in graph.unresolved] == []
    tables = [table for graph in graphs.values() for table in graph.tables.values()]
    assert len(tables) >= 5
    assert all(table.jump in {b.last_address for g in graphs.values() for b in g.blocks.values()} for table in tables)


@pytest.mark.needs("gcc", "valgrind")
@pytest.mark.parametrize(
    ("program", "optimisation", "link"),
    [("computed_goto", "O1", "nopie"), ("jumps_asm", "O2", "pie")],
)
def test_whatever_runs_is_in_a_block(built: Path, tmp_path: Path, program: str, optimisation: str, link: str) -> None:
    binary = build(cell(program, "gcc", optimisation, link), built)
    image = open_image(binary)
    graphs = graphs_of(image)
    known = {a for graph in graphs.values() for block in graph.blocks.values() for a, _ in block.addressed()}
    complete = [graph for graph in graphs.values() if graph.complete]
    left_out = [refusal for graph in complete for refusal in graph.refusals if refusal.reason == OVERLAP]
    executed = executed_addresses(binary, tmp_path)
    missing = {
        address
        for address in executed - known
        if (owner := image.function_at(address)) is not None
        and graphs[owner.address].complete
        and not any(r.address <= address < r.address + len(r.code) for r in left_out)
    }
    assert len(executed & known) > 200
    assert len(complete) + 1 >= len(graphs)
    assert missing == set()


def executed_addresses(binary: Path, directory: Path) -> set[int]:
    """Addresses of the instructions that a run of the program executes in it, by callgrind."""
    output = directory / "callgrind.out"
    subprocess.run(
        ["valgrind", "--tool=callgrind", "--dump-instr=yes", f"--callgrind-out-file={output}", str(binary)],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    found: set[int] = set()
    inside, names, address = False, dict[str, str](), 0
    for line in output.read_text().splitlines():
        if match := re.match(r"(c?)ob=\((\d+)\)(?: (.*))?$", line):
            if match[3]:
                names[match[2]] = match[3]
            if not match[1]:
                inside = Path(names[match[2]]).name == binary.name
        elif match := re.match(r"(?:0x([0-9a-f]+)|([+-]\d+)|\*)( \S+){1,3}$", line):
            address = int(match[1], 16) if match[1] else address + int(match[2] or 0)
            if inside:
                found.add(address)
    return found


@pytest.mark.needs("gcc")
def test_blocks_end_where_control_can_leave(tmp_path: Path) -> None:
    body = "test %edi,%edi\nje 1f\ncall leaf\ninc %eax\nsyscall\n1: nop\nret"
    image, symbols = assemble(tmp_path, function("_start", body) + function("leaf", "xor %eax,%eax\nret"))
    graph = graphs_of(image)[symbols["_start"]]
    shapes = [[instruction.mnemonic for instruction in block.instructions] for block in graph.blocks.values()]
    assert shapes == [["test", "je"], ["call"], ["inc", "syscall"], ["nop", "ret"]]
    start, call, after, end = graph.blocks
    assert graph.blocks[start].successors == (end, call)
    assert graph.blocks[call].successors == (after,)
    assert graph.entries == {start, after, end}
    assert graph.callees == {call: symbols["leaf"]}


@pytest.mark.needs("gcc")
def test_local_functions_that_never_return(tmp_path: Path) -> None:
    text = (
        function("_start", "test %edi,%edi\nje 1f\nret\n1: call die\n.quad -1, -1")
        + function("die", "call deeper\nint3")
        + function("deeper", "1: pause\njmp 1b")
    )
    image, symbols = assemble(tmp_path, text)
    graphs = graphs_of(image)
    graph = graphs[symbols["_start"]]
    (call,) = graph.noreturn
    assert graph.callees[call] == symbols["die"]
    assert max(block.end for block in graph.blocks.values()) == call + 5
    assert graphs[symbols["die"]].noreturn == {symbols["die"]}


@pytest.mark.needs("gcc")
def test_data_after_a_call_is_not_code(tmp_path: Path) -> None:
    # To the graph `leaf` returns; what follows its call does not decode.
    text = function("_start", "call leaf\n.byte 0x06, 0x06, 0x06, 0x06") + function("leaf", "ret")
    image, symbols = assemble(tmp_path, text)
    graph = graphs_of(image)[symbols["_start"]]
    assert list(graph.blocks) == [symbols["_start"]]
    assert graph.noreturn == {symbols["_start"]}
    assert [refusal.reason for refusal in graph.refusals] == [NO_CODE]


@pytest.mark.needs("gcc")
def test_calls_from_code_that_was_left_out_are_foreign(tmp_path: Path) -> None:
    # Nothing is seen to lead behind the jump, but what stands there calls `leaf` and reads what it returns in rbx.
    body = "call leaf\njmp *(%rax)\nunseen: call leaf\nmov %rbx,%rax\nret"
    image, symbols = assemble(tmp_path, function("_start", body) + function("leaf", "xor %ebx,%ebx\nret"))
    graphs = graphs_of(image)
    assert not any(b.address <= symbols["unseen"] < b.end for b in graphs[symbols["_start"]].blocks.values())
    assert symbols["leaf"] in foreign_targets(image, graphs)[symbols["leaf"]]
    leaf = graphs[symbols["leaf"]]
    (block,) = leaf.blocks.values()
    assert analyse(image, graphs).live_at(leaf, block.last_address) >> RBX & 1


@pytest.mark.needs("gcc")
def test_overlapping_instructions_are_in_no_block(tmp_path: Path) -> None:
    body = "test %edi,%edi\nje 1f\n.byte 0xf0\n1: cmpxchg %rax,(%rsi)\nmov %eax,%ecx\nret"
    image, symbols = assemble(tmp_path, function("_start", body))
    graph = graphs_of(image)[symbols["_start"]]
    (refusal,) = graph.refusals
    assert refusal.reason == OVERLAP
    assert refusal.code == bytes.fromhex("f0 48 0f b1 06")
    assert [[i.mnemonic for i in block.instructions] for block in graph.blocks.values()] == [
        ["test", "je"],
        ["mov", "ret"],
    ]
    after = refusal.address + len(refusal.code)
    assert after in graph.entries


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("size", [1, 2, 4, 6])
@pytest.mark.parametrize("pointed", [False, True])
def test_an_instruction_that_two_functions_share_is_in_neither(tmp_path: Path, size: int, pointed: bool) -> None:
    # `movabs $0x9090909090909090, %rax`, of which the second function is said to begin within.
    body = "test %edi, %edi; jz 1f; ret; 1: .byte 0x48, 0xb8"
    shared = f".type second, @function; second = first_end + {size} - 2; .size second, 20"
    text = f"{function('_start', body)} first_end: .fill 8, 1, 0x90; ret; .fill 9, 1, 0x90\n"
    text = text.replace(".size _start, .-_start", f".size _start, .-_start+{size - 2}")
    data = "\n.data; .quad first_end + 8" if pointed else ""
    image, symbols = assemble(tmp_path, text + shared + data)
    graphs = graphs_of(image)
    first, second = graphs[symbols["_start"]], graphs[symbols["second"]]
    assert [refusal.reason for refusal in first.refusals] == [CROSSES_END]
    assert CROSSED in [refusal.reason for refusal in second.refusals]
    after = symbols["first_end"] + 8
    assert min(second.blocks) == after and after in second.open_entries


def test_constants_between_code_are_left_alone(tmp_path: Path) -> None:
    body = "lea table(%rip),%rdx\nmov (%rdx),%eax\njmp 1f\ntable: .long 0x00010203, 0xc3c3c3c3\n1: ret"
    image, symbols = assemble(tmp_path, function("_start", body), "-static-pie")
    assert symbols["table"] in image.code_pointers
    graph = graphs_of(image)[symbols["_start"]]
    table = range(symbols["table"], symbols["table"] + 8)
    assert not [address for block in graph.blocks.values() for address, _ in block.addressed() if address in table]
    assert [refusal.reason for refusal in graph.refusals] == [UNREACHED]


@pytest.mark.needs("gcc")
def test_code_that_only_data_points_to(tmp_path: Path) -> None:
    body = "jmp *labels(%rip)\none: mov $1,%eax\nret\ntwo: mov $2,%eax\nret"
    text = function("_start", body) + ".data\nlabels: .quad one, two\n"
    image, symbols = assemble(tmp_path, text, "-static-pie")
    graph = graphs_of(image)[symbols["_start"]]
    assert {symbols["one"], symbols["two"]} <= graph.entries
    assert graph.unresolved == (symbols["_start"],)
    assert not graph.complete


@pytest.mark.needs("gcc")
def test_a_label_that_code_hands_out_is_code(tmp_path: Path) -> None:
    body = "lea later(%rip),%rdx\nmov %rdx,8(%rdi)\nret\nlater: mov $1,%eax\nret"
    image, symbols = assemble(tmp_path, function("_start", body), "-static-pie")
    graph = graphs_of(image)[symbols["_start"]]
    assert symbols["later"] in graph.entries
    assert not graph.refusals


@pytest.mark.needs("gcc")
def test_a_pointer_into_an_instruction_keeps_it_out_of_the_blocks(tmp_path: Path) -> None:
    text = function("_start", "nop\nwide: mov $0x11223344,%eax\nret") + ".data\n.quad wide + 2\n"
    image, symbols = assemble(tmp_path, text, "-static-pie")
    graph = graphs_of(image)[symbols["_start"]]
    assert [refusal.reason for refusal in graph.refusals] == [MISPLACED_POINTER]
    assert list(graph.blocks) == [symbols["_start"], symbols["wide"] + 5]


@pytest.mark.needs("gcc")
def test_jumps_into_other_functions_are_entries_there(tmp_path: Path) -> None:
    text = (
        function("_start", "test %edi,%edi\njne middle\ncall inner\nret")
        + function("other", "nop\nnop\nmiddle: inc %eax\nnop\ninner: dec %eax\nret")
        + function("falls", "xor %eax,%eax")
        + function("below", "ret")
    )
    image, symbols = assemble(tmp_path, text)
    graphs = graphs_of(image)
    assert graphs[symbols["other"]].entries == {symbols["other"], symbols["middle"], symbols["inner"]}
    start = graphs[symbols["_start"]]
    assert {start.callees[jump] for jump in start.tail_calls} == {symbols["middle"]}
    # The same when the jumping function is not looked at.
    chosen = [f for f in image.functions if f.address == symbols["other"]]
    alone = build_all(image, chosen)[symbols["other"]]
    assert {symbols["middle"], symbols["inner"]} <= alone.entries


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(
    ("body", "tail"),
    [
        ("mov (%rdi),%rax\njmp *%rax", True),
        ("push %rbx\nmov (%rdi),%rax\npop %rbx\njmp *%rax", True),
        ("push %rbp\nmov %rsp,%rbp\nsub $64,%rsp\nmov (%rdi),%rax\nleave\njmp *%rax", True),
        ("sub $8,%rsp\nmov (%rdi),%rax\njmp *%rax\nadd $8,%rsp\nret", False),
        ("jmp *handlers(,%rdi,8)", True),
        ("mov %rsi,%rax\nadd (%rdi,%rdx,8),%rax\njmp *%rax", False),
        ("mov (%rdi),%rax\njmp *%rax\nxor %eax,%eax\n1: dec %edi\njne 1b\nret", False),
    ],
)
def test_indirect_tail_calls(tmp_path: Path, body: str, tail: bool) -> None:
    text = function("_start", body) + function("one", "ret") + ".data\nhandlers: .quad one, one\n"
    image, symbols = assemble(tmp_path, text)
    graph = graphs_of(image)[symbols["_start"]]
    assert bool(graph.tail_calls) == tail
    assert bool(graph.unresolved) != tail
    assert not graph.tables


@pytest.mark.needs("gcc")
def test_unreached_code_may_run_into_a_block(tmp_path: Path) -> None:
    body = "test %edi,%edi\njne 1f\nret\nlost: inc %eax\n1: inc %eax\nret"
    image, symbols = assemble(tmp_path, function("_start", body), "-static-pie")
    graph = graphs_of(image)[symbols["_start"]]
    assert [refusal.reason for refusal in graph.refusals] == [UNREACHED]
    assert graph.refusals[0].address + 2 in graph.entries


TABLES = {
    "far": (
        "and $3,%edi\nlea table(%rip),%rdx\nadd (%rdx,%rdi,8),%rdx\nnop\njmp *%rdx",
        ".quad 1f-table, 2f-table, 3f-table, 2f-table",
    ),
    "relative": (
        "cmp $3,%edi\nja 9f\nmov %edi,%edi\nlea table(%rip),%rdx\nmovslq (%rdx,%rdi,4),%rax\nadd %rdx,%rax\n"
        "notrack jmp *%rax",
        ".long 1f-table, 2f-table, 3f-table, 2f-table",
    ),
    "biased": (
        "lea -10(%rdi),%eax\ncmp $3,%eax\nja 9f\nmov %edi,%edi\njmp *table-80(,%rdi,8)",
        ".quad 1f, 2f, 3f, 2f",
    ),
    "spilled": (
        "push %rbp\nmov %rsp,%rbp\nmov %edi,%eax\nsub $3,%rax\nmov %rdi,-8(%rbp)\nja 8f\nmov -8(%rbp),%rax\n"
        "mov table(,%rax,8),%rax\njmp *%rax\n8: pop %rbp",
        ".quad 1f, 2f, 3f, 2f",
    ),
    "shifted": (
        "mov %edi,%eax\nshr $28,%eax\ncmp $0x3fffffff,%edi\nja 9f\nlea table(%rip),%rdx\nmovslq (%rdx,%rax,4),%rax\n"
        "add %rdx,%rax\njmp *%rax",
        ".long 1f-table, 2f-table, 3f-table, 2f-table, 1f-table+1",
    ),
    "longer mask": (
        "test %esi,%esi\nje 9f\nand $31,%edi\nlea table(%rip),%rdx\nlea next(%rip),%rcx\n"
        "movslq -16(%rdx,%rdi,4),%rax\nadd %rdx,%rax\njmp *%rax",
        ".long 1f-table, 2f-table, 3f-table, 2f-table\nnext: .long 1f-next, 2f-next",
    ),
    "masked": ("and $3,%edi\nmov table(,%rdi,8),%rax\njmp *%rax", ".quad 1f, 2f, 3f, 2f"),
    "hoisted": (
        "lea table(%rip),%r8\n5: mov (%rsi),%edi\ninc %rsi\ntest %edi,%edi\njs 5b\ncmp $3,%edi\njae 7f\nnop\n"
        "7: cmp $3,%edi\nja 9f\nmovslq (%r8,%rdi,4),%rax\nadd %r8,%rax\njmp *%rax",
        ".long 1f-table, 2f-table, 3f-table, 2f-table",
    ),
    "unbounded": (
        "test %esi,%esi\nje 9f\nmov (%rsi),%eax\njmp *table(,%rax,8)",
        ".quad 1f, 2f, 3f, 2f\nend: .quad 1",
    ),
}


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("form", TABLES)
def test_forms_of_jump_tables(tmp_path: Path, form: str) -> None:
    code, table = TABLES[form]
    # Numeric labels are local to their file position, so the cases come before the table in the same section order.
    table = re.sub(r"([123])f", r"case\1", table)
    body = f"{code}\n9: ret\ncase1: mov $1,%eax\nret\ncase2: mov $2,%eax\nret\ncase3: mov $3,%eax\nret"
    text = function("_start", body) + f".section .rodata\n.balign 8\ntable: {table}\n.quad 7\n"
    image, symbols = assemble(tmp_path, text)
    graph = graphs_of(image)[symbols["_start"]]
    (found,) = graph.tables.values()
    assert found.address == symbols["table"]
    assert found.targets == tuple(symbols[f"case{number}"] for number in (1, 2, 3, 2))
    assert graph.complete
    assert {refusal.reason for refusal in graph.refusals} <= {UNREACHED}  # The `ret` of what has no bound to miss.


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("bound", ["cmp $3,%rdx; ja 9f", ""])
def test_a_table_after_another_one_whose_index_is_biased(tmp_path: Path, bound: str) -> None:
    # libswipl's interpreter: the address for index 0 lies in the table before, whose offsets have another base.
    body = (
        "lea one(%rip),%r15\nlea two(%rip),%r14\n5: movzbl (%rsi),%eax\ninc %rsi\ncmp $6,%rax\nja 9f\n"
        "cmp $2,%rax\nja 7f\nmovslq (%r15,%rax,4),%rdx\nadd %r15,%rdx\njmp *%rdx\n"
        f"7: lea -3(%rax),%rdx\n{bound}\nmovslq (%r14,%rdx,4),%rdx\nadd %r14,%rdx\njmp *%rdx\n"
        "case1: inc %edi\njmp 5b\ncase2: dec %edi\njmp 5b\ncase3: neg %edi\njmp 5b\n9: ret\n"
    )
    data = ".section .rodata\n.balign 4\none: .long case1-one, case1-one, case2-one\n"
    data += "two: .long case3-two, case2-two, case3-two, case1-two\nend: .long 7\n"
    image, symbols = assemble(tmp_path, function("_start", body) + data, "-static-pie")
    graph = graphs_of(image)[symbols["_start"]]
    tables = {table.address: table.targets for table in graph.tables.values()}
    first, second, third = (symbols[f"case{number}"] for number in (1, 2, 3))
    assert tables == {symbols["one"]: (first, first, second), symbols["two"]: (third, second, third, first)}
    assert not graph.refusals


@pytest.mark.needs("gcc")
def test_a_table_without_bound_leads_to_a_call_that_ends_the_function(tmp_path: Path) -> None:
    body = "mov (%rsi),%eax\njmp *table(,%rax,8)\ncase1: ret\ncase2: call *stop(%rip)"
    text = function("_start", body) + ".section .rodata\ntable: .quad case1, case2, 7\n.data\nstop: .quad 0\n"
    image, symbols = assemble(tmp_path, text)
    graph = graphs_of(image)[symbols["_start"]]
    (found,) = graph.tables.values()
    assert found.targets == (symbols["case1"], symbols["case2"])
    assert graph.complete


@pytest.mark.needs("gcc")
def test_a_table_without_bound_leads_to_code_that_jumps_into_a_cold_part(tmp_path: Path) -> None:
    body = "mov (%rsi),%eax\njmp *table(,%rax,8)\ncase1: ret\ncase2: test %edi,%edi\nje inner\nret"
    text = function("_start", body) + function("cold", "nop\ninner: xor %eax,%eax\njmp case1")
    image, symbols = assemble(tmp_path, text + ".section .rodata\ntable: .quad case1, case2, 7\n")
    graph = graphs_of(image)[symbols["_start"]]
    assert [table.targets for table in graph.tables.values()] == [(symbols["case1"], symbols["case2"])]
    assert graph.complete


@pytest.mark.needs("gcc")
def test_a_table_without_bound_may_lead_to_code_that_nothing_else_does(tmp_path: Path) -> None:
    body = "mov (%rsi),%eax\njump: jmp *table(,%rax,8)\ncase1: xor %ebx,%ebx\nret\nlost: mov %ebx,%eax\nret"
    text = function("_start", body) + ".section .rodata\ntable: .quad case1, 7, lost + 1\n"
    image, symbols = assemble(tmp_path, text)
    graphs = graphs_of(image)
    graph = graphs[symbols["_start"]]
    assert [table.targets for table in graph.tables.values()] == [(symbols["case1"],)]
    assert graph.unresolved == (symbols["jump"],)
    assert analyse(image, graphs, "abi").live_at(graph, symbols["jump"]) & gpr(RBX)


@pytest.mark.needs("gcc")
def test_one_jump_of_two_tables(tmp_path: Path) -> None:
    body = (
        "test %esi,%esi\nje 1f\nand $1,%edi\nmov first(,%rdi,8),%rax\njmp 2f\n1: and $1,%edi\n"
        "mov second(,%rdi,8),%rax\n2: jmp *%rax\ncase1: mov $1,%eax\nret\ncase2: mov $2,%eax\nret\n"
        "case3: mov $3,%eax\nret"
    )
    tables = ".section .rodata\nfirst: .quad case1, case2\nsecond: .quad case2, case3\n.quad 7"
    image, symbols = assemble(tmp_path, function("_start", body) + tables)
    (found,) = graphs_of(image)[symbols["_start"]].tables.values()
    assert set(found.targets) == {symbols[f"case{number}"] for number in (1, 2, 3)}


@pytest.mark.needs("gcc")
def test_one_function_alone(tmp_path: Path) -> None:
    text = function("_start", "nop\nsecond: inc %eax\nret")
    image, symbols = assemble(tmp_path, text)
    graph = build_graph(image, image.functions[0], [symbols["second"]])
    check_invariants(graph)
    assert graph.entries == {symbols["_start"], symbols["second"]}
