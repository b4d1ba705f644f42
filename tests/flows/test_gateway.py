"""Hotplate holds the API's token: clients carry Hotplate's own, or none, and neither side ever sees the other's."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from loadtests.fake_model.courier import webhook_secret
from loadtests.fake_model.process import FakeModel, fake_model
from proxy.app import Application, build_application
from proxy.core.entitlement import parse_rule
from proxy.core.own_tokens import OwnToken
from proxy.logs import RequestLog
from proxy.settings import Settings
from tests.fakes.clock import ManualClock
from tests.fakes.engine import png

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::ResourceWarning")]

HELD = "r8_" + "h" * 37
PIXEL = "/v1/models/acme/pixel/predictions"
GIVEN = {"prompt": "behind a gateway", "seed": 1}


class Door:
    """A proxy in gateway or open mode, and all that came out of it so far."""

    def __init__(self, api: FakeModel, built: Application, client: httpx.AsyncClient) -> None:
        self.api = api
        self.built = built
        self.gate = built.services.gatekeeper
        self._client = client

    async def ask(self, token: str | None, method: str, path: str, document: Any = None, **more: Any) -> httpx.Response:
        headers = {"prefer": "wait"} if token is None else {"prefer": "wait", "authorization": f"Bearer {token}"}
        answer = await self._client.request(method, path, json=document, headers=headers, **more)
        said = answer.content + repr(answer.headers.raw).encode()
        assert HELD.encode() not in said, "the token that is held never comes out"
        assert webhook_secret("house").encode() not in said, "nor does what it opens"
        return answer

    async def create(self, token: str | None, given: Any = None, path: str = PIXEL, **more: Any) -> httpx.Response:
        return await self.ask(token, "POST", path, {"input": given or GIVEN, **more})


@pytest.fixture(scope="module")
def double() -> Iterator[FakeModel]:
    with fake_model(f"--account=house={HELD}") as api:
        yield api


@pytest.fixture
def api(double: FakeModel) -> Iterator[FakeModel]:
    double.reset()
    yield double
    assert double.counters()["refused"] == 0, "a client's token was told to the API"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    clock = ManualClock(time.time())
    monkeypatch.setattr("proxy.building.time", SimpleNamespace(time=clock, monotonic=clock))
    return clock


@asynccontextmanager
async def opened(data_dir: Path, api: FakeModel, mode: str = "gateway", **sections: Any) -> AsyncIterator[Door]:
    upstream = {
        "kind": "replicate",
        "name": "replicate",
        "base_url": api.base_url,
        "output_origins": [api.delivery_origin],
        "token": HELD,
    }
    settings = Settings.model_validate(
        {
            "data_dir": data_dir,
            "auth": {"mode": mode, **sections.pop("auth", {})},
            "cache": {"output_urls": "url"},
            "upstream": [upstream],
            **sections,
        }
    )
    base_url = "http://127.0.0.1:8484"
    built = await build_application(settings, base_url, RequestLog(None))
    transport = httpx.ASGITransport(built.public, client=("127.0.0.1", 50_000))
    try:
        async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
            yield Door(api, built, client)
    finally:
        await built.aclose(0.0)


@pytest.fixture
async def door(tmp_path: Path, api: FakeModel, clock: ManualClock) -> AsyncIterator[Door]:
    async with opened(tmp_path / "data", api) as door:
        yield door


async def token_for(door: Door, name: str, **limits: Any) -> str:
    text, _ = await door.gate.add_token(name, **limits)
    return text


# -- gateway ---------------------------------------------------------------------------------------------


async def test_only_a_token_of_hotplates_own_opens_anything(door: Door) -> None:
    mine = await token_for(door, "mine")
    made = await door.create(mine)
    assert (made.status_code, made.json()["status"]) == (201, "succeeded")
    for token in (
        None,
        HELD,
        "r8_" + "x" * 37,
        mine[:-1] + ("7" if mine[-1] != "7" else "6"),
        mine.upper(),
        "hp_" + "a" * 40,
    ):
        for method, path in (("POST", PIXEL), ("GET", "/v1/predictions"), ("GET", "/v1/models/acme/pixel")):
            refused = await door.ask(token, method, path, {"input": GIVEN} if method == "POST" else None)
            assert refused.status_code == 401, (token, method, path)
    assert door.api.counters()["creates"] == 1


async def test_observed_create_is_a_run_of_its_own_and_counts_as_spent(tmp_path: Path, api: FakeModel) -> None:
    """It was to be passed on, and a held token's API is passed nothing but look-ups: every create got 404."""
    policy = {"mode": "observe", "price_per_second": 1000.0}
    async with opened(tmp_path / "data", api, policy=[policy]) as door:
        mine = await token_for(door, "mine", spend_per_day=1.0)
        made = await door.create(mine)
        assert (made.status_code, made.json()["status"]) == (201, "succeeded")
        assert "observe" in made.headers["cache-status"]
        assert (await door.ask(mine, "GET", f"/v1/predictions/{made.json()['id']}")).status_code == 200
        assert (await door.create(mine)).status_code == 402
        assert api.counters()["creates"] == 1


async def test_two_tokens_share_no_hit_no_prediction_and_no_list(door: Door) -> None:
    one, two = await token_for(door, "one"), await token_for(door, "two")
    made = (await door.create(one)).json()
    assert "; hit" in (await door.create(one)).headers["cache-status"]
    assert "fwd=miss" in (await door.create(two)).headers["cache-status"]
    assert (await door.ask(one, "GET", f"/v1/predictions/{made['id']}")).json()["output"] == made["output"]
    assert (await door.ask(two, "GET", f"/v1/predictions/{made['id']}")).status_code == 404
    assert (await door.ask(two, "POST", f"/v1/predictions/{made['id']}/cancel")).status_code == 404
    listed = (await door.ask(two, "GET", "/v1/predictions")).json()["results"]
    assert len(listed) == 1
    assert made["id"] not in [each["id"] for each in listed]


@pytest.mark.parametrize(
    ("scopes", "policy", "is_hit"),
    [
        ((None, None), "account", False),
        ((None, None), "shared", True),
        (("shared", "shared"), "account", True),
        (("shared", "token"), "account", False),
        (("shared", "token"), "shared", False),
        (("account", "account"), "account", True),
        (("group:crew", "group:crew"), "account", True),
        (("group:crew", "group:crew"), "shared", True),
        (("group:crew", "group:crew"), "token", False),
        (("group:crew", "group:other"), "account", False),
        (("group:crew", "shared"), "account", False),
        (("group:crew", None), "group:crew", False),
    ],
)
async def test_scope_of_a_token_says_whose_results_it_gets(
    tmp_path: Path, api: FakeModel, scopes: tuple[str | None, str | None], policy: str, is_hit: bool
) -> None:
    async with opened(tmp_path / "data", api, policy=[{"scope": policy}]) as door:
        one, two = [
            await token_for(door, f"token {number}", rule=parse_rule(scope) if scope else None)
            for number, scope in enumerate(scopes)
        ]
        made = (await door.create(one)).json()
        again = await door.create(two)
        assert ("; hit" in again.headers["cache-status"]) == is_hit
        assert (again.json()["output"] == made["output"]) == is_hit
        is_one_account = scopes == ("account", "account")
        seen = await door.ask(two, "GET", f"/v1/predictions/{made['id']}")
        assert seen.status_code == (200 if is_one_account else 404)


async def test_what_the_accounts_of_the_api_holds_is_nobodys_business(door: Door) -> None:
    mine = await token_for(door, "mine")
    headers = {"authorization": f"Bearer {HELD}"}
    async with httpx.AsyncClient(base_url=door.api.base_url, headers=headers, trust_env=False) as operator:
        theirs = (await operator.post("/models/acme/pixel/predictions", json={"input": GIVEN})).json()
    assert (await door.ask(mine, "GET", f"/v1/predictions/{theirs['id']}")).status_code == 404
    assert (await door.ask(mine, "POST", f"/v1/predictions/{theirs['id']}/cancel")).status_code == 404
    assert (await door.ask(mine, "GET", "/v1/predictions")).json()["results"] == []
    assert (await door.ask(mine, "GET", "/v1/account")).json()["username"] == "hotplate"
    assert (await door.ask(mine, "GET", "/v1/trainings")).json()["results"] == []
    refused = [
        ("DELETE", "/v1/models/acme/pixel"),
        ("PATCH", "/v1/models/acme/pixel"),
        ("POST", "/v1/models"),
        ("POST", "/v1/deployments"),
        ("GET", "/v1/deployments/acme/live"),
        ("POST", "/v1/models/acme/pixel/versions/" + "0" * 64 + "/trainings"),
        ("GET", "/v1/anything/else"),
        ("TRACE", "/v1/models/acme/pixel"),
    ]
    before = sum(value for value in door.api.counters().values() if isinstance(value, int))
    for method, path in refused:
        assert (await door.ask(mine, method, path)).status_code in (404, 405), (method, path)
    assert sum(value for value in door.api.counters().values() if isinstance(value, int)) == before


async def test_models_are_looked_up_at_the_api(door: Door) -> None:
    mine = await token_for(door, "mine")
    model = (await door.ask(mine, "GET", "/v1/models/painters/brush")).json()
    assert model["name"] == "brush"
    version = model["latest_version"]["id"]
    assert (await door.ask(mine, "GET", f"/v1/models/painters/brush/versions/{version}")).json()["id"] == version


async def test_field_that_only_the_api_understands_is_refused(door: Door) -> None:
    mine = await token_for(door, "mine")
    refused = await door.create(mine, priority="high")
    assert refused.status_code == 422
    assert "priority" in refused.json()["detail"]
    assert door.api.counters()["creates"] == 0


async def test_request_that_is_only_observed_is_a_run_that_its_client_can_read(tmp_path: Path, api: FakeModel) -> None:
    """It was passed on as it came, and answered with 404: what the account of the API holds is for no client."""
    async with opened(tmp_path / "data", api, policy=[{"mode": "observe"}]) as door:
        mine = await token_for(door, "mine")
        for verdict in ("would-miss", "would-hit-doubtful"):
            made = await door.create(mine)
            assert (made.status_code, made.json()["status"]) == (201, "succeeded")
            assert made.headers["cache-status"] == f'Hotplate; fwd=bypass; detail="observe {verdict}"'
            assert (await door.ask(mine, "GET", f"/v1/predictions/{made.json()['id']}")).json()["output"]
            await door.built.services.observer.drain()
        assert api.counters()["creates"] == 2, "nothing is answered from the cache"
        assert door.built.services.observer.report()["verdicts"]["would-hit-doubtful"] == 1
        assert (await door.create(mine, secret="no such field")).status_code == 422


async def test_webhook_secret_is_each_token_s_own(door: Door) -> None:
    one, two = await token_for(door, "one"), await token_for(door, "two")
    keys = [(await door.ask(token, "GET", "/v1/webhooks/default/secret")).json()["key"] for token in (one, one, two)]
    assert keys[0] == keys[1] != keys[2]
    assert door.api.counters()["secrets"] == 0


async def test_upload_is_kept_here_and_handed_to_the_api_for_its_owner_alone(door: Door) -> None:
    one, two = await token_for(door, "one"), await token_for(door, "two")
    picture = png(size=700)
    answer = await door._client.post(
        "/v1/files", files={"content": ("a.png", picture, "image/png")}, headers={"authorization": f"Bearer {one}"}
    )
    assert answer.status_code == 201
    file = answer.json()
    assert door.api.counters()["uploads"] == 0
    assert (await door.ask(two, "GET", f"/v1/files/{file['id']}")).status_code == 404
    given = {"image": file["urls"]["get"], "seed": 3}
    restyle = "/v1/models/acme/restyle/predictions"
    made = await door.create(one, given, restyle)
    assert (made.status_code, made.json()["status"]) == (201, "succeeded"), made.text
    assert (await door.create(two, given, restyle)).status_code == 422
    stolen = {"image": f"{door.api.base_url}/files/{'x' * 48}", "seed": 3}
    assert (await door.create(two, stolen, restyle)).status_code == 422


async def test_token_that_the_api_no_longer_accepts_is_no_fault_of_the_client(
    tmp_path: Path, double: FakeModel
) -> None:
    double.reset()
    async with opened(tmp_path / "data", double) as door:
        mine = await token_for(door, "mine")
        made = (await door.create(mine)).json()
        double.revoke(HELD)
        assert (await door.create(mine, {"prompt": "new", "seed": 9})).status_code == 502
        assert (await door.ask(mine, "GET", "/v1/models/acme/pixel")).status_code == 502
        # What is here already needs nothing of the API.
        assert (await door.create(mine)).json()["output"] == made["output"]
        assert (await door.ask(mine, "GET", f"/v1/predictions/{made['id']}")).status_code == 200
    double.reset()


# -- what a token may do -----------------------------------------------------------------------------------


async def test_token_runs_the_models_that_it_may(door: Door) -> None:
    mine = await token_for(door, "mine", models=("acme/pix*", "painters/brush"))
    version = (await door.ask(mine, "GET", "/v1/models/painters/brush")).json()["latest_version"]["id"]
    other = (await door.ask(mine, "GET", "/v1/models/painters/pencil")).json()["latest_version"]["id"]
    assert (await door.create(mine)).status_code == 201
    assert (await door.create(mine, path="/v1/predictions", version=f"painters/brush:{version}")).status_code == 201
    refused = [
        await door.create(mine, path="/v1/models/acme/single/predictions"),
        await door.create(mine, path="/v1/deployments/acme/pixel/predictions"),
        await door.create(mine, path="/v1/predictions", version=version),
        await door.create(mine, path="/v1/predictions", version=f"painters/brush:{other}"),
    ]
    for answer in refused:
        assert answer.status_code == 403, answer.text
        assert answer.json()["title"] == "Forbidden"


async def test_token_creates_as_often_as_it_may(door: Door, clock: ManualClock) -> None:
    mine, other = await token_for(door, "mine", rate_per_min=3), await token_for(door, "other")
    assert [(await door.create(mine)).status_code for _ in range(3)] == [201] * 3
    refused = await door.create(mine)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 21
    assert refused.json()["status"] == 429
    assert (await door.create(other)).status_code == 201
    clock.advance(21)
    assert (await door.create(mine)).status_code == 201
    assert (await door.create(mine)).status_code == 429


async def test_token_that_has_spent_its_day_still_gets_what_the_cache_has(door: Door) -> None:
    mine = await token_for(door, "mine", spend_per_day=1.5)
    made = (await door.create(mine)).json()
    spent = {"today": 1.4}
    door.gate._allowances._spent_today = lambda owner: spent["today"]
    assert (await door.create(mine, {"prompt": "new", "seed": 2})).status_code == 201
    spent["today"] = 1.5
    refused = await door.create(mine, {"prompt": "new", "seed": 3})
    assert (refused.status_code, refused.json()["status"]) == (402, 402)
    assert (await door.create(mine)).json()["output"] == made["output"]


async def test_what_is_spent_is_what_the_ledger_says_its_runs_cost(tmp_path: Path, api: FakeModel) -> None:
    async with opened(tmp_path / "data", api, policy=[{"price_per_output": 1.0}]) as door:
        mine, other = [await token_for(door, name, spend_per_day=1.5) for name in ("mine", "other")]
        given = [{"prompt": "dear", "seed": seed} for seed in range(4)]
        assert [(await door.create(mine, one)).status_code for one in given] == [201, 201, 402, 402]
        assert (await door.create(mine, given[0])).status_code == 201
        assert (await door.create(other, given[0])).status_code == 201


async def test_revoked_token_is_good_for_nothing_at_once_and_for_good(tmp_path: Path, api: FakeModel) -> None:
    async with opened(tmp_path / "data", api) as door:
        mine, kept = await token_for(door, "mine"), await token_for(door, "kept")
        made = (await door.create(mine)).json()
        gone = await door.gate.revoke_token("mine")
        assert isinstance(gone, OwnToken)
        for method, path in (("POST", PIXEL), ("GET", f"/v1/predictions/{made['id']}"), ("GET", "/v1/predictions")):
            refused = await door.ask(mine, method, path, {"input": GIVEN} if method == "POST" else None)
            assert refused.status_code == 401
    async with opened(tmp_path / "data", api) as door:
        assert (await door.create(mine)).status_code == 401
        assert (await door.create(kept)).status_code == 201
        assert [token.name for token in door.gate.tokens.all()] == ["kept"]


async def test_no_row_on_the_disk_holds_a_token(tmp_path: Path, api: FakeModel) -> None:
    async with opened(tmp_path / "data", api) as door:
        mine = await token_for(door, "mine")
        await door.create(mine)
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert mine.encode() not in content, path
            assert HELD.encode() not in content, path


async def test_gateway_without_any_token_is_closed(tmp_path: Path, api: FakeModel) -> None:
    async with opened(tmp_path / "data", api) as door:
        assert (await door.create(None)).status_code == 401
        assert (await door.create("hp_" + "a" * 40)).status_code == 401


async def test_tokens_of_the_settings_are_good_here_too(tmp_path: Path, api: FakeModel) -> None:
    async with opened(tmp_path / "data", api, auth={"tokens": ["a-token-of-the-settings"]}) as door:
        assert (await door.create("a-token-of-the-settings")).status_code == 201
        with pytest.raises(Exception, match="settings"):
            await door.gate.revoke_token("settings-1")


# -- open --------------------------------------------------------------------------------------------------


async def test_open_proxy_asks_for_no_token_and_tells_none(tmp_path: Path, api: FakeModel) -> None:
    async with opened(tmp_path / "data", api, "open") as door:
        made = await door.create(None)
        assert (made.status_code, made.json()["status"]) == (201, "succeeded")
        for token in (None, HELD, "r8_" + "x" * 37):
            again = await door.create(token)
            assert "; hit" in again.headers["cache-status"]
            assert (await door.ask(token, "GET", f"/v1/predictions/{made.json()['id']}")).status_code == 200
        assert (await door.ask(None, "DELETE", "/v1/models/acme/pixel")).status_code == 404
        foreign = await door._client.post(PIXEL, json={"input": GIVEN}, headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
