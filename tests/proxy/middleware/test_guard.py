from __future__ import annotations

from typing import Any

import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from proxy.logs import Note
from proxy.middleware.guard import LOOPBACK_NAMES, Guard

pytestmark = pytest.mark.anyio

OWN = {*LOOPBACK_NAMES, "images.example.com"}


async def ask(
    path: str = "/v1/predictions",
    *,
    only_names: set[str] | None = OWN,
    headers: list[tuple[str, str]] | None = None,
    host: str | None = "localhost:8484",
    raw_path: str | None = None,
    method: str = "GET",
    version: str = "1.1",
) -> tuple[Scope | None, int | None, Any]:
    """What the application behind the guard was asked, or the status and document of the guard's own answer."""
    passed: list[Scope] = []
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope)

    async def receive() -> Message:
        raise AssertionError("the guard reads no body")

    async def send(message: Message) -> None:
        sent.append(message)

    given = [*([("host", host)] if host is not None else []), *(headers or [])]
    scope = {
        "type": "http",
        "method": method,
        "http_version": version,
        "path": path,
        "raw_path": (raw_path or path).encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given],
        "hotplate.note": Note(),
    }
    await Guard(app, only_names=only_names)(scope, receive, send)
    if passed:
        assert sent == []
        return passed[0], None, None
    return None, sent[0]["status"], orjson.loads(sent[1]["body"])


# -- whose page asks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8484", "LOCALHOST:8484", "127.0.0.1:1", "[::1]:8484", "[::1]", "images.example.com"],
)
async def test_our_own_names_may_be_asked(host: str) -> None:
    scope, _, _ = await ask(host=host)
    assert scope is not None


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:8484",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example@evil.example",
        "localhost@evil.example",
        "0.0.0.0",
        "10.0.0.1",
        "127.0.0.2",
        "[::1",
        "[::ffff:7f00:1]",
        "none",
        "images.example.com.",
        "\u00e9",
    ],
)
async def test_foreign_name_is_refused_so_that_rebinding_a_name_to_us_gains_nothing(host: str | None) -> None:
    _, status, document = await ask(version="1.0", host=host)
    assert status == 403
    assert document["title"] == "Forbidden"


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://images.example.com", "http://[::1]:8484"])
async def test_page_of_our_own_may_ask(origin: str) -> None:
    scope, _, _ = await ask(headers=[("origin", origin)], method="POST")
    assert scope is not None


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", "file://", "http://localhost.evil.example", "localhost", "http://["]
)
async def test_page_of_another_site_is_refused(origin: str) -> None:
    _, status, _ = await ask(headers=[("origin", origin)], method="POST")
    assert status == 403


async def test_outputs_may_be_shown_by_any_page_and_under_any_name() -> None:
    scope, _, _ = await ask("/outputs/a/b/c.png", host="evil.example", headers=[("origin", "https://evil.example")])
    assert scope is not None


@pytest.mark.parametrize("path", ["/outputs", "/outputsx/a", "/v1/predictions", "/x/outputs/a/b/c"])
async def test_nothing_else_is_shown_to_any_page(path: str) -> None:
    _, status, _ = await ask(path, host="evil.example")
    assert status == 403


async def test_where_credentials_tell_callers_apart_every_name_may_be_asked() -> None:
    scope, _, _ = await ask(only_names=None, host="anything.example", headers=[("origin", "https://app.example")])
    assert scope is not None


# -- framing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [("content-length", "5"), ("content-length", "6")],
        [("content-length", "5"), ("content-length", "5")],
        [("content-length", "5"), ("transfer-encoding", "chunked")],
        [("transfer-encoding", "chunked"), ("transfer-encoding", "identity")],
    ],
)
@pytest.mark.parametrize("path", ["/v1/predictions", "/outputs/a/b/c.png"])
async def test_body_with_two_lengths_is_refused(headers: list[tuple[str, str]], path: str) -> None:
    for only_names in (OWN, None):
        _, status, _ = await ask(path, headers=headers, only_names=only_names)
        assert status == 400


@pytest.mark.parametrize("header", [("content-length", "5"), ("transfer-encoding", "chunked")])
async def test_body_with_one_length_passes(header: tuple[str, str]) -> None:
    scope, _, _ = await ask(headers=[header])
    assert scope is not None


@pytest.mark.parametrize("headers", [[("host", "localhost")], [("host", "images.example.com")], [("host", "")]])
async def test_request_with_two_hosts_is_refused(headers: list[tuple[str, str]]) -> None:
    for only_names in (OWN, None):
        _, status, _ = await ask(headers=headers, only_names=only_names)
        assert status == 400


@pytest.mark.parametrize(("version", "status"), [("1.1", 400), ("1.0", None)])
async def test_request_without_a_host_is_refused_where_http_asks_for_one(version: str, status: int | None) -> None:
    _, answered, _ = await ask(host=None, only_names=None, version=version)
    assert answered == status


@pytest.mark.parametrize("mark", ["\n", "\r\n", "\x00", "\t", "\x1f", "\x7f"])
@pytest.mark.parametrize("path", ["/v1/predictions{}", "/v1/predictions/abc{}.css", "/outputs/a/b/c{}", "/{}"])
async def test_path_with_a_control_character_is_not_found(path: str, mark: str) -> None:
    for only_names in (OWN, None):
        _, status, _ = await ask(path.format(mark), only_names=only_names)
        assert status == 404


async def test_path_beyond_ascii_is_the_routers_business() -> None:
    scope, _, _ = await ask("/v1/models/\u00e9\u2028/x", raw_path="/v1/models/%C3%A9%E2%80%A8/x")
    assert scope is not None


# -- spellings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "routed"),
    [
        ("/predictions", "/predictions"),
        ("/v1/predictions", "/predictions"),
        ("/v1/v1/predictions", "/predictions"),
        ("/v1/v1/v1/predictions", "/predictions"),
        ("/v1/models/v1/v1/predictions", "/models/v1/v1/predictions"),
        ("/v1/", "/"),
        ("/v1", "/v1"),
        ("/v10/predictions", "/v10/predictions"),
        ("/V1/predictions", "/V1/predictions"),
        ("/", "/"),
        ("/v1/outputs/a/b/c", "/outputs/a/b/c"),
    ],
)
async def test_every_spelling_of_the_root_is_one(path: str, routed: str) -> None:
    scope, _, _ = await ask(path)
    assert scope is not None
    assert scope["path"] == routed
    assert scope["raw_path"] == routed.encode()


async def test_path_goes_on_as_it_was_spelled() -> None:
    scope, _, _ = await ask("/v1/collections/a b", raw_path="/v1/collections/a%20b")
    assert scope is not None
    assert scope["raw_path"] == b"/collections/a%20b"


async def test_guard_leaves_the_scope_that_it_was_given_alone() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["touched"] = True

    async def nothing(*_: object) -> Any:
        raise AssertionError

    scope = {"type": "http", "method": "GET", "path": "/v1/x", "headers": [(b"host", b"localhost")]}
    await Guard(app, only_names=OWN)(scope, nothing, nothing)
    assert scope == {"type": "http", "method": "GET", "path": "/v1/x", "headers": [(b"host", b"localhost")]}


async def test_lifespan_is_not_the_guards_business() -> None:
    asked = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["type"])

    async def nothing(*_: object) -> Any:
        raise AssertionError

    await Guard(app, only_names=OWN)({"type": "lifespan"}, nothing, nothing)
    assert asked == ["lifespan"]
