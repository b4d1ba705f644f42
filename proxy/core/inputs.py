"""Files in an input: which of its strings a model server would fetch."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.core.schemas import InputField, InputSchema
from storage.records import JsonObject, JsonPath, JsonValue

_TEXT_TYPES = frozenset({"string", "integer", "number", "boolean"})
"""Types whose values a model server hands on as they are."""


def remote_files(given: JsonObject, schema: InputSchema | None) -> list[tuple[JsonPath, str]]:
    """Every http(s) URL in ``given`` that may be taken for a file, with its place.

    Where the schema says that a field is text, its value is text. Where nothing is known of a field, any string that
    is a URL may be a file.
    """
    found: list[tuple[JsonPath, str]] = []
    for name, value in given.items():
        if schema is None or _may_be_file(schema.fields.get(name)):
            found += _urls((name,), value)
    return found


def _may_be_file(declared: InputField | None) -> bool:
    if declared is None or declared.may_hold_files:
        return True
    if declared.type == "array" and declared.items is not None:
        return _may_be_file(declared.items)
    return declared.type not in _TEXT_TYPES


def _urls(path: JsonPath, value: JsonValue) -> Iterator[tuple[JsonPath, str]]:
    stack: list[tuple[JsonPath, JsonValue]] = [(path, value)]
    while stack:
        place, node = stack.pop()
        if isinstance(node, str):
            if node.lstrip()[:8].lower().startswith(("http://", "https://")):
                yield place, node.strip()
        elif isinstance(node, list):
            stack.extend(((*place, index), item) for index, item in enumerate(node))
        elif isinstance(node, dict):
            stack.extend(((*place, name), item) for name, item in node.items())
