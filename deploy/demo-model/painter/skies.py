"""Skies: gradient, sun or moon, clouds, stars, aurora, a planet."""

from __future__ import annotations

import numpy as np

from .light import Array, colour, falloff, mix, pick, smooth
from .noise import NoiseBank
from .setting import Band, Setting


class Sky:
    """The sky above ``horizon`` (0 top, 1 bottom), as seen from the ground.

    Which of clouds, stars, aurora and planet appear follows from the plan and the palette.
    """

    def __init__(self, setting: Setting, horizon: float, sun_height: float | None = None) -> None:
        plan, palette = setting.plan, setting.palette
        self._setting, self._horizon = setting, horizon
        third = min(setting.aspect, 1.6) * setting.between(0.12, 0.3)
        self.sun_x = third if setting.chance(0.5) else -third
        low = setting.between(0.45, 0.86) if not palette.is_night else setting.between(0.22, 0.5)
        self.sun_y = horizon * (low if sun_height is None else sun_height)
        self._sun_radius = setting.between(0.028, 0.05)
        self._strength = 0.55 if palette.is_night else 1.0
        calm = {"cloud", "cloudy"} & plan.avoided
        self._cover = 0.0 if calm else 0.62 if plan.has("clouds") else setting.between(0.25, 0.52)
        self._stars = palette.is_night or plan.has("stars") or palette.name == "violet hour"
        self._stars = self._stars and "star" not in plan.avoided
        self._aurora = plan.has("aurora") or (palette.name == "boreal" and "aurora" not in plan.avoided)
        if self._aurora:
            self._cover *= 0.3
        self._planet = _Planet(setting, horizon, -self.sun_x) if plan.has("planet") else None
        self._sun_shown = "sun" not in plan.avoided and not (self._planet and palette.is_night)

    def shade(self, band: Band, y: Array | None = None) -> Array:
        """Light of the sky at the band's columns and the heights ``y`` (the band's own if None)."""
        bank, palette = self._setting.bank, self._setting.palette
        x, y = band.x, band.y if y is None else y
        ox, oy = self._setting.offset
        depth = np.clip(y / np.float32(self._horizon), 0.0, 1.0)
        sway_x, sway_y = band.sway
        dx, dy = x - (self.sun_x + 0.004 * sway_x), y - (self.sun_y + 0.004 * sway_y)
        distance = dx * dx + dy * dy
        drift = bank.sample("smooth", x * 0.03 + ox, y * 0.08 + oy) - 0.5
        light = pick(palette.sky_ramp, depth + drift * 0.10 * (1.0 - depth * depth))
        if self._stars:
            light = light + self._starlight(band, y, depth)
        if self._aurora:
            light = light + self._curtains(x, y, ox, oy)
        glow = falloff(distance, 0.42) * 0.28 + falloff(distance, 0.13) * 0.45
        light = light + palette.lamp * glow * (self._strength * (0.4 + 0.6 * depth))
        if self._planet is not None:
            light = self._planet.over(light, band, y)
        if self._sun_shown:
            radius = self._sun_radius
            edge = max(2.2 * band.pixel, 0.0025)
            disc = smooth(radius + edge, radius - edge, np.sqrt(distance))
            light = mix(light, palette.lamp * np.float32(1.5 * self._strength + 0.4), disc * 0.94)
        if self._cover > 0.03:
            light = self._clouded(light, x, y, distance, ox, oy)
        return light

    def _clouded(self, light: Array, x: Array, y: Array, distance: Array, ox: float, oy: float) -> Array:
        bank, palette = self._setting.bank, self._setting.palette
        # A deck seen from below: far clouds are small and close together.
        reach = 1.0 / (np.maximum(self._horizon - y, 0.0) + np.float32(0.16))
        u, v = x * reach * 0.055 + ox, reach * 0.085 + oy
        bulk = bank.sample("cloud", u, v)
        toward = bank.sample("cloud", u + np.float32(0.012 * np.sign(self.sun_x) or 0.01), v + 0.012)
        threshold = 1.0 - self._cover
        thickness = smooth(threshold - 0.05, threshold + 0.34, bulk)
        lit = np.clip((bulk - toward) * 3.2 + 0.5, 0.0, 1.0)
        rim = falloff(distance, 0.5)
        shadow = mix(palette.haze, pick(palette.sky_ramp, np.full((1, 1), 0.22, np.float32)), 0.6)
        bright = mix(palette.haze, palette.lamp, 0.55) * (0.8 + 0.7 * rim * self._strength)
        body = mix(shadow, bright, lit * (0.35 + 0.65 * np.clip(rim * 1.6, 0.0, 1.0)))
        if palette.is_night:
            body = body * np.float32(0.55)
        fade = smooth(0.0, 0.10, self._horizon - y)
        return mix(light, body, thickness * fade * np.float32(0.82))

    def _starlight(self, band: Band, y: Array, depth: Array) -> Array:
        bank = self._setting.bank
        total = np.zeros(np.broadcast_shapes(band.x.shape, y.shape), dtype=np.float32)
        for cell, brightness, salt in ((0.021, 0.75, 11), (0.055, 1.9, 29)):
            total += star_field(bank, band, band.x, y, cell, salt) * np.float32(brightness)
        strength = 1.0 if self._setting.palette.is_night else 0.7
        return colour("#e8f0ff") * total * (strength * smooth(0.95, 0.25, depth))

    def _curtains(self, x: Array, y: Array, ox: float, oy: float) -> Array:
        bank, palette = self._setting.bank, self._setting.palette
        total = np.zeros((3, 1, 1), dtype=np.float32)
        for fold in range(3):
            shift = np.float32(0.31 * fold)
            wave = bank.sample("smooth", x * 0.045 + ox + shift, y * 0.02 + oy + shift)
            foot = np.float32(self._horizon * (0.52 + 0.13 * fold)) + (wave - 0.5) * 0.34
            above = foot - y
            pleats = bank.sample("rough", x * 0.10 + wave * 0.12 + ox, y * 0.012 + oy + shift)
            broad = bank.sample("smooth", x * 0.035 + ox - shift, y * 0.01 + oy)
            height = 0.05 + 0.20 * pleats + 0.12 * broad
            beam = smooth(-0.012, 0.03, above) * np.exp(-np.clip(above, 0.0, 3.0) / height)
            beam = beam * (0.25 + 0.95 * pleats) * smooth(0.1, 0.75, broad)
            tint = mix(colour("#3dff9e"), palette.spark, smooth(0.03, 0.34, above))
            total = total + tint * beam * np.float32(0.55 - 0.10 * fold)
        return total


class _Planet:
    def __init__(self, setting: Setting, horizon: float, x: float) -> None:
        self._setting = setting
        self._x = x * setting.between(0.7, 1.1)
        self._y = horizon * setting.between(0.3, 0.45)
        self._radius = setting.between(0.13, 0.19)
        self._has_rings = setting.plan.has("rings") or setting.chance(0.45)
        self._tilt = setting.between(-0.5, 0.5)

    def over(self, light: Array, band: Band, y: Array) -> Array:
        return planet(
            light,
            self._setting,
            band,
            y,
            centre=(self._x, self._y),
            radius=self._radius,
            tilt=self._tilt if self._has_rings else None,
            haze=0.35,
        )


def star_field(bank: NoiseBank, band: Band, x: Array, y: Array, cell: float, salt: int) -> Array:
    """Brightness of a sparse field of round stars, at most one a cell."""
    u, v = x / np.float32(cell), y / np.float32(cell)
    column, row = np.floor(u), np.floor(v)
    one, two, size, glow = bank.dots(column, row, salt)
    radius = np.maximum(np.float32(band.pixel * 0.75), np.float32(0.0011)) / np.float32(cell)
    du, dv = u - column - (0.25 + 0.5 * one), v - row - (0.25 + 0.5 * two)
    distance = (du * du + dv * dv) / (radius * radius)
    shown = np.clip((size - 0.35) * 1.6, 0.0, 1.0)
    return np.exp(-distance) * (0.12 + 0.88 * glow**4) * shown


def planet(
    light: Array,
    setting: Setting,
    band: Band,
    y: Array,
    *,
    centre: tuple[float, float],
    radius: float,
    tilt: float | None,
    haze: float,
) -> Array:
    """``light`` with a banded planet over it, lit from the upper side; rings if tilted."""
    bank, palette = setting.bank, setting.palette
    ox, oy = setting.offset
    u, v = (band.x - centre[0]) / np.float32(radius), (y - centre[1]) / np.float32(radius)
    edge = 1.6 * band.pixel / radius
    distance = u * u + v * v
    depth = np.sqrt(np.clip(1.0 - distance, 0.0, 1.0))
    side = -1.0 if centre[0] > 0 else 1.0
    lit = np.clip(0.75 * u * side - 0.45 * v + 0.5 * depth, 0.0, 1.0)
    lean = tilt if tilt is not None else 0.25
    along, across = u * np.cos(lean) + v * np.sin(lean), v * np.cos(lean) - u * np.sin(lean)
    wisps = bank.sample("cloud", along * 0.05 + ox, across * 0.22 + oy) - 0.5
    bands = bank.sample("smooth", np.full((1, 1), oy, np.float32), across * 0.10 + ox + wisps * 0.03)
    surface = pick(palette.full_ramp, 0.30 + 0.55 * bands) * (0.03 + 1.15 * lit)
    rim = np.clip(1.0 - depth, 0.0, 1.0) ** 2 * lit
    surface = surface + palette.lamp * (rim * np.float32(0.7))
    disc = smooth(1.0 + edge, 1.0 - edge, np.sqrt(distance))
    halo = np.exp(-np.clip(np.sqrt(distance) - 1.0, 0.0, 9.0) * 7.0) * (1.0 - disc)
    result = light + palette.lamp * (halo * (0.22 * np.clip(0.4 + u * side * 0.7, 0.0, 1.0)))
    result = mix(result, surface + palette.haze * np.float32(0.06 * haze), disc)
    if tilt is not None:
        flat = across / np.float32(0.26)
        orbit = np.sqrt(along * along + flat * flat)
        grooves = bank.sample("cloud", orbit * 0.35 + ox, np.full((1, 1), oy, np.float32))
        body = smooth(1.28, 1.36, orbit) * smooth(2.15, 2.05, orbit) * (0.35 + 0.6 * grooves)
        hidden = disc * (across < 0)
        ring = body * (1.0 - hidden)
        shade = mix(palette.lamp, palette.spark, 0.35) * np.float32(0.75)
        result = mix(result, shade, ring * np.float32(0.85))
    return result
