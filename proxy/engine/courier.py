"""Delivers webhooks.

The deliveries of one prediction form a line: they are made one at a time and in order. ``start``, ``output`` and
``logs`` are tried once. ``completed`` is entrusted: it is written to a row before ``entrust`` returns, tried again over
hours, and the row goes as soon as the receiver has taken it, or wants no more, or nobody can hope any longer.

What survives an end of the process:

- before ``entrust`` has returned: perhaps nothing, and whoever entrusts must still be able to do it again;
- from then until the receiver's 2xx: the delivery, under the same ``webhook-id``, with the attempts made so far;
- between the 2xx and the removal of the row, which follow one another: the delivery is made a second time, under the
  same ``webhook-id``, by which receivers tell. No order of these two steps could avoid both a loss and a repetition.

While a delivery waits for its next attempt it is in its row alone; memory has its name and size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from random import SystemRandom
from typing import Literal, Protocol

import structlog

from proxy.core.ids import PredictionId
from proxy.core.outputs import OutputAccess
from proxy.core.webhooks import RETRY_AFTER_S, RETRY_SPREAD, judge_answer, plan_retry, sign
from proxy.engine.lanes import Item, Lane, Line
from proxy.engine.parcels import KeptParcel, Parcel, ParcelRows
from proxy.engine.webhook_secrets import Place
from proxy.upstreams.egress import EgressFailed, EgressRefused, Posted
from storage.errors import StorageError

MAX_POSTS = 64
"""Deliveries on their way at once."""

GRACE_S = 5.0
"""Longest that stopping waits for deliveries on their way."""

FORGET_AGAIN_S = (1.0, 10.0, 60.0, 600.0)
"""Seconds between attempts to remove the row of a delivery that was made, while the disk is away."""

_MAX_REST_S = max(RETRY_AFTER_S) * (1 + RETRY_SPREAD)
"""Longest rest, whatever a clock that was set back makes of a row's time."""

_RANDOM = SystemRandom()

_log = structlog.get_logger("hotplate.webhooks")

DeliveryOutcome = Literal["sent", "failed", "given_up"]
"""An attempt that was taken, an attempt that was not, a delivery that will never be made."""


class Poster(Protocol):
    """The way out: ``Egress``."""

    async def post(
        self, url: str, access: OutputAccess, *, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> Posted: ...


class Courier:
    """Makes deliveries. Used from the event loop alone."""

    def __init__(
        self,
        rows: ParcelRows,
        poster: Poster,
        access: OutputAccess,
        signing: Callable[[Place], Awaitable[Sequence[str]]],
        timeout_s: float,
        count: Callable[[DeliveryOutcome], None],
        now: Callable[[], float],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        spread: Callable[[], float] = _RANDOM.random,
    ) -> None:
        """Args: ``access`` has the origins that may be private; ``signing`` gives a scope's secrets; ``now`` in epoch
        seconds; ``spread`` random numbers from 0 to 1."""
        self._rows = rows
        self._poster = poster
        self._access = access
        self._signing = signing
        self._timeout_s = timeout_s
        self._count = count
        self._now = now
        self._sleep = sleep
        self._spread = spread
        self._posts = asyncio.Semaphore(MAX_POSTS)
        self._lanes: dict[Place, Lane] = {}
        self._entrusted: set[PredictionId] = set()
        self._taking: set[asyncio.Task[bool]] = set()
        self._forgetting: set[asyncio.Task[None]] = set()
        self._is_closing = False

    def __len__(self) -> int:
        """Deliveries that wait or are on their way."""
        return sum(lane.waiting for lane in self._lanes.values())

    def send(self, parcel: Parcel) -> None:
        """Deliver once, after what this prediction has waiting; news that still wait are replaced by newer ones."""
        if self._is_closing:
            return
        lane, item = self._lane(parcel.place), Item(parcel, len(parcel.body))
        if item.is_news and lane.replace_news(parcel.prediction_id, item):
            return
        if not lane.has_room(item.size_bytes):
            self._give_up(parcel.prediction_id, parcel.place, "no_room")
            return
        lane.reserve(item.size_bytes)
        self._append(lane, parcel.prediction_id, item)

    async def entrust(self, parcel: Parcel) -> bool:
        """Deliver with all patience, after what this prediction has waiting; once for each prediction.

        Returns:
            Whether nobody need remember it any more: it is in a row, or there is no room for it. ``False`` when it
            could not be written; it is tried all the same, as long as the process lives.
        """
        # Not in the caller's own task: a request that ends meanwhile must leave no row without its line.
        task = asyncio.create_task(self._take(parcel))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)
        return await asyncio.shield(task)

    async def resume(self) -> None:
        """Take up what an earlier process was entrusted with and has not delivered."""
        await self._rows.all(self._take_up)

    async def aclose(self, grace_s: float = GRACE_S) -> None:
        """Stop. Deliveries on their way get ``grace_s``; what was entrusted and not delivered stays in its row."""
        self._is_closing = True
        tasks = {line.task: line.is_posting for line in self._lines() if line.task is not None}
        for task, is_posting in tasks.items():
            if not is_posting:
                task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            await _end(late)
        if self._taking:
            await asyncio.wait(self._taking)
        await _end(self._forgetting)

    # -- lines -----------------------------------------------------------------------------------------

    def _lane(self, place: Place) -> Lane:
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(place)
        return lane

    def _lines(self) -> Iterator[Line]:
        for lane in self._lanes.values():
            yield from lane.lines.values()

    def _append(self, lane: Lane, prediction_id: PredictionId, item: Item) -> None:
        """Put an item, for which room was reserved, at the end of its line."""
        line = lane.line(prediction_id)
        line.items.append(item)
        if line.task is None and not self._is_closing:
            line.task = asyncio.create_task(self._carry(lane, line))

    async def _take(self, parcel: Parcel) -> bool:
        prediction_id, size_bytes = parcel.prediction_id, len(parcel.body)
        if prediction_id in self._entrusted:
            return True
        lane = self._lane(parcel.place)
        if not self._make_room(lane, size_bytes):
            self._give_up(prediction_id, parcel.place, "no_room")
            return True
        self._entrusted.add(prediction_id)
        lane.reserve(size_bytes)
        is_kept = await self._keep(KeptParcel(parcel, 0, self._now()))
        self._append(lane, prediction_id, Item(parcel, size_bytes, is_kept))
        return is_kept

    def _take_up(self, kept: KeptParcel) -> None:
        prediction_id, size_bytes = kept.parcel.prediction_id, len(kept.parcel.body)
        if prediction_id in self._entrusted:
            return
        self._entrusted.add(prediction_id)
        lane = self._lane(kept.parcel.place)
        lane.reserve(size_bytes)
        self._append(lane, prediction_id, Item(None, size_bytes, True, kept.attempts, kept.due_at))

    def _make_room(self, lane: Lane, size_bytes: int) -> bool:
        """Whether there is room now. The oldest delivery that has failed already yields to a new one."""
        while not lane.has_room(size_bytes):
            oldest = lane.oldest_resting()
            if oldest is None or oldest.task is None:
                return False
            oldest.task.cancel()
            lane.close(oldest)
            self._give_up(oldest.prediction_id, lane.place, "no_room")
            self._forget_in_time(oldest.prediction_id)
        return True

    async def _carry(self, lane: Lane, line: Line) -> None:
        try:
            while line.items and not self._is_closing:
                item = line.items[0]
                await self._rest(line, item)
                async with lane.posts, self._posts:
                    if self._is_closing:
                        return
                    line.is_posting = True
                    try:
                        is_done = await self._attempt(lane.place, line.prediction_id, item)
                    finally:
                        line.is_posting = False
                if is_done:
                    line.items.popleft()
                    lane.release(item.size_bytes)
        finally:
            lane.close(line)
            if lane.waiting == 0 and self._lanes.get(lane.place) is lane:
                del self._lanes[lane.place]

    async def _rest(self, line: Line, item: Item) -> None:
        rest_s = min(item.due_at - self._now(), _MAX_REST_S)
        if rest_s > 0:
            line.is_resting = True
            try:
                await self._sleep(rest_s)
            finally:
                line.is_resting = False

    # -- attempts --------------------------------------------------------------------------------------

    async def _attempt(self, place: Place, prediction_id: PredictionId, item: Item) -> bool:
        """Try once; whether the delivery is done with, for good or ill."""
        parcel = item.parcel
        if parcel is None:
            kept = await self._rows.read(prediction_id)
            parcel = kept.parcel if kept is not None else None
        verdict, reason, asked_s = await self._post(parcel) if parcel is not None else ("failed", "row_away", None)
        if verdict == "made":
            self._count("sent")
        elif verdict == "ended":
            self._give_up(prediction_id, place, reason)
        else:
            self._count("failed")
            if parcel is not None and parcel.event != "completed":
                return True
            item.attempts += 1
            delay_s = plan_retry(item.attempts, self._spread(), asked_s)
            if delay_s is not None:
                await self._put_off(item, parcel, delay_s)
                return False
            self._give_up(prediction_id, place, reason)
        if parcel is None or parcel.event == "completed":
            await self._forget(prediction_id)
        return True

    async def _post(self, parcel: Parcel) -> tuple[Literal["made", "ended", "failed"], str, float | None]:
        """What came of one attempt, why, and the seconds that the receiver asked for."""
        try:
            secrets = await self._signing(parcel.place)
            headers = {"Content-Type": "application/json", **sign(parcel.id, self._now(), parcel.body, secrets)}
            posted = await self._poster.post(
                parcel.url, self._access, body=parcel.body, headers=headers, timeout_s=self._timeout_s
            )
        except EgressRefused as error:
            return "ended", error.rule, None
        except EgressFailed:
            return "failed", "no_answer", None
        except Exception as error:
            # One delivery that breaks something must not stop its line, and is no different tomorrow than any other.
            _log.warning("webhook_broke", upstream=parcel.place.upstream, reason=type(error).__name__)
            return "failed", type(error).__name__, None
        return judge_answer(posted.status), f"status_{posted.status}", posted.retry_after_s

    async def _put_off(self, item: Item, parcel: Parcel | None, delay_s: float) -> None:
        item.due_at = self._now() + delay_s
        if parcel is None:
            return
        is_written = await self._keep(KeptParcel(parcel, item.attempts, item.due_at))
        item.is_kept = item.is_kept or is_written
        item.parcel = None if item.is_kept else parcel

    def _give_up(self, prediction_id: PredictionId, place: Place, reason: str) -> None:
        self._count("given_up")
        _log.warning("webhook_given_up", prediction=prediction_id, upstream=place.upstream, reason=reason)

    # -- rows ------------------------------------------------------------------------------------------

    async def _keep(self, kept: KeptParcel) -> bool:
        try:
            await self._rows.keep(kept)
        except StorageError as error:
            _log.warning("webhook_not_written", reason=type(error).__name__)
            return False
        return True

    async def _forget(self, prediction_id: PredictionId) -> None:
        try:
            await self._rows.forget(prediction_id)
        except StorageError:
            self._forget_in_time(prediction_id)
            return
        self._entrusted.discard(prediction_id)

    def _forget_in_time(self, prediction_id: PredictionId) -> None:
        """Remove a row, and again while the disk is away."""

        async def forget() -> None:
            try:
                for delay_s in (0.0, *FORGET_AGAIN_S):
                    if delay_s:
                        await self._sleep(delay_s)
                    try:
                        await self._rows.forget(prediction_id)
                    except StorageError as error:
                        _log.warning("webhook_row_not_removed", reason=type(error).__name__)
                    else:
                        return
            finally:
                self._entrusted.discard(prediction_id)

        task = asyncio.create_task(forget())
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = tuple(tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
