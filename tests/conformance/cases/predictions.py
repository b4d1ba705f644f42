"""Predictions as objects: created, polled, held, listed and read."""

from __future__ import annotations

import time
from typing import Any

from tests.conformance.bench import Bench, digests, files_in
from tests.conformance.cases.registry import case
from tests.conformance.world import lister

SLOW_S = 2
LOW_WAIT_S = 1


def _polled(bench: Bench, **asked: Any) -> Any:
    """Create, and let the client poll to the end."""
    seen = bench.ask("create_and_poll", **asked)
    assert seen["final_status"] == "succeeded"
    assert seen["has_logs"]
    assert len(files_in(seen["output"])) == 1
    first = seen.pop("first_status")
    assert first in (("starting", "processing", "succeeded") if bench.mode == "hit" else ("starting", "processing"))
    return seen


@case("create a prediction of an official model and poll it", direct=1, miss=1, hit=0)
def poll_model(bench: Bench) -> Any:
    return _polled(bench, **bench.models.list_of(1, bench.given()))


@case("create a prediction of a version and poll it", direct=1, miss=1, hit=0)
def poll_version(bench: Bench) -> Any:
    return _polled(bench, version=bench.world.a_version(), input=bench.given())


@case("create a prediction of a deployment and poll it", direct=1, miss=1, hit=0)
def poll_deployment(bench: Bench) -> Any:
    return _polled(bench, deployment="acme/pixel-live", input=bench.given())


@case("hold a create until the output is there", direct=1, miss=1, hit=0)
def wait_in_time(bench: Bench) -> Any:
    seen = bench.ask("create_wait", **bench.models.list_of(1, bench.given()), wait_s=10)
    assert seen["status"] == "succeeded"
    assert len(files_in(seen["output"])) == 1
    return seen


@case("hold a create for less time than the model takes", direct=1, miss=1, hit=0)
def wait_runs_out(bench: Bench) -> Any:
    """Clients go on polling only where it says ``starting``; afterwards the result is there for the next."""
    if bench.mode == "hit":
        time.sleep(SLOW_S - LOW_WAIT_S + 1.0)
    seen = bench.ask("create_wait", **bench.models.slow(SLOW_S, bench.given()), wait_s=LOW_WAIT_S)
    if bench.mode == "hit":
        assert seen["status"] == "succeeded"
        assert len(files_in(seen["output"])) == 1
    else:
        assert seen == {"status": "starting", "output": None}
    return None


@case("list predictions page by page, newest first, and get one of them", direct=3, miss=3, hit=0)
def listing(bench: Bench) -> Any:
    token = lister(bench.client.name, bench.side)
    before = bench.ask("pages", token)["ids"]
    outputs = [
        bench.ask("run", token, **bench.models.list_of(1, bench.given(f"number {number}")))["output"]
        for number in range(3)
    ]
    pages = bench.ask("pages", token)
    assert pages["ids"][3:] == before
    new = pages["ids"][:3]
    assert len(set(new)) == 3
    assert bench.ask("list", token)["ids"][:3] == new
    got = [bench.ask("get", token, id=each) for each in new]
    assert [each["status"] for each in got] == ["succeeded"] * 3
    assert [digests(each["output"]) for each in got] == [digests(each) for each in reversed(outputs)]
    if bench.world.has_accounts:
        assert bench.ask_error("get", id=new[0])["status"] == 404, "another account must not see it"
    return {"outputs": outputs, "fields": got[0]["fields"]}
