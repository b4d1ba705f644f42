"""The ledger against the API's own counters: every run, every request, and the seconds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web
from typer.testing import CliRunner

from loadtests.fake_model.process import ALICE, BOB, FakeModel, fake_model
from proxy import cli
from tests.flows.harness import ProxyProcess, running_proxy

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::ResourceWarning")]

RUNNER = CliRunner()

FLUSHED_S = 1.5
"""After this long what was counted is written."""

PRICE = 0.001
"""Of a second."""

AT_ONCE = 40
"""Requests on their way at a time: two cores carry the load, the proxy and the API."""

JsonObject = dict[str, Any]


def config(api: FakeModel, webhook_origin: str = "http://127.0.0.1:9") -> str:
    return (
        f'[[upstream]]\nkind = "replicate"\nname = "replicate"\nbase_url = "{api.base_url}"\n'
        f'output_origins = ["{api.delivery_origin}"]\n[cache]\noutput_urls = "url"\n'
        f'[webhooks]\norigins = ["{webhook_origin}"]\n[[policy]]\nprice_per_second = {PRICE}\n'
    )


def read(url: str, **asked: Any) -> httpx.Response:
    return httpx.get(url, params=asked, timeout=30, trust_env=False).raise_for_status()


def stats(proxy: ProxyProcess, **asked: Any) -> JsonObject:
    document: JsonObject = read(f"{proxy.admin_url}/_hotplate/stats", **asked).json()
    return document


def kinds(proxy: ProxyProcess) -> dict[str, int]:
    """How many of each kind, those that there are."""
    found = stats(proxy)["all"]["kinds"]
    return {kind: line["count"] for kind, line in found.items() if line["count"] and kind != "stored"}


class Gone(aiohttp.ClientError):
    """The proxy, or its core, is no more: an edge that outlives it for a moment says so by 502 or 503."""


@dataclass
class Load:
    """Clients of a proxy, which write down what they sent and how it was answered.

    Attributes:
        words: answers to creates by the first words of their ``Cache-Status``, or ``refused``.
        sent: creates.
    """

    proxy: ProxyProcess
    http: aiohttp.ClientSession
    webhook: str
    dice: random.Random
    words: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    serial: int = 0

    async def create(self, model: str, given: JsonObject, token: str = ALICE, **headers: str) -> JsonObject:
        """A create, by default one that waits; ``webhook`` in ``given`` goes beside the input."""
        self.sent += 1
        body: JsonObject = {"input": {name: value for name, value in given.items() if name != "webhook"}}
        if given.get("webhook"):
            body["webhook"] = self.webhook
        credential = {"Authorization": f"Bearer {token}", "Prefer": "wait"}
        url = f"{self.proxy.public_url}/v1/models/{model}/predictions"
        async with self.http.post(url, json=body, headers={**credential, **headers}) as answer:
            if answer.status in (502, 503):
                raise Gone(answer.status)
            word = answer.headers.get("cache-status", "refused").removeprefix("Hotplate; ")
            self.words[word.split(";")[0] + ("; collapsed" if "collapsed" in word else "")] += 1
            document: JsonObject = await answer.json(content_type=None)
            return document

    async def cancel(self, prediction: JsonObject, token: str = ALICE) -> None:
        url = f"{self.proxy.public_url}/v1/predictions/{prediction['id']}/cancel"
        async with self.http.post(url, headers={"Authorization": f"Bearer {token}"}) as answer:
            if answer.status in (502, 503):
                raise Gone(answer.status)
            assert answer.status == 200

    def new(self, **more: Any) -> JsonObject:
        """An input that nobody has asked for."""
        self.serial += 1
        return {"prompt": f"picture {self.serial}", "seed": self.serial, **more}

    async def act(self, number: int) -> None:
        """One client's doing: one to five creates."""
        token, dice = self.dice.choice((ALICE, BOB)), self.dice
        kind = dice.choices(
            ("hit", "miss", "together", "fails", "fails together", "refused", "cancel", "stay", "no-store", "text"),
            (60, 10, 6, 3, 1, 2, 2, 2, 3, 5),
        )[0]
        match kind:
            case "hit":
                known = {"prompt": f"known {dice.randrange(20)}", "seed": 1, "webhook": dice.random() < 0.05}
                await self.create("acme/pixel", known, token)
            case "miss":
                given = self.new(num_outputs=dice.choice((1, 1, 3)), webhook=dice.random() < 0.2)
                await self.create(dice.choice(("acme/pixel", "acme/nested")), given, token)
            case "together":
                given = self.new()
                await asyncio.gather(*(self.create("acme/pixel", given, token) for _ in range(4)))
            case "fails":
                await self.create("acme/failing", self.new(), token)
            case "fails together":
                given = self.new()
                await asyncio.gather(*(self.create("acme/failing", given, token) for _ in range(3)))
            case "refused" if number % 2:
                await self.create("acme/pixel", self.new(), token, **{"Cache-Control": "only-if-cached"})
            case "refused":
                await self.create("acme/pixel", {"seed": "no number", "prompt": f"{number}"}, token)
            case "cancel":
                made = await self.create("acme/slow", self.new(seconds=20), token, Prefer="respond-async")
                await asyncio.sleep(dice.uniform(0.0, 1.0))
                await self.cancel(made, token)
            case "stay":
                given = self.new(seconds=1.0)
                first, second = [await self.create("acme/slow", given, token, Prefer="respond-async") for _ in range(2)]
                await self.cancel(dice.choice((first, second)), token)
            case "no-store":
                await self.create("acme/pixel", self.new(), token, **{"Cache-Control": "no-store"})
            case _:
                seed = {"seed": dice.randrange(10)} if dice.random() < 0.7 else {}
                await self.create("acme/writer", {"prompt": "words", "max_tokens": 4, **seed}, token)

    async def go_on(self) -> None:
        """One thing after another, until the proxy is gone."""
        with contextlib.suppress(aiohttp.ClientError):
            while True:
                await self.act(self.sent)

    async def play(self, count: int) -> None:
        """At least ``count`` creates."""
        until, number = self.sent + count, 0
        acting: set[asyncio.Task[None]] = set()
        while self.sent < until:
            acting.add(asyncio.create_task(self.act(number)))
            number += 1
            await asyncio.sleep(0)
            if len(acting) >= AT_ONCE:
                done, acting = await asyncio.wait(acting, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.gather(*done)
        await asyncio.gather(*acting)


@asynccontextmanager
async def receiver() -> AsyncIterator[str]:
    """Takes webhooks; its address."""

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def until_quiet(proxy: ProxyProcess, api: FakeModel) -> None:
    """Until no run is on its way, neither here nor there."""
    for _ in range(400):
        status = read(f"{proxy.admin_url}/_hotplate/status").json()
        counters = api.counters()
        if status["runs_in_flight"] == 0 and sum(counters["ends"].values()) == sum(counters["runs"].values()):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("runs go on for ever")


def assert_agreed(document: JsonObject, api: FakeModel, words: Counter[str]) -> None:
    """The ledger says of runs what the API says, to the run and to 1 % of the seconds; of requests what clients saw."""
    found, counters = {kind: line["count"] for kind, line in document["all"]["kinds"].items()}, api.counters()
    for status in ("succeeded", "failed", "canceled", "aborted"):
        assert found[f"made_{status}"] == counters["ends"].get(status, 0), status
    told_s = sum(counters["run_seconds"].values())
    assert document["all"]["runs"]["seconds"] == pytest.approx(told_s, rel=0.01)
    assert document["all"]["runs"]["money"] == pytest.approx(told_s * PRICE, rel=0.01)
    assert document["all"]["requests"] == words.total()
    assert found["hit"] == words["hit"]
    assert found["shared"] + found["left"] == sum(words[word] for word in words if "collapsed" in word)
    assert found["refused"] == words["refused"]
    assert min(found[kind] for kind in ("hit", "shared", "left", "refused", "repeat", "heir", "fruitless")) > 0


@asynccontextmanager
async def loaded(proxy: ProxyProcess, webhook: str, seed: int) -> AsyncIterator[Load]:
    timeout, connector = aiohttp.ClientTimeout(total=60), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
        yield Load(proxy, http, webhook, random.Random(seed), serial=seed * 100_000)


async def test_ledger_agrees_with_the_api_after_a_mixed_load(tmp_path: Path) -> None:
    async with receiver() as origin:
        with fake_model() as api, running_proxy(tmp_path / "data", config(api, origin)) as proxy:
            async with loaded(proxy, origin, 1) as load:
                await load.play(300)
            await until_quiet(proxy, api)
            assert_agreed(stats(proxy), api, load.words)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_ledger_agrees_after_ten_thousand_requests_and_two_restarts(tmp_path: Path) -> None:
    async with receiver() as origin:
        with fake_model() as api:
            words: Counter[str] = Counter()
            for part in range(3):
                with running_proxy(tmp_path / "data", config(api, origin)) as proxy:
                    async with loaded(proxy, origin, part) as load:
                        await load.play(3400)
                    words += load.words
                    if part == 2:
                        await until_quiet(proxy, api)
                        assert words.total() >= 10_000
                        assert_agreed(stats(proxy), api, words)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_run_that_outlives_the_proxy_is_counted_once_with_those_who_share_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    quick = "[limits]\ndrain_timeout_s = 0.2\n"
    with fake_model() as api:
        api.hold()
        with running_proxy(tmp_path / "data", config(api) + quick) as proxy:
            async with loaded(proxy, "", 1) as load:
                made = [await load.create("acme/pixel", {"prompt": "held", "seed": 1}, Prefer="") for _ in range(4)]
                await load.cancel(made[-1])
            await asyncio.sleep(FLUSHED_S)
            proxy.stop(number)
        with running_proxy(tmp_path / "data", config(api)) as proxy:
            api.release()
            await until_quiet(proxy, api)
            assert kinds(proxy) == {"made_succeeded": 1, "shared": 2, "left": 1, "repeat": 2}
            assert stats(proxy)["all"]["requests"] == 4


@pytest.mark.slow
async def test_cancellation_that_the_api_did_not_hear_is_said_again_and_counted_once(tmp_path: Path) -> None:
    with fake_model() as api, running_proxy(tmp_path / "data", config(api)) as proxy:
        api.fault("status", "cancel", status=503)
        async with loaded(proxy, "", 1) as load:
            made = await load.create("acme/slow", load.new(seconds=20), Prefer="respond-async")
            await load.cancel(made)
        await until_quiet(proxy, api)
        assert api.counters()["ends"] == {"canceled": 1}
        assert kinds(proxy) == {"made_canceled": 1}


@pytest.mark.slow
async def test_kill_loses_at_most_the_last_second_and_counts_nothing_twice(tmp_path: Path) -> None:
    with fake_model() as api:
        with running_proxy(tmp_path / "data", config(api)) as proxy:
            async with loaded(proxy, "", 1) as load:
                await load.play(300)
                await until_quiet(proxy, api)
                await asyncio.sleep(FLUSHED_S)
                before = kinds(proxy)
                for _ in range(10):
                    await load.create("acme/pixel", load.new())
                    await load.create("acme/pixel", {"prompt": "known 0", "seed": 1})
            proxy.stop(signal.SIGKILL)
        with running_proxy(tmp_path / "data", config(api)) as proxy:
            after = kinds(proxy)
            assert all(before[kind] <= after[kind] for kind in before)
            assert after["made_succeeded"] <= api.counters()["ends"]["succeeded"]
            assert stats(proxy)["all"]["requests"] <= load.words.total()


@pytest.mark.slow
async def test_kills_at_odd_moments_count_nothing_twice(tmp_path: Path) -> None:
    dice, sent = random.Random(20261125), 0
    with fake_model() as api:
        for part in range(4):
            with running_proxy(tmp_path / "data", config(api)) as proxy:
                async with loaded(proxy, "", part) as load:
                    clients = [asyncio.create_task(load.go_on()) for _ in range(20)]
                    await asyncio.sleep(dice.uniform(2.0, 4.0))
                    proxy.stop(signal.SIGKILL)
                    await asyncio.gather(*clients)
                    sent += load.sent
        with running_proxy(tmp_path / "data", config(api)) as proxy:
            await until_quiet(proxy, api)
            counted, ends = Counter(kinds(proxy)), Counter(api.counters()["ends"])
            for status in ("succeeded", "failed", "canceled"):
                assert counted[f"made_{status}"] <= ends[status], status
            assert counted["made_succeeded"] > 0
            assert stats(proxy)["all"]["requests"] <= sent


async def test_stats_are_shown_by_the_proxy_and_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_model() as api, running_proxy(tmp_path / "data", config(api)) as proxy:
        monkeypatch.setenv("HOTPLATE_ADMIN__PORT", proxy.admin_url.rpartition(":")[2])
        monkeypatch.setenv("HOTPLATE_DATA_DIR", str(proxy.data_dir))
        async with loaded(proxy, "", 1) as load:
            for token in (ALICE, BOB, BOB):
                await load.create("acme/pixel", {"prompt": "shown", "seed": 1}, token)
        for by, names in (("model", 1), ("scope", 2), ("day", 1)):
            assert len(stats(proxy, by=by)["groups"]) == names
        scope = stats(proxy, by="scope")["groups"][0]["name"]
        assert len(scope) == 8
        assert stats(proxy, scope=scope)["all"]["requests"] < 3
        assert stats(proxy)["storage"]["bytes"] > 0
        with pytest.raises(httpx.HTTPStatusError, match="400"):
            stats(proxy, days=0)
        table = RUNNER.invoke(cli.app, ["stats", "--by", "scope"]).output
        assert "answered from the cache" in table
        assert scope in table
        assert ALICE not in table
        metrics = read(f"{proxy.admin_url}/metrics").text
        assert 'hotplate_ledger_total{kind="hit",upstream="replicate"} 1.0' in metrics
        assert 'hotplate_saved_money_total{upstream="replicate"} 0.0' not in metrics
        running = json.loads(RUNNER.invoke(cli.app, ["stats", "--json"]).output)
        proxy.stop()
        left = json.loads(RUNNER.invoke(cli.app, ["stats", "--json"]).output)
        assert left["groups"] == running["groups"]
        assert "No proxy is running" in RUNNER.invoke(cli.app, ["stats"]).output
    monkeypatch.setenv("HOTPLATE_DATA_DIR", str(tmp_path / "nothing"))
    assert "cannot be read" in str(RUNNER.invoke(cli.app, ["stats"]).exception)
    assert "days must be" in str(RUNNER.invoke(cli.app, ["stats", "--days", "0"]).exception)
