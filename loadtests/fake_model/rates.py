"""How many creates an account may make in a window of time."""

from __future__ import annotations

import math
import time

from loadtests.fake_model.web import Problem
from loadtests.fake_model.world import World


class Rates:
    """Counts creates by account, in windows that begin with an account's first create."""

    def __init__(self, world: World) -> None:
        self._world = world

    def take(self, account: str) -> dict[str, str]:
        """Headers of an answer to one create more.

        Raises:
            Problem: 429, the window is used up.
        """
        limit, window_s, now = self._world.options.rate_limit, self._world.options.rate_window_s, time.time()
        if limit is None:
            return {"ratelimit-remaining": "599", "ratelimit-reset": "1"}
        began_at, used = self._world.windows.get(account, (now, 0))
        if now - began_at >= window_s:
            began_at, used = now, 0
        reset = str(max(math.ceil(began_at + window_s - now), 1))
        if used >= limit:
            self._world.counts["throttled"] += 1
            headers = {"retry-after": reset, "ratelimit-remaining": "0", "ratelimit-reset": reset}
            raise Problem(429, f"Request was throttled. Your rate limit resets in ~{reset}s.", headers=headers)
        self._world.windows[account] = (began_at, used + 1)
        return {"ratelimit-remaining": str(limit - used - 1), "ratelimit-reset": reset}
