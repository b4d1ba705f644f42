"""A byte-bounded map that forgets what was used least recently.

Used for hot records, small blobs and the little that is remembered about blobs. One thread uses it: the
event loop's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteLru(Generic[K, V]):
    """Map of at most ``max_bytes``, counted by the sizes its caller states.

    An entry larger than the whole budget is not kept, and putting it forgets what stood under its key.
    A budget of 0 keeps nothing.
    """

    __slots__ = ("_entries", "_max_bytes", "_used_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value under ``key``, now the most recently used, or ``None``."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep ``value``, forgetting the least recently used entries until the budget holds."""
        self.discard(key)
        if size_bytes > self._max_bytes:
            return
        self._entries[key] = (value, size_bytes)
        self._used_bytes += size_bytes
        while self._used_bytes > self._max_bytes:
            _, (_, freed_bytes) = self._entries.popitem(last=False)
            self._used_bytes -= freed_bytes

    def discard(self, key: K) -> None:
        """Forget ``key`` if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._used_bytes -= entry[1]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._used_bytes = 0

    def discard_where(self, is_meant: Callable[[V], bool]) -> None:
        """Forget every entry whose value ``is_meant``."""
        for key in [key for key, (value, _) in self._entries.items() if is_meant(value)]:
            self.discard(key)

    @property
    def used_bytes(self) -> int:
        """Sum of the sizes of what is kept."""
        return self._used_bytes

    def __len__(self) -> int:
        return len(self._entries)
