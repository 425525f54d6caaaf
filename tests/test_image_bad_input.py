"""Files that are no image: one clear error each, never a crash, never a believed wrong number."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest

from lifter.errors import ProbeloomError, RefusedError, UsageError
from lifter.image.elf import ElfFile
from lifter.image.load import open_image
from tests.image_builds import C_PROGRAM, CXX_PROGRAM, build

pytestmark = pytest.mark.needs("gcc", "g++")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="module")
def good(directory: Path) -> bytes:
    return build(directory, "good", C_PROGRAM, "-s").read_bytes()


def opened(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    open_image(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        open_image(tmp_path / "missing")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="directory"):
        open_image(tmp_path)


def test_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="not a regular file"):
        open_image(tmp_path / "fifo")


def test_name_with_a_zero_byte() -> None:
    with pytest.raises(UsageError):
        open_image("a\0b")


def test_unreadable() -> None:
    # A regular file that not even root can read from its beginning.
    with pytest.raises(UsageError, match="cannot be read"):
        open_image("/proc/self/mem")


def patched(content: bytes, offset: int, value: bytes) -> bytes:
    return content[:offset] + value + content[offset + len(value) :]


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, b"MZ", "not an ELF file"),
        (4, b"\x01", "32-bit"),
        (5, b"\x02", "big-endian"),
        (5, b"\x07", "byte order"),
        (16, b"\x01\x00", "an object file"),
        (16, b"\x04\x00", "a core dump"),
        (16, b"\x00\x00", "ELF type 0"),
        (18, b"\xb7\x00", "AArch64"),
        (18, b"\xf3\x00", "RISC-V"),
        (18, b"\x03\x00", "x86"),
        (18, b"\x99\x99", "machine 39321"),
        (54, b"\x20\x00", "program headers of unknown size"),
        (56, b"\x00\x00", "no program headers"),
        (32, b"\xff" * 8, "program headers lie beyond"),
        (40, b"\xff" * 7 + b"\x00", "section headers lie beyond"),
        (58, b"\x30\x00", "section headers of unknown size"),
    ],
)
def test_header_fields(offset: int, value: bytes, reason: str, good: bytes, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=reason) as caught:
        opened(tmp_path, patched(good, offset, value))
    assert "\n" not in str(caught.value)


def test_empty_and_tiny_files(good: bytes, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="empty"):
        opened(tmp_path, b"")
    for size in range(1, 64):
        with pytest.raises(RefusedError, match="not an ELF file" if size < 4 else "truncated"):
            opened(tmp_path, good[:size])


def load_segment(good: bytes, index: int) -> int:
    """Offset of the program header of the index-th PT_LOAD."""
    count = struct.unpack_from("<H", good, 56)[0]
    headers = [64 + 56 * number for number in range(count)]
    return [at for at in headers if struct.unpack_from("<I", good, at)[0] == 1][index]


@pytest.mark.parametrize(
    ("index", "field", "value", "reason"),
    [
        (0, 32, 1 << 40, "segment lies beyond"),
        (1, 8, 0x1234, "cannot be mapped"),
        (3, 40, 1, "cannot be mapped"),
        (1, 16, 0, "cannot be mapped|overlap"),
        (3, 16, 0xFFFFFFFF81000000, "cannot be mapped|outside user space"),
        (3, 40, 1 << 60, "outside user space"),
    ],
)
def test_segments(index: int, field: int, value: int, reason: str, good: bytes, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=reason):
        opened(tmp_path, patched(good, load_segment(good, index) + field, value.to_bytes(8, "little")))


def test_nothing_executable(good: bytes, tmp_path: Path) -> None:
    content = good
    for index in range(4):
        content = patched(content, load_segment(good, index) + 4, b"\x04")
    with pytest.raises(RefusedError, match="no executable segment"):
        opened(tmp_path, content)


def test_huge_bss_costs_nothing(good: bytes, tmp_path: Path) -> None:
    opened(tmp_path, patched(good, load_segment(good, 3) + 40, (1 << 45).to_bytes(8, "little")))


def test_truncated_at_every_border(good: bytes, tmp_path: Path) -> None:
    elf = ElfFile(good, "good")
    borders = {64, len(good) - 1}
    for header in (*elf.section_headers, *elf.segments):
        borders.update((header.offset, header.offset + 1))
    for header in elf.section_headers:
        borders.add(header.offset + header.size - 1)
    checked = 0
    for border in borders:
        if 0 < border < len(good):
            with pytest.raises(RefusedError):
                opened(tmp_path, good[:border])
            checked += 1
    assert checked > 40


def test_truncated_without_section_headers(good: bytes, tmp_path: Path) -> None:
    bare = patched(patched(good, 40, bytes(8)), 58, bytes(6))
    end = max(segment.offset + len(segment.data) for segment in ElfFile(bare, "bare").segments)
    opened(tmp_path, bare[:end])
    for size in (end - 1, end // 2, 1000):
        with pytest.raises(RefusedError, match="truncated"):
            opened(tmp_path, bare[:size])


@pytest.fixture(scope="module")
def good_cxx(directory: Path) -> bytes:
    return build(directory, "good_cxx", CXX_PROGRAM, compiler="g++").read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_end_in_an_image_or_one_line(seed: int, good: bytes, good_cxx: bytes, tmp_path: Path) -> None:
    """A tenth of the campaign that was run by hand; spans are chosen so that all parsers are reached."""
    originals = [good, good_cxx]
    spans = []
    for content in originals:
        elf = ElfFile(content, "original")
        spans.append([(header.offset, header.size) for header in elf.section_headers if header.size] + [(0, 1024)])
    random_ = random.Random(seed)
    images = 0
    for _ in range(60):
        which = random_.randrange(len(originals))
        content = bytearray(originals[which])
        for _ in range(random_.choice((1, 2, 8, 32))):
            start, size = random_.choice(spans[which])
            at = min(start + random_.randrange(size), len(content) - 8)
            value = random_.choice((b"\xff" * 8, bytes(8), random_.randbytes(8), random_.randbytes(1)))
            content[at : at + len(value)] = value
        path = tmp_path / "mutated"
        path.write_bytes(content)
        try:
            image = open_image(path)
        except ProbeloomError as error:
            assert "\n" not in str(error)
            continue
        images += 1
        end = 0
        for function in image.functions:
            assert function.address >= end and function.size > 0 and image.is_code(function.address)
            assert function.demangled
            end = function.end
    assert images > 5
