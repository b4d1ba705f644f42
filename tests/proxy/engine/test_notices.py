from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from proxy.core.outputs import OutputAccess
from proxy.core.predictions import Prediction
from proxy.core.sealing import Sealer
from proxy.core.webhooks import NEWS_EVERY_S, RETRY_AFTER_S, Told, WebhookEvent, WebhookRequest, derive_secret
from proxy.engine.courier import Courier
from proxy.engine.notices import STARTED, Notices
from proxy.engine.parcels import ParcelRows
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.engine.webhook_secrets import Place
from proxy.upstreams.base import Progress
from storage.errors import StorageUnavailable
from tests.fakes.engine import BASE, OTHER_TOKEN, TOKEN, Engine
from tests.fakes.webhooks import Delivery, Receiver, SleepingClock, is_signed, settle

pytestmark = pytest.mark.anyio

URL = "https://hooks.example.com/in"
ALL: frozenset[WebhookEvent] = frozenset({"start", "output", "logs", "completed"})


class World:
    """The engine with webhooks; runs wait at ``gate``."""

    def __init__(self) -> None:
        self.clock = SleepingClock()
        self.engine = Engine(clock=self.clock)
        self.gate = self.engine.upstream.gate = asyncio.Event()
        self.receiver = Receiver()
        self.settled: list[str] = []
        self.counted: Counter[str] = Counter()
        self._build()

    def _build(self) -> None:
        async def signing(place: Place) -> Sequence[str]:
            return (derive_secret(self.engine.secrets, place.scope),)

        rows = ParcelRows(self.engine.ledger, Sealer(self.engine.secrets))
        self.courier = Courier(
            rows,
            self.receiver,
            OutputAccess(),
            signing,
            10.0,
            lambda outcome: self.counted.update([outcome]),
            self.clock,
            sleep=self.clock.sleep,
            spread=lambda: 0.0,
        )
        self.notices = Notices(self.courier, BASE, self.clock, sleep=self.clock.sleep)

    async def stop(self) -> None:
        await self.notices.aclose()
        await self.courier.aclose()

    async def restart(self) -> None:
        await self.stop()
        self._build()
        await self.courier.resume()
        await settle()

    async def start(self, given: dict[str, Any] | None = None, **how: Any) -> Running:
        entry = await self.engine.create(given, **how)
        assert isinstance(entry, Running)
        return entry

    async def follow(
        self,
        entry: Running,
        events: frozenset[WebhookEvent] = ALL,
        view: Callable[[], Awaitable[Prediction]] | None = None,
        told: Told | None = None,
    ) -> None:
        await self.notices.follow(
            entry,
            WebhookRequest(f"{URL}/{entry.id}", events),
            "replicate",
            view or (lambda: self.engine.views.of(entry)),
            lambda: self.settled.append(entry.id),
            **({"told": told} if told is not None else {}),
        )

    async def finish(self) -> None:
        self.gate.set()
        await settle()

    def got(self, entry: Running | Hit) -> list[Delivery]:
        return [delivery for delivery in self.receiver.got if delivery.url.endswith(entry.id)]

    def told(self, entry: Running | Hit) -> list[tuple[str, bool]]:
        """Status of each delivery, and whether it shows an output."""
        return [(one.status, one.document["output"] is not None) for one in self.got(entry)]

    async def kept(self) -> list[str]:
        return [name for name, _ in await self.engine.ledger.scan("hook:")]


@pytest.fixture
def world() -> World:
    return World()


TOLD_OF_A_SUCCESS = [("processing", False), ("processing", True), ("succeeded", True)]


# -- runs


async def test_run_is_told_from_its_start_to_its_end(world: World) -> None:
    entry = await world.start()
    await world.follow(entry, frozenset({"start", "output", "completed"}))
    await settle()
    assert world.told(entry) == [("processing", False)]
    world.clock.advance(2)
    await world.finish()
    assert world.told(entry) == TOLD_OF_A_SUCCESS
    assert world.settled == [entry.id]
    assert len(world.notices) == 0
    end = world.got(entry)[-1]
    assert end.document["id"] == entry.id
    assert end.document["input"] == {"prompt": "a red fox"}
    assert end.document["urls"]["get"] == f"{BASE}/v1/predictions/{entry.id}"
    assert all(output.startswith(BASE) for output in end.document["output"])
    assert is_signed(end.headers, end.body, derive_secret(world.engine.secrets, entry.scope))


async def test_end_is_what_a_get_of_the_prediction_says(world: World) -> None:
    entry = await world.start()
    await world.follow(entry)
    await world.finish()
    found = await world.engine.views.find(entry.id, entry.scope)
    assert found is not None
    assert world.got(entry)[-1].document["completed_at"]
    assert world.got(entry)[-1].document["metrics"]["predict_time"] == found.metrics["predict_time"]


async def test_every_sharer_is_told_of_its_own_prediction_once(world: World) -> None:
    leader = await world.start()
    await world.follow(leader)
    follower = await world.start()
    assert follower.is_follower
    await world.follow(follower)
    await world.finish()
    for entry in (leader, follower):
        ends = [one for one in world.got(entry) if one.status == "succeeded"]
        assert [end.document["id"] for end in ends] == [entry.id]
    assert sorted(world.settled) == sorted([leader.id, follower.id])
    assert len(world.engine.upstream.jobs) == 1


async def test_sharers_that_cancelled_are_told_so_at_once_and_the_others_of_the_success(world: World) -> None:
    leader, follower = await world.start(), await world.start()
    await world.follow(leader)
    await world.follow(follower)
    await settle()
    await world.engine.lives.cancel(follower.id, follower.scope)
    world.notices.changed(follower)
    await settle()
    assert world.told(follower)[-1] == ("canceled", False)
    assert world.settled == [follower.id]
    await world.finish()
    assert world.told(leader)[-1] == ("succeeded", True)
    assert [one.status for one in world.got(follower)].count("canceled") == 1
    assert "succeeded" not in [one.status for one in world.got(follower)]


async def test_run_that_its_only_client_cancelled_is_told_once(world: World) -> None:
    entry = await world.start()
    await world.follow(entry)
    await settle()
    await world.engine.lives.cancel(entry.id, entry.scope)
    world.notices.changed(entry)
    await settle()
    assert [one.status for one in world.got(entry)].count("canceled") == 1
    assert world.settled == [entry.id]


async def test_failed_run_is_told_with_its_error(world: World) -> None:
    world.engine.upstream.status = "failed"
    entry = await world.start()
    await world.follow(entry)
    await world.finish()
    assert world.got(entry)[-1].document["error"] == "the model says no"
    assert world.told(entry)[-1] == ("failed", False)


async def test_growing_output_is_looked_at_every_half_second_and_never_more_often(world: World) -> None:
    entry = await world.start()
    looks: list[float] = []
    text = "a"

    async def view() -> Prediction:
        looks.append(world.clock.now)
        prediction = await world.engine.views.of(entry)
        return replace(prediction, output=text) if prediction.status == "processing" else prediction

    await world.follow(entry, frozenset({"output", "completed"}), view)
    await settle()
    for number in range(20):
        text += f" {number}"
        entry.flight.report(Progress("processing", world.clock.now))
        await world.clock.move(NEWS_EVERY_S / 5)
    outputs = [one.document["output"] for one in world.got(entry)]
    assert outputs[0] == "a"
    assert 4 <= len(outputs) <= 6
    assert len(looks) <= 8
    await world.clock.move(NEWS_EVERY_S)
    assert world.got(entry)[-1].document["output"] == text, "the last news are told though nothing came after them"
    await world.finish()
    assert world.told(entry)[-1][0] == "succeeded"


async def test_prediction_whose_webhook_wants_the_end_alone_is_looked_at_twice(world: World) -> None:
    entry = await world.start()
    looks = 0

    async def view() -> Prediction:
        nonlocal looks
        looks += 1
        return await world.engine.views.of(entry)

    await world.follow(entry, frozenset({"completed"}), view)
    for _ in range(50):
        entry.flight.report(Progress("processing", world.clock.now))
        await settle()
    await world.finish()
    assert looks == 2
    assert [one.status for one in world.got(entry)] == ["succeeded"]


async def test_flight_that_has_landed_is_told_and_its_end_entrusted_before_follow_returns(world: World) -> None:
    world.gate.set()
    entry = await world.start()
    await entry.flight.finished(5)
    world.receiver.gate = asyncio.Event()
    await world.follow(entry)
    assert await world.kept() == [f"hook:{entry.id}"]
    assert world.settled == [entry.id]
    world.receiver.gate.set()
    await settle()
    assert world.told(entry) == TOLD_OF_A_SUCCESS


async def test_following_twice_tells_once(world: World) -> None:
    entry = await world.start()
    await world.follow(entry)
    await world.follow(entry)
    await world.finish()
    assert [one.status for one in world.got(entry)].count("succeeded") == 1
    assert world.settled == [entry.id]


async def test_webhook_without_the_end_in_its_filter_is_settled_at_the_end(world: World) -> None:
    entry = await world.start()
    await world.follow(entry, frozenset({"start"}))
    await settle()
    assert world.settled == []
    await world.finish()
    assert [one.status for one in world.got(entry)] == ["processing"]
    assert world.settled == [entry.id]


async def test_client_is_settled_only_when_the_end_is_on_the_disk(world: World) -> None:
    entry = await world.start()
    kept_at_settling: list[list[str]] = []

    def settled() -> None:
        kept_at_settling.append([name for name in world.engine.ledger._values if name.startswith("hook:")])

    world.receiver.gate = asyncio.Event()
    await world.notices.follow(entry, WebhookRequest(URL), "replicate", lambda: world.engine.views.of(entry), settled)
    await world.finish()
    assert kept_at_settling == [[f"hook:{entry.id}"]]


async def test_end_that_cannot_be_written_is_told_but_not_settled(world: World) -> None:
    entry = await world.start()
    await world.follow(entry, frozenset({"completed"}))
    world.engine.ledger.failure = StorageUnavailable("away")
    await world.finish()
    assert [one.status for one in world.got(entry)] == ["succeeded"]
    assert world.settled == []


async def test_view_that_breaks_once_costs_no_end(world: World) -> None:
    entry = await world.start()
    views = 0

    async def view() -> Prediction:
        nonlocal views
        views += 1
        if views == 1:
            raise RuntimeError("not now")
        return await world.engine.views.of(entry)

    await world.follow(entry, ALL, view)
    await settle()
    await world.finish()
    assert world.told(entry)[-1] == ("succeeded", True)
    assert world.settled == [entry.id]


async def test_other_callers_predictions_are_signed_with_their_own_secret(world: World) -> None:
    mine, theirs = await world.start(), await world.start(token=OTHER_TOKEN)
    await world.follow(mine)
    await world.follow(theirs)
    await world.finish()
    assert mine.scope != theirs.scope
    for entry, stranger in ((mine, theirs), (theirs, mine)):
        end = world.got(entry)[-1]
        assert is_signed(end.headers, end.body, derive_secret(world.engine.secrets, entry.scope))
        assert not is_signed(end.headers, end.body, derive_secret(world.engine.secrets, stranger.scope))


# -- hits


async def serve_hit(world: World, events: frozenset[WebhookEvent] = ALL) -> Hit:
    world.gate.set()
    await world.engine.run()
    hit = await world.engine.create()
    assert isinstance(hit, Hit)
    prediction = await world.engine.views.find(hit.id, world.engine.request().scope)
    assert prediction is not None
    request = WebhookRequest(f"{URL}/{hit.id}", events)
    await world.notices.served(prediction, request, "replicate", hit.record.scope)
    return hit


async def test_hit_is_told_as_a_run_would_have_been(world: World) -> None:
    hit = await serve_hit(world)
    await settle()
    assert world.told(hit) == TOLD_OF_A_SUCCESS
    end = world.got(hit)[-1].document
    shown = hit.template.fill(hit.id, hit.input_json, hit.created_at)
    assert end == Delivery("", {}, shown).document, "the body that the create was answered with"
    assert TOKEN.encode() not in b"".join(one.body for one in world.got(hit))


async def test_end_of_a_hit_is_on_the_disk_before_the_answer(world: World) -> None:
    world.receiver.gate = asyncio.Event()
    hit = await serve_hit(world, frozenset({"completed"}))
    assert await world.kept() == [f"hook:{hit.id}"]
    await world.courier.aclose(0.0)
    world.receiver.gate = None
    world.receiver.got.clear()
    await world.restart()
    assert world.told(hit) == [("succeeded", True)]
    assert await world.kept() == []


# -- restarts


async def test_prediction_still_running_at_the_stop_is_told_by_the_next_process_alone(world: World) -> None:
    entry = await world.start()
    await world.follow(entry, ALL)
    await settle()
    await world.restart()
    assert world.settled == []
    assert len(world.notices) == 0
    await world.follow(entry, ALL, told=STARTED)
    await world.finish()
    times = Counter(one.id for one in world.got(entry))
    assert times[f"msg_{entry.id}_start"] == times[f"msg_{entry.id}_completed"] == 1
    assert world.told(entry)[-1] == ("succeeded", True)
    assert sorted(times.values()) == [1, 1, 2], "logs that were told before are told again under their id"
    assert world.settled == [entry.id]


async def test_end_that_came_with_the_stop_is_kept_for_the_next_process(world: World) -> None:
    entry = await world.start()
    await world.follow(entry, frozenset({"completed"}))
    await settle()
    world.receiver.answers = [500, 200]
    world.gate.set()
    await entry.flight.finished(5)
    await world.restart()
    assert world.settled == [entry.id]
    await world.clock.move(RETRY_AFTER_S[0])
    (end,) = {one.id for one in world.got(entry)}
    assert end == f"msg_{entry.id}_completed"
    assert {one.status for one in world.got(entry)} == {"succeeded"}
    assert await world.kept() == []


async def test_stop_does_not_hang_on_a_cancelled_prediction_of_which_nobody_was_told(world: World) -> None:
    entry = await world.start()
    await world.follow(entry, frozenset({"completed"}))
    await settle()
    entry.canceled_at = world.clock.now
    await asyncio.wait_for(world.stop(), 5)
    assert world.settled == [entry.id]


async def test_stop_does_not_hang_on_a_view_that_never_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.engine.notices.CLOSE_S", 0.05)
    entry = await world.start()

    async def view() -> Prediction:
        await asyncio.Event().wait()
        raise AssertionError

    await world.follow(entry, frozenset({"completed"}), view)
    await world.finish()
    await asyncio.wait_for(world.stop(), 5)
    assert world.settled == []
