"""What Cog's upstreams have in common by what Cog lacks: accounts, files, and an API to pass requests on to."""

from __future__ import annotations

from collections.abc import Callable

from proxy.core.errors import NotFound, UpstreamUnavailable
from proxy.core.schemas import InputSchema
from proxy.upstreams.base import (
    Credential,
    Job,
    ModelTarget,
    Outcome,
    Progress,
    RelayRequest,
    RelayResponse,
    Verdict,
)


class WithoutAccounts:
    """Part of an ``Upstream`` in front of Cog."""

    has_accounts = False
    api_roots: tuple[str, ...] = ()
    files_url: str | None = None
    outlives_us = False

    async def adopt(self, job: Job, upstream_id: str, report: Callable[[Progress], None]) -> Outcome:
        """A run at a Cog server is its connection, and that is gone."""
        raise UpstreamUnavailable("A run of a Cog server cannot be found again.")

    async def check(self, credential: Credential) -> Verdict:
        """Cog has no accounts to ask."""
        return Verdict(is_accepted=None)

    async def relay(self, request: RelayRequest, credential: Credential | None) -> RelayResponse:
        """There is nothing behind Cog to pass a request on to."""
        raise NotFound("The requested resource could not be found.")

    async def open_stream(self, url: str, credential: Credential | None, last_event_id: str | None) -> RelayResponse:
        """Runs at Cog servers are told by their progress."""
        raise NotFound("The requested resource could not be found.")

    async def input_schema(self, target: ModelTarget, credential: Credential | None) -> InputSchema | None:
        """There is nobody to ask but the server itself, and ``describe`` has."""
        return None
