"""Webhooks from a create to the receiver: miss, follower and hit, and across a kill."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from loadtests.fake_model.process import ALICE, BOB, FakeModel, fake_model
from tests.fakes.webhooks import is_signed
from tests.flows.harness import ProxyProcess, local_config, running_proxy, start_proxy

PIXEL = "/v1/models/acme/pixel/predictions"


@dataclass
class Receiver:
    """Takes webhooks on loopback; ``status`` is what it answers."""

    status: int = 200
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    def of(self, prediction_id: str) -> list[dict[str, Any]]:
        documents = [orjson.loads(body) for _, body in self.got]
        return [one for one in documents if one["id"] == prediction_id]

    def wait(self, count: int, timeout_s: float = 15.0) -> None:
        deadline = time.monotonic() + timeout_s
        while len(self.got) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(self.got) >= count, self.got


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    box = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            box.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(box.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    box.url = f"http://127.0.0.1:{server.server_port}"
    yield box
    server.shutdown()
    thread.join()
    server.server_close()


def config(api: FakeModel, receiver: Receiver) -> str:
    return (
        f'[[upstream]]\nkind = "replicate"\nname = "replicate"\nbase_url = "{api.base_url}"\n'
        f'output_origins = ["{api.delivery_origin}"]\n[cache]\noutput_urls = "url"\n'
        f'[webhooks]\norigins = ["{receiver.url}"]\n[limits]\ndrain_timeout_s = 0.5\n'
    )


def post(proxy: ProxyProcess, prompt: str, receiver: Receiver, events: list[str] | None, **more: Any) -> httpx.Response:
    document = {"input": {"prompt": prompt, "seed": 1}, "webhook": f"{receiver.url}/hook", **more}
    if events is not None:
        document["webhook_events_filter"] = events
    headers = {"Authorization": f"Bearer {ALICE}"}
    return httpx.post(proxy.public_url + PIXEL, json=document, headers=headers, timeout=60, trust_env=False)


def secret(proxy: ProxyProcess, token: str) -> str:
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{proxy.public_url}/v1/webhooks/default/secret"
    key: str = httpx.get(url, headers=headers, trust_env=False).json()["key"]
    return key


def test_miss_follower_and_hit_are_told_under_their_own_ids_and_signed(tmp_path: Path, receiver: Receiver) -> None:
    with fake_model() as api, running_proxy(tmp_path / "data", config(api, receiver)) as proxy:
        api.hold()
        shared = [post(proxy, "told", receiver, ["start", "completed"]).json() for _ in range(2)]
        receiver.wait(2)
        api.release()
        receiver.wait(4)
        hit = post(proxy, "told", receiver, ["start", "output", "completed"])
        assert "; hit" in hit.headers["cache-status"]
        receiver.wait(7)
        time.sleep(0.2)
        assert len(receiver.got) == 7
        for one in shared:
            assert [told["status"] for told in receiver.of(one["id"])] == ["processing", "succeeded"]
        told = receiver.of(hit.json()["id"])
        assert [one["status"] for one in told] == ["processing", "processing", "succeeded"]
        assert told[-1]["output"] == receiver.of(shared[0]["id"])[-1]["output"] is not None
        assert (hit.json()["status"], hit.json()["output"]) == ("starting", None), "it did not ask to wait"
        assert told[-1]["urls"]["get"] == hit.headers["location"]
        assert api.delivery_origin not in receiver.got[-1][1].decode()
        assert api.counters()["runs"] == {"acme/pixel": 1}
        assert "webhook" not in api.counters()["last_create"]["body"], "or the API would call as well"
        alice, bob = secret(proxy, ALICE), secret(proxy, BOB)
        assert alice != bob
        for headers, body in receiver.got:
            assert is_signed(headers, body, alice)
            assert not is_signed(headers, body, bob)
            assert not is_signed(headers, body + b" ", alice)


@pytest.mark.slow
def test_end_that_was_not_taken_before_a_kill_is_told_once_after_it(tmp_path: Path, receiver: Receiver) -> None:
    with fake_model() as api:
        receiver.status = 500
        with running_proxy(tmp_path / "data", config(api, receiver)) as proxy:
            done = post(proxy, "not taken", receiver, ["completed"]).json()
            receiver.wait(1)
            api.hold()
            running = post(proxy, "still running", receiver, ["completed"]).json()
            deadline = time.monotonic() + 10
            while api.counters()["runs"].get("acme/pixel") != 2 and time.monotonic() < deadline:
                time.sleep(0.02)
            proxy.stop(signal.SIGKILL)
        receiver.status = 200
        before = len(receiver.got)
        with running_proxy(tmp_path / "data", config(api, receiver)) as again:
            api.release()
            receiver.wait(before + 2, timeout_s=30)
            assert {one["status"] for one in receiver.of(running["id"])} == {"succeeded"}
            names = [headers["webhook-id"] for headers, _ in receiver.got]
            assert names.count(f"msg_{running['id']}_completed") == 1
            assert set(names) == {f"msg_{done['id']}_completed", f"msg_{running['id']}_completed"}
            told = len(receiver.got)
            again.stop()
        with running_proxy(tmp_path / "data", config(api, receiver)):
            time.sleep(0.5)
        assert len(receiver.got) == told
        assert api.counters()["runs"] == {"acme/pixel": 2}


def test_webhook_of_a_cog_model_is_told_and_signed_by_the_derived_secret(tmp_path: Path, receiver: Receiver) -> None:
    settings = local_config(environment={"HOTPLATE_DEMO_FAULTS": "1"})
    proxy = start_proxy(tmp_path / "data", f'{settings}[webhooks]\norigins = ["{receiver.url}"]\n')
    try:
        given = {"prompt": "told of", "width": 64, "height": 64, "num_inference_steps": 1}
        url = f"{proxy.public_url}/v1/models/hotplate/demo/predictions"
        for count in (1, 2):
            document = {"input": given, "webhook": receiver.url, "webhook_events_filter": ["completed"]}
            made = httpx.post(url, json=document, timeout=60, trust_env=False).json()
            receiver.wait(count)
            assert receiver.of(made["id"])[0]["status"] == "succeeded"
        assert proxy.runs() == 1
        headers, body = receiver.got[0]
        assert is_signed(headers, body, secret(proxy, "any"))
        refused = httpx.post(url, json={"input": given, "webhook": "http://10.0.0.1/"}, trust_env=False)
        assert (refused.status_code, refused.json()["invalid_fields"][0]["field"]) == (422, "webhook")
    finally:
        proxy.stop()
