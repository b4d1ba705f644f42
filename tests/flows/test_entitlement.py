"""Who gets what: two accounts, three tokens, a group, a revoked token, and an upstream that is away for a day.

The table says for each rule, maker and asker what the asker gets of the maker's prediction, by the state that the
upstream and the asker's token are in. Walked in process, where a day passes at once; ``House`` is all that a row needs
of what it is walked against.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import httpx
import pytest

from loadtests.fake_model.process import FakeModel, fake_model
from proxy.app import Application, build_application
from proxy.core.entitlement import token_id
from proxy.data_dir import load_secret, make_data_dir
from proxy.logs import RequestLog
from proxy.settings import Settings
from tests.fakes.clock import ManualClock

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::ResourceWarning")]

TOKENS = {
    "alice-1": "r8_" + "a" * 37,
    "alice-2": "r8_" + "b" * 37,
    "bob": "r8_" + "c" * 37,
    "stranger": "r8_" + "d" * 37,
}
ACCOUNTS = {"alice-1": "alice", "alice-2": "alice", "bob": "bob"}
RULES = {"account": "account", "token": "token", "group": "group:crew", "shared": "shared"}
DAY_S = 86_400.0


class Row(NamedTuple):
    """What ``asker`` gets of a prediction that ``maker`` made under ``rule``.

    ``create`` is the same request again: ``hit``, ``miss`` (a run of its own) or a status. The others are about the
    maker's prediction: ``whole``, ``bare`` (its owner may see it, and not its result) or a status; ``listed`` and
    ``not``, or a status.
    """

    rule: str
    maker: str
    asker: str
    create: str | int
    get: str | int
    lists: str | int
    cancel: str | int


UP = [
    Row("account", "alice-1", "alice-1", "hit", "whole", "listed", "whole"),
    Row("account", "alice-1", "alice-2", "hit", "whole", "listed", "whole"),
    Row("account", "alice-1", "bob", "miss", 404, "not", 404),
    Row("account", "bob", "alice-2", "miss", 404, "not", 404),
    Row("account", "alice-1", "stranger", 401, 401, 401, 401),
    Row("account", "alice-1", "nobody", 401, 401, 401, 401),
    Row("token", "alice-1", "alice-1", "hit", "whole", "listed", "whole"),
    Row("token", "alice-1", "alice-2", "miss", "bare", "listed", "bare"),
    Row("token", "alice-1", "bob", "miss", 404, "not", 404),
    # The group has bob's account, and of alice's one token.
    Row("group", "alice-2", "bob", "hit", 404, "not", 404),
    Row("group", "bob", "alice-2", "hit", 404, "not", 404),
    Row("group", "alice-2", "alice-1", "miss", "bare", "listed", "bare"),
    Row("group", "alice-1", "alice-2", "miss", "whole", "listed", "whole"),
    Row("group", "alice-1", "bob", "miss", 404, "not", 404),
    Row("group", "bob", "alice-1", "miss", 404, "not", 404),
    Row("shared", "alice-1", "alice-2", "hit", "whole", "listed", "whole"),
    Row("shared", "alice-1", "bob", "hit", 404, "not", 404),
    Row("shared", "bob", "alice-1", "hit", 404, "not", 404),
    Row("shared", "alice-1", "stranger", 401, 401, 401, 401),
    Row("shared", "alice-1", "nobody", 401, 401, 401, 401),
]
"""The upstream is there."""

AWAY = [
    Row("account", "alice-1", "alice-1", "hit", "whole", 502, "whole"),
    Row("account", "alice-1", "alice-2", "hit", "whole", 502, "whole"),
    Row("account", "alice-1", "bob", 502, 502, 502, 502),
    Row("token", "alice-1", "alice-1", "hit", "whole", 502, "whole"),
    Row("token", "alice-1", "alice-2", 502, "bare", 502, "bare"),
    Row("group", "alice-2", "bob", "hit", 502, 502, 502),
    Row("group", "alice-2", "alice-1", 502, "bare", 502, "bare"),
    Row("shared", "alice-1", "bob", "hit", 502, 502, 502),
    Row("shared", "alice-1", "stranger", 502, 502, 502, 502),
    Row("shared", "alice-1", "nobody", 401, 401, 401, 401),
]
"""It has been away for most of a day; all but the stranger were accepted before. What only it can say is 502."""

TOO_LONG = [
    Row("account", "alice-1", "alice-1", 502, 503, 502, 503),
    Row("shared", "alice-1", "bob", 502, 502, 502, 502),
]
"""It has been away for longer than an acceptance may be stretched."""

REVOKED = [
    Row("account", "alice-1", "alice-2", 401, 401, 401, 401),
    Row("group", "bob", "alice-2", 401, 401, 401, 401),
    Row("shared", "bob", "alice-2", 401, 401, 401, 401),
    Row("account", "alice-1", "alice-1", "hit", "whole", "listed", "whole"),
    Row("group", "bob", "bob", "hit", "whole", "listed", "whole"),
]
"""alice-2 was revoked, and has been refused once since."""


@dataclass
class House:
    """What a row is walked against: callers of a proxy, and the switches of the API behind it."""

    api: FakeModel
    client: httpx.AsyncClient
    clock: ManualClock
    seeds: Iterator[int] = field(default_factory=lambda: iter(range(1_000_000)))

    async def ask(self, who: str, method: str, path: str, document: Any = None) -> httpx.Response:
        headers = (
            {"prefer": "wait", "authorization": f"Bearer {TOKENS[who]}"} if who != "nobody" else {"prefer": "wait"}
        )
        return await self.client.request(method, path, json=document, headers=headers)

    async def create(self, rule: str, who: str, seed: int) -> httpx.Response:
        given = {"prompt": "who gets what", "seed": seed}
        return await self.ask(who, "POST", f"/@{rule}/v1/models/acme/pixel/predictions", {"input": given})

    async def greet(self) -> None:
        """Every caller that there is has a prediction of its own."""
        for who in ACCOUNTS:
            assert (await self.create("token", who, next(self.seeds))).status_code == 201

    def go_away(self) -> None:
        self.api.fault("drop-fin", times=0)

    def come_back(self) -> None:
        self.api.clear_faults()

    def pass_s(self, seconds: float) -> None:
        self.clock.advance(seconds)


@pytest.fixture(scope="module")
def double() -> Iterator[FakeModel]:
    accounts = [f"--account={name}={TOKENS[token]}" for token, name in ACCOUNTS.items()]
    with fake_model(*accounts) as api:
        yield api


@pytest.fixture
def api(double: FakeModel) -> Iterator[FakeModel]:
    yield double
    double.clear_faults()
    double.reset()


def settings(data_dir: Path, api: FakeModel) -> Settings:
    make_data_dir(data_dir)
    member = token_id(load_secret(data_dir), TOKENS["alice-2"])
    return Settings.model_validate(
        {
            "data_dir": data_dir,
            "auth": {"groups": {"crew": ["account:bob", f"token:{member}"]}},
            "cache": {"output_urls": "url"},
            "policy": [{"name": name, "scope": scope} for name, scope in RULES.items()],
            "upstream": [
                {
                    "kind": "replicate",
                    "name": "replicate",
                    "base_url": api.base_url,
                    "output_origins": [api.delivery_origin],
                }
            ],
        }
    )


@asynccontextmanager
async def opened(given: Settings, api: FakeModel, clock: ManualClock) -> AsyncIterator[House]:
    built: Application = await build_application(given, "https://images.example.com", RequestLog(None))
    transport = httpx.ASGITransport(built.public, client=("127.0.0.1", 50_000))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="https://images.example.com") as client:
            yield House(api, client, clock)
    finally:
        await built.aclose(0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    clock = ManualClock(time.time())
    monkeypatch.setattr("proxy.building.time", SimpleNamespace(time=clock, monotonic=clock))
    return clock


@pytest.fixture
async def house(tmp_path: Path, api: FakeModel, clock: ManualClock) -> AsyncIterator[House]:
    async with opened(settings(tmp_path / "data", api), api, clock) as house:
        yield house


# -- walking -------------------------------------------------------------------------------------------


async def make(house: House, row: Row) -> tuple[int, dict[str, Any]]:
    """The maker's prediction, of an input that nobody has asked for yet."""
    seed = next(house.seeds)
    made = await house.create(row.rule, row.maker, seed)
    assert (made.status_code, made.json()["status"]) == (201, "succeeded"), row
    assert "fwd=miss" in made.headers["cache-status"]
    return seed, made.json()


async def walk(house: House, row: Row, seed: int, made: dict[str, Any]) -> None:
    """Check every column of a row."""
    runs = house.api.counters()["creates"]
    again = await house.create(row.rule, row.asker, seed)
    caused = house.api.counters()["creates"] - runs
    said: str | int = again.status_code
    if again.status_code == 201:
        said = "hit" if "; hit" in again.headers["cache-status"] else "miss"
        assert (again.json()["output"] == made["output"]) == (said == "hit"), row
        assert caused == (said == "miss"), row
    path = f"/v1/predictions/{made['id']}"
    got = {
        method: await house.ask(row.asker, method, asked)
        for method, asked in (("GET", path), ("POST", f"{path}/cancel"))
    }
    listed = await house.ask(row.asker, "GET", "/v1/predictions")
    lists: str | int = listed.status_code
    if listed.status_code == 200:
        lists = "listed" if made["id"] in [one["id"] for one in listed.json()["results"]] else "not"
    assert Row(*row[:3], said, _shown(got["GET"], made), lists, _shown(got["POST"], made)) == row
    # Whoever has an address may read what is there, as with the API itself.
    for address in (made["urls"]["stream"], made["output"][0]):
        read = await house.client.get(address)
        assert read.status_code == 200, (row, address)


def _shown(answer: httpx.Response, made: dict[str, Any]) -> str | int:
    if answer.status_code != 200:
        return answer.status_code
    shown = answer.json()
    assert (shown["id"], shown["status"]) == (made["id"], "succeeded")
    if shown["output"] == made["output"]:
        return "whole"
    assert (shown["output"], shown["data_removed"], shown["logs"], shown["input"]) == (None, True, "", {})
    return "bare"


async def test_rows_while_the_upstream_is_there(house: House) -> None:
    await house.greet()
    for row in UP:
        await walk(house, row, *(await make(house, row)))


@pytest.mark.parametrize(
    ("table", "hours"), [(AWAY, 20), (TOO_LONG, 25)], ids=["for most of a day", "for longer than a day"]
)
async def test_rows_while_the_upstream_is_away(house: House, table: list[Row], hours: int) -> None:
    await house.greet()
    made = [(row, *(await make(house, row))) for row in table]
    house.go_away()
    house.pass_s(hours * 3600)
    for row, seed, prediction in made:
        await walk(house, row, seed, prediction)


async def test_rows_after_a_token_was_revoked(house: House) -> None:
    await house.greet()
    made = [(row, *(await make(house, row))) for row in REVOKED]
    house.api.revoke(TOKENS["alice-2"])
    assert (await house.ask("alice-2", "GET", "/v1/hardware")).status_code == 401
    for row, seed, prediction in made:
        await walk(house, row, seed, prediction)


# -- what the table cannot say -------------------------------------------------------------------------


async def test_revoked_token_is_noticed_within_minutes_by_itself(house: House) -> None:
    row = UP[0]
    seed, made = await make(house, row)
    house.api.revoke(TOKENS["alice-1"])
    assert (await house.create("account", "alice-1", seed)).status_code == 201
    house.pass_s(301)
    assert (await house.create("account", "alice-1", seed)).status_code == 401
    assert (await house.ask("alice-1", "GET", f"/v1/predictions/{made['id']}")).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/acme/pixel/predictions"),
        ("GET", "/v1/predictions"),
        ("GET", "/v1/account"),
        ("GET", "/v1/webhooks/default/secret"),
        ("GET", "/v1/files"),
        ("DELETE", "/v1/models/acme/none"),
    ],
)
async def test_refusal_of_any_request_ends_hits_at_once(house: House, method: str, path: str) -> None:
    seed, _ = await make(house, UP[0])
    house.api.revoke(TOKENS["alice-1"])
    document = {"input": {"prompt": "anything new", "seed": next(house.seeds)}} if method == "POST" else None
    assert (await house.ask("alice-1", method, path, document)).status_code == 401
    assert (await house.create("account", "alice-1", seed)).status_code == 401


async def test_refusal_of_a_poll_ends_hits_at_once(house: House) -> None:
    seed, _ = await make(house, UP[0])
    house.api.hold()
    given = {"input": {"prompt": "anything new", "seed": next(house.seeds)}}
    headers = {"authorization": f"Bearer {TOKENS['alice-1']}"}
    made = await house.client.post("/v1/models/acme/pixel/predictions", json=given, headers=headers)
    assert made.status_code == 201
    house.api.revoke(TOKENS["alice-1"])
    polls = house.api.counters()["polls"]
    async with _soon(10) as once:
        while house.api.counters()["polls"] == polls:
            await once()
        while (await house.create("account", "alice-1", seed)).status_code != 401:
            await once()


async def test_stretched_hit_says_so_and_an_upstream_that_is_away_is_asked_once_a_second(house: House) -> None:
    row = UP[0]
    seed, _ = await make(house, row)
    house.api.fault("status", times=0, status=503)
    house.pass_s(3600)
    first = await house.create("account", "alice-1", seed)
    assert "detail=auth-stretched" in first.headers["cache-status"]
    asked = house.api.counters()["accounts"]
    for _ in range(50):
        assert "; hit" in (await house.create("account", "alice-1", seed)).headers["cache-status"]
    assert house.api.counters()["accounts"] == asked
    house.pass_s(1)
    for _ in range(50):
        assert "; hit" in (await house.create("account", "alice-1", seed)).headers["cache-status"]
    async with _soon(5) as once:
        while house.api.counters()["accounts"] == asked:
            await once()
    assert house.api.counters()["accounts"] == asked + 1
    house.come_back()
    house.pass_s(1)
    async with _soon(5) as once:
        while "stretched" in (await house.create("account", "alice-1", seed)).headers["cache-status"]:
            await once()


async def test_outage_of_a_day_with_a_restart_in_it_still_serves(
    tmp_path: Path, api: FakeModel, clock: ManualClock
) -> None:
    async with opened(settings(tmp_path / "data", api), api, clock) as house:
        seed, made = await make(house, UP[0])
        assert (await house.create("account", "alice-2", seed)).status_code == 201
        house.go_away()
        house.pass_s(10 * 3600)
    async with opened(settings(tmp_path / "data", api), api, clock) as house:
        house.pass_s(10 * 3600)
        for who in ("alice-1", "alice-2"):
            answer = await house.create("account", who, seed)
            assert (answer.status_code, answer.json()["output"]) == (201, made["output"])
            assert (await house.ask(who, "GET", f"/v1/predictions/{made['id']}")).status_code == 200
        assert (await house.create("account", "bob", seed)).status_code == 502


async def test_revoked_token_is_not_stretched_by_a_restart(tmp_path: Path, api: FakeModel, clock: ManualClock) -> None:
    async with opened(settings(tmp_path / "data", api), api, clock) as house:
        seed, _ = await make(house, UP[0])
        api.revoke(TOKENS["alice-1"])
        assert (await house.ask("alice-1", "GET", "/v1/account")).status_code == 401
        house.go_away()
    async with opened(settings(tmp_path / "data", api), api, clock) as house:
        assert (await house.create("account", "alice-1", seed)).status_code == 502


async def test_prediction_from_before_the_account_was_known_stays_readable_to_its_token(house: House) -> None:
    house.api.fault("status", "account", times=1, status=500)
    made = (await house.create("account", "alice-1", next(house.seeds))).json()
    house.pass_s(301)
    own = await house.ask("alice-1", "GET", f"/v1/predictions/{made['id']}")
    assert own.json()["output"] == made["output"]
    assert (await house.ask("alice-2", "GET", f"/v1/predictions/{made['id']}")).status_code == 404
    later = (await house.create("account", "alice-1", next(house.seeds))).json()
    listed = (await house.ask("alice-1", "GET", "/v1/predictions")).json()["results"]
    assert [one["id"] for one in listed][:2] == [later["id"], made["id"]]


async def test_nobody_joins_another_s_run_with_a_token_that_is_no_good(house: House) -> None:
    await house.greet()
    house.api.hold()
    seed = next(house.seeds)
    given = {"input": {"prompt": "who gets what", "seed": seed}}
    path = "/@shared/v1/models/acme/pixel/predictions"
    answers = {}
    for who in ("alice-1", "bob", "stranger"):
        answers[who] = await house.client.post(path, json=given, headers={"authorization": f"Bearer {TOKENS[who]}"})
    assert [answer.status_code for answer in answers.values()] == [201, 201, 401]
    assert "collapsed" in answers["bob"].headers["cache-status"]
    house.api.release()


@asynccontextmanager
async def _soon(seconds: float) -> AsyncIterator[Any]:
    """Something happens soon: gives a coroutine function that waits a little."""
    async with asyncio.timeout(seconds):
        yield lambda: asyncio.sleep(0.02)


# -- two APIs ------------------------------------------------------------------------------------------


async def test_token_of_one_api_is_told_to_no_other_once_its_own_has_accepted_it(
    tmp_path: Path, api: FakeModel, clock: ManualClock
) -> None:
    """Uploads, lists and all that passes through went to the first API in the settings, whoever's token came along."""
    theirs = "r8_" + "e" * 37
    with fake_model(f"--account=erin={theirs}") as second:
        more = {"name": "second", "base_url": second.base_url, "output_origins": [second.delivery_origin]}
        own = settings(tmp_path / "data", api)
        upstream = own.model_dump(mode="json")["upstream"][0]
        both = [{**upstream, "models": ["painters/*"]}, {**upstream, **more, "models": ["acme/*"]}]
        two = Settings.model_validate({**own.model_dump(mode="json"), "upstream": both})
        async with opened(two, api, clock) as house:
            headers = {"authorization": f"Bearer {theirs}", "prefer": "wait"}

            async def ask(method: str, path: str, **more: Any) -> httpx.Response:
                return await house.client.request(method, path, headers=headers, **more)

            before = api.counters()
            given = {"input": {"prompt": "of the second", "seed": 1}}
            made = (await ask("POST", "/v1/models/acme/pixel/predictions", json=given)).json()
            assert made["status"] == "succeeded"
            assert made["id"] in [each["id"] for each in (await ask("GET", "/v1/predictions")).json()["results"]]
            assert (await ask("GET", "/v1/account")).json()["username"] == "erin"
            uploaded = await ask("POST", "/v1/files", files={"content": ("a.txt", b"x", "text/plain")})
            assert uploaded.status_code == 201
            assert (await ask("GET", "/v1/files")).json()["results"]
            assert (await ask("GET", f"/v1/predictions/{made['id']}")).status_code == 200
            assert (await ask("GET", "/v1/predictions/" + "a" * 26)).status_code == 404
            assert (await ask("GET", "/v1/webhooks/default/secret")).status_code == 200
            assert api.counters() == before, "the first API has heard nothing"
