"""Whether a run at a Replicate-compatible API is asked to tell how it goes, and with which secret its posts are signed.

The secret is the one of the account that pays for the run, asked with its credential. It is asked for while the create
is on its way, and remembered; an account whose secret cannot be read is not asked to tell, and its runs are looked at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog

from proxy.core.errors import UpstreamRefused
from proxy.core.webhooks import signing_key
from proxy.upstreams.base import Job
from proxy.upstreams.hook_desk import HookDesk, HookLine
from proxy.upstreams.once import AskedOnce
from proxy.upstreams.replicate_client import ReplicateClient

SECRET_PATH = "/webhooks/default/secret"  # noqa: S105 - where it is read, and no secret itself
"""Source: Replicate's OpenAPI document, ``webhooks.default.secret.get``."""

FRESH_S = 3600.0
"""A secret younger than this is not asked for again."""

ASK_AGAIN_S = 60.0
"""After it could not be read."""

REFUSED_S = 3600.0
"""For how long an API that does not take our address is not given it again."""

MAX_REMEMBERED = 1000

_log = structlog.get_logger("hotplate.hooks")


@dataclass(frozen=True, slots=True)
class _Known:
    secret: str | None = field(repr=False)
    read_at: float

    @property
    def until(self) -> float:
        return self.read_at + (FRESH_S if self.secret is not None else ASK_AGAIN_S)


class Hooks:
    """Opens lines for the runs of one upstream.

    Args:
        desk: where posts arrive.
        clock: monotonic seconds.
    """

    def __init__(self, upstream: str, desk: HookDesk, client: ReplicateClient, clock: Callable[[], float]) -> None:
        self._upstream = upstream
        self._desk = desk
        self._client = client
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asking: AskedOnce[str, str | None] = AskedOnce()
        self._refused_until = float("-inf")

    def open(self, job: Job, authorization: dict[str, str]) -> HookLine | None:
        """A line for ``job``, ``None`` where nothing that could be believed would come."""
        account = authorization.get("authorization")
        if account is None or self._clock() < self._refused_until:
            return None
        known = self._known.get(account)
        if known is not None and known.secret is None and self._clock() < known.until:
            return None
        return self._desk.open(self._upstream, job.id, partial(self.secret, authorization))

    async def secret(self, authorization: dict[str, str], has_misfit: bool = False) -> str | None:
        """The signing secret of an account; ``None`` where it cannot be read.

        ``has_misfit``: the known one does not fit, and is read again unless that was just done.
        """
        account = authorization["authorization"]
        known = self._known.get(account)
        if known is not None and self._clock() < (known.read_at + ASK_AGAIN_S if has_misfit else known.until):
            self._known.move_to_end(account)
            return known.secret
        return await self._asking.ask(account, lambda: self._read(account, authorization))

    def took_offence(self, refusal: UpstreamRefused) -> bool:
        """Whether a create was refused for the address that we gave, which its client knows nothing of."""
        if refusal.status not in (400, 422) or b"webhook" not in refusal.content:
            return False
        self._refused_until = self._clock() + REFUSED_S
        _log.warning("webhook_address_refused", upstream=self._upstream, detail="runs are looked at instead")
        return True

    async def _read(self, account: str, authorization: dict[str, str]) -> str | None:
        document = await self._client.document(SECRET_PATH, authorization)
        key = document.get("key") if document is not None else None
        secret = key if isinstance(key, str) and signing_key(key) is not None else None
        if secret is None:
            _log.info("webhook_secret_not_read", upstream=self._upstream)
        self._known[account] = _Known(secret, self._clock())
        self._known.move_to_end(account)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return secret
