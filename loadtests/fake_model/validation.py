"""Inputs against a model's schema, in the words of the real service's 422."""

from __future__ import annotations

from loadtests.fake_model.catalog import FORMATS, JsonObject, Model

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def find_complaints(model: Model, given: JsonObject) -> list[JsonObject]:
    """``invalid_fields`` of the answer; empty for a good input. Unknown fields are let through."""
    complaints = [
        _complaint("required", "input", f"{name} is required") for name in model.required if name not in given
    ]
    for name, value in given.items():
        schema = model.properties.get(name)
        if schema is not None:
            complaints.extend(_check(f"input.{name}", value, FORMATS if "allOf" in schema else schema))
    return complaints


def explain(complaints: list[JsonObject]) -> JsonObject:
    """The whole 422 body."""
    detail = "".join(f"- {each['field']}: {each['description']}\n" for each in complaints)
    return {"title": "Input validation failed", "detail": detail, "status": 422, "invalid_fields": complaints}


def _check(field: str, value: object, schema: JsonObject) -> list[JsonObject]:
    if value is None and schema.get("nullable"):
        return []
    wanted = schema["type"]
    if not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean"):
        return [_complaint("invalid_type", field, f"Invalid type. Expected: {wanted}, given: {type(value).__name__}")]
    if "enum" in schema and value not in schema["enum"]:
        choices = ", ".join(f'"{choice}"' for choice in schema["enum"])
        return [_complaint("enum", field, f"{field} must be one of the following: {choices}")]
    if isinstance(value, int | float):
        if value < schema.get("minimum", value):
            return [_complaint("number_gte", field, f"Must be greater than or equal to {schema['minimum']}")]
        if value > schema.get("maximum", value):
            return [_complaint("number_lte", field, f"Must be less than or equal to {schema['maximum']}")]
    return []


def _complaint(kind: str, field: str, description: str) -> JsonObject:
    return {"type": kind, "field": field, "description": description}
