from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from storage.errors import StorageError, StorageRefused, StorageUnavailable
from storage.opening import Storage, open_storage
from storage.settings import StorageSettings
from tests.fakes.stores import sample_record
from tests.storage.helpers import BAD_DISK, NO_ROOM, blob_path, configured, failing, put_blob, written

pytestmark = pytest.mark.anyio


def modes_below(root: Path) -> dict[str, set[int]]:
    modes: dict[str, set[int]] = {"folder": set(), "file": set()}
    for path in [root, *root.rglob("*")]:
        modes["folder" if path.is_dir() else "file"].add(path.stat().st_mode & 0o777)
    return modes


def prepare(root: Path, mode: int) -> None:
    root.mkdir(mode=mode)


async def test_everything_in_the_folder_is_for_its_owner_alone(storage: Storage, data_dir: Path) -> None:
    await storage.results.put(sample_record("a", [await put_blob(storage, b"pixels")]))
    await storage.ledger.put("n", b"1")
    assert modes_below(data_dir) == {"folder": {0o700}, "file": {0o600}}


async def test_result_is_a_hit_after_a_restart(data_dir: Path) -> None:
    storage = await open_storage(data_dir, StorageSettings())
    record = sample_record("a", [await put_blob(storage, b"pixels")])
    await storage.results.put(record)
    await storage.aclose()
    storage = await open_storage(data_dir, StorageSettings())
    assert storage.results.peek(record.key) is None
    assert await storage.results.get_complete(record.key) == record
    assert await storage.results.find_complete(record.record_id) == record
    assert await storage.blobs.read(record.files[0].blob) == b"pixels"
    await storage.aclose()


async def test_lost_blob_makes_its_result_a_miss(storage: Storage, data_dir: Path) -> None:
    record = sample_record("a", [await put_blob(storage, b"pixels")])
    await storage.results.put(record)
    blob_path(data_dir, record.files[0].blob.digest).unlink()
    assert await storage.results.get_complete(record.key) is None
    assert storage.counters.incomplete_records_total == 1


async def test_second_proxy_on_the_folder_is_refused(storage: Storage, data_dir: Path) -> None:
    with pytest.raises(StorageRefused, match="in use by another proxy"):
        await open_storage(data_dir, StorageSettings())
    await put_blob(storage, b"still works")


async def test_closing_twice_and_at_once_is_fine_and_gives_the_folder_up(data_dir: Path) -> None:
    storage = await open_storage(data_dir, StorageSettings())
    await asyncio.gather(storage.aclose(), storage.aclose())
    await storage.aclose()
    again = await open_storage(data_dir, StorageSettings())
    await again.aclose()


async def test_closing_finishes_what_was_begun(data_dir: Path) -> None:
    storage = await open_storage(data_dir, StorageSettings())
    records = [sample_record(f"{number}") for number in range(20)]
    writing = [asyncio.ensure_future(storage.actions.put(record)) for record in records]
    await asyncio.sleep(0)
    await storage.aclose()
    await asyncio.gather(*writing)
    storage = await open_storage(data_dir, StorageSettings())
    assert [await storage.actions.get(record.key) for record in records] == records
    await storage.aclose()


async def test_closed_store_misses_and_refuses_writes(data_dir: Path) -> None:
    storage = await open_storage(data_dir, configured(memory_bytes=0))
    record = sample_record()
    await storage.results.put(record)
    await storage.aclose()
    assert await storage.results.get_complete(record.key) is None
    assert await storage.ledger.get("n") is None
    for write in (storage.results.put(record), storage.ledger.put("n", b""), put_blob(storage, b"x")):
        with pytest.raises(StorageUnavailable):
            await write


async def test_newer_folder_is_refused(data_dir: Path) -> None:
    prepare(data_dir, 0o700)
    (data_dir / "format").write_text("2")
    with pytest.raises(StorageRefused, match="newer version"):
        await open_storage(data_dir, StorageSettings())


async def test_file_in_place_of_the_folder_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageUnavailable, match="cannot be used as a data folder"):
            await open_storage(path, StorageSettings())


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EIO])
async def test_folder_that_cannot_be_written_is_unavailable_and_left_free(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for place in ("folder.Path.mkdir", "folder.os.open", "folder.create_file", "index.os.open", "house.measure_tree"):
        with monkeypatch.context() as patch:
            patch.setattr(f"storage.local.{place}", failing(number))
            with pytest.raises(StorageUnavailable, match=os.strerror(number)):
                await open_storage(data_dir, StorageSettings())
    storage = await open_storage(data_dir, StorageSettings())
    await storage.aclose()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
async def test_unwritable_folder_is_unavailable(data_dir: Path) -> None:
    prepare(data_dir, 0o500)
    with pytest.raises(StorageUnavailable, match="Permission denied"):
        await open_storage(data_dir, StorageSettings())


async def test_cancelled_opening_leaves_the_folder_free(data_dir: Path) -> None:
    opening = asyncio.ensure_future(open_storage(data_dir, StorageSettings()))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    storage = await open_storage(data_dir, StorageSettings())
    await storage.aclose()


async def test_overwritten_index_starts_fresh_and_keeps_the_blobs(data_dir: Path) -> None:
    storage = await open_storage(data_dir, StorageSettings())
    record = sample_record("a", [await put_blob(storage, b"pixels")])
    await storage.results.put(record)
    await storage.aclose()
    with (data_dir / "index.v1" / "cache.db").open("r+b") as file:
        file.write(b"\xff" * 100)
    storage = await open_storage(data_dir, StorageSettings())
    assert storage.counters.index_reset_total == 1
    assert await storage.results.get_complete(record.key) is None
    assert storage.used_bytes() == 4096
    assert await put_blob(storage, b"pixels") == record.files[0].blob
    await storage.results.put(record)
    assert storage.used_bytes() == 4096
    assert storage.counters.blob_writes_total == 0
    assert await storage.results.get_complete(record.key) == record
    await storage.aclose()


async def test_left_over_temporary_files_are_swept(data_dir: Path) -> None:
    storage = await open_storage(data_dir, StorageSettings())
    await storage.aclose()
    (data_dir / "tmp" / "0123").write_bytes(b"half a blob")
    storage = await open_storage(data_dir, StorageSettings())
    assert storage.counters.temp_swept_total == 1
    assert list((data_dir / "tmp").iterdir()) == []
    await storage.aclose()


async def test_trouble_is_told_and_passes_without_another_result(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.local.trouble.PROBE_EVERY_S", 0.0)
    assert storage.trouble() is None
    with monkeypatch.context() as patch:
        patch.setattr("storage.local.incoming.write_all", NO_ROOM)
        patch.setattr("storage.local.house.write_all", NO_ROOM)
        with pytest.raises(StorageError):
            await put_blob(storage, b"x")
        for failures in (1, 2):  # asking tries a small write, which fails too
            assert storage.counters.write_failures_total == failures
            assert storage.trouble() == "blobs: No space left on device (ENOSPC)"
            await written(storage)
    assert storage.trouble() is not None
    await written(storage)
    assert storage.trouble() is None


async def test_fast_store_syncs_nothing(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = await open_storage(data_dir, configured(durability="fast"))
    monkeypatch.setattr(os, "fsync", BAD_DISK)
    record = sample_record("a", [await put_blob(storage, b"pixels")])
    await storage.results.put(record)
    assert await storage.results.get_complete(record.key) == record
    await storage.aclose()
