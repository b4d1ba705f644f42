"""Runs jobs on the servers of one pool. The pool decides; this waits and asks.

What it promises:

- A run goes to one server at a time. It is asked again elsewhere once, and only when its first server was lost under
  it; then it goes first. A server that surely did not take it does not count as asked.
- It never sends a server more than it has slots, and nobody outside ever sees a 409.
- Only the engine's cancelling ends a run early. One in line is dropped; one at a server is cancelled there
  (``settling``).

A run about to be sent looks at its server first when the last look is not fresh. So a server that was restarted with
another build meanwhile is noticed before it answers.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import structlog

from proxy.core.errors import HotplateError, UpstreamUnavailable
from proxy.upstreams.base import Job, Outcome, Progress
from proxy.upstreams.cog_client import CogClient
from proxy.upstreams.cog_news import News, OutputShape, Wish
from proxy.upstreams.cog_wire import Answer, Busy, Declined, Finished, Lost, NotReady, Unreached, size_of, tail
from proxy.upstreams.news_desk import Hearing, NewsSource
from proxy.upstreams.pool import Pool, Serving, Ticket
from proxy.upstreams.settling import Settling
from proxy.upstreams.watch import Watch

MAX_ATTEMPTS = 2

LOOK_FIRST_S = 1.0
"""How long a run waits for a look at its server before it is sent: a slow health check is no reason to stand still."""

LAST_NEWS_S = 0.5
"""How long a run without success waits for its logs, which coglet tells beside the answer and at the same time."""

SURELY_HEARD_S = 1.0
"""What a server told of a run that took this long has arrived when its answer has."""

TAKEN_AFTER_S = 0.015
"""A server refuses at once: a request still open after this has been taken."""

BUSY_PAUSES_S = (0.003, 0.010)
"""coglet answers 409 for up to some milliseconds after a run; only after these pauses is its health looked at."""

PAUSES_S = (*BUSY_PAUSES_S, 0.02, 0.05, 0.1, 0.2)
"""All pauses while health says READY and requests say 409; after them, somebody else is quicker than we are."""

MAX_BOUNCES = 20
"""Servers that look well and take nothing: something between them and us is broken."""

_log = structlog.get_logger("hotplate.dispatcher")

_Turn: TypeAlias = str | HotplateError | None


@dataclass(frozen=True, slots=True)
class Expired:
    """The run reached its deadline at a server."""


@dataclass(slots=True, eq=False)
class _Run:
    """One job on its way.

    Attributes:
        turn: done when it has a slot (``None``), or with why there will be none: how it failed, or what to raise.
        shape: what is known of its output before it is there.
        news: what the server told of it, while it goes on.
        attempts: how often a server took it, as far as is known.
        bounces: how often a server that looked well did not take it.
        expires_at: its deadline, once a server took it.
    """

    job: Job
    ticket: Ticket
    report: Callable[[Progress], None]
    turn: asyncio.Future[_Turn]
    shape: OutputShape
    news: News = field(default_factory=News)
    shown: str = ""
    attempts: int = 0
    bounces: int = 0
    expires_at: float | None = None
    asked_at: float = 0.0
    lost_reason: str = ""


class Dispatcher:
    """Brings jobs and servers together.

    Args:
        deadline_s: seconds for a run, from its first sending to its end.
        patience_s: seconds for which a run may wait while no server is up for it.
        source: where servers tell how runs go; ``None`` = nowhere.
        now, clock: epoch seconds; monotonic seconds.
        on_change: called after anything changed in the line.
    """

    def __init__(
        self,
        pool: Pool,
        watch: Watch,
        client: CogClient,
        *,
        deadline_s: float,
        patience_s: float,
        source: NewsSource | None = None,
        now: Callable[[], float],
        clock: Callable[[], float],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = pool
        self._watch = watch
        self._client = client
        self._deadline_s = deadline_s
        self._patience_s = patience_s
        self._source = source
        self._now = now
        self._clock = clock
        self._on_change = on_change
        self._runs: dict[Ticket, _Run] = {}
        self._settling = Settling(pool, watch, client, clock=clock, changed=self.pump)
        self._is_closed = False

    async def run(
        self, job: Job, build: str, report: Callable[[Progress], None], shape: OutputShape | None = None
    ) -> Outcome:
        """Run ``job`` on a server of ``build``, to its end; see ``Upstream.run``."""
        ticket = self._pool.join(build, self._clock(), size_of(job.input))
        run = _Run(job, ticket, report, _future(), shape or OutputShape())
        self._runs[run.ticket] = run
        try:
            self._watch.hurry()
            self.pump()
            return await self._follow(run)
        finally:
            del self._runs[run.ticket]
            self._pool.leave(run.ticket, self._clock())
            self.pump()

    def pump(self) -> None:
        """Hand out free slots, and tell those in line how it stands. To be called after every change."""
        if self._is_closed:
            self.fail_waiting("The proxy is shutting down.")
            return
        for ticket in self._pool.place(self._clock()):
            _resolve(self._runs[ticket].turn, None)
        failed_setup = self._pool.failed_setup()
        if failed_setup is not None and self._watch.are_fresh():
            self.fail_waiting(f"The model cannot start: {tail(failed_setup)}")
        for ticket in self._pool.outdated():
            gone = UpstreamUnavailable("The model was replaced by another build while this run waited.")
            _resolve(self._runs[ticket].turn, gone)
        for ticket in self._pool.waiting():
            run = self._runs[ticket]
            if not run.turn.done():
                self._show(run, "booting" if self._pool.is_booting else "queued")
        self._on_change()

    def close(self) -> None:
        """From now on nobody waits any more: what is in line, or would be, fails."""
        self._is_closed = True
        self.pump()

    def fail_waiting(self, error: str) -> None:
        """Everybody in line ends as failed."""
        for ticket in self._pool.waiting():
            _resolve(self._runs[ticket].turn, error)

    async def aclose(self) -> None:
        """Close, and wait for cancelled runs to be let go of, for a bounded time."""
        self.close()
        await self._settling.aclose()

    # -- one run -----------------------------------------------------------------------------------

    async def _follow(self, run: _Run) -> Outcome:
        while True:
            error = await self._wait_for_turn(run)
            if error is not None:
                return self._failed(run, error)
            answer = await self._attempt(run)
            match answer:
                case Finished():
                    return self._ended(run, answer)
                case Declined(error=refusal):
                    raise refusal
                case Expired():
                    return self._failed(run, f"The run exceeded its deadline of {self._deadline_s:g} s.")
                case Lost(reason=reason) | Unreached(reason=reason):
                    if run.ticket.server_id is not None:
                        self._watch.eject(run.ticket.server_id, reason)
                    if isinstance(answer, Lost):
                        run.lost_reason = reason
                    if run.attempts >= MAX_ATTEMPTS:
                        return self._failed(run, f"The model's server was lost during the run, twice: {reason}.")
                case Busy() | NotReady():
                    pass
            run.bounces += isinstance(answer, NotReady | Unreached)
            if run.bounces > MAX_BOUNCES:
                raise UpstreamUnavailable("The model's servers look well, but none takes a run.")
            run.turn = _future()
            self._pool.rejoin(run.ticket, self._clock())
            self.pump()

    async def _wait_for_turn(self, run: _Run) -> str | None:
        """Until the run has a slot (``None``) or has failed for want of one (how).

        Raises:
            UpstreamUnavailable: it was never taken, and never will be.
        """
        while not run.turn.done():
            now = self._clock()
            if run.expires_at is not None:
                left_s = run.expires_at - now
            else:
                left_s = self._patience_s - self._pool.stranded_s(run.ticket, now)
            if left_s > 0:
                await asyncio.wait({run.turn}, timeout=left_s if left_s < float("inf") else None)
            elif run.expires_at is not None:
                why = f"The model's server was lost during the run ({run.lost_reason}), and no other came up"
                return f"{why} within the deadline of {self._deadline_s:g} s."
            else:
                reasons = self._pool.reasons()
                raise UpstreamUnavailable("No server of the model can be used" + (f": {reasons}." if reasons else "."))
        turn = run.turn.result()
        if isinstance(turn, HotplateError):
            raise turn
        return turn

    async def _attempt(self, run: _Run) -> Answer | Expired:
        """Ask the server where the run has its slot, until it answers something other than a passing 409."""
        server_id = run.ticket.server_id
        assert server_id is not None
        if not self._watch.is_fresh(server_id):
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_FIRST_S):
                    await self._watch.look(server_id, for_a_run=True)
        if not self._is_usable(run):
            return NotReady()
        for bounce in itertools.count():
            answer = await self._ask(run, server_id)
            if not isinstance(answer, Busy | NotReady):
                return answer
            if isinstance(answer, NotReady) or bounce >= len(BUSY_PAUSES_S):
                await self._watch.look(server_id, for_a_run=True)
            if not self._is_usable(run):
                break
            if isinstance(answer, NotReady) or bounce == len(PAUSES_S):
                self._watch.mark_occupied(server_id)
                break
            await asyncio.sleep(PAUSES_S[bounce])
        return answer

    def _is_usable(self, run: _Run) -> bool:
        server = self._pool.server(run.ticket.server_id or "")
        return server is not None and isinstance(server.state, Serving) and server.build == run.ticket.build

    async def _ask(self, run: _Run, server_id: str) -> Answer | Expired:
        """Send the run once; its answer, with the logs that the server told elsewhere."""
        if not self._watch.is_kept(server_id):
            return Unreached("the server was stopped")
        hearing = self._listen(run, server_id)
        if hearing is None:
            return await self._send(run, server_id, None)
        began_at = self._clock()
        try:
            answer = await self._send(run, server_id, hearing.wish)
            if isinstance(answer, Finished) and answer.status != "succeeded" and not answer.logs:
                news = await hearing.end(LAST_NEWS_S)
                answer = replace(answer, logs=news.logs)
            self._note_silence(server_id, hearing, answer, self._clock() - began_at)
            if isinstance(answer, Finished):
                hearing.close(reads=False)
            return answer
        finally:
            hearing.close()

    def _listen(self, run: _Run, server_id: str) -> Hearing | None:
        if self._source is None:
            return None
        return self._source.open(
            server_id,
            self._watch.url(server_id),
            run.shape,
            lambda news: self._tell(run, news),
            is_coglet=self._watch.is_coglet(server_id),
        )

    def _note_silence(self, server_id: str, hearing: Hearing, answer: Answer | Expired, took_s: float) -> None:
        """A server whose run had something to tell and from which nothing came is not waited for again."""
        had_news = isinstance(answer, Expired) or (isinstance(answer, Finished) and bool(answer.logs))
        if self._source is not None and had_news and not hearing.has_heard and took_s >= SURELY_HEARD_S:
            self._source.missed(server_id)

    async def _send(self, run: _Run, server_id: str, wish: Wish | None) -> Answer | Expired:
        """Wait for the run's answer, its deadline, the server's loss or the engine's cancelling."""
        url, lost = self._watch.url(server_id), self._watch.lost(server_id)
        run.asked_at = self._now()
        expires_at = run.expires_at or self._clock() + self._deadline_s
        post = asyncio.create_task(self._client.predict(url, run.job.id, run.job.input, wish))
        try:
            done, _ = await self._first_of(post, lost, expires_at, at_most_s=TAKEN_AFTER_S)
            if not done:
                self._show(run, "processing")
                done, _ = await self._first_of(post, lost, expires_at)
        except asyncio.CancelledError:
            self._let_go(run, server_id, post)
            raise
        if post in done:
            answer = post.result()
            if isinstance(answer, Finished | Lost):
                run.attempts, run.expires_at = run.attempts + 1, expires_at
            return answer
        run.attempts, run.expires_at = run.attempts + 1, expires_at
        if lost in done:
            self._settling.drop(post)
            return Lost(lost.result())
        self._let_go(run, server_id, post)
        return Expired()

    def _let_go(self, run: _Run, server_id: str, post: asyncio.Task[Answer]) -> None:
        if self._watch.is_kept(server_id):
            run.ticket.server_id = None  # the slot is the other's now
            self._settling.cancel(run.job.id, server_id, post)
        else:
            self._settling.drop(post)

    async def _first_of(
        self, post: asyncio.Task[Answer], lost: asyncio.Future[str], expires_at: float, at_most_s: float = float("inf")
    ) -> tuple[set[asyncio.Future[Any]], set[asyncio.Future[Any]]]:
        timeout_s = max(0.0, min(expires_at - self._clock(), at_most_s))
        awaited: set[asyncio.Future[Any]] = {post, lost}
        return await asyncio.wait(awaited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    # -- what is told ------------------------------------------------------------------------------

    def _show(self, run: _Run, what: str) -> None:
        """Report news; never back from working to waiting."""
        if run.shown == what or run.shown == "processing":
            return
        run.shown = what
        if what == "processing":
            self._tell(run, run.news)
        else:
            is_booting = what == "booting"
            run.report(Progress("starting", self._now(), is_booting=is_booting, upstream_id=run.job.id))

    def _tell(self, run: _Run, news: News) -> None:
        """The server works on it, and this is what it told."""
        run.shown, run.news = "processing", news
        run.report(Progress("processing", run.asked_at, logs=news.logs, upstream_id=run.job.id, output=news.output))

    def _ended(self, run: _Run, answer: Finished) -> Outcome:
        self._show(run, "processing")
        return Outcome(
            status=answer.status,
            output=answer.output,
            error=answer.error,
            logs=answer.logs,
            metrics=answer.metrics,
            started_at=run.asked_at,
            completed_at=self._now(),
            boot_s=run.ticket.boot_s,
            download_s=run.ticket.download_s,
            upstream_id=run.job.id,
            attempts=run.attempts,
        )

    def _failed(self, run: _Run, error: str) -> Outcome:
        now = self._now()
        self._pool.leave(run.ticket, self._clock())
        _log.warning("run_failed_here", run=run.job.id, attempts=run.attempts, error=error[:500])
        return Outcome(
            status="failed",
            output=None,
            error=error,
            logs=run.news.logs,
            metrics={},
            started_at=run.asked_at or now,
            completed_at=now,
            boot_s=run.ticket.boot_s,
            download_s=run.ticket.download_s,
            upstream_id=run.job.id,
            attempts=max(run.attempts, 1),
        )


def _future() -> asyncio.Future[_Turn]:
    return asyncio.get_running_loop().create_future()


def _resolve(turn: asyncio.Future[_Turn], how: _Turn) -> None:
    if not turn.done():
        turn.set_result(how)
