"""How one request wants to use the cache: ``Cache-Control``, and what that has no words for.

====================  =======================================================================
``Hotplate-Namespace``  a part of the caller's results of its own, ``[A-Za-z0-9._:/-]{1,64}``
``Hotplate-Pool``       how many different answers are collected before one repeats, 1 to 100
``Hotplate-Key``        more of what the answer depends on, any text of up to 256 characters
``Hotplate-Tags``       names under which the result can be purged, up to 16, comma-separated
====================  =======================================================================

A base URL of ``https://host/@name`` selects the policies of that name, for clients that cannot send headers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.core.cache_control import NO_DIRECTIVES, Directives, parse_cache_control
from proxy.core.errors import BadRequest
from proxy.core.purging import NAMESPACE_TAG

MAX_POOL = 100
MAX_TAGS = 16
MAX_KEY_CHARS = 256

_LABEL = re.compile(r"[A-Za-z0-9._:/-]{1,64}")


@dataclass(frozen=True, slots=True)
class Controls:
    """The wishes of one request.

    Attributes:
        profile: the name in the base URL.
        namespace, key: parts of the prediction key; ``""`` for none.
        pool: size of the pool of a request without a seed; ``None`` leaves it to the policy.
        tags: of the result, if this request makes it.
    """

    directives: Directives = NO_DIRECTIVES
    profile: str | None = None
    namespace: str = ""
    pool: int | None = None
    key: str = ""
    tags: tuple[str, ...] = ()

    @property
    def purge_tags(self) -> tuple[str, ...]:
        """All names under which the result can be purged: its namespace is one of them."""
        return (*self.tags, f"{NAMESPACE_TAG}{self.namespace}") if self.namespace else self.tags


NO_CONTROLS = Controls()


def parse_controls(headers: Mapping[str, str], profile: str | None = None) -> Controls:
    """The wishes of a request; ``headers`` by lower-case name.

    Raises:
        BadRequest: one of Hotplate's own headers cannot be read: what it asks for must not be guessed.
    """
    directives = parse_cache_control(headers.get("cache-control"))
    namespace, pool = headers.get("hotplate-namespace"), headers.get("hotplate-pool")
    key, tags = headers.get("hotplate-key"), headers.get("hotplate-tags")
    if namespace is None and pool is None and key is None and tags is None:
        if directives is NO_DIRECTIVES and profile is None:
            return NO_CONTROLS
        return Controls(directives, profile)
    if key is not None and not 1 <= len(key) <= MAX_KEY_CHARS:
        raise BadRequest(f"Hotplate-Key must have 1 to {MAX_KEY_CHARS} characters")
    return Controls(
        directives,
        profile,
        "" if namespace is None else _label("Hotplate-Namespace", namespace),
        None if pool is None else _pool(pool),
        key or "",
        () if tags is None else _tags(tags),
    )


def _label(header: str, text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise BadRequest(f"{header} must be 1 to 64 characters out of letters, digits and . _ : / -")
    return text


def _pool(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_POOL):
        raise BadRequest(f"Hotplate-Pool must be a number from 1 to {MAX_POOL}")
    return int(text)


def _tags(text: str) -> tuple[str, ...]:
    tags = [tag for part in text.split(",") if (tag := part.strip())]
    if not tags or len(tags) > MAX_TAGS:
        raise BadRequest(f"Hotplate-Tags must be 1 to {MAX_TAGS} names with commas between them")
    return tuple(dict.fromkeys(_label("each of Hotplate-Tags", tag) for tag in tags))
