"""The API's routes, below ``/v1``."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loadtests.fake_model.catalog import (
    COLLECTIONS,
    DEPLOYMENTS,
    HARDWARE,
    MODELS,
    JsonObject,
    Model,
    find_model,
    find_version,
)
from loadtests.fake_model.control import control_routes
from loadtests.fake_model.runs import Runner
from loadtests.fake_model.validation import explain, find_complaints
from loadtests.fake_model.world import Prediction, World

MAX_WAIT_S = 60.0
MODELS_SINCE = "2026-01-01T00:00:00.000000Z"

_SPELLING = re.compile(r"(?:(?P<model>[^/:]+/[^/:]+))?:?(?P<version>[0-9a-f]{64})?")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


class Problem(Exception):
    """An error answer."""

    def __init__(self, status: int, detail: str, title: str | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.body: JsonObject = {**({"title": title} if title else {}), "detail": detail, "status": status, **more}


NOT_FOUND = "The requested resource could not be found."


def answer(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(document), status, {"content-type": "application/json; charset=utf-8", **(headers or {})}
    )


class Api:
    """Handlers; each begins with who asks."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.runner = Runner(world)

    def account(self, request: Request) -> str:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token:
            raise Problem(401, "You did not pass an authentication token", "Unauthenticated")
        account = self.world.options.accounts.get(token)
        if scheme.lower() not in ("bearer", "token") or account is None:
            raise Problem(401, "You did not pass a valid authentication token", "Unauthenticated")
        return account

    async def create(self, request: Request) -> Response:
        account, body = self.account(request), await _read_object(request)
        given = body.get("input")
        if not isinstance(given, dict):
            raise Problem(422, "- input: input is required\n", "Input validation failed")
        model, deployment = self._target(request, body)
        complaints = find_complaints(model, given)
        if complaints:
            return answer(explain(complaints), 422)
        self.world.last_create = {"body": body, "prefer": request.headers.get("prefer")}
        prediction = self.runner.start(account, model, given, deployment)
        cancel_after_s = _parse_duration(request.headers.get("cancel-after"))
        if cancel_after_s is not None:
            asyncio.get_running_loop().call_later(cancel_after_s, self.runner.expire, prediction)
        status = await self._wait(prediction, request.headers.get("prefer", ""))
        document = self.world.render(prediction)
        if status == 202:
            document["status"] = "starting"
        rates = {"ratelimit-remaining": "599", "ratelimit-reset": "1"}
        return answer(document, status, {"location": document["urls"]["get"], **rates})

    def _target(self, request: Request, body: JsonObject) -> tuple[Model, str | None]:
        """The model that a create names by path or by ``version``, and the deployment before it."""
        if not request.path_params:
            found = _SPELLING.fullmatch(str(body.get("version", "")))
            name, version = (found["model"], found["version"]) if found else (None, None)
            model = find_version(version) if version else find_model(name or "")
            if model is None or (name and model.full_name != name) or (not version and not model.is_official):
                raise Problem(
                    422,
                    "The specified version does not exist (or perhaps you don't have permission to use it?)",
                    "Invalid version or not permitted",
                )
            return model, None
        full_name = f"{request.path_params['owner']}/{request.path_params['name']}"
        if request.url.path.startswith("/v1/deployments/"):
            model = find_model(DEPLOYMENTS.get(full_name, ""))
            if model is None:
                raise Problem(404, NOT_FOUND)
            return model, full_name
        model = find_model(full_name)
        if model is None or not model.is_official:
            raise Problem(404, NOT_FOUND)
        return model, None

    async def _wait(self, prediction: Prediction, prefer: str) -> int:
        """Hold a create as ``Prefer`` asks: 201, or 202 when the time ran out."""
        found = re.search(r"\bwait(?:=(\d+))?", prefer)
        if found is None:
            return 201
        wait_s = min(max(float(found[1] or MAX_WAIT_S), 1.0), MAX_WAIT_S)
        try:
            await asyncio.wait_for(prediction.ended.wait(), wait_s)
        except TimeoutError:
            return 202
        return 201

    def _find(self, request: Request) -> Prediction:
        account = self.account(request)
        prediction = self.world.predictions.get(request.path_params["id"])
        if prediction is None or prediction.account != account:
            raise Problem(404, NOT_FOUND)
        return prediction

    async def get(self, request: Request) -> Response:
        return answer(self.world.render(self._find(request)), headers={"ratelimit-remaining": "2999"})

    async def cancel(self, request: Request) -> Response:
        prediction = self._find(request)
        self.runner.cancel(prediction)
        return answer(self.world.render(prediction))

    async def predictions(self, request: Request) -> Response:
        account, size = self.account(request), self.world.options.page_size
        mine = [each for each in reversed(self.world.predictions.values()) if each.account == account]
        cursor = request.query_params.get("cursor", "0")
        first = int(cursor) if cursor.isdigit() else 0
        url = f"{self.world.api_url}/predictions?cursor="
        return answer(
            {
                "previous": f"{url}{max(first - size, 0)}" if first else None,
                "next": f"{url}{first + size}" if first + size < len(mine) else None,
                "results": [self.world.render(each) for each in mine[first : first + size]],
            }
        )

    async def whoami(self, request: Request) -> Response:
        account = self.account(request)
        github = f"https://github.com/{account}"
        return answer({"type": "user", "username": account, "name": account.title(), "github_url": github})

    async def hardware(self, request: Request) -> Response:
        self.account(request)
        return answer(HARDWARE)

    async def collections(self, request: Request) -> Response:
        self.account(request)
        return answer(_page([{"name": slug, "slug": slug, "description": slug} for slug in COLLECTIONS]))

    async def collection(self, request: Request) -> Response:
        self.account(request)
        slug = request.path_params["slug"]
        if slug not in COLLECTIONS:
            raise Problem(404, NOT_FOUND)
        models = [_render_model(model) for model in MODELS if model.full_name in COLLECTIONS[slug]]
        return answer({"name": slug, "slug": slug, "description": slug, "full_description": None, "models": models})

    async def models(self, request: Request) -> Response:
        """GET lists; QUERY searches for the words of its plain text body."""
        self.account(request)
        words = (await request.body()).decode().split() if request.method == "QUERY" else []
        return answer(_page([_render_model(model) for model in MODELS if all(w in model.full_name for w in words)]))

    def _model(self, request: Request) -> Model:
        self.account(request)
        model = find_model(f"{request.path_params['owner']}/{request.path_params['name']}")
        if model is None:
            raise Problem(404, NOT_FOUND)
        return model

    async def model(self, request: Request) -> Response:
        return answer(_render_model(self._model(request)))

    async def versions(self, request: Request) -> Response:
        model = self._model(request)
        return answer(_page([] if model.is_official else [_render_version(model)]))

    async def version(self, request: Request) -> Response:
        model = self._model(request)
        if model.is_official or request.path_params["id"] != model.version:
            raise Problem(404, NOT_FOUND)
        return answer(_render_version(model))

    async def deployments(self, request: Request) -> Response:
        self.account(request)
        return answer(_page([_render_deployment(name) for name in DEPLOYMENTS]))

    async def deployment(self, request: Request) -> Response:
        self.account(request)
        name = f"{request.path_params['owner']}/{request.path_params['name']}"
        if name not in DEPLOYMENTS:
            raise Problem(404, NOT_FOUND)
        return answer(_render_deployment(name))


def make_api(world: World) -> Starlette:
    """The application of the API's listener."""
    api = Api(world)
    model = "/v1/models/{owner}/{name}"
    routes = [
        Route("/v1/predictions", api.create, methods=["POST"]),
        Route(f"{model}/predictions", api.create, methods=["POST"]),
        Route("/v1/deployments/{owner}/{name}/predictions", api.create, methods=["POST"]),
        Route("/v1/predictions", api.predictions),
        Route("/v1/predictions/{id}", api.get),
        Route("/v1/predictions/{id}/cancel", api.cancel, methods=["POST"]),
        Route("/v1/account", api.whoami),
        Route("/v1/hardware", api.hardware),
        Route("/v1/collections", api.collections),
        Route("/v1/collections/{slug}", api.collection),
        Route("/v1/models", api.models, methods=["GET", "QUERY"]),
        Route(model, api.model),
        Route(f"{model}/versions", api.versions),
        Route(f"{model}/versions/{{id}}", api.version),
        Route("/v1/deployments", api.deployments),
        Route("/v1/deployments/{owner}/{name}", api.deployment),
        *control_routes(world),
    ]
    return Starlette(routes=routes, exception_handlers={Problem: _explain, HTTPException: _explain_http})


async def _explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return answer(error.body, error.status)


async def _explain_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return answer({"detail": NOT_FOUND, "status": error.status_code}, error.status_code)


async def _read_object(request: Request) -> JsonObject:
    try:
        document = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        raise Problem(400, "The request body is not valid JSON", "Bad request") from None
    if not isinstance(document, dict):
        raise Problem(400, "The request body is not a JSON object", "Bad request")
    return document


def _parse_duration(text: str | None) -> float | None:
    found = _DURATION.fullmatch(text or "")
    if not text or found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return max(float(hours * 3600 + minutes * 60 + seconds), 5.0)


def _page(results: list[JsonObject]) -> JsonObject:
    return {"next": None, "previous": None, "results": results}


def _render_version(model: Model) -> JsonObject:
    return {
        "id": model.version,
        "created_at": MODELS_SINCE,
        "cog_version": "0.16.0",
        "openapi_schema": model.openapi(),
    }


def _render_model(model: Model) -> JsonObject:
    return {
        "url": f"https://replicate.com/{model.full_name}",
        "owner": model.owner,
        "name": model.name,
        "description": f"Draws for {model.owner}",
        "visibility": "public",
        "is_official": model.is_official,
        "github_url": None,
        "license_url": None,
        "cover_image_url": None,
        "run_count": 0,
        "default_example": None,
        "latest_version": _render_version(model),
    }


def _render_deployment(full_name: str) -> JsonObject:
    owner, _, name = full_name.partition("/")
    model = find_model(DEPLOYMENTS[full_name])
    assert model is not None
    release = {
        "number": 1,
        "model": model.full_name,
        "version": model.version,
        "created_at": MODELS_SINCE,
        "created_by": {"type": "organization", "username": owner},
        "configuration": {"hardware": "cpu", "min_instances": 0, "max_instances": 1},
    }
    return {"owner": owner, "name": name, "current_release": release}
