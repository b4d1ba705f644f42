from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
import structlog
from starlette.types import Message

from proxy.core import errors
from proxy.core.errors import (
    BodyTooLarge,
    HotplateError,
    InputInvalid,
    InvalidField,
    NotFound,
    Overloaded,
    Unauthenticated,
    UnsupportedMedia,
    UpstreamRefused,
)
from proxy.logs import Note
from proxy.routes.exchange import SMALL_BODY_BYTES, ClientGone, Endpoint, Exchange, Room

pytestmark = pytest.mark.anyio

TOKEN = "r8_" + "m" * 37


class Call:
    """One request to an ``Endpoint`` or a handler, and what was answered."""

    def __init__(
        self, method: str = "POST", chunks: Sequence[bytes] = (b"",), is_cut: bool = False, **headers: str
    ) -> None:
        self.sent: list[Message] = []
        self.note = Note()
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": "/predictions",
            "path_params": {},
            "headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()],
            "hotplate.note": self.note,
        }
        self._messages: list[Message] = [
            {"type": "http.request", "body": chunk, "more_body": is_cut or place < len(chunks) - 1}
            for place, chunk in enumerate(chunks)
        ]
        self.received = 0

    async def receive(self) -> Message:
        self.received += 1
        return self._messages.pop(0) if self._messages else {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def exchange(self) -> Exchange:
        return Exchange(self.scope, self.receive, self.send)

    async def to(self, endpoint: Endpoint) -> Call:
        await endpoint(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        pairs = [(name.decode(), value.decode()) for name, value in self.sent[0]["headers"]]
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def document(self) -> Any:
        return orjson.loads(self.body)


def failing(error: Exception) -> Endpoint:
    async def handle(exchange: Exchange) -> None:
        raise error

    return Endpoint({"POST": handle})


# -- reading -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [[b""], [b"abc"], [b"a", b"", b"bc"], [b"", b"abc", b""]])
async def test_body_is_put_together_from_its_pieces(chunks: list[bytes]) -> None:
    assert await Call(chunks=chunks).exchange.body(3) == b"".join(chunks)


async def test_body_over_the_limit_is_refused_as_soon_as_that_is_seen() -> None:
    call = Call(chunks=[b"aa", b"bb", b"cc", b"dd"])
    with pytest.raises(BodyTooLarge, match="at most 3 bytes"):
        await call.exchange.body(3)
    assert call.received == 2


async def test_body_that_is_announced_too_long_is_refused_unread() -> None:
    call = Call(chunks=[b"aaaa"], content_length="4")
    with pytest.raises(BodyTooLarge):
        await call.exchange.body(3)
    assert call.received == 0


@pytest.mark.parametrize("announced", ["3", "0003", "", "-1", "many", "1e9"])
async def test_body_is_measured_itself_whatever_was_announced(announced: str) -> None:
    assert await Call(chunks=[b"abc"], content_length=announced).exchange.body(3) == b"abc"


def in_room(room: Room, call: Call) -> Exchange:
    call.scope["hotplate.room"] = room
    return call.exchange


async def test_large_body_needs_room_among_the_others_and_a_small_one_does_not() -> None:
    room = Room(3 * SMALL_BODY_BYTES)
    room.take(2 * SMALL_BODY_BYTES)  # of a body that is still arriving
    pieces = [bytes(SMALL_BODY_BYTES), b"x"]
    with pytest.raises(Overloaded) as refused:
        await in_room(room, Call(chunks=pieces)).body(10**6)
    assert refused.value.retry_after_s == 1.0
    assert await in_room(room, Call(chunks=pieces[:1])).body(10**6) == pieces[0]
    room.give_back(2 * SMALL_BODY_BYTES)
    assert await in_room(room, Call(chunks=pieces)).body(10**6) == b"".join(pieces)
    assert room.used_bytes == 0


@pytest.mark.parametrize(("is_cut", "max_bytes"), [(True, 10**6), (False, SMALL_BODY_BYTES + 2)])
async def test_room_is_given_back_by_whoever_leaves_or_sends_too_much(is_cut: bool, max_bytes: int) -> None:
    room = Room(10**6)
    with pytest.raises((ClientGone, BodyTooLarge)):
        await in_room(room, Call(chunks=[bytes(SMALL_BODY_BYTES + 1)] * 2, is_cut=is_cut)).body(max_bytes)
    assert room.used_bytes == 0


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip", "GZIP"])
async def test_compressed_body_is_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedMedia):
        await Call(content_encoding=encoding).exchange.body(3)


async def test_identity_is_no_compression() -> None:
    assert await Call(chunks=[b"abc"], content_encoding="Identity").exchange.body(3) == b"abc"


async def test_client_that_leaves_in_the_middle_of_its_body_is_gone() -> None:
    with pytest.raises(ClientGone):
        await Call(chunks=[b"abc"], is_cut=True).exchange.body(10)


async def test_credential_is_the_token_without_its_scheme() -> None:
    for scheme in ("Bearer", "Token"):
        credential = Call(authorization=f"{scheme} {TOKEN}").exchange.credential()
        assert credential is not None
        assert credential.token == TOKEN
    assert Call().exchange.credential() is None
    with pytest.raises(Unauthenticated):
        _ = Call(authorization="Basic abc").exchange.credential()


async def test_header_that_is_repeated_is_the_list_of_its_values() -> None:
    """Else ``Cache-Control: no-store`` on a line of its own is lost when another line follows (RFC 9110 5.3)."""
    call = Call()
    call.scope["headers"] = [(b"cache-control", b"no-store"), (b"cache-control", b"max-age=0")]
    assert call.exchange.headers["cache-control"] == "no-store, max-age=0"


async def test_length_in_superscript_digits_is_no_length() -> None:
    assert await Call(chunks=[b"abc"], content_length="\u00b2").exchange.body(3) == b"abc"


# -- answering -----------------------------------------------------------------------------------------


async def test_answer_has_its_length() -> None:
    call = Call()
    await call.exchange.respond(201, [(b"x-a", b"b")], b"words")
    assert call.status == 201
    assert call.headers == {"x-a": "b", "content-length": "5"}
    assert call.body == b"words"


async def test_head_is_answered_like_get_without_the_body() -> None:
    call = Call("HEAD")
    await call.exchange.respond(200, [], b"words")
    assert call.headers["content-length"] == "5"
    assert call.body == b""


async def test_json_is_kept_by_no_shared_cache() -> None:
    call = Call()
    await call.exchange.respond_json(200, {"a": [1]})
    assert call.headers["content-type"] == "application/json; charset=utf-8"
    assert call.headers["cache-control"] == "private, no-store"
    assert call.document == {"a": [1]}


# -- errors --------------------------------------------------------------------------------------------


def every_error() -> list[HotplateError]:
    """One of each class of the tree; a new one is walked through here by itself."""
    special: dict[type[HotplateError], Callable[[], HotplateError]] = {
        InputInvalid: lambda: InputInvalid([InvalidField("required", "input", "prompt is required")]),
        UpstreamRefused: lambda: UpstreamRefused(402, [("content-type", "application/json")], b"{}"),
    }
    pending, found = [HotplateError], []
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        found.append(special[kind]() if kind in special else kind("it went wrong"))
    return found


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
async def test_every_error_becomes_the_apis_problem_object(error: HotplateError) -> None:
    call = await Call().to(failing(error))
    assert call.status == error.status
    assert call.headers["cache-control"] == "private, no-store"
    assert call.headers["content-length"] == str(len(call.body))
    assert call.note.error == error.code
    if not isinstance(error, UpstreamRefused):
        assert call.headers["content-type"] == "application/problem+json"
        assert call.document.items() >= {"title": error.title, "detail": error.detail, "status": error.status}.items()


def test_every_error_of_the_tree_has_a_word_of_its_own_for_the_metrics() -> None:
    codes = [type(error).code for error in every_error()]
    assert len(set(codes)) == len(codes)
    drawn = errors.__doc__ or ""
    assert all(type(error).__name__ in drawn for error in every_error())


async def test_input_errors_say_every_complaint() -> None:
    call = await Call().to(
        failing(
            InputInvalid(
                [InvalidField("required", "input", "prompt is required"), InvalidField("enum", "input.a", "No")]
            )
        )
    )
    assert call.document["detail"] == "- input: prompt is required\n- input.a: No\n"
    assert call.document["invalid_fields"] == [
        {"type": "required", "field": "input", "description": "prompt is required"},
        {"type": "enum", "field": "input.a", "description": "No"},
    ]


async def test_upstreams_refusal_goes_on_verbatim_and_is_kept_by_no_shared_cache() -> None:
    body = b'{"title":"Insufficient credit", "detail":"Buy some"}'
    headers = [("Content-Type", "application/json"), ("Retry-After", "7"), ("ratelimit-reset", "1")]
    call = await Call().to(failing(UpstreamRefused(402, headers, body)))
    assert (call.status, call.body) == (402, body)
    assert call.headers["content-type"] == "application/json"
    assert call.headers["retry-after"] == "7"
    assert call.headers["ratelimit-reset"] == "1"
    assert call.headers["cache-control"] == "private, no-store"


async def test_missing_credential_is_asked_for() -> None:
    call = await Call().to(failing(Unauthenticated("You did not pass an authentication token")))
    assert call.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("seconds", "shown"), [(0.2, "1"), (1.0, "1"), (7.4, "7"), (None, None)])
async def test_retry_after_is_whole_seconds_and_never_zero(seconds: float | None, shown: str | None) -> None:
    call = await Call().to(failing(Overloaded("full", retry_after_s=seconds)))
    assert call.headers.get("retry-after") == shown


async def test_method_that_is_not_handled_is_405_with_those_that_are() -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.respond(200, [], b"")

    call = await Call("DELETE").to(Endpoint({"GET": handle, "HEAD": handle}))
    assert call.status == 405
    assert call.headers["allow"] == "GET, HEAD"


async def test_fallback_takes_every_other_method() -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.respond(200, [], exchange.method.encode())

    async def fallback(exchange: Exchange) -> None:
        await exchange.respond(299, [], exchange.method.encode())

    endpoint = Endpoint({"GET": handle}, fallback)
    assert (await Call("GET").to(endpoint)).status == 200
    for method in ("QUERY", "PATCH", "HEAD", "get"):
        call = await Call(method).to(endpoint)
        assert call.status == 299


async def test_bug_is_a_500_that_tells_the_client_nothing() -> None:
    with structlog.testing.capture_logs() as lines:
        call = await Call(authorization=f"Bearer {TOKEN}").to(failing(RuntimeError("a secret detail")))
    assert call.status == 500
    assert b"secret" not in call.body
    assert call.note.error == "internal"
    assert lines[0]["event"] == "handler_broke"
    assert TOKEN not in repr(lines)


async def test_client_that_has_gone_is_answered_nothing() -> None:
    call = await Call().to(failing(ClientGone()))
    assert call.sent == []
    assert call.note.error == "client_gone"


@pytest.mark.parametrize("error", [NotFound("too late"), RuntimeError("too late")])
async def test_answer_that_breaks_after_it_began_is_broken_off_and_never_mended(error: Exception) -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.start(200, [(b"content-length", b"10")])
        await exchange.write(b"half", more=True)
        raise error

    call = Call()
    with structlog.testing.capture_logs(), pytest.raises(HotplateError):
        await call.to(Endpoint({"POST": handle}))
    assert [message["type"] for message in call.sent] == ["http.response.start", "http.response.body"]
    assert call.sent[-1]["more_body"]


async def test_body_is_read_as_it_arrives_and_nobody_waits_beyond_its_end() -> None:
    call = Call(chunks=(b"one", b"", b"two"))
    exchange = Exchange(call.scope, call.receive, call.send)
    assert [chunk async for chunk in exchange.chunks()] == [b"one", b"two"]
    assert [chunk async for chunk in exchange.chunks()] == []
    assert call.received == 3


async def test_body_that_breaks_off_is_told() -> None:
    call = Call(chunks=(b"one",), is_cut=True)
    exchange = Exchange(call.scope, call.receive, call.send)
    with pytest.raises(ClientGone):
        [chunk async for chunk in exchange.chunks()]
