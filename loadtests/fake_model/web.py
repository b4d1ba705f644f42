"""What all handlers share: errors, answers, who asks, bodies, pages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response

from loadtests.fake_model.catalog import JsonObject
from loadtests.fake_model.runs import Runner
from loadtests.fake_model.sites import Site
from loadtests.fake_model.world import World

NOT_FOUND = "The requested resource could not be found."
JSON = "application/json; charset=utf-8"
PROBLEM_JSON = "application/problem+json"

Item = TypeVar("Item")


class Problem(Exception):
    """An error answer."""

    def __init__(
        self, status: int, detail: str, title: str | None = None, headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers or {}
        self.body: JsonObject = {**({"title": title} if title else {}), "detail": detail, "status": status, **more}


def answer(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, {"content-type": JSON, **(headers or {})})


class Handlers:
    """Handlers of one noun, on one site; each begins with who asks."""

    def __init__(self, world: World, runner: Runner, site: Site) -> None:
        self.world = world
        self.runner = runner
        self.site = site

    def account(self, request: Request) -> str:
        """Who asks.

        Raises:
            Problem: 401, there is no token or not a known one.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token:
            raise Problem(401, "You did not pass an authentication token", "Unauthenticated")
        account = self.world.account_of(token)
        if scheme.lower() not in ("bearer", "token") or account is None:
            self.world.counts["refused"] += 1
            raise Problem(401, "You did not pass a valid authentication token", "Unauthenticated")
        return account

    def page(
        self,
        request: Request,
        newest_first: Sequence[Item],
        name_of: Callable[[Item], str],
        render: Callable[[Item], JsonObject],
        size: int | None = None,
    ) -> Response:
        """One page, with absolute URLs of its neighbours that keep the question's parameters.

        A cursor names the item that the page comes after (or before), so pages stay whole while items are added.
        """
        size = size or self.world.options.page_size
        direction, name = _read_cursor(request.query_params.get("cursor"))
        names = [name_of(each) for each in newest_first]
        first = 0
        if name:
            if name not in names:
                raise Problem(400, "Invalid cursor", "Bad request")
            place = names.index(name)
            first = place + 1 if direction == "after" else max(place - size, 0)
        last = min(first + size, len(names))
        if direction == "before":
            last = names.index(name)
        url = f"{self.site.api_url}{request.url.path.removeprefix('/v1')}"
        given = {key: value for key, value in request.query_params.items() if key != "cursor"}

        def link(way: str, place: int) -> str:
            return f"{url}?{urlencode({**given, 'cursor': _write_cursor(way, names[place])})}"

        return answer(
            {
                "previous": link("before", first) if 0 < first < len(names) else None,
                "next": link("after", last - 1) if 0 < last < len(names) else None,
                "results": [render(each) for each in newest_first[first:last]],
            },
            headers={"ratelimit-remaining": "2999"},
        )


def _write_cursor(way: str, name: str) -> str:
    return base64.urlsafe_b64encode(f"{way}:{name}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str | None) -> tuple[str, str]:
    if not cursor:
        return "after", ""
    try:
        way, _, name = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        way, name = "", ""
    if way not in ("after", "before") or not name:
        raise Problem(400, "Invalid cursor", "Bad request")
    return way, name


def parse_count(text: str, most: int) -> int | None:
    """A number of 0 to ``most`` in decimal digits; ``None`` for anything else."""
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    return int(text) if is_number and int(text) <= most else None


async def read_object(request: Request) -> JsonObject:
    """The JSON object that a request carries.

    Raises:
        Problem: 400, it carries none.
    """
    try:
        document = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        raise Problem(400, "The request body is not valid JSON", "Bad request") from None
    if not isinstance(document, dict):
        raise Problem(400, "The request body is not a JSON object", "Bad request")
    return document


def refuse(complaints: list[JsonObject]) -> Problem:
    """The 422 that names each bad field."""
    detail = "".join(f"- {each['field']}: {each['description']}\n" for each in complaints)
    return Problem(422, detail, "Input validation failed", invalid_fields=complaints)
