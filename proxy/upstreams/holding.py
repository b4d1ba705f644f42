"""An API whose token Hotplate holds: everything that goes there goes with that token, and no caller's ever does.

Callers are no concern of such an API, so to the rest of Hotplate it is one without accounts: they carry Hotplate's own
tokens, or none. What the API would tell of the account behind its token is for nobody of them (``is_lookup`` says what
is passed on), and its refusal of that token is no refusal of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from proxy.core.errors import UpstreamRefused, UpstreamUnavailable
from proxy.core.outputs import OutputAccess
from proxy.core.schemas import InputSchema
from proxy.upstreams.base import (
    Credential,
    Job,
    ModelDescription,
    ModelTarget,
    Outcome,
    Progress,
    Readiness,
    RelayRequest,
    RelayResponse,
    Upstream,
    UpstreamKind,
    Verdict,
)
from proxy.upstreams.relay import close

_SLUG = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_LOOKUP = re.compile(rf"/models/{_SLUG}/{_SLUG}(/versions(/[0-9a-f]{{64}})?|/examples|/readme)?")


class HoldingUpstream:
    """Implements ``Upstream`` in front of another one, with a token of its own."""

    has_accounts = False

    def __init__(self, inner: Upstream, token: str) -> None:
        self._inner = inner
        self._held = Credential(token)

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def kind(self) -> UpstreamKind:
        return self._inner.kind

    @property
    def outlives_us(self) -> bool:
        return self._inner.outlives_us

    @property
    def output_access(self) -> OutputAccess:
        return self._inner.output_access

    @property
    def api_roots(self) -> tuple[str, ...]:
        return self._inner.api_roots

    @property
    def files_url(self) -> str | None:
        return self._inner.files_url

    async def describe(self, target: ModelTarget, credential: Credential | None) -> ModelDescription:
        """See ``Upstream.describe``."""
        return await self._inner.describe(target, self._held)

    async def input_schema(self, target: ModelTarget, credential: Credential | None) -> InputSchema | None:
        """See ``Upstream.input_schema``."""
        return await self._inner.input_schema(target, self._held)

    async def run(self, job: Job, report: Callable[[Progress], None]) -> Outcome:
        """See ``Upstream.run``."""
        try:
            return await self._inner.run(replace(job, credential=self._held), report)
        except UpstreamRefused as error:
            raise _not_theirs(error) from error

    async def adopt(self, job: Job, upstream_id: str, report: Callable[[Progress], None]) -> Outcome:
        """See ``Upstream.adopt``."""
        return await self._inner.adopt(replace(job, credential=self._held), upstream_id, report)

    async def check(self, credential: Credential) -> Verdict:
        """It does not know its callers."""
        return Verdict(is_accepted=None, is_silent=True)

    async def relay(self, request: RelayRequest, credential: Credential | None) -> RelayResponse:
        """See ``Upstream.relay``.

        Raises:
            UpstreamUnavailable: it refuses the token that is held.
        """
        response = await self._inner.relay(request, self._held)
        if response.status == 401:
            await close(response)
            raise _no_use()
        return response

    async def open_stream(self, url: str, credential: Credential | None, last_event_id: str | None) -> RelayResponse:
        """See ``Upstream.open_stream``."""
        return await self._inner.open_stream(url, self._held, last_event_id)

    async def readiness(self) -> Readiness:
        """See ``Upstream.readiness``."""
        return await self._inner.readiness()

    async def aclose(self) -> None:
        """See ``Upstream.aclose``."""
        await self._inner.aclose()


def is_lookup(method: str, path: str) -> bool:
    """Whether a request only looks up a model by its name, which is the same for everybody."""
    return method in ("GET", "HEAD") and bool(_LOOKUP.fullmatch(path))


def _not_theirs(error: UpstreamRefused) -> UpstreamRefused | UpstreamUnavailable:
    return _no_use() if error.status == 401 else error


def _no_use() -> UpstreamUnavailable:
    return UpstreamUnavailable("The model service does not accept the token that Hotplate holds for it.")
