"""Colour and light arithmetic on planar pictures.

A picture is a float32 array of shape (3, rows, columns) in linear light: sums and blends of light
are then what a lens would see, and mist and glow look soft instead of muddy. Colours are (3, 1, 1).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

RAMP_SIZE: Final = 1024
LUMA: Final = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32).reshape(3, 1, 1)
# OKLab (Björn Ottosson, 2020): blends of two colours in it stay vivid and even.
_TO_LMS: Final = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929],
     [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_TO_LAB: Final = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468],
     [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


def to_linear(encoded: Array) -> Array:
    """sRGB values (0 to 1) as linear light."""
    low = encoded / np.float32(12.92)
    high = ((encoded + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4)
    return np.where(encoded <= 0.04045, low, high).astype(np.float32)


def to_encoded(linear: Array) -> Array:
    """Linear light as sRGB values, cut to 0 to 1."""
    linear = np.clip(linear, 0.0, 1.0)
    high = np.float32(1.055) * linear ** np.float32(1 / 2.4) - np.float32(0.055)
    return np.where(linear <= 0.0031308, linear * np.float32(12.92), high).astype(np.float32)


def colour(code: str) -> Array:
    """Linear light of a colour written ``"#rrggbb"``, shape (3, 1, 1)."""
    values = [int(code[i : i + 2], 16) / 255.0 for i in (1, 3, 5)]
    return to_linear(np.array(values, dtype=np.float32)).reshape(3, 1, 1)


def ramp(codes: tuple[str, ...]) -> Array:
    """Colours from the first to the last code, evenly spaced, shape (3, `RAMP_SIZE`)."""
    stops = np.concatenate([colour(code).reshape(3, 1) for code in codes], axis=1).astype(float)
    lab = _TO_LAB @ np.cbrt(_TO_LMS @ stops)
    places = np.linspace(0.0, len(codes) - 1.0, RAMP_SIZE)
    blended = np.stack([np.interp(places, np.arange(len(codes)), row) for row in lab])
    linear = np.linalg.inv(_TO_LMS) @ (np.linalg.inv(_TO_LAB) @ blended) ** 3
    return np.clip(linear, 0.0, None).astype(np.float32)


def pick(table: Array, place: Array) -> Array:
    """Colours of a `ramp` at each place from 0 to 1: (rows, columns) -> (3, rows, columns)."""
    index = np.clip(place * np.float32(RAMP_SIZE - 1), 0, RAMP_SIZE - 1).astype(np.intp)
    return table.take(index, axis=1)


def mix(first: Array, second: Array, amount: Array | float) -> Array:
    """``first`` where amount is 0, ``second`` where it is 1."""
    return first + (second - first) * np.asarray(amount, dtype=np.float32)


def smooth(low: float | Array, high: float | Array, value: Array) -> Array:
    """0 below ``low``, 1 above ``high`` (or the reverse), a soft step between."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return t * t * (np.float32(3.0) - np.float32(2.0) * t)


def falloff(distance_squared: Array, reach: float) -> Array:
    """A soft light: 1 at its centre, fading over ``reach``."""
    return np.exp(distance_squared * np.float32(-1.0 / (reach * reach)))


def luminance(picture: Array) -> Array:
    """Brightness as the eye weighs it: (3, rows, columns) -> (rows, columns)."""
    return (picture * LUMA).sum(axis=0)
