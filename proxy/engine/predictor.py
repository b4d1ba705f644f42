"""The life of a prediction: looked up, led or followed, watched, cancelled, found again.

A hit is decided in this order: key, record complete in the store, caller's credential accepted. Anything less
is a miss. A miss joins the flight of its key or leads one; the flight looks into the store once more, runs the
model, takes the outputs in, stores the record last, and then everybody hears of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import orjson
import structlog

from proxy.core.errors import HotplateError, InputInvalid, Overloaded, UpstreamRefused
from proxy.core.ids import IdMint, PredictionId, new_execution_id, new_record_id
from proxy.core.keys import KeyIngredients, derive_key
from proxy.core.outputs import plan_output, substitute
from proxy.core.policy import Cached, LookupPlan, Store, is_fresh, plan_lookup, plan_store
from proxy.core.predictions import HitTemplate, Prediction
from proxy.core.schemas import normalise_input
from proxy.engine.coalescer import Coalescer, Flight, Landed
from proxy.engine.credentials import Gatekeeper
from proxy.engine.ingestor import Ingestor
from proxy.engine.journal import INTERRUPTED, Journal
from proxy.engine.recent import RecentPredictions, Running
from proxy.engine.renderer import OutputGone, Renderer
from proxy.upstreams.base import Credential, Job, ModelDescription, ModelTarget, Outcome, Progress, Upstream
from storage.digest import PredictionKey, Scope
from storage.errors import StorageError
from storage.records import JsonObject, ResultRecord
from storage.results import ResultStore

UPSTREAM_WAIT_MAX_S = 5.0
"""Longest that an upstream is asked to hold its answer to a create. A quick model then answers in one call, and
whoever joins meanwhile without wanting to wait is not held for longer."""

CLOCK_TOLERANCE_S = 3600.0
"""A result that began later than a prediction by more than this is another one that drew the same random number.
Less may be a clock that was set back; predictions so young are known by ``RecentPredictions``."""

_log = structlog.get_logger("hotplate.predictor")


@dataclass(frozen=True, slots=True)
class Create:
    """A create request, resolved: who asks what of whom.

    Attributes:
        cache_control: the request's ``Cache-Control`` header.
        wants_s: seconds for which the client waits for the answer.
    """

    upstream: Upstream
    target: ModelTarget
    given: JsonObject
    credential: Credential | None
    scope: Scope
    cache_control: str | None
    wants_s: float


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer from the store, to be stamped and sent."""

    id: PredictionId
    record: ResultRecord
    template: HitTemplate
    input_json: bytes
    created_at: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known before any look-up: the model, what will be sent, and the key unless the cache is bypassed."""

    described: ModelDescription
    plan: LookupPlan
    sent: JsonObject
    key_input: JsonObject
    key: PredictionKey | None


RunObserver = Callable[[str, Outcome], None]
"""Told the upstream's name and the end of each run."""


class Predictor:
    """Everything that a prediction can go through, for all upstreams alike."""

    def __init__(
        self,
        *,
        results: ResultStore,
        coalescer: Coalescer,
        ingestor: Ingestor,
        renderer: Renderer,
        gatekeeper: Gatekeeper,
        mint: IdMint,
        recent: RecentPredictions,
        journal: Journal,
        cache_enabled: bool,
        observe_run: RunObserver,
        now: Callable[[], float],
    ) -> None:
        self._results = results
        self._coalescer = coalescer
        self._ingestor = ingestor
        self._renderer = renderer
        self._gatekeeper = gatekeeper
        self._mint = mint
        self._recent = recent
        self._journal = journal
        self._cache_enabled = cache_enabled
        self._observe_run = observe_run
        self._now = now

    async def prepare(self, create: Create) -> Prepared:
        """Describe the model, normalise the input, derive the key.

        Raises:
            InputInvalid: an upstream without validation of its own would be sent nonsense.
            NotFound, UpstreamUnavailable, UpstreamTimeout: see ``Upstream.describe``.
        """
        upstream = create.upstream
        described = await upstream.describe(create.target, create.credential)
        sent = key_input = create.given
        if described.schema is not None:
            if upstream.kind == "replicate":
                # The upstream validates for itself and may be laxer than the schema: what does not fit is
                # sent as it is and keyed as it is.
                try:
                    key_input = normalise_input(described.schema, create.given, unknown="keep")
                except InputInvalid:
                    key_input = create.given
            else:
                sent = key_input = normalise_input(described.schema, create.given, unknown="drop")
        plan = plan_lookup(enabled=self._cache_enabled, cache_control=create.cache_control, given=create.given)
        key = None
        if isinstance(plan, Cached):
            # A version of a Replicate API names its model by itself, and a request may give the version alone.
            model = "" if upstream.kind == "replicate" and described.is_pinned else described.model
            key = derive_key(KeyIngredients(create.scope, upstream.name, model, described.version, key_input))
        return Prepared(described, plan, sent, key_input, key)

    async def create(self, create: Create) -> Hit | Running:
        """Answer a create request from the store, or make or join a run.

        Raises:
            HotplateError: whatever ``prepare`` raises, or the upstream refused the run.
        """
        prepared = await self.prepare(create)
        if prepared.key is not None and isinstance(prepared.plan, Cached) and prepared.plan.may_look_up:
            hit = await self._look_up(create, prepared)
            if hit is not None:
                return hit
        now = self._now()
        flight, is_follower = self._join_or_lead(create, prepared, now)
        try:
            await flight.accepted()
        except UpstreamRefused as error:
            if error.status in (401, 403):
                self._gatekeeper.refuse(create.scope)
            raise
        entry = Running(
            # Made only now: a flight that found the result inside has taken over the id of its record.
            id=self._mint.mint(flight.record_id, create.scope, now),
            scope=create.scope,
            model=prepared.described.model,
            version=prepared.described.version,
            input=create.given,
            input_bytes=len(orjson.dumps(create.given)),
            created_at=now,
            flight=flight,
            plan=prepared.plan,
            is_follower=is_follower,
        )
        self._recent.add(entry)
        return entry

    async def _look_up(self, create: Create, prepared: Prepared) -> Hit | None:
        assert prepared.key is not None
        record = self._results.peek(prepared.key) or await self._results.get_complete(prepared.key)
        now = self._now()
        if record is None or record.scope != create.scope:
            return None
        if not is_fresh(record.completed_at, is_pinned=prepared.described.is_pinned, now=now):
            return None
        gate = self._gatekeeper
        if not gate.is_accepted_now(create.upstream, create.scope) and not await gate.is_accepted(
            create.upstream, create.credential, create.scope
        ):
            return None
        template = self._renderer.ready(record)
        if template is None:
            try:
                template = await self._renderer.template(record)
            except OutputGone:
                return None
        prediction_id = self._mint.mint(record.record_id, create.scope, now)
        input_json = orjson.dumps(create.given)
        self._recent.add_served(prediction_id, create.scope, input_json, now)
        return Hit(prediction_id, record, template, input_json, now)

    def _join_or_lead(self, create: Create, prepared: Prepared, now: float) -> tuple[Flight, bool]:
        """The flight that will answer, and whether another request caused it. No await: one step, nothing between."""
        is_shared = isinstance(prepared.plan, Cached) and prepared.plan.may_look_up
        flight = self._coalescer.find(prepared.key) if prepared.key is not None and is_shared else None
        is_follower = flight is not None
        if flight is None:
            flight = Flight(new_record_id(), prepared.key if is_shared else None, now)
            self._coalescer.lead(flight, lambda flight: self._fly(flight, create, prepared))
        flight.sharers += 1
        return flight, is_follower

    async def _fly(self, flight: Flight, create: Create, prepared: Prepared) -> None:
        """The work of a flight; always ends in ``land`` or ``refuse``."""
        try:
            landed = await self._run(flight, create, prepared)
        except asyncio.CancelledError:
            if flight.sharers <= 0:
                landed = self._ended_badly(flight, "canceled", None)
            elif flight.was_accepted:
                # Nobody has cancelled, the proxy is stopping: clients would take "canceled" for their own wish.
                landed = self._ended_badly(flight, "failed", INTERRUPTED)
            else:
                flight.refuse(Overloaded("the proxy is stopping", retry_after_s=1.0))
                return
        except HotplateError as error:
            if not flight.was_accepted:
                flight.refuse(error)
                return
            landed = self._ended_badly(flight, "failed", error.detail)
        except Exception as error:
            _log.exception("run_broke")
            if not flight.was_accepted:
                flight.refuse(HotplateError("the proxy failed while it asked the model service"))
                return
            landed = self._ended_badly(flight, "failed", f"the proxy failed: {type(error).__name__}")
        flight.land(landed)
        self._journal.ended(
            flight.record_id, create.scope, prepared.described, flight.started_at, landed.outcome, landed.is_stored
        )

    async def _run(self, flight: Flight, create: Create, prepared: Prepared) -> Landed:
        if flight.key is not None:
            stored = await self._look_up_inside(flight.key, create, prepared)
            if stored is not None:
                flight.record_id = stored.record_id
                return self._found_inside(stored)
        # Ids of predictions outlive what they name, so a number that names a live result is not given to another run.
        while await self._results.find_complete(flight.record_id) is not None:
            flight.record_id = new_record_id()
        job = Job(
            id=new_execution_id(),
            target=create.target,
            version=prepared.described.version,
            input=prepared.sent,
            credential=create.credential,
            wants_s=min(create.wants_s, UPSTREAM_WAIT_MAX_S),
        )

        def report(progress: Progress) -> None:
            if not flight.was_accepted:
                self._gatekeeper.accept(create.scope)
                self._journal.started(flight.record_id, create.scope, prepared.described, flight.started_at)
            flight.report(progress)

        outcome = await create.upstream.run(job, report)
        self._observe_run(create.upstream.name, outcome)
        if outcome.status != "succeeded":
            return Landed(replace(outcome, output=None), None, is_stored=False)
        return await self._take_in(flight, create, prepared, outcome)

    async def _look_up_inside(self, key: PredictionKey, create: Create, prepared: Prepared) -> ResultRecord | None:
        """What another flight has stored between this request's look-up and its entry in the table.

        It is a hit, so it needs what a hit needs: a request that came here because nobody could be asked about its
        credential, or because a file of the result was gone, gets no hit by this way either.
        """
        record = await self._results.get_complete(key)
        if record is None or record.scope != create.scope:
            return None
        if not is_fresh(record.completed_at, is_pinned=prepared.described.is_pinned, now=self._now()):
            return None
        if not self._gatekeeper.is_accepted_now(create.upstream, create.scope):
            return None
        try:
            await self._renderer.template(record)
        except OutputGone:
            return None
        return record

    async def _take_in(self, flight: Flight, create: Create, prepared: Prepared, outcome: Outcome) -> Landed:
        """Store what a successful run gave: blobs first, record last."""
        access = create.upstream.output_access
        files = plan_output(outcome.output, access)
        wants_store = isinstance(prepared.plan, Cached) and not files.foreign
        ingested = await self._ingestor.ingest(files, access, keep=wants_store)
        record = ResultRecord(
            record_id=flight.record_id,
            key=prepared.key or PredictionKey(bytes(32)),
            scope=create.scope,
            upstream=create.upstream.name,
            model=prepared.described.model,
            version=prepared.described.version,
            input=prepared.key_input,
            output=substitute(outcome.output, [(file.path, None) for file in ingested.files]),
            files=ingested.files,
            logs=outcome.logs,
            metrics=outcome.metrics,
            created_at=flight.started_at,
            started_at=outcome.started_at,
            completed_at=outcome.completed_at,
            boot_s=outcome.boot_s,
            upstream_id=outcome.upstream_id,
        )
        stored_files = len(ingested.files) if ingested.are_stored else 0
        decision = plan_store(prepared.plan, outcome.status, files, stored_files)
        is_stored = False
        if isinstance(decision, Store):
            try:
                await self._results.put(record)
                is_stored = True
            except StorageError as error:
                _log.warning("result_not_stored", reason=type(error).__name__, detail=str(error))
        left = tuple((file.path, file.url) for file in ingested.left)
        # Files may stand in the output as megabytes of base64, and a flight is remembered for an hour.
        return Landed(replace(outcome, output=None), record, is_stored, left)

    def _found_inside(self, record: ResultRecord) -> Landed:
        outcome = Outcome(
            status="succeeded",
            output=None,
            error=None,
            logs=record.logs,
            metrics=record.metrics,
            started_at=record.started_at,
            completed_at=record.completed_at,
            upstream_id=record.upstream_id,
        )
        return Landed(outcome, record, is_stored=True)

    def _ended_badly(self, flight: Flight, status: Literal["failed", "canceled"], error: str | None) -> Landed:
        now = self._now()
        progress = flight.progress
        outcome = Outcome(
            status=status,
            output=None,
            error=error,
            logs=progress.logs if progress else "",
            metrics={},
            started_at=progress.at if progress else now,
            completed_at=now,
            upstream_id=progress.upstream_id if progress else None,
        )
        return Landed(outcome, None, is_stored=False)

    # -- predictions that exist ------------------------------------------------------------------------

    def is_own(self, prediction_id: str, scope: Scope) -> bool:
        """Whether an id was made here for ``scope``; says nothing of what has become of it."""
        return self._mint.read(prediction_id, scope) is not None

    async def find(self, prediction_id: str, scope: Scope) -> Prediction | None:
        """The prediction as it is now, or ``None`` when this scope has none of that id here."""
        entry = self._recent.running(prediction_id, scope)
        if entry is not None:
            return await self.view(entry)
        parts = self._mint.read(prediction_id, scope)
        if parts is None:
            return None
        own_id = PredictionId(prediction_id)
        canceled = await self._journal.canceled(own_id)
        if canceled is not None:
            return canceled
        record = await self._results.find_complete(parts.record_id)
        if record is None or record.scope != scope or parts.created_at < record.created_at - CLOCK_TOLERANCE_S:
            return await self._journal.find(own_id, parts, scope)
        shared_the_run = parts.created_at < record.completed_at
        try:
            output = await self._renderer.output(record)
        except OutputGone:
            return await self._journal.find(own_id, parts, scope)
        own_input = self._recent.served_input(prediction_id, scope)
        return Prediction(
            id=own_id,
            model=record.model,
            version=record.version,
            input=own_input if own_input is not None else record.input,
            status="succeeded",
            created_at=parts.created_at,
            started_at=max(record.started_at, parts.created_at) if shared_the_run else parts.created_at,
            completed_at=record.completed_at if shared_the_run else parts.created_at,
            output=output,
            logs=record.logs,
            metrics=record.metrics,
        )

    async def view(self, entry: Running) -> Prediction:
        """A prediction that made or shares a run, as it is now."""
        flight, progress = entry.flight, entry.flight.progress
        base = Prediction(
            id=entry.id,
            model=entry.model,
            version=entry.version,
            input=entry.input,
            status="starting",
            created_at=entry.created_at,
            web_url=progress.web_url if progress else None,
            logs=progress.logs if progress else "",
        )
        if entry.canceled_at is not None:
            return replace(base, status="canceled", completed_at=entry.canceled_at, started_at=entry.created_at)
        landed = flight.landed
        if landed is None:
            if progress is None or progress.status == "starting":
                return base
            return replace(base, status="processing", started_at=max(progress.at, entry.created_at))
        outcome, output, is_removed = landed.outcome, None, False
        if landed.record is not None:
            try:
                output = await self._renderer.output(landed.record, landed.left_urls)
            except OutputGone:
                is_removed = True
        return replace(
            base,
            status=outcome.status,
            output=output,
            is_data_removed=is_removed,
            error=outcome.error,
            logs=outcome.logs,
            metrics=outcome.metrics,
            started_at=max(outcome.started_at, entry.created_at),
            completed_at=max(outcome.completed_at, entry.created_at),
        )

    async def cancel(self, prediction_id: str, scope: Scope) -> Prediction | None:
        """Cancel one prediction; the run goes on while another client shares it. Ended ones stay as they are."""
        entry = self._recent.running(prediction_id, scope)
        if entry is not None and entry.flight.landed is None and entry.canceled_at is None:
            entry.canceled_at = self._now()
            self._coalescer.leave(entry.flight)
            canceled = await self.view(entry)
            self._journal.cancel(canceled)
            return canceled
        return await self.find(prediction_id, scope)

    def links(self, record: ResultRecord) -> str:
        """The ``Link`` header of a result."""
        return self._renderer.links(record)
