"""The action cache on the local disk: rows of the index.

``act:<key>`` holds the encoded record, ``rec:<record id>`` the key it is stored under, ``tag:<tag>\0<key>`` nothing but
its own name; all change in one transaction, so neither an id nor a tag names a record that was replaced.
"""

from __future__ import annotations

from collections.abc import Sequence

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

    async def remove_all(self, keys: Sequence[PredictionKey]) -> int:
        """See ``ActionCache.remove_all``."""
        return await self._writer.run(self._delete_all, keys)

    async def tagged(self, tag: str, after: PredictionKey | None, limit: int) -> list[PredictionKey]:
        """See ``ActionCache.tagged``."""
        prefix = _tag_row(tag, b"")
        rows = await self._writer.run(self._index.page, prefix, prefix + (after or b""), limit)
        return [PredictionKey(key[len(prefix) :]) for key, _ in rows]

    async def page(self, after: PredictionKey | None, limit: int) -> list[ResultRecord]:
        """See ``ActionCache.page``."""
        return await self._writer.run(self._read_page, after, limit)

    # The writer thread.

    def _read_page(self, after: PredictionKey | None, limit: int) -> list[ResultRecord]:
        last = b"act:" + (after or b"")
        while rows := self._index.page(b"act:", last, limit):
            found = []
            for key, row in rows:
                try:
                    record = decode_record(row) if row is not None else None
                except Corrupt:
                    record = None
                if record is not None and _action_row(record.key) == key:
                    found.append(record)
            if found:
                return found
            last = rows[-1][0]
        return []

    def _write(self, record: ResultRecord, row: bytes) -> None:
        with self._trouble.watching("index"), self._index.transaction(durable=self._durable) as rows:
            owner = rows.get(_id_row(record.record_id))
            if owner not in (None, record.key):
                raise StorageError("the record's id names another record")
            self._unname(rows, record.key)
            rows.set(_action_row(record.key), row)
            rows.set(_id_row(record.record_id), record.key)
            for tag in record.tags:
                rows.set(_tag_row(tag, record.key), b"")
        self._counters.record_writes_total += 1

    def _delete(self, key: PredictionKey) -> None:
        with self._trouble.watching("index", proves=False), self._index.transaction(durable=self._durable) as rows:
            self._unname(rows, key)
            rows.delete(_action_row(key))

    def _delete_all(self, keys: Sequence[PredictionKey]) -> int:
        with self._trouble.watching("index", proves=False), self._index.transaction(durable=self._durable) as rows:
            found = [key for key in keys if rows.get(_action_row(key)) is not None]
            for key in keys:
                self._unname(rows, key)
                rows.delete(_action_row(key))
        return len(found)

    @staticmethod
    def _unname(rows: Rows, key: PredictionKey) -> None:
        """Take the id and the tags of the record under ``key`` away; one that cannot be read keeps them, and ``find``
        sees that."""
        row = rows.get(_action_row(key))
        if row is not None:
            try:
                record = decode_record(row)
            except Corrupt:
                return
            rows.delete(_id_row(record.record_id))
            for tag in record.tags:
                rows.delete(_tag_row(tag, key))


def _action_row(key: PredictionKey) -> bytes:
    return b"act:" + key


def _tag_row(tag: str, key: bytes) -> bytes:
    # A tag holds no zero byte that could end it early: it is one line of a header.
    return b"tag:" + tag.encode() + b"\0" + key


def _id_row(record_id: RecordId) -> bytes:
    return b"rec:" + record_id.to_bytes(8, "big")
