"""A tiny Cog model that writes piece by piece, for the conformance suite."""

# Cog 0.16 reads annotations as objects: no postponed evaluation in this module.
import os
import time
from pathlib import Path

from cog import BasePredictor, ConcatenateIterator, Input


def note_run() -> None:
    """Leave a byte in the file that counts runs, if there is one."""
    if "CONFORMANCE_RUNS" in os.environ:
        with Path(os.environ["CONFORMANCE_RUNS"]).open("ab") as runs:
            runs.write(b".")


class Predictor(BasePredictor):
    """Says the prompt again, a word at a time."""

    def predict(
        self,
        prompt: str = Input(description="What is said"),
        seed: int = Input(description="Told, and not used", default=0),
        temperature: float = Input(description="Told, and not used", default=0.0),
    ) -> ConcatenateIterator[str]:
        """Give the words."""
        note_run()
        print(f"Using seed: {seed}", flush=True)
        for word in prompt.split():
            time.sleep(0.02)
            yield f"{word} "
