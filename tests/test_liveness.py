"""Liveness: what calls, returns, jumps between functions and landing pads keep alive; noise in everything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from lifter.cfg import build_all
from lifter.errors import UsageError
from lifter.graph import FunctionGraph
from lifter.image.load import open_image
from lifter.image.types import Image
from lifter.liveness import Liveness, analyse
from lifter.registers import ARITHMETIC_FLAGS, CF, GPR_NAMES, GPRS, ZF, gpr
from lifter.summaries import ARGUMENTS, CALLEE_SAVED, RETURNED, TRACKED
from tests.corpus import build
from tests.liveness_oracle import Oracle
from tests.test_cfg import assemble, cell, function

Graphs = Mapping[int, FunctionGraph]

_START = function("_start", "call first\ncall second\nmov $60,%eax\nsyscall\n9: jmp 9b")


def mask(names: str) -> int:
    return sum(gpr(GPR_NAMES.index(name)) for name in names.split())


def analysed(tmp_path: Path, text: str, *flags: str) -> tuple[Liveness, Graphs, dict[str, int]]:
    image, symbols = assemble(tmp_path, text, *flags)
    graphs = build_all(image, image.functions)
    return analyse(image, graphs), graphs, symbols


def at(liveness: Liveness, graphs: Graphs, image_symbols: Mapping[str, int], label: str) -> int:
    """What is live before the instruction at a label."""
    address = image_symbols[label]
    graph = next(graph for graph in graphs.values() if graph.function.address <= address < graph.function.end)
    return liveness.live_at(graph, address)


def at_return(liveness: Liveness, graphs: Graphs, address: int) -> int:
    """What is live before the one-byte `ret` that ends a function."""
    graph = graphs[address]
    return liveness.live_at(graph, graph.function.end - 1)


@pytest.mark.needs("gcc")
def test_calls_of_local_functions_use_and_kill_what_these_do(tmp_path: Path) -> None:
    text = function(
        "_start", "before: call callee\nmov %r8,(%r9)\nmov %rbx,(%r9)\nmov $60,%eax\nsyscall\n9: jmp 9b"
    ) + function("callee", "mov (%r13),%rbx\nmov %r14,8(%r13)\nret")
    liveness, graphs, symbols = analysed(tmp_path, text)
    live = at(liveness, graphs, symbols, "before")
    # Neither argument registers as the ABI has it, nor rbx, which the callee overwrites.
    assert live & mask("r13 r14 r8 r9 rbx rcx") == mask("r13 r14 r8 r9")
    assert not live & ARITHMETIC_FLAGS


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(
    "end",
    [
        "jmp thunk\nthunk: call 1f\n2: pause\njmp 2b\n1: lea 8(%rsp),%rsp\nfinal: ret",
        "call inner\n9: jmp 9b\ninner: test %edi,%edi\nje 1f\nnop\n1: add $8,%rsp\nfinal: ret",
        "call inner\n9: jmp 9b\ninner: mov %rsi,(%rsp)\nfinal: ret",
        "push %rsi\nfinal: ret",
    ],
)
def test_a_return_to_elsewhere_keeps_everything(tmp_path: Path, end: str) -> None:
    text = function("_start", "call callee\nmov %rax,(%rsi)\nmov $60,%eax\nsyscall\n9: jmp 9b")
    text += function("callee", f"mov %rdi,%rax\nbefore: {end}")
    liveness, graphs, symbols = analysed(tmp_path, text)
    for label in ("before", "final"):
        assert at(liveness, graphs, symbols, label) & GPRS == GPRS


@pytest.mark.needs("gcc")
def test_an_indirect_call_may_keep_what_the_compiler_knows_that_it_keeps(tmp_path: Path) -> None:
    text = function(
        "_start", "lea callee(%rip),%rcx\nbefore: call *%rcx\nmov %r11,(%r9)\nmov $60,%eax\nsyscall\n9: jmp 9b"
    ) + function("callee", "mov %r13,8(%rdi)\nret")
    liveness, graphs, symbols = analysed(tmp_path, text)
    assert at(liveness, graphs, symbols, "before") & mask("r11 r9 r13 rdi") == mask("r11 r9 r13 rdi")


@pytest.mark.needs("gcc")
def test_a_register_overwritten_on_some_paths_only_is_not_killed(tmp_path: Path) -> None:
    text = function("_start", "before: call callee\nmov %rbx,(%r9)\nmov $60,%eax\nsyscall\n9: jmp 9b") + function(
        "callee", "test %edi,%edi\nje 1f\nxor %ebx,%ebx\n1: ret"
    )
    liveness, graphs, symbols = analysed(tmp_path, text)
    assert at(liveness, graphs, symbols, "before") & mask("rbx rdi") == mask("rbx rdi")


@pytest.mark.needs("gcc")
def test_returns_keep_what_callers_read(tmp_path: Path) -> None:
    text = function("_start", "call callee\nsetc (%rsi)\nmov %r10,(%rsi)\nmov $60,%eax\nsyscall\n9: jmp 9b") + function(
        "callee", "mov $1,%r10d\nmov $2,%r11d\nmov $3,%eax\nshr $1,%eax\nret"
    )
    liveness, graphs, symbols = analysed(tmp_path, text)
    live = at_return(liveness, graphs, symbols["callee"])
    assert live & mask("r10 r11 rax rsi") == mask("r10 rsi")
    assert live & ARITHMETIC_FLAGS == CF


@pytest.mark.needs("gcc")
def test_returns_of_functions_that_others_can_call_follow_the_abi(tmp_path: Path) -> None:
    clobbers = "\n".join(f"xor %{name},%{name}" for name in GPR_NAMES if name != "rsp")
    text = function("_start", f"{clobbers}\nret")
    liveness, graphs, symbols = analysed(tmp_path, text)
    assert at_return(liveness, graphs, symbols["_start"]) == RETURNED


@pytest.mark.needs("gcc")
def test_what_a_function_never_writes_stays_live(tmp_path: Path) -> None:
    # Callers that were compiled knowing this callee (gcc -fipa-ra) may rely on it.
    text = _START + function("first", "call second\nret") + function("second", "xor %ebx,%ebx\nret")
    liveness, graphs, symbols = analysed(tmp_path, text)
    assert at_return(liveness, graphs, symbols["second"]) & GPRS == GPRS & ~mask("rbx")


@pytest.mark.needs("gcc")
def test_jumps_into_other_functions_carry_liveness(tmp_path: Path) -> None:
    text = (
        _START
        + function("first", "mov $5,%r10d\nleave1: jmp inside")
        + function("second", "mov $6,%r10d\nmov $7,%r11d\ninside: mov %r10,(%rdi)\nret")
        + function("above", "mov $1,%ecx\nfalls: mov $2,%edx")
        + function("below", "add %ecx,(%rdi)\nret")
    )
    liveness, graphs, symbols = analysed(tmp_path, text)
    assert at(liveness, graphs, symbols, "leave1") & mask("r10 rdi") == mask("r10 rdi")
    assert at(liveness, graphs, symbols, "falls") & mask("rcx rdi") == mask("rcx rdi")


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(
    ("body", "live"),
    [
        ("here: jmp *%rax", ARGUMENTS | CALLEE_SAVED),
        ("sub $8,%rsp\nhere: jmp *%rax", TRACKED),
        ("here: ud2", TRACKED),
        ("push %rdi\nhere: ret", TRACKED),
        ("mov %rdi,(%rsp)\nhere: ret", TRACKED),
    ],
)
def test_ways_out_to_the_unknown(tmp_path: Path, body: str, live: int) -> None:
    liveness, graphs, symbols = analysed(tmp_path, function("_start", body))
    assert at(liveness, graphs, symbols, "here") & live == live


@pytest.mark.needs("gcc")
def test_returning_on_another_stack_keeps_everything(tmp_path: Path) -> None:
    text = _START + function("first", "call second\nret") + function("second", "mov (%rdi),%rsp\nret")
    liveness, graphs, symbols = analysed(tmp_path, text)
    assert at_return(liveness, graphs, symbols["second"]) == TRACKED


@pytest.mark.needs("gcc")
def test_system_calls(tmp_path: Path) -> None:
    text = function("_start", "here: syscall\nmov %rcx,(%rbx)\nmov %rax,(%rbx)\nmov $60,%eax\nsyscall\n9: jmp 9b")
    liveness, graphs, symbols = analysed(tmp_path, text)
    live = at(liveness, graphs, symbols, "here")
    assert live & mask("rax rdi rsi rdx r10 r8 r9 rbx rcx r11") == mask("rax rdi rsi rdx r10 r8 r9 rbx")


@pytest.mark.needs("gcc")
def test_live_at_and_live_in_agree(built: Path) -> None:
    image = open_image(build(cell("ipa", "gcc", "O2", "pie"), built))
    graphs = build_all(image, image.functions)
    liveness = analyse(image, graphs)
    checked = 0
    for graph in graphs.values():
        for address, live in liveness.live_in(graph).items():
            assert liveness.live_at(graph, address) == live | gpr(4)
            for successor in graph.blocks[address].successors:
                assert not liveness.live_in(graph).get(successor, TRACKED) & ~liveness.live_after(graph, address)
            checked += 1
    assert checked > 50


@pytest.mark.needs("gcc")
def test_partial_analysis_only_ever_adds(built: Path) -> None:
    image = open_image(build(cell("ipa", "gcc", "O2", "pie"), built))
    graphs = build_all(image, image.functions)
    whole = analyse(image, graphs)
    differs = False
    for chosen in image.functions:
        few = build_all(image, [chosen])
        partial = analyse(image, few)
        graph = few[chosen.address]
        known = whole.live_in(graphs[chosen.address])
        for address, live in partial.live_in(graph).items():
            assert not known.get(address, 0) & ~live
            differs |= live != known.get(address, 0)
    assert differs


@pytest.mark.needs("g++")
def test_landing_pads_keep_their_registers_over_calls(built: Path) -> None:
    image = open_image(build(cell("exceptions", "gcc", "O2", "pie"), built))
    graphs = build_all(image, image.functions)
    liveness = analyse(image, graphs)
    calls = 0
    for graph in graphs.values():
        for block in graph.blocks.values():
            if block.last_address in graph.noreturn:
                assert liveness.live_at(graph, block.last_address) & CALLEE_SAVED == CALLEE_SAVED
                calls += 1
        pads = [pad for pad in graph.function.landing_pads if pad in graph.blocks]
        live = liveness.live_in(graph)
        for block in graph.blocks.values():
            if pads and block.last.mnemonic == "call":
                needed = 0
                for pad in pads:
                    needed |= live[pad]
                assert not needed & ~mask("rax rdx") & ~liveness.live_after(graph, block.address)
    assert calls


@pytest.mark.needs("gcc")
def test_strict_and_unknown_modes(tmp_path: Path) -> None:
    image, symbols = assemble(tmp_path, function("_start", "xor %eax,%eax\nret"))
    graphs = build_all(image, image.functions)
    liveness = analyse(image, graphs, "strict")
    graph = graphs[symbols["_start"]]
    assert dict(liveness.live_in(graph)) == {symbols["_start"]: TRACKED}
    assert liveness.live_at(graph, symbols["_start"]) == TRACKED
    assert liveness.live_after(graph, symbols["_start"]) == TRACKED
    with pytest.raises(UsageError, match="unknown liveness mode 'none'"):
        analyse(image, graphs, "none")  # type: ignore[arg-type]


@pytest.mark.needs("gcc")
def test_setjmp_returns_twice(built: Path) -> None:
    image = open_image(build(cell("setjmp", "gcc", "O2", "pie"), built))
    graphs = build_all(image, image.functions)
    liveness = analyse(image, graphs)
    seen = 0
    for graph in graphs.values():
        for call, target in graph.callees.items():
            if image.plt.get(target) in ("_setjmp", "__sigsetjmp", "setjmp"):
                assert liveness.live_at(graph, call) & CALLEE_SAVED == CALLEE_SAVED
                seen += 1
    assert seen


@pytest.mark.needs("gcc", "clang")
@pytest.mark.parametrize(
    ("program", "compiler", "optimisation"),
    [("ipa", "gcc", "O2"), ("flags_asm", "gcc", "O1"), ("switches", "clang", "O2"), ("tailcalls", "gcc", "O3")],
)
def test_noise_in_dead_registers_changes_nothing(built: Path, program: str, compiler: str, optimisation: str) -> None:
    image, graphs = opened(build(cell(program, compiler, optimisation, "pie"), built))
    oracle = Oracle(image, graphs, analyse(image, graphs))
    differences = [difference for seed in range(120) if (difference := oracle.check(seed)) is not None]
    assert differences == []


@pytest.mark.needs("gcc")
def test_the_oracle_finds_registers_that_are_wrongly_dead(built: Path) -> None:
    image, graphs = opened(build(cell("ipa", "gcc", "O2", "pie"), built))
    oracle = Oracle(image, graphs, _AbiEverywhere(analyse(image, graphs)))
    assert any(oracle.check(seed) is not None for seed in range(400))


def opened(binary: Path) -> tuple[Image, Graphs]:
    image = open_image(binary)
    return image, build_all(image, image.functions)


class _AbiEverywhere(Liveness):
    """What one gets by believing that no function keeps values in registers that the ABI gives away."""

    def __init__(self, exact: Liveness) -> None:
        super().__init__({})
        self._exact = exact

    def live_in(self, graph: FunctionGraph) -> Mapping[int, int]:
        kept = RETURNED | ARGUMENTS | ZF | CF
        after_calls = {s for block in graph.blocks.values() if block.last.mnemonic == "call" for s in block.successors}
        return {
            address: live & (mask("rax rdx rsp") | CALLEE_SAVED) if address in after_calls else live & kept | gpr(4)
            for address, live in self._exact.live_in(graph).items()
        }
