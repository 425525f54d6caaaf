"""Reports: the table, JSON, and the formats of other tools."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from jit import datafile
from jit.datafile import COUNTERS_OFFSET, Module
from jit.report import Report, Row, load_report, print_text, render_text, select, to_json
from jit.report_formats import to_drcov, to_lcov
from jit.tracepoints import Point, Tracepoint
from lifter.errors import RefusedError, UsageError
from lifter.image.load import open_image
from tests.handmade import build


def row(function: str, address: int, count: int, point: Point = Point.BLOCK, instructions: int = 3) -> Row:
    return Row(Tracepoint(point, function, address, 8, instructions, "count", ((0, 1),)), count)


REPORT = Report(
    Module("/bin/prog", "c0ffee", 0x40_0000, 0x45_2010, 0x40_1000),
    (
        row("main", 0x40_1000, 1, instructions=100),
        row("main", 0x40_1010, 2_000_000),
        row("alpha(int)", 0x40_2000, 0),
        row("beta", 0x40_1F00, 50, Point.ENTRY, 1),
    ),
)


def write_data(path: Path, rows: list[Tracepoint], *counters: int, module: str = "/bin/prog") -> Path:
    content = bytearray(datafile.encode(datafile.layout(module, "c0ffee", rows, len(counters))))
    struct.pack_into(f"<{len(counters)}Q", content, COUNTERS_OFFSET, *counters)
    path.write_bytes(content)
    return path


# --- reading ----------------------------------------------------------------------------------------------

BLOCKS = [
    Tracepoint(Point.BLOCK, "f", 0x1000, 8, 2, "count", ((0, 1),)),
    Tracepoint(Point.BLOCK, "f", 0x1008, 4, 1, "count", ((0, 1), (1, -1))),
]
PROBE = Tracepoint(Point.ENTRY, "f", 0x1000, 4, 1, "probes.py:longest", (), (2, 2))


def test_load(tmp_path: Path) -> None:
    report = load_report(write_data(tmp_path / "data", [*BLOCKS, PROBE], 10, 4, 77, 0))
    assert [(r.count, r.words, r.executed) for r in report.rows] == [(10, (), 20), (6, (), 6), (0, (77, 0), 0)]
    assert report.rows[2].is_hit


def test_load_adds_up_files_of_one_plan(tmp_path: Path) -> None:
    files = [write_data(tmp_path / str(i), BLOCKS, 10 * i, i) for i in (1, 2, 3)]
    assert [r.count for r in load_report(*files).rows] == [60, 54]
    other = write_data(tmp_path / "other", BLOCKS[:1], 1)
    with pytest.raises(RefusedError, match=f"{other}: counts something else"):
        load_report(*files, other)
    words = [write_data(tmp_path / name, [*BLOCKS, PROBE], 1, 2, 3, 4) for name in "ab"]
    with pytest.raises(RefusedError, match="words of Python probes"):
        load_report(*words)
    with pytest.raises(UsageError, match="no data file"):
        load_report()


# --- JSON -------------------------------------------------------------------------------------------------


def test_json(tmp_path: Path) -> None:
    report = load_report(write_data(tmp_path / "data", [BLOCKS[1], PROBE], 10, 4, 77, 2**64 - 1))
    assert json.loads(to_json(report)) == {
        "module": "/bin/prog",
        "build_id": "c0ffee",
        "probes": [
            {"point": "block", "function": "f", "address": 0x1008, "size": 4, "instructions": 1, "count": 6},
            {
                "point": "entry",
                "function": "f",
                "address": 0x1000,
                "size": 4,
                "instructions": 1,
                "count": 0,
                "action": "probes.py:longest",
                "words": [77, 2**64 - 1],
            },
        ],
    }


# --- table ------------------------------------------------------------------------------------------------


def test_text_is_aligned_and_sorted_by_count() -> None:
    assert render_text(REPORT).splitlines() == [
        "/bin/prog",
        "    count   executed  point   address  size  function",
        "2,000,000  6,000,000  block  0x401010     8  main",
        "       50         50  entry  0x401f00     8  beta",
        "        1        100  block  0x401000     8  main",
        "4 tracepoints, 3 hit, total count 2,000,051, 6,000,100 instructions executed in blocks",
    ]


@pytest.mark.parametrize(
    ("sort", "addresses"),
    [
        ("count", [0x40_1010, 0x40_1F00, 0x40_1000, 0x40_2000]),
        ("address", [0x40_1000, 0x40_1010, 0x40_1F00, 0x40_2000]),
        ("function", [0x40_2000, 0x40_1F00, 0x40_1000, 0x40_1010]),
        ("instructions", [0x40_1010, 0x40_1000, 0x40_1F00, 0x40_2000]),
    ],
)
def test_orders(sort: str, addresses: list[int]) -> None:
    assert [r.tracepoint.address for r in select(REPORT, sort, unhit=True)] == addresses
    assert [r.tracepoint.address for r in select(REPORT, sort, top=2, unhit=True)] == addresses[:2]
    assert 0x40_2000 not in [r.tracepoint.address for r in select(REPORT, sort)]


def test_wrong_orders() -> None:
    with pytest.raises(UsageError, match="cannot sort by 'size': choose one of count, address"):
        render_text(REPORT, sort="size")
    with pytest.raises(UsageError, match="top -1"):
        render_text(REPORT, top=-1)


def test_nothing_hit() -> None:
    quiet = Report(REPORT.module, (row("f", 1, 0),))
    assert render_text(quiet).splitlines() == [
        "/bin/prog",
        "1 tracepoints, 0 hit, total count 0, 0 instructions executed in blocks",
    ]


def test_words_have_a_column(tmp_path: Path) -> None:
    report = load_report(write_data(tmp_path / "data", [*BLOCKS, PROBE], 10, 4, 77, 5))
    lines = render_text(report).splitlines()
    assert lines[1].endswith("function  words")
    assert any(line.endswith("f         77 5") for line in lines)


def test_consoles() -> None:
    pipe = io.StringIO()
    print_text(REPORT, Console(file=pipe))
    assert pipe.getvalue() == render_text(REPORT)
    terminal = io.StringIO()
    print_text(REPORT, Console(file=terminal, force_terminal=True, width=100, color_system=None))
    shown = terminal.getvalue()
    assert "2,000,000" in shown
    assert "4 tracepoints, 3 hit" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_a_long_name_is_whole_in_a_pipe_and_cut_on_a_terminal() -> None:
    name = "std::" + "very_" * 60 + "long"
    report = Report(REPORT.module, (row(name, 0x1000, 5),))
    assert name in render_text(report)
    terminal = io.StringIO()
    print_text(report, Console(file=terminal, force_terminal=True, width=80, color_system=None))
    assert max(map(len, terminal.getvalue().splitlines())) <= 80
    assert "…" in terminal.getvalue()


# --- drcov ------------------------------------------------------------------------------------------------


@dataclass
class Drcov:
    """A drcov log read by the rules of Lighthouse's reader (version 2, module table version 2, binary blocks)."""

    modules: list[tuple[int, int, int, int, str]]
    blocks: list[tuple[int, int, int]]

    @staticmethod
    def parse(content: bytes) -> Drcov:
        stream = io.BytesIO(content)

        def line() -> str:
            return stream.readline().decode("utf-8").strip()

        assert int(line().split(":")[1]) == 2
        assert line().split(":")[0] == "DRCOV FLAVOR"
        _, table = line().split(": ")
        version, count = (field.split(" ")[1] for field in table.split(", "))
        assert version == "2"
        name, columns = line().split(": ")
        assert name == "Columns"
        assert columns.split(", ") == ["id", "base", "end", "entry", "checksum", "timestamp", "path"]
        modules = []
        for _ in range(int(count)):
            data = line().split(", ")
            modules.append((int(data[0]), int(data[1], 16), int(data[2], 16), int(data[3], 16), data[-1]))
        _, table = line().split(": ")
        number, unit = table.split(" ")
        assert unit == "bbs"
        rest = stream.read()
        assert not rest.startswith(b"module id")
        assert len(rest) == 8 * int(number)
        return Drcov(modules, list(struct.iter_unpack("<IHH", rest)))


def test_drcov_has_the_executed_blocks() -> None:
    log = Drcov.parse(to_drcov(REPORT))
    assert log.modules == [(0, 0x40_0000, 0x45_2010, 0x40_1000, "/bin/prog")]
    assert log.blocks == [(0x1000, 8, 0), (0x1010, 8, 0)]


def test_drcov_without_blocks_has_what_there_is() -> None:
    report = Report(REPORT.module, REPORT.rows[3:])
    assert Drcov.parse(to_drcov(report)).blocks == [(0x1F00, 8, 0)]


def test_drcov_has_several_modules() -> None:
    library = Report(Module("/lib/a.so", "", 0x1000, 0x9000, 0), (replace(REPORT.rows[0], count=1),))
    log = Drcov.parse(to_drcov(REPORT, library))
    assert [(number, path) for number, *_, path in log.modules] == [(0, "/bin/prog"), (1, "/lib/a.so")]
    assert {module for _, _, module in log.blocks} == {0, 1}


def test_json_of_several_modules_is_one_object() -> None:
    library = Report(Module("/lib/a.so", "ab", 0x1000, 0x9000, 0), REPORT.rows[:1])
    content = json.loads(to_json(REPORT, library))
    assert [module["module"] for module in content["modules"]] == ["/bin/prog", "/lib/a.so"]
    assert [row["module"] for row in content["probes"]] == ["/bin/prog"] * len(REPORT.rows) + ["/lib/a.so"]


def test_drcov_splits_what_16_bits_cannot_say() -> None:
    huge = Row(Tracepoint(Point.BLOCK, "f", 0x40_1000, 0x2_0010, 9, "count", ((0, 1),)), 1)
    log = Drcov.parse(to_drcov(Report(Module("/a\nb", "", 0x40_0000, 0x50_0000, 0), (huge,))))
    assert log.modules[0][4] == "/a?b"
    assert sum(size for _, size, _ in log.blocks) == 0x2_0010
    assert [start for start, _, _ in log.blocks] == [0x1000, 0x1_0FFF, 0x2_0FFE]


# --- lcov -------------------------------------------------------------------------------------------------

SOURCE = """\
static int helper(int a) {
    return a + 1;
}
int work(int a) {
    int sum = 0;
    for (int i = 0; i < a; i++)
        sum += helper(i);
    return sum;
}
int main(void) {
    return work(3) != 6;
}
"""


def records(text: str) -> dict[str, list[str]]:
    """Lines of each source file of a tracefile."""
    found: dict[str, list[str]] = {}
    lines = text.splitlines()
    assert lines[0] == "TN:"
    name = ""
    for line in lines[1:]:
        if line.startswith("SF:"):
            name = line[3:]
            found[name] = []
        elif line != "end_of_record":
            found[name].append(line)
    return found


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("dwarf", ["-gdwarf-4", "-gdwarf-5"])
@pytest.mark.parametrize("link", ["-pie", "-no-pie"])
def test_lcov(tmp_path: Path, dwarf: str, link: str) -> None:
    """Each function counted as one block."""
    path = build(SOURCE, tmp_path / "prog", "gcc", "-O0", dwarf, link)
    image = open_image(path)
    wanted = {"helper": 3, "work": 1, "main": 0}
    functions = [function for function in image.functions if function.name in wanted]
    rows = [
        Tracepoint(Point.BLOCK, f.name, f.address, f.size, 1, "count", ((index, 1),))
        for index, f in enumerate(functions)
    ]
    layout = datafile.layout(str(path), image.build_id, rows, len(rows), image.content)
    content = bytearray(datafile.encode(layout))
    struct.pack_into("<3Q", content, COUNTERS_OFFSET, *(wanted[f.name] for f in functions))
    (tmp_path / "data").write_bytes(content)
    report = load_report(tmp_path / "data")

    assert report.module.base == (0 if link == "-pie" else 0x40_0000)
    (lines,) = records(to_lcov(report)).values()
    assert list(records(to_lcov(report))) == [f"{path}.c"]
    assert lines == [
        *("FN:1,helper", "FN:4,work", "FN:10,main"),
        *("FNDA:3,helper", "FNDA:1,work", "FNDA:0,main"),
        *("FNF:3", "FNH:2"),
        *("DA:1,3", "DA:2,3", "DA:3,3"),
        *("DA:4,1", "DA:5,1", "DA:6,1", "DA:7,1", "DA:8,1", "DA:9,1"),
        *("DA:10,0", "DA:11,0", "DA:12,0"),
        *("LF:12", "LH:9"),
    ]

    build(SOURCE.replace("+ 1", "+ 2"), path, "gcc", "-O0", dwarf, link)
    with pytest.raises(RefusedError, match="build id differs"):
        to_lcov(report)
    path.unlink()
    with pytest.raises(UsageError, match="line information"):
        to_lcov(report)


@pytest.mark.needs("gcc")
def test_lcov_of_optimised_code(tmp_path: Path) -> None:
    """Where several lines begin at one address, none is lost: here a function and its first statement."""
    path = build(SOURCE.replace("int work", "__attribute__((noipa)) int work"), tmp_path / "prog", "gcc", "-O2", "-g")
    (function,) = (f for f in open_image(path).functions if f.name == "work")
    block = Tracepoint(Point.BLOCK, "work", function.address, function.size, 1, "count", ((0, 1),))
    (lines,) = records(to_lcov(Report(Module(str(path), ""), (Row(block, 7),)))).values()
    assert {"FN:4,work", "FNDA:7,work", "DA:4,7", "DA:5,7", "DA:6,7", "DA:8,7"} <= set(lines)
    assert not any(line.startswith("DA:11,") for line in lines), "main is not instrumented"


@pytest.mark.needs("gcc")
def test_lcov_needs_line_information(tmp_path: Path) -> None:
    path = build("int main(void) { return 0; }", tmp_path / "prog")
    report = Report(Module(str(path), ""), (row("main", 0x1000, 1),))
    with pytest.raises(RefusedError, match="build it with -g"):
        to_lcov(report)
    path.write_bytes(b"no longer an ELF file")
    with pytest.raises(RefusedError, match="unreadable line information"):
        to_lcov(report)
