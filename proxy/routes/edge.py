"""What an edge answers itself: hits, and stored files. Everything else, and everything doubtful, goes to the core."""

from __future__ import annotations

from collections.abc import Callable

from proxy.core.errors import HotplateError
from proxy.routes.exchange import Exchange, Handler
from proxy.routes.outputs import Outputs
from proxy.routes.passage import Passage
from proxy.routes.predictions import InPath, Predictions, named_in
from proxy.services import Services

SMALL_BYTES = 256 * 1024
"""A larger create holds a file, most likely, and takes milliseconds to read: it goes on as it comes."""


class EdgeCreates:
    """Creates: hits are answered from the store.

    Args:
        line: over which everything that the core has said is known here; without one nothing is vouched for. What was
            looked up over one is not sent over the next: what changed in between was heard by nobody.
    """

    def __init__(
        self, services: Services, predictions: Predictions, passage: Passage, line: Callable[[], object | None]
    ) -> None:
        self._max_body_bytes = services.settings.limits.max_body_bytes
        self._predictions = predictions
        self._passage = passage
        self._line = line

    def create(self, *, in_path: InPath | None = None) -> Handler:
        """The handler of creates; ``in_path`` is what the path names."""

        async def handle(exchange: Exchange) -> None:
            is_readable = exchange.headers.get("content-encoding", "identity").lower() == "identity"
            if not is_readable or exchange.announced_bytes > SMALL_BYTES:
                await self._passage.handle(exchange)
                return
            body = await exchange.body(self._max_body_bytes)
            line = self._line()
            if line is not None and len(body) <= SMALL_BYTES:
                try:
                    named = named_in(exchange, in_path)
                    if await self._predictions.answer_hit(
                        exchange,
                        body,
                        named,
                        is_deployment=in_path == "deployment",
                        may_send=lambda: self._line() is line,
                    ):
                        return
                except HotplateError:
                    pass  # a wrong request is answered where all is known
            await self._passage.pass_on(exchange, body)

        return handle


class EdgeOutputs(Outputs):
    """Stored files. What is not in the store may be in the core's memory."""

    def __init__(self, services: Services, passage: Passage) -> None:
        super().__init__(services)
        self._passage = passage

    async def _missing(self, exchange: Exchange) -> None:
        await self._passage.handle(exchange)
