"""When to look again after a run, and when to give up looking. Pure; the caller sleeps."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S, GROWTH, CAP_S = 0.25, 1.5, 2.0
"""Pauses between looks. A change of status begins anew: a quick model is done soon after it starts to work. At the cap
a hundred long runs stay within Replicate's 3000 reads a minute."""

GROWING_S = 0.5
"""Longest pause while the output grows: clients that show a text as it comes look as often."""

MAX_FAILURES = 30
"""Looks in a row that may tell nothing (about a minute) before a run is given up: it costs money already."""

MAX_REFUSALS = 3
"""The same for answers that no waiting mends (401, 403, 404): a few, since a fresh id may not be known everywhere."""


@dataclass(slots=True)
class Pacing:
    """Pauses and patience of one run's looks."""

    _next_s: float = FIRST_S
    _asked_s: float = 0.0
    _failures: int = 0
    _refusals: int = 0

    def pause_s(self) -> float:
        """Seconds until the next look."""
        pause_s = max(self._next_s, self._asked_s)
        self._next_s, self._asked_s = min(self._next_s * GROWTH, CAP_S), 0.0
        return pause_s

    def succeeded(self, *, has_new_status: bool, has_new_output: bool = False) -> None:
        """A look told how the run is."""
        self._failures = self._refusals = 0
        if has_new_status:
            self._next_s = FIRST_S
        elif has_new_output:
            self._next_s = min(self._next_s, GROWING_S)

    def failed(self, *, is_refusal: bool, retry_after_s: float) -> bool:
        """A look told nothing; the next one is ``retry_after_s`` away at least. Says whether to go on."""
        self._failures += 1
        self._refusals = self._refusals + 1 if is_refusal else 0
        self._asked_s = retry_after_s
        return self._failures < MAX_FAILURES and self._refusals < MAX_REFUSALS
