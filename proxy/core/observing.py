"""What the cache would have made of requests that were passed on: verdicts, doubts, and the keys seen so far.

``SeenKeys`` is a cache without results: it knows when the run for a key began and ended, and so whether the next
request for it would have been a hit by the policy's own rules. A *doubt* says why somebody might not want that hit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
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

SILENT_S = 60.0
"""A run of which nothing was heard for so long may have ended: nobody is taken to share it. Clients poll more often."""

MAX_RUN_S = 3600.0
"""A run whose end was not heard of by then is forgotten."""


MAX_PENDING = 32
"""Runs for one key that are under way at once, beyond its pool."""


@dataclass(slots=True, eq=False)
class SeenRun:
    """A run whose result may be stored; epoch seconds.

    Attributes:
        heard_at: when it was last seen under way.
        replaces: what its result takes the place of.
        is_refresh: it was demanded although there may be a result, so nobody shares it.
    """

    began_at: float
    ended_at: float | None = None
    heard_at: float = 0.0
    replaces: SeenRun | None = None
    is_refresh: bool = False

    def is_under_way(self, now: float) -> bool:
        """Whether it can be taken to go on."""
        return self.ended_at is None and now - max(self.began_at, self.heard_at) < SILENT_S


class SeenKeys:
    """Keys by when they were used last, at most ``max_keys``, each with its runs in the order in which they began."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._seen: OrderedDict[PredictionKey, list[SeenRun]] = OrderedDict()

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
        runs = self._runs(key, now, plan.pool)
        hit: Verdict = "would-hit-doubtful" if is_doubtful else "would-hit"

        def is_servable(run: SeenRun) -> bool:
            if run.ended_at is None:
                return False
            return grade(now - run.ended_at, policy, directives, is_pinned=is_pinned) in ("fresh", "revalidate")

        stored = [run for run in runs if is_servable(run)] if plan.may_look_up else []
        if directives.only_if_cached:  # it would have got an error, and no run
            return ("would-miss" if not stored else hit), None
        if not plan.may_look_up:
            return "would-miss", self._begin(runs, SeenRun(now, is_refresh=True), plan.pool, ())
        running = [run for run in runs if not run.is_refresh and run.is_under_way(now)]
        if len(stored) + len(running) < plan.pool:
            return "would-miss", self._begin(runs, SeenRun(now), plan.pool, (*stored, *running))
        if not stored:
            return "would-share", None
        return hit, None

    def _runs(self, key: PredictionKey, now: float, pool: int) -> list[SeenRun]:
        """The runs for a key, without those whose end nobody asked for."""
        runs = self._seen.setdefault(key, [])
        self._seen.move_to_end(key)
        if len(self._seen) > self._max_keys:
            self._seen.popitem(last=False)
        runs[:] = [run for run in runs if run.ended_at is not None or now - run.began_at < MAX_RUN_S][
            -MAX_PENDING - pool :
        ]
        return runs

    @staticmethod
    def _begin(runs: list[SeenRun], run: SeenRun, pool: int, kept: Sequence[SeenRun]) -> SeenRun:
        """A run begins; where all places are taken, its result will replace the oldest that is not among ``kept``."""
        results = [one for one in runs if one.ended_at is not None]
        if len(results) >= pool:
            run.replaces = next((one for one in results if one not in kept), None)
        runs.append(run)
        return run

    def end(self, key: PredictionKey, run: SeenRun, at: float, pool: int) -> None:
        """A run has given a result that would have been stored."""
        run.ended_at = at
        runs = self._seen.get(key)
        if runs is None:
            return
        if run.replaces in runs:
            runs.remove(run.replaces)
        run.replaces = None
        results = [one for one in runs if one.ended_at is not None and one is not run]
        for one in results[: max(len(results) + 1 - pool, 0)]:
            runs.remove(one)

    def drop(self, key: PredictionKey, run: SeenRun) -> None:
        """A run gave nothing that would have been stored."""
        runs = self._seen.get(key)
        if runs is not None and run in runs:
            runs.remove(run)
            if not runs:
                del self._seen[key]
