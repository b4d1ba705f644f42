"""Hotplate's own tokens: what they open, what they keep apart, and whom they are never told to."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.fake_model.process import ALICE, BOB, FakeModel, fake_model
from tests.flows.harness import ROOT, SMALL, ProxyProcess, local_config, running_proxy

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

TOKEN_A = "own-token-of-the-first-caller"
TOKEN_B = "own-token-of-the-second-caller"
LOCAL = "/v1/models/hotplate/demo/predictions"
REMOTE = "/v1/models/acme/pixel/predictions"
AUTH = f'[auth]\ntokens = ["{TOKEN_A}", "{TOKEN_B}"]\n'
URLS = '[cache]\noutput_urls = "url"\n'

NOT_TOKENS = {
    "none": None,
    "wrong": "Bearer never-a-token-of-this-proxy",
    "shorter": f"Bearer {TOKEN_A[:-1]}",
    "longer": f"Bearer {TOKEN_A}x",
    "other case": f"Bearer {TOKEN_A.upper()}",
    "both": f"Bearer {TOKEN_A} {TOKEN_B}",
    "no scheme": TOKEN_A,
    "basic": f"Basic {TOKEN_A}",
    "empty": "Bearer",
}


def request(proxy: ProxyProcess, method: str, path: str, credential: str | None, prompt: str = "x") -> httpx.Response:
    headers = {"Prefer": "wait", **({"Authorization": credential} if credential is not None else {})}
    document = {"input": {"prompt": prompt, "seed": 1, **SMALL}} if method == "POST" else None
    return httpx.request(method, proxy.public_url + path, json=document, headers=headers, timeout=110, trust_env=False)


def assert_unauthenticated(answer: httpx.Response) -> None:
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "private, no-store"
    problem = answer.json()
    assert (problem["title"], problem["status"]) == ("Unauthenticated", 401)
    assert problem["detail"]


def arrived(api: FakeModel) -> int:
    """How many requests the API got since it was reset, whatever they were."""
    return sum(value for value in api.counters().values() if isinstance(value, int))


# -- in front of a local model -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    with running_proxy(tmp_path_factory.mktemp("tokens") / "data", local_config() + URLS + AUTH) as proxy:
        yield proxy


@pytest.mark.parametrize("name", NOT_TOKENS)
def test_local_model_is_closed_to_all_but_own_tokens(local: ProxyProcess, name: str) -> None:
    credential = NOT_TOKENS[name]
    made = request(local, "POST", LOCAL, f"Bearer {TOKEN_A}", "well known").json()
    runs = local.runs()
    for prompt in ("well known", f"new for {name}"):
        assert_unauthenticated(request(local, "POST", LOCAL, credential, prompt))
    for method, path in (("GET", f"/v1/predictions/{made['id']}"), ("POST", f"/v1/predictions/{made['id']}/cancel")):
        assert_unauthenticated(request(local, method, path, credential))
    assert local.runs() == runs


def test_both_schemes_and_any_case_of_them_name_one_caller(local: ProxyProcess) -> None:
    runs = local.runs()
    answers = [
        request(local, "POST", LOCAL, f"{scheme} {TOKEN_A}", "two schemes")
        for scheme in ("Token", "Bearer", "token", "BEARER")
    ]
    assert [answer.status_code for answer in answers] == [201] * 4
    assert all("; hit" in answer.headers["cache-status"] for answer in answers[1:])
    assert len({answer.json()["output"][0] for answer in answers}) == 1
    assert local.runs() == runs + 1


def test_two_tokens_share_no_hit_and_no_prediction(local: ProxyProcess) -> None:
    runs = local.runs()
    first, second = (request(local, "POST", LOCAL, f"Bearer {token}", "mine") for token in (TOKEN_A, TOKEN_B))
    assert "hit" not in second.headers["cache-status"]
    assert local.runs() == runs + 2
    assert first.json()["output"] != second.json()["output"]
    for answer, own, other in ((first, TOKEN_A, TOKEN_B), (second, TOKEN_B, TOKEN_A)):
        path = f"/v1/predictions/{answer.json()['id']}"
        assert request(local, "GET", path, f"Token {own}").json()["status"] == "succeeded"
        for method, asked in (("GET", path), ("POST", f"{path}/cancel")):
            refused = request(local, method, asked, f"Bearer {other}")
            assert (refused.status_code, refused.json()["status"]) == (404, 404)


# -- beside a Replicate-compatible API -----------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeModel, ProxyProcess]]:
    with fake_model() as api:
        config = local_config(models=["hotplate/*"]) + (
            f'[[upstream]]\nkind = "replicate"\nname = "replicate"\nbase_url = "{api.base_url}"\n'
            f'output_origins = ["{api.delivery_origin}"]\n'
        )
        with running_proxy(tmp_path_factory.mktemp("mixed") / "data", config + URLS + AUTH) as proxy:
            yield api, proxy


@pytest.mark.parametrize("scheme", ["Bearer", "Token"])
def test_own_token_never_reaches_the_api(both: tuple[FakeModel, ProxyProcess], scheme: str) -> None:
    api, proxy = both
    mine = request(proxy, "POST", REMOTE, f"Bearer {ALICE}", "of the account").json()
    made = request(proxy, "POST", LOCAL, f"{scheme} {TOKEN_A}", "of the proxy").json()
    assert mine["status"] == made["status"] == "succeeded"
    api.reset()
    asked = [
        ("POST", REMOTE),
        ("POST", "/v1/predictions"),
        ("POST", "/v1/deployments/acme/pixel/predictions"),
        ("POST", f"/v1/predictions/{mine['id']}/cancel"),
        ("GET", f"/v1/predictions/{mine['id']}"),
        ("GET", "/v1/models/acme/pixel"),
        ("DELETE", "/v1/models/acme/pixel"),
    ]
    for method, path in asked:
        refused = request(proxy, method, path, f"{scheme} {TOKEN_A}", "of the account")
        assert refused.status_code in (401, 404, 422), (method, path, refused.text)
    assert arrived(api) == 0
    listed = request(proxy, "GET", "/v1/predictions", f"{scheme} {TOKEN_A}").json()["results"]
    assert made["id"] in [one["id"] for one in listed]
    assert mine["id"] not in [one["id"] for one in listed]
    assert request(proxy, "GET", f"/v1/predictions/{made['id']}", f"{scheme} {TOKEN_A}").status_code == 200
    assert request(proxy, "GET", f"/v1/predictions/{made['id']}", f"{scheme} {TOKEN_B}").status_code in (401, 404)
    assert arrived(api) == 0


def test_own_token_is_answered_as_if_there_were_no_api(both: tuple[FakeModel, ProxyProcess]) -> None:
    """It got 401 for everything that is not handled here, as if the token were wrong."""
    api, proxy = both
    api.reset()
    credential = f"Bearer {TOKEN_A}"
    assert request(proxy, "GET", "/v1/account", credential).json()["username"] == "hotplate"
    assert request(proxy, "GET", "/v1/hardware", credential).json() == []
    for path in ("/v1/models", "/v1/collections", "/v1/trainings", "/v1/deployments"):
        assert request(proxy, "GET", path, credential).json()["results"] == []
    unknown = "/v1/predictions/" + "a" * 26
    for method, path in (("GET", unknown), ("POST", f"{unknown}/cancel"), ("GET", "/v1/no/such/path")):
        assert request(proxy, method, path, credential).status_code == 404
    assert arrived(api) == 0
    assert request(proxy, "GET", "/v1/account", f"Bearer {ALICE}").json()["username"] == "alice"
    assert request(proxy, "GET", "/v1/account", f"Bearer {TOKEN_A}x").status_code == 401, "the API's own word"


@pytest.mark.parametrize("token", [ALICE, BOB])
def test_token_of_the_api_does_not_open_the_local_model(both: tuple[FakeModel, ProxyProcess], token: str) -> None:
    api, proxy = both
    made = request(proxy, "POST", LOCAL, f"Bearer {TOKEN_A}", "only for own tokens").json()
    runs = proxy.runs()
    api.reset()
    assert_unauthenticated(request(proxy, "POST", LOCAL, f"Bearer {token}", "only for own tokens"))
    assert arrived(api) == 0
    # The id may be one of the API's own, so the API is asked; it knows nothing of it.
    assert request(proxy, "GET", f"/v1/predictions/{made['id']}", f"Bearer {token}").status_code == 404
    assert proxy.runs() == runs


def test_each_upstream_goes_on_with_its_own_tokens(both: tuple[FakeModel, ProxyProcess]) -> None:
    api, proxy = both
    api.reset()
    for token in (ALICE, BOB):
        for word in ("miss", "hit"):
            answer = request(proxy, "POST", REMOTE, f"Bearer {token}", "everybody's own")
            assert word in answer.headers["cache-status"]
    assert api.counters()["creates"] == 2
    assert request(proxy, "POST", LOCAL, f"Bearer {TOKEN_B}", "everybody's own").json()["status"] == "succeeded"
    assert_unauthenticated(request(proxy, "POST", REMOTE, None, "everybody's own"))


# -- a listener that other machines reach --------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ('host = "0.0.0.0"', "public.host"),
        ('host = "::"', "public.host"),
        ('base_url = "https://images.example.com"', "public.base_url"),
    ],
)
def test_open_listener_without_tokens_is_refused_in_one_line(tmp_path: Path, section: str, named: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "hotplate.toml"
    config.write_text(local_config() + f"[public]\n{section}\nport = {port}\n", encoding="utf-8")
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("HOTPLATE_", "REPLICATE_"))}
    ended = subprocess.run(
        [sys.executable, "-m", "proxy", "serve", "--config", str(config), "--admin-port", "0"],
        cwd=ROOT,
        env={**bare, "HOTPLATE_DATA_DIR": str(tmp_path / "data")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert "auth.tokens" in lines[0]
    assert named in lines[0]
    assert "Traceback" not in lines[0]
    assert not (tmp_path / "data").exists(), "it was refused before it began anything"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
