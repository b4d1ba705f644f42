"""Webhooks: which events are told, when, and how a delivery is signed and repeated.

The deliveries of one prediction go out one after the other, so that a receiver sees them in order. ``output`` and
``logs`` are held back to one in ``webhook_gap_s``; what falls into the gap is told at its end, in the state of then, or
by ``completed`` if that comes first.

Source: Replicate's pages on receiving and verifying webhooks; Standard Webhooks for the signature.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import orjson

from loadtests.fake_model.documents import render
from loadtests.fake_model.fetching import client_trusting, is_loopback
from loadtests.fake_model.world import Prediction, WebhookEvent, World


@dataclass(slots=True)
class _Line:
    """What is still to be delivered for one prediction."""

    bodies: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    told_at: float = 0.0
    late: asyncio.TimerHandle | None = None


class Courier:
    """Delivers webhooks behind the back of the run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lines: dict[str, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._client: httpx.AsyncClient | None = None

    def tell(self, prediction: Prediction, event: WebhookEvent) -> None:
        """Something happened; the body shows the prediction as it is at this moment."""
        webhook = prediction.webhook
        if webhook is None:
            return
        line = self._lines.get(prediction.id) or self._open(prediction)
        if event in webhook.events:
            if event in ("output", "logs"):
                self._tell_in_turn(prediction, line)
            else:
                self._put(prediction, line)
        if event == "completed":
            if line.late is not None:
                line.late.cancel()
            line.bodies.put_nowait(None)
            del self._lines[prediction.id]

    def _open(self, prediction: Prediction) -> _Line:
        line = self._lines[prediction.id] = _Line()
        task = asyncio.create_task(self._deliver_all(prediction, line))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return line

    def _tell_in_turn(self, prediction: Prediction, line: _Line) -> None:
        loop = asyncio.get_running_loop()
        left_s = line.told_at + self._world.options.webhook_gap_s - loop.time()
        if left_s <= 0:
            line.told_at = loop.time()
            self._put(prediction, line)
        elif line.late is None:
            line.late = loop.call_later(left_s, self._tell_late, prediction, line)

    def _tell_late(self, prediction: Prediction, line: _Line) -> None:
        line.late = None
        line.told_at = asyncio.get_running_loop().time()
        self._put(prediction, line)

    def _put(self, prediction: Prediction, line: _Line) -> None:
        line.bodies.put_nowait(orjson.dumps(render(self._world, prediction, prediction.site)))

    async def _deliver_all(self, prediction: Prediction, line: _Line) -> None:
        while (body := await line.bodies.get()) is not None:
            await self._deliver(prediction, body)

    async def _deliver(self, prediction: Prediction, body: bytes) -> None:
        """Try until it is taken, or given up."""
        options, counts = self._world.options, self._world.counts
        assert prediction.webhook is not None
        url, message_id = prediction.webhook.url, f"msg_{secrets.token_urlsafe(20)}"
        if options.is_loopback_only and not await is_loopback(url):
            counts["webhooks_withheld"] += 1
            return
        for attempt in range(options.webhook_attempts):
            if attempt:
                await asyncio.sleep(options.webhook_backoff_s * 2.0 ** (attempt - 1))
            counts["webhooks_sent"] += 1
            if await self._is_taken(url, sign(webhook_secret(prediction.account), message_id, body), body):
                counts["webhooks_delivered"] += 1
                return
        counts["webhooks_failed"] += 1

    async def _is_taken(self, url: str, headers: dict[str, str], body: bytes) -> bool:
        if self._client is None:
            ca = self._world.options.webhook_ca
            self._client = client_trusting(str(ca) if ca else None)
        try:
            answer = await self._client.post(url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL):
            return False
        return answer.is_success


def webhook_secret(account: str) -> str:
    """The account's signing secret: ``whsec_`` and base64, the same in every process."""
    return "whsec_" + base64.b64encode(hashlib.sha256(f"webhooks of {account}".encode()).digest()[:24]).decode()


def sign(secret: str, message_id: str, body: bytes) -> dict[str, str]:
    """Headers of one attempt; each has its own time, all have the message's id."""
    stamp = str(int(time.time()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = hmac.digest(key, f"{message_id}.{stamp}.".encode() + body, "sha256")
    return {
        "content-type": "application/json",
        "user-agent": "Replicate/1.0 (Webhook)",
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def is_acceptable(url: object, *, is_http_allowed: bool) -> bool:
    """Whether a webhook may be asked for: an https URL, or perhaps http to this machine."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.scheme not in ("https", "http"):
        return False
    return parts.scheme == "https" or (is_http_allowed and (host in ("localhost", "::1") or host.startswith("127.")))
