"""The one seam between Hotplate and a model service.

An upstream runs jobs and answers a few questions about models and credentials. It knows nothing of keys,
caches or clients' predictions: the engine holds those. Three kinds stand behind this Protocol:
``replicate`` (any Replicate-compatible API), ``cog`` (the user's own Cog servers) and ``local`` (Cog servers
that Hotplate starts itself).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from proxy.core.entitlement import Account
from proxy.core.outputs import OutputAccess as OutputAccess
from proxy.core.schemas import InputSchema
from storage.records import JsonObject, JsonValue

UpstreamKind = Literal["replicate", "cog", "local"]

DEPLOYMENTS = "deployments/"
"""What stands before a deployment's ``owner/name`` where a model's name is asked for. With three parts it is no model's
name, so the two are namespaces of their own: the version behind a deployment changes silently."""

HIDDEN = "hidden"
"""Replicate's word for the version of a model that does not tell it."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A caller's token without its scheme word, so that ``Token x`` and ``Bearer x`` are one caller."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ModelTarget:
    """What a create request names.

    Attributes:
        owner, name: the model; both ``""`` when only a version was given (``{"version": "<64 hex>"}``).
        version: 64 hex digits when the request pins one, else ``None``.
        is_deployment: the name is a deployment's, a namespace of its own.
    """

    owner: str
    name: str
    version: str | None = None
    is_deployment: bool = False

    @property
    def model(self) -> str:
        """``"owner/name"``, or ``""`` when only a version is known."""
        return f"{self.owner}/{self.name}" if self.name else ""


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What an upstream says of the model that a job would run on.

    Attributes:
        model: ``"owner/name"`` as predictions will show it, unless the run itself tells another.
        version: the version that will run: 64 hex digits, or ``"hidden"`` where the upstream does not tell.
        is_pinned: ``version`` names one fixed build, so a result never grows old.
        schema: the input schema of exactly that version, or ``None`` when it is not known.
        openapi: the whole OpenAPI document behind ``schema``, for the model and version look-ups.
        deployment: ``"owner/name"`` of the deployment that was asked.
    """

    model: str
    version: str
    is_pinned: bool
    schema: InputSchema | None
    openapi: JsonObject | None = None
    deployment: str | None = None

    @property
    def policy_name(self) -> str:
        """What globs over models are matched with; ``""`` while the model is not known."""
        return self.model if self.deployment is None else f"{DEPLOYMENTS}{self.deployment}"


@dataclass(frozen=True, slots=True)
class Job:
    """One run that the engine wants.

    Attributes:
        id: execution id, 26 characters ``[a-z2-7]``; not a client's prediction id.
        target: what to run.
        version: the resolved version of ``ModelDescription``.
        input: what to send.
        credential: on whose account (``replicate`` alone looks at it).
        wants_s: seconds for which some client will wait for the answer; a hint, 0.0 when none waits.
        tell_end: told how a run that was cancelled ended there, where the upstream says so: it is paid for.
        is_detached: asked when the run is cancelled: whether it shall go on where it is, because only this process
            ends.
        is_watched: asked while it goes on: whether anybody looks at its logs and output before the end.
    """

    id: str
    target: ModelTarget
    version: str
    input: JsonObject
    credential: Credential | None
    wants_s: float = 0.0
    is_detached: Callable[[], bool] = lambda: False
    is_watched: Callable[[], bool] = lambda: False
    tell_end: Callable[[Outcome], None] = lambda outcome: None


@dataclass(frozen=True, slots=True)
class Progress:
    """News of a run on its way. The first one means: the upstream (or its queue) has taken the job.

    Attributes:
        status: ``"starting"`` while queued or booting, ``"processing"`` once the model works on it.
        at: epoch seconds.
        logs: all logs so far.
        is_booting: it waits for a boot right now.
        upstream_id: the upstream's own prediction id, once known.
        output: the output so far, ``None`` while there is none; files under the upstream's own URLs.
        has_all_files: the output is whole although the run has not ended: the upstream answered a waiting create so.
        stream_url: where the upstream streams the run, if it does.
        model: ``"owner/name"`` as the upstream says it of this very run: what stands behind a deployment may change.
    """

    status: Literal["starting", "processing"]
    at: float
    logs: str = ""
    is_booting: bool = False
    upstream_id: str | None = None
    web_url: str | None = None
    output: JsonValue = None
    has_all_files: bool = False
    stream_url: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: the API's word.
        output: output document; files are ``data:`` or http(s) URLs in it, not fetched yet.
        error: the model's error text for a failed run.
        logs: all logs.
        metrics: numbers by name; ``predict_time`` in seconds where the upstream tells.
        started_at, completed_at: epoch seconds.
        boot_s: seconds of waiting that a boot caused; 0.0 = the model was warm.
        download_s: seconds of simulated weight download, never part of ``boot_s``.
        upstream_id: the upstream's own prediction id, if it has one.
        attempts: how many times the model was asked (2 = retried once elsewhere).
        model: see ``Progress``.
    """

    status: Literal["succeeded", "failed", "canceled", "aborted"]
    output: JsonValue
    error: str | None
    logs: str
    metrics: JsonObject
    started_at: float
    completed_at: float
    boot_s: float = 0.0
    download_s: float = 0.0
    upstream_id: str | None = None
    web_url: str | None = None
    attempts: int = 1
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an upstream accepts a credential.

    Attributes:
        is_accepted: ``True`` accepted, ``False`` refused, ``None`` it could not be asked.
        refusal: the upstream's own answer when refused, to be relayed: (status, content type, body).
        account: the account behind the credential where the upstream tells.
        is_silent: it answers, but has no word on accounts: asking again later would not mend that.
    """

    is_accepted: bool | None
    refusal: tuple[int, str, bytes] | None = None
    account: Account | None = None
    is_silent: bool = False


@dataclass(frozen=True, slots=True)
class RelayRequest:
    """A request that Hotplate does not handle itself, to be passed on.

    Attributes:
        method: any HTTP method.
        path: path below the API's root, e.g. ``"/collections"``, percent-encoded as it came.
        query: raw query string without ``?``.
        headers: request headers without hop-by-hop ones, Host, framing and cookies.
        body: the body's bytes as they arrive; empty iterator for none.
        has_body: whether a body is to be sent at all.
        body_bytes: the body's length where it is known before, so that it need not be sent in chunks.
    """

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: AsyncIterator[bytes]
    has_body: bool
    body_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RelayResponse:
    """The upstream's answer to a passed-on request; ``body`` must be drained or ``aclose`` called."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: AsyncIterator[bytes]
    aclose: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class Readiness:
    """State of an upstream for ``/readyz``, ``doctor`` and metrics: a word, a sentence, and per-server detail."""

    state: Literal["cold", "booting", "warm", "degraded", "down", "unknown"]
    detail: str
    servers: Mapping[str, str] = field(default_factory=dict)


class Upstream(Protocol):
    """A model service."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> UpstreamKind: ...

    @property
    def has_accounts(self) -> bool:
        """Whether credentials mean something to it. Where not, Hotplate's own tokens guard it."""
        ...

    @property
    def outlives_us(self) -> bool:
        """Whether a run goes on there when this process ends, and can be found again."""
        ...

    @property
    def output_access(self) -> OutputAccess: ...

    @property
    def api_roots(self) -> tuple[str, ...]:
        """Addresses under which its API names itself in links, its own root first, no slash at the end.

        ``()`` where there is no API to pass requests on to.
        """
        ...

    @property
    def files_url(self) -> str | None:
        """Where it names the files that were uploaded to it, ending in ``/files/``; ``None`` where it takes none."""
        ...

    async def describe(self, target: ModelTarget, credential: Credential | None) -> ModelDescription:
        """What would run for ``target``. Answers from memory where it can: it is on the hit path.

        Raises:
            NotFound: there is no such model or version here.
            UpstreamUnavailable, UpstreamTimeout: it cannot be told now.
        """
        ...

    async def input_schema(self, target: ModelTarget, credential: Credential | None) -> InputSchema | None:
        """The input schema of what would run now, asked for if need be; ``None`` where it is not told.

        It says where files may stand in an input. Unlike the one of ``describe`` it may be that of a version which
        is about to change, so no input is normalised by it.

        Raises:
            NotFound, Unauthenticated: there can be no such model, or no such credential.
        """
        ...

    async def run(self, job: Job, report: Callable[[Progress], None]) -> Outcome:
        """Run ``job`` to its end. Cancelling this coroutine cancels the run upstream, as far as that goes.

        A failed prediction is an ``Outcome``, not an exception. ``report`` may be called any number of times.

        Raises:
            UpstreamRefused: the job was not taken; nothing ran.
            UpstreamUnavailable, UpstreamTimeout: nobody knows, or nothing could be reached.
            Overloaded: its bounded queue is full.
        """
        ...

    async def adopt(self, job: Job, upstream_id: str, report: Callable[[Progress], None]) -> Outcome:
        """Like ``run``, for a run that a former process began and that goes on under ``upstream_id``.

        Raises:
            UpstreamUnavailable: it cannot be found again.
            UpstreamTimeout: it did not end in time.
        """
        ...

    async def check(self, credential: Credential) -> Verdict:
        """Ask whether ``credential`` is good. Never raises."""
        ...

    async def relay(self, request: RelayRequest, credential: Credential | None) -> RelayResponse:
        """Pass a request on.

        Raises:
            NotFound: this kind of upstream has no such thing.
            UpstreamUnavailable, UpstreamTimeout: no answer.
        """
        ...

    async def open_stream(self, url: str, credential: Credential | None, last_event_id: str | None) -> RelayResponse:
        """The event stream of a run, whose place its ``Progress`` told; what came up to ``last_event_id`` is left out.

        Raises:
            NotFound: this kind of upstream has no streams.
            UpstreamUnavailable, UpstreamTimeout: no answer; reading the body may raise the same.
        """
        ...

    async def readiness(self) -> Readiness:
        """How it is now; never raises, never starts anything, bounded in time."""
        ...

    async def aclose(self) -> None:
        """Stop everything it started, children included."""
        ...
