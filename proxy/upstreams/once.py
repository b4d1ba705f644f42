"""Questions that are asked once for all who want the answer meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class AskedOnce(Generic[K, V]):
    """Questions on their way, by name. Used from one event loop alone.

    A question is a task of its own: whoever stops waiting for it, the first one included, stops it for nobody.
    """

    def __init__(self) -> None:
        self._asking: dict[K, asyncio.Task[V]] = {}

    async def ask(self, name: K, question: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The answer to the question that is on its way under ``name``, else to ``question``; or what it raises."""
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(question())
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        return await asyncio.shield(task)
