from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.addresses import StreamBook
from proxy.core.ids import PredictionId
from proxy.core.predictions import (
    TERMINAL,
    HitTemplate,
    Prediction,
    Status,
    format_time,
    prediction_url,
    render_prediction,
)
from proxy.core.secrets import Secrets
from tests.fakes.stores import sample_record

BASE = "https://images.example.com"
ID = PredictionId("x0fmfzfcf5rma0cq65c825tcbm")
NOW = 1_790_000_000.12

REQUIRED = {"id", "model", "version", "input", "output", "data_removed", "error", "status", "created_at", "urls"}
"""Source: Replicate's OpenAPI document, ``schemas_prediction_response``."""

text = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=8)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(text, json_values, max_size=4)
metrics = st.dictionaries(text, st.integers(0, 99) | st.floats(0, 99), max_size=3)
times = st.floats(1_767_225_600, 4_000_000_000)


def prediction(**changes: Any) -> Prediction:
    return replace(
        Prediction(
            id=ID,
            model="acme/pixel",
            version="hidden",
            input={"prompt": "a red fox"},
            status="starting",
            created_at=NOW,
        ),
        **changes,
    )


def rendered(one: Prediction) -> dict[str, Any]:
    document = orjson.loads(render_prediction(one, BASE))
    assert isinstance(document, dict)
    return document


@given(
    given_input=json_objects,
    output=json_values,
    logs=text,
    numbers=metrics,
    names=st.tuples(text, text, st.none() | text),
    at=times,
    stream=st.sampled_from([None, "files", "streams"]),
    base=st.sampled_from(["http://127.0.0.1:8484", BASE, 'https://odd.example/a"b\\c']),
)
def test_hit_from_a_template_is_the_document_that_rendering_gives(
    given_input: Any,
    output: Any,
    logs: str,
    numbers: Any,
    names: tuple[str, str, str | None],
    at: float,
    stream: str | None,
    base: str,
) -> None:
    record = sample_record(model=names[0], version=names[1], deployment=names[2], logs=logs, metrics=numbers)
    streams = StreamBook(Secrets.derive(b"s" * 32))
    template = HitTemplate(
        record, output, "", base, (f"{base}/v1/{stream}/", streams.sealer(record.scope)) if stream else None
    )
    filled = template.fill(ID, orjson.dumps(given_input), at)
    whole = render_prediction(
        Prediction(
            id=ID,
            model=names[0],
            version=names[1],
            input=given_input,
            status="succeeded",
            created_at=at,
            started_at=at,
            completed_at=at,
            output=output,
            logs=logs,
            metrics=numbers,
            deployment=names[2],
            stream_url=base + streams.path(ID, record.scope, makes_files=stream == "files") if stream else None,
        ),
        base,
    )
    assert orjson.loads(filled) == orjson.loads(whole)


def test_one_template_answers_each_hit_with_its_own_input_id_and_time() -> None:
    template = HitTemplate(sample_record(), ["https://x/out-0.png"], "", BASE)
    first = orjson.loads(template.fill(ID, b'{"prompt":"one"}', NOW))
    second = orjson.loads(template.fill(PredictionId("b" * 26), b'{"prompt":"two"}', NOW + 60))
    assert first["input"] == {"prompt": "one"}
    assert second["input"] == {"prompt": "two"}
    assert first["id"] != second["id"]
    assert first["created_at"] != second["created_at"]
    assert second["urls"]["get"].endswith("b" * 26)


def test_template_knows_nearly_what_it_holds() -> None:
    small = HitTemplate(sample_record(), "x", "", BASE)
    large = HitTemplate(sample_record(), "x" * 100_000, "", BASE)
    assert large.size_bytes - small.size_bytes == 100_000 - 1


@pytest.mark.parametrize("status", get_args(Status))
def test_every_status_has_the_fields_that_the_api_requires(status: Status) -> None:
    ended = {"started_at": NOW + 1, "completed_at": NOW + 2} if status in TERMINAL else {}
    document = rendered(prediction(status=status, **ended))
    assert document.keys() >= REQUIRED
    assert document["status"] == status
    assert document["urls"].keys() >= {"get", "cancel", "web"}
    assert isinstance(document["version"], str)
    assert isinstance(document["model"], str)
    assert isinstance(document["logs"], str)


def test_prediction_that_has_just_begun_has_neither_output_nor_end() -> None:
    document = rendered(prediction())
    assert document["output"] is None
    assert document["error"] is None
    assert document["data_removed"] is False
    assert not document.keys() & {"started_at", "completed_at", "metrics"}


def test_prediction_that_has_ended_tells_how_long_it_took() -> None:
    document = rendered(
        prediction(status="succeeded", started_at=NOW + 1, completed_at=NOW + 3.5, metrics={"predict_time": 2.5})
    )
    assert document["metrics"] == {"predict_time": 2.5, "total_time": 3.5}
    assert document["started_at"] == format_time(NOW + 1)
    assert document["completed_at"] == format_time(NOW + 3.5)


def test_urls_point_at_the_proxy() -> None:
    urls = rendered(prediction())["urls"]
    assert urls["get"] == f"{BASE}/v1/predictions/{ID}" == prediction_url(BASE, ID)
    assert urls["cancel"] == f"{BASE}/v1/predictions/{ID}/cancel"
    assert urls["web"] == urls["get"]


def test_upstreams_page_for_people_may_stay() -> None:
    assert rendered(prediction(web_url="https://replicate.com/p/abc"))["urls"]["web"] == "https://replicate.com/p/abc"


@given(times)
def test_time_is_rfc_3339_in_utc_with_milliseconds(at: float) -> None:
    shown = format_time(at)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", shown)
    assert abs(datetime.fromisoformat(shown).timestamp() - at) < 0.0011


def test_only_ended_predictions_are_terminal() -> None:
    assert {status for status in get_args(Status) if prediction(status=status).is_terminal} == {
        "succeeded",
        "failed",
        "canceled",
        "aborted",
    }
