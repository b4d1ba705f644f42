"""Painting from a picture: its light and edges are kept, its surface becomes brush strokes.

The picture is smeared along lines that follow its own edges, recoloured in the palette, and then
blended with the painted scene like two exposures on one film. At strength 0 it comes out as it
went in; at 1 nothing of it is left.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image, ImageOps

from .light import Array, luminance, mix, pick, to_linear
from .setting import Setting

# Strokes longer than this many looks along a line no longer change the picture to the eye.
LONGEST_STROKE: Final = 12


def repaint(light: Array, image: Image.Image, setting: Setting, strength: float, steps: int) -> Array:
    """Blend a picture into the painted scene.

    Args:
        light: the scene in linear light, (3, rows, columns).
        image: the picture to start from; it is cut to the scene's shape around its middle.
        setting: palette and noise.
        strength: how much is painted over, 0 to 1.
        steps: more steps, longer and smoother strokes.

    Returns:
        Linear light, (3, rows, columns).
    """
    _, rows, columns = light.shape
    photo = _opened(image, columns, rows)
    if strength <= 0.0:
        return photo
    palette = setting.palette
    strokes = _smeared(photo, setting, min(LONGEST_STROKE, 3 + steps))
    grey = luminance(strokes)
    tinted = pick(palette.full_ramp, np.sqrt(np.clip(grey, 0.0, 1.0)) * 0.94 + 0.03)
    painted = mix(photo, mix(strokes, tinted, 0.62 * strength), min(1.0, 1.7 * strength))
    blended = mix(painted, light, strength * strength)
    # The picture's light and dark shape the blend; less so the more is painted over.
    ratio = (luminance(painted) + np.float32(0.10)) / (luminance(blended) + np.float32(0.10))
    keep = np.float32(min(0.9, 1.9 * (1.0 - strength)))
    return blended * ratio**keep


def _opened(image: Image.Image, columns: int, rows: int) -> Array:
    upright = ImageOps.exif_transpose(image).convert("RGBA")
    paper = Image.new("RGBA", upright.size, (255, 255, 255, 255))
    flat = Image.alpha_composite(paper, upright).convert("RGB")
    fitted = ImageOps.fit(flat, (columns, rows), Image.Resampling.LANCZOS)
    encoded = np.asarray(fitted, dtype=np.float32).transpose(2, 0, 1) / np.float32(255.0)
    return to_linear(np.ascontiguousarray(encoded))


def _smeared(photo: Array, setting: Setting, looks: int) -> Array:
    """Average the picture along short lines that run beside its edges."""
    _, rows, columns = photo.shape
    bank, (ox, oy) = setting.bank, setting.offset
    x = np.arange(columns, dtype=np.float32)[None, :]
    y = np.arange(rows, dtype=np.float32)[:, None]
    grey = np.sqrt(np.clip(luminance(photo), 0.0, None))
    for _ in range(3):
        grey = _softened(grey)
    across, down = np.gradient(grey, axis=1), np.gradient(grey, axis=0)
    turn = bank.sample("smooth", x / rows * 0.07 + ox, y / rows * 0.07 + oy) * np.float32(6.3)
    # Where the picture is flat the strokes follow the noise.
    way_x, way_y = -down + 0.006 * np.cos(turn), across + 0.006 * np.sin(turn)
    length = np.maximum(np.hypot(way_x, way_y), 1e-6)
    step = np.float32(max(0.8, rows / 320.0))
    way_x, way_y = way_x / length * step, way_y / length * step
    flat = photo.reshape(3, -1)
    total, weight = photo.copy(), 1.0
    for side in (-1.0, 1.0):
        at_x, at_y = x + np.zeros_like(y), y + np.zeros_like(x)
        for number in range(1, looks + 1):
            column = np.clip(at_x + 0.5, 0, columns - 1).astype(np.intp)
            row = np.clip(at_y + 0.5, 0, rows - 1).astype(np.intp)
            here = row * columns + column
            at_x = at_x + np.float32(side) * way_x.ravel().take(here)
            at_y = at_y + np.float32(side) * way_y.ravel().take(here)
            column = np.clip(at_x + 0.5, 0, columns - 1).astype(np.intp)
            row = np.clip(at_y + 0.5, 0, rows - 1).astype(np.intp)
            fade = 1.0 - number / (looks + 1)
            total += flat.take(row * columns + column, axis=1) * np.float32(fade)
            weight += fade
            bank.lookups += here.size
    bristle = bank.sample("rough", x / rows * 0.9 + ox, y / rows * 0.9 + oy)
    return total * (np.float32(1.0 / weight) * (np.float32(0.93) + np.float32(0.14) * bristle))


def _softened(plane: Array) -> Array:
    padded = np.pad(plane, 2, mode="edge")
    rows, columns = plane.shape
    total = np.zeros_like(plane)
    for offset, weight in enumerate((1.0, 4.0, 6.0, 4.0, 1.0)):
        total += padded[offset : offset + rows, 2 : 2 + columns] * np.float32(weight / 32.0)
        total += padded[2 : 2 + rows, offset : offset + columns] * np.float32(weight / 32.0)
    return total
