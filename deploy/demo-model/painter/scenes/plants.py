"""Trees and grass as outlines: the height at which they end over each column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..light import Array
from ..noise import NoiseBank
from ..setting import Band


def conifers(
    bank: NoiseBank,
    band: Band,
    y: Array,
    ground: Array,
    salt: int,
    *,
    cell: float,
    size: Callable[[Array], Array] | None = None,
    tiers: float = 7.5,
) -> Array:
    """A wood of pointed trees standing on ``ground``.

    Args:
        bank: where the trees' places and heights come from.
        band: the columns to be drawn.
        y: heights of the points, (rows, 1) or (rows, columns).
        ground: height of the ground over each column, (1, columns).
        salt: another number, another wood.
        cell: height of a tall tree; the distance between trees follows it.
        size: height of a tall tree where it is not the same everywhere, as a function of ``x``.

        tiers: how many tiers of branches a tree has.

    Returns:
        How much of each point a tree covers, 0 to 1, (rows, columns).
    """
    shape = np.broadcast_shapes(band.x.shape, y.shape)
    covered = np.zeros(shape, dtype=np.float32)
    for row, crowd in enumerate((0.30, 0.42, 0.21)):
        plot = np.float32(cell * crowd)
        shifted = band.x / plot + np.float32(0.37 * row)
        column = np.floor(shifted)
        for neighbour in (-1.0, 0.0, 1.0):
            own = column + np.float32(neighbour)
            place, height, lean, width = bank.dots(own, np.zeros_like(own), salt + row)
            middle = own + np.float32(0.2) + np.float32(0.6) * place
            tall = (0.35 + 0.65 * height) * (0.55 + 0.45 * (lean > 0.25))
            tall = tall * (size((middle - 0.37 * row) * plot) if size else np.float32(cell))
            away = np.abs(shifted - middle) * plot
            # Distance below the tip; branches come in tiers that droop outward.
            below = y - (ground - tall)
            tier = below / tall * tiers + away / tall * (2.2 * tiers)
            tooth = tier - np.floor(tier)
            spread = below * (0.17 + 0.09 * width) * (0.58 + 0.42 * tooth)
            edge = (spread - away) / np.float32(band.pixel) + 0.5
            np.maximum(covered, np.where(below > 0.0, edge, 0.0), out=covered)
    return np.clip(covered, 0.0, 1.0)


def trunks(bank: NoiseBank, band: Band, salt: int) -> Array:
    """A few straight trunks that leave the picture at the top, as cover from 0 to 1."""
    cell = np.float32(0.19)
    shifted = band.x / cell
    column = np.floor(shifted)
    covered = np.zeros((band.y.shape[0], band.x.shape[1]), dtype=np.float32)
    for neighbour in (-1.0, 0.0, 1.0):
        own = column + np.float32(neighbour)
        place, width, lean, shown = bank.dots(own, np.zeros_like(own), salt)
        rise = np.float32(1.0) - band.y
        middle = (own + 0.2 + 0.6 * place) * cell + (lean - 0.5) * 0.10 * rise
        root = 1.0 + 1.4 * np.exp(-np.clip(0.92 - band.y, 0.0, 1.0) * 26.0)
        half = (0.008 + 0.016 * width) * root * (1.0 - 0.25 * rise)
        edge = (half - np.abs(band.x - middle)) / np.float32(band.pixel) + 0.5
        np.maximum(covered, np.where(shown > 0.35, edge, 0.0), out=covered)
    return np.clip(covered, 0.0, 1.0)


def blades(bank: NoiseBank, band: Band, foot: float, tall: float, salt: int) -> Array:
    """Grass that grows from the height ``foot`` and bends, as cover from 0 to 1."""
    covered = np.zeros((band.y.shape[0], band.x.shape[1]), dtype=np.float32)
    rise = np.clip((foot - band.y) / np.float32(tall), 0.0, 1.5)
    if float(rise.max()) <= 0.0:
        return np.where(band.y > foot, np.float32(1.0), covered)
    for row, crowd in enumerate((0.16, 0.115)):
        cell = np.float32(tall * crowd)
        shifted = band.x / cell + np.float32(0.41 * row)
        column = np.floor(shifted)
        for neighbour in (-2.0, -1.0, 0.0, 1.0, 2.0):
            own = column + np.float32(neighbour)
            place, height, lean, width = bank.dots(own, np.zeros_like(own), salt + row)
            reach = 0.35 + 0.65 * height
            part = rise / reach
            bend = (lean - 0.5) * 2.6 * rise * rise
            away = np.abs(shifted - own - place - bend) * cell
            half = cell * (0.20 + 0.22 * width) * np.clip(1.0 - part, 0.0, 1.0)
            edge = (half - away) / np.float32(band.pixel) + 0.5
            np.maximum(covered, np.where(part < 1.0, edge, 0.0), out=covered)
    return np.clip(np.where(band.y > foot, 1.0, covered), 0.0, 1.0).astype(np.float32)
