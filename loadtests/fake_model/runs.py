"""Running predictions: boot, wait at the gate, work, publish."""

from __future__ import annotations

import asyncio
import secrets
import time

from loadtests.fake_model.catalog import JsonObject, Model, ModelError
from loadtests.fake_model.world import Prediction, World, new_id

STEPS = 4


class Runner:
    """Starts predictions and knows which models are warm."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._warm_from: dict[str, float] = {}
        self._warm_until: dict[str, float] = {}

    def start(self, account: str, model: Model, given: JsonObject, deployment: str | None) -> Prediction:
        prediction = Prediction(new_id(), account, model, given, time.time(), deployment)
        self._world.predictions[prediction.id] = prediction
        self._world.runs[model.full_name] += 1
        prediction.task = asyncio.create_task(self._run(prediction))
        return prediction

    def cancel(self, prediction: Prediction) -> None:
        """End it now; nothing happens to one that has ended."""
        if prediction.is_terminal:
            return
        if prediction.task is not None:
            prediction.task.cancel()
        _end(prediction, "canceled")

    def expire(self, prediction: Prediction) -> None:
        """Its deadline is reached: ``aborted`` when it had not started, else ``canceled``."""
        if prediction.is_terminal:
            return
        self.cancel(prediction)
        if prediction.started_at is None:
            prediction.status = "aborted"

    async def _run(self, prediction: Prediction) -> None:
        await asyncio.sleep(self._boot_s(prediction.model))
        prediction.started_at = time.time()
        prediction.status = "processing"
        given = prediction.input
        seed = given.get("seed")
        if seed is None:
            seed = secrets.randbelow(2**31)
        prediction.logs = f"Using seed: {seed}\n"
        await self._world.gate.wait()
        run_s = prediction.model.run_s
        pause_s = (given.get("seconds", 2.0) if run_s is None else run_s) / STEPS
        for step in range(1, STEPS + 1):
            await asyncio.sleep(pause_s)
            prediction.logs += f"{100 * step // STEPS:3}%|{'#' * step:4}| {step}/{STEPS}\n"
        self._warm_until[prediction.model.full_name] = time.time() + self._world.options.idle_s
        try:
            prediction.output = self._world.publish(prediction.model.make(given, seed))
        except ModelError as error:
            prediction.error = str(error)
        _end(prediction, "failed" if prediction.error else "succeeded")

    def _boot_s(self, model: Model) -> float:
        """Seconds until the model is up; those who come during a boot wait for the rest of it."""
        boot_s, name, now = self._world.options.boot_s, model.full_name, time.time()
        if model.is_official or not boot_s:
            return 0.0
        if now > self._warm_until.get(name, 0.0):
            self._warm_from[name] = now + boot_s
            self._warm_until[name] = now + boot_s + self._world.options.idle_s
        return max(self._warm_from[name] - now, 0.0)


def _end(prediction: Prediction, status: str) -> None:
    prediction.completed_at = time.time()
    prediction.status = status
    if prediction.started_at is not None:
        prediction.metrics["predict_time"] = prediction.completed_at - prediction.started_at
    prediction.metrics["total_time"] = prediction.completed_at - prediction.created_at
    prediction.ended.set()
