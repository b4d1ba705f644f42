"""Opening the stream of a run at a Replicate-compatible API.

Where it is, the API's answer says, and it need not be the API's own host. So there are two ways: at the API's own
origin it is asked as everything else is there, with the caller's credential; anywhere else it goes through ``Egress``,
by its rules and without a credential. Replicate's own JavaScript client reads streams without one, so none is needed;
and an origin that the operator named for outputs may be any bucket.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx

from proxy.core.errors import UpstreamUnavailable
from proxy.core.outputs import OutputAccess
from proxy.core.sse import CONTENT_TYPE
from proxy.upstreams.addresses import Origin, parse_location
from proxy.upstreams.base import RelayResponse
from proxy.upstreams.egress import Egress, EgressFailed, EgressLimits, EgressRefused
from proxy.upstreams.http import pass_on
from proxy.upstreams.relay import stream_body, translate

IDLE_TIMEOUT_S = 600.0
"""Longest silence: a model that boots, or thinks, says nothing for minutes. The end of a run ends its stream here
anyway."""

TOTAL_TIMEOUT_S = 2400.0
"""Runs are cut at 30 minutes; before that they wait for a machine."""

MAX_STREAM_BYTES = 256 * 1024**2

_EVENT_ID = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")
_LIMITS = EgressLimits(idle_timeout_s=IDLE_TIMEOUT_S, total_timeout_s=TOTAL_TIMEOUT_S)


class StreamOpener:
    """Opens streams for the API at ``origin``.

    Args:
        access: names the origins that may be private addresses.
        client: for what is asked of the API itself.
        egress: for everything else.
    """

    def __init__(
        self,
        origin: Origin,
        access: OutputAccess,
        client: httpx.AsyncClient,
        egress: Egress,
        connect_timeout_s: float,
    ) -> None:
        self._origin = origin
        self._access = access
        self._client = client
        self._egress = egress
        self._timeout = httpx.Timeout(IDLE_TIMEOUT_S, connect=connect_timeout_s, pool=None)

    async def open(self, url: str, authorization: dict[str, str], last_event_id: str | None) -> RelayResponse:
        """The stream at ``url``, from after ``last_event_id``; reading its body may raise ``UpstreamUnavailable`` too.

        Raises:
            UpstreamUnavailable, UpstreamTimeout: a rule forbids it, or there is no answer.
        """
        headers = {"accept": CONTENT_TYPE}
        if last_event_id is not None:
            if not _EVENT_ID.fullmatch(last_event_id):
                raise UpstreamUnavailable("The stream's last event has an id that cannot be asked for.")
            headers["last-event-id"] = last_event_id
        try:
            if parse_location(url).origin == self._origin:
                return await self._ask(url, {**headers, **authorization})
            return await self._fetch(url, headers)
        except (EgressRefused, EgressFailed) as error:
            raise UpstreamUnavailable(f"The run's stream cannot be opened ({type(error).__name__}).") from error

    async def _ask(self, url: str, headers: dict[str, str]) -> RelayResponse:
        request = self._client.build_request("GET", url, headers=headers, timeout=self._timeout)
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            raise translate(error) from error
        told = pass_on(response.headers.multi_items(), frozenset())
        return RelayResponse(response.status_code, told, stream_body(response), response.aclose)

    async def _fetch(self, url: str, headers: dict[str, str]) -> RelayResponse:
        async with AsyncExitStack() as stack:
            fetched = await stack.enter_async_context(
                self._egress.open(
                    url, self._access, max_bytes=MAX_STREAM_BYTES, require_listed=False, headers=headers, limits=_LIMITS
                )
            )
            opened = stack.pop_all()
        return RelayResponse(fetched.status, list(fetched.headers.items()), _translated(fetched.chunks), opened.aclose)


async def _translated(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except (EgressRefused, EgressFailed) as error:
        raise UpstreamUnavailable(f"The run's stream broke off ({type(error).__name__}).") from error
