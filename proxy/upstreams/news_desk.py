"""Where Cog servers tell how runs go: one desk for the whole proxy, behind a route of the admin listener.

Each asking of a server has an address of its own, with a token that nobody can guess; it ends with the asking. What
comes there is news and nothing more: it is shown while the run goes on, and what the run's own answer says decides.
So anything may be lost here, and whatever is not understood is ignored.

What it costs is bounded: a post to no open token is not read; a body has at most ``MAX_POST_BYTES``, ``MAX_READING``
are read at once, and a run may tell ``MAX_RUN_BYTES`` in all. Of what has come for a run in the last ``READ_EVERY_S``
only the longest body is kept and read: each tells everything so far, so the longest is the newest.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import structlog

from proxy.core.errors import NotFound, Overloaded
from proxy.settings import is_loopback
from proxy.upstreams.cog_news import News, OutputShape, Wish, merge, read_news, wished_events

POSTS_PATH = "/_hotplate/progress/"
MAX_POST_BYTES = 16 * 1024**2
MAX_READING = 8
MAX_RUN_BYTES = 1024**3
"""A text of thousands of words told word by word, each time from the start, is some hundred megabytes."""

READ_EVERY_S = 0.1

DEAF_S = 600.0
"""A server that does not reach us is not asked to tell for this long: cog 0.16 lets its run wait for each webhook."""

_log = structlog.get_logger("hotplate.news")


class Hearing:
    """What is told of one asking. Used from the event loop alone.

    Attributes:
        wish: what to send with the prediction.
        news: everything so far.
        has_heard: something came.
    """

    def __init__(
        self, wish: Wish, shape: OutputShape, on_news: Callable[[News], None], on_close: Callable[[], None]
    ) -> None:
        self.wish = wish
        self.news = News()
        self.has_heard = False
        self._shape = shape
        self._on_news = on_news
        self._on_close = on_close
        self._left_bytes = MAX_RUN_BYTES
        self._pending = b""
        self._timer: asyncio.TimerHandle | None = None
        self._read_at = float("-inf")
        self._end = asyncio.Event()
        self._is_closed = False

    def take(self, body: bytes) -> None:
        """Something was posted."""
        if self._is_closed:
            return
        self.has_heard = True
        self._left_bytes -= len(body)
        if self._left_bytes < 0:
            self.close()
            return
        if len(body) >= len(self._pending):
            self._pending = body
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._read_at + READ_EVERY_S), self._read)

    async def end(self, timeout_s: float) -> News:
        """Everything, once the server has told of the run's end, or ``timeout_s`` has passed without."""
        self._read()
        self._read_at = float("-inf")  # the next one is waited for
        if not self._end.is_set() and not self._is_closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._end.wait()
        return self.news

    def close(self, *, reads: bool = True) -> None:
        """Hear nothing any more; ``reads``: what has come and was not read yet may still be news."""
        if self._is_closed:
            return
        if not reads:
            self._pending = b""
        self._read()
        self._is_closed = True
        self._on_close()

    def _read(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        body, self._pending = self._pending, b""
        self._read_at = asyncio.get_running_loop().time()
        told = read_news(body, self._shape) if body else None
        if told is None:
            return
        before, self.news = self.news, merge(self.news, told)
        if self.news.has_ended:
            self._end.set()
        if self.news != before:
            self._on_news(self.news)


class NewsDesk:
    """All hearings that are open.

    Args:
        address: where this proxy's admin listener is reached from this machine; ``None``: there is none.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address
        self._open: dict[str, Hearing] = {}
        self._reading = 0

    def __len__(self) -> int:
        return len(self._open)

    def open(
        self, address: str, shape: OutputShape, events: tuple[str, ...], on_news: Callable[[News], None]
    ) -> Hearing:
        """A new hearing, for a server that reaches this proxy under ``address``; to be closed."""
        token = secrets.token_urlsafe(32)
        wish = Wish(f"{address}{POSTS_PATH}{token}", events)
        hearing = Hearing(wish, shape, on_news, on_close=lambda: self._forget(token))
        self._open[token] = hearing
        return hearing

    @contextmanager
    def reading(self, token: str) -> Iterator[Hearing]:
        """The hearing of ``token``, while a post to it is read.

        Raises:
            NotFound: there is none.
            Overloaded: too many are read already.
        """
        hearing = self._open.get(token)
        if hearing is None:
            raise NotFound("The requested resource could not be found.")
        if self._reading >= MAX_READING:
            raise Overloaded("too many posts are read at once", retry_after_s=1.0)
        self._reading += 1
        try:
            yield hearing
        finally:
            self._reading -= 1

    def _forget(self, token: str) -> None:
        self._open.pop(token, None)


class NewsSource:
    """Which of an upstream's servers are asked to tell how runs go.

    Args:
        address: where the servers reach this proxy's admin listener; ``None``: those on this machine do, at the
            desk's own address, and no others.
        clock: monotonic seconds.
    """

    def __init__(self, desk: NewsDesk, address: str | None, *, clock: Callable[[], float]) -> None:
        self._desk = desk
        self._address = address.rstrip("/") if address else None
        self._clock = clock
        self._deaf_until: dict[str, float] = {}

    def open(
        self, server_id: str, url: str, shape: OutputShape, on_news: Callable[[News], None], *, is_coglet: bool
    ) -> Hearing | None:
        """A hearing for one asking of a server, or ``None`` when it is not asked to tell."""
        address = self._address or (self._desk.address if is_loopback(urlsplit(url).hostname or "") else None)
        if address is None or self._deaf_until.get(server_id, float("-inf")) > self._clock():
            return None
        return self._desk.open(address, shape, wished_events(shape, is_coglet=is_coglet), on_news)

    def missed(self, server_id: str) -> None:
        """A server that should have told something did not: it does not reach us."""
        self._deaf_until[server_id] = self._clock() + DEAF_S
        _log.warning("server_tells_nothing", server=server_id, detail="its webhooks do not arrive here")
