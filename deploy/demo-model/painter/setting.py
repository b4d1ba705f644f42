"""What a scene is given to work with: the plan, the noise, and the points to shade.

The picture is one unit high: ``y`` runs from 0 at the top to 1 at the bottom, ``x`` from
``-aspect / 2`` to ``aspect / 2``. A scene is a function of points alone, so a picture can be made
in bands of rows that stay in the processor's cache, and in steps that each look through a slightly
moved lens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .light import Array
from .noise import NoiseBank
from .palettes import Palette
from .words import Plan


@dataclass(frozen=True, slots=True)
class Band:
    """Some rows of the picture in one step.

    ``x`` is (1, columns), ``y`` is (rows, 1), ``pixel`` the height of a pixel. ``sway`` is a pair
    near 0 that differs from step to step: lights that move with it cast soft edges.
    """

    x: Array
    y: Array
    pixel: float
    sway: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that stays the same while a picture is painted.

    ``rng`` draws where things stand and is used up by the scene's constructor; ``offset`` moves
    every look-up in the noise tables.
    """

    plan: Plan
    bank: NoiseBank
    rng: np.random.Generator
    offset: tuple[float, float]
    aspect: float

    @property
    def palette(self) -> Palette:
        return self.plan.palette

    def between(self, low: float, high: float) -> float:
        """A number drawn for the composition."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Whether something drawn for the composition happens."""
        return float(self.rng.random()) < probability


class Scene(Protocol):
    """A picture as a function of its points."""

    #: Where figures stand: height of the ground (0 top, 1 bottom) and where the light comes from
    #: (-1 from the left to 1 from the right).
    floor: float
    light_side: float

    def shade(self, band: Band) -> Array:
        """Linear light, (3, rows, columns), of every point of the band."""
        ...
