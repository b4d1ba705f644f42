"""Small things that several tests of the store do."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

from storage.digest import Digest
from storage.opening import Storage
from storage.records import BlobRef
from storage.settings import StorageSettings
from tests.fakes.stores import chunked


async def put_blob(storage: Storage, data: bytes) -> BlobRef:
    return await storage.blobs.put(chunked(data), content_type="image/webp", max_bytes=100_000_000)


async def written(storage: Storage) -> None:
    """Wait until the writer has carried out everything taken so far."""
    await storage.notes.remove("no such note")


def configured(**values: object) -> StorageSettings:
    """Settings of the store, the others at their defaults."""
    return StorageSettings.model_validate(values)


def read_file(path: Path) -> bytes:
    return path.read_bytes()


def blob_path(data_dir: Path, digest: Digest) -> Path:
    return data_dir / "cas.v1" / digest.hex()[:2] / digest.hex()


def files_below(path: Path) -> list[str]:
    """Names of all files below a folder, without those of SQLite."""
    return sorted(file.name for file in path.rglob("*") if file.is_file())


def failing(number: int) -> Callable[..., None]:
    """A function that fails as the operating system does."""

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


NO_ROOM = failing(errno.ENOSPC)
BAD_DISK = failing(errno.EIO)


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until something is so."""
    for _ in range(20_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never became so")
