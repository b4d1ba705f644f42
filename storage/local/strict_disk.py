"""diskcache, kept to the little that the index needs of it.

As it comes, diskcache unpickles a row that says it holds a pickle, so whoever can write to the folder can run
code in the proxy (CVE-2025-69872; no release fixes it). It also opens and deletes files by the names its rows
hold. ``StrictDisk`` does neither: a row holds bytes, text or a number, inside the database, or it is refused.
What the database says about its own set-up never counts: ``vet_settings`` removes rows that are no setting,
and ``open_cache`` gives every setting a value.

The untyped library is called from this module alone.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast
from urllib.parse import quote

import diskcache
from diskcache.core import DBNAME, MODE_RAW, UNKNOWN

from storage.errors import Corrupt

PlainValue: TypeAlias = bytes | str | int | float

CacheTimeout: type[Exception] = diskcache.Timeout
"""Raised for any failure to begin a transaction; the cause is in ``__context__``."""

SYNC_EACH_COMMIT = 2
"""SQLite's ``synchronous=FULL``: with WAL, a commit is on the disk when it returns."""

SYNC_AT_CHECKPOINT = 1
"""SQLite's ``synchronous=NORMAL``: a power cut may lose the last commits, never the database."""

_METADATA = frozenset({"count", "size", "hits", "misses"})

_SETTINGS: dict[str, int | str] = {
    "statistics": 0,  # counting hits would write on every read
    "tag_index": 0,
    "eviction_policy": "none",  # the store decides what goes, and reads never write
    "size_limit": 2**62,
    "cull_limit": 0,
    "sqlite_auto_vacuum": 0,  # freed pages are used again
    "sqlite_cache_size": 2**12,  # pages per connection, 16 MB
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 0,  # a file cut short under a memory map ends the process instead of failing the read
    "sqlite_synchronous": SYNC_AT_CHECKPOINT,
    "disk_min_file_size": 2**62,  # StrictDisk keeps values in rows whatever their size; this only says so
    "disk_pickle_protocol": 0,
}


class ReadHandle(Protocol):
    """What reading the index needs of a database; one connection per thread behind it."""

    def get(self, key: bytes) -> PlainValue | None: ...

    def close(self) -> None: ...


class CacheHandle(ReadHandle, Protocol):
    """The part of ``diskcache.Cache`` that the index uses; one connection per thread behind it."""

    def set(self, key: bytes, value: PlainValue, expire: float | None = None) -> bool: ...

    def delete(self, key: bytes) -> bool: ...

    def transact(self) -> AbstractContextManager[None]: ...

    def reset(self, key: str, value: int, update: bool) -> object: ...

    def expire(self) -> int: ...


class StrictDisk(diskcache.Disk):  # type: ignore[misc]
    """Keys and values are bytes, text or numbers kept in their row; anything else is refused both ways."""

    def put(self, key: object) -> tuple[Any, bool]:
        """The form of ``key`` in the database, and ``True`` for "as it is".

        Raises:
            TypeError: it is not plain.
        """
        return _to_row(key), True

    def get(self, key: object, raw: object) -> PlainValue:
        """The key that the database holds.

        Raises:
            Corrupt: the row says that its key is pickled.
        """
        if raw != 1:
            raise Corrupt("index row with a pickled key")
        return _from_row(key)

    def store(self, value: object, read: bool, key: object = UNKNOWN) -> tuple[int, int, None, Any]:
        """Size, mode, file name and value of the row: always inside the row, never a file.

        Raises:
            TypeError: the value is not plain, or is to be read from a file.
        """
        if read:
            raise TypeError("values are given whole")
        return 0, MODE_RAW, None, _to_row(value)

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> PlainValue:
        """The value of a row.

        Raises:
            Corrupt: the row says that its value is pickled or in a file.
        """
        if mode != MODE_RAW or filename is not None or read:
            raise Corrupt(f"index row in mode {mode!r}")
        return _from_row(value)

    def filename(self, key: object = UNKNOWN, value: object = UNKNOWN) -> tuple[str, str]:
        """Refused: no value has a file.

        Raises:
            TypeError: always.
        """
        raise TypeError("no value has a file")

    def remove(self, file_path: object) -> None:
        """Do nothing: no value has a file, so a name in a row is not ours to delete."""


def vet_settings(directory: Path) -> None:
    """Remove rows of the Settings table that are no setting, before ``open_cache`` reads it.

    diskcache makes every row an attribute of the cache object or a PRAGMA; a row named ``_directory`` or
    ``get`` would bend it.

    Raises:
        sqlite3.Error: the file is no database, or out of reach.
    """
    known = sorted(_METADATA | _SETTINGS.keys())
    with contextlib.closing(sqlite3.connect(directory / DBNAME, timeout=5, isolation_level=None)) as connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'Settings'").fetchone() is None:
            return
        unknown = f"FROM Settings WHERE key NOT IN ({', '.join('?' * len(known))})"
        if connection.execute(f"SELECT 1 {unknown}", known).fetchone() is not None:
            connection.execute(f"DELETE {unknown}", known)


def open_cache(directory: Path, *, timeout_s: float) -> CacheHandle:
    """Open or create the database in ``directory``, with every setting given.

    Args:
        directory: existing folder, absolute.
        timeout_s: how long a statement waits for another connection's lock.

    Raises:
        sqlite3.Error: the file is no database, or out of reach.
    """
    return cast(CacheHandle, diskcache.Cache(str(directory), timeout=timeout_s, disk=StrictDisk, **_SETTINGS))


class ReadOnlyCache:
    """The database as a process reads it that must not write: opening it with diskcache alone writes its settings.

    One connection, for the thread that made it. The database must be there already.
    """

    def __init__(self, directory: Path, *, timeout_s: float) -> None:
        """Args: see ``open_cache``.

        Raises:
            sqlite3.Error: it is not there, or out of reach.
        """
        uri = f"file:{quote(str(database_path(directory)))}?mode=ro"
        self._connection = sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None)
        self._sql = self._connection.execute
        for name in ("cache_size", "mmap_size"):
            self._sql(f"PRAGMA {name} = {_SETTINGS[f'sqlite_{name}']}")

    def get(self, key: bytes) -> PlainValue | None:
        """The value under ``key``, as ``diskcache.Cache.get`` with ``StrictDisk`` finds it.

        Raises:
            sqlite3.Error: the database cannot be read.
            Corrupt: the row says that its value is pickled or in a file.
        """
        row = self._sql(_GET, (sqlite3.Binary(key), time.time())).fetchone()
        if row is None:
            return None
        mode, filename, value = row
        if mode != MODE_RAW or filename is not None:
            raise Corrupt(f"index row in mode {mode!r}")
        return _from_row(value)

    def close(self) -> None:
        """Close the connection. Safe to call again."""
        self._connection.close()


_GET = "SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1 AND (expire_time IS NULL OR expire_time > ?)"


def rows_between(cache: ReadHandle, first: bytes, end: bytes, limit: int = -1) -> list[tuple[bytes, PlainValue]]:
    """Keys from ``first`` up to but without ``end`` with their values, in order; rows in odd modes are left out.

    At most ``limit`` of them, if it is not below 0.

    diskcache has no look-up by range, so its own connection is asked: the table has an index by key.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    select: Any = getattr(cache, "_sql")  # noqa: B009 - not part of the handle's type
    return _between(select, first, end, limit)


def rows_aside(directory: Path, first: bytes, end: bytes, *, timeout_s: float) -> list[tuple[bytes, PlainValue]]:
    """The same for somebody who owns nothing here: read-only, whoever else has the database open.

    Raises:
        sqlite3.Error: there is no database, or it cannot be read.
    """
    address = f"file:{quote(str(database_path(directory)))}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=timeout_s)) as connection:
        return _between(connection.execute, first, end)


def _between(select: Any, first: bytes, end: bytes, limit: int = -1) -> list[tuple[bytes, PlainValue]]:
    query = "SELECT key, value FROM Cache WHERE key >= ? AND key < ? AND raw = 1 AND mode = ? ORDER BY key LIMIT ?"
    rows = select(query, (sqlite3.Binary(first), sqlite3.Binary(end), MODE_RAW, limit)).fetchall()
    return [(bytes(key), _from_row(value)) for key, value in rows]


def database_path(directory: Path) -> Path:
    """The database file that ``open_cache`` uses."""
    return directory / str(DBNAME)


def _to_row(value: object) -> Any:
    kind = type(value)
    if kind is bytes:
        return sqlite3.Binary(cast(bytes, value))
    if kind is str or kind is float or (isinstance(value, int) and kind is int and -(2**63) <= value < 2**63):
        return value
    raise TypeError(f"the index holds bytes, text and numbers, not {kind.__name__}")


def _from_row(value: object) -> PlainValue:
    if isinstance(value, bytes | str | int | float):
        return value
    raise Corrupt(f"index row that holds {type(value).__name__}")
