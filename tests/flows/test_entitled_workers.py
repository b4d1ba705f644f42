"""Who gets what, where four processes answer: the tables of ``test_entitlement``, walked over real connections.

Each request comes over a connection of its own, so any of the edges may take it. A day cannot be let pass in so many
processes; the spans of the settings are short instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.fake_model.process import FakeModel, fake_model
from proxy.core.entitlement import token_id
from proxy.data_dir import load_secret, make_data_dir
from tests.fakes.clock import ManualClock
from tests.flows.harness import running_proxy
from tests.flows.test_entitlement import ACCOUNTS, AWAY, REVOKED, RULES, TOKENS, TOO_LONG, UP, House, Row, make, walk
from tests.flows.test_replicate_upstream import config
from tests.flows.test_workers import answering, is_hit, workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@dataclass
class Edges(House):
    """A house that notes which processes its hits came from."""

    hits: set[str] = field(default_factory=set)

    async def ask(self, who: str, method: str, path: str, document: Any = None) -> httpx.Response:
        answer = await super().ask(who, method, path, document)
        if is_hit(answer):
            self.hits.add(answering(answer))
        return answer


@pytest.fixture(scope="module")
def double() -> Iterator[FakeModel]:
    with fake_model(*(f"--account={name}={TOKENS[token]}" for token, name in ACCOUNTS.items())) as api:
        yield api


@pytest.fixture
def api(double: FakeModel) -> Iterator[FakeModel]:
    yield double
    double.reset()


@asynccontextmanager
async def opened(data_dir: Path, api: FakeModel, auth: str = "") -> AsyncIterator[Edges]:
    make_data_dir(data_dir)
    member = token_id(load_secret(data_dir), TOKENS["alice-2"])
    policies = "".join(f'[[policy]]\nname = "{name}"\nscope = "{scope}"\n' for name, scope in RULES.items())
    groups = f'[auth]\n{auth}\n[auth.groups]\ncrew = ["account:bob", "token:{member}"]\n'
    with running_proxy(data_dir, config(api, workers(4) + groups + policies)) as proxy:
        one_each = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=proxy.public_url, limits=one_each, timeout=60, trust_env=False) as client:
            yield Edges(api, client, ManualClock())


async def test_rows_at_four_edges_before_and_after_a_token_was_revoked(tmp_path: Path, api: FakeModel) -> None:
    async with opened(tmp_path / "data", api) as house:
        await house.greet()
        for row in UP:
            await walk(house, row, *(await make(house, row)))
        made = [(row, *(await make(house, row))) for row in REVOKED]
        api.revoke(TOKENS["alice-2"])
        assert (await house.ask("alice-2", "GET", "/v1/hardware")).status_code == 401
        await asyncio.sleep(1.0)  # in this time what one process hears acts in all
        for row, seed, prediction in made:
            await walk(house, row, seed, prediction)
        assert len(house.hits) > 1, "several processes gave hits"


@pytest.mark.parametrize(
    ("table", "auth", "away_s"),
    [
        (AWAY, "accept_for_s = 0.5", 1.0),
        (TOO_LONG, "accept_for_s = 0.5\nauth_stale_if_error_s = 2.0", 3.0),
    ],
    ids=["for a while", "for longer than an acceptance is stretched"],
)
async def test_rows_at_four_edges_while_the_upstream_is_away(
    tmp_path: Path, api: FakeModel, table: list[Row], auth: str, away_s: float
) -> None:
    async with opened(tmp_path / "data", api, auth) as house:
        await house.greet()
        made = [(row, *(await make(house, row))) for row in table]
        house.go_away()
        await asyncio.sleep(away_s)
        for row, seed, prediction in made:
            await walk(house, row, seed, prediction)
