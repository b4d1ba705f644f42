"""Figures that stand in a landscape: astronaut, horse, rider, deer, wanderer.

All stand on y = 0, look to the right and are about one unit tall.
"""

from __future__ import annotations

from functools import cache

from ..sketch import Sketch

# Outlines read best as rows of points.
# fmt: off

SUIT, SUIT_SHADE, VISOR = "#eceae6", "#b9bcc4", "#141a2c"


@cache
def astronaut() -> Sketch:
    """Standing, seen from the front, one arm raised a little."""
    figure = Sketch()
    figure.blob("#8f939e", [(-0.17, -0.72), (0.17, -0.72), (0.20, -0.44), (-0.20, -0.44)], volume=0.6)
    for side, foot in ((-1.0, -0.115), (1.0, 0.125)):
        figure.limb(SUIT, [(side * 0.075, -0.42), (side * 0.095, -0.22), (foot, -0.06)], [0.078, 0.066, 0.06],
            volume=0.7, fur=0.2)
        figure.limb(SUIT_SHADE, [(side * 0.088, -0.235), (side * 0.10, -0.205)], [0.068, 0.068], volume=0.5)
        figure.limb("#6d717d", [(foot - side * 0.01, -0.045), (foot + side * 0.035, -0.035)], [0.055, 0.036],
            volume=0.7)
    figure.limb(SUIT, [(-0.14, -0.66), (-0.235, -0.52), (-0.24, -0.39)], [0.066, 0.056, 0.05], volume=0.7, fur=0.2)
    figure.oval("#6d717d", -0.243, -0.355, 0.044, 0.05, volume=0.7)
    figure.limb(SUIT, [(0.14, -0.66), (0.26, -0.60), (0.315, -0.74)], [0.066, 0.056, 0.05], volume=0.7, fur=0.2)
    figure.oval("#6d717d", 0.325, -0.785, 0.044, 0.05, volume=0.7)
    figure.blob(SUIT, [(0.0, -0.74), (0.15, -0.71), (0.18, -0.56), (0.15, -0.40), (0.0, -0.365), (-0.15, -0.40),
        (-0.18, -0.56), (-0.15, -0.71)], volume=0.8, fur=0.2)
    figure.poly(SUIT_SHADE, [(-0.09, -0.60), (0.09, -0.60), (0.09, -0.49), (-0.09, -0.49)], volume=0.4)
    for x, tint in ((-0.055, "#d8483c"), (0.0, "#e8b64a"), (0.055, "#4a8fd0")):
        figure.oval(tint, x, -0.545, 0.017, 0.017, volume=0.3, glow=0.25)
    figure.oval("#d0592f", -0.172, -0.655, 0.028, 0.020, turn=0.6, volume=0.4)
    return figure.add(_helmet().moved(1.0, 0.0, -0.855))


def _helmet(look: float = 0.0) -> Sketch:
    helmet = Sketch()
    helmet.oval(SUIT, 0.0, 0.0, 0.150, 0.145, volume=0.9)
    helmet.oval(SUIT_SHADE, look, 0.008, 0.118 - abs(look) * 0.5, 0.106, volume=0.6)
    helmet.oval(VISOR, look, 0.008, 0.106 - abs(look) * 0.5, 0.095, volume=0.3)
    helmet.blob("#c98a3a", [(look - 0.07, 0.035), (look, 0.055), (look + 0.075, 0.025), (look + 0.06, 0.065),
        (look, 0.090), (look - 0.055, 0.070)], volume=0.3, glow=0.15).parts[-1]
    helmet.oval("#7fa6d8", look - 0.035, -0.035, 0.040, 0.022, turn=-0.6, volume=0.2, glow=0.2)
    helmet.oval("#ffffff", look - 0.045, -0.042, 0.016, 0.010, turn=-0.6, volume=0.0, glow=0.7)
    return helmet


@cache
def horse(coat: str = "#7d4a2c", mane: str = "#2c1912") -> Sketch:
    """Stepping out at a walk, neck arched."""
    figure = Sketch()
    far = "#4a2a19" if coat == "#7d4a2c" else "#8d8983" if coat.startswith("#e") else "#121114"
    figure.limb(mane, [(-0.44, -0.63), (-0.55, -0.56), (-0.585, -0.38), (-0.54, -0.18)], [0.03, 0.05, 0.05, 0.008],
        volume=0.4, fur=0.7)
    figure.limb(far, [(-0.27, -0.48), (-0.18, -0.33), (-0.235, -0.19), (-0.20, -0.03)], [0.10, 0.05, 0.030, 0.026],
        fur=0.3)
    figure.limb(far, [(0.27, -0.47), (0.43, -0.37), (0.425, -0.22), (0.37, -0.15)], [0.075, 0.043, 0.028, 0.026],
        fur=0.3)
    figure.limb("#1c1512", [(0.375, -0.155), (0.355, -0.125)], [0.027, 0.030], volume=0.3)
    figure.limb("#1c1512", [(-0.20, -0.045), (-0.19, -0.022)], [0.027, 0.031], volume=0.3)
    figure.limb(coat, [(-0.32, -0.57), (-0.12, -0.545), (0.08, -0.545), (0.26, -0.57)],
        [0.150, 0.148, 0.150, 0.145], volume=0.9, fur=0.4)
    figure.limb(coat, [(0.26, -0.60), (0.375, -0.77), (0.445, -0.93), (0.50, -0.985)], [0.138, 0.100, 0.070, 0.055],
        volume=0.6, fur=0.4)
    figure.limb(coat, [(-0.335, -0.53), (-0.30, -0.34), (-0.375, -0.20), (-0.345, -0.03)],
        [0.125, 0.060, 0.034, 0.028], volume=0.5, fur=0.4)
    figure.limb(coat, [(0.265, -0.52), (0.285, -0.31), (0.275, -0.16), (0.29, -0.03)], [0.090, 0.046, 0.030, 0.027],
        volume=0.5, fur=0.4)
    figure.limb("#1c1512", [(-0.345, -0.045), (-0.33, -0.022)], [0.029, 0.034], volume=0.3)
    figure.limb("#1c1512", [(0.29, -0.045), (0.305, -0.022)], [0.029, 0.034], volume=0.3)
    figure.limb(coat, [(0.485, -0.975), (0.56, -0.935), (0.655, -0.845), (0.695, -0.805)],
        [0.066, 0.062, 0.043, 0.040], volume=0.5, fur=0.3)
    figure.blob(coat, [(0.455, -1.01), (0.475, -1.11), (0.515, -1.01)], fur=0.3)
    figure.blob(far, [(0.495, -1.015), (0.525, -1.10), (0.545, -1.00)], fur=0.3)
    figure.oval("#0e0a09", 0.555, -0.955, 0.014, 0.013, volume=0.0)
    figure.oval("#2a1a14", 0.705, -0.815, 0.011, 0.009, volume=0.0)
    for number in range(6):
        t = number / 5
        x, y = 0.485 - 0.215 * t, -1.005 + 0.34 * t
        figure.limb(mane, [(x, y), (x - 0.055, y + 0.03), (x - 0.075, y + 0.115 + 0.02 * t)], [0.036, 0.036, 0.010],
            volume=0.2, fur=0.8)
    return figure.blob(mane, [(0.49, -1.03), (0.555, -0.99), (0.535, -0.93), (0.50, -0.97)], volume=0.2, fur=0.6)


def astronaut_on(mount: Sketch) -> Sketch:
    """The mount with an astronaut in the saddle."""
    figure = Sketch(mount.parts)
    figure.blob("#8c2f2b", [(-0.15, -0.70), (0.12, -0.70), (0.14, -0.53), (-0.13, -0.53)], volume=0.5)
    figure.blob("#9a9ea8", [(-0.205, -1.05), (-0.08, -1.07), (-0.07, -0.80), (-0.20, -0.81)], volume=0.6)
    figure.limb(SUIT, [(-0.025, -0.76), (-0.03, -0.88), (-0.01, -1.02)], [0.095, 0.098, 0.095], volume=0.8, fur=0.2)
    figure.limb(SUIT, [(-0.01, -0.745), (0.13, -0.645), (0.105, -0.44)], [0.075, 0.065, 0.050], volume=0.6, fur=0.2)
    figure.limb(SUIT_SHADE, [(0.135, -0.635), (0.125, -0.60)], [0.066, 0.063], volume=0.4)
    figure.limb("#6d717d", [(0.105, -0.405), (0.165, -0.385)], [0.048, 0.036], volume=0.6)
    figure.add(_helmet(0.035).moved(0.95, 0.03, -1.20))
    figure.limb("#3a241a", [(0.30, -0.885), (0.48, -0.86), (0.665, -0.835)], [0.007, 0.007, 0.007], volume=0.0)
    figure.limb(SUIT, [(0.0, -1.025), (0.12, -0.93), (0.255, -0.895)], [0.062, 0.053, 0.046], volume=0.6, fur=0.2)
    figure.oval("#6d717d", 0.29, -0.888, 0.044, 0.040, volume=0.6)
    return figure.oval("#d0592f", 0.035, -1.0, 0.026, 0.018, turn=0.8, volume=0.3)


@cache
def deer() -> Sketch:
    """A stag, head high."""
    coat, far, figure = "#8a5c36", "#5b3b22", Sketch()
    figure.limb(far, [(-0.20, -0.42), (-0.15, -0.26), (-0.19, -0.14), (-0.17, -0.02)], [0.065, 0.034, 0.018, 0.016],
        fur=0.4)
    figure.limb(far, [(0.19, -0.42), (0.24, -0.24), (0.235, -0.12), (0.24, -0.02)], [0.050, 0.028, 0.017, 0.015],
        fur=0.4)
    figure.limb(coat, [(-0.24, -0.475), (-0.05, -0.455), (0.16, -0.475)], [0.095, 0.098, 0.098], volume=0.9, fur=0.6)
    figure.limb("#e7d7bd", [(-0.325, -0.52), (-0.345, -0.45)], [0.032, 0.020], fur=0.5)
    figure.limb(coat, [(0.17, -0.50), (0.235, -0.62), (0.275, -0.735)], [0.092, 0.062, 0.048], volume=0.5, fur=0.7)
    figure.limb("#c9a77e", [(0.235, -0.48), (0.285, -0.60)], [0.045, 0.030], volume=0.3, fur=0.8)
    figure.limb(coat, [(-0.255, -0.45), (-0.235, -0.27), (-0.285, -0.15), (-0.265, -0.02)],
        [0.085, 0.040, 0.020, 0.017], fur=0.5)
    figure.limb(coat, [(0.175, -0.44), (0.185, -0.25), (0.18, -0.12), (0.185, -0.02)], [0.060, 0.030, 0.018, 0.016],
        fur=0.5)
    figure.limb(coat, [(0.28, -0.755), (0.335, -0.735), (0.415, -0.70)], [0.047, 0.043, 0.026], volume=0.5, fur=0.4)
    figure.oval("#1c1411", 0.435, -0.703, 0.016, 0.014)
    figure.oval("#0e0a09", 0.325, -0.757, 0.010, 0.010, volume=0.0)
    figure.blob(coat, [(0.26, -0.785), (0.185, -0.815), (0.165, -0.795), (0.23, -0.755)], fur=0.3)
    horn = "#d8c3a0"
    for shift in (0.0, 0.035):
        figure.limb(horn, [(0.275 + shift, -0.79), (0.225 + shift, -0.90), (0.245 + shift, -1.02),
            (0.315 + shift, -1.10)], [0.012, 0.011, 0.010, 0.004])
        for x, y, dx, dy in ((0.245, -0.86, 0.10, -0.04), (0.228, -0.93, 0.11, -0.06), (0.248, -1.02, -0.045, -0.07)):
            figure.limb(horn, [(x + shift, y), (x + shift + dx * 0.7, y + dy * 0.5), (x + shift + dx,
                y + dy - 0.035)], [0.009, 0.008, 0.003])
    return figure


@cache
def wanderer() -> Sketch:
    """A person in a long coat, seen from behind."""
    figure = Sketch()
    figure.limb("#26222a", [(-0.05, -0.34), (-0.055, -0.16), (-0.06, -0.02)], [0.055, 0.042, 0.038])
    figure.limb("#26222a", [(0.05, -0.34), (0.065, -0.16), (0.075, -0.02)], [0.055, 0.042, 0.038])
    figure.limb("#303a52", [(-0.125, -0.72), (-0.185, -0.56), (-0.15, -0.40)], [0.050, 0.043, 0.036], fur=0.3)
    figure.limb("#303a52", [(0.125, -0.72), (0.185, -0.56), (0.16, -0.40)], [0.050, 0.043, 0.036], fur=0.3)
    figure.blob("#35405c", [(0.0, -0.80), (0.10, -0.775), (0.155, -0.70), (0.13, -0.50), (0.175, -0.22),
        (0.0, -0.19), (-0.165, -0.22), (-0.13, -0.50), (-0.155, -0.70), (-0.10, -0.775)], volume=0.8, fur=0.4)
    figure.limb("#232b40", [(0.0, -0.46), (0.005, -0.21)], [0.006, 0.010], volume=0.0)
    figure.limb("#b8493a", [(-0.075, -0.795), (0.0, -0.775), (0.075, -0.795)], [0.038, 0.042, 0.038], fur=0.5)
    figure.limb("#b8493a", [(0.06, -0.78), (0.15, -0.70), (0.24, -0.71)], [0.030, 0.032, 0.020], fur=0.5)
    figure.oval("#d9a987", 0.0, -0.86, 0.062, 0.075)
    return figure.blob("#3b2418", [(0.0, -0.97), (0.068, -0.94), (0.076, -0.87), (0.055, -0.815), (0.0, -0.80),
        (-0.055, -0.815), (-0.076, -0.87), (-0.068, -0.94)], volume=0.7, fur=0.5)
