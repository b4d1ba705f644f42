"""Single exchanges with a Replicate-compatible API: create, look, cancel, account, reachability.

**A create is sent once.** It goes over a connection of its own, and is repeated only when that connection did not come
about, so that not a byte of it can have been read. Whatever goes wrong after that is an error to the caller, who may
spend twice knowingly; this module never does.

Credentials go to the API's root and nowhere else: paths are built here from ids, the URLs inside of answers are never
asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import orjson

from proxy.core.errors import Unauthenticated, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from proxy.upstreams.base import Credential, Job
from proxy.upstreams.http import TOLD_HEADERS, allow
from proxy.upstreams.relay import translate
from proxy.upstreams.replicate_documents import (
    create_body,
    create_path,
    is_answered_early,
    parse_prediction,
    retry_after_s,
    wait_s,
)
from storage.records import JsonObject

CREATE_TRIES = 2
CREATE_MARGIN_S = 60.0
"""Beyond what ``Prefer: wait`` asks for: the API validates, and queues under load, before it answers."""

LOOK_TIMEOUT_S = 20.0
CHECK_TIMEOUT_S = 5.0
CANCEL_TIMEOUT_S = 5.0
READINESS_TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 64 * 1024**2
"""A prediction whose output came as ``data:`` URLs is large; beyond this it is no answer."""

PASSING = frozenset({408, 425, 429})
"""Statuses below 500 that say nothing of what was asked, only of now."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: httpx.Headers
    content: bytes

    @property
    def is_ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Created:
    """A run that the API took.

    Attributes:
        prediction: the answer to its create.
        has_all_files: the API was asked to wait and answered before the end, because the output is whole.
    """

    prediction: JsonObject
    has_all_files: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """A look that told nothing.

    Attributes:
        error: what it becomes when there are too many.
        is_refusal: no waiting mends it.
        retry_after_s: pause that the API asked for.
    """

    error: UpstreamTimeout | UpstreamUnavailable
    is_refusal: bool = False
    retry_after_s: float = 0.0


class ReplicateClient:
    """Speaks to the API at ``root``.

    Args:
        reads: for what may be repeated.
        writes: for what may not; its transport must not keep connections.
    """

    def __init__(
        self,
        root: str,
        reads: httpx.AsyncClient,
        writes: httpx.AsyncClient,
        connect_timeout_s: float,
        now: Callable[[], float],
    ) -> None:
        self._root = root
        self._reads = reads
        self._writes = writes
        self._connect_timeout_s = connect_timeout_s
        self._now = now

    async def create(self, job: Job, authorization: dict[str, str], hook: str | None = None) -> Created:
        """The prediction that ``job`` became; ``hook`` is where we want to hear how it goes.

        Raises:
            UpstreamRefused: the API says no (4xx, 5xx).
            UpstreamUnavailable, UpstreamTimeout: no readable answer; unless connecting failed, it may run.
        """
        path, body, waits_s = create_path(job.target), create_body(job, hook), wait_s(job)
        headers = {**authorization, "content-type": "application/json", "accept": "application/json"}
        if waits_s:
            headers["prefer"] = f"wait={waits_s}"
        for tries_left in reversed(range(CREATE_TRIES)):
            try:
                answer = await self._exchange(
                    self._writes, "POST", path, headers, content=body, limit_s=waits_s + CREATE_MARGIN_S
                )
                break
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if not tries_left:
                    raise translate(error) from error
            except httpx.TransportError as error:
                raise translate(error) from error
        if answer.status >= 400:
            raise UpstreamRefused(answer.status, allow(answer.headers.items(), TOLD_HEADERS), answer.content)
        try:
            if not answer.is_ok:
                raise ValueError(f"status {answer.status}")
            prediction = parse_prediction(answer.content)
            # 202 means that the wait ran out: what is there then may be a part.
            is_early = waits_s > 0 and answer.status != 202 and is_answered_early(prediction)
            return Created(prediction, is_early)
        except ValueError as error:
            raise UpstreamUnavailable(f"The model service answered a create with no prediction ({error}).") from error

    async def look(self, prediction_id: str, authorization: dict[str, str]) -> JsonObject | Trouble:
        """The prediction as it is now."""
        path = f"/predictions/{prediction_id}"
        try:
            answer = await self._exchange(self._reads, "GET", path, authorization, limit_s=LOOK_TIMEOUT_S)
        except httpx.TransportError as error:
            return Trouble(translate(error))
        if answer.is_ok:
            with contextlib.suppress(ValueError):
                prediction = parse_prediction(answer.content)
                if prediction["id"] == prediction_id:
                    return prediction
            return Trouble(UpstreamUnavailable("The model service's answers cannot be read."))
        return Trouble(
            UpstreamUnavailable(f"The model service answers {answer.status} for a run that it took."),
            answer.status < 500 and answer.status not in PASSING,
            retry_after_s(answer.headers, self._now()),
        )

    async def cancel(self, prediction_id: str, authorization: dict[str, str]) -> JsonObject | None:
        """Ask for a cancellation, once; the prediction as it is by then, ``None`` where that is not told."""
        path = f"/predictions/{prediction_id}/cancel"
        with contextlib.suppress(httpx.TransportError, ValueError):
            answer = await self._exchange(self._writes, "POST", path, authorization, limit_s=CANCEL_TIMEOUT_S)
            return parse_prediction(answer.content) if answer.is_ok else None
        return None

    async def account(self, authorization: dict[str, str]) -> Answer | None:
        """The answer about the account behind a credential; ``None`` for no answer in time."""
        try:
            return await self._exchange(self._reads, "GET", "/account", authorization, limit_s=CHECK_TIMEOUT_S)
        except httpx.TransportError:
            return None

    async def document(self, path: str, authorization: dict[str, str]) -> JsonObject | None:
        """The JSON object at ``path``, ``None`` for any other answer or none in time."""
        try:
            answer = await self._exchange(self._reads, "GET", path, authorization, limit_s=CHECK_TIMEOUT_S)
            document = orjson.loads(answer.content) if answer.is_ok else None
        except (httpx.TransportError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    async def knock(self) -> int | str:
        """The status with which the root answers, or in a word why it does not."""
        try:
            return (await self._exchange(self._reads, "GET", "", {}, limit_s=READINESS_TIMEOUT_S)).status
        except httpx.TransportError as error:
            return type(error).__name__

    async def _exchange(
        self,
        client: httpx.AsyncClient,
        method: str,
        path: str,
        headers: dict[str, str],
        *,
        limit_s: float,
        content: bytes | None = None,
    ) -> Answer:
        """One request and its whole answer, within ``limit_s``.

        Raises:
            httpx.ConnectError, httpx.ConnectTimeout: nothing was sent.
            httpx.TransportError: no whole answer; the request may have been read.
        """
        timeout = httpx.Timeout(limit_s, connect=min(self._connect_timeout_s, limit_s), pool=None)
        received = bytearray()
        try:
            async with (
                asyncio.timeout(limit_s),
                client.stream(method, self._root + path, headers=headers, content=content, timeout=timeout) as response,
            ):
                if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
                    raise httpx.RemoteProtocolError("an encoded answer")
                async for chunk in response.aiter_bytes():
                    received += chunk
                    if len(received) > MAX_ANSWER_BYTES:
                        raise httpx.RemoteProtocolError("an endless answer")
        except TimeoutError as error:
            raise httpx.ReadTimeout("no whole answer in time") from error
        return Answer(response.status_code, response.headers, bytes(received))


def authorize(credential: Credential | None) -> dict[str, str]:
    """The ``Authorization`` header for a caller's credential.

    Raises:
        Unauthenticated: it cannot stand in a header.
    """
    if credential is None:
        return {}
    if not credential.token or not all("!" <= mark <= "~" for mark in credential.token):
        raise Unauthenticated("You did not pass a valid authentication token")
    return {"authorization": f"Bearer {credential.token}"}
