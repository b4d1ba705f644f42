"""The models on offer: their schemas, and what they make of an input."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtests.fake_model.pictures import MAX_SIDE, draw_png

JsonObject = dict[str, Any]

HARDWARE = [{"name": "CPU", "sku": "cpu"}, {"name": "Nvidia T4 GPU", "sku": "gpu-t4"}]


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
    """One model.

    Attributes:
        version: 64 hex digits; an official model has one, too, but does not tell it.
        make: output for ``(input, seed)``, with ``File`` where an address will stand.
        run_s: seconds that a run takes; ``None``: what the input's ``seconds`` says.
    """

    owner: str
    name: str
    is_official: bool
    make: Callable[[JsonObject, int], Any]
    properties: JsonObject
    required: tuple[str, ...] = ("prompt",)
    output: JsonObject | None = None
    run_s: float | None = 0.02

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def version(self) -> str:
        return hashlib.sha256(self.full_name.encode()).hexdigest()

    @property
    def input_schema(self) -> JsonObject:
        return {"type": "object", "title": "Input", "required": list(self.required), "properties": self.properties}

    def openapi(self) -> JsonObject:
        """The document that a version carries, in the form that Cog writes."""
        schemas = {
            "Input": self.input_schema,
            "Output": self.output or {"type": "array", "items": {"type": "string", "format": "uri"}, "title": "Output"},
            "output_format": FORMATS,
        }
        return {
            "openapi": "3.0.2",
            "info": {"title": "Cog", "version": "0.1.0"},
            "paths": {"/predictions": {"post": {"summary": "Predict", "operationId": "predict_predictions_post"}}},
            "components": {"schemas": schemas},
        }


FORMATS: JsonObject = {"title": "output_format", "description": "An enumeration.", "type": "string", "enum": ["png"]}

_PROMPT = {"type": "string", "title": "Prompt", "description": "What to draw", "x-order": 0}
_SEED = {"type": "integer", "title": "Seed", "description": "Random when left out", "nullable": True, "x-order": 1}


def _number(title: str, default: float, least: float, most: float, kind: str = "integer") -> JsonObject:
    return {"type": kind, "title": title, "default": default, "minimum": least, "maximum": most}


_PICTURE: JsonObject = {
    "prompt": _PROMPT,
    "seed": _SEED,
    "width": _number("Width", 32, 1, MAX_SIDE),
    "height": _number("Height", 32, 1, MAX_SIDE),
    "num_outputs": _number("Num Outputs", 1, 1, 4),
    "guidance": _number("Guidance", 3.5, 0, 20, "number"),
    "go_fast": {"type": "boolean", "title": "Go Fast", "default": True},
    "output_format": {"allOf": [{"$ref": "#/components/schemas/output_format"}], "default": "png"},
}
_URI: JsonObject = {"type": "string", "format": "uri", "title": "Output"}


def _picture(given: JsonObject, seed: int, index: int = 0) -> File:
    look = (given["prompt"], seed, index, given.get("guidance", 3.5), given.get("go_fast", True))
    return File(f"out-{index}.png", draw_png(repr(look), given.get("width", 32), given.get("height", 32)))


def _pictures(given: JsonObject, seed: int) -> list[File]:
    return [_picture(given, seed, index) for index in range(given.get("num_outputs", 1))]


def _nested(given: JsonObject, seed: int) -> JsonObject:
    preview, full = _picture(given, seed), _picture(given, seed, 1)
    return {"images": [{"preview": preview, "full": full}], "seed": seed, "note": "not a file"}


def _tell(given: JsonObject, seed: int) -> list[str]:
    return [f"{word} " for word in str(given["prompt"]).split()]


def _fail(given: JsonObject, seed: int) -> None:
    raise ModelError("CUDA out of memory")


_SLOW = {"seconds": _number("Seconds", 2.0, 0, 600, "number")}

MODELS: tuple[Model, ...] = (
    Model("acme", "pixel", True, _pictures, _PICTURE),
    Model("acme", "single", True, _picture, _PICTURE, output=_URI),
    Model("acme", "nested", True, _nested, _PICTURE, output={"type": "object", "title": "Output"}),
    Model("acme", "teller", True, _tell, {"prompt": _PROMPT}, output={"type": "array", "items": {"type": "string"}}),
    Model("acme", "slow", True, _pictures, {**_PICTURE, **_SLOW}, run_s=None),
    Model("acme", "failing", True, _fail, _PICTURE),
    Model("painters", "brush", False, _pictures, _PICTURE),
    Model("painters", "pencil", False, _picture, _PICTURE, output=_URI),
)

COLLECTIONS = {"text-to-image": ("acme/pixel", "acme/single", "painters/brush")}

DEPLOYMENTS = {"acme/pixel-live": "acme/pixel", "acme/brush-live": "painters/brush"}
"""Deployment by ``owner/name``, and the model behind it."""


def find_model(full_name: str) -> Model | None:
    return next((model for model in MODELS if model.full_name == full_name), None)


def find_version(version: str) -> Model | None:
    """The community model with that version; an official model's is not to be had."""
    return next((model for model in MODELS if model.version == version and not model.is_official), None)
