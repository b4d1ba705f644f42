"""The models on offer, and their schemas.

========== ======================================== ==========================
what       official                                 community (with a version)
========== ======================================== ==========================
pictures   acme/pixel                               painters/brush
one file   acme/single                              painters/pencil
an object  acme/nested                              painters/fresco
img2img    acme/restyle                             painters/retouch
growing    acme/gallery                             painters/album
text       acme/writer (streams), acme/teller,      painters/poet (streams)
           acme/caption (one string)
slow       acme/slow                                painters/sloth
failing    acme/failing                             painters/clumsy
large      acme/film                                painters/reel
========== ======================================== ==========================
"""

from __future__ import annotations

from dataclasses import replace

from loadtests.fake_model import making
from loadtests.fake_model.kinds import FORMATS as FORMATS
from loadtests.fake_model.kinds import File as File
from loadtests.fake_model.kinds import JsonObject as JsonObject
from loadtests.fake_model.kinds import Model as Model
from loadtests.fake_model.kinds import ModelError as ModelError
from loadtests.fake_model.pictures import MAX_SIDE

HARDWARE = [{"name": "CPU", "sku": "cpu"}, {"name": "Nvidia T4 GPU", "sku": "gpu-t4"}]

MAX_FILM_BYTES = 512 << 20

_PROMPT = {"type": "string", "title": "Prompt", "description": "What to draw", "x-order": 0}
_SEED = {"type": "integer", "title": "Seed", "description": "Random when left out", "nullable": True, "x-order": 1}
_FAIL_AT = {"type": "integer", "title": "Fail At", "description": "Fails at that part", "nullable": True}


def _number(title: str, default: float, least: float, most: float, kind: str = "integer") -> JsonObject:
    return {"type": kind, "title": title, "default": default, "minimum": least, "maximum": most}


def _file(title: str, **more: object) -> JsonObject:
    return {"type": "string", "format": "uri", "title": title, **more}


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
_GALLERY: JsonObject = {
    **_PICTURE,
    "num_outputs": _number("Num Outputs", 3, 1, 8),
    "interval": _number("Seconds between two files", 0.05, 0, 60, "number"),
    "answers_early": {
        "type": "boolean",
        "title": "Answers Early",
        "description": "A waiting create answers, still processing, when all files exist",
        "default": False,
    },
    "linger": _number("Seconds from the last file to the end", 0.0, 0, 60, "number"),
    "fail_at": _FAIL_AT,
}
_TEXT: JsonObject = {
    "prompt": _PROMPT,
    "seed": _SEED,
    "max_tokens": _number("Max Tokens", 12, 1, 4096),
    "interval": _number("Seconds between two words", 0.01, 0, 60, "number"),
    "fail_at": _FAIL_AT,
}
_RESTYLE: JsonObject = {
    "image": _file("Image", **{"x-order": 0}),
    "prompt": {"type": "string", "title": "Prompt", "default": "", "x-order": 1},
    "mask": _file("Mask", nullable=True),
    "references": {"type": "array", "title": "References", "items": _file("Reference"), "default": []},
    "width": _number("Width", 32, 1, MAX_SIDE),
    "height": _number("Height", 32, 1, MAX_SIDE),
}
_FILM: JsonObject = {
    "prompt": _PROMPT,
    "seed": _SEED,
    "size_bytes": _number("Size Bytes", 1 << 20, 32, MAX_FILM_BYTES),
}
_SLOW = {"seconds": _number("Seconds", 2.0, 0, 600, "number")}

_URI = _file("Output")
_OBJECT: JsonObject = {"type": "object", "title": "Output"}
_WORDS: JsonObject = {"type": "array", "items": {"type": "string"}}
_GROWING: JsonObject = {
    "type": "array",
    "items": {"type": "string", "format": "uri"},
    "title": "Output",
    "x-cog-array-type": "iterator",
}
_GROWING_WORDS: JsonObject = {
    "type": "array",
    "items": {"type": "string"},
    "title": "Output",
    "x-cog-array-type": "iterator",
    "x-cog-array-display": "concatenate",
}

_PIXEL = Model("acme", "pixel", True, making.pictures, _PICTURE)
_SINGLE = Model("acme", "single", True, making.picture, _PICTURE, output=_URI)
_NESTED = Model("acme", "nested", True, making.nested, _PICTURE, output=_OBJECT)
_TELLER = Model(
    "acme", "teller", True, making.tell, {"prompt": _PROMPT}, output=_WORDS, makes_files=False, description="Says it"
)
_SLOW_MODEL = Model("acme", "slow", True, making.pictures, {**_PICTURE, **_SLOW}, run_s=None)
_FAILING = Model("acme", "failing", True, making.fail, _PICTURE, description="Fails")
_RESTYLER = Model(
    "acme", "restyle", True, making.restyle, _RESTYLE, ("image",), output=_URI, description="Draws what it is shown"
)
_GALLERY_MODEL = Model(
    "acme", "gallery", True, making.growing_pictures, _GALLERY, output=_GROWING, run_s=0.0, is_iterator=True
)
_WRITER = Model(
    "acme",
    "writer",
    True,
    making.write,
    _TEXT,
    output=_GROWING_WORDS,
    run_s=0.0,
    is_iterator=True,
    makes_files=False,
    description="Writes word by word",
)
_CAPTION = Model(
    "acme",
    "caption",
    True,
    making.caption,
    {"prompt": _PROMPT, "seed": _SEED},
    output={"type": "string", "title": "Output"},
    makes_files=False,
    description="Writes a sentence",
)
_FILM_MODEL = Model("acme", "film", True, making.film, _FILM, output=_URI, description="Makes large files")


def _community(model: Model, name: str) -> Model:
    return replace(model, owner="painters", name=name, is_official=False)


MODELS: tuple[Model, ...] = (
    _PIXEL,
    _SINGLE,
    _NESTED,
    _TELLER,
    _SLOW_MODEL,
    _FAILING,
    _RESTYLER,
    _GALLERY_MODEL,
    _WRITER,
    _CAPTION,
    _FILM_MODEL,
    _community(_PIXEL, "brush"),
    _community(_SINGLE, "pencil"),
    _community(_NESTED, "fresco"),
    _community(_RESTYLER, "retouch"),
    _community(_GALLERY_MODEL, "album"),
    _community(_WRITER, "poet"),
    _community(_SLOW_MODEL, "sloth"),
    _community(_FAILING, "clumsy"),
    _community(_FILM_MODEL, "reel"),
)

COLLECTIONS = {
    "text-to-image": ("acme/pixel", "acme/single", "painters/brush"),
    "language-models": ("acme/writer", "acme/caption", "painters/poet"),
}

DEPLOYMENTS = {"acme/pixel-live": "acme/pixel", "acme/brush-live": "painters/brush"}
"""Deployment by ``owner/name``, and the model behind it."""


def find_model(full_name: str) -> Model | None:
    """The catalog's model of that name."""
    return next((model for model in MODELS if model.full_name == full_name), None)
