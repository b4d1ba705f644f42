"""Changes of who is let in, as values: what one process learns and others of the same machine must hear of.

No change holds a token: scopes and digests are keyed hashes. ``Accepted.at`` is on the monotonic clock, which all
processes of a machine share.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TypeAlias

from proxy.core.entitlement import Account, Groups
from proxy.core.own_tokens import OwnToken, decode_token, encode_token
from storage.digest import Scope
from storage.records import JsonObject


@dataclass(frozen=True, slots=True)
class Accepted:
    """An upstream has accepted a token at ``at`` (monotonic seconds); ``account`` where it told."""

    upstream: str
    token: Scope
    at: float
    account: Account | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """An upstream has refused a token: no hit until it is accepted again."""

    upstream: str
    token: Scope


@dataclass(frozen=True, slots=True)
class TokenAdded:
    """One of Hotplate's own tokens is good from now on."""

    token: OwnToken


@dataclass(frozen=True, slots=True)
class TokenRevoked:
    """One of Hotplate's own tokens is good no more."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class GroupsChanged:
    """Groups have other members."""

    groups: Groups


Change: TypeAlias = Accepted | Refused | TokenAdded | TokenRevoked | GroupsChanged


def encode_change(change: Change) -> JsonObject:
    """A change as a JSON object."""
    match change:
        case Accepted(upstream, token, at, account):
            whose = [account.kind, account.username] if account is not None else None
            return {"what": "accepted", "upstream": upstream, "token": token.hex(), "at": at, "account": whose}
        case Refused(upstream, token):
            return {"what": "refused", "upstream": upstream, "token": token.hex()}
        case TokenAdded(own):
            return {"what": "added", "row": base64.b64encode(encode_token(own)).decode()}
        case TokenRevoked(digest):
            return {"what": "revoked", "digest": digest.hex()}
        case GroupsChanged(groups):
            members = {member: sorted(names) for member, names in groups.by_member.items()}
            return {"what": "groups", "by_member": members}


def decode_change(document: JsonObject) -> Change:
    """The change that ``encode_change`` wrote.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    match document["what"]:
        case "accepted":
            account = Account(*document["account"]) if document["account"] is not None else None
            token = Scope(bytes.fromhex(document["token"]))
            return Accepted(document["upstream"], token, float(document["at"]), account)
        case "refused":
            return Refused(document["upstream"], Scope(bytes.fromhex(document["token"])))
        case "added":
            return TokenAdded(decode_token(base64.b64decode(document["row"])))
        case "revoked":
            return TokenRevoked(bytes.fromhex(document["digest"]))
        case "groups":
            by_member = {member: frozenset(names) for member, names in document["by_member"].items()}
            return GroupsChanged(Groups(by_member))
        case other:
            raise ValueError(f"{other!r} is no change")
