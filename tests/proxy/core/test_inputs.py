from __future__ import annotations

from typing import Any

import pytest

from proxy.core.inputs import remote_files
from proxy.core.schemas import parse_schema

URL = "https://example.com/cat.png"


def schema(**properties: Any) -> Any:
    return parse_schema({"components": {"schemas": {"Input": {"type": "object", "properties": properties}}}})


TEXT = {"type": "string"}
FILE = {"type": "string", "format": "uri"}


def test_field_that_the_schema_calls_text_is_text() -> None:
    assert remote_files({"prompt": URL, "n": 1}, schema(prompt=TEXT, n={"type": "integer"})) == []


@pytest.mark.parametrize("url", [URL, "http://127.0.0.1/x", "HTTPS://EXAMPLE.COM/x"])
def test_field_that_the_schema_calls_a_file_is_one(url: str) -> None:
    assert remote_files({"image": url}, schema(image=FILE)) == [(("image",), url)]


def test_files_of_a_list_are_found_each_in_its_place() -> None:
    declared = schema(images={"type": "array", "items": FILE}, words={"type": "array", "items": TEXT})
    given = {"images": [URL, "data:,x", URL + "2"], "words": [URL]}
    assert sorted(remote_files(given, declared)) == [(("images", 0), URL), (("images", 2), URL + "2")]


def test_where_nothing_is_known_every_url_may_be_a_file() -> None:
    given = {"a": URL, "b": {"c": ["x", f" {URL} "]}, "prompt": f"a sign that says {URL}"}
    assert sorted(remote_files(given, None)) == [(("a",), URL), (("b", "c", 1), URL)]
    assert remote_files({"unknown": URL}, schema(prompt=TEXT)) == [(("unknown",), URL)]
    assert remote_files({"odd": URL}, schema(odd={"type": "object"})) == [(("odd",), URL)]


def test_data_is_no_remote_file() -> None:
    assert remote_files({"image": "data:image/png;base64,AAAA"}, schema(image=FILE)) == []
