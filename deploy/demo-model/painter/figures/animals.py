"""Animals seen from the front: a head for each kind, sitting or dressed for a portrait.

A head is about two units wide around the origin. A whole sitting animal stands on y = 0 and is
about one unit tall.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from ..light import Array
from ..sketch import Sketch

# Outlines read best as rows of points.
# fmt: off

DARK = "#191614"
NOSE = "#2a2020"


@dataclass(frozen=True, slots=True)
class Coat:
    """Colours of an animal: back, chest, legs and the tip of its tail."""

    back: str
    chest: str
    legs: str
    tip: str


COATS = {"fox": Coat("#d9622b", "#f5e6d3", "#3a2219", "#f8efe2"), "raccoon": Coat("#7d7973", "#b9b3a8", "#35312f",
    "#26221f"), "cat": Coat("#8a6b4d", "#e9dcc6", "#7a5d42", "#4f3b2a"), "wolf": Coat("#6d7580", "#dfe0dd",
    "#5a626d", "#3b424c"), "bear": Coat("#6b442b", "#8a5c3b", "#55351f", "#6b442b"), "panda": Coat("#f0ede6",
    "#faf8f2", "#23211f", "#f0ede6"), "rabbit": Coat("#b89b7d", "#efe4d4", "#a88a6c", "#fbf6ec"),
    "owl": Coat("#7c5a3c", "#cdb089", "#5f4530", "#4b3524")}


def _eyes(head: Sketch, x: float, y: float, size: float, iris: str, slit: bool = False) -> None:
    head.oval(DARK, x, y, size * 1.18, size * 1.12, both=True, volume=0.0)
    head.oval(iris, x, y, size * 0.98, size * 0.94, both=True, volume=0.7)
    head.oval("#0b0908", x, y, size * (0.30 if slit else 0.56), size * 0.72, both=True, volume=0.0)
    for side in (-1.0, 1.0):
        head.oval("#ffffff", side * x - size * 0.30, y - size * 0.34, size * 0.24, size * 0.24, volume=0.0, glow=0.75)


def _whiskers(head: Sketch, tint: str) -> None:
    for rise in (-0.10, 0.04, 0.18):
        head.limb(tint, [(0.26, 0.52), (0.75, 0.46 + rise), (1.28, 0.50 + rise * 2.2)], [0.010, 0.012, 0.005],
            both=True, volume=0.0)


def _muzzle_line(head: Sketch, y: float, width: float) -> None:
    head.limb(NOSE, [(0.0, y - 0.10), (0.0, y)], [0.016, 0.016], volume=0.0)
    head.limb(NOSE, [(0.0, y), (width * 0.5, y + 0.06), (width, y)], [0.016, 0.018, 0.008], both=True, volume=0.0)


@cache
def _fox() -> Sketch:
    coat, head = COATS["fox"], Sketch()
    head.blob(coat.back, [(0.86, -0.20), (0.92, -0.86), (0.80, -1.36), (0.46, -1.05), (0.14, -0.62)], both=True,
        fur=0.5)
    head.blob("#2b1a14", [(0.76, -0.48), (0.80, -0.90), (0.76, -1.16), (0.54, -0.94), (0.36, -0.62)], both=True,
        fur=0.3)
    face = [(0.0, -0.80), (0.46, -0.72), (0.84, -0.36), (1.02, 0.10), (1.10, 0.38), (0.70, 0.48), (0.36, 0.70),
        (0.16, 0.96), (0.0, 1.02)]
    head.blob(coat.back, face + [(-x, y) for x, y in face[-2:0:-1]], volume=0.45, fur=0.6)
    head.blob(coat.chest, [(1.07, 0.34), (0.74, 0.10), (0.40, 0.18), (0.20, 0.46), (0.07, 0.74), (0.04, 0.99),
        (0.18, 0.93), (0.38, 0.69), (0.70, 0.48)], both=True, volume=0.35, fur=0.5)
    head.blob("#b84c20", [(0.0, -0.55), (0.13, -0.10), (0.15, 0.40), (0.07, 0.74), (-0.07, 0.74), (-0.15, 0.40),
        (-0.13, -0.10)], volume=0.2, fur=0.5)
    _eyes(head, 0.42, 0.06, 0.125, "#d99a2b", slit=True)
    head.blob(NOSE, [(-0.13, 0.80), (0.0, 0.75), (0.13, 0.80), (0.07, 0.92), (0.0, 0.95), (-0.07, 0.92)], volume=0.8)
    return head


@cache
def _wolf() -> Sketch:
    coat, head = COATS["wolf"], Sketch()
    head.blob(coat.back, [(0.80, -0.30), (0.84, -0.80), (0.68, -1.18), (0.40, -0.95), (0.14, -0.62)], both=True,
        fur=0.6)
    head.blob("#2e3238", [(0.70, -0.50), (0.72, -0.82), (0.66, -1.02), (0.48, -0.86), (0.34, -0.62)], both=True,
        fur=0.3)
    face = [(0.0, -0.80), (0.48, -0.74), (0.82, -0.40), (0.96, 0.05), (1.14, 0.42), (0.86, 0.52), (0.74, 0.74),
        (0.42, 0.80), (0.22, 1.00), (0.0, 1.06)]
    head.blob(coat.back, face + [(-x, y) for x, y in face[-2:0:-1]], volume=0.45, fur=0.7)
    head.blob(coat.chest, [(1.10, 0.42), (0.80, 0.16), (0.52, 0.20), (0.26, 0.40), (0.17, 0.74), (0.20, 0.98),
        (0.42, 0.79), (0.74, 0.73)], both=True, volume=0.3, fur=0.6)
    head.oval(coat.chest, 0.40, -0.22, 0.13, 0.07, turn=0.3, both=True, volume=0.2, fur=0.5)
    head.blob(coat.chest, [(0.0, 0.30), (0.20, 0.62), (0.20, 0.96), (0.0, 1.04), (-0.20, 0.96), (-0.20, 0.62)],
        volume=0.3, fur=0.4)
    _eyes(head, 0.40, 0.03, 0.11, "#d7b04a")
    head.blob(NOSE, [(-0.16, 0.72), (0.0, 0.66), (0.16, 0.72), (0.09, 0.86), (0.0, 0.89), (-0.09, 0.86)], volume=0.8)
    _muzzle_line(head, 0.97, 0.18)
    return head


@cache
def _raccoon() -> Sketch:
    coat, head = COATS["raccoon"], Sketch()
    head.blob("#e8e3d8", [(0.90, -0.34), (0.96, -0.84), (0.68, -1.04), (0.38, -0.80), (0.30, -0.50)], both=True,
        fur=0.5)
    head.blob("#2a2624", [(0.82, -0.40), (0.84, -0.76), (0.66, -0.89), (0.48, -0.72), (0.44, -0.50)], both=True,
        fur=0.3)
    face = [(0.0, -0.76), (0.44, -0.70), (0.80, -0.42), (0.98, -0.02), (1.24, 0.34), (0.92, 0.42), (0.86, 0.60),
        (0.48, 0.72), (0.24, 0.90), (0.0, 0.94)]
    head.blob(coat.back, face + [(-x, y) for x, y in face[-2:0:-1]], volume=0.45, fur=0.8)
    # White brows and cheeks, the black mask between them, a dark stripe up the forehead.
    head.blob("#efeae0", [(0.10, -0.26), (0.42, -0.42), (0.78, -0.26), (1.02, 0.10), (1.22, 0.34), (0.92, 0.40),
        (0.84, 0.56), (0.50, 0.66), (0.30, 0.40), (0.12, 0.10)], both=True, volume=0.3, fur=0.6)
    head.blob("#211d1c", [(0.09, 0.06), (0.26, -0.18), (0.52, -0.22), (0.76, -0.02), (0.90, 0.32), (0.66, 0.46),
        (0.42, 0.34), (0.24, 0.24)], both=True, volume=0.4, fur=0.5)
    head.blob("#3a3533", [(0.0, -0.74), (0.10, -0.50), (0.08, -0.10), (0.09, 0.24), (0.0, 0.34), (-0.09, 0.24),
        (-0.08, -0.10), (-0.10, -0.50)], volume=0.2, fur=0.6)
    head.blob("#f4f0e6", [(0.0, 0.28), (0.20, 0.34), (0.36, 0.58), (0.22, 0.84), (0.0, 0.90), (-0.22, 0.84),
        (-0.36, 0.58), (-0.20, 0.34)], volume=0.4, fur=0.4)
    _eyes(head, 0.44, 0.08, 0.135, "#6b4526")
    head.blob(NOSE, [(-0.15, 0.46), (0.0, 0.40), (0.15, 0.46), (0.08, 0.58), (0.0, 0.61), (-0.08, 0.58)], volume=0.9)
    _muzzle_line(head, 0.72, 0.17)
    _whiskers(head, "#f7f3ea")
    return head


@cache
def _cat() -> Sketch:
    coat, head = COATS["cat"], Sketch()
    head.blob(coat.back, [(0.90, -0.14), (0.98, -0.74), (0.88, -1.18), (0.52, -0.98), (0.22, -0.64)], both=True,
        fur=0.5)
    head.blob("#c98f83", [(0.80, -0.42), (0.85, -0.74), (0.80, -0.96), (0.60, -0.86), (0.44, -0.64)], both=True,
        fur=0.3)
    face = [(0.0, -0.76), (0.50, -0.70), (0.88, -0.34), (1.02, 0.10), (0.94, 0.50), (0.56, 0.80), (0.0, 0.88)]
    head.blob(coat.back, face + [(-x, y) for x, y in face[-2:0:-1]], volume=0.45, fur=0.7)
    for place in (0.0, 0.19):
        head.limb("#4c3726", [(place, -0.74 + place * 0.3), (place * 0.9, -0.42)], [0.05, 0.02], both=True,
            volume=0.0, fur=0.5)
    for place in (0.22, 0.40):
        head.limb("#4c3726", [(0.98, place), (0.72, place + 0.04)], [0.035, 0.012], both=True, volume=0.0, fur=0.5)
    head.blob(coat.chest, [(0.0, 0.18), (0.22, 0.34), (0.46, 0.52), (0.30, 0.78), (0.0, 0.84), (-0.30, 0.78),
        (-0.46, 0.52), (-0.22, 0.34)], volume=0.4, fur=0.4)
    _eyes(head, 0.42, 0.02, 0.19, "#8fae4c", slit=True)
    head.blob("#b56a62", [(-0.10, 0.36), (0.0, 0.34), (0.10, 0.36), (0.0, 0.47)], volume=0.6)
    _muzzle_line(head, 0.58, 0.20)
    _whiskers(head, "#f4efe6")
    return head


@cache
def _bear(kind: str) -> Sketch:
    coat, head = COATS[kind], Sketch()
    is_panda = kind == "panda"
    ears = coat.legs if is_panda else coat.back
    head.oval(ears, 0.74, -0.66, 0.32, 0.32, both=True, fur=0.5)
    head.oval("#3a3735" if is_panda else coat.chest, 0.74, -0.64, 0.18, 0.18, both=True, fur=0.3)
    head.blob(coat.back, [(0.0, -0.84), (0.56, -0.74), (0.96, -0.20), (1.02, 0.30), (0.70, 0.74), (0.0, 0.92),
        (-0.70, 0.74), (-1.02, 0.30), (-0.96, -0.20), (-0.56, -0.74)], volume=0.45, fur=0.7)
    if is_panda:
        head.oval(coat.legs, 0.42, 0.04, 0.21, 0.28, turn=0.5, both=True, volume=0.3, fur=0.4)
    head.oval(coat.chest, 0.0, 0.48, 0.42, 0.34, volume=0.5, fur=0.4)
    _eyes(head, 0.40, 0.02, 0.10, "#3d2416")
    head.blob(NOSE, [(-0.18, 0.30), (0.0, 0.25), (0.18, 0.30), (0.10, 0.44), (0.0, 0.47), (-0.10, 0.44)], volume=0.9)
    _muzzle_line(head, 0.60, 0.18)
    return head


@cache
def _rabbit() -> Sketch:
    coat, head = COATS["rabbit"], Sketch()
    head.blob(coat.back, [(0.20, -0.50), (0.22, -1.20), (0.42, -1.86), (0.64, -1.70), (0.66, -1.10), (0.56, -0.50)],
        both=True, fur=0.5)
    head.blob("#d8a79a", [(0.32, -0.66), (0.33, -1.20), (0.45, -1.66), (0.55, -1.56), (0.55, -1.10), (0.48, -0.66)],
        both=True, fur=0.3)
    head.blob(coat.back, [(0.0, -0.74), (0.48, -0.62), (0.78, -0.16), (0.86, 0.34), (0.54, 0.76), (0.0, 0.88),
        (-0.54, 0.76), (-0.86, 0.34), (-0.78, -0.16), (-0.48, -0.62)], volume=0.45, fur=0.7)
    head.oval(coat.chest, 0.17, 0.54, 0.22, 0.20, both=True, volume=0.3, fur=0.4)
    _eyes(head, 0.50, 0.02, 0.14, "#4a2c1a")
    head.blob("#c07f76", [(-0.10, 0.34), (0.0, 0.32), (0.10, 0.34), (0.0, 0.45)], volume=0.6)
    _muzzle_line(head, 0.56, 0.16)
    _whiskers(head, "#f7f2ea")
    return head


@cache
def _owl() -> Sketch:
    coat, head = COATS["owl"], Sketch()
    head.blob(coat.back, [(0.58, -0.56), (0.84, -0.72), (0.98, -1.10), (0.62, -0.96), (0.26, -0.74)], both=True,
        fur=0.6)
    head.blob(coat.back, [(0.0, -0.76), (0.56, -0.72), (0.94, -0.26), (0.98, 0.26), (0.66, 0.74), (0.0, 0.90),
        (-0.66, 0.74), (-0.98, 0.26), (-0.94, -0.26), (-0.56, -0.72)], volume=0.4, fur=0.9)
    head.oval(coat.chest, 0.43, 0.08, 0.47, 0.52, turn=-0.15, both=True, volume=0.3, fur=0.8)
    head.oval("#efe0c4", 0.43, 0.08, 0.34, 0.38, turn=-0.15, both=True, volume=0.2, fur=0.7)
    head.blob(coat.tip, [(0.0, -0.10), (0.30, -0.44), (0.72, -0.62), (0.40, -0.58), (0.0, -0.36)], both=True,
        volume=0.2, fur=0.5)
    _eyes(head, 0.40, 0.06, 0.21, "#f0a92c")
    head.blob("#c99a45", [(-0.09, 0.18), (0.0, 0.12), (0.09, 0.18), (0.05, 0.40), (0.0, 0.48), (-0.05, 0.40)],
        volume=0.8)
    return head


HEADS: dict[str, Callable[[], Sketch]] = {"fox": _fox, "wolf": _wolf, "raccoon": _raccoon, "cat": _cat,
    "rabbit": _rabbit, "owl": _owl, "bear": lambda: _bear("bear"), "panda": lambda: _bear("panda")}


@cache
def sitting(kind: str) -> Sketch:
    """The animal as it sits and looks at the viewer."""
    coat, body = COATS[kind], Sketch()
    if kind == "owl":
        body.blob(coat.back, [(0.0, -0.62), (0.24, -0.52), (0.29, -0.24), (0.16, -0.02), (0.0, 0.0), (-0.16, -0.02),
            (-0.29, -0.24), (-0.24, -0.52)], fur=0.9)
        body.oval(coat.chest, 0.0, -0.26, 0.17, 0.23, volume=0.3, fur=1.0)
        body.blob(coat.tip, [(0.20, -0.50), (0.31, -0.26), (0.22, -0.02), (0.17, -0.24)], both=True, fur=0.7)
        body.oval("#d8a24a", 0.08, -0.01, 0.045, 0.025, both=True)
        return body.add(HEADS[kind]().moved(0.27, 0.0, -0.66))
    bushy = 1.0 if kind in ("fox", "wolf", "raccoon") else 0.0
    if kind in ("fox", "wolf", "raccoon", "cat"):
        radii = [0.05, 0.05 + 0.045 * bushy, 0.05 + 0.05 * bushy, 0.035 + 0.02 * bushy]
        tail = [(0.16, -0.05), (0.36, -0.06), (0.46, -0.20), (0.40, -0.38)]
        body.limb(coat.back, tail, radii, fur=0.6)
        body.limb(coat.tip, [(0.45, -0.28), (0.40, -0.40)], [radii[3] + 0.02 * bushy, 0.02], fur=0.6)
        if kind == "raccoon":
            for x, y, turn in ((0.27, -0.055, 0.0), (0.375, -0.075, -0.7), (0.44, -0.165, -1.3)):
                body.oval(coat.tip, x, y, 0.024, 0.092, turn=turn, fur=0.5)
    body.blob(coat.back, [(0.0, -0.62), (0.16, -0.54), (0.23, -0.30), (0.28, -0.10), (0.20, 0.0), (0.0, 0.0),
        (-0.20, 0.0), (-0.28, -0.10), (-0.23, -0.30), (-0.16, -0.54)], fur=0.6)
    body.oval(coat.legs if kind == "panda" else coat.back, 0.19, -0.08, 0.10, 0.085, both=True, fur=0.5)
    body.blob(coat.chest, [(0.0, -0.58), (0.13, -0.48), (0.14, -0.28), (0.06, -0.10), (0.0, -0.04), (-0.06, -0.10),
        (-0.14, -0.28), (-0.13, -0.48)], volume=0.3, fur=0.8)
    body.limb(coat.back if kind != "panda" else coat.legs, [(0.10, -0.32), (0.085, -0.14), (0.09, -0.02)],
        [0.055, 0.045, 0.045], both=True, fur=0.5)
    body.limb(coat.legs, [(0.088, -0.16), (0.09, -0.025)], [0.043, 0.047], both=True, fur=0.4)
    return body.add(HEADS[kind]().moved(0.245, 0.0, -0.70))


def bust(kind: str, jacket: str, cravat: Array, *, has_suit: bool, has_hat: bool) -> Sketch:
    """The animal from the chest up, in a suit if wanted; about 3.4 units tall around its head."""
    coat, figure = COATS[kind], Sketch()
    shoulders = [(0.0, 0.50), (0.50, 0.66), (1.05, 1.02), (1.52, 1.42), (1.78, 2.20), (1.86, 3.30), (1.86, 3.9),
        (0.0, 4.0)]
    outline = shoulders + [(-x, y) for x, y in shoulders[-2:0:-1]]
    figure.blob(jacket if has_suit else coat.back, outline, volume=0.55, fur=0.25 if has_suit else 0.8)
    if has_suit:
        figure.poly("#efe9dc", [(-0.46, 0.70), (0.46, 0.70), (0.30, 1.60), (0.0, 2.60), (-0.30, 1.60)], volume=0.25)
        figure.poly("#5a2430", [(-0.34, 1.52), (0.34, 1.52), (0.34, 3.40), (-0.34, 3.40)], volume=0.3, fur=0.2)
        figure.poly("#efe9dc", [(-0.36, 1.30), (0.36, 1.30), (0.0, 2.10)], volume=0.2)
        for y in (2.20, 2.55, 2.90):
            figure.oval("#c9a65a", 0.0, y, 0.045, 0.045, volume=0.9)
        figure.blob(jacket, [(0.40, 0.72), (0.86, 0.98), (0.62, 1.66), (0.18, 2.75), (0.30, 3.40), (1.20, 3.40),
            (1.30, 1.60)], both=True, volume=0.35, fur=0.25)
        figure.poly(_darker(jacket), [(0.42, 0.74), (0.84, 1.02), (0.98, 1.42), (0.72, 1.48), (0.80, 1.66),
            (0.16, 2.72), (0.20, 1.70)], both=True, volume=0.5)
        figure.poly("#f7f3ea", [(0.10, 0.92), (0.46, 0.66), (0.56, 1.10), (0.24, 1.30)], both=True, volume=0.3)
        figure.blob(cravat, [(0.0, 1.10), (0.30, 0.98), (0.38, 1.16), (0.30, 1.32), (0.0, 1.20)], both=True, volume=0.6)
        figure.oval(cravat, 0.0, 1.15, 0.09, 0.10, volume=0.7)
        figure.poly("#f3ecdc", [(0.98, 1.86), (1.10, 1.70), (1.20, 1.82), (1.30, 1.72), (1.36, 1.90), (1.02, 1.98)],
            volume=0.3)
    else:
        figure.blob(coat.chest, [(0.0, 0.60), (0.60, 0.95), (0.74, 1.70), (0.52, 2.70), (0.0, 3.40), (-0.52, 2.70),
            (-0.74, 1.70), (-0.60, 0.95)], volume=0.3, fur=0.9)
    figure.add(HEADS[kind]())
    if has_hat:
        figure.add(_top_hat(cravat))
        figure.add(_monocle(0.42, 0.06))
    return figure


def _darker(tint: str) -> str:
    return "#" + "".join(f"{int(int(tint[i : i + 2], 16) * 0.62):02x}" for i in (1, 3, 5))


def _top_hat(band: Array) -> Sketch:
    hat = Sketch()
    hat.oval("#141319", 0.0, -0.70, 0.98, 0.17, volume=0.5)
    hat.blob("#1d1c24", [(-0.60, -0.72), (-0.60, -1.20), (-0.68, -1.74), (0.0, -1.80), (0.68, -1.74), (0.60, -1.20),
        (0.60, -0.72), (0.0, -0.63)], volume=0.8)
    hat.blob(band, [(-0.605, -0.74), (-0.605, -0.94), (0.0, -0.88), (0.605, -0.94), (0.605, -0.74), (0.0, -0.66)],
        volume=0.6)
    hat.oval("#26252e", 0.0, -1.75, 0.66, 0.085, volume=0.4)
    return hat


def _monocle(x: float, y: float) -> Sketch:
    glass = Sketch()
    ring: list[tuple[float, float]] = []
    for number in range(17):
        angle = 2.0 * math.pi * number / 16
        ring.append((x + 0.225 * math.cos(angle), y + 0.225 * math.sin(angle)))
    glass.limb("#d9b45a", ring, [0.026] * len(ring), volume=0.8)
    glass.limb("#d9b45a", [(x + 0.20, y + 0.12), (x + 0.46, y + 0.7), (x + 0.30, y + 1.35)], [0.014, 0.013, 0.013],
        volume=0.2)
    glass.limb("#ffffff", [(x - 0.12, y - 0.13), (x - 0.03, y - 0.17)], [0.014, 0.010], volume=0.0, glow=0.6)
    return glass
