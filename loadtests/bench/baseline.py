"""The baseline: a bare Starlette application that gives the same reply. Its file is named in BENCH_REPLY."""

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

REPLY = Path(os.environ["BENCH_REPLY"]).read_bytes()


async def create(request: Request) -> Response:
    await request.body()
    return Response(REPLY, status_code=201, media_type="application/json")


app = Starlette(routes=[Route("/v1/models/{owner}/{name}/predictions", create, methods=["POST"])])
