"""What Hotplate adds: outputs and predictions that last longer than at the API."""

from __future__ import annotations

from typing import Any

from tests.conformance.bench import Bench, files_in
from tests.conformance.cases.registry import case


@case("read the output of a repeat after the API has deleted it", miss=1, hit=0)
def outputs_outlive_the_upstreams(bench: Bench) -> Any:
    output = bench.ask("run", **bench.plain())["output"]
    bench.world.expire()
    return output


@case("get an earlier prediction with its output after the API has deleted it", miss=1, hit=0)
def predictions_outlive_the_upstreams(bench: Bench) -> Any:
    with bench.world.http("proxy") as http:
        created = http.post(
            "/v1/models/acme/pixel/predictions", json={"input": bench.given()}, headers={"Prefer": "wait"}
        )
        bench.world.expire()
    seen = bench.ask("get", id=created.raise_for_status().json()["id"])
    assert seen["status"] == "succeeded"
    assert len(files_in(seen["output"])) == 1
    return seen
