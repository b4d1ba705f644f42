from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import pytest

from proxy.core.errors import FileTooLarge, InputInvalid
from proxy.core.files import LIFE_S
from proxy.core.multipart import UploadReader, frame_upload
from proxy.engine.uploads import Uploads, UpstreamFile, blob_of
from storage.digest import Digest, Scope, hash_bytes
from storage.errors import StorageError, StorageUnavailable
from tests.fakes.clock import ManualClock
from tests.fakes.stores import MemoryContentStore, MemoryKeyValue

pytestmark = pytest.mark.anyio

ME, YOU = Scope(b"m" * 32), Scope(b"y" * 32)
DATA = b"\x89PNG\r\n\x1a\n" + bytes(9000)


class Desk:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.notes = MemoryKeyValue(self.clock)
        self.blobs = MemoryContentStore(clock=self.clock)
        self.uploads = Uploads(self.notes, self.blobs, self.clock)

    def file(self, file_id: str = "x") -> UpstreamFile:
        return UpstreamFile(
            file_id, Digest(b"d" * 32), 5, f"https://api.replicate.com/v1/files/{file_id}", self.clock() + 60
        )


async def content(reader: UploadReader, body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1000):
        yield reader.feed(body[start : start + 1000])


def upload(data: bytes = DATA) -> tuple[UploadReader, AsyncIterator[bytes]]:
    head, tail = frame_upload("b", "cat.png", "image/png")
    reader = UploadReader(b"b")
    return reader, content(reader, head + data + tail)


# -- at an upstream ------------------------------------------------------------------------------------


async def test_upload_is_known_to_the_scope_and_the_upstream_that_took_it() -> None:
    desk = Desk()
    await desk.uploads.remember("replicate", ME, desk.file())
    assert await desk.uploads.recall("replicate", ME, "x") == desk.file()
    assert await desk.uploads.recall("replicate", YOU, "x") is None
    assert await desk.uploads.recall("other", ME, "x") is None
    assert await desk.uploads.recall("replicate", ME, "y") is None


async def test_upload_is_known_for_as_long_as_it_lives() -> None:
    desk = Desk()
    await desk.uploads.remember("replicate", ME, desk.file())
    desk.clock.advance(61)
    assert await desk.uploads.recall("replicate", ME, "x") is None


async def test_deleted_upload_is_forgotten_with_its_copy_and_by_its_scope_alone() -> None:
    desk = Desk()
    file = desk.file()
    await desk.uploads.remember_copy("replicate", ME, file)
    await desk.uploads.forget("replicate", YOU, "x")
    assert await desk.uploads.find_copy("replicate", ME, file.digest) == file
    assert await desk.uploads.find_copy("replicate", YOU, file.digest) is None
    await desk.uploads.forget("replicate", ME, "x")
    assert await desk.uploads.find_copy("replicate", ME, file.digest) is None
    assert await desk.uploads.recall("replicate", ME, "x") is None


async def test_store_that_is_away_costs_a_hit_and_no_upload() -> None:
    desk = Desk()
    desk.notes.failure = StorageUnavailable("away")
    await desk.uploads.remember("replicate", ME, desk.file())
    assert await desk.uploads.recall("replicate", ME, "x") is None


# -- here ----------------------------------------------------------------------------------------------


async def test_upload_is_stored_and_found_by_its_owner() -> None:
    desk = Desk()
    reader, chunks = upload()
    file = await desk.uploads.keep(ME, chunks, reader)
    assert await desk.uploads.find(ME, file.id) == file
    assert await desk.uploads.find(YOU, file.id) is None
    assert await desk.uploads.all_of(ME) == [file]
    assert await desk.uploads.all_of(YOU) == []
    assert await desk.blobs.read(blob_of(file)) == DATA
    assert (file.digest, file.size_bytes, file.name) == (hash_bytes(DATA), len(DATA), "cat.png")
    assert file.sha256 == hashlib.sha256(DATA).hexdigest()
    assert len(file.id) == 48


async def test_file_ends_after_a_day() -> None:
    desk = Desk()
    reader, chunks = upload()
    file = await desk.uploads.keep(ME, chunks, reader)
    assert file.expires_at == file.created_at + LIFE_S
    desk.clock.advance(LIFE_S + 1)
    assert await desk.uploads.find(ME, file.id) is None
    assert await desk.uploads.all_of(ME) == []


async def test_removed_file_is_gone_and_can_be_removed_by_its_owner_alone() -> None:
    desk = Desk()
    reader, chunks = upload()
    file = await desk.uploads.keep(ME, chunks, reader)
    assert not await desk.uploads.remove(YOU, file.id)
    assert await desk.uploads.remove(ME, file.id)
    assert not await desk.uploads.remove(ME, file.id)
    assert await desk.uploads.find(ME, file.id) is None


async def test_upload_over_the_limit_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.engine.uploads.MAX_UPLOAD_BYTES", 8999)
    desk = Desk()
    reader, chunks = upload()
    with pytest.raises(FileTooLarge):
        await desk.uploads.keep(ME, chunks, reader)
    assert await desk.uploads.all_of(ME) == []
    assert desk.blobs.used_bytes == 0


@pytest.mark.parametrize("body", [b"", b"nothing", b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n--b--'])
async def test_body_without_a_content_leaves_nothing(body: bytes) -> None:
    desk = Desk()
    reader = UploadReader(b"b")
    with pytest.raises(InputInvalid, match="content"):
        await desk.uploads.keep(ME, content(reader, body), reader)
    assert desk.blobs.used_bytes == 0


async def test_upload_that_cannot_be_stored_is_an_error() -> None:
    desk = Desk()
    desk.notes.failure = StorageUnavailable("away")
    reader, chunks = upload()
    with pytest.raises(StorageError):
        await desk.uploads.keep(ME, chunks, reader)
