"""What is settled of a create request before any look-up: the model, the input, its files, and the key.

A key says all that a result depends on, and nothing else (``docs/keys.md``). In doubt there is none, and the request
goes past the cache.
"""

from __future__ import annotations

from dataclasses import replace

from proxy.core.controls import Controls
from proxy.core.entitlement import parse_rule
from proxy.core.errors import InputInvalid
from proxy.core.keys import KeyIngredients, derive_key, variant_key
from proxy.core.outputs import substitute
from proxy.core.policy import DEFAULT_POLICY, Bypass, Cached, Policy, keyed_part, permitted, plan_lookup, plan_seedless
from proxy.core.schemas import normalise_input
from proxy.engine.credentials import Gatekeeper
from proxy.engine.file_inputs import FileInputs
from proxy.engine.policies import PolicyDesk
from proxy.engine.runs import Create, Prepared
from proxy.upstreams.base import DEPLOYMENTS, ModelDescription
from storage.digest import Digest, PredictionKey, Scope
from storage.records import JsonObject, JsonPath


class Preparation:
    """Prepares create requests. Starts nothing and stores nothing."""

    def __init__(self, file_inputs: FileInputs, gatekeeper: Gatekeeper, desk: PolicyDesk) -> None:
        self._file_inputs = file_inputs
        self._gatekeeper = gatekeeper
        self._desk = desk

    async def prepare(self, create: Create) -> Prepared:
        """Describe the model, find its policy, normalise the input, identify its files, derive the key.

        Raises:
            Forbidden: the request uses a control that the policy forbids.
            InputInvalid: an upstream without validation of its own would be sent nonsense.
            UpstreamRefused: the upstream refuses the credential with which a file was to be fetched.
            NotFound, UpstreamUnavailable, UpstreamTimeout: see ``Upstream.describe``.
        """
        return await self._prepare(create)

    async def is_observed(self, create: Create) -> bool:
        """Whether the policy has the request passed on, and only looks at what would have become of it.

        Raises:
            NotFound, UpstreamUnavailable, UpstreamTimeout: see ``Upstream.describe``.
        """
        book = self._desk.book
        if not book.observes:
            return False
        policy = book.find(create.controls.profile, (await _describe(create)).policy_name)
        return policy is not None and policy.mode == "observe"

    async def foresee(self, create: Create) -> Prepared:
        """What ``prepare`` would settle if the policy's mode were ``on`` and the kill switch off.

        Nobody is asked for it: files of somebody else stand in the key under their URLs (``Identified.reads_urls``).

        Raises:
            HotplateError: see ``prepare``.
        """
        return await self._prepare(create, foresees=True)

    async def _prepare(self, create: Create, *, foresees: bool = False) -> Prepared:
        upstream = create.upstream
        desk = self._desk
        described = await _describe(create)
        found = desk.book.find(create.controls.profile, described.policy_name)
        if foresees and found is not None:
            found = replace(found, mode="on")
        policy = found or DEFAULT_POLICY
        controls = permitted(policy, create.controls)
        plan = plan_lookup(found, controls.directives, enabled=desk.uses_cache or foresees)
        is_learnable = described.schema is None and described.is_pinned and isinstance(plan, Cached) and not foresees
        # What is learned now is known at the next request, too: both are to have one key.
        if is_learnable and await self._file_inputs.learn(create, create.given):
            learned = await upstream.describe(create.target, create.credential)
            described = replace(learned, deployment=described.deployment)
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
            create,
            given,
            key_input,
            described.schema,
            wants_key=isinstance(plan, Cached),
            left_out=policy.left_out(given),
            may_ask=not foresees,
        )
        if identified.bypass is not None:
            plan = Bypass(identified.bypass)
        plan = plan_seedless(plan, policy, controls, key_input)
        scope = self._gatekeeper.results_scope(upstream, create.credential, parse_rule(policy.scope))
        key, shown = None, identified.shown
        if isinstance(plan, Cached):
            key = _derive(create, described, scope, policy, controls, identified.key_input, identified.files)
            if scope != create.scope and not self._gatekeeper.is_alone(upstream, create.credential, scope):
                # Others will read it with the result: only what they have asked with as well. A URL may open a file to
                # whoever knows it.
                shown, _, _ = keyed_part(policy, identified.key_input, ())
        return Prepared(described, plan, sent, shown, key, scope, identified, policy, controls)


async def _describe(create: Create) -> ModelDescription:
    described = await create.upstream.describe(create.target, create.credential)
    return replace(described, deployment=create.target.model) if create.target.is_deployment else described


def former_key_of(create: Create, prepared: Prepared) -> PredictionKey | None:
    """The key that this very request had while the schema of its version was not known; ``None`` if it is the same.

    A client may ask for a version's schema after its first run: its second one must not miss for that.
    """
    if create.upstream.kind != "replicate" or prepared.described.schema is None:
        return None
    files = prepared.identified.files
    given = substitute(create.given, [(path, None) for path, _ in files])
    scope, policy = prepared.results_scope, prepared.policy
    key = _derive(create, prepared.described, scope, policy, prepared.controls, given, files)
    return key if key != prepared.key else None


def _derive(
    create: Create,
    described: ModelDescription,
    scope: Scope,
    policy: Policy,
    controls: Controls,
    given: JsonObject,
    files: tuple[tuple[JsonPath, Digest], ...],
) -> PredictionKey:
    """The key of a request for the model that was described."""
    # A version of a Replicate API names its model by itself, and a request may give the version alone.
    model = "" if create.upstream.kind == "replicate" and described.is_pinned else described.model
    if described.deployment is not None:
        model = f"{DEPLOYMENTS}{described.deployment}"
    given, files, rule = keyed_part(policy, given, files)
    key = derive_key(KeyIngredients(scope, create.upstream.name, model, described.version, given, files))
    return variant_key(key, namespace=controls.namespace, extra=controls.key, rule=rule)
