"""Models, versions, deployments, trainings, search: what is made can be read, changed and deleted."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest

from loadtests.fake_model.catalog import COLLECTIONS, MODELS, find_model
from loadtests.fake_model.process import FakeModel
from tests.loadtests.harness import FOX, WAIT, create, until
from tests.loadtests.receiver import receiving

pytestmark = pytest.mark.slow

BRUSH, PENCIL = find_model("painters/brush"), find_model("painters/pencil")
assert BRUSH is not None
assert PENCIL is not None


def make_model(client: httpx.Client, **more: Any) -> dict[str, Any]:
    body = {"owner": "alice", "name": f"own-{uuid4().hex}", "visibility": "private", "hardware": "cpu", **more}
    answer = client.post("/models", json=body)
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


def path_of(model: dict[str, Any]) -> str:
    return f"/models/{model['owner']}/{model['name']}"


def make_deployment(client: httpx.Client, **more: Any) -> httpx.Response:
    assert BRUSH is not None
    body = {"name": f"live-{uuid4().hex}", "model": "painters/brush", "version": BRUSH.version, "hardware": "cpu"}
    return client.post("/deployments", json={**body, "min_instances": 0, "max_instances": 1, **more})


def train(client: httpx.Client, destination: str, **more: Any) -> httpx.Response:
    assert BRUSH is not None
    url = f"/models/painters/brush/versions/{BRUSH.version}/trainings"
    return client.post(url, json={"destination": destination, "input": {"images": "x"}, **more})


def trained(client: httpx.Client) -> tuple[dict[str, Any], str]:
    """A private model, and its version."""
    model = make_model(client)
    url = train(client, f"alice/{model['name']}").json()["urls"]["get"]
    until(lambda: client.get(url).json()["status"] == "succeeded")
    return model, client.get(path_of(model)).json()["latest_version"]["id"]


def test_private_model_is_its_owner_s_alone(alice: httpx.Client, bob: httpx.Client) -> None:
    made = make_model(alice, description="Mine")
    assert (made["description"], made["latest_version"], made["run_count"]) == ("Mine", None, 0)
    assert alice.get(path_of(made)).json() == made
    assert bob.get(path_of(made)).status_code == 404
    names = [each["name"] for each in bob.request("QUERY", "/models", content=made["name"]).json()["results"]]
    assert names == []
    found = alice.request("QUERY", "/models", content=made["name"]).json()["results"]
    assert found == [made]


def test_model_can_be_changed_and_deleted_by_its_owner(alice: httpx.Client, bob: httpx.Client) -> None:
    made = make_model(alice, visibility="public")
    assert alice.get(f"{path_of(made)}/readme").status_code == 404
    changed = alice.patch(path_of(made), json={"readme": "# Mine", "license_url": "https://example.com/"}).json()
    assert changed["license_url"] == "https://example.com/"
    assert alice.get(f"{path_of(made)}/readme").text == "# Mine"
    assert bob.patch(path_of(made), json={"readme": "# Bob's"}).status_code == 403
    assert alice.patch("/models/acme/pixel", json={"readme": "x"}).status_code == 403
    assert alice.delete(path_of(made)).status_code == 403, "public models stay"
    private = make_model(alice)
    assert alice.delete(path_of(private)).status_code == 204
    assert alice.get(path_of(private)).status_code == 404


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"owner": "bob"}, 403),
        ({"name": "Not A Name"}, 422),
        ({"visibility": "secret"}, 422),
        ({"hardware": 7}, 422),
        ({"owner": "acme", "name": "pixel"}, 403),
    ],
)
def test_models_that_cannot_be_made(alice: httpx.Client, more: dict[str, Any], status: int) -> None:
    body = {"owner": "alice", "name": "own", "visibility": "private", "hardware": "cpu", **more}
    assert alice.post("/models", json=body).status_code == status


def test_model_of_the_same_name_is_409(alice: httpx.Client) -> None:
    made = make_model(alice)
    body = {"owner": "alice", "name": made["name"], "visibility": "private", "hardware": "cpu"}
    assert alice.post("/models", json=body).status_code == 409


def test_models_come_in_pages(alice: httpx.Client, fake: FakeModel) -> None:
    fake.set_options(model_page_size=7)
    names, url = [], "/models"
    while url:
        page = alice.get(url).json()
        assert len(page["results"]) <= 7
        names += [f"{each['owner']}/{each['name']}" for each in page["results"]]
        url = page["next"]
    assert len(set(names)) == len(names)
    assert {each.full_name for each in MODELS} <= set(names)
    assert alice.get("/models", params={"sort_by": "mood"}).status_code == 422


def test_search_by_query_takes_plain_and_quoted_words(alice: httpx.Client) -> None:
    """The JavaScript client sends its plain text as a JSON string."""
    for words in ("brush", '"brush"', "PAINTERS brush"):
        found = alice.request("QUERY", "/models", content=words, headers={"content-type": "text/plain"}).json()
        assert [each["name"] for each in found["results"]] == ["brush"]


def test_training_leaves_a_version_that_runs(alice: httpx.Client, bob: httpx.Client) -> None:
    model, version = trained(alice)
    body = {"version": version, "input": FOX}
    prediction = alice.post("/predictions", json=body, headers=WAIT).json()
    assert (prediction["status"], prediction["model"]) == ("succeeded", f"alice/{model['name']}")
    assert bob.post("/predictions", json=body).status_code == 422
    assert [each["id"] for each in alice.get(f"{path_of(model)}/versions").json()["results"]] == [version]
    assert alice.get(path_of(model)).json()["run_count"] == 1
    assert alice.delete(path_of(model)).status_code == 403, "a model with versions stays"
    assert alice.delete(f"{path_of(model)}/versions/{version}").status_code == 202
    assert alice.get(f"/predictions/{prediction['id']}").status_code == 404
    assert alice.post("/predictions", json=body).status_code == 422
    assert alice.delete(path_of(model)).status_code == 204


def test_trainings_are_listed_canceled_and_told_to_webhooks(
    alice: httpx.Client, bob: httpx.Client, fake: FakeModel
) -> None:
    model = make_model(alice)
    destination = f"alice/{model['name']}"
    with receiving() as receiver:
        made = train(alice, destination, webhook=receiver.url, webhook_events_filter=["completed"]).json()
        until(lambda: receiver.calls)
        told = receiver.calls[0].document
    assert told == alice.get(f"/trainings/{made['id']}").json()
    assert told["output"]["version"].startswith(f"{destination}:")
    fake.hold()
    held = train(alice, destination).json()
    assert alice.post(f"/trainings/{held['id']}/cancel").json()["status"] == "canceled"
    listed = alice.get("/trainings").json()["results"]
    assert [each["id"] for each in listed[:2]] == [held["id"], made["id"]]
    assert bob.get(f"/trainings/{held['id']}").status_code == 404
    assert bob.get("/trainings").json()["results"] == []


@pytest.mark.parametrize("destination", ["acme/pixel", "nobody/nothing", "x"])
def test_training_needs_a_destination_of_one_s_own(alice: httpx.Client, destination: str) -> None:
    assert train(alice, destination).status_code == 404


def test_deployment_runs_the_version_of_its_release(alice: httpx.Client, bob: httpx.Client) -> None:
    made = make_deployment(alice).json()
    path = f"/deployments/{made['owner']}/{made['name']}"
    assert alice.get(path).json() == made
    prediction = alice.post(f"{path}/predictions", json={"input": FOX}, headers=WAIT).json()
    assert prediction["deployment"] == f"alice/{made['name']}"
    for refused in (bob.get(path), bob.post(f"{path}/predictions", json={"input": FOX}), bob.delete(path)):
        assert refused.status_code == 404
    changed = alice.patch(path, json={"max_instances": 3}).json()["current_release"]
    assert (changed["number"], changed["configuration"]["max_instances"]) == (2, 3)
    assert alice.delete(path).status_code == 204
    assert alice.get(path).status_code == 404


def test_deployment_changes_its_version_only_when_told(
    alice: httpx.Client, fake: FakeModel, nobody: httpx.Client
) -> None:
    assert PENCIL is not None
    made = make_deployment(alice, model="painters/pencil", version=PENCIL.version).json()
    path = f"/deployments/alice/{made['name']}"

    def drawn() -> bytes:
        body = {"input": {**FOX, "seed": 1}}
        return nobody.get(alice.post(f"{path}/predictions", json=body, headers=WAIT).json()["output"]).content

    before = drawn()
    newer = fake.publish_version("painters/pencil")
    assert drawn() == before
    assert alice.patch(path, json={"version": newer}).json()["current_release"]["version"] == newer
    assert drawn() != before


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"min_instances": 6}, 422),
        ({"version": "0" * 64}, 422),
        ({"model": "painters/pencil"}, 422),
        ({"name": None}, 422),
    ],
)
def test_deployments_that_cannot_be_made(alice: httpx.Client, more: dict[str, Any], status: int) -> None:
    assert make_deployment(alice, **more).status_code == status


def test_shared_deployments_are_nobody_s_to_change(alice: httpx.Client) -> None:
    assert alice.patch("/deployments/acme/pixel-live", json={"max_instances": 2}).status_code == 403
    assert alice.delete("/deployments/acme/pixel-live").status_code == 403


def test_search_finds_models_and_collections(alice: httpx.Client) -> None:
    found = alice.get("/search", params={"query": "text brush", "limit": 5}).json()
    assert found["query"] == "text brush"
    assert [each["model"]["name"] for each in found["models"]] == ["brush"]
    assert [each["models"] for each in found["collections"]] == [list(COLLECTIONS["text-to-image"])]
    assert len(alice.get("/search", params={"query": "acme", "limit": 3}).json()["models"]) == 3
    for bad in ({"query": ""}, {"query": "x", "limit": 51}, {"query": "x", "limit": "many"}):
        assert alice.get("/search", params=bad).status_code == 400


def test_examples_outlive_the_data_of_predictions(alice: httpx.Client, fake: FakeModel, nobody: httpx.Client) -> None:
    (example,) = alice.get("/models/acme/pixel/examples").json()["results"]
    create(alice)
    fake.expire()
    assert alice.get("/models/acme/pixel/examples").json()["results"] == [example]
    assert nobody.get(example["output"][0]).status_code == 200


def test_run_counts_are_exact(alice: httpx.Client, fake: FakeModel) -> None:
    before = alice.get("/models/acme/caption").json()["run_count"]
    for _ in range(3):
        create(alice, "acme/caption")
    assert alice.get("/models/acme/caption").json()["run_count"] == before + 3
    assert fake.counters()["runs"] == {"acme/caption": 3}
