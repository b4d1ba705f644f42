from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.inputs import HostNames, InputFile, KnownPlaces, find_files, holds_url
from proxy.core.schemas import parse_schema
from storage.records import JsonObject, JsonValue

BASE = "https://images.example.com"
API = "https://api.replicate.com/v1/files/"
URL = "https://example.com/cat.png"
DATA = "data:image/png;base64,AAAA"
PLACES = KnownPlaces(BASE, API)


def schema(**properties: Any) -> Any:
    return parse_schema({"components": {"schemas": {"Input": {"type": "object", "properties": properties}}}})


TEXT = {"type": "string"}
FILE = {"type": "string", "format": "uri"}


def places_of(given_input: JsonObject, declared: Any) -> list[tuple[Any, str]]:
    return sorted((file.path, file.text) for file in find_files(given_input, declared, PLACES))


def only(text: str, declared: Any = None) -> InputFile:
    (found,) = find_files({"image": text}, declared, PLACES)
    return found


# -- where a file may stand ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", [URL, DATA, f"{BASE}/v1/files/abc", f"{BASE}/outputs/a/b/c"])
def test_field_that_the_schema_calls_text_is_text(text: str) -> None:
    assert places_of({"prompt": text, "n": 1}, schema(prompt=TEXT, n={"type": "integer"})) == []


@pytest.mark.parametrize("url", [URL, "http://127.0.0.1/x", "HTTPS://EXAMPLE.COM/x", DATA])
def test_field_that_the_schema_calls_a_file_is_one(url: str) -> None:
    assert places_of({"image": url}, schema(image=FILE)) == [(("image",), url)]
    assert only(url, schema(image=FILE)).is_declared


def test_files_of_a_list_are_found_each_in_its_place() -> None:
    declared = schema(images={"type": "array", "items": FILE}, words={"type": "array", "items": TEXT})
    given_input = {"images": [URL, "data:,x", URL + "2"], "words": [URL]}
    assert places_of(given_input, declared) == [(("images", 0), URL), (("images", 2), URL + "2")]
    assert all(file.is_declared for file in find_files(given_input, declared, PLACES))


def test_where_nothing_is_known_every_url_may_be_a_file() -> None:
    given_input = {"a": URL, "b": {"c": ["x", f" {URL} "]}, "prompt": f"a sign that says {URL}"}
    assert places_of(given_input, None) == [(("a",), URL), (("b", "c", 1), URL)]
    assert places_of({"unknown": URL}, schema(prompt=TEXT)) == [(("unknown",), URL)]
    assert places_of({"odd": URL}, schema(odd={"type": "object"})) == [(("odd",), URL)]
    assert not only(URL).is_declared


# -- what it is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "name", "is_own"),
    [
        (f"{BASE}/outputs/a/b/c.png", "output", "a/b/c.png", True),
        (f"{BASE}/v1/files/abc_-=", "upload", "abc_-=", True),
        (f"{BASE}/files/abc", "upload", "abc", True),
        (f"{BASE}/v1/v1/files/abc", "upload", "abc", True),
        (f"{API}abc", "upload", "abc", False),
        (DATA, "data", "", False),
        (URL, "url", "", False),
        (f"{BASE}/v1/files/", "url", "", False),
        (f"{BASE}/v1/files/..", "url", "", False),
        (f"{BASE}/v1/files/abc/download", "upload", "abc", True),
        (f"{BASE}/v1/files/abc/download?owner=a&expiry=1&signature=b%2F", "upload", "abc", True),
        (f"{BASE}/v1/files/abc/download/more", "url", "", False),
        (f"{BASE}/v1/files/abc?x=1", "url", "", False),
        (f"{BASE}.evil.example/v1/files/abc", "url", "", False),
        (f"{BASE}:8443/v1/files/abc", "url", "", False),
        ("https://api.replicate.com/v1/filesystem/abc", "url", "", False),
    ],
)
def test_address_is_told_by_its_root(text: str, kind: str, name: str, is_own: bool) -> None:
    found = only(text)
    assert (found.kind, found.name, found.is_own) == (kind, name, is_own)


def test_upload_of_an_upstream_without_a_files_api_is_a_url_like_any_other() -> None:
    for text in (f"{API}abc", f"{BASE}/v1/files/abc/download?signature=b"):
        (found,) = find_files({"image": text}, None, KnownPlaces(BASE))
        assert found.kind == "url"
    (found,) = find_files({"image": f"{BASE}/v1/files/abc/download"}, None, KnownPlaces(BASE))
    assert (found.kind, found.name) == ("upload", "abc")


@pytest.mark.parametrize(
    "text", ["data:,plain", "data:image/png,AAAA", "data: image/png;base64,AAAA", "see data:image/png;base64,AAAA"]
)
def test_text_that_is_no_base64_data_url_is_text(text: str) -> None:
    assert places_of({"image": text}, None) == []


def test_white_space_around_a_url_is_taken_off_and_told() -> None:
    found = only(f" {URL}\n")
    assert (found.text, found.is_exact) == (URL, False)


# -- urls that are left --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given_input",
    [
        {"image": "https://example.com/a.png"},
        {"image": "http://example.com/a.png"},
        {"image": "HTTPS://example.com/a.png"},
        {"image": "  https://example.com/a.png\n"},
        {"image": "https://example.com/a.png,https://example.com/b.png"},
        {"images": "https://example.com/a.png\nhttps://example.com/b.png"},
        {"images": "https://example.com/a.png https://example.com/b.png"},
        {"images": ["data:image/png;base64,AAAA", "https://example.com/a.png"]},
        {"deep": {"deeper": [[{"deepest": "https://example.com/a.png"}]]}},
        {"image": "http://"},
    ],
)
def test_url_in_an_input_is_noticed(given_input: JsonObject) -> None:
    assert holds_url(given_input, HostNames())


@pytest.mark.parametrize(
    "given_input",
    [
        {},
        {"prompt": ""},
        {"image": "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>"},
        {"prompt": "://"},
        {"prompt": "httpsx"},
        {"image": "data:image/png;base64,AAAA"},
        {"https://example.com": 1},
        {"numbers": [1, 2.5, None, True]},
    ],
)
def test_input_without_a_url_holds_none(given_input: JsonObject) -> None:
    assert not holds_url(given_input, HostNames())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values, st.lists(st.booleans(), max_size=5))
def test_url_is_noticed_wherever_it_stands(beside: JsonValue, turns: list[bool]) -> None:
    value: JsonValue = "https://example.com/a.png"
    for is_list in turns:
        value = [beside, value] if is_list else {"beside": beside, "value": value}
    assert holds_url({"image": value}, HostNames())


def test_deep_input_is_looked_through_without_recursion() -> None:
    value: JsonValue = "https://example.com/a.png"
    for _ in range(5000):
        value = [value]
    assert holds_url({"image": value}, HostNames())


@pytest.mark.parametrize(
    ("text", "is_covered"),
    [
        ("https://cdn.example.com/a.png?v=1#x", True),
        ("HTTP://CDN.example.com:8080", True),
        ("https://a.b.static.example.org/x", True),
        ("https://static.example.org/x", False),
        ("https://example.com/a.png", False),
        ("https://cdn.example.com.evil.org/a.png", False),
        ("https://cdn.example.com@evil.org/a.png", False),
        ("https://evil.org\\@cdn.example.com/a.png", False),
        ("https://cdn.example.com\\@evil.org/", False),
        ("https://cdn.example.com/a.png https://cdn.example.com/b.png", False),
        ("https://cdn.example.com/a.png,https://evil.org/b.png", False),
        (" https://cdn.example.com/a.png", False),
        ("look at https://cdn.example.com/a.png", False),
    ],
)
def test_url_of_a_host_that_the_operator_trusts_stands_for_what_it_names(text: str, is_covered: bool) -> None:
    by_url = HostNames(("cdn.example.com", "*.static.example.org"))
    assert by_url.covers(text) is is_covered
    assert holds_url({"image": [text]}, by_url) is not is_covered
    assert holds_url({"image": [text]}, HostNames())
