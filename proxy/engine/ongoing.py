"""Runs on their way and the predictions that wait for them, written down so that another process can take them up.

Two kinds of rows, both sealed, since they hold tokens, inputs and webhook addresses: ``going:<record>`` for a run,
from the moment at which its upstream took it until it has ended, and ``pred:<id>`` for each prediction that made or
shares it, until nobody need be told of it any more. A third, ``unwanted:<record>``, says that all have cancelled.
They are written one after another, and a create is answered once those of its prediction and of the run before it are:
an id that a client was told is known to the next process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import orjson
import structlog

from proxy.core.canonical import strings_in
from proxy.core.ids import PredictionId
from proxy.core.policy import Bypass, Cached, LookupPlan
from proxy.core.sealing import Sealer, Unsealable
from proxy.core.webhooks import WebhookRequest
from proxy.engine.rows import RowWriter
from proxy.upstreams.base import Credential, ModelDescription, ModelTarget
from storage.digest import PredictionKey, RecordId, Scope
from storage.records import JsonObject

KEEP_S = 86_400.0
"""No run takes a day; what is left of one after that was forgotten by everybody."""

MAX_ROW_BYTES = 8 * 1024**2
"""A larger input is left out of the row: the run is then taken up only where it goes on by itself."""

_RUN, _PREDICTION, _UNWANTED = "going:", "pred:", "unwanted:"

T = TypeVar("T")

_log = structlog.get_logger("hotplate.ongoing")


@dataclass(frozen=True, slots=True)
class OngoingRun:
    """What must be known of a run to see it through.

    Attributes:
        scope: whose credential it was begun with.
        results_scope: whose result it will be.
        upstream: name of the upstream that runs it.
        upstream_id: its id there.
        job_id: our execution id.
        sent: the input that was sent, for an upstream at which it must be run once more; else ``None``.
        profile, tags: of the request that caused it.
        made_by: see ``core.policy.circumstances``.
        is_refresh: it was begun although there may have been a result.
        is_behind: it was begun behind an answer, and is wanted whoever else leaves it.
        repeats: how many times it was run once more already.
        is_unwanted: everybody has cancelled, and its upstream may not have heard of that.
    """

    record_id: RecordId
    scope: Scope
    results_scope: Scope
    upstream: str
    upstream_id: str
    job_id: str
    target: ModelTarget
    described: ModelDescription
    plan: LookupPlan
    key: PredictionKey | None
    key_input: JsonObject
    sent: JsonObject | None
    credential: Credential | None
    started_at: float
    profile: str | None = None
    tags: tuple[str, ...] = ()
    made_by: JsonObject | None = None
    is_refresh: bool = False
    is_behind: bool = False
    repeats: int = 0
    is_unwanted: bool = False


@dataclass(frozen=True, slots=True)
class OngoingPrediction:
    """A prediction that made or shares a run; times in epoch seconds.

    Attributes:
        has_started: the run has started, and the webhook was told so. Written where a webhook or a deadline needs it.
    """

    id: PredictionId
    record_id: RecordId
    scope: Scope
    results_scope: Scope
    upstream: str
    created_at: float
    is_follower: bool
    deadline_at: float | None = None
    webhook: WebhookRequest | None = None
    has_started: bool = False


class Ongoing:
    """The rows of runs and predictions on their way."""

    def __init__(self, rows: RowWriter, sealer: Sealer) -> None:
        self._rows = rows
        self._sealer = sealer
        self._unwanted: set[RecordId] = set()

    def run_began(self, run: OngoingRun) -> None:
        """The upstream has taken ``run``."""
        plan = run.plan
        cached = [plan.may_look_up, plan.may_share, plan.may_store, plan.pool] if isinstance(plan, Cached) else None
        self._put(
            f"{_RUN}{run.record_id:010x}",
            {
                "record_id": run.record_id,
                "scope": run.scope.hex(),
                "results_scope": run.results_scope.hex(),
                "upstream": run.upstream,
                "upstream_id": run.upstream_id,
                "job_id": run.job_id,
                "target": [run.target.owner, run.target.name, run.target.version, run.target.is_deployment],
                "described": [run.described.model, run.described.version, run.described.is_pinned],
                "bypass": plan.reason if isinstance(plan, Bypass) else None,
                "cached": cached,
                "profile": run.profile,
                "tags": run.tags,
                "made_by": run.made_by,
                "is_refresh": run.is_refresh,
                "is_behind": run.is_behind,
                "key": run.key.hex() if run.key is not None else None,
                "key_input": run.key_input,
                "sent": run.sent,
                "token": run.credential.token if run.credential is not None else None,
                "started_at": run.started_at,
                "repeats": run.repeats,
            },
        )

    def run_ended(self, record_id: RecordId) -> None:
        """The run has ended; nobody need take it up."""
        self._rows.remove(f"{_RUN}{record_id:010x}")
        if record_id in self._unwanted:
            self._unwanted.discard(record_id)
            self._rows.remove(f"{_UNWANTED}{record_id:010x}")

    def run_unwanted(self, record_id: RecordId) -> None:
        """Everybody who shared the run has cancelled."""
        self._unwanted.add(record_id)
        self._rows.put(f"{_UNWANTED}{record_id:010x}", b"1", KEEP_S)

    def joined(self, one: OngoingPrediction) -> asyncio.Task[bool]:
        """A prediction waits for a run, or more is known of it; the task ends when that is written."""
        webhook = one.webhook
        return self._put(
            f"{_PREDICTION}{one.id}",
            {
                "id": one.id,
                "record_id": one.record_id,
                "scope": one.scope.hex(),
                "results_scope": one.results_scope.hex(),
                "upstream": one.upstream,
                "created_at": one.created_at,
                "is_follower": one.is_follower,
                "deadline_at": one.deadline_at,
                "webhook": [webhook.url, sorted(webhook.events)] if webhook is not None else None,
                "has_started": one.has_started,
            },
        )

    def settled(self, prediction_id: PredictionId) -> None:
        """Nobody need be told of this prediction any more."""
        self._rows.remove(f"{_PREDICTION}{prediction_id}")

    async def load(self) -> tuple[list[OngoingRun], list[OngoingPrediction]]:
        """What a former process left behind. Rows that cannot be read are left to their end of life."""
        self._unwanted |= {
            RecordId(int(name.removeprefix(_UNWANTED), 16)) for name, _ in await self._rows.scan(_UNWANTED)
        }
        runs = [replace(run, is_unwanted=run.record_id in self._unwanted) for run in await self._load(_RUN, _run)]
        return runs, await self._load(_PREDICTION, _prediction)

    async def _load(self, prefix: str, read: Callable[[JsonObject], T]) -> list[T]:
        found: list[T] = []
        for name, sealed in await self._rows.scan(prefix):
            try:
                found.append(read(orjson.loads(self._sealer.open(sealed, name))))
            except (Unsealable, ValueError, KeyError, TypeError):
                _log.warning("row_unreadable", kind=prefix)
        return found

    def _put(self, name: str, document: JsonObject) -> asyncio.Task[bool]:
        # Files may stand in an input as tens of megabytes of base64: writing those out only to count them holds all up.
        is_small = sum(map(len, strings_in(document))) <= MAX_ROW_BYTES
        plain = orjson.dumps(document) if is_small else b""
        if not is_small or len(plain) > MAX_ROW_BYTES:
            plain = orjson.dumps({**document, "sent": None, "key_input": {}})
        return self._rows.put(name, self._sealer.seal(plain, name), KEEP_S)


def _results_scope(document: JsonObject) -> Scope:
    """Rows of version 0.1 know one scope for both."""
    name = "results_scope" if "results_scope" in document else "scope"
    return Scope(bytes.fromhex(document[name]))


def _run(document: JsonObject) -> OngoingRun:
    target = ModelTarget(*document["target"])
    model, resolved, is_pinned = document["described"]
    bypass, key, token = document["bypass"], document["key"], document["token"]
    return OngoingRun(
        record_id=RecordId(document["record_id"]),
        scope=Scope(bytes.fromhex(document["scope"])),
        results_scope=_results_scope(document),
        upstream=document["upstream"],
        upstream_id=document["upstream_id"],
        job_id=document["job_id"],
        target=target,
        described=ModelDescription(
            model, resolved, is_pinned=is_pinned, schema=None, deployment=target.model if target.is_deployment else None
        ),
        plan=Bypass(bypass) if bypass is not None else Cached(*document["cached"]),
        key=PredictionKey(bytes.fromhex(key)) if key is not None else None,
        key_input=document["key_input"],
        sent=document["sent"],
        credential=Credential(token) if token is not None else None,
        started_at=document["started_at"],
        profile=document["profile"],
        tags=tuple(document["tags"]),
        made_by=document.get("made_by"),
        is_refresh=document["is_refresh"],
        is_behind=document["is_behind"],
        repeats=document["repeats"],
    )


def _prediction(document: JsonObject) -> OngoingPrediction:
    webhook = document["webhook"]
    return OngoingPrediction(
        id=PredictionId(document["id"]),
        record_id=RecordId(document["record_id"]),
        scope=Scope(bytes.fromhex(document["scope"])),
        results_scope=_results_scope(document),
        upstream=document["upstream"],
        created_at=document["created_at"],
        is_follower=document["is_follower"],
        deadline_at=document["deadline_at"],
        webhook=WebhookRequest(webhook[0], frozenset(webhook[1])) if webhook is not None else None,
        has_started=document.get("has_started", False),
    )
