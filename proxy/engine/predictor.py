"""The life of a prediction: looked up, led or followed, watched, cancelled, found again.

A hit is decided in this order: key, record complete in the store, caller's credential accepted. Anything less
is a miss. A miss joins the flight of its key or leads one; the flight looks into the store once more, runs the
model, takes the outputs in, stores the record last, and then everybody hears of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import orjson

from proxy.core.errors import InputInvalid, UpstreamRefused
from proxy.core.ids import CLOCK_TOLERANCE_S, IdMint, IdParts, PredictionId
from proxy.core.keys import KeyIngredients, derive_key
from proxy.core.outputs import substitute
from proxy.core.policy import Bypass, Cached, plan_lookup
from proxy.core.predictions import HitTemplate, Prediction, known_end
from proxy.core.schemas import normalise_input
from proxy.core.webhooks import Told, WebhookRequest
from proxy.engine.coalescer import Coalescer, Flight
from proxy.engine.credentials import Gatekeeper
from proxy.engine.file_inputs import FileInputs
from proxy.engine.history import History, Label
from proxy.engine.journal import Journal
from proxy.engine.notices import NOTHING_TOLD, Notices
from proxy.engine.ongoing import Ongoing, OngoingPrediction
from proxy.engine.recent import RecentPredictions, Running
from proxy.engine.remains import Remains
from proxy.engine.renderer import OutputGone, Renderer
from proxy.engine.runs import Create, Prepared, Runs
from proxy.engine.streams import Streams
from proxy.upstreams.base import DEPLOYMENTS, HIDDEN, ModelDescription
from storage.digest import Digest, PredictionKey, Scope
from storage.records import JsonObject, JsonPath, JsonValue, ResultRecord
from storage.results import ResultStore

FOLLOWER_PATIENCE_S = 0.5
"""How long a request that joins a run waits to hear whether the upstream takes it: it validates at once, and may hold
its answer for the one who leads."""

WRITE_WAIT_S = 2.0
"""Longest that an answer waits for the row without which another process would not know its prediction. A row takes
milliseconds; a disk that takes longer is not to hold what the model is paid for already."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer from the store, to be stamped and sent."""

    id: PredictionId
    record: ResultRecord
    template: HitTemplate
    input_json: bytes
    created_at: float


class Predictor:
    """Everything that a prediction can go through, for all upstreams alike."""

    def __init__(
        self,
        *,
        results: ResultStore,
        coalescer: Coalescer,
        runs: Runs,
        renderer: Renderer,
        file_inputs: FileInputs,
        gatekeeper: Gatekeeper,
        mint: IdMint,
        recent: RecentPredictions,
        journal: Journal,
        ongoing: Ongoing,
        history: History,
        remains: Remains,
        streams: Streams,
        notices: Notices,
        cache_enabled: bool,
        now: Callable[[], float],
    ) -> None:
        self._results = results
        self._runs = runs
        self._coalescer = coalescer
        self._renderer = renderer
        self._gatekeeper = gatekeeper
        self._file_inputs = file_inputs
        self._mint = mint
        self._recent = recent
        self._journal = journal
        self._ongoing = ongoing
        self._history = history
        self._remains = remains
        self._streams = streams
        self._notices = notices
        self._cache_enabled = cache_enabled
        self._now = now
        self._timers: dict[PredictionId, asyncio.TimerHandle] = {}

    async def prepare(self, create: Create) -> Prepared:
        """Describe the model, normalise the input, identify its files, derive the key.

        Raises:
            InputInvalid: an upstream without validation of its own would be sent nonsense.
            UpstreamRefused: the upstream refuses the credential with which a file was to be fetched.
            NotFound, UpstreamUnavailable, UpstreamTimeout: see ``Upstream.describe``.
        """
        upstream = create.upstream
        plan = plan_lookup(enabled=self._cache_enabled, cache_control=create.cache_control)
        described = await upstream.describe(create.target, create.credential)
        is_learnable = described.schema is None and described.is_pinned and isinstance(plan, Cached)
        # What is learned now is known at the next request, too: both are to have one key.
        if is_learnable and await self._file_inputs.learn(create, create.given):
            described = await upstream.describe(create.target, create.credential)
        if create.target.is_deployment:
            described = replace(described, deployment=create.target.model)
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
        given = sent if sent is create.given else {name: sent[name] for name in create.given if name in sent}
        identified = await self._file_inputs.identify(
            create, given, key_input, described.schema, wants_key=isinstance(plan, Cached)
        )
        if identified.bypass is not None:
            plan = Bypass(identified.bypass)
        key = None
        if isinstance(plan, Cached):
            key = _derive(create, described, identified.key_input, identified.files)
        return Prepared(described, plan, sent, identified.shown, key, identified)

    async def create(self, create: Create) -> Hit | Running:
        """Answer a create request from the store, or make or join a run.

        Raises:
            HotplateError: whatever ``prepare`` raises, or the upstream refused the run.
        """
        prepared = await self.prepare(create)
        former_key = None
        if prepared.key is not None and isinstance(prepared.plan, Cached) and prepared.plan.may_look_up:
            hit = await self._look_up(create, prepared, prepared.key)
            if hit is None:
                former_key = _derive_former(create, prepared)
                hit = await self._look_up(create, prepared, former_key) if former_key is not None else None
            if hit is not None:
                if create.webhook is not None:
                    # Before the answer: once that is out, nobody would ask again for what was not written.
                    served = await self.find(hit.id, create.scope)
                    if served is not None:
                        await self._notices.served(served, create.webhook, create.upstream.name, create.scope)
                return hit
        now = self._now()
        flight, is_follower = self._join_or_lead(create, prepared, former_key, now)
        try:
            if is_follower:
                await flight.accepted_soon(max(create.wants_s, FOLLOWER_PATIENCE_S))
            else:
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
            upstream=create.upstream.name,
            webhook=create.webhook,
            deadline_at=now + create.deadline_s if create.deadline_s is not None else None,
            deployment=prepared.described.deployment,
        )
        noted = self._ongoing.joined(_noted(entry)) if not flight.has_ended else None
        await self.attend(entry, NOTHING_TOLD)
        if noted is not None:
            # Before the answer, and the rows of its run before this one: whoever is told an id is told the end of it.
            await _written(noted, None if create.webhook is not None else WRITE_WAIT_S)
        return entry

    async def attend(self, entry: Running, told: Told) -> None:
        """Remember a prediction, and see to its deadline, its webhook (which has been ``told``) and its end."""
        self._recent.add(entry)
        self._list(entry)
        if not entry.has_ended and entry.deadline_at is not None:
            left_s = max(entry.deadline_at - self._now(), 0.0)
            self._timers[entry.id] = asyncio.get_running_loop().call_later(left_s, self._expire, entry)
        if entry.webhook is not None:
            settle, view = partial(self._settle, entry), partial(self.view, entry)
            await self._notices.follow(entry, entry.webhook, entry.upstream, view, settle, told)
        elif entry.flight.has_ended:
            self._settle(entry)
        else:
            entry.flight.listen(lambda flight: self._settle(entry) if flight.has_ended else None)
        needs_start = entry.deadline_at is not None or (entry.webhook is not None and "start" in entry.webhook.events)
        if needs_start and not told.has_start:
            self._note_start(entry)

    def _note_start(self, entry: Running) -> None:
        """Write down that a prediction's run has started, now or once it has.

        In the next process it then ends as ``canceled`` by its deadline and no more as ``aborted``, and its webhook is
        not told the start again.
        """
        is_noted = False

        def look(flight: Flight) -> None:
            nonlocal is_noted
            has_started = flight.progress is not None and flight.progress.status == "processing"
            if has_started and not is_noted and not entry.has_ended:
                is_noted = True
                self._ongoing.joined(replace(_noted(entry), has_started=True))

        entry.flight.listen(look)
        look(entry.flight)

    def _list(self, entry: Running) -> None:
        """Put a prediction on its scope's list. The one that caused the run stands for the upstream's own there."""
        progress = entry.flight.progress
        label = Label((progress.model if progress else None) or entry.model, entry.version, entry.deployment)
        upstream_id = progress.upstream_id if progress is not None and not entry.is_follower else None
        self._history.add(entry.scope, entry.id, entry.created_at, label, upstream_id)

    async def conclude(self, one: OngoingPrediction) -> None:
        """Settle a prediction of a former process whose run has ended, or was lost with it."""
        prediction = await self.find(one.id, one.scope) if one.webhook is not None else None
        if prediction is not None and one.webhook is not None:
            end_alone = WebhookRequest(one.webhook.url, one.webhook.events & {"completed"})
            await self._notices.served(prediction, end_alone, one.upstream, one.scope)
        self._ongoing.settled(one.id)

    def _settle(self, entry: Running) -> None:
        """The prediction is over, and whoever is to be told will be."""
        timer = self._timers.pop(entry.id, None)
        if timer is not None:
            timer.cancel()
        self._ongoing.settled(entry.id)

    def _expire(self, entry: Running) -> None:
        """Its deadline is over. Source: ``Cancel-After`` in Replicate's OpenAPI document."""
        if not entry.has_ended:
            progress = entry.flight.progress
            entry.is_aborted = progress is None or progress.status == "starting"
            self._cancel(entry)

    async def _look_up(self, create: Create, prepared: Prepared, key: PredictionKey) -> Hit | None:
        record = await self._runs.find_fresh(key, create, prepared)
        if record is None:
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
        now = self._now()
        prediction_id = self._mint.mint(record.record_id, create.scope, now)
        input_json = orjson.dumps(create.given)
        self._recent.add_served(prediction_id, create.scope, input_json, now)
        label = Label(record.model, record.version, record.deployment)
        self._history.add(create.scope, prediction_id, now, label)
        return Hit(prediction_id, record, template, input_json, now)

    def _join_or_lead(
        self, create: Create, prepared: Prepared, former_key: PredictionKey | None, now: float
    ) -> tuple[Flight, bool]:
        """The flight that will answer, and whether another request caused it. No await: one step, nothing between."""
        is_shared = isinstance(prepared.plan, Cached) and prepared.plan.may_look_up
        flight = self._coalescer.find(prepared.key) if prepared.key is not None and is_shared else None
        if flight is None and former_key is not None:
            flight = self._coalescer.find(former_key)
        is_follower = flight is not None
        if flight is None:
            flight = self._runs.plan_flight(prepared.key if is_shared else None, now)
            self._coalescer.lead(flight, lambda flight: self._runs.fly(flight, create, prepared))
        flight.sharers += 1
        return flight, is_follower

    # -- predictions that exist ------------------------------------------------------------------------

    def is_own(self, prediction_id: str, scope: Scope) -> bool:
        """Whether an id was made here for ``scope``; says nothing of what has become of it."""
        return self._mint.read(prediction_id, scope) is not None

    async def find(self, prediction_id: str, scope: Scope, *, in_list: bool = False) -> Prediction | None:
        """The prediction as it is now, or ``None`` when this scope has none of that id here.

        ``in_list`` shows files as addresses, since many predictions make up one answer then. One of which nothing is
        left but its id is shown as Replicate shows one whose data were removed.
        """
        entry = self._recent.running(prediction_id, scope)
        if entry is not None:
            return await self.view(entry, in_list=in_list)
        parts = self._mint.read(prediction_id, scope)
        if parts is None or parts.created_at > self._now() + CLOCK_TOLERANCE_S:
            return None
        own_id = PredictionId(prediction_id)
        canceled = await self._journal.canceled(own_id)
        if canceled is not None:
            return canceled
        record = await self._results.find_complete(parts.record_id) or await self._remains.find(parts.record_id)
        if record is None or record.scope != scope or not parts.may_name(record.created_at):
            return await self._without_result(own_id, parts, scope)
        shared_the_run = parts.created_at < record.completed_at
        try:
            output = await self._renderer.output(record, as_addresses=in_list)
        except OutputGone:
            return await self._without_result(own_id, parts, scope)
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
            deployment=record.deployment,
            stream_url=self._renderer.record_stream_url(own_id, record),
        )

    async def _without_result(self, prediction_id: PredictionId, parts: IdParts, scope: Scope) -> Prediction:
        found = await self._journal.find(prediction_id, parts, scope)
        if found is not None:
            return found
        entry = await self._history.find(scope, prediction_id)
        label = entry.label if entry is not None else Label("", HIDDEN)
        return Prediction(
            id=prediction_id,
            model=label.model,
            version=label.version,
            input={},
            status="succeeded",
            created_at=parts.created_at,
            started_at=parts.created_at,
            completed_at=parts.created_at,
            is_data_removed=True,
            deployment=label.deployment,
        )

    async def view(self, entry: Running, *, in_list: bool = False) -> Prediction:
        """A prediction that made or shares a run, as it is now."""
        flight, progress = entry.flight, entry.flight.progress
        stream_url = self._streams.url(entry)
        if entry.canceled_at is not None:
            return replace(_as_canceled(entry), stream_url=stream_url)
        base = replace(_as_begun(entry), stream_url=stream_url)
        landed = flight.landed
        if landed is None:
            if progress is None or progress.status == "starting":
                return base
            started_at = max(progress.at, entry.created_at)
            output = await self._output_so_far(entry, in_list=in_list)
            return replace(base, status="processing", started_at=started_at, output=output)
        outcome, output, is_removed = landed.outcome, None, False
        if landed.record is not None:
            base = replace(base, model=landed.record.model)
            try:
                output = await self._renderer.output(landed.record, landed.left_urls, as_addresses=in_list)
            except OutputGone:
                is_removed = True
        return replace(
            base,
            status=known_end(outcome.status) if entry.deadline_at is None else outcome.status,
            output=output,
            is_data_removed=is_removed,
            error=outcome.error,
            logs=outcome.logs,
            metrics=outcome.metrics,
            started_at=max(outcome.started_at, entry.created_at),
            completed_at=max(outcome.completed_at, entry.created_at),
        )

    async def _output_so_far(self, entry: Running, *, in_list: bool) -> JsonValue:
        """As far as it can be shown; ``None`` while nothing can."""
        partials = entry.flight.partials
        if partials is None:
            return None
        output, files = partials.shown()
        try:
            return await self._renderer.fill(output, files, entry.scope, as_addresses=in_list)
        except OutputGone:
            return None

    async def cancel(self, prediction_id: str, scope: Scope) -> Prediction | None:
        """Cancel one prediction; the run goes on while another client shares it. Ended ones stay as they are."""
        entry = self._recent.running(prediction_id, scope)
        if entry is not None and not entry.has_ended:
            await _written(self._cancel(entry), WRITE_WAIT_S)
            return await self.view(entry)
        return await self.find(prediction_id, scope)

    def _cancel(self, entry: Running) -> asyncio.Task[bool]:
        """End one prediction before its run; the task ends when that is written."""
        entry.cancel(self._now())
        self._coalescer.leave(entry.flight)
        if entry.flight.sharers <= 0:
            self._ongoing.run_unwanted(entry.flight.record_id)
        noted = self._journal.cancel(_as_canceled(entry))
        if entry.webhook is not None:
            self._notices.changed(entry)
        else:
            self._settle(entry)
        return noted

    def links(self, record: ResultRecord) -> str:
        """The ``Link`` header of a result."""
        return self._renderer.links(record)


def _derive(
    create: Create, described: ModelDescription, given: JsonObject, files: tuple[tuple[JsonPath, Digest], ...]
) -> PredictionKey:
    """The key of a request for the model ``described``."""
    # A version of a Replicate API names its model by itself, and a request may give the version alone.
    model = "" if create.upstream.kind == "replicate" and described.is_pinned else described.model
    if described.deployment is not None:
        model = f"{DEPLOYMENTS}{described.deployment}"
    return derive_key(KeyIngredients(create.scope, create.upstream.name, model, described.version, given, files))


def _derive_former(create: Create, prepared: Prepared) -> PredictionKey | None:
    """The key that this very request had while the schema of its version was not known; ``None`` if it is the same.

    A client may ask for a version's schema after its first run: its second one must not miss for that.
    """
    if create.upstream.kind != "replicate" or prepared.described.schema is None:
        return None
    files = prepared.identified.files
    key = _derive(create, prepared.described, substitute(create.given, [(path, None) for path, _ in files]), files)
    return key if key != prepared.key else None


async def _written(row: asyncio.Task[bool], timeout_s: float | None) -> None:
    """Wait until a row is written, or cannot be; that goes on when whoever waits is cancelled."""
    await asyncio.wait({row}, timeout=timeout_s)


def _as_begun(entry: Running) -> Prediction:
    """A prediction whose run has not started, with what is known of it."""
    progress = entry.flight.progress
    return Prediction(
        id=entry.id,
        model=(progress.model if progress else None) or entry.model,
        version=entry.version,
        input=entry.input,
        status="starting",
        created_at=entry.created_at,
        deadline_at=entry.deadline_at,
        web_url=progress.web_url if progress else None,
        logs=progress.logs if progress else "",
        deployment=entry.deployment,
    )


def _as_canceled(entry: Running) -> Prediction:
    """A prediction that was over before its run."""
    return replace(
        _as_begun(entry),
        status="aborted" if entry.is_aborted else "canceled",
        started_at=None if entry.is_aborted else entry.created_at,
        completed_at=entry.canceled_at,
    )


def _noted(entry: Running) -> OngoingPrediction:
    """A prediction as it is written down while it waits."""
    return OngoingPrediction(
        id=entry.id,
        record_id=entry.flight.record_id,
        scope=entry.scope,
        upstream=entry.upstream,
        created_at=entry.created_at,
        is_follower=entry.is_follower,
        deadline_at=entry.deadline_at,
        webhook=entry.webhook,
    )
