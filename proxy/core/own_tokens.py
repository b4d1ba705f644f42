"""Hotplate's own tokens: what is kept of one, and how often it may ask.

The token itself is shown once and never kept: what lies on the disk is a keyed hash of it.
"""

from __future__ import annotations

import base64
import secrets as entropy
from dataclasses import dataclass
from fnmatch import fnmatchcase

import orjson

from proxy.core.entitlement import OWN_PREFIX, Rule, parse_rule
from storage.records import JsonObject

TOKEN_BYTES = 25
"""200 random bits, 40 characters."""

ROW_FORMAT = 1


@dataclass(frozen=True, slots=True)
class OwnToken:
    """One token and what it may do.

    Attributes:
        digest: by which it is known again.
        id: under which it is shown, and named as a member of a group.
        name: the operator's word for it.
        rule: whose results it gets where the model's policy is ``account``; elsewhere the narrower of the two counts.
            ``None`` leaves it to the policy, and its account is the token itself.
        models: globs over ``owner/name`` and ``deployments/owner/name`` that it may run.
        rate_per_min: creates a minute, ``None`` for any number.
        spend_per_day: what its runs may cost in a day (UTC), ``None`` for any sum.
        created_at: epoch seconds.
        is_static: it stands in the settings and can be revoked there alone.
    """

    digest: bytes
    id: str
    name: str
    rule: Rule | None = None
    models: tuple[str, ...] = ("*",)
    rate_per_min: int | None = None
    spend_per_day: float | None = None
    created_at: float = 0.0
    is_static: bool = False

    @property
    def may_run_all(self) -> bool:
        """Whether no model is closed to it."""
        return "*" in self.models

    def may_run(self, model: str) -> bool:
        """Whether it may run ``owner/name``, or ``deployments/owner/name``."""
        return any(fnmatchcase(model, glob) for glob in self.models)


def new_token() -> str:
    """A fresh token: ``hp_`` and 40 characters of ``[a-z2-7]``."""
    return OWN_PREFIX + base64.b32encode(entropy.token_bytes(TOKEN_BYTES)).decode().lower()


def describe_token(token: OwnToken) -> JsonObject:
    """What the operator is shown of a token."""
    return {
        "id": token.id,
        "name": token.name,
        "scope": str(token.rule) if token.rule is not None else None,
        "models": list(token.models),
        "rate_per_min": token.rate_per_min,
        "spend_per_day": token.spend_per_day,
        "created_at": token.created_at,
        "is_static": token.is_static,
    }


def encode_token(token: OwnToken) -> bytes:
    """A token's row, with the number of its format."""
    return orjson.dumps({**describe_token(token), "digest": token.digest.hex(), "format": ROW_FORMAT})


def decode_token(row: bytes) -> OwnToken:
    """The token of a row.

    Raises:
        ValueError, KeyError, TypeError: it is none that this version can read.
    """
    document = orjson.loads(row)
    if document["format"] != ROW_FORMAT:
        raise ValueError(f"format {document['format']!r}")
    scope = document["scope"]
    return OwnToken(
        digest=bytes.fromhex(document["digest"]),
        id=document["id"],
        name=document["name"],
        rule=parse_rule(scope) if scope is not None else None,
        models=tuple(document["models"]),
        rate_per_min=document["rate_per_min"],
        spend_per_day=document["spend_per_day"],
        created_at=document["created_at"],
        is_static=document["is_static"],
    )


def plan_request(due_at: float, now: float, per_min: int) -> tuple[float, float]:
    """Whether a request may be made now under a rate, a minute's worth of which may come at once.

    Args:
        due_at: what the last call gave, 0.0 for none.
        now: seconds on the same clock.

    Returns:
        Seconds to wait (0.0 = it may) and the next ``due_at``.

    Source: the generic cell rate algorithm, ITU-T I.371.
    """
    gap_s = 60.0 / per_min
    begins_at = max(due_at, now)
    wait_s = begins_at + gap_s - now - 60.0
    return (0.0, begins_at + gap_s) if wait_s <= 1e-9 else (wait_s, due_at)
