"""``hotplate tokens``, with and without a running proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from loadtests.fake_model.process import ALICE, fake_model
from proxy import cli
from proxy.core.entitlement import has_own_form
from proxy.settings import SettingsError
from tests.flows.harness import ProxyProcess, running_proxy

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

RUNNER = CliRunner()
ADMIN_TOKEN = "an-admin-token-of-ours"


def run(*arguments: str, stdin: str | None = None) -> Result:
    return RUNNER.invoke(cli.app, ["tokens", *arguments], input=stdin)


def refused(*arguments: str) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, SettingsError), result.output
    return str(result.exception)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOTPLATE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOTPLATE_ADMIN__PORT", "1")
    monkeypatch.delenv("REPLICATE_API_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_spend_that_prices_give_a_meaning_is_taken_without_a_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOTPLATE_POLICY", '[{"price_per_second": 0.001}]')
    made = run("add", "studio", "--spend", "5")
    assert made.exit_code == 0, made.output
    assert "price" not in made.stderr


def test_token_is_printed_once_and_shown_by_its_id_ever_after(folder: Path) -> None:
    made = run("add", "studio", "--scope", "group:crew", "--models", "acme/*", "--rate", "60/min", "--spend", "5")
    assert made.exit_code == 0, made.output
    assert "no policy has a price" in made.stderr
    text = made.stdout.strip()
    assert has_own_form(text)
    shown = run("list").output
    assert text not in shown
    for word in ("studio", "group:crew", "acme/*", "60/min", "5"):
        assert word in shown
    assert run("id", stdin=f"{text}\n").stdout.strip() in shown
    assert "already" in refused("add", "studio")
    assert run("revoke", "studio").exit_code == 0
    assert "studio" not in run("list").output
    assert "no token" in refused("revoke", "studio")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("add", "x", "--rate", "many"), "--rate"),
        (("add", "x", "--rate", "0"), "--rate"),
        (("add", "x", "--scope", "all"), "--scope"),
        (("add", " "), "name"),
        (("add", "x", "--spend", "-1"), "spent"),
    ],
)
def test_wrong_use_is_one_line(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in refused(*arguments)


def test_id_of_a_token_is_told_for_the_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_API_TOKEN", ALICE)
    assert run("id").stdout == run("id").stdout
    assert run("id").stdout.startswith("tok_")
    monkeypatch.delenv("REPLICATE_API_TOKEN")
    assert run("id", stdin=f"{ALICE}\n").stdout.startswith("tok_")
    assert "REPLICATE_API_TOKEN" in refused("id")


@pytest.fixture
def proxy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxyProcess]:
    with fake_model() as api:
        config = (
            f'[auth]\nmode = "gateway"\n[admin]\ntoken = "{ADMIN_TOKEN}"\n[[upstream]]\nkind = "replicate"\n'
            f'name = "replicate"\nbase_url = "{api.base_url}"\noutput_origins = ["{api.delivery_origin}"]\n'
            f'token = "{ALICE}"\n'
        )
        with running_proxy(folder / "data", config) as proxy:
            monkeypatch.setenv("HOTPLATE_ADMIN__PORT", proxy.admin_url.rpartition(":")[2])
            monkeypatch.setenv("HOTPLATE_ADMIN__TOKEN", ADMIN_TOKEN)
            yield proxy


def test_running_proxy_takes_tokens_and_revocations_at_once(
    proxy: ProxyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = run("add", "studio").stdout.strip()

    def create(**headers: str) -> httpx.Response:
        return httpx.post(
            f"{proxy.public_url}/v1/models/acme/pixel/predictions",
            json={"input": {"prompt": "x", "seed": 1}},
            headers={"Prefer": "wait", **headers},
            trust_env=False,
            timeout=60,
        )

    credential = {"Authorization": f"Bearer {text}"}
    assert create(**credential).json()["status"] == "succeeded"
    assert create().status_code == 401
    assert "studio" in run("list").output
    assert run("revoke", "studio").exit_code == 0
    assert create(**credential).status_code == 401
    monkeypatch.setenv("HOTPLATE_ADMIN__TOKEN", "not-the-admin-token-at-all")
    assert "admin token" in refused("list")
    monkeypatch.setenv("HOTPLATE_ADMIN__PORT", "1")
    assert isinstance(run("list").exception, Exception), "the folder is the running proxy's"
    assert text not in proxy.log_file.read_text(encoding="utf-8")
    assert ALICE not in proxy.log_file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{}",
        '{"name": 1}',
        '{"name": "x", "scope": 1}',
        '{"name": "x", "scope": "all"}',
        '{"name": "x", "models": "acme/*"}',
        '{"name": "x", "rate_per_min": 1.5}',
        '{"name": "x", "rate_per_min": true}',
        '{"name": "x", "spend_per_day": "1"}',
        '{"name": "x", "more": 1}',
        "no json",
    ],
)
def test_admin_listener_refuses_what_can_be_no_token(admin: httpx.Client, body: str) -> None:
    answer = admin.post("/_hotplate/tokens", content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["detail"]


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    config = '[[upstream]]\nkind = "cog"\nname = "gpus"\nurls = ["http://127.0.0.1:9"]\n'
    with (
        running_proxy(tmp_path_factory.mktemp("admin") / "data", config) as proxy,
        httpx.Client(base_url=proxy.admin_url, trust_env=False) as client,
    ):
        yield client


def test_page_of_another_site_makes_no_token(admin: httpx.Client) -> None:
    answer: Any = admin.post("/_hotplate/tokens", json={"name": "x"}, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert admin.get("/_hotplate/tokens").json() == {"tokens": []}
