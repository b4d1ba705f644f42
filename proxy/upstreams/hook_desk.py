"""Where a Replicate-compatible API tells by webhooks how runs go: one desk for the whole proxy, on the public listener.

Each run has an address of its own. Its token is derived from the run's execution id, so nobody can guess it, and a run
that is taken up after a restart has the same one. A post counts when it is signed with the account's secret, is no more
than five minutes old, and has not come before. Even then it is only a reason to look at the run now: what a post says
never becomes a result, so one that is forged or comes again can do no harm beyond one look.

What it costs is bounded: a post to no open address is not read; a body has at most ``MAX_POST_BYTES``, ``MAX_READING``
are read at once, and one address takes ``MAX_POSTS``. More than that is answered by looking as without webhooks.

Whether webhooks arrive is not believed but seen. Looks become rare once a post of the run itself has come. After an end
of which nothing was told in time, all runs of that upstream are looked at as without webhooks for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import orjson
import structlog

from proxy.core.errors import NotFound, Overloaded, Unauthenticated
from proxy.core.hooks import HOOKS_PATH, hook_token, verify_post
from proxy.core.predictions import TERMINAL
from proxy.core.secrets import Secrets

MAX_POST_BYTES = 8 * 1024**2
MAX_READING = 8
MAX_POSTS = 2000
"""Of one run: new output is told twice a second at most, so about a quarter of an hour of growing text."""

SEEN_S, MAX_SEEN = 900.0, 20_000
"""Ids of posts are remembered for longer than one of them may be old."""

LATE_S = 10.0
"""What is told of a run's end this long after it was seen to have ended was not told in time."""

DOUBTED_S = 900.0
"""For how long an upstream whose posts get lost is not relied upon."""

FindSecret = Callable[[bool], Awaitable[str | None]]
"""The account's secret; ``True``: the one told before did not fit, it may have been replaced since."""

_log = structlog.get_logger("hotplate.hooks")


class HookLine:
    """What is told of one run. Used from the event loop alone.

    Attributes:
        url: where it is to be told.
        upstream_id: the run's id at the upstream, once known; a post about another run is none.
        has_ended: a post said that the run is over.
    """

    def __init__(self, desk: HookDesk, upstream: str, token: str, url: str, find_secret: FindSecret) -> None:
        self.url = url
        self.upstream_id: str | None = None
        self.has_ended = False
        self._desk = desk
        self._upstream = upstream
        self._token = token
        self._find_secret = find_secret
        self._is_heard = False
        self._posts = 0
        self._news = asyncio.Event()

    @property
    def is_told(self) -> bool:
        """Whether looks in between are a mere fallback. Not once a post has told an end that no look has seen."""
        return self._is_heard and not self.has_ended and not self._desk.is_doubted(self._upstream)

    async def wait(self, pause_s: float) -> bool:
        """Wait for a post, for at most ``pause_s``; whether there was one since the last wait."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._news.wait()
        has_news = self._news.is_set()
        self._news.clear()
        return has_news

    def count(self) -> bool:
        """One more post has come; whether it is to be read."""
        self._posts += 1
        return self._posts <= MAX_POSTS

    async def verify(self, headers: Mapping[str, str], body: bytes, now: Callable[[], float]) -> str | None:
        """The id of a post that was signed with the account's secret, ``None`` for any other."""
        secret = await self._find_secret(False)
        message_id = verify_post(headers, body, secret, now()) if secret is not None else None
        if message_id is not None or secret is None:
            return message_id
        renewed = await self._find_secret(True)
        return verify_post(headers, body, renewed, now()) if renewed not in (None, secret) else None

    def tell(self, body: bytes) -> bool:
        """A genuine post came; whether it is about this run."""
        try:
            document = orjson.loads(body)
        except ValueError:
            return False
        if not isinstance(document, dict) or self.upstream_id not in (None, document.get("id")):
            return False
        self._is_heard = True
        self.has_ended = document.get("status") in TERMINAL
        self._news.set()
        return True

    def close(self, *, has_seen_end: bool) -> None:
        """Nothing is to be told any more. ``has_seen_end``: a look found that the run is over."""
        if has_seen_end and not self.has_ended:
            asyncio.get_running_loop().call_later(LATE_S, self._close_late)
        else:
            self._desk.forget(self._token)

    def _close_late(self) -> None:
        if not self.has_ended:
            self._desk.doubt(self._upstream)
        self._desk.forget(self._token)


class HookDesk:
    """All lines that are open.

    Args:
        base_url: the public address of this proxy, without ``/v1``.
        now, clock: epoch seconds; monotonic seconds.
    """

    def __init__(
        self,
        base_url: str,
        secrets: Secrets,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = f"{base_url}{HOOKS_PATH}"
        self._secrets = secrets
        self._now = now
        self._clock = clock
        self._open: dict[str, HookLine] = {}
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._doubted_until: dict[str, float] = {}
        self._reading = 0
        self._counts = {"taken_total": 0, "refused_total": 0, "repeated_total": 0, "missed_total": 0}

    def __len__(self) -> int:
        return len(self._open)

    def counters(self) -> Mapping[str, int]:
        """Posts that were taken, refused, or came again; ends of runs that were not told."""
        return dict(self._counts)

    def open(self, upstream: str, job_id: str, find_secret: FindSecret) -> HookLine:
        """A new line for a run; to be closed."""
        token = hook_token(self._secrets, upstream, job_id)
        line = self._open[token] = HookLine(self, upstream, token, self._address + token, find_secret)
        return line

    @contextmanager
    def reading(self, token: str) -> Iterator[HookLine]:
        """The line of ``token``, while a post to it is read.

        Raises:
            NotFound: there is none, or it has had enough.
            Overloaded: too many are read already.
        """
        line = self._open.get(token)
        if line is None or not line.count():
            self._counts["refused_total"] += 1
            raise NotFound("The requested resource could not be found.")
        if self._reading >= MAX_READING:
            raise Overloaded("too many posts are read at once", retry_after_s=1.0)
        self._reading += 1
        try:
            yield line
        finally:
            self._reading -= 1

    async def take(self, line: HookLine, headers: Mapping[str, str], body: bytes) -> None:
        """A post came to ``line``; one that came before changes nothing.

        Raises:
            Unauthenticated: it is not signed as it should be, too old, or about another run.
        """
        message_id, now = await line.verify(headers, body, self._now), self._now()
        if message_id is None:
            self._counts["refused_total"] += 1
            raise Unauthenticated("The webhook's signature could not be verified")
        if self._has_seen(message_id, now):
            self._counts["repeated_total"] += 1
            return
        if not line.tell(body):
            self._counts["refused_total"] += 1
            raise Unauthenticated("The webhook is about something else")
        self._counts["taken_total"] += 1

    def is_doubted(self, upstream: str) -> bool:
        """Whether a post of ``upstream`` was lost lately."""
        return self._clock() < self._doubted_until.get(upstream, float("-inf"))

    def doubt(self, upstream: str) -> None:
        """A run ended, and nothing was told of it."""
        self._counts["missed_total"] += 1
        if not self.is_doubted(upstream):
            _log.warning("webhooks_do_not_arrive", upstream=upstream, detail="runs are looked at as often as without")
        self._doubted_until[upstream] = self._clock() + DOUBTED_S

    def forget(self, token: str) -> None:
        self._open.pop(token, None)

    def _has_seen(self, message_id: str, now: float) -> bool:
        while self._seen and (len(self._seen) > MAX_SEEN or next(iter(self._seen.values())) < now - SEEN_S):
            self._seen.popitem(last=False)
        if message_id in self._seen:
            return True
        self._seen[message_id] = now
        return False
