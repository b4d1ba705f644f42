from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.delivery import (
    COMMON_HEADERS,
    NotModified,
    NotSatisfiable,
    RangeNotSatisfiable,
    SendFile,
    Span,
    etag_of,
    missing_headers,
    not_modified,
    parse_range,
    plan_delivery,
)
from storage.digest import hash_bytes

DIGEST = hash_bytes(b"a red fox")
ETAG = etag_of(DIGEST)
OTHER = etag_of(hash_bytes(b"a blue fox"))
STORED_AT = 1_790_000_000.7
SIZE = 1000

Plan = NotModified | SendFile | NotSatisfiable


def at(seconds: float) -> str:
    return formatdate(seconds, usegmt=True)


def plan(content_type: str = "image/png", size_bytes: int = SIZE, name: str = "out-0.png", **headers: str) -> Plan:
    """The answer to a GET with ``headers``, their names written with underscores."""
    given_headers = {key.replace("_", "-"): value for key, value in headers.items()}
    return plan_delivery(given_headers, DIGEST, size_bytes, content_type, STORED_AT, name)


def sent(answer: Plan) -> dict[str, str]:
    """Headers by name; each stands once."""
    headers = dict(answer.headers)
    assert len(headers) == len(answer.headers)
    return headers


# -- 200 -----------------------------------------------------------------------------------------------


def test_whole_file_is_sent_with_everything_that_a_shared_cache_needs() -> None:
    answer = plan()
    assert isinstance(answer, SendFile)
    assert (answer.status, answer.span) == (200, Span(0, SIZE - 1))
    headers = sent(answer)
    assert headers["Content-Type"] == "image/png"
    assert headers["Content-Length"] == str(SIZE)
    assert headers["ETag"] == f'"b3-{DIGEST.hex()}"'
    assert headers["Last-Modified"] == at(STORED_AT)
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Content-Disposition"] == 'inline; filename="out-0.png"'
    assert "Content-Range" not in headers
    assert "Vary" not in headers
    assert "Set-Cookie" not in headers
    for directive in ("public", "max-age=31536000", "immutable", "stale-while-revalidate=86400"):
        assert directive in headers["Cache-Control"]


def test_empty_file_is_sent_whole() -> None:
    answer = plan(size_bytes=0)
    assert isinstance(answer, SendFile)
    assert (answer.status, answer.span.size_bytes) == (200, 0)
    assert sent(answer)["Content-Length"] == "0"


@pytest.mark.parametrize(
    "answer",
    [
        plan(),
        plan("text/html"),
        plan(range="bytes=0-1"),
        plan(range="bytes=5000-"),
        plan(if_none_match=ETAG),
        not_modified(DIGEST),
        NotModified(missing_headers()),
    ],
)
def test_every_answer_forbids_sniffing_and_scripts_and_opens_itself_to_other_origins(answer: Plan) -> None:
    headers = sent(answer)
    assert set(COMMON_HEADERS) <= set(answer.headers)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in headers
    assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"


@pytest.mark.parametrize("content_type", ["image/png", "image/avif", "image/gif", "video/mp4", "audio/mpeg"])
def test_picture_film_and_sound_are_shown_where_they_are_asked_for(content_type: str) -> None:
    assert sent(plan(content_type))["Content-Disposition"].startswith("inline;")


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/html",
        "image/svg+xml",
        "application/xhtml+xml",
        "application/xml",
        "application/pdf",
        "application/json",
        "application/zip",
        "application/octet-stream",
        "something/else",
        "",
    ],
)
def test_anything_that_might_run_or_is_unknown_is_an_attachment(content_type: str) -> None:
    assert sent(plan(content_type))["Content-Disposition"].startswith("attachment;")


def test_text_says_its_encoding() -> None:
    assert sent(plan("text/plain"))["Content-Type"] == "text/plain; charset=utf-8"


# -- 304 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tags",
    [ETAG, f"W/{ETAG}", f"{OTHER}, {ETAG}", f'"x" ,W/{ETAG},{OTHER}', "*", f" {ETAG} ", f"{ETAG},"],
)
def test_if_none_match_with_our_tag_is_answered_304(tags: str) -> None:
    answer = plan(if_none_match=tags)
    assert isinstance(answer, NotModified)
    headers = sent(answer)
    assert headers["ETag"] == ETAG
    assert "immutable" in headers["Cache-Control"]
    assert "Content-Type" not in headers
    assert "Content-Length" not in headers


@pytest.mark.parametrize("tags", [OTHER, f"W/{OTHER}", ETAG.strip('"'), ETAG[:-2] + '"', "", '""', f"w/{ETAG}", "**"])
def test_if_none_match_with_other_tags_is_answered_with_the_file(tags: str) -> None:
    assert isinstance(plan(if_none_match=tags), SendFile)


def test_304_wins_over_a_range_even_one_that_cannot_be_satisfied() -> None:
    assert isinstance(plan(if_none_match=ETAG, range="bytes=0-9"), NotModified)
    assert isinstance(plan(if_none_match=ETAG, range="bytes=5000-"), NotModified)


@pytest.mark.parametrize("since", [STORED_AT, STORED_AT + 1, STORED_AT + 1e6])
def test_if_modified_since_the_file_was_stored_is_answered_304(since: float) -> None:
    assert isinstance(plan(if_modified_since=at(since)), NotModified)


@pytest.mark.parametrize("since", [at(STORED_AT - 1), at(0), "yesterday", "", "0", "99999999999999999999"])
def test_if_modified_since_before_that_or_unreadable_is_answered_with_the_file(since: str) -> None:
    assert isinstance(plan(if_modified_since=since), SendFile)


def test_if_none_match_wins_over_if_modified_since() -> None:
    assert isinstance(plan(if_none_match=OTHER, if_modified_since=at(STORED_AT + 9)), SendFile)
    assert isinstance(plan(if_none_match=ETAG, if_modified_since=at(0)), NotModified)


# -- 206 and 416 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-99", 0, 99),
        ("bytes=0-0", 0, 0),
        ("bytes=500-", 500, 999),
        ("bytes=999-", 999, 999),
        ("bytes=900-5000", 900, 999),
        ("bytes=-1", 999, 999),
        ("bytes=-100", 900, 999),
        ("bytes=-5000", 0, 999),
        ("bytes=0-999", 0, 999),
        (" bytes= 0-9 ", 0, 9),
        ("bytes=00000-00009", 0, 9),
    ],
)
def test_range_is_answered_with_its_part(header: str, first: int, last: int) -> None:
    answer = plan(range=header)
    assert isinstance(answer, SendFile)
    assert (answer.status, answer.span) == (206, Span(first, last))
    headers = sent(answer)
    assert headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert headers["Content-Length"] == str(last - first + 1)
    whole = sent(plan())
    for name in ("ETag", "Cache-Control", "Content-Type", "Last-Modified", "Content-Disposition"):
        assert headers[name] == whole[name]


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=1000-1001", "bytes=-0", "bytes=99999999-"])
def test_range_beyond_the_end_is_answered_416_and_kept_by_nobody(header: str) -> None:
    answer = plan(range=header)
    assert isinstance(answer, NotSatisfiable)
    headers = sent(answer)
    assert headers["Content-Range"] == f"bytes */{SIZE}"
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Length"] == "0"
    assert "ETag" not in headers


BAD_RANGES = [
    "",
    "bytes",
    "bytes=",
    "bytes=-",
    "bytes=9-1",
    "bytes=a-b",
    "bytes=0x0-9",
    "bytes=1.0-2",
    "bytes=--5",
    "bytes=0-9-10",
    "bytes=0 - 9",
    "bytes 0-9",
    "items=0-9",
    "bytes=0-9,20-29",
    "bytes=0-9,",
    "bytes=\u0661-\u0662",
    "bytes=" + "9" * 5000 + "-",
]


@pytest.mark.parametrize("header", BAD_RANGES)
def test_range_in_bad_syntax_another_unit_or_several_parts_is_ignored(header: str) -> None:
    answer = plan(range=header)
    assert isinstance(answer, SendFile)
    assert answer.status == 200


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0"])
def test_empty_file_has_no_range(header: str) -> None:
    assert isinstance(plan(size_bytes=0, range=header), NotSatisfiable)


@pytest.mark.parametrize("condition", [ETAG, f" {ETAG} ", at(STORED_AT)])
def test_if_range_that_matches_strongly_gives_the_part(condition: str) -> None:
    answer = plan(range="bytes=0-9", if_range=condition)
    assert isinstance(answer, SendFile)
    assert answer.status == 206


@pytest.mark.parametrize(
    "condition",
    [
        f"W/{ETAG}",
        OTHER,
        ETAG.strip('"'),
        "*",
        "",
        "nonsense",
        at(STORED_AT - 1),
        at(STORED_AT + 1),
        f"{ETAG}, {OTHER}",
    ],
)
def test_if_range_that_is_weak_other_or_malformed_gives_the_whole(condition: str) -> None:
    for header in ("bytes=0-9", "bytes=5000-"):
        answer = plan(range=header, if_range=condition)
        assert isinstance(answer, SendFile)
        assert answer.status == 200


def test_if_range_without_a_range_changes_nothing() -> None:
    answer = plan(if_range=OTHER)
    assert isinstance(answer, SendFile)
    assert answer.status == 200


def naive_range(first: int | None, last: int | None, size_bytes: int) -> list[int] | None:
    """Every byte that is asked for, one by one; ``None`` when the header is not valid."""
    if first is None and last is None:
        return None
    if first is None:
        assert last is not None
        return [place for place in range(size_bytes) if place >= size_bytes - last]
    if last is not None and last < first:
        return None
    return [place for place in range(size_bytes) if place >= first and (last is None or place <= last)]


edges = st.none() | st.integers(0, 40)


@given(edges, edges, st.integers(0, 30))
def test_parse_range_agrees_with_counting_each_byte(first: int | None, last: int | None, size_bytes: int) -> None:
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    wanted = naive_range(first, last, size_bytes)
    try:
        span = parse_range(header, size_bytes)
    except RangeNotSatisfiable:
        assert wanted == []
        return
    if span is None:
        assert wanted is None
    else:
        assert wanted == list(range(span.first, span.last + 1))


@given(st.text(max_size=30), st.integers(0, 100))
def test_any_range_header_is_read_without_trouble(text: str, size_bytes: int) -> None:
    for header in (text, f"bytes={text}"):
        try:
            span = parse_range(header, size_bytes)
        except RangeNotSatisfiable:
            continue
        assert span is None or 0 <= span.first <= span.last < size_bytes


@given(
    st.dictionaries(st.sampled_from(["range", "if-range", "if-none-match", "if-modified-since"]), st.text(max_size=40))
)
def test_any_condition_is_decided_without_trouble(headers: dict[str, str]) -> None:
    answer = plan_delivery(headers, DIGEST, SIZE, "image/png", STORED_AT, "out-0.png")
    assert set(COMMON_HEADERS) <= set(answer.headers)


# -- 404 -----------------------------------------------------------------------------------------------


def test_missing_file_may_be_remembered_for_seconds_only() -> None:
    assert dict(missing_headers())["Cache-Control"] == "public, max-age=5"
