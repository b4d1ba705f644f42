"""Small named values on the local disk: rows of the index.

A row holds when its value ends and the value. Its time is checked here at every read; the rows of ended values
are dropped now and then.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from pathlib import Path

from storage.counters import StorageCounters
from storage.errors import StorageError
from storage.local.folder import Folder
from storage.local.index import Index, scan_aside
from storage.local.trouble import Trouble
from storage.local.writer import Writer

_ENDS_AT = struct.Struct(">d")

DROP_EXPIRED_EVERY = 256
"""Writes between two clearings of ended values, so that each clearing finds few."""


class DiskKeyValue:
    """``KeyValue`` over the index; stores with different ``namespace`` do not see each other's values.

    A value survives the end of the process. It is not synced to the disk by itself (a power cut may lose the
    newest), since a value is written for every answer.
    """

    def __init__(
        self,
        namespace: str,
        index: Index,
        writer: Writer,
        trouble: Trouble,
        counters: StorageCounters,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._prefix = _prefix(namespace)
        self._index = index
        self._writer = writer
        self._trouble = trouble
        self._counters = counters
        self._clock = clock
        self._writes = 0

    async def get(self, name: str) -> bytes | None:
        """See ``KeyValue.get``."""
        try:
            row = self._index.get(self._row(name))
        except StorageError:
            self._counters.value_read_errors_total += 1
            return None
        if row is None or _ENDS_AT.unpack_from(row)[0] <= self._clock():
            return None
        return row[_ENDS_AT.size :]

    async def put(self, name: str, value: bytes, ttl_s: float | None = None) -> None:
        """See ``KeyValue.put``."""
        ends_at = math.inf if ttl_s is None else self._clock() + ttl_s
        await self._writer.run(self._write, self._row(name), _ENDS_AT.pack(ends_at) + value, ttl_s)

    async def remove(self, name: str) -> None:
        """See ``KeyValue.remove``."""
        await self._writer.run(self._delete, self._row(name))

    async def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """See ``KeyValue.scan``."""
        try:
            rows = self._index.scan(self._row(prefix))
        except StorageError:
            self._counters.value_read_errors_total += 1
            return []
        return _alive(rows, len(self._prefix), self._clock())

    # The writer thread.

    def _write(self, key: bytes, row: bytes, ttl_s: float | None) -> None:
        with self._trouble.watching("index"), self._index.transaction(durable=False) as rows:
            rows.set(key, row, ttl_s)
        self._counters.value_writes_total += 1
        self._writes += 1
        if self._writes % DROP_EXPIRED_EVERY == 0:
            self._index.drop_expired()

    def _delete(self, key: bytes) -> None:
        with self._trouble.watching("index", proves=False), self._index.transaction(durable=False) as rows:
            rows.delete(key)

    def _row(self, name: str) -> bytes:
        # Names may come from a URL; "surrogatepass" gives every text its own row.
        return self._prefix + name.encode("utf-8", "surrogatepass")


def scan_values_aside(data_dir: Path, namespace: str, prefix: str, now: float) -> list[tuple[str, bytes]]:
    """``DiskKeyValue.scan`` for a process that owns nothing in ``data_dir`` and changes nothing there.

    Raises:
        StorageUnavailable: there is no store, or it cannot be read.
    """
    own = _prefix(namespace)
    return _alive(scan_aside(Folder(data_dir).index, own + prefix.encode()), len(own), now)


def _prefix(namespace: str) -> bytes:
    return f"kv:{namespace}:".encode("ascii")


def _alive(rows: list[tuple[bytes, bytes]], cut: int, now: float) -> list[tuple[str, bytes]]:
    return [
        (key[cut:].decode("utf-8", "surrogatepass"), row[_ENDS_AT.size :])
        for key, row in rows
        if _ENDS_AT.unpack_from(row)[0] > now
    ]
