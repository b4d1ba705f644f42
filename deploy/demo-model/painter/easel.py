"""The painter: from a request to pixels, and from pixels to a file.

A picture is the mean of its steps. In each step the scene is shaded once at every pixel through a
lens that is moved by a fraction of a pixel, with its lights swayed a little: more steps give
smoother edges, softer light and finer detail, and each costs the same. Figures are then placed,
and the light is finished like a photograph: glow, vignette, tone curve, grain.

The same request gives the same bytes on every run: all chance comes from digests of the request,
all arithmetic is done in a fixed order, and the encoders' options are fixed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .figures import place_figures
from .finish import develop
from .light import Array
from .noise import NoiseBank
from .photo import repaint
from .scenes import SCENES
from .setting import Band, Scene, Setting
from .words import Plan, read_prompt

FileFormat = Literal["webp", "png", "jpg"]
Pixels = NDArray[np.uint8]

# About the number of points whose intermediate arrays stay in a core's cache.
BAND_POINTS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Request:
    """One picture to be painted.

    ``image`` is a picture to start from, in any mode Pillow can open; ``prompt_strength`` says how
    much of it is painted over, from 0 (kept) to 1 (gone).
    """

    prompt: str
    seed: int
    width: int = 512
    height: int = 512
    steps: int = 4
    negative_prompt: str = ""
    image: Image.Image | None = None
    prompt_strength: float = 0.8


@dataclass(frozen=True, slots=True)
class Painting:
    """A finished picture.

    ``pixels`` is (height, width, 3) sRGB; ``lookups`` counts the noise look-ups made for it, a
    measure of the work that is the same on every machine.
    """

    pixels: Pixels
    plan: Plan
    lookups: int


class Painter:
    """Holds the noise tables and paints; make one and keep it."""

    def __init__(self) -> None:
        self._bank = NoiseBank()

    def paint(self, request: Request, on_step: Callable[[int, int], None] | None = None) -> Painting:
        """Paint one picture.

        Args:
            request: what to paint.
            on_step: called after each step with its number, from 1, and the number of steps.

        Returns:
            The picture; the same pixels for the same request, always.
        """
        before = self._bank.lookups
        plan = read_prompt(request.prompt, request.negative_prompt, request.seed)
        offsets = np.random.Generator(np.random.PCG64(plan.texture)).random(2)
        setting = Setting(
            plan=plan,
            bank=self._bank,
            rng=np.random.Generator(np.random.PCG64(plan.composition)),
            offset=(float(offsets[0]), float(offsets[1])),
            aspect=request.width / request.height,
        )
        scene = SCENES[plan.scene](setting)
        light = self._shade(scene, request, on_step)
        place_figures(light, setting, scene)
        if request.image is not None:
            light = repaint(light, request.image, setting, request.prompt_strength, request.steps)
        pixels = develop(light, plan, np.random.Generator(np.random.PCG64(plan.texture ^ 1)))
        return Painting(pixels=pixels, plan=plan, lookups=self._bank.lookups - before)

    def _shade(self, scene: Scene, request: Request, on_step: Callable[[int, int], None] | None) -> Array:
        width, height, steps = request.width, request.height, request.steps
        total = np.zeros((3, height, width), dtype=np.float32)
        columns = (np.arange(width) + 0.5 - width / 2) / height
        rows = (np.arange(height) + 0.5) / height
        tall = max(1, min(height, BAND_POINTS // width))
        for step in range(steps):
            shift_x, shift_y = _low_discrepancy(step)
            x = (columns + shift_x / height).astype(np.float32)[None, :]
            y = (rows + shift_y / height).astype(np.float32)[:, None]
            for first in range(0, height, tall):
                band = Band(
                    x=x,
                    y=y[first : first + tall],
                    pixel=1.0 / height,
                    sway=(2.0 * shift_y, 2.0 * shift_x),
                )
                total[:, first : first + tall] += scene.shade(band)
            if on_step is not None:
                on_step(step + 1, steps)
        total *= np.float32(1.0 / steps)
        return total


def _low_discrepancy(step: int) -> tuple[float, float]:
    """Place of the lens in a step, each coordinate from -0.5 to 0.5, spread evenly over steps.

    Source: the R2 sequence of Martin Roberts, "The unreasonable effectiveness of quasirandom
    sequences" (2018). Step 0 is the middle of the pixel.
    """
    return (0.5 + 0.7548776662 * step) % 1.0 - 0.5, (0.5 + 0.5698402910 * step) % 1.0 - 0.5


def encode(pixels: Pixels, file_format: FileFormat, quality: int) -> bytes:
    """A picture as the bytes of a file.

    Args:
        pixels: (height, width, 3) sRGB.
        file_format: ``"webp"``, ``"png"`` or ``"jpg"``.
        quality: 0 to 100; PNG is lossless and does not use it.
    """
    picture, out = Image.fromarray(pixels, "RGB"), io.BytesIO()
    match file_format:
        case "webp":
            picture.save(out, "WEBP", quality=quality, method=2)
        case "png":
            picture.save(out, "PNG", compress_level=4)
        case "jpg":
            # Pillow reads a quality of 0 as "not given".
            picture.save(out, "JPEG", quality=max(1, quality), subsampling=2, progressive=False)
    return out.getvalue()
