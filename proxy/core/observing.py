"""What the cache would have made of requests that were passed on: verdicts, doubts, and the keys seen so far.

``SeenKeys`` is a cache without results: it knows when the run for a key began and ended, and so whether the next
request for it would have been a hit by the policy's own rules. A *doubt* says why somebody might not want that hit.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal, get_args

from proxy.core.cache_control import Directives
from proxy.core.policy import Cached, Policy, grade
from storage.digest import PredictionKey

Verdict = Literal["would-hit", "would-hit-doubtful", "would-share", "would-miss", "would-bypass", "refused", "unknown"]
"""``refused``: the upstream took no run. ``unknown``: no key could be made, or nobody waited for the upstream."""

Doubt = Literal["seedless", "hidden-version", "url-input"]
"""Why a hit is doubtful: the input has no seed, so the caller may want another answer each time; the model does not
tell its version, so it may have changed; the input holds the URL of a file, which may have changed."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
DOUBTS: tuple[Doubt, ...] = get_args(Doubt)

SAVED: frozenset[Verdict] = frozenset({"would-hit", "would-hit-doubtful", "would-share"})
"""Verdicts of requests whose runs would not have been made."""

MAX_KEYS = 100_000

MAX_RUN_S = 3600.0
"""A run whose end nobody asked for is not waited for any longer."""


@dataclass(slots=True, eq=False)
class SeenRun:
    """A run whose result would have been stored; epoch seconds."""

    began_at: float
    ended_at: float | None = None


@dataclass(slots=True)
class _Seen:
    runs: list[SeenRun] = field(default_factory=list)


class SeenKeys:
    """Keys by when they were used last, at most ``max_keys``."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._seen: OrderedDict[PredictionKey, _Seen] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def judge(
        self,
        key: PredictionKey,
        plan: Cached,
        policy: Policy,
        directives: Directives,
        now: float,
        *,
        is_pinned: bool,
        is_doubtful: bool,
    ) -> tuple[Verdict, SeenRun | None]:
        """What would have become of a request, and the run that it makes where that may be stored.

        A pool is taken to serve what it has as soon as all its places are taken.
        """
        seen = self._seen.setdefault(key, _Seen())
        self._seen.move_to_end(key)
        if len(self._seen) > self._max_keys:
            self._seen.popitem(last=False)
        if not plan.may_look_up:
            run = SeenRun(now)
            # The oldest of a pool makes room for what replaces it.
            seen.runs = [*seen.runs[-(plan.pool - 1) :], run] if plan.pool > 1 else [run]
            return "would-miss", run

        def is_servable(run: SeenRun) -> bool:
            if run.ended_at is None:
                return False
            return grade(now - run.ended_at, policy, directives, is_pinned=is_pinned) in ("fresh", "revalidate")

        stored = [run for run in seen.runs if is_servable(run)]
        running = [run for run in seen.runs if run.ended_at is None and now - run.began_at < MAX_RUN_S]
        if len(stored) + len(running) < plan.pool:
            run = SeenRun(now)
            seen.runs = [*stored, *running, run]
            return "would-miss", run
        if not stored:
            return "would-share", None
        return "would-hit-doubtful" if is_doubtful else "would-hit", None

    def drop(self, key: PredictionKey, run: SeenRun) -> None:
        """A run gave nothing that would have been stored."""
        seen = self._seen.get(key)
        if seen is not None and run in seen.runs:
            seen.runs.remove(run)
            if not seen.runs:
                del self._seen[key]


def cost(policy: Policy, seconds: float, outputs: int) -> float:
    """Price of a run by the policy, in the operator's currency."""
    return policy.price_per_second * seconds + policy.price_per_output * outputs
