"""When to look again after a run, and when to give up looking. Pure; the caller sleeps.

Pauses grow from a quarter of a second, and begin anew with each change of status: a quick model is done soon after it
starts to work. What a model's last runs took bends that. While a run cannot be done there are few looks; they close in
on each moment at which one of those runs ended; and beyond the longest of them they thin out again.

A run that the API has taken costs money already. So a look that tells nothing never ends it, however long the API is
away: the pauses grow, and the run's own deadline is the end. Only a refusal, which no waiting mends, ends it earlier.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

FIRST_S, GROWTH, CAP_S = 0.25, 1.5, 2.0
"""Pauses between looks at a run of which nothing is known."""

GROWING_S = 0.5
"""Longest pause while the output grows: clients that show a text as it comes look as often."""

LOOKS_PER_S, CROWD_CAP_S = 40.0, 15.0
"""Looks that one account may make, a fifth below Replicate's 3000 reads a minute: with more than ``CAP_S`` times as
many runs on their way, the longest pause grows with their number, up to ``CROWD_CAP_S``."""

EARLY_UNTIL, EARLY_PART, EARLY_CAP_S = 0.8, 0.1, 5.0
"""Up to which part of the quickest of the last runs a run cannot be done, the pause until then as a part of the same
time, and its bound. One that is quicker all the same is noticed later by that part of their time at most."""

CLOSE_PART = 0.02
"""Pause around the moments at which runs usually end, as a part of their time: 1.2 s for a run of a minute."""

FAILED_FIRST_S, FAILED_GROWTH, FAILED_CAP_S = 0.5, 2.0, 15.0
"""Pauses after looks that told nothing. At the cap, the end of an outage is noticed soon, and five hundred runs do not
keep down an API that is getting up."""

MAX_REFUSALS = 4
"""Answers in a row that no waiting mends (401, 403, 404) before a run is given up. Not at the first: a fresh id may not
be known everywhere, and what stands before an API may refuse for a second or two while it restarts."""

TOLD_S = 30.0
"""Pause while the API tells by webhooks how the run goes: a fallback for those that get lost."""

TOLD_GRACE = 1.1
"""With webhooks, one look more is taken when the longest of the last runs would have ended, and a tenth."""

RECENT_RUNS, LEAST_RUNS = 16, 3
"""Of how many runs the times are kept, and with how many a model is known."""

MAX_MODELS = 2000


@dataclass(frozen=True, slots=True)
class Usual:
    """What is known of a model's runs.

    Attributes:
        ends_s: seconds from start to end of the last runs, ascending, at least one.
        shows_output: their output could be seen before the end: then looks are never few.
    """

    ends_s: Sequence[float]
    shows_output: bool = False

    @property
    def quickest_s(self) -> float:
        return self.ends_s[0]

    @property
    def longest_s(self) -> float:
        return self.ends_s[-1]

    def next_end_s(self, age_s: float) -> float | None:
        """The first of the moments of ends that is not over at ``age_s``."""
        place = bisect_left(self.ends_s, age_s)
        return self.ends_s[place] if place < len(self.ends_s) else None


@dataclass(slots=True)
class _Memory:
    ends_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_RUNS))
    shows_output: bool = False


class UsualTimes:
    """What the last runs of each model took; of ``MAX_MODELS``, those used last."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, _Memory] = OrderedDict()

    def __len__(self) -> int:
        return len(self._models)

    def learn(self, model: str, end_s: float, *, shows_output: bool) -> None:
        """A run of ``model`` succeeded, ``end_s`` seconds after its start."""
        memory = self._models.setdefault(model, _Memory())
        self._models.move_to_end(model)
        memory.ends_s.append(end_s)
        memory.shows_output = shows_output
        if len(self._models) > MAX_MODELS:
            self._models.popitem(last=False)

    def of(self, model: str) -> Usual | None:
        """What is known of ``model``; ``None`` as long as that is too little."""
        memory = self._models.get(model)
        if memory is None or len(memory.ends_s) < LEAST_RUNS:
            return None
        self._models.move_to_end(model)
        return Usual(tuple(sorted(memory.ends_s)), memory.shows_output)


def longest_pause_s(crowd: int) -> float:
    """The cap of pauses when an account has ``crowd`` runs on their way."""
    return min(max(CAP_S, crowd / LOOKS_PER_S), CROWD_CAP_S)


def _bent_s(pause_s: float, age_s: float, usual: Usual) -> float:
    """A pause as what is known of the model has it."""
    if age_s < usual.quickest_s * EARLY_UNTIL and not usual.shows_output:
        pause_s = max(pause_s, min(usual.quickest_s * EARLY_PART, EARLY_CAP_S))
    end_s = usual.next_end_s(age_s)
    if end_s is None:
        end_s = usual.longest_s
    close_s = min(max(end_s * CLOSE_PART, FIRST_S), CAP_S)
    return min(pause_s, max(abs(end_s - age_s) / 2, close_s))


@dataclass(slots=True)
class Pacing:
    """Pauses and patience of one run's looks.

    Attributes:
        usual: what is known of the model.
        spread: a number from 0 to 1, another for each run: pauses of what failed together differ by a quarter.
    """

    usual: Usual | None = None
    spread: float = 0.0
    _waited_s: float = 0.0
    _asked_s: float = 0.0
    _failures: int = 0
    _refusals: int = 0

    def pause_s(self, age_s: float | None = None, *, crowd: int = 1, is_told: bool = False) -> float:
        """Seconds until the next look.

        Args:
            age_s: seconds since the model began to work on the run, ``None`` while it has not.
            crowd: runs of the same account that are on their way.
            is_told: webhooks tell how the run goes.
        """
        asked_s, self._asked_s = self._asked_s, 0.0
        if self._failures:
            return max(asked_s, self._after_failure_s())
        if is_told:
            return max(asked_s, self._told_s(age_s))
        # Each pause is GROWTH times the one before: written by the time that has gone by, so that looks which were
        # taken in between do not make later ones rarer.
        pause_s = min(FIRST_S + self._waited_s * (GROWTH - 1), longest_pause_s(crowd))
        if age_s is not None and self.usual is not None:
            pause_s = _bent_s(pause_s, age_s, self.usual)
        self._waited_s += pause_s
        return max(asked_s, pause_s)

    def _told_s(self, age_s: float | None) -> float:
        if age_s is None or self.usual is None:
            return TOLD_S
        left_s = self.usual.longest_s * TOLD_GRACE + FIRST_S - age_s
        return min(left_s, TOLD_S) if left_s > 0 else TOLD_S

    def _after_failure_s(self) -> float:
        pause_s = FAILED_FIRST_S * FAILED_GROWTH ** min(self._failures - 1, 16)
        return min(pause_s, FAILED_CAP_S) * (1 + self.spread / 4)

    def succeeded(self, *, has_new_status: bool, has_new_output: bool = False) -> None:
        """A look told how the run is."""
        self._failures = self._refusals = 0
        if has_new_status:
            self._waited_s = 0.0
        elif has_new_output:
            self._waited_s = min(self._waited_s, (GROWING_S - FIRST_S) / (GROWTH - 1))

    def failed(self, *, is_refusal: bool, retry_after_s: float) -> bool:
        """A look told nothing; the next one is ``retry_after_s`` away at least. Says whether to go on."""
        self._failures += 1
        self._refusals = self._refusals + 1 if is_refusal else 0
        self._asked_s = retry_after_s
        return self._refusals < MAX_REFUSALS


@dataclass(slots=True)
class Turnstile:
    """Lets looks pass one after another, ``EVERY_S`` apart.

    Runs that were created together would be looked at together, and hundreds of looks in one step of the event loop
    hold up everybody for that long.
    """

    EVERY_S = 0.0025

    _free_at: float = float("-inf")

    def wait_s(self, now: float) -> float:
        """Seconds that a look which is due at ``now`` has to wait; its place is taken with that."""
        at = max(now, self._free_at)
        self._free_at = at + self.EVERY_S
        return at - now


class Crowds:
    """How many runs of each account are being looked at."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def enter(self, account: str) -> None:
        self._counts[account] = self._counts.get(account, 0) + 1

    def leave(self, account: str) -> None:
        self._counts[account] -= 1
        if not self._counts[account]:
            del self._counts[account]

    def count(self, account: str) -> int:
        return self._counts.get(account, 0)
