"""Who gets what from a proxy of five processes: the table of ``test_entitlement``, walked at each of four edges.

A prediction is made through one edge and asked for through the next. A day that an API is away is half a minute here:
an acceptance is good for a second, and may be stretched for ``STRETCH_S``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

import httpx
import pytest

from loadtests.fake_model.process import FakeModel, fake_model
from proxy.core.entitlement import token_id
from proxy.data_dir import load_secret, make_data_dir
from tests.fakes.clock import ManualClock
from tests.flows.edges import ACT_S, Edge, connected
from tests.flows.harness import ProxyProcess, running_proxy
from tests.flows.test_entitlement import (
    ACCOUNTS,
    AWAY,
    REVOKED,
    RULES,
    TOKENS,
    TOO_LONG,
    UP,
    House,
    Row,
    make,
    walk,
)
from tests.flows.test_replicate_upstream import PIXEL, config

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

EDGES = 4
SEEDS = count()
ACCEPT_S = 1.0
STRETCH_S = 30.0
SHORT_DAY = f"accept_for_s = {ACCEPT_S}\nauth_stale_if_error_s = {STRETCH_S}\n"


@pytest.fixture(scope="module")
def double() -> Iterator[FakeModel]:
    accounts = [f"--account={name}={TOKENS[token]}" for token, name in ACCOUNTS.items()]
    with fake_model(*accounts) as api:
        yield api


@pytest.fixture
def api(double: FakeModel) -> Iterator[FakeModel]:
    yield double
    double.reset()


@contextmanager
def serving(data_dir: Path, api: FakeModel, auth: str = "") -> Iterator[ProxyProcess]:
    """A proxy by the rules of the table."""
    make_data_dir(data_dir)
    member = token_id(load_secret(data_dir), TOKENS["alice-2"])
    more = f'[auth]\n{auth}groups = {{crew = ["account:bob", "token:{member}"]}}\n[workers]\ncount = {EDGES}\n'
    more += "".join(f'[[policy]]\nname = "{name}"\nscope = "{scope}"\n' for name, scope in RULES.items())
    with running_proxy(data_dir, config(api, more)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, double: FakeModel) -> Iterator[ProxyProcess]:
    with serving(tmp_path_factory.mktemp("rows") / "data", double) as proxy:
        yield proxy


@asynccontextmanager
async def entered(proxy: ProxyProcess, api: FakeModel) -> AsyncIterator[tuple[list[House], list[Edge]]]:
    """A way in through each edge; every caller that there is has been accepted."""
    clock, given = ManualClock(), {"input": {"prompt": "known everywhere", "seed": 1}}
    async with httpx.AsyncClient(base_url=proxy.public_url, timeout=60, trust_env=False, verify=False) as client:
        anywhere = House(api, client, clock, SEEDS)
        assert (await anywhere.ask("alice-1", "POST", PIXEL, given)).status_code == 201
        async with connected(proxy, EDGES, PIXEL, given, TOKENS["alice-1"]) as edges:
            await anywhere.greet()
            yield [House(api, edge.client, clock, SEEDS) for edge in edges], edges


def around(houses: list[House]) -> list[tuple[House, House]]:
    """Pairs of where a prediction is made and where it is asked for, so that each edge is both once."""
    return list(zip(houses, [*houses[1:], houses[0]], strict=True))


async def walk_everywhere(houses: list[House], table: list[Row]) -> None:
    """Each row, made and asked for at each edge."""
    for row in table:
        for made_at, asked_at in around(houses):
            await walk(asked_at, row, *(await make(made_at, row)))


async def test_rows_at_every_edge_while_the_upstream_is_there(usual: ProxyProcess, api: FakeModel) -> None:
    async with entered(usual, api) as (houses, edges):
        await walk_everywhere(houses, UP)
        should = len([row for row in UP if row.create == "hit"])
        for edge in edges:
            assert edge.hits[edge.letters] > should / 2, "it answers hits itself"


async def test_rows_at_every_edge_after_a_token_was_revoked(usual: ProxyProcess, api: FakeModel) -> None:
    """What one edge has heard in answer to anything holds at all of them."""
    async with entered(usual, api) as (houses, edges):
        made = [(row, *(await make(houses[0], row))) for row in REVOKED]
        api.revoke(TOKENS["alice-2"])
        assert (await houses[0].ask("alice-2", "GET", "/v1/hardware")).status_code == 401
        await asyncio.sleep(ACT_S)
        for row, seed, prediction in made:
            for house in houses:
                await walk(house, row, seed, prediction)
        assert all(edge.hits[edge.letters] for edge in edges)


async def test_rows_at_every_edge_while_the_upstream_is_away(tmp_path: Path, api: FakeModel) -> None:
    with serving(tmp_path / "data", api, SHORT_DAY) as proxy:
        async with entered(proxy, api) as (houses, edges):
            await walk_through_a_day(houses, edges)


async def walk_through_a_day(houses: list[House], edges: list[Edge]) -> None:
    made = [(row, at, *(await make(by, row))) for row in AWAY for by, at in around(houses)]
    late = [(row, *(await make(houses[0], row))) for row in TOO_LONG]
    began_at = time.monotonic()
    await houses[0].greet()
    houses[0].go_away()
    await asyncio.sleep(2 * ACCEPT_S)
    for edge in edges:
        edge.hits.clear()
    for row, at, seed, prediction in made:
        await walk(at, row, seed, prediction)
    assert time.monotonic() < began_at + STRETCH_S, "this machine is too slow for so short a day"
    hits = [sum(edge.hits.values()) for edge in edges]
    assert hits == [len([row for row in AWAY if row.create == "hit"])] * EDGES
    await asyncio.sleep(began_at + STRETCH_S + 5 * ACCEPT_S - time.monotonic())
    for row, seed, prediction in late:
        for house in houses:
            await walk(house, row, seed, prediction)
