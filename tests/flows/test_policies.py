"""Policies through the real listener: what a client asks for by headers and base URL, and what it is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.fake_model.process import ALICE, fake_model
from tests.flows.harness import running_proxy
from tests.flows.test_replicate_upstream import PIXEL, Pair, config, files

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

POLICIES = """
[[policy]]
name = "never"
mode = "off"

[[policy]]
name = "pool"
seedless = "pool:3"

[[policy]]
name = "fill"
mode = "write_only"

[[policy]]
name = "anew"
mode = "refresh"

[[policy]]
name = "strict"
forbid = ["no-store", "pool", "namespace"]

[[policy]]
ttl_s = 1000
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("policies")
    with fake_model() as api, running_proxy(folder / "data", config(api, POLICIES)) as proxy:
        yield Pair(api, proxy)


@pytest.fixture
def pair(both: Pair) -> Iterator[Pair]:
    both.api.reset()
    yield both
    both.api.reset()


def ask(prompt: str, **more: Any) -> dict[str, Any]:
    return {"input": {"prompt": prompt, "seed": 3, **more}}


def creates(pair: Pair) -> int:
    return int(pair.api.counters()["creates"])


def test_hit_says_how_old_it_is_and_how_long_it_stays_fresh(pair: Pair) -> None:
    pair.post(PIXEL, ask("age"))
    hit = pair.post(PIXEL, ask("age"))
    said = re.fullmatch(r"Hotplate; hit; ttl=(\d+)", hit.headers["cache-status"])
    assert said is not None
    assert int(hit.headers["age"]) < 100
    assert 900 <= int(said[1]) <= 1000


@pytest.mark.parametrize(
    ("directive", "is_hit", "is_replaced"),
    [
        ("max-age=1000", True, False),
        ("min-fresh=10", True, False),
        ("max-stale", True, False),
        ("only-if-cached", True, False),
        ("community=UCI", True, False),
        ("no-cache", False, True),
        ("max-age=0", False, True),
        ("max-age=soon", False, True),
        ("No-Store", False, False),
    ],
)
def test_cache_control_of_a_create_decides(pair: Pair, directive: str, is_hit: bool, is_replaced: bool) -> None:
    given = {"input": {"prompt": f"control {directive}"}}  # without a seed each run draws another picture
    first = files(pair.post(PIXEL, given).json())
    answer = pair.post(PIXEL, given, **{"Cache-Control": directive})
    assert answer.status_code == 201
    assert ("; hit" in answer.headers["cache-status"]) is is_hit
    assert (files(answer.json()) == first) is is_hit
    assert creates(pair) == (1 if is_hit else 2)
    last = pair.post(PIXEL, given)
    assert "; hit" in last.headers["cache-status"]
    assert files(last.json()) == (files(answer.json()) if is_replaced else first)


@pytest.mark.parametrize("profile", ["fill", "anew"])
def test_run_that_the_policy_wants_is_not_said_to_be_the_requests_wish(pair: Pair, profile: str) -> None:
    """``write_only`` told every client that it had asked for a new run itself."""
    path, given = f"/@{profile}{PIXEL}", ask(f"by policy {profile}")
    for headers, why in (({}, "bypass"), ({"Cache-Control": "no-cache"}, "request")):
        answer = pair.post(path, given, **headers)
        assert answer.headers["cache-status"] == f"Hotplate; fwd={why}; stored; detail=warm"
    assert creates(pair) == 2


def test_directives_in_several_lines_are_one_list(pair: Pair) -> None:
    pair.post(PIXEL, ask("lines"))
    lines = [("Authorization", f"Bearer {ALICE}"), ("Cache-Control", "max-age=1000"), ("Cache-Control", "no-store")]
    answer = httpx.post(pair.proxy.public_url + PIXEL, json=ask("lines"), headers=lines, trust_env=False)
    assert answer.headers["cache-status"] == "Hotplate; fwd=request; detail=request"


def test_only_if_cached_is_answered_504_in_the_apis_shape_and_makes_no_run(pair: Pair) -> None:
    answer = pair.post(PIXEL, ask("never made"), **{"Cache-Control": "only-if-cached"})
    assert answer.status_code == 504
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 504
    assert set(answer.json()) == {"title", "detail", "status"}
    assert creates(pair) == 0


@pytest.mark.parametrize("prefix", ["/@never/v1", "/@never", "/@never/v1/v1"])
def test_base_url_selects_a_policy(pair: Pair, prefix: str) -> None:
    path = prefix + PIXEL.removeprefix("/v1")
    for _ in range(2):
        answer = pair.post(path, ask("profile"))
        assert answer.status_code == 201
        assert answer.headers["cache-status"] == "Hotplate; fwd=bypass; detail=off"
    assert creates(pair) == 2


@pytest.mark.parametrize(
    "path",
    [
        PIXEL,
        "/v1/predictions",
        "/v1/predictions/abcdefghijklmnopqrstuvwxyz",
        "/v1/models",
        "/v1/account",
        "/v1/files",
        "/healthz",
        "/",
        "",
    ],
)
def test_profile_that_no_policy_has_is_unknown_on_every_path(pair: Pair, path: str) -> None:
    for name in ("nobody", "Never", "", "never%20", "neve"):
        answer = pair.get(f"/@{name}{path}")
        assert answer.status_code == 404, name
        assert answer.json()["status"] == 404
    assert pair.post(f"/@nobody{PIXEL}", ask("x")).status_code == 404
    assert creates(pair) == 0


def test_predictions_of_a_profile_are_found_under_every_base_url(pair: Pair) -> None:
    created = pair.post("/@pool/v1/models/acme/pixel/predictions", ask("everywhere")).json()
    for prefix in ("/@pool/v1", "/@never/v1", "/v1"):
        assert pair.get(f"{prefix}/predictions/{created['id']}").json()["status"] == "succeeded"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Hotplate-Namespace", "a b"),
        ("Hotplate-Namespace", ""),
        ("Hotplate-Namespace", "x" * 65),
        ("Hotplate-Pool", "0"),
        ("Hotplate-Pool", "101"),
        ("Hotplate-Pool", "five"),
        ("Hotplate-Pool", "+5"),
        ("Hotplate-Key", ""),
        ("Hotplate-Key", "x" * 257),
        ("Hotplate-Tags", ","),
        ("Hotplate-Tags", "a, b c"),
    ],
)
def test_header_of_hotplates_own_that_cannot_be_read_is_an_error(pair: Pair, header: str, value: str) -> None:
    answer = pair.post(PIXEL, ask("headers"), **{header: value})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert header in answer.json()["detail"]
    assert creates(pair) == 0


def test_namespace_and_key_part_the_cache_and_are_not_passed_on(pair: Pair) -> None:
    own = {"Hotplate-Namespace": "team", "Hotplate-Key": "v2", "Hotplate-Tags": "a, b"}
    pair.post(PIXEL, ask("parted"))
    assert "; hit" not in pair.post(PIXEL, ask("parted"), **own).headers["cache-status"]
    assert "; hit" in pair.post(PIXEL, ask("parted"), **own).headers["cache-status"]
    assert creates(pair) == 2


@pytest.mark.parametrize(
    ("header", "value"), [("Cache-Control", "no-store"), ("Hotplate-Pool", "3"), ("Hotplate-Namespace", "a")]
)
def test_what_the_operator_forbids_is_answered_403(pair: Pair, header: str, value: str) -> None:
    answer = pair.post("/@strict/v1/models/acme/pixel/predictions", ask("strict"), **{header: value})
    assert answer.status_code == 403
    assert answer.json()["title"] == "Forbidden"
    assert creates(pair) == 0


def test_three_equal_requests_at_once_get_three_pictures_and_then_one_of_them_each(pair: Pair) -> None:
    path, given = "/@pool/v1/models/acme/pixel/predictions", {"input": {"prompt": "three"}}
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: pair.post(path, given), range(3)))
    pictures = {files(answer.json())[0] for answer in answers}
    assert len(pictures) == 3
    assert creates(pair) == 3
    told = [place for answer in answers for place in re.findall(r"pool (\d)/3", answer.headers["cache-status"])]
    assert sorted(told) == ["1", "2", "3"]
    for _ in range(6):
        hit = pair.post(path, given)
        assert re.fullmatch(r'Hotplate; hit(; ttl=\d+)?; detail="pool [123]/3"', hit.headers["cache-status"])
        assert files(hit.json())[0] in pictures
    assert creates(pair) == 3


RUN = "import replicate; print(replicate.run('acme/pixel', input={'prompt': 'client'})[0])"


def test_client_that_sends_no_headers_gets_a_pool_by_its_base_url(pair: Pair) -> None:
    """``replicate.run()`` of the Python client."""

    def run() -> str:
        base_url = f"{pair.proxy.public_url}/@pool/v1"
        env = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "REPLICATE_BASE_URL": base_url,
            "REPLICATE_API_TOKEN": ALICE,
        }
        command = [sys.executable, "-W", "ignore", "-c", RUN]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    pictures = [run() for _ in range(4)]
    assert len(set(pictures[:3])) == 3
    assert pictures[3] in pictures
    assert creates(pair) == 3


@pytest.mark.slow
def test_pool_loses_no_picture_when_the_proxy_is_killed_while_it_fills(tmp_path: Path) -> None:
    """Two of five are served, two are on their way, and then the process is gone."""
    policy = '[[policy]]\nseedless = "pool:5"\n'
    given = {"input": {"prompt": "five"}}
    with fake_model() as api:
        with running_proxy(tmp_path / "data", config(api, policy)) as proxy:
            pair = Pair(api, proxy)
            got = {files(pair.post(PIXEL, given).json())[0].partition("/outputs/")[2] for _ in range(2)}
            assert len(got) == 2
            api.hold()
            under_way = [pair.post(PIXEL, given, Prefer="respond-async").json() for _ in range(2)]
            assert {one["status"] for one in under_way} == {"starting"}
            assert api.counters()["creates"] == 4
            proxy.stop(9)
        api.release()
        with running_proxy(tmp_path / "data", config(api, policy)) as proxy:
            pair = Pair(api, proxy)
            for one in under_way:
                path = f"/v1/predictions/{one['id']}"
                while (found := pair.get(path).json())["status"] not in ("succeeded", "failed"):
                    time.sleep(0.05)
                got.add(files(found)[0].partition("/outputs/")[2])
            served = {files(pair.post(PIXEL, given).json())[0].partition("/outputs/")[2] for _ in range(60)}
            assert len(served) == 5
            assert got < served
            assert api.counters()["creates"] == 5
