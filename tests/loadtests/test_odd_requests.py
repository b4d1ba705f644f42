"""Whatever is asked, the double answers in the API's words: a 500 of its own would look like the service's."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from loadtests.fake_model.process import FakeModel
from tests.loadtests.harness import FOX, create

pytestmark = pytest.mark.slow

PIXEL = "/models/acme/pixel/predictions"
ODD: tuple[Any, ...] = (None, 7, "\x00", [1], {"a": 1}, True, "x" * 300)


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_odd_bodies_are_never_a_server_error(alice: httpx.Client, odd: object) -> None:
    model = {"owner": "alice", "name": "odd", "visibility": "private", "hardware": "cpu"}
    deployment = {"name": "odd", "model": "painters/brush", "version": "0" * 64, "hardware": "cpu"}
    prediction = {"version": "acme/pixel", "input": FOX, "webhook": None, "webhook_events_filter": None}
    bodies: list[tuple[str, str, object]] = [
        ("POST", "/predictions", odd),
        ("POST", "/models", odd),
        ("POST", "/deployments", odd),
    ]
    bodies += [("POST", "/predictions", {**prediction, name: odd}) for name in prediction]
    bodies += [("POST", PIXEL, {"input": {**FOX, name: odd}}) for name in ("prompt", "seed", "linger", "output_format")]
    bodies += [("POST", "/models", {**model, name: odd}) for name in model]
    bodies += [("POST", "/deployments", {**deployment, name: odd}) for name in deployment]
    for method, path, body in bodies:
        assert alice.request(method, path, json=body).status_code < 500, (method, path, body)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/predictions", {"cursor": "_w"}),
        ("/predictions", {"cursor": "YWZ0ZXI6"}),
        ("/files", {"cursor": "x"}),
        ("/predictions", {"created_after": "9999-12-31T23:59:59-23:00"}),
        ("/search", {"query": "x", "limit": "²"}),
        ("/search", {"query": "x", "limit": "9" * 5000}),
        ("/files/x/download", {"owner": "alice", "expiry": "²", "signature": "é"}),
    ],
)
def test_odd_queries_are_never_a_server_error(alice: httpx.Client, path: str, query: dict[str, str]) -> None:
    assert alice.get(path, params=query).status_code < 500


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("prefer", b"wait=\xb2", 422),
        ("prefer", b"wait=" + b"9" * 5000, 422),
        ("cancel-after", b"9" * 18, 201),
        ("cancel-after", b"9" * 5000, 422),
    ],
)
def test_odd_headers_are_never_a_server_error(alice: httpx.Client, name: str, value: bytes, status: int) -> None:
    answer = alice.post(PIXEL, json={"input": FOX}, headers=[(name.encode(), value)])
    assert answer.status_code == status


def test_odd_ranges_are_answered_with_the_whole(alice: httpx.Client, nobody: httpx.Client) -> None:
    url = create(alice)["output"][0]
    assert nobody.get(url, headers={"range": f"bytes=0-{'9' * 5000}"}).status_code == 200


def test_fields_that_a_model_does_not_have_change_nothing(alice: httpx.Client) -> None:
    prediction = create(alice, linger="for ever", seconds=[], answers_early={})
    assert prediction["status"] == "succeeded"
    assert prediction["input"]["linger"] == "for ever"


def test_control_routes_refuse_what_they_do_not_know(fake: FakeModel) -> None:
    for fault in ({"kind": "cut", "on": "moon"}, {"kind": "cut", "often": 1}):
        with pytest.raises(httpx.HTTPStatusError):
            fake.fault(**fault)
