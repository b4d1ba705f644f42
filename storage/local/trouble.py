"""Why storing fails at the moment, if it does.

Requests go on when a write fails; the operator must see it all the same. Each part of the store (blobs, index,
room) has its own reason, set by a failed write and cleared by the next one that succeeds, so that small rows
that still fit do not hide blobs that do not.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

from storage.counters import StorageCounters
from storage.errors import StorageUnavailable
from storage.local.faults import as_unavailable

Part: TypeAlias = Literal["blobs", "index", "room"]

PROBE_EVERY_S = 5.0
"""While storing fails, asking why makes the store try a small write, at most this often."""


class Trouble:
    """The reasons; changed by the writer thread, read by any."""

    def __init__(self, counters: StorageCounters, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._counters = counters
        self._monotonic = monotonic
        self._reasons: dict[Part, str] = {}
        self._probe_at = 0.0

    @contextmanager
    def watching(self, part: Part, *, proves: bool = True) -> Iterator[None]:
        """Note how a write of ``part`` ends; failures of the medium leave as ``StorageUnavailable``, counted.

        ``proves``: whether a success says that storing works. A removal that succeeds on a full disk does not.
        """
        try:
            yield
        except (OSError, sqlite3.Error, StorageUnavailable) as error:
            failure = as_unavailable(error)
            self._counters.write_failures_total += 1
            self._reasons[part] = f"{part}: {failure}"
            if failure is error:
                raise
            raise failure from error
        if proves:
            self._reasons.pop(part, None)

    def reason(self) -> str | None:
        """One line for the operator, or ``None`` when the last write of each part succeeded."""
        return "; ".join(sorted(self._reasons.copy().values())) or None

    def is_probe_due(self) -> bool:
        """Whether a small write should now be tried; says yes at most once per ``PROBE_EVERY_S``."""
        now = self._monotonic()
        if not self._reasons.keys() - {"room"} or now < self._probe_at:  # a small write says nothing of room
            return False
        self._probe_at = now + PROBE_EVERY_S
        return True
