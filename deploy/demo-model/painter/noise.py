"""Noise tables: the grain of everything the painter draws.

Three square tables that repeat without a seam are made once, by shaping white noise in the
frequency domain and then ranking its values, so that every value from 0 to 1 is equally common.
The ranking matters to the eye: "the highest fifth of the clouds" really covers a fifth of the sky,
and ridges and contours are as dense in one picture as in the next.

A look-up is a blend of four neighbours. `NoiseBank` counts them: the count is the work a picture
took, a number that does not depend on the machine's speed.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Table = Literal["smooth", "cloud", "rough"]

# Side of a table. Large enough that its repetition is not seen (pictures span less than a tile or
# two), small enough that three of them and their gradients are made in a fraction of a second.
SIDE: Final = 512
# Per table: the lowest and highest frequency in cycles a tile, and how fast power falls between.
# "smooth" stays far below the table's resolution, so that its slopes are free of facets.
SPECTRA: Final[dict[Table, tuple[float, float, float]]] = {
    "smooth": (3.0, 22.0, 1.0),
    "cloud": (2.0, 200.0, 1.75),
    "rough": (5.0, 230.0, 1.25),
}
TABLE_SEED: Final = 0x486F74706C617465
STRIDE: Final = SIDE + 1


def _coloured(rng: np.random.Generator, low: float, high: float, falloff: float) -> Array:
    white = np.fft.rfft2(rng.standard_normal((SIDE, SIDE)))
    rows = np.fft.fftfreq(SIDE, 1.0 / SIDE)[:, None]
    columns = np.fft.rfftfreq(SIDE, 1.0 / SIDE)[None, :]
    frequency = np.hypot(rows, columns)
    gain = np.maximum(frequency, low) ** -falloff
    gain *= np.exp(-((frequency / high) ** 4)) * (1.0 - np.exp(-((frequency / low) ** 4)))
    field = np.fft.irfft2(white * gain, s=(SIDE, SIDE)).ravel()
    ranks = np.empty(SIDE * SIDE, dtype=np.float32)
    ranks[np.argsort(field, kind="stable")] = np.linspace(0.0, 1.0, SIDE * SIDE, dtype=np.float32)
    return ranks.reshape(SIDE, SIDE)


def _with_seam(table: Array) -> Array:
    """Repeat the first row and column at the end, so that neighbours need no wrap-around."""
    return np.ascontiguousarray(np.pad(table, ((0, 1), (0, 1)), mode="wrap").ravel())


class NoiseBank:
    """The tables, their slopes, and a count of the look-ups made in them.

    Coordinates are in tiles: a table repeats after 1.0 in each direction. Arrays of any shapes that
    broadcast together may be given.
    """

    def __init__(self) -> None:
        rng = np.random.Generator(np.random.PCG64(TABLE_SEED))
        self._tables: dict[str, Array] = {}
        self._slopes: dict[str, tuple[Array, Array]] = {}
        for name, (low, high, falloff) in SPECTRA.items():
            table = _coloured(rng, low, high, falloff)
            # Central differences, scaled so that a typical slope is about 1 whatever the table.
            across = np.roll(table, -1, axis=1) - np.roll(table, 1, axis=1)
            down = np.roll(table, -1, axis=0) - np.roll(table, 1, axis=0)
            scale = np.float32(1.0 / max(float(across.std()), 1e-6))
            self._tables[name] = _with_seam(table)
            self._slopes[name] = (_with_seam(across * scale), _with_seam(down * scale))
        self._dots = rng.random((4, 1 << 16), dtype=np.float32)
        self.lookups = 0

    def sample(self, table: Table, x: Array, y: Array) -> Array:
        """Value of ``table`` at each point, 0 to 1, evenly spread."""
        index, fx, fy = self._locate(x, y)
        return _blend(self._tables[table], index, fx, fy)

    def slope(self, table: Table, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Value and slopes across and down at each point; a typical slope is about 1."""
        index, fx, fy = self._locate(x, y)
        across, down = self._slopes[table]
        value = _blend(self._tables[table], index, fx, fy)
        return value, _blend(across, index, fx, fy), _blend(down, index, fx, fy)

    def dots(self, cell_x: Array, cell_y: Array, salt: int) -> tuple[Array, Array, Array, Array]:
        """Four random numbers, 0 to 1, for each whole-numbered cell, always the same ones."""
        mixed = cell_x.astype(np.int64) * 73_856_093 ^ cell_y.astype(np.int64) * 19_349_663
        mixed = (mixed ^ salt * 83_492_791) * 0x9E37_79B1
        index = (mixed >> 15) & 0xFFFF
        self.lookups += index.size
        one, two, three, four = (row.take(index) for row in self._dots)
        return one, two, three, four

    def _locate(self, x: Array, y: Array) -> tuple[NDArray[np.intp], Array, Array]:
        fx, fy = x * np.float32(SIDE), y * np.float32(SIDE)
        whole_x, whole_y = np.floor(fx), np.floor(fy)
        fx, fy = fx - whole_x, fy - whole_y
        column = whole_x.astype(np.intp) & (SIDE - 1)
        row = whole_y.astype(np.intp) & (SIDE - 1)
        index = row * STRIDE + column
        self.lookups += index.size
        return index, fx, fy


def _blend(table: Array, index: NDArray[np.intp], fx: Array, fy: Array) -> Array:
    top = table.take(index)
    top += (table.take(index + 1) - top) * fx
    below = index + STRIDE
    bottom = table.take(below)
    bottom += (table.take(below + 1) - bottom) * fx
    bottom -= top
    bottom *= fy
    bottom += top
    return bottom
