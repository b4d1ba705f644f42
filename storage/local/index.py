"""The index: small rows of bytes by key, in one SQLite database.

The event loop reads (7-40 µs, no lock taken), the writer thread writes; each has its own connection, and other
processes may read and write the same database meanwhile. Every row carries a seal, a short BLAKE3 over its key
and value: a row that was damaged, or copied under another key, is ``Corrupt`` and never an answer.

A database that cannot be read at open is set aside and a fresh one made. Damage found later is noted in a file
beside it, so that the next open sets it aside.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import blake3

from storage.errors import Corrupt, StorageUnavailable
from storage.local.faults import as_unavailable, is_damage, may_pass
from storage.local.files import FILE_MODE, FOLDER_MODE
from storage.local.strict_disk import (
    SYNC_AT_CHECKPOINT,
    SYNC_EACH_COMMIT,
    CacheHandle,
    CacheTimeout,
    PlainValue,
    ReadHandle,
    ReadOnlyCache,
    database_path,
    open_cache,
    rows_aside,
    rows_between,
    vet_settings,
)

SEAL_BYTES = 16

READ_TIMEOUT_S = 0.05
"""Readers wait for no writer in WAL mode, save for moments of recovery; the event loop sits those out this long."""

WRITE_TIMEOUT_S = 5.0
"""Another process may hold the write lock; its transactions are milliseconds."""

KEPT_CORRUPT = 3
"""Damaged indexes kept for whoever wants to look."""

_SUSPECT = "suspect"

_DAMAGE = (sqlite3.Error, CacheTimeout, Corrupt, AttributeError, KeyError, TypeError, ValueError)
"""What diskcache raises at open when a database has other tables, columns or values than its own."""


class Rows:
    """Rows as one transaction of the writer thread sees and changes them."""

    __slots__ = ("_cache",)

    def __init__(self, cache: CacheHandle) -> None:
        self._cache = cache

    def get(self, key: bytes) -> bytes | None:
        """The value, or ``None`` when absent or not what was written."""
        try:
            return _unseal(key, self._cache.get(key))
        except Corrupt:
            return None

    def set(self, key: bytes, value: bytes, ttl_s: float | None = None) -> None:
        """Put a value; with ``ttl_s`` its row may be dropped after that many seconds."""
        self._cache.set(key, _seal(key, value) + value, expire=ttl_s)

    def delete(self, key: bytes) -> None:
        """Remove a row if it is there."""
        self._cache.delete(key)


class Index:
    """One open index. Made in the writer thread; ``get`` belongs to the event loop's thread."""

    def __init__(self, directory: Path) -> None:
        self._suspect_path = directory / _SUSPECT
        self._writing = open_cache(directory, timeout_s=WRITE_TIMEOUT_S)
        self._reading: ReadHandle | None = open_cache(directory, timeout_s=READ_TIMEOUT_S)
        self._reading.close()  # this thread's connection; the reading thread opens its own

    def get(self, key: bytes) -> bytes | None:
        """The value under ``key``, or ``None``.

        Raises:
            StorageUnavailable: the index cannot be read now.
            Corrupt: the row is not what was written.
        """
        if self._reading is None:
            raise StorageUnavailable("the store is closed")
        try:
            return _unseal(key, self._reading.get(key))
        except (sqlite3.Error, CacheTimeout, OSError) as error:
            self._note_damage(error)
            raise as_unavailable(error) from error

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Every row whose key begins with ``prefix`` (its last byte below 255), in order; damaged ones are left out.

        Raises:
            StorageUnavailable: the index cannot be read now.
        """
        if self._reading is None:
            raise StorageUnavailable("the store is closed")
        try:
            rows = rows_between(self._reading, prefix, _end_of(prefix))
        except (sqlite3.Error, CacheTimeout, OSError) as error:
            self._note_damage(error)
            raise as_unavailable(error) from error
        return _unsealed(rows)

    def page(self, prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, bytes | None]]:
        """At most ``limit`` rows whose key begins with ``prefix`` and is beyond ``after``, in order, in the writer
        thread; a damaged one has no value.

        Raises:
            StorageUnavailable: the index cannot be read now.
        """
        try:
            rows = rows_between(self._writing, after + b"\0", prefix[:-1] + bytes([prefix[-1] + 1]), limit)
        except (sqlite3.Error, CacheTimeout, OSError) as error:
            self._note_damage(error)
            raise as_unavailable(error) from error
        found: list[tuple[bytes, bytes | None]] = []
        for key, row in rows:
            try:
                found.append((key, _unseal(key, row)))
            except Corrupt:
                found.append((key, None))
        return found

    def warm_up(self) -> None:
        """Open the reading thread's connection, so that the first request does not wait for it.

        Raises:
            StorageUnavailable: the index cannot be read; it is closed for reading.
        """
        try:
            self.get(b"probe")
        except Corrupt:
            pass
        except StorageUnavailable:
            self.close_reading()
            raise

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[Rows]:
        """All changes or none, in the writer thread.

        Args:
            durable: the changes are on the disk when this ends; else they survive the end of the process, and
                a power cut may lose them.

        Raises:
            StorageUnavailable: nothing was changed.
        """
        try:
            sync = SYNC_EACH_COMMIT if durable else SYNC_AT_CHECKPOINT
            self._writing.reset("sqlite_synchronous", sync, update=False)
            with self._writing.transact():
                yield Rows(self._writing)
        except (sqlite3.Error, CacheTimeout) as error:
            # A COMMIT that fails can leave its transaction open; a new connection starts clean.
            with contextlib.suppress(sqlite3.Error):
                self._writing.close()
            self._note_damage(error)
            raise as_unavailable(error) from error

    def drop_expired(self) -> None:
        """Remove rows whose time is over, in the writer thread."""
        with contextlib.suppress(sqlite3.Error, CacheTimeout):
            self._writing.expire()

    def close_reading(self) -> None:
        """Close the reading thread's connection; ``get`` then finds the store closed. Safe to call again."""
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def close_writing(self) -> None:
        """Close the writer thread's connection, in that thread."""
        self._writing.close()

    def _note_damage(self, error: Exception) -> None:
        if is_damage(error):
            with contextlib.suppress(OSError):
                self._suspect_path.touch(mode=FILE_MODE)


class ReadOnlyIndex(Index):
    """The index in a process that does not own the folder: it reads what the owner writes, and changes nothing.

    For one thread, which opens it with ``renew`` and does so again when the owner has started anew: that one may have
    set a damaged database aside, whose file would be read for ever here.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._suspect_path = directory / _SUSPECT
        self._reading = None

    def renew(self) -> None:
        """Open the database that is there now.

        Raises:
            StorageUnavailable: it cannot be read; the index is closed.
        """
        self.close_reading()
        try:
            self._reading = ReadOnlyCache(self._directory, timeout_s=READ_TIMEOUT_S)
        except sqlite3.Error as error:
            raise as_unavailable(error) from error
        self.warm_up()

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[Rows]:
        """Refused.

        Raises:
            StorageUnavailable: always.
        """
        raise StorageUnavailable("another process writes this index")
        yield

    def drop_expired(self) -> None:
        """Do nothing: the owner does it."""

    def close_writing(self) -> None:
        """Do nothing: nothing was opened for writing."""


def scan_aside(directory: Path, prefix: bytes) -> list[tuple[bytes, bytes]]:
    """``Index.scan`` for a process that owns nothing here and changes nothing, beside a proxy or without one.

    Raises:
        StorageUnavailable: there is no index, or it cannot be read.
    """
    try:
        return _unsealed(rows_aside(directory, prefix, _end_of(prefix), timeout_s=WRITE_TIMEOUT_S))
    except (sqlite3.Error, Corrupt, OSError) as error:
        raise StorageUnavailable(f"{directory} cannot be read: {error}") from error


def open_index(directory: Path) -> tuple[Index, bool]:
    """Open the index in ``directory``, making a fresh one if it is damaged. For the writer thread.

    Returns:
        The index, and whether a damaged one was set aside as ``<name>.corrupt-<time>``.

    Raises:
        StorageUnavailable: it is out of reach (read-only, locked, I/O error, no room).
    """
    if not (directory / _SUSPECT).exists():
        try:
            return _open(directory), False
        except _DAMAGE:
            pass
    try:
        directory.rename(directory.with_name(f"{directory.name}.corrupt-{time.time_ns()}"))
        fresh = _open(directory)
        _forget_old(directory)  # only now: a fault that repeats at every start must not push out the first index
    except OSError as error:
        raise as_unavailable(error) from error
    return fresh, True


def _open(directory: Path) -> Index:
    try:
        directory.mkdir(mode=FOLDER_MODE, exist_ok=True)
        # SQLite gives its files the mode of the database, which must not depend on the umask.
        os.close(os.open(database_path(directory), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
        vet_settings(directory)
        return Index(directory)
    except (sqlite3.Error, CacheTimeout, OSError) as error:
        if may_pass(error):
            raise as_unavailable(error) from error
        raise


def _forget_old(directory: Path) -> None:
    for old in sorted(directory.parent.glob(f"{directory.name}.corrupt-*"))[:-KEPT_CORRUPT]:
        for file in old.iterdir():
            file.unlink()
        old.rmdir()


def _end_of(prefix: bytes) -> bytes:
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _unsealed(rows: list[tuple[bytes, PlainValue]]) -> list[tuple[bytes, bytes]]:
    """Damaged rows are left out."""
    found: list[tuple[bytes, bytes]] = []
    for key, row in rows:
        with contextlib.suppress(Corrupt):
            value = _unseal(key, row)
            if value is not None:
                found.append((key, value))
    return found


def _seal(key: bytes, value: bytes) -> bytes:
    # The key's length keeps (key, value) pairs apart that join to the same bytes.
    return blake3.blake3(len(key).to_bytes(4, "big") + key + value).digest(SEAL_BYTES)


def _unseal(key: bytes, row: object) -> bytes | None:
    if row is None:
        return None
    if not isinstance(row, bytes):
        raise Corrupt("index row that is not bytes")
    value = row[SEAL_BYTES:]
    if row[:SEAL_BYTES] != _seal(key, value):
        raise Corrupt("index row that is not what was written")
    return value
