"""Who may see a result.

A scope is a keyed hash of the upstream and of what identifies the caller there, so that results of two
callers never share a key. It is derived from a token, never equal to one, and means nothing without the
server's secret.
"""

from __future__ import annotations

from proxy.core.errors import Unauthenticated
from proxy.core.secrets import Secrets, keyed_hash
from storage.digest import Scope

_SCHEMES = ("bearer", "token")


def parse_authorization(header: str | None) -> str | None:
    """The token of an ``Authorization`` header, or ``None`` when there is no header.

    ``Token x`` and ``Bearer x`` name the same caller (Replicate accepts both).

    Raises:
        Unauthenticated: the header is neither, or its token is empty or has white space or control characters.
    """
    if header is None:
        return None
    scheme, _, token = header.strip().partition(" ")
    token = token.strip()
    if scheme.lower() not in _SCHEMES or not token or not token.isascii() or not token.isprintable() or " " in token:
        raise Unauthenticated("You did not pass a valid authentication token")
    return token


def token_scope(secrets: Secrets, upstream: str, token: str) -> Scope:
    """Scope of one token at one upstream, 32 bytes."""
    return Scope(keyed_hash(secrets.scope, b"token", upstream.encode(), token.encode()))


def open_scope(secrets: Secrets, upstream: str) -> Scope:
    """The one scope of an upstream without accounts that is open to everybody who reaches the listener."""
    return Scope(keyed_hash(secrets.scope, b"open", upstream.encode()))


def files_scope(secrets: Secrets, token: str | None) -> Scope:
    """Scope of one caller's files that are kept here; ``None`` for callers without a token. No upstream is part of it:
    a caller uploads before it says which model is to read the file."""
    return Scope(keyed_hash(secrets.scope, b"files", *([] if token is None else [token.encode()])))
