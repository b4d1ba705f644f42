from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

from storage.errors import StorageUnavailable
from storage.local.ledger import DROP_EXPIRED_EVERY, scan_values_aside
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


async def test_values_can_be_read_aside_while_the_store_is_open_and_when_it_is_closed(data_dir: Path) -> None:
    storage = await open_storage(data_dir, StorageSettings())
    for name, ttl_s in (("a:1", None), ("a:2", 1000.0), ("a:3", -1.0), ("b:1", None)):
        await storage.ledger.put(name, name.encode(), ttl_s)
    await storage.notes.put("a:4", b"of somebody else")
    wanted = [("a:1", b"a:1"), ("a:2", b"a:2")]
    assert scan_values_aside(data_dir, "ledger", "a:", time.time()) == wanted
    await storage.ledger.put("a:1", b"again")
    await storage.aclose()
    assert scan_values_aside(data_dir, "ledger", "a:", time.time())[0] == ("a:1", b"again")
    storage = await open_storage(data_dir, StorageSettings())
    assert await storage.ledger.get("a:1") == b"again"
    await storage.aclose()


async def test_value_that_was_damaged_is_not_read_aside(storage: Storage, data_dir: Path) -> None:
    await storage.ledger.put("a:1", b"1")
    await storage.ledger.put("a:2", b"2")
    with contextlib.closing(sqlite3.connect(data_dir / "index.v1" / "cache.db")) as connection:
        connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (bytes(30), b"kv:ledger:a:1"))
        connection.commit()
    assert scan_values_aside(data_dir, "ledger", "a:", time.time()) == [("a:2", b"2")]


@pytest.mark.parametrize("content", [None, b"this is no database" * 100])
def test_reading_aside_makes_no_store_where_there_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "index.v1").mkdir()
        (tmp_path / "index.v1" / "cache.db").write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageUnavailable):
        scan_values_aside(tmp_path, "ledger", "a:", time.time())
    assert sorted(tmp_path.rglob("*")) == before
