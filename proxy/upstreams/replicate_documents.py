"""What goes to a Replicate-compatible API and what its predictions say. Pure.

Source: Replicate's OpenAPI document and its pages on prediction life cycles and rate limits.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Literal

import orjson

from proxy.core.errors import NotFound
from proxy.core.predictions import TERMINAL, parse_time
from proxy.core.requests import DEFAULT_WAIT_S, is_slug
from proxy.upstreams.base import Job, ModelTarget, Outcome, Progress
from storage.records import JsonObject

WARM_START_S = 3.0
"""A run that started within this time found a warm model: an order of magnitude between the queue of a warm model
(under a second in recorded answers) and the shortest boots known (tens of seconds). Replicate: starting "longer than a
few seconds" is typically a new worker being started."""

MAX_RETRY_AFTER_S = 60.0
"""Longest pause between two polls that the API can ask for."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MODEL = re.compile(r"[A-Za-z0-9._-]{1,128}/[A-Za-z0-9._-]{1,128}")


def check_names(target: ModelTarget) -> None:
    """Make sure that names which become part of a path are names.

    Raises:
        NotFound: they are not, so there is no such model.
    """
    is_bare = target.version is not None and not target.owner and not target.name
    if not is_bare and not (is_slug(target.owner) and is_slug(target.name)):
        raise NotFound("The requested resource could not be found.")


def create_path(target: ModelTarget) -> str:
    """Path of the create, below the API's root."""
    check_names(target)
    if target.is_deployment:
        return f"/deployments/{target.owner}/{target.name}/predictions"
    return "/predictions" if target.version else f"/models/{target.owner}/{target.name}/predictions"


def create_body(job: Job, hook: str | None = None) -> bytes:
    """Body of the create. A pinned version goes as its 64 digits alone, whichever spelling the client chose: requests
    that share a key then are one request upstream, too, and every compatible API reads this form.

    ``hook``: the address at which we want to hear how the run goes. Its logs are not worth a post each.
    """
    document: JsonObject = {"input": job.input}
    if hook is not None:
        document |= {"webhook": hook, "webhook_events_filter": ["start", "output", "completed"]}
    if job.target.version and not job.target.is_deployment:
        document = {"version": job.target.version, **document}
    try:
        return orjson.dumps(document)
    except TypeError:  # integers beyond 64 bits
        return json.dumps(document, allow_nan=False).encode()


def wait_s(job: Job) -> int:
    """Seconds for ``Prefer: wait=n``, 0 for none. The API takes 1 to 60."""
    return int(min(max(job.wants_s, 0.0), DEFAULT_WAIT_S))


def parse_prediction(content: bytes) -> JsonObject:
    """A prediction object whose ``id`` can stand in a path and whose ``status`` is a word.

    Raises:
        ValueError: it is not one.
    """
    document = orjson.loads(content)
    if not isinstance(document, dict) or not isinstance(document.get("status"), str):
        raise ValueError("not a prediction")
    if not isinstance(document.get("id"), str) or not _ID.fullmatch(document["id"]):
        raise ValueError("a prediction without a usable id")
    return document


def is_terminal(prediction: JsonObject) -> bool:
    """Whether it has ended. ``processing`` with all files is not the end: metrics and completion time are missing."""
    return prediction["status"] in TERMINAL


def is_answered_early(prediction: JsonObject) -> bool:
    """Whether the answer to a waiting create that did not run out of time holds the whole output of a run that goes on.

    Source: Replicate's page on sync mode: file models answer as soon as all files exist, "status may still be
    processing".
    """
    return prediction["status"] == "processing" and prediction.get("output") is not None


def progress_of(prediction: JsonObject, *, at: float, waited_s: float, has_all_files: bool = False) -> Progress:
    """News from a prediction, ``waited_s`` seconds after its create was answered.

    ``has_all_files``: its create was answered early, see ``is_answered_early``.
    """
    status: Literal["starting", "processing"] = "processing" if is_terminal(prediction) else "starting"
    if prediction["status"] == "processing":
        status = "processing"
    return Progress(
        status=status,
        at=at,
        logs=_text(prediction.get("logs")),
        is_booting=status == "starting" and waited_s >= WARM_START_S,
        upstream_id=prediction["id"],
        web_url=_url(prediction, "web"),
        stream_url=_url(prediction, "stream"),
        output=prediction.get("output") if prediction["status"] == "processing" else None,
        has_all_files=has_all_files and status == "processing",
        model=_model(prediction),
    )


def outcome_of(prediction: JsonObject, *, now: float) -> Outcome:
    """How a prediction in a final state ended; ``now`` stands in for times that it does not tell.

    Raises:
        ValueError: it is not final, or its output was removed already.
    """
    status = prediction["status"]
    if not is_terminal(prediction):
        raise ValueError(f"status {status} is not final")
    if prediction.get("data_removed") is True:
        raise ValueError("its data were removed")
    completed_at = parse_time(prediction.get("completed_at")) or now
    started_at = min(parse_time(prediction.get("started_at")) or completed_at, completed_at)
    error = prediction.get("error")
    return Outcome(
        status=status,
        output=prediction.get("output"),
        error=error if error is None or isinstance(error, str) else orjson.dumps(error).decode(),
        logs=_text(prediction.get("logs")),
        metrics=_numbers(prediction.get("metrics")),
        started_at=started_at,
        completed_at=completed_at,
        boot_s=boot_s(prediction),
        upstream_id=prediction["id"],
        web_url=_url(prediction, "web"),
        model=_model(prediction),
    )


def queued_s(prediction: JsonObject) -> float | None:
    """Seconds from creation to start by the API's own clock; ``None`` where it does not tell or makes no sense."""
    created_at, started_at = parse_time(prediction.get("created_at")), parse_time(prediction.get("started_at"))
    if created_at is None or started_at is None or started_at < created_at:
        return None
    return started_at - created_at


def predict_s(prediction: JsonObject) -> float | None:
    """Seconds from start to end of one that has ended; ``None`` where the API does not tell or makes no sense."""
    told = _numbers(prediction.get("metrics")).get("predict_time")
    if isinstance(told, int | float):
        return float(told) if told >= 0 else None
    started_at, completed_at = parse_time(prediction.get("started_at")), parse_time(prediction.get("completed_at"))
    if started_at is None or completed_at is None or completed_at < started_at:
        return None
    return completed_at - started_at


def boot_s(prediction: JsonObject) -> float:
    """Seconds of waiting that a boot caused; 0.0 for a warm start, see ``WARM_START_S``."""
    waited_s = queued_s(prediction)
    return waited_s if waited_s is not None and waited_s >= WARM_START_S else 0.0


def retry_after_s(headers: Mapping[str, str], now: float) -> float:
    """Seconds that ``Retry-After`` asks for, at most ``MAX_RETRY_AFTER_S``; 0.0 without a readable one.

    Source: RFC 9110 section 10.2.3.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        return min(max(parsedate_to_datetime(text).timestamp() - now, 0.0), MAX_RETRY_AFTER_S)
    except (ValueError, OverflowError):
        return 0.0


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _numbers(value: object) -> JsonObject:
    given = value.items() if isinstance(value, dict) else ()
    return {
        name: number
        for name, number in given
        if isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
    }


def _model(prediction: JsonObject) -> str | None:
    model = prediction.get("model")
    return model if isinstance(model, str) and _MODEL.fullmatch(model) else None


def _url(prediction: JsonObject, name: str) -> str | None:
    """One of the prediction's ``urls``, where it is one for http."""
    urls = prediction.get("urls")
    url = urls.get(name) if isinstance(urls, dict) else None
    return url if isinstance(url, str) and url.startswith(("https://", "http://")) else None
