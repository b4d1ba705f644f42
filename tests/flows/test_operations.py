"""Every operation of the API passes through, and what is answered where there is no such API behind."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.fake_model.process import ALICE, FakeModel, fake_model
from tests.fakes.cog_server import FakeCog, cog_servers
from tests.flows.harness import ProxyProcess, running_proxy, start_proxy
from tests.flows.test_replicate_upstream import config
from tests.loadtests.openapi import Contract, load_contract
from tests.loadtests.test_openapi import EXERCISES, Asking

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

OWN_TOKEN = "hotplates-own-token-1"
_ID = re.compile(r"[0-9a-f]{64}|[A-Za-z0-9_-]{48}|[0-9a-f]{32}|[a-z0-9]{26}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_VOLATILE = ("logs", "metrics", "stream", "web", "version", "started_at", "completed_at", "expires_at")


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeModel, ProxyProcess]]:
    with fake_model() as api, running_proxy(tmp_path_factory.mktemp("all") / "data", config(api)) as proxy:
        yield api, proxy


def client(url: str, token: str = ALICE) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=60)


def leveled(value: Any, api: FakeModel, proxy: ProxyProcess, key: str = "") -> Any:
    """A body without what must differ between two askings: hosts, ids, times."""
    if isinstance(value, list):
        return [leveled(each, api, proxy, key) for each in value]
    if isinstance(value, dict):
        return {name: leveled(each, api, proxy, name) for name, each in value.items() if name not in _VOLATILE}
    if not isinstance(value, str):
        return value
    if value.startswith((api.delivery_origin, f"{proxy.public_url}/outputs/")):
        return "FILE"
    value = value.replace(f"{proxy.public_url}/v1", "API").replace(api.base_url, "API")
    value = re.sub(r"cursor=[^&]+", "cursor=C", value)
    return _TIME.sub("TIME", _ID.sub("ID", value))


@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_operation_answers_through_the_proxy_as_it_does_by_itself(
    contract: Contract, both: tuple[FakeModel, ProxyProcess], name: str
) -> None:
    api, proxy = both
    if name == "trainings.cancel":
        api.hold()  # else it may be over before anybody can cancel it
    try:
        with client(api.base_url) as straight, client(f"{proxy.public_url}/v1") as through:
            alone, passed = EXERCISES[name](Asking(straight)), EXERCISES[name](Asking(through))
    finally:
        api.release()
    assert passed.status_code == alone.status_code
    assert passed.headers["cache-control"] == "private, no-store"
    assert passed.headers.get("content-type") == alone.headers.get("content-type")
    assert "set-cookie" not in passed.headers
    schema = contract.operations[name].answers[contract.operations[name].success]
    if schema is None:
        if name != "files.download":
            assert passed.content == alone.content
        return
    document = passed.json()
    assert contract.find_faults(name, passed.status_code, document) == []
    assert api.base_url not in json.dumps(_without_streams(document)), "an answer points past the proxy"
    if name == "predictions.list":
        # Half of the entries are the proxy's own; tests/flows/test_lists.py looks at them.
        assert set(document) == set(alone.json())
        return
    if name == "trainings.list":
        # They go on meanwhile.
        assert [one["id"] for one in document["results"]] == [one["id"] for one in alone.json()["results"]]
        return
    assert leveled(document, api, proxy) == leveled(alone.json(), api, proxy)


def _without_streams(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_streams(each) for each in value]
    if isinstance(value, dict):
        return {name: _without_streams(each) for name, each in value.items() if name != "stream"}
    return value


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/no/such/thing"),
        ("GET", "/v1/v1/no/such/thing"),
        ("DELETE", "/predictions"),
        ("PUT", "/models/acme/pixel"),
        ("PATCH", "/account"),
        ("QUERY", "/hardware"),
        ("PROPFIND", "/collections"),
        ("POST", "/search"),
        ("HEAD", "/account"),
        ("OPTIONS", "/models"),
    ],
)
def test_unknown_paths_and_methods_get_the_upstreams_word(
    both: tuple[FakeModel, ProxyProcess], method: str, path: str
) -> None:
    api, proxy = both
    with client(api.base_url.removesuffix("/v1")) as straight, client(proxy.public_url) as through:
        alone = straight.request(method, "/v1/" + path.removeprefix("/v1/v1").lstrip("/"))
        passed = through.request(method, path if path.startswith("/v1/v1") else "/v1" + path)
    assert (passed.status_code, passed.content) == (alone.status_code, alone.content)
    assert passed.headers["cache-control"] == "private, no-store"


def test_nothing_that_passes_is_stored(both: tuple[FakeModel, ProxyProcess]) -> None:
    api, proxy = both
    api.reset()
    with client(f"{proxy.public_url}/v1") as through:
        for _ in range(3):
            assert through.get("/collections").status_code == 200
    assert api.counters()["others"] == 3


def test_files_of_a_training_are_named_to_the_upstream_as_its_own(both: tuple[FakeModel, ProxyProcess]) -> None:
    api, proxy = both
    with client(f"{proxy.public_url}/v1") as through:
        ask = Asking(through)
        url = ask.file().json()["urls"]["get"]
        assert url.startswith(f"{proxy.public_url}/v1/files/")
        brush = "/models/painters/brush"
        version = through.get(brush).json()["latest_version"]["id"]
        made = through.post(
            f"{brush}/versions/{version}/trainings", json={"destination": ask.model(), "input": {"images": url}}
        ).json()
        assert made["input"]["images"] == url, "shown to the client as it named it"
        assert made["urls"]["get"].startswith(f"{proxy.public_url}/v1/trainings/")
    with client(api.base_url) as straight:
        kept = straight.get(f"/trainings/{made['id']}").json()["input"]["images"]
        assert kept == url.replace(f"{proxy.public_url}/v1", api.base_url)


# -- without an API behind -----------------------------------------------------------------------------

AWAY = (
    '[[upstream]]\nkind = "cog"\nname = "away"\nmodels = ["acme/pixel", "acme/*", "deployments/acme/live"]\n'
    f'urls = ["http://127.0.0.1:9"]\ndeadline_s = 0.3\n[auth]\ntokens = ["{OWN_TOKEN}"]\n'
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """A proxy in front of a Cog server that is away."""
    with running_proxy(tmp_path_factory.mktemp("alone") / "data", AWAY) as proxy:
        yield proxy


EMPTY = {"next": None, "previous": None, "results": []}


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/collections", 200, EMPTY),
        ("/collections/text-to-image", 404, None),
        ("/trainings", 200, EMPTY),
        ("/trainings/x", 404, None),
        ("/hardware", 200, []),
        ("/deployments/acme/other", 404, None),
        ("/predictions", 200, EMPTY),
        ("/predictions/" + "a" * 26, 404, None),
        ("/search", 400, None),
        ("/search?query=x&limit=0", 400, None),
        ("/search?query=x", 200, {"query": "x", "models": [{}], "collections": [], "pages": []}),
        ("/search?query=nothing+such", 200, {"query": "nothing such", "models": [], "collections": [], "pages": []}),
        ("/no/such/path", 404, None),
    ],
)
def test_what_an_api_would_tell_is_answered_in_its_shape(
    alone: ProxyProcess, path: str, status: int, body: Any
) -> None:
    with client(f"{alone.public_url}/v1", OWN_TOKEN) as asked:
        answer = asked.get(path)
    assert answer.status_code == status
    document = answer.json()
    if isinstance(body, dict) and body.get("models") == [{}]:
        assert [each["model"]["name"] for each in document.pop("models")] == ["pixel"]
        body = {name: value for name, value in body.items() if name != "models"}
    if body is not None:
        assert document == body
    else:
        assert (document["status"], bool(document["detail"])) == (status, True)


def test_models_that_the_settings_name_are_listed_and_found(alone: ProxyProcess) -> None:
    with client(f"{alone.public_url}/v1", OWN_TOKEN) as asked:
        (model,) = asked.get("/models").json()["results"]
        assert (model["owner"], model["name"], model["latest_version"]) == ("acme", "pixel", None)
        assert asked.request("QUERY", "/models", content='"PIX acme"').json()["results"] == [model]
        assert asked.request("QUERY", "/models", content="brush").json()["results"] == []


@pytest.mark.parametrize("path", ["/models", "/search?query=x", "/collections", "/hardware", "/trainings"])
def test_strangers_are_told_nothing(alone: ProxyProcess, path: str) -> None:
    with client(f"{alone.public_url}/v1", "some-other-token-of-nobody") as asked:
        assert asked.get(path).status_code == 401


PYTHON = """
import json, replicate
print(json.dumps([
    [model.name for model in replicate.models.list().results],
    [one.slug for one in replicate.collections.list().results],
    [one.name for one in replicate.hardware.list()],
    [one.id for one in replicate.trainings.list().results],
    [one.name for one in replicate.deployments.list().results],
]))
"""


def test_python_client_reads_all_of_it(alone: ProxyProcess) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PYTHON],
        env={"REPLICATE_BASE_URL": alone.public_url, "REPLICATE_API_TOKEN": OWN_TOKEN},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["pixel"], [], [], [], []]


@pytest.mark.anyio
async def test_deployment_that_a_glob_names_is_served_by_a_cog_server(tmp_path: Path) -> None:
    async with cog_servers(FakeCog()) as (server,):
        settings = AWAY.replace("http://127.0.0.1:9", server.url).replace("0.3", "20")
        proxy = await asyncio.to_thread(start_proxy, tmp_path / "data", settings)
        try:
            async with httpx.AsyncClient(
                base_url=f"{proxy.public_url}/v1",
                headers={"Authorization": f"Bearer {OWN_TOKEN}", "Prefer": "wait"},
                trust_env=False,
                timeout=60,
            ) as asked:
                given = {"input": {"prompt": "deployed"}}
                made = [await asked.post("/deployments/acme/live/predictions", json=given) for _ in range(2)]
                by_model = (await asked.post("/models/acme/live/predictions", json=given)).json()
                (listed,) = (await asked.get("/deployments")).json()["results"]
                looked_up = (await asked.get("/deployments/acme/live")).json()
                unknown = await asked.post("/deployments/acme/other/predictions", json=given)
        finally:
            await asyncio.to_thread(proxy.stop)
    assert {one.json()["deployment"] for one in made} == {"acme/live"}
    assert "; hit" in made[1].headers["cache-status"]
    assert "deployment" not in by_model
    assert len(server.taken) == 2, "the deployment and the model are namespaces of their own"
    assert listed == looked_up
    assert (listed["owner"], listed["name"]) == ("acme", "live")
    assert listed["current_release"]["version"] == made[0].json()["version"]
    assert unknown.status_code == 404
