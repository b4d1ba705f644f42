"""Says how the key of a request came about, whether it would hit now, and how a past prediction was answered.

Runs nothing and stores nothing. A file that somebody else holds is read as it would be for the request itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from proxy.core.controls import Controls
from proxy.core.errors import NotFound
from proxy.core.explaining import (
    Keyed,
    changes,
    differences,
    secret_fields,
    seed_state,
    shown,
    shown_input,
    why,
)
from proxy.core.ids import IdMint, OpenedId, PredictionId
from proxy.core.keys import KEY_VERSION, variant_key
from proxy.core.policy import DEFAULT_POLICY, Bypass, Cached, Policy, grade, keyed_part
from proxy.engine.coalescer import Coalescer
from proxy.engine.credentials import Gatekeeper
from proxy.engine.journal import Journal
from proxy.engine.policies import PolicyDesk
from proxy.engine.preparation import Preparation, former_key_of
from proxy.engine.recent import RecentPredictions, Running
from proxy.engine.remains import Remains
from proxy.engine.runs import Create, Prepared
from storage.digest import PredictionKey
from storage.opening import Storage
from storage.records import JsonObject, ResultRecord

SCOPE_DIGITS = 16
"""Of a scope, which is a keyed hash, as much is shown as tells scopes apart."""


@dataclass(frozen=True, slots=True)
class _Explained:
    create: Create
    prepared: Prepared
    secret: frozenset[str]


class Explainer:
    """Explains creates and predictions."""

    def __init__(
        self,
        *,
        preparation: Preparation,
        desk: PolicyDesk,
        storage: Storage,
        coalescer: Coalescer,
        gatekeeper: Gatekeeper,
        mint: IdMint,
        recent: RecentPredictions,
        journal: Journal,
        remains: Remains,
        now: Callable[[], float],
    ) -> None:
        self._preparation = preparation
        self._desk = desk
        self._storage = storage
        self._coalescer = coalescer
        self._gatekeeper = gatekeeper
        self._mint = mint
        self._recent = recent
        self._journal = journal
        self._remains = remains
        self._now = now

    # -- requests --------------------------------------------------------------------------------------

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
            "scope": create.scope.hex()[:SCOPE_DIGITS],
            "key_version": KEY_VERSION,
            "given": shown_input(create.given, it.secret),
            "normalised": shown_input(identified.key_input, it.secret),
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
            "would": _would(prepared, members),
            "is_stored": bool(stored),
            "stored_at": stored[0]["stored_at"] if stored else None,
            "credential_accepted_now": self._gatekeeper.is_accepted_now(create.upstream, create.scope),
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
        if found is None:
            return {"number": None, "because": "the model is not known yet, and policies differ by model", **described}
        number, glob = self._desk.book.place(found, name)
        if number is None:
            return {"number": None, "because": f"no policy matches {name}: the defaults hold", **described}
        of_profile = f"of the profile {found.name!r}" if found.name is not None else "of no profile"
        because = f"policy {number}, {of_profile}, is the first that matches {name or 'any model'}: {glob}"
        return {"number": number, "glob": glob, "because": because, **described}

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
            "scope": f"{prepared.policy.scope} {create.scope.hex()[:SCOPE_DIGITS]}",
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
        for number in range(plan.pool):
            member = variant_key(key, member=number)
            state = await self._state(create, prepared, member)
            former = former_key_of(create, prepared) if state["state"] != "stored" and plan.pool == 1 else None
            if former is not None:
                before = await self._state(create, prepared, former)
                if before["state"] != "empty":
                    state = {**before, "note": "under the key of before the version's schema was known"}
            found.append(state)
        return found

    async def _state(self, create: Create, prepared: Prepared, key: PredictionKey) -> JsonObject:
        record = await self._storage.results.get_complete(key)
        if record is not None and record.scope == create.scope:
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

    # -- predictions -----------------------------------------------------------------------------------

    async def explain_id(self, text: str) -> JsonObject:
        """How a prediction was answered, whosever it is: this is for the operator.

        Raises:
            NotFound: no prediction of that id is known here.
        """
        opened = self._mint.open(text)
        if opened is None:
            raise NotFound("that is no id of a prediction that this proxy has made")
        entry = self._recent.any_running(PredictionId(text))
        if entry is not None:
            return self._of_entry(entry)
        record_id = opened.parts.record_id
        stored = await self._storage.results.find_complete(record_id)
        record = stored or await self._remains.find(record_id)
        canceled = await self._journal.canceled(PredictionId(text))
        if record is not None and self._mint.fits(opened, record.scope):
            told = self._of_record(text, opened, record, is_stored=stored is not None)
            return {**told, "answered": "canceled by its client"} if canceled is not None else told
        return await self._without_record(text, opened)

    def _of_entry(self, entry: Running) -> JsonObject:
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
            "input": shown_input(entry.input, secret_fields(entry.input, None)),
            "is_stored": landed is not None and landed.is_stored,
        }
        if landed is not None and landed.record is not None:
            told |= _about_record(landed.record)
        if entry.canceled_at is not None:
            told["status"] = "canceled by its client or its deadline"
        return told

    def _of_record(self, text: str, opened: OpenedId, record: ResultRecord, *, is_stored: bool) -> JsonObject:
        created_at = opened.parts.created_at
        if created_at >= record.completed_at:
            answered = "hit"
        elif created_at - record.created_at < 0.001:  # an id holds milliseconds
            answered = "miss: it caused the run"
        else:
            answered = "shared the run of another request"
        policy = self._desk.book.find(None, _policy_name(record)) or DEFAULT_POLICY
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
            "input": shown_input(record.input, secret_fields(record.input, None)),
            "is_stored": is_stored,
            **_about_record(record),
            "age_then_s": max(created_at - record.completed_at, 0.0),
            "age_s": max(self._now() - record.completed_at, 0.0),
            "mode_now": policy.mode,
        }

    async def _without_record(self, text: str, opened: OpenedId) -> JsonObject:
        scope = await self._journal.scope_of(opened.parts.record_id)
        known = None
        if scope is not None and self._mint.fits(opened, scope):
            known = await self._journal.find(PredictionId(text), opened.parts, scope)
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


_SOURCES = {
    "upstream": "the first upstream whose models match",
    "model": "the request, or its version",
    "version": "the request, or what the upstream tells",
    "scope": "the caller's credential, by the policy's scope",
    "namespace": "Hotplate-Namespace",
    "extra": "Hotplate-Key",
    "rule": "the policy's ignore and only",
}


def _policy_name(record: ResultRecord) -> str:
    return record.model if record.deployment is None else f"deployments/{record.deployment}"


def _about_record(record: ResultRecord) -> JsonObject:
    return {
        "run_created_at": record.created_at,
        "run_completed_at": record.completed_at,
        "predict_s": record.predict_s,
        "upstream_id": record.upstream_id,
        "tags": list(record.tags),
        "output_files": [file.blob.digest.hex() for file in record.files],
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
        name: value for name, value in asdict(controls.directives).items() if value not in (None, False)
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


def _would(prepared: Prepared, members: list[JsonObject]) -> str:
    """What would become of the request now, in words."""
    plan, directives = prepared.plan, prepared.controls.directives
    if isinstance(plan, Bypass):
        is_refused = directives.only_if_cached and plan != Bypass("observe")
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
