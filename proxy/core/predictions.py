"""Predictions as clients see them.

Two ways lead to the same JSON: ``render_prediction`` for a prediction in any state, and ``HitTemplate`` for an
answer from the cache, where everything but id, input and time is ready bytes.

Source of the shape: Replicate's OpenAPI document, ``schemas_prediction_response``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import orjson

from proxy.core.ids import PredictionId
from storage.records import JsonObject, JsonValue, ResultRecord

Status = Literal["starting", "processing", "succeeded", "failed", "canceled", "aborted"]

TERMINAL: frozenset[Status] = frozenset({"succeeded", "failed", "canceled", "aborted"})


def known_end(status: Status) -> Status:
    """``status`` for a client that set no deadline of its own.

    ``aborted`` is the word for a deadline that was over before the start. Clients that did not ask for one may not know
    it: Python's refuses the whole answer, JavaScript's polls on for ever.
    """
    return "canceled" if status == "aborted" else status


@dataclass(frozen=True, slots=True)
class Prediction:
    """One prediction in one state; times in epoch seconds, ``output`` as the client will see it."""

    id: PredictionId
    model: str
    version: str
    input: JsonObject
    status: Status
    created_at: float
    started_at: float | None = None
    completed_at: float | None = None
    output: JsonValue = None
    error: str | None = None
    logs: str = ""
    metrics: JsonObject = field(default_factory=dict)
    web_url: str | None = None
    is_data_removed: bool = False
    stream_url: str | None = None
    deadline_at: float | None = None
    deployment: str | None = None

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL


LONGEST_LISTED_DATA_URL = 1024


def for_list(prediction: Prediction) -> Prediction:
    """``prediction`` as one of many: ``null`` where its input holds a file as a long ``data:`` URL."""
    return replace(prediction, input=_without_data(prediction.input))


def _without_data(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return None if len(value) > LONGEST_LISTED_DATA_URL and value.startswith("data:") else value
    if isinstance(value, list):
        return [_without_data(each) for each in value]
    if isinstance(value, dict):
        return {name: _without_data(each) for name, each in value.items()}
    return value


def as_begun(prediction: Prediction) -> Prediction:
    """The same prediction as a create that does not wait for it is answered: ``starting``, and nothing of its end."""
    return replace(
        prediction,
        status="starting",
        started_at=None,
        completed_at=None,
        output=None,
        error=None,
        logs="",
        metrics={},
        is_data_removed=False,
    )


@lru_cache(maxsize=64)
def _format_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def format_time(at: float) -> str:
    """Epoch seconds as RFC 3339 in UTC with milliseconds, e.g. ``"2026-02-01T10:00:00.120Z"``."""
    second, ms = divmod(round(at * 1_000_000) // 1000, 1000)
    return f"{_format_second(second)}.{ms:03d}Z"


def parse_time(text: object) -> float | None:
    """Epoch seconds of an ISO 8601 time that names its zone; ``None`` for anything else."""
    if not isinstance(text, str):
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.timestamp() if at.tzinfo is not None else None


def prediction_url(base_url: str, prediction_id: str) -> str:
    """Where the prediction is read; also the ``Location`` of a create."""
    return f"{base_url}/v1/predictions/{prediction_id}"


def render_prediction(prediction: Prediction, base_url: str) -> bytes:
    """The prediction as JSON bytes; ``base_url`` is the public one, without ``/v1``."""
    url = prediction_url(base_url, prediction.id)
    document: JsonObject = {
        "id": prediction.id,
        "model": prediction.model,
        "version": prediction.version,
        "input": prediction.input,
        "logs": prediction.logs,
        "output": prediction.output,
        "data_removed": prediction.is_data_removed,
        "error": prediction.error,
        "source": "api",
        "status": prediction.status,
        "created_at": format_time(prediction.created_at),
    }
    if prediction.deployment is not None:
        document["deployment"] = prediction.deployment
    if prediction.started_at is not None:
        document["started_at"] = format_time(prediction.started_at)
    if prediction.completed_at is not None:
        document["completed_at"] = format_time(prediction.completed_at)
        document["metrics"] = {
            **prediction.metrics,
            "total_time": round(prediction.completed_at - prediction.created_at, 6),
        }
    if prediction.deadline_at is not None:
        document["deadline"] = format_time(prediction.deadline_at)
    document["urls"] = {"get": url, "cancel": f"{url}/cancel", "web": prediction.web_url or url}
    if prediction.stream_url is not None:
        document["urls"]["stream"] = prediction.stream_url
    return orjson.dumps(document)


class HitTemplate:
    """A stored result as ready bytes, to be stamped with id, input and time for each hit."""

    __slots__ = ("_after_input", "_before_input", "_seal", "_stream", "_urls", "links")

    def __init__(
        self,
        record: ResultRecord,
        output: JsonValue,
        links: str,
        base_url: str,
        stream: tuple[str, Callable[[bytes], bytes]] | None = None,
    ) -> None:
        """Args:
        output: as the client will see it.
        links: the ``Link`` header that goes with it.
        stream: for a streamable result, what stands before the id in a stream's URL, and what seals an id there
            (see ``StreamBook``).
        """
        deployment = {"deployment": record.deployment} if record.deployment is not None else {}
        head = orjson.dumps({"model": record.model, "version": record.version, **deployment})
        body = orjson.dumps(
            {
                "logs": record.logs,
                "output": output,
                "data_removed": False,
                "error": None,
                "source": "api",
                "status": "succeeded",
                "metrics": {**record.metrics, "total_time": 0.0},
            }
        )
        self._before_input = b'",' + head[1:-1] + b',"input":'
        self._after_input = b"," + body[1:-1] + b',"created_at":"'
        self._urls = orjson.dumps(prediction_url(base_url, ""))[1:-1]
        self._stream = orjson.dumps(stream[0])[1:-1] if stream is not None else b""
        self._seal = stream[1] if stream is not None else None
        self.links = links.encode()

    @property
    def size_bytes(self) -> int:
        """What it holds in memory, nearly."""
        held = (self._before_input, self._after_input, self._urls, self._stream, self.links)
        return sum(map(len, held)) + 300

    def fill(self, prediction_id: PredictionId, input_json: bytes, at: float) -> bytes:
        """The whole answer; the same JSON document that ``render_prediction`` gives for this hit."""
        mark, time, url = prediction_id.encode(), format_time(at).encode(), self._urls
        end = b'"}}' if self._seal is None else b'","stream":"%b%b-%b"}}' % (self._stream, mark, self._seal(mark))
        return b"".join(
            (
                b'{"id":"',
                mark,
                self._before_input,
                input_json,
                self._after_input,
                time,
                b'","started_at":"',
                time,
                b'","completed_at":"',
                time,
                b'","urls":{"get":"',
                url,
                mark,
                b'","cancel":"',
                url,
                mark,
                b'/cancel","web":"',
                url,
                mark,
                end,
            )
        )
