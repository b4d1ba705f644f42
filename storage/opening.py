"""Opening the store of a data folder, and closing it.

Everything blocking happens in the writer thread: claiming the folder, sweeping what a crash left, opening the
index (a damaged one is set aside), measuring the blobs. Closing goes back the same way in reverse, after the
writes that were begun.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from storage.counters import StorageCounters
from storage.errors import StorageUnavailable
from storage.hot import HotContentStore
from storage.local.actions import DiskActionCache
from storage.local.blobs import DiskContentStore
from storage.local.folder import Folder
from storage.local.house import House, open_house
from storage.local.index import ReadOnlyIndex
from storage.local.ledger import DiskKeyValue
from storage.local.shelf import Shelf
from storage.local.space import Space
from storage.local.trouble import Trouble
from storage.local.writer import Writer
from storage.ports import ActionCache, ContentStore, KeyValue
from storage.results import ResultStore
from storage.settings import StorageSettings

RECORDS_SHARE = 0.25
"""Part of ``memory_bytes`` that hot records get; the rest is for small blobs."""


@dataclass(frozen=True, slots=True)
class Storage:
    """An open store: what the proxy is handed.

    Attributes:
        results: records and blobs together; says what is a hit.
        actions: the records alone; they are changed through ``results``, whose memory would not notice.
        blobs: the blobs.
        ledger: prediction id to the JSON that a client polls.
        notes: what else is remembered between starts, such as models' schemas.
        counters: what happened so far.
        used_bytes: bytes that the blobs take on disk, in whole blocks.
        trouble: why storing currently fails, or ``None`` when the last writes succeeded. While it fails, asking
            makes the store try a small write now and then, so that it recovers even when nothing is stored.
        aclose: finish the writes that were begun, close and give up the folder; safe to call again.
        renew: look at the disk anew. For a reader whose folder's owner has started again; others need it never.
    """

    results: ResultStore
    actions: ActionCache
    blobs: ContentStore
    ledger: KeyValue
    notes: KeyValue
    counters: StorageCounters
    used_bytes: Callable[[], int]
    trouble: Callable[[], str | None]
    aclose: Callable[[], Awaitable[None]]
    renew: Callable[[], None] = lambda: None


async def open_storage(data_dir: Path, settings: StorageSettings, *, clock: Callable[[], float] = time.time) -> Storage:
    """Open the store in ``data_dir``, making the folder if need be.

    Args:
        data_dir: on a local disk; network file systems cannot hold the index.
        clock: epoch seconds.

    Raises:
        StorageRefused: the folder has a newer format, or another proxy holds it.
        StorageUnavailable: it cannot be made, read or written.
    """
    counters = StorageCounters()
    writer = Writer()
    opened = ExitStack()
    try:
        house = await writer.run(open_house, data_dir, settings, counters, clock, opened)
        house.index.warm_up()
    except BaseException:
        await writer.aclose(opened.close)
        raise
    return _furnish(house, settings, writer, opened, counters, clock)


async def open_reader(data_dir: Path, settings: StorageSettings, *, clock: Callable[[], float] = time.time) -> Storage:
    """The store of a folder that another process on this machine owns, for reading alone.

    Nothing is claimed, swept or written; every write fails as one to a store that is closed. It is empty until
    ``renew`` was called while the owner is there. What the owner changes is seen at once, but for complete records
    found within ``RECENT_S``: let ``results.forget`` hear of those.
    """
    counters = StorageCounters()
    writer = Writer()
    await writer.aclose()
    folder = _folder(data_dir)
    index, trouble = ReadOnlyIndex(folder.index), Trouble(counters)
    space = Space(0)
    shelf = Shelf(folder, index, space, trouble, counters, durable=False, clock=clock)
    house = House(folder, index, space, shelf, trouble, durable=False)
    storage = _furnish(house, settings, writer, ExitStack(), counters, clock)

    def renew() -> None:
        storage.results.forget()
        with suppress(StorageUnavailable):  # then it is empty, and everything is a miss
            index.renew()

    return replace(storage, renew=renew, trouble=lambda: None)


def _folder(data_dir: Path) -> Folder:
    return Folder(Path(os.path.abspath(data_dir)))


def _furnish(
    house: House,
    settings: StorageSettings,
    writer: Writer,
    opened: ExitStack,
    counters: StorageCounters,
    clock: Callable[[], float],
) -> Storage:
    records_bytes = int(settings.memory_bytes * RECORDS_SHARE)
    parts = (house.index, writer, house.trouble, counters)
    actions = DiskActionCache(*parts, durable=house.durable)
    blobs = HotContentStore(
        DiskContentStore(house.shelf, writer, counters), settings.memory_bytes - records_bytes, counters
    )
    results = ResultStore(actions, blobs, counters, memory_bytes=records_bytes)

    def trouble() -> str | None:
        reason = house.trouble.reason()
        if house.trouble.is_probe_due():
            writer.submit(house.probe)
        return reason

    async def aclose() -> None:
        await writer.aclose(opened.close)
        await results.settle()
        house.index.close_reading()

    return Storage(
        results=results,
        actions=actions,
        blobs=blobs,
        ledger=DiskKeyValue("ledger", *parts, clock=clock),
        notes=DiskKeyValue("notes", *parts, clock=clock),
        counters=counters,
        used_bytes=lambda: house.space.used_bytes,
        trouble=trouble,
        aclose=aclose,
    )
