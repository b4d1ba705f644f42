"""A wood in mist: trees behind trees, light falling between them, grass at the viewer's feet."""

from __future__ import annotations

import numpy as np

from ..light import Array, falloff, mix, pick, smooth
from ..setting import Band, Setting
from ..skies import Sky
from .plants import blades, conifers, trunks

# From far to near: size of the trees, height of the ground, place in the ground's colours, mist.
LAYERS = (
    (0.20, 0.62, 0.20, 0.95),
    (0.32, 0.67, 0.42, 0.70),
    (0.55, 0.75, 0.70, 0.42),
    (0.95, 0.87, 0.96, 0.10),
)


class Forest:
    """Four layers of trees that darken towards the viewer, with a clearing of light behind them."""

    floor = 0.90

    def __init__(self, setting: Setting) -> None:
        plan = setting.plan
        self._setting = setting
        self._sky = Sky(setting, 0.66, sun_height=setting.between(0.45, 0.70))
        self.light_side = float(np.sign(self._sky.sun_x))
        self._glade = self._sky.sun_x * 0.55
        self._salt = int(setting.rng.integers(1, 1 << 20))
        self._mist = 0.25 if "mist" in plan.avoided or "fog" in plan.avoided else 0.75
        self._has_rays = plan.has("rays") or (not plan.palette.is_night and setting.chance(0.7))
        self._rows = [setting.between(0.0, 1.0) for _ in LAYERS]
        self._has_trunks = setting.chance(0.4) or bool({"path", "redwood"} & plan.words)

    def shade(self, band: Band) -> Array:
        palette = self._setting.palette
        light = self._sky.shade(band)
        glade = falloff((band.x - self._glade) ** 2 * 0.7 + (band.y - 0.5) ** 2, 0.34)
        light = mix(light, mix(palette.haze, palette.lamp, 0.5), glade * 0.65 * self._mist)
        for number, (size, ground, place, mist) in enumerate(LAYERS):
            light = self._with_layer(light, band, number, size, ground, place, mist)
            if number == 2 and self._has_rays:
                light = light + self._rays(band)
        return self._with_undergrowth(light, band)

    def _with_layer(
        self,
        light: Array,
        band: Band,
        number: int,
        size: float,
        ground: float,
        place: float,
        mist: float,
    ) -> Array:
        palette, bank, (ox, oy) = self._setting.palette, self._setting.bank, self._setting.offset
        row = np.full((1, 1), self._rows[number], np.float32)
        swell = bank.sample("smooth", band.x * 0.05 + row, row)
        crest = ground - 0.07 * swell - 0.05 * (band.x - self._glade) ** 2

        # Nearer trees stand aside and let the light through.
        def height(x: Array) -> Array:
            aside = smooth(0.05, 0.34, np.abs(x - np.float32(self._glade)))
            return np.float32(size) * (0.24 + 0.76 * aside)

        body = conifers(
            bank,
            band,
            band.y,
            crest,
            self._salt + 10 * number,
            cell=size,
            size=height if number >= 2 else None,
            tiers=8.0 + 3.0 * number,
        )
        if number == 3 and self._has_trunks:
            clear = np.abs(band.x - self._glade) > 0.22
            body = np.maximum(body, trunks(bank, band, self._salt + 77) * clear)
        body = np.maximum(body, smooth(-0.8 * band.pixel, 0.8 * band.pixel, band.y - crest))
        tone = pick(palette.ground_ramp, np.full((1, 1), place, np.float32))
        leaf = bank.sample("rough", band.x * (0.9 - 0.4 * place) + row, band.y * 0.9 + ox)
        tone = tone * (0.72 + 0.56 * leaf * leaf)
        glow = falloff((band.x - self._glade) ** 2 + (band.y - 0.45) ** 2, 0.40)
        tone = tone + palette.lamp * (glow * leaf * np.float32(0.15 * (1.0 - 0.75 * place)))
        bankfog = bank.sample("cloud", band.x * 0.09 + ox + row, band.y * 0.22 + oy)
        low = smooth(crest - 0.40 * size, crest + 0.06, band.y + (bankfog - 0.5) * 0.20)
        fog = low * np.float32(self._mist * mist * 1.25) * (0.45 + 0.55 * glow)
        tone = mix(tone, mix(palette.haze, palette.lamp, 0.35), np.clip(fog, 0.0, 0.9))
        return mix(light, tone, body)

    def _rays(self, band: Band) -> Array:
        palette, bank, (ox, _) = self._setting.palette, self._setting.bank, self._setting.offset
        sun_x, sun_y = self._sky.sun_x + 0.01 * band.sway[0], -0.12
        dx, dy = band.x - np.float32(sun_x), band.y - np.float32(sun_y)
        angle = dx / dy
        beam = bank.sample("smooth", angle * 0.17 + ox, np.full((1, 1), 0.37, np.float32))
        fine = bank.sample("smooth", angle * 0.45 + ox, np.full((1, 1), 0.61, np.float32))
        beam = smooth(0.46, 0.92, 0.66 * beam + 0.34 * fine)
        reach = smooth(0.02, 0.35, band.y) * smooth(1.02, 0.55, band.y)
        spread = np.exp(-((angle / 0.75) ** 2))
        return mix(palette.lamp, palette.haze, 0.3) * (beam * reach * spread * np.float32(0.34))

    def _with_undergrowth(self, light: Array, band: Band) -> Array:
        palette, bank, (ox, oy) = self._setting.palette, self._setting.bank, self._setting.offset
        if float(band.y.max()) < 0.80:
            return light
        moss = bank.sample("cloud", band.x * 0.45 + ox, band.y * 1.3 + oy)
        floor = smooth(0.83, 0.90, band.y + (moss - 0.5) * 0.05)
        warm = falloff((band.x - self._glade) ** 2 * 1.5 + (band.y - 0.86) ** 2 * 6.0, 0.30)
        earth = mix(palette.near, pick(palette.full_ramp, 0.10 + 0.42 * moss), 0.50 * warm + 0.12)
        light = mix(light, earth + palette.lamp * (warm * moss * 0.16), floor)
        for row, (foot, tall) in enumerate(((0.965, 0.055), (1.03, 0.095))):
            grass = blades(bank, band, foot, tall, self._salt + 200 + row)
            tone = mix(palette.near * np.float32(0.75 - 0.3 * row), palette.haze, 0.04 * (1 - row))
            light = mix(light, tone, grass)
        return light
