"""The double of Replicate's API keeps to the contract, and breaks it on demand only."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image
from replicate.client import Client
from replicate.exceptions import ReplicateError

from loadtests.fake_model.catalog import find_model
from loadtests.fake_model.process import ALICE, BOB, FakeModel, fake_model

WAIT = {"prefer": "wait=30"}
BRUSH = find_model("painters/brush")
assert BRUSH is not None
VERSION = BRUSH.version


@pytest.fixture(scope="module")
def process() -> Iterator[FakeModel]:
    with fake_model("--page-size", "3") as running:
        yield running


@pytest.fixture
def fake(process: FakeModel) -> FakeModel:
    process.reset()
    return process


@pytest.fixture
def alice(fake: FakeModel) -> Iterator[httpx.Client]:
    with client_of(fake, ALICE) as client:
        yield client


@pytest.fixture(scope="module")
def nobody() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, verify=False) as client:
        yield client


def client_of(fake: FakeModel, token: str | None) -> httpx.Client:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=fake.base_url, headers=headers, trust_env=False, verify=False)


def create(client: httpx.Client, model: str = "acme/pixel", **given: Any) -> dict[str, Any]:
    document = {"input": {"prompt": "a red fox", **given}}
    answer = client.post(f"/models/{model}/predictions", json=document, headers=WAIT)
    assert answer.status_code == 201
    prediction: dict[str, Any] = answer.json()
    return prediction


def test_prediction_holds_what_the_api_requires(alice: httpx.Client) -> None:
    prediction = create(alice)
    required = {"id", "model", "version", "input", "output", "data_removed", "error", "status", "created_at", "urls"}
    assert required <= prediction.keys()
    assert len(prediction["id"]) == 26
    assert prediction["version"] == "hidden"
    assert prediction["status"] == "succeeded"
    assert prediction["metrics"]["predict_time"] > 0
    assert prediction["urls"]["get"].endswith(f"/v1/predictions/{prediction['id']}")
    assert alice.get(f"/predictions/{prediction['id']}").json() == prediction


def test_missing_and_wrong_tokens_get_the_recorded_401(fake: FakeModel) -> None:
    with client_of(fake, None) as tokenless, client_of(fake, "r8_wrong") as wrong:
        assert tokenless.get("/account").json()["detail"] == "You did not pass an authentication token"
        answer = wrong.post("/predictions", json={})
        assert answer.status_code == 401
        assert answer.json() == {
            "title": "Unauthenticated",
            "detail": "You did not pass a valid authentication token",
            "status": 401,
        }


def test_both_schemes_are_one_account(fake: FakeModel, nobody: httpx.Client) -> None:
    for scheme in ("Bearer", "Token", "token"):
        answer = nobody.get(f"{fake.base_url}/account", headers={"authorization": f"{scheme} {ALICE}"})
        assert answer.json()["username"] == "alice"


def test_predictions_belong_to_their_account(alice: httpx.Client, fake: FakeModel) -> None:
    prediction = create(alice)
    with client_of(fake, BOB) as bob:
        assert bob.get(f"/predictions/{prediction['id']}").status_code == 404
        assert bob.post(f"/predictions/{prediction['id']}/cancel").status_code == 404
        assert bob.get("/predictions").json()["results"] == []


def test_the_three_routes_and_the_three_spellings(alice: httpx.Client) -> None:
    given = {"input": {"prompt": "x"}}
    spellings = [VERSION, f"painters/brush:{VERSION}", "acme/pixel"]
    made = [alice.post("/predictions", json={"version": each, **given}, headers=WAIT).json() for each in spellings]
    assert [each["version"] for each in made] == [VERSION, VERSION, "hidden"]
    deployed = alice.post("/deployments/acme/brush-live/predictions", json=given, headers=WAIT).json()
    assert deployed["deployment"] == "acme/brush-live"
    assert deployed["model"] == "painters/brush"


@pytest.mark.parametrize(
    "version", ["", "0" * 64, "painters/brush", f"acme/pixel:{VERSION}", "nobody/nothing", "a:b:c"]
)
def test_version_that_may_not_be_run_is_422(alice: httpx.Client, version: str) -> None:
    answer = alice.post("/predictions", json={"version": version, "input": {"prompt": "x"}})
    assert answer.status_code == 422
    assert answer.json()["title"] == "Invalid version or not permitted"


def test_community_models_have_no_route_without_version(alice: httpx.Client) -> None:
    assert alice.post("/models/painters/brush/predictions", json={"input": {"prompt": "x"}}).status_code == 404
    assert alice.post("/deployments/no/such/predictions", json={"input": {"prompt": "x"}}).status_code == 404


def test_bad_input_is_422_with_every_complaint_and_no_run(alice: httpx.Client, fake: FakeModel) -> None:
    given = {"num_outputs": 9, "width": "wide", "seed": None, "go_fast": True, "output_format": "gif"}
    answer = alice.post("/models/acme/pixel/predictions", json={"input": given})
    assert answer.status_code == 422
    fields = {each["field"]: each["type"] for each in answer.json()["invalid_fields"]}
    assert fields == {
        "input": "required",
        "input.num_outputs": "number_lte",
        "input.width": "invalid_type",
        "input.output_format": "enum",
    }
    assert "- input: prompt is required\n" in answer.json()["detail"]
    assert fake.counters()["runs"] == {}
    assert fake.counters()["creates"] == 1


def test_wait_that_runs_out_answers_202_starting(alice: httpx.Client, fake: FakeModel) -> None:
    fake.hold()
    document = {"input": {"prompt": "x"}}
    answer = alice.post("/models/acme/pixel/predictions", json=document, headers={"prefer": "wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (202, "starting")
    at_once = alice.post("/models/acme/pixel/predictions", json=document)
    assert (at_once.status_code, at_once.json()["status"]) == (201, "starting")
    assert at_once.headers["location"] == at_once.json()["urls"]["get"]
    fake.release()


def test_cancel_ends_a_run_and_leaves_an_ended_one(alice: httpx.Client, fake: FakeModel) -> None:
    ended = create(alice)
    assert alice.post(f"/predictions/{ended['id']}/cancel").json()["status"] == "succeeded"
    fake.hold()
    held = alice.post("/models/acme/pixel/predictions", json={"input": {"prompt": "x"}}).json()
    assert alice.post(f"/predictions/{held['id']}/cancel").json()["status"] == "canceled"
    assert alice.get(f"/predictions/{held['id']}").json()["status"] == "canceled"
    fake.release()


def test_pages_are_newest_first_and_lead_on(alice: httpx.Client) -> None:
    made = [create(alice, seed=number)["id"] for number in range(4)]
    page = alice.get("/predictions").json()
    assert [each["id"] for each in page["results"]] == made[:0:-1]
    following = alice.get(page["next"]).json()
    assert following["results"][0]["id"] == made[0]
    assert alice.get(following["previous"]).json() == page


@pytest.mark.parametrize(
    ("model", "shape"),
    [("acme/pixel", list), ("acme/single", str), ("acme/nested", dict), ("acme/teller", list)],
)
def test_output_shapes(alice: httpx.Client, model: str, shape: type) -> None:
    assert isinstance(create(alice, model)["output"], shape)


def test_failing_model_fails_with_its_error(alice: httpx.Client) -> None:
    prediction = create(alice, "acme/failing")
    assert (prediction["status"], prediction["error"], prediction["output"]) == ("failed", "CUDA out of memory", None)


def test_outputs_are_pictures_readable_without_a_token(
    alice: httpx.Client, fake: FakeModel, nobody: httpx.Client
) -> None:
    prediction = create(alice, num_outputs=2, width=40, height=30)
    for url in prediction["output"]:
        assert url.startswith(fake.delivery_origin)
        answer = nobody.get(url)
        with Image.open(io.BytesIO(answer.content)) as picture:
            picture.load()
            assert (picture.format, picture.size) == ("PNG", (40, 30))
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["content-length"] == str(len(answer.content))
        assert answer.headers["etag"] == f'"{hashlib.md5(answer.content).hexdigest()}"'
        assert nobody.get(url, headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert fake.counters()["output_reads"] == 4


def test_seed_decides_the_picture(alice: httpx.Client, nobody: httpx.Client) -> None:
    def drawn(**given: Any) -> bytes:
        return nobody.get(create(alice, **given)["output"][0]).content

    assert drawn(seed=1) == drawn(seed=1)
    assert len({drawn(seed=1), drawn(seed=2), drawn(), drawn()}) == 4


def test_models_versions_and_what_else_is_there(alice: httpx.Client) -> None:
    model = alice.get("/models/painters/brush").json()
    assert model["latest_version"]["id"] == VERSION
    version = alice.get(f"/models/painters/brush/versions/{VERSION}").json()
    assert version["openapi_schema"]["components"]["schemas"]["Input"]["required"] == ["prompt"]
    assert alice.get("/models/painters/brush/versions").json()["results"] == [version]
    assert alice.get("/models/acme/pixel/versions").json()["results"] == []
    assert alice.get(f"/models/acme/pixel/versions/{VERSION}").status_code == 404
    found = alice.request("QUERY", "/models", content="brush", headers={"content-type": "text/plain"})
    assert [each["name"] for each in found.json()["results"]] == ["brush"]
    assert len(alice.get("/models").json()["results"]) > 4
    assert {"name": "CPU", "sku": "cpu"} in alice.get("/hardware").json()
    assert alice.get("/collections").json()["results"][0]["slug"] == "text-to-image"
    assert alice.get("/collections/text-to-image").json()["models"]
    assert alice.get("/deployments/acme/pixel-live").json()["current_release"]["model"] == "acme/pixel"
    assert alice.get("/nothing").json() == {"detail": "The requested resource could not be found.", "status": 404}


@pytest.mark.parametrize("kind", ["drop-fin", "drop-rst"])
@pytest.mark.parametrize("is_handled", [True, False])
def test_dropped_create_was_read_and_did_run_or_not(
    alice: httpx.Client, fake: FakeModel, kind: str, is_handled: bool
) -> None:
    fake.fault(kind, "create", is_handled=is_handled)
    with pytest.raises(httpx.TransportError):
        alice.post("/models/acme/pixel/predictions", json={"input": {"prompt": "x"}})
    assert fake.counters()["creates"] == 1
    assert fake.counters()["runs"] == ({"acme/pixel": 1} if is_handled else {})
    assert create(alice)["status"] == "succeeded"


def test_throttle_and_status_do_nothing_else(alice: httpx.Client, fake: FakeModel) -> None:
    fake.fault("throttle", "create", retry_after_s=30)
    fake.fault("status", "create", status=503, times=2)
    answers = [alice.post("/models/acme/pixel/predictions", json={"input": {"prompt": "x"}}) for _ in range(3)]
    assert [each.status_code for each in answers] == [429, 503, 503]
    assert answers[0].headers["retry-after"] == "30"
    assert fake.counters()["runs"] == {}


def test_broken_outputs(alice: httpx.Client, fake: FakeModel, nobody: httpx.Client) -> None:
    url = create(alice)["output"][0]
    whole = nobody.get(url).content
    fake.fault("truncated", "output")
    with pytest.raises(httpx.RemoteProtocolError):
        nobody.get(url)
    fake.fault("close-delimited", "output")
    answer = nobody.get(url)
    assert "content-length" not in answer.headers
    assert answer.content == whole[: len(whole) // 2]
    fake.fault("wrong-length", "output")
    assert nobody.get(url).content == whole[: len(whole) // 2]
    fake.fault("encoded", "output")
    assert nobody.get(url).headers["content-encoding"] == "gzip"
    assert nobody.get(url).content == whole


def test_malformed_and_stalled_answers(alice: httpx.Client, fake: FakeModel) -> None:
    fake.fault("malformed", "account")
    with pytest.raises(ValueError, match=r"JSON|Unterminated|Expecting"):
        alice.get("/account").json()
    fake.fault("stall", "account", times=0)
    with pytest.raises(httpx.ReadTimeout):
        alice.get("/account", timeout=0.1)
    fake.reset()
    assert alice.get("/account").status_code == 200


def test_unknown_fault_is_refused(fake: FakeModel) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        fake.fault("earthquake")


def test_cookies_and_credentials_brought_along_are_counted(alice: httpx.Client, fake: FakeModel) -> None:
    url = create(alice)["output"][0]
    alice.get(url)  # httpx keeps the cookie that every answer sets, and adds the token here
    assert fake.counters()["cookies"] == 1
    assert fake.counters()["output_credentials"] == 1


def test_expired_outputs_are_gone_and_data_removed() -> None:
    with fake_model("--output-ttl-s", "0") as fake, client_of(fake, ALICE) as client:
        prediction = client.get(f"/predictions/{create(client)['id']}").json()
        assert (prediction["data_removed"], prediction["output"], prediction["input"]) == (True, None, {})


def test_cold_model_boots_once_and_stays_warm() -> None:
    with fake_model("--boot-s", "0.2") as fake, client_of(fake, ALICE) as client:

        def waited() -> float:
            document = {"version": VERSION, "input": {"prompt": "x"}}
            metrics = client.post("/predictions", json=document, headers=WAIT).json()["metrics"]
            return float(metrics["total_time"] - metrics["predict_time"])

        assert waited() >= 0.2
        assert waited() < 0.2


def test_own_accounts_replace_the_usual_ones() -> None:
    with (
        fake_model("--account", "carol=r8_carol") as fake,
        client_of(fake, "r8_carol") as carol,
        client_of(fake, ALICE) as alice,
    ):
        assert carol.get("/account").json()["username"] == "carol"
        assert alice.get("/account").status_code == 401


def test_real_client_runs_against_it(fake: FakeModel) -> None:
    client = Client(api_token=ALICE, base_url=fake.base_url.removesuffix("/v1"))
    official = client.run("acme/pixel", input={"prompt": "a red fox"})
    pinned = client.run(f"painters/brush:{VERSION}", input={"prompt": "a red fox"})
    for output in (official, pinned):
        assert isinstance(output, list)
        assert str(output[0]).startswith(fake.delivery_origin)
    with pytest.raises(ReplicateError) as refused:
        client.run("acme/pixel", input={})
    assert refused.value.status == 422
    page = client.predictions.list()
    assert page.results[0].status == "succeeded"
    client._client.close()
