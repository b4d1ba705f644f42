"""What goes to a Cog server and what comes back, in both dialects, read into plain values. Pure.

Two kinds of servers are about: FastAPI (cog 0.16 and older) and coglet (0.17 and newer). What differs and matters here:

===================  ===================================  ==============================================
point                FastAPI                              coglet
===================  ===================================  ==============================================
busy                 409 ``{"detail"}``                   409 ``{"error", "status"}``, also for a moment
                                                          after a run, and for ever once its worker died
worker died          500 text, then the server exits      200 ``"Worker crashed"``, then ``UNHEALTHY``
model raised         200 failed, bare message             200 failed, ``Prediction failed: `` before it
metrics, error       may be ``null``                      may be absent
===================  ===================================  ==============================================

So an answer is never read by its HTTP status alone, and a 409 says little: the health check decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

import orjson

from proxy.core.errors import HotplateError, InputInvalid, InvalidField, UpstreamRefused, UpstreamUnavailable
from proxy.upstreams.cog_news import Wish
from storage.records import JsonObject, JsonValue

HealthStatus = Literal["STARTING", "READY", "BUSY", "SETUP_FAILED", "DEFUNCT", "UNHEALTHY", "UNKNOWN"]

WORKER_CRASHED = "Worker crashed"
"""coglet's whole error text when the model's process ended under a run; a model's own errors have a prefix."""

_PREFIX = "Prediction failed: "
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_TAIL_CHARS = 2000


class NotCog(ValueError):
    """Whatever answered, it does not speak like a Cog server."""


@dataclass(frozen=True, slots=True)
class Health:
    """A health check's answer.

    Attributes:
        setup_at: when the model's setup began, as the server writes it; tells one start from another.
        setup_logs: what the setup printed, or why it failed.
        detail: what the model's own health check complained of, else ``""``.
        is_coglet: which dialect it speaks.
    """

    status: HealthStatus
    setup_at: str | None = None
    setup_logs: str = ""
    detail: str = ""
    is_coglet: bool = False


@dataclass(frozen=True, slots=True)
class Away:
    """No health check came back.

    Attributes:
        kind: ``refused`` = nothing listens there; ``unreachable`` = nobody answers a connection; ``mute`` = somebody
            does, but not with a health check, or not in time (a busy model's own check can be that slow).
    """

    reason: str
    kind: Literal["refused", "unreachable", "mute"]


@dataclass(frozen=True, slots=True)
class Finished:
    """The run ended; a failed one too."""

    status: Literal["succeeded", "failed", "canceled"]
    output: JsonValue
    error: str | None
    logs: str
    metrics: JsonObject


@dataclass(frozen=True, slots=True)
class Busy:
    """409: no slot, or not yet, or never again."""


@dataclass(frozen=True, slots=True)
class NotReady:
    """503: not set up, or its setup failed."""


@dataclass(frozen=True, slots=True)
class Unreached:
    """The server surely did not take the run."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The server took the run, or may have, and will never answer it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The run would be refused by every server; ``error`` is for the client."""

    error: HotplateError


Answer: TypeAlias = Finished | Busy | NotReady | Unreached | Lost | Declined


def read_health(status: int, body: bytes) -> Health:
    """The answer to ``GET /health-check``.

    Raises:
        NotCog: it is none.
    """
    document = _json_object(body)
    word = document.get("status")
    if status != 200 or word not in get_args(HealthStatus):
        raise NotCog(f"its health check answered {status}, not like a Cog server")
    setup = document.get("setup")
    setup = setup if isinstance(setup, dict) else {}
    version = document.get("version")
    started_at = setup.get("started_at")
    return Health(
        status=cast(HealthStatus, word),
        setup_at=started_at if isinstance(started_at, str) else None,
        setup_logs=_text(setup.get("logs")),
        detail=_text(document.get("user_healthcheck_error")),
        is_coglet=isinstance(version, dict) and "coglet" in version,
    )


def prediction_body(run_id: str, given: JsonObject, wish: Wish | None = None) -> bytes:
    """Body of ``POST /predictions``."""
    document: JsonObject = {"id": run_id, "input": given}
    if wish is not None:
        document |= {"webhook": wish.url, "webhook_events_filter": list(wish.events)}
    return orjson.dumps(document)


def read_answer(status: int, body: bytes) -> Answer:
    """The answer to a synchronous ``POST /predictions``."""
    if status == 200:
        return _read_result(body)
    if status == 409:
        return Busy()
    if status == 503:
        return NotReady()
    if status >= 500:
        return Lost(f"its server answered {status}")
    if status == 422:
        fields = tuple(_complaints(body))
        return Declined(InputInvalid(fields) if fields else _refused(422, body))
    if status in (400, 413, 415):
        return Declined(_refused(status, body))
    return Declined(UpstreamUnavailable(f"The model's server answered {status} to a prediction."))


def _read_result(body: bytes) -> Answer:
    try:
        document = _json_object(body)
    except NotCog:
        return Declined(UpstreamUnavailable("The model's server did not answer a prediction like a Cog server."))
    error, metrics = document.get("error"), document.get("metrics")
    if error == WORKER_CRASHED:
        return Lost("the model's process ended")
    status = document.get("status")
    if status not in ("succeeded", "failed", "canceled"):
        return Declined(UpstreamUnavailable("The model's server answered a prediction without its end."))
    return Finished(
        status=status,
        output=document.get("output"),
        error=None if error is None else plain_error(_text(error)),
        logs=_text(document.get("logs")),
        metrics=metrics if isinstance(metrics, dict) else {},
    )


def _refused(status: int, body: bytes) -> UpstreamRefused:
    """The server's refusal in the shape of Replicate's API."""
    detail = body[:1000].decode("utf-8", "replace").strip() or "The model's server refused the prediction."
    problem = {"title": "Refused by the model's server", "detail": detail, "status": status}
    return UpstreamRefused(status, [("content-type", "application/problem+json")], orjson.dumps(problem))


def _complaints(body: bytes) -> Iterator[InvalidField]:
    """``detail`` of a 422: ``[{"loc": ["body", "input", "width"], "msg", "type"}]`` in both dialects."""
    try:
        detail = _json_object(body).get("detail")
    except NotCog:
        return
    for item in detail if isinstance(detail, list) else []:
        if not isinstance(item, dict):
            continue
        place = item.get("loc")
        names = [str(part) for part in place] if isinstance(place, list) else []
        names = names[1:] if names[:1] == ["body"] else names
        kind, message = _text(item.get("type")), _text(item.get("msg"))
        if kind in ("value_error.missing", "missing"):
            missing = names[-1] if names else "input"
            yield InvalidField("required", ".".join(names[:-1]) or "input", f"{missing} is required")
        else:
            yield InvalidField(kind or "invalid", ".".join(names) or "input", message or "Invalid value")


def plain_error(text: str) -> str:
    """A model's error without coglet's prefix, which comes once or twice; the other dialect has none."""
    while text.startswith(_PREFIX):
        text = text[len(_PREFIX) :]
    return text


def size_of(value: JsonValue) -> int:
    """About how many bytes an input takes while it waits: its texts, among which are files as data."""
    if isinstance(value, str):
        return len(value)
    inner: Iterable[JsonValue] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(size_of, inner))


def tail(text: str, limit: int = _TAIL_CHARS) -> str:
    """The last lines of a log, without a terminal's colour codes, for an error text."""
    text = _ANSI.sub("", text).strip()
    if len(text) <= limit:
        return text
    return "…" + text[-limit:].partition("\n")[2] if "\n" in text[-limit:] else "…" + text[-limit:]


def _json_object(body: bytes) -> JsonObject:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotCog("not JSON") from error
    if not isinstance(document, dict):
        raise NotCog("not a JSON object")
    return document


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
