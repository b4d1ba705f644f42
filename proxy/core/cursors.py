"""What a request for a list says, and the cursors that its links carry.

A cursor holds all that the next request needs: where in both lists the page is cut, in which direction it goes on, and
the filters of the first request. It is no secret and no proof: whoever makes one up reads his own list from another
place. Cursors of the upstream's own are passed on to it.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import parse_qsl

import orjson

from proxy.core.errors import BadRequest, InputInvalid, InvalidField
from proxy.core.listing import Boundary, Own, Side

_MARK = "hp1."
"""What our cursors begin with, and no upstream's does: theirs are base64 or numbers."""

_SIDES: tuple[Side, ...] = ("shown", "shown-before", "left")
_MAX_QUERY_CHARS = 4096
_QUERY = re.compile(r"[!-~]*")
_ID = re.compile(r"[A-Za-z0-9_~-]{0,80}")


@dataclass(frozen=True, slots=True)
class Filters:
    """Which own entries belong to the list; the upstream looks after its own.

    Attributes:
        after_us: created at this time or later, microseconds since 1970.
        before_us: created before this time.
        has_own: whether own entries belong to it at all.
    """

    after_us: int | None = None
    before_us: int | None = None
    has_own: bool = True

    def covers(self, created_us: int) -> bool:
        """Whether an own entry belongs to the list."""
        if self.after_us is not None and created_us < self.after_us:
            return False
        return self.has_own and (self.before_us is None or created_us < self.before_us)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page of the list begins, and whether it goes down from there or up."""

    boundary: Boundary
    filters: Filters
    way: Literal["down", "up"] = "down"


def read_request(query: str) -> Cursor:
    """The page that a request with this raw query string asks for.

    Raises:
        InputInvalid: a time that is none.
        BadRequest: a cursor that was not made here but looks so.

    Source: Replicate's OpenAPI document, ``GET /predictions``.
    """
    given = dict(parse_qsl(query, keep_blank_values=True))
    text = given.get("cursor", "")
    if text.startswith(_MARK):
        return read_cursor(text)
    after_us, before_us = (_read_time(given, name) for name in ("created_after", "created_before"))
    # The upstream alone knows what was made on its web pages, and where its own cursors point to.
    has_own = not text and not given.get("source")
    return Cursor(Boundary(query), Filters(after_us, before_us, has_own))


def write_cursor(cursor: Cursor) -> str:
    """The cursor as text that needs no escaping in a query."""
    boundary, filters = cursor.boundary, cursor.filters
    document = [
        cursor.way,
        boundary.query,
        boundary.at_us,
        boundary.mark,
        _SIDES.index(boundary.side),
        *boundary.own,
        filters.after_us,
        filters.before_us,
        filters.has_own,
    ]
    return _MARK + base64.urlsafe_b64encode(orjson.dumps(document)).decode().rstrip("=")


def read_cursor(text: str) -> Cursor:
    """What ``write_cursor`` wrote.

    Raises:
        BadRequest: it is anything else.
    """
    try:
        sealed = text.removeprefix(_MARK)
        document = orjson.loads(base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True))
        way, query, at_us, mark, side, own_us, own_id, after_us, before_us, has_own = document
        for number in (at_us, side, own_us, after_us or 0, before_us or 0):
            _check(type(number) is int)
        _check(way in ("down", "up") and type(has_own) is bool and 0 <= side < len(_SIDES))
        _check(len(query) <= _MAX_QUERY_CHARS and _QUERY.fullmatch(query) is not None)
        _check(_ID.fullmatch(mark) is not None and _ID.fullmatch(own_id) is not None)
    except (binascii.Error, ValueError, TypeError) as error:
        raise BadRequest("the cursor is none of this list's") from error
    boundary = Boundary(query, at_us, mark, _SIDES[side], Own(own_us, own_id))
    return Cursor(boundary, Filters(after_us, before_us, has_own), way)


def parse_time_us(text: object) -> int | None:
    """Microseconds since 1970 of an ISO 8601 time, UTC where it names no zone; ``None`` for anything else."""
    if not isinstance(text, str):
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    since = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _read_time(given: dict[str, str], name: str) -> int | None:
    text = given.get(name)
    if not text:
        return None
    # A plus sign that was not escaped arrives as a space.
    at_us = parse_time_us(text.strip().replace(" ", "+")) or parse_time_us(text)
    if at_us is None:
        raise InputInvalid([InvalidField("format", name, "must be a date and time in ISO 8601 format")])
    return at_us


def _check(is_right: bool) -> None:
    if not is_right:
        raise ValueError("not a cursor")
