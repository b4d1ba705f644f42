"""Errors, as the client's own types."""

from __future__ import annotations

from typing import Any

from tests.conformance.bench import Bench
from tests.conformance.cases.registry import case
from tests.conformance.world import POOR, WRONG


def _refused(bench: Bench, status: int, error: dict[str, Any]) -> Any:
    """As the client's own type, which the comparison with the API itself checks; not all types tell a status."""
    assert error["status"] in (bench.client.renames.get(status, status), None), error
    return error


@case("get 401 for a wrong token, even where the answer is stored", direct=0, miss=0, hit=1)
def error_401(bench: Bench) -> Any:
    if bench.mode == "hit":
        bench.ask("run", **bench.plain())
    return _refused(bench, 401, bench.ask_error("error", WRONG, **bench.plain()))


@case("get 402 when the credit is used up", direct=0, miss=0)
def error_402(bench: Bench) -> Any:
    return _refused(bench, 402, bench.ask_error("error", POOR, **bench.plain()))


@case("get 404 for a model that does not exist", direct=0, miss=0)
def error_404_model(bench: Bench) -> Any:
    return _refused(bench, 404, bench.ask_error("error", model="nobody/nothing", input=bench.plain()["input"]))


@case("get 404 for a prediction that does not exist", direct=0, miss=0)
def error_404_prediction(bench: Bench) -> Any:
    return _refused(bench, 404, bench.ask_error("get", id="x0fmfzfcf5rma0cq65c825tcbm"))


@case("get 422 for a bad input", direct=0, miss=0)
def error_422_input(bench: Bench) -> Any:
    asked = bench.models.bad(bench.given(), is_text=bench.client.writes_only)
    return _refused(bench, 422, bench.ask_error("error", **asked))


@case("get 422 for a version that does not exist", direct=0, miss=0)
def error_422_version(bench: Bench) -> Any:
    return _refused(bench, 422, bench.ask_error("error", version="0" * 64, input=bench.given()))


@case("get 429 with its Retry-After", direct=0, miss=0)
def error_429(bench: Bench) -> Any:
    with bench.world.throttled():
        error = bench.ask_error("error", **bench.plain())
    assert error["retry_after"] in ("1", None)
    return _refused(bench, 429, error)


@case("be told of a failed model; a failure is never kept", direct=1, miss=1, hit=1)
def model_fails(bench: Bench) -> Any:
    return bench.ask_error("error", **bench.models.failing(bench.given()))
