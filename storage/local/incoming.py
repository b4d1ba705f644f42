"""One blob on its way to the disk.

Room is reserved before bytes are written, the digest grows with them, and the file takes its final name only
when everything is on the disk. Small blobs are hashed before anything is written, so that bytes which are there
already cost no file at all. The writer thread alone touches an ``Incoming``.

What a crash leaves, line by line of ``publish``: before the rename, a file in ``tmp/`` that the next open
sweeps; after it, a whole blob that the index does not name yet, which the next put of these bytes finds.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import blake3

from storage.digest import Digest
from storage.local.files import FOLDER_MODE, create_file, sync_folder, write_all
from storage.local.space import Space, whole_blocks
from storage.records import BlobRef


class Incoming:
    """A blob being received: its reservation, running digest and temporary file."""

    def __init__(self, temp_folder: Path, space: Space) -> None:
        self._path = temp_folder / secrets.token_hex(16)
        self._space = space
        self._reserved_bytes = 0
        self._hasher = blake3.blake3()
        self._size_bytes = 0
        self._descriptor: int | None = None

    @property
    def ref(self) -> BlobRef:
        """Name and length of the bytes counted so far."""
        return BlobRef(Digest(self._hasher.digest()), self._size_bytes)

    def reserve(self, size_bytes: int) -> None:
        """Make sure that ``size_bytes`` in all are reserved.

        Raises:
            StorageFull: there is no room for them.
        """
        more_bytes = whole_blocks(size_bytes) - self._reserved_bytes
        if more_bytes > 0:
            self._space.reserve(more_bytes)
            self._reserved_bytes += more_bytes

    def count(self, chunks: Sequence[bytes]) -> None:
        """Reserve room for ``chunks`` and hash them.

        Raises:
            StorageFull: there is no room for them.
        """
        self.reserve(self._size_bytes + sum(map(len, chunks)))
        for chunk in chunks:
            self._hasher.update(chunk)
            self._size_bytes += len(chunk)

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append counted ``chunks`` to the temporary file."""
        if self._descriptor is None:
            self._descriptor = create_file(self._path)
        write_all(self._descriptor, chunks)

    def publish(self, path: Path, *, durable: bool) -> None:
        """Give the written file its final name, in place of an unsound one if there is any."""
        assert self._descriptor is not None
        if os.fstat(self._descriptor).st_size != self._size_bytes:
            raise OSError("the file system kept fewer bytes than it took")
        if durable:
            os.fsync(self._descriptor)
        replaced_bytes = _size_on_disk(path)
        try:
            os.replace(self._path, path)
        except FileNotFoundError:
            path.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
            if durable:
                sync_folder(path.parent.parent)
            os.replace(self._path, path)
        self._space.add(whole_blocks(self._size_bytes) - replaced_bytes)
        self.discard()
        if durable:
            try:
                sync_folder(path.parent)
            except OSError:
                os.unlink(path)
                self._space.add(-whole_blocks(self._size_bytes))
                raise

    def discard(self) -> None:
        """Close and remove what is temporary and give the reservation back. Safe to call again, or after publish."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        self._space.release(self._reserved_bytes)
        self._reserved_bytes = 0


def _size_on_disk(path: Path) -> int:
    try:
        return whole_blocks(os.lstat(path).st_size)
    except FileNotFoundError:
        return 0
