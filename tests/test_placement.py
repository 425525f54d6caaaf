"""Minimal counters: that they tell what counters in every block do, and which calls are taken to come back."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from jit.arrivals import CallSites
from jit.placement import Arrivals, CounterPlacing, Placement
from lifter.cfg import build_all
from lifter.frequency import Frequencies
from lifter.graph import FunctionGraph
from lifter.image.load import open_image
from lifter.image.types import Image
from lifter.instruction import Flow
from lifter.returning import comes_back, find_returning
from tests import handmade
from tests.corpus import PROGRAMS, Cell, build, programs
from tests.tool import Tool, counts, rows

UNUSUAL = ("setjmp", "exceptions", "forks", "recursion", "tailcalls", "switches", "callbacks", "coroutines")
"""Programs that leave functions early, enter them in the middle, come back twice, or go on elsewhere."""


@pytest.mark.needs("gcc", "g++")
@pytest.mark.parametrize("name", UNUSUAL)
def test_minimal_counters_tell_what_a_counter_in_every_block_does(
    name: str, tool: Tool, built: Path, tmp_path: Path
) -> None:
    (program,) = (p for p in programs() if p.name == name)
    path = build(Cell(program, "gcc", "O2", "pie", stripped=False), built)
    found = {}
    for placement in ("minimal", "every"):
        output, data = tmp_path / placement, tmp_path / f"{placement}.data"
        done = tool("rewrite", path, "-o", output, "--probe", "block:*", "--counter-placement", placement)
        assert done.status == 0, done.stderr
        environment = {**os.environ, "PROBELOOM_DATA": str(data)}
        subprocess.run([output], env=environment, cwd=tmp_path, capture_output=True, timeout=60, check=False)
        found[placement] = {row["address"]: row["count"] for row in rows(counts(tool, data), "block")}
    every = found["every"]
    assert sum(every.values()) > 0
    assert {address: found["minimal"].get(address) for address in every} == every


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, dict[int, FunctionGraph], frozenset[int]]:
    """A program whose functions have loops, switches, calls and recursion."""
    source = (PROGRAMS / "algorithms.c").read_text()
    image = open_image(handmade.build(source, tmp_path_factory.mktemp("placement") / "algorithms", "gcc", "-O2", "-lm"))
    graphs = build_all(image, [function for function in image.functions if function.refusal is None])
    return image, graphs, find_returning(image, graphs)


def walk(image: Image, graph: FunctionGraph, returning: frozenset[int], random: Random, visits: Counter[int]) -> bool:
    """Run through a function at random, calls that may not come back sometimes not doing so; False if it gets stuck."""
    work = [random.choice(sorted(graph.open_entries))]
    for _ in range(3000):
        if not work:
            return True
        block = graph.blocks[work.pop()]
        visits[block.address] += 1
        successors = [successor for successor in block.successors if successor in graph.blocks]
        if block.last_address in graph.tail_calls and random.random() < 0.5:
            continue
        if block.last.flow in (Flow.CALL, Flow.CALL_INDIRECT) and not comes_back(image, graph, block, returning):
            work += successors * random.choice((0, 1, 1, 1, 2))
        elif successors:
            work.append(random.choice(successors))
    return False


def check(placement: Placement, visits: Counter[int]) -> None:
    for address, terms in placement.counts.items():
        assert sum(visits[block] * factor for block, factor in terms) == visits[address], hex(address)


@pytest.mark.needs("gcc")
def test_counts_are_exact_wherever_functions_are_left(
    analysed: tuple[Image, dict[int, FunctionGraph], frozenset[int]],
) -> None:
    image, graphs, returning = analysed
    random = Random(1)
    walks = saved = 0
    for graph in graphs.values():
        if not graph.complete or graph.refusals:
            continue
        placing = CounterPlacing(image, graph, returning, frozenset())
        barred = random.sample(sorted(graph.blocks), len(graph.blocks) // 3)
        some = placing.place(barred)
        assert some.counted.isdisjoint(barred)
        whole = placing.place(())
        assert whole.counts.keys() == graph.blocks.keys()
        saved += len(graph.blocks) - len(whole.counted)
        for _ in range(20):
            visits: Counter[int] = Counter()
            if walk(image, graph, returning, random, visits):
                walks += 1
                check(whole, visits)
                check(some, visits)
    assert walks > 200
    assert saved > 100


@pytest.mark.needs("gcc")
def test_callers_tell_how_often_a_function_is_entered(tmp_path: Path) -> None:
    source = """
    static volatile long v;
    __attribute__((noinline, noipa)) static void leaf(long n) { if (n & 1) v += n; else v -= n; }
    __attribute__((noinline, noipa)) static long down(long n) { return n < 2 ? n : down(n - 1) * 3 + down(n - 2); }
    int main(int c, char **a) { for (long i = 0; i < 7 + c; i++) leaf(i + v); leaf(2); return (int)down(9) & 1; }
    """
    image = open_image(handmade.build(source, tmp_path / "calls", "gcc", "-O1"))
    graphs = build_all(image, [function for function in image.functions if function.refusal is None])
    address = {function.name: function.address for function in image.functions}
    returning = find_returning(image, graphs)
    assert {address["leaf"], address["down"]} <= returning
    assert address["_start"] not in returning
    sites = CallSites(image, graphs)
    order = sites.callers_first([address["leaf"], address["main"], address["down"]])
    assert order.index(address["main"]) < order.index(address["leaf"])
    main = CounterPlacing(image, graphs[address["main"]], returning, frozenset()).place(())
    assert sites.arrivals(address["main"], {}) is None, "the C library calls it"
    assert sites.arrivals(address["leaf"], {}) is None, "its caller is not planned yet"
    for name in ("leaf", "down"):
        graph = graphs[address[name]]
        arrivals = sites.arrivals(address[name], {address["main"]: main.counts})
        assert arrivals is not None
        alone = CounterPlacing(image, graph, returning, frozenset()).place(())
        told = CounterPlacing(image, graph, returning, frozenset(), arrivals).place(())
        assert len(told.counted) == len(alone.counted) - 1
        assert told.counts.keys() == graph.blocks.keys()
    assert arrivals.own


@pytest.mark.needs("gcc")
def test_recursion_that_hangs_on_its_own_entry_is_counted_at_the_entry(tmp_path: Path) -> None:
    source = """
    static volatile long v;
    __attribute__((noinline, noipa)) static void f(long n) { v++; if (v < 9) f(n); v--; f(n); }
    int main(void) { f(1); return 0; }
    """
    image = open_image(handmade.build(source, tmp_path / "calls", "gcc", "-O1", "-fno-optimize-sibling-calls"))
    graphs = build_all(image, [function for function in image.functions if function.refusal is None])
    (graph,) = (graph for graph in graphs.values() if graph.function.name == "f")
    returning = find_returning(image, graphs)
    entry = graph.function.address
    placement = CounterPlacing(image, graph, returning, frozenset(), Arrivals((), (entry,))).place(())
    assert any(block in placement.counted for block, _ in placement.counts[entry])
    assert placement.counts.keys() == graph.blocks.keys()


@pytest.mark.needs("gcc")
def test_functions_that_may_return_elsewhere_or_twice_do_not_count_as_returning(tmp_path: Path) -> None:
    source = """
    #include <unistd.h>
    #include <stdlib.h>
    #define ASM(name, body) \\
      __asm__(".globl " #name "; .type " #name ",@function; " #name ": " body "; .size " #name ",.-" #name);
    ASM(saver, "mov (%rsp), %rax; mov %rax, (%rdi); ret")
    ASM(saver_by_frame, "push %rbp; mov %rsp, %rbp; mov 8(%rbp), %rax; pop %rbp; ret")
    ASM(switcher, "mov %rsp, (%rdi); mov %rsi, %rsp; ret")
    ASM(deeper, "pop %rax; ret")
    ASM(plain, "push %rbx; mov 16(%rsp), %rbx; pop %rbx; ret")
    __attribute__((noinline, noipa)) void waits(void) { pause(); }
    __attribute__((noinline, noipa)) void ends(int n) { if (n) exit(1); }
    __attribute__((noinline, noipa)) void calls_ends(int n) { ends(n); ends(2); }
    __attribute__((noinline, noipa)) void calls_through(void (*f)(void)) { f(); f(); }
    __attribute__((noinline, noipa)) void *allocates(int n) { return malloc(n + 1); }
    __attribute__((noinline, noipa)) void traps(int n) { if (n) __builtin_trap(); }
    void saver(void), saver_by_frame(void), switcher(void), deeper(void), plain(void);
    void *volatile used[] = {saver, saver_by_frame, switcher, deeper, plain};
    int main(void) { waits(); ends(0); calls_ends(0); calls_through(waits); allocates(3); traps(0); return 0; }
    """
    image = open_image(handmade.build(source, tmp_path / "many", "gcc", "-O1", "-fno-optimize-sibling-calls"))
    graphs = build_all(image, [function for function in image.functions if function.refusal is None])
    returning = find_returning(image, graphs)
    names = {function.name for function in image.functions if function.address in returning}
    assert {"plain", "allocates"} <= names
    unsure = {"saver", "saver_by_frame", "switcher", "deeper", "waits", "ends", "calls_ends", "calls_through", "traps"}
    assert not names & (unsure | {"main", "_start"})


@pytest.mark.needs("gcc")
def test_loops_are_thought_to_run_often_and_dead_ends_seldom(tmp_path: Path) -> None:
    source = """
    #include <stdlib.h>
    volatile int v;
    __attribute__((noinline, noipa)) void f(int n) {
      for (int i = 0; i < n; i++) { v++; for (int j = 0; j < i; j++) v--; if (v == 77) abort(); }
    }
    int main(void) { f(3); return 0; }
    """
    image = open_image(handmade.build(source, tmp_path / "loops", "gcc", "-O1"))
    graphs = build_all(image, [function for function in image.functions if function.refusal is None])
    (graph,) = (graph for graph in graphs.values() if graph.function.name == "f")
    frequencies = Frequencies(graph)
    runs = frequencies.by_address()
    levels = sorted({frequencies.depth[frequencies.index[address]] for address in graph.blocks})
    assert levels == [0, 1, 2]
    deep = [runs[a] for a in graph.blocks if frequencies.depth[frequencies.index[a]] == 2]
    assert min(deep) > runs[graph.function.address]
    dead = [runs[a] for a, block in graph.blocks.items() if block.last_address in graph.noreturn]
    assert dead
    assert max(dead) < runs[graph.function.address]


@pytest.mark.needs("gcc")
def test_in_a_loop_with_two_ways_in_is_one_with_one(tmp_path: Path) -> None:
    """Hand-made code (OpenSSL's AES in CBC mode) jumps into the middle of a loop for a last short block."""
    source = """
    void f(void);
    asm(".globl f; .type f, @function; f: cmp $16, %rdi; jb short;"
        "whole: mov %rsi, %rax; inner: dec %rax; jne inner; sub $16, %rdi; jae whole; test %rdi, %rdi; jne short; ret;"
        "short: xor %edi, %edi; jmp whole; end: .size f, end - f");
    int main(void) { f(); return 0; }
    """
    path = handmade.build(source, tmp_path / "ways", "gcc", "-O1")
    image = open_image(path)
    function = next(function for function in image.functions if function.name == "f")
    graph = build_all(image, [function])[function.address]
    placing = CounterPlacing(image, graph, frozenset(), frozenset(graph.blocks), None, frozenset())
    heads = placing.place(()).loops
    assert {function.address + len(bytes.fromhex("4883ff10 7211")), max(graph.blocks)} <= heads
