"""Calls made from the code cache: which, and that unwinders, debuggers and callees see what they would have seen."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from jit.options import Options
from jit.through import ThroughCalls
from lifter.cfg import build_all
from lifter.image.callframes import CallFrames, Program, Row
from lifter.image.eh import Reader, read_common
from lifter.image.elf import ElfFile
from lifter.image.framewriter import common_entry, frame_program
from lifter.image.load import open_image
from tests.handmade import build
from tests.tool import Tool, counts, rows

WALKER = """
#include <stdio.h>
#include <unwind.h>
static unsigned long first;
static _Unwind_Reason_Code frame(struct _Unwind_Context *context, void *data)
{
    unsigned long cfa = _Unwind_GetCFA(context);
    if (!first) first = cfa;
    printf("%lu", cfa - first);
    for (int i = 0; i < 5; i++) {  // r12 holds the entry point where the program began, which is another
        unsigned long value = _Unwind_GetGR(context, (int[]){3, 13, 14, 15, 6}[i]);
        int on_stack = value + 4096 > first && value < first + 4096;
        printf(" %c%lx", on_stack ? 's' : 'v', on_stack ? value - first : value & 0xfff);
    }
    puts("");
    return _URC_NO_REASON;
}
void walk(void) { first = 0; _Unwind_Backtrace(frame, 0); }
"""
WALKED = """
void walk(void);
__attribute__((noipa)) static long many(long a, long b, long c, long d, long e, long f, long g)
{
    long array[a + 1];
    array[a] = a * b + c;
    for (long i = 0; i < 3; i++) { walk(); array[a] += d * e - f * g + i; }
    walk();
    return array[a];
}
__attribute__((noipa)) static long deep(long n, long (*next)(long, long, long, long, long, long, long))
{
    if (n > 3) return deep(n - 1, next) * 3 + n;
    return next(n, 2, 3, 4, 5, 6, 7) + next(n + 1, 3, 4, 5, 6, 7, 8) * n;
}
int main(void) { return (int)(deep(7, many) & 63); }
"""
CLEANUP = """
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void leave(int *level) { printf("left %d\\n", *level); }
__attribute__((noipa)) static int wait(void) { for (;;) pause(); return 0; }
__attribute__((noipa)) static int plain(int n) { return n ? plain(n - 1) + n : wait(); }
__attribute__((noipa)) static int guarded(int n)
{
    int level __attribute__((cleanup(leave))) = n;
    return (n ? guarded(n - 1) : plain(3)) + n;
}
static void *run(void *unused) { guarded(2); return 0; }
int main(void)
{
    pthread_t thread;
    void *result;
    pthread_create(&thread, 0, run, 0);
    usleep(50000);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    puts(result == PTHREAD_CANCELED ? "cancelled" : "ended");
    return 0;
}
"""
LOOKERS = """
#include <dlfcn.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
static jmp_buf buffer;
__attribute__((noipa)) void *caller(void) { return __builtin_return_address(0); }
__attribute__((noipa)) int plain(int a) { return a + 1; }
__attribute__((noipa)) int calls(int a, int (*other)(int))
{
    int sum = plain(a);
    sum += other(a);
    sum += abs(atoi("3"));
    sum += caller() != 0;
    sum += dlsym(RTLD_DEFAULT, "puts") != 0;
    if (setjmp(buffer)) return sum;
    if (sum > 5) longjmp(buffer, 1);
    exit(sum);
}
int main(int argc, char **argv) { return calls(argc, plain); }
"""
COLLECTOR = """
#include <stdio.h>
void **top;
extern void *known[];
__attribute__((noipa)) long collect(long n) { return n + (top[-1] == known[0]); }
__attribute__((noipa)) long plain(long n) { return n + 2; }
long calls(long);
asm(".text; .globl calls; .type calls, @function; calls: .cfi_startproc; sub $8, %rsp; .cfi_def_cfa_offset 16;"
    "mov %rsp, top(%rip); call collect; .Lbehind: mov %rax, %rdi; call plain; add $8, %rsp; .cfi_def_cfa_offset 8; ret;"
    ".cfi_endproc; .size calls, .-calls; .data; .globl known; known: .quad .Lbehind; .text");
int main(void) { printf("%ld\\n", calls(4)); }
"""
"""A collector's way: it knows the stack pointer at the call, and looks up return addresses in a table."""


def names(path: Path, function: str) -> tuple[set[str], set[str]]:
    """What a function calls from the cache, and what it calls at all; '?' for calls through pointers."""
    image = open_image(path)
    graphs = build_all(image, [found for found in image.functions if found.refusal is None])
    (graph,) = (graph for graph in graphs.values() if graph.function.name == function)
    blind = [address for address in graphs if not graphs.outline(address).looks_at_return]
    through = ThroughCalls(image, Options(calls="cache")).of(graph, blind)
    assert through is not None

    def name(where: int) -> str:
        target = graph.callees.get(where, -1)
        callee = image.function_at(target)
        return image.plt.get(target) or (callee.name if callee else "?")

    called = {block.last_address for block in graph.blocks.values() if block.last.flow.name.startswith("CALL")}
    return {name(where) for where in through}, {name(where) for where in called}


def rewritten(tool: Tool, program: Path, *options: str) -> Path:
    output = program.with_suffix(".inst")
    done = tool("rewrite", program, "-o", output, "--probe", "block:*", *options)
    assert done.status == 0, done.stderr
    return output


@pytest.mark.needs("gcc")
def test_callees_that_look_at_their_return_address_are_called_in_place(tmp_path: Path) -> None:
    program = build(LOOKERS, tmp_path / "prog", "gcc", "-O1", "-ldl", "-fcf-protection=none")
    made, all_of_them = names(program, "calls")
    assert made == {"plain", "?", "atoi" if "atoi" in all_of_them else "strtol"}
    assert {"caller", "dlsym", "_setjmp", "longjmp", "exit"} <= all_of_them


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("link", [("-pie", "-fPIE"), ("-no-pie",)])
def test_calls_that_data_points_behind_stay_in_place(link: tuple[str, ...], tool: Tool, tmp_path: Path) -> None:
    program = build(COLLECTOR, tmp_path / "prog", "gcc", *link)
    assert names(program, "calls") == ({"plain"}, {"plain", "collect"})
    output = rewritten(tool, program)
    assert subprocess.run([output], capture_output=True, timeout=100, check=True).stdout == b"7\n"


@pytest.mark.needs("g++")
@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_calls_with_a_landing_pad_stay_in_place(level: str, tmp_path: Path) -> None:
    source = """
    #include <cstdio>
    struct Guard { ~Guard() { puts("gone"); } };
    __attribute__((noipa)) int outside(int a) { if (a > 2) throw a; return a; }
    __attribute__((noipa)) int inside(int a) { Guard guard; return outside(a + 1) + 1; }
    __attribute__((noipa)) int last(int a) noexcept { return a > 9 ? outside(a) + 1 : a; }
    extern "C" __attribute__((noipa)) int calls(int a) { return inside(a) + outside(a) + last(a); }
    int main(int argc, char **) { try { return calls(argc + 4); } catch (int a) { printf("%d\\n", a); return 3; } }
    """
    program = build(source, tmp_path / "prog", "g++", level)
    assert names(program, "calls")[0] == {"_Z6insidei", "_Z7outsidei", "_Z4lasti"}
    assert "_Z7outsidei" not in names(program, "_Z6insidei")[0]
    assert "_Z7outsidei" not in names(program, "_Z4lasti")[0]


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("flags", [("-O0",), ("-O2",), ("-Os", "-fno-omit-frame-pointer"), ("-O2", "-static-libgcc")])
def test_unwinding_finds_the_same_frames_and_registers(flags: tuple[str, ...], tool: Tool, tmp_path: Path) -> None:
    library = build(WALKER, tmp_path / "libwalker.so", "gcc", "-O1", "-shared", "-fPIC", "-funwind-tables")
    program = build(WALKED, tmp_path / "prog", "gcc", *flags, str(library), f"-Wl,-rpath,{tmp_path}")
    output = rewritten(tool, program)
    original, instrumented = (subprocess.run([path], capture_output=True, timeout=100) for path in (program, output))
    assert len(original.stdout.splitlines()) > 50
    assert (instrumented.returncode, instrumented.stdout) == (original.returncode, original.stdout)
    assert b".probeloom.frames" in subprocess.run(["readelf", "-SW", output], capture_output=True, timeout=100).stdout
    done = subprocess.run(["readelf", "-wfF", output], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.needs("gcc")
def test_a_cancelled_thread_leaves_through_regions(tool: Tool, tmp_path: Path) -> None:
    program = build(CLEANUP, tmp_path / "prog", "gcc", "-O2", "-fexceptions", "-pthread")
    output = rewritten(tool, program)
    original, instrumented = (subprocess.run([path], capture_output=True, timeout=100) for path in (program, output))
    assert original.stdout == b"left 0\nleft 1\nleft 2\ncancelled\n"
    assert (instrumented.returncode, instrumented.stdout) == (0, original.stdout)


@pytest.mark.needs("gcc", "gdb")
def test_debuggers_find_functions_and_callers(tool: Tool, tmp_path: Path) -> None:
    source = """
    #include <stdio.h>
    __attribute__((noipa)) int leaf(int a) { return a + 1; }
    __attribute__((noipa)) int work(int a) { puts("here"); return leaf(a) + 1; }
    int main(void) { return work(3) + work(4); }
    """
    shown = {}
    for name, flags in (("plain", ()), ("debug", ("-g",))):
        output = rewritten(tool, build(source, tmp_path / name, "gcc", "-O2", *flags))
        commands = ["break leaf", "run", "backtrace", "delete", "break puts", "continue", "backtrace"]
        shown[name] = subprocess.run(
            ["gdb", "-q", "-nx", "-batch", *(f"-ex={command}" for command in commands), output],
            capture_output=True,
            text=True,
            timeout=100,
        ).stdout
    frames = r"#0 .*leaf \(\).*#1 .* in work \(\).*#2 .* in main \(\).*#0 .*puts.*#1 .* in work \(\).*#2 .* in main"
    assert re.search(frames, shown["plain"], re.DOTALL), shown["plain"]
    # With debugging information all calls are made in place, and a debugger shows arguments and lines.
    frames = r"#0 +leaf \(a=.*#1 .* in work \(a=.*#2 .* in main \(\) at .*#0 .*puts.*#1 .* in work \(a="
    assert re.search(frames, shown["debug"], re.DOTALL), shown["debug"]


@pytest.mark.needs("gcc")
def test_counts_do_not_depend_on_where_calls_are_made(tool: Tool, tmp_path: Path) -> None:
    program = build(LOOKERS, tmp_path / "prog", "gcc", "-O2", "-ldl")
    found = []
    for calls in ("cache", "place"):
        output, data = rewritten(tool, program, "--calls", calls), tmp_path / f"{calls}.data"
        subprocess.run([output], env={**os.environ, "PROBELOOM_DATA": str(data)}, timeout=100, check=False)
        found.append({row["address"]: row["count"] for row in rows(counts(tool, data), "block")})
    assert found[0] == found[1] and sum(found[0].values()) > 20


@pytest.mark.parametrize("file", ["/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"])
def test_call_frames_are_written_as_they_are_read(file: str) -> None:
    if not Path(file).exists():
        pytest.skip(f"no {file} here")
    frames = CallFrames.of(ElfFile(Path(file).read_bytes(), file))
    assert frames is not None and len(frames.table) > 1000
    common = read_common(Reader(common_entry(8, 0, b"zR", b"\x01\x1b"), 0, 8))
    read = 0
    for start, _ in frames.table:
        frame = frames.at(start)
        if frame is None:
            continue
        offsets = [where - frame.start for where in frame.starts]
        program = frame_program(list(zip(offsets, frame.rows, strict=True)))
        reading = Program(common, 0)
        again = {0: reading.initial()} | dict(reading.run(program))
        state = again[0]
        for where, row in zip(offsets, frame.rows, strict=True):
            state = again.get(where, state)
            assert same(state, row), hex(start + where)
        read += 1
    assert read > 0.99 * len(frames.table)


def same(one: Row, other: Row) -> bool:
    """Whether two rows say the same; what has no rule keeps its value."""
    registers = one.rules.keys() | other.rules.keys()
    kept = ("same", 0)
    return one.cfa == other.cfa and all(one.rules.get(r, kept) == other.rules.get(r, kept) for r in registers)


def test_the_common_entry_is_as_the_manual_has_it() -> None:
    entry = common_entry(8, 0, b"zR", b"\x01\x1b")
    assert entry.hex() == "1400000000000000017a5200017810011b0c070890010000"
