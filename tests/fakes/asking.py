"""What tests of the engine ask of it, and read of its answers."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from proxy.core.predictions import Prediction
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from tests.fakes.engine import TOKEN, Engine
from tests.fakes.upstreams import DELIVERY

FOX = {"prompt": "a red fox"}
OUT = f"{DELIVERY}/out-0.png"

OPENAPI: dict[str, Any] = {
    "openapi": "3.0.2",
    "components": {
        "schemas": {
            "Input": {
                "type": "object",
                "properties": {
                    "seed": {"type": "integer", "x-order": 0},
                    "steps": {"type": "integer", "default": 4, "minimum": 1, "maximum": 50, "x-order": 1},
                },
            }
        }
    },
}


def document(hit: Hit) -> dict[str, Any]:
    """A hit as its client reads it."""
    read = orjson.loads(hit.template.fill(hit.id, hit.input_json, hit.created_at))
    assert isinstance(read, dict)
    return read


async def shown(engine: Engine, entry: Running) -> Prediction:
    return await engine.views.of(entry)


async def found(engine: Engine, prediction_id: str, token: str | None = TOKEN) -> Prediction | None:
    return await engine.views.find(prediction_id, engine.request(token=token).scope)


async def canceled(engine: Engine, prediction_id: str, token: str = TOKEN) -> Prediction | None:
    return await engine.lives.cancel(prediction_id, engine.request(token=token).scope)


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(50):
        await asyncio.sleep(0)
