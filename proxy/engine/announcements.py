"""What the operator changes while the proxy runs, told to everything that has to act by it.

Every change of state goes through here, so that one that is made in one process can be made in others, too: a handler
gets plain JSON and is told the same thing twice without harm. In a single process the handlers are simply called.

=============  ========================================================================  ========
topic          payload                                                                   is kept
=============  ========================================================================  ========
``bypass``     ``{"since": epoch seconds, or null while the cache is used}``             yes
``policies``   ``{"policies": [the tables of ``[[policy]]``]}``                          yes
``purged``     see ``core/purging.Purge``; told before the results go, and again after   no
=============  ========================================================================  ========
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from storage.records import JsonObject

Topic = Literal["bypass", "policies", "purged"]

Handler: TypeAlias = Callable[[JsonObject], None]

KEPT: frozenset[Topic] = frozenset({"bypass", "policies"})
"""Topics whose last payload says how things are: whoever comes later needs that one alone."""


class Announcements:
    """Calls handlers in the order in which they subscribed. Used from the event loop alone."""

    def __init__(self) -> None:
        self._handlers: dict[Topic, list[Handler]] = {}
        self._latest: dict[Topic, JsonObject] = {}

    def subscribe(self, topic: Topic, handler: Handler) -> None:
        """Call ``handler`` with each payload from now on. It applies the change at once, and raises nothing."""
        self._handlers.setdefault(topic, []).append(handler)

    def announce(self, topic: Topic, payload: JsonObject) -> None:
        """Say it: when this returns, everything in this process acts by it."""
        if topic in KEPT:
            self._latest[topic] = payload
        for handler in self._handlers.get(topic, ()):
            handler(payload)

    def snapshot(self) -> list[tuple[Topic, JsonObject]]:
        """What holds now, for somebody who heard nothing so far."""
        return list(self._latest.items())
