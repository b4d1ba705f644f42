"""How one stored file is sent: conditions, ranges and headers, decided without touching the file.

An address never changes its bytes, so its ETag is its digest and a condition is answered from the address
alone. What is unknown or might run in a browser is sent as an opaque attachment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import Literal

from storage.digest import Digest

HeaderList = list[tuple[str, str]]

ONE_YEAR_S = 31_536_000
MISSING_MAX_AGE_S = 5
"""A file that is missing now may be there in a moment, so a shared cache may remember that for seconds only."""

_CACHE_CONTROL = f"public, max-age={ONE_YEAR_S}, immutable, stale-while-revalidate=86400, stale-if-error=604800"

_INLINE = ("image/", "video/", "audio/")
_SCRIPTABLE = "+xml"
"""How the types end that look like pictures and may run scripts: SVG."""

COMMON_HEADERS: HeaderList = [
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("Access-Control-Allow-Origin", "*"),
    (
        "Access-Control-Expose-Headers",
        "ETag, Content-Length, Content-Range, Age, Cache-Status, Server-Timing",
    ),
    ("Timing-Allow-Origin", "*"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox"),
]
"""On every answer of the outputs route, errors included."""


@dataclass(frozen=True, slots=True)
class Span:
    """Inclusive first and last byte."""

    first: int
    last: int

    @property
    def size_bytes(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class NotModified:
    """Answer 304."""

    headers: HeaderList


@dataclass(frozen=True, slots=True)
class SendFile:
    """Answer 200 or 206 with the bytes of ``span``."""

    status: Literal[200, 206]
    headers: HeaderList
    span: Span


@dataclass(frozen=True, slots=True)
class NotSatisfiable:
    """Answer 416."""

    headers: HeaderList


class RangeNotSatisfiable(Exception):
    """No byte of the file is in the range asked for."""


def etag_of(digest: Digest) -> str:
    """The strong entity tag of a blob, quotes included."""
    return f'"b3-{digest.hex()}"'


def is_not_modified(headers: Mapping[str, str], etag: str) -> bool:
    """Whether ``If-None-Match`` names this file. Weak comparison; lists and ``*`` count.

    Source: RFC 9110 sections 8.8.3.2 and 13.1.2.
    """
    given = headers.get("if-none-match")
    if given is None:
        return False
    return given.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in given.split(","))


def not_modified(digest: Digest) -> NotModified:
    """A 304 for ``digest``; needs no look at the disk."""
    return NotModified([*COMMON_HEADERS, ("ETag", etag_of(digest)), ("Cache-Control", _CACHE_CONTROL)])


def plan_delivery(
    headers: Mapping[str, str], digest: Digest, size_bytes: int, content_type: str, stored_at: float, name: str
) -> NotModified | SendFile | NotSatisfiable:
    """Decide the answer to a GET or HEAD for a file that is there.

    Args:
        headers: request headers, names in lower case.
        digest, size_bytes, content_type, stored_at: the blob; ``stored_at`` in epoch seconds.
        name: last segment of the address.

    Source: RFC 9110 sections 13 and 14; conditions come before ranges.
    """
    etag = etag_of(digest)
    if is_not_modified(headers, etag) or _is_unmodified_since(headers, stored_at):
        return not_modified(digest)
    try:
        span = _chosen_span(headers, etag, stored_at, size_bytes)
    except RangeNotSatisfiable:
        return NotSatisfiable(
            [
                *COMMON_HEADERS,
                ("Content-Range", f"bytes */{size_bytes}"),
                ("Accept-Ranges", "bytes"),
                ("Cache-Control", "no-store"),
                ("Content-Length", "0"),
            ]
        )
    is_inline = content_type.startswith(_INLINE) and not content_type.endswith(_SCRIPTABLE)
    answer: HeaderList = [
        *COMMON_HEADERS,
        ("Content-Type", f"{content_type}; charset=utf-8" if content_type.startswith("text/") else content_type),
        ("Content-Disposition", f'{"inline" if is_inline else "attachment"}; filename="{name}"'),
        ("ETag", etag),
        ("Last-Modified", formatdate(stored_at, usegmt=True)),
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", _CACHE_CONTROL),
    ]
    if span is None:
        answer.append(("Content-Length", str(size_bytes)))
        return SendFile(200, answer, Span(0, size_bytes - 1))
    answer.append(("Content-Length", str(span.size_bytes)))
    answer.append(("Content-Range", f"bytes {span.first}-{span.last}/{size_bytes}"))
    return SendFile(206, answer, span)


def missing_headers() -> HeaderList:
    """Headers of a 404 on the outputs route."""
    return [*COMMON_HEADERS, ("Cache-Control", f"public, max-age={MISSING_MAX_AGE_S}")]


def _is_unmodified_since(headers: Mapping[str, str], stored_at: float) -> bool:
    if "if-none-match" in headers:
        return False  # it wins over If-Modified-Since, RFC 9110 section 13.2.2
    since = _parse_date(headers.get("if-modified-since"))
    return since is not None and int(stored_at) <= since


def _parse_date(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _chosen_span(headers: Mapping[str, str], etag: str, stored_at: float, size_bytes: int) -> Span | None:
    header = headers.get("range")
    if header is None:
        return None
    condition = headers.get("if-range")
    if condition is not None:
        date = _parse_date(condition)
        if condition.strip() != etag and (date is None or date != int(stored_at)):
            return None
    return parse_range(header, size_bytes)


_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII)


def parse_range(header: str, size_bytes: int) -> Span | None:
    """Choose the single byte range to send for a blob.

    Args:
        header: value of the ``Range`` header, e.g. ``"bytes=0-99"``.
        size_bytes: length of the whole blob.

    Returns:
        The range, or ``None`` when the whole blob is to be sent: another unit, bad syntax, several ranges.

    Raises:
        RangeNotSatisfiable: no byte of the blob is in the range (answered 416).

    Source: RFC 9110 section 14.1.2; a server may ignore ``Range``, and must ignore what it cannot parse.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None:
        return None
    first_text, last_text = match.groups()
    if not first_text:
        if not last_text:
            return None
        suffix = int(last_text)
        if suffix == 0 or size_bytes == 0:
            raise RangeNotSatisfiable
        return Span(max(size_bytes - suffix, 0), size_bytes - 1)
    first = int(first_text)
    if last_text and int(last_text) < first:
        return None
    if first >= size_bytes:
        raise RangeNotSatisfiable
    return Span(first, min(int(last_text), size_bytes - 1) if last_text else size_bytes - 1)
