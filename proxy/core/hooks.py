"""Webhooks that come in from an upstream: their addresses, and whether one was sent by who knows the secret. Pure.

Source: Replicate's page on verifying webhooks; Standard Webhooks, "Verifying signatures".
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from hashlib import sha256

from proxy.core.secrets import Secrets, keyed_hash
from proxy.core.webhooks import signing_key

HOOKS_PATH = "/_hotplate/hooks/"

TOLERANCE_S = 300.0
"""How far a post's time may be from ours. Five minutes are what the libraries of Standard Webhooks allow."""

MAX_ID_CHARS = 256
MAX_SIGNATURES = 16
"""Signatures in one header: a secret that is being replaced makes two."""

_MAX_STAMP_CHARS = 12


def hook_token(secrets: Secrets, upstream: str, job_id: str) -> str:
    """What makes the address of a run's posts one that nobody can guess; the same in every process."""
    digest = keyed_hash(secrets.hooks, upstream.encode(), job_id.encode())
    return base64.b32encode(digest[:25]).decode().lower()


def verify_post(headers: Mapping[str, str], body: bytes, secret: str, now: float) -> str | None:
    """The id of a post that was signed with ``secret`` lately, ``None`` for any other.

    Args:
        headers: names in lower case.
        body: the raw bytes as they came.
        now: epoch seconds.
    """
    message_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not 0 < len(message_id) <= MAX_ID_CHARS or len(stamp) > _MAX_STAMP_CHARS:
        return None
    if not (stamp.isascii() and stamp.isdigit()) or abs(now - int(stamp)) > TOLERANCE_S:
        return None
    key = signing_key(secret)
    if key is None:
        return None
    try:
        content = b"%b.%b.%b" % (message_id.encode("latin-1"), stamp.encode(), body)
    except UnicodeEncodeError:
        return None
    expected = base64.b64encode(hmac.new(key, content, sha256).digest())
    marks = headers.get("webhook-signature", "").split(" ", MAX_SIGNATURES)[:MAX_SIGNATURES]
    # Each is compared, so that the time tells nothing of which one came close.
    matches = [hmac.compare_digest(mark.encode(errors="replace"), b"v1," + expected) for mark in marks]
    return message_id if any(matches) else None
