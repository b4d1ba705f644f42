"""Running predictions and trainings: boot, wait at the gate, work, publish.

Each step is told to those who stream the prediction, and to its webhook.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator

from loadtests.fake_model.catalog import JsonObject, Model, ModelError
from loadtests.fake_model.courier import Courier
from loadtests.fake_model.fetching import FileReader
from loadtests.fake_model.world import Prediction, World

STEPS = 4
TRAINING_S = 0.05


class Runner:
    """Starts predictions and knows which models are warm."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._files = FileReader(world)
        self._courier = Courier(world)
        self._warm_from: dict[str, float] = {}
        self._warm_until: dict[str, float] = {}

    def start(self, prediction: Prediction) -> None:
        """Take it up; it is known from now on."""
        world, name = self._world, prediction.model.full_name
        world.predictions[prediction.id] = prediction
        world.streams[prediction.stream_id] = prediction
        world.runs[name] += 1
        if name in world.registry.entries:
            world.registry.entries[name].run_count += 1
        self._begin(prediction, self._predict)

    def train(self, training: Prediction) -> None:
        """Take up a training; in the end its destination has a new version."""
        self._world.trainings[training.id] = training
        self._begin(training, self._train)

    def _begin(self, prediction: Prediction, work: Callable[[Prediction], Awaitable[None]]) -> None:
        prediction.task = asyncio.create_task(self._run(prediction, work))
        if prediction.deadline is not None:
            left_s = prediction.deadline - time.time()
            asyncio.get_running_loop().call_later(left_s, self.expire, prediction)

    def cancel(self, prediction: Prediction) -> None:
        """End it now; nothing happens to one that has ended."""
        self._stop(prediction, "canceled")

    def expire(self, prediction: Prediction) -> None:
        """Its deadline is reached: ``aborted`` when it had not started, else ``canceled``."""
        self._stop(prediction, "aborted" if prediction.started_at is None else "canceled")

    def _stop(self, prediction: Prediction, status: str) -> None:
        if prediction.is_terminal:
            return
        if prediction.task is not None:
            prediction.task.cancel()
        self._end(prediction, status)

    async def _run(self, prediction: Prediction, work: Callable[[Prediction], Awaitable[None]]) -> None:
        try:
            await work(prediction)
        except ModelError as error:
            prediction.error = str(error)
            self._end(prediction, "failed")
        except Exception as error:  # a model that stumbles over an input has failed, as with the real service
            prediction.error = f"Prediction failed: {type(error).__name__}"
            self._end(prediction, "failed")
        else:
            self._end(prediction, "succeeded")

    async def _predict(self, prediction: Prediction) -> None:
        model = prediction.model
        await asyncio.sleep(self._boot_s(model))
        self._set_out(prediction)
        given = await self._files.resolve(prediction)
        given = {name: value for name, value in given.items() if name in model.properties}
        seed = given.get("seed")
        if seed is None:
            seed = secrets.randbelow(2**31) if "seed" in model.properties else 0
        self._log(prediction, f"Using seed: {seed}\n")
        await self._world.gate.wait()
        self._stay_warm(model)
        seed += model.revision << 32
        if model.is_iterator:
            await self._grow(prediction, model.make(given, seed))
        else:
            run_s = given.get("seconds", 2.0) if model.run_s is None else model.run_s
            await self._take_steps(prediction, run_s)
            self._put_out(prediction, self._world.publish(model.make(given, seed)))
        self._stay_warm(model)
        if given.get("answers_early"):
            prediction.answerable.set()
        await asyncio.sleep(given.get("linger", 0.0))
        if not model.makes_files:
            prediction.metrics["input_token_count"] = len(str(given.get("prompt", "")).split())
            prediction.metrics["output_token_count"] = len("".join(prediction.output).split())

    async def _grow(self, prediction: Prediction, parts: Iterator[object]) -> None:
        """Part by part; each is there to be polled, and waits at the gate."""
        interval_s = prediction.input.get("interval", prediction.model.properties["interval"]["default"])
        prediction.output = []
        for number, part in enumerate(parts, 1):
            await asyncio.sleep(interval_s)
            await self._world.gate.wait()
            made = self._world.publish(part)
            prediction.output = [*prediction.output, made]
            if prediction.model.makes_files:
                self._log(prediction, f"File {number}\n")
            prediction.tell("output", made)
            self._courier.tell(prediction, "output")

    def _put_out(self, prediction: Prediction, output: object) -> None:
        """The whole output at once; streams tell the items of a list one by one."""
        prediction.output = output
        for item in output if isinstance(output, list) else [output]:
            prediction.tell("output", item)
        self._courier.tell(prediction, "output")

    async def _train(self, training: Prediction) -> None:
        await asyncio.sleep(0)
        self._set_out(training)
        await self._world.gate.wait()
        await self._take_steps(training, TRAINING_S)
        destination = training.destination
        assert destination is not None
        version = self._world.registry.add_version(destination, training.model)
        weights = f"{training.site.delivery_url}/xezq/{secrets.token_urlsafe(24)}/trained_model.tar"
        training.output = {"version": f"{destination}:{version.version}", "weights": weights}

    def _set_out(self, prediction: Prediction) -> None:
        prediction.started_at = time.time()
        prediction.status = "processing"
        self._courier.tell(prediction, "start")

    async def _take_steps(self, prediction: Prediction, run_s: float) -> None:
        for step in range(1, STEPS + 1):
            await asyncio.sleep(run_s / STEPS)
            self._log(prediction, f"{100 * step // STEPS:3}%|{'#' * step:4}| {step}/{STEPS}\n")

    def _log(self, prediction: Prediction, text: str) -> None:
        prediction.logs += text
        prediction.tell("logs", text)
        self._courier.tell(prediction, "logs")

    def _end(self, prediction: Prediction, status: str) -> None:
        prediction.completed_at = time.time()
        prediction.status = status
        if prediction.started_at is not None:
            prediction.metrics["predict_time"] = prediction.completed_at - prediction.started_at
        if prediction.destination is None:
            seconds = self._world.run_seconds
            self._world.ends[status] += 1
            seconds[status] = seconds.get(status, 0.0) + prediction.metrics.get("predict_time", 0.0)
        prediction.metrics["total_time"] = prediction.completed_at - prediction.created_at
        prediction.answerable.set()
        prediction.ended.set()
        if status == "failed":
            prediction.tell("error", {"detail": prediction.error})
        prediction.tell("done", _DONE[status])
        self._courier.tell(prediction, "completed")

    def _stay_warm(self, model: Model) -> None:
        self._warm_until[model.full_name] = time.time() + self._world.options.idle_s

    def _boot_s(self, model: Model) -> float:
        """Seconds until the model is up; those who come during a boot wait for the rest of it."""
        boot_s, name, now = self._world.options.boot_s, model.full_name, time.time()
        if model.is_official or not boot_s:
            return 0.0
        if now > self._warm_until.get(name, 0.0):
            self._warm_from[name] = now + boot_s
            self._warm_until[name] = now + boot_s + self._world.options.idle_s
        return max(self._warm_from.get(name, now) - now, 0.0)


_DONE: dict[str, JsonObject] = {
    "succeeded": {},
    "failed": {"reason": "error"},
    "canceled": {"reason": "canceled"},
    "aborted": {"reason": "canceled"},
}
