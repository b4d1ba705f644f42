"""What a hostile client must not get out of a whole proxy: another's answer, a second request, more than its share."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from loadtests.fake_model.process import ALICE, BOB, FakeModel, fake_model
from tests.flows.harness import WORKERS, ProxyProcess, running_proxy

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

CREATE = "/v1/models/acme/pixel/predictions"
EVIL = "evil.test"
LIMITS = """
[limits]
max_connections = 12
head_timeout_s = 0.5
body_timeout_s = 1.0
max_waiters = 3
max_runs_per_caller = 3
new_runs_per_minute_per_caller = 8
"""


@dataclass
class Pair:
    """A proxy and the API behind it."""

    api: FakeModel
    proxy: ProxyProcess

    def ask(self, method: str, path: str, token: str | None = ALICE, **more: Any) -> httpx.Response:
        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers.setdefault("Authorization", f"Bearer {token}")
        return httpx.request(method, self.proxy.public_url + path, headers=headers, timeout=30, trust_env=False, **more)

    def create(self, prompt: str, token: str = ALICE, **headers: str) -> httpx.Response:
        document = {"input": {"prompt": prompt, "seed": 1}}
        return self.ask("POST", CREATE, token, json=document, headers={"Prefer": "wait", **headers})

    def raw(self, payload: bytes) -> bytes:
        """Everything that is answered to bytes on one connection."""
        parts = urlsplit(self.proxy.public_url)
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
            connection.sendall(payload)
            received = b""
            while data := connection.recv(65536):
                received += data
        return received


def _pair(tmp_path_factory: pytest.TempPathFactory, more: str) -> Iterator[Pair]:
    with fake_model() as api:
        config = (
            f'[[upstream]]\nkind = "replicate"\nname = "replicate"\nbase_url = "{api.base_url}"\n'
            f'output_origins = ["{api.delivery_origin}"]\n[cache]\noutput_urls = "url"\n{more}'
        )
        with running_proxy(tmp_path_factory.mktemp("hostile") / "data", config) as proxy:
            yield Pair(api, proxy)


@pytest.fixture(scope="module")
def open_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from _pair(tmp_path_factory, "")


@pytest.fixture(scope="module")
def tight_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from _pair(tmp_path_factory, LIMITS)


@pytest.fixture
def pair(open_pair: Pair) -> Pair:
    open_pair.api.reset()
    return open_pair


@pytest.fixture
def tight(tight_pair: Pair) -> Iterator[Pair]:
    tight_pair.api.reset()
    yield tight_pair
    tight_pair.api.reset()


# -- poisoning and deception ---------------------------------------------------------------------------

UNKEYED = {
    "X-Forwarded-Host": EVIL,
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Server": EVIL,
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": f"host={EVIL};proto=gopher",
    "X-Host": EVIL,
    "X-Original-URL": f"/v1/{EVIL}",
    "X-Rewrite-URL": f"/v1/{EVIL}",
    "X-HTTP-Method-Override": "DELETE",
    "Origin": f"https://{EVIL}",
    "Referer": f"https://{EVIL}/",
    "Accept-Language": EVIL,
    "Cookie": f"host={EVIL}",
    "Host": EVIL,
}


@pytest.mark.parametrize("name", UNKEYED)
def test_header_that_is_not_in_the_key_changes_no_answer(pair: Pair, name: str) -> None:
    poisoned = pair.create(f"poisoned by {name}", **{name: UNKEYED[name]})
    assert poisoned.json()["status"] == "succeeded"
    clean = pair.create(f"poisoned by {name}")
    assert clean.headers["cache-status"].startswith("Hotplate; hit")
    for answer in (poisoned, clean):
        assert EVIL not in answer.text.replace(f"poisoned by {name}", "")
        assert EVIL not in str(answer.headers)
        assert answer.json()["urls"]["get"].startswith(pair.proxy.public_url)
    assert pair.api.counters()["deletes"] == pair.api.counters()["cookies"] == 0


def test_query_string_of_a_create_is_neither_keyed_nor_passed_on(pair: Pair) -> None:
    document = {"input": {"prompt": "queried", "seed": 1}}
    first = pair.ask("POST", f"{CREATE}?callback={EVIL}&_method=DELETE", json=document, headers={"Prefer": "wait"})
    second = pair.create("queried")
    assert first.json()["status"] == "succeeded"
    assert second.headers["cache-status"].startswith("Hotplate; hit")
    assert EVIL not in first.text + second.text
    assert pair.api.counters()["creates"] == 1


SUFFIXES = (".css", "/x.css", ";x.css", "%3bx.css", "%23x.css", "%3fx.css", "%00.css", "%0a.css", "%2fx.css",
            "/..%2fx.css",
            "%20.js", "/%2e%2e/x.png")  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_private_answer_is_never_given_under_a_name_that_looks_public(pair: Pair, suffix: str) -> None:
    made = pair.create("deceived")
    for path in (f"/v1/predictions/{made.json()['id']}", "/v1/predictions", "/v1/account", "/v1/models/acme/pixel"):
        answer = pair.ask("GET", path + suffix)
        assert answer.status_code == 404, path + suffix
        assert "no-store" in answer.headers["cache-control"]
        assert made.json()["id"] not in answer.text


def test_every_answer_of_the_api_is_kept_from_shared_caches(pair: Pair) -> None:
    made = pair.create("private")
    asked = [
        ("GET", f"/v1/predictions/{made.json()['id']}"),
        ("GET", f"/v1/predictions/{made.json()['id']}?x.css"),
        ("POST", f"/v1/predictions/{made.json()['id']}/cancel"),
        ("GET", "/v1/predictions"),
        ("GET", "/v1/account"),
        ("GET", "/v1/models"),
        ("GET", "/v1/files"),
        ("GET", "/v1/hardware"),
        ("GET", "/v1/no/such/path"),
        ("DELETE", CREATE),
        ("POST", "/v1/files"),
    ]
    answers = [made, pair.create("private"), pair.create("private", "r8_" + "n" * 37)]
    answers += [pair.ask(method, path) for method, path in asked]
    answers += [pair.ask(method, path, None) for method, path in asked]
    for answer in answers:
        assert "no-store" in answer.headers["cache-control"], answer.request.url
        assert "public" not in answer.headers["cache-control"], answer.request.url


# -- smuggling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 6\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 6",
        b"Content-Length: 6\r\nContent-Length: 0",
        b"Content-Length: 6\r\nContent-Length: 6",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\x0bchunked",
        b"Content-Length: +6",
        b"Content-Length: 6,6",
        b"Host: other.test",
    ],
)
def test_request_with_two_meanings_is_refused_and_what_follows_is_not_read(pair: Pair, framing: bytes) -> None:
    host = urlsplit(pair.proxy.public_url).netloc.encode()
    inner = b"DELETE /v1/models/acme/pixel HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer %b\r\n\r\n" % (
        host, ALICE.encode(),
    )  # fmt: skip
    outer = b"POST %b HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer %b\r\nConnection: close\r\n" % (
        CREATE.encode(), host, BOB.encode(),
    )  # fmt: skip
    answered = pair.raw(outer + framing + b"\r\n\r\n0\r\n\r\n" + inner)
    assert answered.startswith(b"HTTP/1.1 400 ")
    assert answered.count(b"HTTP/1.1 ") == 1
    assert pair.api.counters()["deletes"] == pair.api.counters()["creates"] == 0


# -- what one caller may take --------------------------------------------------------------------------


def test_caller_beyond_its_bounds_is_told_so_in_the_api_s_words_and_hits_go_on(tight: Pair) -> None:
    first = tight.create("bounded 0")
    tight.api.hold()
    with ThreadPoolExecutor(3) as pool:
        busy = [pool.submit(tight.create, f"bounded {number}", ALICE, Prefer="wait=20") for number in (1, 2, 3)]
        due_at = time.monotonic() + 10
        while tight.api.counters()["creates"] < 4 and time.monotonic() < due_at:
            time.sleep(0.02)
        refused = tight.create("bounded 4")
        extra = tight.ask("POST", CREATE, json={"input": {"prompt": "x"}, "webhook_completed": "https://a.test/"})
        shared = tight.create("bounded 1", Prefer="wait=1")
        hit = tight.create("bounded 0")
        tight.api.release()
        ended = [one.result().json() for one in busy]
    assert first.json()["status"] == "succeeded"
    for answer in (refused, extra):
        assert (answer.status_code, answer.json()["status"], answer.headers["retry-after"]) == (429, 429, "1")
        assert answer.json()["title"]
        assert "3 of your predictions" in answer.json()["detail"]
    assert shared.status_code == 202
    assert hit.headers["cache-status"].startswith("Hotplate; hit")
    assert [one["status"] for one in ended] == ["succeeded"] * 3
    made = [tight.create(f"by the minute {number}") for number in range(6)]
    throttled = [answer for answer in made if answer.status_code == 429]
    assert 1 <= len(throttled) <= 2
    assert 1 <= int(throttled[-1].headers["retry-after"]) <= 8
    assert "Request was throttled" in throttled[-1].json()["detail"]
    assert tight.create("by the minute 0", BOB).json()["status"] == "succeeded"
    assert tight.api.counters()["creates"] == 3 + 6 - len(throttled) + 1 + 1


def test_upstream_s_own_429_passes_word_for_word(pair: Pair) -> None:
    pair.api.fault("throttle", "create", retry_after_s=17)
    refused = pair.create("throttled there")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "17")
    assert refused.json()["status"] == 429
    assert pair.create("throttled there").json()["status"] == "succeeded"


def test_waiters_beyond_their_places_are_answered_starting_at_once(tight: Pair) -> None:
    tight.api.hold()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(tight.create, "one for all", BOB, Prefer="wait=5") for _ in range(3)]
        time.sleep(0.7)
        began = time.monotonic()
        shed = [tight.create("one for all", BOB, Prefer="wait=30") for _ in range(5)]
        assert time.monotonic() - began < 4
        tight.api.release()
        ended = [one.result() for one in waiting]
    for answer in shed:
        assert (answer.status_code, answer.json()["status"]) == (202, "starting")
    assert all(answer.json()["status"] == "succeeded" for answer in ended)
    due_at = time.monotonic() + 10
    while any(
        tight.ask("GET", urlsplit(one.json()["urls"]["get"]).path, BOB).json()["status"] != "succeeded" for one in shed
    ):
        assert time.monotonic() < due_at
        time.sleep(0.05)
    assert tight.api.counters()["creates"] == 1


# -- connections and time ------------------------------------------------------------------------------


def test_slow_clients_are_ended_by_the_limits_of_the_settings(tight: Pair) -> None:
    began = time.monotonic()
    assert b" 408 " in tight.raw(b"GET /v1/account HTTP/1.1\r\nHost: h\r\n")
    assert time.monotonic() - began < 4
    began = time.monotonic()
    host = urlsplit(tight.proxy.public_url).netloc.encode()
    head = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Length: 50\r\n\r\n{" % (CREATE.encode(), host)
    assert b" 408 " in tight.raw(head)
    assert time.monotonic() - began < 5


def test_connections_beyond_the_limit_are_turned_away_and_the_operator_is_not(tight: Pair) -> None:
    parts = urlsplit(tight.proxy.public_url)
    host = parts.netloc.encode()
    with ExitStack() as stack:
        held, due_at = 0, time.monotonic() + 10
        listening = int(
            WORKERS or 1
        )  # each process counts its own, and the kernel chooses which one takes a connection
        while held < 12 * listening:
            assert time.monotonic() < due_at
            connection = stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=10))
            connection.sendall(b"GET /v1/nowhere HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
            try:
                # Connections of earlier tests may count until the proxy has seen their end.
                held += connection.recv(65536).startswith(b"HTTP/1.1 4")
            except ConnectionResetError:
                continue
        one_more = stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=10))
        answered = one_more.recv(65536)
        assert answered.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answered
        assert httpx.get(f"{tight.proxy.admin_url}/livez", trust_env=False).status_code == 200
    due_at = time.monotonic() + 10
    while tight.ask("GET", "/v1/account").status_code != 200:
        assert time.monotonic() < due_at
        time.sleep(0.05)


def test_nothing_of_all_this_was_an_error_of_the_proxy(open_pair: Pair, tight_pair: Pair) -> None:
    for pair in (open_pair, tight_pair):
        assert [line for line in pair.proxy.log() if line.get("level") in ("error", "critical")] == []
        assert Path(f"/proc/{pair.proxy.pid}").exists()
