"""What a Cog server tells of a run while it goes on: its webhooks, read into plain values. Pure.

Both dialects send webhooks for synchronous calls too, so the call stays what decides and these only tell how it goes.
What was seen of them:

===================  ===================================  ==============================================
point                FastAPI (cog 0.16)                   coglet (cog 0.23)
===================  ===================================  ==============================================
how they are sent    one after another; the run waits     by the way; the run never waits
order of arrival     mostly theirs                        any
logs, output         both at most every 0.5 s             logs at most every 0.5 s, each item of an output
files in an output   paths inside the container           ``data:`` URLs
``completed``        retried for minutes, the run waits   retried unless answered 4xx
logs of a failed     in the call's answer                 only in ``completed``: the answer has none, and
run                                                       lines of the last 0.5 s come in no other event
===================  ===================================  ==============================================

So FastAPI is never asked for ``completed``. ``start`` is not asked for at all: it holds nothing, and FastAPI's throttle
makes the first output wait after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from storage.records import JsonObject, JsonValue

_MAX_STEPS = 1000
"""Parts of an Output schema that are looked at; none is that large, and references may go in circles."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a prediction's body asks for beside its answer: webhooks to ``url``, of these events."""

    url: str
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutputShape:
    """What is known of a model's outputs before they are there.

    Attributes:
        may_grow: they may come in parts.
        may_hold_files: strings in them may be files.
    """

    may_grow: bool = True
    may_hold_files: bool = True


@dataclass(frozen=True, slots=True)
class News:
    """A run so far. ``has_ended``: there is no more to come."""

    logs: str = ""
    output: JsonValue = None
    has_ended: bool = False


def output_shape(openapi: JsonObject | None) -> OutputShape:
    """What a model's OpenAPI document says of its outputs; anything is possible where it says nothing."""
    try:
        schemas = (openapi or {})["components"]["schemas"]
        output = schemas["Output"]
        if not isinstance(output, dict):
            return OutputShape()
        # Only an iterator's output comes in parts; the schema marks it, and a type must be there to be marked.
        may_grow = output.get("x-cog-array-type") == "iterator" or "type" not in output
        return OutputShape(may_grow, any(map(_may_be_file, _parts(output, schemas))))
    except (KeyError, TypeError, AttributeError):
        return OutputShape()


def wished_events(shape: OutputShape, *, is_coglet: bool) -> tuple[str, ...]:
    """The events to ask a server for, see the table above."""
    events = ("logs", "output") if shape.may_grow else ("logs",)
    return (*events, "completed") if is_coglet else events


def read_news(body: bytes, shape: OutputShape) -> News | None:
    """A webhook's body; ``None`` when it is none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    logs, output, status = document.get("logs"), document.get("output"), document.get("status")
    return News(
        logs=logs if isinstance(logs, str) else "",
        output=_without_paths(output) if shape.may_hold_files else output,
        has_ended=isinstance(status, str) and status in ("succeeded", "failed", "canceled"),
    )


def merge(before: News, after: News) -> News:
    """Both together. Each tells everything so far, and they may come in any order: the longer is the newer."""
    return News(
        logs=max(before.logs, after.logs, key=len),
        output=after.output if _extent(after.output) >= _extent(before.output) else before.output,
        has_ended=before.has_ended or after.has_ended,
    )


def _extent(output: JsonValue) -> int:
    return -1 if output is None else len(output) if isinstance(output, list | str | dict) else 0


def _without_paths(output: JsonValue) -> JsonValue:
    """As much of it as stands before the first path: FastAPI tells where a file lies in the model's container."""
    if isinstance(output, list):
        clean = next((index for index, item in enumerate(output) if _has_path(item)), len(output))
        return output[:clean]
    return None if _has_path(output) else output


def _has_path(value: JsonValue) -> bool:
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, str) and part.startswith("/"):
            return True
        if isinstance(part, list | dict):
            stack.extend(part.values() if isinstance(part, dict) else part)
    return False


def _parts(output: JsonObject, schemas: JsonObject) -> Iterator[JsonObject]:
    """The schema's leaves: what stands for one value each."""
    stack: list[JsonObject] = [output]
    for _ in range(_MAX_STEPS):
        if not stack:
            return
        part = stack.pop()
        if "$ref" in part:
            stack.append(schemas[part["$ref"].rpartition("/")[2]])
        elif part.get("type") == "array" and isinstance(part.get("items"), dict):
            stack.append(part["items"])
        elif part.get("type") == "object" and isinstance(part.get("properties"), dict):
            stack.extend(part["properties"].values())
        else:
            yield part
    yield {}


def _may_be_file(leaf: JsonObject) -> bool:
    kind = leaf.get("type")
    if kind == "string":
        return leaf.get("format") == "uri"
    return kind not in ("integer", "number", "boolean")
