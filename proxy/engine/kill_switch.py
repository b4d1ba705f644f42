"""The operator's switch past the cache: while it is on, every create is a run of its own and nothing of it is kept.

It acts first and is written down then: an emergency waits for no disk. A restart keeps it, and says so.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson
import structlog

from proxy.engine.announcements import Announcements
from proxy.engine.policies import PolicyDesk
from storage.errors import StorageError
from storage.ports import KeyValue
from storage.records import JsonObject

ROW = "bypass"

_log = structlog.get_logger("hotplate.kill_switch")


class KillSwitch:
    """Turns ``PolicyDesk.is_bypassed``."""

    def __init__(
        self, desk: PolicyDesk, notes: KeyValue, announcements: Announcements, now: Callable[[], float]
    ) -> None:
        self._desk = desk
        self._notes = notes
        self._announcements = announcements
        self._now = now
        self.since: float | None = None
        announcements.subscribe("bypass", self._apply)

    @property
    def is_on(self) -> bool:
        """Whether the cache is bypassed now."""
        return self.since is not None

    async def resume(self) -> None:
        """Hold to what was said before the restart. A row that cannot be read was written for a reason: it is on."""
        row = await self._notes.get(ROW)
        if row is None:
            return
        try:
            since = float(orjson.loads(row)["since"])
        except (ValueError, KeyError, TypeError):
            since = self._now()
        self._announcements.announce("bypass", {"since": since})
        _log.warning("cache_is_bypassed", since=since, remedy="hotplate bypass off")

    async def turn(self, *, on: bool) -> bool:
        """Switch it; acts at once. ``False`` if it could not be written down: a restart then forgets it."""
        if on != self.is_on:
            self._announcements.announce("bypass", {"since": self._now() if on else None})
            _log.warning("cache_bypassed" if on else "cache_used_again")
        try:
            if on:
                await self._notes.put(ROW, orjson.dumps({"since": self.since}))
            else:
                await self._notes.remove(ROW)
        except StorageError as error:
            _log.error("bypass_not_written", reason=type(error).__name__)
            return False
        return True

    def hold(self, reason: str) -> None:
        """Switch it on here and at the edges, until somebody switches it off or a restart finds all in order."""
        if not self.is_on:
            self._announcements.announce("bypass", {"since": self._now()})
        _log.error("cache_is_bypassed", reason=reason, remedy="mend it, hotplate reload, hotplate bypass off")

    def _apply(self, payload: JsonObject) -> None:
        self.since = payload["since"]
        self._desk.is_bypassed = self.is_on
