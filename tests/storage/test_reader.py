"""A second process that reads what the owner of a folder writes, and changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.errors import StorageUnavailable
from storage.local.strict_disk import database_path
from storage.opening import Storage, open_reader, open_storage
from storage.settings import StorageSettings
from tests.fakes.stores import sample_record
from tests.storage.helpers import blob_path, put_blob

pytestmark = pytest.mark.anyio


@pytest.fixture
async def reader(storage: Storage, data_dir: Path) -> AsyncIterator[Storage]:
    reader = await open_reader(data_dir, StorageSettings())
    reader.renew()
    yield reader
    await reader.aclose()


def contents(root: Path) -> dict[Path, bytes]:
    # SQLite's shared memory holds the marks of who reads.
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.name.endswith("-shm")}


async def test_reader_finds_what_the_owner_stores_without_opening_anew(storage: Storage, reader: Storage) -> None:
    record = sample_record("a", [await put_blob(storage, b"pixels")])
    assert await reader.results.get_complete(record.key) is None
    await storage.results.put(record)
    await storage.notes.put("model", b"known")
    assert await reader.results.get_complete(record.key) == record
    assert await reader.blobs.read(record.files[0].blob) == b"pixels"
    assert await reader.notes.get("model") == b"known"
    assert await reader.notes.scan("mod") == [("model", b"known")]


async def test_reader_told_of_a_removal_has_no_hit_any_more(storage: Storage, reader: Storage) -> None:
    storage.results.listen(reader.results.forget)
    record = sample_record("a", [await put_blob(storage, b"pixels")])
    await storage.results.put(record)
    assert await reader.results.get_complete(record.key) == record
    await storage.results.remove(record.key)
    assert reader.results.peek(record.key) is None
    assert await reader.results.get_complete(record.key) is None


async def test_look_up_that_overlaps_a_change_elsewhere_keeps_nothing(storage: Storage, reader: Storage) -> None:
    record = sample_record("a", [await put_blob(storage, b"pixels")])
    await storage.results.put(record)
    actual = reader.results._is_complete

    async def overtaken(found: object) -> bool:
        reader.results.forget(record.key)
        return await actual(record)

    reader.results._is_complete = overtaken  # type: ignore[method-assign]
    assert await reader.results.get_complete(record.key) == record
    assert reader.results.peek(record.key) is None


async def test_reader_writes_nothing(storage: Storage, reader: Storage, data_dir: Path) -> None:
    record = sample_record("a", [await put_blob(storage, b"pixels")])
    before = contents(data_dir)
    for write in (
        lambda: reader.results.remove(record.key),
        lambda: reader.actions.put(record),
        lambda: reader.ledger.put("n", b"1"),
        lambda: put_blob(reader, b"other"),
    ):
        with pytest.raises(StorageUnavailable):
            await write()
    assert contents(data_dir) == before


async def test_lost_blob_is_a_miss_for_the_reader_and_is_left_to_the_owner(
    storage: Storage, reader: Storage, data_dir: Path
) -> None:
    record = sample_record("a", [await put_blob(storage, b"pixels")])
    await storage.results.put(record)
    blob_path(data_dir, record.files[0].blob.digest).unlink()
    assert await reader.results.get_complete(record.key) is None


async def test_reader_needs_an_owner_and_finds_the_next_one(data_dir: Path) -> None:
    reader = await open_reader(data_dir, StorageSettings())
    reader.renew()
    assert await reader.notes.get("model") is None
    for number in range(2):
        owner = await open_storage(data_dir, StorageSettings())
        await owner.notes.put("model", b"%d" % number)
        reader.renew()
        assert await reader.notes.get("model") == b"%d" % number
        await owner.aclose()
        # What a damaged database becomes: the next owner sets it aside and makes another.
        database_path(data_dir / "index.v1").with_name("suspect").touch()
    await reader.aclose()
    assert await reader.notes.get("model") is None
