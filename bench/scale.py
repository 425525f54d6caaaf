"""How the engine's cost grows: `python -m bench.scale [--largest N]`.

Libraries of 1,000 to 3,000,000 instructions are made by the assembler, of functions with branches, a loop, calls and
memory accesses whose constants differ, and rewritten with every block counted. Seconds and bytes for an instruction
must stay what they are. `--threads` runs an instrumented program with more and more threads that pass the same
counters instead, beside the original.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.children import Cost, median, run

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000, 3_000_000)
_FUNCTION_SIZE: Final = 40
"""Instructions."""

_THREADED: Final = """
#include <pthread.h>
#include <stdlib.h>
static long step(long x, long i) { if (x & 1) return x * 3 + i; if (x % 7 == 3) return x / 2; return x ^ i; }
__attribute__((noinline)) static long work(long n) {
    long x = n; for (long i = 0; i < n; i++) x = step(x, i); return x;
}
static void *thread(void *n) { return (void *) work((long) n); }
int main(int argc, char **argv) {
    int count = atoi(argv[1]); long n = atol(argv[2]); pthread_t ids[64]; void *result; long sum = 0;
    for (int i = 0; i < count; i++) pthread_create(&ids[i], 0, thread, (void *) n);
    for (int i = 0; i < count; i++) { pthread_join(ids[i], &result); sum += (long) result; }
    return sum == 1;
}
"""


def function(number: int) -> str:
    """Assembly of one function of about 40 instructions; no two have the same constants."""
    callee = f"f{number // 2}" if number else "f0"
    k = number * 24
    return f"""
.type f{number}, @function
.globl f{number}
f{number}:
 push %rbx
 push %rbp
 sub ${8 + 16 * (number % 5)}, %rsp
 mov %rdi, %rbx
 mov %rsi, %rbp
 test %rdi, %rdi
 je 1f
 mov {k % 4096}(%rbx), %eax
 cmp ${k % 251}, %eax
 jg 2f
 add ${k}, %rbp
 xor %ebp, %eax
 movzbl {k % 100}(%rbx), %ecx
 shl ${number % 31}, %rcx
 lea {k}(%rbp,%rcx,2), %rdi
 mov %rbx, %rsi
 call {callee}
 mov %rax, {k % 512}(%rbx)
 jmp 3f
2: xor %ecx, %ecx
4: mov (%rbx,%rcx,8), %rdx
 add %rdx, %rbp
 inc %rcx
 cmp ${number % 97 + 1}, %rcx
 jne 4b
 mov %rbp, %rdi
 call {callee}
3: test %rax, %rax
 jne 1f
 mov ${k + 1}, %eax
 sub %rbp, %rax
 imul ${number % 89 + 3}, %rax, %rax
1: lea {k % 77}(%rbp), %rax
 add ${8 + 16 * (number % 5)}, %rsp
 pop %rbp
 pop %rbx
 ret
.size f{number}, .-f{number}
"""


def library(instructions: int, directory: Path) -> Path:
    """A shared library of about so many instructions."""
    source, result = directory / f"{instructions}.s", directory / f"{instructions}.so"
    with source.open("w") as file:
        file.write(".text\n")
        for number in range(max(1, instructions // _FUNCTION_SIZE)):
            file.write(function(number))
        file.write('.section .note.GNU-stack,"",@progbits\n')
    subprocess.run(["gcc", "-shared", "-nostdlib", "-Wl,-Bsymbolic", "-o", result, source], check=True)
    source.unlink()
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="See how the engine's cost grows.")
    parser.add_argument("--largest", type=int, default=SIZES[-1], metavar="N", help="instructions at most")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", action="store_true", help="of the instrumented program, instead")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        rows = _threads(Path(name)) if options.threads else _sizes(Path(name), options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _sizes(directory: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for size in (size for size in SIZES if size <= options.largest):
        path = library(size, directory)
        report = directory / "report.json"
        command = [sys.executable, "-m", "jit", "rewrite", str(path), "-o", str(directory / "out"), "--no-cache"]
        command += ["--probe", "block:*", "--jobs", str(options.jobs), "--report", str(report)]
        cost = run(command, {})
        count = sum(json.loads(report.read_text())["instructions"].values())
        rows.append({"instructions": count, "wall": cost.wall, "cpu": cost.cpu, "memory": cost.memory})
        print(
            f"{count:9,} instructions: {cost.wall:7.2f} s, {cost.cpu:7.2f} s of processor,"
            f" {1e6 * cost.cpu / count:7.1f} us and {cost.memory / count:8.0f} bytes an instruction",
            flush=True,
        )
        path.unlink()
    return rows


def _threads(directory: Path) -> list[dict[str, Any]]:
    source, original, instrumented = (directory / name for name in ("threaded.c", "threaded", "threaded.inst"))
    source.write_text(_THREADED)
    subprocess.run(["gcc", "-O2", "-fno-inline", "-pthread", "-o", original, source], check=True)
    run([sys.executable, "-m", "jit", "rewrite", str(original), "-o", str(instrumented), "--probe", "block:*"], {})
    rows = []
    most = 4 * (os.cpu_count() or 1)
    count = 1
    while count <= most:
        costs: dict[Path, list[Cost]] = {original: [], instrumented: []}
        for _ in range(5):
            for path, several in costs.items():
                several.append(run([str(path), str(count), str(20_000_000 // count)], {}))
        before, after = (median(several).cpu for several in costs.values())
        rows.append({"threads": count, "original": before, "instrumented": after, "ratio": after / before})
        print(f"{count:3} threads: {before:6.2f} s of processor, {after:6.2f} with counters, x{after / before:.2f}")
        count *= 2
    return rows


if __name__ == "__main__":
    sys.exit(main())
