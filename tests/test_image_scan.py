"""Byte scans are supersets of what a disassembler finds; threads are found by what starts them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lifter.image.load import open_image
from lifter.image.scan import branch_targets, data_pointers, quadwords
from lifter.image.threads import can_start_threads, may_share_stacks
from lifter.image.types import Segment
from tests.image_builds import C_PROGRAM, build, output_of

pytestmark = pytest.mark.needs("gcc", "objdump")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scan")


@pytest.mark.parametrize("flags", [("-pie",), ("-static",)], ids=str)
def test_branch_targets_hold_every_direct_branch(flags: tuple[str, ...], directory: Path) -> None:
    path = build(directory, "branches" + flags[0], C_PROGRAM, *flags)
    image = open_image(path)
    found = branch_targets(image)
    rows = set(zip(found.site.tolist(), found.target.tolist(), found.is_call.tolist(), strict=True))
    assert (found.target[1:] >= found.target[:-1]).all()
    pattern = r"^ +([0-9a-f]+):\t((?:[0-9a-f]{2} )+) *\t(?:bnd |notrack )*(call|j\w+) +([0-9a-f]+) <"
    checked = 0
    for address, code, mnemonic, target in re.findall(pattern, output_of("objdump", "-dw", path), re.MULTILINE):
        opcode = code.split()
        # Prefixes stand before the opcode that the scan reports.
        skip = next(index for index, byte in enumerate(opcode) if byte not in ("f2", "2e", "3e", "66", "67"))
        # Calls of undefined weak symbols go to 0.
        if len(opcode) - skip < 5 or not image.is_code(int(target, 16)):
            continue
        checked += 1
        assert (int(address, 16) + skip, int(target, 16), mnemonic == "call") in rows, address
    assert checked > 5


def test_branch_targets_by_range(directory: Path) -> None:
    image = open_image(build(directory, "ranges", C_PROGRAM))
    main = next(function for function in image.functions if function.name == "spread")
    found = branch_targets(image).sites(main.address, main.end)
    assert len(found.target) >= 1
    assert ((found.target >= main.address) & (found.target < main.end)).all()
    for site, target, is_call in zip(found.site, found.target, found.is_call, strict=True):
        code = image.read(int(site), 6)
        assert code[0] == (0xE8 if is_call else code[0]) and code[0] in (0xE8, 0xE9, 0x0F)
        skip = 2 if code[0] == 0x0F else 1
        assert int(site) + skip + 4 + int.from_bytes(code[skip : skip + 4], "little", signed=True) == target


@pytest.mark.parametrize("size", [0, 1, 7, 8, 15, 20])
def test_data_pointers_of_a_segment_of_any_size(size: int) -> None:
    """`zig -O ReleaseSmall` has a segment that the file holds nothing of."""
    code = Segment(0x1000, 0x100, 0, bytes(0x100), True, False, True)
    pointer = (0x1010).to_bytes(8, "little")
    data = Segment(0x2003, 0x18, 0x100, (b"\xff" * 5 + pointer + pointer)[:size], True, True, False)
    assert data_pointers([code, data]).tolist() == ([0x1010] if size >= 13 else [])
    assert len(quadwords(data, 5)) == max(size - 5, 0) // 8


POINTERS = r"""
extern void f1(void), f2(void), f3(void), f4(void), f5(void), f6(void), f7(void), f8(void);
asm(".text\n"
    "f1: nop\nf2: nop\nf3: nop\nf4: nop\nf5: nop\nf6: nop\nf7: nop\nf8: nop\n.skip 64, 0x90\nret\n"
    "users: lea f1(%rip), %r13\n"
    "lea f2(%rip), %eax\n"
    "mov $f3, %r9d\n"
    "movq $f4, 8(%rsp)\n"
    "movq $f5, x(,%rbx,8)\n"
    "movl $f6, (%rdi)\n"
    "pushq $f7\n"
    "movabs $f8, %rcx\n"
    "movq $f1+20, x(%rip)\n"
    "movq $f1+21, 0x12345(%rax,%rcx,2)\n"
    "movq $f1+22, (%r12)\n"
    ".data\nx: .quad 0\n.byte 1\n.quad f1+30\n");
int main(void) { return 0; }
"""


def test_addresses_computed_by_instructions(directory: Path) -> None:
    path = build(directory, "pointers", POINTERS, "-fno-pie", "-no-pie", "-Wl,--no-relax")
    image = open_image(path)
    symbols = dict(re.findall(r"^([0-9a-f]+) t (f\d)$", output_of("nm", path), re.MULTILINE))
    first = min(int(address, 16) for address in symbols)
    missing = [offset for offset in (*range(8), 20, 21, 22, 30) if first + offset not in image.code_pointers]
    assert not missing


SOURCES = {
    "plain": ("int main(void) { return 0; }", False),
    "threads": (
        "#include <pthread.h>\nvoid *f(void *a) { return a; }\n"
        "int main(void) { pthread_t t; pthread_create(&t, 0, f, 0); return pthread_join(t, 0); }",
        True,
    ),
    "forks": ("#include <unistd.h>\nint main(void) { return fork() < 0; }", False),
    "runs_others": ('#include <stdlib.h>\nint main(void) { return system("true"); }', False),
    "waits": ("#include <unistd.h>\nint main(void) { return syscall(202, 0, 1, 0, 0) < 0; }", False),
    "clones": ("#include <unistd.h>\nint main(int c, char **v) { return syscall(c > 9 ? 39 : 56, 0) < 0; }", True),
    "overwritten": (
        'int main(void) { asm volatile("mov $202, %%edi; mov $56, %%dil; call syscall@plt" ::: "rdi"); return 0; }',
        True,
    ),
    "any": ("#include <unistd.h>\nint main(int c, char **v) { return syscall(c) < 0; }", True),
    "raw": (
        'int main(void) { long r; asm volatile("syscall" : "=a"(r) : "0"(435L) : "rcx", "r11", "memory"); return 0; }',
        True,
    ),
}


NOT_JUDGED = {("raw", "-pie"), *((name, "-static") for name in ("runs_others", "forks", "waits"))}
"""A dynamic program is judged by its imports alone; static ones hold the C library's own way to start others."""
THREAD_CASES = [(name, link) for name in SOURCES for link in ("-pie", "-static") if (name, link) not in NOT_JUDGED]


@pytest.mark.parametrize(("name", "link"), THREAD_CASES)
def test_threads(name: str, link: str, directory: Path) -> None:
    source, expected = SOURCES[name]
    path = build(directory, name + link, source, link, "-pthread")
    assert can_start_threads(open_image(path)) is expected


def test_stacks_of_its_choice(directory: Path) -> None:
    """A program that calls clone itself; not one of which the numbers of its system calls are unknown."""
    calls = "#define _GNU_SOURCE\n#include <sched.h>\nint main(void) { return clone((void *)main, 0, 0, 0) < 0; }"
    numbered = "#include <unistd.h>\nint main(void) { return syscall(56, 0) < 0; }"
    given = {name: SOURCES[name][0] for name in ("plain", "any", "waits")} | {"calls": calls, "numbered": numbered}
    images = {name: open_image(build(directory, f"{name}-stacks", source)) for name, source in given.items()}
    assert {name for name, image in images.items() if may_share_stacks(image)} == {"calls", "numbered"}


def test_threads_in_doubt(directory: Path) -> None:
    plain = SOURCES["plain"][0]
    assert can_start_threads(open_image(build(directory, "stripped", plain, "-static", "-s")))
    assert can_start_threads(open_image(build(directory, "library", "int f(void) { return 0; }", "-shared", "-fPIC")))
    assert not can_start_threads(open_image(build(directory, "dynamic", plain, "-s")))
