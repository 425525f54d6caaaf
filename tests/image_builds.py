"""Small programs for the tests of the image, built on demand, and what other tools say about them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

C_PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int exported_word = 3;
__attribute__((noinline)) static int add(int a, int b) { return a + b; }
__attribute__((noinline)) static int sub(int a, int b) { return a - b; }
int (*const operations[])(int, int) = {add, sub};
__attribute__((packed)) struct { char c; int (*f)(int, int); } packed = {1, sub};
__attribute__((noinline)) int spread(int n, ...) { return n * exported_word; }
__attribute__((weak, alias("spread"))) int spread_too(int n, ...);
__attribute__((constructor)) static void before(void) { exported_word++; }
__attribute__((destructor)) static void after(void) { exported_word--; }
int main(int argc, char **argv) {
    static void *const labels[] = {&&one, &&two};
    void (*volatile late)(int) = argc > 90 ? exit : 0;
    if (late) late(1);
    goto *labels[argc & 1];
one: return operations[argc & 1](argc, 2) + packed.f(1, 1);
two: printf("%zu %d\n", strlen(argv[0]), spread(argc)); return 0;
}
"""

CXX_PROGRAM = r"""
#include <cstdio>
#include <stdexcept>
#include <string>
struct Guard { const char *name; ~Guard() { std::puts(name); } };
__attribute__((noinline)) int thrower(int n) {
    Guard guard{"thrower"};
    if (n > 3) throw std::runtime_error(std::to_string(n));
    return n;
}
template <class T> __attribute__((noinline)) T catcher(T n) {
    Guard outer{"outer"};
    try { Guard inner{"inner"}; return thrower(n); }
    catch (const std::runtime_error &error) { std::puts(error.what()); }
    catch (...) { Guard rare{"rare"}; return thrower(1); }
    return 1;
}
int main(int argc, char **) { return catcher(argc + 5) == 1 ? 0 : 1; }
"""


def build(directory: Path, name: str, source: str, *flags: str, compiler: str = "gcc") -> Path:
    """Compiles `source` with `flags` to directory/name."""
    suffix = {"gcc": "c", "g++": "cc"}[compiler]
    text = directory / f"{name}.{suffix}"
    text.write_text(source)
    output = directory / name
    subprocess.run([compiler, "-O2", str(text), "-o", str(output), *flags], check=True, capture_output=True)
    return output


def without_section_headers(path: Path) -> Path:
    """A copy of the file that has only program headers."""
    content = bytearray(path.read_bytes())
    content[40:48] = bytes(8)
    content[58:64] = bytes(6)
    copy = path.with_name(path.name + ".nosections")
    copy.write_bytes(content)
    return copy


def output_of(*command: str | Path, check: bool = True) -> str:
    """What a tool prints. Without `check`, whatever its exit code: readelf's is 1 after a warning."""
    return subprocess.run([str(word) for word in command], check=check, capture_output=True, text=True).stdout


def nm(path: Path, *flags: str) -> list[tuple[int, int, str, str]]:
    """Address, size, letter and name of the defined symbols that have a size."""
    rows = re.findall(r"^([0-9a-f]+) ([0-9a-f]+) (\S) (\S+)$", output_of("nm", "-S", *flags, path), re.MULTILINE)
    return [(int(address, 16), int(size, 16), letter, name) for address, size, letter, name in rows]


def frame_entries(path: Path) -> set[tuple[int, int]]:
    """Start and end of every FDE, as readelf reads them."""
    found = re.findall(r"FDE cie=\S+ pc=([0-9a-f]+)\.\.([0-9a-f]+)", output_of("readelf", "-wf", path, check=False))
    return {(int(start, 16), int(end, 16)) for start, end in found if start != end}


def plt_stubs(path: Path) -> dict[int, str]:
    """PLT stubs as objdump names them."""
    found = re.findall(r"^([0-9a-f]+) <([\w.]+)(?:@\S+)?@plt>:", output_of("objdump", "-d", path), re.MULTILINE)
    return {int(address, 16): name for address, name in found}
