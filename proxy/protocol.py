"""How bytes become requests: uvicorn's HTTP protocol, with a bound on everything a client can make it wait or hold.

uvicorn's own protocol keeps a request's head for as long and as large as the client likes, and middleware sees a
request only after its head is whole. Here:

- bytes are counted before the parser sees them, from the last point at which it held nothing of the client's: a
  head, a trailer or a run of chunk framing of more than ``max_head_bytes`` is answered 431;
- a head has ``head_timeout_s`` from its first byte; a body must keep moving while we read it, and has
  ``body_timeout_s`` and a second more for every ``BODY_BYTES_PER_S``; 408 otherwise;
- a client that does not take its answer loses the connection: every ``send_timeout_s`` it must take
  ``MIN_TAKEN_BYTES`` of what waits for it, or all. uvicorn would wait for ever, also to close;
- one connection more than ``max_connections`` is answered 503 and closed, whatever it would have asked;
- what the parser refuses is answered 400; every answer made here is the API's problem object and ends the connection;
- an answer never enters another's: it waits for the responses to the requests received before it;
- ``Upgrade`` is ignored, as RFC 9110 section 7.8 allows, and the connection goes on with HTTP/1.1;
- trailers are read and dropped, so that nothing after the body changes the headers that were checked (section 6.5.1).

Time between requests is no head in progress: that is uvicorn's keep-alive timer. A usual request comes in one read,
arms no timer and costs a few additions and tests.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.events import TimerHandle
from typing import TYPE_CHECKING, Any, Final

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from proxy.system import look

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

MAX_HEAD_BYTES = 64 * 1024
"""Node takes 16 KiB and nginx 32 KiB, so what passes a usual front passes here."""

MAX_HEADER_LINES = 200
"""Node takes 2000, Apache 100, HAProxy 101."""

MAX_PIPELINED = 100
"""Requests read ahead of the one that is answered. uvicorn alone reads on after each answer, faster than it answers."""

HEAD_TIMEOUT_S = 15.0
"""Apache's ``RequestReadTimeout`` starts at 20 s, nginx's ``client_header_timeout`` is 60 s."""

BODY_TIMEOUT_S = 60.0
"""For a body, and for each pause in it at most: looked at every half of it, so that a pause of 30 s is always allowed
and one of 60 s never."""

BODY_BYTES_PER_S = 16 * 1024
"""Every so many bytes of a body give it a second more: an upload of 100 MB may take a slow line, and a drip of bytes
ends soon. Apache's ``RequestReadTimeout`` has 500."""

SEND_TIMEOUT_S = 30.0
MIN_TAKEN_BYTES = 64 * 1024
"""As much as the transport holds before it tells us to stop: some 2 kB/s, below what any phone has."""

MAX_CONNECTIONS = 10_000

LINGER_S = 2.0
"""How long an ended connection may still send: a close with unread bytes is a reset, and the client may lose our answer
to it (RFC 9112 section 9.6)."""

MAX_LINGER_BYTES = 1024 * 1024

_WAITING: Final = 0
_HEAD: Final = 1
_BODY: Final = 2


class _Abandoned(Exception):
    """Raised in a parser's callback to make it stop; the answer is under way."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One client connection.

    Concurrency: everything runs on the connection's event loop, in callbacks; nothing here awaits.
    """

    max_head_bytes = MAX_HEAD_BYTES
    max_header_lines = MAX_HEADER_LINES
    max_pipelined = MAX_PIPELINED
    head_timeout_s = HEAD_TIMEOUT_S
    body_timeout_s = BODY_TIMEOUT_S
    body_bytes_per_s = BODY_BYTES_PER_S
    send_timeout_s = SEND_TIMEOUT_S
    max_connections = MAX_CONNECTIONS
    linger_s = LINGER_S

    @classmethod
    def within(cls, **limits: float) -> type[BoundedHttpProtocol]:
        """The same protocol with other limits, by the names of the attributes above."""
        assert all(hasattr(cls, name) for name in limits)
        return type(cls.__name__, (cls,), limits)

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._phase = _WAITING
        self._held_bytes = 0
        """Most that the parser can hold; too small by at most one piece when a head began inside one."""
        self._timer: TimerHandle | None = None
        self._is_upgrading = False
        self._is_moving = False
        """Body bytes came, or could not come, since the last tick."""
        self._body_bytes = 0
        """What has come of the body that is being read."""
        self._body_began_at = 0.0
        """When it was first waited for; later by the time in which it could not come."""
        self._send_timer: TimerHandle | None = None
        self._last_look = (0, 0)
        self._was_drained = False
        """It took nearly all of it since."""
        self._running: RequestResponseCycle | None = None
        """The request the app was last given; ``cycle`` is the one last read, which may be queued behind it."""
        self._is_ended = False
        """Nothing more is read as HTTP; ``_last_answer`` is sent once the responses under way are complete."""
        self._last_answer = b""
        self._lingering_bytes: int | None = None

    # What the transport reports.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._turn_away()
            return
        # A client that never says anything is held to the same deadline; uvicorn has none before the first response.
        self._timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        if self._send_timer is not None:
            self._send_timer.cancel()
        self._unset_keepalive_if_required()
        self._disconnect_running()  # uvicorn tells only the request read last
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_ended:
            self._discard(len(data))
            return
        self._unset_keepalive_if_required()
        held_bytes = self._held_bytes + len(data)
        if held_bytes <= self.max_head_bytes:
            self._held_bytes = held_bytes
            self._feed(data)
        else:
            self._feed_in_pieces(memoryview(data))
        if self._phase or self._held_bytes:
            self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._was_drained = True

    # What the parser reports.

    def on_message_begin(self) -> None:
        self._phase = _HEAD
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.headers) > self.max_header_lines:
            self._end(431, "Request header fields too large", f"A request has at most {self.max_header_lines} headers.")
            raise _Abandoned
        if len(self.pipeline) >= self.max_pipelined:
            self._end_with(b"")  # a client repeats what was not answered (RFC 9112 section 9.3.2)
            raise _Abandoned
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._end(400, "Bad request", "CONNECT is not served here.")
                raise _Abandoned
            self._is_upgrading = True  # read again by _feed, as a request that asks for nothing of the kind
            return
        super().on_headers_complete()
        self.headers = []  # the request has its own; what comes now are trailers
        self._phase = _BODY
        self._held_bytes = self._body_bytes = 0
        if self._timer is not None:
            self._cancel_timer()

    def on_body(self, body: bytes) -> None:
        self._held_bytes = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_upgrading:
            return
        self._phase = _WAITING
        self._held_bytes = 0
        if self._timer is not None:
            self._cancel_timer()
        super().on_message_complete()

    # What uvicorn asks or reports.

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_sending()  # it closes once all is sent, however long that takes
        if self._is_ended and self._lingering_bytes is None and not self._is_answering():
            self._finish()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_sending()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _should_upgrade(self) -> bool:
        return False

    # Reading.

    def _feed(self, data: bytes | memoryview) -> None:
        while data and not self._is_ended:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # The parser takes what follows the head for another protocol and never for a body. Java's client asks
                # for h2c with every request, bodies included, so the head is read once more without its Upgrade.
                self._is_upgrading = False
                rest = data[upgrade.args[0] :]
                self._feed(self._head_without_upgrade())
                data = rest
            except httptools.HttpParserError:
                self._end(400, "Bad request", "The request is not valid HTTP/1.1.")

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"".join([*lines, b"\r\n"])

    def _feed_in_pieces(self, data: memoryview) -> None:
        """Feed a large read so that the parser never holds more than ``max_head_bytes``; it holds no body."""
        while data and not self._is_ended:
            room = self.max_head_bytes - self._held_bytes
            if room <= 0:
                detail = f"A request's line and headers have at most {self.max_head_bytes} bytes."
                self._end(431, "Request header fields too large", detail)
                return
            piece, data = data[:room], data[room:]
            self._held_bytes += len(piece)
            self._feed(piece)

    def _discard(self, size_bytes: int) -> None:
        if self._lingering_bytes is not None:
            self._lingering_bytes += size_bytes
            if self._lingering_bytes > MAX_LINGER_BYTES:
                self.transport.abort()

    # Time.

    def _watch(self) -> None:
        """See to it that a message which is not complete has a timer."""
        if self._is_ended:
            return
        self._is_moving = True
        if self._timer is None:
            if self._phase == _BODY:
                self._body_began_at = self.loop.time()
                self._timer = self.loop.call_later(self.body_timeout_s / 2, self._body_tick)
            else:
                self._timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._timer = None
        if self.flow.read_paused:  # by us, for the requests before this one
            self._watch()
        elif self._phase == _HEAD:
            self._end(408, "Request timeout", f"The request's headers took more than {self.head_timeout_s:g} s.")
        else:
            self._end_with(b"")  # nothing was asked

    def _body_tick(self) -> None:
        self._timer = None
        tick_s = self.body_timeout_s / 2
        may_not_send = self.flow.read_paused or self.cycle.waiting_for_100_continue
        if may_not_send:
            self._body_began_at += tick_s
        took_s = self.loop.time() - self._body_began_at
        if took_s > self.body_timeout_s + self._body_bytes / self.body_bytes_per_s:
            self._end(408, "Request timeout", "The request's body came too slowly.")
        elif self._is_moving or may_not_send:
            self._timer = self.loop.call_later(tick_s, self._body_tick)
            # One that may not send now has a whole tick after the one in which it may.
            self._is_moving = may_not_send
        else:
            self._end(408, "Request timeout", f"The request's body stopped for more than {tick_s:g} s.")

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch_sending(self) -> None:
        """See to it that bytes which wait for the client are looked after."""
        if self._send_timer is None and self.transport.get_write_buffer_size():
            self._was_drained = False
            self._last_look = look(self.transport)
            self._send_timer = self.loop.call_later(self.send_timeout_s, self._send_tick)

    def _send_tick(self) -> None:
        self._send_timer = None
        taken_before, left_before = self._last_look
        if not self._was_drained and look(self.transport)[0] - taken_before < min(MIN_TAKEN_BYTES, left_before):
            self.transport.abort()
        elif self.flow.write_paused or self.transport.is_closing():
            self._watch_sending()

    # Ending.

    def _turn_away(self) -> None:
        """Close a connection that is one too many. There is no room to let it linger: it may not read the answer."""
        self._is_ended = True
        self.transport.write(
            self._problem(503, "Service overloaded", "Too many connections are open.", retry_after_s=1)
        )
        self.transport.close()
        self._watch_sending()

    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _end(self, status: int, title: str, detail: str) -> None:
        """End the connection with an answer to the request that is being read."""
        self._end_with(self._problem(status, title, detail))

    def _problem(self, status: int, title: str, detail: str, *, retry_after_s: int | None = None) -> bytes:
        """A whole answer, after which the connection ends."""
        body = orjson.dumps({"title": title, "detail": detail, "status": status})
        lines = [STATUS_LINE[status]]
        for name, value in self.server_state.default_headers:
            lines += [name, b": ", value, b"\r\n"]
        lines += [
            b"content-type: application/problem+json\r\ncontent-length: %d\r\n" % len(body),
            b"retry-after: %d\r\n" % retry_after_s if retry_after_s is not None else b"",
            b"cache-control: no-store\r\nconnection: close\r\n\r\n",
            b"" if self._phase != _WAITING and self.parser.get_method() == b"HEAD" else body,
        ]
        return b"".join(lines)

    def _end_with(self, answer: bytes) -> None:
        """Read no more requests; send ``answer`` when the responses before it are complete; then close."""
        if self._is_ended:
            return
        self._is_ended = True
        self._last_answer = answer
        self._cancel_timer()
        running = self._running
        if self._phase == _BODY and self.cycle is running:
            # The app has this very request: it sees a disconnect, and what it began to answer stays as it is.
            if running.response_started:
                self._last_answer = b""
            self._finish()
            return
        if self._phase == _BODY:
            self.pipeline.popleft()  # the request read last; the app does not have it yet
        if self._is_answering():
            self.flow.pause_reading()
        else:
            self._finish()

    def _finish(self) -> None:
        """Send the last answer and close, once the client has closed or has had ``linger_s`` to read it."""
        if self.transport.is_closing():
            return
        self._lingering_bytes = 0
        self._unset_keepalive_if_required()
        self._disconnect_running()
        if self._last_answer:
            self.transport.write(self._last_answer)
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError):  # the client was faster
                self.transport.write_eof()
        self.flow.resume_reading()
        self._timer = self.loop.call_later(self.linger_s, self.transport.abort)

    def _disconnect_running(self) -> None:
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
            self.flow.resume_writing()
