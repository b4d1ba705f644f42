"""Uploaded files, and models that are given files."""

from __future__ import annotations

import base64
import hashlib
import io
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest
from replicate.client import Client

from loadtests.fake_model.files import sign_download
from loadtests.fake_model.process import ALICE, FakeModel
from tests.loadtests.harness import Authority, create
from tests.loadtests.receiver import Receiver, receiving

pytestmark = pytest.mark.slow

CONTENT = b"\x89PNG not really"
FOUND = "File not found"


@pytest.fixture
def host() -> Iterator[Receiver]:
    with receiving() as running:
        running.files["/fox.png"] = CONTENT
        yield running


def upload(client: httpx.Client, content: bytes = CONTENT, name: str = "fox.png", **fields: Any) -> dict[str, Any]:
    answer = client.post("/files", files={"content": (name, content, "image/png")}, data=fields)
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def test_upload_says_what_it_took(alice: httpx.Client, fake: FakeModel) -> None:
    made = upload(alice, metadata='{"customer": 123}')
    md5 = hashlib.md5(CONTENT).hexdigest()
    assert made["name"] == "fox.png"
    assert (made["content_type"], made["size"], made["etag"]) == ("image/png", len(CONTENT), md5)
    assert made["checksums"] == {"sha256": hashlib.sha256(CONTENT).hexdigest(), "md5": md5}
    assert made["metadata"] == {"customer": 123}
    assert len(made["id"]) == 48
    assert made["urls"]["get"] == f"{fake.base_url}/files/{made['id']}"
    lived = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert lived.total_seconds() == 86400
    assert alice.get(f"/files/{made['id']}").json() == made
    assert fake.counters()["uploads"] == 1
    assert fake.counters()["upload_bytes"] == len(CONTENT)


def test_fields_override_what_the_part_says_even_as_parts_of_their_own(alice: httpx.Client) -> None:
    made = upload(alice, filename="other.bin", type="application/zip")
    assert (made["name"], made["content_type"]) == ("other.bin", "application/zip")
    parts = {"content": ("blob", CONTENT), "metadata": ("blob", b'{"a":1}', "application/json")}
    document = alice.post("/files", files=parts).json()
    assert (document["metadata"], document["name"]) == ({"a": 1}, "blob")


def test_equal_files_get_different_ids(alice: httpx.Client) -> None:
    assert upload(alice)["id"] != upload(alice)["id"]


def test_files_belong_to_their_account(alice: httpx.Client, bob: httpx.Client) -> None:
    made = upload(alice)
    for answer in (bob.get(f"/files/{made['id']}"), bob.delete(f"/files/{made['id']}")):
        assert (answer.status_code, answer.json()["detail"]) == (404, FOUND)
        assert answer.headers["content-type"] == "application/problem+json"
    assert made["id"] not in [each["id"] for each in bob.get("/files").json()["results"]]
    assert alice.get("/files").json()["results"][0] == made


def test_deleted_and_expired_files_are_gone(alice: httpx.Client, fake: FakeModel) -> None:
    first, second = upload(alice), upload(alice)
    assert alice.delete(f"/files/{first['id']}").status_code == 204
    assert alice.delete(f"/files/{first['id']}").status_code == 404
    assert fake.counters()["deletes"] == 2
    fake.expire()
    assert alice.get(f"/files/{second['id']}").status_code == 200
    fake.expire(files=True)
    assert alice.get(f"/files/{second['id']}").status_code == 404
    fake.set_options(file_ttl_s=0)
    assert alice.get(f"/files/{upload(alice)['id']}").status_code == 404


def test_signed_download_needs_no_token(alice: httpx.Client, nobody: httpx.Client, fake: FakeModel) -> None:
    file_id, soon = upload(alice)["id"], int(time.time()) + 60
    url = f"{fake.base_url}/files/{file_id}/download"
    good = {"owner": "alice", "expiry": soon, "signature": sign_download("alice", file_id, soon)}
    answer = nobody.get(url, params=good)
    assert (answer.content, answer.headers["content-type"]) == (CONTENT, "image/png")
    past = int(time.time()) - 1
    for change in (
        {"owner": "bob"},
        {"expiry": soon + 1},
        {"signature": "x"},
        {"expiry": past, "signature": sign_download("alice", file_id, past)},
    ):
        assert nobody.get(url, params={**good, **change}).status_code == 404
    assert nobody.get(url).status_code == 404


def test_files_that_are_too_large_are_413(alice: httpx.Client, fake: FakeModel) -> None:
    fake.set_options(max_file_bytes=2 << 20)
    assert upload(alice, b"x" * (2 << 20))["size"] == 2 << 20
    for size in ((2 << 20) + 1, 5 << 20):
        answer = alice.post("/files", files={"content": ("big", b"x" * size)})
        assert answer.status_code == 413
        assert answer.json() == {"detail": "Files must be less than 2MB in size", "status": 413}
        assert answer.headers["content-type"] == "application/problem+json"
    assert fake.counters()["upload_bytes"] == 2 << 20


@pytest.mark.parametrize(
    ("files", "data", "status"),
    [
        ({"other": ("a", b"x")}, {}, 422),
        ({"content": ("n" * 256, b"x")}, {}, 422),
        ({"content": ("a", b"x")}, {"metadata": "[1]"}, 422),
        ({"content": ("a", b"x")}, {"metadata": "{"}, 422),
    ],
)
def test_uploads_that_lack_something_are_refused(
    alice: httpx.Client, files: dict[str, Any], data: dict[str, str], status: int
) -> None:
    assert alice.post("/files", files=files, data=data).status_code == status


def test_body_that_is_no_form_is_refused(alice: httpx.Client) -> None:
    assert alice.post("/files", content=b"x").status_code == 422
    broken = {"content-type": "multipart/form-data; boundary=b"}
    assert alice.post("/files", content=b"--b\r\nnonsense", headers=broken).status_code in (400, 422)


def test_uploads_can_fail(alice: httpx.Client, fake: FakeModel) -> None:
    fake.fault("status", "upload", status=500)
    assert alice.post("/files", files={"content": ("a", b"x")}).status_code == 500
    made = upload(alice)
    fake.fault("malformed", "file")
    with pytest.raises(ValueError, match=r"JSON|Unterminated|Expecting"):
        alice.get(f"/files/{made['id']}").json()


def test_real_client_uploads_lists_and_deletes(fake: FakeModel) -> None:
    client = Client(api_token=ALICE, base_url=fake.base_url.removesuffix("/v1"))
    made = client.files.create(io.BytesIO(CONTENT), filename="fox.png", metadata={"a": 1})
    assert (made.name, made.size, made.metadata) == ("fox.png", len(CONTENT), {"a": 1})
    assert client.files.list()[0].id == made.id
    output = client.run("acme/restyle", input={"image": io.BytesIO(CONTENT)})
    assert str(output).startswith(fake.delivery_origin)
    client.files.delete(made.id)
    client._client.close()


def test_same_bytes_make_the_same_picture_however_they_come(
    alice: httpx.Client, fake: FakeModel, nobody: httpx.Client, host: Receiver, authority: Authority
) -> None:
    film = create(alice, "acme/film", size_bytes=64, seed=1)["output"]
    host.files["/film.mp4"] = nobody.get(film).content

    def drawn(image: str, **more: Any) -> bytes:
        prediction = create(alice, "acme/restyle", image=image, **more)
        assert prediction["status"] == "succeeded", prediction["error"]
        return nobody.get(prediction["output"]).content

    with receiving(authority) as secure:
        secure.files["/other"] = CONTENT
        ways = [
            data_uri(CONTENT),
            data_uri(CONTENT, "image/jpeg"),
            "data:,%89PNG%20not%20really",
            upload(alice)["urls"]["get"],
            upload(alice, name="cat.jpg")["urls"]["get"],
            f"{host.url}/fox.png",
            f"{secure.url}/other",
        ]
        assert len({drawn(way) for way in ways}) == 1
    assert fake.counters()["input_fetches"] == 2
    assert drawn(film) == drawn(f"{host.url}/film.mp4") != drawn(ways[0])
    assert drawn(ways[0], prompt="other") != drawn(ways[0])
    assert drawn(ways[0], references=[ways[1]]) == drawn(ways[0], references=[ways[3]]) != drawn(ways[0])
    assert drawn(ways[0], mask=ways[1]) != drawn(ways[0])


def test_files_that_cannot_be_read_fail_the_prediction(
    alice: httpx.Client, bob: httpx.Client, fake: FakeModel, host: Receiver
) -> None:
    deleted = upload(alice)
    alice.delete(f"/files/{deleted['id']}")
    stale = create(alice, "acme/single")["output"]
    fake.expire()
    for image in (
        "data:image/png;base64,not!base64",
        "data:image/png;base64",
        "data:,",
        deleted["urls"]["get"],
        upload(bob)["urls"]["get"],
        stale,
        f"{host.url}/no-such.png",
        "http://127.0.0.1:1/fox.png",
        "https://host.invalid/fox.png",
    ):
        failed = create(alice, "acme/restyle", image=image)
        assert (failed["status"], failed["output"]) == ("failed", None), image
        assert failed["error"].startswith("Could not read input.image: ")
        assert image not in failed["error"]


@pytest.mark.parametrize("image", ["fox.png", "", "ftp://a/b", 7, ["data:,x"]])
def test_file_that_is_no_uri_is_422(alice: httpx.Client, image: object) -> None:
    answer = alice.post("/models/acme/restyle/predictions", json={"input": {"image": image}})
    assert answer.status_code == 422
    assert [each["field"] for each in answer.json()["invalid_fields"]] == ["input.image"]


def test_list_of_files_is_checked_item_by_item(alice: httpx.Client) -> None:
    given = {"image": "data:,x", "references": ["data:,x", "fox.png"]}
    answer = alice.post("/models/acme/restyle/predictions", json={"input": given})
    assert [each["field"] for each in answer.json()["invalid_fields"]] == ["input.references.1"]
