"""Deployments: list, make, get, change, delete."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from loadtests.fake_model.catalog import JsonObject, Model
from loadtests.fake_model.documents import render_deployment
from loadtests.fake_model.registry import Deployment
from loadtests.fake_model.validation import find_field_complaints
from loadtests.fake_model.web import NOT_FOUND, Handlers, Problem, answer, read_object, refuse

_FIELDS: dict[str, JsonObject] = {
    "name": {"type": "string"},
    "model": {"type": "string"},
    "version": {"type": "string"},
    "hardware": {"type": "string"},
    "min_instances": {"type": "integer", "minimum": 0, "maximum": 5},
    "max_instances": {"type": "integer", "minimum": 0, "maximum": 20},
}


class Deployments(Handlers):
    async def index(self, request: Request) -> Response:
        account = self.account(request)
        found = [each for each in self.world.registry.deployments.values() if each.account in (None, account)]
        return self.page(request, found, lambda each: each.full_name, render_deployment)

    def _find(self, request: Request) -> Deployment:
        account = self.account(request)
        deployment = self.world.registry.deployments.get(
            f"{request.path_params['owner']}/{request.path_params['name']}"
        )
        if deployment is None or deployment.account not in (None, account):
            raise Problem(404, NOT_FOUND)
        return deployment

    def _find_own(self, request: Request) -> Deployment:
        deployment = self._find(request)
        if deployment.account is None:
            raise Problem(403, "You can only change deployments that you own.", "Forbidden")
        return deployment

    async def create(self, request: Request) -> Response:
        account, body = self.account(request), await read_object(request)
        complaints = find_field_complaints(body, _FIELDS, tuple(_FIELDS))
        if complaints:
            raise refuse(complaints)
        deployment = Deployment(
            account,
            body["name"],
            self._version(body["version"], body["model"], account),
            account,
            1,
            body["hardware"],
            body["min_instances"],
            body["max_instances"],
            time.time(),
        )
        if deployment.full_name in self.world.registry.deployments:
            raise Problem(409, f"A deployment of that name exists: {deployment.full_name}", "Conflict")
        self.world.registry.deployments[deployment.full_name] = deployment
        return answer(render_deployment(deployment))

    async def get(self, request: Request) -> Response:
        return answer(render_deployment(self._find(request)))

    async def update(self, request: Request) -> Response:
        """Any change is a new release."""
        deployment, body = self._find_own(request), await read_object(request)
        complaints = find_field_complaints(body, _FIELDS, ())
        if complaints:
            raise refuse(complaints)
        if "version" in body:
            model = self._version(body["version"], deployment.model.full_name, self.account(request))
            deployment.model = model
        for name in ("hardware", "min_instances", "max_instances"):
            setattr(deployment, name, body.get(name, getattr(deployment, name)))
        deployment.number += 1
        deployment.created_at = time.time()
        return answer(render_deployment(deployment))

    async def delete(self, request: Request) -> Response:
        del self.world.registry.deployments[self._find_own(request).full_name]
        return Response(status_code=204)

    def _version(self, version: str, model_name: str, account: str) -> Model:
        registry = self.world.registry
        model = registry.find_version(version)
        if model is None or model.full_name != model_name or not registry.entries[model_name].is_visible_to(account):
            raise Problem(422, "The specified version does not exist.", "Invalid version or not permitted")
        return model
