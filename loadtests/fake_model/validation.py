"""Inputs against a model's schema, in the words of the real service's 422."""

from __future__ import annotations

from urllib.parse import urlsplit

from loadtests.fake_model.catalog import FORMATS, JsonObject, Model

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def find_complaints(model: Model, given: JsonObject) -> list[JsonObject]:
    """``invalid_fields`` of the answer; empty for a good input. Unknown fields are let through."""
    complaints = [complaint("required", "input", f"{name} is required") for name in model.required if name not in given]
    for name, value in given.items():
        schema = model.properties.get(name)
        if schema is not None:
            complaints.extend(_check(f"input.{name}", value, FORMATS if "allOf" in schema else schema))
    return complaints


def find_field_complaints(
    given: JsonObject, fields: dict[str, JsonObject], required: tuple[str, ...]
) -> list[JsonObject]:
    """The same for the fields of a request's body."""
    complaints = [complaint("required", name, f"{name} is required") for name in required if name not in given]
    for name, schema in fields.items():
        if name in given:
            complaints.extend(_check(name, given[name], schema))
    return complaints


def complaint(kind: str, field: str, description: str) -> JsonObject:
    return {"type": kind, "field": field, "description": description}


def _check(field: str, value: object, schema: JsonObject) -> list[JsonObject]:
    if value is None and schema.get("nullable"):
        return []
    wanted = schema["type"]
    if not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean"):
        return [complaint("invalid_type", field, f"Invalid type. Expected: {wanted}, given: {type(value).__name__}")]
    if "enum" in schema and value not in schema["enum"]:
        choices = ", ".join(f'"{choice}"' for choice in schema["enum"])
        return [complaint("enum", field, f"{field} must be one of the following: {choices}")]
    if isinstance(value, int | float):
        if value < schema.get("minimum", value):
            return [complaint("number_gte", field, f"Must be greater than or equal to {schema['minimum']}")]
        if value > schema.get("maximum", value):
            return [complaint("number_lte", field, f"Must be less than or equal to {schema['maximum']}")]
    if isinstance(value, str) and schema.get("format") == "uri" and not _is_uri(value):
        return [complaint("format", field, "Does not match format 'uri'")]
    if isinstance(value, list) and "items" in schema:
        return [each for index, item in enumerate(value) for each in _check(f"{field}.{index}", item, schema["items"])]
    return []


def _is_uri(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme == "data" or (parts.scheme in ("http", "https") and parts.netloc))
