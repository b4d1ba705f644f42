"""Dunes: sand in long crests with a lit and a shaded side, ripples near the viewer."""

from __future__ import annotations

import numpy as np

from ..light import Array, mix, pick, smooth
from ..setting import Band, Setting
from ..skies import Sky

COUNT = 6


class Dunes:
    """Six crests of sand behind one another under a wide sky."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._horizon = setting.between(0.52, 0.60)
        self._sky = Sky(setting, self._horizon)
        self.light_side = float(np.sign(self._sky.sun_x))
        self.floor = 0.88
        self._crests = [
            (setting.between(0.0, 1.0), setting.between(0.0, 1.0), setting.between(0.8, 1.2)) for _ in range(COUNT)
        ]

    def shade(self, band: Band) -> Array:
        light = self._sky.shade(band)
        if float(band.y.max()) < self._horizon - 0.20:
            return light
        for number, (row, start, tall) in enumerate(self._crests):
            light = self._with_dune(light, band, number / (COUNT - 1), row, start, tall)
        return light

    def _with_dune(self, light: Array, band: Band, near: float, row: float, start: float, tall: float) -> Array:
        bank, palette, (ox, oy) = self._setting.bank, self._setting.palette, self._setting.offset
        line = np.full((1, 1), row, np.float32)
        stretch = np.float32(0.052 - 0.018 * near)
        u = band.x * stretch + np.float32(start)
        swell = bank.sample("smooth", u * 0.8 + 0.31, line + 0.4)
        # A crest is sharp where two slopes meet: fold the noise there.
        height = (0.075 + 0.15 * near) * tall
        fold = 1.0 - np.abs(2.0 * bank.sample("smooth", u, line) - 1.0)
        crest = self._horizon + 0.38 * near**1.3 - height * (0.30 * swell + 0.70 * fold)
        depth = np.maximum(band.y - crest, 0.0)
        body = smooth(-0.7 * band.pixel, 0.7 * band.pixel, band.y - crest)
        if not body.any():
            return light
        # The line between sun and shadow starts at a crest and winds down from it.
        wind = bank.sample("smooth", u * 1.7 + ox, depth * 0.13 + line + oy) - 0.5
        bent = u + stretch * (wind * np.minimum(depth * 1.9, 0.26) + depth * (0.55 * self.light_side))
        side, slope, _ = bank.slope("smooth", bent, line + np.zeros_like(bent))
        knife = np.tanh((2.0 * side - 1.0) / (0.02 + 0.55 * depth))
        facing = knife * slope * np.float32(self.light_side) + 0.05 * band.sway[0]
        lit = smooth(-0.22 - 0.8 * depth, 0.30 + 0.8 * depth, facing)
        fine = bank.sample("rough", band.x * 0.5 + ox, depth * 0.9 + line) - 0.5
        tone = pick(palette.ground_ramp, np.full((1, 1), 0.24 + 0.46 * near, np.float32))
        shadow = mix(tone * np.float32(0.62 - 0.22 * near), palette.near, 0.28 + 0.38 * near)
        bright = mix(mix(tone, palette.haze, 0.50 - 0.18 * near), palette.lamp, 0.22) * 1.04
        sand = mix(shadow, bright, lit * (0.93 - 0.15 * near))
        if near > 0.45:
            ripple = np.sin((depth * (150.0 - 70.0 * near) + wind * 26.0 + band.x * 7.0) * 2.0)
            sand = sand * (1.0 + ripple * (0.055 * smooth(0.0, 0.05, depth) * (0.3 + 0.7 * lit)))
        rim = np.exp(-depth * 70.0) * lit * np.float32(0.26)
        sand = sand + palette.lamp * rim
        dust = smooth(0.0, 0.16, depth) * np.float32(0.45 * (1.0 - near) + 0.03)
        sand = mix(sand, mix(palette.haze, palette.lamp, 0.2), dust)
        return mix(light, sand * (1.0 + fine * np.float32(0.05)), body)
