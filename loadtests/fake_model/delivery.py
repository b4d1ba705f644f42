"""The listener of output files: readable without a credential until they expire, whole or in ranges."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from email.utils import formatdate

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from loadtests.fake_model.world import World

PIECE_BYTES = 1 << 18
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))", re.ASCII)


def make_delivery(world: World) -> Starlette:
    """The application of a site's second listener."""

    async def read(request: Request) -> Response:
        output = world.find_output(request.path_params["path"])
        if output is None:
            return PlainTextResponse("Not Found", 404)
        content = output.file.content
        headers = {
            "content-type": output.file.content_type,
            "etag": output.etag,
            "last-modified": formatdate(output.created_at, usegmt=True),
            "cache-control": "public,max-age=3600",
            "accept-ranges": "bytes",
            "access-control-allow-origin": "*",
        }
        if request.headers.get("if-none-match") == output.etag:
            return Response(status_code=304, headers=headers)
        wanted = _RANGE.fullmatch(request.headers.get("range", "").strip())
        if wanted is None or request.headers.get("if-range", output.etag) != output.etag:
            return _send(content, 200, headers)
        first, end = _span(wanted, len(content))
        if first >= end:
            return Response(status_code=416, headers={**headers, "content-range": f"bytes */{len(content)}"})
        told = f"bytes {first}-{end - 1}/{len(content)}"
        return _send(content[first:end], 206, {**headers, "content-range": told})

    return Starlette(routes=[Route("/{path:path}", read)])


def _span(wanted: re.Match[str], size: int) -> tuple[int, int]:
    """First byte and end of a single range; several ranges at once are answered with the whole."""
    if wanted[3] is not None:
        return max(size - int(wanted[3]), 0), size
    return int(wanted[1]), min(int(wanted[2] or size) + 1, size)


def _send(content: bytes, status: int, headers: dict[str, str]) -> Response:
    """Small files at once, large ones in pieces, with a length all the same."""
    if len(content) <= PIECE_BYTES:
        return Response(content, status, headers)
    return StreamingResponse(_pieces(content), status, {**headers, "content-length": str(len(content))})


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]
