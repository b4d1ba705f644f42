"""The action cache on the local disk: rows of the index.

``act:<key>`` holds the encoded record, ``rec:<record id>`` the key it is stored under; both change in one
transaction, so an id never names a record that was replaced.
"""

from __future__ import annotations

from storage.counters import StorageCounters
from storage.digest import PredictionKey, RecordId
from storage.errors import Corrupt, StorageError
from storage.local.index import Index, Rows
from storage.local.trouble import Trouble
from storage.local.writer import Writer
from storage.records import ResultRecord, decode_record, encode_record


class DiskActionCache:
    """``ActionCache`` over the index."""

    def __init__(
        self, index: Index, writer: Writer, trouble: Trouble, counters: StorageCounters, *, durable: bool
    ) -> None:
        self._index = index
        self._writer = writer
        self._trouble = trouble
        self._counters = counters
        self._durable = durable

    async def get(self, key: PredictionKey) -> ResultRecord | None:
        """See ``ActionCache.get``."""
        try:
            row = self._index.get(_action_row(key))
            if row is None:
                return None
            record = decode_record(row)
            if record.key != key:
                raise Corrupt("record of another key")
        except StorageError:
            self._counters.record_read_errors_total += 1
            return None
        return record

    async def find(self, record_id: RecordId) -> ResultRecord | None:
        """See ``ActionCache.find``."""
        try:
            key = self._index.get(_id_row(record_id))
        except StorageError:
            self._counters.record_read_errors_total += 1
            return None
        record = None if key is None else await self.get(PredictionKey(key))
        return record if record is not None and record.record_id == record_id else None

    async def put(self, record: ResultRecord) -> None:
        """See ``ActionCache.put``."""
        await self._writer.run(self._write, record, encode_record(record))

    async def remove(self, key: PredictionKey) -> None:
        """See ``ActionCache.remove``."""
        await self._writer.run(self._delete, key)

    # The writer thread.

    def _write(self, record: ResultRecord, row: bytes) -> None:
        with self._trouble.watching("index"), self._index.transaction(durable=self._durable) as rows:
            owner = rows.get(_id_row(record.record_id))
            if owner not in (None, record.key):
                raise StorageError("the record's id names another record")
            self._unname(rows, record.key)
            rows.set(_action_row(record.key), row)
            rows.set(_id_row(record.record_id), record.key)
        self._counters.record_writes_total += 1

    def _delete(self, key: PredictionKey) -> None:
        with self._trouble.watching("index", proves=False), self._index.transaction(durable=self._durable) as rows:
            self._unname(rows, key)
            rows.delete(_action_row(key))

    @staticmethod
    def _unname(rows: Rows, key: PredictionKey) -> None:
        """Take the id of the record under ``key`` away; one that cannot be read keeps it, and ``find`` sees that."""
        row = rows.get(_action_row(key))
        if row is not None:
            try:
                rows.delete(_id_row(decode_record(row).record_id))
            except Corrupt:
                return


def _action_row(key: PredictionKey) -> bytes:
    return b"act:" + key


def _id_row(record_id: RecordId) -> bytes:
    return b"rec:" + record_id.to_bytes(8, "big")
