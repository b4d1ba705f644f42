"""What each model makes of an input."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from loadtests.fake_model.kinds import File, JsonObject, ModelError
from loadtests.fake_model.pictures import draw_png

OUT_OF_MEMORY = "CUDA out of memory"

_WORDS = ("light", "falls", "on", "quiet", "stone", "while", "slow", "rivers", "carry", "autumn", "home", "again")
_BLOCK_BYTES = 1 << 20


def picture(given: JsonObject, seed: int, index: int = 0) -> File:
    look = (given["prompt"], seed, index, given.get("guidance", 3.5), given.get("go_fast", True))
    return File(f"out-{index}.png", draw_png(repr(look), given.get("width", 32), given.get("height", 32)))


def pictures(given: JsonObject, seed: int) -> list[File]:
    return [picture(given, seed, index) for index in range(given.get("num_outputs", 1))]


def growing_pictures(given: JsonObject, seed: int) -> Iterator[File]:
    for index in range(given.get("num_outputs", 3)):
        _fail_at(given, index)
        yield picture(given, seed, index)


def nested(given: JsonObject, seed: int) -> JsonObject:
    preview, full = picture(given, seed), picture(given, seed, 1)
    return {"images": [{"preview": preview, "full": full}], "seed": seed, "note": "not a file"}


def tell(given: JsonObject, seed: int) -> list[str]:
    return [f"{word} " for word in str(given["prompt"]).split()]


def write(given: JsonObject, seed: int) -> Iterator[str]:
    """Words, with an empty line after every fifth so that streams have parts of several lines."""
    chooser = random.Random(f"{given['prompt']} {seed}")
    for index in range(given.get("max_tokens", 12)):
        _fail_at(given, index)
        yield chooser.choice(_WORDS) + (".\n\n" if index % 5 == 4 else " ")


def caption(given: JsonObject, seed: int) -> str:
    chooser = random.Random(f"{given['prompt']} {seed}")
    return f"{given['prompt']}: {' '.join(chooser.choices(_WORDS, k=6))}."


def restyle(given: JsonObject, seed: int) -> File:
    """Another picture for other bytes (and another prompt), whatever the files were called and wherever they lay."""
    digests = [hashlib.sha256(each).hexdigest() for each in (given["image"], *given.get("references", []))]
    if given.get("mask"):
        digests.append("mask " + hashlib.sha256(given["mask"]).hexdigest())
    look = repr((digests, given.get("prompt", ""), seed))
    return File("out-0.png", draw_png(look, given.get("width", 32), given.get("height", 32)))


def film(given: JsonObject, seed: int) -> File:
    """As many bytes as asked for, no two blocks alike; they begin as an MP4 does."""
    size_bytes = given.get("size_bytes", _BLOCK_BYTES)
    block = random.Random(f"{given['prompt']} {seed}").randbytes(min(size_bytes, _BLOCK_BYTES))
    count = -(-size_bytes // _BLOCK_BYTES)
    body = b"".join(index.to_bytes(4, "big") + block[4:] for index in range(count))
    head = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + max(size_bytes - 24, 8).to_bytes(4, "big") + b"mdat"
    return File("out.mp4", (head + body[len(head) :])[:size_bytes], "video/mp4")


def fail(given: JsonObject, seed: int) -> None:
    raise ModelError(OUT_OF_MEMORY)


def _fail_at(given: JsonObject, index: int) -> None:
    if given.get("fail_at") == index:
        raise ModelError(OUT_OF_MEMORY)
