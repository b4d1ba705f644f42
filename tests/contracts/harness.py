"""What the contract suites need of each implementation: the store, and ways to do it harm."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.digest import Digest
from storage.errors import StorageUnavailable
from storage.local.index import Index
from storage.opening import open_storage
from storage.ports import ActionCache, ContentStore, KeyValue
from storage.settings import StorageSettings
from tests.fakes.stores import MemoryActionCache, MemoryContentStore, MemoryKeyValue


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Harness:
    """The stores of one implementation.

    Attributes:
        break_writes, mend_writes: make every write fail, and no longer.
        replace_bytes: put other bytes in a blob's place behind the store's back.
        lose: remove a blob behind the store's back.
    """

    actions: ActionCache
    blobs: ContentStore
    values: KeyValue
    other_values: KeyValue
    clock: Clock
    break_writes: Callable[[], None]
    mend_writes: Callable[[], None]
    replace_bytes: Callable[[Digest, bytes], None]
    lose: Callable[[Digest], None]


def memory_harness() -> Harness:
    clock = Clock()
    actions, blobs, values = MemoryActionCache(), MemoryContentStore(clock=clock), MemoryKeyValue(clock)

    def set_failure(failure: StorageUnavailable | None) -> None:
        actions.failure = blobs.failure = values.failure = failure

    return Harness(
        actions=actions,
        blobs=blobs,
        values=values,
        other_values=MemoryKeyValue(clock),
        clock=clock,
        break_writes=lambda: set_failure(StorageUnavailable("broken by the test")),
        mend_writes=lambda: set_failure(None),
        replace_bytes=blobs.replace_bytes,
        lose=blobs.lose,
    )


@asynccontextmanager
async def disk_harness(root: Path, settings: StorageSettings) -> AsyncIterator[Harness]:
    clock = Clock()
    storage = await open_storage(root, settings, clock=clock)
    patch = pytest.MonkeyPatch()

    def path_of(digest: Digest) -> Path:
        return root / "cas.v1" / digest.hex()[:2] / digest.hex()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def fail_transaction(*args: object, **kwargs: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    def break_writes() -> None:
        patch.setattr("storage.local.incoming.write_all", fail)
        patch.setattr(Index, "transaction", fail_transaction)

    try:
        yield Harness(
            actions=storage.actions,
            blobs=storage.blobs,
            values=storage.ledger,
            other_values=storage.notes,
            clock=clock,
            break_writes=break_writes,
            mend_writes=patch.undo,
            replace_bytes=lambda digest, data: replace_file(path_of(digest), data),
            lose=lambda digest: path_of(digest).unlink(),
        )
    finally:
        patch.undo()
        await storage.aclose()


def replace_file(path: Path, data: bytes) -> None:
    """Overwrite a file in place, as a failing disk would."""
    path.write_bytes(data)
