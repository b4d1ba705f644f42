from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import json
import math
import re
import time
import uuid
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.core import canonical
from proxy.core.canonical import MAX_DEPTH, as_integer, as_number, canonical_bytes, framed, parse_json, strings_in
from proxy.core.errors import InvalidJson

STEADY = settings(deadline=None)  # a busy machine is no failure

INTEGERS = st.integers(-(2**63), 2**64 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12
)


def typed(value: Any) -> Any:
    """``value`` with its types and the signs of its zeros written out, so that ``==`` tells all values apart."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    if isinstance(value, float):
        return (float, value, math.copysign(1.0, value))
    return (type(value), value)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


# -- what is read --------------------------------------------------------------------------------------

GOOD = [
    (b'{"a":1}', {"a": 1}),
    (b' { "a" : [ 1 , 1.0 , "1" , true , null ] } \n', {"a": [1, 1.0, "1", True, None]}),
    (b'"\\u00e9\\n\\/"', "é\n/"),
    (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
    ('"é"'.encode(), "é"),
    (b"18446744073709551615", 2**64 - 1),
    (b"-9223372036854775808", -(2**63)),
    (b" 18446744073709551615 ", 2**64 - 1),
    (b"[1e2,1E2,100.0,100]", [100.0, 100.0, 100.0, 100]),
    (b"-0", 0),
    (b"-0.0", -0.0),
    (b"1e-999", 0.0),
    (b"0.1000000000000000055511151231257827", 0.1),
    (b'{"":{"":[]}}', {"": {"": []}}),
    (b'{"a":"NaN","b":"1e999"}', {"a": "NaN", "b": "1e999"}),
    (b'{"a":{"b":1},"c":{"b":1}}', {"a": {"b": 1}, "c": {"b": 1}}),
    (b'"99999999999999999999999999"', "99999999999999999999999999"),
    (b'"[[[[{{{{"', "[[[[{{{{"),
    (b'"\x7f\\u0000"', "\x7f\x00"),
]


@pytest.mark.parametrize(("body", "value"), GOOD, ids=[repr(body) for body, _ in GOOD])
def test_good_body_is_read(body: bytes, value: Any) -> None:
    assert typed(parse_json(body)) == typed(value)


BAD = {
    "empty": (b"", "empty"),
    "blank": (b" \n", "empty"),
    "byte order mark": (b'\xef\xbb\xbf{"a":1}', "byte order mark"),
    "utf-16": ('{"a":1}'.encode("utf-16"), "not UTF-8"),
    "utf-16 without mark": ('{"a":1}'.encode("utf-16-le"), "not valid JSON"),
    "utf-32": ('{"a":1}'.encode("utf-32"), "not UTF-8"),
    "latin-1": (b'{"a":"\xe9"}', "not UTF-8 (byte 6)"),
    "overlong": (b'"\xc0\x80"', "not UTF-8"),
    "surrogate in bytes": (b'"\xed\xa0\x80"', "not UTF-8"),
    "cut off": (b'{"a":1', "not valid JSON"),
    "trailing comma": (b'{"a":1,}', "not valid JSON"),
    "trailing text": (b'{"a":1} x', "not valid JSON"),
    "two documents": (b"{}{}", "not valid JSON"),
    "trailing NUL": (b"{}\x00", "not valid JSON"),
    "single quotes": (b"{'a':1}", "not valid JSON"),
    "comment": (b"/**/1", "not valid JSON"),
    "bare word": (b"prompt", "not valid JSON"),
    "leading zero": (b"01", "not valid JSON"),
    "plus": (b"+1", "not valid JSON"),
    "hexadecimal": (b"0x10", "not valid JSON"),
    "raw newline": (b'"a\nb"', "not valid JSON"),
    "bad escape": (b'"\\x41"', "not valid JSON"),
    "NaN": (b'{"a":NaN}', "not valid JSON"),
    "Infinity": (b"[Infinity]", "not valid JSON"),
    "-Infinity": (b"-Infinity", "not valid JSON"),
    "float that overflows": (b"1e999", "infinity"),
    "float that overflows below": (b"[-1e999]", "infinity"),
    "float just too large": (b"1.7976931348623159e308", "infinity"),
    "lone high surrogate": (b'"\\ud800"', "surrogate"),
    "lone low surrogate": (b'"\\udc00"', "surrogate"),
    "surrogates swapped": (b'"\\udc00\\ud800"', "surrogate"),
    "lone surrogate in a key": (b'{"\\ud800":1}', "surrogate"),
    "2**64": (b"18446744073709551616", "outside"),
    "2**64 + 1": (b'{"seed":18446744073709551617}', "outside"),
    "-2**63 - 1": (b"-9223372036854775809", "outside"),
    "10**300": (b"1" + b"0" * 300, "outside"),
    "10**400": (b"1" + b"0" * 400, "infinity"),
    "5,000 digits": (b"9" * 5000, "infinity"),
    "equal keys": (b'{"a":1,"a":2}', "same key twice"),
    "equal keys and values": (b'{"a":1,"a":1}', "same key twice"),
    "equal keys far below": (b'[{"x":{"y":[{"k":1,"l":2,"k":3}]}}]', "same key twice"),
    "equal keys, one escaped": (b'{"a":1,"\\u0061":2}', "same key twice"),
    "equal keys, colon escaped": (b'{"a":1,"a":"\\u003a"}', "same key twice"),
    "65 levels": (nested(MAX_DEPTH + 1), "nested deeper"),
    "65 levels of objects": (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested deeper"),
    "65 levels with spaces": (b" ".join([b"["] * 65 + [b"]"] * 65), "nested deeper"),
    "900 levels": (nested(900), "nested deeper"),
    "1,025 levels": (nested(1025), "nested deeper"),
    "100,000 levels": (nested(100_000), "nested deeper"),
    "100,000 levels, left open": (b"[" * 100_000, "nested deeper"),
    "100,000 objects, left open": (b'{"a":' * 100_000, "nested deeper"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_body_is_refused_with_its_reason(name: str) -> None:
    body, reason = BAD[name]
    with pytest.raises(InvalidJson) as caught:
        parse_json(body)
    assert reason in caught.value.detail
    assert caught.value.status == 400
    assert len(caught.value.detail) < 200


def test_depth_counts_levels_not_brackets() -> None:
    assert parse_json(nested(MAX_DEPTH))
    wide = b"[" + b",".join([b'{"a":[]}'] * 1000) + b"]"
    assert len(parse_json(wide)) == 1000
    assert parse_json(b'"' + b"[{" * 1000 + b'"') == "[{" * 1000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b"9" * 1_000_000,
        b"-" + b"1" * 300 + b" ",
        b'"' + b'\\"' * 500_000,
        b'"' + b"\\" * 1_000_001,
        b'"' * 1_000_001,
        b'[["' * 300_000,
        b"[" + b",".join([b"[]"] * 200_000) + b" ]",
    ],
    ids=["open", "open objects", "digits", "300 digits", "escapes", "backslashes", "quotes", "mixed", "wide"],
)
def test_hostile_body_takes_time_in_proportion(body: bytes) -> None:
    # Quadratic work would be minutes; the bound is far from both, and what else the machine does is not counted.
    started = time.process_time()
    with contextlib.suppress(InvalidJson):
        parse_json(body)
    assert time.process_time() - started < 5.0


@STEADY
@given(st.binary() | TEXT.map(str.encode))
@example(b"\xff\xfe")
@example(b"[" * 2000)
def test_arbitrary_bytes_give_a_value_or_invalid_json(body: bytes) -> None:
    try:
        value = parse_json(body)
    except InvalidJson:
        return
    assert typed(value) == typed(json.loads(body))


PIECES = [
    *[b"[", b"]", b"{", b"}", b",", b":", b" ", b'"', b"\\", b"1", b"0", b"-", b".", b"e", b"9" * 19, b"NaN"],
    *[b'"a"', b'"a":', b'{"a":1}', b'"\\u0061":', b"\\ud800", b"null", b"true", b"\xc3\xa9", b"1e9"],
]


@STEADY
@given(st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join))
def test_near_json_is_refused_or_read_as_the_careful_reader_does(body: bytes) -> None:
    """The careful reader alone decides what a body means; the fast one may only agree."""
    try:
        value = parse_json(body)
    except InvalidJson:
        return
    assert typed(value) == typed(canonical._CAREFUL.decode(body.decode()))


SPELLINGS = [
    {"ensure_ascii": ascii_only, "separators": separators, "indent": indent}
    for ascii_only in (True, False)
    for separators in ((",", ":"), (", ", ": "))
    for indent in (None, 1)
]


@STEADY
@given(VALUES, st.sampled_from(SPELLINGS))
def test_reads_what_json_reads_in_any_spelling(value: Any, spelling: dict[str, Any]) -> None:
    body = json.dumps(value, **spelling).encode()
    assert typed(parse_json(body)) == typed(json.loads(body)) == typed(value)


@STEADY
@given(VALUES)
def test_fast_and_careful_reader_agree(value: Any) -> None:
    body = orjson.dumps(value)
    assert typed(parse_json(body)) == typed(parse_json(body + b" ")) == typed(value)


@STEADY
@given(st.decimals(allow_nan=False, allow_infinity=False, places=30, min_value=-(10**20), max_value=10**20))
def test_long_decimals_are_rounded_alike_by_both_readers(number: decimal.Decimal) -> None:
    body = f"[{number:f}]".encode()
    assert typed(parse_json(body)) == typed([float(number)])


@STEADY
@given(st.dictionaries(TEXT, SCALARS, min_size=1), st.data())
def test_a_repeated_key_is_refused_wherever_it_stands(members: dict[str, Any], data: st.DataObject) -> None:
    pairs = [json.dumps(key) + ":" + json.dumps(value) for key, value in members.items()]
    again = data.draw(st.sampled_from(sorted(members)))
    pairs.insert(data.draw(st.integers(0, len(pairs))), json.dumps(again, ensure_ascii=False) + ":" + "0")
    body = "[{" + ",".join(pairs) + "}]"
    with pytest.raises(InvalidJson, match="same key twice"):
        parse_json(body.encode())


@STEADY
@given(st.integers())
def test_integers_are_exact_or_refused(number: int) -> None:
    for body in (str(number).encode(), b" " + str(number).encode()):
        if -(2**63) <= number < 2**64:
            assert typed(parse_json(body)) == typed(number)
        else:
            with pytest.raises(InvalidJson, match="outside"):
                parse_json(body)


# -- what is written -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"b": 1, "a": [True, None]}, b'{"a":[true,null],"b":1}'),
        (
            {"B": 1, "a": 2, "é": 3, "\N{GRINNING FACE}": 4, "\uffff": 5},
            '{"B":1,"a":2,"é":3,"\uffff":5,"😀":4}'.encode(),
        ),
        ([1, 1.0, "1", True], b'[1,1.0,"1",true]'),
        ([0, 0.0, -0.0, False, "", None], b'[0,0.0,-0.0,false,"",null]'),
        ([100, 100.0, 1e16, 1e-7, 0.1], b"[100,100.0,1e+16,1e-7,0.1]"),
        ("caf\u00e9", b'"caf\xc3\xa9"'),
        ("cafe\u0301", b'"cafe\xcc\x81"'),
        ('\x00\x1f\n"\\/', b'"\\u0000\\u001f\\n\\"\\\\/"'),
    ],
)
def test_canonical_form(value: Any, written: bytes) -> None:
    assert canonical_bytes(value) == written


@STEADY
@given(VALUES)
def test_canonical_bytes_read_back_as_the_same_value(value: Any) -> None:
    """Injective: the value can be had back from the bytes, so no two values have the same bytes."""
    assert typed(json.loads(canonical_bytes(value))) == typed(value)
    assert typed(parse_json(canonical_bytes(value))) == typed(value)


@STEADY
@given(VALUES, VALUES)
def test_equal_bytes_mean_equal_values(left: Any, right: Any) -> None:
    assert (canonical_bytes(left) == canonical_bytes(right)) == (typed(left) == typed(right))


@STEADY
@given(FLOATS, INTEGERS)
def test_no_float_is_written_like_an_integer(number: float, integer: int) -> None:
    assert canonical_bytes(number) != canonical_bytes(integer)
    assert not canonical_bytes(number).lstrip(b"-").isdigit()


@STEADY
@given(st.dictionaries(TEXT, VALUES))
def test_key_order_does_not_matter(members: dict[str, Any]) -> None:
    backwards = dict(reversed(members.items()))
    assert canonical_bytes(members) == canonical_bytes(backwards)


class Word(str):
    pass


class Count(int):
    pass


class Ratio(float):
    pass


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    ONE = 1


class Plain(enum.Enum):
    ONE = 1


@dataclasses.dataclass
class Record:
    a: int = 1


Pair = collections.namedtuple("Pair", "a")


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: [x], lambda x: {"a": {"b": [0, x]}}], ids=["bare", "list", "deep"]
)
@pytest.mark.parametrize(
    "foreign",
    [
        *[math.nan, math.inf, -math.inf, 2**64, -(2**63) - 1, 10**400],
        *[Word("x"), Count(1), Ratio(1.0), Colour.RED, Level.ONE, Plain.ONE],
        *[(1,), (), Pair(1), {1}, b"x", bytearray(b"x"), memoryview(b"x"), 1j, ..., object(), int],
        *[Record(), uuid.UUID(int=1), datetime.datetime(2026, 1, 1), datetime.date(2026, 1, 1), datetime.time(1)],
        *[decimal.Decimal(1), orjson.Fragment(b"1"), collections.OrderedDict(a=1), collections.Counter("a")],
        *["\ud800", {"\udfff": 1}, {1: 1}, {None: 1}, {True: 1}, {1.0: 1}, {Word("x"): 1}, {Colour.RED: 1}, {(): 1}],
    ],
    ids=lambda one: re.sub(" at 0x[0-9a-f]+", "", repr(one)),
)
def test_what_json_does_not_have_is_refused(foreign: Any, wrap: Any) -> None:
    with pytest.raises(InvalidJson):
        canonical_bytes(wrap(foreign))


def test_endless_and_bottomless_values_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    bottomless: Any = 1
    for _ in range(5000):
        bottomless = [bottomless]
    for value in (endless, bottomless):
        with pytest.raises(InvalidJson):
            canonical_bytes(value)


# -- frames and folds ----------------------------------------------------------------------------------


def unframed(data: bytes) -> list[bytes]:
    parts = []
    while data:
        size = int.from_bytes(data[:8], "big")
        parts.append(data[8 : 8 + size])
        data = data[8 + size :]
    return parts


@STEADY
@given(st.lists(st.binary()))
def test_frames_can_be_taken_apart_again(parts: list[bytes]) -> None:
    assert unframed(framed(parts)) == parts


@STEADY
@given(VALUES)
def test_folds_change_no_value_only_its_type(value: Any) -> None:
    assert as_integer(value) == value == as_number(value)


@pytest.mark.parametrize(
    ("given_", "integer", "number"),
    [
        (8.0, 8, 8.0),
        (8, 8, 8.0),
        (-0.0, 0, -0.0),
        (8.5, 8.5, 8.5),
        (True, True, True),
        ("8", "8", "8"),
        (None, None, None),
        (2.0**63, 2**63, 2.0**63),
        (2.0**64, 2.0**64, 2.0**64),
        (-(2.0**63), -(2**63), -(2.0**63)),
        (1e300, 1e300, 1e300),
        (2**53, 2**53, 2.0**53),
        (2**53 + 1, 2**53 + 1, 2**53 + 1),
        (2**64 - 1, 2**64 - 1, 2**64 - 1),
        (10**400, 10**400, 10**400),
    ],
)
def test_numbers_are_folded_only_where_nothing_is_lost(given_: Any, integer: Any, number: Any) -> None:
    assert typed(as_integer(given_)) == typed(integer)
    assert typed(as_number(given_)) == typed(number)


def test_strings_are_found_at_any_depth_keys_left_out() -> None:
    assert sorted(strings_in({"a": ["b", {"c": "d"}], "e": 1})) == ["b", "d"]


def at_the_bottom_of(frames: int, body: bytes) -> Any:
    return at_the_bottom_of(frames - 1, body) if frames else parse_json(body)


@settings(max_examples=20, deadline=None)
@given(VALUES)
def test_a_deep_stack_reads_like_a_shallow_one(value: Any) -> None:
    assert typed(at_the_bottom_of(300, orjson.dumps(value) + b" ")) == typed(value)


@pytest.mark.parametrize("frames", [0, 600])
def test_what_the_first_of_two_equal_keys_hides_cannot_exhaust_the_stack(frames: int) -> None:
    body = b'{"a":' + nested(900) + b',"a":1}'
    with pytest.raises(InvalidJson, match=r"same key twice|nested deeper"):
        at_the_bottom_of(frames, body)
