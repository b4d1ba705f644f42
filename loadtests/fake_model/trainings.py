"""Trainings: create on a version, list, get, cancel. One that succeeds leaves a version of its destination."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from loadtests.fake_model.catalog import JsonObject
from loadtests.fake_model.creates import parse_webhook
from loadtests.fake_model.documents import render_training
from loadtests.fake_model.validation import find_field_complaints
from loadtests.fake_model.web import NOT_FOUND, Handlers, Problem, answer, read_object, refuse
from loadtests.fake_model.world import Prediction, new_id

_FIELDS: dict[str, JsonObject] = {"destination": {"type": "string"}, "input": {"type": "object"}}


class Trainings(Handlers):
    async def create(self, request: Request) -> Response:
        account, body = self.account(request), await read_object(request)
        registry, params = self.world.registry, request.path_params
        model = registry.find_version(params["id"])
        if model is None or model.full_name != f"{params['owner']}/{params['name']}":
            raise Problem(404, NOT_FOUND)
        complaints = find_field_complaints(body, _FIELDS, tuple(_FIELDS))
        if complaints:
            raise refuse(complaints)
        destination = registry.entries.get(body["destination"])
        if destination is None or destination.account != account:
            raise Problem(404, "The destination does not exist or is not yours", "Invalid destination")
        webhook = parse_webhook(body, is_http_allowed=self.world.options.webhook_addresses)
        training = Prediction(
            new_id(),
            account,
            model,
            body["input"],
            time.time(),
            self.site,
            destination=destination.full_name,
            webhook=webhook,
        )
        self.runner.train(training)
        document = self._show(training)
        return answer(document, 201, {"location": document["urls"]["get"]})

    def _show(self, training: Prediction) -> JsonObject:
        return render_training(training, self.site)

    def _find(self, request: Request) -> Prediction:
        account = self.account(request)
        training = self.world.trainings.get(request.path_params["id"])
        if training is None or training.account != account:
            raise Problem(404, NOT_FOUND)
        return training

    async def get(self, request: Request) -> Response:
        return answer(self._show(self._find(request)))

    async def cancel(self, request: Request) -> Response:
        training = self._find(request)
        self.runner.cancel(training)
        return answer(self._show(training))

    async def index(self, request: Request) -> Response:
        account = self.account(request)
        mine = [each for each in reversed(self.world.trainings.values()) if each.account == account]
        return self.page(request, mine, lambda each: each.id, self._show)
