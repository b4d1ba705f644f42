"""A clock that stands until it is moved."""

from __future__ import annotations


class ManualClock:
    """Seconds that a test decides; wall clock and monotonic clock alike."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
