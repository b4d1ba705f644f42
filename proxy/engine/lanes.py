"""What waits to be delivered: a line for each prediction, a lane for each scope, and the bounds of a lane.

Only the book-keeping is here; ``courier`` walks the lines.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from proxy.core.ids import PredictionId
from proxy.engine.parcels import Parcel
from proxy.engine.webhook_secrets import Place

MAX_POSTS_PER_SCOPE = 8
"""Deliveries of one scope on their way at once: a slow receiver delays its own scope's deliveries alone."""

MAX_WAITING_PER_SCOPE = 1000
MAX_WAITING_BYTES_PER_SCOPE = 64 * 1024**2
"""Deliveries of one scope that wait, in memory or in rows. A receiver that is away for hours fills no disk."""


@dataclass(slots=True)
class Item:
    """A delivery in a line.

    Attributes:
        parcel: ``None`` while it is in its row alone.
        is_kept: it is in a row.
        due_at: epoch seconds of the next attempt.
    """

    parcel: Parcel | None
    size_bytes: int
    is_kept: bool = False
    attempts: int = 0
    due_at: float = -math.inf

    @property
    def is_news(self) -> bool:
        return self.parcel is not None and self.parcel.event in ("output", "logs")


@dataclass(eq=False, slots=True)
class Line:
    """What one prediction has waiting; the first item is the one being delivered."""

    prediction_id: PredictionId
    items: deque[Item] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None
    is_posting: bool = False
    is_resting: bool = False


@dataclass(eq=False, slots=True)
class Lane:
    """What one scope has waiting: its lines, the oldest first."""

    place: Place
    posts: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_POSTS_PER_SCOPE))
    lines: OrderedDict[PredictionId, Line] = field(default_factory=OrderedDict)
    waiting: int = 0
    waiting_bytes: int = 0

    def has_room(self, size_bytes: int) -> bool:
        """Whether one more may wait. One alone always may, whatever its size."""
        if self.waiting == 0:
            return True
        is_few = self.waiting < MAX_WAITING_PER_SCOPE
        return is_few and self.waiting_bytes + size_bytes <= MAX_WAITING_BYTES_PER_SCOPE

    def reserve(self, size_bytes: int) -> None:
        """Count one that waits from now on."""
        self.waiting += 1
        self.waiting_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """It waits no more."""
        self.waiting -= 1
        self.waiting_bytes -= size_bytes

    def line(self, prediction_id: PredictionId) -> Line:
        """The line of a prediction, a new one if need be."""
        line = self.lines.get(prediction_id)
        if line is None:
            line = self.lines[prediction_id] = Line(prediction_id)
        return line

    def replace_news(self, prediction_id: PredictionId, item: Item) -> bool:
        """Put ``item`` in the place of older news that have not been begun; whether there were such."""
        line = self.lines.get(prediction_id)
        if line is None:
            return False
        for index in range(1, len(line.items)):
            if line.items[index].is_news:
                self.release(line.items[index].size_bytes)
                self.reserve(item.size_bytes)
                line.items[index] = item
                return True
        return False

    def oldest_resting(self) -> Line | None:
        """The oldest line whose delivery has failed and waits for its next attempt."""
        return next((line for line in self.lines.values() if line.is_resting), None)

    def close(self, line: Line) -> None:
        """Forget a line and what is in it."""
        while line.items:
            self.release(line.items.popleft().size_bytes)
        if self.lines.get(line.prediction_id) is line:
            del self.lines[line.prediction_id]
