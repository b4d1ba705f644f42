"""Cells of glass: each pane rounded and lit by itself, in a flow of colour, with lead between."""

from __future__ import annotations

import numpy as np

from ..light import Array, falloff, mix, pick, smooth
from ..setting import Band, Setting


class Glass:
    """A mosaic of irregular cells (nearest of scattered points) that follow a slow current."""

    floor = 0.9

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.light_side = -1.0
        self._cell = setting.between(0.085, 0.13)
        self._salt = int(setting.rng.integers(1, 1 << 20))
        self._bend = setting.between(0.25, 0.6)
        self._is_bubbly = bool({"bubble", "cell", "microscopic", "coral"} & setting.plan.words)
        self._heart = (setting.between(-0.25, 0.25), setting.between(0.3, 0.6))

    def shade(self, band: Band) -> Array:
        palette, bank, (ox, oy) = self._setting.palette, self._setting.bank, self._setting.offset
        x, y = band.x, band.y
        bend_x = bank.sample("smooth", x * 0.05 + ox, y * 0.05 + oy) - 0.5
        bend_y = bank.sample("smooth", x * 0.05 + oy, y * 0.05 + ox + 0.4) - 0.5
        u = (x + bend_x * self._bend) / np.float32(self._cell)
        v = (y + bend_y * self._bend) / np.float32(self._cell)
        nearest, second, tone, offset_x, offset_y = self._cells(u, v)
        gap = second - nearest
        lead = 0.10 + 0.9 * band.pixel / self._cell
        pane = smooth(lead * 0.45, lead, gap)
        flow = bank.sample("cloud", x * 0.07 + bend_x * 0.08 + ox, y * 0.07 + oy)
        place = np.clip(0.10 + 0.62 * flow + 0.30 * (tone - 0.5), 0.02, 0.98)
        glass = pick(palette.full_ramp, place)
        glass = mix(glass, palette.spark, (tone > 0.86) * 0.65)
        streak = bank.sample("cloud", u * 0.055 + tone * 3.0, v * 0.02 + tone)
        light_x, light_y = offset_x + np.float32(0.16), offset_y + np.float32(0.2)
        dome = falloff(light_x * light_x + light_y * light_y, 0.46)
        heart = falloff((x - self._heart[0]) ** 2 + (y - self._heart[1]) ** 2, 0.50)
        depth = smooth(0.0, 0.55, gap)
        glass = glass * (0.34 + 0.55 * depth + 0.5 * heart) * (0.80 + 0.4 * streak)
        glass = glass + palette.lamp * (dome * dome * (0.10 + 0.26 * heart))
        if self._is_bubbly:
            sharp = falloff(light_x * light_x + light_y * light_y, 0.13)
            rim = np.exp(-(((gap - 0.16) / 0.09) ** 2))
            glass = glass + palette.lamp * (sharp * 0.8 + rim * 0.22)
        seam = pick(palette.full_ramp, np.full((1, 1), 0.03, np.float32)) * 0.45
        seam = seam + palette.lamp * (np.exp(-(((gap - lead * 0.32) / 0.022) ** 2)) * 0.14)
        return mix(seam, glass, pane)

    def _cells(self, u: Array, v: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Distances to the nearest two points, and the tone of and way from the nearest."""
        bank = self._setting.bank
        column, row = np.floor(u), np.floor(v)
        nearest = np.full(u.shape, 9.0, np.float32)
        second = nearest.copy()
        tone, away_x, away_y = (np.zeros(u.shape, np.float32) for _ in range(3))
        for down in (-1.0, 0.0, 1.0):
            for across in (-1.0, 0.0, 1.0):
                own_x, own_y = column + np.float32(across), row + np.float32(down)
                place_x, place_y, shade, _ = bank.dots(own_x, own_y, self._salt)
                dx, dy = u - own_x - (0.1 + 0.8 * place_x), v - own_y - (0.1 + 0.8 * place_y)
                distance = np.sqrt(dx * dx + dy * dy)
                closer = distance < nearest
                second = np.where(closer, nearest, np.minimum(second, distance))
                nearest = np.where(closer, distance, nearest)
                tone = np.where(closer, shade, tone)
                away_x, away_y = np.where(closer, dx, away_x), np.where(closer, dy, away_y)
        return nearest, second, tone, away_x, away_y
