from __future__ import annotations

import base64
import hmac
import math
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicate.webhook import Webhooks as ReplicateWebhooks
from replicate.webhook import WebhookSigningSecret, WebhookValidationError

from proxy.core.errors import InputInvalid
from proxy.core.ids import PredictionId
from proxy.core.predictions import Prediction, Status
from proxy.core.secrets import SECRET_BYTES, Secrets
from proxy.core.webhooks import (
    DEFAULT_EVENTS,
    MAX_RETRY_AFTER_S,
    NEWS_EVERY_S,
    RETRY_AFTER_S,
    Told,
    WebhookEvent,
    WebhookRequest,
    derive_secret,
    judge_answer,
    name_delivery,
    parse_webhook,
    plan_deliveries,
    plan_retry,
    sign,
    signing_key,
)
from storage.digest import Scope
from storage.records import JsonValue

URL = "https://hooks.example.com/in"
ALL: frozenset[WebhookEvent] = frozenset(get_args(WebhookEvent))
NOW = 1_790_000_000.0
ID = PredictionId("x0fmfzfcf5rma0cq65c825tcbm")
ACCOUNT = "whsec_" + base64.b64encode(b"account secret of 24 byt").decode()


def state(status: Status, output: JsonValue = None, logs: str = "") -> Prediction:
    has_ended = status not in ("starting", "processing")
    return Prediction(
        id=ID,
        model="acme/pixel",
        version="hidden",
        input={"prompt": "a red fox"},
        status=status,
        created_at=NOW,
        completed_at=NOW + 2 if has_ended else None,
        output=output,
        logs=logs,
        error="no" if status == "failed" else None,
        metrics={"predict_time": 1.5} if has_ended else {},
    )


def told_in_order(
    request: WebhookRequest, steps: list[tuple[float, Prediction]], told: Told | None = None
) -> list[tuple[float, WebhookEvent, Prediction]]:
    """What ``plan_deliveries`` makes due when a prediction goes through ``steps``, looked at after each."""
    found: list[tuple[float, WebhookEvent, Prediction]] = []
    told = told or Told()
    for at, prediction in steps:
        plan = plan_deliveries(request, told, prediction, at)
        told = plan.told
        found += [(at, due.event, due.prediction) for due in plan.deliveries]
    return found


def events(request: WebhookRequest, *states: Prediction, every_s: float = 1.0) -> list[WebhookEvent]:
    steps = [(NOW + every_s * number, prediction) for number, prediction in enumerate(states)]
    return [event for _, event, _ in told_in_order(request, steps)]


# -- what is due


def test_hit_is_told_at_once_what_a_run_would_have_told() -> None:
    hit = state("succeeded", ["https://images.example.com/outputs/a.png"], "step 1\n")
    steps = [(NOW, hit)]
    told = told_in_order(WebhookRequest(URL, ALL), steps)
    assert [event for _, event, _ in told] == ["start", "output", "completed"]
    start, output, completed = (prediction for _, _, prediction in told)
    assert completed == hit
    assert (start.status, start.output, start.logs, start.completed_at, start.metrics) == (
        "processing",
        None,
        "",
        None,
        {},
    )
    assert (output.status, output.output, output.logs, output.completed_at) == (
        "processing",
        hit.output,
        "step 1\n",
        None,
    )
    assert start.id == output.id == completed.id


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (DEFAULT_EVENTS, ["output", "completed"]),
        ({"start"}, ["start"]),
        ({"output"}, ["output"]),
        ({"logs"}, ["logs"]),
        ({"completed"}, ["completed"]),
        ({"start", "logs", "completed"}, ["start", "logs", "completed"]),
    ],
)
def test_filter_chooses_what_is_told(wanted: frozenset[WebhookEvent], told: list[WebhookEvent]) -> None:
    request = WebhookRequest(URL, frozenset(wanted))
    assert events(request, state("succeeded", "cat.png", "log\n")) == told
    run = [state("starting"), state("processing"), state("processing", None, "log\n"), state("succeeded", "x", "log\n")]
    assert set(events(request, *run)) == set(told)


def test_only_the_end_says_an_end_word() -> None:
    for end in ("succeeded", "failed", "canceled"):
        steps = [(NOW, state("processing")), (NOW + 1, state(end, ["x"], "logs"))]  # type: ignore[arg-type]
        told = told_in_order(WebhookRequest(URL, ALL), steps)
        assert [prediction.status for _, _, prediction in told] == ["processing", "processing", end]
        assert all(prediction.error is None for _, _, prediction in told[:-1])


def test_growing_output_is_told_every_half_second_and_the_rest_at_the_end() -> None:
    words = ["a", "a b", "a b c", "a b c d", "a b c d e"]
    steps = [(NOW + 0.2 * number, state("processing", text)) for number, text in enumerate(words)]
    steps.append((NOW + 0.9, state("succeeded", words[-1])))
    told = told_in_order(WebhookRequest(URL), steps)
    assert [(round(at - NOW, 1), event, prediction.output) for at, event, prediction in told] == [
        (0.0, "output", "a"),
        (0.6, "output", "a b c d"),
        (0.9, "completed", "a b c d e"),
    ]


def test_news_held_back_are_due_when_the_quiet_is_over() -> None:
    first = plan_deliveries(WebhookRequest(URL), Told(), state("processing", "a"), NOW)
    assert first.quiet_s == NEWS_EVERY_S
    held = plan_deliveries(WebhookRequest(URL), first.told, state("processing", "a b"), NOW + 0.2)
    assert held.deliveries == ()
    assert held.quiet_s == pytest.approx(0.3)
    due = plan_deliveries(WebhookRequest(URL), held.told, state("processing", "a b"), NOW + 0.5)
    assert [one.prediction.output for one in due.deliveries] == ["a b"]


def test_new_output_and_new_logs_share_a_delivery_and_the_limit() -> None:
    both = WebhookRequest(URL, frozenset({"output", "logs"}))
    assert events(both, state("processing", "a", "1\n")) == ["output"]
    assert events(both, state("processing", None, "1\n"), state("processing", "a", "1\n"), every_s=0.4) == ["logs"]
    assert events(both, state("processing", None, "1\n"), state("processing", "a", "1\n"), every_s=0.6) == [
        "logs",
        "output",
    ]


@pytest.mark.parametrize("status", ["canceled", "aborted"])
def test_run_that_ended_before_it_started_is_told_no_start(status: Status) -> None:
    assert events(WebhookRequest(URL, ALL), state("starting"), state(status)) == ["completed"]


def test_start_is_told_with_the_end_when_nobody_saw_it_work() -> None:
    assert events(WebhookRequest(URL, ALL), state("starting"), state("failed")) == ["start", "completed"]


def test_clock_that_was_set_back_holds_nothing_back() -> None:
    plan = plan_deliveries(WebhookRequest(URL), Told(output="a", news_at=NOW), state("processing", "b"), NOW - 3600)
    assert [due.event for due in plan.deliveries] == ["output"]


def test_only_the_end_need_be_looked_at_when_nothing_else_was_asked_for() -> None:
    end_only = WebhookRequest(URL, frozenset({"completed"}))
    assert plan_deliveries(end_only, Told(), state("starting"), NOW).quiet_s == math.inf
    with_start = WebhookRequest(URL, frozenset({"start", "completed"}))
    assert plan_deliveries(with_start, Told(), state("starting"), NOW).quiet_s == 0.0
    assert plan_deliveries(with_start, Told(), state("processing"), NOW).quiet_s == math.inf


STATES = st.builds(
    state,
    st.sampled_from(get_args(Status)),
    st.sampled_from([None, "a", "a b", ["x"]]),
    st.sampled_from(["", "1\n", "1\n2\n"]),
)
STEPS = st.lists(st.tuples(st.floats(0, 0.7), STATES), max_size=12)


@given(wanted=st.frozensets(st.sampled_from(sorted(ALL)), min_size=1), steps=STEPS)
def test_every_run_is_told_by_the_filter_in_order_and_at_most_every_half_second(
    wanted: frozenset[WebhookEvent], steps: list[tuple[float, Prediction]]
) -> None:
    at, timed = NOW, []
    for wait_s, prediction in steps:
        at += wait_s
        timed.append((at, prediction))
    told = told_in_order(WebhookRequest(URL, wanted), timed)
    names = [event for _, event, _ in told]
    assert set(names) <= wanted
    assert names.count("start") <= 1
    assert "start" not in names[1:]
    assert "completed" not in names[:-1], "nothing comes after the end, so there is one end"
    news = [when for when, event, _ in told if event in ("output", "logs")]
    assert all(later - earlier >= NEWS_EVERY_S for earlier, later in pairwise(news))
    ends = [prediction for _, prediction in timed if prediction.is_terminal]
    assert (names[-1:] == ["completed"]) == (bool(ends) and "completed" in wanted)
    if "completed" in names:
        assert told[-1][2] == ends[0]
    assert all(not prediction.is_terminal for _, event, prediction in told if event != "completed")


@given(wanted=st.frozensets(st.sampled_from(sorted(ALL)), min_size=1), end=STATES.filter(lambda one: one.is_terminal))
def test_looking_again_at_what_was_told_tells_nothing(wanted: frozenset[WebhookEvent], end: Prediction) -> None:
    plan = plan_deliveries(WebhookRequest(URL, wanted), Told(), end, NOW)
    again = plan_deliveries(WebhookRequest(URL, wanted), plan.told, replace(end, logs="more"), NOW + 60)
    assert again.deliveries == ()


# -- signatures


def scope(mark: str) -> Scope:
    return Scope(mark.encode() * 32)


SECRETS = Secrets.derive(bytes(SECRET_BYTES))
DERIVED = derive_secret(SECRETS, scope("a"))


def validate(headers: dict[str, str], body: bytes, secret: str) -> None:
    """By the official client."""
    ReplicateWebhooks.validate(headers=headers, body=body.decode(), secret=WebhookSigningSecret(key=secret))


@pytest.mark.parametrize("secret", [ACCOUNT, DERIVED])
def test_official_client_accepts_each_of_several_signatures(secret: str) -> None:
    body = '{"id":"x","input":{"prompt":"füchse"}}'.encode()
    headers = sign("msg_1", NOW + 0.9, body, [ACCOUNT, DERIVED])
    assert headers["webhook-timestamp"] == str(int(NOW))
    validate(headers, body, secret)
    with pytest.raises(WebhookValidationError):
        validate(headers, body + b" ", secret)
    with pytest.raises(WebhookValidationError):
        validate({**headers, "webhook-id": "msg_2"}, body, secret)
    with pytest.raises(WebhookValidationError):
        validate({**headers, "webhook-timestamp": str(int(NOW) + 1)}, body, secret)


def test_secret_of_another_scope_or_another_server_signs_nothing_for_this_one() -> None:
    headers = sign("msg_1", NOW, b"{}", [DERIVED])
    other_server = Secrets.derive(b"x" * SECRET_BYTES)
    for stranger in (derive_secret(SECRETS, scope("b")), derive_secret(other_server, scope("a"))):
        with pytest.raises(WebhookValidationError):
            validate(headers, b"{}", stranger)


def test_signature_is_the_one_of_the_specification() -> None:
    """The example of the specification's reference libraries."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    headers = sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, [secret])
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(st.binary(min_size=32, max_size=32))
def test_derived_secret_has_one_underscore_and_standard_base64(mark: bytes) -> None:
    secret = derive_secret(SECRETS, Scope(mark))
    prefix, _, encoded = secret.partition("_")
    assert prefix == "whsec"
    assert "_" not in encoded
    assert signing_key(secret) == base64.b64decode(encoded, validate=True)


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_a", "whsec_a_b=", "sk_" + DERIVED[6:], "whsec_ab-d", "whsec_äöü=", DERIVED + "\n"]
)
def test_what_no_client_reads_as_a_secret_is_none_and_signs_nothing(text: str) -> None:
    assert signing_key(text) is None
    key = signing_key(DERIVED)
    assert key is not None
    expected = base64.b64encode(hmac.new(key, f"m.{int(NOW)}.b".encode(), sha256).digest()).decode()
    assert sign("m", NOW, b"b", [text, DERIVED])["webhook-signature"] == f"v1,{expected}"


def test_a_delivery_is_named_by_what_it_says() -> None:
    names = [
        name_delivery(ID, "start", b"a"),
        name_delivery(ID, "output", b"a"),
        name_delivery(ID, "output", b"b"),
        name_delivery(ID, "logs", b"a"),
        name_delivery(ID, "completed", b"a"),
        name_delivery(PredictionId("y" * 26), "completed", b"a"),
    ]
    assert len(set(names)) == len(names)
    assert name_delivery(ID, "completed", b"b") == name_delivery(ID, "completed", b"a")
    assert name_delivery(ID, "output", b"a") == names[1]
    assert not any("." in name for name in names), "a stop ends the id in what is signed"


# -- attempts


@pytest.mark.parametrize(
    ("status", "meaning"),
    [(200, "made"), (204, "made"), (301, "failed"), (400, "failed"), (404, "failed"), (410, "ended"), (500, "failed")],
)
def test_answer_means_made_ended_or_again(status: int, meaning: str) -> None:
    assert judge_answer(status) == meaning


@given(spread=st.floats(0, 1))
def test_retries_come_ever_later_over_hours_and_then_end(spread: float) -> None:
    delays = [plan_retry(attempts, spread) for attempts in range(1, len(RETRY_AFTER_S) + 1)]
    known = [delay for delay in delays if delay is not None]
    assert len(known) == len(delays)
    assert known == sorted(known)
    assert known[0] < 10
    assert 4 * 3600 < sum(known) < 24 * 3600
    assert plan_retry(len(RETRY_AFTER_S) + 1, spread) is None


def test_receiver_may_ask_for_more_time_within_bounds() -> None:
    assert plan_retry(1, 0.0, 60.0) == 60.0
    assert plan_retry(4, 0.0, 1.0) == RETRY_AFTER_S[3]
    assert plan_retry(1, 0.0, 1e9) == MAX_RETRY_AFTER_S


# -- requests


def test_webhook_is_read_with_its_filter() -> None:
    assert parse_webhook({}) is None
    assert parse_webhook({"webhook": URL}) == WebhookRequest(URL, DEFAULT_EVENTS)
    given_filter = {"webhook": URL, "webhook_events_filter": ["start", "completed", "start"]}
    assert parse_webhook(given_filter) == WebhookRequest(URL, frozenset({"start", "completed"}))
    assert parse_webhook({"webhook": URL, "webhook_events_filter": []}) == WebhookRequest(URL, DEFAULT_EVENTS)


@pytest.mark.parametrize(
    "document",
    [
        {"webhook": "ftp://example.com"},
        {"webhook": 7},
        {"webhook": URL + "x" * 2048},
        {"webhook": URL, "webhook_events_filter": "completed"},
        {"webhook": URL, "webhook_events_filter": ["done"]},
        {"webhook": URL, "webhook_events_filter": [["start"]]},
    ],
)
def test_webhook_that_cannot_be_read_is_refused(document: dict[str, JsonValue]) -> None:
    with pytest.raises(InputInvalid):
        parse_webhook(document)
