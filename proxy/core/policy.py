"""What may be looked up, shared and stored. Every doubt ends in a miss, with the reason said.

A ``Policy`` is the operator's rule for the models that its globs name. With it and its own ``Controls`` a create
request becomes one of two plans: ``Cached`` (look up, share a run, store, each where allowed) or ``Bypass`` (a run of
its own, nothing kept). A stored result is graded by its age, and a finished run becomes ``Store`` or ``Skip``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from proxy.core.cache_control import NO_DIRECTIVES, Directives
from proxy.core.canonical import canonical_bytes, strings_in
from proxy.core.controls import Controls
from proxy.core.errors import Forbidden
from proxy.core.outputs import OutputPlan
from storage.digest import Digest
from storage.records import JsonObject, JsonPath, JsonValue

Mode = Literal["on", "off", "read_only", "write_only", "refresh", "observe"]
KeepsText = Literal["deterministic", "on", "off"]
Control = Literal[
    "no-cache", "no-store", "max-age", "min-fresh", "max-stale", "only-if-cached", "namespace", "pool", "key", "tags"
]

UNPINNED_TTL_S = 7 * 86_400.0
"""How long a result of a model whose version is not told may be served: the model changes without notice."""

MAX_TEXT_BYTES = 1024**2
"""A longer output without files is handed out and not kept: it would lie in the index as one row."""

MAX_FOUND = 10_000
"""Models whose policy is remembered at once."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rule for the models that match one of ``models``; times in seconds.

    Attributes:
        name: the profile (``https://host/@name``) that selects it; without one it is for requests of no profile, too.
        models: globs over ``owner/name``, or ``deployments/owner/name``.
        mode: ``on`` looks up, shares and stores. ``off`` does nothing of it. ``read_only`` stores nothing.
            ``write_only`` makes a run for each request and stores it. ``refresh`` looks nothing up, but equal requests
            at one time share a run, and it is stored. ``observe`` only says what would have been a hit.
        ttl_s: how long a result is fresh; ``None`` for ever, if its version is pinned, else ``UNPINNED_TTL_S``.
        stale_while_revalidate_s: how long after that it is served while a new run is made. Source: RFC 5861.
        stale_if_error_s: how long after that it is served when a run cannot be made. Source: RFC 5861.
        ignore: input fields that are left out of the key.
        only: the input fields that enter the key; ``None`` for all.
        pool: how many answers a request without a seed has: 1 reuses one, 0 bypasses the cache.
        seed_fields: input fields that hold a seed.
        random_seeds: values of them that mean "choose one", as absent and ``null`` always do.
        cache_text: see ``may_keep_text``.
        price_per_second, price_per_output: of a run, in the operator's currency.
        scope: who shares results: ``account``, ``token``, ``group:NAME`` or ``shared``.
        forbid: controls that requests may not use.
    """

    name: str | None = None
    models: tuple[str, ...] = ("*",)
    mode: Mode = "on"
    ttl_s: float | None = None
    stale_while_revalidate_s: float = 0.0
    stale_if_error_s: float = 0.0
    ignore: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    pool: int = 1
    seed_fields: tuple[str, ...] = ("seed",)
    random_seeds: tuple[int, ...] = (-1,)
    cache_text: KeepsText = "deterministic"
    price_per_second: float = 0.0
    price_per_output: float = 0.0
    scope: str = "account"
    forbid: frozenset[Control] = frozenset()

    def lifetime_s(self, *, is_pinned: bool) -> float:
        """Seconds for which a result is fresh."""
        if self.ttl_s is not None:
            return self.ttl_s
        return math.inf if is_pinned else UNPINNED_TTL_S

    def left_out(self, names: Iterable[str]) -> frozenset[str]:
        """Which of these input fields do not enter the key."""
        if self.only is None:
            return self.ignore
        return self.ignore.union(name for name in names if name not in self.only)

    def has_seed(self, given: JsonObject) -> bool:
        """Whether an input says which of a model's many answers it wants. Of an input that was normalised, a default
        that the schema gives counts."""
        for name in self.seed_fields:
            seed = given.get(name)
            if seed is not None and not (type(seed) in (int, float) and seed in self.random_seeds):
                return True
        return False


DEFAULT_POLICY = Policy()


class PolicyBook:
    """All policies, in the operator's order. Nothing in it changes; another book takes its place."""

    def __init__(self, policies: Sequence[Policy] = ()) -> None:
        self.policies = tuple(policies)
        self.observes = any(policy.mode == "observe" for policy in policies)
        self._profiles = frozenset(policy.name for policy in policies if policy.name is not None)
        self._found: dict[tuple[str | None, str], Policy | None] = {}

    def has_profile(self, name: str) -> bool:
        """Whether a policy has that name."""
        return name in self._profiles

    def find(self, profile: str | None, model: str) -> Policy | None:
        """The policy for a model: the first that matches of the profile's own, then of those without a name.

        Args:
            model: ``"owner/name"``, ``"deployments/owner/name"``, or ``""`` while it is not known.

        Returns:
            ``None`` if the model is not known and policies differ by model: which one holds nobody can say.
        """
        try:
            return self._found[profile, model]
        except KeyError:
            policy = self._search(profile, model)
        if len(self._found) >= MAX_FOUND:
            self._found.clear()
        self._found[profile, model] = policy
        return policy

    def place(self, policy: Policy, model: str) -> tuple[int | None, str | None]:
        """Where a policy that ``find`` gave for ``model`` stands, from 1, and which of its globs matches; ``None`` for
        the defaults."""
        for number, one in enumerate(self.policies, 1):
            if one is policy:
                globs = (glob for glob in one.models if glob == "*" or fnmatchcase(model, glob))
                return number, next(globs, None)
        return None, None

    def _search(self, profile: str | None, model: str) -> Policy | None:
        own = [policy for policy in self.policies if policy.name == profile and profile is not None]
        for policy in (*own, *(policy for policy in self.policies if policy.name is None)):
            if "*" in policy.models:
                return policy
            if not model:
                return None
            if any(fnmatchcase(model, glob) for glob in policy.models):
                return policy
        return DEFAULT_POLICY


@dataclass(frozen=True, slots=True)
class Cached:
    """Use the cache.

    Attributes:
        may_look_up: a stored result may be the answer.
        may_share: so may a run that another request has caused; where nothing is looked up, one that looked up nothing.
        may_store: the result is kept.
        pool: number of keys that may hold the answer.
    """

    may_look_up: bool = True
    may_share: bool = True
    may_store: bool = True
    pool: int = 1


@dataclass(frozen=True, slots=True)
class Bypass:
    """A run of its own, nothing looked up, shared or kept; ``reason`` goes into ``Cache-Status``.

    ``"off"``: the operator's switch or policy. ``"observe"``: likewise, and what would have been is noted.
    ``"request"``: the client said ``no-store``. ``"seedless"``: the policy has nothing for inputs without a seed.
    ``"unknown-model"``: policies differ by model, and the version alone was given. ``"url-input"``: the input holds a
    URL, which is a name, and what it names may change. ``"unread-file"``: it names a file that could not be had in time
    to be keyed by its bytes.
    """

    reason: Literal["off", "observe", "request", "seedless", "unknown-model", "url-input", "unread-file"]


LookupPlan: TypeAlias = Cached | Bypass

PLAIN = Cached()
"""The plan of nearly every request."""


def permitted(policy: Policy, controls: Controls) -> Controls:
    """What of a request's wishes the operator lets it have.

    Wishes about age that are forbidden are not heard. A request that forbids storing or running, or that asks for a
    part of the cache of its own, would get something else than it asked for, and is refused.

    Raises:
        Forbidden: says which.
    """
    if not policy.forbid:
        return controls
    asked = controls.directives
    refused = [
        word
        for word, is_asked in (
            ("no-store", asked.no_store),
            ("only-if-cached", asked.only_if_cached),
            ("namespace", controls.namespace),
            ("pool", controls.pool is not None),
            ("key", controls.key),
            ("tags", controls.tags),
        )
        if is_asked and word in policy.forbid
    ]
    if refused:
        raise Forbidden(f"the operator of this proxy does not allow requests to use {', '.join(refused)}")
    directives = replace(
        asked,
        no_cache=asked.no_cache and "no-cache" not in policy.forbid,
        max_age_s=None if "max-age" in policy.forbid else asked.max_age_s,
        min_fresh_s=None if "min-fresh" in policy.forbid else asked.min_fresh_s,
        max_stale_s=None if "max-stale" in policy.forbid else asked.max_stale_s,
    )
    return replace(controls, directives=directives)


def plan_lookup(policy: Policy | None, directives: Directives, *, enabled: bool = True) -> LookupPlan:
    """Decide how a create request uses the cache, as far as its input allows: see ``plan_seedless`` and
    ``engine/file_inputs``.

    Args:
        policy: for the request's model, ``None`` where nobody can say which.
        directives: ``no-store`` bypasses; ``no-cache`` and ``max-age=0`` demand a new run.
        enabled: the operator's switch.

    Source: RFC 9111 sections 5.2.1.4 and 5.2.1.5.
    """
    if not enabled:
        return Bypass("off")
    if policy is None:
        return Bypass("unknown-model")
    if policy.mode == "off":
        return Bypass("off")
    if policy.mode == "observe":
        return Bypass("observe")
    if directives.no_store:
        return Bypass("request")
    if directives is NO_DIRECTIVES and policy.mode == "on":
        return PLAIN
    wants_new = directives.wants_new
    return Cached(
        may_look_up=not wants_new and policy.mode not in ("write_only", "refresh"),
        may_share=not wants_new and policy.mode != "write_only",
        may_store=policy.mode != "read_only",
    )


def plan_seedless(plan: LookupPlan, policy: Policy, controls: Controls, given: JsonObject) -> LookupPlan:
    """``plan`` for a normalised input: one without a seed may have many answers."""
    if not isinstance(plan, Cached) or policy.has_seed(given):
        return plan
    pool = policy.pool if controls.pool is None else controls.pool
    if pool == 1:
        return plan
    return replace(plan, pool=pool) if pool else Bypass("seedless")


def keeps(plan: LookupPlan) -> bool:
    """Whether the result of a run is to be kept."""
    return isinstance(plan, Cached) and plan.may_store


def keyed_part(
    policy: Policy, given: JsonObject, files: tuple[tuple[JsonPath, Digest], ...]
) -> tuple[JsonObject, tuple[tuple[JsonPath, Digest], ...], str]:
    """The fields of an input, and its files, that enter the key; and the rule that left others out.

    The rule is part of the key: a field that one policy leaves out may be what tells answers apart under another.
    """
    if policy.only is None and not policy.ignore:
        return given, files, ""
    left_out = policy.left_out(given)
    kept = {name: value for name, value in given.items() if name not in left_out}
    rule = canonical_bytes([sorted(policy.ignore), None if policy.only is None else sorted(policy.only)]).decode()
    return kept, tuple((path, digest) for path, digest in files if path and path[0] in kept), rule


Grade = Literal["fresh", "revalidate", "if-error", "stale"]
"""What a stored result is good for: an answer; an answer while a new run is made; an answer if none can be made;
nothing."""


def grade(age_s: float, policy: Policy, directives: Directives, *, is_pinned: bool) -> Grade:
    """Judge a stored result by its age in seconds.

    A client that says itself how old an answer may be gets no stale one by the operator's leave.

    Source: RFC 9111 sections 4.2 and 5.2.1; RFC 5861.
    """
    age_s = max(age_s, 0.0)  # a clock that went back makes nothing older or younger than new
    lifetime_s = policy.lifetime_s(is_pinned=is_pinned)
    if directives.wants_new:
        return "stale"
    if directives.max_age_s is not None and age_s > directives.max_age_s:
        return "stale"
    if directives.min_fresh_s is not None and lifetime_s - age_s < directives.min_fresh_s:
        return "stale"
    late_s = age_s - lifetime_s
    if late_s < 0:
        return "fresh"
    if directives.max_stale_s is not None and late_s <= directives.max_stale_s:
        return "fresh"
    if directives.names_freshness:
        return "stale"
    if late_s < policy.stale_while_revalidate_s:
        return "revalidate"
    return "if-error" if late_s < policy.stale_if_error_s else "stale"


def circumstances(policy: Policy, controls: Controls, plan: LookupPlan) -> JsonObject:
    """By which rules and wishes a result was made, for whoever asks later; what is usual is left out."""
    told: JsonObject = {
        "policy": list(policy.models) if policy is not DEFAULT_POLICY else None,
        "profile": controls.profile,
        "mode": policy.mode,
        "scope": policy.scope,
        "ignore": sorted(policy.ignore),
        "only": sorted(policy.only) if policy.only is not None else None,
        "namespace": controls.namespace,
        "extra": controls.key,
        "pool": plan.pool if isinstance(plan, Cached) and plan.pool > 1 else None,
    }
    return {name: value for name, value in told.items() if value}


def is_passing(status: int) -> bool:
    """Whether an error says nothing of the request itself: only then a stale result may stand in for a run.

    Source: RFC 5861 section 4; 429 is the same to the one who waits.
    """
    return status in (429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Store:
    """Keep the result."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Hand the result out, but do not keep it."""

    reason: Literal["bypass", "read-only", "status", "no-files", "foreign-url", "not-fetched"]


def plan_store(
    plan: LookupPlan, status: str, output: OutputPlan, fetched_files: int, *, is_text_kept: bool = False
) -> Store | Skip:
    """Decide whether a finished run is kept: succeeded, and every file fetched whole; without files, text that may be
    kept (``may_keep_text``)."""
    if isinstance(plan, Bypass):
        return Skip("bypass")
    if not plan.may_store:
        return Skip("read-only")
    if status != "succeeded":
        return Skip("status")
    if output.foreign:
        return Skip("foreign-url")
    if not output.files:
        return Store() if is_text_kept else Skip("no-files")
    return Store() if fetched_files == len(output.files) else Skip("not-fetched")


def may_keep_text(policy: Policy, given: JsonObject, output: JsonValue) -> bool:
    """Whether an output without files is a result to be kept.

    Where a model writes, a repeat usually shall differ. By default text is kept only if the input asks for the same
    again: a seed that is given, or a temperature of 0.
    """
    if output is None or policy.cache_text == "off" or sum(map(len, strings_in(output))) > MAX_TEXT_BYTES:
        return False
    temperature = given.get("temperature")
    is_greedy = type(temperature) in (int, float) and temperature == 0
    has_seed = policy.has_seed(given) and any(type(given.get(name)) is int for name in policy.seed_fields)
    return policy.cache_text == "on" or has_seed or is_greedy
