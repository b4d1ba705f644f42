"""Where Cog servers post how runs go, on the admin listener: ``POST /_hotplate/progress/{token}``.

Not behind the admin token, which model servers do not have: the address itself cannot be guessed, ends with the run,
and nothing that is posted there becomes a result. See ``upstreams/news_desk``.
"""

from __future__ import annotations

from proxy.routes.exchange import Exchange
from proxy.upstreams.news_desk import MAX_POST_BYTES, NewsDesk


class ProgressPosts:
    """The handler of the desk's posts."""

    def __init__(self, desk: NewsDesk) -> None:
        self._desk = desk

    async def post(self, exchange: Exchange) -> None:
        """Take one; one for no run under way is 404, and its body is not read."""
        exchange.note.outcome, exchange.note.is_quiet = "admin", True
        with self._desk.reading(exchange.params["token"]) as hearing:
            body = await exchange.body(MAX_POST_BYTES)
        hearing.take(body)
        await exchange.respond(204, [], b"")
