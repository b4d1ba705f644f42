"""What a prediction's stream says: its events from a result, from what has come so far, and as a stored log. Pure.

A stream is a log of lines. A line's data is text, or a file that is told under whatever address its reader shall
see. The events are ``logs``, ``output``, ``error`` and ``done``; other names make the Python client raise.

How an output becomes events: a list is told item by item. A string is told as it is. Anything deeper is told as
the files in it, one by one, or, when there is none, as its JSON text: at a files address the JavaScript client makes
a ``FileOutput`` of every output event, so there each should be a file's URL.

Ids are ``<unix>:<n>``: the second in which the run was created, and the place in the log. So they are the same on
every worker and after every restart, and for every prediction that is answered with this result.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar, cast, get_args

import orjson

from proxy.core.predictions import Status
from storage.digest import Digest
from storage.errors import Corrupt
from storage.records import JsonObject, JsonPath, JsonValue, OutputFile, ResultRecord

EventName = Literal["logs", "output", "error", "done"]

NAMES = frozenset(get_args(EventName))

LOG_FORMAT = 1

Said: TypeAlias = tuple[EventName, "str | OutputFile"]
"""Name and data of an event that has no id yet."""

_Leaf = TypeVar("_Leaf")


@dataclass(frozen=True, slots=True)
class Line:
    """One event of a stream; ``data`` is text, or the file whose address stands there."""

    id: str
    name: EventName
    data: str | OutputFile


def number(said: Iterable[Said], created_at: float, first: int = 0) -> tuple[Line, ...]:
    """``said`` with ids; ``first`` is the place of the first one, ``created_at`` the run's in epoch seconds."""
    return tuple(Line(f"{int(created_at)}:{first + n}", name, data) for n, (name, data) in enumerate(said))


def output_leaves(output: JsonValue, files: Mapping[JsonPath, _Leaf]) -> list[str | _Leaf]:
    """What an output is told as, in order: texts, and of ``files`` (by place) what stands there."""
    inside: dict[str | int, list[_Leaf]] = {}
    for path, file in files.items():
        inside.setdefault(path[0] if path and isinstance(output, list) else "", []).append(file)
    items = enumerate(output) if isinstance(output, list) else [("", output)]
    leaves: list[str | _Leaf] = []
    for place, item in items:
        if place in inside:
            leaves += inside[place]
        elif isinstance(item, str):
            leaves += [item] if item else []
        elif item is not None:
            leaves.append(_as_text(item))
    return leaves


def read_output(data: str) -> JsonValue:
    """What an upstream's ``output`` event says: an object or a list where it is one's JSON text, else text."""
    if data[:1] not in ("{", "["):
        return data
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return data


def _as_text(value: JsonValue) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # integers beyond 64 bits
        return json.dumps(value)


def more_logs(told: Sequence[Line], logs: str) -> list[Said]:
    """What ``logs`` has more than was told. Logs that do not go on from there are left: they are no result."""
    so_far = "".join(line.data for line in told if line.name == "logs" and isinstance(line.data, str))
    return [("logs", logs[len(so_far) :])] if len(logs) > len(so_far) and logs.startswith(so_far) else []


def more_output(told: Sequence[Line], leaves: Iterable[str | OutputFile]) -> list[Said] | None:
    """What ``leaves`` has more than was told; ``None`` when what was told is not how they begin.

    Texts are compared as one text, since a stream need not be cut where the items of an output are; files by their
    digest, since one file may have come by several addresses.
    """
    text, files = _told(told)
    more: list[Said] = []
    for leaf in leaves:
        if isinstance(leaf, OutputFile):
            if files[leaf.blob.digest] > 0:
                files[leaf.blob.digest] -= 1
            else:
                more.append(("output", leaf))
        elif text.startswith(leaf):
            text = text[len(leaf) :]
        elif leaf.startswith(text):
            more.append(("output", leaf[len(text) :]))
            text = ""
        else:
            return None
    return more if not text else None


def _told(told: Sequence[Line]) -> tuple[str, Counter[Digest]]:
    outputs = [line.data for line in told if line.name == "output"]
    files = Counter(data.blob.digest for data in outputs if isinstance(data, OutputFile))
    return "".join(data for data in outputs if isinstance(data, str)), files


def ending(status: Status, error: str | None) -> list[Said]:
    """How a stream ends.

    Source: Replicate's documentation of streaming; the ``reason`` of ``done`` and the form of ``error`` as its clients
    read them.
    """
    if status == "succeeded":
        return [("done", "{}")]
    if status == "failed":
        detail = orjson.dumps({"detail": error or "Prediction failed"}).decode()
        return [("error", detail), ("done", '{"reason":"error"}')]
    return [("done", '{"reason":"canceled"}')]


def is_good_end(line: Line) -> bool:
    """Whether a stream that ends with ``line`` told a whole result."""
    if line.name != "done" or not isinstance(line.data, str):
        return False
    try:
        document = orjson.loads(line.data)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and not document.get("reason")


def result_leaves(record: ResultRecord) -> list[str | OutputFile]:
    """What a record's output is told as."""
    return output_leaves(record.output, {file.path: file for file in record.files})


def tell_result(record: ResultRecord) -> tuple[Line, ...]:
    """The whole stream of a stored result."""
    said = [*more_logs((), record.logs), *(more_output((), result_leaves(record)) or ()), *ending("succeeded", None)]
    return number(said, record.created_at)


def tells_all(log: Sequence[Line], record: ResultRecord) -> bool:
    """Whether ``log`` ends well and tells the record's whole text and every one of its files."""
    return bool(log) and is_good_end(log[-1]) and more_output(log, result_leaves(record)) == []


def encode_log(log: Sequence[Line], record: ResultRecord) -> bytes:
    """``log`` as bytes that mean something beside ``record`` alone: a file is its number in ``record.files``.

    An output whose file is not among them is left out; the others keep their ids.
    """
    by_name = {(file.blob.digest, file.name): place for place, file in enumerate(record.files)}
    by_digest = {file.blob.digest: place for place, file in enumerate(record.files)}
    rows: list[list[str | int]] = []
    for line in log:
        if isinstance(line.data, str):
            rows.append([line.id, line.name, line.data])
            continue
        digest = line.data.blob.digest
        place = by_name.get((digest, line.data.name), by_digest.get(digest))
        if place is not None:
            rows.append([line.id, line.name, place])
    return orjson.dumps({"format": LOG_FORMAT, "events": rows})


def decode_log(data: bytes, record: ResultRecord) -> tuple[Line, ...]:
    """The log that ``encode_log`` wrote for ``record``.

    Raises:
        Corrupt: the bytes are not such a log.
    """
    try:
        document: JsonObject = orjson.loads(data)
        if document["format"] != LOG_FORMAT:
            raise Corrupt(f"stream log format {document['format']} is not {LOG_FORMAT}")
        return tuple(_line(row, record.files) for row in document["events"])
    except Corrupt:
        raise
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise Corrupt(f"unreadable stream log: {type(error).__name__}") from error


def _line(row: list[JsonValue], files: Sequence[OutputFile]) -> Line:
    event_id, name, data = row
    if name not in NAMES or not isinstance(event_id, str):
        raise ValueError("not an event")
    if isinstance(data, str):
        return Line(event_id, cast(EventName, name), data)
    if type(data) is not int or data < 0:
        raise ValueError("neither text nor a file's number")
    return Line(event_id, cast(EventName, name), files[data])
