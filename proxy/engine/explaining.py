"""Says how the key of a request came about, why another one has another key, and whether it would hit now.

Runs nothing and stores nothing. A file that somebody else holds is read as it would be for the request itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from proxy.core.controls import Controls
from proxy.core.explaining import (
    SCOPE_DIGITS,
    Keyed,
    changes,
    differences,
    secret_fields,
    seed_state,
    shown,
    shown_input,
    which_policy,
    why,
)
from proxy.core.keys import KEY_VERSION, variant_key
from proxy.core.policy import Bypass, Cached, Policy, grade, keyed_part
from proxy.engine.coalescer import Coalescer
from proxy.engine.credentials import Gatekeeper
from proxy.engine.policies import PolicyDesk
from proxy.engine.preparation import Preparation, former_key_of
from proxy.engine.runs import Create, Prepared
from storage.digest import PredictionKey
from storage.opening import Storage
from storage.records import JsonObject, ResultRecord


@dataclass(frozen=True, slots=True)
class _Explained:
    create: Create
    prepared: Prepared
    secret: frozenset[str]


class Explainer:
    """Explains creates."""

    def __init__(
        self,
        *,
        preparation: Preparation,
        desk: PolicyDesk,
        storage: Storage,
        coalescer: Coalescer,
        gatekeeper: Gatekeeper,
        now: Callable[[], float],
    ) -> None:
        self._preparation = preparation
        self._desk = desk
        self._storage = storage
        self._coalescer = coalescer
        self._gatekeeper = gatekeeper
        self._now = now

    async def explain(self, create: Create) -> JsonObject:
        """Everything about the key of ``create`` and what would become of it now.

        Raises:
            HotplateError: see ``Preparation.prepare``.
        """
        it = await self._prepare(create)
        prepared, described = it.prepared, it.prepared.described
        identified = prepared.identified
        members = await self._members(create, prepared)
        stored = [one for one in members if one["state"] == "stored"]
        input_changes = changes(create.given, identified.shown, identified.files, described.schema, prepared.policy)
        return {
            "upstream": create.upstream.name,
            "kind": create.upstream.kind,
            "model": described.model,
            "deployment": described.deployment,
            "version": described.version,
            "is_pinned": described.is_pinned,
            "schema_known": described.schema is not None,
            "scope": prepared.results_scope.hex()[:SCOPE_DIGITS],
            "key_version": KEY_VERSION,
            "given": shown_input(create.given, it.secret),
            "normalised": shown_input(identified.key_input, it.secret),
            "keyed": shown_input(keyed_part(prepared.policy, identified.key_input, ())[0], it.secret),
            "changes": [_shown_change(asdict(change), it.secret) for change in input_changes],
            "files": [{"place": ".".join(map(str, path)), "digest": digest.hex()} for path, digest in identified.files],
            "sent": shown_input(prepared.sent, it.secret),
            "policy": self._policy(create, prepared),
            "controls": _controls(prepared.controls),
            "seed": seed_state(prepared.policy, prepared.plan, identified.key_input),
            "ingredients": self._ingredients(it),
            "plan": f"bypass: {prepared.plan.reason}" if isinstance(prepared.plan, Bypass) else "cached",
            "why": self._why(prepared),
            "key": prepared.key.hex() if prepared.key is not None else None,
            "key_if_used": await self._key_if_used(create, prepared),
            "answers": members,
            "would": _would(create, prepared, members),
            "is_stored": bool(stored),
            "stored_at": stored[0]["stored_at"] if stored else None,
            "credential_accepted_now": self._gatekeeper.is_accepted_now(create.upstream, create.credential),
        }

    async def compare(self, a: Create, b: Create) -> JsonObject:
        """Why two requests have two keys.

        Raises:
            HotplateError: see ``Preparation.prepare``.
        """
        one, other = await self._prepare(a), await self._prepare(b)
        keys = [it.prepared.key for it in (one, other)]
        return {
            "same_key": keys[0] is not None and keys[0] == keys[1],
            "keys": [key.hex() if key is not None else None for key in keys],
            "plans": [self._why(it.prepared) for it in (one, other)],
            "differences": [asdict(one) for one in differences(self._keyed(one), self._keyed(other))],
        }

    async def _prepare(self, create: Create) -> _Explained:
        prepared = await self._preparation.prepare(create)
        return _Explained(create, prepared, secret_fields(create.given, prepared.described.openapi))

    async def _key_if_used(self, create: Create, prepared: Prepared) -> str | None:
        """The key that the operator's own choice keeps a request from having."""
        if prepared.plan not in (Bypass("off"), Bypass("observe")):
            return None
        foreseen = await self._preparation.foresee(create)
        return foreseen.key.hex() if foreseen.key is not None else None

    def _why(self, prepared: Prepared) -> str:
        return why(
            prepared.plan,
            prepared.policy,
            is_bypassed=self._desk.is_bypassed,
            is_enabled=self._desk.is_enabled,
            wants_new=prepared.controls.directives.wants_new,
        )

    def _policy(self, create: Create, prepared: Prepared) -> JsonObject:
        profile, name = create.controls.profile, prepared.described.policy_name
        found = self._desk.book.find(profile, name)
        described = _described_policy(prepared.policy, is_pinned=prepared.described.is_pinned)
        told: JsonObject = {"number": None, "because": which_policy(self._desk.book, profile, name), **described}
        if found is None:
            return told
        number, glob = self._desk.book.place(found, name)
        return told if number is None else {**told, "number": number, "glob": glob}

    def _ingredients(self, it: _Explained) -> list[JsonObject]:
        return [
            {"name": name, "value": value, "from": _SOURCES.get(name, "")} for name, value in self._parts(it).items()
        ]

    def _parts(self, it: _Explained) -> dict[str, str]:
        create, prepared = it.create, it.prepared
        described, controls = prepared.described, prepared.controls
        by_version = create.upstream.kind == "replicate" and described.is_pinned and described.deployment is None
        _, _, rule = keyed_part(prepared.policy, {}, ())
        return {
            "upstream": create.upstream.name,
            "model": "(named by its version)" if by_version else described.policy_name,
            "version": described.version,
            "scope": f"{prepared.policy.scope} {prepared.results_scope.hex()[:SCOPE_DIGITS]}",
            "namespace": controls.namespace,
            "extra": controls.key,
            "rule": rule,
        }

    def _keyed(self, it: _Explained) -> Keyed:
        identified, policy = it.prepared.identified, it.prepared.policy
        given, files, _ = keyed_part(policy, identified.key_input or it.create.given, identified.files)
        places = {".".join(map(str, path)): digest.hex() for path, digest in files}
        return Keyed(self._parts(it), given, places, it.secret)

    # -- what is stored --------------------------------------------------------------------------------

    async def _members(self, create: Create, prepared: Prepared) -> list[JsonObject]:
        """Each key that may hold the answer, with what is there."""
        plan, key = prepared.plan, prepared.key
        if not isinstance(plan, Cached) or key is None:
            return []
        found = []
        former = former_key_of(create, prepared)
        for number in range(plan.pool):
            state = await self._state(prepared, variant_key(key, member=number))
            if former is not None and state["state"] != "stored":
                before = await self._state(prepared, variant_key(former, member=number))
                if before["state"] != "empty":
                    state = {**before, "note": "under the key of before the version's schema was known"}
            found.append(state)
        return found

    async def _state(self, prepared: Prepared, key: PredictionKey) -> JsonObject:
        record = await self._storage.results.get_complete(key)
        if record is not None and record.scope == prepared.results_scope:
            return {"key": key.hex(), "state": "stored", **self._age(record, prepared)}
        is_refresh = isinstance(prepared.plan, Cached) and not prepared.plan.may_look_up
        is_running = self._coalescer.find(key, is_refresh=is_refresh) is not None
        return {"key": key.hex(), "state": "running" if is_running else "empty"}

    def _age(self, record: ResultRecord, prepared: Prepared) -> JsonObject:
        is_pinned = prepared.described.is_pinned
        age_s = self._now() - record.completed_at
        left_s = prepared.policy.lifetime_s(is_pinned=is_pinned) - age_s
        return {
            "stored_at": record.completed_at,
            "age_s": max(age_s, 0.0),
            "fresh_for_s": left_s if math.isfinite(left_s) else None,
            "grade": grade(age_s, prepared.policy, prepared.controls.directives, is_pinned=is_pinned),
            "tags": list(record.tags),
        }


_SOURCES = {
    "upstream": "the first upstream whose models match",
    "model": "the request, or its version",
    "version": "the request, or what the upstream tells",
    "scope": "the caller's credential, by the policy's scope",
    "namespace": "Hotplate-Namespace",
    "extra": "Hotplate-Key",
    "rule": "the policy's ignore and only",
}


def _described_policy(policy: Policy, *, is_pinned: bool) -> JsonObject:
    lifetime_s = policy.lifetime_s(is_pinned=is_pinned)
    return {
        "profile": policy.name,
        "mode": policy.mode,
        "fresh_for_s": lifetime_s if math.isfinite(lifetime_s) else None,
        "pool": policy.pool,
        "scope": policy.scope,
        "ignore": sorted(policy.ignore),
        "only": sorted(policy.only) if policy.only is not None else None,
        "forbid": sorted(policy.forbid),
    }


def _controls(controls: Controls) -> JsonObject:
    given: dict[str, Any] = {
        name: "any" if value == math.inf else value
        for name, value in asdict(controls.directives).items()
        if value is not None and value is not False
    }
    for name in ("profile", "namespace", "pool", "key"):
        if value := getattr(controls, name):
            given[name] = value
    if controls.tags:
        given["tags"] = list(controls.tags)
    return given


def _shown_change(change: JsonObject, secret: frozenset[str]) -> JsonObject:
    if change["name"] in secret:
        return {"name": change["name"], "what": change["what"]}
    return {name: shown(value) for name, value in change.items()}


def _would(create: Create, prepared: Prepared, members: list[JsonObject]) -> str:
    """What would become of the request now, in words."""
    plan, directives = prepared.plan, prepared.controls.directives
    if isinstance(plan, Bypass):
        is_passed_on = (
            plan == Bypass("observe") and create.upstream.kind == "replicate" and create.upstream.has_accounts
        )
        is_refused = directives.only_if_cached and not is_passed_on
        return "error: only-if-cached, and nothing is looked up" if is_refused else "bypass"
    servable = [one for one in members if one["state"] == "stored" and one["grade"] in ("fresh", "revalidate")]
    if plan.may_look_up and servable and (directives.only_if_cached or len(servable) == len(members)):
        return "hit" if servable[0]["grade"] == "fresh" else "hit, and a new run is made behind it"
    if directives.only_if_cached:
        return "error: only-if-cached, and nothing is stored"
    running = [one for one in members if one["state"] == "running"]
    if plan.may_share and running and len(running) + len(servable) == len(members):
        return "share the run that is on its way"
    return "miss"
