"""The life of a prediction: looked up, led or followed, watched to its end, cancelled.

A hit is decided in this order: key, record complete in the store, caller's credential accepted. Anything less
is a miss. A miss joins the flight of its key or leads one; the flight looks into the store once more, runs the
model, takes the outputs in, stores the record last, and then everybody hears of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import orjson

from proxy.core.errors import (
    HotplateError,
    NotCached,
    Overloaded,
    PaymentRequired,
    TooManyRuns,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.core.ids import IdMint, PredictionId
from proxy.core.policy import Cached, Grade, is_passing
from proxy.core.pools import Choice, Follow, Lead, MemberState, Serve, choose_member
from proxy.core.predictions import HitTemplate
from proxy.core.tally import Tally
from proxy.engine.books import Books, model_of_record, outputs_of
from proxy.engine.budgets import RunBudgets, WaitingRoom
from proxy.engine.coalescer import Coalescer, Flight
from proxy.engine.credentials import Gatekeeper
from proxy.engine.history import History, Label
from proxy.engine.lives import Lives
from proxy.engine.lookup import Found, Lookup, Member
from proxy.engine.preparation import Preparation
from proxy.engine.recent import RecentPredictions, Running, weigh
from proxy.engine.runs import Create, Prepared, Runs, subject_of_run
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


class _Outdated(Exception):
    """What a request was prepared by does not hold any more: it is to be prepared anew.

    The run that it has joined is sent other bytes than both were keyed by, or its caller has left those whose results
    it looked for.
    """


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
    """Makes predictions, for all upstreams alike; ``Lives`` sees to their end, and ``Views`` shows them."""

    def __init__(
        self,
        *,
        preparation: Preparation,
        lookup: Lookup,
        lives: Lives,
        coalescer: Coalescer,
        budgets: RunBudgets,
        waiting: WaitingRoom,
        runs: Runs,
        gatekeeper: Gatekeeper,
        mint: IdMint,
        recent: RecentPredictions,
        history: History,
        books: Books,
        now: Callable[[], float],
        pick: Callable[[int], int] = random.randrange,
    ) -> None:
        """``pick`` gives a number below its argument, each as likely."""
        self._books = books
        self._preparation = preparation
        self._lookup = lookup
        self._lives = lives
        self._runs = runs
        self._coalescer = coalescer
        self._budgets = budgets
        self._waiting = waiting
        self._gatekeeper = gatekeeper
        self._mint = mint
        self._recent = recent
        self._history = history
        self._now = now
        self._pick = pick

    async def create(self, create: Create, prepared: Prepared | None = None) -> Hit | Running:
        """Answer a create request from the store, or make or join a run.

        Raises:
            NotCached: the request wants no run, and there is no result for it.
            HotplateError: whatever ``Preparation.prepare`` raises, or the upstream refused the run.
            TooManyRuns: it would be a run beyond the caller's bounds.
        """
        for _ in range(FOLLOWER_TRIES):
            prepared = prepared or await self._prepare(create)
            try:
                return await self._create(create, prepared)
            except _Outdated:
                prepared = None
        prepared = await self._prepare(create)
        if isinstance(prepared.plan, Cached):  # whoever keeps changing a file is not to keep others waiting
            prepared = replace(prepared, plan=replace(prepared.plan, may_share=False))
        try:
            return await self._create(create, prepared)
        except _Outdated as error:
            raise Overloaded("who shares results is being changed", retry_after_s=1.0) from error

    async def _prepare(self, create: Create) -> Prepared:
        try:
            return await self._preparation.prepare(create)
        except (UpstreamUnavailable, UpstreamTimeout):
            self._books.unanswered(create.upstream.name, create.target, create.scope)
            raise

    async def _create(self, create: Create, prepared: Prepared) -> Hit | Running:
        """See ``create``.

        Raises:
            _Outdated: nothing was begun.
        """
        members = await self._lookup.members(create, prepared)
        answer = await self._look_up(create, prepared, members)
        if isinstance(answer, Hit):
            # A request that wants no run causes none behind its answer either. Source: RFC 9111 section 5.2.1.7.
            if answer.grade == "revalidate" and not prepared.controls.directives.only_if_cached:
                self._refresh(create, prepared, members[answer.member[0] if answer.member is not None else 0].key)
            await self._lives.tell_of(answer.id, answer.record, create)
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
            await self._lives.tell_of(hit.id, hit.record, create)
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
        await self._lives.begin(entry)
        return entry

    async def _board(self, create: Create, prepared: Prepared, member: Member | None) -> tuple[Flight, bool, float]:
        """The flight that answers a request, once its upstream has taken it; whether another request caused it; and
        when this one joined it.

        Whoever shares another's run needs what a hit needs. And what an upstream says to that one's credential is no
        answer to this caller, who then asks for itself.

        Raises:
            HotplateError: the upstream does not take the run, or this caller may not cause one.
            _Outdated: the run turned out to be none for this request.
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
            except HotplateError as error:
                self._part(create, flight, now, is_follower=is_follower)
                is_mine = not is_follower or flight.leader == token
                if is_mine or error.status not in OF_THE_CALLER or not isinstance(error, UpstreamRefused):
                    raise
                flight.tally.leave(hash(create.credential), now, has_caused=False)
            else:
                self._part(create, flight, now, is_follower=is_follower)
                return flight, is_follower, now
        raise AssertionError("the last try follows nobody")

    def _part(self, create: Create, flight: Flight, joined_at: float, *, is_follower: bool) -> None:
        """Let go of another's run that is sent other bytes than its key says.

        Raises:
            _Outdated: it is such a run.
        """
        if is_follower and flight.has_strayed:
            flight.tally.leave(hash(create.credential), joined_at, has_caused=False)
            self._coalescer.leave(flight)
            raise _Outdated

    async def _stand_in(
        self, create: Create, prepared: Prepared, members: list[Member], error: HotplateError
    ) -> Hit | None:
        """What is served in place of a run that could not be made: any answer of a pool that the policy allows."""
        if not is_passing(error.status) or not prepared.policy.stale_if_error_s:
            return None
        stored = [(number, member.found) for number, member in enumerate(members) if member.found is not None]
        while stored:
            number, found = stored.pop(self._pick(len(stored)))
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
        try:
            answer = await self._look_up(create, prepared, members, may_give)
        except _Outdated:
            return None
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
        """A stored result as a new prediction of this caller; ``None`` by ``may_give``, or if the result, a file of it
        or the upstream's word for the caller's credential is gone.

        Raises:
            _Outdated: see ``_check_entitled``.
        """
        record = found.record
        template = await self._lookup.template(record)
        if template is None or self._lookup.was_purged(found) or self._lookup.was_refused(found, create):
            return None
        if not may_give():
            return None
        self._check_entitled(create, record.scope)
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
            _Outdated: see ``_check_entitled``.
        """
        gate, upstream, credential = self._gatekeeper, create.upstream, create.credential
        self._check_entitled(create, prepared.results_scope)
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

    def _check_entitled(self, create: Create, results: Scope) -> None:
        """See to it that what a request was prepared for is its caller's still: it may have waited for its upstream's
        word on its credential.

        Raises:
            _Outdated: the caller has left those who share these results.
            Unauthenticated: its token has been revoked.
        """
        is_its_own = results == create.scope
        if not is_its_own and not self._gatekeeper.is_entitled(create.upstream, create.credential, results):
            raise _Outdated

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


def _of_pool(number: int, members: list[Member]) -> tuple[int, int] | None:
    """Which answer of how many; ``None`` where there is but one."""
    return (number, len(members)) if len(members) > 1 else None
