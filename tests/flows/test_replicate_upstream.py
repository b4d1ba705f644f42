"""In front of a Replicate-compatible API: every journey of the main job, counted at the API's side."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from loadtests.fake_model.process import ALICE, BOB, FakeModel, fake_model
from tests.flows.harness import ProxyProcess, running_proxy

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

PIXEL = "/v1/models/acme/pixel/predictions"


def config(api: FakeModel, more: str = "") -> str:
    return (
        f'[[upstream]]\nkind = "replicate"\nname = "replicate"\nbase_url = "{api.base_url}"\n'
        f'output_origins = ["{api.delivery_origin}"]\n[cache]\noutput_urls = "url"\n{more}'
    )


@dataclass
class Pair:
    """A proxy and the API behind it."""

    api: FakeModel
    proxy: ProxyProcess

    def post(self, path: str, document: Any, token: str | None = ALICE, **headers: str) -> httpx.Response:
        credential = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return httpx.post(
            self.proxy.public_url + path,
            json=document,
            headers={"Prefer": "wait", **credential, **headers},
            timeout=60,
            trust_env=False,
        )

    def get(self, path: str, token: str | None = ALICE) -> httpx.Response:
        credential = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return httpx.get(self.proxy.public_url + path, headers=credential, timeout=60, trust_env=False)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with fake_model() as api, running_proxy(tmp_path_factory.mktemp("replicate") / "data", config(api)) as proxy:
        yield Pair(api, proxy)


@pytest.fixture
def pair(both: Pair) -> Iterator[Pair]:
    both.api.reset()
    yield both
    assert both.api.counters()["output_credentials"] == 0, "a token was sent to the host of the outputs"
    both.api.reset()


def files(prediction: dict[str, Any]) -> list[str]:
    output = prediction["output"]
    return [output] if isinstance(output, str) else list(output)


def test_miss_is_stored_and_repeat_makes_no_run(pair: Pair) -> None:
    given = {"input": {"prompt": "one", "seed": 3}}
    miss, hit = pair.post(PIXEL, given), pair.post(PIXEL, given)
    assert (miss.status_code, hit.status_code) == (201, 201)
    assert "; stored" in miss.headers["cache-status"]
    assert "; hit" in hit.headers["cache-status"]
    assert files(miss.json()) == files(hit.json())
    assert miss.json()["id"] != hit.json()["id"]
    assert files(hit.json())[0].startswith(pair.proxy.public_url + "/outputs/")
    assert pair.api.counters()["creates"] == 1
    picture = httpx.get(files(hit.json())[0], trust_env=False)
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["cache-control"].startswith("public, max-age=31536000, immutable")
    with Image.open(io.BytesIO(picture.content)) as opened:
        opened.load()


@pytest.mark.parametrize("model", ["acme/single", "acme/nested"])
def test_every_output_shape_points_at_the_proxy(pair: Pair, model: str) -> None:
    given = {"input": {"prompt": model, "seed": 1}}
    for _ in range(2):
        prediction = pair.post(f"/v1/models/{model}/predictions", given).json()
        assert prediction["status"] == "succeeded"
        assert pair.api.delivery_origin not in str(prediction["output"])
        assert pair.proxy.public_url in str(prediction["output"])
    assert pair.api.counters()["creates"] == 1


def test_three_spellings_of_a_version_meet_in_one_key(pair: Pair) -> None:
    version = pair.get("/v1/models/painters/brush").json()["latest_version"]["id"]
    given = {"input": {"prompt": "spelt", "seed": 5}}
    first = pair.post("/v1/predictions", {**given, "version": f"painters/brush:{version}"})
    second = pair.post("/v1/predictions", {**given, "version": version})
    assert first.json()["status"] == second.json()["status"] == "succeeded"
    assert "; hit" in second.headers["cache-status"]
    assert pair.api.counters()["creates"] == 1


def test_two_tokens_never_share_and_one_token_in_two_schemes_does(pair: Pair) -> None:
    given = {"input": {"prompt": "mine", "seed": 7}}
    mine = pair.post(PIXEL, given)
    theirs = pair.post(PIXEL, given, token=BOB)
    assert "hit" not in theirs.headers["cache-status"]
    assert pair.api.counters()["creates"] == 2
    assert files(mine.json()) != files(theirs.json())
    token_word = pair.post(PIXEL, given, token=None, Authorization=f"Token {ALICE}")
    assert "; hit" in token_word.headers["cache-status"]
    own_id = mine.json()["id"]
    assert pair.get(f"/v1/predictions/{own_id}").status_code == 200
    assert pair.get(f"/v1/predictions/{own_id}", token=BOB).status_code == 404


@pytest.mark.parametrize("token", [None, "r8_never_accepted_by_anybody"])
def test_no_hit_without_an_accepted_credential(pair: Pair, token: str | None) -> None:
    given = {"input": {"prompt": f"not for {token}", "seed": 1}}
    mine = pair.post(PIXEL, given).json()
    assert mine["status"] == "succeeded"
    refused = pair.post(PIXEL, given, token=token)
    assert (refused.status_code, refused.json()["status"]) == (401, 401)
    assert pair.get(f"/v1/predictions/{mine['id']}", token=token).status_code in (401, 404)
    assert pair.api.counters()["runs"] == {"acme/pixel": 1}


def test_hit_after_a_restart_asks_once_whether_the_credential_is_good(tmp_path: Path) -> None:
    given = {"input": {"prompt": "kept", "seed": 1}}
    with fake_model() as api:
        with running_proxy(tmp_path / "data", config(api)) as proxy:
            first = Pair(api, proxy).post(PIXEL, given).json()
        api.reset()
        with running_proxy(tmp_path / "data", config(api)) as proxy:
            pair = Pair(api, proxy)
            for _ in range(3):
                assert "; hit" in pair.post(PIXEL, given).headers["cache-status"]
            assert (api.counters()["accounts"], api.counters()["creates"]) == (1, 0)
            assert pair.get(f"/v1/predictions/{first['id']}").json()["status"] == "succeeded"
            assert pair.post(PIXEL, given, token="r8_somebody_else_entirely").status_code == 401


def test_deployment_is_cached_in_a_namespace_of_its_own(pair: Pair) -> None:
    given = {"input": {"prompt": "deployed", "seed": 7}}
    deployed = "/v1/deployments/acme/pixel-live/predictions"
    miss, hit = pair.post(deployed, given), pair.post(deployed, given)
    assert "; hit" in hit.headers["cache-status"]
    for answer in (miss, hit, pair.get(f"/v1/predictions/{miss.json()['id']}")):
        shown = answer.json()
        assert (shown["deployment"], shown["model"], shown["version"]) == ("acme/pixel-live", "acme/pixel", "hidden")
    assert "deployment" not in pair.post(PIXEL, given).json()
    assert pair.api.counters()["creates"] == 2
    unknown = pair.post("/v1/deployments/acme/nothing/predictions", given)
    assert (unknown.status_code, unknown.json()["detail"]) == (404, "The requested resource could not be found.")
    assert pair.get("/v1/deployments/acme/pixel-live").json()["name"] == "pixel-live"


def test_refusals_come_back_verbatim_with_their_retry_after(pair: Pair) -> None:
    bad = pair.post(PIXEL, {"input": {"prompt": "x", "width": 0}})
    assert (bad.status_code, bad.json()["title"]) == (422, "Input validation failed")
    pair.api.fault("throttle", on="create", retry_after_s=7)
    throttled = pair.post(PIXEL, {"input": {"prompt": "too many", "seed": 1}})
    assert (throttled.status_code, throttled.headers["retry-after"]) == (429, "7")
    assert "throttled" in throttled.json()["detail"]
    pair.api.fault("status", on="create", status=402)
    assert pair.post(PIXEL, {"input": {"prompt": "no credit", "seed": 1}}).status_code == 402
    assert pair.api.counters()["runs"] == {}


def test_failed_model_is_told_and_not_kept(pair: Pair) -> None:
    for count in (1, 2):
        prediction = pair.post("/v1/models/acme/failing/predictions", {"input": {"prompt": "x", "seed": 1}}).json()
        assert (prediction["status"], prediction["error"]) == ("failed", "CUDA out of memory")
        assert pair.api.counters()["creates"] == count


@pytest.mark.parametrize("fault", ["truncated", "close-delimited", "encoded"])
def test_output_that_does_not_arrive_whole_is_left_to_the_upstream_and_not_kept(pair: Pair, fault: str) -> None:
    given = {"input": {"prompt": f"broken by {fault}", "seed": 1}}
    # What is refused is refused at once; what breaks off is asked for a second time.
    pair.api.fault(fault, on="output", times=1 if fault == "encoded" else 2)
    broken = pair.post(PIXEL, given)
    assert broken.json()["status"] == "succeeded"
    assert files(broken.json())[0].startswith(pair.api.delivery_origin)
    assert "stored" not in broken.headers["cache-status"]
    whole = pair.post(PIXEL, given)
    assert "; stored" in whole.headers["cache-status"]
    assert files(whole.json())[0].startswith(pair.proxy.public_url)


def test_output_is_fetched_again_when_the_first_try_breaks(pair: Pair) -> None:
    pair.api.fault("truncated", on="output", times=1)
    answer = pair.post(PIXEL, {"input": {"prompt": "second try", "seed": 1}})
    assert "; stored" in answer.headers["cache-status"]


@pytest.mark.parametrize("fault", ["drop-fin", "drop-rst", "malformed"])
def test_create_that_breaks_is_an_error_and_is_never_sent_twice(pair: Pair, fault: str) -> None:
    pair.api.fault(fault, on="create")
    answer = pair.post(PIXEL, {"input": {"prompt": f"create {fault}", "seed": 1}})
    assert answer.status_code in (502, 504)
    assert answer.json()["status"] == answer.status_code
    assert pair.api.counters()["creates"] == 1


def test_text_is_handed_out_and_not_kept(pair: Pair) -> None:
    for count in (1, 2):
        answer = pair.post("/v1/models/acme/teller/predictions", {"input": {"prompt": "a b c"}})
        assert "".join(answer.json()["output"]) == "a b c "
        assert "stored" not in answer.headers["cache-status"]
        assert pair.api.counters()["creates"] == count


@pytest.mark.parametrize(("directive", "hits"), [("no-cache", True), ("no-store", False)])
def test_cache_control_on_create_is_obeyed(pair: Pair, directive: str, hits: bool) -> None:
    given = {"input": {"prompt": directive, "seed": 1}}
    asked = pair.post(PIXEL, given, **{"Cache-Control": directive})
    assert asked.json()["status"] == "succeeded"
    assert "; hit" not in pair.post(PIXEL, given, **{"Cache-Control": directive}).headers["cache-status"]
    assert pair.api.counters()["creates"] == 2
    assert ("; hit" in pair.post(PIXEL, given).headers["cache-status"]) is hits


def test_input_with_a_remote_url_is_not_cached(pair: Pair) -> None:
    given = {"input": {"prompt": "https://example.com/changing.png", "seed": 1}}
    for count in (1, 2):
        answer = pair.post(PIXEL, given)
        assert answer.headers["cache-status"] == "Hotplate; fwd=bypass; detail=url-input"
        assert pair.api.counters()["creates"] == count


def test_seedless_input_is_answered_from_the_cache_again(pair: Pair) -> None:
    given = {"input": {"prompt": "no seed"}}
    first, second = pair.post(PIXEL, given), pair.post(PIXEL, given)
    assert files(first.json()) == files(second.json())
    assert pair.api.counters()["creates"] == 1


@pytest.mark.parametrize("path", ["/v1/account", "/account", "/v1/v1/account", "/v1/hardware", "/v1/collections"])
def test_what_is_not_handled_passes_through(pair: Pair, path: str) -> None:
    direct = httpx.get(
        pair.api.base_url + path.replace("/v1", ""), headers={"Authorization": f"Bearer {ALICE}"}, trust_env=False
    )
    through = pair.get(path)
    assert (through.status_code, through.json()) == (200, direct.json())
    assert through.headers["cache-control"] == "private, no-store"
    assert pair.get(path, token="r8_wrong_wrong_wrong").status_code == 401


def test_upstream_s_own_predictions_can_be_read_through_the_proxy(pair: Pair) -> None:
    headers = {"Authorization": f"Bearer {ALICE}", "Prefer": "wait"}
    url = f"{pair.api.base_url}/models/acme/pixel/predictions"
    own = httpx.post(url, json={"input": {"prompt": "direct"}}, headers=headers, trust_env=False).json()
    assert pair.get(f"/v1/predictions/{own['id']}").json()["id"] == own["id"]


def test_create_that_does_not_wait_says_starting_though_the_pieces_are_there(pair: Pair) -> None:
    """A client that iterates over an output yields what came after the create; it once yielded nothing on a hit."""
    given = {"input": {"prompt": "in pieces", "seed": 1}}
    whole = pair.post(PIXEL, given).json()
    hit = httpx.post(
        pair.proxy.public_url + PIXEL, json=given, headers={"Authorization": f"Bearer {ALICE}"}, trust_env=False
    )
    assert hit.status_code == 201
    assert "; hit" in hit.headers["cache-status"]
    said = hit.json()
    assert (said["status"], said["output"], said["logs"], said.get("completed_at")) == ("starting", None, "", None)
    assert said["input"] == given["input"]
    ended = pair.get(f"/v1/predictions/{said['id']}").json()
    assert (ended["status"], ended["output"]) == ("succeeded", whole["output"])


def test_wait_that_runs_out_takes_no_longer_than_was_asked_for(pair: Pair) -> None:
    pair.api.hold()
    began = time.monotonic()
    held = pair.post(PIXEL, {"input": {"prompt": "held", "seed": 1}}, Prefer="wait=2")
    assert (held.status_code, held.json()["status"]) == (202, "starting")
    assert time.monotonic() - began < 3.9, "a wait of two seconds once took four"


def test_upstream_that_is_down_is_said_so_and_the_server_goes_on(tmp_path: Path) -> None:
    given = {"input": {"prompt": "before the fall", "seed": 1}}
    with fake_model() as api:
        proxy_context = running_proxy(tmp_path / "data", config(api))
        proxy = proxy_context.__enter__()
        pair = Pair(api, proxy)
        assert pair.post(PIXEL, given).json()["status"] == "succeeded"
    try:
        # Accepted within minutes: the hit needs nobody. A miss does.
        assert "; hit" in pair.post(PIXEL, given).headers["cache-status"]
        missed = pair.post(PIXEL, {"input": {"prompt": "after it", "seed": 1}})
        assert (missed.status_code, missed.json()["status"]) == (502, 502)
        assert httpx.get(f"{proxy.admin_url}/readyz", trust_env=False).status_code == 200
    finally:
        proxy_context.__exit__(None, None, None)
