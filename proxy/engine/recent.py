"""Predictions of the last hour, in memory: what lets a poll show the caller's own input and live progress.

Losing an entry costs only that: the id itself says where the stored result is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from proxy.core.ids import PredictionId
from proxy.core.policy import LookupPlan
from proxy.engine.coalescer import Flight
from storage.digest import Scope
from storage.records import JsonObject

MAX_ENTRIES = 100_000
MAX_INPUT_BYTES = 64 * 1024**2
KEEP_S = 3600.0
"""As long as Replicate keeps the data of a prediction."""


@dataclass(slots=True)
class Running:
    """A prediction that made or shares a run; it stays here after the run has ended.

    Attributes:
        plan: how it used the cache.
        is_follower: it joined a run that another request had caused.
        canceled_at: epoch seconds at which its client cancelled it, and it alone.
    """

    id: PredictionId
    scope: Scope
    model: str
    version: str
    input: JsonObject
    input_bytes: int
    created_at: float
    flight: Flight
    plan: LookupPlan
    is_follower: bool
    canceled_at: float | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """A prediction that was answered from the store."""

    id: PredictionId
    scope: Scope
    input: JsonObject
    input_bytes: int
    created_at: float


class RecentPredictions:
    """Entries by id, bounded in number, in bytes of input and in time. Runs on their way are never dropped."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._entries: OrderedDict[PredictionId, Running | Served] = OrderedDict()
        self._input_bytes = 0

    def add(self, entry: Running | Served) -> None:
        """Remember ``entry``; the oldest ended ones make room."""
        self._entries[entry.id] = entry
        self._input_bytes += entry.input_bytes
        while self._entries:
            oldest = next(iter(self._entries.values()))
            is_over = len(self._entries) > MAX_ENTRIES or self._input_bytes > MAX_INPUT_BYTES
            if not is_over and self._now() - oldest.created_at <= KEEP_S:
                break
            if oldest is entry:
                break
            if isinstance(oldest, Running) and oldest.flight.landed is None:
                self._entries.move_to_end(oldest.id)
                break
            del self._entries[oldest.id]
            self._input_bytes -= oldest.input_bytes

    def get(self, prediction_id: str, scope: Scope) -> Running | Served | None:
        """The entry, for its own scope alone."""
        entry = self._entries.get(PredictionId(prediction_id))
        return entry if entry is not None and entry.scope == scope else None

    def newest(self, scope: Scope) -> Iterator[Running | Served]:
        """Entries of one scope, newest first."""
        return (entry for entry in reversed(self._entries.values()) if entry.scope == scope)
