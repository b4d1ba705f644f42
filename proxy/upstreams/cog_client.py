"""Calls to Cog servers over HTTP. Every way in which a call can end is a value; only cancellation is raised.

A connection of its own for each call: a kept one may be closed by the server at the moment of sending, and a run
that *may* have begun cannot be told from one that did not. Beside a model's run, a handshake costs nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx
import orjson

from proxy.core.errors import UpstreamUnavailable
from proxy.upstreams.cog_news import Wish
from proxy.upstreams.cog_wire import (
    Answer,
    Away,
    Declined,
    Health,
    Lost,
    NotCog,
    Unreached,
    prediction_body,
    read_answer,
    read_health,
)
from proxy.upstreams.http import AiohttpTransport, open_client
from storage.records import JsonObject

MAX_ANSWER_BYTES = 256 * 1024**2
"""Outputs come as data URLs inside one JSON document: room for some dozen large pictures, and an end to memory."""

CONNECT_S = 3.0
LOOK_S = 5.0
"""For a health check as a whole; the model's own check may take part of it."""

_LOOK_TIMEOUT = httpx.Timeout(LOOK_S, connect=CONNECT_S)

CANCEL_S = 2.0


@dataclass(frozen=True, slots=True)
class Spoken:
    """The server's OpenAPI document; ``None`` where it has none to give (503: built without one)."""

    openapi: JsonObject | None


class CogClient:
    """Speaks to any Cog server; base URLs come without a slash at the end."""

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = open_client(transport or AiohttpTransport(reuses_connections=False))

    async def predict(self, base_url: str, run_id: str, given: JsonObject, wish: Wish | None = None) -> Answer:
        """Run a prediction to its end, however long that takes. Cancelling drops the connection.

        ``wish``: what the server is to tell meanwhile, and where.
        """
        timeout = httpx.Timeout(None, connect=CONNECT_S)
        headers = {"content-type": "application/json", "accept": "application/json"}
        try:
            async with self._http.stream(
                "POST",
                f"{base_url}/predictions",
                content=prediction_body(run_id, given, wish),
                headers=headers,
                timeout=timeout,
            ) as response:
                body = await _read(response, MAX_ANSWER_BYTES)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Unreached(_why(error))
        except (httpx.TransportError, httpx.InvalidURL) as error:
            return Lost(_why(error))
        if body is None:
            return Declined(UpstreamUnavailable(f"The model's answer is larger than {MAX_ANSWER_BYTES >> 20} MiB."))
        return read_answer(response.status_code, body)

    async def cancel(self, base_url: str, run_id: str) -> None:
        """Ask the server to stop a run. Whether it heard shows in the run's own answer."""
        try:
            async with asyncio.timeout(CANCEL_S):
                await self._http.post(f"{base_url}/predictions/{run_id}/cancel", timeout=CANCEL_S)
        except (TimeoutError, httpx.HTTPError):
            pass

    async def health(self, base_url: str) -> Health | Away:
        """One health check."""
        try:
            async with asyncio.timeout(LOOK_S):
                response = await self._http.get(f"{base_url}/health-check", timeout=_LOOK_TIMEOUT)
            return read_health(response.status_code, response.content)
        except httpx.ConnectError as error:
            return Away(_why(error), "refused")
        except httpx.ConnectTimeout as error:
            return Away(_why(error), "unreachable")
        except (TimeoutError, httpx.HTTPError, NotCog) as error:
            return Away(_why(error), "mute")

    async def openapi(self, base_url: str) -> Spoken | Away:
        """The server's OpenAPI document."""
        try:
            async with asyncio.timeout(LOOK_S):
                response = await self._http.get(f"{base_url}/openapi.json", timeout=_LOOK_TIMEOUT)
            if response.status_code == 503:
                return Spoken(None)
            document = orjson.loads(response.content)
        except (TimeoutError, httpx.HTTPError, orjson.JSONDecodeError) as error:
            return Away(_why(error), "mute")
        if response.status_code != 200 or not isinstance(document, dict):
            return Away(f"/openapi.json answered {response.status_code}", "mute")
        return Spoken(document)

    async def aclose(self) -> None:
        """Close what is open; runs under way are dropped."""
        await self._http.aclose()


async def _read(response: httpx.Response, limit: int) -> bytes | None:
    chunks, size = [], 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _why(error: Exception) -> str:
    """A short reason without the server's address: it goes into error texts that clients see."""
    match error:
        case httpx.ConnectTimeout():
            return "no connection in time"
        case httpx.ConnectError():
            return "cannot connect"
        case httpx.TimeoutException() | TimeoutError():
            return "no answer in time"
        case NotCog():
            return str(error)
        case _:
            return "connection lost"
