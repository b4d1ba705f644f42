"""Links in JSON that passes through: the upstream's addresses become this proxy's, and back.

A client that follows a link to the upstream itself goes past the proxy, with its token. So what an API says of where
to go next, where an object is read and where it is cancelled is rewritten. Nothing else is: text that merely holds an
address stays, as do outputs and streams, which are the upstream's own. A body is never read and written again:
strings are replaced where they stand, so numbers keep their digits and all other bytes stay what they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

import orjson

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],]', re.DOTALL)
_HEAD_BYTES = 64
"""An escaped address shows a backslash within its first characters (``"https:\\/\\/"``)."""

_REST = re.compile(r"(?:[/?][!-~]*)?")
_FILE = re.compile(r"(?:/v1)*/files/[!-.0-~]+(?:/download(?:\?[!-~]*)?)?")

_LINK_KEYS = frozenset({b'"next"', b'"previous"', b'"url"'})
_CLOSED_KEYS = frozenset({b'"output"', b'"openapi_schema"', b'"metadata"', b'"logs"', b'"name"'})
"""Values that are somebody's own words or files: nothing below them is a link of the API."""

_QUOTE, _OPEN_OBJECT, _OPEN_LIST, _COMMA = b'"{[,'


class _Zone(Enum):
    """Where in a document a string stands."""

    PLAIN = auto()
    INPUT = auto()
    LINKS = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Links:
    """The two sides of a translation.

    Attributes:
        base_url: the public address of this proxy, without ``/v1``.
        roots: addresses under which the upstream's API names itself, its own root first, no slash at the end.
    """

    base_url: str
    roots: tuple[str, ...]

    def localised(self, body: bytes) -> bytes:
        """A JSON answer of the upstream with its links pointing here; ``body`` itself when there is none in it."""
        if not self.roots or not any(_may_hold(body, root) for root in self.roots):
            return body
        edits: list[tuple[int, int, bytes]] = []
        for start, end, key, zone in _string_values(body):
            reach = _reach(key, zone)
            text = _read_url(body, start, end) if reach is not None else None
            local = self.local_url(text, files_only=reach == "files") if text is not None else None
            if local is not None:
                edits.append((start, end, orjson.dumps(local)))
        return _edited(body, edits)

    def local_url(self, text: str, *, files_only: bool = False) -> str | None:
        """``text`` as an address of this proxy, or ``None`` when it is, as a whole, no address of the API."""
        for root in self.roots:
            rest = text[len(root) :]
            if text.startswith(root) and _REST.fullmatch(rest) and (not files_only or _FILE.fullmatch(rest)):
                return f"{self.base_url}/v1{rest}"
        return None

    def returned(self, body: bytes) -> bytes:
        """A JSON request with this proxy's file addresses as the upstream's; ``body`` itself when there is none."""
        if not self.roots or not _may_hold(body, self.base_url):
            return body
        edits: list[tuple[int, int, bytes]] = []
        for start, end, _, _ in _string_values(body):
            text = _read_url(body, start, end)
            rest = text[len(self.base_url) :] if text is not None and text.startswith(self.base_url) else ""
            if _FILE.fullmatch(rest):
                edits.append((start, end, orjson.dumps(self.roots[0] + rest[rest.index("/files/") :])))
        return _edited(body, edits)


def elements(body: bytes, key: str) -> list[bytes]:
    """The elements of the list under ``key`` of a JSON object, each as the bytes that it stands in.

    ``body`` must be valid JSON with an object outermost. Without such a list there are none.
    """
    wanted, name, depth = orjson.dumps(key), b"", 0
    inside, expects_name, start = False, False, 0
    found: list[bytes] = []
    for token in _TOKEN.finditer(body):
        mark = body[token.start()]
        if mark == _QUOTE:
            if depth == 1 and expects_name:
                name, expects_name = token.group(), False
        elif mark in (_OPEN_OBJECT, _OPEN_LIST):
            depth += 1
            expects_name = depth == 1
            if depth == 2 and mark == _OPEN_LIST and name == wanted:
                inside, start, found = True, token.end(), []
        elif mark == _COMMA:
            expects_name = depth == 1
            if inside and depth == 2:
                found.append(body[start : token.start()].strip())
                start = token.end()
        else:
            if inside and depth == 2:
                found.append(body[start : token.start()].strip())
                inside = False
            depth -= 1
    return [element for element in found if element]


def _string_values(body: bytes) -> Iterator[tuple[int, int, bytes, _Zone]]:
    """Every string that is a value: where it begins and ends, the key it stands under, and the zone.

    Strings in a list count as standing under the list's key. What is no JSON gives whatever it gives: only strings
    that are links as a whole are ever replaced.
    """
    above: list[tuple[bool, bytes, _Zone]] = []
    is_object, expects_key, key, zone = False, False, b"", _Zone.PLAIN
    for token in _TOKEN.finditer(body):
        mark = body[token.start()]
        if mark == _QUOTE:
            if expects_key:
                key, expects_key = token.group(), False
            else:
                yield token.start(), token.end(), key, zone
        elif mark in (_OPEN_OBJECT, _OPEN_LIST):
            above.append((is_object, key, zone))
            zone = _inner(key, zone)
            is_object = expects_key = mark == _OPEN_OBJECT
        elif mark == _COMMA:
            expects_key = is_object
        elif above:
            is_object, key, zone = above.pop()
            expects_key = False


def _inner(key: bytes, zone: _Zone) -> _Zone:
    """The zone of what an object or a list under ``key`` holds."""
    if zone in (_Zone.CLOSED, _Zone.INPUT):
        return zone
    if key in _CLOSED_KEYS:
        return _Zone.CLOSED
    if key == b'"input"':
        return _Zone.INPUT
    return _Zone.LINKS if key == b'"urls"' else zone


def _reach(key: bytes, zone: _Zone) -> str | None:
    """Which addresses are links in a string there: ``"all"`` of the API, its ``"files"`` alone, or none."""
    if zone is _Zone.CLOSED or key in _CLOSED_KEYS:
        return None
    if zone is _Zone.LINKS:
        return None if key == b'"stream"' else "all"
    return "all" if zone is _Zone.PLAIN and key in _LINK_KEYS else "files"


def _may_hold(body: bytes, address: str) -> bool:
    plain = address.encode()
    return plain in body or plain.replace(b"/", b"\\/") in body


def _read_url(body: bytes, start: int, end: int) -> str | None:
    """The text of a string token that may be an address."""
    if body[start + 1 : start + 5] != b"http" and b"\\" not in body[start : start + _HEAD_BYTES]:
        return None
    try:
        text = orjson.loads(body[start:end])
    except ValueError:
        return None
    return text if isinstance(text, str) else None


def _edited(body: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    if not edits:
        return body
    parts: list[bytes] = []
    done = 0
    for start, end, value in edits:
        parts += [body[done:start], value]
        done = end
    return b"".join([*parts, body[done:]])
