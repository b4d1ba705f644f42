from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import Corrupt, StorageFull, StorageUnavailable
from storage.local import index as index_module
from storage.local.index import KEPT_CORRUPT, Index, open_index
from tests.storage.helpers import failing


def execute(directory: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(directory / "cache.db", isolation_level=None)) as connection:
        return connection.execute(statement, values).fetchall()


def put(index: Index, key: bytes, value: bytes) -> None:
    with index.transaction(durable=True) as rows:
        rows.set(key, value)


def close(index: Index) -> None:
    index.close_reading()
    index.close_writing()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "index.v1"


@pytest.fixture
def index(directory: Path) -> Iterator[Index]:
    opened, _ = open_index(directory)
    yield opened
    close(opened)


def test_files_are_for_their_owner_alone(index: Index, directory: Path) -> None:
    put(index, b"k", b"v")
    assert {path.name for path in directory.iterdir()} == {"cache.db", "cache.db-wal", "cache.db-shm"}
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


def test_transaction_is_all_or_nothing(index: Index) -> None:
    put(index, b"a", b"1")

    def fail_half_way() -> None:
        with index.transaction(durable=False) as rows:
            rows.set(b"a", b"2")
            rows.set(b"b", b"2")
            rows.delete(b"a")
            assert rows.get(b"a") is None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert index.get(b"a") == b"1"
    assert index.get(b"b") is None


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
def test_durable_transaction_syncs_its_commit(index: Index, durable: bool, level: int) -> None:
    with index.transaction(durable=durable) as rows:
        rows.set(b"k", b"v")
        ((synchronous,),) = index._writing._sql("PRAGMA synchronous").fetchall()  # type: ignore[attr-defined]
    assert synchronous == level


def test_other_processes_are_seen(index: Index, directory: Path) -> None:
    other, _ = open_index(directory)
    put(other, b"k", b"v")
    assert index.get(b"k") == b"v"
    put(index, b"k", b"w")
    assert other.get(b"k") == b"w"
    close(other)


@pytest.mark.parametrize("value", [b"x" * 40, b"", b"short", "text", 7, None])
def test_changed_row_is_corrupt(index: Index, directory: Path, value: object) -> None:
    put(index, b"k", b"v" * 24)
    execute(directory, "UPDATE Cache SET value = ?", value)
    with pytest.raises(Corrupt):
        index.get(b"k")
    with index.transaction(durable=False) as rows:
        assert rows.get(b"k") is None


def test_flipped_bit_in_a_row_is_corrupt(index: Index, directory: Path) -> None:
    put(index, b"k", b"a prompt")
    ((row,),) = execute(directory, "SELECT value FROM Cache")
    assert isinstance(row, bytes)
    for position in range(len(row)):
        changed = row[:position] + bytes([row[position] ^ 4]) + row[position + 1 :]
        execute(directory, "UPDATE Cache SET value = ?", changed)
        with pytest.raises(Corrupt):
            index.get(b"k")


def test_row_copied_under_another_key_is_corrupt(index: Index, directory: Path) -> None:
    put(index, b"mine", b"1")
    put(index, b"theirs", b"2")
    execute(directory, "UPDATE Cache SET value = (SELECT value FROM Cache WHERE key = ?)", b"theirs")
    assert index.get(b"theirs") == b"2"
    with pytest.raises(Corrupt):
        index.get(b"mine")


def test_closed_index_is_unavailable(index: Index) -> None:
    index.close_reading()
    with pytest.raises(StorageUnavailable):
        index.get(b"k")


def test_write_that_fails_leaves_the_index_usable(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    put(index, b"k", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(index_module.Rows, "set", lambda *args: (_ for _ in ()).throw(no_room()))
        with pytest.raises(StorageFull):
            put(index, b"k", b"2")
    assert index.get(b"k") == b"1"
    put(index, b"k", b"3")
    assert index.get(b"k") == b"3"


def no_room() -> sqlite3.Error:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


def test_lock_of_another_writer_is_unavailable_for_writes_alone(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "WRITE_TIMEOUT_S", 0.01)
    index, _ = open_index(directory)
    put(index, b"k", b"1")
    with contextlib.closing(sqlite3.connect(directory / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="locked"):
            put(index, b"k", b"2")
        assert index.get(b"k") == b"1"
        other.execute("ROLLBACK")
    put(index, b"k", b"2")
    assert not (directory / "suspect").exists()
    close(index)


def damage_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\0not a database at all" * 5)


def damage_text(path: Path) -> None:
    path.write_text("hello" * 1000)


def damage_tables(path: Path) -> None:
    execute(path.parent, "DROP TABLE Cache")
    execute(path.parent, "CREATE TABLE Cache (something TEXT)")


def damage_settings(path: Path) -> None:
    execute(path.parent, "DROP TABLE Settings")
    execute(path.parent, "CREATE TABLE Settings (something TEXT)")


def damage_by_cutting(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(5000)


@pytest.mark.parametrize("damage", [damage_header, damage_text, damage_tables, damage_settings, damage_by_cutting])
def test_damaged_index_is_set_aside_and_a_fresh_one_made(directory: Path, damage: object) -> None:
    index, was_reset = open_index(directory)
    assert not was_reset
    put(index, b"k", b"v")
    close(index)
    damage(directory / "cache.db")  # type: ignore[operator]
    index, was_reset = open_index(directory)
    assert was_reset
    assert index.get(b"k") is None
    put(index, b"k", b"w")
    close(index)
    assert len(list(directory.parent.glob("index.v1.corrupt-*"))) == 1
    index, was_reset = open_index(directory)
    assert not was_reset
    assert index.get(b"k") == b"w"
    close(index)


def test_damage_found_later_sets_the_index_aside_at_the_next_open(directory: Path) -> None:
    index, _ = open_index(directory)
    for number in range(400):
        put(index, b"%d" % number, b"x" * 2000)
    close(index)
    pages = (directory / "cache.db").read_bytes()
    keep = 30 * 4096
    (directory / "cache.db").write_bytes(pages[:keep] + b"\xa5" * (len(pages) - keep))
    index, was_reset = open_index(directory)
    assert not was_reset
    unread = 0
    for number in range(400):
        try:
            assert index.get(b"%d" % number) in (b"x" * 2000, None)
        except (Corrupt, StorageUnavailable):
            unread += 1
    assert unread
    close(index)
    index, was_reset = open_index(directory)
    assert was_reset
    put(index, b"k", b"v")
    close(index)


def test_index_out_of_reach_is_unavailable_and_not_set_aside(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = open_index(directory)
    put(index, b"k", b"v")
    close(index)
    with monkeypatch.context() as patch:
        patch.setattr("storage.local.index.os.open", failing(errno.EACCES))
        with pytest.raises(StorageUnavailable):
            open_index(directory)
    index, was_reset = open_index(directory)
    assert not was_reset
    assert index.get(b"k") == b"v"
    close(index)


def test_only_the_latest_damaged_indexes_are_kept(directory: Path) -> None:
    for _ in range(KEPT_CORRUPT + 2):
        index, _ = open_index(directory)
        close(index)
        damage_header(directory / "cache.db")
    index, was_reset = open_index(directory)
    close(index)
    assert was_reset
    assert len(list(directory.parent.glob("index.v1.corrupt-*"))) == KEPT_CORRUPT


def test_expired_rows_are_dropped(index: Index, directory: Path) -> None:
    with index.transaction(durable=False) as rows:
        rows.set(b"over", b"1", -1.0)
        rows.set(b"on", b"1", 1000.0)
        rows.set(b"ever", b"1")
    index.drop_expired()
    assert {row[0] for row in execute(directory, "SELECT key FROM Cache")} == {b"on", b"ever"}
