"""How many new runs one caller may cause: a token bucket, as values.

Pure. A bucket holds a minute's worth of runs and fills evenly, so a caller that was quiet may do at once what it may do
in a minute, and never more than twice that in any minute.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is left for one caller.

    Attributes:
        runs: how many it may cause now, a fraction of one included.
        at: when that was so, in seconds of any clock that never goes back.
    """

    runs: float
    at: float


def filled(bucket: Bucket | None, per_minute: int, now: float) -> Bucket:
    """The bucket as it is ``now``; ``None`` is that of a caller who has not been seen, and full."""
    if bucket is None:
        return Bucket(float(per_minute), now)
    passed_s = max(now - bucket.at, 0.0)
    return Bucket(min(bucket.runs + passed_s * per_minute / WINDOW_S, float(per_minute)), max(now, bucket.at))


def take_run(bucket: Bucket | None, per_minute: int, now: float) -> Bucket | float:
    """Take one run out.

    Args:
        per_minute: at least 1.

    Returns:
        The bucket with one run less, or the seconds until there is one.
    """
    full = filled(bucket, per_minute, now)
    if full.runs >= 1.0:
        return Bucket(full.runs - 1.0, full.at)
    return (1.0 - full.runs) * WINDOW_S / per_minute


def is_full(bucket: Bucket, per_minute: int, now: float) -> bool:
    """Whether it says no more than that its caller was not seen, so that it may be forgotten."""
    return filled(bucket, per_minute, now).runs >= per_minute
