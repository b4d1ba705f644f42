from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.files import PAGE_SIZE, OwnFile, is_same_file, render_file, render_page
from storage.digest import Digest

BASE = "https://images.example.com"
API = "https://api.replicate.com/v1"


def a_file(number: int, created_at: float = 1_700_000_000.0) -> OwnFile:
    return OwnFile(
        f"{number:048x}",
        Digest(bytes(32)),
        3,
        "a.png",
        "image/png",
        {"k": 1},
        "m",
        "s",
        created_at,
        created_at + 86_400,
    )


def test_file_object_has_the_shape_of_the_api() -> None:
    assert render_file(a_file(1), BASE) == {
        "id": f"{1:048x}",
        "name": "a.png",
        "content_type": "image/png",
        "size": 3,
        "etag": "m",
        "checksums": {"sha256": "s", "md5": "m"},
        "metadata": {"k": 1},
        "created_at": "2023-11-14T22:13:20.000Z",
        "expires_at": "2023-11-15T22:13:20.000Z",
        "urls": {"get": f"{BASE}/v1/files/{1:048x}"},
    }


@given(st.integers(0, 3 * PAGE_SIZE + 5), st.integers(1, 7))
def test_pages_tell_every_file_once_and_lead_back(count: int, same_time: int) -> None:
    files = [a_file(number, 1_700_000_000.0 + number // same_time) for number in range(count)]
    seen: list[str] = []
    pages: list[list[str]] = []
    cursor: str | None = None
    while True:
        page = render_page(files, cursor, BASE)
        ids = [file["id"] for file in page["results"]]
        pages.append(ids)
        seen += ids
        if len(pages) > 1:
            back = parse_qs(urlsplit(page["previous"]).query).get("cursor", [None])[0]
            assert [file["id"] for file in render_page(files, back, BASE)["results"]] == pages[-2]
        else:
            assert page["previous"] is None
        if page["next"] is None:
            break
        cursor = parse_qs(urlsplit(page["next"]).query)["cursor"][0]
    assert seen == [file.id for file in reversed(files)]


@pytest.mark.parametrize("cursor", ["", "x", "%", "AAAA", "é"])
def test_cursor_that_cannot_be_read_means_the_first_page(cursor: str) -> None:
    assert render_page([a_file(1)], cursor, BASE)["results"]


@pytest.mark.parametrize(
    ("told", "is_same"),
    [
        ({}, True),
        ({"size": 3, "checksums": {"sha256": "s", "md5": "m"}}, True),
        ({"size": 4}, False),
        ({"checksums": {"sha256": "x"}}, False),
        ({"checksums": {"md5": "x"}}, False),
        ({"checksums": None}, True),
        ([], False),
    ],
)
def test_upstream_that_says_other_bytes_than_were_seen_is_not_believed(told: object, is_same: bool) -> None:
    assert is_same_file(told, 3, "s", "m") is is_same
