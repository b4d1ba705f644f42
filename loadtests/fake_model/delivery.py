"""The listener of output files: readable without a credential until they expire."""

from __future__ import annotations

from email.utils import formatdate

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from loadtests.fake_model.world import World


def make_delivery(world: World) -> Starlette:
    """The application of the second listener."""

    async def read(request: Request) -> Response:
        output = world.outputs.get(request.path_params["path"])
        if output is None or world.is_expired(output.created_at):
            return PlainTextResponse("Not Found", 404)
        headers = {
            "content-type": output.file.content_type,
            "etag": output.etag,
            "last-modified": formatdate(output.created_at, usegmt=True),
            "cache-control": "public,max-age=3600",
            "access-control-allow-origin": "*",
        }
        if request.headers.get("if-none-match") == output.etag:
            return Response(status_code=304, headers=headers)
        return Response(output.file.content, headers=headers)

    return Starlette(routes=[Route("/{path:path}", read)])
