from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.sse import HEARTBEAT, Event, Parser, StreamUnreadable, encode, place_after, replay_after

text = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=20)
one_line = st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\r\n\0"), max_size=12)
events = st.builds(Event, one_line, one_line.filter(bool), text)
pieces = st.sampled_from(
    [b"data", b":", b" ", b"x", b"\n", b"\r", b"\r\n", b"id", b"event", b"retry", b"7", b"\xef\xbb\xbf", "é".encode()]
)
streams = st.lists(pieces | st.binary(max_size=3), max_size=40).map(b"".join)


def read(*chunks: bytes) -> list[Event]:
    parser = Parser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def reference(data: bytes) -> list[Event]:
    """The standard's algorithm by its letter, over the whole stream at once."""
    found: list[Event] = []
    last_id, name, buffer = "", "", ""
    body = data.decode("utf-8", "replace").removeprefix("\ufeff")
    for line in re.split(r"\r\n|\n|\r", body)[:-1]:
        if line == "":
            if buffer:
                found.append(Event(last_id, name or "message", buffer[:-1]))
            name, buffer = "", ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            buffer += value + "\n"
        elif field == "id" and "\0" not in value:
            last_id = value
    return found


@given(streams)
def test_bytes_are_read_as_the_standard_says(data: bytes) -> None:
    assert read(data) == reference(data)


@given(streams, st.lists(st.integers(0, 200), max_size=6))
def test_any_split_of_the_bytes_gives_the_same_events(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    chunks = [data[first:last] for first, last in pairwise(places)]
    assert read(*chunks) == read(data) == read(*(bytes([byte]) for byte in data))


@given(st.lists(events, max_size=5))
def test_what_is_encoded_is_read_back(sent: list[Event]) -> None:
    whole = HEARTBEAT.join(encode(event) for event in sent)
    assert read(whole) == [Event(one.id, one.name, re.sub("\r\n|\r", "\n", one.data)) for one in sent]


def test_event_on_the_wire_has_name_id_and_a_line_for_each_line_of_data() -> None:
    sent = encode(Event("1690212292:0", "output", " two\nlines\n"))
    assert sent == b"event: output\nid: 1690212292:0\ndata:  two\ndata: lines\ndata: \n\n"


@pytest.mark.parametrize("broken", ["a\rb", "a\r\nb", "a\nb"])
def test_line_break_in_data_never_ends_its_field(broken: str) -> None:
    assert read(encode(Event("1:0", "logs", broken))) == [Event("1:0", "logs", "a\nb")]


def test_id_lasts_until_the_next_one() -> None:
    assert [event.id for event in read(b"data: a\n\nid: 1\ndata: b\n\ndata: c\n\nid: a\0b\ndata: d\n\n")] == [
        "",
        "1",
        "1",
        "1",
    ]


def test_event_without_data_is_none_and_its_name_does_not_last() -> None:
    assert read(b"event: done\n\ndata: x\n\n") == [Event("", "message", "x")]


def test_half_an_event_at_the_end_is_none() -> None:
    assert read(b"data: whole\n\ndata: half\n") == [Event("", "message", "whole")]


def test_event_is_given_as_soon_as_its_last_line_ends_with_a_cr() -> None:
    parser = Parser()
    assert list(parser.feed(b"data: a\r\r")) == [Event("", "message", "a")]
    assert list(parser.feed(b"\ndata: b\r\n\r")) == [Event("", "message", "b")]


@pytest.mark.parametrize("split", [1, 7, 1000])
def test_endless_line_is_refused_and_what_came_before_it_is_not_lost(split: int) -> None:
    data = b"data: first\n\ndata: " + b"x" * 100 + b"\n\n"
    parser = Parser(max_line_bytes=50)
    seen: list[str] = []

    def feed_all() -> None:
        for start in range(0, len(data), split):
            seen.extend(event.data for event in parser.feed(data[start : start + split]))

    with pytest.raises(StreamUnreadable):
        feed_all()
    assert seen == ["first"]


def test_endless_event_is_refused() -> None:
    parser = Parser(max_event_bytes=50)
    with pytest.raises(StreamUnreadable):
        list(parser.feed(b"data: 1234567\n" * 10))
    fresh = Parser(max_event_bytes=50)
    assert len(list(fresh.feed(b"data: 1234567\n\n" * 10))) == 10


@given(st.lists(events, max_size=6), st.integers(0, 8))
def test_replay_goes_on_after_the_last_event_seen(sent: list[Event], seen: int) -> None:
    log = [Event(f"7:{place}", event.name, event.data) for place, event in enumerate(sent)]
    expected = log[seen + 1 :] if seen < len(log) else log
    assert replay_after(log, f"7:{seen}") == expected


@pytest.mark.parametrize("unknown", [None, "", "8:0", "7:", "nonsense", "7:00"])
def test_replay_after_an_unknown_event_misses_nothing(unknown: str | None) -> None:
    log = [Event("7:0", "output", "a"), Event("7:1", "done", "{}")]
    assert replay_after(log, unknown) == log
    assert place_after(log, unknown) == 0
