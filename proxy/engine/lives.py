"""Predictions from their creation to their end: listed, watched, told to their webhooks, cancelled.

Each has its own end: a client that cancels, or a deadline that is over, takes nothing from those who share the run.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from proxy.core.ids import PredictionId
from proxy.core.predictions import Prediction
from proxy.core.webhooks import Told, WebhookRequest
from proxy.engine.books import Books
from proxy.engine.coalescer import Coalescer, Flight
from proxy.engine.history import History, Label
from proxy.engine.journal import Journal
from proxy.engine.notices import NOTHING_TOLD, Notices
from proxy.engine.ongoing import Ongoing, OngoingPrediction
from proxy.engine.recent import RecentPredictions, Running
from proxy.engine.runs import Create
from proxy.engine.views import Views, as_canceled
from storage.digest import Scope
from storage.records import ResultRecord

WRITE_WAIT_S = 2.0
"""Longest that an answer waits for the row without which another process would not know its prediction. A row takes
milliseconds; a disk that takes longer is not to hold what the model is paid for already."""


class Lives:
    """Sees to predictions that made or share a run."""

    def __init__(
        self,
        *,
        views: Views,
        coalescer: Coalescer,
        recent: RecentPredictions,
        journal: Journal,
        ongoing: Ongoing,
        history: History,
        notices: Notices,
        books: Books,
        now: Callable[[], float],
    ) -> None:
        self._views = views
        self._coalescer = coalescer
        self._recent = recent
        self._journal = journal
        self._ongoing = ongoing
        self._history = history
        self._notices = notices
        self._books = books
        self._now = now
        self._timers: dict[PredictionId, asyncio.TimerHandle] = {}

    async def begin(self, entry: Running) -> None:
        """Write a new prediction down and attend to it; its client may be told the id when this returns."""
        noted = self._ongoing.joined(_noted(entry)) if not entry.flight.has_ended else None
        await self.attend(entry, NOTHING_TOLD)
        if noted is not None:
            # Before the answer, and the rows of its run before this one: whoever is told an id is told the end of it.
            await _written(noted, None if entry.webhook is not None else WRITE_WAIT_S)

    async def tell_of(self, prediction_id: PredictionId, record: ResultRecord, create: Create) -> None:
        """Send a hit's webhook, before the answer: once that is out, nobody would ask again for what is not written."""
        if create.webhook is not None:
            served = await self._views.find(prediction_id, create.scope, {record.scope})
            if served is not None:
                await self._notices.served(served, create.webhook, create.upstream.name, create.scope)

    async def attend(self, entry: Running, told: Told) -> None:
        """Remember a prediction, and see to its deadline, its webhook (which has been ``told``) and its end."""
        self._recent.add(entry)
        self._list(entry)
        if not entry.has_ended and entry.deadline_at is not None:
            left_s = max(entry.deadline_at - self._now(), 0.0)
            self._timers[entry.id] = asyncio.get_running_loop().call_later(left_s, self._expire, entry)
        if entry.webhook is not None:
            if "logs" in entry.webhook.events:
                entry.flight.watch(math.inf)
            settle, view = partial(self._settle, entry), partial(self._views.of, entry)
            await self._notices.follow(entry, entry.webhook, entry.upstream, view, settle, told)
        elif entry.flight.has_ended:
            self._settle(entry)
        else:
            entry.flight.listen(lambda flight: self._settle(entry) if flight.has_ended else None)
        needs_start = entry.deadline_at is not None or (entry.webhook is not None and "start" in entry.webhook.events)
        if needs_start and not told.has_start:
            self._note_start(entry)

    def _note_start(self, entry: Running) -> None:
        """Write down that a prediction's run has started, now or once it has.

        In the next process it then ends as ``canceled`` by its deadline and no more as ``aborted``, and its webhook is
        not told the start again.
        """
        is_noted = False

        def look(flight: Flight) -> None:
            nonlocal is_noted
            has_started = flight.progress is not None and flight.progress.status == "processing"
            if has_started and not is_noted and not entry.has_ended:
                is_noted = True
                self._ongoing.joined(replace(_noted(entry), has_started=True))

        entry.flight.listen(look)
        look(entry.flight)

    def _list(self, entry: Running) -> None:
        """Put a prediction on its scope's list. The one that caused the run stands for the upstream's own there."""
        progress = entry.flight.progress
        label = Label((progress.model if progress else None) or entry.model, entry.version, entry.deployment)
        upstream_id = progress.upstream_id if progress is not None and not entry.is_follower else None
        self._history.add(entry.scope, entry.id, entry.created_at, label, upstream_id)

    async def conclude(self, one: OngoingPrediction) -> None:
        """Settle a prediction of a former process whose run has ended, or was lost with it."""
        prediction = await self._views.find(one.id, one.scope, {one.results_scope}) if one.webhook is not None else None
        if prediction is not None and one.webhook is not None:
            end_alone = WebhookRequest(one.webhook.url, one.webhook.events & {"completed"})
            await self._notices.served(prediction, end_alone, one.upstream, one.scope)
        self._ongoing.settled(one.id)

    def _settle(self, entry: Running) -> None:
        """The prediction is over, and whoever is to be told will be."""
        timer = self._timers.pop(entry.id, None)
        if timer is not None:
            timer.cancel()
        self._ongoing.settled(entry.id)

    def _expire(self, entry: Running) -> None:
        """Its deadline is over. Source: ``Cancel-After`` in Replicate's OpenAPI document."""
        if not entry.has_ended:
            progress = entry.flight.progress
            entry.is_aborted = progress is None or progress.status == "starting"
            self._cancel(entry)

    async def cancel(self, prediction_id: str, scope: Scope, entitled: Collection[Scope] = ()) -> Prediction | None:
        """Cancel one prediction; the run goes on while another client shares it. Ended ones stay as they are.

        ``entitled``: see ``Views.find``.
        """
        entry = self._recent.running(prediction_id, scope)
        if entry is not None and not entry.has_ended:
            await _written(self._cancel(entry), WRITE_WAIT_S)
        return await self._views.find(prediction_id, scope, entitled)

    def _cancel(self, entry: Running) -> asyncio.Task[bool]:
        """End one prediction before its run; the task ends when that is written."""
        entry.cancel(self._now())
        self._books.left(entry)
        self._coalescer.leave(entry.flight)
        if entry.flight.sharers <= 0:
            self._ongoing.run_unwanted(entry.flight.record_id)
        noted = self._journal.cancel(as_canceled(entry))
        if entry.webhook is not None:
            self._notices.changed(entry)
        else:
            self._settle(entry)
        return noted


async def _written(row: asyncio.Task[bool], timeout_s: float | None) -> None:
    """Wait until a row is written, or cannot be; that goes on when whoever waits is cancelled."""
    await asyncio.wait({row}, timeout=timeout_s)


def _noted(entry: Running) -> OngoingPrediction:
    """A prediction as it is written down while it waits."""
    return OngoingPrediction(
        id=entry.id,
        record_id=entry.flight.record_id,
        scope=entry.scope,
        results_scope=entry.results_scope,
        upstream=entry.upstream,
        created_at=entry.created_at,
        is_follower=entry.is_follower,
        deadline_at=entry.deadline_at,
        webhook=entry.webhook,
    )
