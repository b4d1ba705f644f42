"""Identical misses share one run, and nobody's leaving spoils it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.flows.harness import README_MODEL, SMALL, ProxyProcess

pytestmark = pytest.mark.anyio

CREATE = f"/v1/models/{README_MODEL}/predictions"
WAIT = {"Prefer": "wait"}


def slow(seconds: float, tag: str) -> dict[str, Any]:
    """A create request for a picture that takes longer by ``seconds``; ``tag`` tells one test's from another's."""
    return {"input": {"prompt": f"fault:slow:{seconds}", "negative_prompt": tag, **SMALL}}


def client(proxy: ProxyProcess) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=proxy.public_url, timeout=60, limits=limits, trust_env=False)


async def settled(http: httpx.AsyncClient, prediction: dict[str, Any]) -> dict[str, Any]:
    """Poll a prediction to its end, as clients do."""
    for _ in range(600):
        prediction = (await http.get(prediction["urls"]["get"])).json()
        if prediction["status"] not in ("starting", "processing"):
            return prediction
        await asyncio.sleep(0.05)
    raise AssertionError("the prediction did not end")


async def until_in_flight(proxy: ProxyProcess, http: httpx.AsyncClient, *, is_any: bool) -> None:
    """Wait until the proxy says that there are runs, or that there are none."""
    for _ in range(400):
        status = (await http.get(f"{proxy.admin_url}/_hotplate/status")).json()
        if (status["runs_in_flight"] > 0) == is_any:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come about")


async def test_hundred_identical_requests_make_one_run(proxy: ProxyProcess) -> None:
    given = slow(0.5, "a hundred at once")
    runs = proxy.runs()
    async with client(proxy) as http:
        answers = await asyncio.gather(*(http.post(CREATE, json=given, headers=WAIT) for _ in range(100)))
        predictions = [answer.json() for answer in answers]
        assert {answer.status_code for answer in answers} == {201}
        assert proxy.runs() == runs + 1
        assert len({prediction["id"] for prediction in predictions}) == 100
        assert {prediction["status"] for prediction in predictions} == {"succeeded"}
        assert len({str(prediction["output"]) for prediction in predictions}) == 1
        statuses = [answer.headers["cache-status"] for answer in answers]
        assert sum("collapsed" in status for status in statuses) == 99
        polled = await asyncio.gather(*(http.get(prediction["urls"]["get"]) for prediction in predictions))
        assert [answer.json()["id"] for answer in polled] == [prediction["id"] for prediction in predictions]
        assert {str(answer.json()["output"]) for answer in polled} == {str(predictions[0]["output"])}


async def test_callers_that_leave_spoil_nothing_the_first_one_included(proxy: ProxyProcess) -> None:
    given = slow(1, "some leave")
    runs = proxy.runs()
    async with client(proxy) as http:
        first = asyncio.create_task(http.post(CREATE, json=given, headers=WAIT))
        await until_in_flight(proxy, http, is_any=True)
        others = [asyncio.create_task(http.post(CREATE, json=given, headers=WAIT)) for _ in range(9)]
        await asyncio.sleep(0.2)
        for leaving in (first, *others[:4]):
            leaving.cancel()
        answers = await asyncio.gather(*others[4:])
    assert {answer.json()["status"] for answer in answers} == {"succeeded"}
    assert proxy.runs() == runs + 1


async def test_result_is_kept_when_every_caller_has_left(proxy: ProxyProcess) -> None:
    given = slow(0.5, "all leave")
    runs = proxy.runs()
    async with client(proxy) as http:
        leaving = asyncio.create_task(http.post(CREATE, json=given, headers=WAIT))
        await until_in_flight(proxy, http, is_any=True)
        leaving.cancel()
        await asyncio.wait([leaving])
        await until_in_flight(proxy, http, is_any=False)
        again = await http.post(CREATE, json=given, headers=WAIT)
    assert "; hit" in again.headers["cache-status"]
    assert proxy.runs() == runs + 1


async def test_cancelling_one_sharer_leaves_the_others_alone(proxy: ProxyProcess) -> None:
    given = slow(1, "one cancels")
    async with client(proxy) as http:
        first, second = [(await http.post(CREATE, json=given)).json() for _ in range(2)]
        assert first["status"] == second["status"] == "starting"
        canceled = await http.post(first["urls"]["cancel"])
        assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
        ended = await settled(http, second)
        assert (ended["status"], len(ended["output"])) == ("succeeded", 1)
        assert (await settled(http, first))["status"] == "canceled"


async def test_cancelling_every_sharer_ends_the_run_and_the_next_request_starts_afresh(proxy: ProxyProcess) -> None:
    given = slow(2, "all cancel")
    async with client(proxy) as http:
        created = [(await http.post(CREATE, json=given)).json() for _ in range(2)]
        for prediction in created:
            await http.post(prediction["urls"]["cancel"])
        assert {(await settled(http, prediction))["status"] for prediction in created} == {"canceled"}
        answer = await http.post(CREATE, json=given, headers=WAIT)
    assert answer.json()["status"] == "succeeded"
    assert "hit" not in answer.headers["cache-status"]


async def test_wait_that_runs_out_says_starting_and_the_prediction_goes_on(proxy: ProxyProcess) -> None:
    given = slow(2, "short wait")
    async with client(proxy) as http:
        answer = await http.post(CREATE, json=given, headers={"Prefer": "wait=1"})
        assert (answer.status_code, answer.json()["status"], answer.json()["output"]) == (202, "starting", None)
        assert (await settled(http, answer.json()))["status"] == "succeeded"
