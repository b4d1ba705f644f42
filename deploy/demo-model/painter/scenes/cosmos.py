"""Deep space: nebulae of warped gas and dust, spiral galaxies, planets, bright stars."""

from __future__ import annotations

import numpy as np

from ..light import Array, colour, falloff, mix, pick, smooth
from ..setting import Band, Setting
from ..skies import planet, star_field


class Cosmos:
    """Gas that glows in the colours of the palette's ramp, in front of a field of stars."""

    floor = 0.86

    def __init__(self, setting: Setting) -> None:
        plan = setting.plan
        self._setting = setting
        self.light_side = -1.0 if setting.chance(0.5) else 1.0
        self._turn = setting.between(0.0, 2.0 * np.pi)
        self._scale = setting.between(0.24, 0.34)
        wide = min(setting.aspect, 1.6) * 0.5
        self._heart = (setting.between(-0.4, 0.4) * wide, setting.between(0.36, 0.62))
        self._is_spiral = plan.has("spiral") and "spiral" not in plan.avoided
        self._arms = 2 if setting.chance(0.7) else 3
        self._bright = [
            (
                setting.between(-1.0, 1.0) * wide,
                setting.between(0.03, 0.97),
                setting.between(0.25, 1.0) ** 2,
            )
            for _ in range(11)
        ]
        self._planet = None
        if plan.has("planet"):
            side = -1.0 if self._heart[0] > 0 else 1.0
            self._planet = (
                (side * wide * setting.between(0.35, 0.6), setting.between(0.4, 0.72)),
                setting.between(0.15, 0.23),
                setting.between(-0.6, 0.6) if plan.has("rings") or setting.chance(0.5) else None,
            )

    def shade(self, band: Band) -> Array:
        light = self._spiral(band) if self._is_spiral else self._nebula(band)
        light = light + self._stars(band)
        if self._planet is not None:
            centre, radius, tilt = self._planet
            light = planet(light, self._setting, band, band.y, centre=centre, radius=radius, tilt=tilt, haze=0.0)
        return light

    def _nebula(self, band: Band) -> Array:
        bank, palette, (ox, oy) = self._setting.bank, self._setting.palette, self._setting.offset
        cos, sin = np.float32(np.cos(self._turn)), np.float32(np.sin(self._turn))
        x, y = band.x - self._heart[0], band.y - self._heart[1]
        u, v = (x * cos + y * sin) * self._scale, (y * cos - x * sin) * self._scale * 1.35
        bend_u = bank.sample("smooth", u * 0.6 + ox, v * 0.6 + oy) - 0.5
        bend_v = bank.sample("smooth", u * 0.6 + oy + 0.37, v * 0.6 + ox) - 0.5
        u, v = u + bend_u * 0.07, v + bend_v * 0.07
        curl = bank.sample("cloud", u * 1.3 + oy, v * 1.3 + ox) - 0.5
        u, v = u + curl * 0.030 + 0.0012 * band.sway[0], v - curl * 0.024
        gas = bank.sample("cloud", u + ox, v + oy)
        second = bank.sample("cloud", u * 1.25 + ox + 0.53, v * 1.25 + oy + 0.21)
        fold = 1.0 - np.abs(2.0 * bank.sample("cloud", u * 1.2 + oy, v * 1.2 + ox) - 1.0)
        dust = bank.sample("cloud", u * 1.9 + ox + 0.71, v * 1.9 + oy + 0.33)
        fine = bank.sample("rough", u * 1.4 + oy, v * 1.4 + ox)
        heart = falloff(x * x + y * y * 1.3, 0.40)
        strands = fold**4
        body = np.clip(gas * 1.35 - 0.34, 0.0, 1.0) * (0.22 + 0.95 * heart)
        glow = body * (0.62 + 0.30 * strands + 0.22 * fine)
        light = pick(palette.full_ramp, np.clip(glow * 1.15, 0.0, 1.0)) * (0.06 + 1.25 * glow)
        tint = np.clip(second * 1.5 - 0.66, 0.0, 1.0) ** 1.5 * (0.16 + 0.84 * heart)
        light = light + palette.spark * (tint * (0.36 + 0.3 * strands + 0.25 * fine))
        light = light + palette.lamp * (heart**4 * (0.20 + 0.55 * gas))
        lanes = smooth(0.50, 0.86, dust) * (0.30 + 0.70 * smooth(0.10, 0.55, glow))
        rim = np.exp(-(((dust - 0.56) / 0.05) ** 2)) * heart
        light = light * (1.0 - 0.86 * lanes) + palette.lamp * (rim * glow * 0.30)
        return light + pick(palette.full_ramp, 0.04 + 0.10 * second) * 0.55

    def _spiral(self, band: Band) -> Array:
        bank, palette, (ox, oy) = self._setting.bank, self._setting.palette, self._setting.offset
        x, y = band.x - self._heart[0] * 0.4, band.y - 0.5
        lean, squeeze = self._turn * 0.25 - 0.8, 2.0
        u = x * np.float32(np.cos(lean)) + y * np.float32(np.sin(lean))
        v = (y * np.float32(np.cos(lean)) - x * np.float32(np.sin(lean))) * np.float32(squeeze)
        radius = np.sqrt(u * u + v * v) + np.float32(0.004)
        wisp = bank.sample("cloud", u * 0.4 + ox, v * 0.4 + oy)
        knots = bank.sample("rough", u * 0.5 + oy, v * 0.5 + ox)
        angle = np.arctan2(v, u) - np.log(radius) * 2.7 + self._turn + (wisp - 0.5) * 1.5
        arm = (0.5 + 0.5 * np.cos(angle * self._arms)) ** 2
        lane = (0.5 + 0.5 * np.cos(angle * self._arms - 1.15)) ** 6
        disc = np.exp(-radius * 3.9) * (0.35 + 0.65 * smooth(0.0, 0.09, radius))
        core = falloff(u * u * 1.2 + v * v * 0.45, 0.075)
        glow = disc * (0.14 + 1.5 * arm * (0.25 + 0.75 * wisp))
        light = pick(palette.full_ramp, np.clip(0.12 + glow * 1.2, 0.0, 0.95)) * (glow * 2.1)
        young = smooth(0.72, 0.97, knots) * arm * disc
        light = light + palette.spark * (young * 1.6) + palette.lamp * (core * 1.25)
        light = light * (1.0 - 0.62 * lane * smooth(0.02, 0.12, radius) * (0.4 + 0.6 * wisp))
        back = bank.sample("cloud", band.x * 0.2 + oy, band.y * 0.2 + ox)
        return light + pick(palette.full_ramp, back * 0.12) * 0.6

    def _stars(self, band: Band) -> Array:
        bank, palette = self._setting.bank, self._setting.palette
        cold, warm = colour("#dfe9ff"), mix(palette.lamp, palette.spark, 0.25)
        light = cold * (star_field(bank, band, band.x, band.y, 0.019, 5) * 0.5)
        light = light + warm * (star_field(bank, band, band.x, band.y, 0.043, 17) * 1.7)
        shape = (band.y.shape[0], band.x.shape[1])
        shine = np.zeros(shape, dtype=np.float32)
        for x, y, size in self._bright:
            dx, dy = np.abs(band.x - np.float32(x)), np.abs(band.y - np.float32(y))
            small = max(0.0035 * (0.5 + size), band.pixel * 0.9)
            reach = np.float32(0.010 + 0.045 * size)
            thin = np.float32(max(0.0011, band.pixel * 0.6))
            # Products of a row and a column: round cores and crossed spikes cost almost nothing.
            shine += falloff(dx * dx, small) * falloff(dy * dy, small) * np.float32(1.6)
            shine += falloff(dx * dx, 5 * small) * falloff(dy * dy, 5 * small) * np.float32(0.16)
            shine += np.exp(-dx / reach) * falloff(dy * dy, thin) * np.float32(0.75 * size)
            shine += np.exp(-dy / reach) * falloff(dx * dx, thin) * np.float32(0.75 * size)
        return light + mix(cold, palette.lamp, 0.3) * shine
