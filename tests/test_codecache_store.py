"""The store between runs: contents, damage, two processes, limits, and places where it cannot be."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import codecache_samples as samples
import pytest

from codecache import Store, source_key
from codecache import store as module


def entries(count: int, size: int = 300, seed: int = 1) -> dict[bytes, bytes]:
    source = random.Random(seed)
    return {source.randbytes(32): source.randbytes(size) for _ in range(count)}


def test_what_is_put_is_there_in_the_next_run(tmp_path: Path) -> None:
    values = entries(1500)
    store = Store.open(tmp_path)
    store.put_many(values)
    store.put_plan("plan", b"x" * 10_000)
    store.close()
    assert store.get_many(values) == {}
    store = Store.open(tmp_path)
    assert store.get_many([*values, b"absent"]) == values
    assert store.get_plan("plan") == b"x" * 10_000
    assert store.get_plan("other") is None
    info = store.info()
    assert (info.entries, info.plans, info.directory, info.note) == (1500, 1, tmp_path, "")
    assert 1500 * 332 < info.bytes < 3 * 1500 * 332
    store.clear()
    info = store.info()
    assert (info.entries, info.plans) == (0, 0)
    assert info.bytes < 100_000
    assert store.get_many(values) == {}


def test_the_users_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Store.open().put_many(entries(1))
    assert (tmp_path / "probeloom").stat().st_mode & 0o077 == 0
    assert Store.open().info().entries == 1


def test_a_damaged_entry_is_a_miss_and_removed(tmp_path: Path) -> None:
    values = entries(10)
    store = Store.open(tmp_path)
    store.put_many(values)
    store.put_plan("plan", b"good")
    bad = next(iter(values))
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE entries SET value=? WHERE key=?", (b"changed", bad))
        connection.execute("UPDATE plans SET value=?", (b"evil",))
    connection.close()
    found = store.get_many(values)
    assert set(values) - set(found) == {bad}
    assert store.get_plan("plan") is None
    info = store.info()
    assert (info.entries, info.plans, info.note) == (9, 0, "")


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "garbage":
        path.write_bytes(random.Random(2).randbytes(len(content)))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "truncated oddly":
        path.write_bytes(content[: len(content) // 3 + 77])
    elif how == "header":
        path.write_bytes(b"\xff" * 64 + content[64:])
    elif how == "spots":
        damaged = bytearray(content)
        source = random.Random(3)
        for _ in range(200):
            damaged[source.randrange(100, len(damaged))] ^= source.randrange(1, 256)
        path.write_bytes(damaged)
    elif how == "another schema":
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE entries (a, b)")
        connection.close()


@pytest.mark.parametrize(
    "how", ["garbage", "empty", "truncated", "truncated oddly", "header", "spots", "another schema"]
)
@pytest.mark.parametrize("while_open", [False, True])
def test_a_damaged_database_gives_nothing_wrong_and_works_again(tmp_path: Path, how: str, while_open: bool) -> None:
    values = entries(400)
    store = Store.open(tmp_path)
    store.put_many(values)
    store.put_plan("plan", b"p" * 100_000)
    if while_open:
        with sqlite3.connect(store.path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
    else:
        store.close()
    damage(store.path, how)
    if not while_open:
        store = Store.open(tmp_path)
    found = store.get_many(values)
    assert all(values[key] == value for key, value in found.items())
    assert store.get_plan("plan") in (None, b"p" * 100_000)
    more = entries(600, seed=4)
    for _ in range(2):
        store.put_many(more)
    store.get_many(more)
    # by the next run at the latest, all is well
    store.close()
    for _ in range(2):
        store = Store.open(tmp_path)
        store.put_many(more)
        found = store.get_many(more)
        store.close()
    assert store.note == ""
    assert found == more


def test_least_recently_used_entries_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, kept, new = entries(1000, seed=5), entries(300, seed=6), entries(1000, seed=7)
    store = Store.open(tmp_path, limit=800_000)
    monkeypatch.setattr(module, "_today", lambda: 100)
    store.put_many({**old, **kept})
    monkeypatch.setattr(module, "_today", lambda: 101)
    assert store.get_many(kept) == kept
    store.put_many(new)
    assert store.info().bytes <= 800_000
    assert store.get_many(new) == new
    assert store.get_many(kept) == kept
    assert len(store.get_many(old)) < 500
    store.put_plan("too large", bytes(400_000))
    assert store.get_plan("too large") is None


@pytest.mark.parametrize(
    ("text", "limit"), [("5000", 5000), ("2k", 2048), ("1.5M", 3 << 19), ("1GB", 1 << 30), ("rubbish", 1 << 30)]
)
def test_the_limit_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, limit: int
) -> None:
    monkeypatch.setenv("PROBELOOM_CACHE_SIZE", text)
    store = Store.open(tmp_path)
    assert store.limit == limit
    assert bool(store.note) == (text == "rubbish")


def test_size_zero_is_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBELOOM_CACHE_SIZE", "0")
    store = Store.open(tmp_path / "store")
    store.put_many(entries(3))
    assert store.info().entries == 0
    assert store.note
    assert not (tmp_path / "store").exists()


def silent(store: Store) -> None:
    values = entries(3)
    store.put_many(values)
    store.put_plan("plan", b"plan")
    assert store.get_many(values) == {}
    assert store.get_plan("plan") is None
    assert store.info().entries == 0
    store.clear()
    assert str(store.directory) in store.note


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    silent(Store.open(tmp_path / "file"))
    silent(Store.open(tmp_path / "file" / "below"))


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from codecache import Store
store = Store.open(Path(sys.argv[2]))
store.put_many({b"key": b"value"})
print(store.get_many([b"key"]), store.note)
"""
AS_OTHERS = """
import ctypes, os, sys
if os.geteuid() == 0 and ctypes.CDLL(None).prctl(24, 1, 0, 0, 0):  # without CAP_DAC_OVERRIDE root is like others
    sys.exit(77)
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""


@pytest.mark.parametrize("filled", [False, True])
def test_a_read_only_directory(tmp_path: Path, filled: bool) -> None:
    directory = tmp_path / "readonly"
    directory.mkdir()
    if filled:
        Store.open(directory).put_many({b"key": b"other"})
        for path in directory.iterdir():
            path.chmod(0o444)
    before = sorted(directory.iterdir())
    directory.chmod(0o555)
    arguments = ["-c", AS_OTHERS, CHILD, str(Path(__file__).parent.parent), str(directory)]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    directory.chmod(0o755)
    if done.returncode == 77:
        pytest.skip("root without the right to give up rights may write anywhere")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{} the store in ")
    assert sorted(directory.iterdir()) == before


def test_a_full_disk_switches_the_store_off(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    good = entries(10)
    store.put_many(good)
    assert store._connection is not None
    store._connection.execute("PRAGMA max_page_count=20")  # what SQLite reports is the same as for a full disk
    store.put_many(entries(5000))
    assert "full" in store.note
    assert store.get_many(good) == {}
    again = Store.open(tmp_path)
    assert again.get_many(good) == good


WRITER = """
import random, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from codecache import Store
store = Store.open(Path(sys.argv[2]), 1 << 30)
source = random.Random(int(sys.argv[3]))
for _ in range(30):
    store.put_many({source.randbytes(32): source.randbytes(200) for _ in range(50)})
    store.put_many({b"%032d" % i: b"shared %d" % i for i in range(50)})
    assert store.get_many([b"%032d" % i for i in range(50)]) == {b"%032d" % i: b"shared %d" % i for i in range(50)}
assert not store.note, store.note
"""


def test_several_processes_at_once(tmp_path: Path) -> None:
    here = str(Path(__file__).parent.parent)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, here, str(tmp_path), str(number)], stderr=subprocess.PIPE, text=True
        )
        for number in range(3)
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=60)
        assert writer.returncode == 0, said
    assert Store.open(tmp_path).info().entries == 3 * 30 * 50 + 50


def test_keys_tell_apart_what_compiles_differently() -> None:
    source = samples.branch()
    others = [
        replace(source, text=source.text + " "),
        replace(source, shift=8),
        replace(source, shift_framed=8),
        replace(source, passes=True),
        replace(source, features="+bmi"),
    ]
    assert len({source_key(item) for item in (source, *others)}) == 6
    assert source_key(source) == source_key(samples.branch())
