"""Keys: golden vectors, pairs of requests that must or must not share a key, and mutants that the pairs catch.

Run as a program (``PYTHONPATH=. python tests/proxy/core/test_keys.py``) this file writes the canonical bytes and
keys in ``tests/vectors/keys.json`` anew from the inputs there, for a change of the key rules on purpose.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import blake3
import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy.core import keys, schemas
from proxy.core.canonical import as_integer, canonical_bytes, parse_json
from proxy.core.errors import HotplateError, InputInvalid
from proxy.core.keys import KEY_VERSION, KeyIngredients, derive_key, key_context, key_material
from proxy.core.schemas import InputSchema, normalise_input, parse_schema
from storage.digest import Digest, PredictionKey, Scope, hash_bytes
from storage.records import JsonPath

STEADY = settings(deadline=None)  # a busy machine is no failure

VECTORS = Path(__file__).parents[3] / "tests" / "vectors" / "keys.json"

ALICE = bytes(range(32))
BOB = bytes(range(31)) + b"\xff"
VERSION_1 = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
VERSION_2 = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccab"

# -- vectors -------------------------------------------------------------------------------------------


def load_vectors() -> dict[str, Any]:
    return dict(json.loads(VECTORS.read_text("utf-8")))


def ingredients_of(vector: dict[str, Any]) -> KeyIngredients:
    return KeyIngredients(
        scope=Scope(bytes.fromhex(vector["scope"])),
        upstream=vector["upstream"],
        model=vector["model"],
        version=vector["version"],
        input=parse_json(vector["input"].encode()),
        files=tuple((tuple(path), Digest(bytes.fromhex(digest))) for path, digest in vector.get("files", [])),
    )


def vector_violations() -> list[str]:
    """Names of the vectors that the code no longer agrees with."""
    found = []
    for vector in load_vectors()["vectors"]:
        ingredients = ingredients_of(vector)
        try:
            if canonical_bytes(ingredients.input) != vector["canonical"].encode():
                found.append(f"{vector['name']}: canonical bytes")
            if derive_key(ingredients).hex() != vector["key"]:
                found.append(f"{vector['name']}: key")
        except ValueError as error:
            found.append(f"{vector['name']}: {error}")
    return found


def test_vectors_hold() -> None:
    """If this fails without intent, every stored result is lost or, worse, found by the wrong request.

    On purpose: raise ``KEY_VERSION``, run this file as a program, and say so in the CHANGELOG.
    """
    assert vector_violations() == []


def test_vectors_are_many_and_belong_to_this_key_version() -> None:
    document = load_vectors()
    assert document["key_version"] == KEY_VERSION
    assert document["context"] == key_context(KEY_VERSION)
    names = [vector["name"] for vector in document["vectors"]]
    assert len(names) >= 30
    assert len(set(names)) == len(names)
    assert len({vector["key"] for vector in document["vectors"]}) == len(
        {json.dumps({**vector, "name": "", "input": "", "key": ""}) for vector in document["vectors"]}
    )


def test_vectors_follow_from_the_page_that_describes_keys() -> None:
    """A second implementation, written from ``docs/keys.md`` and the canonical bytes in the vectors alone."""

    def frames(*parts: bytes) -> bytes:
        return b"".join(struct.pack(">Q", len(part)) + part for part in parts)

    for vector in load_vectors()["vectors"]:
        files = sorted(
            (json.dumps(path, separators=(",", ":"), ensure_ascii=False).encode(), bytes.fromhex(digest))
            for path, digest in vector.get("files", [])
        )
        material = frames(
            bytes.fromhex(vector["scope"]),
            vector["upstream"].encode(),
            vector["model"].encode(),
            vector["version"].encode(),
            vector["canonical"].encode(),
            frames(*(part for file in files for part in file)),
        )
        assert key_material(ingredients_of(vector)) == material, vector["name"]
        hasher = blake3.blake3(material, derive_key_context="hotplate 2026-11 prediction key v1")
        assert hasher.hexdigest() == vector["key"], vector["name"]


# -- pairs ---------------------------------------------------------------------------------------------

_CHOICE = {"type": "string", "enum": ["webp", "png"], "title": "fmt", "description": "An enumeration."}
OPENAPI: dict[str, Any] = {
    "components": {
        "schemas": {
            "fmt": _CHOICE,
            "Input": {
                "type": "object",
                "required": ["prompt"],
                "properties": {
                    "prompt": {"type": "string"},
                    "seed": {"type": "integer", "nullable": True},
                    "old": {"type": "integer"},
                    "width": {"type": "integer", "default": 512, "minimum": 16, "maximum": 1024},
                    "guidance": {"type": "number", "default": 7.5},
                    "scale": {"type": "number", "default": 2},
                    "n": {"type": "integer", "default": 1.0},
                    "fmt": {"allOf": [{"$ref": "#/components/schemas/fmt"}], "default": "webp"},
                    "up": {"type": "boolean", "default": False},
                    "boost": {"type": "integer", "nullable": True, "default": 5},
                    "sizes": {"type": "array", "items": {"type": "integer"}, "nullable": True},
                    "ratios": {"type": "array", "items": {"type": "number"}, "default": [1, 0.5]},
                    "image": {"type": "string", "format": "uri", "nullable": True},
                    "extra": {"type": "object"},
                    "odd": {"oneOf": [{"type": "integer"}, {"type": "string"}], "default": 1},
                },
            },
        }
    }
}


@dataclasses.dataclass(frozen=True)
class Request:
    """A request as far as its key is concerned.

    ``schema`` is ``""`` where none is known, ``"cog"`` where unknown inputs are dropped and a bad input is
    refused, ``"replicate"`` where they are kept and a bad input is keyed as it came.
    """

    body: str = '{"prompt":"a red fox","seed":7}'
    schema: Literal["", "cog", "replicate"] = ""
    scope: bytes = ALICE
    upstream: str = "gpus"
    model: str = "acme/pixel"
    version: str = VERSION_1
    files: tuple[tuple[JsonPath, bytes], ...] = ()
    key_version: int = KEY_VERSION


@dataclasses.dataclass(frozen=True)
class Pair:
    kind: Literal["same", "near", "far"]
    reason: str
    left: Request
    right: Request


Side = str | dict[str, Any]


def _request(side: Side, both: dict[str, Any]) -> Request:
    return Request(**{**both, **({"body": side} if isinstance(side, str) else side)})


def same(reason: str, left: Side, right: Side, **both: Any) -> Pair:
    """The model could not tell these apart."""
    return Pair("same", reason, _request(left, both), _request(right, both))


def near(reason: str, left: Side, right: Side, **both: Any) -> Pair:
    """Different by one small thing: one type, digit, code point, level, or one ingredient."""
    return Pair("near", reason, _request(left, both), _request(right, both))


def far(reason: str, left: Side, right: Side, **both: Any) -> Pair:
    """Plainly different."""
    return Pair("far", reason, _request(left, both), _request(right, both))


def inside(text: str) -> str:
    """An input for ``OPENAPI`` with further members."""
    return '{"prompt":"a"' + ("," + text if text else "") + "}"


def both_kinds(make: Callable[..., Pair], reason: str, left: str, right: str) -> list[Pair]:
    return [make(f"{reason} ({kind})", inside(left), inside(right), schema=kind) for kind in ("cog", "replicate")]


FOX, CAT = hash_bytes(b"fox"), hash_bytes(b"cat")
HOLE = '{"image":null}'

SPELLING = [
    same("one request twice", {}, {}),
    same("key order", '{"a":1,"b":2}', '{"b":2,"a":1}'),
    same("key order far below", '{"l":[{"x":{"a":1,"b":2}}]}', '{"l":[{"x":{"b":2,"a":1}}]}'),
    same("key order beyond ASCII", '{"é":1,"z":2,"Z":3}', '{"Z":3,"z":2,"é":1}'),
    same("whitespace", '{"a":[1,2]}', ' {\n\t"a" : [ 1 , 2 ]\r\n} '),
    same("whitespace in an empty object", "{}", "{ }"),
    same("escaped letter", '{"a":"b"}', '{"\\u0061":"\\u0062"}'),
    same("escaped umlaut", '{"a":"\\u00fc"}', '{"a":"ü"}'),
    same("upper-case escape", '{"a":"\\u00FC"}', '{"a":"\\u00fc"}'),
    same("escaped emoji", '{"a":"\\ud83e\\udd8a"}', '{"a":"\N{FOX FACE}"}'),
    same("escaped slash", '{"a":"\\/"}', '{"a":"/"}'),
    same("short and long escape", '{"a":"\\n"}', '{"a":"\\u000a"}'),
    same("escaped delete", '{"a":"\\u007f"}', '{"a":"\x7f"}'),
    same("exponent", '{"a":1e2}', '{"a":100.0}'),
    same("upper-case exponent", '{"a":1E2}', '{"a":1e+2}'),
    same("trailing zeros", '{"a":0.50}', '{"a":0.5}'),
    same("digits beyond a double", '{"a":0.1}', '{"a":0.1000000000000000055511151231257827}'),
    same("small exponent", '{"a":1e-7}', '{"a":0.0000001}'),
    same("negative zero integer", '{"a":-0}', '{"a":0}'),
    same("seed of 64 bits with a space", '{"seed":18446744073709551615}', '{"seed": 18446744073709551615}'),
    same("order of files", {"files": ((("a",), FOX), (("b",), CAT))}, {"files": ((("b",), CAT), (("a",), FOX))},
         body='{"a":null,"b":null}'),
]  # fmt: skip

SCHEMA_SAME = [
    *both_kinds(same, "default left out or written out", "", '"width":512'),
    *both_kinds(same, "all defaults", "", '"width":512,"guidance":7.5,"n":1,"fmt":"webp","up":false,"boost":5'),
    *both_kinds(same, "default of a choice", "", '"fmt":"webp"'),
    *both_kinds(same, "false as default", "", '"up":false'),
    *both_kinds(same, "default given as float for an integer", "", '"width":512.0'),
    *both_kinds(same, "default of a number written as integer", "", '"scale":2'),
    *both_kinds(same, "default of a number", '"scale":2', '"scale":2.0'),
    *both_kinds(same, "list as default", "", '"ratios":[1,0.5]'),
    *both_kinds(same, "list as default, folded", "", '"ratios":[1.0,0.5]'),
    *both_kinds(same, "default of a nullable input", "", '"boost":5'),
    *both_kinds(same, "default of an unclear input", "", '"odd":1'),
    *both_kinds(same, "null of a nullable input", "", '"seed":null'),
    *both_kinds(same, "null of a nullable list", "", '"sizes":null'),
    *both_kinds(same, "null of a nullable file", "", '"image":null'),
    *both_kinds(same, "null of an optional input of older models", "", '"old":null'),
    *both_kinds(same, "8.0 for an integer", '"seed":8', '"seed":8.0'),
    *both_kinds(same, "exponent for an integer", '"seed":100', '"seed":1e2'),
    *both_kinds(same, "negative zero for an integer", '"seed":0', '"seed":-0.0'),
    *both_kinds(same, "integer for a number", '"guidance":8', '"guidance":8.0'),
    *both_kinds(same, "large integer that a float holds", '"scale":9007199254740992', '"scale":9007199254740992.0'),
    *both_kinds(same, "items of an integer list", '"sizes":[1,2]', '"sizes":[1.0,2]'),
    *both_kinds(same, "items of a number list", '"ratios":[1,2]', '"ratios":[1.0,2]'),
    *both_kinds(same, "key order with a schema", '"seed":1,"width":64', '"width":64,"seed":1'),
    same("unknown input of a Cog server", inside(""), inside('"webhook":"https://a/b"'), schema="cog"),
    same("unknown null input of a Cog server", inside(""), inside('"wdith":null'), schema="cog"),
]  # fmt: skip

INGREDIENT_NEAR = [
    near("scope: last byte", {"scope": ALICE}, {"scope": BOB}),
    near("scope: first bit", {"scope": bytes(32)}, {"scope": b"\x80" + bytes(31)}),
    near("scope: two bytes swapped", {"scope": b"\x00\x01" + bytes(30)}, {"scope": b"\x01\x00" + bytes(30)}),
    near("upstream: one letter", {"upstream": "gpus"}, {"upstream": "gpu"}),
    near("upstream: case", {"upstream": "gpus"}, {"upstream": "Gpus"}),
    near("model: one letter", {"model": "acme/pixel"}, {"model": "acme/pixels"}),
    near("model: case", {"model": "acme/pixel"}, {"model": "acme/Pixel"}),
    near("model: another owner", {"model": "acme/pixel"}, {"model": "acne/pixel"}),
    near("model: none", {"model": "acme/pixel"}, {"model": ""}),
    near("model: slash moved", {"model": "ac/mepixel"}, {"model": "acme/pixel"}),
    near("version: last digit", {"version": VERSION_1}, {"version": VERSION_2}),
    near("version: hidden", {"version": VERSION_1}, {"version": "hidden"}),
    near("version: none", {"version": VERSION_1}, {"version": ""}),
    near("key version", {"key_version": 1}, {"key_version": 2}),
    near("letter moved from upstream to model", {"upstream": "ab", "model": "c/d"}, {"upstream": "a", "model": "bc/d"}),
    near("letter moved from model to version", {"model": "a/bc", "version": "d"}, {"model": "a/b", "version": "cd"}),
    near("model and version swapped", {"model": "a", "version": "b"}, {"model": "b", "version": "a"}),
    near("upstream and model swapped", {"upstream": "a", "model": "b"}, {"upstream": "b", "model": "a"}),
    near("everything moved to the upstream", {"upstream": "abc", "model": "", "version": ""},
         {"upstream": "", "model": "ab", "version": "c"}),
    near("input moved into the version", {"version": "a{}", "body": "{}"}, {"version": "a", "body": '{"{}":{}}'}),
    near("file or null", {"files": ((("image",), FOX),)}, {}, body=HOLE),
    near("file: other bytes", {"files": ((("image",), FOX),)}, {"files": ((("image",), CAT),)}, body=HOLE),
    near("file or its digest as text", {"body": HOLE, "files": ((("image",), FOX),)}, f'{{"image":"{FOX.hex()}"}}'),
    near("file or a data URL as text", {"body": HOLE, "files": ((("image",), FOX),)}, '{"image":"data:,fox"}'),
    near("file or no input", {"body": HOLE, "files": ((("image",), FOX),)}, "{}"),
    near("file or text of its path and digest", {"body": HOLE, "files": ((("image",), FOX),)},
         f'{{"image":[["image"],"{FOX.hex()}"]}}'),
    near("file at another place", {"files": ((("a",), FOX),)}, {"files": ((("b",), FOX),)}, body='{"a":null,"b":null}'),
    near("files swapped", {"files": ((("a",), FOX), (("b",), CAT))}, {"files": ((("a",), CAT), (("b",), FOX))},
         body='{"a":null,"b":null}'),
    near("one file or two", {"files": ((("a",), FOX),)}, {"files": ((("a",), FOX), (("b",), FOX))},
         body='{"a":null,"b":null}'),
    near("file at an item or at a member", {"body": '{"a":[null]}', "files": ((("a", 0), FOX),)},
         {"body": '{"a":{"0":null}}', "files": ((("a", "0"), FOX),)}),
    near("file at the first or second item", {"files": ((("a", 0), FOX),)}, {"files": ((("a", 1), FOX),)},
         body='{"a":[null,null]}'),
]  # fmt: skip

VALUE_NEAR = [
    near("integer or float", '{"a":1}', '{"a":1.0}'),
    near("integer or text", '{"a":1}', '{"a":"1"}'),
    near("integer or true", '{"a":1}', '{"a":true}'),
    near("float or text", '{"a":1.0}', '{"a":"1.0"}'),
    near("zero or false", '{"a":0}', '{"a":false}'),
    near("zero or null", '{"a":0}', '{"a":null}'),
    near("false or null", '{"a":false}', '{"a":null}'),
    near("null or text", '{"a":null}', '{"a":"null"}'),
    near("true or text", '{"a":true}', '{"a":"true"}'),
    near("null or absent", '{"a":null}', "{}"),
    near("empty text or null", '{"a":""}', '{"a":null}'),
    near("empty text or absent", '{"a":""}', "{}"),
    near("empty list or absent", '{"a":[]}', "{}"),
    near("empty list or empty object", '{"a":[]}', '{"a":{}}'),
    near("empty list or null", '{"a":[]}', '{"a":null}'),
    near("zero or negative zero", '{"a":0.0}', '{"a":-0.0}'),
    near("large integer or float", '{"a":100000000000000000000.0}', '{"a":10000000000000000000}'),
    near("seed: last digit", '{"seed":41}', '{"seed":42}'),
    near("seed: last of 53 bits", '{"seed":9007199254740992}', '{"seed":9007199254740993}'),
    near("seed: last of 64 bits", '{"seed":18446744073709551614}', '{"seed":18446744073709551615}'),
    near("seed: sign", '{"seed":1}', '{"seed":-1}'),
    near("float: last bit", '{"a":0.1}', '{"a":0.10000000000000002}'),
    near("float: a digit that print does not show", '{"a":0.3}', '{"a":0.30000000000000004}'),
    near("float: smallest", '{"a":5e-324}', '{"a":0.0}'),
    near("text: NFC or NFD", '{"a":"caf\u00e9"}', '{"a":"cafe\u0301"}'),
    near("text: NFC or NFD in a key", '{"caf\u00e9":1}', '{"cafe\u0301":1}'),
    near("text: ligature", '{"a":"\ufb01"}', '{"a":"fi"}'),
    near("text: Kelvin sign", '{"a":"\u212a"}', '{"a":"K"}'),
    near("text: Cyrillic letter", '{"a":"\u0430"}', '{"a":"a"}'),
    near("text: case", '{"a":"Fox"}', '{"a":"fox"}'),
    near("text: trailing space", '{"a":"fox"}', '{"a":"fox "}'),
    near("text: leading space", '{"a":"fox"}', '{"a":" fox"}'),
    near("text: doubled space", '{"a":"red fox"}', '{"a":"red  fox"}'),
    near("text: no-break space", '{"a":"red fox"}', '{"a":"red\u00a0fox"}'),
    near("text: zero-width joiner", '{"a":"fox"}', '{"a":"fo\u200dx"}'),
    near("text: line ends", '{"a":"x\\n"}', '{"a":"x\\r\\n"}'),
    near("text: NUL", '{"a":"fox"}', '{"a":"fox\\u0000"}'),
    near("text: emoji with variation selector", '{"a":"\u2764"}', '{"a":"\u2764\ufe0f"}'),
    near("text: quotes", '{"a":"\\""}', "{\"a\":\"'\"}"),
    near("text: escape or what it looks like", '{"a":"\\n"}', '{"a":"\\\\n"}'),
    near("text: JSON or the value it spells", '{"a":"[1]"}', '{"a":[1]}'),
    near("list order", '{"a":[1,2]}', '{"a":[2,1]}'),
    near("list length", '{"a":[1]}', '{"a":[1,1]}'),
    near("list or item", '{"a":["x"]}', '{"a":"x"}'),
    near("list split elsewhere", '{"a":["ab","c"]}', '{"a":["a","bc"]}'),
    near("list nested elsewhere", '{"a":[[1],2]}', '{"a":[[1,2]]}'),
    near("null item", '{"a":[1]}', '{"a":[1,null]}'),
    near("one level deeper", '{"a":{"b":1}}', '{"a":{"b":{"b":1}}}'),
    near("member one level higher", '{"a":{"b":1,"c":2}}', '{"a":{"b":1},"c":2}'),
    near("key: one letter", '{"width":1}', '{"widht":1}'),
    near("key: case", '{"seed":1}', '{"Seed":1}'),
    near("key: space", '{"seed":1}', '{"seed ":1}'),
    near("key: empty", '{"":1}', '{" ":1}'),
    near("keys swapped", '{"a":1,"b":2}', '{"a":2,"b":1}'),
    near("key and value swapped", '{"a":"b"}', '{"b":"a"}'),
    near("further member", '{"a":1}', '{"a":1,"b":null}'),
    near("index as key", '{"a":["x"]}', '{"a":{"0":"x"}}'),
]  # fmt: skip

SCHEMA_NEAR = [
    *both_kinds(near, "another value than the default", "", '"width":513'),
    *both_kinds(near, "float near the default", "", '"guidance":7.500000000000001'),
    *both_kinds(near, "null where the default is not null", "", '"boost":null'),
    *both_kinds(near, "null or zero", '"seed":null', '"seed":0'),
    *both_kinds(near, "other choice", "", '"fmt":"png"'),
    *both_kinds(near, "other boolean", "", '"up":true'),
    *both_kinds(near, "empty list or nothing", "", '"sizes":[]'),
    *both_kinds(near, "empty list or the default list", "", '"ratios":[]'),
    *both_kinds(near, "order of items", '"sizes":[1,2]', '"sizes":[2,1]'),
    *both_kinds(near, "empty object or nothing", "", '"extra":{}'),
    *both_kinds(near, "integer or float inside an object", '"extra":{"a":1}', '"extra":{"a":1.0}'),
    *both_kinds(near, "null inside an object", '"extra":{"a":null}', '"extra":{}'),
    *both_kinds(near, "integer or float for an unclear input", '"odd":2', '"odd":2.0'),
    *both_kinds(near, "null of an unclear input", "", '"odd":null'),
    *both_kinds(near, "negative zero for a number", '"guidance":0.0', '"guidance":-0.0'),
    *both_kinds(near, "integer that no float holds", '"guidance":9007199254740993', '"guidance":9007199254740992'),
    *both_kinds(near, "file: one letter of its URL", '"image":"https://a/b"', '"image":"https://a/c"'),
    near("prompt: trailing space with a schema", '{"prompt":"a"}', '{"prompt":"a "}', schema="cog"),
    near("prompt: NFC or NFD with a schema", '{"prompt":"\u00e9"}', '{"prompt":"e\u0301"}', schema="cog"),
    near("unknown input of Replicate", inside(""), inside('"wdith":64'), schema="replicate"),
    near("unknown null input of Replicate", inside(""), inside('"wdith":null'), schema="replicate"),
    near("unknown input of Replicate: type", inside('"y":1'), inside('"y":1.0'), schema="replicate"),
    near("text for an integer", inside('"seed":8'), inside('"seed":"8"'), schema="replicate"),
    near("boolean for an integer", inside('"seed":1'), inside('"seed":true'), schema="replicate"),
    near("integer for a boolean", inside('"up":true'), inside('"up":1'), schema="replicate"),
    near("integer for a text", '{"prompt":"1"}', '{"prompt":1}', schema="replicate"),
    near("broken integer", inside('"seed":8'), inside('"seed":8.5'), schema="replicate"),
    near("choice: case", inside('"fmt":"png"'), inside('"fmt":"PNG"'), schema="replicate"),
    near("value beyond its limit", inside('"width":1024'), inside('"width":1025'), schema="replicate"),
    near("default without a schema", '{"prompt":"a"}', '{"prompt":"a","width":512}'),
    near("float for an integer without a schema", '{"seed":8}', '{"seed":8.0}'),
    near("null without a schema", '{"prompt":"a"}', '{"prompt":"a","seed":null}'),
]  # fmt: skip

FAR = [
    far("another prompt", '{"prompt":"a red fox"}', '{"prompt":"a blue whale"}'),
    far("another shape", '{"prompt":"a"}', '{"image":["b"],"seed":1}'),
    far("something or nothing", '{"prompt":"a"}', "{}"),
    far("another caller, model and input", {}, {"scope": BOB, "model": "x/y", "version": "hidden", "body": "{}"}),
]

PAIRS = [*SPELLING, *SCHEMA_SAME, *INGREDIENT_NEAR, *VALUE_NEAR, *SCHEMA_NEAR, *FAR]


def key_of(request: Request) -> PredictionKey:
    """The key, the way the engine makes it."""
    document = parse_json(request.body.encode())
    parsed = parse_schema(OPENAPI) if request.schema else None
    if parsed is not None and request.schema == "cog":
        document = normalise_input(parsed, document, unknown="drop")
    elif parsed is not None:
        with suppress(InputInvalid):
            document = normalise_input(parsed, document, unknown="keep")
    files = tuple((path, Digest(digest)) for path, digest in request.files)
    ingredients = KeyIngredients(
        Scope(request.scope), request.upstream, request.model, request.version, document, files
    )
    with patch.object(keys, "KEY_VERSION", request.key_version):
        return derive_key(ingredients)


def pair_violations(pairs: Iterable[Pair] = tuple(PAIRS)) -> dict[str, set[str]]:
    """What is wrong, as reasons of pairs: two requests ``shared`` a key wrongly, were ``split``, or one ``broke``."""
    found: dict[str, set[str]] = {}
    for pair in pairs:
        try:
            is_shared = key_of(pair.left) == key_of(pair.right)
        except (ValueError, HotplateError):
            found.setdefault("broke", set()).add(pair.reason)
        else:
            if is_shared != (pair.kind == "same"):
                found.setdefault("shared" if is_shared else "split", set()).add(pair.reason)
    return found


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{pair.kind}: {pair.reason}" for pair in PAIRS])
def test_pair(pair: Pair) -> None:
    assert pair_violations([pair]) == {}


def test_pairs_are_many_and_often_nearly_the_same(
    record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {kind: sum(pair.kind == kind for pair in PAIRS) for kind in ("same", "near", "far")}
    share = counts["near"] / len(PAIRS)
    record_property("pairs", len(PAIRS))
    record_property("near_miss_share", round(share, 3))
    with capsys.disabled():
        print(f"\n{len(PAIRS)} pairs of requests: {counts}; near misses {share:.0%}")
    assert len(PAIRS) >= 120
    assert share >= 0.30
    assert counts["same"] >= 30
    assert len({(pair.reason, pair.kind) for pair in PAIRS}) == len(PAIRS)


# -- mutants: the suites above would notice ------------------------------------------------------------

Patch = Callable[[pytest.MonkeyPatch], None]


def _without(field: str) -> Patch:
    kept = tuple((name, encode) for name, encode in keys._ENCODERS if name != field)
    return lambda monkeypatch: monkeypatch.setattr(keys, "_ENCODERS", kept)


def _plain_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "framed", b"".join)


def _no_key_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "key_context", lambda version: "hotplate 2026-11 prediction key")


KEY_MUTANTS: dict[str, Patch] = {
    **{f"without {field.name}": _without(field.name) for field in dataclasses.fields(KeyIngredients)},
    "without length prefixes": _plain_join,
    "without the key version": _no_key_version,
}


def test_every_ingredient_is_encoded() -> None:
    assert [name for name, _ in keys._ENCODERS] == [field.name for field in dataclasses.fields(KeyIngredients)]


@pytest.mark.parametrize("name", KEY_MUTANTS)
def test_key_that_leaves_something_out_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    KEY_MUTANTS[name](monkeypatch)
    assert "shared" in pair_violations()
    assert vector_violations() != []


def _mapped(change: Callable[[Any], Any]) -> Patch:
    """Canonical bytes of a value in which each part, leaves first, went through ``change``."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return change({change(key): walk(inner) for key, inner in value.items()})
        return change([walk(inner) for inner in value] if isinstance(value, list) else value)

    return lambda monkeypatch: monkeypatch.setattr(keys, "canonical_bytes", lambda value: canonical_bytes(walk(value)))


def _when(kind: type, change: Callable[[Any], Any]) -> Patch:
    return _mapped(lambda value: change(value) if type(value) is kind else value)


CANONICAL_MUTANTS: dict[str, Patch] = {
    "keys in the order given": lambda mp: mp.setattr(keys, "canonical_bytes", orjson.dumps),
    "integers as floats": _when(int, float),
    "whole floats as integers": _when(float, lambda number: int(number) if number.is_integer() else number),
    "booleans as integers": _when(bool, int),
    "scalars as text": _mapped(lambda value: value if isinstance(value, (dict, list)) else str(value)),
    "no negative zero": _when(float, lambda number: number + 0.0),
    "floats of 32 bits": _when(float, lambda n: struct.unpack("f", struct.pack("f", n))[0] if abs(n) < 1e38 else n),
    "six digits": _when(float, lambda number: float(f"{number:g}")),
    "integers of 53 bits": _when(int, lambda number: int(float(number)) if abs(number) < 2**63 else number),
    "NFC": _when(str, lambda text: unicodedata.normalize("NFC", text)),
    "NFKC": _when(str, lambda text: unicodedata.normalize("NFKC", text)),
    "lower case": _when(str, str.lower),
    "stripped": _when(str, str.strip),
    "spaces folded": _when(str, lambda text: " ".join(text.split(" ")) if "  " not in text else " ".join(text.split())),
    "line ends folded": _when(str, lambda text: text.replace("\r\n", "\n")),
    "lists sorted": _when(list, lambda items: sorted(items, key=canonical_bytes)),
    "lists without nulls": _when(list, lambda items: [item for item in items if item is not None]),
    "single items unwrapped": _when(list, lambda items: items[0] if len(items) == 1 else items),
    "objects without nulls": _when(dict, lambda members: {k: v for k, v in members.items() if v is not None}),
    "objects without empties": _when(dict, lambda members: {k: v for k, v in members.items() if v not in ("", [])}),
    "objects as lists": _when(dict, lambda members: [part for member in sorted(members.items()) for part in member]),
}


@pytest.mark.parametrize("name", CANONICAL_MUTANTS)
def test_canonical_form_that_folds_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    CANONICAL_MUTANTS[name](monkeypatch)
    assert pair_violations().keys() & {"shared", "split"}


def _fold(kind: str, change: Callable[[Any], Any]) -> Patch:
    return lambda monkeypatch: monkeypatch.setitem(schemas._FOLDS, kind, change)


def _fields(change: Callable[[schemas.InputField], schemas.InputField]) -> Patch:
    def patched(openapi: Any) -> InputSchema | None:
        parsed = REAL_PARSE(openapi)
        assert parsed is not None
        return dataclasses.replace(parsed, fields={name: change(field) for name, field in parsed.fields.items()})

    return lambda monkeypatch: monkeypatch.setitem(globals(), "parse_schema", patched)


def _normalise(change: Callable[..., Any]) -> Patch:
    return lambda monkeypatch: monkeypatch.setitem(globals(), "normalise_input", change)


REAL_PARSE, REAL_NORMALISE = parse_schema, normalise_input

SCHEMA_MUTANTS: dict[str, Patch] = {
    "nothing normalised": _normalise(lambda schema, given, *, unknown: given),
    "unknown always dropped": _normalise(
        lambda schema, given, *, unknown: REAL_NORMALISE(schema, given, unknown="drop")
    ),
    "unknown always kept": _normalise(lambda schema, given, *, unknown: REAL_NORMALISE(schema, given, unknown="keep")),
    "defaults not filled": _fields(lambda field: dataclasses.replace(field, fills_default=False)),
    "every default is None": _fields(lambda field: dataclasses.replace(field, default=None, fills_default=False)),
    "null always kept": lambda mp: mp.setattr(schemas, "_null_is_seen", lambda declared: True),
    "null never kept": lambda mp: mp.setattr(schemas, "_null_is_seen", lambda declared: False),
    "items not folded": _fields(lambda field: dataclasses.replace(field, items=None)),
    "integers not folded": _fold("integer", lambda value: value),
    "numbers not folded": _fold("number", lambda value: value),
    "negative zero stays in an integer": _fold("integer", lambda v: v if str(v) == "-0.0" else as_integer(v)),
    "integers cut off": _fold("integer", lambda v: int(v) if type(v) is float else v),
    "integers read from text": _fold("integer", lambda v: int(v) if type(v) is str else as_integer(v)),
    "booleans are integers": _fold("integer", lambda v: int(v) if type(v) is bool else as_integer(v)),
    "numbers rounded": _fold("number", lambda v: float(v) if type(v) is int else v),
    "whole numbers are integers": _fold("number", as_integer),
    "unclear inputs folded": _fields(lambda f: dataclasses.replace(f, type="number") if f.type == "any" else f),
    "texts stripped": _fold("string", lambda v: v.strip() if type(v) is str else v),
    "texts in lower case": _fold("string", lambda v: v.lower() if type(v) is str else v),
    "texts in NFC": _fold("string", lambda v: unicodedata.normalize("NFC", v) if type(v) is str else v),
    "texts made of integers": _fold("string", lambda v: str(v) if type(v) is int else v),
    "booleans made of integers": _fold("boolean", lambda v: bool(v) if type(v) is int else v),
    "objects without nulls": _fold("object", lambda v: {name: inner for name, inner in v.items() if inner is not None}),
}


@pytest.mark.parametrize("name", SCHEMA_MUTANTS)
def test_normalising_by_another_rule_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    SCHEMA_MUTANTS[name](monkeypatch)
    assert pair_violations().keys() & {"shared", "split"}


# -- properties ----------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e300, 1e300) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
DIGESTS = st.binary(min_size=32, max_size=32).map(Digest)
SCOPES = st.binary(min_size=32, max_size=32).map(Scope)


@st.composite
def all_ingredients(draw: st.DrawFn) -> KeyIngredients:
    members = draw(st.dictionaries(TEXT, VALUES, max_size=3))
    files = draw(st.dictionaries(TEXT, DIGESTS, max_size=2))
    return KeyIngredients(
        scope=draw(SCOPES),
        upstream=draw(TEXT),
        model=draw(TEXT),
        version=draw(TEXT),
        input={**members, **dict.fromkeys(files)},
        files=tuple(((name,), digest) for name, digest in files.items()),
    )


def identity(ingredients: KeyIngredients) -> tuple[Any, ...]:
    texts = (ingredients.upstream, ingredients.model, ingredients.version)
    return (ingredients.scope, texts, canonical_bytes(ingredients.input), sorted(ingredients.files))


@STEADY
@given(all_ingredients(), all_ingredients())
def test_two_scopes_never_share_a_key(left: KeyIngredients, right: KeyIngredients) -> None:
    assume(left.scope != right.scope)
    moved = dataclasses.replace(left, scope=right.scope)
    assert len({derive_key(left), derive_key(right), derive_key(moved)}) == (
        2 if identity(moved) == identity(right) else 3
    )


@STEADY
@given(all_ingredients(), all_ingredients(), st.data())
def test_keys_are_equal_only_if_everything_is(left: KeyIngredients, right: KeyIngredients, data: st.DataObject) -> None:
    names = ("scope", "upstream", "model", "version")
    taken = data.draw(st.sets(st.sampled_from(names)))
    mixed = dataclasses.replace(left, **{name: getattr(right, name) for name in taken})
    if data.draw(st.booleans()):
        mixed = dataclasses.replace(mixed, input=right.input, files=right.files)
    is_same = identity(left) == identity(mixed)
    assert (derive_key(left) == derive_key(mixed)) == is_same
    assert (key_material(left) == key_material(mixed)) == is_same
    assert len(derive_key(mixed)) == 32


@STEADY
@given(all_ingredients(), st.randoms())
def test_order_of_members_and_files_does_not_matter(ingredients: KeyIngredients, random: Any) -> None:
    members, files = list(ingredients.input.items()), list(ingredients.files)
    random.shuffle(members)
    random.shuffle(files)
    shuffled = dataclasses.replace(ingredients, input=dict(members), files=tuple(files))
    assert derive_key(shuffled) == derive_key(ingredients)


# -- what is refused -----------------------------------------------------------------------------------


def ingredients(**changes: Any) -> KeyIngredients:
    plain: dict[str, Any] = {
        "scope": ALICE,
        "upstream": "gpus",
        "model": "a/b",
        "version": "hidden",
        "input": {"a": None},
    }
    return KeyIngredients(**{**plain, **changes})


@pytest.mark.parametrize("scope", [b"", b"shared", bytes(31), bytes(33), bytes(64)], ids=len)
def test_scope_of_another_length_is_an_error_and_no_default(scope: bytes) -> None:
    with pytest.raises(ValueError, match="scope must be 32 bytes"):
        derive_key(ingredients(scope=scope))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"files": ((("a",), b"short"),)}, "digest must be 32 bytes"),
        ({"files": (((), FOX),)}, "does not hold null"),
        ({"files": ((("b",), FOX),)}, "does not hold null"),
        ({"files": ((("a", "b"), FOX),)}, "does not hold null"),
        ({"files": ((("a", 0), FOX),)}, "does not hold null"),
        ({"files": ((("a",), FOX),), "input": {"a": "https://a/b"}}, "does not hold null"),
        ({"files": ((("a", -1), FOX),), "input": {"a": [None]}}, "does not hold null"),
        ({"files": ((("a", True), FOX),), "input": {"a": [None, None]}}, "does not hold null"),
        ({"files": ((("a", 1), FOX),), "input": {"a": [None]}}, "does not hold null"),
        ({"files": ((("a",), FOX), (("a",), CAT))}, "one place"),
        ({"model": "\ud800"}, "surrogates"),
        ({"upstream": "\udfff"}, "surrogates"),
    ],
    ids=repr,
)
def test_ingredients_that_make_no_sense_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        key_material(ingredients(**changes))


def _write_vectors() -> None:
    document = load_vectors()
    document["key_version"], document["context"] = KEY_VERSION, key_context(KEY_VERSION)
    for vector in document["vectors"]:
        made = ingredients_of(vector)
        vector["canonical"], vector["key"] = canonical_bytes(made.input).decode(), derive_key(made).hex()
    VECTORS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    _write_vectors()
