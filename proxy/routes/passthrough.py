"""Everything that Hotplate does not handle itself goes to the first Replicate upstream, any method, uncached.

Hop-by-hop headers, cookies and framing stay behind; the caller's credential goes along. JSON answers come back with
their links pointing here, and this proxy's file addresses in JSON requests go on as the upstream's
(``proxy.core.rewriting``); every other byte passes as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from proxy.core.errors import NotFound
from proxy.core.rewriting import Links
from proxy.engine.observer import Heard
from proxy.routes.exchange import PRIVATE, Exchange, unless_gone
from proxy.services import Services
from proxy.upstreams.base import RelayRequest, RelayResponse, Upstream
from proxy.upstreams.bodies import joined, nothing, only, read_head
from proxy.upstreams.holding import is_lookup
from proxy.upstreams.relay import close

FORWARDED_HEADERS = frozenset(
    {
        "accept",
        "accept-language",
        "cache-control",
        "cancel-after",
        "content-encoding",
        "content-type",
        "prefer",
        "range",
        "user-agent",
    }
)
"""Request headers that an upstream gets; the credential is added from ``Credential``."""

CACHE_NAME = "Hotplate"
"""How this cache calls itself in ``Cache-Status``, RFC 9211."""

MAX_ANSWER_BYTES = 16 * 1024**2
"""A JSON answer up to this is held to look for links; a page of a hundred models with their schemas has a few MB. A
larger one is passed on as it streams."""

MAX_REQUEST_BYTES = 1024**2
"""Likewise for JSON requests, whose bodies are small: settings of models, deployments and trainings."""

LARGE_BYTES = 256 * 1024
"""A body above this is searched in a thread: it takes more than a few milliseconds."""

_OF_THE_BYTES = frozenset({b"content-digest", b"content-length", b"content-md5", b"digest", b"etag", b"repr-digest"})
"""Headers that are true of the upstream's bytes alone."""


class Passthrough:
    """The handler of last resort."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def handle(self, exchange: Exchange, heard: Heard | None = None) -> None:
        """Pass the request on with its body as it arrives; ``heard`` is told what a JSON answer says."""
        exchange.note.outcome = "relay"
        upstream = await self._services.home(exchange.credential()) or self._services.catalog.relay()
        await self.relay(exchange, upstream, None, detail="uncached", heard=heard)

    async def relay(
        self,
        exchange: Exchange,
        upstream: Upstream,
        body: bytes | None,
        *,
        detail: str | Callable[[], str],
        heard: Heard | None = None,
    ) -> None:
        """Pass the request on to ``upstream``; ``body`` when it was read already.

        Args:
            detail: for ``Cache-Status``; one that is not known yet is asked for when the upstream has answered.
            heard: told its status and, of a JSON answer that is held anyway, its body.

        Raises:
            NotFound: no upstream takes such requests, or none may hear of the credential: it is one of Hotplate's own.
            Unauthenticated: the caller is nobody at an upstream whose token Hotplate holds.
        """
        credential = exchange.credential()
        if not upstream.has_accounts:
            self._services.gatekeeper.scope_of(upstream, credential)
            # What the account behind the held token has and may do is no business of any caller.
            if not is_lookup(exchange.method, exchange.raw_path):
                raise NotFound("The requested resource could not be found.")
        elif credential is not None and self._services.gatekeeper.is_own(credential):
            raise NotFound("The requested resource could not be found.")
        exchange.note.upstream = upstream.name
        if ".." in exchange.raw_path.split("/") or not exchange.raw_path.isascii():
            raise NotFound("The requested resource could not be found.")
        has_body = body is not None or "content-length" in exchange.headers or "transfer-encoding" in exchange.headers
        links = Links(self._services.base_url, upstream.api_roots)
        arriving = only(body) if body is not None else exchange.chunks()
        if has_body and _is_json(exchange.headers):
            arriving = await _translated(arriving, links.returned, MAX_REQUEST_BYTES)
        response = await upstream.relay(forward(exchange, arriving if has_body else None), credential)
        try:
            await self._answer(exchange, response, links, detail if isinstance(detail, str) else detail(), heard)
        finally:
            await close(response)

    async def _answer(
        self, exchange: Exchange, response: RelayResponse, links: Links, detail: str, heard: Heard | None
    ) -> None:
        headers: list[tuple[bytes, bytes]] = []
        for name, value in response.headers:
            if name.lower() == "location":
                value = links.local_url(value) or value
            if name.lower() != "cache-control":
                headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))
        headers += [PRIVATE, bypass_status(response, detail)]
        chunks, given = response.body, {name.lower(): value for name, value in response.headers}
        if exchange.method != "HEAD" and response.status != 206 and _is_json(given):
            head, is_whole = await read_head(chunks, MAX_ANSWER_BYTES)
            if is_whole:
                body = await rewritten(head, links.localised)
                if body is not head:
                    headers = [pair for pair in headers if pair[0] not in _OF_THE_BYTES]
                    headers.append((b"content-length", b"%d" % len(body)))
                await exchange.start(response.status, headers)
                await exchange.write(body)
                if heard is not None:
                    heard(response.status, head)
                return
            chunks = joined(head, chunks)
        if heard is not None:
            heard(response.status, b"")
        await exchange.start(response.status, headers)
        # It may be large, or a stream that never ends by itself.
        await unless_gone(exchange, _send(exchange, chunks))


def forward(exchange: Exchange, body: AsyncIterator[bytes] | None, body_bytes: int | None = None) -> RelayRequest:
    """The client's request as it goes on to an upstream; ``body_bytes`` where the length of ``body`` is known.

    What ``Connection`` names was meant for us alone (RFC 9110 section 7.6.1). The credential is not among the headers,
    so that naming it there does not leave it out.
    """
    for_us = {name.strip().lower() for name in exchange.headers.get("connection", "").split(",")}
    passed = FORWARDED_HEADERS - for_us
    return RelayRequest(
        method=exchange.method,
        path=exchange.raw_path,
        query=exchange.query,
        headers=[(name, value) for name, value in exchange.headers.items() if name in passed],
        body=body if body is not None else nothing(),
        has_body=body is not None,
        body_bytes=body_bytes,
    )


def bypass_status(response: RelayResponse, detail: str) -> tuple[bytes, bytes]:
    """The ``Cache-Status`` of an answer that is an upstream's own. Source: RFC 9211."""
    return b"cache-status", f"{CACHE_NAME}; fwd=bypass; fwd-status={response.status}; detail={_item(detail)}".encode()


def _item(text: str) -> str:
    """A token where it is one, else a string. Source: RFC 8941 sections 3.3.3 and 3.3.4."""
    return f'"{text}"' if " " in text else text


def _is_json(headers: dict[str, str]) -> bool:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_plain = headers.get("content-encoding", "identity").strip().lower() in ("", "identity")
    return is_plain and (media_type == "application/json" or media_type.endswith("+json"))


async def _translated(
    chunks: AsyncIterator[bytes], translate: Callable[[bytes], bytes], max_bytes: int
) -> AsyncIterator[bytes]:
    head, is_whole = await read_head(chunks, max_bytes)
    return only(await rewritten(head, translate)) if is_whole else joined(head, chunks)


async def _send(exchange: Exchange, chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        await exchange.write(chunk, more=True)
    await exchange.write(b"")


async def rewritten(body: bytes, translate: Callable[[bytes], bytes]) -> bytes:
    """``body`` translated, a large one in a thread."""
    return translate(body) if len(body) <= LARGE_BYTES else await asyncio.to_thread(translate, body)
