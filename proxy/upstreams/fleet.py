"""How many copies of a local model there should be. Pure.

The first run in line starts a copy. Another is started when more runs wait than the copies there are (booting ones
included) can take next, or when the first in line has waited longer than a boot lately took: then a boot at its arrival
would have been the quicker way. A copy without work for ``idle_timeout_s`` is stopped.

After a failed start nothing is started for a while, twice as long each time; whoever comes meanwhile gets the same
failure at once instead of another wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

FIRST_BACKOFF_S = 2.0
MAX_BACKOFF_S = 10.0


@dataclass(frozen=True, slots=True)
class CopyView:
    """What matters of a copy here.

    Attributes:
        phase: booting, at work, without work, or being stopped (its memory is not free yet).
        is_outdated: it runs a build that is not described any more.
        idle_s: for how long it has had no work.
    """

    id: str
    phase: Literal["coming", "working", "idle", "going"]
    is_outdated: bool = False
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What to do now: start ``starts`` copies, stop ``stops``, and plan again after ``again_s`` (``None``: no need)."""

    starts: int
    stops: tuple[str, ...]
    again_s: float | None


def plan_fleet(
    copies: Sequence[CopyView],
    *,
    waiting: int,
    head_waited_s: float,
    max_copies: int,
    idle_timeout_s: float,
    last_boot_s: float,
    may_start: bool,
) -> FleetPlan:
    """Decide.

    Args:
        waiting: runs in line.
        head_waited_s: for how long the first of them has waited.
        last_boot_s: how long the latest boot took.
        may_start: no failed start is in the way.
    """
    stops = {copy.id for copy in copies if copy.is_outdated and copy.phase in ("coming", "idle")}
    stops |= {copy.id for copy in copies if copy.phase == "idle" and copy.idle_s >= idle_timeout_s}
    useful = [copy for copy in copies if copy.phase != "going" and copy.id not in stops and not copy.is_outdated]
    room = max_copies - len(copies)
    again = [idle_timeout_s - copy.idle_s for copy in useful if copy.phase == "idle"]
    starts = max(0, waiting - len(useful))
    if waiting and not starts and room > 0 and not any(copy.phase == "coming" for copy in useful):
        starts = int(head_waited_s >= last_boot_s)
        again.append(last_boot_s - head_waited_s if not starts else 1.0)
    return FleetPlan(min(starts, room) if may_start and room > 0 else 0, tuple(sorted(stops)), min(again, default=None))


@dataclass(slots=True)
class Breaker:
    """Holds back starts after one failed."""

    reason: str | None = None
    _until: float = float("-inf")
    _backoff_s: float = FIRST_BACKOFF_S

    def fail(self, reason: str, now: float) -> None:
        """A start failed."""
        self.reason = reason
        if self.is_open(now):
            return  # a second copy, started together with the first
        self._until = now + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)

    def succeed(self) -> None:
        """A start succeeded."""
        self.reason = None
        self._until = float("-inf")
        self._backoff_s = FIRST_BACKOFF_S

    def is_open(self, now: float) -> bool:
        """Whether starts are held back."""
        return now < self._until
