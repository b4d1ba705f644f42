"""What a purge takes away: stored results, and what runs will give that had begun before it.

A purge says that what there is must not be answered with any more. A run that was under way when it came may have seen
the same cause, so whoever waits for it gets its answer, but nobody else does: it is not stored, and nobody joins it any
more. What begins after the purge is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from storage.digest import PredictionKey, RecordId
from storage.records import JsonObject, JsonValue, ResultRecord

PurgeKind = Literal["id", "key", "tag", "model", "all"]

KINDS: tuple[PurgeKind, ...] = get_args(PurgeKind)

MAX_VALUES = 1_000
"""Of one purge."""

MAX_PURGES = 1_000
"""Purges that are remembered one by one; of more, the oldest are taken for purges of everything."""

REMEMBER_S = 86_400.0
"""How long a purge is remembered: longer than any run that it may meet under way, and than what is left of a result."""

NAMESPACE_TAG = "namespace:"
"""Before the name of its ``Hotplate-Namespace``, a tag that a result has by itself."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a purge can know a result, or a run that will give one, by.

    Attributes:
        record_id: ``None`` where it may still change.
        names: the model, and the deployment as ``deployments/owner/name``.
    """

    key: PredictionKey | None
    record_id: RecordId | None
    names: tuple[str, ...]
    tags: tuple[str, ...]


def subject_of(record: ResultRecord) -> Subject:
    """A result as a purge sees it."""
    key = record.key if any(record.key) else None  # a result that is no cache entry has none
    return Subject(key, record.record_id, names_of(record.model, record.deployment), record.tags)


def names_of(model: str, deployment: str | None) -> tuple[str, ...]:
    """What globs over models are matched with."""
    return (model,) if deployment is None else (model, f"deployments/{deployment}")


@dataclass(frozen=True, slots=True)
class Purge:
    """One purge.

    Attributes:
        values: by ``kind``: record numbers and keys in hex digits, tags, globs over models; nothing for ``all``.
        at: epoch seconds.
    """

    kind: PurgeKind
    values: frozenset[str]
    at: float

    def names(self, subject: Subject) -> bool:
        """Whether it is about this result."""
        match self.kind:
            case "all":
                return True
            case "id":
                return subject.record_id is not None and f"{subject.record_id:010x}" in self.values
            case "key":
                return subject.key is not None and subject.key.hex() in self.values
            case "tag":
                return not self.values.isdisjoint(subject.tags)
            case "model":
                names = [name for name in subject.names if name]
                # Of a version that was given alone the model may not be known: it may be one of those.
                return not names or any(fnmatchcase(name, glob) for name in names for glob in self.values)

    def to_json(self) -> JsonObject:
        """As it is announced and written down."""
        return {"kind": self.kind, "values": sorted(self.values), "at": self.at}


def purge_from_json(document: JsonValue) -> Purge:
    """The purge that ``Purge.to_json`` gave.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    kind = document["kind"]
    if kind not in KINDS:
        raise ValueError("no such kind of purge")
    return Purge(kind, frozenset(map(str, document["values"])), float(document["at"]))


class PurgeLog:
    """The purges of the last day."""

    def __init__(self) -> None:
        self._purges: list[Purge] = []
        self.added_total = 0
        """Purges that were heard of so far: whether there was one since is asked at each hit."""

    def __len__(self) -> int:
        return len(self._purges)

    def add(self, purge: Purge) -> bool:
        """Remember a purge; ``False`` if it is known already. Those that are over are forgotten."""
        if purge in self._purges:
            return False
        self._purges = [one for one in self._purges if one.at > purge.at - REMEMBER_S]
        self._purges.append(purge)
        self.added_total += 1
        if len(self._purges) > MAX_PURGES:
            # In doubt a miss: what began before them is not kept, whatever it is.
            merged, kept = self._purges[: MAX_PURGES // 2], self._purges[MAX_PURGES // 2 :]
            self._purges = [Purge("all", frozenset(), max(one.at for one in merged)), *kept]
        return True

    def covers(self, subject: Subject, began_at: float) -> bool:
        """Whether a purge that came after ``began_at`` took it away."""
        return any(one.at >= began_at and one.names(subject) for one in self._purges)

    def to_json(self) -> list[JsonObject]:
        """All of them, to be written down."""
        return [one.to_json() for one in self._purges]
