"""Mountains: ranges behind one another in thickening air, forest in front, sometimes a lake."""

from __future__ import annotations

import numpy as np

from ..light import Array, mix, pick, smooth
from ..noise import NoiseBank
from ..setting import Band, Setting
from ..skies import Sky
from .plants import conifers

# Heights of the ranges from far to near.
HEIGHTS = (0.30, 0.42, 0.36, 0.25, 0.16, 0.13, 0.10)
LAKE_HEIGHTS = (0.34, 0.44, 0.30, 0.12, 0.05)


class Peaks:
    """Five to seven ranges; the tall ones have faces of rock with light and snow on them."""

    def __init__(self, setting: Setting) -> None:
        plan = setting.plan
        self._setting = setting
        self._has_lake = "lake" not in plan.avoided and (plan.has("lake") or setting.chance(0.3))
        self._water = setting.between(0.70, 0.76) if self._has_lake else 9.0
        horizon = self._water - 0.03 if self._has_lake else setting.between(0.62, 0.72)
        self._sky = Sky(setting, horizon)
        self.light_side = float(np.sign(self._sky.sun_x))
        self.floor = 0.93
        self._mist = 1.0 if plan.has("mist") else 0.0 if "mist" in plan.avoided else 0.62
        self._snow = 0.9 if plan.has("snow") or plan.palette.name == "ice" else 0.30
        if "snow" in plan.avoided:
            self._snow = 0.0
        heights = LAKE_HEIGHTS if self._has_lake else HEIGHTS
        count = len(heights)
        self._ranges = []
        for number, tall in enumerate(heights):
            near = number / (count - 1)
            foot = horizon + (0.03 if self._has_lake else 0.32) * near**1.8
            self._ranges.append(
                _Range(
                    near=near,
                    foot=foot,
                    height=tall * setting.between(0.85, 1.15),
                    stretch=setting.between(0.075, 0.10) * (1.0 + 0.55 * near),
                    row=setting.between(0.0, 1.0),
                    start=setting.between(0.0, 1.0),
                    tree_size=(0.040, 0.115)[number - count + 2] * (0.45 if self._has_lake else 1.0)
                    if number >= count - 2
                    else 0.0,
                )
            )

    def shade(self, band: Band) -> Array:
        y = band.y
        under = y > self._water
        if self._has_lake and bool(under.any()):
            y = self._mirrored(band)
        crests = [layer.crest(self._setting.bank, band.x) for layer in self._ranges]
        top, bottom = float(y.min()), float(y.max())
        # A range that covers the whole band hides the sky and every range behind it.
        hiding = [number for number, crest in enumerate(crests) if float(crest.max()) < top - 0.004]
        first = max(hiding, default=0)
        light = np.zeros((3, *np.broadcast_shapes(band.x.shape, y.shape)), dtype=np.float32)
        if not hiding:
            light = self._sky.shade(band, y)
        for layer, crest in list(zip(self._ranges, crests, strict=True))[first:]:
            if float(crest.min()) - layer.tree_size * 1.1 < bottom:
                light = self._with_range(light, layer, band, y, crest)
        if self._has_lake and bool(under.any()):
            light = self._with_water(light, band)
        return light

    def _mirrored(self, band: Band) -> Array:
        bank, (ox, oy) = self._setting.bank, self._setting.offset
        below = np.maximum(band.y - self._water, 0.0)
        reach = 1.0 / (below + 0.05)
        swell = bank.sample("smooth", band.x * reach * 0.02 + ox, reach * 0.35 + oy) - 0.5
        ripple = swell * (0.02 + 0.22 * below)
        return np.where(band.y > self._water, self._water - below * 1.15 + ripple, band.y)

    def _with_water(self, light: Array, band: Band) -> Array:
        palette, bank, (ox, oy) = self._setting.palette, self._setting.bank, self._setting.offset
        below = band.y - self._water
        wet = smooth(-0.5 * band.pixel, 0.5 * band.pixel, below)
        deep = mix(palette.near, pick(palette.sky_ramp, np.zeros((1, 1), np.float32)), 0.35)
        seen = mix(light, deep, np.clip(0.16 + below * 1.5, 0.0, 0.72))
        reach = 1.0 / (np.maximum(below, 0.0) + 0.03)
        glint = bank.sample("rough", band.x * reach * 0.010 + ox, reach * 0.11 + oy)
        path = np.exp(-((band.x - self._sky.sun_x) ** 2) * 18.0)
        seen = seen + palette.lamp * (smooth(0.80, 0.99, glint) * path * np.float32(0.55))
        shore = np.exp(-np.abs(below) * 190.0) * 0.35
        return mix(light, mix(seen, palette.haze, shore), wet)

    def _with_range(self, light: Array, layer: _Range, band: Band, y: Array, crest: Array) -> Array:
        setting = self._setting
        palette, bank = setting.palette, setting.bank
        body = smooth(-0.8 * band.pixel, 0.8 * band.pixel, y - crest)
        if layer.tree_size > 0.0:
            wood = conifers(bank, band, y, crest, int(layer.row * 1000), cell=layer.tree_size)
            body = np.maximum(body, wood)
        depth = np.clip(y - crest, 0.0, 2.0)
        air = pick(palette.ground_ramp, np.full((1, 1), 0.26 + 0.74 * layer.near**1.1, np.float32))
        fill = air * np.ones_like(depth)
        if layer.near < 0.72:
            fill = self._faces(fill, layer, band, y, crest, depth)
        ox, oy = setting.offset
        banks = bank.sample("cloud", band.x * 0.10 + ox + layer.row, y * 0.20 + oy)
        rise = smooth(0.02, 0.30 - 0.14 * layer.near, depth + (banks - 0.5) * 0.16)
        fog = rise * (self._mist * (0.9 - 0.62 * layer.near) + 0.10 * (1.0 - layer.near))
        fill = mix(fill, mix(palette.haze, palette.lamp, 0.25), fog)
        return mix(light, fill, body)

    def _faces(self, fill: Array, layer: _Range, band: Band, y: Array, crest: Array, depth: Array) -> Array:
        palette, bank, (ox, oy) = self._setting.palette, self._setting.bank, self._setting.offset
        scale = layer.stretch * 1.4
        u, v = band.x * scale + ox + layer.start, depth * scale * 0.8 + oy + layer.row
        bend = bank.sample("smooth", u, v) - 0.5
        u, v = u + bend * 0.03, v + bend * 0.02
        fold, across, down = bank.slope("smooth", u * 1.1, v * 0.8)
        fine, rocky, cragged = bank.slope("cloud", u * 1.9, v * 1.9)
        _, gully, _ = bank.slope("smooth", u * 3.1, v * 1.3)
        tilt = -self.light_side * (across + 0.75 * gully + 0.34 * rocky) - 0.25 * (down + cragged)
        lit = smooth(-1.15, 1.25, tilt + band.sway[0] * 0.12)
        clear = np.float32(0.40 + 0.60 * layer.near)
        shade = mix(fill, pick(palette.sky_ramp, np.full((1, 1), 0.1, np.float32)), 0.22)
        lit_side = fill * 1.06 + palette.lamp * np.float32(0.15 - 0.08 * layer.near)
        fill = mix(fill, mix(shade * (1.0 - 0.42 * clear), lit_side, lit), 0.92)
        if self._snow > 0.0 and layer.height > 0.2:
            line = self._snow * layer.height * 0.60
            held = depth + (fine - 0.5) * 0.11 + (fold - 0.5) * 0.13 - 0.04 * lit
            held = smooth(line + 0.022, line - 0.022, held)
            cold = mix(shade, palette.haze, 0.55) * 0.78
            white = mix(cold, mix(palette.haze, palette.lamp, 0.7) * 0.98, smooth(0.25, 0.75, lit))
            fill = mix(fill, white, held * (0.30 + 0.60 * clear))
        return fill


class _Range:
    def __init__(
        self,
        *,
        near: float,
        foot: float,
        height: float,
        stretch: float,
        row: float,
        start: float,
        tree_size: float,
    ) -> None:
        self.near, self.foot, self.height, self.stretch = near, foot, height, stretch
        self.row, self.start, self.tree_size = row, start, tree_size

    def crest(self, bank: NoiseBank, x: Array) -> Array:
        """Height of the range's edge over each column, (1, columns)."""
        row = np.full((1, 1), self.row, np.float32)
        u = x * np.float32(self.stretch) + np.float32(self.start)
        broad = bank.sample("smooth", u, row)
        total, gain, rough = broad * 0.62, 0.40, 1.0
        for octave in range(1, 7):
            scale = np.float32(1.83**octave * 0.9)
            fold = bank.sample("smooth", u * scale, row + np.float32(0.173 * octave))
            ridge = 1.0 - np.abs(2.0 * fold - 1.0)
            total = total + gain * (ridge * rough - 0.3)
            rough, gain = 0.45 + 0.55 * np.clip(total, 0.0, 1.0), gain * 0.52
        return self.foot - self.height * total
