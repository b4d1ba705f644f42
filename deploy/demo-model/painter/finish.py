"""The darkroom: glow, vignette, tone curve and grain, then eight bits a channel."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .light import LUMA, Array, luminance, smooth, to_encoded
from .words import Plan

# Glow is computed on a small copy: it has no detail to lose.
GLOW_SIDE: Final = 96
BAND_POINTS: Final = 1 << 16


def develop(light: Array, plan: Plan, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Pixels of a picture given as linear light; `light` is used up.

    Args:
        light: (3, rows, columns), changed in place.
        plan: its features and avoided words tune saturation, glow and grain.
        rng: draws the grain.

    Returns:
        (rows, columns, 3) sRGB.
    """
    _, height, width = light.shape
    glow = _glow(light)
    strength = np.float32(0.32 if plan.has("soft") else 0.17)
    saturation = np.float32(1.22 if plan.has("vivid") else 1.06)
    if {"saturated", "vivid", "colorful", "oversaturated"} & plan.avoided:
        saturation = np.float32(0.8)
    exposure = np.float32(1.28 if {"dark", "underexposed", "night"} & plan.avoided else 1.0)
    grain = np.float32(0.020 if plan.has("grain") else 0.0075)
    if {"grain", "grainy", "noise", "noisy"} & plan.avoided:
        grain = np.float32(0.002)
    across = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / max(width, height)
    down = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / max(width, height)
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    tall = max(1, BAND_POINTS // width)
    for first in range(0, height, tall):
        rows = slice(first, first + tall)
        part = light[:, rows]
        part += glow[:, rows] * strength
        distance = across[None, :] ** 2 + down[rows, None] ** 2
        part *= exposure * (1.0 - 0.36 * smooth(0.10, 0.52, distance))
        grey = luminance(part)
        part = np.maximum(grey + (part - grey) * saturation, 0.0)
        encoded = to_encoded(_shoulder(part))
        # Film grain is strongest in the middle tones and nearly the same in all three channels.
        speck = rng.standard_normal(grey.shape, dtype=np.float32) * grain
        middle = (encoded * LUMA).sum(axis=0)
        encoded = encoded + speck * (0.35 + 2.6 * middle * (1.0 - middle))
        pixels[rows] = (np.clip(encoded, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    return pixels


def _shoulder(light: Array) -> Array:
    """Leave dark and middle tones alone; roll light above 0.7 off towards 1."""
    over = np.maximum(light - np.float32(0.7), 0.0)
    return np.minimum(light, np.float32(0.7)) + np.float32(0.3) * over / (over + np.float32(0.3))


def _glow(light: Array) -> Array:
    _, height, width = light.shape
    scale = min(1.0, GLOW_SIDE / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    bright = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(small, Image.Resampling.BOX)) for plane in light
    ]
    blurred = np.maximum(np.stack(bright) - np.float32(0.35), 0.0)
    reach = max(1.0, 0.045 * max(small))
    for axis in (1, 2):
        blurred = _blur(blurred, reach, axis)
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), Image.Resampling.BICUBIC))
        for plane in blurred
    ]
    return np.maximum(np.stack(planes), 0.0)


def _blur(planes: Array, reach: float, axis: int) -> Array:
    size = int(3 * reach)
    offsets = np.arange(-size, size + 1)
    weights = np.exp(-0.5 * (offsets / reach) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    padding = [(0, 0)] * 3
    padding[axis] = (size, size)
    padded = np.pad(planes, padding, mode="edge")
    total = np.zeros_like(planes)
    length = planes.shape[axis]
    for number, weight in enumerate(weights):
        window = [slice(None)] * 3
        window[axis] = slice(number, number + length)
        total += padded[tuple(window)] * weight
    return total
