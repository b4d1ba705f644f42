"""What clients see of a run at Replicate's API while it goes on: growing text, files one by one, all files early."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import replicate

from loadtests.fake_model.process import ALICE, FakeModel, fake_model
from tests.flows.harness import ProxyProcess, running_proxy

GALLERY = "/v1/models/acme/gallery/predictions"
WRITER = "/v1/models/acme/writer/predictions"


class Journey:
    """A proxy before the double of the API, and a client of it that looks often."""

    def __init__(self, api: FakeModel, proxy: ProxyProcess) -> None:
        self.api = api
        self.proxy = proxy
        credential = {"Authorization": f"Bearer {ALICE}"}
        self.http = httpx.Client(base_url=proxy.public_url, headers=credential, timeout=60, trust_env=False)

    def create(self, path: str, *, prefer: str | None = None, **given: Any) -> httpx.Response:
        headers = {"Prefer": prefer} if prefer else {}
        return self.http.post(path, json={"input": {"prompt": "a red fox by a lake", **given}}, headers=headers)

    def follow(self, prediction: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The prediction again and again, until it has ended."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            prediction = self.http.get(f"/v1/predictions/{prediction['id']}").json()
            yield prediction
            if prediction["status"] not in ("starting", "processing"):
                return
            time.sleep(0.05)
        raise AssertionError(f"it did not end: {prediction['status']}")

    def is_own(self, address: str) -> bool:
        return address.startswith(f"{self.proxy.public_url}/outputs/")


@pytest.fixture(scope="module")
def journeys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Journey]]:
    with fake_model() as api:
        config = (
            f'[[upstream]]\nkind = "replicate"\nname = "replicate"\nbase_url = "{api.base_url}"\n'
            f'output_origins = ["{api.delivery_origin}"]\n[cache]\noutput_urls = "url"\n'
        )
        with running_proxy(tmp_path_factory.mktemp("partials") / "data", config) as proxy:
            yield lambda: Journey(api, proxy)


@pytest.fixture
def journey(journeys: Callable[[], Journey]) -> Iterator[Journey]:
    journey = journeys()
    journey.api.reset()
    with journey.http:
        yield journey


def test_text_grows_in_polls(journey: Journey) -> None:
    """langchain and litellm show a text as it comes by looking again and again."""
    created = journey.create(WRITER, max_tokens=10, interval=0.2)
    assert (created.json()["status"], created.json()["output"]) == ("starting", None)
    seen = [list(each["output"] or []) for each in journey.follow(created.json())]
    whole = seen[-1]
    assert len(whole) == 10
    assert all(whole[: len(part)] == part for part in seen), "each look finds a beginning of the end's text"
    assert len({len(part) for part in seen}) >= 4


@pytest.mark.slow
def test_files_come_one_by_one_under_the_proxy_s_addresses(journey: Journey) -> None:
    created = journey.create(GALLERY, seed=1, num_outputs=4, interval=0.5)
    seen = list(journey.follow(created.json()))
    final = seen[-1]["output"]
    assert len(final) == 4
    growing = [each["output"] for each in seen if each["status"] == "processing" and each["output"]]
    assert {len(output) for output in growing} & {1, 2, 3}, "some were seen before the end"
    for output in growing:
        assert final[: len(output)] == output
        assert all(map(journey.is_own, output))
        assert httpx.get(output[-1], trust_env=False).headers["content-type"] == "image/png"
    assert journey.api.counters()["output_reads"] == 4, "each was fetched once"
    again = journey.create(GALLERY, seed=1, num_outputs=4, interval=0.5)
    assert "; hit" in again.headers["cache-status"]
    assert list(journey.follow(again.json()))[-1]["output"] == final


def test_waiting_create_is_answered_when_all_files_are_here_and_stored_only_at_the_end(journey: Journey) -> None:
    given = {"seed": 2, "num_outputs": 3, "answers_early": True, "linger": 2.0}
    began = time.monotonic()
    early = journey.create(GALLERY, prefer="wait", **given)
    assert time.monotonic() - began < 1.8
    prediction = early.json()
    assert (early.status_code, prediction["status"]) == (201, "processing")
    assert len(prediction["output"]) == 3
    assert all(map(journey.is_own, prediction["output"]))
    assert "completed_at" not in prediction
    assert "stored" not in early.headers["cache-status"]
    follower = journey.create(GALLERY, prefer="wait", **given)
    assert (follower.status_code, follower.json()["status"]) == (201, "processing")
    assert follower.json()["output"] == prediction["output"]
    assert "collapsed" in follower.headers["cache-status"], "it is no hit yet"
    *_, ended = journey.follow(prediction)
    assert (ended["status"], ended["output"]) == ("succeeded", prediction["output"])
    assert ended["metrics"]["predict_time"] > 0
    hit = journey.create(GALLERY, prefer="wait", **given)
    assert "; hit" in hit.headers["cache-status"]
    assert hit.json()["output"] == prediction["output"]
    assert journey.api.counters()["output_reads"] == 3


def test_run_that_fails_after_its_first_file_is_not_kept(journey: Journey) -> None:
    given = {"seed": 3, "num_outputs": 2, "interval": 0.4, "fail_at": 1}
    *_, ended = journey.follow(journey.create(GALLERY, **given).json())
    assert ended["status"] == "failed"
    assert ended["output"] is None
    assert "hit" not in journey.create(GALLERY, **given).headers["cache-status"]


@pytest.mark.slow
def test_create_whose_wait_runs_out_says_starting_and_shows_no_part(journey: Journey) -> None:
    """Clients take anything else for the end, and would go on with half of the output."""
    answer = journey.create(GALLERY, prefer="wait=1", seed=4, num_outputs=4, interval=0.6)
    assert (answer.status_code, answer.json()["status"], answer.json()["output"]) == (202, "starting", None)
    *_, ended = journey.follow(answer.json())
    assert len(ended["output"]) == 4


def test_client_library_uses_the_files_of_an_early_answer(journey: Journey) -> None:

    client = replicate.Client(api_token=ALICE, base_url=journey.proxy.public_url)
    given = {"prompt": "early", "seed": 5, "num_outputs": 2, "answers_early": True, "linger": 1.0}
    output = client.run("acme/gallery", input=given)
    client._client.close()
    assert len(output) == 2
    assert all(map(journey.is_own, map(str, output)))
