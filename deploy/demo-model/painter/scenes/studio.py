"""A painter's studio: a brushed canvas backdrop with soft light, for portraits."""

from __future__ import annotations

import numpy as np

from ..light import Array, falloff, mix, pick, smooth
from ..setting import Band, Setting


class Studio:
    """A backdrop of broad brush strokes, brightest behind the sitter's head."""

    floor = 1.0

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.light_side = -1.0 if setting.chance(0.7) else 1.0
        self._salt = int(setting.rng.integers(1, 1 << 20))

    def shade(self, band: Band) -> Array:
        palette, bank, (ox, oy) = self._setting.palette, self._setting.bank, self._setting.offset
        x, y = band.x, band.y
        turn = bank.sample("smooth", x * 0.06 + ox, y * 0.06 + oy) * np.float32(4.0)
        wide, ridge = self._strokes(x, y, turn, 0.085, 0.26)
        fine, bristle = self._strokes(x, y, turn * 0.7 + 0.9, 0.16, 0.62)
        cloud = bank.sample("cloud", x * 0.10 + oy, y * 0.10 + ox)
        lamp_x = x - np.float32(0.13 * self.light_side + 0.01 * band.sway[0])
        glow = falloff(lamp_x * lamp_x + (y - 0.40) ** 2 * 0.85, 0.46)
        place = 0.06 + 0.50 * glow + 0.16 * (cloud - 0.5) + 0.09 * (wide - 0.5) + 0.07 * (fine - 0.5)
        light = pick(palette.full_ramp, np.clip(place, 0.0, 1.0))
        paint = 1.0 + 0.030 * np.clip(ridge + bristle, -2.0, 2.0)
        weave = 1.0 + 0.012 * np.sin(x * 1150.0) * np.sin(y * 1150.0)
        floor = smooth(0.70, 1.05, y) * np.float32(0.45)
        light = light * (paint * weave * (1.0 - floor))
        return mix(light, palette.spark * 0.25, 0.10 * cloud)

    def _strokes(self, x: Array, y: Array, turn: Array, length: float, width: float) -> tuple[Array, Array]:
        bank, (ox, oy) = self._setting.bank, self._setting.offset
        cos, sin = np.cos(turn), np.sin(turn)
        along, across = x * cos + y * sin, y * cos - x * sin
        value, _, ridge = bank.slope("rough", along * length + ox, across * width + oy)
        return value, ridge
