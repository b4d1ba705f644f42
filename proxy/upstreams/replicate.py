"""Any Replicate-compatible API as an upstream.

A run is created once (see ``replicate_client``) and then followed to its end (``following``); ``processing`` with files
in the output is not the end. A run that nobody wants any more is cancelled there, as far as that goes: cancelling
``run`` while the create is on its way lets the create be answered in the background, for without its answer there is no
id to cancel.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

import httpx
import orjson

from proxy.core.entitlement import Account
from proxy.core.errors import Unauthenticated, UpstreamRefused
from proxy.core.inputs import FILES_PREFIX
from proxy.core.outputs import OutputAccess
from proxy.core.schemas import InputSchema
from proxy.upstreams.addresses import EgressRefused, Location, parse_location, parse_origin
from proxy.upstreams.base import (
    DEPLOYMENTS,
    HIDDEN,
    Credential,
    Job,
    ModelDescription,
    ModelTarget,
    Outcome,
    Progress,
    Readiness,
    RelayRequest,
    RelayResponse,
    UpstreamKind,
    Verdict,
)
from proxy.upstreams.egress import Egress
from proxy.upstreams.following import Follower
from proxy.upstreams.hook_desk import HookDesk, HookLine
from proxy.upstreams.hooks import Hooks
from proxy.upstreams.http import AiohttpTransport, open_client
from proxy.upstreams.relay import Relay
from proxy.upstreams.replicate_client import (
    CANCEL_TIMEOUT_S,
    PASSING,
    Answer,
    Created,
    ReplicateClient,
    Trouble,
    authorize,
)
from proxy.upstreams.replicate_documents import check_names, is_terminal, outcome_of
from proxy.upstreams.replicate_schemas import SchemaDesk
from proxy.upstreams.replicate_streams import StreamOpener
from proxy.upstreams.replicate_versions import MAX_OPENAPI_BYTES, VersionNotes
from storage.ports import KeyValue

API_HOST = "api.replicate.com"

CANCEL_PAUSES_S = (0.0, 0.5, 2.0, 5.0)
"""Before each try to cancel a run. It costs money until the API has heard of it, and being told twice does no harm."""

WITHDRAWAL_S = 25.0
"""Longest that the end of a cancelled run is waited for: nobody waits behind it but those who count."""

_VERSION_PATH = re.compile(r"/models/([^/]+)/([^/]+)/versions/([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class ReplicateSpec:
    """One API.

    Attributes:
        name: the upstream's name.
        base_url: root of the API. Without a path, ``/v1`` is meant.
        deadline_s: seconds after which a run is given up and cancelled.
        output_hosts: hosts of output files, exact or ``*.suffix``.
        output_origins: further origins of them, e.g. ``"http://10.0.0.5:9000"``.
        connect_timeout_s: until a connection stands.
    """

    name: str
    base_url: str = f"https://{API_HOST}/v1"
    deadline_s: float = 2100.0
    output_hosts: tuple[str, ...] = ("replicate.delivery", "*.replicate.delivery")
    output_origins: tuple[str, ...] = ()
    connect_timeout_s: float = 5.0


class ReplicateUpstream:
    """Implements ``Upstream`` over HTTP.

    Args:
        spec: which API.
        notes: where versions are remembered.
        reads, writes: transports for what may be repeated and what may not; the latter must not keep connections.
        egress: for streams that are not at the API's own origin; ``None`` = one of its own.
        desk: where the API may tell how runs go; ``None`` = nowhere.
        sleep, clock, now: ways to wait and to tell the time (monotonic, epoch seconds).

    Attributes:
        on_refusal: told each token that the API has just refused, by 401 or 403.

    Raises:
        ValueError: an address in ``spec`` is none.
    """

    def __init__(
        self,
        spec: ReplicateSpec,
        notes: KeyValue,
        *,
        reads: httpx.AsyncBaseTransport | None = None,
        writes: httpx.AsyncBaseTransport | None = None,
        egress: Egress | None = None,
        desk: HookDesk | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._spec = spec
        api, self._access = _addresses(spec)
        self._root = f"{api.scheme}://{api.netloc}{api.target}"
        self._versions = VersionNotes(spec.name, notes)
        self._reads = open_client(reads or AiohttpTransport(reuses_connections=True))
        self._writes = open_client(writes or AiohttpTransport(reuses_connections=False))
        self.on_refusal: Callable[[str], None] = lambda token: None
        for client in (self._reads, self._writes):
            client.event_hooks = {"response": [self._heard]}
        self._client = ReplicateClient(self._root, self._reads, self._writes, spec.connect_timeout_s, now)
        self._schemas = SchemaDesk(self._client, self._versions, clock)
        self._relay = Relay(self._root, self._reads, self._writes, spec.connect_timeout_s)
        self._egress = egress or Egress()
        self._owns_egress = egress is None
        self._streams = StreamOpener(api.origin, self._access, self._reads, self._egress, spec.connect_timeout_s)
        self._hooks = Hooks(spec.name, desk, self._client, clock) if desk is not None else None
        self._follower = Follower(self._client, self._versions, spec.deadline_s, sleep=sleep, clock=clock, now=now)
        self._sleep = sleep
        self._clock = clock
        self._now = now
        self._withdrawals: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def kind(self) -> UpstreamKind:
        return "replicate"

    @property
    def has_accounts(self) -> bool:
        return True

    @property
    def outlives_us(self) -> bool:
        return True

    @property
    def output_access(self) -> OutputAccess:
        return self._access

    @property
    def api_roots(self) -> tuple[str, ...]:
        """Its root, and the one that Replicate's own answers name, whichever way they came."""
        return tuple(dict.fromkeys((self._root, f"https://{API_HOST}/v1")))

    async def describe(self, target: ModelTarget, credential: Credential | None) -> ModelDescription:
        """What would run, without asking the API.

        A pinned version's ``model`` is a label that may become known later (``""`` until then, for a bare version), so
        it does not belong in a key. A deployment's is ``"deployments/owner/name"``.

        Raises:
            NotFound: the names are no names.
        """
        check_names(target)
        if target.is_deployment:
            name = f"{DEPLOYMENTS}{target.model}"
            return ModelDescription(name, HIDDEN, is_pinned=False, schema=None, deployment=target.model)
        if target.version is None:
            return ModelDescription(target.model, HIDDEN, is_pinned=False, schema=None)
        known = await self._versions.recall(target.version)
        return ModelDescription(known.model or target.model, target.version, is_pinned=True, schema=known.schema)

    @property
    def files_url(self) -> str | None:
        return f"{self._root}{FILES_PREFIX}"

    async def input_schema(self, target: ModelTarget, credential: Credential | None) -> InputSchema | None:
        """See ``Upstream.input_schema``; asks the API, on the caller's account."""
        check_names(target)
        return await self._schemas.find(target, authorize(credential))

    async def run(self, job: Job, report: Callable[[Progress], None]) -> Outcome:
        """See ``Upstream.run``; also raises ``NotFound`` and ``Unauthenticated`` for what cannot be sent at all."""
        check_names(job.target)
        authorization = authorize(job.credential)
        line = self._hooks.open(job, authorization) if self._hooks is not None else None
        creation = asyncio.create_task(self._create(job, authorization, line))
        return await self._see_through(job, creation, authorization, report, line)

    async def adopt(self, job: Job, upstream_id: str, report: Callable[[Progress], None]) -> Outcome:
        """See ``Upstream.adopt``."""
        authorization = authorize(job.credential)
        line = self._hooks.open(job, authorization) if self._hooks is not None else None
        return await self._see_through(job, asyncio.create_task(_unseen(upstream_id)), authorization, report, line)

    async def _create(self, job: Job, authorization: dict[str, str], line: HookLine | None) -> Created:
        """Have the run created, once; a second time only without an address to tell us, where that was refused."""
        if line is None or self._hooks is None:
            return await self._client.create(job, authorization)
        secret = asyncio.create_task(self._hooks.secret(authorization))  # known by the time the first post comes
        secret.add_done_callback(_drop_error)
        try:
            return await self._client.create(job, authorization, line.url)
        except UpstreamRefused as refusal:
            if not self._hooks.took_offence(refusal):
                raise
        return await self._client.create(job, authorization)

    async def _see_through(
        self,
        job: Job,
        creation: asyncio.Task[Created],
        authorization: dict[str, str],
        report: Callable[[Progress], None],
        line: HookLine | None,
    ) -> Outcome:
        """Follow what ``creation`` gives to its end, and cancel it there if nobody wants it any more."""
        began_at = self._clock()
        has_ended = False
        try:
            created = await asyncio.shield(creation)
            if line is not None:
                line.upstream_id = created.prediction["id"]
            outcome = await self._follower.follow(job, created, authorization, began_at, report, line)
            has_ended = True
            return outcome
        except asyncio.CancelledError:
            if creation.done() and job.is_detached():
                raise
            await asyncio.wait({self._withdraw(job, creation, authorization)}, timeout=WITHDRAWAL_S)
            raise
        except Exception:
            # Waited for, since how it ended there is what it is counted as.
            await asyncio.wait({self._withdraw(job, creation, authorization)}, timeout=CANCEL_TIMEOUT_S)
            raise
        finally:
            if line is not None:
                line.close(has_seen_end=has_ended)

    async def _heard(self, response: httpx.Response) -> None:
        """Every answer passes here, whatever asked for it: a refused credential is told to ``on_refusal`` at once."""
        scheme, _, token = response.request.headers.get("authorization", "").partition(" ")
        if response.status_code in (401, 403) and scheme == "Bearer" and token:
            self.on_refusal(token)

    async def check(self, credential: Credential) -> Verdict:
        """Ask for the account behind ``credential``. Never raises."""
        try:
            answer = await self._client.account(authorize(credential))
        except Unauthenticated:
            return Verdict(is_accepted=False)
        if answer is None:
            return Verdict(is_accepted=None)
        if answer.status in (401, 403):
            content_type = answer.headers.get("content-type", "application/json")
            return Verdict(is_accepted=False, refusal=(answer.status, content_type, answer.content))
        if answer.is_ok:
            return Verdict(is_accepted=True, account=_account(answer))
        return Verdict(is_accepted=None, is_silent=answer.status < 500 and answer.status not in PASSING)

    async def relay(self, request: RelayRequest, credential: Credential | None) -> RelayResponse:
        """See ``Upstream.relay``. Bytes pass as they come; a version's document is remembered on its way."""
        response = await self._relay.send(request, authorize(credential))
        asked = _VERSION_PATH.fullmatch(request.path)
        if asked is None or request.method != "GET" or response.status != 200:
            return response
        body = self._remembering(response.body, f"{asked[1]}/{asked[2]}", asked[3])
        return RelayResponse(response.status, response.headers, body, response.aclose)

    async def open_stream(self, url: str, credential: Credential | None, last_event_id: str | None) -> RelayResponse:
        """See ``Upstream.open_stream``. The credential goes to the API's own origin and nowhere else."""
        return await self._streams.open(url, authorize(credential), last_event_id)

    async def remember_version(self, model: str, version: str, document: object) -> None:
        """Learn from the answer to ``GET /models/{owner}/{name}/versions/{id}``; anything else is ignored."""
        if not isinstance(document, dict) or document.get("id") != version:
            return
        await self._versions.learn_model(version, model)
        openapi = document.get("openapi_schema")
        if isinstance(openapi, dict):
            await self._versions.learn_schema(version, openapi)

    async def readiness(self) -> Readiness:
        """Whether the API answers at all; sends no credential."""
        answered = await self._client.knock()
        if isinstance(answered, str):
            return Readiness("down", f"{self._root} does not answer ({answered})")
        if answered >= 500:
            return Readiness("degraded", f"{self._root} answers {answered}")
        return Readiness("warm", f"{self._root} answers")

    async def aclose(self) -> None:
        """Let cancellations on their way arrive, for a few seconds, and close all connections."""
        if self._withdrawals:
            _, late = await asyncio.wait(self._withdrawals, timeout=CANCEL_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._reads.aclose()
        await self._writes.aclose()
        if self._owns_egress:
            await self._egress.aclose()

    def _withdraw(self, job: Job, creation: asyncio.Task[Created], authorization: dict[str, str]) -> asyncio.Task[None]:
        """Cancel a run upstream in the background, once its create is answered."""
        task = asyncio.create_task(self._cancel(job, creation, authorization))
        self._withdrawals.add(task)
        task.add_done_callback(self._withdrawals.discard)
        return task

    async def _cancel(self, job: Job, creation: asyncio.Task[Created], authorization: dict[str, str]) -> None:
        try:
            prediction = (await creation).prediction
        except Exception:  # it was not taken, or nobody knows: there is no id to cancel
            return
        is_heard = False
        for pause_s in CANCEL_PAUSES_S:
            if is_terminal(prediction):
                break
            if pause_s:
                await self._sleep(pause_s)
            if is_heard:
                seen = await self._client.look(prediction["id"], authorization)
                prediction = prediction if isinstance(seen, Trouble) else seen
            else:
                told = await self._client.cancel(prediction["id"], authorization)
                is_heard, prediction = told is not None, told or prediction
        with contextlib.suppress(ValueError):  # it does not say yet how it ended
            job.tell_end(outcome_of(prediction, now=self._now()))

    async def _remembering(self, body: AsyncIterator[bytes], model: str, version: str) -> AsyncIterator[bytes]:
        """``body`` unchanged; when all of it has passed, it is read as a version's document."""
        passed = bytearray()
        async for chunk in body:
            if len(passed) <= MAX_OPENAPI_BYTES:
                passed += chunk
            yield chunk
        if len(passed) <= MAX_OPENAPI_BYTES:
            with contextlib.suppress(ValueError):
                await self.remember_version(model, version, orjson.loads(passed))


def _drop_error(task: asyncio.Task[str | None]) -> None:
    """What it raised is of no interest: without the secret, posts are not believed."""
    if not task.cancelled():
        task.exception()


async def _unseen(upstream_id: str) -> Created:
    """A prediction of which only the id is known yet."""
    return Created({"id": upstream_id, "status": "starting"})


def _account(answer: Answer) -> Account | None:
    """The account that an answer names; one without a name is none."""
    with contextlib.suppress(ValueError):
        document = orjson.loads(answer.content)
        if isinstance(document, dict):
            kind, username = document.get("type"), document.get("username")
            if isinstance(username, str) and username:
                return Account(kind if isinstance(kind, str) else "", username)
    return None


def _addresses(spec: ReplicateSpec) -> tuple[Location, OutputAccess]:
    """The API's root, its path without a slash at the end, and from where its outputs come.

    An API that the operator runs or chose himself may serve outputs from its own origin.
    """
    try:
        location = parse_location(spec.base_url)
    except EgressRefused as error:
        raise ValueError(f"{spec.base_url!r} is not the address of an API: {error.detail}") from error
    if "?" in location.target:
        raise ValueError(f"{spec.base_url!r} is not the address of an API: it has a query")
    path = location.target.rstrip("/") or "/v1"
    own = () if location.host == API_HOST else (location.origin,)
    origins = (*own, *map(parse_origin, spec.output_origins))
    return replace(location, target=path), OutputAccess(spec.output_hosts, tuple(dict.fromkeys(origins)))
