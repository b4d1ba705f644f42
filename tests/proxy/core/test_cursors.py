from __future__ import annotations

import base64
from urllib.parse import parse_qsl, urlencode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.cursors import Cursor, Filters, parse_time_us, read_cursor, read_request, write_cursor
from proxy.core.errors import BadRequest, InputInvalid
from proxy.core.listing import Boundary, Own

MIDNIGHT_US = 1_735_689_600_000_000  # 2025-01-01T00:00:00Z

times = st.integers(-(2**62), 2**62)
ids = st.text("abcxyz0123456789_-~", max_size=26)
cursors = st.builds(
    Cursor,
    st.builds(
        Boundary,
        st.sampled_from(["", "cursor=cD0yMDI2%3D", "created_after=2025-01-01T00:00:00Z&x=%C3%A9"]),
        times,
        ids,
        st.sampled_from(["shown", "shown-before", "left"]),
        st.builds(Own, times, ids),
    ),
    st.builds(Filters, st.none() | times, st.none() | times, st.booleans()),
    st.sampled_from(["down", "up"]),
)


@given(cursors)
def test_cursor_says_everything_and_needs_no_escaping(cursor: Cursor) -> None:
    query = urlencode({"cursor": write_cursor(cursor)})
    assert "%" not in query
    assert read_request(query) == cursor
    assert read_request(f"created_after=2020-01-01&{query}") == cursor, "the filters of the first request stay"


@given(st.text(max_size=30) | st.binary(max_size=30).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_other_text_is_refused_and_breaks_nothing(text: str) -> None:
    with pytest.raises(BadRequest):
        read_cursor("hp1." + text)


@pytest.mark.parametrize(
    "change",
    [
        {0: "sideways"},
        {1: "a b"},
        {1: "x" * 5000},
        {1: None},
        {2: "1"},
        {2: 1.5},
        {2: True},
        {3: "../x"},
        {4: 3},
        {4: -1},
        {6: ["x"]},
        {7: "x"},
        {9: 1},
    ],
)
def test_field_of_another_kind_is_refused(change: dict[int, object]) -> None:
    document = ["down", "", 1, "", 0, 1, "", None, None, True]
    for index, value in change.items():
        document[index] = value
    with pytest.raises(BadRequest):
        read_cursor("hp1." + base64.urlsafe_b64encode(orjson.dumps(document)).decode())


def test_first_request_goes_to_the_upstream_as_it_came() -> None:
    query = "created_after=2025-01-01T00%3A00%3A00Z&created_before=2025-01-01T01:00:00%2B01:00&more=%20x"
    assert read_request(query) == Cursor(Boundary(query), Filters(MIDNIGHT_US, MIDNIGHT_US))
    assert read_request("") == Cursor(Boundary(""), Filters())


@pytest.mark.parametrize("query", ["source=web", "source=anything", "cursor=bmF0aXZl", "cursor=7"])
def test_what_only_the_upstream_can_know_has_no_own_entries(query: str) -> None:
    assert read_request(query) == Cursor(Boundary(query), Filters(has_own=False))


@pytest.mark.parametrize("text", ["yesterday", "2025-13-01", "1735689600x", "+"])
def test_time_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(InputInvalid) as raised:
        read_request(urlencode({"created_before": text}))
    assert raised.value.fields[0].field == "created_before"


@pytest.mark.parametrize(
    ("text", "at_us"),
    [
        ("2025-01-01T00:00:00Z", MIDNIGHT_US),
        ("2025-01-01", MIDNIGHT_US),
        ("2025-01-01T00:00:00", MIDNIGHT_US),
        ("2025-01-01T02:00:00+02:00", MIDNIGHT_US),
        ("2025-01-01T00:00:00.794442Z", MIDNIGHT_US + 794_442),
        ("1970-01-01T00:00:00.000001Z", 1),
        (None, None),
        (17, None),
        ("soon", None),
    ],
)
def test_times_are_read_to_the_microsecond(text: object, at_us: int | None) -> None:
    assert parse_time_us(text) == at_us


def test_plus_sign_that_was_not_escaped_is_read_as_one() -> None:
    query = "created_after=2025-01-01T02:00:00+02:00"
    assert " " in dict(parse_qsl(query))["created_after"]
    assert read_request(query).filters.after_us == MIDNIGHT_US


def test_filters_take_the_first_moment_and_leave_the_last() -> None:
    filters = Filters(after_us=10, before_us=20)
    assert [at for at in range(30) if filters.covers(at)] == list(range(10, 20))
    assert not Filters(has_own=False).covers(5)
