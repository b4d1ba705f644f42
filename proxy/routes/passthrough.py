"""Everything that Hotplate does not handle itself goes to the first Replicate upstream, any method, uncached.

Hop-by-hop headers, cookies and framing stay behind; the caller's credential goes along.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator

from proxy.core.errors import NotFound, Unauthenticated
from proxy.routes.exchange import PRIVATE, ClientGone, Exchange
from proxy.services import Services
from proxy.upstreams.base import RelayRequest, Upstream

FORWARDED_HEADERS = frozenset(
    {"accept", "accept-language", "cache-control", "cancel-after", "content-type", "prefer", "range", "user-agent"}
)
"""Request headers that an upstream gets; the credential is added from ``Credential``."""


class Passthrough:
    """The handler of last resort."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def handle(self, exchange: Exchange) -> None:
        """Pass the request on with its body as it arrives."""
        exchange.note.outcome = "relay"
        await self.relay(exchange, self._services.catalog.relay(), None, detail="uncached")

    async def relay(self, exchange: Exchange, upstream: Upstream, body: bytes | None, *, detail: str) -> None:
        """Pass the request on to ``upstream``; ``body`` when it was read already.

        Raises:
            Unauthenticated: the credential is one of Hotplate's own, which is nobody else's business.
            NotFound: no upstream takes such requests.
        """
        credential = exchange.credential()
        if credential is not None and self._services.gatekeeper.is_own(credential):
            raise Unauthenticated("this token is for models of this proxy's own")
        exchange.note.upstream = upstream.name
        raw_path = (exchange.scope.get("raw_path") or exchange.scope["path"].encode()).split(b"?")[0].decode("latin-1")
        if ".." in raw_path.split("/") or not raw_path.isascii():
            raise NotFound("The requested resource could not be found.")
        has_body = body is not None or "content-length" in exchange.headers or "transfer-encoding" in exchange.headers
        request = RelayRequest(
            method=exchange.method,
            path=raw_path,
            query=exchange.scope["query_string"].decode("latin-1"),
            headers=[(name, value) for name, value in exchange.headers.items() if name in FORWARDED_HEADERS],
            body=_known(body) if body is not None else _arriving(exchange),
            has_body=has_body,
        )
        response = await upstream.relay(request, credential)
        try:
            headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
            headers = [pair for pair in headers if pair[0] != b"cache-control"]
            status = f"Hotplate; fwd=bypass; fwd-status={response.status}; detail={detail}"
            await exchange.start(response.status, [*headers, PRIVATE, (b"cache-status", status.encode())])
            async for chunk in response.body:
                await exchange.write(chunk, more=True)
            await exchange.write(b"")
        finally:
            if response.aclose is not None:
                closing = response.aclose()
                if inspect.isawaitable(closing):
                    with contextlib.suppress(Exception):
                        await closing


async def _known(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _arriving(exchange: Exchange) -> AsyncIterator[bytes]:
    while True:
        message = await exchange.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        if chunk := message.get("body", b""):
            yield chunk
        if not message.get("more_body", False):
            return
