"""Webhooks: who is told what, and that it is signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from tests.conformance.bench import Bench, Unsupported
from tests.conformance.cases.registry import case
from tests.conformance.receiver import Delivery

DELIVERY_TIMEOUT_S = 10.0
QUIET_S = 0.3
"""How long nothing more may come after the last delivery."""


@case("be told of the end by a signed webhook", direct=1, miss=1, hit=0)
def webhook(bench: Bench) -> Any:
    path, url = _hook(bench)
    asked = bench.models.list_of(1, bench.given())
    created = bench.ask("webhook", **asked, webhook_url=url, events=["completed"])
    deliveries = _deliveries(bench, path)
    assert len(deliveries) == 1
    body = json.loads(deliveries[0].body)
    assert (body["id"], body["status"]) == (created["id"], "succeeded")
    assert _is_valid(bench, deliveries[0])
    assert not _is_valid(bench, Delivery(deliveries[0].headers, deliveries[0].body.replace("succeeded", "succeedeD")))
    fields = sorted(body.keys() - {"webhook", "webhook_events_filter"})
    return {"files": [_sha256_of(bench, each) for each in body["output"]], "fields": fields}


@case("be told of every event by signed webhooks", direct=1, miss=1, hit=0)
def webhook_of_every_event(bench: Bench) -> Any:
    path, url = _hook(bench)
    created = bench.ask(
        "webhook",
        **bench.models.growing(2, bench.given()),
        webhook_url=url,
        events=["start", "output", "logs", "completed"],
    )
    deliveries = _deliveries(bench, path)
    bodies = [json.loads(each.body) for each in deliveries]
    assert {each["id"] for each in bodies} == {created["id"]}
    assert [each["status"] for each in bodies].count("succeeded") == 1
    assert bodies[-1]["status"] == "succeeded", "the end is told last"
    if bench.mode != "hit":
        assert bodies[0]["status"] in ("starting", "processing"), "the start is told first"
    assert all(_is_signed(bench, each) for each in deliveries)
    return [_sha256_of(bench, each) for each in bodies[-1]["output"]]


def _hook(bench: Bench) -> tuple[str, str]:
    """A path of the receiver for this case alone, and the address to give."""
    path = f"/{bench.client.name}/{bench.case}/{bench.mode}"
    receiver = bench.world.receiver
    return path, (receiver.tls_origin if bench.side == "direct" else receiver.plain_origin) + path


def _deliveries(bench: Bench, path: str) -> list[Delivery]:
    """What arrived until the end was told, and a little longer."""
    receiver, count = bench.world.receiver, 1
    deadline = time.monotonic() + DELIVERY_TIMEOUT_S
    while time.monotonic() < deadline:
        arrived = receiver.wait_for(path, count, max(deadline - time.monotonic(), 0.01))
        if arrived and json.loads(arrived[-1].body)["status"] not in ("starting", "processing"):
            break
        count = len(arrived) + 1
    time.sleep(QUIET_S)
    arrived = receiver.wait_for(path, 0, 0.01)
    assert arrived, f"no webhook within {DELIVERY_TIMEOUT_S:g} s"
    return arrived


def _is_valid(bench: Bench, delivery: Delivery) -> bool:
    """By the client's own validator; by ours where it has none."""
    try:
        args = {"headers": delivery.headers, "body": delivery.body, "fetch_secret": True}
        return bool(bench.ask("validate_webhook", **args)["valid"])
    except Unsupported:
        return _is_signed(bench, delivery)


def _is_signed(bench: Bench, delivery: Delivery) -> bool:
    """Source: the API's page on verifying webhooks: HMAC-SHA256 over id, time and body, in base64."""
    with bench.world.http(bench.side) as http:
        key = http.get("/v1/webhooks/default/secret").raise_for_status().json()["key"]
    headers = delivery.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{delivery.body}".encode()
    secret = base64.b64decode(key.removeprefix("whsec_"))
    ours = "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
    return ours in headers["webhook-signature"].split()


def _sha256_of(bench: Bench, url: str) -> str:
    """A file by its address, which must lead to whom the client talks to."""
    with bench.world.http(bench.side) as http:
        if bench.side == "proxy":
            assert url.startswith(bench.world.base_url("proxy")), url
        return hashlib.sha256(http.get(url).raise_for_status().content).hexdigest()
