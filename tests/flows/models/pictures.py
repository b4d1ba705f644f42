"""A Cog model that makes files one by one."""

import tempfile
import time
from collections.abc import Iterator

from cog import BasePredictor, Input, Path


class Predictor(BasePredictor):
    """Makes small bitmaps."""

    def predict(
        self,
        number: int = Input(description="Files to make", default=3),
        pause: float = Input(description="Seconds before each", default=0.6),
    ) -> Iterator[Path]:
        """Make bitmaps, each of another colour."""
        for index in range(number):
            print(f"file {index}", flush=True)
            time.sleep(pause)
            path = Path(tempfile.mkdtemp()) / f"out-{index}.ppm"
            path.write_bytes(b"P6 1 1 255\n" + bytes([index, index, index]))
            yield path
