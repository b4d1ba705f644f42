"""Predictions: create on three routes, get, cancel, list."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from loadtests.fake_model.catalog import JsonObject, Model
from loadtests.fake_model.creates import parse_cancel_after_s, parse_wait_s, parse_webhook
from loadtests.fake_model.documents import render_prediction
from loadtests.fake_model.rates import Rates
from loadtests.fake_model.runs import Runner
from loadtests.fake_model.sites import Site
from loadtests.fake_model.validation import find_complaints
from loadtests.fake_model.web import NOT_FOUND, Handlers, Problem, answer, read_object, refuse
from loadtests.fake_model.world import Prediction, World, new_id, new_stream_id

_SPELLING = re.compile(r"(?:(?P<model>[^/:]+/[^/:]+))?:?(?P<version>[0-9a-f]{64})?")


class Predictions(Handlers):
    def __init__(self, world: World, runner: Runner, site: Site) -> None:
        super().__init__(world, runner, site)
        self._rates = Rates(world)

    async def create(self, request: Request) -> Response:
        account = self.account(request)
        rates = self._rates.take(account)
        prediction = await self._start(request, account)
        wait_s = parse_wait_s(request.headers.get("prefer"))
        status = 201 if wait_s is None or await _wait(prediction, wait_s) else 202
        document = render_prediction(self.world, prediction, self.site)
        if status == 202:
            document["status"] = "starting"
        return answer(document, status, {"location": document["urls"]["get"], **rates})

    async def _start(self, request: Request, account: str) -> Prediction:
        """Everything that can be wrong is found before there is a prediction."""
        body = await read_object(request)
        given = body.get("input")
        if not isinstance(given, dict):
            raise Problem(422, "- input: input is required\n", "Input validation failed")
        model, deployment = self._target(request, body, account)
        complaints = find_complaints(model, given)
        if complaints:
            raise refuse(complaints)
        headers, options, now = request.headers, self.world.options, time.time()
        webhook = parse_webhook(body, is_http_allowed=options.webhook_addresses)
        cancel_after_s = parse_cancel_after_s(headers.get("cancel-after"), options.min_cancel_after_s)
        parse_wait_s(headers.get("prefer"))
        if account in options.poor:
            raise Problem(402, "You have insufficient credit to run this model.", "Insufficient credit")
        self.world.last_create = {"body": body, "prefer": headers.get("prefer")}
        if cancel_after_s is not None:
            self.world.last_create["cancel_after"] = headers["cancel-after"]
        prediction = Prediction(
            new_id(),
            account,
            model,
            given,
            now,
            self.site,
            deployment=deployment,
            webhook=webhook,
            deadline=None if cancel_after_s is None else now + cancel_after_s,
            stream_id=new_stream_id(),
        )
        self.runner.start(prediction)
        return prediction

    def _target(self, request: Request, body: JsonObject, account: str) -> tuple[Model, str | None]:
        """The model that a create names by path or by ``version``, and the deployment before it."""
        registry = self.world.registry
        if not request.path_params:
            return self._by_version(str(body.get("version", "")), account), None
        full_name = f"{request.path_params['owner']}/{request.path_params['name']}"
        if request.url.path.startswith("/v1/deployments/"):
            deployment = registry.deployments.get(full_name)
            if deployment is None or deployment.account not in (None, account):
                raise Problem(404, NOT_FOUND)
            return deployment.model, full_name
        model = registry.latest(full_name)
        if model is None or not model.is_official:
            raise Problem(404, NOT_FOUND)
        return model, None

    def _by_version(self, spelling: str, account: str) -> Model:
        registry = self.world.registry
        found = _SPELLING.fullmatch(spelling)
        name, version = (found["model"], found["version"]) if found else (None, None)
        model = registry.find_version(version) if version else registry.latest(name or "")
        if (
            model is None
            or (name and model.full_name != name)
            or (not version and not model.is_official)
            or not registry.entries[model.full_name].is_visible_to(account)
        ):
            raise Problem(
                422,
                "The specified version does not exist (or perhaps you don't have permission to use it?)",
                "Invalid version or not permitted",
            )
        return model

    def _find(self, request: Request) -> Prediction:
        account = self.account(request)
        prediction = self.world.predictions.get(request.path_params["id"])
        if prediction is None or prediction.account != account:
            raise Problem(404, NOT_FOUND)
        return prediction

    def _show(self, prediction: Prediction) -> JsonObject:
        return render_prediction(self.world, prediction, self.site)

    async def get(self, request: Request) -> Response:
        return answer(self._show(self._find(request)), headers={"ratelimit-remaining": "2999"})

    async def cancel(self, request: Request) -> Response:
        prediction = self._find(request)
        self.runner.cancel(prediction)
        return answer(self._show(prediction))

    async def index(self, request: Request) -> Response:
        account, query = self.account(request), request.query_params
        after, before = _parse_time(query.get("created_after")), _parse_time(query.get("created_before"))
        source = query.get("source")
        if source not in (None, "web"):
            raise Problem(422, 'source must be "web"', "Invalid query")
        found = [
            each
            for each in reversed(self.world.predictions.values())
            if each.account == account
            and (after is None or each.created_at >= after)
            and (before is None or each.created_at < before)
            and source in (None, each.source)
        ]
        return self.page(request, found, lambda each: each.id, self._show)


async def _wait(prediction: Prediction, wait_s: int) -> bool:
    """Hold a create; whether it may answer with what there is."""
    try:
        await asyncio.wait_for(prediction.answerable.wait(), wait_s)
    except TimeoutError:
        return False
    return True


def _parse_time(text: str | None) -> float | None:
    """Epoch seconds of an RFC 3339 time; without an offset it is UTC.

    Raises:
        Problem: 422, it is none.
    """
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text.replace(" ", "+"))  # a plus that was not escaped
    except ValueError:
        raise Problem(422, "created_after and created_before take ISO 8601 times", "Invalid query") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
