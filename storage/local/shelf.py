"""What the writer thread does with blobs.

The order of a write is reserve, temporary file, sync, rename, sync of the folder, index row; so a name in
``cas.v1/`` always stands for a whole blob, and a row for a blob that is there. Taking a blob away goes the other
way round: first the row, then the file.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from storage.counters import StorageCounters
from storage.digest import Digest
from storage.errors import Corrupt, StorageUnavailable
from storage.local.files import hash_file, open_for_reading, sync_folder
from storage.local.folder import Folder
from storage.local.incoming import Incoming
from storage.local.index import Index
from storage.local.space import Space, whole_blocks
from storage.local.trouble import Trouble
from storage.ports import BlobInfo
from storage.records import BlobRef

QUARANTINE_MAX_BYTES = 256 * 1024 * 1024
"""Damaged blobs kept for whoever wants to look; beyond it the oldest go."""


class Shelf:
    """The blobs in their places. Methods belong to the writer thread, save those that say otherwise."""

    def __init__(
        self,
        folder: Folder,
        index: Index,
        space: Space,
        trouble: Trouble,
        counters: StorageCounters,
        *,
        durable: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._blobs = str(folder.blobs)
        self._index = index
        self._space = space
        self._trouble = trouble
        self._counters = counters
        self._durable = durable
        self._clock = clock
        self._incoming: set[Incoming] = set()

    def path_of(self, digest: Digest) -> str:
        """Where a blob lies, from the digest's bytes alone. For any thread.

        Text, since a look at the disk takes 2 µs and making a ``Path`` another 4.
        """
        name = digest.hex()
        return f"{self._blobs}/{name[:2]}/{name}"

    def find_row(self, digest: Digest) -> BlobInfo | None:
        """What the index says of a blob. For the event loop.

        Raises:
            StorageUnavailable: the index cannot be read now.
            Corrupt: the row is not what was written.
        """
        return _decode_info(digest, self._index.get(_row_key(digest)))

    def expect(self) -> Incoming:
        """A blob on its way, nothing of it there yet. For any thread."""
        return Incoming(self._folder.temp, self._space)

    def reserve(self, incoming: Incoming, size_bytes: int) -> None:
        """Make room for a blob of known length before its bytes come.

        Raises:
            StorageFull: there is none.
        """
        self._incoming.add(incoming)
        with self._trouble.watching("room"):
            incoming.reserve(size_bytes)

    def append(self, incoming: Incoming, chunks: Sequence[bytes]) -> None:
        """Add bytes to a blob on its way.

        Raises:
            StorageUnavailable: the medium failed or has no room.
        """
        self._incoming.add(incoming)
        with self._trouble.watching("room"):
            incoming.count(chunks)
        with self._trouble.watching("blobs"):
            incoming.write(chunks)

    def finish(self, incoming: Incoming, chunks: Sequence[bytes], content_type: str) -> BlobRef:
        """Add the last bytes, put the blob in its place and name it in the index.

        Raises:
            StorageUnavailable: the medium failed or has no room; nothing is kept.
        """
        self._incoming.add(incoming)
        with self._trouble.watching("room"):
            incoming.count(chunks)
        ref = incoming.ref
        path = Path(self.path_of(ref.digest))
        is_new = not _holds(path, ref)
        if is_new:
            with self._trouble.watching("blobs"):
                incoming.write(chunks)
                incoming.publish(path, durable=self._durable)
        try:
            self._name(ref, content_type, is_new)
        except StorageUnavailable:
            if is_new:
                self._remove(path, ref)
            raise
        if is_new:
            self._counters.blob_writes_total += 1
            self._counters.blob_write_bytes_total += ref.size_bytes
        else:
            self._counters.blob_duplicates_total += 1
        self.abandon(incoming)
        return ref

    def abandon(self, incoming: Incoming) -> None:
        """Clean up what is left of a blob on its way. Safe to call again, or after ``finish``."""
        incoming.discard()
        self._incoming.discard(incoming)

    def abandon_all(self) -> None:
        """Clean up every blob still on its way, when the store closes."""
        for incoming in tuple(self._incoming):
            self.abandon(incoming)

    def drop_row_if_missing(self, digest: Digest) -> None:
        """Take the row of a blob whose file is gone out of the index."""
        if os.path.lexists(self.path_of(digest)):
            return
        with self._index.transaction(durable=False) as rows:
            rows.delete(_row_key(digest))

    def quarantine_unless_sound(self, digest: Digest) -> None:
        """Read a blob that was found wrong once more, and take it out of its place if it is.

        Raises:
            OSError: it cannot be read or moved; it stays where it is.
            StorageUnavailable: the index cannot be written; it stays where it is.
        """
        path = Path(self.path_of(digest))
        ref = BlobRef(digest, os.lstat(path).st_size)
        if _is_sound(path, ref):
            return
        with self._index.transaction(durable=False) as rows:
            rows.delete(_row_key(digest))
        path.rename(self._folder.quarantine / f"{time.time_ns()}-{digest.hex()}")
        self._space.add(-whole_blocks(ref.size_bytes))
        self._counters.blob_corrupt_total += 1
        _trim(self._folder.quarantine)

    def _name(self, ref: BlobRef, content_type: str, is_new: bool) -> None:
        key = _row_key(ref.digest)
        with self._trouble.watching("index"), self._index.transaction(durable=self._durable) as rows:
            row = None if is_new else _decode_info(ref.digest, rows.get(key))
            if row is not None and (row.ref, row.content_type) == (ref, content_type):
                return
            if self._durable and not is_new:
                sync_folder(Path(self.path_of(ref.digest)).parent)  # whoever wrote it may have ended before doing so
            rows.set(key, _encode_info(BlobInfo(ref, content_type, self._clock())))

    def _remove(self, path: Path, ref: BlobRef) -> None:
        with contextlib.suppress(OSError):
            os.unlink(path)
            self._space.add(-whole_blocks(ref.size_bytes))


def _is_sound(path: Path, ref: BlobRef) -> bool:
    """Whether the file holds the blob's bytes.

    Raises:
        OSError: there is no such file, or the medium failed.
    """
    descriptor = open_for_reading(path)
    try:
        return os.fstat(descriptor).st_size == ref.size_bytes and hash_file(descriptor, ref.size_bytes) == ref.digest
    except Corrupt:
        return False
    finally:
        os.close(descriptor)


def _holds(path: Path, ref: BlobRef) -> bool:
    """Whether the blob is in its place already; one that cannot be read is written anew."""
    try:
        return _is_sound(path, ref)
    except OSError:
        return False


def _trim(quarantine: Path) -> None:
    files = sorted(quarantine.iterdir())  # names begin with the time
    total_bytes = sum(file.lstat().st_size for file in files)
    for file in files:
        if total_bytes <= QUARANTINE_MAX_BYTES:
            break
        total_bytes -= file.lstat().st_size
        file.unlink()


def _row_key(digest: Digest) -> bytes:
    return b"obj:" + digest


def _encode_info(info: BlobInfo) -> bytes:
    return orjson.dumps([info.ref.size_bytes, info.content_type, info.stored_at])


def _decode_info(digest: Digest, row: bytes | None) -> BlobInfo | None:
    if row is None:
        return None
    size_bytes, content_type, stored_at = orjson.loads(row)
    return BlobInfo(BlobRef(digest, size_bytes), content_type, stored_at)
