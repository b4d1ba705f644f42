"""Routes with which a test steers the double; no credential needed, loopback only."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loadtests.fake_model.world import World


def control_routes(world: World) -> list[Route]:
    """The routes that begin with an underscore.

    - ``/_fault``: POST adds a fault, DELETE clears them
    - ``/_counters``: GET, DELETE
    - ``/_gate``: POST ``{"closed": true}`` holds runs
    - ``/_options``: POST changes options by name, DELETE restores them
    - ``/_expire``: POST ends the life of all outputs and data; ``{"files": true}`` that of uploaded files, too
    - ``/_revoked``: POST ``{"token": "..."}`` ends a token's life, DELETE brings all back
    - ``/_release``: POST ``{"model": "owner/name"}`` gives a model a new version, which makes other outputs
    """

    async def fault(request: Request) -> Response:
        if request.method == "DELETE":
            world.faults.waiting.clear()
            return Response(status_code=204)
        try:
            world.faults.add(orjson.loads(await request.body()))
        except ValueError as error:
            return JSONResponse({"detail": str(error)}, 422)
        return Response(status_code=204)

    async def counters(request: Request) -> Response:
        if request.method == "DELETE":
            world.reset_counters()
            return Response(status_code=204)
        return JSONResponse(world.counters())

    async def gate(request: Request) -> Response:
        if orjson.loads(await request.body())["closed"]:
            world.gate.clear()
        else:
            world.gate.set()
        return Response(status_code=204)

    async def options(request: Request) -> Response:
        if request.method == "DELETE":
            world.options = world.usual
            world.windows.clear()
            return Response(status_code=204)
        try:
            world.change_options(orjson.loads(await request.body()))
        except TypeError as error:
            return JSONResponse({"detail": str(error)}, 422)
        return Response(status_code=204)

    async def expire(request: Request) -> Response:
        given: Any = orjson.loads(await request.body() or b"{}")
        world.expire(has_files=bool(given.get("files")))
        return Response(status_code=204)

    async def revoked(request: Request) -> Response:
        if request.method == "DELETE":
            world.revoked.clear()
        else:
            world.revoked.add(orjson.loads(await request.body())["token"])
        return Response(status_code=204)

    async def release(request: Request) -> Response:
        try:
            model = world.registry.release(orjson.loads(await request.body())["model"])
        except KeyError as error:
            return JSONResponse({"detail": f"no {error}"}, 422)
        return JSONResponse({"model": model.full_name, "version": model.version})

    return [
        Route("/_fault", fault, methods=["POST", "DELETE"]),
        Route("/_counters", counters, methods=["GET", "DELETE"]),
        Route("/_gate", gate, methods=["POST"]),
        Route("/_options", options, methods=["POST", "DELETE"]),
        Route("/_expire", expire, methods=["POST"]),
        Route("/_revoked", revoked, methods=["POST", "DELETE"]),
        Route("/_release", release, methods=["POST"]),
    ]
