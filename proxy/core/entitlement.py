"""Who may see what.

Two questions, two scopes. The *owner scope* says who made a prediction: ids, lists, streams and webhooks belong to it.
The *results scope* says whose results may answer a request: it is an ingredient of the key and stands in the record.
Both are keyed hashes, derived from accounts and tokens, never equal to one, and mean nothing without the server's
secret. Each kind of scope is hashed under a word of its own, so two different rules never meet in one scope.

A results scope follows a *rule*, one word: ``account`` (all tokens of one account), ``token``, ``group:NAME`` (whom the
settings name, and nobody else), ``shared`` (everybody whom the upstream accepts). Where a rule cannot be applied to a
caller, the narrower one is: a caller that is not in the group has its account's results, one whose account is not
known its token's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from proxy.core.errors import Unauthenticated
from proxy.core.secrets import Secrets, keyed_hash
from storage.digest import Scope

_SCHEMES = ("bearer", "token")

OWN_PREFIX = "hp_"
"""What Hotplate's own tokens begin with, so that one which was revoked is still known not to be somebody else's."""

_OWN_TOKEN = re.compile(r"hp_[a-z2-7]{40}")
_TOKEN_ID = re.compile(r"tok_[0-9a-f]{16}")
_GROUP_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._-]{0,127})?")

AuthMode = Literal["passthrough", "gateway", "open"]

RuleKind = Literal["token", "account", "group", "shared"]

_NARROWNESS: Mapping[RuleKind, int] = {"token": 0, "account": 1, "group": 2, "shared": 3}


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


# -- rules ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """Whose results may answer a request; ``group`` is the name that goes with the kind ``"group"``."""

    kind: RuleKind
    group: str = ""

    def __str__(self) -> str:
        return f"group:{self.group}" if self.kind == "group" else self.kind


ACCOUNT_RULE = Rule("account")
TOKEN_RULE = Rule("token")
_PLAIN_RULES: Mapping[str, Rule] = {"account": ACCOUNT_RULE, "token": TOKEN_RULE, "shared": Rule("shared")}


@cache
def parse_rule(text: str) -> Rule:
    """The rule that ``account``, ``token``, ``shared`` or ``group:NAME`` means.

    Raises:
        ValueError: it is none of these.
    """
    kind, _, name = text.partition(":")
    if kind == "group" and _GROUP_NAME.fullmatch(name):
        return Rule("group", name)
    if text not in _PLAIN_RULES:
        raise ValueError(f"{text!r} must be account, token, shared or group:NAME")
    return _PLAIN_RULES[text]


def narrower(left: Rule, right: Rule) -> Rule:
    """The rule under which fewer share results; of two different groups nobody can say, so that is ``token``."""
    if left.kind == right.kind == "group" and left != right:
        return TOKEN_RULE
    return min(left, right, key=lambda rule: _NARROWNESS[rule.kind])


# -- callers -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    """An account as ``GET /v1/account`` names it."""

    kind: str
    username: str


@dataclass(frozen=True, slots=True)
class Visitor:
    """A caller at one upstream, as far as is known.

    Attributes:
        token: its credential's own scope; what was said of the credential hangs on it.
        owner: under which its predictions are made.
        former: the other owners whose predictions it may see: its token's own, from before the account was known.
        entitled: whose results it may see now, whatever rule they were made under.
        is_anybody: callers are not told apart here.
    """

    token: Scope
    owner: Scope
    former: tuple[Scope, ...]
    entitled: frozenset[Scope]
    is_anybody: bool = False

    @property
    def owners(self) -> tuple[Scope, ...]:
        """All owners whose predictions it may see, its own first."""
        return (self.owner, *self.former)


@dataclass(frozen=True, slots=True)
class Groups:
    """Who belongs to which group: names of groups by member.

    A member is ``account:NAME`` (or ``account:TYPE/NAME``) or ``token:ID``, the id under which a token is shown.
    """

    by_member: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, members: Mapping[str, Iterable[str]]) -> Groups:
        """Groups from their members by name.

        Raises:
            ValueError: a name or a member is none.
        """
        by_member: dict[str, set[str]] = {}
        for name, names in members.items():
            if not _GROUP_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a group")
            for member in names:
                by_member.setdefault(check_member(member), set()).add(name)
        return cls({member: frozenset(groups) for member, groups in by_member.items()})

    def of_caller(self, token_id: str, account: Account | None) -> frozenset[str]:
        """The groups that a caller belongs to."""
        found = self.by_member.get(f"token:{token_id}", frozenset())
        if account is not None:
            found |= self.by_member.get(f"account:{account.username}", frozenset())
            found |= self.by_member.get(f"account:{account.kind}/{account.username}", frozenset())
        return found


def check_member(text: str) -> str:
    """``text`` if it can name a member of a group.

    Raises:
        ValueError: it cannot.
    """
    kind, _, name = text.partition(":")
    pattern = {"account": _ACCOUNT_NAME, "token": _TOKEN_ID}.get(kind)
    if pattern is None or not pattern.fullmatch(name):
        raise ValueError(f"{text!r} must be account:NAME, account:TYPE/NAME or token:tok_ and 16 hex digits")
    return text


def has_own_form(token: str) -> bool:
    """Whether it looks like one of Hotplate's own tokens, perhaps one that was revoked."""
    return bool(_OWN_TOKEN.fullmatch(token))


# -- scopes --------------------------------------------------------------------------------------------


def token_scope(secrets: Secrets, upstream: str, token: str) -> Scope:
    """Scope of one token at one upstream, 32 bytes."""
    return Scope(keyed_hash(secrets.scope, b"token", upstream.encode(), token.encode()))


def account_scope(secrets: Secrets, upstream: str, account: Account) -> Scope:
    """Scope of all tokens of an account at one upstream."""
    parts = (upstream, account.kind, account.username)
    return Scope(keyed_hash(secrets.scope, b"account", *(part.encode() for part in parts)))


def house_scope(secrets: Secrets, upstream: str) -> Scope:
    """Scope of those of Hotplate's own tokens that are one account."""
    return Scope(keyed_hash(secrets.scope, b"house", upstream.encode()))


def group_scope(secrets: Secrets, upstream: str, group: str) -> Scope:
    """Scope of a named group's members at one upstream."""
    return Scope(keyed_hash(secrets.scope, b"group", upstream.encode(), group.encode()))


def shared_scope(secrets: Secrets, upstream: str) -> Scope:
    """Scope of everybody whom an upstream accepts."""
    return Scope(keyed_hash(secrets.scope, b"shared", upstream.encode()))


def open_scope(secrets: Secrets, upstream: str) -> Scope:
    """The one scope of an upstream that is open to everybody who reaches the listener."""
    return Scope(keyed_hash(secrets.scope, b"open", upstream.encode()))


def files_scope(secrets: Secrets, token: str | None) -> Scope:
    """Scope of one caller's files that are kept here; ``None`` for callers without a token. No upstream is part of it:
    a caller uploads before it says which model is to read the file."""
    return Scope(keyed_hash(secrets.scope, b"files", *([] if token is None else [token.encode()])))


def token_id(secrets: Secrets, token: str) -> str:
    """The id under which a token is shown: ``tok_`` and 16 hex digits of a keyed hash."""
    return f"tok_{keyed_hash(secrets.scope, b'token id', token.encode())[:8].hex()}"


def token_digest(secrets: Secrets, token: str) -> bytes:
    """What of one of Hotplate's own tokens is kept, 32 bytes: enough to know it again, useless to whoever reads it."""
    return keyed_hash(secrets.scope, b"own token", token.encode())


def results_scope(
    secrets: Secrets, upstream: str, rule: Rule, owner: Scope, token: Scope, groups: frozenset[str]
) -> Scope:
    """Whose results may answer a caller under ``rule``.

    Args:
        owner: the scope of its account where that is known, else ``token``.
        token: its token's own.
        groups: the groups that it belongs to.
    """
    if rule.kind == "shared":
        return shared_scope(secrets, upstream)
    if rule.kind == "group" and rule.group in groups:
        return group_scope(secrets, upstream, rule.group)
    # Not a member: its account's own results, never the group's.
    return token if rule.kind == "token" else owner
