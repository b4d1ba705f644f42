"""Hotplate's own tokens: those of the settings, and those that are added and revoked while it runs.

Of an added one a sealed row is kept under a keyed hash of it (``own-token:<hash>`` in the notes). An addition acts once
its row is written, a revocation at once, before its row is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from proxy.core.entitlement import Rule, token_digest, token_id
from proxy.core.errors import BadRequest
from proxy.core.own_tokens import OwnToken, decode_token, encode_token, new_token
from proxy.core.sealing import Sealer, Unsealable
from proxy.core.secrets import Secrets
from storage.ports import KeyValue

_PREFIX = "own-token:"

MAX_NAME_CHARS = 64

_log = structlog.get_logger("hotplate.tokens")


class OwnTokens:
    """The table of own tokens, all of it in memory. Used from the event loop alone."""

    def __init__(
        self, secrets: Secrets, static: Sequence[str], notes: KeyValue | None, now: Callable[[], float]
    ) -> None:
        """``static``: tokens of the settings; ``notes``: where the others are kept; ``now`` in epoch seconds."""
        self._secrets = secrets
        self._sealer = Sealer(secrets)
        self._notes = notes
        self._now = now
        self._by_digest: dict[bytes, OwnToken] = {}
        for number, text in enumerate(static, 1):
            self.put(
                OwnToken(token_digest(secrets, text), token_id(secrets, text), f"settings-{number}", is_static=True)
            )

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, text: str) -> OwnToken | None:
        """The token that ``text`` is. What is compared are keyed hashes, so timing says nothing of any token."""
        return self._by_digest.get(token_digest(self._secrets, text))

    def all(self) -> list[OwnToken]:
        """Every token that is good now, by name."""
        return sorted(self._by_digest.values(), key=lambda token: token.name)

    def put(self, token: OwnToken) -> None:
        """``token`` is good from now on, in this process."""
        self._by_digest[token.digest] = token

    def drop(self, digest: bytes) -> None:
        """It is good no more, in this process."""
        self._by_digest.pop(digest, None)

    def forget(self) -> None:
        """Only tokens of the settings are good, in this process."""
        self._by_digest = {digest: token for digest, token in self._by_digest.items() if token.is_static}

    async def load(self) -> None:
        """Read what former processes have added. A row that cannot be read opens nothing."""
        for name, sealed in await self._notes.scan(_PREFIX) if self._notes is not None else []:
            try:
                token = decode_token(self._sealer.open(sealed, name))
            except (Unsealable, ValueError, KeyError, TypeError):
                _log.warning("row_unreadable", kind=_PREFIX)
                continue
            self.put(token)

    async def add(
        self,
        name: str,
        *,
        rule: Rule | None = None,
        models: Sequence[str] = ("*",),
        rate_per_min: int | None = None,
        spend_per_day: float | None = None,
    ) -> tuple[str, OwnToken]:
        """Make a token; its text, which nobody can learn again, and what is kept of it.

        Raises:
            BadRequest: the name is taken or none, or a limit is none.
            StorageError: it could not be written, and is not good.
        """
        if not name or len(name) > MAX_NAME_CHARS or not name.isprintable() or name != name.strip():
            raise BadRequest(f"a token needs a name of at most {MAX_NAME_CHARS} printable characters")
        if any(token.name == name for token in self._by_digest.values()):
            raise BadRequest(f"there is a token of the name {name!r} already")
        if not models or not all(isinstance(glob, str) and glob for glob in models):
            raise BadRequest("models must be globs over owner/name")
        if rate_per_min is not None and not 1 <= rate_per_min <= 1_000_000:
            raise BadRequest("a rate is at least 1 a minute")
        if spend_per_day is not None and not 0 <= spend_per_day < float("inf"):
            raise BadRequest("what may be spent in a day is 0 or more")
        text = new_token()
        token = OwnToken(
            digest=token_digest(self._secrets, text),
            id=token_id(self._secrets, text),
            name=name,
            rule=rule,
            models=tuple(models),
            rate_per_min=rate_per_min,
            spend_per_day=spend_per_day,
            created_at=self._now(),
        )
        row = f"{_PREFIX}{token.digest.hex()}"
        if self._notes is not None:
            await self._notes.put(row, self._sealer.seal(encode_token(token), row))
        self.put(token)
        return text, token

    def take(self, name: str) -> OwnToken:
        """End a token's life in this process, by its name or its id; ``erase`` ends it for the next one.

        Raises:
            BadRequest: there is none of that name, or it stands in the settings.
        """
        found = [token for token in self._by_digest.values() if name in (token.name, token.id)]
        if not found:
            raise BadRequest(f"there is no token of the name {name!r}")
        if found[0].is_static:
            raise BadRequest("this token stands in the settings: take it out of auth.tokens there")
        self.drop(found[0].digest)
        return found[0]

    async def erase(self, token: OwnToken) -> None:
        """Remove a token's row.

        Raises:
            StorageError: the next process would know it again.
        """
        if self._notes is not None:
            await self._notes.remove(f"{_PREFIX}{token.digest.hex()}")
