"""Predictions of the last hour, in memory: what lets a poll show the caller's own input and live progress.

Losing an entry costs only that: the id itself says where the stored result is.

There may be very many hits, so they are kept as plain tuples of bytes and numbers: the garbage collector does not
walk those, and its pauses stay what they were with none.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from typing import Any

import orjson

from proxy.core.ids import PredictionId
from proxy.core.policy import LookupPlan
from proxy.core.webhooks import WebhookRequest
from proxy.engine.coalescer import Flight
from storage.digest import Scope
from storage.records import JsonObject, ResultRecord

MAX_ENTRIES = 50_000
"""Of each kind."""

MAX_INPUT_BYTES = 64 * 1024**2
BYTES_PER_VALUE = 100
"""What one more value of an input takes beside its JSON: of many small fields that is by far the most."""

KEEP_S = 3600.0
"""As long as Replicate keeps the data of a prediction."""


@dataclass(slots=True)
class Running:
    """A prediction that made or shares a run; it stays here after the run has ended.

    Attributes:
        scope: whose prediction it is.
        results_scope: whose result answers it.
        model: as it was known when the run began; the run itself may tell better.
        plan: how it used the cache.
        is_follower: it joined a run that another request had caused.
        upstream: name of the upstream that runs it.
        webhook: where its news go.
        deadline_at: epoch seconds at which it is to be cancelled, and it alone.
        canceled_at: epoch seconds at which its client cancelled it, and it alone, or its deadline was over.
        is_aborted: its deadline was over before the run had started.
        input_bytes: about what it takes in memory.
        caller: a number for whose request it was; ``None`` = not known.
        member: which answer of a pool its run makes, from 0, and of how many.
        own_end: done when it was cancelled.
    """

    id: PredictionId
    scope: Scope
    results_scope: Scope
    model: str
    version: str
    input: JsonObject
    input_bytes: int
    created_at: float
    flight: Flight
    plan: LookupPlan
    is_follower: bool
    upstream: str = ""
    webhook: WebhookRequest | None = None
    deadline_at: float | None = None
    canceled_at: float | None = None
    is_aborted: bool = False
    deployment: str | None = None
    caller: int | None = None
    member: tuple[int, int] | None = None
    own_end: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def has_ended(self) -> bool:
        """Whether this prediction is over, with its run or before it."""
        return self.canceled_at is not None or self.flight.has_ended

    async def wait(self, timeout_s: float) -> None:
        """Wait until this prediction is over, or its output is whole and here; for at most ``timeout_s``."""
        if not self.has_ended and timeout_s > 0:
            ends: set[asyncio.Future[Any]] = {self.flight.ending, self.flight.wholeness, self.own_end}
            await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    def cancel(self, at: float) -> None:
        """This prediction is over, whatever becomes of its run."""
        self.canceled_at = at
        if not self.own_end.done():
            self.own_end.set_result(None)


def weigh(given_json: bytes) -> int:
    """About how many bytes of memory an input takes that is this JSON."""
    return len(given_json) + BYTES_PER_VALUE * given_json.count(b",")


class RecentPredictions:
    """Entries by id, bounded in number, in bytes of input and in time. Runs on their way are never dropped."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._running: OrderedDict[PredictionId, Running] = OrderedDict()
        self._running_bytes = 0
        self._served: OrderedDict[PredictionId, tuple[Scope, bytes, float]] = OrderedDict()
        self._served_bytes = 0

    def __len__(self) -> int:
        return len(self._running) + len(self._served)

    def add(self, entry: Running) -> None:
        """Remember a prediction that made or shares a run; the oldest ended ones make room."""
        self._running[entry.id] = entry
        self._running_bytes += entry.input_bytes
        for _ in range(len(self._running)):
            oldest = next(iter(self._running.values()))
            if oldest is entry or not self._is_over(self._running, self._running_bytes, oldest.created_at):
                return
            if not oldest.flight.has_ended:
                self._running.move_to_end(oldest.id)
                continue
            del self._running[oldest.id]
            self._running_bytes -= oldest.input_bytes

    def forget_results(self, is_meant: Callable[[ResultRecord], bool]) -> None:
        """Forget predictions whose run has ended with a result that ``is_meant``."""
        for entry in list(self._running.values()):
            landed = entry.flight.landed
            if landed is not None and landed.record is not None and is_meant(landed.record):
                del self._running[entry.id]
                self._running_bytes -= entry.input_bytes

    def add_served(self, prediction_id: PredictionId, scope: Scope, input_json: bytes, at: float) -> None:
        """Remember the input of a prediction that was answered from the store."""
        self._served[prediction_id] = (scope, input_json, at)
        self._served_bytes += len(input_json)
        while len(self._served) > 1:
            oldest_id, (_, oldest_json, oldest_at) = next(iter(self._served.items()))
            if not self._is_over(self._served, self._served_bytes, oldest_at):
                return
            del self._served[oldest_id]
            self._served_bytes -= len(oldest_json)

    def running(self, prediction_id: str, scope: Scope) -> Running | None:
        """A prediction that made or shares a run, for its own scope alone."""
        entry = self._running.get(PredictionId(prediction_id))
        return entry if entry is not None and entry.scope == scope else None

    def any_running(self, prediction_id: PredictionId) -> Running | None:
        """The same for somebody who has proved otherwise that he may see it."""
        return self._running.get(prediction_id)

    def served_input(self, prediction_id: str, scope: Scope) -> JsonObject | None:
        """The input of a prediction that was answered from the store, for its own scope alone."""
        entry = self._served.get(PredictionId(prediction_id))
        if entry is None or entry[0] != scope:
            return None
        given: JsonObject = orjson.loads(entry[1])
        return given

    def _is_over(self, entries: Sized, input_bytes: int, oldest_at: float) -> bool:
        return len(entries) > MAX_ENTRIES or input_bytes > MAX_INPUT_BYTES or self._now() - oldest_at > KEEP_S
