from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message

from proxy.core.errors import NotFound
from proxy.logs import Note
from proxy.routes import passthrough as passthrough_module
from proxy.routes.exchange import Exchange
from proxy.routes.passthrough import Passthrough
from proxy.upstreams.base import Credential, RelayRequest, RelayResponse

pytestmark = pytest.mark.anyio

BASE = "https://images.example.com"
ROOT = "https://api.replicate.com/v1"
JSON = ("content-type", "application/json; charset=utf-8")
OWN = "hotplates-own-token"


class Api:
    """An upstream that answers what it is told and keeps what it was asked."""

    name = "replicate"
    api_roots = (ROOT,)
    has_accounts = True

    def __init__(self) -> None:
        self.answer: tuple[int, list[tuple[str, str]], list[bytes]] = (200, [JSON], [b"{}"])
        self.stream: AsyncIterator[bytes] | None = None
        self.asked: list[tuple[RelayRequest, bytes, Credential | None]] = []

    async def relay(self, request: RelayRequest, credential: Credential | None) -> RelayResponse:
        body = b"".join([chunk async for chunk in request.body]) if request.has_body else b""
        self.asked.append((request, body, credential))
        status, headers, chunks = self.answer
        return RelayResponse(status, headers, self.stream or _chunks(chunks))


async def _chunks(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


class Answered:
    def __init__(self, sent: list[Message]) -> None:
        self.status: int = sent[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        self.header_names = [name for name, _ in sent[0]["headers"]]
        self.parts: list[bytes] = [message["body"] for message in sent[1:]]
        self.body = b"".join(self.parts)


@pytest.fixture
def api() -> Api:
    return Api()


async def ask(
    api: Api,
    method: str = "GET",
    path: str = "/trainings",
    query: str = "",
    body: bytes = b"",
    leaves: asyncio.Event | None = None,
    **headers: str,
) -> Answered:
    leaving = leaves or asyncio.Event()
    sent: list[Message] = []
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if body:
        given["content-length"] = str(len(body))

    arriving = [body]

    async def receive() -> Message:
        if arriving:
            return {"type": "http.request", "body": arriving.pop(), "more_body": False}
        await leaving.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def home(credential: Credential | None) -> Any:
        return api

    services: Any = SimpleNamespace(
        base_url=BASE,
        catalog=SimpleNamespace(relay=lambda: api),
        home=home,
        gatekeeper=SimpleNamespace(is_own=lambda credential: credential.token == OWN),
    )
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "hotplate.note": Note(),
    }
    await Passthrough(services).handle(Exchange(scope, receive, send))
    return Answered(sent)


async def test_links_of_an_answer_point_here_and_its_length_is_right(api: Api) -> None:
    page = json.dumps({"next": f"{ROOT}/trainings?cursor=x", "results": []}).encode()
    api.answer = (200, [JSON, ("content-length", str(len(page))), ("ETag", '"of their bytes"')], [page[:7], page[7:]])
    answered = await ask(api)
    assert json.loads(answered.body) == {"next": f"{BASE}/v1/trainings?cursor=x", "results": []}
    assert answered.headers["content-length"] == str(len(answered.body))
    assert "etag" not in answered.headers
    assert answered.headers["cache-control"] == "private, no-store"


async def test_answer_without_links_passes_with_every_byte_and_header(api: Api) -> None:
    body = b'{ "n" : 1.00, "big":123456789012345678901234567890 }\n'
    api.answer = (201, [JSON, ("content-length", str(len(body))), ("etag", '"x"'), ("ratelimit-reset", "1")], [body])
    answered = await ask(api)
    assert (answered.status, answered.body) == (201, body)
    assert answered.headers["etag"] == '"x"'
    assert answered.headers["ratelimit-reset"] == "1"
    assert answered.header_names.count(b"content-length") == 1


async def test_what_is_not_json_or_too_large_streams_as_it_comes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    link = f'{{"next":"{ROOT}/x","pad":"'.encode()
    api.answer = (200, [("content-type", "text/event-stream")], [link, b"b"])
    assert (await ask(api)).parts == [link, b"b", b""]
    monkeypatch.setattr(passthrough_module, "MAX_ANSWER_BYTES", 10)
    api.answer = (200, [JSON], [b"12345", link, b"b"])
    assert (await ask(api)).parts == [b"12345" + link, b"b", b""]


async def test_endless_answer_ends_when_its_client_leaves(api: Api) -> None:
    """It was read on for nobody: sending to a client that has left raises nothing."""
    leaves, has_ended = asyncio.Event(), False

    async def endless() -> AsyncIterator[bytes]:
        nonlocal has_ended
        try:
            while True:
                yield b": still here\n\n"
                leaves.set()
                await asyncio.sleep(0.001)
        finally:
            has_ended = True

    api.stream = endless()
    api.answer = (200, [("content-type", "text/event-stream")], [])
    async with asyncio.timeout(5):
        assert (await ask(api, leaves=leaves)).status == 200
    assert has_ended


async def test_large_answer_is_rewritten_too(api: Api) -> None:
    page = {"previous": f"{ROOT}/models?cursor=x", "pad": ["x" * 100] * 5000}
    api.answer = (200, [JSON], [json.dumps(page).encode()])
    assert json.loads((await ask(api)).body) == {**page, "previous": f"{BASE}/v1/models?cursor=x"}


async def test_location_points_here_and_foreign_ones_stay(api: Api) -> None:
    for given, seen in ((f"{ROOT}/models/a/b", f"{BASE}/v1/models/a/b"), ("https://else.org/", "https://else.org/")):
        api.answer = (201, [JSON, ("Location", given)], [b"{}"])
        assert (await ask(api)).headers["location"] == seen


async def test_request_goes_on_byte_for_byte(api: Api) -> None:
    body = b'{ "a" : 1.0e+02, "b":"\\u00e9" }'
    await ask(api, "PATCH", "/models/a/b%2Fc", "q=%2B+1&&x", body, content_type="application/json")
    (request, sent, _) = api.asked[0]
    assert (request.method, request.path, request.query, sent) == ("PATCH", "/models/a/b%2Fc", "q=%2B+1&&x", body)


async def test_what_connection_names_was_meant_for_us_alone_and_never_the_credential(api: Api) -> None:
    credential = {"authorization": "Bearer r8_" + "m" * 37}
    await ask(
        api, connection="Prefer, authorization,close", prefer="wait", accept="text/plain", te="gzip", **credential
    )
    request, _, asked_by = api.asked[0]
    assert dict(request.headers) == {"accept": "text/plain"}
    assert asked_by == Credential("r8_" + "m" * 37)


async def test_compressed_body_goes_on_as_such(api: Api) -> None:
    """Without the header its reader would take the packed bytes for JSON."""
    body = gzip.compress(json.dumps({"input": f"{BASE}/v1/files/abc"}).encode())
    await ask(api, "POST", body=body, content_type="application/json", content_encoding="gzip")
    (request, sent, _) = api.asked[0]
    assert sent == body
    assert ("content-encoding", "gzip") in request.headers


async def test_own_file_address_in_a_json_request_becomes_the_upstreams(api: Api) -> None:
    body = json.dumps({"input": {"input_images": f"{BASE}/v1/files/abc"}}).encode()
    await ask(api, "POST", body=body, content_type="application/json")
    await ask(api, "QUERY", body=body, content_type="text/plain")
    assert json.loads(api.asked[0][1]) == {"input": {"input_images": f"{ROOT}/files/abc"}}
    assert api.asked[1][1] == body


async def test_large_request_body_passes_as_it_is(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough_module, "MAX_REQUEST_BYTES", 10)
    body = json.dumps({"input": f"{BASE}/v1/files/abc"}).encode()
    await ask(api, "POST", body=body, content_type="application/json")
    assert api.asked[0][1] == body


async def test_own_token_is_told_to_nobody(api: Api) -> None:
    with pytest.raises(NotFound):
        await ask(api, authorization=f"Bearer {OWN}")
    assert api.asked == []
    await ask(api, authorization="Token r8_theirs")
    assert api.asked[0][2] == Credential("r8_theirs")
    assert "authorization" not in dict(api.asked[0][0].headers)
