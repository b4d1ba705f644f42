"""Identical misses share one run.

A flight is one run upstream. It is a task of its own, owned here and by no client: a client that leaves, the
one that caused it included, changes nothing. Everything here happens on one event loop, so a look-up in the
table and the entry made there are one step that nothing can come between.

A flight leaves the table only after its result is stored (or has failed). Somebody who looked into the store
just before that and then finds no flight leads a new one, and looks into the store once more inside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from proxy.core.errors import HotplateError, Overloaded
from proxy.core.purging import Subject
from proxy.core.tally import Tally
from proxy.engine.partials import Partials
from proxy.upstreams.base import Outcome, Progress
from storage.digest import Digest, PredictionKey, RecordId, Scope, hash_bytes
from storage.records import JsonObject, JsonPath, ResultRecord

WATCH_S = 5.0
"""A client that asked so lately how a prediction goes will ask again."""


@dataclass(frozen=True, slots=True)
class Landed:
    """How a flight ended.

    Attributes:
        outcome: what the upstream said.
        record: the result as a record, for a success, stored or not.
        is_stored: whether the record can be found in the store.
        left_urls: files that are neither stored nor spooled, by place, under the upstream's own URL.
    """

    outcome: Outcome
    record: ResultRecord | None
    is_stored: bool
    left_urls: tuple[tuple[JsonPath, str], ...] = ()


class Flight:
    """One run and everybody who shares it.

    Attributes:
        answered_early: predictions that were answered before the run was taken, and are not cancelled.
        is_over: its run has ended at the upstream; what it gave is being taken in.
        leader: the scope of the token with which its upstream is asked.
        tally: the predictions that wait, for the ledger.
        was_found: there was no run: the result was in the store by then.
        worked_from: epoch seconds of the first news that the model works on it.
        told_end, told_outputs: how the run ended at the upstream and how many outputs it gave, where that is known.
    """

    def __init__(
        self, record_id: RecordId, key: PredictionKey | None, started_at: float, *, is_refresh: bool = False
    ) -> None:
        self.record_id = record_id
        self.key = key
        self.leader: Scope | None = None
        self.is_refresh = is_refresh
        self.started_at = started_at
        self.progress: Progress | None = None
        self.partials: Partials | None = None
        self.landed: Landed | None = None
        self.sharers = 0
        self.waiters = 0
        """Requests that wait for it now; see ``budgets.WaitingRoom``."""
        self.is_behind = False  # made behind an answer: wanted, although it may be no prediction's run
        self.tally = Tally()
        self.is_sent = False
        self.is_over = False
        self.subject: Subject | None = None
        self._watched_until = 0.0
        self.was_answered_early = False
        self.answered_early = 0
        self.was_found = False
        self.worked_from: float | None = None
        self.told_end: Outcome | None = None
        self.told_outputs = 0
        self._given: tuple[Digest, JsonObject] | None = None
        self._listeners: list[Callable[[Flight], None]] = []
        self._accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._finished: asyncio.Future[Landed] = asyncio.get_running_loop().create_future()
        self._whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    def one_of(self, given: JsonObject, given_json: bytes) -> JsonObject:
        """``given``, or the first sharer's where that is the same to the byte: many may wait with one large input."""
        digest = hash_bytes(given_json)
        if self._given is None:
            self._given = digest, given
        return self._given[1] if self._given[0] == digest else given

    def report(self, progress: Progress) -> None:
        """News from the upstream; the first makes creates answerable."""
        self.progress = progress
        if self.worked_from is None and progress.status == "processing":
            self.worked_from = progress.at
        if self.partials is not None:
            self.partials.look(progress)
        if not self._accepted.done():
            self._accepted.set_result(None)
        self.show()

    def tell_end(self, outcome: Outcome, outputs: int) -> None:
        """How the run ended at the upstream, whatever becomes of its result here; ``outputs`` as it is priced."""
        self.told_outputs = outputs
        self.told_end = replace(outcome, output=None)  # perhaps megabytes, and a flight is remembered for an hour

    def show(self) -> None:
        """There is news, or more of the output so far can be shown."""
        if self.partials is not None and self.partials.are_whole and not self._whole.done():
            self._whole.set_result(None)
        self._tell()

    def watch(self, for_s: float = WATCH_S) -> None:
        """Somebody looks at what the run has given so far; whoever looks after it upstream shall not be sparing."""
        self._watched_until = max(self._watched_until, time.monotonic() + for_s)

    def is_watched(self) -> bool:
        return time.monotonic() < self._watched_until

    def listen(self, listener: Callable[[Flight], None]) -> None:
        """Call ``listener`` on the event loop after each piece of news and after the end; never again after that."""
        self._listeners.append(listener)

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener(self)

    async def accepted(self) -> None:
        """Wait until the upstream has taken the run.

        Raises:
            HotplateError: it did not, or nobody could be asked; the same error for every sharer.
        """
        await asyncio.shield(self._accepted)

    async def accepted_soon(self, patience_s: float) -> None:
        """Like ``accepted``, but once the run has been sent wait no longer than ``patience_s``.

        Whoever follows is then answered before the upstream has answered who leads: it may hold the create for that
        one. If it refuses the run after that, the follower's prediction has failed.
        """
        while not self._accepted.done():
            done, _ = await asyncio.wait({self._accepted}, timeout=patience_s)
            if not done and self.is_sent:
                self.was_answered_early = True
                self.answered_early += 1
                return
        await self.accepted()

    async def finished(self, timeout_s: float) -> Landed | None:
        """The end of the flight, or ``None`` if it takes longer than ``timeout_s``."""
        if self.landed is None and timeout_s > 0:
            await asyncio.wait([self._finished], timeout=timeout_s)
        return self.landed

    def land(self, landed: Landed) -> None:
        """The end, for all sharers."""
        self.landed = landed
        # A flight is remembered for an hour, and files may stand in the output so far as megabytes of base64.
        self.partials = None
        if self.progress is not None:
            self.progress = replace(self.progress, output=None)
        if not self._accepted.done():
            self._accepted.set_result(None)
        if not self._finished.done():
            self._finished.set_result(landed)
        self._tell()
        self._listeners.clear()

    def refuse(self, error: HotplateError) -> None:
        """The run was never taken: every create that waits gets ``error``. Where somebody was answered early, the
        flight must still land."""
        if not self._accepted.done():
            self._accepted.set_exception(error)
            self._accepted.exception()  # retrieved here, so that no waiter at all is no warning either
        if not self._finished.done() and not self.was_answered_early:
            self._finished.cancel()

    def set_aside(self) -> None:
        """This process ends before the run does; another one will take it up. Nobody waits any longer."""
        if not self._finished.done():
            self._finished.cancel()

    @property
    def ending(self) -> asyncio.Future[Landed]:
        """Done when the flight has ended, however; only to be waited for."""
        return self._finished

    @property
    def wholeness(self) -> asyncio.Future[None]:
        """Done when ``is_whole`` has become true; only to be waited for."""
        return self._whole

    @property
    def has_ended(self) -> bool:
        return self._finished.done()

    @property
    def is_whole(self) -> bool:
        """Its output is whole and every file of it is here, although the run may go on."""
        return self._whole.done() and (self.partials is None or self.partials.are_whole)

    @property
    def was_accepted(self) -> bool:
        return self._accepted.done() and self._accepted.exception() is None

    def cancel(self) -> None:
        """Cancel the run itself."""
        if self._task is not None:
            self._task.cancel()

    def start(self, work: Callable[[Flight], Awaitable[None]]) -> asyncio.Task[None]:
        """Begin; ``work`` must end in ``land`` or ``refuse``."""

        async def run() -> None:
            await work(self)

        self._task = asyncio.create_task(run())
        return self._task


class Coalescer:
    """The flights on their way, by key."""

    def __init__(self) -> None:
        # A run that shall replace a result is not for those who would take the result, nor the other way round.
        self._by_key: dict[tuple[PredictionKey, bool], Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def find(self, key: PredictionKey, *, is_refresh: bool = False) -> Flight | None:
        """The flight to follow, if one is on its way and neither ended nor being cancelled."""
        flight = self._by_key.get((key, is_refresh))
        return flight if flight is not None and not flight.has_ended else None

    def lead(self, flight: Flight, work: Callable[[Flight], Awaitable[None]]) -> None:
        """Start ``flight``; if it has a key, others may follow it until it has ended."""
        if flight.key is not None:
            self._by_key[flight.key, flight.is_refresh] = flight
        task = flight.start(work)
        self._tasks.add(task)

        def gone(_: object) -> None:
            self._tasks.discard(task)
            self._forget(flight)
            # For a task that was cancelled before its first step; otherwise the flight has ended already.
            flight.refuse(Overloaded("the proxy is stopping", retry_after_s=1.0))

        task.add_done_callback(gone)

    def leave(self, flight: Flight) -> None:
        """One sharer has cancelled; when all have, the run is cancelled and nobody may follow it any more.

        A run that has ended at its upstream is paid for: what it gave is still taken in, for those who ask next.
        """
        flight.sharers -= 1
        if flight.sharers <= 0 and flight.landed is None:
            self._forget(flight)
            if not flight.is_over:
                flight.cancel()

    def part(self, is_meant: Callable[[Flight], bool]) -> None:
        """Let nobody join the flights that ``is_meant`` any more; those who share one still get its result."""
        for flight in [flight for flight in self._by_key.values() if is_meant(flight)]:
            self._forget(flight)

    def _forget(self, flight: Flight) -> None:
        if flight.key is not None and self._by_key.get((flight.key, flight.is_refresh)) is flight:
            del self._by_key[flight.key, flight.is_refresh]

    async def drain(self, timeout_s: float) -> None:
        """Wait for flights to end, then cancel what is left and wait for that: a run that somebody still wants is set
        aside for the next process."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
