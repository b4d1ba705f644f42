from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from storage.digest import RecordId
from storage.local.index import Index
from storage.opening import Storage, open_storage
from storage.records import encode_record
from storage.settings import StorageSettings
from tests.fakes.stores import sample_record
from tests.storage.helpers import BAD_DISK

pytestmark = pytest.mark.anyio


def execute(data_dir: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(data_dir / "index.v1" / "cache.db", isolation_level=None)) as connection:
        connection.execute(statement, values)


async def test_records_outlive_the_process(data_dir: Path) -> None:
    record = sample_record()
    storage = await open_storage(data_dir, StorageSettings())
    await storage.actions.put(record)
    await storage.aclose()
    storage = await open_storage(data_dir, StorageSettings())
    assert await storage.actions.get(record.key) == record
    assert await storage.actions.find(record.record_id) == record
    await storage.aclose()


async def test_row_that_was_changed_is_a_counted_miss_and_can_be_replaced(storage: Storage, data_dir: Path) -> None:
    record = sample_record()
    await storage.actions.put(record)
    execute(data_dir, "UPDATE Cache SET value = ? WHERE key = ?", encode_record(record), b"act:" + record.key)
    assert await storage.actions.get(record.key) is None
    assert await storage.actions.find(record.record_id) is None
    assert storage.counters.record_read_errors_total == 2
    renewed = replace(record, record_id=RecordId(5))
    await storage.actions.put(renewed)
    assert await storage.actions.get(record.key) == renewed
    assert await storage.actions.find(record.record_id) is None


async def test_record_of_another_key_is_never_answered(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    record, other = sample_record(), sample_record("b")
    monkeypatch.setattr(Index, "get", lambda self, key: encode_record(record))
    assert await storage.actions.get(other.key) is None
    assert await storage.actions.get(record.key) == record
    assert storage.counters.record_read_errors_total == 1


async def test_index_that_cannot_be_read_is_a_counted_miss(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    record = sample_record()
    await storage.actions.put(record)
    with monkeypatch.context() as patch:
        patch.setattr(storage.actions._index._reading, "get", BAD_DISK)  # type: ignore[attr-defined]
        assert await storage.actions.get(record.key) is None
        assert await storage.actions.find(record.record_id) is None
    assert storage.counters.record_read_errors_total == 2
    assert await storage.actions.get(record.key) == record


async def test_record_survives_the_row_of_another_format(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that a newer version wrote is a miss, and writing over it works."""
    record = sample_record()
    with monkeypatch.context() as patch:
        patch.setattr("storage.records.RECORD_FORMAT", 2)
        await storage.actions.put(record)
    assert await storage.actions.get(record.key) is None
    await storage.actions.put(record)
    assert await storage.actions.get(record.key) == record
