"""The life of a prediction: looked up, led or followed, watched to its end, cancelled.

A hit is decided in this order: key, record complete in the store, caller's credential accepted. Anything less
is a miss. A miss joins the flight of its key or leads one; the flight looks into the store once more, runs the
model, takes the outputs in, stores the record last, and then everybody hears of it.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import orjson

from proxy.core.errors import (
    HotplateError,
    NotCached,
    PaymentRequired,
    TooManyRuns,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.core.ids import IdMint, PredictionId
from proxy.core.policy import Cached, Grade, is_passing
from proxy.core.pools import Choice, Follow, Lead, MemberState, Serve, choose_member
from proxy.core.predictions import HitTemplate, Prediction
from proxy.core.tally import Tally
from proxy.core.webhooks import Told, WebhookRequest
from proxy.engine.books import Books, model_of_record, outputs_of
from proxy.engine.budgets import RunBudgets, WaitingRoom
from proxy.engine.coalescer import Coalescer, Flight
from proxy.engine.credentials import Gatekeeper
from proxy.engine.history import History, Label
from proxy.engine.journal import Journal
from proxy.engine.lookup import Found, Lookup, Member
from proxy.engine.notices import NOTHING_TOLD, Notices
from proxy.engine.ongoing import Ongoing, OngoingPrediction
from proxy.engine.preparation import Preparation
from proxy.engine.recent import RecentPredictions, Running, weigh
from proxy.engine.runs import Create, Prepared, Runs, subject_of_run
from proxy.engine.views import Views, as_canceled
from storage.digest import PredictionKey, Scope
from storage.records import ResultRecord

FOLLOWER_PATIENCE_S = 0.5
"""How long a request that joins a run waits to hear whether the upstream takes it: it validates at once, and may hold
its answer for the one who leads."""

SHED_PATIENCE_S = 0.05
"""The same where too many wait already."""

FOLLOWER_TRIES = 3
"""How often a request asks anew because the run that it joined was refused for another caller's sake."""

OF_THE_CALLER = frozenset({401, 402, 403, 429})
"""Statuses of an upstream that are about who asks, and not about what is asked."""

WRITE_WAIT_S = 2.0
"""Longest that an answer waits for the row without which another process would not know its prediction. A row takes
milliseconds; a disk that takes longer is not to hold what the model is paid for already."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer from the store, to be stamped and sent.

    Attributes:
        age_s, ttl_s: see ``Found``.
        grade: why it may be served, see ``core/policy.grade``.
        is_stretched: its caller's upstream cannot be asked now, and accepted it before.
        member: which answer of a pool it is, from 0, and of how many.
    """

    id: PredictionId
    record: ResultRecord
    template: HitTemplate
    input_json: bytes
    created_at: float
    age_s: float
    ttl_s: float
    grade: Grade
    member: tuple[int, int] | None = None
    is_stretched: bool = False


class Predictor:
    """Makes predictions and sees to their end, for all upstreams alike; ``Views`` shows them."""

    def __init__(
        self,
        *,
        preparation: Preparation,
        lookup: Lookup,
        views: Views,
        coalescer: Coalescer,
        budgets: RunBudgets,
        waiting: WaitingRoom,
        runs: Runs,
        gatekeeper: Gatekeeper,
        mint: IdMint,
        recent: RecentPredictions,
        journal: Journal,
        ongoing: Ongoing,
        history: History,
        notices: Notices,
        books: Books,
        now: Callable[[], float],
        pick: Callable[[int], int] = random.randrange,
    ) -> None:
        """``pick`` gives a number below its argument, each as likely."""
        self._books = books
        self._preparation = preparation
        self._lookup = lookup
        self._views = views
        self._runs = runs
        self._coalescer = coalescer
        self._budgets = budgets
        self._waiting = waiting
        self._gatekeeper = gatekeeper
        self._mint = mint
        self._recent = recent
        self._journal = journal
        self._ongoing = ongoing
        self._history = history
        self._notices = notices
        self._now = now
        self._pick = pick
        self._timers: dict[PredictionId, asyncio.TimerHandle] = {}

    async def create(self, create: Create, prepared: Prepared | None = None) -> Hit | Running:
        """Answer a create request from the store, or make or join a run.

        Raises:
            NotCached: the request wants no run, and there is no result for it.
            HotplateError: whatever ``Preparation.prepare`` raises, or the upstream refused the run.
            TooManyRuns: it would be a run beyond the caller's bounds.
        """
        if prepared is None:
            try:
                prepared = await self._preparation.prepare(create)
            except (UpstreamUnavailable, UpstreamTimeout):
                self._books.unanswered(create.upstream.name, create.target, create.scope)
                raise
        members = await self._lookup.members(create, prepared)
        answer = await self._look_up(create, prepared, members)
        if isinstance(answer, Hit):
            # A request that wants no run causes none behind its answer either. Source: RFC 9111 section 5.2.1.7.
            if answer.grade == "revalidate" and not prepared.controls.directives.only_if_cached:
                self._refresh(create, prepared, members[answer.member[0] if answer.member is not None else 0].key)
            await self._tell_of(answer, create)
            return answer
        if prepared.controls.directives.only_if_cached:
            self._books.refused(create.upstream.name, prepared.described, create.scope)
            raise NotCached("there is no stored result for this request, and it wants no run")
        if not self._waiting.has_room:
            create = replace(create, wants_s=0.0)  # and should it lead, the upstream is not to hold its answer
        member = members[answer.member] if answer is not None else None
        try:
            flight, is_follower, now = await self._board(create, prepared, member)
        except HotplateError as error:
            hit = await self._stand_in(create, prepared, members, error)
            if hit is None:
                self._books.refused(create.upstream.name, prepared.described, create.scope)
                raise
            await self._tell_of(hit, create)
            return hit
        given_json = orjson.dumps(create.given)
        entry = Running(
            # Made only now: a flight that found the result inside has taken over the id of its record.
            id=self._mint.mint(flight.record_id, create.scope, now),
            scope=create.scope,
            results_scope=prepared.results_scope,
            model=prepared.described.model,
            version=prepared.described.version,
            input=flight.one_of(create.given, given_json),
            input_bytes=weigh(given_json),
            created_at=now,
            flight=flight,
            plan=prepared.plan,
            is_follower=is_follower,
            upstream=create.upstream.name,
            webhook=create.webhook,
            deadline_at=now + create.deadline_s if create.deadline_s is not None else None,
            deployment=prepared.described.deployment,
            caller=hash(create.credential),
            member=_of_pool(answer.member, members) if answer is not None else None,
        )
        noted = self._ongoing.joined(_noted(entry)) if not flight.has_ended else None
        await self.attend(entry, NOTHING_TOLD)
        if noted is not None:
            # Before the answer, and the rows of its run before this one: whoever is told an id is told the end of it.
            await _written(noted, None if create.webhook is not None else WRITE_WAIT_S)
        return entry

    async def _board(self, create: Create, prepared: Prepared, member: Member | None) -> tuple[Flight, bool, float]:
        """The flight that answers a request, once its upstream has taken it; whether another request caused it; and
        when this one joined it.

        Whoever shares another's run needs what a hit needs. And what an upstream says to that one's credential is no
        answer to this caller, who then asks for itself.

        Raises:
            HotplateError: the upstream does not take the run, or this caller may not cause one.
        """
        token = self._gatekeeper.token_of(create.upstream, create.credential)
        for tries_left in reversed(range(FOLLOWER_TRIES)):
            other = self._under_way(prepared, member) if member is not None else None
            if other is not None and other.leader != token:
                await self._gatekeeper.is_accepted(create.upstream, create.credential)
            now = self._now()
            flight, is_follower = self._join_or_lead(create, prepared, member, now, may_follow=tries_left > 0)
            flight.tally.join(hash(create.credential), now, has_caused=not is_follower)
            try:
                with self._waiting.place(flight) as has_place:
                    if is_follower:
                        patience_s = max(create.wants_s, FOLLOWER_PATIENCE_S) if has_place else SHED_PATIENCE_S
                        await flight.accepted_soon(patience_s)
                    else:
                        await flight.accepted()
            except UpstreamRefused as error:
                is_mine = not is_follower or flight.leader == token
                if is_mine or error.status not in OF_THE_CALLER:
                    raise
                flight.tally.leave(hash(create.credential), now, has_caused=False)
            else:
                return flight, is_follower, now
        raise AssertionError("the last try follows nobody")

    async def _tell_of(self, hit: Hit, create: Create) -> None:
        """Send a hit's webhook, before the answer: once that is out, nobody would ask again for what is not written."""
        if create.webhook is not None:
            served = await self._views.find(hit.id, create.scope, {hit.record.scope})
            if served is not None:
                await self._notices.served(served, create.webhook, create.upstream.name, create.scope)

    async def attend(self, entry: Running, told: Told) -> None:
        """Remember a prediction, and see to its deadline, its webhook (which has been ``told``) and its end."""
        self._recent.add(entry)
        self._list(entry)
        if not entry.has_ended and entry.deadline_at is not None:
            left_s = max(entry.deadline_at - self._now(), 0.0)
            self._timers[entry.id] = asyncio.get_running_loop().call_later(left_s, self._expire, entry)
        if entry.webhook is not None:
            if "logs" in entry.webhook.events:
                entry.flight.watch(math.inf)
            settle, view = partial(self._settle, entry), partial(self._views.of, entry)
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
        prediction = await self._views.find(one.id, one.scope, {one.results_scope}) if one.webhook is not None else None
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

    async def _stand_in(
        self, create: Create, prepared: Prepared, members: list[Member], error: HotplateError
    ) -> Hit | None:
        """What is served in place of a run that could not be made: any answer of a pool that the policy allows."""
        if not is_passing(error.status) or not prepared.policy.stale_if_error_s:
            return None
        stored = [(number, member.found) for number, member in enumerate(members) if member.found is not None]
        while stored:
            number, found = stored.pop(self._pick(len(stored)))
            if self._lookup.was_purged(found.record):
                continue
            hit = await self._serve(create, found, "if-error", _of_pool(number, members))
            if hit is not None:
                return hit
        return None

    async def find_hit(self, create: Create, may_give: Callable[[], bool] = lambda: True) -> Hit | None:
        """The answer from the store, where there is a fresh one; makes and joins no run, nor one behind the answer.

        ``may_give`` is asked last, in one step with the making of the id.

        Raises:
            HotplateError: see ``create``.
        """
        prepared = await self._preparation.prepare(create)
        members = await self._lookup.members(create, prepared)
        if any(member.found is not None and member.found.grade != "fresh" for member in members):
            return None
        answer = await self._look_up(create, prepared, members, may_give)
        return answer if isinstance(answer, Hit) else None

    async def _look_up(
        self, create: Create, prepared: Prepared, members: list[Member], may_give: Callable[[], bool] = lambda: True
    ) -> Hit | Follow | Lead | None:
        """A hit, or which member's run shall answer; ``None`` where there are no members.

        Nothing was awaited since a run was chosen, so whoever acts on it at once finds the table as it was. A member
        whose files turn out to be gone is emptied.
        """
        while members:
            choice = self._choose(prepared, members)
            found = members[choice.member].found
            if not isinstance(choice, Serve) or found is None:
                return choice if not isinstance(choice, Serve) else Lead(choice.member)
            hit = await self._serve(create, found, found.grade, _of_pool(choice.member, members), may_give)
            if hit is not None:
                return hit
            members[choice.member] = replace(members[choice.member], found=None)
        return None

    def _choose(self, prepared: Prepared, members: list[Member]) -> Choice:
        if prepared.controls.directives.only_if_cached:
            stored = [number for number, member in enumerate(members) if member.is_servable]
            return Serve(stored[self._pick(len(stored))]) if stored else Lead(0)
        return choose_member([self._state(prepared, member) for member in members], self._pick)

    def _state(self, prepared: Prepared, member: Member) -> MemberState:
        if member.is_servable:
            return "stored"
        return "empty" if self._under_way(prepared, member) is None else "running"

    async def _serve(
        self,
        create: Create,
        found: Found,
        grade: Grade,
        member: tuple[int, int] | None = None,
        may_give: Callable[[], bool] = lambda: True,
    ) -> Hit | None:
        """A stored result as a new prediction of this caller; ``None`` if a file of it is gone, or by ``may_give``."""
        record = found.record
        template = await self._lookup.template(record)
        if template is None or not may_give():
            return None
        now = self._now()
        prediction_id = self._mint.mint(record.record_id, create.scope, now)
        input_json = orjson.dumps(create.given)
        self._recent.add_served(prediction_id, create.scope, input_json, now)
        label = Label(record.model, record.version, record.deployment)
        self._history.add(create.scope, prediction_id, now, label)
        model = model_of_record(record)
        self._books.hit(create.upstream.name, model, create.scope, record.compute_s, outputs_of(record))
        return Hit(
            id=prediction_id,
            record=record,
            template=template,
            input_json=input_json,
            created_at=now,
            age_s=found.age_s,
            ttl_s=found.ttl_s,
            grade=grade,
            member=member,
            is_stretched=found.is_stretched,
        )

    def _join_or_lead(
        self, create: Create, prepared: Prepared, member: Member | None, now: float, *, may_follow: bool = True
    ) -> tuple[Flight, bool]:
        """The flight that will answer, and whether another request caused it. No await: one step, nothing between.

        A member that was looked up empty and is no longer on its way has been stored meanwhile, perhaps: its flight
        looks once more.

        Raises:
            PaymentRequired: this caller may not cause a run now.
        """
        gate, upstream, credential = self._gatekeeper, create.upstream, create.credential
        other = self._under_way(prepared, member) if member is not None else None
        if other is not None:
            is_mine = other.leader == gate.token_of(upstream, credential)
            if is_mine or (may_follow and gate.is_accepted_now(upstream, credential)):
                other.sharers += 1
                return other, True
        gate.check_run(upstream, credential)
        if member is None:
            return self._lead(create, prepared, None, now), False
        is_shared = isinstance(prepared.plan, Cached) and prepared.plan.may_share and other is None
        key = member.key if is_shared else None
        return self._lead(create, replace(prepared, key=member.key), key, now), False

    def _under_way(self, prepared: Prepared, member: Member) -> Flight | None:
        """The run of a member that this request may join."""
        plan = prepared.plan
        if not isinstance(plan, Cached) or not plan.may_share:
            return None
        is_refresh = not plan.may_look_up
        flight = self._coalescer.find(member.key, is_refresh=is_refresh)
        if flight is None and member.former_key is not None:
            flight = self._coalescer.find(member.former_key, is_refresh=is_refresh)
        return flight

    def _lead(self, create: Create, prepared: Prepared, shared_key: PredictionKey | None, now: float) -> Flight:
        """Begin a flight; without a key nobody can join it."""
        ended = self._budgets.begin(create.scope)
        is_refresh = isinstance(prepared.plan, Cached) and not prepared.plan.may_look_up
        flight = self._runs.plan_flight(shared_key, now, is_refresh=is_refresh)
        flight.leader = self._gatekeeper.token_of(create.upstream, create.credential)
        flight.subject = subject_of_run(prepared)
        flight.ending.add_done_callback(lambda _: ended())
        self._coalescer.lead(flight, lambda flight: self._runs.fly(flight, create, prepared))
        flight.sharers += 1
        return flight

    def _refresh(self, create: Create, prepared: Prepared, key: PredictionKey) -> None:
        """Make the result under ``key`` anew behind an answer, unless that is being done or would be a run too many. It
        counts as wanted."""
        assert isinstance(prepared.plan, Cached)
        if prepared.plan.may_store and self._coalescer.find(key, is_refresh=True) is None:
            plan = replace(prepared.plan, may_look_up=False)
            with suppress(TooManyRuns, PaymentRequired):
                self._gatekeeper.check_run(create.upstream, create.credential)
                unheld = replace(create, wants_s=0.0)
                flight = self._lead(unheld, replace(prepared, plan=plan, key=key), key, self._now())
                flight.is_behind = True
                flight.tally = Tally("refresh")

    async def cancel(self, prediction_id: str, scope: Scope, entitled: Collection[Scope] = ()) -> Prediction | None:
        """Cancel one prediction; the run goes on while another client shares it. Ended ones stay as they are.

        ``entitled``: see ``Views.find``.
        """
        entry = self._recent.running(prediction_id, scope)
        if entry is not None and not entry.has_ended:
            await _written(self._cancel(entry), WRITE_WAIT_S)
        return await self._views.find(prediction_id, scope, entitled)

    def _cancel(self, entry: Running) -> asyncio.Task[bool]:
        """End one prediction before its run; the task ends when that is written."""
        entry.cancel(self._now())
        self._books.left(entry)
        self._coalescer.leave(entry.flight)
        if entry.flight.sharers <= 0:
            self._ongoing.run_unwanted(entry.flight.record_id)
        noted = self._journal.cancel(as_canceled(entry))
        if entry.webhook is not None:
            self._notices.changed(entry)
        else:
            self._settle(entry)
        return noted


async def _written(row: asyncio.Task[bool], timeout_s: float | None) -> None:
    """Wait until a row is written, or cannot be; that goes on when whoever waits is cancelled."""
    await asyncio.wait({row}, timeout=timeout_s)


def _of_pool(number: int, members: list[Member]) -> tuple[int, int] | None:
    """Which answer of how many; ``None`` where there is but one."""
    return (number, len(members)) if len(members) > 1 else None


def _noted(entry: Running) -> OngoingPrediction:
    """A prediction as it is written down while it waits."""
    return OngoingPrediction(
        id=entry.id,
        record_id=entry.flight.record_id,
        scope=entry.scope,
        results_scope=entry.results_scope,
        upstream=entry.upstream,
        created_at=entry.created_at,
        is_follower=entry.is_follower,
        deadline_at=entry.deadline_at,
        webhook=entry.webhook,
    )
