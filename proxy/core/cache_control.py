"""``Cache-Control`` of a request.

A directive that cannot be read is taken in its strictest sense: the worst that comes of it is a miss.

Source: RFC 9111 section 5.2.1; the syntax is RFC 9110 section 5.6.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

MAX_DELTA_S = 2**31
"""A larger number of seconds means this one. Source: RFC 9111 section 1.2.2."""

_DIRECTIVE = re.compile(
    r"""\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]*))?\s*(?:,|$)|[^,]*(?:,|$)"""
)
"""A name, perhaps with a value, up to the comma behind it; or whatever else stands before the next comma."""


@dataclass(frozen=True, slots=True)
class Directives:
    """What a request says of stored answers; times in seconds, ``None`` where it says nothing.

    Attributes:
        max_stale_s: how far beyond its freshness an answer may be, infinite for any.
    """

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age_s: float | None = None
    min_fresh_s: float | None = None
    max_stale_s: float | None = None

    @property
    def wants_new(self) -> bool:
        """Whether nothing that is stored will do."""
        return self.no_cache or self.max_age_s == 0

    @property
    def names_freshness(self) -> bool:
        """Whether the client has said itself how old an answer may be."""
        named = (self.max_age_s, self.min_fresh_s, self.max_stale_s)
        return self.no_cache or any(limit_s is not None for limit_s in named)


NO_DIRECTIVES = Directives()


def parse_cache_control(header: str | None) -> Directives:
    """The directives of a ``Cache-Control`` request header; unknown ones say nothing.

    Of a directive that comes twice the stricter one counts. A number that cannot be read is 0 for ``max-age`` and
    ``max-stale`` and endless for ``min-fresh``.
    """
    if not header:
        return NO_DIRECTIVES
    flags: set[str] = set()
    max_age = min_fresh = max_stale = None
    for match in _DIRECTIVE.finditer(header):
        name = (match[1] or "").lower()
        if name in ("no-cache", "no-store", "only-if-cached"):
            flags.add(name)
        elif name == "max-age":
            max_age = min(_seconds(match[2], 0.0), math.inf if max_age is None else max_age)
        elif name == "min-fresh":
            min_fresh = max(_seconds(match[2], math.inf), 0.0 if min_fresh is None else min_fresh)
        elif name == "max-stale":
            wanted = math.inf if match[2] is None else _seconds(match[2], 0.0)
            max_stale = min(wanted, math.inf if max_stale is None else max_stale)
    return Directives(
        "no-cache" in flags, "no-store" in flags, "only-if-cached" in flags, max_age, min_fresh, max_stale
    )


def _seconds(text: str | None, otherwise: float) -> float:
    # Both forms are to be understood: max-age=5 and max-age="5" (RFC 9111 section 5.2).
    text = (text or "").strip('"')
    if not text.isascii() or not text.isdigit():
        return otherwise
    return float(min(int(text[:20]), MAX_DELTA_S))
