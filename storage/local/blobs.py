"""The content store on the local disk, as the event loop sees it.

Writes go to the ``Shelf`` in the writer thread. Reads are done here: in the event loop when they are short, in a
thread when they are long. They trust neither index nor file: the length is checked on every read and the digest
on the first one, and again whenever the file's inode or change time is not the one that was verified.

A medium that fails (EIO, EACCES, EMFILE, ...) is a miss that deletes nothing. Only bytes that were read and are
wrong go to quarantine, and only after the writer has looked again: a sound file may have taken the place of the
bad one meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from storage.counters import StorageCounters
from storage.digest import Digest
from storage.errors import BlobRejected, Corrupt, StorageError, StorageUnavailable
from storage.local.files import (
    Stamp,
    clip,
    open_for_reading,
    read_exactly,
    read_known,
    read_verified,
    verify_file,
)
from storage.local.shelf import Shelf
from storage.local.writer import Writer
from storage.memory import ByteLru
from storage.ports import BlobInfo
from storage.records import BlobRef

SPILL_BYTES = 1024 * 1024
"""Received bytes held before they go to the writer thread; a smaller blob never has a part of it on the disk."""

LOOP_READ_BYTES = 2 * 1024 * 1024
"""Longest read done in the event loop; up to here a hop to a thread costs more than the read."""

LOOP_HASH_BYTES = 256 * 1024
"""Largest blob verified in the event loop (about 50 µs)."""

STREAM_CHUNK_BYTES = 512 * 1024

REMEMBERED_BLOBS = 16_384
"""Blobs whose row and verification are remembered, about 400 bytes each."""


class DiskContentStore:
    """``ContentStore`` over plain files and the index."""

    def __init__(self, shelf: Shelf, writer: Writer, counters: StorageCounters) -> None:
        self._shelf = shelf
        self._writer = writer
        self._counters = counters
        self._infos: ByteLru[Digest, BlobInfo] = ByteLru(REMEMBERED_BLOBS)
        self._verified: ByteLru[Digest, Stamp] = ByteLru(REMEMBERED_BLOBS)

    async def put(
        self, chunks: AsyncIterator[bytes], *, content_type: str, max_bytes: int, expected_bytes: int | None = None
    ) -> BlobRef:
        """See ``ContentStore.put``."""
        limit_bytes = max_bytes if expected_bytes is None else expected_bytes
        if limit_bytes > max_bytes:
            raise BlobRejected(f"{limit_bytes} bytes announced, {max_bytes} allowed")
        incoming = self._shelf.expect()
        try:
            if expected_bytes is not None:
                await self._writer.run(self._shelf.reserve, incoming, expected_bytes)
            held: list[bytes] = []
            total_bytes = held_bytes = 0
            async for chunk in chunks:
                total_bytes += len(chunk)
                if total_bytes > limit_bytes:
                    raise BlobRejected(f"more than {limit_bytes} bytes")
                held.append(chunk)
                held_bytes += len(chunk)
                if held_bytes >= SPILL_BYTES:
                    await self._writer.run(self._shelf.append, incoming, held)
                    held, held_bytes = [], 0
            if expected_bytes is not None and total_bytes != expected_bytes:
                raise BlobRejected(f"{total_bytes} bytes instead of {expected_bytes}")
            ref = await self._writer.run(self._shelf.finish, incoming, held, content_type)
        except Exception:
            with contextlib.suppress(StorageError):
                await self._writer.run(self._shelf.abandon, incoming)
            raise
        except BaseException:  # cancelled: the writer finishes what it has begun, then cleans up in its turn
            self._writer.submit(self._shelf.abandon, incoming)
            raise
        self._forget(ref.digest)
        return ref

    async def info(self, digest: Digest) -> BlobInfo | None:
        """See ``ContentStore.info``."""
        info = self._find_info(digest)
        if info is None:
            return None
        try:
            size_bytes = os.lstat(self._shelf.path_of(digest)).st_size
        except OSError as error:
            await self._report(digest, error)
            return None
        if size_bytes != info.ref.size_bytes:
            await self._report(digest, Corrupt("length differs"))
            return None
        return info

    async def has(self, ref: BlobRef) -> bool:
        """See ``ContentStore.has``."""
        info = await self.info(ref.digest)
        return info is not None and info.ref == ref

    async def read(self, ref: BlobRef, first: int = 0, last: int | None = None) -> bytes | None:
        """See ``ContentStore.read``."""
        start, count = clip(ref.size_bytes, first, last)
        path, known = self._shelf.path_of(ref.digest), self._verified.get(ref.digest)
        try:
            data = None
            if known is not None:
                if count <= LOOP_READ_BYTES:
                    data = read_known(path, ref, start, count, known)
                else:
                    data = await asyncio.to_thread(read_known, path, ref, start, count, known)
            if data is None:
                if ref.size_bytes <= LOOP_HASH_BYTES:
                    data, stamp = read_verified(path, ref, start, count)
                else:
                    data, stamp = await asyncio.to_thread(read_verified, path, ref, start, count)
                self._verified.put(ref.digest, stamp, 1)
        except (OSError, Corrupt) as error:
            await self._report(ref.digest, error)
            return None
        self._counters.blob_reads_total += 1
        return data

    async def stream(self, ref: BlobRef, first: int = 0, last: int | None = None) -> AsyncGenerator[bytes, None]:
        """See ``ContentStore.stream``."""
        start, count = clip(ref.size_bytes, first, last)
        loop = asyncio.get_running_loop()
        descriptor: int | None = None
        running: asyncio.Future[Stamp] | asyncio.Future[bytes] | None = None
        try:
            try:
                descriptor = open_for_reading(self._shelf.path_of(ref.digest))
                known = self._verified.get(ref.digest)
                running = verifying = loop.run_in_executor(None, verify_file, descriptor, ref, known)
                self._verified.put(ref.digest, await asyncio.shield(verifying), 1)
            except (OSError, Corrupt) as error:
                await self._report(ref.digest, error)
                raise Corrupt("blob cannot be vouched for") from error
            self._counters.blob_reads_total += 1
            while count:
                length = min(count, STREAM_CHUNK_BYTES)
                running = reading = loop.run_in_executor(None, read_exactly, descriptor, start, length)
                yield await asyncio.shield(reading)
                start, count = start + length, count - length
        except OSError as error:
            self._counters.blob_read_errors_total += 1
            raise StorageUnavailable("blob cannot be read on") from error
        finally:
            _close_after(descriptor, running)

    def _find_info(self, digest: Digest) -> BlobInfo | None:
        info = self._infos.get(digest)
        if info is None:
            try:
                info = self._shelf.find_row(digest)
            except StorageError:
                self._counters.blob_read_errors_total += 1
            if info is not None:
                self._infos.put(digest, info, 1)
        return info

    async def _report(self, digest: Digest, error: OSError | Corrupt) -> None:
        if isinstance(error, Corrupt):
            await self._clean_up(self._shelf.quarantine_unless_sound, digest)
        elif not isinstance(error, FileNotFoundError):
            self._counters.blob_read_errors_total += 1
        elif self._find_info(digest) is not None:
            self._counters.blob_missing_total += 1
            await self._clean_up(self._shelf.drop_row_if_missing, digest)

    async def _clean_up(self, fn: Callable[[Digest], None], digest: Digest) -> None:
        # The caller has its miss already; a clean-up that fails is tried again by the next reader.
        with contextlib.suppress(StorageError, OSError):
            await self._writer.run(fn, digest)
        self._forget(digest)

    def _forget(self, digest: Digest) -> None:
        self._infos.discard(digest)
        self._verified.discard(digest)


def _close_after(descriptor: int | None, running: asyncio.Future[Stamp] | asyncio.Future[bytes] | None) -> None:
    """Close a file once no thread reads it any more: a cancelled reader leaves its thread running."""

    def close(done: asyncio.Future[Any] | None) -> None:
        if done is not None and not done.cancelled():
            done.exception()  # its reader has left; nobody is to be told
        if descriptor is not None:
            os.close(descriptor)

    if running is None or running.done():
        close(None)
    else:
        running.add_done_callback(close)
