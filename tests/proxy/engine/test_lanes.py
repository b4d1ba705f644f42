from __future__ import annotations

from proxy.core.ids import PredictionId
from proxy.core.webhooks import WebhookEvent
from proxy.engine.lanes import MAX_WAITING_BYTES_PER_SCOPE, MAX_WAITING_PER_SCOPE, Item, Lane
from proxy.engine.parcels import Parcel
from proxy.engine.webhook_secrets import Place
from storage.digest import Scope

PLACE = Place("api", Scope(b"a" * 32))
ID = PredictionId("p1")


def item(event: WebhookEvent, size_bytes: int = 1) -> Item:
    return Item(Parcel(ID, event, "https://hooks.example.com", b"{}", PLACE), size_bytes)


def lane_of(*items: Item) -> Lane:
    lane = Lane(PLACE)
    for one in items:
        lane.reserve(one.size_bytes)
        lane.line(ID).items.append(one)
    return lane


def test_lane_has_room_by_number_and_by_bytes_and_gets_it_back() -> None:
    lane = Lane(PLACE)
    assert lane.has_room(10 * MAX_WAITING_BYTES_PER_SCOPE), "one alone always has"
    for _ in range(MAX_WAITING_PER_SCOPE):
        assert lane.has_room(1)
        lane.reserve(1)
    assert not lane.has_room(1)
    lane.release(1)
    assert lane.has_room(1)
    lane.reserve(MAX_WAITING_BYTES_PER_SCOPE)
    assert not lane.has_room(1)
    lane.release(MAX_WAITING_BYTES_PER_SCOPE)
    assert lane.has_room(1)


def test_news_take_the_place_of_older_news_that_were_not_begun() -> None:
    begun, older, end = item("output"), item("logs", 5), item("completed")
    lane, newer = lane_of(begun, older, end), item("output", 7)
    assert lane.replace_news(ID, newer)
    assert list(lane.line(ID).items) == [begun, newer, end]
    assert (lane.waiting, lane.waiting_bytes) == (3, 9)


def test_news_replace_neither_what_was_begun_nor_a_start_nor_an_end() -> None:
    for items in ((item("output"),), (item("start"), item("start")), (item("start"), item("completed"))):
        assert not lane_of(*items).replace_news(ID, item("output"))
    assert not Lane(PLACE).replace_news(ID, item("output"))


def test_closed_line_gives_its_room_back_once() -> None:
    lane = lane_of(item("start", 3), item("completed", 4))
    line = lane.line(ID)
    lane.close(line)
    assert (lane.waiting, lane.waiting_bytes, len(lane.lines)) == (0, 0, 0)
    successor = lane.line(ID)
    lane.close(line)
    assert lane.line(ID) is successor, "only itself, not another line of the same prediction"


def test_oldest_line_that_rests_is_found() -> None:
    lane = Lane(PLACE)
    assert lane.oldest_resting() is None
    first, second, third = (lane.line(PredictionId(name)) for name in "abc")
    assert lane.oldest_resting() is None
    third.is_resting = second.is_resting = True
    assert lane.oldest_resting() is second
    assert first is not second
