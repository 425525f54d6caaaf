"""Rewritten files: that they run as before, are found whole, and are written whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lief
import pytest

from codecache.types import Overlay, Patch
from jit import datafile, offline
from jit.elfwriter import ElfEditor
from lifter.errors import ProbeloomError, RefusedError, UsageError
from lifter.image.load import open_image
from lifter.image.types import Image
from tests.handmade import COUNTED, LINKS, build, counting_overlay, empty_overlay, rewrite
from tests.tool import require

CALLS = 10
PROGRAM = f"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
char big[3 << 20];
__thread int counted;
{COUNTED} long work(long a, long b) {{ return a * b + 1; }}
static void bye(void) {{ puts("bye"); }}
int main(int argc, char **argv) {{
    long sum = 0;
    atexit(bye);
    for (int i = 0; i < {CALLS}; i++) sum += work(i, argc);
    char *top = sbrk(1 << 20);
    if (top != (char *)-1) memset(top, 1, 1 << 20);
    for (unsigned i = 0; i < sizeof big; i++) if (big[i]) return 9;
    memset(big, 2, sizeof big);
    char *heap = calloc(1, 300000);
    for (int i = 0; i < 300000; i++) if (heap[i]) return 8;
    counted = argc;
    printf("%ld %d %s\\n", sum, counted, argc > 1 ? argv[1] : "");
    return 3;
}}
"""


@pytest.fixture(scope="module", params=LINKS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    command = LINKS[request.param]
    require(command[0])
    return build(PROGRAM, tmp_path_factory.mktemp(request.param) / "prog", *command)


@pytest.fixture(scope="module")
def pie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("gcc")
    return build(PROGRAM, tmp_path_factory.mktemp("pie") / "prog", "gcc", "-g")


def run(path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([path, *arguments], env={"PATH": "/usr/bin", **environment}, capture_output=True, timeout=100)


def same(left: subprocess.CompletedProcess[bytes], right: subprocess.CompletedProcess[bytes]) -> bool:
    return (left.stdout, left.stderr, left.returncode) == (right.stdout, right.stderr, right.returncode)


# --- programs ---------------------------------------------------------------------------------------------


def test_runs_the_same(program: Path, tmp_path: Path) -> None:
    rewritten = rewrite(program, tmp_path / "prog.inst")
    expected = run(program, "hello")
    assert expected.returncode == 3
    assert same(run(rewritten, "hello"), expected)
    assert same(run(rewritten, "hello", PROBELOOM_DATA=str(tmp_path / "run.data")), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prog.inst", "run.data"]


def test_original_bytes_stay(program: Path, tmp_path: Path) -> None:
    image = open_image(program)
    overlay = counting_overlay(image)
    output = tmp_path / "out"
    offline.write(image, overlay, output)
    before, after = image.content, output.read_bytes()
    changed = {i for i in range(len(before)) if before[i] != after[i]}
    offset = ElfEditor(before).offset_of(overlay.patches[0].address, 5)
    assert offset is not None
    header_fields = {*range(24, 48), *range(56, 64)}
    assert changed <= header_fields | set(range(offset, offset + 5))
    assert after[offset : offset + 5] == overlay.patches[0].after


def test_addresses_are_as_planned(program: Path, tmp_path: Path) -> None:
    image = open_image(program)
    overlay = counting_overlay(image)
    output = tmp_path / "out"
    offline.write(image, overlay, output)
    parsed = lief.ELF.parse(str(output))
    assert parsed is not None
    assert bytes(parsed.get_content_from_virtual_address(overlay.data_address, 8)) == overlay.data[:8]
    assert bytes(parsed.get_content_from_virtual_address(overlay.code_address, 15)) == overlay.code
    data, text = parsed.get_section(".probeloom.data"), parsed.get_section(".probeloom.text")
    assert data.virtual_address == overlay.data_address
    assert text.virtual_address == overlay.code_address
    loads = ElfEditor(output.read_bytes()).loaded
    assert [s.address for s in loads] == sorted(s.address for s in loads)
    assert len({s.address - s.offset for s in (loads[0], *loads[-2:])}) == 1, (
        "old kernels need program headers as far from the start in the file as in memory"
    )


def test_program_headers_as_the_kernel_tells_them(tmp_path: Path) -> None:
    """AT_PHDR, AT_PHNUM: what unwinders and loaders work with."""
    source = f"""
    #define _GNU_SOURCE
    #include <elf.h>
    #include <link.h>
    #include <stdio.h>
    #include <sys/auxv.h>
    {COUNTED} int work(int a) {{ return a; }}
    static int show(struct dl_phdr_info *info, size_t size, void *nothing) {{
        if (info->dlpi_name[0]) return 0;
        int loads = 0, dynamic = 0;
        const Elf64_Phdr *phdr = (void *)getauxval(AT_PHDR);
        for (unsigned i = 0; i < getauxval(AT_PHNUM); i++) loads += phdr[i].p_type == PT_LOAD;
        for (int i = 0; i < info->dlpi_phnum; i++) dynamic += info->dlpi_phdr[i].p_type == PT_LOAD;
        printf("%d %d\\n", loads, dynamic);
        return 0;
    }}
    int main(void) {{ work(1); return dl_iterate_phdr(show, 0); }}
    """
    for name in ("pie", "fixed", "static", "static-pie"):
        path = build(source, tmp_path / name, *LINKS[name])
        loads = int(run(path).stdout.split()[0])
        output = rewrite(path, tmp_path / (name + ".inst"))
        assert run(output).stdout.split() == [b"%d" % (loads + 2)] * 2


def test_large_bss_needs_no_disk(tmp_path: Path) -> None:
    source = f"""
    char huge[900 << 20];
    {COUNTED} int work(int a) {{ return a; }}
    int main(void) {{ huge[sizeof huge - 1] = 1; return work(7); }}
    """
    path = build(source, tmp_path / "prog")
    output = rewrite(path, tmp_path / "out")
    assert run(output).returncode == 7
    assert output.stat().st_blocks * 512 < 1 << 20


def test_refuses_what_cannot_be_reached(tmp_path: Path) -> None:
    source = f"""
    __attribute__((section(".lbss,\\"aw\\",@nobits#"))) char huge[3ul << 30];
    {COUNTED} int work(int a) {{ return a; }}
    int main(void) {{ return work(7); }}
    """
    path = build(source, tmp_path / "prog", "gcc", "-mcmodel=large", "-no-pie")
    image = open_image(path)
    with pytest.raises(RefusedError, match="2 GiB"):
        offline.write(image, empty_overlay(image), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_section_headers(pie: Path, tmp_path: Path) -> None:
    content = bytearray(pie.read_bytes())
    content[40:48] = bytes(8)  # e_shoff
    content[58:64] = struct.pack("<HHH", 64, 0, 0)
    bare = tmp_path / "bare"
    bare.write_bytes(content)
    bare.chmod(0o755)
    image = open_image(bare)
    overlay = counting_overlay_of(image, pie)
    offline.write(image, overlay, tmp_path / "out")
    assert run(tmp_path / "out").stdout == run(pie).stdout
    assert ElfEditor((tmp_path / "out").read_bytes()).header.shnum == 0


def counting_overlay_of(image: Image, with_symbols: Path) -> Overlay:
    return counting_overlay(replace(image, functions=open_image(with_symbols).functions))


def test_refuses_a_file_whose_program_headers_are_not_loaded(pie: Path, tmp_path: Path) -> None:
    # Its dynamic linker would read zeros; in a rewritten file it would read what had been moved.
    editor = ElfEditor(pie.read_bytes())
    index = editor.segments.index(editor.loaded[0])
    content = bytearray(editor.content)
    size_at = editor.header.phoff + index * 56 + 32
    content[size_at : size_at + 8] = bytes(8)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(content)
    with pytest.raises(RefusedError, match="damaged: no segment loads the program headers"):
        offline.reserve(open_image(damaged))


def test_refuses_a_rewritten_file(pie: Path, tmp_path: Path) -> None:
    image = open_image(rewrite(pie, tmp_path / "out"))
    with pytest.raises(RefusedError, match="already rewritten"):
        offline.reserve(image)


def test_counts_what_ran_before_the_start_up_code(tmp_path: Path) -> None:
    """Preinit functions and resolvers of indirect functions of the program run before its entry point."""
    source = f"""
    {COUNTED} int work(int a) {{ return a; }}
    static void early(void) {{ work(1); work(2); }}
    __attribute__((section(".preinit_array"), used)) static void (*preinit)(void) = early;
    int main(void) {{ return work(0); }}
    """
    output = rewrite(build(source, tmp_path / "prog"), tmp_path / "out")
    for expected in (3, 6):
        assert run(output, PROBELOOM_DATA=str(tmp_path / "data")).returncode == 0
        assert counts(tmp_path / "data") == [expected]


def counts(path: Path) -> list[int]:
    return datafile.read(path).counters.tolist()


# --- libraries --------------------------------------------------------------------------------------------

LIBRARY = f"""
{COUNTED} long work(long a, long b) {{ return a + b; }}
__attribute__((constructor)) static void begin(void) {{ work(1, 2); }}
__attribute__((destructor)) static void end(void) {{ work(1, 2); }}
"""
USER = """
#include <dlfcn.h>
#include <stdio.h>
long work(long, long);
int main(int argc, char **argv) {
    long sum = 0;
    long (*called)(long, long) = 0;
    if (argc > 1) {
        void *library = dlopen(argv[1], RTLD_NOW);
        called = library ? dlsym(library, "work") : 0;
        if (!called) { puts(dlerror()); return 1; }
    }
    for (int i = 0; i < 10; i++) sum += argc > 1 ? called(i, 1) : work(i, 1);
    printf("%ld\\n", sum);
    return 0;
}
"""
LOADER = USER.replace("long work(long, long);", "").replace(": work(i, 1)", ": 0")

TAGS = {"INIT": 12, "RELACOUNT": 0x6FFFFFF9}
KINDS = {
    "own initialiser": (),
    "spare entry": ("-nostartfiles",),
    "instead of a hint": ("-nostartfiles", "no spare"),
    "table moved": ("-nostartfiles", "-Wl,-z,nocombreloc", "no spare"),
}


def dynamic_tags(path: Path) -> list[int]:
    editor = ElfEditor(path.read_bytes())
    return [tag for tag, _ in editor.dynamic_table()]


@pytest.mark.parametrize("compiler", ["gcc", "musl-gcc"])
@pytest.mark.parametrize("kind", KINDS)
def test_libraries(kind: str, compiler: str, tmp_path: Path) -> None:
    require(compiler)
    flags = [flag for flag in KINDS[kind] if flag != "no spare"]
    library = build(LIBRARY, tmp_path / "libwork.so", compiler, "-shared", "-fPIC", *flags)
    if "no spare" in KINDS[kind]:
        drop_spare_entries(library)
    tags = dynamic_tags(library)
    assert (TAGS["INIT"] in tags) == (kind == "own initialiser")
    assert (TAGS["RELACOUNT"] in tags) == (kind != "table moved")
    user = build(USER, tmp_path / "user", compiler, f"-L{tmp_path}", "-lwork", "-ldl", "-Wl,-rpath,$ORIGIN")
    loader = build(LOADER, tmp_path / "loader", compiler, "-ldl")
    expected = run(user)
    assert expected.stdout == b"55\n"

    rewritten = rewrite(library, tmp_path / "rewritten.so")
    moved = ElfEditor(rewritten.read_bytes()).dynamic_table() != ElfEditor(library.read_bytes()).dynamic_table()
    assert moved
    assert same(run(loader, str(rewritten)), expected)
    data = tmp_path / "loaded.data"
    assert same(run(loader, str(rewritten), PROBELOOM_DATA=str(data)), expected)
    assert counts(data) == [12]
    rewritten.replace(library)
    assert same(run(user), expected)
    assert same(run(user, PROBELOOM_DATA=str(tmp_path / "%m.data")), expected)
    assert counts(tmp_path / "libwork.so.data") == [12]


def drop_spare_entries(library: Path) -> None:
    """As linkers do that leave none: the dynamic segment ends with the first DT_NULL."""
    content = bytearray(library.read_bytes())
    editor = ElfEditor(bytes(content))
    index = next(i for i, segment in enumerate(editor.segments) if segment.type == 2)
    tags = [tag for tag, _ in editor.dynamic_table()]
    size = 16 * (tags.index(0) + 1)
    struct.pack_into("<QQ", content, editor.header.phoff + 56 * index + 32, size, size)
    library.write_bytes(content)


def test_program_and_library_share_a_name(tmp_path: Path) -> None:
    """Both are told the same FILE: the library, first to run, takes it, the program takes FILE.MODULE."""
    library = build(LIBRARY, tmp_path / "libwork.so", "gcc", "-shared", "-fPIC")
    source = USER.replace("int main", f"{COUNTED} int mine(void) {{ return 1; }} int main").replace(
        "return 0", "return mine()"
    )
    user = build(source, tmp_path / "user", "gcc", f"-L{tmp_path}", "-lwork", "-Wl,-rpath,$ORIGIN")
    rewrite(library, tmp_path / "new.so").replace(library)
    rewrite(user, tmp_path / "user.inst", ("mine",))
    for times in (1, 2):
        assert run(tmp_path / "user.inst", PROBELOOM_DATA=str(tmp_path / "data")).returncode == 1
        assert counts(tmp_path / "data") == [12 * times]
        assert counts(tmp_path / "data.user") == [times]


# --- the data file ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counting(pie: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rewrite(pie, tmp_path_factory.mktemp("counting") / "prog.inst")


def test_counts_accumulate(counting: Path, tmp_path: Path) -> None:
    for times in (1, 2, 3):
        run(counting, PROBELOOM_DATA=str(tmp_path / "data"))
        assert counts(tmp_path / "data") == [CALLS * times]
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) & 0o111 == 0


def test_names_are_expanded(counting: Path, tmp_path: Path) -> None:
    run(counting, PROBELOOM_DATA=str(tmp_path / "%m,%p,%%,%x,%"))
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"prog,\d+,%,%x,%", path.name)


def test_relative_names(counting: Path, tmp_path: Path) -> None:
    environment = {"PROBELOOM_DATA": "data"}
    subprocess.run([counting], env=environment, cwd=tmp_path, capture_output=True, timeout=100)
    assert counts(tmp_path / "data") == [CALLS]


@pytest.mark.parametrize("old", ["another plan", "empty", "truncated"])
def test_a_stale_file_is_renewed(pie: Path, counting: Path, tmp_path: Path, old: str) -> None:
    data = tmp_path / "data"
    if old == "another plan":
        image = open_image(pie)
        offline.write(image, empty_overlay(image), tmp_path / "other.inst")
        run(tmp_path / "other.inst", PROBELOOM_DATA=str(data))
        assert counts(data) == [0]
    else:
        run(counting, PROBELOOM_DATA=str(data))
        os.truncate(data, 0 if old == "empty" else 5000)
    data.chmod(0o640)
    link = tmp_path / "as a running process sees it"
    os.link(data, link)
    before = link.read_bytes()
    run(counting, PROBELOOM_DATA=str(data))
    assert counts(data) == [CALLS]
    assert stat.S_IMODE(data.stat().st_mode) == 0o640
    assert link.read_bytes() == before, "renewed by another file, not written over"


@pytest.mark.parametrize("content", [b"x", b"important\n" * 2000, b"PROBELM\n", bytes(8192)])
def test_files_of_others_are_left_alone(counting: Path, tmp_path: Path, content: bytes) -> None:
    data = tmp_path / "data"
    data.write_bytes(content)
    assert same(run(counting, PROBELOOM_DATA=str(data)), run(counting))
    assert data.read_bytes() == content
    assert list(tmp_path.iterdir()) == [data]


def test_names_that_cannot_be_files(counting: Path, tmp_path: Path) -> None:
    expected = run(counting)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    names = ["", "/", str(tmp_path), str(tmp_path / "no" / "data"), "/dev/null", "/dev/full", "/proc/version"]
    for name in [*names, str(fifo), str(loop), "/proc/data", "x" * 300, "x/" * 3000, "%m" * 2000, "%"]:
        done = subprocess.run([counting], env={"PROBELOOM_DATA": name}, cwd=tmp_path, capture_output=True, timeout=100)
        assert same(done, expected), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["%", "fifo", "loop"]


def test_a_file_size_limit_is_no_death(counting: Path, tmp_path: Path) -> None:
    command = ["sh", "-c", 'ulimit -f 8; exec "$0"', counting]
    environment = {"PROBELOOM_DATA": str(tmp_path / "data")}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=100)
    assert same(done, run(counting))
    assert not list(tmp_path.iterdir())


def test_processes_that_start_at_once_share_a_file(pie: Path, counting: Path, tmp_path: Path) -> None:
    """Whether there is none yet, or a stale one that all want to renew."""
    image = open_image(pie)
    other = tmp_path / "other.inst"
    offline.write(image, empty_overlay(image), other)
    for attempt in range(6):
        data = tmp_path / f"data{attempt}"
        if attempt % 2:
            run(other, PROBELOOM_DATA=str(data))
        script = 'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do "$0" > /dev/null & done; wait'
        subprocess.run(["sh", "-c", script, counting], env={"PROBELOOM_DATA": str(data)}, timeout=100)
        assert counts(data) == [12 * CALLS]
    assert not list(tmp_path.glob(".probeloom*"))


def test_counts_survive_any_end(tmp_path: Path) -> None:
    source = f"""
    #include <signal.h>
    #include <stdlib.h>
    #include <sys/wait.h>
    #include <unistd.h>
    {COUNTED} int work(int a) {{ return a; }}
    int main(int argc, char **argv) {{
        work(1);
        if (argv[1][0] == 'e') _exit(work(2));
        if (argv[1][0] == 'k') {{ work(2); raise(SIGKILL); }}
        if (argv[1][0] == 's') {{ work(2); *(volatile int *)0 = 0; }}
        if (argv[1][0] == 'f') {{
            if (!fork()) {{ work(2); _exit(0); }}
            wait(0);
        }}
        if (argv[1][0] == 'x') {{ work(2); argv[1] = "n"; execv(argv[0], argv); }}
        return 0;
    }}
    """
    output = rewrite(build(source, tmp_path / "prog"), tmp_path / "prog.inst")
    for way, expected in {"exit": 2, "kill": 2, "segv": 2, "fork": 2, "xec": 3}.items():
        run(output, way, PROBELOOM_DATA=str(tmp_path / way))
        assert counts(tmp_path / way) == [expected], way


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that other users can reach, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="probeloom-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make set-user-id files and run as somebody else")
def test_a_set_user_id_program_ignores_the_variable(counting: Path, reachable: Path) -> None:
    program = reachable / "prog"
    shutil.copy(counting, program)
    program.chmod(0o4755)
    (reachable / "open").mkdir()
    (reachable / "open").chmod(0o777)
    data = reachable / "open" / "data"
    environment = {"PROBELOOM_DATA": str(data)}
    done = subprocess.run([program], env=environment, user=65534, group=65534, capture_output=True, timeout=100)
    assert same(done, run(counting))
    assert not data.exists()
    program.chmod(0o755)
    subprocess.run([program], env=environment, user=65534, group=65534, capture_output=True, timeout=100)
    assert counts(data) == [CALLS]


# --- tools ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["strip"], ["strip", "-g"], ["objcopy", "-g"]])
def test_gnu_tools_refuse_and_leave_the_file(counting: Path, tmp_path: Path, command: list[str]) -> None:
    require(command[0])
    copy = tmp_path / "prog"
    shutil.copy(counting, copy)
    done = subprocess.run([*command, copy], capture_output=True, timeout=100)
    assert done.returncode != 0
    assert b"program header" in done.stderr
    assert copy.read_bytes() == counting.read_bytes()


@pytest.mark.parametrize("command", ["llvm-strip", "eu-strip"])
def test_other_strips_work(counting: Path, tmp_path: Path, command: str) -> None:
    require(command)
    subprocess.run([command, "-o", tmp_path / "prog", counting], check=True, timeout=100)
    assert (tmp_path / "prog").stat().st_size < counting.stat().st_size
    run(tmp_path / "prog", PROBELOOM_DATA=str(tmp_path / "data"))
    assert counts(tmp_path / "data") == [CALLS]


@pytest.mark.needs("readelf", "objdump")
def test_readers_of_elf_files_have_no_complaint(counting: Path) -> None:
    done = subprocess.run(["readelf", "-aW", counting], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    shown = subprocess.run(
        ["objdump", "-d", "-j", ".probeloom.text", counting], capture_output=True, text=True, timeout=100
    )
    assert "lock incq" in shown.stdout
    assert shown.stderr == ""


@pytest.mark.needs("gdb")
def test_gdb_sees_the_program(tmp_path: Path) -> None:
    source = f"""
    __attribute__((noipa)) int leaf(int a) {{ return a + 1; }}
    {COUNTED} int work(int a) {{ return leaf(a) + 1; }}
    int main(void) {{ return work(3); }}
    """
    output = rewrite(build(source, tmp_path / "prog", "gcc", "-g"), tmp_path / "prog.inst")
    commands = ["break leaf", "run", "backtrace", "finish", "info symbol work", "continue"]
    done = subprocess.run(
        ["gdb", "-q", "-nx", "-batch", *(f"-ex={command}" for command in commands), output],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert re.search(r"#0 +leaf \(a=.*#1 .* in work \(a=.*#2 .* in main \(\)", done.stdout, re.DOTALL), done.stdout
    assert "exited with code 05" in done.stdout


# --- writing ----------------------------------------------------------------------------------------------


def test_permissions_and_owner_are_kept(pie: Path, tmp_path: Path) -> None:
    program = tmp_path / "prog"
    shutil.copy(pie, program)
    if os.geteuid() == 0:
        os.chown(program, 1234, 4321)
    program.chmod(0o4751)
    image = open_image(program)
    notes = offline.write(image, counting_overlay(image), tmp_path / "out")
    status = (tmp_path / "out").stat()
    assert stat.S_IMODE(status.st_mode) == 0o4751
    assert (status.st_uid, status.st_gid) == (program.stat().st_uid, program.stat().st_gid)
    assert notes == ()


def test_set_user_id_is_not_given_away(pie: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "prog"
    shutil.copy(pie, program)
    program.chmod(0o6755)

    def refuse(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    image = open_image(program)
    (note,) = offline.write(image, counting_overlay(image), tmp_path / "out")
    assert "set-user-id" in note
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755


def test_file_capabilities_are_dropped_with_a_note(pie: Path, tmp_path: Path) -> None:
    program = tmp_path / "prog"
    shutil.copy(pie, program)
    try:
        os.setxattr(program, "security.capability", struct.pack("<5I", 0x0200_0001, 1 << 10, 0, 0, 0))
    except OSError as error:
        pytest.skip(f"cannot set file capabilities here: {error.strerror}")
    image = open_image(program)
    (note,) = offline.write(image, counting_overlay(image), tmp_path / "out")
    assert "capabilities" in note
    assert "security.capability" not in os.listxattr(tmp_path / "out")


def test_output_must_be_another_plain_file(pie: Path, tmp_path: Path) -> None:
    program = tmp_path / "prog"
    shutil.copy(pie, program)
    os.link(program, tmp_path / "hard")
    (tmp_path / "soft").symlink_to(program)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_bytes(b"")
    image = open_image(program)
    overlay = counting_overlay(image)
    before = sorted(tmp_path.iterdir())
    wrong = ["prog", "hard", "soft", "loop", ".", "no/out", "file/out", "x" * 300]
    for name in [*(tmp_path / name for name in wrong), Path("/dev/null"), Path("/proc/out")]:
        with pytest.raises(UsageError, match="cannot write") as caught:
            offline.write(image, overlay, name)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2
    assert sorted(tmp_path.iterdir()) == before
    assert program.read_bytes() == pie.read_bytes()


def test_an_existing_output_is_replaced_through_links(pie: Path, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    rewrite(pie, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert run(tmp_path / "real").stdout == run(pie).stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_running_output_can_be_replaced(tmp_path: Path) -> None:
    source = (
        f"#include <unistd.h>\n{COUNTED} int work(int a) {{ return a; }} int main(void) {{ work(1); return pause(); }}"
    )
    program = build(source, tmp_path / "prog")
    output = rewrite(program, tmp_path / "out")
    with subprocess.Popen([output], env={"PROBELOOM_DATA": str(tmp_path / "data")}) as running:
        while not (tmp_path / "data").exists() or counts(tmp_path / "data") != [1]:
            time.sleep(0.005)
        rewrite(program, output)
        assert running.poll() is None
        running.kill()


@pytest.mark.parametrize("named", [False, True])
def test_a_full_disk_leaves_nothing(pie: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """A file size limit stands for the full disk: the write stops in the middle with an error."""
    if named:
        forget_nameless_files(monkeypatch)
    image = open_image(pie)
    overlay = counting_overlay(image)
    real = os.pwrite
    written = 0

    def full(file: int, content: bytes, offset: int) -> int:
        nonlocal written
        written += 1
        if written > 1:
            raise OSError(28, "No space left on device")
        return real(file, content[:1000], offset)

    monkeypatch.setattr(os, "pwrite", full)
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(UsageError, match="No space left"):
        offline.write(image, overlay, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"old"


def forget_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def old_kernel(path: object, flags: int, *rest: int, **named: object) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", old_kernel)


def test_file_systems_without_nameless_files(pie: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_nameless_files(monkeypatch)
    assert run(rewrite(pie, tmp_path / "out")).stdout == run(pie).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_leaves_nothing_half_written(pie: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Killed at many moments, the output is as before or whole; at most a whole copy is left beside it."""
    output = tmp_path / "out"
    whole = rewrite(pie, output).read_bytes()
    for moment in range(20):
        process = os.fork()
        if process == 0:
            try:
                while True:
                    rewrite(pie, output)
            finally:
                os._exit(1)
        time.sleep(0.002 + 0.0013 * moment)
        os.kill(process, number)
        os.waitpid(process, 0)
        assert output.read_bytes() == whole
        left = [path for path in tmp_path.iterdir() if path != output]
        assert not left or (number == signal.SIGKILL and all(path.read_bytes() == whole for path in left))


def test_patches_must_fit(pie: Path, tmp_path: Path) -> None:
    image = open_image(pie)
    overlay = counting_overlay(image)
    (patch,) = overlay.patches
    wrong = {
        "unexpected original bytes": (replace(patch, before=b"\xcc" * 5),),
        "overlaps": (patch, replace(patch, address=patch.address + 1, before=patch.after)),
        "not in the file": (Patch(0x1000_0000, b"\x90", b"\xcc"),),
    }
    for reason, patches in wrong.items():
        with pytest.raises(ProbeloomError, match=reason) as caught:
            offline.write(image, replace(overlay, patches=patches), tmp_path / "out")
        assert caught.value.exit_code == 5
    with pytest.raises(ProbeloomError, match="page-aligned"):
        offline.write(image, replace(overlay, data_address=0x1000), tmp_path / "out")
    assert not list(tmp_path.iterdir())
