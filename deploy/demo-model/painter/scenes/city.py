"""A skyline at the water: towers behind towers, lit windows, and all of it again in the river."""

from __future__ import annotations

import numpy as np

from ..light import Array, colour, mix, pick, smooth
from ..setting import Band, Setting
from ..skies import Sky

# From far to near: height of a tall tower, width of a plot, place in the ground's colours.
ROWS = (
    (0.20, 0.030, 0.20),
    (0.33, 0.042, 0.42),
    (0.40, 0.060, 0.68),
    (0.24, 0.078, 0.95),
)


class City:
    """Four rows of buildings on the far bank of a calm river."""

    def __init__(self, setting: Setting) -> None:
        plan = setting.plan
        self._setting = setting
        self._bank_line = setting.between(0.72, 0.78)
        self._sky = Sky(setting, self._bank_line - 0.01)
        self.light_side = float(np.sign(self._sky.sun_x))
        self.floor = 0.95
        self._salt = int(setting.rng.integers(1, 1 << 20))
        self._middle = setting.between(-0.25, 0.25) * min(setting.aspect, 1.5)
        by_day = plan.palette.name in ("clear", "lagoon", "pearl", "ice", "ink wash", "blossom")
        self._lights = 0.06 if by_day else 1.0
        self._has_neon = plan.palette.name == "neon" or "neon" in plan.words

    def shade(self, band: Band) -> Array:
        water = band.y > self._bank_line
        y = self._mirrored(band) if bool(water.any()) else band.y
        light = self._sky.shade(band, y)
        for number, (tall, plot, place) in enumerate(ROWS):
            light = self._with_row(light, band, y, number, tall, plot, place)
        glow = np.exp(-np.abs(self._bank_line - y) * 11.0) * np.float32(0.20 * self._lights)
        light = light + mix(self._setting.palette.lamp, self._setting.palette.spark, 0.5) * glow
        return self._with_water(light, band) if bool(water.any()) else light

    def _mirrored(self, band: Band) -> Array:
        bank, (ox, oy) = self._setting.bank, self._setting.offset
        below = np.maximum(band.y - self._bank_line, 0.0)
        reach = 1.0 / (below + 0.06)
        swell = bank.sample("smooth", band.x * reach * 0.022 + ox, reach * 0.40 + oy) - 0.5
        fine = bank.sample("smooth", band.x * reach * 0.06 + oy, reach * 0.95 + ox) - 0.5
        ripple = (swell + 0.6 * fine) * (0.012 + 0.30 * below)
        return np.where(band.y > self._bank_line, self._bank_line - below * 1.25 + ripple, band.y)

    def _with_water(self, light: Array, band: Band) -> Array:
        palette = self._setting.palette
        below = band.y - self._bank_line
        wet = smooth(-0.5 * band.pixel, 0.5 * band.pixel, below)
        dark = mix(palette.near, pick(palette.sky_ramp, np.full((1, 1), 0.2, np.float32)), 0.3)
        seen = mix(light * 0.86, dark, np.clip(0.14 + below * 1.3, 0.0, 0.7))
        quay = np.exp(-((below / 0.0035) ** 2)) * 0.85
        return mix(mix(light, seen, wet), palette.near * 0.5, quay)

    def _with_row(
        self,
        light: Array,
        band: Band,
        y: Array,
        number: int,
        tall: float,
        plot: float,
        place: float,
    ) -> Array:
        bank, palette = self._setting.bank, self._setting.palette
        across = band.x / np.float32(plot) + np.float32(0.4 * number)
        column = np.floor(across)
        inside = across - column
        zero = np.zeros_like(column)
        height, width, style, seed = bank.dots(column, zero, self._salt + number)
        hill = np.exp(-(((band.x - self._middle) / 0.42) ** 2))
        # Most houses are low and a few are high, higher towards the middle of the town.
        roof = tall * (0.22 + 0.20 * height + 0.62 * height**3 * (0.35 + 0.65 * hill))
        margin = 0.02 + 0.10 * width
        offset = np.abs(inside - 0.5)
        stepped = np.where((style > 0.62) & (offset > 0.27), 0.84, 1.0)
        tapered = np.where(style < 0.16, np.clip(1.0 - offset * 0.55, 0.0, 1.0), 1.0)
        top = self._bank_line - roof * stepped * tapered
        mast = (style > 0.80) & (height > 0.55)
        thin = np.float32(max(0.0011, band.pixel * 0.7) / plot)
        top = np.where(mast & (offset < thin), self._bank_line - roof * 1.22, top)
        soft = np.float32(0.6 * band.pixel)
        edge = smooth(margin - soft / plot, margin + soft / plot, 0.5 - offset)
        edge = np.where(height > 0.04, edge, 0.0)
        body = smooth(-soft, soft, y - top) * edge
        tone = pick(palette.ground_ramp, np.full((1, 1), place, np.float32))
        down = np.clip((y - top) / np.float32(tall), 0.0, 1.0)
        face = 1.0 + 0.16 * np.sign(inside - 0.5) * self.light_side * (style < 0.5)
        wall = mix(tone * face, mix(palette.haze, palette.spark, 0.25), down * (0.34 - 0.22 * place))
        wall = wall + self._windows(band, y, inside, column, self._bank_line - roof * 0.84, plot, number, seed)
        if self._has_neon and number >= 2:
            sign = (np.abs(inside - 0.25 - 0.5 * width) < 0.035) & (style > 0.45)
            sign = sign * smooth(0.02, 0.03, y - top) * smooth(0.5, 0.44, down + 0.3 * seed)
            wall = wall + mix(palette.spark, palette.lamp, np.round(seed)) * (sign * 1.4)
        return mix(light, wall, body)

    def _windows(
        self,
        band: Band,
        y: Array,
        inside: Array,
        column: Array,
        top: Array,
        plot: float,
        number: int,
        seed: Array,
    ) -> Array:
        bank, palette = self._setting.bank, self._setting.palette
        pane = np.float32(0.0068 + 0.0022 * number)
        u, v = inside * np.float32(plot) / pane, (y - top) / (pane * np.float32(1.45))
        left, floor = np.floor(u), np.floor(v)
        lit, tint, strength, _ = bank.dots(left + column * 131.0, floor, self._salt + 7 * number)
        du, dv = np.abs(u - left - 0.5), np.abs(v - floor - 0.5)
        shape = smooth(0.40, 0.27, du) * smooth(0.38, 0.25, dv)
        # Panes smaller than a pixel blend into an even shimmer instead of flickering.
        blur = float(np.clip(band.pixel / float(pane) * 1.4 - 0.4, 0.0, 1.0))
        shape = shape * np.float32(1.0 - blur) + np.float32(0.22 * blur)
        share = 0.30 + 0.25 * (seed > 0.6)
        on = (lit < share) & (v > 0.8) & (np.abs(inside - 0.5) < 0.40)
        warm = mix(palette.lamp, colour("#ffbe63"), 0.6)
        warm = mix(warm, palette.spark, np.where(tint > 0.86, 0.9, 0.15))
        reach = np.float32((0.22, 0.45, 0.75, 1.0)[number] * self._lights)
        return warm * (shape * on * (0.35 + 0.75 * strength) * reach)
