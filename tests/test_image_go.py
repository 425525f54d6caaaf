"""Go's own function table, on the executables that the toolchain itself consists of."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from lifter.image.elf import ElfFile
from lifter.image.gopclntab import read_go
from lifter.image.load import open_image
from lifter.image.types import Image
from tests.corpus import tool_path
from tests.image_builds import output_of, without_section_headers

pytestmark = pytest.mark.needs("go")


@pytest.fixture(scope="module")
def gofmt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toolchain's formatter, in a directory of this test's own."""
    go = tool_path("go")
    assert go is not None
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", "HOME": str(tmp_path_factory.mktemp("home"))}
    root = output_of("env", *(f"{name}={environment[name]}" for name in ("GOTOOLCHAIN", "HOME")), go, "env", "GOROOT")
    original = Path(root.strip()) / "bin" / "gofmt"
    copy = tmp_path_factory.mktemp("go") / "gofmt"
    copy.write_bytes(original.read_bytes())
    return copy


@pytest.fixture(scope="module")
def image(gofmt: Path) -> Image:
    return open_image(gofmt)


def test_recognised(image: Image) -> None:
    assert image.is_go and image.is_static and not image.needed
    assert all(function.address_taken for function in image.functions)


def test_table_agrees_with_the_symbols(image: Image, gofmt: Path) -> None:
    table = read_go(ElfFile(gofmt.read_bytes(), "gofmt"), image.words).functions
    assert len(table) > 2000
    functions = {function.address: function for function in image.functions}
    assert {row.address for row in table} == functions.keys()
    for row in table:
        function = functions[row.address]
        assert row.name in (function.name, *function.aliases)
        assert function.size <= row.size
    assert any(function.name == "main.main" and function.source == "symbol" for function in image.functions)


def test_stripped_of_everything(image: Image, gofmt: Path) -> None:
    bare = open_image(without_section_headers(gofmt))
    assert bare.is_go
    assert {function.source for function in bare.functions} == {"pclntab"}
    assert {function.address for function in bare.functions} == {function.address for function in image.functions}
    main = next(function for function in bare.functions if function.name == "main.main")
    assert main.address == next(function.address for function in image.functions if function.name == "main.main")


def test_recovery_points_are_calls_of_deferreturn(image: Image) -> None:
    deferreturn = next(function for function in image.functions if function.name == "runtime.deferreturn")
    pads = [pad for function in image.functions for pad in function.landing_pads]
    assert len(pads) > 50
    for pad in pads:
        # The runtime resumes a function with a recovered panic at its call of deferreturn, or at the no-op before.
        code = image.read(pad, 16)
        call = code.find(b"\xe8")
        assert 0 <= call <= 8, code.hex()
        assert pad + call + 5 + struct.unpack_from("<i", code, call + 1)[0] == deferreturn.address


def test_text_start_comes_from_moduledata_or_the_header(gofmt: Path) -> None:
    """Go before 1.26 has it in the table's header too."""
    content = bytearray(gofmt.read_bytes())
    elf = ElfFile(bytes(content), "gofmt")
    table, text = elf.section(".gopclntab"), elf.section(".text")
    assert table is not None and text is not None
    expected = read_go(elf, {}).functions
    for other in (0, text.address):
        content[table.offset + 24 : table.offset + 32] = other.to_bytes(8, "little")
        assert read_go(ElfFile(bytes(content), "gofmt"), {}).functions == expected


def test_unknown_version_is_reported(gofmt: Path, tmp_path: Path) -> None:
    content = bytearray(gofmt.read_bytes())
    table = ElfFile(bytes(content), "gofmt").section(".gopclntab")
    assert table is not None
    content[table.offset] = 0xFA
    (tmp_path / "old").write_bytes(content)
    image = open_image(tmp_path / "old")
    assert image.is_go and image.functions
    assert any("older than Go 1.18" in refusal.reason for refusal in image.refusals)
