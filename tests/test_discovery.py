"""Functions of stripped programs without unwind tables: found by what calls them and what points to them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lifter.image.load import open_image
from tests.handmade import build
from tests.tool import Tool, counts, rows

SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#define APART __attribute__((noipa))
/* Read, not run: it would decode. */
asm(".text; .balign 16; .globl numbers; numbers: .long 0xc3c03148, 0xc3d23148, 0xc3c93148, 0x90909090; .balign 16");
extern const unsigned numbers[4];
APART static int leaf(int a) { return a * 3 + 1; }
APART static int tail(int a) { return leaf(a + 2); }
APART static int first(int a) { return tail(a) + 1; }
APART static int second(int a) { return leaf(a) ^ 5; }
APART static int third(int a)
{
    switch (a & 7) {
    case 0: return leaf(3); case 1: return a; case 2: return a * 5; case 3: return a ^ 9;
    case 4: return first(a); case 5: return a - 100; case 6: return 7; default: return -a;
    }
}
static int (*const table[])(int) = {first, second, third};
APART static int compare(const void *one, const void *other) { return *(const int *)one - *(const int *)other; }
APART static void leave(void) { puts("left"); }
APART static unsigned sum(const unsigned *from) { return from[0] + from[1] + from[2] + from[3]; }
int main(int argc, char **argv)
{
    int values[64], total = 0;
    atexit(leave);
    for (int i = 0; i < 64; i++) values[i] = table[i % 3](i * 7 % 29);
    qsort(values, 64, sizeof *values, compare);
    for (int i = 0; i < 64; i++) total = total * 31 + values[i];
    printf("%d %u\n", total, sum(numbers));
    return total & 63;
}
"""
OWN = {"leaf", "tail", "first", "second", "third", "compare", "leave", "sum", "main"}


@pytest.mark.needs("gcc", "strip")
@pytest.mark.parametrize("level", ["-O1", "-O2", "-Os"])
@pytest.mark.parametrize("link", [("-pie", "-fPIE"), ("-no-pie", "-fno-pie")])
def test_what_is_called_or_pointed_to_is_found(link: tuple[str, ...], level: str, tool: Tool, tmp_path: Path) -> None:
    flags = (level, *link, "-fno-asynchronous-unwind-tables", "-fno-exceptions")
    whole = build(SOURCE, tmp_path / "whole", "gcc", *flags)
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", whole, "-o", stripped], check=True, timeout=100)
    known = {function.address: function.name for function in open_image(whole).functions}
    image = open_image(stripped)
    names = {known[function.address] for function in image.functions}
    assert names >= OWN and "numbers" not in names
    assert any("covers" in refusal.reason for refusal in image.refusals)
    output = tmp_path / "output"
    done = tool("rewrite", stripped, "-o", output, "--probe", "block:*")
    assert done.status == 0, done.stderr
    data = tmp_path / "data"
    original = subprocess.run([stripped], capture_output=True, timeout=100)
    env = {"PROBELOOM_DATA": str(data)}
    instrumented = subprocess.run([output], capture_output=True, timeout=100, env=env)
    assert original.stdout.endswith(b"left\n")
    assert (instrumented.returncode, instrumented.stdout) == (original.returncode, original.stdout)
    counted = {row["address"]: row["count"] for row in rows(counts(tool, data), "block")}
    (leaf,) = (address for address, name in known.items() if name == "leaf")
    assert counted[leaf] > 20
