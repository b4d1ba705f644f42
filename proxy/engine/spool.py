"""Outputs that could not be stored, kept in memory for a while so that their addresses work all the same.

The spool is the second place that the outputs route looks at. It is bounded in bytes and in time; when it is
full the oldest go first, and a client that comes later gets a 404, which is slow or missing but never wrong.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from storage.digest import Digest

SPOOL_TTL_S = 3600.0
"""As long as Replicate keeps an output."""


@dataclass(frozen=True, slots=True)
class SpooledBlob:
    """Bytes in memory with what the outputs route needs to send them."""

    data: bytes
    content_type: str
    stored_at: float


class Spool:
    """Bytes by digest, bounded; used from the event loop alone."""

    def __init__(self, max_bytes: int, now: Callable[[], float]) -> None:
        self.max_bytes = max_bytes
        self._now = now
        self._blobs: OrderedDict[Digest, SpooledBlob] = OrderedDict()
        self.used_bytes = 0

    def put(self, digest: Digest, data: bytes, content_type: str) -> bool:
        """Keep ``data``; ``False`` when it is larger than the whole spool."""
        if len(data) > self.max_bytes:
            return False
        self._drop(digest)
        self._blobs[digest] = SpooledBlob(data, content_type, self._now())
        self.used_bytes += len(data)
        while self.used_bytes > self.max_bytes:
            self._drop(next(iter(self._blobs)))
        return True

    def get(self, digest: Digest) -> SpooledBlob | None:
        """The blob, unless it was never here or its hour is over."""
        blob = self._blobs.get(digest)
        if blob is not None and self._now() - blob.stored_at > SPOOL_TTL_S:
            self._drop(digest)
            return None
        return blob

    def _drop(self, digest: Digest) -> None:
        blob = self._blobs.pop(digest, None)
        if blob is not None:
            self.used_bytes -= len(blob.data)
