"""The sea: waves in perspective under a sky, a path of light, far headlands, sometimes a beach."""

from __future__ import annotations

import numpy as np

from ..light import Array, colour, mix, pick, smooth
from ..setting import Band, Setting
from ..skies import Sky


class Ocean:
    """Open water to the horizon; its waves mirror the sky and break near the viewer."""

    def __init__(self, setting: Setting) -> None:
        plan = setting.plan
        self._setting = setting
        self._horizon = setting.between(0.47, 0.58)
        self._sky = Sky(setting, self._horizon, sun_height=setting.between(0.62, 0.93))
        self.light_side = float(np.sign(self._sky.sun_x))
        self._has_beach = bool({"beach", "coast", "shore", "island", "sand"} & plan.words)
        self._has_beach = self._has_beach and "beach" not in plan.avoided
        self._shore = setting.between(0.80, 0.85)
        self.floor = 0.93 if self._has_beach else self._horizon + 0.20
        self._has_land = not plan.figures and setting.chance(0.6)
        self._land_row = setting.between(0.0, 1.0)
        self._chop = 1.5 if {"storm", "stormy", "wave", "tempest"} & plan.words else 1.0

    def shade(self, band: Band) -> Array:
        below = band.y - self._horizon
        if float(below.min()) > 2.0 * band.pixel:
            water = self._water(band, below)
            return self._with_beach(water, band) if self._has_beach else water
        light = self._sky.shade(band)
        if self._has_land:
            light = self._with_headlands(light, band)
        if float(below.max()) > 0.0:
            wet = smooth(-0.7 * band.pixel, 0.7 * band.pixel, below)
            light = mix(light, self._water(band, np.maximum(below, 0.0)), wet)
            if self._has_beach:
                light = self._with_beach(light, band)
        return light

    def _with_headlands(self, light: Array, band: Band) -> Array:
        bank, palette = self._setting.bank, self._setting.palette
        row = np.full((1, 1), self._land_row, np.float32)
        for number, (reach, place) in enumerate(((0.055, 0.45), (0.085, 0.75))):
            u = band.x * np.float32(0.05) + row + np.float32(0.4 * number)
            bulk = bank.sample("smooth", u, row) - 0.45 + 0.12 * bank.sample("cloud", u * 3.0, row)
            side = np.clip(-self.light_side * band.x * 1.5 + 0.35, 0.0, 1.0)
            crest = self._horizon - reach * np.clip(bulk, 0.0, 1.0) * side
            edge = smooth(-0.7 * band.pixel, 0.7 * band.pixel, band.y - crest)
            tone = pick(palette.ground_ramp, np.full((1, 1), place, np.float32))
            light = mix(light, mix(tone, palette.haze, 0.15), edge)
        return light

    def _water(self, band: Band, below: Array) -> Array:
        bank, palette, (ox, oy) = self._setting.bank, self._setting.palette, self._setting.offset
        reach = 1.0 / (below + np.float32(0.045))
        calm = smooth(0.0, 0.16, below)
        u, v = band.x * reach, reach * 1.9
        swell, tilt_x, tilt_y = bank.slope("smooth", u * 0.016 + ox, v * 0.030 + oy)
        bend = (swell - 0.5) * 0.01
        chop, chop_x, chop_y = bank.slope("smooth", u * 0.055 + bend + oy, v * 0.085 + ox)
        fine, _, fine_y = bank.slope("cloud", u * 0.07 + ox, v * 0.16 + bend + oy)
        rough = np.float32(self._chop)
        slope = (0.55 * tilt_y + 0.42 * chop_y + 0.24 * fine_y) * (0.25 + 0.75 * calm) * rough
        sway = (tilt_x + chop_x) * 0.02 * calm
        # A slope towards the viewer mirrors the sky overhead, one away mirrors the horizon.
        mirrored = 1.0 - np.clip(below * 1.25 + 0.10 + slope * 0.17, 0.0, 1.0)
        sky = pick(palette.sky_ramp, mirrored)
        deep = mix(palette.near, pick(palette.sky_ramp, np.full((1, 1), 0.1, np.float32)), 0.30)
        depth = np.clip(0.12 + below * 1.35 + slope * 0.16, 0.0, 0.88)
        water = mix(sky, deep, depth)
        crest = np.clip(swell * 0.55 + chop * 0.45 - 0.48, 0.0, 1.0) * calm
        inner = mix(pick(palette.full_ramp, np.full((1, 1), 0.62, np.float32)), palette.lamp, 0.2)
        water = water + inner * (crest * (0.28 if palette.is_night else 0.55))
        away = band.x - self._sky.sun_x + sway + 0.004 * band.sway[0]
        path = np.exp(-((away / (0.035 + 0.30 * below)) ** 2))
        fine = 0.5 * fine + 0.5 * bank.sample("rough", u * 0.11 + ox, v * 0.30 + oy)
        sparkle = smooth(0.56, 0.98, 0.55 * fine + 0.45 * np.clip(0.5 + slope * 0.35, 0.0, 1.0))
        gleam = path * (0.22 + 1.6 * sparkle) * np.exp(-below * 2.2)
        water = water + palette.lamp * (gleam * np.float32(0.62 if palette.is_night else 0.9))
        lace = bank.sample("rough", u * 0.16 + oy, v * 0.34 + ox)
        foam = smooth(0.80, 0.97, 0.45 * swell + 0.55 * chop) * smooth(0.45, 0.85, lace)
        foam = foam * calm * rough * (0.42 - 0.25 * smooth(0.2, 0.5, below))
        water = mix(water, mix(palette.haze, palette.lamp, 0.6), np.clip(foam, 0.0, 0.9))
        haze = np.exp(-below * 34.0) * 0.55
        return mix(water, palette.haze, haze)

    def _with_beach(self, light: Array, band: Band) -> Array:
        bank, palette, (ox, oy) = self._setting.bank, self._setting.palette, self._setting.offset
        x, y = band.x, band.y
        lap = bank.sample("smooth", x * 0.07 + ox, np.full((1, 1), oy, np.float32))
        edge = self._shore + (lap - 0.5) * 0.07 + 0.05 * x * self.light_side
        inside = y - edge
        lace = bank.sample("cloud", x * 0.35 + oy, y * 0.9 + ox)
        grit = bank.sample("rough", x * 0.8 + ox, y * 1.1 + oy)
        dry = mix(palette.lamp, colour("#c79a63"), 0.62) * (0.62 + 0.22 * grit)
        if palette.is_night:
            dry = mix(dry, palette.near, 0.72)
        wet = mix(dry * 0.42, palette.haze, 0.35)
        sand = mix(wet, dry, smooth(0.015, 0.10, inside + (lace - 0.5) * 0.03))
        light = mix(light, sand, smooth(-0.006, 0.006, inside + (lace - 0.5) * 0.02))
        band_of_foam = np.exp(-(((inside + (lace - 0.5) * 0.035) / 0.011) ** 2))
        second = np.exp(-(((inside + 0.055 + (lace - 0.5) * 0.05) / 0.008) ** 2)) * 0.6
        foam = np.clip((band_of_foam + second) * (0.55 + 0.7 * lace), 0.0, 1.0)
        return mix(light, mix(palette.lamp, palette.haze, 0.35), foam * 0.9)
