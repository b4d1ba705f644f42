"""Doubles for webhooks: a receiver, and an API that tells secrets."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from replicate.webhook import Webhooks, WebhookSigningSecret, WebhookValidationError

from proxy.core.errors import HotplateError
from proxy.core.outputs import OutputAccess
from proxy.upstreams.base import Credential, RelayRequest, RelayResponse
from proxy.upstreams.egress import EgressFailed, EgressRefused, Posted
from tests.fakes.clock import ManualClock
from tests.fakes.upstreams import ScriptedUpstream

ACCOUNT_SECRET = "whsec_" + base64.b64encode(b"the account's own secret").decode()
OTHER_ACCOUNT_SECRET = "whsec_" + base64.b64encode(b"another account's secret").decode()


def is_signed(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """Whether the official client accepts a delivery."""
    try:
        Webhooks.validate(headers=dict(headers), body=body.decode(), secret=WebhookSigningSecret(key=secret))
    except WebhookValidationError:
        return False
    return True


@dataclass(frozen=True)
class Delivery:
    """One POST that arrived."""

    url: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = orjson.loads(self.body)
        return document

    @property
    def status(self) -> str:
        status: str = self.document["status"]
        return status


@dataclass
class Receiver:
    """Takes the place of ``Egress.post``.

    Attributes:
        answers: one for each delivery; the last one is repeated. A number is a status.
        gate: while it is set and not open, deliveries wait at it before they are answered.
        got: what arrived, in order; ``open_now`` and ``most_open`` count those not yet answered.
    """

    answers: list[int | Posted | EgressFailed | EgressRefused] = field(default_factory=lambda: [200])
    gate: asyncio.Event | None = None
    got: list[Delivery] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0

    async def post(
        self, url: str, access: OutputAccess, *, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> Posted:
        self.got.append(Delivery(url, dict(headers), body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.open_now -= 1
        if isinstance(answer, Exception):
            raise answer
        return Posted(answer) if isinstance(answer, int) else answer


@dataclass
class SecretUpstream(ScriptedUpstream):
    """A ``ScriptedUpstream`` that tells webhook secrets by token.

    Attributes:
        told: by token, the body of a 200; other tokens are answered 401.
        trouble: raised, or a status that is answered, instead.
        told_gate: held up by it.
        asked: tokens that asked, in order.
    """

    told: dict[str, bytes] = field(default_factory=dict)
    trouble: HotplateError | int | None = None
    told_gate: asyncio.Event | None = None
    asked: list[str] = field(default_factory=list)
    closed: int = 0

    def tells(self, token: str, secret: str) -> None:
        self.told[token] = orjson.dumps({"key": secret})

    async def relay(self, request: RelayRequest, credential: Credential | None) -> RelayResponse:
        assert (request.method, request.path, request.has_body) == ("GET", "/webhooks/default/secret", False)
        token = credential.token if credential else ""
        self.asked.append(token)
        if self.told_gate is not None:
            await self.told_gate.wait()
        if isinstance(self.trouble, HotplateError):
            raise self.trouble
        status = 200 if token in self.told else 401
        body = self.told.get(token, b'{"title":"Unauthenticated"}')
        if self.trouble is not None:
            status, body = self.trouble, b"{}"
        return RelayResponse(status, [("Content-Type", "application/json; x=y")], self._body(body), self._close)

    async def _body(self, body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    def _close(self) -> None:
        self.closed += 1


class SleepingClock(ManualClock):
    """A clock with ``sleep``: who sleeps is woken when it is moved far enough."""

    def __init__(self) -> None:
        super().__init__()
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    @property
    def naps(self) -> list[float]:
        """Seconds for which each sleeper still sleeps, the shortest first."""
        return sorted(until - self.now for until, _ in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        nap = (self.now + seconds, asyncio.Event())
        self._sleepers.append(nap)
        try:
            await nap[1].wait()
        finally:
            self._sleepers.remove(nap)

    async def move(self, seconds: float) -> None:
        """Advance, and let everything happen that is due."""
        self.advance(seconds)
        for until, wake in list(self._sleepers):
            if until <= self.now:
                wake.set()
        await settle()


async def settle() -> None:
    """Let everything happen that waits for nothing but its turn."""
    for _ in range(100):
        await asyncio.sleep(0)
