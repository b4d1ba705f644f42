"""JSON that can be trusted to mean one thing, and the one byte string for a JSON value.

Two readers that disagree about a document are how one caller gets another's picture: the cache keys one
reading, the model runs the other. So ``parse_json`` refuses whatever readers are known to disagree about
(duplicate keys, integers beyond 64 bits, NaN, lone surrogates, deep nesting), and ``canonical_bytes`` gives
two values the same bytes only if they are the same value, ``1``, ``1.0``, ``"1"`` and ``true`` being four.
What may be folded for a given model is not decided here but in ``proxy.core.schemas``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from math import isfinite
from typing import NoReturn

import orjson

from proxy.core.errors import InvalidJson
from storage.records import JsonObject, JsonValue

MAX_DEPTH = 64
"""Arrays and objects inside one another. Model inputs nest three or four deep; what reads and writes them later
ends at 254 (orjson's writer) or near 1,000 (the interpreter's own recursion)."""

MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**64 - 1
"""Beyond these, readers round to a float, cut off or fail: seeds 2**64 and 2**64 + 1 would be one."""

_TOO_DEEP = f"the body is nested deeper than {MAX_DEPTH} levels"
_LONGEST_INTEGER = len(str(MIN_INTEGER))
_BOM = b"\xef\xbb\xbf"
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A string, or what is left of the body behind an open quote: with no way to fail it stays linear on any bytes."""

_ALL_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_PLAIN = frozenset({str, int, bool, type(None)})
_OPTIONS = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


def parse_json(body: bytes) -> JsonValue:
    """Read a request body strictly.

    The usual body is exactly what orjson would write for what it read. Then nothing in it can have been
    dropped, rounded or merged, and the fast reading stands. Any other spelling (spaces, escapes, ``1e2``,
    a duplicate key) is read again by a decoder that looks at each pair and each integer.

    Args:
        body: the whole body, UTF-8 without a byte order mark.

    Returns:
        None, bool, int within -2**63..2**64-1, finite float, str without lone surrogates, or lists and
        dicts of these, at most ``MAX_DEPTH`` inside one another.

    Raises:
        InvalidJson: the body is anything else (answered 400). Never another exception.

    Source: RFC 8259 sections 4, 6, 8; RFC 7493 (I-JSON) section 2 for what is refused.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(_complaint(body, error)) from None
    # The number of opening brackets is an upper bound of the depth and costs next to nothing.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_too_deep(value):
        raise InvalidJson(_TOO_DEEP)
    if orjson.dumps(value) == body:
        return value
    try:
        return _CAREFUL.decode(body.decode())
    except RecursionError:
        # What stands under the first of two equal keys is gone from ``value``, whatever its depth.
        raise InvalidJson(_TOO_DEEP) from None


def canonical_bytes(value: JsonValue) -> bytes:
    """The one byte string for a JSON value.

    Compact UTF-8 JSON, object keys sorted by code point, integers in decimal, floats in their shortest
    form that reads back the same and always with ``.`` or ``e``, strings as they are: no Unicode
    normalisation, so NFC and NFD differ, as they do for a model's tokenizer.

    Args:
        value: what ``parse_json`` returns, or values of exactly the same types.

    Returns:
        Bytes that are equal for two values only if the values are equal and of equal types, ``0.0`` and
        ``-0.0`` being two.

    Raises:
        InvalidJson: NaN, infinity, integers beyond 64 bits, keys that are no strings, lone surrogates, any
            other type (subclasses, tuples, enums and dataclasses included), or nesting beyond 254.
    """
    try:
        written = orjson.dumps(value, option=_OPTIONS)
    except TypeError as error:
        raise InvalidJson(f"not a JSON value: {error}") from None
    _refuse_foreign(value)
    return written


def framed(parts: Iterable[bytes]) -> bytes:
    """One byte string for a sequence of byte strings: each behind its length, 8 bytes, big-endian.

    Two sequences are framed alike only if they are equal; plain concatenation would not tell
    ``("ab", "c")`` from ``("a", "bc")``.
    """
    return b"".join([len(part).to_bytes(8, "big") + part for part in parts])


def as_integer(value: JsonValue) -> JsonValue:
    """``8.0`` as ``8`` and ``-0.0`` as ``0``; anything else, floats beyond 64 bits included, as it is."""
    if type(value) is float and value.is_integer() and MIN_INTEGER <= value < MAX_INTEGER:
        return int(value)
    return value


def as_number(value: JsonValue) -> JsonValue:
    """``8`` as ``8.0`` where a float holds the integer exactly; anything else as it is."""
    if type(value) is int and MIN_INTEGER <= value <= MAX_INTEGER and int(float(value)) == value:
        return float(value)
    return value


def strings_in(value: JsonValue) -> Iterator[str]:
    """Every string in a JSON value at any depth, keys left out."""
    pending = [value]
    for item in pending:
        if type(item) is str:
            yield item
        elif type(item) is dict:
            pending.extend(item.values())
        elif type(item) is list:
            pending.extend(item)


def _refuse_foreign(value: JsonValue) -> None:
    """Refuse what orjson writes but JSON does not have: NaN becomes ``null``, an enum its value, a tuple a list.

    The writer has been through ``value`` before, so it is a tree of bounded depth with ``str`` keys.
    """
    pending = [value]
    for item in pending:
        kind = type(item)
        if kind in _PLAIN:
            continue
        if kind is dict:
            pending.extend(item.values())
        elif kind is list:
            pending.extend(item)
        elif kind is not float:
            raise InvalidJson(f"not a JSON value: {kind.__name__}")
        elif not isfinite(item):
            raise InvalidJson("not a JSON value: NaN or an infinity")


def _complaint(body: bytes, error: orjson.JSONDecodeError) -> str:
    """Why orjson gave up, in the words of the rule that was broken."""
    if not body.strip():
        return "the body is empty, JSON is expected"
    if body.startswith(_BOM):
        return "the body starts with a byte order mark; send plain UTF-8"
    try:
        body.decode()
    except UnicodeDecodeError as broken:
        return f"the body is not UTF-8 (byte {broken.start})"
    before = _STRING.sub(b"", body[: error.pos]).translate(_ALL_SQUARE, _NO_BRACKETS)
    if before.count(b"[") - before.count(b"]") > MAX_DEPTH:
        return _TOO_DEEP
    return f"the body is not valid JSON: {error}"


def _is_too_deep(value: JsonValue) -> bool:
    """Whether lists and dicts stand deeper than ``MAX_DEPTH`` in ``value``; looks at each once, level by level."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [node for node in level if type(node) is dict or type(node) is list]
        if not containers:
            return False
        level = [child for node in containers for child in (node.values() if type(node) is dict else node)]
    return True


def _unique_pairs(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidJson("an object in the body has the same key twice")
    return members


def _bounded_integer(digits: str) -> int:
    # The length is looked at first: reading 5,000 digits takes quadratic time.
    if len(digits) <= _LONGEST_INTEGER:
        number = int(digits)
        if MIN_INTEGER <= number <= MAX_INTEGER:
            return number
    raise InvalidJson("an integer in the body is outside -2^63..2^64-1; send it as a string")


def _no_constant(name: str) -> NoReturn:
    raise InvalidJson(f"{name} is not JSON")


_CAREFUL = json.JSONDecoder(object_pairs_hook=_unique_pairs, parse_int=_bounded_integer, parse_constant=_no_constant)
"""Sees only what orjson has accepted: UTF-8, no NaN, no number beyond a double, no lone surrogates."""
