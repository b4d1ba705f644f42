"""Takes stored results away, and sees to it that nothing under way brings them back.

The order: the purge is written down and announced, so that whatever is stored from then on has begun after it; then the
records go, in batches; then it is announced once more, so that no memory keeps what was read in between. When ``purge``
returns, no process answers with any of them.

What goes is the record, and with it every hit and every prediction that it answered. The bytes of its files stay in the
content store, under addresses that nobody can guess, until the store collects what no record names.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace

import orjson
import structlog

from proxy.core.errors import BadRequest
from proxy.core.ids import IdMint
from proxy.core.purging import MAX_VALUES, Purge, PurgeKind, PurgeLog, purge_from_json, subject_of
from proxy.engine.announcements import Announcements
from proxy.engine.coalescer import Coalescer
from proxy.engine.recent import RecentPredictions
from storage.digest import PredictionKey, RecordId, parse_digest
from storage.opening import Storage
from storage.records import JsonObject
from storage.results import ResultStore

ROW = "purges"

BATCH = 500
"""Records that are looked at, or removed in one transaction, before others have their turn: a few milliseconds."""

_log = structlog.get_logger("hotplate.purging")


class Purging:
    """Carries purges out, one after another."""

    def __init__(
        self,
        storage: Storage,
        log: PurgeLog,
        coalescer: Coalescer,
        recent: RecentPredictions,
        mint: IdMint,
        announcements: Announcements,
        now: Callable[[], float],
    ) -> None:
        """``log``: shared with those who ask whether what they are about to keep or show was purged."""
        self._storage = storage
        self._purges = log
        self._coalescer = coalescer
        self._recent = recent
        self._mint = mint
        self._announcements = announcements
        self._now = now
        self._lock = asyncio.Lock()
        announcements.subscribe("purged", self._apply)

    async def resume(self) -> None:
        """Remember the purges of before the restart: runs that they met may still be under way."""
        row = await self._storage.notes.get(ROW)
        if row is None:
            return
        try:
            for document in orjson.loads(row):
                self._purges.add(purge_from_json(document))
        except (ValueError, KeyError, TypeError):
            # Nobody knows what was purged; nothing that began before now is to be kept.
            self._purges.add(Purge("all", frozenset(), self._now()))
            _log.warning("purges_unreadable")

    async def purge(self, kind: PurgeKind, values: Iterable[str]) -> int:
        """Take results away; how many were stored.

        Args:
            values: by ``kind``: ids of predictions, keys in hex digits, tags, globs over ``owner/name`` or
                ``deployments/owner/name``; nothing for ``all``.

        Raises:
            BadRequest: a value is none of its kind.
            StorageUnavailable: not all of them could be removed, or the purge could not be written down.
        """
        wanted = frozenset(self._read(kind, value) for value in values)
        if kind != "all" and not wanted:
            raise BadRequest(f"say which {kind}")
        if len(wanted) > MAX_VALUES:
            raise BadRequest(f"one purge names at most {MAX_VALUES}")
        async with self._lock:
            purge = Purge(kind, wanted, self._now())
            self._announcements.announce("purged", purge.to_json())
            await self._storage.notes.put(ROW, orjson.dumps(self._purges.to_json()))
            removed = 0
            async for keys in self._keys(purge):
                removed += await self._storage.results.remove_all(keys)
            self._announcements.announce("purged", purge.to_json())
        _log.info("purged", kind=kind, values=len(wanted), results=removed)
        return removed

    def _read(self, kind: PurgeKind, value: str) -> str:
        """A value as ``Purge`` has it."""
        if kind == "key" and parse_digest(value) is None:
            raise BadRequest("a key is 64 lower-case hex digits")
        if kind != "id":
            return value
        opened = self._mint.open(value)
        if opened is None:
            raise BadRequest("that is no id of a prediction that this proxy has made")
        return f"{opened.parts.record_id:010x}"

    async def _keys(self, purge: Purge) -> AsyncIterator[Sequence[PredictionKey]]:
        """Keys of the results to be removed, in batches."""
        actions = self._storage.actions
        match purge.kind:
            case "key":
                yield [PredictionKey(bytes.fromhex(value)) for value in purge.values]
            case "id":
                found = [await actions.find(RecordId(int(value, 16))) for value in purge.values]
                yield [record.key for record in found if record is not None]
            case "tag":
                for tag in purge.values:
                    last: PredictionKey | None = None
                    while keys := await actions.tagged(tag, last, BATCH):
                        last = keys[-1]
                        yield keys
            case "model" | "all":
                after: PredictionKey | None = None
                while records := await actions.page(after, BATCH):
                    after = records[-1].key
                    yield [record.key for record in records if purge.names(subject_of(record))]

    def _apply(self, payload: JsonObject) -> None:
        purge = purge_from_json(payload)
        is_new = self._purges.add(purge)
        forget_purged(self._storage.results, payload)
        if not is_new:
            return
        # What ends between the two announcements belongs to those who waited for it.
        self._recent.forget_results(lambda record: purge.names(subject_of(record)))
        self._coalescer.part(
            lambda flight: (
                flight.subject is not None and purge.names(replace(flight.subject, record_id=flight.record_id))
            )
        )


def forget_purged(results: ResultStore, payload: JsonObject) -> None:
    """Let go of what memory holds of purged results: all that a process has to do which only reads the store."""
    purge = purge_from_json(payload)
    results.forget_where(lambda record: purge.names(subject_of(record)))
