"""The double answers every operation of the API's OpenAPI document as the document says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from _pytest.outcomes import Failed, Skipped

from loadtests.fake_model.catalog import find_model
from loadtests.fake_model.files import sign_download
from loadtests.fake_model.process import FakeModel
from tests.loadtests.harness import FOX, WAIT, create, until
from tests.loadtests.openapi import NAME, Contract, find_document, load_contract

PIXEL = "/models/acme/pixel"
BRUSH = "/models/painters/brush"
FOUND = find_model("painters/brush")
assert FOUND is not None
VERSION = FOUND.version


@pytest.fixture(scope="session")
def contract() -> Contract:
    return load_contract()


@dataclass(frozen=True, slots=True)
class Asking:
    """A client, and things made for one exercise."""

    http: httpx.Client

    def model(self) -> str:
        """A private model of one's own; its name."""
        name = f"own-{uuid4().hex}"
        body = {"owner": "alice", "name": name, "visibility": "private", "hardware": "cpu"}
        assert self.http.post("/models", json=body).status_code == 201
        return f"alice/{name}"

    def training(self, destination: str) -> httpx.Response:
        return self.http.post(
            f"{BRUSH}/versions/{VERSION}/trainings", json={"destination": destination, "input": {"images": "x"}}
        )

    def trained(self) -> tuple[str, str]:
        """A model of one's own with a version; its name, and the version."""
        name = self.model()
        url = self.training(name).json()["urls"]["get"]
        until(lambda: self.http.get(url).json()["status"] == "succeeded")
        return name, self.http.get(url).json()["output"]["version"].rpartition(":")[2]

    def deployment(self) -> httpx.Response:
        body = {"name": f"live-{uuid4().hex}", "model": "painters/brush", "version": VERSION, "hardware": "cpu"}
        return self.http.post("/deployments", json={**body, "min_instances": 0, "max_instances": 2})

    def deployment_path(self) -> str:
        made = self.deployment().json()
        return f"/deployments/{made['owner']}/{made['name']}"

    def file(self) -> httpx.Response:
        return self.http.post("/files", files={"content": ("a.txt", b"content", "text/plain")})

    def download(self) -> httpx.Response:
        file_id, expiry = self.file().json()["id"], int(time.time()) + 60
        params = {"owner": "alice", "expiry": expiry, "signature": sign_download("alice", file_id, expiry)}
        return self.http.get(f"/files/{file_id}/download", params=params)

    def predict(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json={"input": FOX, **body}, headers=WAIT)

    def delete_version(self) -> httpx.Response:
        name, version = self.trained()
        return self.http.delete(f"/models/{name}/versions/{version}")


EXERCISES: dict[str, Callable[[Asking], httpx.Response]] = {
    "account.get": lambda ask: ask.http.get("/account"),
    "collections.get": lambda ask: ask.http.get("/collections/text-to-image"),
    "collections.list": lambda ask: ask.http.get("/collections"),
    "deployments.create": lambda ask: ask.deployment(),
    "deployments.delete": lambda ask: ask.http.delete(ask.deployment_path()),
    "deployments.get": lambda ask: ask.http.get(ask.deployment_path()),
    "deployments.list": lambda ask: ask.http.get("/deployments"),
    "deployments.predictions.create": lambda ask: ask.predict("/deployments/acme/brush-live/predictions"),
    "deployments.update": lambda ask: ask.http.patch(ask.deployment_path(), json={"max_instances": 3}),
    "files.create": lambda ask: ask.file(),
    "files.delete": lambda ask: ask.http.delete(f"/files/{ask.file().json()['id']}"),
    "files.download": lambda ask: ask.download(),
    "files.get": lambda ask: ask.http.get(f"/files/{ask.file().json()['id']}"),
    "files.list": lambda ask: ask.http.get("/files"),
    "hardware.list": lambda ask: ask.http.get("/hardware"),
    "models.create": lambda ask: ask.http.post(
        "/models", json={"owner": "alice", "name": uuid4().hex, "visibility": "public", "hardware": "cpu"}
    ),
    "models.delete": lambda ask: ask.http.delete(f"/models/{ask.model()}"),
    "models.examples.list": lambda ask: ask.http.get(f"{PIXEL}/examples"),
    "models.get": lambda ask: ask.http.get(PIXEL),
    "models.list": lambda ask: ask.http.get("/models"),
    "models.predictions.create": lambda ask: ask.predict(f"{PIXEL}/predictions"),
    "models.readme.get": lambda ask: ask.http.get(f"{PIXEL}/readme"),
    "models.search": lambda ask: ask.http.request("QUERY", "/models", content="brush"),
    "models.update": lambda ask: ask.http.patch(f"/models/{ask.model()}", json={"readme": "# Mine"}),
    "models.versions.delete": lambda ask: ask.delete_version(),
    "models.versions.get": lambda ask: ask.http.get(f"{BRUSH}/versions/{VERSION}"),
    "models.versions.list": lambda ask: ask.http.get(f"{BRUSH}/versions"),
    "predictions.cancel": lambda ask: ask.http.post(f"/predictions/{create(ask.http)['id']}/cancel"),
    "predictions.create": lambda ask: ask.predict("/predictions", version=VERSION),
    "predictions.get": lambda ask: ask.http.get(f"/predictions/{create(ask.http)['id']}"),
    "predictions.list": lambda ask: ask.http.get("/predictions"),
    "search": lambda ask: ask.http.get("/search", params={"query": "pixel text"}),
    "trainings.cancel": lambda ask: ask.http.post(f"/trainings/{ask.training(ask.model()).json()['id']}/cancel"),
    "trainings.create": lambda ask: ask.training(ask.model()),
    "trainings.get": lambda ask: ask.http.get(f"/trainings/{ask.training(ask.model()).json()['id']}"),
    "trainings.list": lambda ask: ask.http.get("/trainings"),
    "webhooks.default.secret.get": lambda ask: ask.http.get("/webhooks/default/secret"),
}


def test_every_operation_of_the_document_is_exercised(contract: Contract) -> None:
    assert sorted(EXERCISES) == sorted(contract.operations)


@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_operation_answers_with_success_and_the_documented_body(
    contract: Contract, alice: httpx.Client, name: str
) -> None:
    operation = contract.operations[name]
    answer = EXERCISES[name](Asking(alice))
    assert answer.status_code == operation.success, answer.text
    if operation.answers[operation.success] is None:
        return
    assert contract.find_faults(name, answer.status_code, answer.json()) == []


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("predictions.create", "/predictions"),
        ("models.predictions.create", f"{PIXEL}/predictions"),
        ("deployments.predictions.create", "/deployments/acme/pixel-live/predictions"),
    ],
)
def test_create_whose_wait_ran_out_keeps_to_the_document(
    contract: Contract, alice: httpx.Client, fake: FakeModel, name: str, path: str
) -> None:
    fake.hold()
    body = {"input": FOX, **({"version": VERSION} if path == "/predictions" else {})}
    answer = alice.post(path, json=body, headers={"prefer": "wait=1"})
    fake.release()
    assert answer.status_code == 202
    assert contract.find_faults(name, 202, answer.json()) == []


@pytest.mark.parametrize(
    ("name", "status", "ask"),
    [
        ("files.get", 404, lambda http: http.get("/files/none")),
        ("files.delete", 404, lambda http: http.delete("/files/none")),
        ("files.download", 404, lambda http: http.get("/files/none/download")),
        ("search", 400, lambda http: http.get("/search")),
    ],
)
def test_documented_refusals_keep_to_the_document(
    contract: Contract, alice: httpx.Client, name: str, status: int, ask: Callable[[httpx.Client], httpx.Response]
) -> None:
    answer = ask(alice)
    assert answer.status_code == status
    assert contract.find_faults(name, status, answer.json()) == []


def test_every_state_of_a_prediction_keeps_to_the_document(
    contract: Contract, alice: httpx.Client, fake: FakeModel
) -> None:
    seen = [create(alice), create(alice, "acme/failing"), create(alice, "acme/nested"), create(alice, "acme/writer")]
    fake.hold()
    held = alice.post(f"{PIXEL}/predictions", json={"input": FOX}, headers={"cancel-after": "5m"}).json()
    until(lambda: alice.get(f"/predictions/{held['id']}").json()["status"] == "processing")
    seen += [held, alice.get(f"/predictions/{held['id']}").json()]
    seen.append(alice.post(f"/predictions/{held['id']}/cancel").json())
    fake.expire()
    seen.append(alice.get(f"/predictions/{held['id']}").json())
    assert {each["status"] for each in seen} == {"starting", "processing", "succeeded", "failed", "canceled"}
    for each in seen:
        assert contract.find_faults("predictions.get", 200, each) == []


def test_departures_from_the_document_are_found(contract: Contract, alice: httpx.Client) -> None:
    good = create(alice)
    for change in ({"status": "done"}, {"created_at": "yesterday"}, {"urls": {}}, {"error": 7}, {"metrics": None}):
        assert contract.find_faults("predictions.get", 200, {**good, **change}) != []
    assert contract.find_faults("predictions.get", 200, {**good, "error": None}) == []


def test_document_is_looked_for_in_the_named_folder_and_beside_the_repository(tmp_path: Path) -> None:
    repository, beside, named = tmp_path / "repository", tmp_path / "shared", tmp_path / "named"
    for folder in (beside, named):
        folder.mkdir()
        (folder / NAME).write_text("{}")
    assert find_document({}, repository) == beside / NAME
    assert find_document({"HOTPLATE_SHARED": str(named)}, repository) == named / NAME
    (named / NAME).unlink()
    assert find_document({"HOTPLATE_SHARED": str(named)}, repository) == beside / NAME
    (beside / NAME).unlink()
    with pytest.raises(Skipped, match="HOTPLATE_SHARED"):
        find_document({}, repository)
    with pytest.raises(Failed, match="HOTPLATE_SHARED"):
        find_document({"CI": "1"}, repository)
