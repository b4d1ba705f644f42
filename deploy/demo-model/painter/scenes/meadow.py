"""Rolling country: hills behind hills, round trees, flowers in the grass, a wide sky."""

from __future__ import annotations

import numpy as np

from ..light import Array, colour, mix, pick, smooth
from ..setting import Band, Setting
from ..skies import Sky
from .plants import blades

COUNT = 5


class Meadow:
    """Five hills of grass; the nearest is full of flowers in the palette's accent."""

    floor = 0.84

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._horizon = setting.between(0.50, 0.58)
        self._sky = Sky(setting, self._horizon)
        self.light_side = float(np.sign(self._sky.sun_x))
        self._salt = int(setting.rng.integers(1, 1 << 20))
        self._hills = [(setting.between(0.0, 1.0), setting.between(0.8, 1.2)) for _ in range(COUNT)]
        self._flowers = 0.0 if "flower" in setting.plan.avoided else setting.between(0.5, 1.0)

    def shade(self, band: Band) -> Array:
        light = self._sky.shade(band)
        if float(band.y.max()) > self._horizon - 0.2:
            for number, (row, tall) in enumerate(self._hills):
                light = self._with_hill(light, band, number, row, tall)
            light = self._with_grass(light, band)
        return light

    def _with_hill(self, light: Array, band: Band, number: int, row: float, tall: float) -> Array:
        palette, bank, (ox, oy) = self._setting.palette, self._setting.bank, self._setting.offset
        near = number / (COUNT - 1)
        line = np.full((1, 1), row, np.float32)
        u = band.x * np.float32(0.05 - 0.022 * near) + line
        swell, slope, _ = bank.slope("smooth", u, line)
        crest = self._horizon + 0.25 * near**1.25 - (0.09 + 0.03 * near) * tall * (1.5 * swell - 0.4)
        depth = np.maximum(band.y - crest, 0.0)
        body = smooth(-0.7 * band.pixel, 0.7 * band.pixel, band.y - crest)
        place = 0.30 + 0.50 * near
        tone = pick(palette.ground_ramp, np.full((1, 1), place, np.float32))
        green = colour("#7d9a3a") * mix(palette.haze, palette.lamp, 0.6)
        tone = mix(tone, green, 0.18 if palette.is_night else 0.30 + 0.30 * near)
        reach = 1.0 / (depth + np.float32(0.05 + 0.05 * near))
        grass = bank.sample("rough", band.x * reach * 0.05 + ox, reach * 0.30 + oy)
        patch = bank.sample("cloud", band.x * 0.12 + row + ox, depth * 0.9 + oy)
        facing = np.clip(0.5 - 0.45 * slope * self.light_side, 0.0, 1.0)
        lit = facing * np.exp(-depth * (7.0 - 3.0 * near)) * (0.55 + 0.45 * patch)
        shade = tone * (0.60 + 0.26 * grass + 0.34 * patch) * (0.86 - 0.25 * near)
        hill = mix(shade, mix(tone * 1.25, palette.lamp, 0.34), lit * 0.72)
        hill = mix(hill, palette.haze, np.float32(0.42 * (1.0 - near) ** 1.6))
        if 0 < number < 4:
            trees = self._trees(band, crest, number)
            dark = mix(palette.near, tone, 0.45 - 0.12 * number)
            light = mix(light, mix(dark, palette.haze, 0.34 * (1.0 - near)), trees * (1.0 - body))
        if number == COUNT - 1 and self._flowers > 0.0:
            hill = self._with_flowers(hill, band, depth)
        return mix(light, hill, body)

    def _trees(self, band: Band, crest: Array, number: int) -> Array:
        bank = self._setting.bank
        size = np.float32(0.024 + 0.016 * number)
        cell = size * np.float32(1.5)
        shifted = band.x / cell
        column = np.floor(shifted)
        covered = np.zeros((band.y.shape[0], band.x.shape[1]), dtype=np.float32)
        for neighbour in (-1.0, 0.0, 1.0):
            own = column + np.float32(neighbour)
            place, height, width, shown = bank.dots(own, np.zeros_like(own), self._salt + number)
            grove = bank.sample("smooth", own * cell * 0.06, np.full((1, 1), 0.1 * number))
            radius = size * (0.30 + 0.36 * height)
            away = (shifted - own - 0.2 - 0.6 * place) * cell
            dx, dy = away / (0.7 + 0.5 * width), band.y - (crest - radius * 1.15)
            leaf = bank.sample("cloud", band.x * 1.4, band.y * 1.4) - 0.5
            crown = radius * (1.0 + 0.85 * leaf) - np.sqrt(dx * dx + dy * dy)
            stem = np.where(dy > 0.0, radius * 0.10 - np.abs(away), -1.0)
            edge = np.maximum(crown, stem) / band.pixel + 0.5
            np.maximum(covered, np.where((shown + grove) > 1.05, edge, 0.0), out=covered)
        return np.clip(covered, 0.0, 1.0)

    def _with_flowers(self, hill: Array, band: Band, depth: Array) -> Array:
        palette, bank = self._setting.palette, self._setting.bank
        colours = (palette.spark, palette.lamp, mix(palette.spark, palette.lamp, 0.5))
        for number, tint in enumerate(colours):
            reach = 1.0 / (depth * 0.9 + np.float32(0.16))
            u, v = band.x * reach * 7.5 + 3.7 * number, -reach * 11.0 + 1.3 * number
            column, row = np.floor(u), np.floor(v)
            place, height, size, shown = bank.dots(column, row, self._salt + 50 + number)
            du, dv = u - column - 0.25 - 0.5 * place, v - row - 0.25 - 0.5 * height
            radius = 0.13 + 0.10 * size
            petal = smooth(radius, radius * 0.45, np.sqrt(du * du + dv * dv * 1.6))
            field = bank.sample("smooth", band.x * 0.11 + 0.3 * number, depth * 0.5 + 0.2 * number)
            on = (shown < 0.60 * self._flowers) & (field > 0.42)
            hill = mix(hill, tint * (0.75 + 0.35 * size), petal * on * smooth(0.0, 0.04, depth))
        return hill

    def _with_grass(self, light: Array, band: Band) -> Array:
        palette = self._setting.palette
        if float(band.y.max()) < 0.84:
            return light
        for row, (foot, tall) in enumerate(((0.985, 0.075), (1.03, 0.105))):
            tone = mix(palette.near * np.float32(0.9 - 0.35 * row), palette.lamp, 0.05 * (1 - row))
            light = mix(light, tone, blades(self._setting.bank, band, foot, tall, self._salt + row))
        return light
