"""Setting figures into a scene: where they stand, how light falls on them, what frames them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ..light import Array, colour, mix, pick, smooth
from ..setting import Scene, Setting
from ..sketch import Part, Sketch, coverage
from ..words import SEAFARERS
from . import animals, things, travellers

# Heights of figures as shares of the picture, by name.
HEIGHTS: Final = {
    "astronaut": 0.40,
    "horse": 0.40,
    "deer": 0.42,
    "wanderer": 0.36,
    "sailboat": 0.30,
    "lighthouse": 0.40,
    "balloon": 0.30,
    "cabin": 0.20,
    "whale": 0.24,
    "birds": 0.34,
}
SITTING_HEIGHT: Final = 0.46
IN_THE_AIR: Final = ("balloon", "birds")
JACKETS: Final = ("#22304d", "#2b2a33", "#3a2a26", "#1f3a36", "#3d2440")
SUNLIT_SHARE: Final = 0.62


@dataclass(frozen=True, slots=True)
class Pose:
    """A sketch and where it goes: its foot in the scene's coordinates, its height, a turn."""

    sketch: Sketch
    x: float
    y: float
    height: float
    turn: float = 0.0
    flip: bool = False
    has_ledge: bool = False


def place_figures(light: Array, setting: Setting, scene: Scene) -> None:
    """Paint the plan's figures over ``light``, in place.

    Args:
        light: the scene in linear light, (3, rows, columns).
        setting: the plan's figures and features, and the draws for their places.
        scene: where its ground is and from where it is lit.
    """
    for pose in _poses(setting, scene):
        _paint(light, setting, scene, pose)
    if setting.plan.has("frame") and setting.plan.scene == "studio":
        _frame(light, setting)


def _poses(setting: Setting, scene: Scene) -> list[Pose]:
    plan, names = setting.plan, list(setting.plan.figures)
    narrow = min(1.0, setting.aspect * 1.15)
    if plan.scene in ("studio", "marble", "glass", "bloom"):
        sitters = [name for name in names if name in animals.HEADS]
        if sitters:
            return [_portrait(setting, sitters[0], narrow)]
        if not names and plan.scene == "studio":
            names = ["wanderer"]
    if plan.scene != "ocean":
        names = [name for name in names if name not in SEAFARERS]
    poses: list[Pose] = []
    if "horse" in names and (plan.has("riding") or "astronaut" in names):
        poses.append(_standing(setting, scene, "rider", narrow, 0.0))
        names = [name for name in names if name not in ("horse", "astronaut")]
    for number, name in enumerate(names):
        spread = 0.0 if len(names) + len(poses) == 1 else (-0.24, 0.24)[number % 2]
        poses.append(_standing(setting, scene, name, narrow, spread))
    return poses


def _portrait(setting: Setting, name: str, narrow: float) -> Pose:
    plan = setting.plan
    has_suit = plan.has("suit")
    has_hat = has_suit and plan.has("hat") and "hat" not in plan.avoided
    jacket = JACKETS[int(setting.rng.integers(len(JACKETS)))]
    sketch = animals.bust(name, jacket, setting.palette.spark, has_suit=has_suit, has_hat=has_hat)
    unit = (0.215 if has_hat else 0.270) * narrow
    # The head's middle a little above the picture's; the chest leaves it at the lower edge.
    middle = (0.535 if has_hat else 0.44) + 0.5 * (1.0 - narrow) * 0.55
    if plan.scene != "studio":
        unit, middle = unit * 0.86, middle + 0.10
    return Pose(sketch=sketch, x=0.0, y=middle, height=unit)


def _standing(setting: Setting, scene: Scene, name: str, narrow: float, spread: float) -> Pose:
    palette, plan = setting.palette, setting.plan
    flip = setting.chance(0.5)
    away = spread if spread else -0.10 * scene.light_side * setting.between(0.2, 1.3)
    x = away * min(setting.aspect, 1.5)
    height = HEIGHTS.get(name, SITTING_HEIGHT) * narrow * setting.between(0.94, 1.06)
    y, turn, has_ledge = scene.floor, 0.0, plan.scene in ("peaks", "city")
    match name:
        case "rider":
            sketch, height = travellers.astronaut_on(_horse(setting)), 0.40 * narrow
        case "horse":
            sketch = _horse(setting)
        case "astronaut":
            sketch = travellers.astronaut()
        case "deer":
            sketch = travellers.deer()
        case "wanderer":
            sketch = travellers.wanderer()
        case "sailboat":
            sketch = things.sailboat(mix(palette.spark, palette.lamp, 0.25))
        case "lighthouse":
            sketch = things.lighthouse(colour("#b8402f"), palette.lamp)
        case "balloon":
            sketch = things.balloon(palette.spark, mix(palette.lamp, palette.haze, 0.3))
        case "cabin":
            sketch = things.cabin(mix(palette.lamp, colour("#ffb84d"), 0.6))
        case "whale":
            sketch = things.whale_tail()
        case "birds":
            sketch = things.birds(setting.rng)
        case _:
            sketch = animals.sitting(name)
    if name in IN_THE_AIR:
        y, has_ledge = setting.between(0.40, 0.50), False
    elif plan.scene == "cosmos":
        y, turn = 0.5 + 0.5 * height, setting.between(-0.45, 0.45)
    elif plan.scene == "ocean":
        on_water = name in SEAFARERS
        y = y if on_water or scene.floor > 0.9 else 0.93
        y = min(y, 0.80) if on_water else y
        has_ledge = not on_water and scene.floor < 0.9
    elif name == "cabin":
        y, x = scene.floor - 0.10, 0.26 * (1.0 if x >= 0 else -1.0) * min(setting.aspect, 1.4)
    return Pose(sketch, x, y, height, turn, flip and name != "lighthouse", has_ledge)


def _horse(setting: Setting) -> Sketch:
    words = setting.plan.words
    if "white" in words or "grey" in words or "gray" in words:
        return travellers.horse("#e8e4dc", "#b9b2a6")
    if "black" in words:
        return travellers.horse("#2a2627", "#121012")
    return travellers.horse()


def _paint(light: Array, setting: Setting, scene: Scene, pose: Pose) -> None:
    _, rows, columns = light.shape
    size = pose.height * rows
    foot_x, foot_y = columns / 2 + pose.x * rows, pose.y * rows
    is_portrait = setting.plan.scene in ("studio", "marble", "glass", "bloom") and pose.turn == 0.0
    figure = pose.sketch
    if pose.turn:
        # Something afloat turns around its middle.
        figure = figure.moved(1.0, 0.0, 0.5).moved(1.0, 0.0, -0.5, turn=pose.turn)
    placed = figure.moved(size, foot_x, foot_y, flip=pose.flip)
    if pose.has_ledge:
        _ledge(light, setting, scene, foot_x, foot_y, size)
    elif not is_portrait and setting.plan.scene != "cosmos" and pose.y > 0.6:
        _shadow(light, setting, scene, placed, foot_y, size)
    left, top, right, bottom = placed.bounds()
    x0, y0 = max(int(left) - 4, 0), max(int(top) - 4, 0)
    x1, y1 = min(int(right) + 5, columns), min(int(bottom) + 5, rows)
    if x1 <= x0 or y1 <= y0:
        return
    region = light[:, y0:y1, x0:x1]
    painted, cover, glow = _layers(placed.moved(1.0, -x0, -y0), region.shape, setting, scene)
    lit = _lit(painted, cover, glow, setting, scene, rows, is_portrait)
    region += (lit - region) * cover


def _layers(sketch: Sketch, shape: tuple[int, ...], setting: Setting, scene: Scene) -> tuple[Array, Array, Array]:
    """The figure's own colours, how much it covers, and how much of it shines by itself."""
    _, rows, columns = shape
    painted = np.zeros((3, rows, columns), dtype=np.float32)
    cover = np.zeros((rows, columns), dtype=np.float32)
    glow = np.zeros((rows, columns), dtype=np.float32)
    for part in sketch.parts:
        found = coverage(part, rows, columns)
        if found is None:
            continue
        amount, window = found
        amount = amount * np.float32(part.cover)
        tone = _shaded(part, window, setting, scene)
        # Colours are kept unmixed with what is behind: the figure's edge takes the scene's light.
        below = cover[window]
        total = amount + below * (1.0 - amount)
        share = amount / np.maximum(total, 1e-6)
        patch = painted[:, window[0], window[1]]
        patch += (tone - patch) * share
        cover[window] = total
        glow[window] += (np.float32(part.glow) - glow[window]) * amount
    return painted, cover, glow


def _shaded(part: Part, window: tuple[slice, slice], setting: Setting, scene: Scene) -> Array:
    low, high = part.points.min(axis=0), part.points.max(axis=0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, 1.0)
    x = (np.arange(window[1].start, window[1].stop, dtype=np.float32) - middle[0]) / half[0]
    y = (np.arange(window[0].start, window[0].stop, dtype=np.float32) - middle[1]) / half[1]
    facing = 0.26 * scene.light_side * x[None, :] - 0.24 * y[:, None] - 0.10 * (x**2)[None, :]
    tone = part.tint * (1.0 + np.float32(part.volume) * facing.astype(np.float32))
    if part.fur > 0.0:
        ox, oy = setting.offset
        reach = np.float32(1.0 / max(float(half.max()), 1.0))
        u = (x * half[0] * reach)[None, :].astype(np.float32)
        v = (y * half[1] * reach)[:, None].astype(np.float32)
        hair = setting.bank.sample("rough", u * 0.24 + ox, v * 0.10 + oy) - 0.5
        tone = tone * (1.0 + hair * np.float32(0.42 * part.fur))
    return np.maximum(tone, 0.0)


def _lit(
    painted: Array,
    cover: Array,
    glow: Array,
    setting: Setting,
    scene: Scene,
    rows: int,
    is_portrait: bool,
) -> Array:
    palette = setting.palette
    sky = pick(palette.sky_ramp, np.full((1, 1), 0.35, np.float32))
    if is_portrait:
        lit = painted * (0.35 + 0.65 * mix(colour("#ffffff"), palette.lamp, 0.7)) * 0.95
    else:
        strength = 0.36 if palette.is_night else SUNLIT_SHARE
        ambient = mix(colour("#ffffff"), sky * (1.0 / max(float(sky.max()), 0.05)), 0.45)
        lit = painted * ambient * np.float32(strength)
        lit = mix(lit, palette.haze, 0.05)
    # Light from behind catches the edge that faces it.
    reach = max(1, round(rows * 0.0045))
    side = reach if scene.light_side > 0 else -reach
    edge = np.zeros_like(cover)
    for weight, share in ((0.5, 1), (0.5, 2)):
        edge += np.float32(weight) * np.clip(
            cover - _shifted(cover, side * share, -max(1, reach * share // 2)), 0.0, 1.0
        )
    rim = palette.lamp * np.float32(0.30 if is_portrait else 0.75)
    lit = lit + rim * edge * (0.25 + 0.75 * painted / np.maximum(painted.max(axis=0), 0.05))
    return mix(lit, painted * 1.25, np.clip(glow, 0.0, 1.0))


def _shifted(plane: Array, across: int, down: int) -> Array:
    """The plane as seen ``across`` and ``down`` pixels further on, empty outside of it."""
    rows, columns = plane.shape
    moved = np.zeros_like(plane)
    if abs(across) >= columns or abs(down) >= rows:
        return moved
    to_y, to_x = slice(max(0, -down), rows - max(0, down)), slice(max(0, -across), columns - max(0, across))
    from_y = slice(max(0, down), rows - max(0, -down))
    from_x = slice(max(0, across), columns - max(0, -across))
    moved[to_y, to_x] = plane[from_y, from_x]
    return moved


def _shadow(light: Array, setting: Setting, scene: Scene, placed: Sketch, foot_y: float, size: float) -> None:
    _, rows, columns = light.shape
    left, _, right, _ = placed.bounds()
    half = min((right - left) / 2, size * 0.45)
    middle = (left + right) / 2 - scene.light_side * half * 0.35
    x = (np.arange(columns, dtype=np.float32) - middle) / max(half * 1.15, 1.0)
    y = (np.arange(rows, dtype=np.float32) - foot_y - 0.01 * size) / max(size * 0.045, 1.0)
    near = np.flatnonzero(np.abs(y) < 2.5)
    if near.size:
        band = slice(int(near[0]), int(near[-1]) + 1)
        dark = np.exp(-(x[None, :] ** 2) * 1.6 - (y[band, None] ** 2) * 1.2) * np.float32(0.62)
        light[:, band] *= 1.0 - dark * (1.0 - 0.25 * setting.palette.near)


def _ledge(light: Array, setting: Setting, scene: Scene, foot_x: float, foot_y: float, size: float) -> None:
    """A rise of dark ground at the lower edge for the figure to stand on."""
    _, rows, columns = light.shape
    palette, bank, (ox, oy) = setting.palette, setting.bank, setting.offset
    x = (np.arange(columns, dtype=np.float32) - np.float32(foot_x)) / np.float32(rows)
    rough = bank.sample("cloud", x[None, :] * 0.25 + ox, np.full((1, 1), oy, np.float32))[0] - 0.5
    flat = smooth(0.06, 0.55, np.abs(x))
    crest = (foot_y - 0.012 * size) + rows * (0.13 * flat + 0.05 * rough * smooth(0.04, 0.3, np.abs(x)))
    first = max(0, int(crest.min()) - 1)
    y = np.arange(first, rows, dtype=np.float32)[:, None]
    cover = np.clip(y - crest[None, :] + 0.5, 0.0, 1.0)
    stone = bank.sample("rough", x[None, :] * 0.5 + ox, y / np.float32(rows) * 0.9 + oy)
    tone = palette.near * (0.55 + 0.7 * stone)
    rim = np.exp(-np.abs(y - crest[None, :]) / np.float32(max(1.0, rows * 0.006))) * stone
    tone = tone + palette.lamp * (rim * np.float32(0.30))
    region = light[:, first:]
    region += (tone - region) * cover


def _frame(light: Array, setting: Setting) -> None:
    """A gilded frame around the picture."""
    _, rows, columns = light.shape
    palette, bank, (ox, oy) = setting.palette, setting.bank, setting.offset
    wide = np.float32(0.062 * min(rows, columns))
    x = np.arange(columns, dtype=np.float32) + 0.5
    y = np.arange(rows, dtype=np.float32) + 0.5
    across, down = np.minimum(x, columns - x)[None, :], np.minimum(y, rows - y)[:, None]
    depth = np.minimum(across, down) / wide
    # The inner edge casts a shadow on the canvas.
    light *= 1.0 - 0.55 * smooth(1.55, 1.0, depth)
    profile = np.sin(depth * 9.0) * 0.5 + np.sin(depth * 21.0 + 0.6) * 0.22
    upper = np.where(down < across, np.where(y[:, None] < rows / 2, 1.0, -0.6), 0.0)
    upper = upper + np.where(across <= down, np.where(x[None, :] < columns / 2, 0.5, -0.5), 0.0)
    along = np.where(down < across, x[None, :], y[:, None])
    beads = np.cos(along / wide * 9.5) * np.exp(-(((depth - 0.80) / 0.10) ** 2)) * 0.35
    worn = bank.sample("rough", x[None, :] / rows * 0.5 + ox, y[:, None] / rows * 0.5 + oy)
    shine = np.clip(0.40 + 0.26 * profile * upper + 0.16 * profile + beads + 0.22 * worn, 0.03, 1.3)
    gold = mix(colour("#3a250c"), mix(colour("#e9c166"), palette.lamp, 0.15), shine)
    light += (gold - light) * smooth(1.0 + 1.5 / wide, 1.0, depth)
