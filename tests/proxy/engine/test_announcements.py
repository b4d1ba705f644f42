from __future__ import annotations

from proxy.engine.announcements import Announcements
from storage.records import JsonObject


def test_handlers_hear_their_topic_in_the_order_in_which_they_subscribed() -> None:
    announcements, heard = Announcements(), list[tuple[str, JsonObject]]()
    announcements.subscribe("bypass", lambda payload: heard.append(("first", payload)))
    announcements.subscribe("bypass", lambda payload: heard.append(("second", payload)))
    announcements.subscribe("purged", lambda payload: heard.append(("other", payload)))
    announcements.announce("bypass", {"since": 1.0})
    assert heard == [("first", {"since": 1.0}), ("second", {"since": 1.0})]


def test_whoever_comes_later_is_told_how_things_are_and_not_what_happened() -> None:
    announcements = Announcements()
    announcements.announce("bypass", {"since": 1.0})
    announcements.announce("bypass", {"since": None})
    announcements.announce("purged", {"kind": "all", "values": [], "at": 1.0})
    assert announcements.snapshot() == [("bypass", {"since": None})]
