"""What a model is, and what its outputs are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

JsonObject = dict[str, Any]

FORMATS: JsonObject = {"title": "output_format", "description": "An enumeration.", "type": "string", "enum": ["png"]}
LIST_OF_FILES: JsonObject = {"type": "array", "items": {"type": "string", "format": "uri"}, "title": "Output"}


@dataclass(frozen=True, slots=True)
class File:
    """A file in an output, before it has an address."""

    name: str
    content: bytes
    content_type: str = "image/png"


class ModelError(Exception):
    """The model's own failure; its text becomes the prediction's ``error``."""


@dataclass(frozen=True, slots=True)
class Model:
    """One version of a model.

    Attributes:
        make: output for ``(input, seed)``, with ``File`` where an address will stand; file inputs are given as bytes.
            An iterator's yields the parts of its output.
        run_s: seconds that a run takes; ``None``: what the input's ``seconds`` says.
        is_iterator: whether its output grows while it runs.
        makes_files: whether its stream is one of files.
        revision: counts the versions of a model; each makes other outputs.
        created_at: epoch seconds; ``None`` for the catalog's.
    """

    owner: str
    name: str
    is_official: bool
    make: Callable[[JsonObject, int], Any]
    properties: JsonObject
    required: tuple[str, ...] = ("prompt",)
    output: JsonObject | None = None
    run_s: float | None = 0.02
    is_iterator: bool = False
    makes_files: bool = True
    description: str = "Draws"
    revision: int = 0
    created_at: float | None = None

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def version(self) -> str:
        """64 hex digits; an official model has one, too, but does not tell it in predictions."""
        words = f"{self.full_name}@{self.revision}" if self.revision else self.full_name
        return hashlib.sha256(words.encode()).hexdigest()

    @property
    def input_schema(self) -> JsonObject:
        return {"type": "object", "title": "Input", "required": list(self.required), "properties": self.properties}

    def openapi(self) -> JsonObject:
        """The document that a version carries, in the form that Cog writes."""
        schemas = {
            "Input": self.input_schema,
            "Output": self.output or LIST_OF_FILES,
            "output_format": FORMATS,
        }
        return {
            "openapi": "3.0.2",
            "info": {"title": "Cog", "version": "0.1.0"},
            "paths": {"/predictions": {"post": {"summary": "Predict", "operationId": "predict_predictions_post"}}},
            "components": {"schemas": schemas},
        }
