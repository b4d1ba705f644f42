"""What the blobs' contract does not say: files, counters, accounting, faults of the medium."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from storage.digest import hash_bytes
from storage.errors import BlobRejected, Corrupt, StorageFull, StorageUnavailable
from storage.local.files import read_exactly
from storage.opening import Storage, open_storage
from storage.records import BlobRef
from storage.settings import StorageSettings
from tests.fakes.stores import chunked
from tests.storage.helpers import (
    BAD_DISK,
    NO_ROOM,
    blob_path,
    configured,
    failing,
    files_below,
    put_blob,
    until,
    written,
)

pytestmark = pytest.mark.anyio

SMALL, LARGE = bytes(1000), bytes(3_000_000)


async def test_blob_is_a_plain_file_named_by_its_digest(storage: Storage, data_dir: Path) -> None:
    ref = await put_blob(storage, SMALL)
    path = blob_path(data_dir, ref.digest)
    assert path.read_bytes() == SMALL
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert files_below(data_dir / "tmp") == []
    assert storage.used_bytes() == 4096
    assert (storage.counters.blob_writes_total, storage.counters.blob_write_bytes_total) == (1, 1000)


async def test_same_bytes_are_written_once(storage: Storage) -> None:
    for _ in range(3):
        await put_blob(storage, SMALL)
        await put_blob(storage, LARGE)
    assert storage.counters.blob_writes_total == 2
    assert storage.counters.blob_duplicates_total == 4
    assert storage.used_bytes() == 4096 + 733 * 4096


async def test_other_type_for_the_same_bytes_is_the_new_type(storage: Storage) -> None:
    ref = await put_blob(storage, SMALL)
    await storage.blobs.info(ref.digest)
    await storage.blobs.put(chunked(SMALL), content_type="image/png", max_bytes=10_000)
    info = await storage.blobs.info(ref.digest)
    assert info is not None
    assert info.content_type == "image/png"


async def test_blob_without_a_row_is_named_again(storage: Storage, data_dir: Path) -> None:
    ref = await put_blob(storage, SMALL)
    hidden = blob_path(data_dir, ref.digest).rename(data_dir / "hidden")
    assert await storage.blobs.info(ref.digest) is None  # drops the row
    hidden.rename(blob_path(data_dir, ref.digest))
    assert await storage.blobs.info(ref.digest) is None
    await put_blob(storage, SMALL)
    assert await storage.blobs.has(ref)
    assert storage.counters.blob_duplicates_total == 1
    assert storage.used_bytes() == 4096


# Damage.


@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_damaged_blob_is_quarantined_and_counted_once(storage: Storage, data_dir: Path, data: bytes) -> None:
    ref = await put_blob(storage, data)
    path = blob_path(data_dir, ref.digest)
    path.write_bytes(data[:-1] + b"\1")
    assert await asyncio.gather(*(storage.blobs.read(ref) for _ in range(5))) == [None] * 5
    assert not path.exists()
    (kept,) = (data_dir / "quarantine").iterdir()
    assert kept.name.endswith(ref.digest.hex())
    assert kept.read_bytes() == data[:-1] + b"\1"
    assert storage.counters.blob_corrupt_total == 1
    assert storage.used_bytes() == 0
    assert await storage.blobs.info(ref.digest) is None


async def test_damage_after_the_first_read_is_found_when_the_file_was_touched(storage: Storage, data_dir: Path) -> None:
    ref = await put_blob(storage, SMALL)
    assert await storage.blobs.read(ref) == SMALL
    path = blob_path(data_dir, ref.digest)
    before = os.stat(path).st_ctime_ns
    while os.stat(path).st_ctime_ns == before:  # the kernel's clock for files moves in steps of milliseconds
        path.write_bytes(b"\1" + SMALL[1:])
    assert await storage.blobs.read(ref) is None


async def test_sound_blob_is_not_quarantined_for_a_wrong_length_in_a_name(storage: Storage, data_dir: Path) -> None:
    ref = await put_blob(storage, SMALL)
    assert await storage.blobs.read(BlobRef(ref.digest, 999)) is None
    assert await storage.blobs.has(ref)
    assert storage.counters.blob_corrupt_total == 0


async def test_sound_file_that_took_the_place_of_a_bad_one_stays(
    storage: Storage, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = await put_blob(storage, SMALL)
    with monkeypatch.context() as patch:

        def read_wrong(*args: object) -> None:
            raise Corrupt("digest differs")

        patch.setattr("storage.local.blobs.read_verified", read_wrong)
        assert await storage.blobs.read(ref) is None
    assert await storage.blobs.read(ref) == SMALL
    assert storage.counters.blob_corrupt_total == 0


async def test_quarantine_is_bounded(storage: Storage, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.local.shelf.QUARANTINE_MAX_BYTES", 2500)
    refs = [await put_blob(storage, bytes([number]) * 1000) for number in range(5)]
    for ref in refs:
        blob_path(data_dir, ref.digest).write_bytes(b"\xff" * 1000)
        assert await storage.blobs.read(ref) is None
    kept = files_below(data_dir / "quarantine")
    assert [name.split("-")[1] for name in kept] == [ref.digest.hex() for ref in refs[-2:]]


async def test_missing_file_drops_its_row_and_is_counted(storage: Storage, data_dir: Path) -> None:
    ref = await put_blob(storage, SMALL)
    blob_path(data_dir, ref.digest).unlink()
    assert await storage.blobs.read(ref) is None
    assert storage.counters.blob_missing_total == 1
    assert await storage.blobs.read(ref) is None
    assert storage.counters.blob_missing_total == 1  # the row is gone


async def test_unknown_digest_costs_no_write(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.local.index.Index.transaction", BAD_DISK)
    assert await storage.blobs.read(BlobRef(hash_bytes(b"?"), 1)) is None
    assert storage.counters.blob_missing_total == storage.counters.blob_read_errors_total == 0


# The medium fails: a miss that deletes nothing.


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE])
@pytest.mark.parametrize("call", ["open", "pread"])
@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_failed_read_is_a_miss_and_deletes_nothing(
    storage: Storage, data_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str, data: bytes
) -> None:
    ref = await put_blob(storage, data)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        assert await storage.blobs.read(ref) is None
        with pytest.raises(Corrupt):
            await anext(storage.blobs.stream(ref))
    assert storage.counters.blob_read_errors_total == 2
    assert files_below(data_dir / "quarantine") == []
    assert await storage.blobs.has(ref)
    assert await storage.blobs.read(ref) == data


async def test_failed_look_is_a_miss_and_deletes_nothing(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = await put_blob(storage, SMALL)
    with monkeypatch.context() as patch:
        patch.setattr("storage.local.blobs.os.lstat", BAD_DISK)
        assert not await storage.blobs.has(ref)
    assert await storage.blobs.has(ref)


async def test_bad_blob_that_cannot_be_read_again_stays(
    storage: Storage, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = await put_blob(storage, SMALL)
    blob_path(data_dir, ref.digest).write_bytes(SMALL[:-1])
    with monkeypatch.context() as patch:
        patch.setattr("storage.local.shelf.open_for_reading", BAD_DISK)
        assert await storage.blobs.read(ref) is None
    assert blob_path(data_dir, ref.digest).exists()
    assert storage.counters.blob_corrupt_total == 0
    assert await storage.blobs.read(ref) is None
    assert storage.counters.blob_corrupt_total == 1


async def test_stream_that_is_cut_short_on_the_way_raises(storage: Storage, data_dir: Path) -> None:
    ref = await put_blob(storage, LARGE)
    async with aclosing(storage.blobs.stream(ref)) as chunks:
        await anext(chunks)
        os.truncate(blob_path(data_dir, ref.digest), 1_000_000)
        with pytest.raises(Corrupt):
            async for _ in chunks:
                pass


async def test_stream_whose_medium_fails_on_the_way_raises(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = await put_blob(storage, LARGE)
    async with aclosing(storage.blobs.stream(ref)) as chunks:
        await anext(chunks)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", BAD_DISK)
            with pytest.raises(StorageUnavailable):
                await anext(chunks)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
async def test_no_file_stays_open(storage: Storage, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = await put_blob(storage, LARGE)
    await storage.blobs.read(ref)
    before = open_files()
    async with aclosing(storage.blobs.stream(ref)) as chunks:
        await anext(chunks)
    assert open_files() == before

    gate, reached = threading.Event(), threading.Event()

    def slow(descriptor: int, start: int, count: int) -> bytes:
        reached.set()
        gate.wait()
        return read_exactly(descriptor, start, count)

    monkeypatch.setattr("storage.local.blobs.read_exactly", slow)

    async def consume() -> None:
        async with aclosing(storage.blobs.stream(ref)) as chunks:
            await anext(chunks)

    reading = asyncio.ensure_future(consume())
    await until(reached.is_set)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert open_files() == before + 1  # the thread still reads from it
    gate.set()
    await until(lambda: open_files() == before)


# Writing: room, faults, cancellation.


@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_full_disk_keeps_nothing_tells_the_operator_and_passes(
    storage: Storage, data_dir: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("storage.local.incoming.write_all", NO_ROOM)
        with pytest.raises(StorageUnavailable):
            await put_blob(storage, data)
        assert files_below(data_dir / "tmp") == files_below(data_dir / "cas.v1") == []
        assert storage.used_bytes() == 0
        assert storage.trouble() == "blobs: No space left on device (ENOSPC)"
    assert storage.counters.write_failures_total == 1
    ref = await put_blob(storage, data)
    assert storage.trouble() is None
    assert await storage.blobs.read(ref) == data


@pytest.mark.parametrize("place", ["incoming.os.fsync", "incoming.os.replace", "incoming.sync_folder"])
async def test_fault_at_any_step_keeps_nothing(
    storage: Storage, data_dir: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"storage.local.{place}", BAD_DISK)
        with pytest.raises(StorageUnavailable):
            await put_blob(storage, SMALL)
    assert files_below(data_dir / "tmp") == files_below(data_dir / "cas.v1") == []
    assert storage.used_bytes() == 0
    assert not await storage.blobs.has(BlobRef(hash_bytes(SMALL), 1000))
    ref = await put_blob(storage, SMALL)
    assert await storage.blobs.read(ref) == SMALL
    assert storage.used_bytes() == 4096


async def test_index_that_fails_keeps_no_blob(
    storage: Storage, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("storage.local.index.Index.transaction", NO_ROOM)
        with pytest.raises(StorageFull):
            await put_blob(storage, SMALL)
    assert files_below(data_dir / "cas.v1") == files_below(data_dir / "tmp") == []
    assert storage.used_bytes() == 0


async def test_blob_beyond_the_byte_limit_is_refused(data_dir: Path) -> None:
    storage = await open_storage(data_dir, configured(max_bytes=3 * 4096, memory_bytes=0))
    try:
        kept = await put_blob(storage, bytes(5000))
        for data in (bytes(4097), LARGE):
            with pytest.raises(StorageFull):
                await put_blob(storage, data)
        assert storage.trouble() == "room: 1048576 more bytes do not fit, 8192 of 12288 are used"
        assert files_below(data_dir / "tmp") == []
        await put_blob(storage, bytes(4096))
        assert storage.trouble() is None
        assert storage.used_bytes() == 3 * 4096
        with pytest.raises(StorageFull):
            await put_blob(storage, b"x")
        assert await put_blob(storage, b"") == BlobRef(hash_bytes(b""), 0)
        assert await storage.blobs.read(kept) == bytes(5000)
    finally:
        await storage.aclose()


async def test_announced_blob_that_does_not_fit_is_refused_before_any_byte(data_dir: Path) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("asked for bytes")
        yield b""

    storage = await open_storage(data_dir, configured(max_bytes=8192))
    try:
        with pytest.raises(StorageFull):
            await storage.blobs.put(never(), content_type="a/b", max_bytes=10_000, expected_bytes=8193)
    finally:
        await storage.aclose()


async def test_blobs_on_their_way_count(data_dir: Path) -> None:
    storage = await open_storage(data_dir, configured(max_bytes=8192))
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        arrived.set()
        await go_on.wait()
        yield bytes(8000)

    try:
        putting = asyncio.ensure_future(
            storage.blobs.put(slow(), content_type="a/b", max_bytes=10_000, expected_bytes=8000)
        )
        await arrived.wait()
        with pytest.raises(StorageFull):
            await put_blob(storage, b"x")
        go_on.set()
        await putting
    finally:
        await storage.aclose()


async def test_bytes_are_counted_anew_at_open(data_dir: Path) -> None:
    for expected_bytes in (4096, 4096 + 8192):
        storage = await open_storage(data_dir, StorageSettings())
        await put_blob(storage, SMALL if expected_bytes == 4096 else bytes(5000))
        assert storage.used_bytes() == expected_bytes
        await storage.aclose()


@pytest.mark.parametrize("sent_bytes", [0, 1000, 3_000_000])
async def test_cancelled_while_bytes_come_leaves_nothing(storage: Storage, data_dir: Path, sent_bytes: int) -> None:
    arrived = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        async for chunk in chunked(bytes(sent_bytes)):
            yield chunk
        arrived.set()
        await asyncio.Event().wait()

    putting = asyncio.ensure_future(
        storage.blobs.put(stalled(), content_type="a/b", max_bytes=10_000_000, expected_bytes=5_000_000)
    )
    await arrived.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await written(storage)
    assert files_below(data_dir / "tmp") == files_below(data_dir / "cas.v1") == []
    assert storage.used_bytes() == 0


@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_cancelled_while_it_is_written_is_stored_whole(
    storage: Storage, data_dir: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        reached.set()
        go_on.wait()
        fsync(descriptor)

    monkeypatch.setattr("storage.local.incoming.os.fsync", slow)
    putting = asyncio.ensure_future(put_blob(storage, data))
    await until(reached.is_set)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    go_on.set()
    await written(storage)
    ref = BlobRef(hash_bytes(data), len(data))
    assert await storage.blobs.read(ref) == data
    assert await storage.blobs.has(ref)
    assert files_below(data_dir / "tmp") == []


async def test_rejected_blob_gives_its_room_back(data_dir: Path) -> None:
    storage = await open_storage(data_dir, configured(max_bytes=733 * 4096, memory_bytes=0))
    try:
        for _ in range(3):
            with pytest.raises(BlobRejected):
                await storage.blobs.put(chunked(LARGE), content_type="a/b", max_bytes=2_999_999)
        await put_blob(storage, LARGE)
    finally:
        await storage.aclose()
