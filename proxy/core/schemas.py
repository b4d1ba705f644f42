"""What a model's OpenAPI document says of its inputs, and inputs brought to the one form they stand for.

Inputs that the model could not tell apart (a default given or left out, ``8.0`` for an ``integer``) become one
here, before the key is made and, for Cog servers, before they are sent. What the schema does not say in a form
that is understood stays exactly as it came: then a repeat may miss, but it never hits wrongly.

Source: the documents of Cog 0.16 (FastAPI) and 0.23 (coglet), and Replicate's ``openapi_schema``.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

from proxy.core.canonical import as_integer, as_number, canonical_bytes, strings_in
from proxy.core.errors import InputInvalid, InvalidField, InvalidJson
from proxy.core.keys import model_version as model_version
from storage.records import JsonObject, JsonValue

FieldType = Literal["string", "integer", "number", "boolean", "array", "object", "file", "any"]

FILE_PREFIXES = ("http://", "https://", "data:")
"""How a file input may start, in lower case as coglet compares it. Coglet hands any other text on as a path:
``/etc/hostname`` was read from the model's container."""

MAX_COMPLAINTS = 100  # a long list of wrong items must not become a far longer answer
MAX_NESTING = 8  # references and arrays in one another; real definitions have two; ends cycles


@dataclass(frozen=True, slots=True)
class InputField:
    """One input of a model, or (with name ``""``) each item of an array.

    Attributes:
        type: ``"file"`` is a string of ``format: uri``; ``"any"`` was not understood, so neither checked nor folded.
        default: folded like a given value; ``None`` also where there is none (``has_default``).
        fills_default: an absent value becomes ``default``: it is not null and valid by the schema's own rules
            (a file default that is a path inside the image is not).
        min_length, max_length: of a string, in code points.
        pattern: left to the model service: its dialect is not Python's, and a hostile one could hold the process.
        choices: allowed values, folded; empty for any value.
        may_hold_files: the definition speaks of files, so every string in the value must be a URL.
        order: place among the model's inputs.
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
        is_open: further inputs reach the model too, so they are never dropped.
    """

    fields: Mapping[str, InputField] = field(default_factory=dict)
    is_streaming: bool = False
    is_open: bool = False


_COMPOSED = ("$ref", "allOf", "anyOf")
_FOREIGN = frozenset({"oneOf", "not", "if", "const", "prefixItems"})
_NOTES = frozenset({"title", "description", "default", "nullable", "x-order"})
_REFERENCE = "#/components/schemas/"
_UNORDERED = 2**31

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}

_FOLDS = {"integer": as_integer, "number": as_number}
"""What the model's annotation does to a value anyway, by type."""

_NUMBER_LIMITS = (
    ("minimum", "minimum", operator.ge, "number_gte", "Must be greater than or equal to"),
    ("maximum", "maximum", operator.le, "number_lte", "Must be less than or equal to"),
    ("exclusive_minimum", "exclusiveMinimum", operator.gt, "number_gt", "Must be greater than"),
    ("exclusive_maximum", "exclusiveMaximum", operator.lt, "number_lt", "Must be less than"),
)
_STRING_LIMITS = (
    ("min_length", "minLength", operator.ge, "string_gte", "String length must be greater than or equal to"),
    ("max_length", "maxLength", operator.le, "string_lte", "String length must be less than or equal to"),
)
_LIMITS = {"integer": _NUMBER_LIMITS, "number": _NUMBER_LIMITS, "string": _STRING_LIMITS}
"""Limits by type: attribute, keyword, what must hold, and the complaint when it does not."""


def parse_schema(openapi: JsonObject) -> InputSchema | None:
    """The inputs that a Cog server's ``/openapi.json`` or a Replicate version's ``openapi_schema`` declares.

    Returns:
        The schema; a field whose definition is not understood has type ``"any"``. ``None`` when the document
        does not list inputs in ``components.schemas.Input.properties``. Never raises.
    """
    match openapi:
        case {"components": {"schemas": {"Input": {"properties": dict(properties)} as declared} as schemas}}:
            pass
        case _:
            return None
    try:
        canonical_bytes(schemas)
    except InvalidJson:
        return None
    if not _FOREIGN.union(_COMPOSED).isdisjoint(declared):
        return None
    is_streaming = False
    match openapi:
        case {"paths": {"/predictions": {"post": {"x-cog-streaming": True}}}}:
            is_streaming = True
    listed = declared.get("required")
    required = dict.fromkeys(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else {}
    fields = [_parse_field(name, node, schemas, name in required) for name, node in {**required, **properties}.items()]
    fields.sort(key=lambda each: (each.order, each.name))
    is_open = bool(declared.get("additionalProperties") or declared.get("patternProperties"))
    return InputSchema({each.name: each for each in fields}, is_streaming, is_open)


def _parse_field(
    name: str, node: JsonValue, schemas: JsonObject, is_required: bool = False, room: int = MAX_NESTING
) -> InputField:
    own = node if isinstance(node, dict) else {}
    flat = _flatten(own, schemas, room)
    order, description = own.get("x-order"), own.get("description")
    unknown = InputField(
        name,
        "any",
        is_required,
        has_default="default" in (flat or own),
        default=(flat or own).get("default"),
        may_hold_files=_speaks_of_files(own, schemas),
        order=order if type(order) is int else _UNORDERED,
        description=description if isinstance(description, str) else "",
    )
    parsed = (_understood(unknown, flat, schemas, room) if flat else None) or unknown
    if parsed.default is None:
        return parsed
    complaints: list[InvalidField] = []
    folded = _fit(parsed, parsed.default, name, complaints)
    return parsed if complaints else replace(parsed, default=folded, fills_default=True)


def _flatten(node: JsonValue, schemas: JsonObject, room: int) -> JsonObject | None:
    """The definition with ``$ref``, ``allOf`` of one and ``anyOf`` of one and null written out, else ``None``."""
    if not isinstance(node, dict) or room <= 0 or not _FOREIGN.isdisjoint(node):
        return None
    own = {key: value for key, value in node.items() if key not in _COMPOSED}
    match [(key, node[key]) for key in _COMPOSED if key in node]:
        case []:
            return own
        case [("$ref", str(reference))]:
            below = schemas.get(reference.removeprefix(_REFERENCE))
        case [("allOf", [below])]:
            pass
        case [("anyOf", [below, {"type": "null"}] | [{"type": "null"}, below])]:
            own["nullable"] = True
        case _:
            return None
    base = _flatten(below, schemas, room - 1)
    # A keyword that stands on both levels means both; only notes may be overridden.
    return {**base, **own} if base is not None and _NOTES.issuperset(base.keys() & own.keys()) else None


def _understood(start: InputField, flat: JsonObject, schemas: JsonObject, room: int) -> InputField | None:
    """``start`` with the type and the limits that ``flat`` states, or ``None`` when one of them is unclear."""
    kind, is_nullable, pattern, choices = (flat.get(word) for word in ("type", "nullable", "pattern", "enum"))
    if isinstance(kind, list) and len(kind) == 2 and "null" in kind:  # OpenAPI 3.1
        kind, is_nullable = kind[1 - kind.index("null")], True
    if not isinstance(kind, str) or kind not in _JSON_TYPES.values() or is_nullable not in (True, False, None):
        return None
    is_file = kind == "string" and flat.get("format") == "uri"
    found: dict[str, Any] = {"type": "file" if is_file else kind, "is_nullable": is_nullable is True}
    found["pattern"] = pattern if isinstance(pattern, str) else None
    if kind == "array":
        found["items"] = _parse_field("", flat.get("items"), schemas, room=room - 1)
    for attribute, keyword, *_ in _LIMITS.get(kind, ()):
        limit = flat.get(keyword)
        if type(limit) is bool and attribute.startswith("exclusive"):  # OpenAPI 3.0: a flag beside the limit
            limit = flat.get(attribute.removeprefix("exclusive_")) if limit else None
        if limit is not None and type(limit) not in (int, float):
            return None
        found[attribute] = limit
    if choices is not None:
        complaints: list[InvalidField] = []
        values = [choice for choice in choices if choice is not None] if isinstance(choices, list) else []
        found["choices"] = tuple(_fit(InputField("", found["type"]), value, "", complaints) for value in values)
        if complaints or not values or kind not in _LIMITS:
            return None
    return replace(start, **found)


def _speaks_of_files(definition: JsonObject, schemas: JsonObject) -> bool:
    pending: list[JsonValue] = [definition]
    seen: set[str] = set()
    for node in pending:
        if isinstance(node, dict):
            if node.get("format") == "uri":
                return True
            reference = node.get("$ref")
            if isinstance(reference, str) and reference not in seen:
                seen.add(reference)
                pending.append(schemas.get(reference.removeprefix(_REFERENCE)))
        pending.extend(node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
    return False


def output_makes_files(openapi: JsonObject | None) -> bool:
    """Whether a model's outputs are files, by its OpenAPI document; taken for granted where that does not tell."""
    try:
        schemas = (openapi or {})["components"]["schemas"]
        output = schemas["Output"]
        return _speaks_of_files(output, schemas) or not {"type", "$ref", "allOf", "anyOf"} & output.keys()
    except (KeyError, TypeError, AttributeError):
        return True


def normalise_input(schema: InputSchema, given: JsonObject, *, unknown: Literal["drop", "keep"]) -> JsonObject:
    """The one form of all inputs that the model could not tell apart; ``docs/keys.md`` has each rule's reason.

    Args:
        given: what ``parse_json`` gave; it is left as it is, and opaque parts of it are shared.
        unknown: whether inputs that the schema does not list are dropped, as Cog does before the model sees
            them, or kept, as for Replicate, where nobody knows what becomes of them.

    Returns:
        The listed inputs in the schema's order, then the unknown ones that are kept, by name.

    Raises:
        InputInvalid: all complaints at once (``MAX_COMPLAINTS`` at most), in Replicate's words.
    """
    complaints: list[InvalidField] = []
    result: JsonObject = {}
    for name, declared in schema.fields.items():
        value = given.get(name)
        if value is not None:
            result[name] = _fit(declared, value, f"input.{name}", complaints)
        elif name in given and _null_is_seen(declared):
            result[name] = _fit(declared, None, f"input.{name}", complaints)
        elif declared.fills_default:
            is_tree = type(declared.default) in (list, dict)  # whoever changes the result must not change the default
            result[name] = orjson.loads(orjson.dumps(declared.default)) if is_tree else declared.default
        elif declared.is_required:
            _complain(complaints, "required", "input", f"{name} is required")
    if complaints:
        raise InputInvalid(complaints)
    if unknown == "keep" or schema.is_open:
        result.update((name, given[name]) for name in sorted(given.keys() - schema.fields.keys()))
    return result


def _null_is_seen(declared: InputField) -> bool:
    """Whether a given null differs from no value. Without a default both are ``None`` to the model."""
    return declared.type == "any" or declared.is_required or declared.default is not None


def _fit(declared: InputField, value: JsonValue, place: str, complaints: list[InvalidField]) -> JsonValue:
    """``value`` in the form that the model gets; what does not fit is complained of and left as it is."""
    kind = declared.type
    if value is None and (declared.is_nullable or kind == "any"):
        return None
    if kind in _FOLDS:
        value = _FOLDS[kind](value)
    expected, given = "string" if kind == "file" else kind, _JSON_TYPES.get(type(value), "null")
    if kind != "any" and given != expected and (given, expected) != ("integer", "number"):
        _complain(complaints, "invalid_type", place, f"Invalid type. Expected: {expected}, given: {given}")
    elif kind == "array" and declared.items is not None:
        return [_fit(declared.items, item, f"{place}.{index}", complaints) for index, item in enumerate(value)]
    elif (kind == "file" or declared.may_hold_files) and not _are_urls(value):
        _complain(complaints, "format", place, "Must be an http://, https:// or data: URL")
    elif declared.choices and value not in declared.choices:
        allowed = ", ".join(orjson.dumps(choice).decode() for choice in declared.choices)
        _complain(complaints, "enum", place, f"{place} must be one of the following: {allowed}")
    else:
        for attribute, _, holds, word, sentence in _LIMITS.get(kind, ()):
            limit = getattr(declared, attribute)
            if limit is not None and not holds(len(value) if kind == "string" else value, limit):
                _complain(complaints, word, place, f"{sentence} {as_integer(limit)}")
    return value


def _are_urls(value: JsonValue) -> bool:
    return all(text.startswith(FILE_PREFIXES) for text in strings_in(value))


def _complain(complaints: list[InvalidField], word: str, place: str, sentence: str) -> None:
    if len(complaints) < MAX_COMPLAINTS:
        complaints.append(InvalidField(word, place, sentence))
