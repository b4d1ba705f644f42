"""What can only be read: account, hardware, collections, search, the webhook secret."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from loadtests.fake_model.catalog import COLLECTIONS, HARDWARE, JsonObject
from loadtests.fake_model.courier import webhook_secret
from loadtests.fake_model.documents import render_model
from loadtests.fake_model.web import NOT_FOUND, Handlers, Problem, answer, parse_count

USUAL_LIMIT, MAX_LIMIT = 20, 50


class Lookups(Handlers):
    async def whoami(self, request: Request) -> Response:
        account = self.account(request)
        github = f"https://github.com/{account}"
        return answer({"type": "user", "username": account, "name": account.title(), "github_url": github})

    async def hardware(self, request: Request) -> Response:
        self.account(request)
        return answer(HARDWARE)

    async def secret(self, request: Request) -> Response:
        return answer({"key": webhook_secret(self.account(request))})

    async def collections(self, request: Request) -> Response:
        self.account(request)
        return self.page(request, list(COLLECTIONS), str, _render_collection)

    async def collection(self, request: Request) -> Response:
        self.account(request)
        slug = request.path_params["slug"]
        if slug not in COLLECTIONS:
            raise Problem(404, NOT_FOUND)
        entries = self.world.registry.entries
        models = [render_model(entries[name]) for name in COLLECTIONS[slug]]
        return answer({**_render_collection(slug), "full_description": None, "models": models})

    async def search(self, request: Request) -> Response:
        """Models and collections whose names hold the words."""
        account, query = self.account(request), request.query_params.get("query", "")
        limit = parse_count(request.query_params.get("limit", str(USUAL_LIMIT)), MAX_LIMIT)
        if not query.strip() or not limit:
            raise Problem(400, f"search takes a query, and a limit of 1 to {MAX_LIMIT}", "Bad request")
        words = query.lower().split()
        entries = [each for each in self.world.registry.entries.values() if each.is_visible_to(account)]
        found = [each for each in entries if any(word in each.full_name for word in words)][:limit]
        slugs = [slug for slug in COLLECTIONS if any(word in slug for word in words)]
        metadata: JsonObject = {"generated_description": None, "score": 1.0, "tags": []}
        return answer(
            {
                "query": query,
                "models": [{"model": render_model(each), "metadata": metadata} for each in found],
                "collections": [{**_render_collection(slug), "models": list(COLLECTIONS[slug])} for slug in slugs],
                "pages": [],
            }
        )


def _render_collection(slug: str) -> JsonObject:
    return {"name": slug, "slug": slug, "description": slug}
