"""``GET /predictions`` in front of a Replicate-compatible API and of models without accounts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.fake_model.process import ALICE, BOB, FakeModel, fake_model
from tests.flows.harness import ProxyProcess, local_config, running_proxy
from tests.flows.test_replicate_upstream import PIXEL, Pair, config

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

OWN_TOKEN = "hotplates-own-token-1"
PAGE = 5


@pytest.fixture(scope="module")
def api() -> Iterator[FakeModel]:
    """An API with small pages."""
    with fake_model("--page-size", str(PAGE)) as api:
        yield api


@pytest.fixture(scope="module")
def both(api: FakeModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with running_proxy(tmp_path_factory.mktemp("lists") / "data", config(api)) as proxy:
        yield Pair(api, proxy)


@pytest.fixture
def pair(both: Pair) -> Pair:
    """A proxy and an API whose lists are what all tests have made."""
    both.api.reset()
    return both


def direct(api: FakeModel, path: str, document: Any = None, token: str = ALICE) -> dict[str, Any]:
    """Ask the API itself, past the proxy."""
    headers = {"Authorization": f"Bearer {token}", "Prefer": "wait"}
    answer = httpx.request(
        "GET" if document is None else "POST", api.base_url + path, json=document, headers=headers, trust_env=False
    )
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def pages(proxy: ProxyProcess, query: str = "", token: str = ALICE, way: str = "next") -> list[dict[str, Any]]:
    """All pages that the links lead to."""
    url: str | None = f"{proxy.public_url}/v1/predictions{query}"
    found: list[dict[str, Any]] = []
    while url is not None:
        assert url.startswith(f"{proxy.public_url}/v1/predictions"), "a link leads past the proxy"
        answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "private, no-store"
        found.append(answer.json())
        url = found[-1][way]
        assert len(found) < 100
    return found


def listed(proxy: ProxyProcess, query: str = "", token: str = ALICE) -> list[dict[str, Any]]:
    return [each for page in pages(proxy, query, token) for each in page["results"]]


def ids(results: list[dict[str, Any]]) -> list[str]:
    return [each["id"] for each in results]


def test_misses_hits_and_the_upstreams_own_are_one_list(pair: Pair) -> None:
    mine: list[str] = []
    foreign: list[str] = []
    for number in range(7):
        given = {"input": {"prompt": f"listed {number}", "seed": number}}
        mine += [pair.post(PIXEL, given).json()["id"], pair.post(PIXEL, given).json()["id"]]
        foreign.append(direct(pair.api, "/models/acme/pixel/predictions", given)["id"])
    found = listed(pair.proxy)
    newest = ids(found)[: len(mine) + len(foreign)]
    assert sorted(newest) == sorted(mine + foreign), "each once, and no run of the proxy's under the upstream's id"
    assert [one for one in newest if one in mine] == mine[::-1]
    assert [one for one in newest if one in foreign] == foreign[::-1]
    assert len(set(ids(found))) == len(found)
    assert newest[0] == foreign[-1]
    times = [each["created_at"][:23] for each in found]
    assert times == sorted(times, reverse=True)
    for one in found[: len(newest)]:
        got = pair.get(f"/v1/predictions/{one['id']}").json()
        assert got == one, "a list shows what a look shows"
        assert one["urls"]["get"] == f"{pair.proxy.public_url}/v1/predictions/{one['id']}"


@pytest.mark.slow
def test_pages_go_back_as_they_came(pair: Pair) -> None:
    for number in range(4):
        given = {"input": {"prompt": f"to and fro {number}", "seed": number}}
        for _ in range(30):
            assert pair.post(PIXEL, given).status_code == 201
        direct(pair.api, "/models/acme/pixel/predictions", given)
    down = pages(pair.proxy)
    assert len(down) > 1
    assert down[0]["previous"] is None
    assert all(len(page["results"]) <= 100 for page in down)
    query = httpx.URL(down[-1]["previous"]).query.decode()
    up = pages(pair.proxy, f"?{query}", way="previous")
    back = [each["id"] for page in reversed(up) for each in page["results"]]
    assert back == [each["id"] for page in down[:-1] for each in page["results"]]


def test_predictions_made_between_two_pages_neither_repeat_nor_hide_any(pair: Pair) -> None:
    given = {"input": {"prompt": "meanwhile", "seed": 1}}
    for _ in range(120):
        pair.post(PIXEL, given)
    before = ids(listed(pair.proxy))
    url: str | None = "/v1/predictions"
    seen: list[str] = []
    while url is not None:
        page = pair.get(url).json()
        seen += ids(page["results"])
        pair.post(PIXEL, given)
        direct(pair.api, "/models/acme/pixel/predictions", given)
        url = page["next"].removeprefix(pair.proxy.public_url) if page["next"] else None
    assert seen == before


def test_follower_and_leader_are_listed_while_they_run_and_the_upstreams_run_is_not(pair: Pair) -> None:
    pair.api.hold()
    given = {"input": {"prompt": "shared", "seed": 1}}
    waiting = [pair.post(PIXEL, given, Prefer="respond-async").json()["id"] for _ in range(3)]
    found = listed(pair.proxy)[:4]
    assert ids(found)[:3] == waiting[::-1]
    assert {one["status"] for one in found[:3]} <= {"starting", "processing"}
    assert pair.api.counters()["creates"] == 1
    upstream_id = direct(pair.api, "/predictions")["results"][0]["id"]
    assert upstream_id not in ids(listed(pair.proxy))
    pair.api.release()


@pytest.mark.slow
def test_list_outlives_a_restart(api: FakeModel, tmp_path: Path) -> None:
    api.reset()
    given = {"input": {"prompt": "kept on the list", "seed": 1}}
    with running_proxy(tmp_path / "data", config(api)) as proxy:
        pair = Pair(api, proxy)
        mine = [pair.post(PIXEL, given).json()["id"] for _ in range(3)]
        assert ids(listed(proxy))[:3] == mine[::-1]
        before = listed(proxy)
    with running_proxy(tmp_path / "data", config(api)) as proxy:
        after = listed(proxy)
        assert ids(after) == ids(before)
        assert after[0]["output"][0].startswith(proxy.public_url)


def test_another_token_sees_nothing_and_a_bad_one_is_refused(pair: Pair) -> None:
    mine = pair.post(PIXEL, {"input": {"prompt": "private", "seed": 1}}).json()["id"]
    assert mine in ids(listed(pair.proxy))
    assert mine not in ids(listed(pair.proxy, token=BOB))
    refused = pair.get("/v1/predictions", token="r8_not_accepted_by_anybody")
    assert (refused.status_code, refused.json()["title"]) == (401, "Unauthenticated")
    assert pair.get("/v1/predictions", token=None).status_code == 401


def test_filters_reach_both_lists_and_stay_on_every_page(pair: Pair) -> None:
    given = {"input": {"prompt": "in the middle", "seed": 1}}
    old = pair.post(PIXEL, given).json()
    middle = [pair.post(PIXEL, given).json() for _ in range(3)]
    foreign = [direct(pair.api, "/models/acme/pixel/predictions", given) for _ in range(PAGE + 1)]
    new = pair.post(PIXEL, given).json()
    query = f"?created_after={middle[0]['created_at']}&created_before={new['created_at']}"
    found = ids(listed(pair.proxy, query))
    assert set(found) == {one["id"] for one in (*middle, *foreign)}
    assert old["id"] not in found
    web = listed(pair.proxy, "?source=web")
    assert {one["source"] for one in web} <= {"web"}
    wrong = pair.get("/v1/predictions?created_after=yesterday")
    assert (wrong.status_code, wrong.json()["invalid_fields"][0]["field"]) == (422, "created_after")
    assert pair.get("/v1/predictions?cursor=hp1.nonsense").status_code == 400
    assert pair.get("/v1/predictions?cursor=nonsense").status_code == 400, "the upstream's own word"


def test_upstreams_error_is_the_lists(pair: Pair) -> None:
    pair.post(PIXEL, {"input": {"prompt": "listed", "seed": 1}})
    pair.api.fault("throttle", on="other", retry_after_s=9)
    refused = pair.get("/v1/predictions")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "9")


def test_prediction_made_elsewhere_is_read_and_cancelled_through_the_proxy(pair: Pair) -> None:
    pair.api.hold()
    given = {"input": {"prompt": "made elsewhere", "seed": 1}}
    headers = {"Authorization": f"Bearer {ALICE}"}
    created = httpx.post(f"{pair.api.base_url}/models/acme/pixel/predictions", json=given, headers=headers)
    foreign = created.json()
    shown = pair.get(f"/v1/predictions/{foreign['id']}").json()
    assert shown["urls"]["get"] == f"{pair.proxy.public_url}/v1/predictions/{foreign['id']}"
    assert shown["urls"]["cancel"] == f"{pair.proxy.public_url}/v1/predictions/{foreign['id']}/cancel"
    assert shown["urls"]["web"] == foreign["urls"]["web"]
    assert shown["urls"].get("stream") == foreign["urls"].get("stream")
    canceled = httpx.post(shown["urls"]["cancel"], headers=headers, trust_env=False).json()
    assert canceled["status"] in ("canceled", "aborted", "starting", "processing")
    pair.api.release()


PYTHON = """
import json, sys, replicate
pages = list(replicate.paginate(replicate.predictions.list))
first = replicate.predictions.list()
print(json.dumps([[one.id for page in pages for one in page.results], [one.id for one in first.results], len(pages)]))
"""


@pytest.mark.slow
def test_python_client_pages_through(pair: Pair) -> None:
    given = {"input": {"prompt": "paged by a client", "seed": 1}}
    for _ in range(130):
        pair.post(PIXEL, given)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PYTHON],
        env={"REPLICATE_BASE_URL": pair.proxy.public_url, "REPLICATE_API_TOKEN": ALICE},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    every, first, count = json.loads(done.stdout)
    assert every == ids(listed(pair.proxy))
    assert first == every[: len(first)]
    assert count > 1


def test_list_of_models_without_accounts_is_empty_at_first_and_needs_a_token(tmp_path: Path) -> None:
    settings = (
        '[[upstream]]\nkind = "cog"\nname = "cog"\nmodels = ["acme/pixel"]\nurls = ["http://127.0.0.1:9"]\n'
        f'deadline_s = 0.2\n[auth]\ntokens = ["{OWN_TOKEN}", "{OWN_TOKEN}2"]\n'
    )
    with running_proxy(tmp_path / "data", settings) as proxy:
        headers = {"Authorization": f"Bearer {OWN_TOKEN}"}
        empty = httpx.get(f"{proxy.public_url}/v1/predictions", headers=headers, trust_env=False)
        assert empty.json() == {"previous": None, "next": None, "results": []}
        assert httpx.get(f"{proxy.public_url}/v1/predictions", trust_env=False).status_code == 401


@pytest.mark.slow
def test_local_model_is_listed_with_addresses_and_to_everybody_on_loopback(tmp_path: Path) -> None:
    with running_proxy(tmp_path / "data", local_config()) as proxy:
        given = {"input": {"prompt": "listed", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 3}}
        made = [
            httpx.post(
                f"{proxy.public_url}/v1/models/hotplate/demo/predictions",
                json=given,
                headers={"Prefer": "wait"},
                timeout=60,
                trust_env=False,
            ).json()
            for _ in range(3)
        ]
        assert made[0]["output"][0].startswith("data:")
        page = httpx.get(f"{proxy.public_url}/v1/predictions", trust_env=False).json()
        assert ids(page["results"]) == ids(made)[::-1]
        for one in page["results"]:
            assert one["output"][0].startswith(f"{proxy.public_url}/outputs/")
            assert httpx.get(one["output"][0], trust_env=False).status_code == 200
