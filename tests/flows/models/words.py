"""A Cog model that says words one by one, and fails or lingers when its input says so."""

import time

from cog import BasePredictor, ConcatenateIterator, Input


class Predictor(BasePredictor):
    """Says words."""

    def predict(
        self,
        prompt: str = Input(description="Words to say"),
        pause: float = Input(description="Seconds before each word", default=0.4),
        fails: bool = Input(description="Whether it fails after the last word", default=False),
    ) -> ConcatenateIterator[str]:
        """Say the prompt."""
        for number, word in enumerate(prompt.split()):
            print(f"word {number}", flush=True)
            time.sleep(pause)
            yield f"{word} "
        print("last line", flush=True)
        if fails:
            raise ValueError("lost for words")
