"""The listener of streams: server-sent events, from a prediction's first one, readable by whoever has the URL.

A reader that comes late, even after the end, is told everything from the start; one that brings ``Last-Event-ID`` only
what followed it. The stream ends after ``done``.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from loadtests.fake_model.sites import Site
from loadtests.fake_model.web import NOT_FOUND, answer
from loadtests.fake_model.world import Address, Prediction, StreamEvent, World, locate

_HEADERS = {"cache-control": "no-cache", "access-control-allow-origin": "*", "x-accel-buffering": "no"}


def make_streams(world: World, site: Site) -> Starlette:
    """The application of one site's third listener."""

    async def stream(request: Request) -> Response:
        prediction = world.streams.get(request.path_params["id"])
        makes_files = request.url.path.startswith("/v1/files/")
        if prediction is None or prediction.model.makes_files != makes_files or world.is_removed(prediction):
            return answer({"detail": NOT_FOUND, "status": 404}, 404)
        first = _place_after(prediction, request.headers.get("last-event-id"))
        return StreamingResponse(_tell(world, prediction, site, first), 200, _HEADERS, "text/event-stream")

    async def explain(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return answer({"detail": NOT_FOUND, "status": error.status_code}, error.status_code)

    routes = [Route("/v1/files/{id}", stream), Route("/v1/streams/{id}", stream)]
    return Starlette(routes=routes, exception_handlers={HTTPException: explain})


def _place_after(prediction: Prediction, event_id: str | None) -> int:
    """Where to go on; from the start when nobody knows that event."""
    return next((place for place, each in enumerate(prediction.events, 1) if each.id == event_id), 0)


async def _tell(world: World, prediction: Prediction, site: Site, place: int) -> AsyncIterator[bytes]:
    while True:
        while place < len(prediction.events):
            world.counts["stream_events"] += 1
            event = prediction.events[place]
            yield write_event(event, _text(world, event.data, site))
            place += 1
        if prediction.is_terminal:
            return
        await prediction.changed()


def write_event(event: StreamEvent, text: str) -> bytes:
    """The event as bytes; each line of its text becomes a ``data`` line."""
    lines = [f"event: {event.kind}", f"id: {event.id}", *(f"data: {line}" for line in text.split("\n"))]
    return ("\n".join(lines) + "\n\n").encode()


def _text(world: World, data: Any, site: Site) -> str:
    """What is told: text as it is, a file as its URL or data URI, anything else as JSON."""
    if isinstance(data, Address) and world.options.is_stream_inline:
        output = world.find_output(data.path)
        if output is not None:
            return f"data:{output.file.content_type};base64,{base64.b64encode(output.file.content).decode()}"
    told = locate(data, site)
    return told if isinstance(told, str) else orjson.dumps(told).decode()
