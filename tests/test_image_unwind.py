"""Unwind entries and landing pads, against readelf and the compiler's own assembly."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from lifter.image.elf import ElfFile
from lifter.image.load import open_image
from lifter.image.unwind import read_frames
from tests.image_builds import CXX_PROGRAM, build, frame_entries, nm, output_of, without_section_headers
from tests.tool import require

pytestmark = pytest.mark.needs("gcc", "g++", "clang++", "nm", "readelf")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unwind")


def frames_of(path: Path) -> set[tuple[int, int]]:
    frames = read_frames(ElfFile(path.read_bytes(), str(path)))
    assert not frames.refusals
    assert list(frames.start) == sorted(frames.start)
    return set(zip(frames.start.tolist(), (frames.start + frames.size).tolist(), strict=True))


@pytest.mark.parametrize("flags", [(), ("-no-pie",), ("-static",), ("-fuse-ld=lld",), ("-fuse-ld=gold",)], ids=str)
def test_frame_entries_are_those_of_readelf(flags: tuple[str, ...], directory: Path) -> None:
    linker = next((flag.removeprefix("-fuse-ld=") for flag in flags if "fuse-ld" in flag), "")
    if linker:
        require(f"ld.{linker}")
    path = build(directory, "frames" + "".join(flags).replace("=", ""), CXX_PROGRAM, *flags, compiler="g++")
    expected = frame_entries(path)
    # The C library's signal return: readelf shows where its entry begins, which is one byte early.
    adjusted = {(start + 1, end) if start % 16 == 15 else (start, end) for start, end in expected}
    found = frames_of(path)
    assert len(found) >= 5
    assert found <= expected | adjusted and len(found) == len(expected)
    bare = frames_of(without_section_headers(path))
    assert bare == found


def landing_pads(directory: Path, compiler: str, *flags: str) -> tuple[Path, set[int]]:
    """A build of the C++ program, and its landing pads by the labels of the compiler's assembly."""
    source = directory / "pads.cc"
    source.write_text(CXX_PROGRAM)
    name = f"pads{compiler}{''.join(flags)}"
    text = directory / f"{name}.s"
    output_of(compiler, "-O2", *flags, "-S", source, "-o", text)
    labels = set()
    inside = False
    column = 0
    for line in text.read_text().splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if re.match(r"\.LLSDACSBC?\d+:|\.Lcst_begin\d+:", words[0]):
            inside, column = True, 0
        elif re.match(r"\.LLSDACSEC?\d+:|\.Lcst_end\d+:", words[0]):
            inside = False
        elif inside and words[0] in (".uleb128", ".byte"):
            if column % 4 == 2 and "-" in words[1]:
                labels.add(words[1].split("-")[0])
            column += 1
    path = directory / name
    output_of(compiler, *flags, "-Wa,--keep-locals" if compiler == "g++" else "-Wa,-L", text, "-o", path)
    listed = re.findall(r"^([0-9a-f]+) \S (\.L\S+)$", output_of("nm", path), re.MULTILINE)
    return path, {int(address, 16) for address, label in listed if label in labels}


@pytest.mark.parametrize(
    ("compiler", "flags"),
    [
        ("g++", ()),
        ("g++", ("-no-pie", "-fno-pie")),
        ("g++", ("-O0",)),
        ("g++", ("-Os", "-fno-reorder-blocks-and-partition")),
        ("clang++", ("-fno-integrated-as",)),
    ],
    ids=str,
)
def test_landing_pads_are_those_of_the_compiler(compiler: str, flags: tuple[str, ...], directory: Path) -> None:
    path, expected = landing_pads(directory, compiler, *flags)
    image = open_image(path)
    assert len(expected) >= 4
    found = {pad for function in image.functions for pad in function.landing_pads}
    assert expected == found
    for function in image.functions:
        assert all(function.address <= pad < function.end for pad in function.landing_pads)
    holders = {function.name for function in image.functions if function.landing_pads}
    if compiler == "g++" and "-O0" not in flags and not any("partition" in flag for flag in flags):
        # gcc puts handlers away from the hot path, into parts of their own.
        assert any(name.endswith(".cold") for name in holders)


def test_exception_tables_of_libstdcxx_lie_in_its_functions() -> None:
    path = Path("/usr/lib/x86_64-linux-gnu/libstdc++.so.6")
    if not path.exists():
        pytest.skip("libstdc++ is elsewhere on this system")
    image = open_image(path)
    pads = sum(len(function.landing_pads) for function in image.functions)
    assert pads > 1000
    assert not any("exception table" in refusal.reason for refusal in image.refusals)


def test_damaged_entries_are_reported_not_believed(directory: Path) -> None:
    path = build(directory, "damaged", CXX_PROGRAM, compiler="g++")
    content = bytearray(path.read_bytes())
    elf = ElfFile(bytes(content), "damaged")
    section = elf.section(".eh_frame")
    assert section is not None
    # The first entry is the common one ("zR"): an unknown version of it takes its entries along.
    content[section.offset + 8] = 9
    damaged = read_frames(ElfFile(bytes(content), "damaged"))
    assert any("not understood" in refusal.reason for refusal in damaged.refusals)
    assert len(damaged.start) < len(read_frames(elf).start)
    assert np.all(damaged.size > 0)


def test_sizes_come_from_unwind_entries_where_symbols_have_none(directory: Path) -> None:
    source = """
    asm(".globl sized_by_cfi\\n.type sized_by_cfi, @function\\nsized_by_cfi:\\n.cfi_startproc\\nnop\\nnop\\nret\\n"
        ".cfi_endproc\\n.balign 64\\n");
    int main(void) { return 0; }
    """
    path = build(directory, "cfi", source)
    assert not any(name == "sized_by_cfi" for _, _, _, name in nm(path))
    function = next(function for function in open_image(path).functions if function.name == "sized_by_cfi")
    assert function.size == 3
