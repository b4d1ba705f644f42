"""Watches predictions for their webhooks: looks at news, asks the core what is due, and hands it to the courier.

A prediction that made or shares a run is watched by a task of its own, which no client's leaving touches. It looks
when the flight has news, but never more often than something could be due. What is told is always the prediction as
its own client sees it: its id, its input, addresses of this proxy.

The end is entrusted to the courier before ``settled`` is called. So whoever keeps a note that the prediction is still
to be told (for after a crash) may drop it then, and at no earlier moment. Between the two the end may be told twice,
under one ``webhook-id``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from proxy.core.ids import PredictionId
from proxy.core.predictions import Prediction, render_prediction
from proxy.core.webhooks import Due, Told, WebhookRequest, plan_deliveries
from proxy.engine.coalescer import Flight
from proxy.engine.courier import Courier
from proxy.engine.parcels import Parcel
from proxy.engine.recent import Running
from proxy.engine.webhook_secrets import Place
from storage.digest import Scope

NOTHING_TOLD = Told()

STARTED = Told(has_start=True)
"""For a run that goes on after a restart, and of which an earlier process has told that it started."""

CLOSE_S = 5.0
"""Longest that stopping waits for the last looks."""

_log = structlog.get_logger("hotplate.webhooks")


@dataclass(eq=False, slots=True)
class _Watch:
    """One prediction that is watched.

    Attributes:
        news: something has happened; ``ended``: what has happened may be the end.
    """

    entry: Running
    request: WebhookRequest
    place: Place
    view: Callable[[], Awaitable[Prediction]]
    settled: Callable[[], None]
    told: Told
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def has_ended(self) -> bool:
        return self.entry.flight.landed is not None or self.entry.canceled_at is not None

    def hear(self, flight: Flight) -> None:
        """A flight's listener."""
        self.news.set()
        if flight.landed is not None:
            self.ended.set()


class Notices:
    """Follows predictions that have a webhook. Used from the event loop alone."""

    def __init__(
        self,
        courier: Courier,
        base_url: str,
        now: Callable[[], float],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Args: ``base_url`` is the public one, without ``/v1``; ``now`` in epoch seconds."""
        self._courier = courier
        self._base_url = base_url
        self._now = now
        self._sleep = sleep
        self._watches: dict[PredictionId, _Watch] = {}

    def __len__(self) -> int:
        """Predictions that are watched now."""
        return len(self._watches)

    async def follow(
        self,
        entry: Running,
        request: WebhookRequest,
        upstream_name: str,
        view: Callable[[], Awaitable[Prediction]],
        settled: Callable[[], None],
        told: Told = NOTHING_TOLD,
    ) -> None:
        """Tell the webhook of a prediction that made or shares a run, to its end.

        Returns at once while the flight is on its way; when it has landed already, once the end is entrusted.

        Args:
            view: gives the prediction as its client sees it now.
            settled: called when the end is safe with the courier, or is not asked for. Never called if the end could
                not be written, or if the proxy stops before it: then ``follow`` again in the next process.
            told: what an earlier process has told.
        """
        if entry.id in self._watches:
            return
        watch = _Watch(entry, request, Place(upstream_name, entry.scope), view, settled, told)
        self._watches[entry.id] = watch
        if not watch.has_ended:
            entry.flight.listen(watch.hear)
        watch.task = asyncio.create_task(self._watch(watch))
        if watch.has_ended:
            await asyncio.shield(watch.task)

    async def served(self, prediction: Prediction, request: WebhookRequest, upstream_name: str, scope: Scope) -> None:
        """Tell the webhook of a hit all that a run would have told; returns once the end is entrusted."""
        plan = plan_deliveries(request, NOTHING_TOLD, prediction, self._now())
        await self._deliver(plan.deliveries, request, Place(upstream_name, scope))

    def changed(self, entry: Running) -> None:
        """Something has happened to this prediction alone that its flight does not tell: its client cancelled it."""
        watch = self._watches.get(entry.id)
        if watch is not None:
            watch.news.set()
            watch.ended.set()

    async def aclose(self) -> None:
        """Stop watching. Ends that have come are still entrusted; for all others ``settled`` is never called."""
        tasks: list[asyncio.Task[None]] = []
        for watch in self._watches.values():
            if watch.task is not None:
                tasks.append(watch.task)
                if watch.has_ended:
                    self.changed(watch.entry)
                else:
                    watch.task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)

    async def _watch(self, watch: _Watch) -> None:
        try:
            while True:
                # Before the look, so that what happens during it is looked at as well.
                watch.news.clear()
                watch.ended.clear()
                quiet_s = 0.0
                try:
                    look = await self._look(watch)
                    if look is None:
                        return
                    quiet_s = look
                except Exception:
                    _log.exception("webhook_watch_broke", upstream=watch.place.upstream)
                    if watch.has_ended:
                        return
                await self._wait(watch, quiet_s)
        finally:
            del self._watches[watch.entry.id]

    async def _look(self, watch: _Watch) -> float | None:
        """Deliver what is due; how long nothing but the end can be due, or ``None`` when that has come."""
        prediction = await watch.view()
        plan = plan_deliveries(watch.request, watch.told, prediction, self._now())
        watch.told = plan.told
        is_safe = await self._deliver(plan.deliveries, watch.request, watch.place)
        if not prediction.is_terminal:
            return plan.quiet_s
        if is_safe:
            watch.settled()
        return None

    async def _deliver(self, deliveries: Sequence[Due], request: WebhookRequest, place: Place) -> bool:
        """Whether all of it may be forgotten by everybody else."""
        is_safe = True
        for due in deliveries:
            body = render_prediction(due.prediction, self._base_url)
            parcel = Parcel(due.prediction.id, due.event, request.url, body, place)
            if due.event == "completed":
                is_safe = await self._courier.entrust(parcel)
            else:
                self._courier.send(parcel)
        return is_safe

    async def _wait(self, watch: _Watch, quiet_s: float) -> None:
        if quiet_s <= 0:
            await watch.news.wait()
        elif math.isinf(quiet_s):
            await watch.ended.wait()
        else:
            waits = [asyncio.create_task(watch.ended.wait()), asyncio.ensure_future(self._sleep(quiet_s))]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waits:
                    one.cancel()
