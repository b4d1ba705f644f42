"""The work of a flight: look once more, run the model, take the outputs in, store the record last.

Whatever happens inside, a flight ends in ``land``, ``refuse`` or ``set_aside``, so that nobody waits for ever.

A run that was taken by its upstream is written down. When this process ends before the run does, another takes it up:
where the run goes on by itself (Replicate's API) it is followed to its end, elsewhere (Cog) it is run once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import structlog

from proxy.core.controls import NO_CONTROLS, Controls
from proxy.core.errors import HotplateError, Overloaded, UpstreamRefused
from proxy.core.ids import new_execution_id, new_record_id
from proxy.core.outputs import plan_output, substitute
from proxy.core.policy import (
    DEFAULT_POLICY,
    Bypass,
    Grade,
    LookupPlan,
    Policy,
    Store,
    circumstances,
    grade,
    keeps,
    may_keep_text,
    plan_store,
)
from proxy.core.purging import PurgeLog, Subject, names_of, subject_of
from proxy.core.schemas import output_makes_files
from proxy.core.webhooks import WebhookRequest
from proxy.engine.books import Books
from proxy.engine.coalescer import Flight, Landed
from proxy.engine.credentials import Gatekeeper
from proxy.engine.file_inputs import FileInputs, Identified
from proxy.engine.hub import Source
from proxy.engine.ingestor import Ingestor
from proxy.engine.journal import Journal
from proxy.engine.ongoing import Ongoing, OngoingRun
from proxy.engine.partials import Partials
from proxy.engine.remains import Remains
from proxy.engine.renderer import OutputGone, Renderer
from proxy.engine.streams import Streams
from proxy.upstreams.base import Credential, Job, ModelDescription, ModelTarget, Outcome, Progress, Upstream
from storage.digest import PredictionKey, RecordId, Scope
from storage.errors import StorageError
from storage.records import JsonObject, ResultRecord
from storage.results import ResultStore

UPSTREAM_WAIT_MAX_S = 5.0
"""Longest that an upstream is asked to hold its answer to a create. A quick model then answers in one call, and
whoever joins meanwhile without wanting to wait is not held for longer."""

_log = structlog.get_logger("hotplate.runs")


@dataclass(frozen=True, slots=True)
class Create:
    """A create request, resolved: who asks what of whom.

    Attributes:
        scope: whose prediction it is.
        controls: how it wants to use the cache.
        wants_s: seconds for which the client waits for the answer.
        webhook: where news of the prediction shall go.
        deadline_s: seconds after which the prediction is to be cancelled, for this client alone.
    """

    upstream: Upstream
    target: ModelTarget
    given: JsonObject
    credential: Credential | None
    scope: Scope
    wants_s: float
    controls: Controls = NO_CONTROLS
    webhook: WebhookRequest | None = None
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known before any look-up: the model, the input, and the key unless the cache is bypassed.

    Attributes:
        sent: what will be sent, but for files that the upstream cannot read where they are.
        key_input: what is keyed, as it will be stored and shown: files that were given as data left out.
        key: of the first member of a pool; of the member that is made, once that is settled.
        results_scope: whose results may answer it, and who may get its own.
        identified: the files of the input; nothing for a run that a former process began.
        policy: the one that held when the request came.
        controls: what the policy leaves of the request's wishes.
        made_by: see ``circumstances``, for a run that a former process began.
    """

    described: ModelDescription
    plan: LookupPlan
    sent: JsonObject
    key_input: JsonObject
    key: PredictionKey | None
    results_scope: Scope
    identified: Identified = field(default_factory=Identified)
    policy: Policy = DEFAULT_POLICY
    controls: Controls = NO_CONTROLS
    made_by: JsonObject | None = None

    @property
    def circumstances(self) -> JsonObject:
        """By which rules and wishes its result is made."""
        return self.made_by or circumstances(self.policy, self.controls, self.plan)


@dataclass(frozen=True, slots=True)
class TakenUp:
    """A run that a former process began.

    Attributes:
        upstream_id: its id at the upstream.
        job_id: the execution id that it was given.
        repeats: how many times it was run once more already.
    """

    upstream_id: str
    job_id: str
    repeats: int


RunObserver = Callable[[str, Outcome], None]
"""Told the upstream's name and the end of each run."""


class Runs:
    """Carries flights out. Keeps nothing between them."""

    def __init__(
        self,
        *,
        results: ResultStore,
        ingestor: Ingestor,
        renderer: Renderer,
        file_inputs: FileInputs,
        gatekeeper: Gatekeeper,
        journal: Journal,
        ongoing: Ongoing,
        remains: Remains,
        streams: Streams,
        purges: PurgeLog,
        observe_run: RunObserver,
        books: Books,
        now: Callable[[], float],
    ) -> None:
        self._purges = purges
        self._results = results
        self._ingestor = ingestor
        self._renderer = renderer
        self._file_inputs = file_inputs
        self._gatekeeper = gatekeeper
        self._journal = journal
        self._ongoing = ongoing
        self._remains = remains
        self._streams = streams
        self._observe_run = observe_run
        self._books = books
        self._now = now

    def plan_flight(
        self, key: PredictionKey | None, at: float, record_id: RecordId | None = None, *, is_refresh: bool = False
    ) -> Flight:
        """A flight to be carried out by ``fly``; without a key nobody can join it. ``at`` in epoch seconds.

        ``record_id``: of a run that was begun before. ``is_refresh``: it runs although there may be a result.
        """
        return Flight(new_record_id() if record_id is None else record_id, key, at, is_refresh=is_refresh)

    async def find(self, key: PredictionKey, create: Create, prepared: Prepared) -> tuple[ResultRecord, Grade] | None:
        """The stored result under ``key``, if it is complete and this caller's, and what it is good for."""
        record = self._results.peek(key) or await self._results.get_complete(key)
        if record is None or record.scope != prepared.results_scope:
            return None
        age_s = self._now() - record.completed_at
        is_pinned = prepared.described.is_pinned
        return record, grade(age_s, prepared.policy, prepared.controls.directives, is_pinned=is_pinned)

    async def fly(self, flight: Flight, create: Create, prepared: Prepared, taken_up: TakenUp | None = None) -> None:
        """The work of a flight; always ends in ``land``, ``refuse`` or ``set_aside``."""
        makes_files = output_makes_files(prepared.described.openapi)
        is_kept = keeps(prepared.plan)
        self._streams.expect(flight, Source(create.upstream, create.credential, is_kept, makes_files))
        try:
            landed = await self._run(flight, create, prepared, taken_up)
        except asyncio.CancelledError:
            if flight.sharers <= 0 and self._is_left_to_the_next(flight, create):
                flight.set_aside()
                return
            if flight.sharers <= 0:
                landed = self._ended_badly(flight, "canceled", None)
            elif flight.was_accepted:
                # Nobody has cancelled, the proxy is stopping; the next one takes the run up.
                flight.set_aside()
                return
            else:
                flight.refuse(Overloaded("the proxy is stopping", retry_after_s=1.0))
                flight.set_aside()
                return
        except Exception as error:
            if not isinstance(error, HotplateError):
                _log.exception("run_broke")
                error = HotplateError(f"the proxy failed while it asked the model service: {type(error).__name__}")
            if isinstance(error, UpstreamRefused) and error.status in (401, 403):
                # Here, since nobody waits for a run behind an answer.
                self._gatekeeper.refuse(create.upstream, create.credential)
            if not flight.was_accepted:
                flight.refuse(error)
                if not flight.was_answered_early:
                    return
            landed = self._ended_badly(flight, "failed", error.detail)
        flight.land(landed)
        self._books.landed(create.upstream.name, prepared.described, create.scope, flight)
        self._ongoing.run_ended(flight.record_id)
        described = _told(prepared.described, flight.progress)
        self._journal.ended(
            flight.record_id, prepared.results_scope, described, flight.started_at, landed.outcome, landed.is_stored
        )

    def _is_left_to_the_next(self, flight: Flight, create: Create) -> bool:
        """Whether the proxy stops while a run that nobody wants is being cancelled at its upstream: that is not heard
        yet, so the next process shall say it again, and count how the run ended."""
        task = asyncio.current_task()
        is_stopping = task is not None and task.cancelling() > 1  # once by its sharers
        return is_stopping and flight.told_end is None and flight.was_accepted and create.upstream.outlives_us

    async def _run(self, flight: Flight, create: Create, prepared: Prepared, taken_up: TakenUp | None) -> Landed:
        outcome: Outcome | Landed
        try:
            if taken_up is None:
                outcome, prepared = await self._begin(flight, create, prepared)
            else:
                outcome = await self._take_up(flight, create, prepared, taken_up)
            if isinstance(outcome, Landed):
                return outcome
            flight.is_over = True
            _tell_end(
                flight, create, outcome
            )  # whatever becomes of its result here: it was made, and costs what it costs
            self._observe_run(create.upstream.name, outcome)
            if outcome.status != "succeeded":
                return Landed(replace(outcome, output=None), None, is_stored=False)
            assert flight.partials is not None
            await flight.partials.settle()
            return await self._take_in(flight, create, prepared, outcome, flight.partials)
        finally:
            if flight.partials is not None:
                await flight.partials.aclose()

    async def _begin(
        self, flight: Flight, create: Create, prepared: Prepared
    ) -> tuple[Outcome, Prepared] | tuple[Landed, Prepared]:
        """Look once more, then run; what was found, or how the run ended, and what is known of it by then."""
        if flight.key is not None and not flight.is_refresh:
            stored = await self._look_up_inside(flight.key, create, prepared)
            if stored is not None:
                flight.record_id, flight.was_found = stored.record_id, True
                return self._found_inside(stored), prepared
        # Ids of predictions outlive what they name, so a number that names a live result is not given to another run.
        while await self._results.find_complete(flight.record_id) is not None:
            flight.record_id = new_record_id()
        material = await self._file_inputs.materialise(
            create, prepared.sent, prepared.identified, prepared.described.schema, self._now()
        )
        if not material.is_faithful:  # a file has changed since the key was derived
            prepared = replace(prepared, plan=Bypass("unread-file"))
        self._open_partials(flight, create, prepared)
        job = self._job(flight, create, prepared, material.input, new_execution_id())
        flight.is_sent = True
        return await create.upstream.run(job, self._reporter(flight, create, prepared, job, repeats=0)), prepared

    async def _take_up(self, flight: Flight, create: Create, prepared: Prepared, taken_up: TakenUp) -> Outcome | Landed:
        """See a former process's run through. Its flight counts as accepted: its clients were answered.

        A result that is there already was stored by the former process, and counted by none: what it counted is
        written after the row of the run is gone.
        """
        stored = await self._results.find_complete(flight.record_id)
        if stored is not None and stored.scope == prepared.results_scope:
            return self._found_inside(stored)
        left = await self._remains.find(flight.record_id)
        if left is not None and left.scope == prepared.results_scope:
            return replace(self._found_inside(left), is_stored=False)
        self._open_partials(flight, create, prepared)
        job = self._job(flight, create, prepared, prepared.sent, taken_up.job_id)
        if create.upstream.outlives_us:
            return await create.upstream.adopt(job, taken_up.upstream_id, partial(_go_on, flight))
        return await create.upstream.run(job, self._reporter(flight, create, prepared, job, taken_up.repeats + 1))

    def _open_partials(self, flight: Flight, create: Create, prepared: Prepared) -> None:
        """From here on, what the run has given so far is shown."""
        access, keep = create.upstream.output_access, keeps(prepared.plan)
        flight.partials = Partials(self._ingestor, access, keep=keep, changed=flight.show)

    def _job(self, flight: Flight, create: Create, prepared: Prepared, sent: JsonObject, job_id: str) -> Job:
        return Job(
            id=job_id,
            target=create.target,
            version=prepared.described.version,
            input=sent,
            credential=create.credential,
            wants_s=min(create.wants_s, UPSTREAM_WAIT_MAX_S),
            is_detached=lambda: flight.sharers > 0,
            is_watched=flight.is_watched,
            tell_end=partial(_tell_end, flight, create),
        )

    def _reporter(
        self, flight: Flight, create: Create, prepared: Prepared, job: Job, repeats: int
    ) -> Callable[[Progress], None]:
        """Takes the news of a run; with the first its upstream has taken it, and that is written down."""
        is_noted = False

        def report(progress: Progress) -> None:
            nonlocal is_noted
            if not is_noted and progress.upstream_id is not None:
                is_noted = True
                self._gatekeeper.accept(create.upstream, create.credential)
                described = _told(prepared.described, progress)
                self._journal.started(flight.record_id, prepared.results_scope, described, flight.started_at)
                self._ongoing.run_began(_noted(flight, create, prepared, job, progress.upstream_id, repeats))
            flight.report(progress)

        return report

    async def _look_up_inside(self, key: PredictionKey, create: Create, prepared: Prepared) -> ResultRecord | None:
        """What another flight has stored between this request's look-up and its entry in the table.

        It is a hit, so it needs what a hit needs: a request that came here because nobody could be asked about its
        credential, or because a file of the result was gone, gets no hit by this way either.
        """
        found = await self.find(key, create, prepared)
        record = found[0] if found is not None and found[1] == "fresh" else None
        if record is None or not self._gatekeeper.is_accepted_now(create.upstream, create.credential):
            return None
        try:
            await self._renderer.template(record)
        except OutputGone:
            return None
        return record

    async def _take_in(
        self, flight: Flight, create: Create, prepared: Prepared, outcome: Outcome, partials: Partials
    ) -> Landed:
        """Store what a successful run gave: blobs first, record last. ``partials``: what is here of it already."""
        access = create.upstream.output_access
        files = plan_output(outcome.output, access)
        wants_store = keeps(prepared.plan) and not files.foreign
        ingested = await self._ingestor.ingest(files, access, keep=wants_store, known=partials.known)
        record = ResultRecord(
            record_id=flight.record_id,
            key=prepared.key or PredictionKey(bytes(32)),
            scope=prepared.results_scope,
            upstream=create.upstream.name,
            model=outcome.model or prepared.described.model,
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
            is_streamable=self._streams.is_streamable(flight),
            deployment=prepared.described.deployment,
            tags=prepared.controls.purge_tags,
            made_by=prepared.circumstances,
        )
        stored_files = len(ingested.files) if ingested.are_stored else 0
        is_text_kept = may_keep_text(prepared.policy, prepared.key_input, outcome.output)
        decision = plan_store(prepared.plan, outcome.status, files, stored_files, is_text_kept=is_text_kept)
        is_stored = False
        # What was purged while it was made is for those alone who wait for it, and lies nowhere on the disk.
        is_purged = self._is_purged(flight, record)
        if isinstance(decision, Store) and not is_purged:
            record = replace(record, stream_log=await self._streams.keep_log(flight, record))
            replaced = await self._results.get_complete(record.key)
            if replaced is not None:
                await self._remains.keep(replaced)  # predictions were answered with it, perhaps a moment ago
            try:
                await self._results.put(record)
                is_stored = True
                if is_purged := self._is_purged(flight, record):  # a moment ago
                    await self._results.remove(record.key)
                    is_stored = False
            except StorageError as error:
                _log.warning("result_not_stored", reason=type(error).__name__, detail=str(error))
        may_remain = prepared.plan != Bypass("request") and not ingested.left and not is_purged
        if not is_stored and may_remain and (not record.files or ingested.are_stored):
            await self._remains.keep(record)
        left = tuple((file.path, file.url) for file in ingested.left)
        # Files may stand in the output as megabytes of base64, and a flight is remembered for an hour.
        return Landed(replace(outcome, output=None), record, is_stored, left)

    def _is_purged(self, flight: Flight, record: ResultRecord) -> bool:
        return self._purges.covers(subject_of(record), flight.started_at)

    def was_purged(self, record: ResultRecord) -> bool:
        """Whether a stored result has been purged since it was found."""
        return self._purges.covers(subject_of(record), record.created_at)

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
            started_at=flight.worked_from if flight.worked_from is not None else now,
            completed_at=now,
            upstream_id=progress.upstream_id if progress else None,
        )
        return Landed(outcome, None, is_stored=False)


def _tell_end(flight: Flight, create: Create, outcome: Outcome) -> None:
    """Note how a run ended and how many outputs it is priced as; its output itself is not kept."""
    has_succeeded = outcome.status == "succeeded"
    files = plan_output(outcome.output, create.upstream.output_access).files if has_succeeded else ()
    flight.tell_end(outcome, len(files) or int(has_succeeded))


def subject_of_run(prepared: Prepared) -> Subject:
    """What a purge can know a run by while it is on its way."""
    described = prepared.described
    return Subject(prepared.key, None, names_of(described.model, described.deployment), prepared.controls.purge_tags)


def _go_on(flight: Flight, progress: Progress) -> None:
    """News of a run that a former process began: what it knew already is not taken back before the first look."""
    known = flight.progress
    if progress.status == "processing" or known is None or known.status == "starting":
        flight.report(progress)


def _told(described: ModelDescription, progress: Progress | None) -> ModelDescription:
    """``described`` with the model that the run itself tells."""
    return replace(described, model=progress.model) if progress is not None and progress.model else described


def _noted(flight: Flight, create: Create, prepared: Prepared, job: Job, upstream_id: str, repeats: int) -> OngoingRun:
    """A run as it is written down."""
    return OngoingRun(
        record_id=flight.record_id,
        scope=create.scope,
        results_scope=prepared.results_scope,
        upstream=create.upstream.name,
        upstream_id=upstream_id,
        job_id=job.id,
        target=create.target,
        described=prepared.described,
        plan=prepared.plan,
        key=prepared.key,
        key_input=prepared.key_input,
        sent=None if create.upstream.outlives_us else job.input,
        credential=create.credential if create.upstream.has_accounts else None,
        started_at=flight.started_at,
        profile=prepared.controls.profile,
        tags=prepared.controls.purge_tags,
        made_by=prepared.circumstances,
        is_refresh=flight.is_refresh,
        is_behind=flight.is_behind,
        repeats=repeats,
    )
