"""Everything else, which passes through and must be answered as by the API itself."""

from __future__ import annotations

from typing import Any

from tests.conformance.bench import Bench, settled
from tests.conformance.cases.registry import case
from tests.conformance.repertoire import version_of


def lookup(title: str, what: str, **args: str) -> None:
    """A case that only asks, and must be answered as by the API itself."""

    def do(bench: Bench) -> Any:
        document = settled(bench.ask(what, **args)["document"])
        assert document is not None
        return document

    do.__name__ = f"lookup_{what}"
    case(title, direct=0, miss=0)(do)


lookup("look up the account", "account")
lookup("get a model", "models_get", model="painters/brush")
lookup("list models", "models_list")
lookup("search models", "models_search", query="brush")
lookup("list a model's versions", "versions", model="painters/brush")
lookup("get a version", "version_get", model="painters/brush", version=version_of("painters/brush"))
lookup("list collections", "collections")
lookup("get a collection", "collection_get", slug="text-to-image")
lookup("list hardware", "hardware")
lookup("list deployments", "deployments_list")
lookup("get a deployment", "deployment_get", name="acme/pixel-live")
lookup("list trainings", "trainings_list")


@case("upload a file, find it, read about it and delete it", direct=0, miss=0)
def files(bench: Bench) -> Any:
    created = bench.ask("files_create", path=bench.file())["document"]
    listed = bench.ask("files_list")["document"]
    entries = listed["results"] if isinstance(listed, dict) else listed
    assert created["id"] in [each["id"] for each in entries]
    got = bench.ask("files_get", id=created["id"])["document"]
    bench.ask("files_delete", id=created["id"])
    assert bench.ask_error("files_get", id=created["id"])["status"] in (404, None)
    told = ("name", "content_type", "size", "checksums")
    assert {name: got.get(name) for name in told} == {name: created.get(name) for name in told}
    return {name: got.get(name) for name in told}
