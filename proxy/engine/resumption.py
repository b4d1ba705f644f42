"""Takes up at the start what a former process left on its way.

A run at an upstream where it goes on by itself is followed to its end; one that ended with its connection (Cog) is run
once more, and not a second time. Predictions that shared it are there again under their ids, with their deadlines and
webhooks, and a request with the same key joins the run instead of paying for another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import structlog

from proxy.core.controls import Controls
from proxy.core.policy import DEFAULT_POLICY, Cached
from proxy.core.tally import Tally
from proxy.engine.coalescer import Coalescer, Flight
from proxy.engine.journal import Journal
from proxy.engine.lives import Lives
from proxy.engine.notices import NOTHING_TOLD, STARTED
from proxy.engine.ongoing import Ongoing, OngoingPrediction, OngoingRun
from proxy.engine.policies import PolicyDesk
from proxy.engine.recent import Running
from proxy.engine.runs import Create, Prepared, Runs, TakenUp, subject_of_run
from proxy.upstreams.base import Progress, Upstream
from storage.digest import RecordId

MAX_REPEATS = 1
"""How often a run that ended with its connection is run once more."""

MAX_REPEAT_AGE_S = 3600.0
"""Nobody waits any longer for a run that was left behind before this."""

HowTakenUp = Literal["adopted", "repeated", "lost"]

ResumeObserver = Callable[[str, HowTakenUp], None]
"""Told the upstream's name and what became of a run that was left behind."""

_log = structlog.get_logger("hotplate.resumption")


class Resumption:
    """Carried out once, before the first request."""

    def __init__(
        self,
        ongoing: Ongoing,
        runs: Runs,
        coalescer: Coalescer,
        lives: Lives,
        journal: Journal,
        desk: PolicyDesk,
        upstreams: Mapping[str, Upstream],
        observe: ResumeObserver,
        now: Callable[[], float],
    ) -> None:
        self._ongoing = ongoing
        self._runs = runs
        self._coalescer = coalescer
        self._lives = lives
        self._journal = journal
        self._desk = desk
        self._upstreams = upstreams
        self._observe = observe
        self._now = now

    async def resume(self) -> None:
        """Take up every run that can be, and settle the predictions of the others."""
        runs, predictions = await self._ongoing.load()
        sharers: dict[RecordId, list[OngoingPrediction]] = {}
        for one in predictions:
            if await self._journal.canceled(one.id) is not None:
                await self._lives.conclude(one)
            else:
                sharers.setdefault(one.record_id, []).append(one)
        for run in runs:
            upstream = self._upstreams.get(run.upstream)
            if run.is_unwanted and (upstream is None or not upstream.outlives_us):
                self._ongoing.run_ended(run.record_id)  # it ended with its connection, and that is what was asked for
                continue
            how = self._judge(run, upstream)
            self._observe(run.upstream, how)
            _log.info("run_left_behind", upstream=run.upstream, how=how)
            if upstream is None or how == "lost":
                self._ongoing.run_ended(run.record_id)
            else:
                await self._take_up(run, upstream, sharers.pop(run.record_id, []))
        for one in (one for left in sharers.values() for one in left):
            await self._lives.conclude(one)

    def _judge(self, run: OngoingRun, upstream: Upstream | None) -> HowTakenUp:
        if upstream is None:
            return "lost"
        if upstream.outlives_us:
            return "adopted"
        is_too_late = self._now() - run.started_at > MAX_REPEAT_AGE_S
        return "lost" if run.sent is None or run.repeats >= MAX_REPEATS or is_too_late else "repeated"

    async def _take_up(self, run: OngoingRun, upstream: Upstream, sharers: list[OngoingPrediction]) -> None:
        create = Create(
            upstream=upstream,
            target=run.target,
            given=run.key_input,
            credential=run.credential,
            scope=run.scope,
            wants_s=0.0,
        )
        controls = Controls(profile=run.profile, tags=run.tags)
        policy = self._desk.book.find(run.profile, run.described.policy_name) or DEFAULT_POLICY
        prepared = Prepared(
            run.described,
            run.plan,
            run.sent or {},
            run.key_input,
            run.key,
            run.results_scope,
            policy=policy,
            controls=controls,
            made_by=run.made_by,
        )
        is_shared = isinstance(run.plan, Cached) and run.plan.may_share and not run.is_unwanted
        flight = self._runs.plan_flight(
            run.key if is_shared else None, run.started_at, run.record_id, is_refresh=run.is_refresh
        )
        flight.subject = subject_of_run(prepared)
        # Its clients were answered already, so it counts as taken. One that is run once more starts anew.
        is_under_way = upstream.outlives_us and any(one.has_started for one in sharers)
        status: Literal["starting", "processing"] = "processing" if is_under_way else "starting"
        flight.report(Progress(status, run.started_at, upstream_id=run.upstream_id))
        flight.is_behind = run.is_behind
        flight.sharers = max(len(sharers) + run.is_behind, 1)
        if run.is_behind:
            flight.tally = Tally("refresh")
        for one in sharers:
            flight.tally.join(hash(one.scope), one.created_at, has_caused=not one.is_follower)
        if run.is_unwanted:
            flight.listen(self._leave)
        taken_up = TakenUp(run.upstream_id, run.job_id, run.repeats)
        self._coalescer.lead(flight, lambda flight: self._runs.fly(flight, create, prepared, taken_up))
        for one in sharers:
            await self._lives.attend(
                Running(
                    id=one.id,
                    scope=one.scope,
                    results_scope=run.results_scope,
                    model=run.described.model,
                    version=run.described.version,
                    input=run.key_input,
                    input_bytes=0,
                    created_at=one.created_at,
                    flight=flight,
                    plan=run.plan,
                    is_follower=one.is_follower,
                    upstream=one.upstream,
                    webhook=one.webhook,
                    deadline_at=one.deadline_at,
                    deployment=run.described.deployment,
                    caller=hash(one.scope),  # its token is not known any more
                ),
                STARTED if one.has_started else NOTHING_TOLD,
            )

    def _leave(self, flight: Flight) -> None:
        """A run that nobody wants is cancelled at its upstream, now that it is followed there again."""
        if flight.sharers > 0:
            self._coalescer.leave(flight)
