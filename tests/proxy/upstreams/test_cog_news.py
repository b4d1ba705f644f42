"""Webhooks of both dialects, word for word as they were seen, and what is made of them."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstreams.cog_news import News, OutputShape, merge, output_shape, read_news, wished_events

ANYTHING = OutputShape()
TEXT = OutputShape(may_hold_files=False)
DATA = "data:text/plain;base64,ZmlsZSAw"
URI = {"type": "string", "format": "uri"}
WORD = {"type": "string"}


def document(output: Any, **others: Any) -> dict[str, Any]:
    return {"components": {"schemas": {"Output": output, **others}}}


@pytest.mark.parametrize(
    ("openapi", "shape"),
    [
        (None, OutputShape()),
        ({}, OutputShape()),
        ({"components": []}, OutputShape()),
        (document("nonsense"), OutputShape()),
        (document({"title": "Output"}), OutputShape()),  # Any
        (document({"type": "array", "items": WORD, "x-cog-array-type": "iterator"}), OutputShape(True, False)),
        (document({"type": "array", "items": URI, "x-cog-array-type": "iterator"}), OutputShape(True, True)),
        (document({"type": "array", "items": URI}), OutputShape(False, True)),
        (document(WORD), OutputShape(False, False)),
        (document(URI), OutputShape(False, True)),
        (document({"type": "object", "properties": {"a": WORD, "n": {"type": "number"}}}), OutputShape(False, False)),
        (document({"type": "object", "properties": {"a": WORD, "f": URI}}), OutputShape(False, True)),
        (document({"type": "object"}), OutputShape(False, True)),
        (
            document({"$ref": "#/components/schemas/Own"}, Own={"type": "object", "properties": {"a": WORD}}).copy(),
            None,
        ),
        (document({"$ref": "#/components/schemas/Lost"}), OutputShape()),
        (document({"$ref": "#/components/schemas/Output"}), OutputShape(True, True)),
    ],
)
def test_schema_tells_whether_outputs_grow_and_hold_files(openapi: Any, shape: OutputShape | None) -> None:
    assert output_shape(openapi) == (shape or OutputShape(True, False))


def test_events_that_cost_a_run_time_or_hold_nothing_are_not_asked_for() -> None:
    grows, whole = OutputShape(may_grow=True), OutputShape(may_grow=False)
    assert wished_events(grows, is_coglet=True) == ("logs", "output", "completed")
    assert wished_events(whole, is_coglet=True) == ("logs", "completed")
    assert wished_events(grows, is_coglet=False) == ("logs", "output")
    assert wished_events(whole, is_coglet=False) == ("logs",)


@pytest.mark.parametrize(
    ("body", "news"),
    [
        (b'{"id":"run1","logs":"","metrics":{},"status":"processing"}', News()),
        (
            b'{"id":"run1","logs":"step 0\\n","metrics":{},"output":["word0 "],"status":"processing"}',
            News("step 0\n", ["word0 "]),
        ),
        (
            b'{"error":"Prediction failed: ValueError: boom","id":"run1","logs":"step 0\\n","metrics":{},'
            b'"output":["word0 "],"status":"failed"}',
            News("step 0\n", ["word0 "], has_ended=True),
        ),
        (
            b'{"input": {"n": 4}, "output": [], "id": "run1", "created_at": null, "started_at": '
            b'"2026-11-25T10:09:59.213468+00:00", "logs": "step 0\\n", "status": "processing"}',
            News("step 0\n", []),
        ),
        (b'{"logs": 7, "output": {"a": 1}, "status": []}', News("", {"a": 1})),
        (b"[]", None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_webhooks_of_both_dialects_are_read(body: bytes, news: News | None) -> None:
    assert read_news(body, ANYTHING) == news


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (["/tmp/tmpw14fef2f/out-0.txt", "/tmp/x/out-1.txt"], []),
        ([DATA, "https://files.test/a.png"], [DATA, "https://files.test/a.png"]),
        ([DATA, {"file": ["/tmp/x"]}, DATA], [DATA]),
        ("/tmp/out.png", None),
        ({"file": "/tmp/out.png", "text": "a"}, None),
        ({"text": "a"}, {"text": "a"}),
        (None, None),
        (3, 3),
    ],
)
def test_path_in_the_model_s_container_is_no_output(output: Any, shown: Any) -> None:
    """cog 0.16 tells files of an output so far by their paths."""
    body = orjson.dumps({"output": output, "status": "processing"})
    assert read_news(body, ANYTHING) == News("", shown)


def test_text_that_looks_like_a_path_is_text_where_there_are_no_files() -> None:
    body = orjson.dumps({"output": ["/etc", "/hosts"], "status": "processing"})
    assert read_news(body, TEXT) == News("", ["/etc", "/hosts"])


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.data())
def test_news_in_any_order_gives_the_newest(words: list[str], data: st.DataObject) -> None:
    told = [News("".join(words[:count]), words[:count]) for count in range(len(words) + 1)]
    order = data.draw(st.sampled_from(list(permutations(told))))
    now = News()
    for news in order:
        now = merge(now, news)
    assert now == told[-1]


def test_end_stays_the_end() -> None:
    assert merge(News("a", has_ended=True), News("a\nb")) == News("a\nb", None, has_ended=True)
