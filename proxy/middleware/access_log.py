"""One log line and one observation per request, written when its answer has ended."""

from __future__ import annotations

import itertools
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.logs import Note, RequestLog
from proxy.metrics import Metrics
from proxy.routes.exchange import Room


class AccessLog:
    """Gives each request its ``Note``, its id (``X-Request-Id`` on the answer) and the room that all bodies share."""

    def __init__(self, app: ASGIApp, metrics: Metrics | None, log: RequestLog, room: Room | None = None) -> None:
        """``metrics`` is ``None`` for the admin listener, whose requests are not traffic."""
        self._app = app
        self._metrics = metrics
        self._log = log
        self._room = room
        self._prefix = secrets.token_hex(4)
        self._serial = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        note = Note()
        scope["hotplate.note"] = note
        scope["hotplate.room"] = self._room
        request_id = f"{self._prefix}-{next(self._serial):x}"
        status, sent_bytes = 0, 0

        async def watch(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id.encode()))
            await send(message)
            sent_bytes += len(message.get("body", b""))

        try:
            await self._app(scope, receive, watch)
        finally:
            seconds = time.perf_counter() - began
            if self._metrics is not None:
                self._metrics.observe_request(note.outcome, seconds)
                if note.error is not None:
                    self._metrics.observe_error(note.error)
                if note.saved_s:
                    self._metrics.saved_seconds.inc(note.saved_s)
            if not note.is_quiet:
                self._log.write(
                    time.time(),
                    {
                        "id": request_id,
                        "method": scope["method"],
                        "status": status,
                        "outcome": note.outcome,
                        "upstream": note.upstream,
                        "key": note.key,
                        "error": note.error,
                        "seconds": round(seconds, 6),
                        "bytes": sent_bytes,
                    },
                )
