"""Flowers close by: dahlias and daisies of layered petals over a garden out of focus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..light import Array, colour, falloff, mix, pick, smooth
from ..setting import Band, Setting


@dataclass(frozen=True, slots=True)
class _Flower:
    x: float
    y: float
    radius: float
    petals: int
    rings: int
    turn: float
    tone: float
    squash: float
    is_daisy: bool


class Bloom:
    """Eight to eleven flowers, the large ones in front, with leaves and lights behind them."""

    floor = 0.9

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.light_side = -1.0
        self._salt = int(setting.rng.integers(1, 1 << 20))
        half = setting.aspect / 2
        flowers: list[_Flower] = []
        for number in range(int(setting.rng.integers(8, 12))):
            radius = setting.between(0.19, 0.27) * (0.93**number) * min(1.0, setting.aspect * 1.2)
            x, y = 0.0, 0.0
            for _ in range(12):
                x = setting.between(-0.92, 0.92) * half
                y = setting.between(0.12, 0.92)
                gaps = [np.hypot(x - f.x, y - f.y) - 0.80 * (radius + f.radius) for f in flowers]
                if not gaps or min(gaps) > 0.0:
                    break
            flowers.append(
                _Flower(
                    x=x,
                    y=y,
                    radius=radius,
                    petals=int(setting.rng.integers(9, 15)),
                    rings=int(setting.rng.integers(4, 7)),
                    turn=setting.between(0.0, 6.28),
                    tone=setting.between(0.0, 1.0),
                    squash=setting.between(0.82, 1.0),
                    is_daisy=setting.chance(0.3),
                )
            )
        # The largest were placed first; they are painted last, in front.
        self._flowers = flowers[::-1]

    def shade(self, band: Band) -> Array:
        light = self._garden(band)
        for flower in self._flowers:
            reach = flower.radius * 1.15
            if band.y[0, 0] > flower.y + reach or band.y[-1, 0] < flower.y - reach:
                continue
            left = int(np.searchsorted(band.x[0], flower.x - reach))
            right = int(np.searchsorted(band.x[0], flower.x + reach))
            if right > left:
                part = slice(left, right)
                light[:, :, part] = self._painted(light[:, :, part], band, band.x[:, part], flower)
        return light

    def _garden(self, band: Band) -> Array:
        palette, bank, (ox, oy) = self._setting.palette, self._setting.bank, self._setting.offset
        deep = bank.sample("smooth", band.x * 0.07 + ox, band.y * 0.07 + oy)
        leaf, slope, _ = bank.slope("smooth", band.x * 0.22 + oy + deep * 0.04, band.y * 0.16 + ox)
        green = mix(colour("#1d4a2c"), mix(palette.near, palette.ground_ramp[:, 620, None, None], 0.4), 0.45)
        light = green * (0.10 + 1.15 * deep * leaf + 0.30 * deep) + palette.haze * (
            0.05 * np.clip(slope, 0.0, 1.5) * leaf
        )
        glow = falloff((band.x + 0.3) ** 2 + (band.y - 0.05) ** 2, 0.75)
        light = light + palette.haze * (glow * np.float32(0.20))
        for number, cell in enumerate((0.17, 0.11)):
            u, v = band.x / np.float32(cell) + number * 0.5, band.y / np.float32(cell)
            column, row = np.floor(u), np.floor(v)
            place, height, size, shown = bank.dots(column, row, self._salt + number)
            du, dv = u - column - 0.35 - 0.3 * place, v - row - 0.35 - 0.3 * height
            distance = np.sqrt(du * du + dv * dv)
            radius = 0.12 + 0.20 * size
            # A light out of focus: a disc with a brighter edge.
            disc = smooth(radius, radius - 0.05, distance) * (0.55 + 0.45 * (distance / radius) ** 3)
            tint = mix(palette.lamp, palette.spark, place)
            light = light + tint * (disc * (shown > 0.55) * (0.10 + 0.16 * size))
        return light

    def _painted(self, light: Array, band: Band, x: Array, flower: _Flower) -> Array:
        palette, bank = self._setting.palette, self._setting.bank
        dx = (x - np.float32(flower.x)) / np.float32(flower.radius)
        dy = (band.y - np.float32(flower.y)) / np.float32(flower.radius * flower.squash)
        distance = np.sqrt(dx * dx + dy * dy)
        angle = np.arctan2(dy, dx) + np.float32(flower.turn + 0.01 * band.sway[0])
        soft = np.float32(1.6 * band.pixel / flower.radius)
        shadow_x, shadow_y = dx - np.float32(0.05), dy - np.float32(0.12)
        light = light * (1.0 - 0.55 * falloff(shadow_x**2 + shadow_y**2, 0.80))
        base = pick(palette.full_ramp, np.full((1, 1), 0.46 + 0.34 * flower.tone, np.float32))
        base = mix(base, palette.spark, 0.45 + 0.40 * (flower.tone > 0.55)) * 0.92
        rings = 2 if flower.is_daisy else flower.rings
        for ring in range(rings):
            inward = ring / rings
            size = 1.0 - (0.20 if flower.is_daisy else 0.80) * inward
            turned = angle + np.float32(ring * np.pi / flower.petals * 1.07)
            fan = turned * np.float32(flower.petals / (2.0 * np.pi))
            number = np.floor(fan)
            across = np.abs(fan - number - 0.5) * 2.0
            vary, shade, _, _ = bank.dots(
                number % flower.petals, np.zeros_like(number) + ring, self._salt + int(flower.x * 999)
            )
            length = size * (0.90 + 0.10 * vary)
            part = distance / length
            width = np.clip(1.0 - ((part - 0.58) / 0.425) ** 2, 0.0, 1.0)
            width = np.sqrt(width) * (1.02 if not flower.is_daisy else 0.86)
            inside = smooth(soft * 3.0, -soft * 3.0, across - width) * smooth(1.0 + soft, 1.0 - soft, part)
            vein = 0.94 + 0.06 * np.cos(across * 9.0)
            body = (0.42 + 0.62 * np.clip(part, 0.0, 1.0) ** 1.3) * (1.0 - 0.38 * across**2) * vein
            body = body * (0.86 + 0.22 * shade) * (0.88 + 0.20 * inward)
            sun = np.clip(-(dx * 0.5 + dy * 0.8), -0.6, 0.6) * 0.34
            petal = mix(base, palette.lamp, np.clip(0.02 + 0.34 * part**4 + 0.16 * inward, 0.0, 1.0))
            light = light * (1.0 - 0.40 * smooth(size * 1.10, size * 0.82, distance) * inside)
            light = mix(light, petal * (body + sun * 0.6), inside)
        return self._with_heart(light, flower, distance, dx, dy, soft)

    def _with_heart(
        self, light: Array, flower: _Flower, distance: Array, dx: Array, dy: Array, soft: np.float32
    ) -> Array:
        palette, bank = self._setting.palette, self._setting.bank
        size = 0.30 if flower.is_daisy else 0.15
        seeds = bank.sample("rough", dx * 0.35 + flower.tone, dy * 0.35)
        inside = smooth(size + soft * 2.0, size - soft * 2.0, distance)
        dome = np.sqrt(np.clip(1.0 - (distance / size) ** 2, 0.0, 1.0))
        heart = mix(palette.spark * 0.45, palette.lamp, (0.25 + 0.60 * seeds) * (0.35 + 0.65 * dome))
        ring = np.exp(-(((distance - size) / 0.05) ** 2)) * 0.4
        return mix(light * (1.0 - ring), heart * (0.55 + 0.55 * dome), inside)
