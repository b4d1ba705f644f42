"""Routes with which a test steers the double; no credential needed, loopback only."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loadtests.fake_model.world import World


def control_routes(world: World) -> list[Route]:
    """``/_fault`` (POST adds, DELETE clears), ``/_counters`` (GET, DELETE), ``/_gate`` (POST ``{"closed": true}``)."""

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

    return [
        Route("/_fault", fault, methods=["POST", "DELETE"]),
        Route("/_counters", counters, methods=["GET", "DELETE"]),
        Route("/_gate", gate, methods=["POST"]),
    ]
