"""The format of data segments and data files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jit import datafile
from jit.datafile import COUNTERS_OFFSET, HEADER, PAGE, Module
from jit.tracepoints import Point, Tracepoint
from lifter.errors import RefusedError, UsageError

WORDS = Tracepoint(Point.ENTRY, "parse", 0x1010, 4, 1, "probes.py:longest", (), (3, 2))
ROWS = (
    Tracepoint(Point.BLOCK, "main", 0x2000, 11, 3, "count", ((0, 1),)),
    Tracepoint(Point.BLOCK, "main", 0x1FF0, 16, 4, "count", ((0, 1), (1, -1), (2, 2))),
    Tracepoint(Point.RETURN, "std::vector<int>::push_back(int&&)", 0x7FFF_FFFF_F000, 1, 1, "count", ()),
    WORDS,
)


def segment(rows: tuple[Tracepoint, ...] = ROWS, counters: int = 5) -> bytearray:
    return bytearray(datafile.encode(datafile.layout("/bin/prog", "c0ffee", rows, counters)))


def set_counters(data: bytearray, *values: int) -> bytes:
    struct.pack_into(f"<{len(values)}Q", data, COUNTERS_OFFSET, *values)
    return bytes(data)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "run.data"
    path.write_bytes(set_counters(segment(), 10, 4, 100, 7, 2**64 - 1))
    found = datafile.read(path)
    assert found.module == Module("/bin/prog", "c0ffee")
    assert found.tracepoints == ROWS
    assert [found.count(row) for row in ROWS] == [10, 10 - 4 + 200, 0, 0]
    assert found.words(WORDS) == (7, 2**64 - 1)
    assert found.words(ROWS[0]) == ()


def test_a_negative_difference_counts_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.data"
    path.write_bytes(set_counters(segment(), 3, 4, 0))
    assert datafile.read(path).count(ROWS[1]) == 0


def test_layout() -> None:
    layout = datafile.layout("prog", "", ROWS, 5)
    data = datafile.encode(layout)
    assert len(data) == layout.size
    assert layout.counters_offset == COUNTERS_OFFSET == PAGE
    assert layout.description_offset == 2 * PAGE
    assert layout.counts == 3, "the words of the probe are not counts"
    assert layout.module == str(Path("prog").absolute())
    assert not any(data[HEADER.size : layout.description_offset])
    assert datafile.layout("prog", "", (), 513).description_offset == 3 * PAGE


def test_biased_counters_are_two_words_each() -> None:
    layout = datafile.layout("prog", "", ROWS, 5, biased=True)
    assert (layout.own_offset, layout.owner_offset) == (COUNTERS_OFFSET + 40, 2 * PAGE)
    assert layout.description_offset == 3 * PAGE
    data = datafile.encode(layout)
    found = datafile.decode(set_counters(bytearray(data), 10, 4, 100, 7, 8, 1, 2, 3, 0, 0), "x")
    assert found.counters.tolist() == [11, 6, 103, 7, 8]
    assert found.tracepoints == ROWS
    owned = datafile.owned(data, 0x7FFC_0000_0000)
    assert owned[2 * PAGE : 2 * PAGE + 8] == bytes.fromhex("00000000fc7f0080")
    assert owned[: 2 * PAGE] + bytes(8) + owned[2 * PAGE + 8 :] == data
    plain = datafile.encode(datafile.layout("prog", "", ROWS, 5))
    assert datafile.owned(plain, 0x7FFC_0000_0000) == plain
    with pytest.raises(RefusedError, match="damaged"):
        datafile.decode(data[: HEADER.size - 272] + plain[HEADER.size - 272 :] + bytes(PAGE), "x")


def test_plan_id_tells_plans_apart() -> None:
    plans = [
        datafile.layout("/a", "", ROWS, 5),
        datafile.layout("/b", "", ROWS, 5),
        datafile.layout("/a", "00", ROWS, 5),
        datafile.layout("/a", "", ROWS[1:], 5),
        datafile.layout("/a", "", ROWS, 6),
        datafile.layout("/a", "", ROWS, 5, biased=True),
    ]
    assert len({plan.plan_id for plan in plans}) == len(plans)
    assert datafile.layout("/a", "", ROWS, 5).plan_id == plans[0].plan_id


@pytest.mark.parametrize(
    "row",
    [
        Tracepoint(Point.BLOCK, "f", 1, 1, 1, "count", ((5, 1),)),
        Tracepoint(Point.BLOCK, "f", 1, 1, 1, "count", ((-1, 1),)),
        Tracepoint(Point.BLOCK, "f", 1, 1, 1, "p.py:f", (), (4, 2)),
    ],
)
def test_layout_rejects_counters_that_are_not_there(row: Tracepoint) -> None:
    with pytest.raises(ValueError, match="counters not among"):
        datafile.layout("/a", "", [row], 5)


def test_layout_rejects_counts_behind_words() -> None:
    count = Tracepoint(Point.BLOCK, "f", 1, 1, 1, "count", ((4, 1),))
    with pytest.raises(ValueError, match="counters not among"):
        datafile.layout("/a", "", [count, WORDS], 6)


def test_a_large_table_stays_small() -> None:
    rows = [
        Tracepoint(Point.BLOCK, f"function_{i // 9}", 0x40000 + 13 * i + i % 7, 9 + i % 5, 3, "count", ((i, 1),))
        for i in range(50_000)
    ]
    layout = datafile.layout("/lib", "", rows, len(rows))
    assert len(layout.description) < 400_000
    assert datafile.decode(datafile.encode(layout), "x").tracepoints == tuple(rows)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\x7fELF" + bytes(5000), "not a probeloom data file"),
        (b"PROBELM", "not a probeloom data file"),
        (b"PROBELM\n" + bytes(100), "truncated"),
    ],
)
def test_refuses_other_files(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match=reason) as caught:
        datafile.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refuses_another_version() -> None:
    data = segment()
    struct.pack_into("<I", data, 8, datafile.VERSION + 1)
    with pytest.raises(RefusedError, match=f"version {datafile.VERSION + 1}"):
        datafile.decode(bytes(data), "x")


def test_refuses_every_truncation() -> None:
    data = bytes(segment())
    for size in [*range(HEADER.size + 2), *range(COUNTERS_OFFSET - 2, len(data), 97), len(data) - 1]:
        with pytest.raises(RefusedError):
            datafile.decode(data[:size], "x")


def test_unreadable_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", tmp_path / "a" / "b"):
        with pytest.raises(UsageError, match=str(path)):
            datafile.read(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """A changed byte either makes the file damaged, or is in a counter or in a place that means nothing."""
    good = bytes(segment())
    place = data.draw(st.integers(0, HEADER.size - 1) | st.integers(0, len(good) - 1))
    value = data.draw(st.integers(0, 255))
    changed = good[:place] + bytes([value]) + good[place + 1 :]
    try:
        found = datafile.decode(changed, "x")
    except RefusedError:
        assert value != good[place]
        assert place < HEADER.size or place >= 2 * PAGE
    else:
        assert found.tracepoints == ROWS


points = st.builds(
    Tracepoint,
    st.sampled_from(Point),
    st.text(max_size=20),
    st.integers(0, 2**63),
    st.integers(0, 2**32),
    st.integers(0, 1000),
    st.sampled_from(["count", "a.py:b"]),
    st.lists(st.tuples(st.integers(0, 9), st.integers(-4, 4)), max_size=3).map(tuple),
    st.just((0, 0)) | st.tuples(st.integers(10, 12), st.integers(1, 3)),
)


@settings(deadline=None)
@given(st.lists(points, max_size=20), st.text(max_size=10))
def test_any_table_survives(rows: list[Tracepoint], name: str) -> None:
    layout = datafile.layout("/" + name.replace("\0", ""), "", rows, 16)
    assert datafile.decode(datafile.encode(layout), "x").tracepoints == tuple(rows)
