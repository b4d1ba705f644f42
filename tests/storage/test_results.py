from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from storage.counters import StorageCounters
from storage.digest import PredictionKey, RecordId, hash_bytes
from storage.errors import StorageError, StorageUnavailable
from storage.records import BlobRef, ResultRecord
from storage.results import RECENT_S, ResultStore
from tests.fakes.stores import MemoryActionCache, MemoryContentStore, chunked, sample_record

pytestmark = pytest.mark.anyio


class GatedActionCache(MemoryActionCache):
    """Stops at the end of a read or before a write until the gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, key: PredictionKey) -> ResultRecord | None:
        record = await super().get(key)
        await self.gate.wait()
        return record

    async def put(self, record: ResultRecord) -> None:
        await self.gate.wait()
        await super().put(record)

    async def remove(self, key: PredictionKey) -> None:
        await self.gate.wait()
        await super().remove(key)


class Setup:
    def __init__(self, memory_bytes: int = 2**20) -> None:
        self.now = 100.0
        self.actions = GatedActionCache()
        self.blobs = MemoryContentStore()
        self.counters = StorageCounters()
        self.results = ResultStore(
            self.actions, self.blobs, self.counters, memory_bytes=memory_bytes, monotonic=lambda: self.now
        )

    async def put_blob(self, data: bytes) -> BlobRef:
        return await self.blobs.put(chunked(data), content_type="image/webp", max_bytes=1000)

    async def put_record(self, name: str = "a") -> ResultRecord:
        record = sample_record(name, [await self.put_blob(b"1" + name.encode()), await self.put_blob(b"2")])
        await self.results.put(record)
        return record


@pytest.fixture
async def setup(anyio_backend: str) -> Setup:
    return Setup()


async def test_record_with_all_blobs_is_a_hit(setup: Setup) -> None:
    record = await setup.put_record()
    assert setup.results.peek(record.key) == record
    assert await setup.results.get_complete(record.key) == record
    assert await setup.results.find_complete(record.record_id) == record


async def test_unknown_key_is_a_miss(setup: Setup) -> None:
    record = sample_record()
    assert setup.results.peek(record.key) is None
    assert await setup.results.get_complete(record.key) is None
    assert await setup.results.find_complete(record.record_id) is None
    assert setup.counters.incomplete_records_total == 0


async def test_record_without_files_is_a_hit(setup: Setup) -> None:
    record = sample_record(output="text")
    await setup.results.put(record)
    assert await setup.results.get_complete(record.key) == record


async def test_record_whose_blobs_are_not_stored_is_refused(setup: Setup) -> None:
    present = await setup.put_blob(b"1")
    record = sample_record("a", [present, BlobRef(hash_bytes(b"2"), 1)])
    with pytest.raises(StorageError):
        await setup.results.put(record)
    assert await setup.actions.get(record.key) is None
    assert setup.results.peek(record.key) is None


async def test_record_that_loses_a_blob_becomes_a_miss(setup: Setup) -> None:
    record = await setup.put_record()
    setup.blobs.lose(record.files[1].blob.digest)
    setup.now += RECENT_S
    assert setup.results.peek(record.key) is None
    assert await setup.results.get_complete(record.key) is None
    assert await setup.results.find_complete(record.record_id) is None
    assert setup.counters.incomplete_records_total == 2
    await setup.put_blob(b"2")
    assert await setup.results.get_complete(record.key) == record


async def test_record_with_a_blob_of_another_length_is_a_miss(setup: Setup) -> None:
    ref = await setup.put_blob(b"1234")
    record = sample_record("a", [BlobRef(ref.digest, 3)])
    await setup.actions.put(record)
    assert await setup.results.get_complete(record.key) is None


async def test_memory_is_trusted_for_a_while_and_renewed(setup: Setup) -> None:
    record = await setup.put_record()
    setup.now += RECENT_S - 0.01
    assert setup.results.peek(record.key) == record
    setup.now += 0.01
    assert setup.results.peek(record.key) is None
    assert await setup.results.get_complete(record.key) == record
    assert setup.results.peek(record.key) == record
    assert setup.counters.record_memory_hits_total == 2


async def test_what_another_process_removed_is_noticed(setup: Setup) -> None:
    record = await setup.put_record()
    await setup.actions.remove(record.key)
    setup.now += RECENT_S
    assert await setup.results.get_complete(record.key) is None
    assert setup.results.peek(record.key) is None


async def test_memory_is_bounded(anyio_backend: str) -> None:
    setup = Setup(memory_bytes=20_000)
    records = [await setup.put_record(f"{number}") for number in range(20)]
    kept = [record for record in records if setup.results.peek(record.key)]
    assert records[-1] in kept
    assert len(kept) < 10
    big = sample_record("big", output=["token"] * 10_000)
    await setup.results.put(big)
    assert setup.results.peek(big.key) is None
    assert await setup.results.get_complete(big.key) == big


async def test_removed_record_is_no_hit(setup: Setup) -> None:
    record = await setup.put_record()
    await setup.results.remove(record.key)
    assert setup.results.peek(record.key) is None
    assert await setup.results.get_complete(record.key) is None


async def test_read_that_overlaps_a_removal_does_not_bring_the_record_back(setup: Setup) -> None:
    record = await setup.put_record()
    setup.now += RECENT_S
    setup.actions.gate.clear()
    reading = asyncio.ensure_future(setup.results.get_complete(record.key))
    await asyncio.sleep(0)
    removing = asyncio.ensure_future(setup.results.remove(record.key))
    await asyncio.sleep(0)
    setup.actions.gate.set()
    assert await reading == record  # it was asked for before
    await removing
    assert setup.results.peek(record.key) is None
    assert await setup.results.get_complete(record.key) is None


async def test_removal_is_carried_out_when_its_caller_is_cancelled(setup: Setup) -> None:
    record = await setup.put_record()
    setup.now += RECENT_S
    setup.actions.gate.clear()
    removing = asyncio.ensure_future(setup.results.remove(record.key))
    await asyncio.sleep(0)
    removing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await removing
    setup.actions.gate.set()
    assert await setup.results.get_complete(record.key) in (record, None)
    await setup.results.settle()
    assert setup.results.peek(record.key) is None
    assert await setup.results.get_complete(record.key) is None


async def test_replaced_record_is_not_found_in_memory(setup: Setup) -> None:
    first = await setup.put_record()
    second = replace(first, record_id=RecordId(1), logs="second")
    await setup.results.put(second)
    assert setup.results.peek(first.key) == second
    assert await setup.results.find_complete(first.record_id) is None


async def test_failed_put_leaves_memory_and_disk_as_they_were(setup: Setup) -> None:
    first = await setup.put_record()
    setup.actions.failure = StorageUnavailable("away")
    with pytest.raises(StorageUnavailable):
        await setup.results.put(replace(first, logs="second"))
    assert setup.results.peek(first.key) is None
    setup.actions.failure = None
    assert await setup.results.get_complete(first.key) == first


async def test_put_that_a_removal_overtakes_is_not_remembered(setup: Setup) -> None:
    record = await setup.put_record()
    setup.actions.gate.clear()
    putting = asyncio.ensure_future(setup.results.put(record))
    removing = asyncio.ensure_future(setup.results.remove(record.key))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    setup.actions.gate.set()
    await asyncio.gather(putting, removing)
    assert setup.results.peek(record.key) is None or await setup.actions.get(record.key) == record


async def test_many_removed_at_once_are_gone_from_memory_and_from_a_look_up_that_was_under_way() -> None:
    actions = GatedActionCache()
    results = ResultStore(actions, MemoryContentStore(), StorageCounters(), memory_bytes=2**20)
    record, other = sample_record("a"), sample_record("b")
    for one in (record, other):
        await results.put(one)
    assert results.peek(record.key) == record
    assert await results.remove_all([record.key, sample_record("never").key]) == 1
    assert results.peek(record.key) is None
    assert await results.get_complete(record.key) is None
    assert results.peek(other.key) == other
    results.forget_where(lambda found: found.key == other.key)
    assert results.peek(other.key) is None
    assert await results.get_complete(other.key) == other, "it is still on the disk"
    assert await results.remove_all([]) == 0
