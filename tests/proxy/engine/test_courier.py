from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import orjson
import pytest

from proxy.core.ids import PredictionId
from proxy.core.outputs import OutputAccess
from proxy.core.sealing import Sealer
from proxy.core.secrets import Secrets
from proxy.core.webhooks import RETRY_AFTER_S, WebhookEvent, derive_secret
from proxy.engine.courier import FORGET_AGAIN_S, MAX_POSTS, Courier
from proxy.engine.lanes import MAX_POSTS_PER_SCOPE, MAX_WAITING_BYTES_PER_SCOPE, MAX_WAITING_PER_SCOPE
from proxy.engine.parcels import KEEP_S, Parcel, ParcelRows
from proxy.engine.webhook_secrets import Place
from proxy.upstreams.egress import EgressFailed, EgressRefused, Posted
from storage.digest import Scope
from storage.errors import StorageUnavailable
from tests.fakes.stores import MemoryKeyValue
from tests.fakes.webhooks import ACCOUNT_SECRET, Receiver, SleepingClock, is_signed, settle

pytestmark = pytest.mark.anyio

SECRETS = Secrets.derive(b"s" * 32)
URL = "https://hooks.example.com/in?password=xyzzy"
PROMPT = "a red fox"


def place(mark: str = "a", upstream: str = "api") -> Place:
    return Place(upstream, Scope(mark.encode() * 32))


def parcel(name: str = "p1", event: WebhookEvent = "completed", text: str = "", where: Place | None = None) -> Parcel:
    body = orjson.dumps({"id": name, "status": event, "input": {"prompt": PROMPT}, "output": text})
    return Parcel(PredictionId(name), event, URL, body, where or place())


class Post:
    """A courier over doubles; ``restarted`` is a new process over the same rows."""

    def __init__(self) -> None:
        self.clock = SleepingClock()
        self.rows = MemoryKeyValue(self.clock)
        self.receiver = Receiver()
        self.counted: Counter[str] = Counter()
        self.signed_for: list[Place] = []
        self.courier = self._build()

    def _build(self) -> Courier:
        async def signing(where: Place) -> Sequence[str]:
            self.signed_for.append(where)
            return (ACCOUNT_SECRET, derive_secret(SECRETS, where.scope))

        return Courier(
            ParcelRows(self.rows, Sealer(SECRETS)),
            self.receiver,
            OutputAccess(),
            signing,
            10.0,
            lambda outcome: self.counted.update([outcome]),
            self.clock,
            sleep=self.clock.sleep,
            spread=lambda: 0.0,
        )

    async def restarted(self) -> Courier:
        await self.courier.aclose()
        self.courier = self._build()
        await self.courier.resume()
        await settle()
        return self.courier

    @property
    def ids(self) -> list[str]:
        return [delivery.id for delivery in self.receiver.got]

    @property
    def events(self) -> list[str]:
        return [delivery.status for delivery in self.receiver.got]

    async def kept(self) -> list[str]:
        return [name for name, _ in await self.rows.scan("hook:")]


@pytest.fixture
def post() -> Post:
    return Post()


# -- deliveries


async def test_delivery_carries_the_body_and_every_signature(post: Post) -> None:
    assert await post.courier.entrust(parcel())
    await settle()
    (delivery,) = post.receiver.got
    assert delivery.url == URL
    assert delivery.body == parcel().body
    assert delivery.headers["Content-Type"] == "application/json"
    assert delivery.headers["webhook-timestamp"] == str(int(post.clock.now))
    for secret in (ACCOUNT_SECRET, derive_secret(SECRETS, place().scope)):
        assert is_signed(delivery.headers, delivery.body, secret)
    assert not is_signed(delivery.headers, delivery.body, derive_secret(SECRETS, place("b").scope))
    assert post.counted == {"sent": 1}
    assert await post.kept() == []
    assert len(post.courier) == 0


async def test_deliveries_of_one_prediction_are_made_one_at_a_time_and_in_order(post: Post) -> None:
    post.receiver.gate = asyncio.Event()
    post.courier.send(parcel(event="start"))
    post.courier.send(parcel(event="output"))
    await post.courier.entrust(parcel())
    await settle()
    assert post.events == ["start"], "the next waits for the answer to the first"
    post.receiver.gate.set()
    await settle()
    assert post.events == ["start", "output", "completed"]
    assert post.receiver.most_open == 1


async def test_predictions_do_not_wait_for_each_other(post: Post) -> None:
    post.receiver.gate = asyncio.Event()
    for name in ("p1", "p2", "p3"):
        post.courier.send(parcel(name, "start"))
    await settle()
    assert post.receiver.open_now == 3


async def test_news_that_still_wait_give_way_to_newer_ones(post: Post) -> None:
    post.receiver.gate = asyncio.Event()
    post.courier.send(parcel(event="start"))
    await settle()
    for text in ("a", "a b", "a b c"):
        post.courier.send(parcel(event="output", text=text))
    assert len(post.courier) == 2
    post.receiver.gate.set()
    await settle()
    assert [delivery.document["output"] for delivery in post.receiver.got] == ["", "a b c"]
    assert len(post.courier) == 0


@pytest.mark.parametrize("event", ["start", "output", "logs"])
@pytest.mark.parametrize("answer", [500, 404, EgressFailed("no"), EgressRefused("address", "no")])
async def test_what_is_not_the_end_is_tried_once(
    post: Post, event: WebhookEvent, answer: int | EgressFailed | EgressRefused
) -> None:
    post.receiver.answers = [answer, 200]
    post.courier.send(parcel(event=event))
    await post.courier.entrust(parcel())
    await settle()
    assert post.events == [event, "completed"]
    assert await post.kept() == []
    assert post.counted["sent"] == 1


async def test_end_is_tried_again_over_hours_under_one_id(post: Post) -> None:
    post.receiver.answers = [500, EgressFailed("no"), Posted(503), 302, 404, 200]
    await post.courier.entrust(parcel())
    await settle()
    for tried, delay_s in enumerate(RETRY_AFTER_S[:5], start=1):
        assert len(post.receiver.got) == tried
        assert await post.kept() == ["hook:p1"]
        await post.clock.move(delay_s - 1)
        assert len(post.receiver.got) == tried, "not a moment early"
        await post.clock.move(1)
    assert len(post.receiver.got) == 6
    assert set(post.ids) == {"msg_p1_completed"}
    stamps = [int(delivery.headers["webhook-timestamp"]) for delivery in post.receiver.got]
    assert stamps == sorted(set(stamps)), "each attempt says its own time"
    assert all(is_signed(one.headers, one.body, ACCOUNT_SECRET) for one in post.receiver.got)
    assert post.counted == {"failed": 5, "sent": 1}
    assert await post.kept() == []


async def test_receiver_that_never_takes_it_is_given_up_in_the_end(post: Post) -> None:
    post.receiver.answers = [500]
    await post.courier.entrust(parcel())
    await settle()
    for delay_s in RETRY_AFTER_S:
        await post.clock.move(delay_s)
    assert len(post.receiver.got) == len(RETRY_AFTER_S) + 1
    assert post.counted == {"failed": len(RETRY_AFTER_S) + 1, "given_up": 1}
    assert await post.kept() == []
    assert post.clock.naps == []


async def test_receiver_that_asks_for_time_gets_it(post: Post) -> None:
    post.receiver.answers = [Posted(429, 300.0), 200]
    await post.courier.entrust(parcel())
    await settle()
    assert post.clock.naps == [300.0]


@pytest.mark.parametrize("answer", [410, EgressRefused("address", "not public")])
async def test_receiver_that_is_gone_or_must_not_be_called_ends_it(post: Post, answer: int | EgressRefused) -> None:
    post.receiver.answers = [answer]
    await post.courier.entrust(parcel())
    await settle()
    assert post.counted == {"given_up": 1}
    assert await post.kept() == []
    assert post.clock.naps == []


async def test_end_is_on_the_disk_before_entrusting_returns(post: Post) -> None:
    post.receiver.gate = asyncio.Event()
    assert await post.courier.entrust(parcel())
    assert await post.kept() == ["hook:p1"]


async def test_same_end_entrusted_twice_is_delivered_once(post: Post) -> None:
    post.receiver.answers = [500, 200]
    assert await post.courier.entrust(parcel())
    await settle()
    assert await post.courier.entrust(parcel(text="again"))
    await post.clock.move(RETRY_AFTER_S[0])
    assert len(post.receiver.got) == 2
    assert [delivery.document["output"] for delivery in post.receiver.got] == ["", ""]


async def test_request_that_is_cancelled_while_it_entrusts_loses_nothing(post: Post) -> None:
    entrusting = asyncio.create_task(post.courier.entrust(parcel()))
    await asyncio.sleep(0)
    entrusting.cancel()
    await settle()
    assert entrusting.cancelled()
    assert post.events == ["completed"]
    assert await post.kept() == []


async def test_signing_that_breaks_is_a_failed_attempt(post: Post) -> None:
    async def broken(where: Place) -> Sequence[str]:
        raise RuntimeError("no secrets today")

    working, post.courier._signing = post.courier._signing, broken
    await post.courier.entrust(parcel())
    await settle()
    assert post.counted == {"failed": 1}
    post.courier._signing = working
    await post.clock.move(RETRY_AFTER_S[0])
    assert post.events == ["completed"]


# -- what lies on the disk


async def test_rows_are_sealed_and_say_nothing_to_who_reads_the_disk(post: Post) -> None:
    post.receiver.answers = [500]
    await post.courier.entrust(parcel())
    await settle()
    ((_, row),) = await post.rows.scan("hook:")
    for told in (PROMPT.encode(), b"xyzzy", b"hooks.example.com", place().scope.hex().encode()):
        assert told not in row


async def test_courier_closed_between_attempts_goes_on_after_a_restart_and_delivers_once(post: Post) -> None:
    post.receiver.answers = [500, 500, 500, 200]
    await post.courier.entrust(parcel())
    await settle()
    await post.clock.move(RETRY_AFTER_S[0])
    assert len(post.receiver.got) == 2
    await post.restarted()
    assert len(post.receiver.got) == 2, "the next attempt is not due yet"
    assert post.clock.naps == [RETRY_AFTER_S[1]], "the attempts of the earlier process count"
    await post.clock.move(RETRY_AFTER_S[1])
    assert post.clock.naps == [RETRY_AFTER_S[2]]
    await post.clock.move(RETRY_AFTER_S[2])
    assert len(post.receiver.got) == 4
    assert set(post.ids) == {"msg_p1_completed"}
    assert post.receiver.got[3].body == parcel().body
    await post.restarted()
    await post.clock.move(KEEP_S)
    assert len(post.receiver.got) == 4, "what was delivered is not delivered again"


async def test_courier_closed_before_the_first_attempt_delivers_after_a_restart(post: Post) -> None:
    post.receiver.gate = asyncio.Event()
    for number in range(MAX_POSTS_PER_SCOPE + 1):
        await post.courier.entrust(parcel(f"p{number}"))
    await settle()
    assert len(post.receiver.got) == MAX_POSTS_PER_SCOPE
    closing = asyncio.create_task(post.courier.aclose())
    await settle()
    post.receiver.gate.set()
    await closing
    assert await post.kept() == [f"hook:p{MAX_POSTS_PER_SCOPE}"], "those on their way were let arrive"
    await post.restarted()
    assert Counter(post.ids) == {f"msg_p{number}_completed": 1 for number in range(MAX_POSTS_PER_SCOPE + 1)}


async def test_stopping_does_not_wait_for_a_receiver_that_says_nothing(post: Post) -> None:
    post.receiver.gate = asyncio.Event()
    await post.courier.entrust(parcel())
    await settle()
    await asyncio.wait_for(post.courier.aclose(0.01), 5)
    assert await post.kept() == ["hook:p1"]


async def test_nothing_is_sent_after_stopping_but_the_end_is_kept(post: Post) -> None:
    await post.courier.aclose()
    post.courier.send(parcel(event="start"))
    assert await post.courier.entrust(parcel())
    await settle()
    assert post.receiver.got == []
    assert await post.kept() == ["hook:p1"]


async def test_row_of_another_place_or_another_server_is_not_delivered(post: Post) -> None:
    post.receiver.gate = asyncio.Event()
    await post.courier.entrust(parcel())
    ((_, row),) = await post.rows.scan("hook:")
    await post.courier.aclose(0.0)
    await post.rows.remove("hook:p1")
    await post.rows.put("hook:p2", row)
    await post.rows.put("hook:p3", b"nonsense")
    post.receiver.got.clear()
    await post.restarted()
    assert post.receiver.got == []


async def test_row_says_a_time_far_away_when_the_clock_was_set_back(post: Post) -> None:
    post.receiver.answers = [500, 200]
    await post.courier.entrust(parcel())
    await settle()
    post.clock.now -= 10 * 86_400
    await post.restarted()
    (nap,) = post.clock.naps
    assert nap < 86_400


# -- a disk that is away


async def test_end_that_cannot_be_written_is_delivered_all_the_same_and_said_to_be_unsafe(post: Post) -> None:
    post.rows.failure = StorageUnavailable("away")
    post.receiver.answers = [500, 500, 200]
    assert await post.courier.entrust(parcel()) is False
    await settle()
    await post.clock.move(RETRY_AFTER_S[0])
    post.rows.failure = None
    await post.clock.move(RETRY_AFTER_S[1])
    assert post.counted == {"failed": 2, "sent": 1}
    assert await post.kept() == []


async def test_row_that_cannot_be_read_for_a_while_costs_an_attempt_only(post: Post) -> None:
    post.receiver.answers = [500, 200]
    await post.courier.entrust(parcel())
    await settle()
    post.rows.failure = StorageUnavailable("away")
    await post.clock.move(RETRY_AFTER_S[0])
    post.rows.failure = None
    assert len(post.receiver.got) == 1
    await post.clock.move(RETRY_AFTER_S[1])
    assert len(post.receiver.got) == 2
    assert post.counted == {"failed": 2, "sent": 1}


async def test_row_of_a_delivery_that_was_made_is_removed_when_the_disk_is_back(post: Post) -> None:
    post.receiver.gate = asyncio.Event()
    await post.courier.entrust(parcel())
    await settle()
    post.rows.failure = StorageUnavailable("away")
    post.receiver.gate.set()
    await settle()
    assert post.counted == {"sent": 1}
    await post.clock.move(FORGET_AGAIN_S[0])
    post.rows.failure = None
    assert await post.kept() == ["hook:p1"]
    await post.clock.move(FORGET_AGAIN_S[1])
    assert await post.kept() == []
    assert len(post.receiver.got) == 1


# -- bounds


async def test_deliveries_on_their_way_are_bounded_by_scope_and_in_all(post: Post) -> None:
    post.receiver.gate = asyncio.Event()
    for number in range(3 * MAX_POSTS_PER_SCOPE):
        post.courier.send(parcel(f"slow{number}", "start"))
    await settle()
    assert post.receiver.open_now == MAX_POSTS_PER_SCOPE
    post.courier.send(parcel("other", "start", where=place("b")))
    await settle()
    assert post.ids[-1] == "msg_other_start", "a slow scope holds up no other"
    for mark in "cdefghijklmnop":
        for number in range(MAX_POSTS_PER_SCOPE):
            post.courier.send(parcel(f"{mark}{number}", "start", where=place(mark)))
    await settle()
    assert post.receiver.open_now == MAX_POSTS
    post.receiver.gate.set()
    for _ in range(5):
        await settle()
    assert post.receiver.most_open == MAX_POSTS
    assert len(post.courier) == 0


async def test_full_scope_loses_its_news_and_its_oldest_failures_but_no_fresh_end(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.engine.lanes.MAX_WAITING_PER_SCOPE", 3)
    post.receiver.answers = [500]
    for number in range(3):
        await post.courier.entrust(parcel(f"p{number}"))
        await settle()
    post.courier.send(parcel("p9", "start"))
    assert post.counted == {"failed": 3, "given_up": 1}
    await post.courier.entrust(parcel("p3"))
    await post.courier.entrust(parcel("other", where=place("b")))
    await settle()
    assert await post.kept() == ["hook:other", "hook:p1", "hook:p2", "hook:p3"]
    assert post.counted["given_up"] == 2
    post.receiver.answers = [200]
    await post.clock.move(RETRY_AFTER_S[0])
    assert await post.kept() == []
    assert "msg_p3_completed" in post.ids
    assert post.ids.count("msg_p0_completed") == 1
    assert post.counted == {"failed": 5, "sent": 4, "given_up": 2}
    assert len(post.courier) == 0


async def test_scope_whose_every_delivery_is_on_its_way_takes_no_more(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.engine.lanes.MAX_WAITING_PER_SCOPE", 2)
    post.receiver.gate = asyncio.Event()
    for number in range(3):
        assert await post.courier.entrust(parcel(f"p{number}"))
    assert await post.kept() == ["hook:p0", "hook:p1"]
    assert post.counted == {"given_up": 1}


async def test_bytes_that_wait_are_bounded_and_one_delivery_alone_is_not(post: Post) -> None:
    large = "x" * MAX_WAITING_BYTES_PER_SCOPE
    post.receiver.answers = [500]
    await post.courier.entrust(parcel("p0", text=large))
    await settle()
    assert await post.kept() == ["hook:p0"]
    await post.courier.entrust(parcel("p1"))
    await settle()
    assert await post.kept() == ["hook:p1"]
    assert MAX_WAITING_PER_SCOPE < 10_000


async def test_no_lane_is_left_when_everything_was_delivered(post: Post) -> None:
    for mark in "abc":
        await post.courier.entrust(parcel(f"p{mark}", where=place(mark)))
    await settle()
    assert post.courier._lanes == {}
    assert post.courier._entrusted == set()
