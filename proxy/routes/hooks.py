"""Where Replicate-compatible APIs post how runs go, on the public listener: ``POST /_hotplate/hooks/{token}``.

No credential is asked for: the address cannot be guessed and ends with the run, and each post must be signed with the
account's secret. See ``upstreams/hook_desk``.
"""

from __future__ import annotations

from proxy.routes.exchange import Exchange
from proxy.upstreams.hook_desk import MAX_POST_BYTES, HookDesk


class HookPosts:
    """The handler of the desk's posts."""

    def __init__(self, desk: HookDesk) -> None:
        self._desk = desk

    async def post(self, exchange: Exchange) -> None:
        """Take one; one for no run under way is 404, and its body is not read. One that is not signed well is 401."""
        with self._desk.reading(exchange.params["token"]) as line:
            body = await exchange.body(MAX_POST_BYTES)
            await self._desk.take(line, exchange.headers, body)
        await exchange.respond(204, [], b"")
