"""The API's own OpenAPI document, and what it says of answers.

The document is not part of this repository. It is looked for in the folder that ``HOTPLATE_SHARED`` names, then in
``shared`` beside the repository's folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft202012Validator, FormatChecker

REPOSITORY = Path(__file__).parents[2]
NAME = "replicate-openapi.json"

FORMATS = FormatChecker(formats=())


@FORMATS.checks("date-time", ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@FORMATS.checks("uri", ValueError)
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or bool(urlsplit(value).scheme)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its id, and by status the schema of its JSON answers, ``None`` where there is none."""

    id: str
    method: str
    path: str
    answers: Mapping[int, Any]

    @property
    def success(self) -> int:
        """The first status of success."""
        return min(status for status in self.answers if 200 <= status < 300)


class Contract:
    """Operations by id, and whether an answer keeps to its schema."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._components = _as_meant(document["components"])
        self.operations = {each.id: each for each in _operations(document)}

    def find_faults(self, operation: str, status: int, answer: object) -> list[str]:
        """Where the body departs from the schema of that status; empty when it does not."""
        schema = self.operations[operation].answers[status]
        validator = Draft202012Validator({**_as_meant(schema), "components": self._components}, format_checker=FORMATS)
        return [f"{each.json_path}: {each.message}" for each in validator.iter_errors(answer)]


def _operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            answers = {int(status): _schema(answer) for status, answer in operation["responses"].items()}
            yield Operation(operation["operationId"], method.upper(), path, answers)


def _schema(answer: dict[str, Any]) -> Any:
    for kind, content in answer.get("content", {}).items():
        if kind.endswith("json"):
            return content["schema"]
    return None


def _as_meant(schema: Any) -> Any:
    """Two slips of the document mended: it calls itself 3.1 and still writes ``nullable``, a word of 3.0 that JSON
    Schema does not know; and a version is ``oneOf`` any text or ``hidden``, which is two of them."""
    if isinstance(schema, list):
        return [_as_meant(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {name: _as_meant(value) for name, value in schema.items()}
    if changed.get("nullable") is True and isinstance(changed.get("type"), str):
        changed["type"] = [changed["type"], "null"]
    if "oneOf" in changed:
        changed["anyOf"] = changed.pop("oneOf")
    return changed


def find_document(environment: Mapping[str, str] = os.environ, repository: Path = REPOSITORY) -> Path:
    """Where the document lies. Without it the test is skipped on a laptop and fails where ``CI`` is set."""
    folders = [repository.parent / "shared"]
    if environment.get("HOTPLATE_SHARED"):
        folders.insert(0, Path(environment["HOTPLATE_SHARED"]))
    for folder in folders:
        if (folder / NAME).is_file():
            return folder / NAME
    reason = f"{NAME} is neither in the folder that HOTPLATE_SHARED names nor in shared beside the repository"
    if environment.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def load_contract() -> Contract:
    return Contract(json.loads(find_document().read_bytes()))
