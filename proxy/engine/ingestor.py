"""Takes a run's output files into the store, whole, before any client hears that the run succeeded.

Each file is hashed and typed from its bytes while it is written. What cannot be stored is kept in the spool;
what cannot be fetched keeps the upstream's own URL, and then the result as a whole is not stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

import structlog

from proxy.core.outputs import (
    SNIFF_BYTES,
    FileReference,
    OutputAccess,
    OutputPlan,
    decode_data_url,
    file_name,
    looks_whole,
    sniff_type,
)
from proxy.engine.spool import Spool
from proxy.upstreams.bodies import joined, read_head
from proxy.upstreams.egress import Egress, EgressFailed, EgressRefused
from storage.digest import hash_bytes
from storage.errors import BlobRejected, StorageError
from storage.ports import ContentStore
from storage.records import BlobRef, OutputFile

PARALLEL_FETCHES = 4
FETCH_TRIES = 2

_log = structlog.get_logger("hotplate.ingestor")


@dataclass(frozen=True, slots=True)
class Taken:
    """A file that has an address here; ``is_stored``: in the store, and not in the spool alone."""

    file: OutputFile
    is_stored: bool


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of an output's files.

    Attributes:
        files: those that have an address here, stored or spooled, in order.
        left: those that keep the upstream's URL.
        are_stored: every file is in the store.
    """

    files: tuple[OutputFile, ...]
    left: tuple[FileReference, ...]
    are_stored: bool


@dataclass(frozen=True, slots=True)
class IngestCounters:
    """Called once for each file that is not stored: ``spooled()``, ``left()``."""

    spooled: Callable[[], None]
    left: Callable[[], None]


class Ingestor:
    """Moves output files from the upstream into the store or the spool."""

    def __init__(
        self, blobs: ContentStore, spool: Spool, egress: Egress, max_bytes: int, counters: IngestCounters
    ) -> None:
        self._blobs = blobs
        self._spool = spool
        self._egress = egress
        self._max_bytes = max_bytes
        self._counters = counters

    async def ingest(
        self,
        plan: OutputPlan,
        access: OutputAccess,
        *,
        keep: bool,
        known: Callable[[str], Taken | None] = lambda url: None,
    ) -> Ingested:
        """Take in every file of ``plan``; with ``keep=False`` they go to the spool alone. Never raises for a file.

        ``known`` gives what was taken in under a URL before; such a file is not fetched again, unless it was spooled
        and is to be kept.
        """
        gate = asyncio.Semaphore(PARALLEL_FETCHES)

        async def take(index: int, file: FileReference) -> Taken | None:
            earlier = known(file.url)
            if earlier is not None and await self._is_there(earlier):
                name = file_name(index, file.url, earlier.file.content_type)
                earlier = replace(earlier, file=replace(earlier.file, path=file.path, name=name))
                if earlier.is_stored or not keep:
                    return earlier
            else:
                earlier = None
            async with gate:
                return await self.take(index, file, access, keep=keep) or earlier

        found = await asyncio.gather(*(take(index, file) for index, file in enumerate(plan.files)))
        # A full spool makes room, if need be by files of this very output.
        taken = [one if one is None or one.is_stored or await self._is_there(one) else None for one in found]
        for one in taken:
            if one is None:
                self._counters.left()
            elif not one.is_stored:
                self._counters.spooled()
        return Ingested(
            files=tuple(one.file for one in taken if one is not None),
            left=tuple(file for file, one in zip(plan.files, taken, strict=True) if one is None),
            are_stored=all(one is not None and one.is_stored for one in taken),
        )

    async def take(self, index: int, file: FileReference, access: OutputAccess, *, keep: bool) -> Taken | None:
        """Take in file ``index`` of an output; ``None`` when it keeps its URL. Never raises for it; counts nothing."""
        for attempt in range(FETCH_TRIES):
            try:
                if keep:
                    try:
                        return Taken(await self._into_store(index, file, access), is_stored=True)
                    except StorageError as error:
                        if isinstance(error, BlobRejected):
                            raise
                        _log.warning("output_not_stored", reason=type(error).__name__, detail=str(error))
                spooled = await self._into_spool(index, file, access)
                return Taken(spooled, is_stored=False) if spooled is not None else None
            except (EgressRefused, EgressFailed, BlobRejected, ValueError) as error:
                # The URL itself stays out of the log: it opens the file for whoever reads it.
                _log.warning("output_not_fetched", reason=type(error).__name__, detail=str(error), attempt=attempt + 1)
                if isinstance(error, EgressRefused):
                    break
        return None

    async def _is_there(self, taken: Taken) -> bool:
        blob = taken.file.blob
        return await self._blobs.has(blob) if taken.is_stored else self._spool.get(blob.digest) is not None

    async def _into_store(self, index: int, file: FileReference, access: OutputAccess) -> OutputFile:
        async with aclosing(self._chunks(file, access, self._max_bytes)) as chunks:
            head, _ = await read_head(chunks, SNIFF_BYTES)
            content_type = sniff_type(head[:SNIFF_BYTES])
            ref = await self._blobs.put(joined(head, chunks), content_type=content_type, max_bytes=self._max_bytes)
        return OutputFile(file.path, ref, content_type, file_name(index, file.url, content_type))

    async def _into_spool(self, index: int, file: FileReference, access: OutputAccess) -> OutputFile | None:
        limit_bytes = min(self._max_bytes, self._spool.max_bytes)
        async with aclosing(self._chunks(file, access, limit_bytes)) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        content_type = sniff_type(data[:SNIFF_BYTES])
        digest = hash_bytes(data)
        if not self._spool.put(digest, data, content_type):
            return None
        return OutputFile(file.path, BlobRef(digest, len(data)), content_type, file_name(index, file.url, content_type))

    async def _chunks(self, file: FileReference, access: OutputAccess, max_bytes: int) -> AsyncGenerator[bytes, None]:
        """The file's bytes; ends normally only when they are whole."""
        if file.url.startswith("data:"):
            data = decode_data_url(file.url)
            if len(data) > max_bytes:
                raise BlobRejected(f"a file of {len(data)} bytes is over the limit of {max_bytes}")
            yield data
            return
        async with self._egress.open(file.url, access, max_bytes=max_bytes) as response:
            if response.status != 200:
                raise EgressFailed(f"the output's host answered {response.status}")
            head, tail, size = b"", b"", 0
            async for chunk in response.chunks:
                head = head if len(head) >= 16 else (head + chunk)[:16]
                tail = (tail + chunk)[-16:]
                size += len(chunk)
                yield chunk
            is_whole = looks_whole(sniff_type(head), size, head, tail)
            if is_whole is False or size == 0:
                raise BlobRejected("the file does not end as its format ends")
            if is_whole is None and not response.is_length_known:
                raise BlobRejected("nobody announced the body's length, and its format has no end to look at")
