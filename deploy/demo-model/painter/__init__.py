"""A painter that draws pictures from prompts with arithmetic alone: numpy and Pillow, no weights.

    painter = Painter()
    painting = painter.paint(Request(prompt="mountains at dawn", seed=7))
    Path("dawn.webp").write_bytes(encode(painting.pixels, "webp", 80))

The words of the prompt choose the scene, its palette and the figures in it; see `words`. The same
request gives the same bytes on every run.
"""

from .easel import FileFormat, Painter, Painting, Request, encode

__all__ = ["FileFormat", "Painter", "Painting", "Request", "encode"]
