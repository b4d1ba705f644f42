"""Result records: the stored outcome of one prediction.

A record is written once, after every blob that it names, and never changed. It is stored as one JSON
document with a format number, so that any later version can read it. Where the output held a file, the
document holds ``null`` and ``files`` says which blob belongs there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from storage.digest import Digest, PredictionKey, RecordId, Scope, parse_digest
from storage.errors import Corrupt, StorageError

JsonValue: TypeAlias = Any
"""A parsed JSON value: None, bool, int, float, str, list of these, dict of str to these."""

JsonObject: TypeAlias = dict[str, Any]

JsonPath: TypeAlias = tuple[str | int, ...]
"""Where a value stands in a JSON document: object keys and list indices from the root."""

RECORD_FORMAT = 1


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A blob by name and length."""

    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file of an output.

    Attributes:
        path: where its address stands in the output document; ``()`` when the output is the file.
        blob: the bytes.
        content_type: media type found from the bytes, e.g. ``"image/webp"``.
        name: last segment of its address, ``[a-z0-9._-]{1,64}``, e.g. ``"out-0.webp"``.
    """

    path: JsonPath
    blob: BlobRef
    content_type: str
    name: str


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """What one run of a model gave.

    Attributes:
        record_id: names this record inside prediction ids.
        key: the prediction key it answers.
        scope: who may see it.
        upstream: name of the upstream that ran it.
        model: ``"owner/name"``.
        version: resolved version, 64 hex digits or ``"hidden"``.
        input: the normalised input.
        output: output document with ``None`` where a file stands.
        files: the files, in the order in which they stand in the output.
        logs: the model's log text.
        metrics: numbers by name; ``predict_time`` in seconds.
        created_at, started_at, completed_at: epoch seconds of the original run.
        boot_s: seconds the run waited for a boot, 0.0 when the model was warm.
        upstream_id: the upstream's own prediction id, if it has one.
        is_streamable: predictions of this result say where they are streamed.
        deployment: ``"owner/name"`` of the deployment that was asked, if it was one.
        stream_log: the events of the run as the upstream streamed them, where somebody listened; without it, or once
            it is gone, a stream is told from output and logs. So a hit does not need it.
        tags: names under which it can be purged.
        made_by: by which rules and wishes it was made, for people; nothing is decided by it.
    """

    record_id: RecordId
    key: PredictionKey
    scope: Scope
    upstream: str
    model: str
    version: str
    input: JsonObject
    output: JsonValue
    files: tuple[OutputFile, ...]
    logs: str
    metrics: JsonObject
    created_at: float
    started_at: float
    completed_at: float
    boot_s: float
    upstream_id: str | None
    is_streamable: bool = False
    stream_log: BlobRef | None = None
    deployment: str | None = None
    tags: tuple[str, ...] = ()
    made_by: JsonObject | None = None

    @property
    def compute_s(self) -> float:
        """Compute seconds of the run; from its start to its end where the upstream told none."""
        return compute_s(self.metrics, self.started_at, self.completed_at)

    @property
    def predict_s(self) -> float:
        """Compute seconds of the run; 0.0 where the upstream told none, or no number."""
        seconds = self.metrics.get("predict_time")
        return float(seconds) if isinstance(seconds, (int, float)) else 0.0


def compute_s(metrics: JsonObject, started_at: float, completed_at: float) -> float:
    """Compute seconds of a run: the ``predict_time`` that was told, else from its start to its end."""
    told = metrics.get("predict_time")
    seconds = told if isinstance(told, (int, float)) else completed_at - started_at
    return max(float(seconds), 0.0)


def encode_record(record: ResultRecord) -> bytes:
    """The record as JSON bytes, ``RECORD_FORMAT`` inside.

    Raises:
        StorageError: something inside has no JSON form, such as an integer of more than 64 bits.
    """
    try:
        return orjson.dumps(_to_document(record))
    except orjson.JSONEncodeError as error:
        raise StorageError(f"record cannot be written as JSON: {error}") from error


def _to_document(record: ResultRecord) -> JsonObject:
    return {
        "format": RECORD_FORMAT,
        "record_id": record.record_id,
        "key": record.key.hex(),
        "scope": record.scope.hex(),
        "upstream": record.upstream,
        "model": record.model,
        "version": record.version,
        "input": record.input,
        "output": record.output,
        "files": [
            {
                "path": file.path,
                "digest": file.blob.digest.hex(),
                "size_bytes": file.blob.size_bytes,
                "content_type": file.content_type,
                "name": file.name,
            }
            for file in record.files
        ],
        "logs": record.logs,
        "metrics": record.metrics,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "completed_at": record.completed_at,
        "boot_s": record.boot_s,
        "upstream_id": record.upstream_id,
        "is_streamable": record.is_streamable,
        "stream_log": None
        if record.stream_log is None
        else {"digest": record.stream_log.digest.hex(), "size_bytes": record.stream_log.size_bytes},
        "deployment": record.deployment,
        "tags": record.tags,
        "made_by": record.made_by,
    }


def decode_record(data: bytes) -> ResultRecord:
    """The record that ``encode_record`` wrote.

    Raises:
        Corrupt: the bytes are not such a document, or of a newer format.
    """
    try:
        document = orjson.loads(data)
        if document["format"] != RECORD_FORMAT:
            raise Corrupt(f"record format {document['format']} is not {RECORD_FORMAT}")
        return ResultRecord(
            record_id=RecordId(_whole(document["record_id"])),
            key=PredictionKey(_hash(document["key"])),
            scope=Scope(_hash(document["scope"])),
            upstream=document["upstream"],
            model=document["model"],
            version=document["version"],
            input=document["input"],
            output=document["output"],
            files=tuple(
                OutputFile(
                    path=tuple(file["path"]),
                    blob=BlobRef(Digest(_hash(file["digest"])), _whole(file["size_bytes"])),
                    content_type=file["content_type"],
                    name=file["name"],
                )
                for file in document["files"]
            ),
            logs=document["logs"],
            metrics=document["metrics"],
            created_at=document["created_at"],
            started_at=document["started_at"],
            completed_at=document["completed_at"],
            boot_s=document["boot_s"],
            upstream_id=document["upstream_id"],
            is_streamable=document.get("is_streamable") is True,
            stream_log=_blob(document.get("stream_log")),
            deployment=document.get("deployment"),
            tags=tuple(document.get("tags") or ()),
            made_by=document.get("made_by"),
        )
    except Corrupt:
        raise
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"unreadable record: {type(error).__name__}") from error


def _hash(text: str) -> bytes:
    digest = parse_digest(text)
    if digest is None:
        raise ValueError("not 64 lower-case hex digits")
    return digest


def _blob(document: JsonValue) -> BlobRef | None:
    return None if document is None else BlobRef(Digest(_hash(document["digest"])), _whole(document["size_bytes"]))


def _whole(number: object) -> int:
    if type(number) is not int or number < 0:
        raise ValueError("not a whole number")
    return number
