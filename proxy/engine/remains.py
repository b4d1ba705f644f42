"""Results that no request can be answered with any more, for an hour after that.

A prediction can be read for as long as Replicate keeps its data, also when its result was never a cache entry (text
that should differ each time), or was one until another took its place. So such a result is left here, by the number
that its predictions' ids hold, and under no key: nothing that is looked up ever finds it. Rows are sealed.
"""

from __future__ import annotations

import asyncio

import structlog

from proxy.core.purging import PurgeLog, subject_of
from proxy.core.sealing import Sealer, Unsealable
from proxy.engine.rows import RowWriter
from storage.digest import RecordId
from storage.errors import Corrupt, StorageError
from storage.ports import ContentStore
from storage.records import ResultRecord, decode_record, encode_record

KEEP_S = 3600.0
"""As long as Replicate keeps the data of a prediction."""

MAX_ROW_BYTES = 4 * 1024**2
"""A longer result is found in the memory of this process alone."""

WRITE_WAIT_S = 2.0
"""Longest that the end of a run waits for its row; a disk that takes longer holds nobody's answer."""

_log = structlog.get_logger("hotplate.remains")


class Remains:
    """One row for each such result."""

    def __init__(self, rows: RowWriter, sealer: Sealer, blobs: ContentStore, purges: PurgeLog) -> None:
        self._purges = purges
        self._rows = rows
        self._sealer = sealer
        self._blobs = blobs

    async def keep(self, record: ResultRecord) -> None:
        """Leave a result, whose files are in the store; it outlives this process once this returns, unless the disk
        is away or slow."""
        try:
            plain = encode_record(record)
        except StorageError:
            return
        if len(plain) > MAX_ROW_BYTES:
            return
        name = _row(record.record_id)
        await asyncio.wait({self._rows.put(name, self._sealer.seal(plain, name), KEEP_S)}, timeout=WRITE_WAIT_S)

    async def find(self, record_id: RecordId) -> ResultRecord | None:
        """The result that was left under a number, with every one of its files, unless it was purged meanwhile."""
        name = _row(record_id)
        sealed = await self._rows.get(name)
        if sealed is None:
            return None
        try:
            record = decode_record(self._sealer.open(sealed, name))
        except (Unsealable, Corrupt):
            _log.warning("row_unreadable", kind="left")
            return None
        if self._purges.covers(subject_of(record), record.created_at):
            return None
        for file in record.files:
            if not await self._blobs.has(file.blob):
                return None
        return record


def _row(record_id: RecordId) -> str:
    return f"left:{record_id:010x}"
