"""Drawing with outlines: smooth shapes and limbs, filled with colour at the edges' true coverage.

A `Sketch` is a list of parts, the first at the back. Its coordinates are its own: y grows
downward, and whoever draws it says how long a unit is and where the origin falls.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .light import Array, colour

Outline = NDArray[np.float64]
Point = tuple[float, float]

# Samples a pixel is divided into along each axis to find how much of it an outline covers.
OVERSAMPLING = 4


@dataclass(frozen=True, slots=True)
class Part:
    """One shape, the union of its outlines.

    ``points`` holds the outlines one after another, (points, 2); ``ends`` is where each ends.
    ``volume`` is how strongly the side away from the light darkens; ``fur`` how strongly the
    texture shows; ``glow`` is 1 for what shines by itself; ``cover`` is below 1 for what can be
    seen through.
    """

    points: Outline
    ends: tuple[int, ...]
    tint: Array
    volume: float = 0.5
    fur: float = 0.0
    glow: float = 0.0
    cover: float = 1.0


class Sketch:
    """Parts in the order they are painted."""

    def __init__(self, parts: Iterable[Part] = ()) -> None:
        self.parts: list[Part] = list(parts)

    def blob(
        self,
        tint: str | Array,
        points: Sequence[Point],
        *,
        both: bool = False,
        volume: float = 0.5,
        fur: float = 0.0,
        glow: float = 0.0,
    ) -> Sketch:
        """Add a smooth closed shape through the points; ``both`` adds its mirror image too."""
        return self._add(tint, (_spline(points),), both, volume, fur, glow)

    def poly(
        self,
        tint: str | Array,
        points: Sequence[Point],
        *,
        both: bool = False,
        volume: float = 0.5,
        fur: float = 0.0,
        glow: float = 0.0,
    ) -> Sketch:
        """Add a closed shape with straight edges."""
        return self._add(tint, (np.array(points, dtype=float),), both, volume, fur, glow)

    def oval(
        self,
        tint: str | Array,
        x: float,
        y: float,
        rx: float,
        ry: float,
        *,
        turn: float = 0.0,
        both: bool = False,
        volume: float = 0.5,
        fur: float = 0.0,
        glow: float = 0.0,
    ) -> Sketch:
        """Add an ellipse, turned clockwise by ``turn`` radians."""
        return self._add(tint, (_ellipse(x, y, rx, ry, turn),), both, volume, fur, glow)

    def limb(
        self,
        tint: str | Array,
        points: Sequence[Point],
        radii: Sequence[float],
        *,
        both: bool = False,
        volume: float = 0.5,
        fur: float = 0.0,
        glow: float = 0.0,
    ) -> Sketch:
        """Add a rounded stroke along a smooth path, its radius given at each of the points."""
        path, thick = _path(points, radii)
        outlines: list[Outline] = [_ellipse(x, y, r, r, 0.0, 20) for (x, y), r in zip(path, thick, strict=True)]
        for number in range(len(path) - 1):
            step = path[number + 1] - path[number]
            normal = np.array([-step[1], step[0]]) / max(float(np.hypot(*step)), 1e-9)
            first, second = normal * thick[number], normal * thick[number + 1]
            outlines.append(
                np.array(
                    [path[number] + first, path[number + 1] + second, path[number + 1] - second, path[number] - first]
                )
            )
        return self._add(tint, tuple(outlines), both, volume, fur, glow)

    def add(self, other: Sketch) -> Sketch:
        """Add another sketch in front."""
        self.parts.extend(other.parts)
        return self

    def moved(
        self,
        scale: float = 1.0,
        x: float = 0.0,
        y: float = 0.0,
        turn: float = 0.0,
        flip: bool = False,
    ) -> Sketch:
        """A copy that is scaled, then mirrored and turned, then moved."""
        cos, sin = np.cos(turn), np.sin(turn)
        matrix = np.array([[cos, sin], [-sin, cos]]) * scale
        if flip:
            matrix = np.array([[-1.0, 0.0], [0.0, 1.0]]) @ matrix
        return Sketch(replace(part, points=part.points @ matrix + (x, y)) for part in self.parts)

    def faded(self, cover: float) -> Sketch:
        """A copy that can be seen through."""
        return Sketch(replace(part, cover=part.cover * cover) for part in self.parts)

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of all parts."""
        points = np.concatenate([part.points for part in self.parts])
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return float(left), float(top), float(right), float(bottom)

    def _add(
        self,
        tint: str | Array,
        outlines: tuple[Outline, ...],
        both: bool,
        volume: float,
        fur: float,
        glow: float,
    ) -> Sketch:
        linear = colour(tint) if isinstance(tint, str) else tint
        points, ends = np.concatenate(outlines), tuple(accumulate(map(len, outlines)))
        if both:
            # Two parts, so that each has light and shade of its own.
            self.parts.append(Part(points * (-1.0, 1.0), ends, linear, volume, fur, glow))
        self.parts.append(Part(points, ends, linear, volume, fur, glow))
        return self


def coverage(part: Part, rows: int, columns: int) -> tuple[Array, tuple[slice, slice]] | None:
    """How much of each pixel a part covers.

    Args:
        part: its outlines in pixels.
        rows: height of the canvas.
        columns: width of the canvas.

    Returns:
        Cover from 0 to 1 within a window of the canvas, and that window; ``None`` when the part
        is outside of it.
    """
    left, top = np.maximum(np.floor(part.points.min(axis=0)).astype(int) - 1, 0)
    right, bottom = np.ceil(part.points.max(axis=0)).astype(int) + 2
    right, bottom = min(int(right), columns), min(int(bottom), rows)
    if right <= left or bottom <= top:
        return None
    wide, tall = right - int(left), bottom - int(top)
    mask = Image.new("L", (wide * OVERSAMPLING, tall * OVERSAMPLING), 0)
    pen = ImageDraw.Draw(mask)
    placed = ((part.points - (left, top)) * OVERSAMPLING - 0.5).tolist()
    start = 0
    for end in part.ends:
        pen.polygon([(x, y) for x, y in placed[start:end]], fill=255)
        start = end
    cover = np.asarray(mask.reduce(OVERSAMPLING), dtype=np.float32) / np.float32(255.0)
    return cover, (slice(int(top), bottom), slice(int(left), right))


def _spline(points: Sequence[Point], samples: int = 10) -> Outline:
    knots = np.array(points, dtype=float)
    before, after = np.roll(knots, 1, axis=0), np.roll(knots, -1, axis=0)
    later = np.roll(knots, -2, axis=0)
    pieces = [
        _catmull_rom(before, knots, after, later, place) for place in np.linspace(0.0, 1.0, samples, endpoint=False)
    ]
    return np.stack(pieces, axis=1).reshape(-1, 2)


def _path(points: Sequence[Point], radii: Sequence[float]) -> tuple[Outline, Outline]:
    knots = np.column_stack([np.array(points, dtype=float), np.array(radii, dtype=float)])
    first, last = 2 * knots[0] - knots[1], 2 * knots[-1] - knots[-2]
    padded = np.vstack([first, knots, last])
    pieces = [
        _catmull_rom(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], place)
        for place in np.linspace(0.0, 1.0, 9, endpoint=False)
    ]
    path = np.vstack([np.stack(pieces, axis=1).reshape(-1, 3), knots[-1]])
    return path[:, :2], np.maximum(path[:, 2], 1e-4)


def _catmull_rom(a: Outline, b: Outline, c: Outline, d: Outline, t: float) -> Outline:
    return 0.5 * (
        2.0 * b + (c - a) * t + (2.0 * a - 5.0 * b + 4.0 * c - d) * t * t + (3.0 * b - a - 3.0 * c + d) * t * t * t
    )


def _ellipse(x: float, y: float, rx: float, ry: float, turn: float, sides: int = 40) -> Outline:
    angle = np.linspace(0.0, 2.0 * np.pi, sides, endpoint=False)
    across, down = rx * np.cos(angle), ry * np.sin(angle)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.column_stack([x + across * cos - down * sin, y + across * sin + down * cos])
