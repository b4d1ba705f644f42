"""The promises of ``storage.ports.ContentStore``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.digest import Digest, hash_bytes
from storage.errors import BlobRejected, Corrupt, StorageUnavailable
from storage.ports import ContentStore
from storage.records import BlobRef
from tests.contracts.harness import Harness
from tests.fakes.stores import chunked

pytestmark = pytest.mark.anyio

SIZES = [0, 1, 4096, 100_000, 300_000, 1_048_576, 2_500_000, 5_000_000]
"""Each side of every threshold: memory, hashing in the loop, reading in the loop, spilling."""


def pattern(size_bytes: int) -> bytes:
    return (b"hotplate%d" % size_bytes * (size_bytes // 8 + 1))[:size_bytes]


async def put(store: ContentStore, data: bytes, max_bytes: int = 10_000_000) -> BlobRef:
    return await store.put(chunked(data), content_type="image/webp", max_bytes=max_bytes)


async def collect(store: ContentStore, ref: BlobRef, first: int = 0, last: int | None = None) -> bytes:
    async with aclosing(store.stream(ref, first, last)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_unknown_blob_is_nowhere(harness: Harness) -> None:
    ref = BlobRef(hash_bytes(b"nobody"), 6)
    assert await harness.blobs.info(ref.digest) is None
    assert not await harness.blobs.has(ref)
    assert await harness.blobs.read(ref) is None
    with pytest.raises(Corrupt):
        await collect(harness.blobs, ref)


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_blob_comes_back_whole_in_parts_and_streamed(harness: Harness, size_bytes: int) -> None:
    data = pattern(size_bytes)
    ref = await put(harness.blobs, data)
    assert ref == BlobRef(hash_bytes(data), size_bytes)
    assert await harness.blobs.has(ref)
    for _ in range(2):  # the first read verifies, the second knows the file
        assert await harness.blobs.read(ref) == data
        assert await harness.blobs.read(ref, 1, size_bytes - 2) == data[1 : max(0, size_bytes - 1)]
        assert await collect(harness.blobs, ref) == data
    assert await collect(harness.blobs, ref, 3, 9) == data[3:10]


async def test_info_says_length_type_and_time(harness: Harness) -> None:
    ref = await put(harness.blobs, b"pixels")
    info = await harness.blobs.info(ref.digest)
    assert info is not None
    assert (info.ref, info.content_type, info.stored_at) == (ref, "image/webp", harness.clock.now)


@given(data=st.binary(max_size=200), first=st.integers(0, 250), last=st.none() | st.integers(-1, 250))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_range_is_the_slice(harness: Harness, data: bytes, first: int, last: int | None) -> None:
    ref = await put(harness.blobs, data)
    expected = data[first : None if last is None else last + 1]
    assert await harness.blobs.read(ref, first, last) == expected
    assert await collect(harness.blobs, ref, first, last) == expected


async def test_negative_start_is_an_error(harness: Harness) -> None:
    ref = await put(harness.blobs, b"pixels")
    with pytest.raises(ValueError, match="starts at 0"):
        await harness.blobs.read(ref, -1)


async def test_stream_comes_in_chunks_of_bounded_size(harness: Harness) -> None:
    ref = await put(harness.blobs, pattern(5_000_000))
    sizes = [len(chunk) async for chunk in harness.blobs.stream(ref)]
    assert max(sizes) <= 1024 * 1024
    assert sum(sizes) == 5_000_000


async def test_stream_that_is_left_early_can_be_read_again(harness: Harness) -> None:
    data = pattern(5_000_000)
    ref = await put(harness.blobs, data)
    async with aclosing(harness.blobs.stream(ref)) as chunks:
        assert data.startswith(await anext(chunks))
    assert await collect(harness.blobs, ref) == data


async def test_length_is_part_of_the_name(harness: Harness) -> None:
    ref = await put(harness.blobs, b"pixels")
    wrong = BlobRef(ref.digest, 5)
    assert not await harness.blobs.has(wrong)
    assert await harness.blobs.read(wrong) is None
    with pytest.raises(Corrupt):
        await collect(harness.blobs, wrong)
    assert await harness.blobs.read(ref) == b"pixels"


@pytest.mark.parametrize("size_bytes", [0, 100, 2_500_000])
async def test_same_bytes_twice_are_one_blob(harness: Harness, size_bytes: int) -> None:
    data = pattern(size_bytes)
    assert await put(harness.blobs, data) == await put(harness.blobs, data)
    assert await harness.blobs.read(BlobRef(hash_bytes(data), size_bytes)) == data


@pytest.mark.parametrize("size_bytes", [100, 2_500_000])
async def test_same_bytes_at_the_same_time_are_one_blob(harness: Harness, size_bytes: int) -> None:
    data = pattern(size_bytes)
    refs = await asyncio.gather(*(put(harness.blobs, data) for _ in range(8)))
    assert set(refs) == {BlobRef(hash_bytes(data), size_bytes)}
    assert await harness.blobs.read(refs[0]) == data


@pytest.mark.parametrize("size_bytes", [11, 2_500_000])
async def test_more_than_the_cap_is_rejected(harness: Harness, size_bytes: int) -> None:
    data = pattern(size_bytes)
    with pytest.raises(BlobRejected):
        await put(harness.blobs, data, max_bytes=size_bytes - 1)
    assert await harness.blobs.info(hash_bytes(data)) is None
    assert await put(harness.blobs, data, max_bytes=size_bytes) == BlobRef(hash_bytes(data), size_bytes)


@pytest.mark.parametrize("expected_bytes", [0, 9, 11, 5000])
async def test_other_than_the_expected_length_is_rejected(harness: Harness, expected_bytes: int) -> None:
    data = pattern(10)
    with pytest.raises(BlobRejected):
        await harness.blobs.put(
            chunked(data, 4), content_type="image/png", max_bytes=10_000, expected_bytes=expected_bytes
        )
    assert await harness.blobs.info(hash_bytes(data)) is None


async def test_expected_length_beyond_the_cap_is_rejected_before_any_byte(harness: Harness) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("asked for bytes")
        yield b""

    with pytest.raises(BlobRejected):
        await harness.blobs.put(never(), content_type="image/png", max_bytes=9, expected_bytes=10)


async def test_expected_length_that_comes_is_stored(harness: Harness) -> None:
    data = pattern(2_500_000)
    ref = await harness.blobs.put(
        chunked(data), content_type="image/png", max_bytes=2_500_000, expected_bytes=2_500_000
    )
    assert await harness.blobs.read(ref) == data


@pytest.mark.parametrize("size_bytes", [10, 2_500_000])
async def test_error_of_the_source_is_passed_on_and_nothing_is_kept(harness: Harness, size_bytes: int) -> None:
    data = pattern(size_bytes)

    async def cut() -> AsyncIterator[bytes]:
        async for chunk in chunked(data):
            yield chunk
        raise ConnectionResetError("upstream went away")

    with pytest.raises(ConnectionResetError):
        await harness.blobs.put(cut(), content_type="image/png", max_bytes=10_000_000)
    assert await harness.blobs.info(hash_bytes(data)) is None


@pytest.mark.parametrize("size_bytes", [10, 2_500_000])
async def test_failed_write_keeps_nothing_and_passes(harness: Harness, size_bytes: int) -> None:
    data = pattern(size_bytes)
    harness.break_writes()
    with pytest.raises(StorageUnavailable):
        await put(harness.blobs, data)
    harness.mend_writes()
    ref = BlobRef(hash_bytes(data), size_bytes)
    assert not await harness.blobs.has(ref)
    assert await put(harness.blobs, data) == ref
    assert await harness.blobs.read(ref) == data


def damage(data: bytes, kind: str) -> bytes:
    flipped = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    return {"flipped": flipped, "cut": data[:-1], "grown": data + b"\0", "empty": b""}[kind]


@pytest.mark.parametrize("kind", ["flipped", "cut", "grown", "empty"])
@pytest.mark.parametrize("size_bytes", [1000, 400_000, 2_500_000])
@pytest.mark.parametrize("way", ["read", "part", "stream"])
async def test_damaged_blob_is_never_served_and_can_be_stored_again(
    harness: Harness, kind: str, size_bytes: int, way: str
) -> None:
    data = pattern(size_bytes)
    ref = await put(harness.blobs, data)
    harness.replace_bytes(ref.digest, damage(data, kind))
    if way == "stream":
        with pytest.raises(Corrupt):
            await collect(harness.blobs, ref)
    else:
        assert await harness.blobs.read(ref, *((0, 9) if way == "part" else ())) is None
    assert await harness.blobs.read(ref) is None
    assert not await harness.blobs.has(ref)
    assert await put(harness.blobs, data) == ref
    assert await harness.blobs.read(ref) == data


@pytest.mark.parametrize("size_bytes", [1000, 2_500_000])
async def test_lost_blob_is_a_miss_and_can_be_stored_again(harness: Harness, size_bytes: int) -> None:
    data = pattern(size_bytes)
    ref = await put(harness.blobs, data)
    harness.lose(ref.digest)
    assert not await harness.blobs.has(ref)
    assert await harness.blobs.info(ref.digest) is None
    assert await harness.blobs.read(ref) is None
    with pytest.raises(Corrupt):
        await collect(harness.blobs, ref)
    assert await put(harness.blobs, data) == ref
    assert await harness.blobs.read(ref) == data


async def test_storing_sound_bytes_over_unread_damage_heals_it(harness: Harness) -> None:
    data = pattern(5000)
    ref = await put(harness.blobs, data)
    harness.replace_bytes(ref.digest, damage(data, "flipped"))
    await put(harness.blobs, data)
    assert await harness.blobs.read(ref) == data


async def test_digests_are_plain_bytes(harness: Harness) -> None:
    ref = await put(harness.blobs, b"pixels")
    assert await harness.blobs.has(BlobRef(Digest(bytes(ref.digest)), 6))
