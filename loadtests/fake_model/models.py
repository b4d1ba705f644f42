"""Models: list, search, make, change, delete; their versions, examples and read-mes."""

from __future__ import annotations

import re
import time

from starlette.requests import Request
from starlette.responses import Response

from loadtests.fake_model.catalog import JsonObject, Model, ModelError
from loadtests.fake_model.documents import ABOUT, render_model, render_prediction, render_version
from loadtests.fake_model.registry import Entry
from loadtests.fake_model.validation import find_field_complaints
from loadtests.fake_model.web import NOT_FOUND, Handlers, Problem, answer, read_object, refuse
from loadtests.fake_model.world import Prediction, new_id, new_stream_id

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_TEXT: JsonObject = {"type": "string", "nullable": True}
_FIELDS: dict[str, JsonObject] = {
    "owner": {"type": "string"},
    "name": {"type": "string"},
    "visibility": {"type": "string", "enum": ["public", "private"]},
    "hardware": {"type": "string"},
    "readme": _TEXT,
    **dict.fromkeys(ABOUT, _TEXT),
}


class Models(Handlers):
    async def index(self, request: Request) -> Response:
        """GET lists; QUERY searches for the words of its plain text body, which one client sends as a JSON string."""
        account, query = self.account(request), request.query_params
        is_search = request.method == "QUERY"
        text = (await request.body()).decode("utf-8", "replace") if is_search else ""
        words = text.lower().replace('"', " ").split()
        found = [each for each in self._visible(account) if all(word in each.full_name for word in words)]
        if not is_search:
            _sort(found, query.get("sort_by", "latest_version_created_at"), query.get("sort_direction", "desc"))
        size = self.world.options.model_page_size
        return self.page(request, found, lambda each: each.full_name, render_model, size)

    def _visible(self, account: str) -> list[Entry]:
        return [each for each in self.world.registry.entries.values() if each.is_visible_to(account)]

    def _entry(self, request: Request) -> Entry:
        account = self.account(request)
        entry = self.world.registry.entries.get(f"{request.path_params['owner']}/{request.path_params['name']}")
        if entry is None or not entry.is_visible_to(account):
            raise Problem(404, NOT_FOUND)
        return entry

    def _own_entry(self, request: Request) -> Entry:
        entry = self._entry(request)
        if entry.account != self.account(request):
            raise Problem(403, "You can only change models that you own.", "Forbidden")
        return entry

    async def create(self, request: Request) -> Response:
        account, body = self.account(request), await read_object(request)
        complaints = find_field_complaints(body, _FIELDS, ("owner", "name", "visibility", "hardware"))
        if complaints:
            raise refuse(complaints)
        if body["owner"] != account:
            raise Problem(403, "You can only make models of your own.", "Forbidden")
        entry = Entry(account, body["name"], False, [], account, body["visibility"], created_at=time.time())
        if not _NAME.fullmatch(entry.name):
            raise Problem(422, "- name: may hold a-z, 0-9 and . _ -\n", "Input validation failed")
        if entry.full_name in self.world.registry.entries:
            raise Problem(409, f"A model with that name and owner already exists: {entry.full_name}", "Conflict")
        entry.about = {name: body[name] for name in ABOUT if name in body}
        self.world.registry.entries[entry.full_name] = entry
        return answer(render_model(entry), 201)

    async def get(self, request: Request) -> Response:
        return answer(render_model(self._entry(request)))

    async def update(self, request: Request) -> Response:
        entry, body = self._own_entry(request), await read_object(request)
        complaints = find_field_complaints(body, _FIELDS, ())
        if complaints:
            raise refuse(complaints)
        entry.about |= {name: body[name] for name in ABOUT if name in body}
        entry.readme = body.get("readme", entry.readme)
        return answer(render_model(entry))

    async def delete(self, request: Request) -> Response:
        entry = self._own_entry(request)
        if entry.visibility != "private" or entry.versions:
            raise Problem(403, "Only private models without versions can be deleted.", "Forbidden")
        del self.world.registry.entries[entry.full_name]
        return Response(status_code=204)

    async def versions(self, request: Request) -> Response:
        entry = self._entry(request)
        shown = [] if entry.is_official else entry.versions
        size = self.world.options.model_page_size
        return self.page(request, shown, lambda each: each.version, render_version, size)

    def _version(self, entry: Entry, request: Request) -> Model:
        wanted = request.path_params["id"]
        shown = () if entry.is_official else entry.versions
        model = next((each for each in shown if each.version == wanted), None)
        if model is None:
            raise Problem(404, NOT_FOUND)
        return model

    async def version(self, request: Request) -> Response:
        return answer(render_version(self._version(self._entry(request), request)))

    async def delete_version(self, request: Request) -> Response:
        entry = self._own_entry(request)
        model = self._version(entry, request)
        if entry.visibility != "private":
            raise Problem(403, "Only versions of private models can be deleted.", "Forbidden")
        if any(each.model == model for each in self.world.registry.deployments.values()):
            raise Problem(403, "The version has a deployment.", "Forbidden")
        entry.versions.remove(model)
        for each in [each for each in self.world.predictions.values() if each.model == model]:
            del self.world.predictions[each.id]
            self.world.streams.pop(each.stream_id, None)
        return Response(status_code=202)

    async def examples(self, request: Request) -> Response:
        entry = self._entry(request)
        examples = [self._example(entry)] if entry.versions and not entry.account else []
        return self.page(
            request, examples, lambda each: each.id, lambda each: render_prediction(self.world, each, self.site)
        )

    def _example(self, entry: Entry) -> Prediction:
        """One of the catalog's, made when it is first asked for; its files stay."""
        known = self.world.examples.get(entry.full_name)
        if known is None:
            model, at = entry.versions[-1], entry.created_at
            known = Prediction(new_id(), "", model, {"prompt": "a red fox"}, at, self.site, stream_id=new_stream_id())
            known.source, known.started_at, known.completed_at = "web", at, at + 1.0
            known.metrics = {"predict_time": 1.0, "total_time": 1.0}
            try:
                made = model.make({**known.input, "image": b"a red fox"}, 0)
                known.output = self.world.publish(list(made) if model.is_iterator else made, is_kept=True)
                known.status = "succeeded"
            except ModelError as error:
                known.error, known.status = str(error), "failed"
            known.is_kept = True
            self.world.examples[entry.full_name] = known
        return known

    async def readme(self, request: Request) -> Response:
        readme = self._entry(request).readme
        if readme is None:
            raise Problem(404, NOT_FOUND)
        return Response(readme, headers={"content-type": "text/plain; charset=utf-8"})


def _sort(entries: list[Entry], key: str, direction: str) -> None:
    if key not in ("model_created_at", "latest_version_created_at") or direction not in ("asc", "desc"):
        raise Problem(422, "sort_by or sort_direction is not known", "Invalid query")

    def time_of(entry: Entry) -> float:
        latest = entry.versions[0].created_at if entry.versions and key == "latest_version_created_at" else None
        return latest or entry.created_at

    entries.sort(key=time_of, reverse=direction == "desc")
