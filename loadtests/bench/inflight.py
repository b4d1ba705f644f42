"""Hits while hundreds of long runs are in flight, beside the same hits with none, interleaved in one run.

Two proxies stand before one double of Replicate's API. One has all the runs, the other has none; both have the same
hit. Slices of load go to the one and the other in turn, in random order, so that whatever else the machine does falls
on both. What is told is the ratio of the p99s of two slices side by side, and of those the median and the range; and,
for a machine with loud neighbours, the ratio of what the quieter slices of each side show. Each run has a client that
waits for it and then polls to its end, and none may hear of an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import aiohttp
import httpx

from loadtests.bench.wrk import measure, write_script
from loadtests.fake_model.process import ALICE, FakeModel, fake_model
from tests.flows.harness import ProxyProcess, running_proxy

HITS = "/v1/models/acme/pixel/predictions"
SLOW = "/v1/models/acme/slow/predictions"
BODY = json.dumps({"input": {"prompt": "a bench in a quiet park", "seed": 1}}).encode()

CONNECTIONS = 4
"""Of the hits' clients: few, so that what is measured is how long an answer takes and not how long the line is."""

CREATES_PER_S = 60.0
"""Six times what Replicate takes of one account, and no burst."""

POLL_EVERY_S = 2.0
SLICE_S = 1


class Pair(NamedTuple):
    """p99 in milliseconds at the loaded proxy and at the idle one, side by side."""

    loaded_ms: float
    idle_ms: float

    @property
    def ratio(self) -> float:
        return self.loaded_ms / self.idle_ms


def quiet_ratio(pairs: list[Pair]) -> float:
    """Ratio of the medians of both sides' quietest quarters: what neighbours disturb falls out, on both alike."""
    quietest = [sorted(side)[: max(len(side) // 4, 1)] for side in zip(*pairs, strict=True)]
    loaded, idle = map(statistics.median, quietest)
    return loaded / idle


@dataclass(slots=True)
class InFlight:
    """What came of it.

    Attributes:
        steady: p99 in milliseconds with all runs in flight, and with none, for each pair of slices.
        turning: the same while runs begin and while they end.
        failures: what the runs' clients met instead of ``succeeded``; empty is as it should be.
        looks: how many times the API was asked how a run is.
    """

    runs: int
    seconds: float
    steady: list[Pair] = field(default_factory=list)
    turning: list[Pair] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    looks: int = 0


def run_in_flight(runs: int = 512, seconds: float = 60.0, *, measures: bool = True) -> InFlight:
    """Put ``runs`` predictions of ``seconds`` on their way and see them through.

    ``measures``: whether hits are measured meanwhile; without, wrk is not needed.

    Raises:
        RuntimeError: a hit was none, or wrk met an error.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api = stack.enter_context(fake_model())
        loaded = stack.enter_context(running_proxy(folder / "loaded", _config(api)))
        script = None
        sides = [loaded.public_url + HITS]
        _warm_up(loaded)
        if measures:
            idle = stack.enter_context(running_proxy(folder / "idle", _config(api)))
            _warm_up(idle)
            sides.append(idle.public_url + HITS)
            script = folder / "post.lua"
            write_script(script, BODY, ALICE)
        found = InFlight(runs, seconds)
        asyncio.run(_Scene(api, loaded, sides, script, found).play())
        return found


def _config(api: FakeModel) -> str:
    return (
        f'[[upstream]]\nkind = "replicate"\nname = "replicate"\nbase_url = "{api.base_url}"\n'
        f'output_origins = ["{api.delivery_origin}"]\n[cache]\noutput_urls = "url"\n'
    )


def _warm_up(proxy: ProxyProcess) -> None:
    headers = {"Authorization": f"Bearer {ALICE}", "Prefer": "wait", "Content-Type": "application/json"}
    for _ in range(2):
        answer = httpx.post(proxy.public_url + HITS, content=BODY, headers=headers, timeout=60, trust_env=False)
    if "; hit" not in answer.headers["cache-status"]:
        raise RuntimeError("the second request was no hit")


class _Scene:
    def __init__(
        self, api: FakeModel, proxy: ProxyProcess, sides: list[str], script: Path | None, found: InFlight
    ) -> None:
        self._api = api
        self._proxy = proxy
        self._sides = sides
        self._script = script
        self._found = found

    async def play(self) -> None:
        found = self._found
        headers = {"Authorization": f"Bearer {ALICE}", "Prefer": "wait=60"}
        polls = self._api.counters()["polls"]
        if self._script is not None:
            await self._pair(self._script)  # warm both up
        clients: list[asyncio.Task[None]] = []
        async with aiohttp.ClientSession(
            self._proxy.public_url, headers=headers, connector=aiohttp.TCPConnector(limit=0)
        ) as http:
            began = time.monotonic()
            starting = asyncio.create_task(self._pairs(found.turning, lambda: len(clients) < found.runs))
            for number in range(found.runs):
                clients.append(asyncio.create_task(self._client(http, number)))
                await asyncio.sleep(max(0.0, began + (number + 1) / CREATES_PER_S - time.monotonic()))
            await starting
            # All are in flight until the first one's time is over.
            await self._pairs(found.steady, lambda: time.monotonic() + 2 * SLICE_S + 1 < began + found.seconds)
            await self._pairs(found.turning, lambda: not all(client.done() for client in clients))
            await asyncio.gather(*clients)
        found.looks = self._api.counters()["polls"] - polls

    async def _pairs(self, pairs: list[Pair], goes_on: Callable[[], bool]) -> None:
        while self._script is not None and goes_on():
            pairs.append(await self._pair(self._script))

    async def _pair(self, script: Path) -> Pair:
        """p99 of hits at the loaded proxy and at the idle one, in random order."""
        p99_ms = {}
        for side in random.sample(self._sides, 2):
            p99_ms[side] = (await asyncio.to_thread(measure, side, script, CONNECTIONS, SLICE_S)).p99_ms
        loaded, idle = self._sides
        return Pair(p99_ms[loaded], p99_ms[idle])

    async def _client(self, http: aiohttp.ClientSession, number: int) -> None:
        """One client: creates, waits, polls."""
        given = {"prompt": f"run {number}", "seed": number, "seconds": self._found.seconds}
        try:
            async with http.post(SLOW, json={"input": given}) as answer:
                prediction = await answer.json()
                if answer.status not in (201, 202):
                    raise RuntimeError(f"{answer.status}: {prediction}")
            while prediction["status"] in ("starting", "processing"):
                await asyncio.sleep(POLL_EVERY_S)
                async with http.get(f"/v1/predictions/{prediction['id']}") as answer:
                    prediction = await answer.json()
            if prediction["status"] != "succeeded":
                raise RuntimeError(f"{prediction['status']}: {prediction['error']}")
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError, RuntimeError) as error:
            self._found.failures.append(f"{type(error).__name__}: {error}"[:300])
