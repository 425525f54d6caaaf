"""Probes in Python: the compiled function against the same probe in plain Python, and what is refused."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="numba is an optional extra")
import llvmlite.binding as llvm

from ir.probes import SLOTS, VIEWS, CompiledProbe, Probe, PythonContext, Word, load_probe, probe
from lifter.errors import UsageError
from lifter.registers import GPR_NAMES

MASK = (1 << 64) - 1
BOUNDARY = [
    0,
    1,
    2,
    7,
    63,
    64,
    65,
    127,
    128,
    255,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 63,
    (1 << 63) - 1,
    MASK,
]
VALUES = st.one_of(st.sampled_from(BOUNDARY), st.integers(0, MASK))
GLOBAL = 0xCBF29CE484222325


class Native:
    """A compiled probe, callable in this process."""

    def __init__(self, compiled: CompiledProbe, atomic: bool = True) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        text = (
            compiled.named(0, atomic)
            + "define void @run(ptr %r, ptr %d) {\n call void @L_probe0(ptr %r, ptr %d)\n ret void\n}\n"
        )
        module = llvm.parse_assembly(text)
        module.verify()
        machine = llvm.Target.from_default_triple().create_target_machine(features="-sse,-sse2,-mmx,-x87")
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self._run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(self._engine.get_function_address("run"))

    def __call__(self, slots: list[int], words: list[int]) -> tuple[list[int], list[int]]:
        registers = (ctypes.c_uint64 * SLOTS)(*slots)
        data = (ctypes.c_int64 * (len(words) + 1))(*words, 0x5A5A)
        self._run(ctypes.addressof(registers), ctypes.addressof(data))
        assert data[len(words)] == 0x5A5A, "wrote behind its words"
        return list(registers), list(data)[:-1]


def in_python(marked: Probe, slots: list[int], words: list[int]) -> tuple[list[int], list[int]]:
    ctx = PythonContext(words=marked.words)
    ctx.slots[:] = slots
    ctx.data.values[:] = words
    marked(ctx)
    return [slot & MASK for slot in ctx.slots], list(ctx.data.values)


def check(marked: Probe, examples: int = 25) -> CompiledProbe:
    compiled = marked.compile()
    native = Native(compiled)

    @settings(max_examples=examples, deadline=None, database=None)
    @given(
        st.lists(VALUES, min_size=SLOTS, max_size=SLOTS),
        st.lists(st.integers(-3, 1 << 40), min_size=8, max_size=8),
    )
    def compare(slots: list[int], words: list[int]) -> None:
        words = (words * marked.words)[: marked.words]
        after = native(slots, words)
        assert after == in_python(marked, slots, words)
        for index in range(SLOTS):
            assert after[0][index] == slots[index] or compiled.writes >> index & 1

    compare()
    return compiled


@probe
def longest(ctx: Any) -> None:
    if ctx.rdi > ctx.data[0]:
        ctx.data[0] = ctx.rdi


@probe
def arithmetic(ctx: Any) -> None:
    ctx.data[0] = ctx.rdi // ctx.rsi
    ctx.data[1] = ctx.rdi % ctx.rsi
    ctx.data[2] = ctx.rdi * ctx.rdx + ctx.rcx - 1
    ctx.data[3] = (ctx.rdi << ctx.rcx) ^ (ctx.rsi >> ctx.rdx)
    ctx.data[4] = -ctx.rdi & ~ctx.rsi | abs(ctx.rdx)
    ctx.data[5] = min(ctx.rdi, ctx.rsi) - max(ctx.rdx, 5)
    ctx.data[6] = ctx.rdi // 7 + ctx.rsi % -3
    ctx.data[7] = (1 << ctx.rcx) + (-5 >> ctx.rcx) + 100 // ctx.rcx


@probe
def widths(ctx: Any) -> None:
    ctx.eax = ctx.edi + ctx.sil
    ctx.bx = ctx.r8w * 3
    ctx.cl = ctx.dh - 1
    ctx.ch = ctx.bpl
    ctx.r9d = ctx.signed(ctx.r10b, 8)
    ctx.r11w = ctx.signed(ctx.r12, 16) >> 3
    ctx.r13b = ctx.signed(ctx.r14d, 32) >> 40
    ctx.data[0] = ctx.rip + ctx.rsp


@probe(words=5)
def indexes(ctx: Any) -> None:
    ctx.data[ctx.rdi] += 1
    ctx.data[ctx.rsi & 7] = ctx.data[ctx.rdx & 7] + 1
    ctx.data.add(4, ctx.rcx)
    ctx.data.add(ctx.r8, 1)


@probe
def comparisons(ctx: Any) -> None:
    if ctx.below(ctx.rdi, ctx.rsi) and not ctx.rdx < ctx.rcx:
        ctx.rax = 0xFFFFFFFFFFFFFFFF
    elif ctx.rdi == 0xFFFFFFFFFFFFFFFF or ctx.rsi >= 0x8000000000000000:
        ctx.data[1] += ctx.rdi > 5
    else:
        ctx.rdx = (ctx.rdi ^ GLOBAL) * 0x100000001B3
    ctx.data[2] = 3 if ctx.rcx else 4


def triangle(count: int, factor: int) -> int:
    total = 0
    for i in range(count & 15):
        total += i * factor
    return total


def deeper(ctx: Any, value: int) -> int:
    return triangle(value, ctx.rsi) + 1


@probe
def helpers(ctx: Any) -> None:
    ctx.data[0] = deeper(ctx, ctx.rdi)
    i = 0
    while i < (ctx.rdx & 31):
        i += 1
        if i == ctx.rcx:
            break
        if i & 1:
            continue
        ctx.data[1] = ctx.data[1] * 31 + i
    ctx.data[2] = i
    longest(ctx)


@probe
def nothing(ctx: Any) -> None:
    pass


@probe(words=0)
def one_path(ctx: Any) -> None:
    if ctx.rdi:
        ctx.rsi = 1


@pytest.mark.parametrize(
    "marked",
    [longest, arithmetic, widths, indexes, comparisons, helpers, nothing, one_path],
    ids=lambda p: p.name,
)
def test_compiled_probe_does_what_python_does(marked: Probe) -> None:
    check(marked)


def masks(*names: str) -> int:
    return sum(1 << VIEWS[name].slot for name in names)


def test_registers_read_and_written_are_known() -> None:
    assert (longest.compile().reads, longest.compile().writes) == (masks("rdi"), 0)
    compiled = widths.compile()
    assert compiled.writes == masks("eax", "bx", "cl", "r9d", "r11w", "r13b")
    assert compiled.reads & masks("rsp", "rip") == masks("rsp", "rip")
    assert compiled.reads & masks("eax", "r9d") == 0, "a 32-bit write needs no read"
    assert compiled.reads & masks("bx", "cl") == masks("bx", "cl")
    assert one_path.compile().reads == masks("rdi", "rsi"), "the other path gives back what was there"
    assert nothing.compile().size == 1


def test_text_is_one_plain_function() -> None:
    for marked in (arithmetic, helpers, comparisons):
        compiled = marked.compile()
        assert compiled.text.count("define") == 1
        assert compiled.text.startswith("define internal void @L_probe0(ptr %regs, ptr %data) alwaysinline")
        assert not re.search(r"@(?!L_probe0|llvm\.[su]?(min|max|abs))", compiled.text)
        assert not re.search(r"float|double|<\d+ x|alloca|![a-z0-9]|#\d|undef|poison", compiled.text)
        assert "@L_probe3(" in compiled.named(3) and "@L_probe0(" not in compiled.named(3)


def test_additions_need_not_be_atomic() -> None:
    compiled = indexes.compile()
    assert compiled.text.count("atomicrmw add") == 2 and "atomicrmw" not in compiled.named(0, atomic=False)
    slots = [5, 7, 1, *[2] * 14]
    states = [Native(compiled, atomic)(slots, [1, 2, 3, 4, 5]) for atomic in (True, False)]
    assert states[0] == states[1] == in_python(indexes, slots, [1, 2, 3, 4, 5])


def test_equal_probes_have_equal_text() -> None:
    def first(ctx: Any) -> None:
        if ctx.rdi > ctx.data[0]:
            ctx.data[0] = ctx.rdi

    other = probe(first).compile()
    assert other.text == longest.compile().text
    assert other.name == "first"


@probe
def memory(ctx: Any) -> None:
    ctx.data[0] = ctx.load8(ctx.rdi) + ctx.load16(ctx.rdi + 1)
    ctx.data[1] = ctx.load32(ctx.rdi + 3)
    ctx.data[2] = ctx.load64(ctx.rdi + 7)
    ctx.data[3] = ctx.signed(ctx.load32(ctx.rdi + 16), 32)
    ctx.store8(ctx.rdi + 20, ctx.rsi)
    ctx.store16(ctx.rdi + 21, ctx.rsi)
    ctx.store32(ctx.rdi + 23, ctx.rsi)
    ctx.store64(ctx.rdi + 27, ctx.rsi)
    ctx.data[4] = ctx.load64(ctx.rdi + 26)


@settings(max_examples=25, deadline=None, database=None)
@given(st.binary(min_size=48, max_size=48), VALUES)
def test_memory(content: bytes, value: int) -> None:
    native = memory_native()
    buffer = ctypes.create_string_buffer(content, 48)
    base = ctypes.addressof(buffer)
    slots = [0] * SLOTS
    slots[VIEWS["rdi"].slot], slots[VIEWS["rsi"].slot] = base, value
    _, words = native(slots, [0] * 8)
    ctx = PythonContext({"rdi": base, "rsi": value}, memory={base + i: byte for i, byte in enumerate(content)})
    memory(ctx)
    assert words == ctx.data.values
    assert buffer.raw == bytes(ctx.memory[base + i] for i in range(48))


def memory_native(made: list[Native] = []) -> Native:  # noqa: B006
    if not made:
        made.append(Native(memory.compile()))
    return made[0]


def test_program_memory_is_accessed_as_often_as_written() -> None:
    def twice(ctx: Any) -> None:
        ctx.data[0] = ctx.load8(ctx.rdi) + ctx.load8(ctx.rdi)
        ctx.store8(ctx.rdi, 1)
        ctx.store8(ctx.rdi, 2)

    text = probe(twice).compile().text
    assert text.count("load volatile i8") == 2
    assert text.count("store volatile i8") == 2


# Random probes: expressions over registers, words and constants, in the operators that probes have.
OPERAND = st.one_of(
    st.sampled_from([f"ctx.{name}" for name in (*GPR_NAMES, "edi", "sil", "r9w", "ah", "rip")]),
    st.integers(0, 7).map(lambda index: f"ctx.data[{index}]"),
    st.integers(-70, 70).map(str),
    st.sampled_from(["0x8000000000000000", "0xFFFFFFFFFFFFFFFF", "0x7FFFFFFF", "-0x80000000"]),
)

TARGET = st.sampled_from(["rax", "edx", "r8w", "bh", "data[1]"])


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(["+", "-", "*", "//", "%", "<<", ">>", "&", "|", "^"])
    compare = st.sampled_from(["<", "<=", "==", "!=", ">", ">="])
    return st.one_of(
        st.tuples(inner, binary, inner).map(lambda parts: "(ctx.signed(0, 8) + {} {} {})".format(*parts)),
        st.tuples(inner, compare, inner, inner, inner).map(
            lambda parts: "({3} if {0} {1} {2} else {4})".format(*parts)
        ),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda p: f"{p[0]}({p[1]}, {p[2]})"),
        st.tuples(st.sampled_from(["-", "~"]), inner).map(lambda p: f"({p[0]}(ctx.signed(0, 8) + {p[1]}))"),
        inner.map(lambda value: f"ctx.signed({value}, 16)"),
    )


@settings(max_examples=12, deadline=None, database=None, phases=[Phase.generate])
@given(
    st.lists(st.tuples(TARGET, st.recursive(OPERAND, _grow, max_leaves=6)), min_size=1, max_size=4),
    st.lists(st.lists(VALUES, min_size=SLOTS, max_size=SLOTS), min_size=8, max_size=8),
)
def test_random_probes(statements: list[tuple[str, str]], states: list[list[int]]) -> None:
    source = "def made(ctx):\n" + "".join(f"    ctx.{target} = {value}\n" for target, value in statements)
    scope: dict[str, Callable[[Any], None]] = {}
    exec(source, scope)
    marked = probe(scope["made"])
    native = Native(marked.compile())
    for slots in states:
        words = [to - (1 << 63) for to in slots[:8]]
        assert native(slots, words) == in_python(marked, slots, words), source


REFUSED = {
    "ctx.data[0] = ctx.foo": "ctx has no 'foo'",
    "ctx.data[8] = 1": "ctx.data[8] is outside its 8 words",
    "ctx.data[-1] = 1": "ctx.data[-1] is outside",
    "ctx.rax = ctx.data[9]": "ctx.data[9] is outside",
    "ctx.data.add(8, 1)": "ctx.data[8] is outside",
    "ctx.rsp = 1": "ctx.rsp cannot be written",
    "ctx.rip = 1": "ctx.rip cannot be written",
    "ctx.data[0] = ctx.rdi / 2": "ctx.data holds integers, not float64",
    "ctx.rax = 1.5": "floating-point numbers do not exist",
    "ctx.rax = math.sqrt(ctx.rdi)": "floating-point numbers do not exist",
    "print(ctx.rdi)": "cannot print",
    "raise ValueError": "cannot raise",
    "assert ctx.rdi": "cannot raise",
    "ctx.rax = len([ctx.rdi])": "cannot make lists",
    "x = 'abc'": "text does not exist",
    "ctx.rax = nowhere": "'nowhere' cannot be used",
    "open('x')": "'open' cannot be used",
    "ctx.rax = (1, 2, 3)[ctx.rdi]": "can raise an exception",
    "for i in range(0, 9, ctx.rdi): ctx.data[0] += i": "can raise an exception",
    "return ctx.rdi": "a probe returns nothing",
    "yield ctx.rdi": "a probe returns nothing",
    "ctx.rax = ctx.signed(ctx.rdi, ctx.rsi)": "width is 8, 16 or 32",
    "ctx.rax = ctx.load8()": "ctx.load8 takes 1 argument",
    "ctx.rax = recursive(ctx.rdi)": "recursive calls itself",
    "ctx.rax = ctx": "",
}


@pytest.mark.parametrize("statement", REFUSED)
def test_refused_with_line_and_reason(statement: str, tmp_path: Path) -> None:
    file = tmp_path / "probes.py"
    file.write_text(
        "import math\nfrom jit import probe\n"
        "def recursive(n):\n    return 1 if n < 2 else n * recursive(n - 1)\n"
        f"@probe\ndef broken(ctx):\n    ctx.data[0] = 1\n    {statement}\n"
    )
    with pytest.raises(UsageError) as caught:
        load_probe(file, "broken")
    message = str(caught.value)
    assert "\n" not in message
    assert REFUSED[statement] in message
    assert re.match(r"probes\.py:[3-8]: ", message), message


def test_load_probe(tmp_path: Path) -> None:
    file = tmp_path / "team.py"
    (tmp_path / "shared.py").write_text("STEP = 3\n")
    file.write_text(
        "from jit import probe\nfrom shared import STEP\n"
        "@probe(words=2)\ndef step(ctx):\n    ctx.data[1] += STEP\ndef plain(ctx): pass\n"
    )
    compiled = load_probe(file, "step")
    assert (compiled.name, compiled.words) == ("step", 2)
    assert Native(compiled)([0] * SLOTS, [5, 6])[1] == [5, 9]
    with pytest.raises(UsageError, match="no probe named 'stop': its probes are step"):
        load_probe(file, "stop")
    with pytest.raises(UsageError, match="'plain' is a function, not a probe"):
        load_probe(file, "plain")
    with pytest.raises(UsageError, match="No such file"):
        load_probe(tmp_path / "absent.py", "step")
    with pytest.raises(UsageError, match="is a directory"):
        load_probe(tmp_path, "step")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("def broken(:\n", r"b\.py:1: invalid syntax"),
        ("\nimport no_such_module_here\n", r"b\.py:2: ModuleNotFoundError"),
        ("\n\n1 // 0\n", r"b\.py:3: ZeroDivisionError"),
        ("raise SystemExit(3)\n", r"b\.py:1: SystemExit: 3"),
        ("from jit import probe\n@probe\ndef two(a, b): pass\n", "a function of one argument"),
        ("from jit import probe\n@probe(words=-1)\ndef few(ctx): pass\n", "0 to 65536 words"),
        ("\0", "null"),
    ],
)
def test_probe_files_that_do_not_run(content: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "b.py"
    file.write_text(content)
    with pytest.raises(UsageError, match=reason) as caught:
        load_probe(file, "x")
    assert "\n" not in str(caught.value)


def test_python_context_is_strict() -> None:
    ctx = PythonContext({"rdi": 7, "ecx": 9})
    longest(ctx)
    assert ctx.data[0] == 7 and ctx.cl == 9
    with pytest.raises(AttributeError, match="ctx has no 'foo'"):
        ctx.foo = 1
    with pytest.raises(AttributeError, match="cannot be written"):
        ctx.rsp = 1
    assert Word(1 << 63) < 0 and Word(MASK) == -1 and Word(5) // 0 == 0 and Word(1) << 64 == 0


def test_works_without_numba_until_a_probe_is_compiled(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['numba'] = None\n"
        "from jit import probe\n"
        "@probe\ndef p(ctx): ctx.rax = 1\n"
        "try:\n    p.compile()\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "UsageError" in done.stdout and "pip install 'probeloom[python-probes]'" in done.stdout
