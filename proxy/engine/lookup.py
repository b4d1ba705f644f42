"""Looking a request up: under its key, or under all keys of its pool.

A hit is decided in this order: key, record complete in the store, young enough, caller's credential accepted, its files
there to be shown. Anything less is a miss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.core.keys import variant_key
from proxy.core.policy import Cached, Grade
from proxy.core.predictions import HitTemplate
from proxy.engine.credentials import Gatekeeper
from proxy.engine.preparation import former_key_of
from proxy.engine.renderer import OutputGone, Renderer
from proxy.engine.runs import Create, Prepared, Runs
from storage.digest import PredictionKey
from storage.records import ResultRecord


@dataclass(frozen=True, slots=True)
class Found:
    """A stored result that this caller may have.

    Attributes:
        grade: what it is good for, anything but ``"stale"``.
        age_s: seconds since its run ended, not below 0.
        as_of, heard: how many purges there had been when it was found, and how many refusals of credentials.
        is_stretched: the caller's upstream cannot be asked now, and accepted it before.
        ttl_s: seconds for which it is still fresh; below 0 once it is not, infinite where it stays so.
    """

    record: ResultRecord
    grade: Grade
    age_s: float
    ttl_s: float
    as_of: int
    heard: int
    is_stretched: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """One of the keys that may hold an answer, with what is stored under it.

    Attributes:
        former_key: under which this very request may still be on its way, see ``former_key_of``.
    """

    key: PredictionKey
    found: Found | None
    former_key: PredictionKey | None = None

    @property
    def is_servable(self) -> bool:
        """Whether the result is an answer without further ado."""
        return self.found is not None and self.found.grade in ("fresh", "revalidate")


class Lookup:
    """Finds stored results. Starts nothing and stores nothing."""

    def __init__(self, runs: Runs, gatekeeper: Gatekeeper, renderer: Renderer, now: Callable[[], float]) -> None:
        self._runs = runs
        self._gatekeeper = gatekeeper
        self._renderer = renderer
        self._now = now

    async def members(self, create: Create, prepared: Prepared) -> list[Member]:
        """All keys that may hold the answer to a request, with what is stored; ``[]`` for one without a key.

        Raises:
            UpstreamRefused: the upstream refuses the credential.
        """
        key, plan = prepared.key, prepared.plan
        if key is None or not isinstance(plan, Cached):
            return []
        keys = [variant_key(key, member=number) for number in range(plan.pool)]
        if not plan.may_look_up:
            return [Member(key, None) for key in keys]
        members = [Member(key, await self._find(create, prepared, key)) for key in keys]
        if all(member.found is not None for member in members):
            return members
        former_key = former_key_of(create, prepared)
        if former_key is None:
            return members
        formers = [variant_key(former_key, member=number) for number in range(plan.pool)]
        return [
            member
            if member.found is not None
            else Member(member.key, await self._find(create, prepared, former), former)
            for member, former in zip(members, formers, strict=True)
        ]

    async def _find(self, create: Create, prepared: Prepared, key: PredictionKey) -> Found | None:
        as_of = self._runs.purges_total
        found = await self._runs.find(key, create, prepared)
        if found is None or found[1] == "stale":
            return None
        standing = await self._gatekeeper.judge(create.upstream, create.credential)
        if standing is None:
            return None
        record, grade = found
        age_s = max(self._now() - record.completed_at, 0.0)
        ttl_s = prepared.policy.lifetime_s(is_pinned=prepared.described.is_pinned) - age_s
        return Found(record, grade, age_s, ttl_s, as_of, self._gatekeeper.refusals, standing == "stretched")

    def was_refused(self, found: Found, create: Create) -> bool:
        """Whether its caller's credential has been refused since a result was found for it."""
        gate = self._gatekeeper
        return gate.refusals != found.heard and not gate.is_accepted_now(create.upstream, create.credential)

    def was_purged(self, found: Found) -> bool:
        """Whether a result has been purged since it was found."""
        return self._runs.purges_total != found.as_of and self._runs.was_purged(found.record)

    async def template(self, record: ResultRecord) -> HitTemplate | None:
        """The answer that a result gives, or ``None`` if a file of it is gone."""
        ready = self._renderer.ready(record)
        if ready is not None:
            return ready
        try:
            return await self._renderer.template(record)
        except OutputGone:
            return None
