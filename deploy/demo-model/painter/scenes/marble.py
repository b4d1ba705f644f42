"""Flowing paint: noise that bends noise that bends noise, lit like wet enamel, veined with metal."""

from __future__ import annotations

import numpy as np

from ..light import Array, mix, pick, smooth
from ..setting import Band, Setting

# Distance, in tiles, between the two looks that tell how the surface leans.
LEAN = 0.0022


class Marble:
    """An abstract surface; the flow is the same at every scale of the picture."""

    floor = 0.9

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.light_side = -1.0
        self._scale = setting.between(0.12, 0.20)
        self._bend = setting.between(0.08, 0.14)
        self._turn = setting.between(0.0, 2.0 * np.pi)
        self._has_veins = "gold" not in setting.plan.avoided and setting.chance(0.65)
        self._bands = setting.between(1.6, 3.4)

    def shade(self, band: Band) -> Array:
        palette, bank, (ox, oy) = self._setting.palette, self._setting.bank, self._setting.offset
        cos, sin = np.float32(np.cos(self._turn)), np.float32(np.sin(self._turn))
        x, y = band.x, band.y - np.float32(0.5)
        u, v = (x * cos + y * sin) * self._scale + ox, (y * cos - x * sin) * self._scale * 0.8 + oy
        flow, first, second = self._flow(u, v)
        leaned, _, _ = self._flow(u + np.float32(LEAN), v - np.float32(LEAN * 0.6))
        relief = np.clip((leaned - flow) * 5.5, -1.0, 1.0)
        place = flow * self._bands + (first - 0.5) * 0.5
        place = 1.0 - np.abs((place % 2.0) - 1.0)
        light = pick(palette.full_ramp, 0.04 + 0.92 * place)
        light = mix(light, palette.spark, smooth(0.74, 0.96, second) * 0.6)
        light = mix(light, pick(palette.full_ramp, np.zeros((1, 1), np.float32)), smooth(0.30, 0.06, first) * 0.72)
        shine = np.clip(relief, 0.0, 1.0)
        light = light * (1.0 + 0.62 * relief) + palette.lamp * (shine**3 * 0.75)
        if self._has_veins:
            vein = np.exp(-(((flow - 0.5) / 0.016) ** 2)) + 0.7 * np.exp(-(((first - 0.62) / 0.010) ** 2))
            fleck = bank.sample("rough", u * 5.0, v * 5.0)
            gold = mix(palette.lamp, palette.spark, 0.35) * (0.35 + 0.9 * fleck + 0.5 * shine)
            light = mix(light, gold, np.clip(vein, 0.0, 1.0) * smooth(0.15, 0.55, second) * 0.92)
        return light

    def _flow(self, u: Array, v: Array) -> tuple[Array, Array, Array]:
        bank, bend = self._setting.bank, np.float32(self._bend)
        first = bank.sample("smooth", u, v)
        other = bank.sample("smooth", u + 0.37, v + 0.71)
        p, q = u + (first - 0.5) * bend, v + (other - 0.5) * bend
        second = bank.sample("smooth", p * 1.25 + 0.17, q * 1.25 + 0.43)
        third = bank.sample("smooth", p * 1.25 + 0.61, q * 1.25 + 0.29)
        p, q = p + (second - 0.5) * bend * 0.8, q + (third - 0.5) * bend * 0.8
        broad = bank.sample("smooth", p, q)
        fine = bank.sample("cloud", p * 1.5 + 0.5, q * 1.5)
        return broad * 0.86 + fine * 0.14, second, third
