"""One line for each request, and nothing in any line that opens or tells what somebody asked for."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from loadtests.fake_model.process import ALICE, FakeModel, fake_model
from proxy.logs import RequestLog
from proxy.metrics import Metrics
from proxy.middleware.access_log import AccessLog
from tests.flows.harness import SMALL, ProxyProcess, local_config, running_proxy

FIELDS = ["event", "id", "method", "status", "outcome", "upstream", "key", "error", "seconds", "bytes"]
STAMPS = ["level", "timestamp"]


class Lines:
    """A log whose lines can be read once it is closed."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.log = RequestLog(self._stream)

    def read(self) -> list[dict[str, Any]]:
        self.log.close()
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]


async def call(app: AccessLog, scope: Scope) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def http_scope(method: str = "POST") -> Scope:
    return {"type": "http", "method": method, "path": "/v1/predictions", "headers": []}


@pytest.mark.anyio
async def test_line_says_what_the_handler_noted_and_what_was_sent() -> None:
    lines = Lines()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        note = scope["hotplate.note"]
        note.outcome, note.upstream, note.key, note.error = "hit", "demo", "0123456789abcdef", "overloaded"
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        await send({"type": "http.response.body", "body": b"678"})

    sent = await call(AccessLog(app, None, lines.log), http_scope())
    (line,) = lines.read()
    assert list(line) == FIELDS + STAMPS
    assert {name: line[name] for name in FIELDS if name not in ("id", "seconds")} == {
        "event": "request",
        "method": "POST",
        "status": 201,
        "outcome": "hit",
        "upstream": "demo",
        "key": "0123456789abcdef",
        "error": "overloaded",
        "bytes": 8,
    }
    assert 0 <= line["seconds"] < 60
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")
    assert sent[0]["headers"] == [(b"x-request-id", line["id"].encode())]


@pytest.mark.anyio
async def test_request_that_another_process_answers_is_named_counted_and_logged_there_alone() -> None:
    lines, metrics = Lines(), Metrics(("replicate",))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["hotplate.note"].is_passed_on = True
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"theirs")]})
        await send({"type": "http.response.body", "body": b""})

    sent = await call(AccessLog(app, metrics, lines.log), http_scope())
    assert sent[0]["headers"] == [(b"x-request-id", b"theirs")]
    assert lines.read() == []
    assert metrics.registry.get_sample_value("hotplate_requests_total", {"outcome": "other"}) == 0


@pytest.mark.anyio
async def test_every_request_has_an_id_of_its_own() -> None:
    lines = Lines()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    log = AccessLog(app, None, lines.log)
    for _ in range(5):
        await call(log, http_scope("GET"))
    assert len({line["id"] for line in lines.read()}) == 5


@pytest.mark.anyio
async def test_request_whose_handler_breaks_has_its_line() -> None:
    lines = Lines()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await call(AccessLog(app, None, lines.log), http_scope())
    (line,) = lines.read()
    assert (line["status"], line["outcome"], line["bytes"]) == (0, "other", 0)


@pytest.mark.anyio
async def test_what_is_no_request_has_no_line() -> None:
    lines = Lines()
    passed: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope)

    await call(AccessLog(app, None, lines.log), {"type": "lifespan"})
    assert passed == [{"type": "lifespan"}]
    assert lines.read() == []


@pytest.mark.anyio
async def test_public_requests_are_counted_and_the_admin_s_are_not() -> None:
    lines = Lines()
    metrics = Metrics(("demo",))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        note = scope["hotplate.note"]
        note.outcome, note.error, note.saved_s = "hit", "overloaded", 2.5
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    for counted in (metrics, None):
        await call(AccessLog(app, counted, lines.log), http_scope())
    assert len(lines.read()) == 2
    value = metrics.registry.get_sample_value
    assert value("hotplate_requests_total", {"outcome": "hit"}) == 1
    assert value("hotplate_saved_seconds_total") == 2.5


# -- the whole proxy -----------------------------------------------------------------------------------

OWN_TOKEN = "own-token-that-nobody-may-read"
WRONG_TOKEN = "r8_wrong-token-that-nobody-may-read"
PROMPT = "a-prompt-that-nobody-may-read"
LOCAL = "/v1/models/hotplate/demo/predictions"
REMOTE = "/v1/models/acme/pixel/predictions"
TOKENS = {"own": OWN_TOKEN, "account": ALICE, "wrong": WRONG_TOKEN}


@dataclass
class Pair:
    """A proxy with a model of its own, and the API behind it."""

    api: FakeModel
    proxy: ProxyProcess

    def ask(self, method: str, path: str, token: str | None, document: object = None, **more: Any) -> httpx.Response:
        headers = {"Prefer": "wait", **({"Authorization": f"Bearer {token}"} if token is not None else {})}
        url = path if path.startswith("http") else self.proxy.public_url + path
        headers |= more.pop("headers", {})
        return httpx.request(method, url, json=document, headers=headers, timeout=60, trust_env=False, **more)

    def lines_of(self, ids: set[str]) -> list[dict[str, Any]]:
        """The lines of these requests, once they are all there; lines are written behind."""
        deadline = time.monotonic() + 10
        while True:
            lines = [line for line in self.proxy.log() if line.get("id") in ids]
            if len(lines) >= len(ids) or time.monotonic() > deadline:
                return lines
            time.sleep(0.05)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with fake_model() as api:
        config = local_config(models=["hotplate/demo"], environment={"HOTPLATE_DEMO_FAULTS": "1"}) + (
            f'[[upstream]]\nkind = "replicate"\nname = "replicate"\nbase_url = "{api.base_url}"\n'
            f'output_origins = ["{api.delivery_origin}"]\n'
            f'[cache]\noutput_urls = "url"\n[auth]\ntokens = ["{OWN_TOKEN}"]\n[log]\nlevel = "debug"\n'
        )
        with running_proxy(tmp_path_factory.mktemp("log") / "data", config) as proxy:
            yield Pair(api, proxy)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_log_of_a_whole_proxy_tells_neither_token_nor_prompt_nor_address(pair: Pair) -> None:
    answers: list[tuple[str, httpx.Response]] = []

    def ask(outcome: str, method: str, path: str, token: str | None, document: object = None, **more: Any) -> Any:
        answer = pair.ask(method, path, token, document, **more)
        answers.append((outcome, answer))
        return answer

    def given(prompt: str = PROMPT, **more: object) -> dict[str, Any]:
        return {"input": {"prompt": prompt, "seed": 1, **SMALL, **more}}

    # Misses and hits, of both kinds of upstream, and their files.
    predictions = []
    for path, token in ((LOCAL, OWN_TOKEN), (REMOTE, ALICE)):
        made = ask("miss", "POST", path, token, given()).json()
        ask("hit", "POST", path, token, given())
        assert made["status"] == "succeeded"
        ask("own", "GET", f"/v1/predictions/{made['id']}", token)
        ask("output", "GET", made["output"][0] if isinstance(made["output"], list) else made["output"], token)
        predictions.append(made)
    # Bypassed, relayed.
    ask("bypass", "POST", REMOTE, ALICE, {**given(), "novelty": f"https://example.com/{PROMPT}"})
    ask("bypass", "POST", REMOTE, ALICE, given(image=f"https://example.com/{PROMPT}.png"))
    ask("relay", "GET", f"/v1/hardware?q={PROMPT}", ALICE)
    ask("relay", "POST", f"/v1/nothing/{PROMPT}", ALICE, given())
    # Refused: by the proxy, by the model's schema, by the API.
    for path in (LOCAL, REMOTE):
        for token in (None, WRONG_TOKEN):
            assert ask("other", "POST", path, token, given()).status_code == 401
    assert ask("other", "POST", LOCAL, OWN_TOKEN, given(width=PROMPT)).status_code == 422
    ask("other", "POST", REMOTE, ALICE, given(width=0))
    ask("other", "POST", LOCAL, OWN_TOKEN, [PROMPT])
    ask("other", "POST", LOCAL, OWN_TOKEN, None, headers={"Authorization": f"Basic {OWN_TOKEN}"})
    ask("output", "GET", f"/outputs/{'0' * 64}/{'0' * 32}/{PROMPT}.png", ALICE)
    # Broken: the model, the API in three ways, its files.
    failed = ask("miss", "POST", LOCAL, OWN_TOKEN, given("fault:raise", negative_prompt=PROMPT)).json()
    assert failed["status"] == "failed"
    crashed = ask("miss", "POST", LOCAL, OWN_TOKEN, given("fault:crash", negative_prompt=PROMPT)).json()
    assert crashed["status"] == "failed"
    for number, kind in enumerate(("drop-fin", "drop-rst", "malformed", "throttle")):
        pair.api.fault(kind, on="create")
        assert ask("other", "POST", REMOTE, ALICE, given(f"{PROMPT}-{number}")).is_error
    for kind in ("truncated", "encoded", "close-delimited"):
        pair.api.fault(kind, on="output", times=2)
        ask("miss", "POST", REMOTE, ALICE, given(f"{PROMPT}-{kind}"))
        pair.api.reset()
    ids = {answer.headers["x-request-id"] for _, answer in answers}
    assert len(ids) == len(answers)
    lines = pair.lines_of(ids)
    assert len(lines) == len(ids), "one line for each request, and no second one"

    by_id = {line["id"]: line for line in lines}
    for outcome, answer in answers:
        line = by_id[answer.headers["x-request-id"]]
        assert list(line) == FIELDS + STAMPS
        assert line["status"] == answer.status_code
        assert line["method"] == answer.request.method
        if outcome == "miss":
            assert line["outcome"] in ("cold_miss", "warm_miss")
        elif outcome != "other":
            assert line["outcome"] == outcome
        if outcome == "hit":
            assert len(line["key"]) == 16
        if answer.is_error and outcome not in ("relay", "output"):
            assert line["error"], line

    assert pair.proxy.stop() == 0
    text = pair.proxy.log_file.read_text(encoding="utf-8")
    lowered = text.lower()
    for name, secret in {
        **TOKENS,
        "prompt": PROMPT,
        "address": "/outputs/",
        "delivery": pair.api.delivery_origin,
        "prediction": predictions[0]["id"],
    }.items():
        found = [line for line in lowered.splitlines() if secret.lower() in line]
        assert found == [], f"{name} is in the log"
    assert "Traceback" not in text
    assert Path(pair.proxy.log_file).stat().st_size > 0
