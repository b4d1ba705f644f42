"""Things that stand, sail or fly in a landscape, each about one unit tall with its foot at y = 0."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np

from ..light import Array
from ..sketch import Sketch

# Outlines read best as rows of points.
# fmt: off


def sailboat(sail: Array) -> Sketch:
    boat = Sketch()
    boat.poly("#3a2a22", [(-0.008, -1.04), (0.012, -1.04), (0.016, -0.10), (-0.012, -0.10)])
    boat.blob("#f6f0e2", [(-0.022, -0.96), (-0.12, -0.66), (-0.38, -0.20), (-0.20, -0.175), (-0.022, -0.17),
        (-0.015, -0.55)], volume=0.6)
    boat.blob(sail, [(0.026, -1.00), (0.20, -0.68), (0.42, -0.22), (0.22, -0.185), (0.026, -0.19), (0.032, -0.60)],
        volume=0.7)
    boat.blob("#5b2f22", [(-0.46, -0.125), (0.0, -0.095), (0.50, -0.145), (0.40, -0.035), (0.30, 0.0), (-0.30, 0.0),
        (-0.40, -0.04)], volume=0.8, fur=0.3)
    return boat.limb("#e8dcc4", [(-0.44, -0.118), (0.0, -0.090), (0.48, -0.138)], [0.010, 0.010, 0.010], volume=0.2)


def lighthouse(stripe: Array, lamp: Array) -> Sketch:
    tower = Sketch()
    for side in (-1.0, 1.0):
        for spread in (0.10, 0.17, 0.25):
            tower.poly(lamp, [(0.0, -0.905), (side * 2.6, -0.99 - spread), (side * 2.6, -0.82 + spread)],
                volume=0.0, glow=1.0)
    tower = tower.faded(0.09)
    tower.blob("#2d2a2c", [(-0.52, 0.04), (-0.34, -0.06), (-0.10, -0.10), (0.16, -0.085), (0.38, -0.045),
        (0.56, 0.04), (0.0, 0.07)], volume=0.7, fur=0.9)
    heights = np.linspace(-0.07, -0.82, 8)
    for number, (foot, top) in enumerate(pairwise(heights)):
        low, high = 0.125 + 0.06 * (foot + 0.07), 0.125 + 0.06 * (top + 0.07)
        tower.poly("#f3eee4" if number % 2 else stripe, [(-low, foot), (low, foot), (high, top), (-high, top)],
            volume=0.8)
    tower.poly("#3a3535", [(-0.115, -0.845), (0.115, -0.845), (0.115, -0.815), (-0.115, -0.815)])
    tower.poly(lamp, [(-0.058, -0.955), (0.058, -0.955), (0.062, -0.845), (-0.062, -0.845)], volume=0.0, glow=1.0)
    for x in (-0.06, 0.0, 0.06):
        tower.limb("#3a3535", [(x, -0.955), (x, -0.845)], [0.006, 0.006])
    tower.blob(stripe, [(-0.082, -0.95), (0.0, -1.045), (0.082, -0.95), (0.0, -0.945)], volume=0.6)
    for x, y in ((0.03, -0.30), (-0.03, -0.52), (0.02, -0.70)):
        tower.oval("#2a2628", x, y, 0.016, 0.026)
    return tower


def balloon(first: Array, second: Array) -> Sketch:
    ship = Sketch()
    for x in (-1.0, 1.0):
        ship.limb("#4a362a", [(x * 0.13, -0.33), (x * 0.055, -0.13)], [0.005, 0.005], volume=0.0)
    for number, wide in enumerate((1.0, 0.80, 0.56, 0.30, 0.09)):
        ship.blob(second if number % 2 else first, [(0.0, -1.0), (0.21 * wide, -0.955), (0.355 * wide, -0.80),
            (0.365 * wide, -0.64), (0.26 * wide, -0.46), (0.12 * wide, -0.32), (0.0, -0.31), (-0.12 * wide, -0.32),
            (-0.26 * wide, -0.46), (-0.365 * wide, -0.64), (-0.355 * wide, -0.80), (-0.21 * wide, -0.955)],
            volume=0.9)
    ship.poly("#efe6d2", [(-0.125, -0.345), (0.125, -0.345), (0.105, -0.305), (-0.105, -0.305)])
    return ship.blob("#6b4630", [(-0.07, -0.135), (0.07, -0.135), (0.060, -0.01), (0.0, 0.0), (-0.060, -0.01)],
        volume=0.7, fur=0.9)


def cabin(lamp: Array) -> Sketch:
    house = Sketch()
    smoke = Sketch()
    for x, y, r in ((0.27, -1.12, 0.05), (0.31, -1.22, 0.07), (0.39, -1.34, 0.10), (0.51, -1.46, 0.13)):
        smoke.oval("#e9e6e2", x, y, r * 1.25, r, volume=0.3)
    house.add(smoke.faded(0.22))
    house.poly("#54423a", [(0.19, -1.04), (0.31, -1.04), (0.31, -0.70), (0.19, -0.70)], fur=0.5)
    house.poly("#74503a", [(-0.48, -0.50), (0.48, -0.50), (0.48, 0.0), (-0.48, 0.0)], fur=0.6)
    house.poly("#74503a", [(-0.48, -0.48), (0.0, -0.90), (0.48, -0.48)], fur=0.6)
    for y in np.linspace(-0.44, -0.05, 7):
        house.limb("#50362a", [(-0.47, float(y)), (0.47, float(y))], [0.006, 0.006], volume=0.0)
    house.poly("#3c2b2a", [(-0.60, -0.44), (0.0, -0.98), (0.0, -0.88), (-0.54, -0.40)], volume=0.3)
    house.poly("#3c2b2a", [(0.60, -0.44), (0.0, -0.98), (0.0, -0.88), (0.54, -0.40)], volume=0.3)
    house.poly("#3a2620", [(-0.10, -0.34), (0.10, -0.34), (0.10, 0.0), (-0.10, 0.0)], volume=0.3)
    for x, y in ((-0.29, -0.27), (0.29, -0.27), (0.0, -0.60)):
        house.poly("#3a2620", [(x - 0.095, y - 0.105), (x + 0.095, y - 0.105), (x + 0.095, y + 0.105), (x - 0.095,
            y + 0.105)])
        house.poly(lamp, [(x - 0.075, y - 0.085), (x + 0.075, y - 0.085), (x + 0.075, y + 0.085), (x - 0.075,
            y + 0.085)], volume=0.0, glow=1.0)
        house.limb("#3a2620", [(x, y - 0.085), (x, y + 0.085)], [0.008, 0.008], volume=0.0)
        house.limb("#3a2620", [(x - 0.075, y), (x + 0.075, y)], [0.008, 0.008], volume=0.0)
    return house


@cache
def whale_tail() -> Sketch:
    tail = Sketch()
    tail.blob("#26323d", [(-0.19, 0.03), (-0.10, -0.24), (-0.045, -0.50), (-0.05, -0.62), (0.05, -0.62),
        (0.045, -0.50), (0.10, -0.24), (0.19, 0.03)], volume=0.9, fur=0.4)
    tail.blob("#2b3945", [(0.0, -0.56), (0.06, -0.70), (0.24, -0.82), (0.48, -0.98), (0.66, -0.93), (0.54, -0.76),
        (0.30, -0.64), (0.10, -0.53)], both=True, volume=0.7, fur=0.4)
    foam = Sketch()
    for x, y, r in (
        (-0.24, 0.02, 0.13),
        (0.24, 0.02, 0.13),
        (0.0, 0.04, 0.22),
        (-0.40, 0.045, 0.08),
        (0.42, 0.045, 0.08),
    ):
        foam.oval("#f2f6f7", x, y, r, r * 0.22, volume=0.2)
    return tail.add(foam.faded(0.55))


def birds(rng: np.random.Generator) -> Sketch:
    """A loose flock about one unit across."""
    flock = Sketch()
    for _ in range(int(rng.integers(6, 11))):
        x, y = float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.5, 0.0))
        size, lift = float(rng.uniform(0.035, 0.075)), float(rng.uniform(0.25, 0.75))
        flock.limb("#20242b", [(x - size, y - size * lift * 0.5), (x - size * 0.45, y - size * lift), (x, y),
            (x + size * 0.45, y - size * lift), (x + size, y - size * lift * 0.5)], [0.002, size * 0.10,
            size * 0.13, size * 0.10, 0.002], volume=0.0)
    return flock
