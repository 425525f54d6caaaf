"""The image of real builds, against what nm, readelf and objdump say about them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lifter.image.load import open_image
from lifter.image.types import Function, Image, Kind
from tests.image_builds import (
    C_PROGRAM,
    build,
    frame_entries,
    nm,
    output_of,
    plt_stubs,
    without_section_headers,
)

pytestmark = pytest.mark.needs("gcc", "nm", "readelf", "objdump")

LINKS = {
    "pie": ("-fPIE", "-pie"),
    "nopie": ("-fno-pie", "-no-pie"),
    "static": ("-fno-pie", "-static"),
    "staticpie": ("-fPIE", "-static-pie"),
    "library": ("-fPIC", "-shared", "-Wl,-soname,libsample.so.1"),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("image")


@pytest.fixture(scope="module", params=list(LINKS))
def path(request: pytest.FixtureRequest, directory: Path) -> Path:
    return build(directory, request.param, C_PROGRAM, *LINKS[request.param])


def named(image: Image, name: str) -> Function:
    return next(function for function in image.functions if name in (function.name, *function.aliases))


def test_how_the_file_is_loaded(path: Path) -> None:
    image = open_image(path)
    kinds = {"nopie": Kind.FIXED, "static": Kind.FIXED, "library": Kind.LIBRARY}
    assert image.kind is kinds.get(path.name, Kind.PIE)
    assert image.is_static == path.name.startswith("static")
    assert image.soname == ("libsample.so.1" if path.name == "library" else "")
    assert image.needed == (() if image.is_static else ("libc.so.6",))
    assert not image.is_go
    build_id = re.search(r"Build ID: (\w+)", output_of("readelf", "-n", path))
    assert build_id is not None and image.build_id == build_id[1]
    entry = re.search(r"Entry point address:\s+0x([0-9a-f]+)", output_of("readelf", "-h", path))
    assert entry is not None and image.entry == int(entry[1], 16)


def test_every_symbol_of_code_is_a_function_or_reported(path: Path) -> None:
    image = open_image(path)
    starts = {function.address: function for function in image.functions}
    reported = {refusal.address for refusal in image.refusals}
    checked = 0
    for address, size, letter, name in nm(path):
        if letter not in "tTWi":
            continue
        checked += 1
        if address in reported:
            continue
        function = starts[address]
        assert name.split("@")[0] in (function.name, *function.aliases)
        assert function.size >= size
    assert checked > 6


def test_every_unwind_entry_is_known(path: Path) -> None:
    image = open_image(path)
    starts = {function.address for function in image.functions}
    stubs = sorted(image.plt)
    for start, end in frame_entries(path):
        if any(start <= stub < end for stub in stubs):
            continue
        # The C library's signal return is described from one byte before it, its TLS descriptors with padding.
        places = {start, start + 1} if start % 16 == 15 else {start}
        code = image.read(start, end - start)
        is_padding = code.startswith((b"\x66\x66\x2e", b"\x0f\x1f"))
        # `jmp *slot(%rip)` of a weak symbol that nothing defines: a stub without a name.
        is_stub = code.startswith(b"\xff\x25")
        assert places & starts or start in image.code_pointers or is_padding or is_stub, hex(start)


def test_functions_neither_overlap_nor_leave_code(path: Path) -> None:
    image = open_image(path)
    end = 0
    for function in image.functions:
        assert function.address >= end and function.size > 0
        assert image.is_code(function.address) and image.is_code(function.end - 1)
        end = function.end


def test_plt_and_got(path: Path) -> None:
    image = open_image(path)
    if image.is_static:
        # Only IFUNCs go through the PLT of a static file; they have their own names.
        names = {name for function in image.functions for name in (function.name, *function.aliases)}
        assert image.plt and set(image.plt.values()) <= names
        return
    expected = plt_stubs(path)
    assert {"strlen", "printf"} <= set(expected.values())
    assert {address: image.plt.get(address) for address in expected} == expected
    assert {"printf", "strlen", "exit"} <= image.imports
    slots = re.findall(r"^([0-9a-f]+) .* R_X86_64_(?:GLOB_DAT|JUMP_SLO)\S* +[0-9a-f]+ (\w+)", relocations(path), re.M)
    assert slots
    assert dict(image.got) == {int(address, 16): name for address, name in slots}


def relocations(path: Path) -> str:
    return output_of("readelf", "-rW", path)


@pytest.mark.parametrize(
    "flags",
    [
        ("-Wl,-z,lazy", "-fcf-protection=none"),
        ("-fcf-protection=full", "-Wl,-z,ibtplt"),
        ("-fcf-protection=full", "-Wl,-z,ibtplt,-z,now"),
        ("-Wl,-z,now",),
        ("-fno-plt",),
        ("-fuse-ld=gold",),
    ],
    ids=" ".join,
)
@pytest.mark.needs("ld.gold")
def test_shapes_of_plt_stubs(flags: tuple[str, ...], directory: Path) -> None:
    path = build(directory, "plt" + "".join(re.findall(r"\w+", "".join(flags))), C_PROGRAM, *flags)
    image = open_image(path)
    expected = plt_stubs(path)
    assert {address: image.plt.get(address) for address in expected} == expected
    assert open_image(without_section_headers(path)).plt == image.plt
    if "-fno-plt" in flags:
        assert {"printf", "strlen", "exit"} <= set(image.got.values())
    else:
        assert {"printf", "strlen"} <= set(image.plt.values())


def test_names(directory: Path, path: Path) -> None:
    image = open_image(path)
    spread = named(image, "spread")
    assert spread.name == "spread" and "spread_too" in spread.aliases
    assert spread.exported == (path.name == "library")
    assert named(image, "main").source == "symbol"
    assert image.function_at(spread.address + 1) is spread


def test_stripped_files_keep_their_functions(path: Path, directory: Path) -> None:
    whole = open_image(path)
    stripped = directory / f"{path.name}.stripped"
    output_of("strip", path, "-o", stripped)
    image = open_image(stripped)
    missing = {function.address for function in whole.functions} - {function.address for function in image.functions}
    # In the C library's assembly one unwind entry covers two symbols.
    allowed = ("_dl_tlsdesc",)
    for address in missing:
        function = whole.function_at(address)
        assert function is not None and function.name.startswith(allowed)
    # What crtstuff has no unwind entry for.
    clones = named(whole, "deregister_tm_clones").address
    assert next(function for function in image.functions if function.address == clones).source == "call-target"
    main = named(whole, "main").address
    found = image.function_at(main)
    assert found is not None and found.address == main
    assert found.name == ("main" if path.name == "library" else f"fn_{main:x}")
    bare = open_image(without_section_headers(stripped))
    lost = {function.address for function in image.functions} - {function.address for function in bare.functions}
    assert len(lost) <= 4
    assert bare.kind is image.kind and bare.got.keys() <= image.got.keys()
    assert named(bare, found.name).size == found.size


def test_code_pointers(path: Path) -> None:
    image = open_image(path)
    main = named(image, "main")
    for name in ("add", "sub", "before", "after"):
        function = named(image, name)
        assert function.address in image.code_pointers and function.address_taken, name
    # The two labels of the computed goto.
    inside = [pointer for pointer in image.code_pointers if main.address < pointer < main.end]
    assert len(inside) >= 2
    assert named(image, "_init").address_taken
    assert all(image.is_code(pointer) for pointer in image.code_pointers)


def test_relocated_words_hold_function_pointers(path: Path) -> None:
    image = open_image(path)
    if image.kind is Kind.FIXED:
        return
    table = next(address for address, _, _, name in nm(path) if name == "operations")
    assert [image.words[table], image.words[table + 8]] == [named(image, name).address for name in ("add", "sub")]


def test_packed_relative_relocations(directory: Path) -> None:
    path = build(directory, "relr", C_PROGRAM, "-fPIE", "-pie", "-Wl,-z,pack-relative-relocs")
    if "RELR" not in output_of("readelf", "-dW", path):
        pytest.skip("this linker has no packed relative relocations")
    test_code_pointers(path)
    test_relocated_words_hold_function_pointers(path)


def test_cold_part_is_a_function_of_its_own(directory: Path) -> None:
    source = """
    #include <stdlib.h>
    __attribute__((cold, noinline)) void rare(int n) { exit(n); }
    __attribute__((noinline)) int often(int n) { if (__builtin_expect(n > 5, 0)) { rare(n); rare(n + 1); } return n; }
    int main(int argc, char **argv) { return often(argc); }
    """
    image = open_image(build(directory, "cold", source, "-freorder-blocks-and-partition"))
    hot, cold = named(image, "often"), named(image, "often.cold")
    assert cold.size > 0 and not hot.address <= cold.address < hot.end


def test_cet_marks(directory: Path) -> None:
    marked = build(directory, "cet", "int main(void){return 0;}", "-fcf-protection=full", "-Wl,-z,ibt,-z,shstk")
    plain = build(directory, "nocet", "int main(void){return 0;}", "-fcf-protection=none")
    assert open_image(marked).has_shadow_stack
    assert not open_image(plain).has_shadow_stack


ASSEMBLY = """
.text
.globl outer, inner_global, typeless, bare
.type outer, @function
.type inner_global, @function
.type bare, @function
outer: nop; nop; nop
inner_global: nop; nop
local_label: ret
.size outer, .-outer
.size inner_global, .-inner_global
.balign 16
typeless: nop
inside_typeless: ret
.balign 16
bare: ret
.balign 16
"""


def test_symbols_of_handwritten_assembly(directory: Path) -> None:
    quoted = "\n".join(f'"{line}\\n"' for line in ASSEMBLY.strip().splitlines())
    image = open_image(build(directory, "assembly", f"asm({quoted});\nint main(void) {{ return 0; }}"))
    outer = named(image, "outer")
    assert outer.size == 6
    refusal = next(refusal for refusal in image.refusals if refusal.function == "inner_global")
    assert refusal.address == outer.address + 3 and "outer" in refusal.hint
    assert {outer.address + 3, outer.address + 5} <= image.code_pointers
    typeless, bare = named(image, "typeless"), named(image, "bare")
    assert bare.address - typeless.address == 16 == typeless.size
    assert typeless.address + 1 in image.code_pointers
    assert bare.size >= 1
    assert not any(function.name in ("inner_global", "local_label") for function in image.functions)


@pytest.mark.parametrize("name", ["libc.so.6", "ld-linux-x86-64.so.2", "libstdc++.so.6", "libm.so.6"])
def test_system_libraries(name: str) -> None:
    path = Path("/usr/lib/x86_64-linux-gnu") / name
    if not path.exists():
        pytest.skip(f"{name} is elsewhere on this system")
    image = open_image(path)
    assert image.kind is Kind.LIBRARY and image.soname == name and not image.is_static
    reported = {refusal.address for refusal in image.refusals}
    starts = {function.address: function for function in image.functions}
    checked = 0
    for address, size, letter, symbol in nm(path, "-D", "--without-symbol-versions"):
        if letter in "TWi" and address not in reported:
            function = starts[address]
            assert symbol in (function.name, *function.aliases) and function.exported and function.address_taken
            assert function.size >= min(size, 1)
            checked += 1
    assert checked > 15
    covered = {start for start, end in frame_entries(path)}
    assert len(covered - starts.keys()) <= 2 + len(image.plt)
