"""Faults in instrumented code are, to the program, those of its original code."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.corpus import tool_path
from tests.live_programs import compiled
from tests.tool import Tool

FAULTS = r"""
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
static sigjmp_buf back;
static volatile int repairs;
static char *page;
static long cells[64];
static void on_fault(int number, siginfo_t *info, void *context)
{
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    printf("%d %d %p:", number, info->si_code, info->si_addr);
    g[REG_R11] &= ~0x8d5; /* the flags that the last system call was made with */
    for (int i = REG_R8; i <= REG_RIP; i++) printf(" %llx", g[i]);
    printf(" %llx %llx\n", g[REG_TRAPNO], g[REG_ERR]);
    if (repairs) { repairs = 0; mprotect(page, 4096, PROT_READ | PROT_WRITE); return; }
    siglongjmp(back, 1);
}
__attribute__((noinline)) long load(long *from, long a, long b) { return a * 3 + b + from[a]; }
__attribute__((noinline)) void store(long *to, long a, long b) { to[a + 1] = a ^ b; to[b] = a; }
__attribute__((noinline)) long add_to(long *to, long a) { cells[a] += 7; *to += a; return cells[a]; }
__attribute__((noinline)) long divide(long a, long b, long c) { return (a + c) / b + c; }
__attribute__((noinline)) long sum(long *from, long n)
{
    long total = 1;
    for (long i = 0; i < n; i++) { total = total * 31 + from[i]; cells[i & 63] ^= total; }
    return total;
}
__attribute__((noinline)) long deep(long *from, long n) { return n ? deep(from, n - 1) + n : load(from, 5, 6); }
__attribute__((noinline)) int compare(const char *a, const char *b) { while (*a && *a == *b) a++, b++; return *a - *b; }
int main(void)
{
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };
    setvbuf(stdout, 0, _IOLBF, 0);
    for (int i = 0; i < 4; i++) sigaction(faults[i], &action, 0);
    page = mmap((void *)0x10000000, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4096, 4096);
    long *words = (long *)page;
    for (int i = 0; i < 512; i++) words[i] = i * i;
    volatile long result = 0;
    if (!sigsetjmp(back, 1)) result += load(0, 4, 5);
    if (!sigsetjmp(back, 1)) result += load((long *)(1L << 62), 1, 2);
    if (!sigsetjmp(back, 1)) store(words + 510, 0, 2);
    if (!sigsetjmp(back, 1)) result += add_to(0, 9);
    if (!sigsetjmp(back, 1)) result += divide(17, 0, 4);
    if (!sigsetjmp(back, 1)) result += sum(words, 600);
    if (!sigsetjmp(back, 1)) result += deep(0, 30);
    if (!sigsetjmp(back, 1)) { memset(page + 4000, 'x', 96); result += compare(page + 4000, page + 4001); }
    mprotect(page, 4096, PROT_NONE), repairs = 1, result += load(words, 7, 8);
    mprotect(page, 4096, PROT_READ), repairs = 1, store(words, 1, 2);
    mprotect(page, 4096, PROT_NONE), repairs = 1, result += sum(words, 500);
    mprotect(page, 4096, PROT_NONE), repairs = 1, result += add_to(words + 3, 11);
    for (int i = 0; i < 64; i++) result = result * 33 + cells[i];
    printf("%ld\n", result);
    return 0;
}
"""

PANICS = """
package main

import "fmt"

type node struct {
	next  *node
	value int
}

//go:noinline
func walk(n *node, steps int) (sum int) {
	for i := 0; i < steps; i++ {
		sum += n.value
		n = n.next
	}
	return sum
}

//go:noinline
func try(n *node, steps int) (result string) {
	defer func() {
		if problem := recover(); problem != nil {
			result = fmt.Sprint(problem)
		}
	}()
	return fmt.Sprint(walk(n, steps))
}

func main() {
	list := &node{nil, 3}
	for i := 0; i < 10; i++ {
		list = &node{list, i}
	}
	for i := 0; i < 14; i++ {
		fmt.Println(i, try(list, i))
	}
}
"""

_FIXED = "import ctypes, os, sys; ctypes.CDLL(None).personality(0x40000); os.execv(sys.argv[1], sys.argv[1:])"
"""Executes a program with its addresses not randomised."""


def same_addresses(command: list[str | Path], tool: Tool) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["/usr/bin/python3", "-c", _FIXED, *command],
        capture_output=True,
        env={**os.environ, **tool.environment},
        timeout=120,
    )


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("faults"), "faults", FAULTS, "-static")


@pytest.mark.needs("gcc")
def test_handlers_see_the_original_registers(tool: Tool, faults: Path, tmp_path: Path) -> None:
    report = tmp_path / "counts.json"
    options = ["--probe=block:*", "--exact-faults", "--format=json", f"--output={report}"]
    expected = same_addresses([faults], tool)
    assert expected.stdout.count(b"\n") == 13
    found = same_addresses([*tool.command, "run", *options, "--", faults], tool)
    assert (found.returncode, found.stderr.decode()) == (0, "")
    assert found.stdout.decode().splitlines() == expected.stdout.decode().splitlines()
    rows = json.loads(report.read_text())["probes"]
    entries = {row["function"]: row["count"] for row in reversed(rows)}
    assert {name: entries[name] for name in ("load", "store", "add_to", "divide", "sum", "deep", "compare")} == {
        "load": 4, "store": 2, "add_to": 2, "divide": 1, "sum": 2, "deep": 1, "compare": 1,
    }  # fmt: skip


@pytest.mark.needs("gcc")
def test_counts_go_on_after_a_handler_returned(tool: Tool, faults: Path, tmp_path: Path) -> None:
    """Every block as often as without its counter: the turns of a loop after the one that faulted, too."""
    report = tmp_path / "counts.json"
    options = ["--probe=block:sum", "--exact-faults", "--all", "--format=json", f"--output={report}"]
    assert same_addresses([*tool.command, "run", *options, "--", faults], tool).returncode == 0
    counts = [row["count"] for row in json.loads(report.read_text())["probes"]]
    assert max(counts) == 513 + 500


@pytest.mark.needs("go")
def test_nil_dereferences_are_recovered(tool: Tool, built: Path, tmp_path: Path) -> None:
    source = tmp_path / "panics.go"
    source.write_text(PANICS)
    program = tmp_path / "panics"
    environment = {"GOCACHE": str(built / "go-cache"), "GO111MODULE": "off", "CGO_ENABLED": "0", "HOME": str(tmp_path)}
    subprocess.run(
        [tool_path("go") or "go", "build", "-o", program, source], check=True, env={**os.environ, **environment}
    )
    expected = subprocess.run([program], capture_output=True, check=True).stdout
    assert expected.count(b"nil pointer dereference") == 2
    for options in ([], ["--exact-faults"]):
        command = [*tool.command, "run", "--probe=block:main.*", *options, "--output=/dev/null", program]
        found = subprocess.run(command, capture_output=True, env={**os.environ, **tool.environment}, timeout=120)
        assert (found.returncode, found.stdout) == (0, expected)
