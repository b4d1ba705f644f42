"""Which predictions were made here: for each scope their ids, newest first, for lists.

An answer never waits for this: what is new is collected in memory and written a fraction of a second later, and when
the proxy closes. A process that is killed loses that last moment: those predictions are missing from lists (and a run
among them is listed under the upstream's own id, unless the next process takes it up), while their ids go on working.

A scope keeps its newest entries in pages, rows of a ring: ``history:<scope>:<slot>`` holds the page whose number is the
slot modulo ``PAGES``. Only the newest page is ever written again. What was read or written lately stays in memory,
bounded over all scopes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import orjson
import structlog

from proxy.core.ids import PredictionId
from storage.digest import Scope
from storage.errors import StorageError
from storage.memory import ByteLru
from storage.ports import KeyValue
from storage.records import JsonValue

PAGE_ENTRIES = 200
PAGES = 50
"""A scope keeps at least the newest ``PAGE_ENTRIES * (PAGES - 1)`` predictions, about 10,000."""

KEEP_S = 30 * 86_400.0
FLUSH_S = 0.25
RETRY_S = 5.0
MEMORY_BYTES = 32 * 1024**2
MAX_PENDING = 100_000
"""Entries that may wait to be written; while a disk stands still, later ones are not listed."""

MAX_UNWRITTEN = 1000
"""Scopes whose pages may wait for a store that is in trouble."""

_ENTRY_BYTES = 200
"""An entry of a page that is still open, in memory."""

_log = structlog.get_logger("hotplate.history")


class Label(NamedTuple):
    """What a prediction ran, as its answers say it."""

    model: str
    version: str
    deployment: str | None = None


class Entry(NamedTuple):
    """One prediction.

    Attributes:
        created_us: microseconds since 1970, finer than its rendered time, so that hits of one millisecond keep their
            order.
        upstream_id: the upstream's own prediction that it stands for: it made the run.
    """

    created_us: int
    id: PredictionId
    label: Label
    upstream_id: str | None


class History:
    """Collects, writes behind, and reads. Belongs to one event loop and one process."""

    def __init__(self, rows: KeyValue, now: Callable[[], float], *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._rows = rows
        self._now = now
        self._pending: dict[Scope, list[Entry]] = {}
        self._pending_count = 0
        self._shelves: ByteLru[Scope, _Shelf] = ByteLru(memory_bytes)
        self._unwritten: dict[Scope, _Shelf] = {}
        self._reading = asyncio.Lock()
        self._flushing: asyncio.Task[None] | None = None

    def add(
        self, scope: Scope, prediction_id: PredictionId, created_at: float, label: Label, upstream_id: str | None = None
    ) -> None:
        """A prediction was answered; ``created_at`` in epoch seconds. Costs next to nothing and never fails."""
        if self._pending_count >= MAX_PENDING:
            return
        entry = Entry(round(created_at * 1_000_000), prediction_id, label, upstream_id)
        self._pending.setdefault(scope, []).append(entry)
        self._pending_count += 1
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush_later())

    async def entries(self, scope: Scope) -> list[Entry]:
        """All that is remembered of ``scope``, newest first; equal times by id, descending."""
        shelf = await self._shelf(scope)
        oldest_us = (self._now() - KEEP_S) * 1_000_000
        # A prediction whose run outlives a restart is added again by the next process, which cannot know of the former.
        found = {entry.id: entry for entry in (*shelf.entries(), *self._pending.get(scope, ()))}
        alive = [entry for entry in found.values() if entry.created_us >= oldest_us]
        # Not in the order in which they came: a run's prediction is known only once its upstream has taken it.
        alive.sort(key=lambda entry: entry[:2], reverse=True)
        return alive

    async def find(self, scope: Scope, prediction_id: str) -> Entry | None:
        """What is remembered of one prediction."""
        found = (entry for entry in await self.entries(scope) if entry.id == prediction_id)
        return next(found, None)

    async def drain(self) -> None:
        """Write what is not written yet, once; for closing."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.wait([self._flushing])
        await self._flush()

    # -- writing behind ----------------------------------------------------------------------------------

    async def _flush_later(self) -> None:
        wait_s = FLUSH_S
        try:
            while self._pending or self._unwritten:
                await asyncio.sleep(wait_s)
                wait_s = FLUSH_S if await self._flush() else RETRY_S
        finally:
            self._flushing = None

    async def _flush(self) -> bool:
        """Shelve what is pending and write what changed; whether all of it is written."""
        for scope in list(self._pending):
            shelf = await self._shelf(scope)
            # Without a wait between the two, or a reader in between would miss the entries or see them twice.
            for entry in self._pending.pop(scope):
                shelf.append(entry)
                self._pending_count -= 1
            self._shelves.put(scope, shelf, shelf.size_bytes)
            if scope in self._unwritten or len(self._unwritten) < MAX_UNWRITTEN:
                self._unwritten[scope] = shelf
        try:
            for scope, shelf in list(self._unwritten.items()):
                await self._write(scope, shelf)
                if not shelf.unwritten:
                    del self._unwritten[scope]
        except StorageError as error:
            _log.warning("history_not_written", reason=type(error).__name__)
            return False
        return True

    async def _write(self, scope: Scope, shelf: _Shelf) -> None:
        while shelf.unwritten:
            number = min(shelf.unwritten)
            shelf.unwritten.discard(number)
            row = shelf.row(number)
            try:
                if row is not None:
                    await self._rows.put(f"{_prefix(scope)}{number % PAGES:02d}", row, KEEP_S)
            except BaseException:
                shelf.unwritten.add(number)
                raise

    async def _shelf(self, scope: Scope) -> _Shelf:
        """The scope's pages, from memory or from their rows."""
        # One after another, so that nobody reads rows that somebody else has meanwhile changed in memory.
        async with self._reading:
            shelf = self._unwritten.get(scope) or self._shelves.get(scope)
            if shelf is None:
                shelf = _Shelf([value for _, value in await self._rows.scan(_prefix(scope))])
                self._shelves.put(scope, shelf, shelf.size_bytes)
            return shelf


class _Shelf:
    """The pages of one scope: closed ones as the bytes of their rows, and the open one."""

    __slots__ = ("_closed", "_number", "_open", "unwritten")

    def __init__(self, rows: list[bytes]) -> None:
        pages = sorted((page for row in rows if (page := _read_page(row)) is not None), key=lambda page: page[0])
        self._number = pages[-1][0] if pages else 0
        self._open = pages.pop()[1] if pages else []
        self._closed = deque((number, row) for number, _, row in pages if number > self._number - PAGES)
        self.unwritten: set[int] = set()

    @property
    def size_bytes(self) -> int:
        """What it holds in memory, nearly."""
        return 500 + sum(len(row) + 100 for _, row in self._closed) + len(self._open) * _ENTRY_BYTES

    def append(self, entry: Entry) -> None:
        """Put a new entry on the open page, or on a fresh one; the oldest page makes room."""
        if len(self._open) >= PAGE_ENTRIES:
            self._closed.append((self._number, _page_row(self._number, self._open)))
            self._number += 1
            self._open = []
            if len(self._closed) >= PAGES:
                self._closed.popleft()
        self._open.append(entry)
        self.unwritten.add(self._number)

    def row(self, number: int) -> bytes | None:
        """The bytes of a page, or ``None`` for one that made room."""
        if number == self._number:
            return _page_row(number, self._open)
        return next((row for closed, row in self._closed if closed == number), None)

    def entries(self) -> list[Entry]:
        """Everything on the pages, in the order in which it came."""
        found: list[Entry] = []
        for _, row in self._closed:
            page = _read_page(row)
            found += page[1] if page is not None else []
        return found + self._open


def _prefix(scope: Scope) -> str:
    return f"history:{scope.hex()}:"


def _page_row(number: int, entries: list[Entry]) -> bytes:
    labels = {label: index for index, label in enumerate(dict.fromkeys(entry.label for entry in entries))}
    return orjson.dumps(
        {
            "page": number,
            "labels": [list(label) for label in labels],
            "entries": [[entry.created_us, entry.id, labels[entry.label], entry.upstream_id] for entry in entries],
        }
    )


def _read_page(row: bytes) -> tuple[int, list[Entry], bytes] | None:
    """A page from its row; a row that is none counts as lost."""
    try:
        document: JsonValue = orjson.loads(row)
        labels = [Label(*label) for label in document["labels"]]
        entries = [Entry(us, PredictionId(text), labels[label], up) for us, text, label, up in document["entries"]]
        return int(document["page"]), entries, row
    except (ValueError, KeyError, TypeError, IndexError):
        return None
