"""The API's routes, below ``/v1``."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loadtests.fake_model.control import control_routes
from loadtests.fake_model.deployments import Deployments
from loadtests.fake_model.files import Files
from loadtests.fake_model.lookups import Lookups
from loadtests.fake_model.models import Models
from loadtests.fake_model.predictions import Predictions
from loadtests.fake_model.runs import Runner
from loadtests.fake_model.sites import Site
from loadtests.fake_model.trainings import Trainings
from loadtests.fake_model.web import NOT_FOUND, Problem, answer
from loadtests.fake_model.world import World

_MODEL = "/v1/models/{owner}/{name}"
_VERSION = f"{_MODEL}/versions/{{id}}"
_DEPLOYMENT = "/v1/deployments/{owner}/{name}"


def make_api(world: World, runner: Runner, site: Site) -> Starlette:
    """The application of one site's API listener."""
    predictions = Predictions(world, runner, site)
    files = Files(world, runner, site)
    trainings = Trainings(world, runner, site)
    routes = [
        Route("/v1/predictions", predictions.create, methods=["POST"]),
        Route(f"{_MODEL}/predictions", predictions.create, methods=["POST"]),
        Route(f"{_DEPLOYMENT}/predictions", predictions.create, methods=["POST"]),
        Route("/v1/predictions", predictions.index),
        Route("/v1/predictions/{id}", predictions.get),
        Route("/v1/predictions/{id}/cancel", predictions.cancel, methods=["POST"]),
        Route("/v1/files", files.create, methods=["POST"]),
        Route("/v1/files", files.index),
        Route("/v1/files/{id}", files.get),
        Route("/v1/files/{id}", files.delete, methods=["DELETE"]),
        Route("/v1/files/{id}/download", files.download),
        Route(f"{_VERSION}/trainings", trainings.create, methods=["POST"]),
        Route("/v1/trainings", trainings.index),
        Route("/v1/trainings/{id}", trainings.get),
        Route("/v1/trainings/{id}/cancel", trainings.cancel, methods=["POST"]),
        *_model_routes(Models(world, runner, site)),
        *_deployment_routes(Deployments(world, runner, site)),
        *_lookup_routes(Lookups(world, runner, site)),
        *control_routes(world),
    ]
    return Starlette(routes=routes, exception_handlers={Problem: _explain, HTTPException: _explain_http})


def _model_routes(models: Models) -> list[Route]:
    return [
        Route("/v1/models", models.index, methods=["GET", "QUERY"]),
        Route("/v1/models", models.create, methods=["POST"]),
        Route(_MODEL, models.get),
        Route(_MODEL, models.update, methods=["PATCH"]),
        Route(_MODEL, models.delete, methods=["DELETE"]),
        Route(f"{_MODEL}/versions", models.versions),
        Route(_VERSION, models.version),
        Route(_VERSION, models.delete_version, methods=["DELETE"]),
        Route(f"{_MODEL}/examples", models.examples),
        Route(f"{_MODEL}/readme", models.readme),
    ]


def _deployment_routes(deployments: Deployments) -> list[Route]:
    return [
        Route("/v1/deployments", deployments.index),
        Route("/v1/deployments", deployments.create, methods=["POST"]),
        Route(_DEPLOYMENT, deployments.get),
        Route(_DEPLOYMENT, deployments.update, methods=["PATCH"]),
        Route(_DEPLOYMENT, deployments.delete, methods=["DELETE"]),
    ]


def _lookup_routes(lookups: Lookups) -> list[Route]:
    return [
        Route("/v1/account", lookups.whoami),
        Route("/v1/hardware", lookups.hardware),
        Route("/v1/collections", lookups.collections),
        Route("/v1/collections/{slug}", lookups.collection),
        Route("/v1/search", lookups.search),
        Route("/v1/webhooks/default/secret", lookups.secret),
    ]


async def _explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return answer(error.body, error.status, error.headers)


async def _explain_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return answer({"detail": NOT_FOUND, "status": error.status_code}, error.status_code)
