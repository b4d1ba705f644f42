"""What a model's OpenAPI document says of its inputs, and inputs brought to the one form it stands for.

Two inputs that the model could not tell apart (a default filled in or left out, ``8.0`` for an ``integer``)
become one here, before the key is made and, for Cog servers, before they are sent. Whatever the schema does
not say in a form that is understood is left exactly as it came: then a repeat may miss, but never hits wrongly.

Source: the documents that Cog writes, 0.16 (FastAPI) and 0.23 (coglet), and Replicate's ``openapi_schema``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import blake3

from proxy.core.canonical import MAX_INTEGER, MIN_INTEGER, canonical_bytes, framed
from proxy.core.errors import InputInvalid, InvalidField
from storage.records import JsonObject, JsonValue

FieldType = Literal["string", "integer", "number", "boolean", "array", "object", "file", "any"]

FILE_PREFIXES = ("http://", "https://", "data:")
"""What a file input may start with, in lower case as coglet compares it. Coglet hands any other text to the
model as a path: ``/etc/hostname`` was read from the model's container."""

MAX_COMPLAINTS = 100
"""No person reads more; a long list of wrong items must not become a far longer answer."""

_MAX_NESTING = 8
"""References and arrays inside one another in a field's definition; real ones have two. Ends cycles."""


@dataclass(frozen=True, slots=True)
class InputField:
    """One input of a model.

    Attributes:
        name: as in the request; ``""`` for the items of an array.
        type: JSON type; ``"file"`` is a string of ``format: uri``; ``"any"`` is what was not understood:
            neither checked nor folded.
        is_required: it must be given.
        is_nullable: ``null`` is one of its values.
        has_default: the schema states a default.
        default: that default, folded like a given value; ``None`` also when there is none.
        fills_default: an absent value is replaced by ``default``: it is not null, and valid by the
            schema's own rules (a file default that is a path inside the image is not).
        minimum, maximum: inclusive limits of a number.
        exclusive_minimum, exclusive_maximum: exclusive ones.
        min_length, max_length: of a string, in code points.
        pattern: regular expression for people to read. It is not checked: its dialect is another than
            Python's, and a hostile one could hold the process; the model service checks it.
        choices: allowed values, folded; empty when any value is allowed.
        items: what each item of an array is.
        may_hold_files: somewhere inside an opaque value the schema speaks of files, so every string inside
            must be a URL.
        order: place in the model's own order of inputs.
        description: one or more sentences by the model's author.
    """

    name: str
    type: FieldType
    is_required: bool = False
    is_nullable: bool = False
    has_default: bool = False
    default: JsonValue = None
    fills_default: bool = False
    minimum: int | float | None = None
    maximum: int | float | None = None
    exclusive_minimum: int | float | None = None
    exclusive_maximum: int | float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    choices: tuple[JsonValue, ...] = ()
    items: InputField | None = None
    may_hold_files: bool = False
    order: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True)
class InputSchema:
    """The inputs of one version of a model.

    Attributes:
        fields: by name, in the model's own order.
        is_streaming: ``POST /predictions`` can answer with an event stream (``x-cog-streaming``).
        is_open: inputs beyond ``fields`` reach the model, so they are never dropped.
    """

    fields: Mapping[str, InputField] = field(default_factory=dict)
    is_streaming: bool = False
    is_open: bool = False


def parse_schema(openapi: JsonObject) -> InputSchema | None:
    """The inputs that an OpenAPI document declares.

    Args:
        openapi: a Cog server's ``/openapi.json`` or a Replicate version's ``openapi_schema``.

    Returns:
        The schema; a field whose definition is not understood has type ``"any"``. ``None`` when the document
        does not list the inputs in ``components.schemas.Input.properties``. Never raises.
    """
    schemas = _member(_member(openapi, "components"), "schemas")
    declared = _member(schemas, "Input")
    properties = declared.get("properties")
    if not isinstance(properties, dict) or not declared.keys().isdisjoint(_COMPOSED):
        return None
    required = declared.get("required")
    needed = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    # A required name without a definition is still required.
    definitions = {**dict.fromkeys(sorted(needed), {}), **properties}
    fields = [_parse_field(name, node, schemas, name in needed) for name, node in definitions.items()]
    post = _member(_member(_member(openapi, "paths"), "/predictions"), "post")
    return InputSchema(
        fields={each.name: each for each in sorted(fields, key=lambda each: (each.order, each.name))},
        is_streaming=post.get("x-cog-streaming") is True,
        is_open=bool(declared.get("additionalProperties") or declared.get("patternProperties")),
    )


_COMPOSED = frozenset({"$ref", "allOf", "anyOf", "oneOf", "not", "if", "const", "prefixItems"})
_NOTES = frozenset({"title", "description", "default", "nullable", "deprecated", "examples", "x-order"})
_TYPES = frozenset({"string", "integer", "number", "boolean", "array", "object"})
_LAST = 2**31


def _member(node: JsonObject, name: str) -> JsonObject:
    child = node.get(name)
    return child if isinstance(child, dict) else {}


def _parse_field(name: str, node: JsonValue, schemas: JsonObject, is_required: bool, room: int = _MAX_NESTING) -> InputField:
    flat = _flatten(node, schemas, room)
    notes = flat or (node if isinstance(node, dict) else {})
    order, description = notes.get("x-order"), _member({"": node}, "").get("description")
    parsed = InputField(
        name=name,
        type="any",
        is_required=is_required,
        has_default="default" in notes,
        default=notes.get("default"),
        may_hold_files=_speaks_of_files(node, schemas),
        order=order if type(order) is int else _LAST,
        description=description if isinstance(description, str) else "",
    )
    if flat is not None:
        parsed = _understood(parsed, flat, schemas, room) or parsed
    if parsed.default is None:
        return parsed
    complaints: list[InvalidField] = []
    folded = _fit(parsed, parsed.default, name, complaints)
    return parsed if complaints else replace(parsed, default=folded, fills_default=True)


def _flatten(node: JsonValue, schemas: JsonObject, room: int) -> JsonObject | None:
    """The definition with ``$ref``, ``allOf`` of one and ``anyOf`` with null written out, or ``None``."""
    if not isinstance(node, dict) or room == 0:
        return None
    own = {key: value for key, value in node.items() if key not in ("$ref", "allOf", "anyOf")}
    composed = [key for key in ("$ref", "allOf", "anyOf") if key in node]
    if len(composed) > 1 or not own.keys().isdisjoint(_COMPOSED):
        return None
    if not composed:
        return own
    below = node[composed[0]]
    if composed[0] == "$ref":
        below = _referenced(below, schemas)
    else:
        if not isinstance(below, list):
            return None
        variants = [variant for variant in below if variant != {"type": "null"}]
        if len(variants) != 1 or (composed[0] == "anyOf") == (len(below) == 1):
            return None
        below = variants[0]
        if composed[0] == "anyOf":
            own["nullable"] = True
    base = _flatten(below, schemas, room - 1)
    if base is None or not (base.keys() & own.keys()) <= _NOTES:
        return None
    return {**base, **own}
