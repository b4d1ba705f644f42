"""Webhooks: which come, in what state, signed how, and how often a receiver in trouble is tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from replicate.webhook import Webhooks, WebhookSigningSecret

from loadtests.fake_model.process import FakeModel, fake_model
from tests.loadtests.harness import FOX, WAIT, Authority, client_of, until
from tests.loadtests.receiver import Call, Receiver, receiving

pytestmark = pytest.mark.slow


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def called(
    client: httpx.Client, url: str, events: list[str] | None = None, model: str = "acme/pixel", **given: Any
) -> str:
    """A waited create with a webhook; the prediction's id."""
    body: dict[str, Any] = {"input": {**FOX, **given}, "webhook": url}
    if events is not None:
        body["webhook_events_filter"] = events
    answer = client.post(f"/models/{model}/predictions", json=body, headers=WAIT)
    assert answer.status_code == 201, answer.text
    prediction_id: str = answer.json()["id"]
    return prediction_id


def assert_signed(call: Call, key: str) -> None:
    Webhooks.validate(headers=call.headers, body=call.body.decode(), secret=WebhookSigningSecret(key=key))


def test_by_default_outputs_and_the_end_are_told(alice: httpx.Client, receiver: Receiver) -> None:
    prediction_id = called(alice, f"{receiver.url}/hook")
    until(lambda: len(receiver.calls) == 2)
    assert receiver.told == ["processing", "succeeded"]
    last = receiver.calls[-1]
    assert (last.path, last.headers["content-type"]) == ("/hook", "application/json")
    assert last.document == alice.get(f"/predictions/{prediction_id}").json()
    assert receiver.calls[0].document["output"] == last.document["output"]


@pytest.mark.parametrize(
    ("events", "statuses"),
    [
        (["start"], ["processing"]),
        (["completed"], ["succeeded"]),
        (["start", "completed"], ["processing", "succeeded"]),
        ([], []),
    ],
)
def test_filter_decides_which_are_told(
    alice: httpx.Client, receiver: Receiver, events: list[str], statuses: list[str]
) -> None:
    called(alice, receiver.url, events)
    until(lambda: len(receiver.calls) == len(statuses))
    called(alice, f"{receiver.url}/next", ["completed"])
    until(lambda: receiver.calls and receiver.calls[-1].path == "/next")
    assert receiver.told == [*statuses, "succeeded"]


def test_real_client_accepts_the_signature(alice: httpx.Client, bob: httpx.Client, receiver: Receiver) -> None:
    called(alice, receiver.url, ["completed"])
    until(lambda: receiver.calls)
    mine, other = (each.get("/webhooks/default/secret").json()["key"] for each in (alice, bob))
    assert mine != other
    assert_signed(receiver.calls[0], mine)
    with pytest.raises(ValueError, match="signature"):
        assert_signed(receiver.calls[0], other)


def test_outputs_are_told_at_most_twice_a_second_and_the_end_always(
    alice: httpx.Client, receiver: Receiver, fake: FakeModel
) -> None:
    fake.set_options(webhook_gap_s=0.3)
    called(alice, receiver.url, ["output", "logs", "completed"], "acme/writer", max_tokens=40, interval=0.02)
    until(lambda: receiver.calls and receiver.told[-1] == "succeeded")
    ran_s = receiver.calls[-1].document["metrics"]["predict_time"]
    assert 3 <= len(receiver.calls) <= ran_s / 0.3 + 2, "the first at once, one in each gap, and the end"
    lengths = [len(each.document["output"] or []) for each in receiver.calls]
    assert lengths == sorted(lengths)
    assert lengths[-1] == 40


def test_receiver_in_trouble_is_tried_again_with_the_same_id(
    alice: httpx.Client, receiver: Receiver, fake: FakeModel
) -> None:
    receiver.statuses = [500, 302, 404]
    called(alice, receiver.url, ["completed"])
    until(lambda: fake.counters()["webhooks_delivered"] == 1)
    assert [each.path for each in receiver.calls] == ["/"] * 4, "a redirect was followed"
    assert len({each.headers["webhook-id"] for each in receiver.calls}) == 1
    key = alice.get("/webhooks/default/secret").json()["key"]
    for call in receiver.calls:
        assert_signed(call, key)


def test_receiver_that_is_away_is_given_up_in_the_end(alice: httpx.Client, fake: FakeModel) -> None:
    with receiving() as gone:
        url = gone.url
    called(alice, url, ["completed"])
    until(lambda: fake.counters()["webhooks_failed"] == 1)
    assert fake.counters()["webhooks_sent"] == 4
    assert fake.counters()["webhooks_delivered"] == 0


def test_canceled_and_failed_ones_are_completed(alice: httpx.Client, receiver: Receiver, fake: FakeModel) -> None:
    called(alice, receiver.url, ["completed"], "acme/failing")
    fake.hold()
    body = {"input": FOX, "webhook": receiver.url, "webhook_events_filter": ["completed"]}
    made = alice.post("/models/acme/pixel/predictions", json=body).json()
    alice.post(f"/predictions/{made['id']}/cancel")
    until(lambda: len(receiver.calls) == 2)
    assert sorted(receiver.told) == ["canceled", "failed"]


def test_tls_receiver_is_checked_against_the_named_authority(
    alice: httpx.Client, fake: FakeModel, authority: Authority
) -> None:
    with receiving(authority) as secure:
        called(alice, secure.url, ["completed"])
        until(lambda: len(secure.calls) == 1)
        with fake_model("--webhook-attempts", "1") as distrustful, client_of(distrustful) as client:
            called(client, secure.url, ["completed"])
            until(lambda: distrustful.counters()["webhooks_failed"] == 1)
        assert len(secure.calls) == 1


def test_webhook_speaks_of_the_site_that_created(
    alice: httpx.Client, receiver: Receiver, fake: FakeModel, authority: Authority
) -> None:
    with httpx.Client(
        base_url=fake.tls_base_url, headers=alice.headers, verify=authority.context, trust_env=False
    ) as secure:
        called(secure, receiver.url, ["completed"])
    until(lambda: receiver.calls)
    document = receiver.calls[0].document
    assert document["urls"]["get"].startswith(fake.tls_base_url)
    assert document["output"][0].startswith(fake.tls_delivery_origin)


@pytest.mark.parametrize("url", ["", "hook", "ftp://127.0.0.1/", "http://example.com/", "https://", 7, "http://[::1"])
def test_webhook_that_is_no_https_url_is_422(alice: httpx.Client, fake: FakeModel, url: object) -> None:
    answer = alice.post("/models/acme/pixel/predictions", json={"input": FOX, "webhook": url})
    assert answer.status_code == 422
    assert [each["field"] for each in answer.json()["invalid_fields"]] == ["webhook"]
    assert fake.counters()["runs"] == {}


def test_http_is_refused_where_only_https_is_allowed(alice: httpx.Client, receiver: Receiver, fake: FakeModel) -> None:
    fake.set_options(webhook_addresses=False)
    answer = alice.post("/models/acme/pixel/predictions", json={"input": FOX, "webhook": receiver.url})
    assert answer.status_code == 422


@pytest.mark.parametrize("events", ["completed", ["finished"], [1], [["start"]], {}])
def test_filter_of_other_words_is_422(alice: httpx.Client, events: object) -> None:
    body = {"input": FOX, "webhook": "https://example.com/hook", "webhook_events_filter": events}
    answer = alice.post("/models/acme/pixel/predictions", json=body)
    assert [each["field"] for each in answer.json()["invalid_fields"]] == ["webhook_events_filter"]


def test_nobody_beyond_this_machine_is_called(alice: httpx.Client, fake: FakeModel) -> None:
    called(alice, "https://hook.invalid/", ["completed"])
    until(lambda: fake.counters()["webhooks_withheld"] == 1)
    assert fake.counters()["webhooks_sent"] == 0


def test_secret_can_be_broken(alice: httpx.Client, fake: FakeModel) -> None:
    fake.fault("status", "secret", status=500)
    assert alice.get("/webhooks/default/secret").status_code == 500
    assert alice.get("/webhooks/default/secret").json()["key"].startswith("whsec_")
    assert fake.counters()["secrets"] == 2
