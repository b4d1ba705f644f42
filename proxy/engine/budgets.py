"""What each caller may make the models do, and how many may wait for it. Hits are free of both.

Concurrency: everything happens on one event loop and nothing here awaits, so a look and the entry that follows are one
step.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proxy.core.budgets import Bucket, is_full, take_run
from proxy.core.errors import TooManyRuns
from proxy.engine.coalescer import Flight
from storage.digest import Scope

BUSY_RETRY_S = 1.0
"""After how long a caller with too many runs on their way may ask again: nobody knows when the next one ends."""

MAX_BUCKETS = 50_000
"""Callers whose rate is remembered. Beyond it the one seen longest ago counts as new."""


class RunBudgets:
    """Counts the new runs of each scope, on their way and by the minute."""

    def __init__(self, *, max_runs: int, per_minute: int, now: Callable[[], float]) -> None:
        """Args: ``max_runs`` on their way at once and ``per_minute`` of one scope; 0 is no bound."""
        self._max_runs = max_runs
        self._per_minute = per_minute
        self._now = now
        self._running: Counter[Scope] = Counter()
        self._buckets: OrderedDict[Scope, Bucket] = OrderedDict()

    def __len__(self) -> int:
        """Runs on their way that count against somebody."""
        return self._running.total()

    def begin(self, scope: Scope) -> Callable[[], None]:
        """Take one new run out of ``scope``'s budget.

        Returns:
            What is to be called once, when the run has ended.

        Raises:
            TooManyRuns: it has none left.
        """
        if not self._max_runs and not self._per_minute:
            return _nothing
        if self._max_runs and self._running[scope] >= self._max_runs:
            raise TooManyRuns(
                f"At most {self._max_runs} of your predictions may run at once. Try again when one has ended.",
                retry_after_s=BUSY_RETRY_S,
            )
        if self._per_minute:
            self._take(scope)
        self._running[scope] += 1
        return lambda: self._end(scope)

    def _take(self, scope: Scope) -> None:
        now = self._now()
        left = take_run(self._buckets.get(scope), self._per_minute, now)
        if isinstance(left, float):
            raise TooManyRuns(
                f"Request was throttled. Expected available in {max(1, round(left))} seconds.", retry_after_s=left
            )
        self._buckets[scope] = left
        self._buckets.move_to_end(scope)
        oldest = next(iter(self._buckets))
        if len(self._buckets) > MAX_BUCKETS or is_full(self._buckets[oldest], self._per_minute, now):
            del self._buckets[oldest]

    def _end(self, scope: Scope) -> None:
        self._running[scope] -= 1
        if self._running[scope] <= 0:
            del self._running[scope]


def _nothing() -> None:
    pass


class WaitingRoom:
    """Places for requests that wait for runs: so many in all, and so many for each run.

    Whoever finds none is answered at once, ``starting``, and can poll. A refusal would be worse: the JavaScript client
    repeats a create that was answered 429 or 5xx, and so multiplies what was too much.
    """

    def __init__(self, *, max_waiters: int, max_each: int) -> None:
        self._max_waiters = max_waiters
        self._max_each = max_each
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    @property
    def has_room(self) -> bool:
        """Whether one more may wait for a run that nobody waits for yet."""
        return self._waiting < self._max_waiters

    @contextmanager
    def place(self, flight: Flight) -> Iterator[bool]:
        """Whether there is a place to wait for ``flight``; it is free again when the block is left."""
        has_place = self.has_room and flight.waiters < self._max_each
        if not has_place:
            yield False
            return
        self._waiting += 1
        flight.waiters += 1
        try:
            yield True
        finally:
            self._waiting -= 1
            flight.waiters -= 1
