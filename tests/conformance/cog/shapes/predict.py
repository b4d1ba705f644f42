"""A tiny Cog model that gives each shape of output, for the conformance suite: no weights, no libraries."""

# Cog 0.16 reads annotations as objects: no postponed evaluation in this module.
import hashlib
import os
import struct
import tempfile
import time
import zlib
from pathlib import Path as LocalPath
from typing import Any

from cog import BasePredictor, Input, Path


def draw(look: str) -> bytes:
    """A PNG of one colour, which follows from ``look``."""
    colour = hashlib.sha256(look.encode()).digest()[:3]
    rows = (b"\0" + colour * 8) * 8

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def note(what: str) -> None:
    """Leave a byte in the file that counts such events, if there is a folder for them."""
    if "CONFORMANCE_NOTES" in os.environ:
        with (LocalPath(os.environ["CONFORMANCE_NOTES"]) / what).open("ab") as notes:
            notes.write(b".")


def work(seconds: float) -> None:
    """Take that long, a short nap at a time, so that a cancel is heard."""
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            time.sleep(0.02)
    except BaseException:
        note("cancels")
        raise


class Predictor(BasePredictor):
    """Pictures of one colour in the shape that is asked for."""

    def predict(
        self,
        prompt: str = Input(description="What the colour follows from"),
        shape: str = Input(description="Of the output", default="list", choices=["list", "file", "nested", "string"]),
        seed: int = Input(description="What else it follows from", default=0),
        num_outputs: int = Input(description="Pictures in a list", default=1, ge=1, le=4),
        size_bytes: int = Input(description="Of each file, at least; 0 for small", default=0, ge=0, le=50_000_000),
        seconds: float = Input(description="How long it takes", default=0.0, ge=0.0, le=600.0),
        fails: bool = Input(description="Whether it fails", default=False),
        image: Path | None = Input(description="A picture whose bytes it follows from, too", default=None),  # noqa: B008
    ) -> Any:
        """Give the output."""
        note("runs")
        print(f"Using seed: {seed}", flush=True)
        work(seconds)
        if fails:
            raise ValueError("failed on purpose")
        content = hashlib.sha256(LocalPath(image).read_bytes()).hexdigest() if image else ""
        folder = LocalPath(tempfile.mkdtemp())

        def picture(number: int) -> Path:
            path = folder / f"out-{number}.png"
            path.write_bytes(draw(f"{prompt} {seed} {number} {content}").ljust(size_bytes, b"\0"))
            return Path(path)

        if shape == "file":
            return picture(0)
        if shape == "nested":
            return {"images": [{"preview": picture(0), "full": picture(1)}], "note": "not a file"}
        if shape == "string":
            return f"{prompt}: {hashlib.sha256(f'{prompt} {seed}'.encode()).hexdigest()[:8]}"
        return [picture(number) for number in range(num_outputs)]
