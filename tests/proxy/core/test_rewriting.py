from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.rewriting import Links, elements

BASE = "https://images.example.com/hot"
ROOT = "https://api.replicate.com/v1"
OTHER = "http://127.0.0.1:9000/api/v1"
LINKS = Links(BASE, (OTHER, ROOT))


def localised(document: Any) -> Any:
    return json.loads(LINKS.localised(json.dumps(document).encode()))


@pytest.mark.parametrize("root", [ROOT, OTHER])
def test_links_of_a_page_and_of_its_items_point_here(root: str) -> None:
    page = {
        "next": f"{root}/trainings?cursor=a%2Bb",
        "previous": None,
        "results": [{"id": "x", "urls": {"get": f"{root}/trainings/x", "cancel": f"{root}/trainings/x/cancel"}}],
    }
    assert localised(page) == {
        "next": f"{BASE}/v1/trainings?cursor=a%2Bb",
        "previous": None,
        "results": [{"id": "x", "urls": {"get": f"{BASE}/v1/trainings/x", "cancel": f"{BASE}/v1/trainings/x/cancel"}}],
    }


@pytest.mark.parametrize(
    "document",
    [
        {"prompt": f"{ROOT}/predictions/x"},
        {"url": f"see {ROOT}/predictions"},
        {"url": f"{ROOT}beta/predictions"},
        {"url": f"{ROOT}/a path with spaces"},
        {"next": "/v1/predictions?cursor=x", "previous": "?cursor=y"},
        {"output": [f"{ROOT}/files/a", {"url": f"{ROOT}/files/b"}]},
        {"output": f"{ROOT}/files/a"},
        {"urls": {"stream": f"{ROOT}/files/opaque"}},
        {"openapi_schema": {"url": f"{ROOT}/predictions"}},
        {"metadata": {"url": f"{ROOT}/files/a"}},
        {"logs": f"{ROOT}/files/a"},
        {"name": f"{ROOT}/files/a"},
        {"input": {"next": f"{ROOT}/predictions", "urls": {"get": f"{ROOT}/predictions/x"}}},
        {"web": "https://replicate.com/p/x", f"{ROOT}/files/a": 1},
    ],
)
def test_everything_else_passes_byte_for_byte(document: Any) -> None:
    body = json.dumps(document, indent=3).encode()
    assert LINKS.localised(body) == body


def test_files_that_clients_hand_back_point_here_wherever_they_stand() -> None:
    given_document = {
        "input": {"image": f"{ROOT}/files/abc", "more": [f"{ROOT}/files/def"]},
        "cover": f"{ROOT}/files/g",
    }
    assert localised(given_document) == {
        "input": {"image": f"{BASE}/v1/files/abc", "more": [f"{BASE}/v1/files/def"]},
        "cover": f"{BASE}/v1/files/g",
    }


def test_only_the_links_change_in_the_bytes() -> None:
    body = (
        b'{ "seed":123456789012345678901234567890, "x": 1.0e+02,\n "n":-0.0, "\\u00e9": "\\ud83d\\ude00",'
        b'"urls" :{"get":"https:\\/\\/api.replicate.com\\/v1\\/predictions\\/x" } , "a": "\\"https"}'
    )
    link = b'"https:\\/\\/api.replicate.com\\/v1\\/predictions\\/x"'
    assert LINKS.localised(body) == body.replace(link, f'"{BASE}/v1/predictions/x"'.encode())


@pytest.mark.parametrize(
    "body", [b"", b"}", b"]]", b'{"next":"' + ROOT.encode(), b'["' + ROOT.encode() + b'"', b"\xff"]
)
def test_what_is_no_json_does_no_harm(body: bytes) -> None:
    assert LINKS.localised(body) == LINKS.returned(body) == body


def test_own_files_in_requests_become_the_upstreams() -> None:
    signed = "/files/z/download?owner=o&expiry=1"
    body = {
        "input": {"a": f"{BASE}/v1/files/x", "b": [f"{BASE}/files/y", f"{BASE}/v1/v1{signed}"]},
        "text": f"look at {BASE}/v1/files/x",
        "output": f"{BASE}/outputs/abc/def/out.png",
    }
    assert json.loads(LINKS.returned(json.dumps(body).encode())) == {
        **body,
        "input": {"a": f"{OTHER}/files/x", "b": [f"{OTHER}/files/y", f"{OTHER}{signed}"]},
    }


def test_an_upstream_without_an_api_has_no_links() -> None:
    body = f'{{"next":"{ROOT}/x","file":"{BASE}/v1/files/x"}}'.encode()
    assert Links(BASE, ()).localised(body) == Links(BASE, ()).returned(body) == body


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from([f"{ROOT}/files/x", f"{ROOT}/predictions/y", f"{BASE}/v1/files/z", f"{OTHER}?q=1", ROOT]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["next", "previous", "url", "urls", "input", "output", "stream"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


CLOSED = ("output", "openapi_schema", "metadata", "logs", "name")


def expected(value: Any, key: str = "", zone: str = "plain") -> Any:
    """The rules, said a second time over a parsed document."""
    if isinstance(value, str):
        if zone == "closed" or key in CLOSED:
            return value
        if zone == "links":
            reach = "none" if key == "stream" else "all"
        else:
            reach = "all" if zone == "plain" and key in ("next", "previous", "url") else "files"
        local = LINKS.local_url(value, files_only=reach == "files") if reach != "none" else None
        return value if local is None else local
    if zone not in ("closed", "input"):
        if key in CLOSED:
            zone = "closed"
        elif key == "input":
            zone = "input"
        elif key == "urls":
            zone = "links"
    if isinstance(value, list):
        return [expected(each, key, zone) for each in value]
    if isinstance(value, dict):
        return {name: expected(each, name, zone) for name, each in value.items()}
    return value


@given(JSON, st.booleans(), st.sampled_from([None, 2]))
def test_rewriting_tokens_is_rewriting_the_document(document: Any, is_ascii: bool, indent: int | None) -> None:
    body = json.dumps(document, ensure_ascii=is_ascii, indent=indent).encode("utf-8", "surrogatepass")
    try:
        body.decode()
    except UnicodeDecodeError:
        return
    assert json.loads(LINKS.localised(body)) == expected(document)


@given(st.lists(JSON, max_size=5), JSON, st.sampled_from([None, 1]))
def test_elements_are_the_bytes_of_each_item(items: list[Any], other: Any, indent: int | None) -> None:
    document = {"before": {"results": other}, "results": items, "after": [other]}
    found = elements(json.dumps(document, indent=indent).encode(), "results")
    assert [json.loads(each) for each in found] == items
    assert elements(json.dumps({"x": document}).encode(), "results") == []
