"""What an edge answers itself, and what it passes on as it came."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.core.errors import InputInvalid, InvalidField, NotFound, Unauthenticated, UpstreamUnavailable
from proxy.logs import Note
from proxy.routes.edge import SMALL_BYTES, EdgeCreates
from proxy.routes.exchange import Exchange

pytestmark = pytest.mark.anyio

MAX_BODY_BYTES = 1024**2


class Edge:
    """Creates with a core and a store that keep what they were asked."""

    def __init__(self) -> None:
        self.line: object | None = object()
        self.next_line = self.line
        self.outcome: bool | Exception = True
        self.asked: list[tuple[bytes, tuple[str, str] | None, bool]] = []
        self.passed_on: list[bytes | None] = []
        services: Any = SimpleNamespace(settings=SimpleNamespace(limits=SimpleNamespace(max_body_bytes=MAX_BODY_BYTES)))
        creates: Any = EdgeCreates(services, self, self, lambda: self.line)  # type: ignore[arg-type]
        self.handlers = {name: creates.create(in_path=name) for name in (None, "model", "deployment")}

    async def answer_hit(
        self, exchange: Exchange, body: bytes, named: tuple[str, str] | None, *, is_deployment: bool, may_send: Any
    ) -> bool:
        assert may_send()
        is_same, self.line = self.next_line is self.line, self.next_line
        assert may_send() is is_same
        self.asked.append((body, named, is_deployment))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def handle(self, exchange: Exchange) -> None:
        self.passed_on.append(None)

    async def pass_on(self, exchange: Exchange, body: bytes) -> None:
        self.passed_on.append(body)

    async def create(self, body: bytes, in_path: str | None = None, owner: str = "acme", **headers: str) -> None:
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/predictions", "headers": sent, "hotplate.note": Note()}
        scope["path_params"] = {"owner": owner, "name": "pixel"} if in_path else {}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            raise AssertionError(message)

        await self.handlers[in_path](Exchange(scope, receive, send))


async def test_hit_is_answered_here() -> None:
    edge = Edge()
    await edge.create(b"{}")
    await edge.create(b"{}", "model")
    await edge.create(b"{}", "deployment")
    assert edge.asked == [(b"{}", None, False), (b"{}", ("acme", "pixel"), False), (b"{}", ("acme", "pixel"), True)]
    assert edge.passed_on == []


@pytest.mark.parametrize(
    "outcome",
    [
        False,
        NotFound("no such model"),
        Unauthenticated("nobody"),
        UpstreamUnavailable("the core does not say"),
        InputInvalid([InvalidField("required", "input", "missing")]),
    ],
)
async def test_whatever_is_no_hit_goes_on_with_its_body(outcome: bool | Exception) -> None:
    edge = Edge()
    edge.outcome = outcome
    await edge.create(b'{"input": {}}')
    assert edge.passed_on == [b'{"input": {}}']


async def test_path_that_names_nothing_is_refused_where_all_is_known() -> None:
    edge = Edge()
    await edge.create(b"{}", "model", owner="..")
    assert (edge.asked, edge.passed_on) == ([], [b"{}"])


async def test_nothing_is_vouched_for_while_the_line_is_down() -> None:
    edge = Edge()
    edge.line = None
    await edge.create(b"{}")
    assert (edge.asked, edge.passed_on) == ([], [b"{}"])


@pytest.mark.parametrize("next_line", [None, object()], ids=["gone", "another"])
async def test_what_was_looked_up_over_one_line_is_not_sent_over_another(next_line: object | None) -> None:
    """The line was down and up again within a look-up: what the core had said in between was heard by nobody."""
    edge = Edge()
    edge.next_line = next_line
    await edge.create(b"{}")
    assert len(edge.asked) == 1


async def test_large_or_unreadable_body_goes_on_unread() -> None:
    edge = Edge()
    await edge.create(b"x", content_length=str(SMALL_BYTES + 1))
    await edge.create(b"x", content_length=str(MAX_BODY_BYTES + 1))
    await edge.create(b"x", content_encoding="gzip")
    assert (edge.asked, edge.passed_on) == ([], [None, None, None])


async def test_large_body_of_unknown_length_goes_on_whole() -> None:
    edge = Edge()
    body = b"x" * (SMALL_BYTES + 1)
    await edge.create(body, transfer_encoding="chunked")
    assert (edge.asked, edge.passed_on) == ([], [body])
