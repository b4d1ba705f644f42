"""Says how a past prediction was answered, whosever it is: for the operator, who may ask about any.

What memory knows of it comes first; after that, the id says which result it shows, and the notes how its run ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.core.errors import HotplateError, NotFound
from proxy.core.explaining import SCOPE_DIGITS, secret_fields, shown_input, which_policy
from proxy.core.ids import IdMint, OpenedId, PredictionId
from proxy.core.policy import DEFAULT_POLICY, Bypass
from proxy.engine.journal import Journal
from proxy.engine.policies import PolicyDesk
from proxy.engine.recent import RecentPredictions, Running
from proxy.engine.remains import Remains
from proxy.upstreams.base import ModelTarget, Upstream
from storage.records import JsonObject, ResultRecord
from storage.results import ResultStore


class Past:
    """Explains predictions."""

    def __init__(
        self,
        desk: PolicyDesk,
        results: ResultStore,
        mint: IdMint,
        recent: RecentPredictions,
        journal: Journal,
        remains: Remains,
        now: Callable[[], float],
        upstreams: Sequence[Upstream],
    ) -> None:
        self._desk = desk
        self._results = results
        self._mint = mint
        self._recent = recent
        self._journal = journal
        self._remains = remains
        self._now = now
        self._upstreams = {upstream.name: upstream for upstream in upstreams}

    async def explain(self, text: str) -> JsonObject:
        """How a prediction was answered, whosever it is: this is for the operator.

        Raises:
            NotFound: no prediction of that id is known here.
        """
        opened = self._mint.open(text)
        if opened is None:
            raise NotFound("that is no id of a prediction that this proxy has made")
        entry = self._recent.any_running(PredictionId(text))
        if entry is not None:
            return self._of_entry(entry, await self._openapi(entry.upstream, entry.model))
        record_id = opened.parts.record_id
        stored = await self._results.find_complete(record_id)
        record = stored or await self._remains.find(record_id)
        canceled = await self._journal.canceled(PredictionId(text))
        # Whose prediction it was only its owner can show; a number that was given anew is told by its time.
        if record is not None and opened.parts.may_name(record.created_at):
            openapi = await self._openapi(record.upstream, record.model)
            told = self._of_record(text, opened, record, openapi, is_stored=stored is not None)
            return {**told, "answered": "canceled by its client"} if canceled is not None else told
        return await self._without_record(text, opened)

    async def _openapi(self, upstream: str, model: str) -> JsonObject | None:
        """The document in which a model says which of its inputs are secret, where one is known here."""
        behind = self._upstreams.get(upstream)
        owner, _, name = model.partition("/")
        if behind is None or not name:
            return None
        try:
            return (await behind.describe(ModelTarget(owner, name), None)).openapi
        except HotplateError:
            return None

    def _of_entry(self, entry: Running, openapi: JsonObject | None) -> JsonObject:
        flight, plan = entry.flight, entry.plan
        landed = flight.landed
        if isinstance(plan, Bypass):
            answered = f"bypass: {plan.reason}"
        else:
            answered = "shared the run of another request" if entry.is_follower else "miss: it caused a run"
        told: JsonObject = {
            "id": entry.id,
            "answered": answered,
            "status": landed.outcome.status if landed is not None else "on its way",
            "upstream": entry.upstream,
            "model": entry.model,
            "deployment": entry.deployment,
            "version": entry.version,
            "scope": entry.scope.hex()[:SCOPE_DIGITS],
            "created_at": entry.created_at,
            "key": flight.key.hex() if flight.key is not None else None,
            "input": shown_input(entry.input, secret_fields(entry.input, openapi)),
            "is_stored": landed is not None and landed.is_stored,
        }
        if landed is not None and landed.record is not None:
            told |= _about_record(landed.record)
            if landed.record.input != entry.input:
                told["keyed"] = shown_input(landed.record.input, secret_fields(landed.record.input, openapi))
        if entry.member is not None:
            told["pool"] = f"{entry.member[0] + 1}/{entry.member[1]}"
        told |= self._policy_now(_policy_name(entry.model, entry.deployment))
        if entry.canceled_at is not None:
            told["status"] = "canceled by its client or its deadline"
        return told

    def _policy_now(self, name: str) -> JsonObject:
        """The policy that holds now without a profile; ``made_by`` of a result says which one held when it was made."""
        policy = self._desk.book.find(None, name) or DEFAULT_POLICY
        return {"policy_now": which_policy(self._desk.book, None, name), "mode_now": policy.mode}

    def _of_record(
        self, text: str, opened: OpenedId, record: ResultRecord, openapi: JsonObject | None, *, is_stored: bool
    ) -> JsonObject:
        created_at = opened.parts.created_at
        if created_at >= record.completed_at:
            answered = "hit"
        elif created_at - record.created_at < 0.001:  # an id holds milliseconds
            answered = "miss: it caused the run"
        else:
            answered = "shared the run of another request"
        return {
            "id": text,
            "answered": answered if any(record.key) else "bypass or not kept: its result never had a key",
            "status": "succeeded",
            "upstream": record.upstream,
            "model": record.model,
            "deployment": record.deployment,
            "version": record.version,
            "scope": record.scope.hex()[:SCOPE_DIGITS],
            "created_at": created_at,
            "key": record.key.hex() if any(record.key) else None,
            "input": shown_input(record.input, secret_fields(record.input, openapi)),
            "is_stored": is_stored,
            **_about_record(record),
            "age_then_s": max(created_at - record.completed_at, 0.0),
            "age_s": max(self._now() - record.completed_at, 0.0),
            **self._policy_now(_policy_name(record.model, record.deployment)),
        }

    async def _without_record(self, text: str, opened: OpenedId) -> JsonObject:
        scope = await self._journal.scope_of(opened.parts.record_id)
        known = await self._journal.find(PredictionId(text), opened.parts, {scope}) if scope is not None else None
        if known is None or scope is None:
            raise NotFound("no prediction of that id is known here any more")
        gone = "its result was removed or replaced" if known.is_data_removed else "its run has given no result"
        return {
            "id": text,
            "answered": gone,
            "status": known.status,
            "model": known.model,
            "deployment": known.deployment,
            "version": known.version,
            "scope": scope.hex()[:SCOPE_DIGITS],
            "created_at": known.created_at,
            "error": known.error,
            "is_stored": False,
        }


def _policy_name(model: str, deployment: str | None) -> str:
    return model if deployment is None else f"deployments/{deployment}"


def _about_record(record: ResultRecord) -> JsonObject:
    return {
        "run_created_at": record.created_at,
        "run_completed_at": record.completed_at,
        "predict_s": record.predict_s,
        "upstream_id": record.upstream_id,
        "tags": list(record.tags),
        "made_by": record.made_by,
        "output_files": [file.blob.digest.hex() for file in record.files],
    }
