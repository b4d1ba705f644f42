"""Predictions that end early: cancelled, alone or beside others, or past their deadline."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.conformance.bench import Bench
from tests.conformance.cases.registry import case, eventually

SLOW_S = 2
LONG_S = 4
HEAD_START_S = 0.3
"""Enough for a request to arrive before the next."""


@case("cancel a prediction", direct=1, miss=1, hit=1)
def cancel(bench: Bench) -> Any:
    """A hit is over before it can be cancelled: what is asked of it is that cancelling does no harm."""
    if bench.mode == "hit":
        asked = bench.models.list_of(1, bench.given())
        bench.ask("run", **asked)
        assert bench.ask("cancel", **asked)["status"] == "succeeded"
        return None
    before = bench.world.cancels()
    assert bench.ask("cancel", **bench.models.slow(30, bench.given()))["status"] == "canceled"
    assert eventually(lambda: bench.world.cancels() > before), "the run goes on"
    return None


@case("cancel one of two predictions that share a run", direct=2, miss=1)
def cancel_one_of_two(bench: Bench) -> Any:
    asked = bench.models.slow(SLOW_S, bench.given())
    with bench.world.http(bench.side) as http:
        created = http.post(f"/v1/models/{asked['model']}/predictions", json={"input": asked["input"]})
        other = created.raise_for_status().json()
        assert bench.ask("cancel", **asked)["status"] == "canceled"

        def status() -> str:
            return str(http.get(f"/v1/predictions/{other['id']}").raise_for_status().json()["status"])

        assert eventually(lambda: status() not in ("starting", "processing"))
        assert status() == "succeeded"
    return None


@case("join a run that another client holds its request for, without being held too", direct=2, miss=1)
def join_a_held_run(bench: Bench) -> Any:
    """A create that does not ask to wait is answered at once, whatever those who share its run have asked for."""
    asked = bench.models.slow(LONG_S, bench.given())
    with bench.world.http(bench.side) as http, ThreadPoolExecutor(1) as threads:
        held = threads.submit(
            http.post,
            f"/v1/models/{asked['model']}/predictions",
            json={"input": asked["input"]},
            headers={"Prefer": "wait=30"},
        )
        time.sleep(HEAD_START_S)
        began = time.monotonic()
        assert bench.ask("cancel", **asked)["status"] == "canceled"
        took_s = time.monotonic() - began
        assert held.result().raise_for_status().json()["status"] == "succeeded"
    assert took_s < LONG_S / 2, f"it was held for {took_s:.1f} s"
    return None


@case("give a prediction a deadline", direct=1, miss=1, hit=1)
def deadline(bench: Bench) -> Any:
    """Five seconds is the shortest that the API takes. A hit is always in time."""
    if bench.mode == "hit":
        asked = bench.models.list_of(1, bench.given())
        bench.ask("run", **asked)
        seen = bench.ask("deadline", **asked, cancel_after="5s")
        assert seen["status"] == "succeeded"
        return None
    seen = bench.ask("deadline", **bench.models.slow(12, bench.given()), cancel_after="5s")
    assert seen["status"] == "canceled"
    return None
