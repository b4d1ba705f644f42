"""A tiny Cog model that writes piece by piece, for the conformance suite."""

# Cog 0.16 reads annotations as objects: no postponed evaluation in this module.
import os
import time
from pathlib import Path

from cog import BasePredictor, ConcatenateIterator, Input


def note(what: str) -> None:
    """Leave a byte in the file that counts such events, if there is a folder for them."""
    if "CONFORMANCE_NOTES" in os.environ:
        with (Path(os.environ["CONFORMANCE_NOTES"]) / what).open("ab") as notes:
            notes.write(b".")


class Predictor(BasePredictor):
    """Says the prompt again, a word at a time."""

    def predict(
        self,
        prompt: str = Input(description="What is said"),
        seed: int = Input(description="Told, and not used", default=0),
        temperature: float = Input(description="Told, and not used", default=0.0),
    ) -> ConcatenateIterator[str]:
        """Give the words."""
        note("runs")
        print(f"Using seed: {seed}", flush=True)
        for word in prompt.split():
            time.sleep(0.02)
            yield f"{word} "
