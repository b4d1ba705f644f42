"""The secrets that webhooks are signed with.

A receiver checks with the secret that ``GET /webhooks/default/secret`` tells its owner. At an upstream with accounts
that is the account's own, which is read with the caller's credential, kept sealed, and read anew when it is older
than an hour; so what the upstream itself once sent and what Hotplate sends are checked alike. Where it cannot be
read, the secret derived for the caller's scope is told instead. Everything is signed with both.

A token that is somebody at several upstreams is told one secret, that of its *home*: the first upstream with
accounts, else the first of all. A link from each of its other scopes to the scope there lets predictions of any
upstream be signed with it. A scope that all callers share (an open upstream on loopback) has no such link: a secret
of one caller must not sign what another one asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import structlog

from proxy.core.errors import HotplateError, NotFound, Unauthenticated, UpstreamRefused
from proxy.core.sealing import Sealer, Unsealable
from proxy.core.secrets import Secrets
from proxy.core.webhooks import derive_secret, signing_key
from proxy.engine.credentials import Gatekeeper
from proxy.upstreams.base import Credential, RelayRequest, Upstream
from proxy.upstreams.bodies import nothing
from proxy.upstreams.hooks import SECRET_PATH
from proxy.upstreams.relay import read_whole
from storage.digest import Scope
from storage.errors import StorageError
from storage.memory import ByteLru
from storage.ports import KeyValue
from storage.records import JsonObject

FRESH_S = 3600.0
"""A secret younger than this is not asked for again."""

ASK_AGAIN_S = 60.0
"""After it could not be read. Creates come by the hundred, and an API without such secrets is not to hear of each."""

READ_TIMEOUT_S = 5.0
"""Longest that a delivery waits for the secret; then it goes with the derived one alone."""

MAX_ANSWER_BYTES = 64 * 1024
KEEP_S = 30 * 86_400.0
MAX_REMEMBERED = 10_000
"""Scopes whose secret is in memory; of others the rows are read."""

_log = structlog.get_logger("hotplate.webhooks")


class Place(NamedTuple):
    """A scope at an upstream."""

    upstream: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class SecretAnswer:
    """What a caller is told, with its content type."""

    content_type: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Known:
    key: str | None = field(repr=False)
    due_at: float


class WebhookSecrets:
    """Knows what to sign with for a scope. Used from the event loop alone."""

    def __init__(
        self,
        secrets: Secrets,
        notes: KeyValue,
        gatekeeper: Gatekeeper,
        upstreams: Sequence[Upstream],
        now: Callable[[], float],
    ) -> None:
        """``now`` in epoch seconds; ``upstreams`` in the order of the settings."""
        self._secrets = secrets
        self._sealer = Sealer(secrets)
        self._notes = notes
        self._gatekeeper = gatekeeper
        self._upstreams = sorted(upstreams, key=lambda upstream: not upstream.has_accounts)
        self._now = now
        self._known: ByteLru[Place, _Known] = ByteLru(MAX_REMEMBERED)
        self._links: ByteLru[Place, Place] = ByteLru(MAX_REMEMBERED)
        self._reading: dict[Place, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def home(self, credential: Credential | None, upstream_name: str | None = None) -> tuple[Upstream, Scope]:
        """The upstream whose secret a caller is told, and its scope there; or those at the upstream of that name.

        Raises:
            Unauthenticated: it is nobody there.
            NotFound: there is no such upstream.
        """
        refusal: HotplateError = NotFound("The requested resource could not be found.")
        for upstream in self._upstreams:
            if upstream_name in (None, upstream.name):
                try:
                    return upstream, self._gatekeeper.scope_of(upstream, credential)
                except Unauthenticated as error:
                    refusal = error
        raise refusal

    def learn(self, upstream: Upstream, credential: Credential | None, scope: Scope) -> None:
        """See to what signing for ``scope`` will need; to be called at each create with a webhook.

        Returns at once and never raises: asking goes on by itself, and a delivery waits for it.
        """
        if credential is None or self._is_shared(upstream, scope):
            return
        owners = [(upstream, scope)]
        home, home_scope = self.home(credential)
        if home is not upstream:
            # A token is shown to an upstream that its request does not go to only where it is known to be somebody.
            if self._gatekeeper.is_accepted_now(home, credential):
                owners.append((home, home_scope))
            self._link(Place(upstream.name, scope), Place(home.name, home_scope))
        for owner, owner_scope in owners:
            place = Place(owner.name, owner_scope)
            known = self._known.get(place)
            is_fresh = known is not None and self._now() < known.due_at
            if owner.has_accounts and place not in self._reading and not is_fresh:
                self._reading[place] = self._start(self._refresh(owner, credential, place))

    async def signing(self, place: Place) -> tuple[str, ...]:
        """The secrets to sign with for a scope, at least one; waits a little for one that is being read."""
        places = [place]
        link = await self._linked(place)
        if link is not None:
            places.append(link)
        reading = [self._reading[one] for one in places if one in self._reading]
        if reading:
            await asyncio.wait(reading)
        found = [known.key for known in [await self._load(one) for one in places] if known is not None and known.key]
        return tuple(dict.fromkeys([*found, *(derive_secret(self._secrets, one.scope) for one in places)]))

    async def tell(self, upstream: Upstream, credential: Credential | None, scope: Scope) -> SecretAnswer:
        """What ``GET /webhooks/default/secret`` says: the upstream's answer as it is, else the derived secret.

        Raises:
            UpstreamRefused: the upstream refuses the credential; its own answer.
        """
        if upstream.has_accounts and credential is not None:
            status, content_type, body = await _ask(upstream, credential)
            if status == 401:
                self._gatekeeper.refuse(upstream, credential)
                raise UpstreamRefused(status, [("content-type", content_type)], body)
            key = _read_key(status, body)
            if key is not None:
                await self._remember(Place(upstream.name, scope), key)
                return SecretAnswer(content_type, body)
        body = orjson.dumps({"key": derive_secret(self._secrets, scope)})
        return SecretAnswer("application/json; charset=utf-8", body)

    async def aclose(self) -> None:
        """Stop asking, and let what was begun to be written be written."""
        for task in list(self._reading.values()):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _is_shared(self, upstream: Upstream, scope: Scope) -> bool:
        """Whether it is the scope of everybody who reaches an open upstream."""
        try:
            return self._gatekeeper.scope_of(upstream, None) == scope
        except Unauthenticated:
            return False

    # -- the account's own -----------------------------------------------------------------------------

    async def _refresh(self, upstream: Upstream, credential: Credential, place: Place) -> None:
        try:
            kept = await self._load(place)
            if kept is not None and self._now() < kept.due_at:
                return
            status, _, body = await _ask(upstream, credential)
            key = _read_key(status, body)
            if key is not None:
                await self._remember(place, key)
                return
            _log.info("webhook_secret_not_read", upstream=place.upstream, status=status)
            self._known.put(place, _Known(kept.key if kept else None, self._now() + ASK_AGAIN_S), 1)
        finally:
            del self._reading[place]

    async def _remember(self, place: Place, key: str) -> None:
        now = self._now()
        self._known.put(place, _Known(key, now + FRESH_S), 1)
        await self._write(_row("webhook-secret", place), {"key": key, "at": now})

    async def _load(self, place: Place) -> _Known | None:
        known = self._known.get(place)
        if known is None:
            row = await self._read(_row("webhook-secret", place))
            if row is None:
                return None
            known = _Known(row["key"], row["at"] + FRESH_S)
            self._known.put(place, known, 1)
        return known

    # -- links -----------------------------------------------------------------------------------------

    def _link(self, place: Place, home: Place) -> None:
        if self._links.get(place) == home:
            return
        self._links.put(place, home, 1)
        self._start(self._write(_row("webhook-home", place), {"upstream": home.upstream, "scope": home.scope.hex()}))

    async def _linked(self, place: Place) -> Place | None:
        link = self._links.get(place)
        if link is None:
            row = await self._read(_row("webhook-home", place))
            if row is not None:
                link = Place(row["upstream"], Scope(bytes.fromhex(row["scope"])))
                self._links.put(place, link, 1)
        return link

    # -- rows ------------------------------------------------------------------------------------------

    async def _read(self, name: str) -> JsonObject | None:
        sealed = await self._notes.get(name)
        if sealed is None:
            return None
        try:
            row: JsonObject = orjson.loads(self._sealer.open(sealed, name))
        except Unsealable:
            return None
        return row

    async def _write(self, name: str, row: JsonObject) -> None:
        try:
            await self._notes.put(name, self._sealer.seal(orjson.dumps(row), name), KEEP_S)
        except StorageError as error:
            _log.warning("webhook_secret_not_written", reason=type(error).__name__)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _row(kind: str, place: Place) -> str:
    return f"{kind}:{place.upstream}:{place.scope.hex()}"


def _read_key(status: int, body: bytes) -> str | None:
    """The secret in an answer; one that nothing could be signed with counts as none."""
    if status != 200:
        return None
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    key = document.get("key") if isinstance(document, dict) else None
    return key if isinstance(key, str) and signing_key(key) is not None else None


async def _ask(upstream: Upstream, credential: Credential) -> tuple[int, str, bytes]:
    """Status, content type and body of the upstream's answer; status 0 when there is none that can be used."""
    request = RelayRequest("GET", SECRET_PATH, "", [("accept", "application/json")], nothing(), has_body=False)
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            response = await upstream.relay(request, credential)
            body = await read_whole(response, MAX_ANSWER_BYTES)
    except (HotplateError, TimeoutError):
        return 0, "", b""
    except Exception as error:
        # Whatever a relayed answer breaks on: webhooks go on with the derived secret.
        _log.warning("webhook_secret_broke", upstream=upstream.name, reason=type(error).__name__)
        return 0, "", b""
    types = [value for name, value in response.headers if name.lower() == "content-type"]
    return response.status, types[0] if types else "application/json", body
