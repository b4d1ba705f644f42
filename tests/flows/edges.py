"""A connection to each edge of a proxy of several processes: who asks through it knows which process is asked."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.flows.harness import ProxyProcess

REACHED_S = 30.0
"""How long it may take until each edge has taken a connection: the kernel hands them out as it likes."""

ACT_S = 1.0
"""In this time what the core knows acts in every edge."""

ASKS = 20
"""How often each edge is asked, at the least, after something is to act."""


def is_hit(answer: httpx.Response) -> bool:
    return answer.headers.get("cache-status", "").startswith("Hotplate; hit")


def answering(answer: httpx.Response) -> str:
    """Which process has answered: each begins its request ids with letters of its own."""
    return answer.headers["x-request-id"].partition("-")[0]


_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)


@dataclass
class Edge:
    """One connection, which stays with the edge that took it.

    Attributes:
        letters: how this edge's own answers begin; see ``answering``.
        hits: hits that came over it, by the letters of who answered.
    """

    client: httpx.AsyncClient
    letters: str = ""
    hits: Counter[str] = field(default_factory=Counter)
    _port: int | None = None

    async def notice(self, answer: httpx.Response) -> None:
        port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
        assert self._port in (None, port), "this is another connection, of another edge perhaps"
        self._port = port
        if is_hit(answer):
            self.hits[answering(answer)] += 1


@asynccontextmanager
async def connected(
    proxy: ProxyProcess, count: int, path: str, document: Any, token: str
) -> AsyncIterator[Sequence[Edge]]:
    """Connections to ``count`` edges, found by a create that is a hit for ``token``.

    An edge leaves a hit to the core while it has not heard that the token is good.
    """
    found: dict[str, Edge] = {}
    credential = {"authorization": f"Bearer {token}"}
    deadline = time.monotonic() + REACHED_S
    async with AsyncExitStack() as stack:
        core = answering(await asyncio.to_thread(_ask_core, proxy))
        while len(found) < count:
            assert time.monotonic() < deadline, f"only {len(found)} edges take connections"
            # No certificates: to load them takes longer than all else here.
            client = httpx.AsyncClient(
                base_url=proxy.public_url, timeout=60, trust_env=False, verify=False, limits=_ONE
            )
            stack.push_async_callback(client.aclose)
            edge = Edge(client)
            client.event_hooks = {"response": [edge.notice]}
            while edge.letters in ("", core):
                answer = await client.post(path, json=document, headers=credential)
                assert is_hit(answer), (answer.status_code, answer.headers)
                edge.letters = answering(answer)
                assert time.monotonic() < deadline, "the core answers each hit"
            if edge.letters in found:
                await client.aclose()
            else:
                found[edge.letters] = edge
        yield list(found.values())


def _ask_core(proxy: ProxyProcess) -> httpx.Response:
    """What no edge answers itself."""
    return httpx.get(proxy.public_url + "/v1/account", trust_env=False, verify=False)


async def last_old_answer_s(
    edges: Sequence[Edge],
    ask: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]],
    is_old: Callable[[httpx.Response], bool],
    order: Callable[[], Awaitable[None]],
) -> float:
    """When an edge was last asked something that it answered as before, in seconds since ``order`` returned.

    All edges are asked all the time: before, meanwhile, and then for twice the time in which it is to act, at least
    ``ASKS`` times each. Each must have answered in the old way before, and in the new way at the end.
    """
    asked: list[list[tuple[float, bool]]] = [[] for _ in edges]
    were_old, were_asked = [asyncio.Event() for _ in edges], [asyncio.Event() for _ in edges]
    is_over, done_at = asyncio.Event(), math.inf

    async def go_on(number: int) -> None:
        left, said = ASKS, asked[number]
        while not is_over.is_set():
            asked_at = time.monotonic()
            said.append((asked_at, is_old(await ask(edges[number].client))))
            if said[-1][1]:
                were_old[number].set()
            left -= asked_at > done_at
            if left <= 0:
                were_asked[number].set()
            await asyncio.sleep(0.01)  # the proxy needs the processors more than those who ask it

    async with asyncio.TaskGroup() as group:
        for number in range(len(edges)):
            group.create_task(go_on(number))
        await asyncio.gather(*(event.wait() for event in were_old))
        await order()
        done_at = time.monotonic()
        await asyncio.sleep(2 * ACT_S)
        await asyncio.gather(*(event.wait() for event in were_asked))
        is_over.set()
    assert not any(said[-1][1] for said in asked)
    return max([0.0, *(at - done_at for said in asked for at, old in said if old)])
