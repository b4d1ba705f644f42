from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.core.canonical import canonical_bytes
from proxy.core.errors import InputInvalid
from proxy.core.schemas import (
    MAX_COMPLAINTS,
    InputField,
    InputSchema,
    model_version,
    normalise_input,
    output_makes_files,
    parse_schema,
)

STEADY = settings(deadline=None)  # a busy machine is no failure

ROOT = Path(__file__).parents[3]


def document(properties: dict[str, Any], required: list[str] | None = None, **schemas_: Any) -> dict[str, Any]:
    declared = {"title": "Input", "type": "object", "properties": properties, "required": required or []}
    return {"openapi": "3.0.2", "components": {"schemas": {"Input": declared, **schemas_}}}


def schema(properties: dict[str, Any], required: list[str] | None = None, **schemas_: Any) -> InputSchema:
    parsed = parse_schema(document(properties, required, **schemas_))
    assert parsed is not None
    return parsed


def only(definition: Any, *, required: bool = False, **schemas_: Any) -> InputField:
    return schema({"x": definition}, ["x"] if required else [], **schemas_).fields["x"]


def typed(value: Any) -> bytes:
    return canonical_bytes(value)


# As cog 0.16 writes it for a predictor with these inputs; `old: int = Input(default=None)` has neither mark.
COG_016 = {
    **document(
        {
            "prompt": {"type": "string", "maxLength": 50, "minLength": 1, "title": "Prompt", "x-order": 0},
            "seed": {"title": "Seed", "description": "Seed", "x-order": 1, "type": "integer", "nullable": True},
            "old": {"type": "integer", "title": "Old", "x-order": 2},
            "width": {"type": "integer", "maximum": 1024.0, "minimum": 16.0, "default": 512, "x-order": 3},
            "guidance": {"type": "number", "maximum": 20.0, "minimum": 0.0, "default": 7.5, "x-order": 4},
            "fmt": {"default": "webp", "x-order": 5, "allOf": [{"$ref": "#/components/schemas/fmt"}]},
            "n": {"default": 1, "x-order": 6, "allOf": [{"$ref": "#/components/schemas/n"}]},
            "up": {"type": "boolean", "title": "Up", "default": False, "x-order": 7},
            "image": {"type": "string", "format": "uri", "title": "Image", "x-order": 8},
            "images": {"items": {"type": "string", "format": "uri"}, "type": "array", "default": [], "x-order": 9},
            "tags": {"items": {"type": "string"}, "type": "array", "default": ["a"], "x-order": 10},
            "sizes": {"items": {"type": "integer"}, "type": "array", "nullable": True, "x-order": 11},
            "boost": {"title": "Boost", "default": 5, "x-order": 12, "type": "integer", "nullable": True},
            "key": {"type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True, "x-order": 13},
            "slug": {"type": "string", "pattern": "^[a-z]+$", "title": "Slug", "default": "a", "x-order": 14},
            "extra": {"type": "object", "title": "Extra", "x-order": 15},
        },
        ["prompt"],
        fmt={"type": "string", "enum": ["webp", "png"], "title": "fmt", "description": "An enumeration."},
        n={"type": "integer", "enum": [1, 2, 4], "title": "n", "description": "An enumeration."},
    ),
    "paths": {"/predictions": {"post": {"summary": "Predict"}}},
}

# As coglet 0.23's generator writes it: keys in alphabetical order, optional = nullable and not required.
COGLET = {
    **document(
        {
            "prompt": {"description": "What to paint", "title": "Prompt", "type": "string", "x-order": 0},
            "seed": {"default": None, "nullable": True, "title": "Seed", "type": "integer", "x-order": 1},
            "steps": {"default": 4, "maximum": 50, "minimum": 1, "title": "Steps", "type": "integer", "x-order": 2},
            "fmt": {"allOf": [{"$ref": "#/components/schemas/fmt"}], "default": "webp", "x-order": 3},
        },
        ["prompt"],
        fmt={"description": "An enumeration.", "enum": ["webp", "png"], "title": "fmt", "type": "string"},
    ),
    "paths": {"/predictions": {"post": {"x-cog-streaming": True}}},
}


# -- reading documents ---------------------------------------------------------------------------------


def test_older_dialect_is_read() -> None:
    parsed = parse_schema(COG_016)
    assert parsed is not None
    assert {name: field.type for name, field in parsed.fields.items()} == {
        **{"prompt": "string", "seed": "integer", "old": "integer", "width": "integer", "guidance": "number"},
        **{"fmt": "string", "n": "integer", "up": "boolean", "image": "file", "images": "array", "tags": "array"},
        **{"sizes": "array", "boost": "integer", "key": "string", "slug": "string", "extra": "object"},
    }
    assert [name for name, field in parsed.fields.items() if field.is_required] == ["prompt"]
    assert [name for name, field in parsed.fields.items() if field.is_nullable] == ["seed", "sizes", "boost"]
    assert parsed.fields["seed"].description == "Seed"
    assert (parsed.fields["prompt"].min_length, parsed.fields["prompt"].max_length) == (1, 50)
    assert (parsed.fields["width"].minimum, parsed.fields["width"].maximum) == (16, 1024)
    assert parsed.fields["fmt"].choices == ("webp", "png")
    assert parsed.fields["fmt"].default == "webp"
    assert parsed.fields["n"].choices == (1, 2, 4)
    assert parsed.fields["slug"].pattern == "^[a-z]+$"
    assert [field.type for field in (parsed.fields["images"].items, parsed.fields["sizes"].items) if field] == [
        "file",
        "integer",
    ]
    assert not parsed.is_streaming


def test_coglet_dialect_is_read() -> None:
    parsed = parse_schema(COGLET)
    assert parsed is not None
    assert parsed.is_streaming
    seed, steps, fmt = (parsed.fields[name] for name in ("seed", "steps", "fmt"))
    assert (seed.is_nullable, seed.has_default, seed.default, seed.fills_default) == (True, True, None, False)
    assert (steps.default, steps.minimum, steps.maximum, steps.order) == (4, 1, 50, 2)
    assert (fmt.choices, fmt.default, fmt.description) == (("webp", "png"), "webp", "")


def test_the_demo_models_own_document_is_understood_whole() -> None:
    parsed = parse_schema(json.loads((ROOT / "deploy/demo-model/.cog/openapi_schema.json").read_text("utf-8")))
    assert parsed is not None
    assert {"prompt", "seed", "width", "height"} <= parsed.fields.keys()
    assert "any" not in {field.type for field in parsed.fields.values()}


def test_fields_come_in_the_models_order() -> None:
    parsed = schema({"b": {"x-order": 1}, "z": {}, "a": {"x-order": 2}, "c": {"x-order": 0}, "y": {"x-order": "0"}})
    assert list(parsed.fields) == ["c", "b", "a", "y", "z"]


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ({"type": "integer", "nullable": True}, InputField("x", "integer", is_nullable=True)),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, InputField("x", "integer", is_nullable=True)),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, InputField("x", "integer", is_nullable=True)),
        ({"type": ["integer", "null"]}, InputField("x", "integer", is_nullable=True)),
        ({"type": ["null", "integer"]}, InputField("x", "integer", is_nullable=True)),
        ({"$ref": "#/components/schemas/E"}, InputField("x", "string", choices=("a", "b"))),
        (
            {"anyOf": [{"$ref": "#/components/schemas/E"}, {"type": "null"}]},
            InputField("x", "string", is_nullable=True, choices=("a", "b")),
        ),
        ({"type": "number", "enum": [1, 2.5]}, InputField("x", "number", choices=(1.0, 2.5))),
        ({"type": "integer", "enum": [1.0, 2]}, InputField("x", "integer", choices=(1, 2))),
        (
            {"type": "string", "enum": ["a", None], "nullable": True},
            InputField("x", "string", is_nullable=True, choices=("a",)),
        ),
        ({"type": "number", "exclusiveMinimum": 0}, InputField("x", "number", exclusive_minimum=0)),
        (
            {"type": "number", "minimum": 0, "exclusiveMinimum": True},
            InputField("x", "number", minimum=0, exclusive_minimum=0),
        ),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": False}, InputField("x", "number", minimum=0)),
        (
            {"type": "integer", "default": 8.0},
            InputField("x", "integer", has_default=True, default=8, fills_default=True),
        ),
        (
            {"type": "number", "default": 8},
            InputField("x", "number", has_default=True, default=8.0, fills_default=True),
        ),
        # A default that the model's own schema refuses would be refused when it is sent.
        ({"type": "integer", "default": 0, "minimum": 1},
         InputField("x", "integer", has_default=True, default=0, minimum=1)),
        ({"type": "string", "format": "uri", "default": "/src/a.png"},
         InputField("x", "file", has_default=True, default="/src/a.png", may_hold_files=True)),
        ({"type": "integer", "x-unknown": {"a": 1}, "deprecated": True}, InputField("x", "integer")),
        ({"type": "string", "format": "date-time"}, InputField("x", "string")),
    ],
    ids=repr,
)  # fmt: skip
def test_definition_is_understood(definition: dict[str, Any], expected: InputField) -> None:
    parsed = only(definition, E={"type": "string", "enum": ["a", "b"], "title": "E", "description": "An enumeration."})
    assert repr(parsed) == repr(dataclasses.replace(expected, order=parsed.order))


@pytest.mark.parametrize(
    "definition",
    [
        *[{}, None, 5, [], "string", {"type": "thing"}, {"type": {}}, {"type": []}, {"type": ["integer", "string"]}],
        *[{"type": "null"}, {"type": ["null", "null"]}, {"type": "any"}, {"type": "file"}],
        *[{"type": "integer", "nullable": "yes"}, {"type": "integer", "minimum": "1"}],
        *[{"type": "number", "maximum": True}, {"type": "string", "minLength": []}],
        *[{"type": "string", "enum": []}, {"type": "string", "enum": "ab"}, {"type": "string", "enum": ["a", 1]}],
        *[{"type": "integer", "enum": [True]}, {"type": "boolean", "enum": [True]}, {"enum": ["a"]}],
        *[{"const": "a"}, {"type": "string", "const": "a"}, {"type": "integer", "not": {"type": "null"}}],
        *[{"oneOf": [{"type": "integer"}]}, {"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"anyOf": []}],
        *[{"anyOf": [{"type": "integer"}]}, {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]}],
        *[{"allOf": []}, {"allOf": [{"type": "integer"}, {"minimum": 1}]}, {"allOf": {"type": "integer"}}],
        *[{"$ref": "#/components/schemas/Gone"}, {"$ref": 5}, {"$ref": "#/components/schemas/Loop"}],
        {"allOf": [{"$ref": "#/components/schemas/E"}], "type": "string"},
        {"allOf": [{"type": "string"}], "$ref": "#/components/schemas/E"},
        {"type": "array", "prefixItems": []},
    ],
    ids=repr,
)  # fmt: skip
def test_definition_that_is_not_understood_is_neither_checked_nor_folded(definition: Any) -> None:
    loop = {"allOf": [{"$ref": "#/components/schemas/Loop"}]}
    parsed = schema({"x": definition}, E={"type": "string", "enum": ["a"]}, Loop=loop)
    assert parsed.fields["x"].type == "any"
    for value in (1, 1.0, "1", True, None, [1.0], {"a": -0.0}):
        assert typed(normalise_input(parsed, {"x": value}, unknown="drop")) == typed({"x": value})
    assert normalise_input(parsed, {}, unknown="drop") == {}


@pytest.mark.parametrize(
    "openapi",
    [
        *[{}, {"components": {}}, {"components": {"schemas": {}}}, {"components": {"schemas": {"Output": {}}}}],
        *[{"components": None}, {"components": {"schemas": []}}, {"components": {"schemas": {"Input": None}}}],
        *[{"components": {"schemas": {"Input": {}}}}, {"components": {"schemas": {"Input": {"properties": []}}}}],
        # To drop the inputs that such a document does not list would make all requests one.
        *[{"components": {"schemas": {"Input": {"$ref": "#/components/schemas/Other", "properties": {}}}}}],
        *[{"components": {"schemas": {"Input": {"allOf": [], "properties": {}}}}}],
        *[None, [], "openapi"],
    ],
    ids=repr,
)
def test_document_that_lists_no_inputs_has_no_schema(openapi: Any) -> None:
    assert parse_schema(openapi) is None


def test_model_without_inputs_has_an_empty_schema() -> None:
    assert normalise_input(schema({}), {"x": 1}, unknown="drop") == {}


def test_inputs_of_an_open_document_are_never_dropped() -> None:
    openapi = document({"x": {"type": "integer"}})
    openapi["components"]["schemas"]["Input"]["additionalProperties"] = True
    parsed = parse_schema(openapi)
    assert parsed is not None
    assert normalise_input(parsed, {"x": 1.0, "y": 2.0}, unknown="drop") == {"x": 1, "y": 2.0}


def test_required_input_without_a_definition_is_required() -> None:
    parsed = schema({}, ["x"])
    assert normalise_input(parsed, {"x": 1.0}, unknown="drop") == {"x": 1.0}
    assert complaints(parsed, {}) == [("required", "input", "x is required")]


def test_nested_and_endless_definitions_end_somewhere() -> None:
    nested: Any = {"type": "integer"}
    for _ in range(100):
        nested = {"type": "array", "items": nested}
    assert only(nested).type == "array"
    loop = {"type": "array", "items": {"$ref": "#/components/schemas/Loop"}}
    parsed = schema({"x": {"$ref": "#/components/schemas/Loop"}}, Loop=loop)
    assert normalise_input(parsed, {"x": [[[]], []]}, unknown="drop") == {"x": [[[]], []]}
    for _ in range(500):
        nested = {"default": nested}
    assert parse_schema(document({"x": nested})) is None


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.sampled_from(["string", "uri", "x", "null"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "format", "default", "enum", "items", "anyOf", "allOf", "$ref", "nullable", "minimum",
                 "maxLength", "exclusiveMinimum", "pattern", "required", "properties", "Input", "x-order", "x"]
            ),
            inner | st.sampled_from(["integer", "number", "array", "object", "#/components/schemas/x"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(JUNK, JUNK, JUNK, JUNK)
def test_no_document_and_no_input_raises_anything_but_complaints(
    input_: Any, other: Any, paths: Any, given_: Any
) -> None:
    openapi = {
        "components": {"schemas": {"Input": {"properties": {"x": input_, "y": other}}, "x": other}},
        "paths": paths,
    }
    parse_schema({"components": input_, "paths": paths})
    parse_schema({"components": {"schemas": input_}})
    parsed = parse_schema(openapi)
    assert parsed is not None
    try:
        normalise_input(parsed, {"x": given_, "y": other}, unknown="keep")
        normalise_input(parsed, {}, unknown="keep")
    except InputInvalid:
        pass


# -- normalising ---------------------------------------------------------------------------------------


def complaints(parsed: InputSchema, given_: dict[str, Any]) -> list[tuple[str, str, str]]:
    with pytest.raises(InputInvalid) as caught:
        normalise_input(parsed, given_, unknown="drop")
    return [(field.type, field.field, field.description) for field in caught.value.fields]


@pytest.mark.parametrize(
    ("definition", "value", "expected"),
    [
        ({"type": "integer"}, 8.0, 8),
        ({"type": "integer"}, -0.0, 0),
        ({"type": "integer"}, 1e18, 10**18),
        ({"type": "number"}, 8, 8.0),
        ({"type": "number"}, 2**53, 2.0**53),
        ({"type": "number"}, 2**53 + 1, 2**53 + 1),
        ({"type": "number"}, -0.0, -0.0),
        ({"type": "number", "enum": [1, 2]}, 1, 1.0),
        ({"type": "integer", "enum": [1, 2]}, 1.0, 1),
        ({"type": "integer", "minimum": 8}, 8.0, 8),
        ({"type": "array", "items": {"type": "integer"}}, [1.0, 2], [1, 2]),
        ({"type": "array", "items": {"type": "array", "items": {"type": "number"}}}, [[1], [2]], [[1.0], [2.0]]),
        ({"type": "array", "items": {"type": "integer", "nullable": True}}, [1.0, None], [1, None]),
        ({"type": "array"}, [1.0, None, "a"], [1.0, None, "a"]),
        ({"type": "object"}, {"a": 1.0, "b": None}, {"a": 1.0, "b": None}),
        ({"type": "string"}, "cafe\u0301 ", "cafe\u0301 "),
        ({"type": "string", "maxLength": 2}, "\N{GRINNING FACE}\N{GRINNING FACE}", "\N{GRINNING FACE}" * 2),
        ({"type": "string", "pattern": "^a$"}, "b", "b"),
        ({"type": "string", "format": "uri"}, "https://a/b", "https://a/b"),
        ({"type": "string", "format": "uri"}, "data:,x", "data:,x"),
    ],
    ids=repr,
)
def test_value_is_brought_to_its_form(definition: dict[str, Any], value: Any, expected: Any) -> None:
    assert typed(normalise_input(schema({"x": definition}), {"x": value}, unknown="drop")) == typed({"x": expected})


INVALID = "invalid_type"


@pytest.mark.parametrize(
    ("definition", "value", "expected"),
    [
        ({"type": "integer"}, "8", (INVALID, "input.x", "Invalid type. Expected: integer, given: string")),
        ({"type": "integer"}, 8.5, (INVALID, "input.x", "Invalid type. Expected: integer, given: number")),
        ({"type": "integer"}, True, (INVALID, "input.x", "Invalid type. Expected: integer, given: boolean")),
        ({"type": "integer"}, 1e300, (INVALID, "input.x", "Invalid type. Expected: integer, given: number")),
        ({"type": "integer"}, 2.0**64, (INVALID, "input.x", "Invalid type. Expected: integer, given: number")),
        ({"type": "number"}, True, (INVALID, "input.x", "Invalid type. Expected: number, given: boolean")),
        ({"type": "number"}, "1", (INVALID, "input.x", "Invalid type. Expected: number, given: string")),
        ({"type": "boolean"}, 1, (INVALID, "input.x", "Invalid type. Expected: boolean, given: integer")),
        ({"type": "boolean"}, "true", (INVALID, "input.x", "Invalid type. Expected: boolean, given: string")),
        ({"type": "string"}, 1, (INVALID, "input.x", "Invalid type. Expected: string, given: integer")),
        ({"type": "string"}, ["a"], (INVALID, "input.x", "Invalid type. Expected: string, given: array")),
        ({"type": "array"}, "a", (INVALID, "input.x", "Invalid type. Expected: array, given: string")),
        ({"type": "object"}, [], (INVALID, "input.x", "Invalid type. Expected: object, given: array")),
        ({"type": "string", "format": "uri"}, {},
         (INVALID, "input.x", "Invalid type. Expected: string, given: object")),
        ({"type": "integer", "minimum": 16.0}, 15, ("number_gte", "input.x", "Must be greater than or equal to 16")),
        ({"type": "integer", "maximum": 4}, 5.0, ("number_lte", "input.x", "Must be less than or equal to 4")),
        ({"type": "number", "maximum": 0.5}, 0.75, ("number_lte", "input.x", "Must be less than or equal to 0.5")),
        ({"type": "number", "exclusiveMinimum": 0}, 0, ("number_gt", "input.x", "Must be greater than 0")),
        ({"type": "number", "exclusiveMaximum": 1}, 1.0, ("number_lt", "input.x", "Must be less than 1")),
        ({"type": "string", "minLength": 1}, "",
         ("string_gte", "input.x", "String length must be greater than or equal to 1")),
        ({"type": "string", "maxLength": 1}, "ab",
         ("string_lte", "input.x", "String length must be less than or equal to 1")),
        ({"type": "string", "enum": ["a", "b"]}, "A",
         ("enum", "input.x", 'input.x must be one of the following: "a", "b"')),
        ({"type": "integer", "enum": [1, 2]}, 3, ("enum", "input.x", "input.x must be one of the following: 1, 2")),
        ({"type": "integer", "enum": [1, 2]}, True,
         (INVALID, "input.x", "Invalid type. Expected: integer, given: boolean")),
        ({"type": "array", "items": {"type": "integer"}}, [1, 2.5],
         (INVALID, "input.x.1", "Invalid type. Expected: integer, given: number")),
        ({"type": "array", "items": {"type": "string"}}, [None],
         (INVALID, "input.x.0", "Invalid type. Expected: string, given: null")),
    ],
    ids=repr,
)  # fmt: skip
def test_value_that_does_not_fit_is_complained_of(
    definition: dict[str, Any], value: Any, expected: tuple[str, str, str]
) -> None:
    assert complaints(schema({"x": definition}), {"x": value}) == [expected]


PATHS = [
    *["/etc/hostname", "etc/hostname", "", "file:///etc/hostname", "FILE:///etc/passwd", "ftp://a/b", "s3://a/b"],
    *[" https://a/b", "HTTPS://a/b", "Data:,x", "http:/a", "https:", "//a/b", "\thttp://a", "C:\\a", "javascript:x"],
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "definition",
    [
        {"type": "string", "format": "uri"},
        {"type": "string", "format": "uri", "nullable": True},
        {"anyOf": [{"type": "string", "format": "uri"}, {"type": "null"}]},
        {"allOf": [{"$ref": "#/components/schemas/F"}]},
        {"anyOf": [{"type": "string", "format": "uri"}, {"type": "string"}]},
        {"oneOf": [{"$ref": "#/components/schemas/F"}]},
        {"type": "array", "items": {"type": "string", "format": "uri"}},
        {"type": "array", "items": {"type": "array", "items": {"$ref": "#/components/schemas/F"}}},
        {"type": "array", "items": {"oneOf": [{"type": "string", "format": "uri"}]}},
        {"type": "object", "properties": {"file": {"type": "string", "format": "uri"}}},
        {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/F"}},
    ],
    ids=repr,
)
def test_local_path_never_reaches_a_file_input(definition: dict[str, Any], path: str) -> None:
    """Coglet opens a bare path as a file of the model's machine, so this holds for unclear definitions too."""
    parsed = schema({"x": definition}, F={"type": "string", "format": "uri"})
    shapes: list[Any] = [path, [path], [[path]], {"file": path}, [["https://a/b", path]], {"file": ["data:,x", path]}]
    for value in shapes:
        with pytest.raises(InputInvalid):
            normalise_input(parsed, {"x": value}, unknown="drop")


def test_complaints_are_collected_and_worded_as_the_api_does() -> None:
    parsed = parse_schema(COG_016)
    assert parsed is not None
    with pytest.raises(InputInvalid) as caught:
        normalise_input(parsed, {"width": 5, "guidance": 21, "image": "/etc/hostname", "fmt": "gif"}, unknown="drop")
    assert caught.value.body() == {
        "title": "Input validation failed",
        "status": 422,
        "detail": "- input: prompt is required\n"
        "- input.width: Must be greater than or equal to 16\n"
        "- input.guidance: Must be less than or equal to 20\n"
        '- input.fmt: input.fmt must be one of the following: "webp", "png"\n'
        "- input.image: Must be an http://, https:// or data: URL\n",
        "invalid_fields": [
            {"type": "required", "field": "input", "description": "prompt is required"},
            {"type": "number_gte", "field": "input.width", "description": "Must be greater than or equal to 16"},
            {"type": "number_lte", "field": "input.guidance", "description": "Must be less than or equal to 20"},
            {
                "type": "enum",
                "field": "input.fmt",
                "description": 'input.fmt must be one of the following: "webp", "png"',
            },
            {"type": "format", "field": "input.image", "description": "Must be an http://, https:// or data: URL"},
        ],
    }


def test_complaints_name_no_value_and_end_somewhere() -> None:
    parsed = schema({"x": {"type": "array", "items": {"type": "integer"}}})
    found = complaints(parsed, {"x": ["r8_secret"] * 10_000})
    assert len(found) == MAX_COMPLAINTS
    assert "r8_secret" not in repr(found)


@pytest.mark.parametrize(
    ("definition", "required", "kept"),
    [
        ({"type": "integer", "nullable": True}, False, "dropped"),
        ({"type": "integer", "nullable": True, "default": None}, False, "dropped"),
        ({"type": "integer", "nullable": True, "default": 5}, False, "kept"),
        ({"type": "integer", "nullable": True, "default": 5, "maximum": 4}, False, "kept"),
        ({"type": "integer", "nullable": True}, True, "kept"),
        ({"type": "integer"}, False, "dropped"),
        ({"type": "integer", "default": None}, False, "dropped"),
        ({"type": "integer", "default": 5}, False, "refused"),
        ({"type": "integer"}, True, "refused"),
        ({"type": "string", "format": "uri"}, False, "dropped"),
        ({"type": "array", "items": {"type": "string"}, "nullable": True}, False, "dropped"),
        ({"oneOf": []}, False, "kept"),
        ({"oneOf": [], "nullable": True}, False, "kept"),
    ],
    ids=repr,
)
def test_null_is_dropped_only_where_it_is_the_same_as_nothing(
    definition: dict[str, Any], required: bool, kept: str
) -> None:
    parsed = schema({"x": definition}, ["x"] if required else [])
    if kept == "refused":
        assert [complaint[:2] for complaint in complaints(parsed, {"x": None})] == [(INVALID, "input.x")]
    else:
        expected = {"x": None} if kept == "kept" else {}
        assert normalise_input(parsed, {"x": None}, unknown="drop") == expected


def test_unknown_inputs_are_dropped_or_kept_as_asked() -> None:
    parsed = schema({"x": {"type": "integer"}})
    given_ = {"z": None, "y": 1.0, "x": 1.0}
    assert normalise_input(parsed, given_, unknown="drop") == {"x": 1}
    kept = normalise_input(parsed, given_, unknown="keep")
    assert list(kept) == ["x", "y", "z"]
    assert typed(kept) == typed({"x": 1, "y": 1.0, "z": None})


def test_defaults_are_filled_and_never_shared() -> None:
    parsed = schema(
        {"x": {"type": "array", "items": {"type": "integer"}, "default": [1.0]}, "y": {"default": {"a": []}}}
    )
    first = normalise_input(parsed, {}, unknown="drop")
    assert typed(first) == typed({"x": [1], "y": {"a": []}})
    first["x"].append(2)
    first["y"]["a"].append(2)
    assert typed(normalise_input(parsed, {}, unknown="drop")) == typed({"x": [1], "y": {"a": []}})


def test_invalid_default_is_left_to_the_model() -> None:
    parsed = schema({"x": {"type": "integer", "default": 0, "minimum": 1}})
    assert normalise_input(parsed, {}, unknown="drop") == {}


INPUTS = st.fixed_dictionaries(
    {"prompt": st.text(min_size=1, max_size=50)},
    optional={
        "seed": st.none() | st.integers(0, 9) | st.sampled_from([1.0, -0.0]),
        "old": st.none() | st.integers(0, 9),
        "width": st.integers(16, 1024) | st.just(512.0),
        "guidance": st.floats(0, 20) | st.integers(0, 20),
        "n": st.sampled_from([1, 2, 4, 4.0]),
        "images": st.lists(st.just("https://a/b"), max_size=2),
        "sizes": st.none() | st.lists(st.integers(0, 9) | st.just(3.0), max_size=3),
        "boost": st.none() | st.integers(0, 9),
        "extra": st.dictionaries(st.text(), st.none() | st.floats(0, 1)),
        "unknown": st.integers(0, 9) | st.none(),
    },
)


@STEADY
@given(INPUTS, st.sampled_from(["drop", "keep"]))
@example({"prompt": "a"}, "drop")
def test_normalising_is_settled_deterministic_and_leaves_its_input_alone(given_: dict[str, Any], unknown: Any) -> None:
    parsed = parse_schema(COG_016)
    assert parsed is not None
    before = copy.deepcopy(given_)
    once = normalise_input(parsed, given_, unknown=unknown)
    assert typed(given_) == typed(before)
    assert typed(normalise_input(parsed, once, unknown=unknown)) == typed(once)
    backwards = normalise_input(parsed, dict(reversed(given_.items())), unknown=unknown)
    assert (list(backwards), typed(backwards)) == (list(once), typed(once))


@STEADY
@given(INPUTS)
def test_default_written_out_is_default_left_out(given_: dict[str, Any]) -> None:
    parsed = parse_schema(COG_016)
    assert parsed is not None
    written = {**{name: field.default for name, field in parsed.fields.items() if field.fills_default}, **given_}
    assert typed(normalise_input(parsed, written, unknown="keep")) == typed(
        normalise_input(parsed, given_, unknown="keep")
    )


# -- version ids ---------------------------------------------------------------------------------------


def test_model_version_depends_on_name_components_and_revision() -> None:
    version = model_version("acme/pixel", COG_016, "w1")
    assert version == model_version("acme/pixel", {**COG_016, "info": {"title": "other"}, "servers": []}, "w1")
    changed = copy.deepcopy(COG_016)
    changed["components"]["schemas"]["Input"]["properties"]["width"]["default"] = 513
    others = [
        model_version("acme/pixel2", COG_016, "w1"),
        model_version("acme/pixel", COG_016, "w2"),
        model_version("acme/pixel", COG_016, ""),
        model_version("acme/pixel", {}, "w1"),
        model_version("acme/pixelw", COG_016, "1"),
        model_version("acme/pixel", changed, "w1"),
    ]
    assert len({version, *others}) == 1 + len(others)
    assert len(version) == 64
    assert set(version) <= set("0123456789abcdef")


def test_model_version_is_what_it_was() -> None:
    openapi = {"components": {"schemas": {"Input": {"properties": {"a": {"minimum": 1.0}}}}}}
    assert model_version("acme/pixel", openapi, "w1") == (
        "a7ce7f1863efb5073ef2cf33e5479107fcd1f87aedcff7e2e43184546e958f67"
    )


@pytest.mark.parametrize(
    ("output", "makes_files"),
    [
        ({"type": "string", "format": "uri"}, True),
        ({"type": "array", "items": {"type": "string", "format": "uri"}}, True),
        ({"type": "object", "properties": {"image": {"$ref": "#/components/schemas/Picture"}}}, True),
        ({"type": "string"}, False),
        ({"type": "array", "items": {"type": "string"}, "x-cog-array-type": "iterator"}, False),
        ({"$ref": "#/components/schemas/Words"}, False),
        ({"title": "Output"}, True),
        (None, True),
        ([], True),
    ],
)
def test_outputs_are_files_unless_the_document_says_otherwise(output: Any, makes_files: bool) -> None:
    schemas = {"Output": output, "Picture": {"type": "string", "format": "uri"}, "Words": {"type": "string"}}
    assert output_makes_files({"components": {"schemas": schemas}}) is makes_files


@pytest.mark.parametrize("document", [None, {}, {"components": None}, {"components": {"schemas": []}}])
def test_outputs_are_files_where_nothing_is_known(document: Any) -> None:
    assert output_makes_files(document)
