"""What acts on every worker within a second: refusals, revoked tokens, groups, replaced and purged results, policies.

All edges are asked all the time, each over a connection of its own; what counts is the last old answer after an order
was carried out.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.fake_model.process import ALICE, BOB, fake_model
from storage.records import JsonValue
from tests.flows.edges import ACT_S, connected, is_hit, last_old_answer_s
from tests.flows.harness import ProxyProcess, running_proxy
from tests.flows.test_controls import hotplate
from tests.flows.test_replicate_upstream import PIXEL, Pair, config
from tests.flows.test_workers import core_pid, given, wait_until_whole, workers

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

EDGES = 4
GROUPS = '[auth.groups]\ncrew = ["account:alice", "account:bob"]\n'
CREW = '[[policy]]\nname = "crew"\nscope = "group:crew"\n'


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    data_dir = tmp_path_factory.mktemp("everywhere") / "data"
    with fake_model() as api, running_proxy(data_dir, config(api, workers(EDGES) + GROUPS + CREW)) as proxy:
        yield Pair(api, proxy)


@pytest.fixture
def pair(four: Pair) -> Pair:
    four.api.reset()
    wait_until_whole(four.proxy, EDGES)
    return four


def asking(
    document: dict[str, Any], token: str, path: str = PIXEL
) -> Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]:
    """The same create again and again."""

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        headers = {"prefer": "wait", "authorization": f"Bearer {token}"}
        return await client.post(path, json=document, headers=headers)

    return ask


def typing(proxy: ProxyProcess, *arguments: str) -> Callable[[], Awaitable[None]]:
    """A command; it is awaited until it has returned."""

    async def order() -> None:
        await asyncio.to_thread(hotplate, proxy, *arguments)

    return order


def config_file(proxy: ProxyProcess) -> Path:
    return proxy.data_dir.parent / f"{proxy.data_dir.name}.toml"


def is_let_in(answer: httpx.Response) -> bool:
    return answer.status_code != 401


def showing(output: JsonValue) -> Callable[[httpx.Response], bool]:
    """Whether an answer shows this output."""

    def is_shown(answer: httpx.Response) -> bool:
        return bool(answer.json()["output"] == output)

    return is_shown


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", PIXEL), ("GET", "/v1/hardware"), ("GET", "/v1/predictions")],
    ids=["a create", "what passes through", "a list"],
)
async def test_refusal_that_one_edge_hears_holds_at_all(pair: Pair, method: str, path: str) -> None:
    document = given("for the accepted")
    pair.post(PIXEL, document, token=BOB)
    async with connected(pair.proxy, EDGES, PIXEL, document, BOB) as edges:
        pair.api.revoke(BOB)

        async def hear() -> None:
            new = given(f"new {method} {path}") if method == "POST" else None
            answer = await edges[1].client.request(method, path, json=new, headers={"authorization": f"Bearer {BOB}"})
            assert answer.status_code == 401

        ask = asking(document, BOB)
        assert await last_old_answer_s(edges, ask, lambda answer: answer.status_code != 401, hear) < ACT_S
        pair.api.reset()
        for edge in edges:
            assert is_hit(await ask(edge.client)), "it is good again, and asked about"


async def test_revoked_own_token_is_good_at_no_edge(tmp_path: Path) -> None:
    with fake_model() as api:
        settings = config(api).replace("[cache]", f'token = "{ALICE}"\n[cache]') + workers(EDGES)
        with running_proxy(tmp_path / "data", settings + '[auth]\nmode = "gateway"\n') as proxy:
            told = hotplate(proxy, "tokens", "add", "studio").split()
            (token,) = [word for word in told if word.startswith("hp_")]
            document = given("behind the gateway")
            assert Pair(api, proxy).post(PIXEL, document, token=token).status_code == 201
            async with connected(proxy, EDGES, PIXEL, document, token) as edges:
                revoke = typing(proxy, "tokens", "revoke", "studio")
                assert await last_old_answer_s(edges, asking(document, token), is_let_in, revoke) < ACT_S


async def test_who_has_left_a_group_gets_its_results_at_no_edge(pair: Pair) -> None:
    document, path = given("of the crew"), "/@crew" + PIXEL
    shared = pair.post(path, document).json()["output"]
    assert pair.post(path, document, token=BOB).json()["output"] == shared
    file = config_file(pair.proxy)
    before = file.read_text(encoding="utf-8")
    async with connected(pair.proxy, EDGES, path, document, BOB) as edges:
        pair.api.publish_version("acme/pixel")  # a run of his own makes another picture
        file.write_text(before.replace(', "account:bob"', ""), encoding="utf-8")
        try:
            leave = typing(pair.proxy, "reload")
            assert await last_old_answer_s(edges, asking(document, BOB, path), showing(shared), leave) < ACT_S
        finally:
            file.write_text(before, encoding="utf-8")
            hotplate(pair.proxy, "reload")


@pytest.mark.parametrize("by", ["refresh", "purge"])
async def test_result_that_was_taken_away_is_served_by_no_edge_any_more(pair: Pair, by: str) -> None:
    document = given(f"taken away by {by}")
    former = pair.post(PIXEL, document).json()
    async with connected(pair.proxy, EDGES, PIXEL, document, ALICE) as edges:
        pair.api.publish_version("acme/pixel")

        async def refresh() -> None:
            headers = {"Cache-Control": "no-cache"}
            anew = await asyncio.to_thread(partial(pair.post, PIXEL, document, **headers))
            assert anew.json()["output"] != former["output"]

        order = refresh if by == "refresh" else typing(pair.proxy, "purge", "--id", former["id"])
        is_former = showing(former["output"])
        assert await last_old_answer_s(edges, asking(document, ALICE), is_former, order) < ACT_S
        for edge in edges:
            assert is_hit(await asking(document, ALICE)(edge.client))
    assert pair.api.counters()["creates"] == 2


async def test_kill_switch_reaches_every_edge_and_a_core_that_is_started_anew(pair: Pair) -> None:
    document = given("bypassed")
    pair.post(PIXEL, document)
    async with connected(pair.proxy, EDGES, PIXEL, document, ALICE) as edges:
        try:
            order = typing(pair.proxy, "bypass", "on")
            assert await last_old_answer_s(edges, asking(document, ALICE), is_hit, order) < ACT_S
            os.kill(core_pid(pair.proxy), signal.SIGKILL)
            for edge in edges:
                assert not is_hit(await asking(document, ALICE)(edge.client))
        finally:
            wait_until_whole(pair.proxy, EDGES)
            hotplate(pair.proxy, "bypass", "off")
        for edge in edges:
            assert is_hit(await asking(document, ALICE)(edge.client))


async def test_policies_that_a_signal_has_read_anew_hold_at_every_edge(pair: Pair) -> None:
    document = given("by policy")
    pair.post(PIXEL, document)
    file = config_file(pair.proxy)
    before = file.read_text(encoding="utf-8")

    async def order() -> None:
        pair.proxy.process.send_signal(signal.SIGHUP)

    async with connected(pair.proxy, EDGES, PIXEL, document, ALICE) as edges:
        file.write_text(before + '[[policy]]\nmode = "refresh"\n', encoding="utf-8")
        try:
            assert await last_old_answer_s(edges, asking(document, ALICE), is_hit, order) < ACT_S
        finally:
            file.write_text(before, encoding="utf-8")
            hotplate(pair.proxy, "reload")
        for edge in edges:
            assert is_hit(await asking(document, ALICE)(edge.client))
