from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import BadRequest, InputInvalid, InvalidJson
from proxy.core.requests import (
    DEFAULT_WAIT_S,
    CreateBody,
    is_slug,
    parse_cancel_after,
    parse_create,
    parse_prefer_wait,
)
from proxy.core.webhooks import DEFAULT_EVENTS, WebhookRequest

HEX = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
INPUT = {"prompt": "a red fox"}


def parse(path_model: tuple[str, str] | None = None, **document: Any) -> CreateBody:
    return parse_create(orjson.dumps(document), path_model)


# -- which model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "model", "pinned"),
    [
        (HEX, None, HEX),
        (f"acme/pixel:{HEX}", ("acme", "pixel"), HEX),
        ("acme/pixel", ("acme", "pixel"), None),
        ("Acme-2/pixel_v1.5", ("Acme-2", "pixel_v1.5"), None),
    ],
)
def test_version_is_understood_in_its_three_spellings(
    version: str, model: tuple[str, str] | None, pinned: str | None
) -> None:
    assert parse(version=version, input=INPUT) == CreateBody(INPUT, model, pinned, frozenset())


@pytest.mark.parametrize(
    "version",
    [
        None,
        "",
        5,
        True,
        ["acme/pixel"],
        "acme",
        "acme/",
        "/pixel",
        "acme/pixel:",
        "acme/pixel:latest",
        f"acme/pixel:{HEX.upper()}",
        f"acme/pixel:{HEX}0",
        f"acme/pixel:{HEX}\n",
        HEX.upper(),
        HEX[:-1],
        f"{HEX}\n",
        f":{HEX}",
        "acme/pixel/more",
        "acme/../pixel",
        "../pixel",
        "acme/pixel\x00",
        "acme/pix el",
        "acm\u00e9/pixel",
        "acme/pixel\n",
        " acme/pixel",
        "a" * 129 + "/pixel",
    ],
)
def test_version_that_names_nothing_is_a_complaint_about_the_field(version: object) -> None:
    with pytest.raises(InputInvalid) as caught:
        parse(version=version, input=INPUT)
    assert [field.field for field in caught.value.fields] == ["version"]
    assert caught.value.status == 422


def test_model_of_the_path_needs_no_version() -> None:
    assert parse(("acme", "pixel"), input=INPUT) == CreateBody(INPUT, ("acme", "pixel"), None, frozenset())
    assert parse(("acme", "pixel"), input=INPUT, version=None).version is None


def test_model_of_the_path_allows_no_version_beside_it() -> None:
    with pytest.raises(InputInvalid):
        parse(("acme", "pixel"), input=INPUT, version=HEX)


# -- the rest of the body ------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [[], [INPUT], "words", 5, None, True])
def test_body_that_is_no_object_is_refused(document: object) -> None:
    with pytest.raises(BadRequest, match="object"):
        parse_create(orjson.dumps(document), None)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b'{"input": {"a": 1, "a": 2}, "version": "acme/pixel"}', b'{"input": NaN}']
)
def test_body_that_is_broken_or_may_be_read_in_two_ways_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        parse_create(body, None)


@pytest.mark.parametrize("given_input", [None, [], "words", 5, True])
def test_input_that_is_no_object_is_a_complaint_about_the_field(given_input: object) -> None:
    with pytest.raises(InputInvalid) as caught:
        parse(version="acme/pixel", input=given_input)
    assert [field.field for field in caught.value.fields] == ["input"]


def test_body_without_input_is_a_complaint_about_the_field() -> None:
    with pytest.raises(InputInvalid) as caught:
        parse(version="acme/pixel")
    assert caught.value.body()["invalid_fields"][0]["type"] == "required"


def test_further_fields_are_told_by_name_when_they_ask_for_something() -> None:
    body = parse(
        version="acme/pixel",
        input=INPUT,
        webhook="https://example.com/hook",
        webhook_events_filter=["completed"],
        stream=True,
        tracing={"on": True},
        nothing=None,
        no=False,
        empty="",
    )
    assert body.extras == {"tracing"}
    assert body.webhook == WebhookRequest("https://example.com/hook", frozenset({"completed"}))


@pytest.mark.parametrize("events", [None, []])
def test_webhook_without_a_filter_gets_outputs_and_the_end(events: object) -> None:
    body = parse(version="acme/pixel", input=INPUT, webhook="https://example.com/", webhook_events_filter=events)
    assert body.webhook == WebhookRequest("https://example.com/", DEFAULT_EVENTS)


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("webhook", {"webhook": "ftp://example.com/"}),
        ("webhook", {"webhook": 5}),
        ("webhook", {"webhook": "https://example.com/" + "x" * 3000}),
        ("webhook_events_filter", {"webhook": "https://example.com/", "webhook_events_filter": ["ended"]}),
        ("webhook_events_filter", {"webhook": "https://example.com/", "webhook_events_filter": "completed"}),
    ],
)
def test_webhook_that_cannot_be_served_is_a_complaint_about_its_field(field: str, more: dict[str, object]) -> None:
    with pytest.raises(InputInvalid) as caught:
        parse(version="acme/pixel", input=INPUT, **more)
    assert [one.field for one in caught.value.fields] == [field]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), (" ", None), ("30", 30.0), ("30s", 30.0), ("5m", 300.0), ("1h30m45s", 5445.0), ("1h", 3600.0)],
)
def test_cancel_after_is_read_as_seconds(header: str | None, seconds: float | None) -> None:
    assert parse_cancel_after(header) == seconds


@pytest.mark.parametrize("header", ["4", "0m4s", "soon", "-30", "1.5m", "30s1h", "h", "9" * 30])
def test_cancel_after_that_is_too_short_or_unreadable_is_a_complaint(header: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        parse_cancel_after(header)
    assert [one.field for one in caught.value.fields] == ["Cancel-After"]


def test_input_reaches_us_as_it_was_given() -> None:
    given_input = {"a": 1, "b": 1.0, "c": "1", "d": [True, None], "e": {"\u00e9": "e\u0301"}}
    read = parse(version="acme/pixel", input=given_input).input
    assert read == given_input
    assert [type(value) for value in read.values()] == [type(value) for value in given_input.values()]


@given(st.text(max_size=140))
def test_slug_never_holds_what_means_something_in_a_path(text: str) -> None:
    if is_slug(text):
        assert text.isascii()
        assert not set(text) & set("/\\:?#%& \n\x00")
        assert not text.startswith(".")


# -- Prefer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("respond-async", None),
        ("waiting", None),
        ("x-wait=5", None),
        ("wait", 60.0),
        ("WAIT", 60.0),
        ("wait=1", 1.0),
        ("wait=5", 5.0),
        ("wait=60", 60.0),
        ('wait="5"', 5.0),
        ("wait = 5 ", 5.0),
        ("respond-async, wait=5", 5.0),
        ("wait=5, respond-async", 5.0),
        ("wait=5; foo=bar", 5.0),
        ("wait=0", 1.0),
        ("wait=61", 60.0),
        ("wait=" + "9" * 400, 60.0),
        ("wait=", 60.0),
        ("wait=soon", 60.0),
        ("wait=-5", 60.0),
        ("wait=1.5", 60.0),
        ("wait=\u0665", 60.0),
        ("wait=\u00b2", 60.0),
        ("wait=5, wait=9", 5.0),
    ],
)
def test_prefer_wait_is_read_as_seconds(header: str | None, seconds: float | None) -> None:
    assert parse_prefer_wait(header) == seconds


@given(st.text(max_size=40))
def test_any_prefer_header_gives_a_bounded_wait_or_none(header: str) -> None:
    for text in (header, f"wait={header}"):
        seconds = parse_prefer_wait(text)
        assert seconds is None or 1.0 <= seconds <= DEFAULT_WAIT_S
