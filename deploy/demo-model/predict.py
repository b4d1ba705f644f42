"""The demo model: a real Cog predictor that draws what the prompt says, without weights.

It exists so that a proxy can be shown, tested and measured against a true model server: it boots,
warms up, takes work that grows with pixels and steps, logs like the popular models and gives the
same bytes for the same inputs. The drawing is in `painter`; this module only speaks Cog.
"""

# Cog 0.16 reads annotations as objects: no postponed evaluation in this module.
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path as LocalPath
from typing import Any, Final

import cog
from cog import BasePredictor, Input, Path
from painter import Painter, Request, encode
from PIL import Image, UnidentifiedImageError

# Test hooks, off unless this names them: see README.md.
FAULTS_VARIABLE: Final = "HOTPLATE_DEMO_FAULTS"
HANG_S: Final = 600.0
LONGEST_SLOW_S: Final = 600.0
NAP_S: Final = 0.05
# Followed by the number of the process that writes in the folder.
OUTPUT_PREFIX: Final = "hotplate-demo-"


class Predictor(BasePredictor):
    """Draws pictures from prompts."""

    def setup(self) -> None:
        """Build the noise tables; the first picture is then as fast as the next."""
        started = time.perf_counter()
        self._faults = os.environ.get(FAULTS_VARIABLE, "")
        if self._faults == "setup":
            raise RuntimeError("setup failed on purpose")
        self._painter = Painter()
        self._painter.paint(Request(prompt="warm up", seed=0, width=32, height=32, steps=1))
        self._output_dir: LocalPath | None = None
        _remove_leftovers()
        print(f"Setup took {time.perf_counter() - started:.2f} s", flush=True)

    def predict(
        self,
        prompt: str = Input(description="What is to be seen"),
        negative_prompt: str = Input(description="What is not to be seen", default=""),
        image: Path | None = Input(description="A picture to start from", default=None),  # noqa: B008 - Cog's way
        prompt_strength: float = Input(
            description="How much of image is painted over: 0 keeps it, 1 leaves nothing of it",
            default=0.8,
            ge=0.0,
            le=1.0,
        ),
        width: int = Input(description="Width in pixels", default=512, ge=16, le=2048),
        height: int = Input(description="Height in pixels", default=512, ge=16, le=2048),
        num_outputs: int = Input(
            description="Number of pictures; each after the first uses the next seed",
            default=1,
            ge=1,
            le=4,
        ),
        num_inference_steps: int = Input(
            description="More steps give softer light and finer edges, and take longer",
            default=4,
            ge=1,
            le=50,
        ),
        seed: int | None = Input(
            description="Same seed and inputs, same picture; leave empty for a random one",
            default=None,
        ),
        output_format: str = Input(description="File format", default="webp", choices=["webp", "png", "jpg"]),
        output_quality: int = Input(description="0 to 100, for webp and jpg", default=80, ge=0, le=100),
    ) -> list[Path]:
        """Draw the prompt."""
        if seed is None:
            seed = int.from_bytes(os.urandom(4), "big")
        print(f"Using seed: {seed}", flush=True)
        if self._faults:
            _misbehave_before_drawing(prompt)
        source = _open_image(image) if image is not None else None
        output_dir = self._fresh_output_dir()
        paths: list[Path] = []
        for number in range(num_outputs):

            def report(step: int, steps: int, done: int = number * num_inference_steps) -> None:
                _print_progress(done + step, num_outputs * num_inference_steps)
                if self._faults and prompt == "fault:crash":
                    os._exit(13)

            painting = self._painter.paint(
                Request(
                    prompt=prompt,
                    negative_prompt=negative_prompt,
                    seed=seed + number,
                    width=width,
                    height=height,
                    steps=num_inference_steps,
                    image=source,
                    prompt_strength=prompt_strength,
                ),
                on_step=report,
            )
            path = output_dir / f"out-{number}.{output_format}"
            path.write_bytes(encode(painting.pixels, output_format, output_quality))
            paths.append(Path(path))
        _record_metric("image_count", num_outputs)
        return paths

    def _fresh_output_dir(self) -> LocalPath:
        """An empty folder for one prediction's files; the one before is removed.

        Cog leaves output files behind once it has sent them, which would fill the disk.
        """
        if self._output_dir is not None:
            shutil.rmtree(self._output_dir, ignore_errors=True)
        self._output_dir = LocalPath(tempfile.mkdtemp(prefix=f"{OUTPUT_PREFIX}{os.getpid()}-"))
        return self._output_dir


def _remove_leftovers() -> None:
    """Remove the last outputs of servers that were ended before they could."""
    for folder in LocalPath(tempfile.gettempdir()).glob(f"{OUTPUT_PREFIX}*-*"):
        number = folder.name.removeprefix(OUTPUT_PREFIX).split("-")[0]
        if number.isdigit() and not _is_running(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _open_image(path: LocalPath) -> Image.Image:
    try:
        with Image.open(path) as opened:
            opened.load()
            return opened.copy()
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError("image: this is not a picture that can be read") from error


def _print_progress(done: int, total: int) -> None:
    share = done / total
    print(f"{share * 100:3.0f}%|{'#' * round(share * 10):<10}| {done}/{total}", flush=True)


def _record_metric(name: str, value: int) -> None:
    """Add a metric to the prediction where this Cog has a way to."""
    current_scope: Any = getattr(cog, "current_scope", None)
    if current_scope is not None:
        with warnings.catch_warnings():
            # Cog 0.16 calls the function experimental, in the prediction's logs.
            warnings.simplefilter("ignore")
            current_scope().record_metric(name, value)


def _misbehave_before_drawing(prompt: str) -> None:
    if prompt == "fault:raise":
        raise ValueError("the model failed on purpose")
    if prompt == "fault:hang":
        _sleep(HANG_S)
    if prompt.startswith("fault:slow:"):
        _sleep(min(float(prompt.removeprefix("fault:slow:")), LONGEST_SLOW_S))


def _sleep(seconds: float) -> None:
    # Small naps let a cancellation through.
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(NAP_S)
