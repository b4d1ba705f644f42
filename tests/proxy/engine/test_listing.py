from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from proxy.core.cursors import read_request
from proxy.core.errors import Overloaded, UpstreamRefused, UpstreamUnavailable
from proxy.engine import listing as listing_module
from proxy.engine.listing import Asker, Listing
from proxy.engine.predictor import Hit
from proxy.upstreams.base import Credential, RelayRequest, RelayResponse, Verdict
from storage.records import JsonObject
from tests.fakes.engine import BASE, OTHER_TOKEN, TOKEN, Engine, png
from tests.fakes.upstreams import DELIVERY, ScriptedUpstream

pytestmark = pytest.mark.anyio

ROOT = "https://api.replicate.com/v1"


@dataclass
class Api(ScriptedUpstream):
    """An upstream whose list has the given answers, by query."""

    answers: dict[str, tuple[int, bytes]] = field(default_factory=lambda: {"": (200, page())})
    asked: list[str] = field(default_factory=list)
    meanwhile: Callable[[], Awaitable[None]] | None = None
    closed: int = 0

    async def relay(self, request: RelayRequest, credential: Credential | None) -> RelayResponse:
        assert (request.method, request.path, request.has_body) == ("GET", "/predictions", False)
        assert credential == Credential(TOKEN)
        self.asked.append(request.query)
        if self.meanwhile is not None:
            await self.meanwhile()
        status, body = self.answers[request.query]

        async def chunks() -> AsyncIterator[bytes]:
            yield body[:10]
            yield body[10:]

        def close() -> None:
            self.closed += 1

        headers = [("Content-Type", "application/problem+json"), ("Retry-After", "3"), ("x-else", "1")]
        return RelayResponse(status, headers, chunks(), close)


def theirs(name: str, at: str, **more: Any) -> JsonObject:
    url = f"{ROOT}/predictions/{name}"
    return {"id": name, "created_at": at, "urls": {"get": url, "cancel": f"{url}/cancel"}, **more}


def page(*results: JsonObject, onward: str | None = None, back: str | None = None) -> bytes:
    return orjson.dumps({"next": onward, "previous": back, "results": results})


class Desk:
    """An engine whose upstream is an ``Api``, and its list."""

    def __init__(self, **options: Any) -> None:
        self.engine = Engine(**options)
        self.api = Api(self.engine.clock)
        self.engine.upstream = self.api
        self.others: list[ScriptedUpstream] = []

    async def asker(self, token: str = TOKEN) -> Asker:
        credential, upstreams = Credential(token), (self.api, *self.others)
        places = [(one, await self.engine.gatekeeper.recognise(one, credential)) for one in upstreams]
        return Asker(credential, places, self.api)

    async def list(self, query: str = "", *, token: str = TOKEN, size: int = 100) -> dict[str, Any]:
        engine = self.engine
        made = Listing(engine.history, engine.views, engine.gatekeeper, BASE)
        read = orjson.loads(await made.page(await self.asker(token), read_request(query), size))
        assert isinstance(read, dict)
        return read


async def test_own_run_takes_the_place_of_the_upstreams_entry() -> None:
    desk = Desk()
    entry = await desk.engine.run()
    desk.api.answers[""] = (200, page(theirs("up-1", "2020-01-01T00:00:00Z"), theirs("other", "2019-01-01T00:00:00Z")))
    shown = (await desk.list())["results"]
    assert [one["id"] for one in shown] == [entry.id, "other"]
    assert shown[1]["urls"]["get"] == f"{BASE}/v1/predictions/other"
    assert desk.api.closed == 1


async def test_run_that_begins_while_the_upstream_is_read_is_not_listed_under_its_id() -> None:
    desk = Desk()
    desk.api.answers[""] = (200, page(theirs("up-1", "2030-01-01T00:00:00Z")))
    made: list[str] = []

    async def meanwhile() -> None:
        made.append((await desk.engine.run()).id)

    desk.api.meanwhile = meanwhile
    assert [one["id"] for one in (await desk.list())["results"]] == made


async def test_upstreams_entries_pass_byte_for_byte_but_for_their_links() -> None:
    desk = Desk()
    odd = b'{"id":"x","created_at":"2020-01-01T00:00:00Z", "input":{"seed":123456789012345678901234567890,"n":1.0e2}}'
    desk.api.answers[""] = (200, b'{"next":null,"previous":null,"results":[ ' + odd + b" ]}")
    engine = desk.engine
    body = await Listing(engine.history, engine.views, engine.gatekeeper, BASE).page(
        await desk.asker(), read_request("")
    )
    assert odd in body


@pytest.mark.parametrize("link", [f"{ROOT}/predictions?cursor=b", "/v1/predictions?cursor=b", "?cursor=b"])
async def test_next_page_is_read_by_the_upstreams_own_link_whatever_its_form(link: str) -> None:
    desk = Desk()
    desk.api.answers = {
        "": (200, page(theirs("a", "2020-01-02T00:00:00Z"), onward=link)),
        "cursor=b": (200, page(theirs("b", "2020-01-01T00:00:00Z"), back=f"{ROOT}/predictions")),
    }
    first = await desk.list(size=1)
    second = await desk.list(first["next"].partition("?")[2], size=1)
    assert [first["results"][0]["id"], second["results"][0]["id"]] == ["a", "b"]
    assert second["next"] is None
    again = await desk.list(second["previous"].partition("?")[2], size=1)
    assert again["results"] == first["results"]


async def test_link_to_another_place_is_not_followed() -> None:
    desk = Desk()
    desk.api.answers[""] = (200, page(theirs("a", "2020-01-02T00:00:00Z"), onward="https://evil.example/else?x"))
    assert (await desk.list())["next"] is None


@pytest.mark.parametrize("status", [401, 403, 429, 500])
async def test_upstreams_refusal_is_the_answer_and_ends_its_trust(status: int) -> None:
    desk = Desk()
    await desk.engine.run()
    desk.api.answers[""] = (status, b'{"detail":"no"}')
    with pytest.raises(UpstreamRefused) as raised:
        await desk.list()
    assert (raised.value.status, raised.value.content) == (status, b'{"detail":"no"}')
    assert dict(raised.value.headers) == {"content-type": "application/problem+json", "retry-after": "3"}
    assert desk.engine.gatekeeper.is_accepted_now(desk.api, Credential(TOKEN)) == (status not in (401, 403))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"results":[1]}', b'{"results":[{}]}', b'{"results":{"id":"x"}}', b'{"results":null}']
)
async def test_answer_that_is_no_page_is_said_so(body: bytes) -> None:
    desk = Desk()
    desk.api.answers[""] = (200, body)
    with pytest.raises(UpstreamUnavailable):
        await desk.list()


async def test_endless_page_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "MAX_PAGE_BYTES", 20)
    desk = Desk()
    with pytest.raises(UpstreamUnavailable):
        await desk.list()
    assert desk.api.closed == 1


async def test_predictions_made_at_other_upstreams_are_on_the_list() -> None:
    desk = Desk()
    second = ScriptedUpstream(desk.engine.clock, name="second")
    open_one = ScriptedUpstream(desk.engine.clock, name="open", kind="cog", has_accounts=False)
    desk.others = [second, open_one]
    made = []
    for upstream in (desk.api, second, open_one):
        desk.engine.clock.advance(1)
        made.append((await desk.engine.run(upstream=upstream)).id)
    assert [one["id"] for one in (await desk.list())["results"]] == made[::-1]


async def test_credential_is_not_told_to_an_upstream_where_it_was_never_used() -> None:
    desk = Desk()
    second = ScriptedUpstream(desk.engine.clock, name="second")
    desk.others = [second]
    await desk.list()
    assert second.checks == []


@pytest.mark.parametrize(("verdict", "is_shown"), [(True, True), (False, False), (None, None)])
async def test_own_entries_of_another_upstream_need_its_word(verdict: bool | None, is_shown: bool | None) -> None:
    desk = Desk()
    second = ScriptedUpstream(desk.engine.clock, name="second")
    desk.others = [second]
    await desk.engine.run(upstream=second)
    desk.engine.clock.advance(86_400)
    second.verdict = Verdict(is_accepted=verdict)
    if is_shown is None:
        with pytest.raises(Overloaded):
            await desk.list()
        return
    assert len((await desk.list())["results"]) == is_shown


async def test_list_shows_files_as_addresses_and_no_long_data_in_inputs() -> None:
    desk = Desk(base_url="http://127.0.0.1:8484")
    long, short = "data:image/png;base64," + "A" * 5000, "data:text/plain,x"
    given = {"image": long, "more": [long, short], "prompt": "p" * 5000}
    await desk.engine.run(given)
    hit = await desk.engine.create(given)
    assert isinstance(hit, Hit)
    for one in (await desk.list())["results"]:
        assert one["output"][0].startswith("http://127.0.0.1:8484/outputs/")
        assert one["input"] == {"image": None, "more": [None, short], "prompt": "p" * 5000}


async def test_prediction_of_which_nothing_is_left_is_listed_as_removed() -> None:
    desk = Desk()
    entry = await desk.engine.run()
    record = await desk.engine.storage.results.find_complete(entry.flight.record_id)
    assert record is not None
    desk.engine = await desk.engine.restarted()
    await desk.engine.actions.remove(record.key)
    for row, _ in await desk.engine.ledger.scan("run:"):
        await desk.engine.ledger.remove(row)
    (one,) = (await desk.list())["results"]
    assert (one["id"], one["status"], one["data_removed"], one["output"]) == (entry.id, "succeeded", True, None)


async def test_another_scope_lists_nothing_of_mine() -> None:
    desk = Desk()
    engine = desk.engine
    await engine.run()
    credential = Credential(OTHER_TOKEN)
    asker = Asker(credential, [(desk.api, await engine.gatekeeper.recognise(desk.api, credential))], None)
    made = Listing(engine.history, engine.views, engine.gatekeeper, BASE)
    assert orjson.loads(await made.page(asker, read_request("")))["results"] == []


async def test_long_list_is_cut_into_pages_that_join() -> None:
    desk = Desk()
    desk.engine.upstream.answer = lambda job: [f"{DELIVERY}/{job.input['seed']}.png"]
    made = []
    for seed in range(25):
        desk.engine.egress.serve(f"{DELIVERY}/{seed}.png", png())
        made.append((await desk.engine.run({"seed": seed})).id)
        desk.engine.clock.advance(1)
    upstream_items = [theirs(f"up-{number}", f"2020-01-01T00:00:{number:02d}Z") for number in range(25, 0, -1)]
    desk.api.answers[""] = (200, page(*upstream_items))
    shown: list[str] = []
    query: str | None = ""
    while query is not None:
        part = await desk.list(query, size=4)
        shown += [one["id"] for one in part["results"]]
        query = part["next"].partition("?")[2] if part["next"] else None
    assert shown == made[::-1]
