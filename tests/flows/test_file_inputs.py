"""Pictures as inputs of a model on this machine: as data, as an earlier output, and from where they may not come."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest

from tests.flows.harness import README_MODEL, SMALL, ProxyProcess, local_config, running_proxy

CREATE = f"/v1/models/{README_MODEL}/predictions"


class Canary(HTTPServer):
    """A private server that nobody may be made to ask; counts who does."""

    asked = 0


@pytest.fixture
def canary() -> Iterator[Canary]:
    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            canary.asked += 1
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    canary = Canary(("127.0.0.1", 0), Answer)
    serving = threading.Thread(target=canary.serve_forever, args=(0.02,))
    serving.start()
    yield canary
    canary.shutdown()
    serving.join()
    canary.server_close()


def draw(proxy: ProxyProcess, **given: Any) -> httpx.Response:
    body = {"input": {"prompt": "a red fox", "seed": 1, **SMALL, **given}}
    return httpx.post(proxy.public_url + CREATE, json=body, headers={"Prefer": "wait"}, timeout=110, trust_env=False)


def address(answer: httpx.Response) -> str:
    return answer.headers["link"].partition("<")[2].partition(">")[0]


def test_earlier_output_and_its_bytes_give_the_same_picture(proxy: ProxyProcess) -> None:
    first = draw(proxy)
    url = address(first)
    data = "data:image/webp;base64," + base64.b64encode(httpx.get(url, trust_env=False).content).decode()
    by_url, by_data = draw(proxy, image=url), draw(proxy, image=data)
    assert by_url.json()["status"] == by_data.json()["status"] == "succeeded"
    assert by_url.json()["output"] == by_data.json()["output"] != first.json()["output"]
    assert "; hit" in by_data.headers["cache-status"]
    assert "; hit" in draw(proxy, image=data).headers["cache-status"]


PRIVATE = ("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0", "127.0.0.1.",
           "\uff11\uff12\uff17.0.0.1",
           "[::1]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fec0::1]",
           "[localhost]",
           "me@127.0.0.1", "good.test\\@127.0.0.1")  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_nobody_can_have_a_private_address_asked(proxy: ProxyProcess, canary: Canary, host: str) -> None:
    for scheme in ("http", "https"):
        answer = draw(proxy, image=f"{scheme}://{host}:{canary.server_port}/latest/meta-data/secret")
        assert (answer.status_code, answer.json()["status"]) == (422, 422)
        assert answer.json()["invalid_fields"][0]["field"] == "input.image"
    assert canary.asked == 0


@pytest.mark.parametrize("host", [host for host in PRIVATE if host != "localhost"])
def test_nobody_can_have_a_private_address_called(proxy: ProxyProcess, canary: Canary, host: str) -> None:
    """A name is judged by what it resolves to, once there is news."""
    for scheme in ("http", "https"):
        body = {"input": {"prompt": "x", **SMALL}, "webhook": f"{scheme}://{host}:{canary.server_port}/hook"}
        answer = httpx.post(proxy.public_url + CREATE, json=body, timeout=60, trust_env=False)
        assert (answer.status_code, answer.json()["status"]) == (422, 422)
        assert answer.json()["invalid_fields"][0]["field"] == "webhook"
    assert canary.asked == 0


def test_origin_that_the_operator_named_may_be_asked(tmp_path: Any, canary: Canary) -> None:
    origin = f"http://127.0.0.1:{canary.server_port}"
    with running_proxy(tmp_path / "data", local_config(input_origins=[origin])) as proxy:
        draw(proxy, image=f"{origin}/cat.png")
    assert canary.asked == 1
