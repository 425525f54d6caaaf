"""Results kept between runs, by content: an SQLite database in the user's cache directory.

SQLite gives what the store needs of a file format: many small values, atomic writes, several processes at once. The
store never stands in the way: a damaged entry or database is a miss (and removed), and where the directory cannot be
written or the disk is full, the store is off for the rest of the run and says so in `note`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import platformdirs

DEFAULT_LIMIT = 1 << 30
"""Bytes."""
_FILE = "code-1.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, used INTEGER NOT NULL, sum BLOB NOT NULL, value BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS plans (
    id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, used INTEGER NOT NULL, sum BLOB NOT NULL, value BLOB NOT NULL
);
"""
"""A row used for the first time in a day is written anew, with the next id: rows of low ids are used least recently
and lie side by side, so that evicting them frees whole pages."""
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
"""SQLITE_ERROR: the tables are not ours."""
_INSERT = "INSERT OR REPLACE INTO {} (key, used, sum, value) VALUES (?, ?, ?, ?)"
_BUSY_SECONDS = 10.0
_KEYS_A_QUERY = 500
_KEEP = 0.8
"""Share of the limit that eviction leaves filled."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What the store holds."""

    directory: Path
    entries: int
    """Regions."""
    plans: int
    bytes: int
    """On disk, free pages not counted."""
    limit: int
    """In bytes."""
    note: str
    """Why the store is off; '' while it is on."""


class Store:
    """The user's store of compiled regions and of whole plans. Made by `open`; safe to share between threads."""

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self.limit = limit
        self.note = ""
        """Why the store is off: an empty string while it is on."""
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    @classmethod
    def open(cls, directory: Path | None = None, limit: int | None = None) -> Store:
        """The store in `directory` (the user's cache directory if None), of at most `limit` bytes.

        The default limit is $PROBELOOM_CACHE_SIZE (bytes, or with a suffix K, M or G), else 1 GiB; 0 is no store.
        """
        note = ""
        if limit is None:
            try:
                limit = _size(os.environ.get("PROBELOOM_CACHE_SIZE", str(DEFAULT_LIMIT)))
            except ValueError:
                limit = DEFAULT_LIMIT
                note = "PROBELOOM_CACHE_SIZE is not a size: the store is limited to 1G"
        store = cls(directory or Path(platformdirs.user_cache_dir("probeloom")), limit)
        if limit <= 0:
            store.note = "the store is switched off by its size"
            return store
        with store._guard():
            store._connect()
        if not store.note and note:
            store.note = note
        return store

    @property
    def path(self) -> Path:
        """The database."""
        return self.directory / _FILE

    def _connect(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute(f"PRAGMA journal_size_limit={1 << 24}")
            connection.executescript(_SCHEMA)
            # A transaction that changes nothing, but needs all that a write needs.
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("PRAGMA user_version=1")
            connection.execute("COMMIT")
        except sqlite3.Error:
            connection.close()
            raise
        self._connection = connection

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Run a piece of work; what goes wrong in it becomes a miss, a new database, or an end of the store."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code in _BUSY:
                    self._abandon()
                elif code in _DAMAGED:
                    self._recreate()
                else:
                    self._switch_off(error)
            except OSError as error:
                self._switch_off(error)

    def _abandon(self) -> None:
        """Give up the transaction that another process's work did not let through."""
        if self._connection is not None and self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _switch_off(self, error: Exception) -> None:
        self.close()
        self.note = f"the store in {self.directory} is off: {error}"

    def _recreate(self) -> None:
        """Start anew instead of a damaged database."""
        self.close()
        try:
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(_FILE + suffix).unlink(missing_ok=True)
            self._connect()
        except (sqlite3.Error, OSError) as error:
            self._switch_off(error)

    def close(self) -> None:
        """Let go of the database; the store is empty from then on."""
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.close()
                self._connection = None

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Values of those keys that are there and sound."""
        wanted = list(dict.fromkeys(keys))
        found: dict[bytes, bytes] = {}
        with self._guard():
            if self._connection is None:
                return found
            today = _today()
            damaged: list[bytes] = []
            stale: list[tuple[bytes, int, bytes, bytes]] = []
            for at in range(0, len(wanted), _KEYS_A_QUERY):
                some = wanted[at : at + _KEYS_A_QUERY]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, used, sum, value FROM entries WHERE key IN ({marks})"
                for key, used, checksum, value in self._connection.execute(query, some):
                    if checksum != _checksum(key, value):
                        damaged.append(key)
                        continue
                    found[key] = value
                    if used != today:
                        stale.append((key, today, checksum, value))
            if damaged or stale:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany("DELETE FROM entries WHERE key=?", [(key,) for key in damaged])
                self._connection.executemany(_INSERT.format("entries"), stale)
                self._connection.execute("COMMIT")
        return found

    def put_many(self, values: Mapping[bytes, bytes]) -> None:
        """Keep values: all or none of them."""
        today = _today()
        rows = [(key, today, _checksum(key, value), value) for key, value in values.items()]
        with self._guard():
            if self._connection is not None and rows:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(_INSERT.format("entries"), rows)
                self._connection.execute("COMMIT")
                self._evict(self._connection)

    def get_plan(self, key: str) -> bytes | None:
        """A whole plan's bytes, if there and sound."""
        with self._guard():
            if self._connection is None:
                return None
            row = self._connection.execute("SELECT used, sum, value FROM plans WHERE key=?", (key,)).fetchone()
            if row is None:
                return None
            used, checksum, value = row
            if checksum == _checksum(key.encode(), value):
                if used != _today():
                    self._connection.execute(_INSERT.format("plans"), (key, _today(), checksum, value))
                assert isinstance(value, bytes)
                return value
            self._connection.execute("DELETE FROM plans WHERE key=?", (key,))
        return None

    def put_plan(self, key: str, value: bytes) -> None:
        """Keep a whole plan's bytes; not if they alone would fill a quarter of the store."""
        if len(value) > self.limit // 4:
            return
        row = (key, _today(), _checksum(key.encode(), value), value)
        with self._guard():
            if self._connection is not None:
                self._connection.execute(_INSERT.format("plans"), row)
                self._evict(self._connection)

    def _evict(self, connection: sqlite3.Connection) -> None:
        """Remove what was not used for longest, a twentieth of all at a time, where the limit is passed."""
        if _used_bytes(connection) <= self.limit:
            return
        connection.execute("BEGIN IMMEDIATE")
        while _used_bytes(connection) > self.limit * _KEEP:
            removed = 0
            for table in ("plans", "entries"):
                (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
                removed += connection.execute(
                    f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} ORDER BY id LIMIT ?)",
                    (-(-count // 20),),
                ).rowcount
            if not removed:
                break
        connection.execute("COMMIT")
        connection.execute("PRAGMA incremental_vacuum").fetchall()

    def info(self) -> StoreInfo:
        """What the store holds."""
        entries = plans = size = 0
        with self._guard():
            if self._connection is not None:
                (entries,) = self._connection.execute("SELECT count(*) FROM entries").fetchone()
                (plans,) = self._connection.execute("SELECT count(*) FROM plans").fetchone()
                size = _used_bytes(self._connection)
        return StoreInfo(self.directory, entries, plans, size, self.limit, self.note)

    def clear(self) -> None:
        """Remove everything."""
        with self._guard():
            if self._connection is not None:
                self._connection.execute("DELETE FROM entries")
                self._connection.execute("DELETE FROM plans")
                self._connection.execute("PRAGMA incremental_vacuum").fetchall()
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _used_bytes(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    used: int = (pages - free) * size
    return used


def _today() -> int:
    """Days since the epoch: how exactly the last use is known."""
    return int(time.time() // 86400)


def _checksum(key: bytes, value: bytes) -> bytes:
    return blake2b(value, digest_size=8, key=key[:64]).digest()


def _size(text: str) -> int:
    """A size as users write it.

    Raises ValueError.
    """
    text = text.strip().upper().removesuffix("B")
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
    return int(float(text.rstrip("KMG")) * factor)
