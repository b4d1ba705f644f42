from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from storage.local.ledger import DROP_EXPIRED_EVERY
from storage.opening import Storage, open_storage
from storage.settings import StorageSettings
from tests.storage.helpers import BAD_DISK

pytestmark = pytest.mark.anyio


async def test_values_outlive_the_process(data_dir: Path) -> None:
    storage = await open_storage(data_dir, StorageSettings())
    await storage.ledger.put("n", b"1", ttl_s=1000)
    await storage.notes.put("n", b"2")
    await storage.aclose()
    storage = await open_storage(data_dir, StorageSettings())
    assert await storage.ledger.get("n") == b"1"
    assert await storage.notes.get("n") == b"2"
    await storage.aclose()


async def test_rows_of_ended_values_are_dropped_now_and_then(storage: Storage, data_dir: Path) -> None:
    await storage.ledger.put("on", b"1", ttl_s=1000)
    for number in range(DROP_EXPIRED_EVERY):
        await storage.ledger.put(f"{number}", b"1", ttl_s=-1)
    with contextlib.closing(sqlite3.connect(data_dir / "index.v1" / "cache.db")) as connection:
        ((rows,),) = connection.execute("SELECT COUNT(*) FROM Cache").fetchall()
    assert rows < 5
    assert await storage.ledger.get("on") == b"1"


async def test_index_that_cannot_be_read_is_a_counted_miss(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    await storage.ledger.put("n", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(storage.ledger._index._reading, "get", BAD_DISK)  # type: ignore[attr-defined]
        assert await storage.ledger.get("n") is None
    assert storage.counters.value_read_errors_total == 1
