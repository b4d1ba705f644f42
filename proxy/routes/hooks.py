"""Where Replicate-compatible APIs post how runs go, on the public listener: ``POST /_hotplate/hooks/{token}``.

No credential is asked for: the address cannot be guessed and ends with the run, and each post must be signed with the
account's secret. See ``upstreams/hook_desk``.
"""

from __future__ import annotations

import asyncio

from proxy.core.errors import BadRequest
from proxy.routes.exchange import Exchange
from proxy.upstreams.hook_desk import MAX_POST_BYTES, HookDesk

POST_TIMEOUT_S = 10.0
"""Few posts are read at once, so none may take its time."""


class HookPosts:
    """The handler of the desk's posts."""

    def __init__(self, desk: HookDesk) -> None:
        self._desk = desk

    async def post(self, exchange: Exchange) -> None:
        """Take one; one for no run under way is 404, and its body is not read. One that is not signed well is 401."""
        with self._desk.reading(exchange.params["token"]) as line:
            try:
                async with asyncio.timeout(POST_TIMEOUT_S):
                    body = await exchange.body(MAX_POST_BYTES)
            except TimeoutError as error:
                raise BadRequest("the post took too long") from error
            await self._desk.take(line, exchange.headers, body)
        await exchange.respond(204, [], b"")
