"""Webhooks: what a client asks for, what is due when, how it is signed, and when it is tried again.

One function, ``plan_deliveries``, says what is due between two states of a prediction. A miss goes through it at each
piece of news, a hit once with its end: whatever a run would have told is then due at once, in the same order. The API
puts no event's name into a delivery, so a receiver goes by the status in the body: everything but ``completed`` is
told of a prediction that is still processing.

Source: Replicate's OpenAPI document, fields ``webhook`` and ``webhook_events_filter`` of the creates; signatures and
retries by the Standard Webhooks specification.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal, cast, get_args

from proxy.core.errors import InputInvalid, InvalidField
from proxy.core.ids import PredictionId
from proxy.core.predictions import Prediction
from proxy.core.secrets import Secrets, keyed_hash
from storage.digest import Scope
from storage.records import JsonObject, JsonValue

WebhookEvent = Literal["start", "output", "logs", "completed"]

DEFAULT_EVENTS: frozenset[WebhookEvent] = frozenset({"output", "completed"})
"""What is sent where no filter is given: new outputs, and the end."""

MAX_URL_CHARS = 2048

NEWS_EVERY_S = 0.5
"""Least time between two deliveries of ``output`` or ``logs``. Source: ``webhook_events_filter``."""

RETRY_AFTER_S = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0)
"""Seconds from one attempt to the next: quick enough for a restart of the receiver, nearly eight hours in all."""

RETRY_SPREAD = 0.2
"""Part of a delay by which it may be longer, so that what failed together is not tried together again."""

MAX_RETRY_AFTER_S = 3600.0
"""Longest delay that a receiver may ask for beyond the plan."""

SECRET_PREFIX = "whsec_"  # noqa: S105
SECRET_BYTES = 24
"""Of a derived secret: the least of the specification, and base64 of it needs no padding."""


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """Where news of one prediction goes, and which."""

    url: str
    events: frozenset[WebhookEvent] = DEFAULT_EVENTS


def parse_webhook(document: JsonObject) -> WebhookRequest | None:
    """The webhook of a create body, ``None`` without one. Whether its address may be called is not decided here.

    Raises:
        InputInvalid: it is no http(s) URL, or the filter is no list of event names.
    """
    url, events = document.get("webhook"), document.get("webhook_events_filter")
    if url in (None, ""):
        return None
    if not isinstance(url, str) or len(url) > MAX_URL_CHARS or not url.lower().startswith(("https://", "http://")):
        raise InputInvalid([InvalidField("format", "webhook", "webhook must be an HTTPS URL")])
    if events is None:
        return WebhookRequest(url)
    if not isinstance(events, list) or any(event not in get_args(WebhookEvent) for event in events):
        names = ", ".join(get_args(WebhookEvent))
        raise InputInvalid([InvalidField("enum", "webhook_events_filter", f"must be a list of: {names}")])
    return WebhookRequest(url, frozenset(cast(list[WebhookEvent], events)) or DEFAULT_EVENTS)


# -- what is due -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """What a receiver has been told of one prediction so far.

    Attributes:
        output, logs: as they were when they were last told.
        news_at: when ``output`` or ``logs`` were last told, in epoch seconds.
    """

    has_start: bool = False
    has_completed: bool = False
    output: JsonValue = None
    logs: str = ""
    news_at: float | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """One delivery: the event, and the prediction as it is to be shown."""

    event: WebhookEvent
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """What is due now, in order, and what has been told once it is on its way.

    Attributes:
        quiet_s: for so many seconds nothing but the end can be due, so that other news need not be looked at; then
            look again. 0.0 when any news matters, infinite when the end alone does.
    """

    deliveries: tuple[Due, ...]
    told: Told
    quiet_s: float


def plan_deliveries(request: WebhookRequest, told: Told, prediction: Prediction, now: float) -> DeliveryPlan:
    """What is due to a receiver that was ``told`` something, now that its prediction is like this.

    ``start`` and ``completed`` are always due. New output and new logs are due at most every ``NEWS_EVERY_S``, both in
    one delivery, since it shows the whole prediction; what the end finds held back goes with ``completed``.

    Args:
        now: epoch seconds.
    """
    due: list[Due] = []
    if told.has_completed:
        return DeliveryPlan((), told, math.inf)
    has_ended = prediction.is_terminal
    # A run that was cancelled or given up before anybody saw it start has not started.
    has_started = prediction.status in ("processing", "succeeded", "failed")
    if has_started and not told.has_start:
        told = replace(told, has_start=True)
        if "start" in request.events:
            due.append(Due("start", _as_running(prediction, output=None, logs="")))
    event = _news(request, told, prediction)
    held_s = _held_s(told, now)
    if event is not None and held_s <= 0:
        told = replace(told, output=prediction.output, logs=prediction.logs, news_at=now)
        held_s = NEWS_EVERY_S
        due.append(Due(event, _as_running(prediction, output=prediction.output, logs=prediction.logs)))
    if has_ended:
        told = replace(told, has_completed=True)
        if "completed" in request.events:
            due.append(Due("completed", prediction))
        return DeliveryPlan(tuple(due), told, math.inf)
    return DeliveryPlan(tuple(due), told, _quiet_s(request, told, held_s))


def _news(request: WebhookRequest, told: Told, prediction: Prediction) -> WebhookEvent | None:
    if prediction.status == "starting":
        return None
    if "output" in request.events and prediction.output is not None and prediction.output != told.output:
        return "output"
    if "logs" in request.events and prediction.logs and prediction.logs != told.logs:
        return "logs"
    return None


def _held_s(told: Told, now: float) -> float:
    """Seconds for which news are held back; a clock that was set back holds nothing."""
    if told.news_at is None or now < told.news_at:
        return 0.0
    return max(0.0, told.news_at + NEWS_EVERY_S - now)


def _quiet_s(request: WebhookRequest, told: Told, held_s: float) -> float:
    if "start" in request.events and not told.has_start:
        return 0.0
    return held_s if request.events & {"output", "logs"} else math.inf


def _as_running(prediction: Prediction, *, output: JsonValue, logs: str) -> Prediction:
    return replace(
        prediction,
        status="processing",
        output=output,
        logs=logs,
        error=None,
        metrics={},
        completed_at=None,
        is_data_removed=False,
    )


# -- signatures ------------------------------------------------------------------------------------------


def derive_secret(secrets: Secrets, scope: Scope) -> str:
    """The signing secret of a scope, which nobody else's can be computed from.

    Its form is that of Replicate's: ``whsec_`` and standard base64, so with one underscore (the Python client refuses
    any other).
    """
    key = keyed_hash(secrets.webhooks, b"secret", scope)[:SECRET_BYTES]
    return SECRET_PREFIX + base64.b64encode(key).decode()


def signing_key(secret: str) -> bytes | None:
    """The key that a secret stands for, ``None`` for anything that the official clients would not read as one."""
    if not secret.startswith(SECRET_PREFIX):
        return None
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True) or None
    except (binascii.Error, ValueError):
        return None


def sign(message_id: str, at: float, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The headers of a delivery, with one signature for each of ``secrets``; who knows one of them can check it.

    Args:
        message_id: the same for each attempt at one delivery.
        at: epoch seconds of this attempt.

    Source: Standard Webhooks, "Signature scheme".
    """
    stamp = str(int(at))
    content = b"%b.%b.%b" % (message_id.encode(), stamp.encode(), body)
    keys = [key for key in map(signing_key, secrets) if key is not None]
    marks = [base64.b64encode(hmac.new(key, content, sha256).digest()).decode() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(f"v1,{mark}" for mark in marks),
    }


def name_delivery(prediction_id: PredictionId, event: WebhookEvent, body: bytes) -> str:
    """Names a delivery, from what it says alone: a delivery that is made again keeps its name over a restart."""
    if event in ("start", "completed"):
        return f"msg_{prediction_id}_{event}"
    return f"msg_{prediction_id}_{event}_{sha256(body).hexdigest()[:16]}"


# -- attempts --------------------------------------------------------------------------------------------


def judge_answer(status: int) -> Literal["made", "ended", "failed"]:
    """What a receiver's answer means: it took the delivery, it wants no more, or it is to be tried again."""
    if 200 <= status < 300:
        return "made"
    return "ended" if status == 410 else "failed"


def plan_retry(attempts: int, spread: float, asked_s: float | None = None) -> float | None:
    """Seconds until the next attempt, ``None`` when there have been enough.

    Args:
        attempts: how many have failed, at least 1.
        spread: a random number from 0 to 1.
        asked_s: what the receiver asked for (``Retry-After``).
    """
    if attempts > len(RETRY_AFTER_S):
        return None
    planned_s = RETRY_AFTER_S[attempts - 1] * (1 + RETRY_SPREAD * spread)
    return max(planned_s, min(asked_s or 0.0, MAX_RETRY_AFTER_S))
