"""Files of inputs, told through whole predictions: one key for one file, and bytes that the upstream can read."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any

import orjson
import pytest

from proxy.core.errors import InputInvalid, UpstreamRefused
from proxy.core.outputs import decode_data_url, encode_data_url
from proxy.core.policy import Bypass
from proxy.core.schemas import parse_schema
from proxy.engine.file_inputs import MAX_FILES
from proxy.engine.handover import INLINE_BYTES
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.engine.remote_files import Body
from proxy.engine.uploads import UpstreamFile
from proxy.upstreams.base import ModelDescription, RelayRequest, Verdict
from proxy.upstreams.egress import Egress, EgressFailed, EgressRefused
from storage.digest import Scope, hash_bytes
from storage.records import JsonObject
from tests.fakes.engine import BASE, OTHER_TOKEN, TOKEN, Engine, png
from tests.fakes.stores import chunked
from tests.fakes.upstreams import FILES, VERSION, ScriptedUpstream, Served

pytestmark = pytest.mark.anyio

URL = "https://example.com/cat.png"
RED, BLUE = png("red"), png("blue")
LARGE = RED + bytes(INLINE_BYTES)
MINE = "https://api.replicate.com/v1/files/"


def data_url(data: bytes, content_type: str = "image/png") -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def schema(**properties: Any) -> Any:
    return parse_schema({"components": {"schemas": {"Input": {"type": "object", "properties": properties}}}})


TAKES = schema(
    image={"type": "string", "format": "uri"},
    images={"type": "array", "items": {"type": "string", "format": "uri"}},
    prompt={"type": "string"},
)


def an_engine(**options: Any) -> Engine:
    engine = Engine(**options)
    engine.upstream.description = ModelDescription("acme/edit", "hidden", is_pinned=False, schema=None)
    engine.upstream.takes = TAKES
    return engine


def a_cog(engine: Engine) -> ScriptedUpstream:
    return ScriptedUpstream(
        engine.clock,
        name="mine",
        kind="cog",
        has_accounts=False,
        description=ModelDescription("acme/edit", VERSION, is_pinned=True, schema=TAKES),
    )


def scope(engine: Engine, token: str = TOKEN) -> Scope:
    return engine.request(token=token).scope


async def own_output(engine: Engine, data: bytes = RED) -> str:
    await engine.blobs.put(chunked(data), content_type="image/png", max_bytes=2**24)
    return BASE + engine.addresses.path(hash_bytes(data), Scope(b"m" * 32), "out-0.png")


async def uploaded(engine: Engine, file_id: str, data: bytes = RED, token: str = TOKEN) -> str:
    file = UpstreamFile(file_id, hash_bytes(data), len(data), MINE + file_id, engine.clock() + 86_400)
    await engine.uploads.remember("replicate", scope(engine, token), file)
    return f"{BASE}/v1/files/{file_id}"


async def key_of(engine: Engine, given: JsonObject, **how: Any) -> bytes | None:
    return (await engine.preparation.prepare(engine.request(given, **how))).key


async def plan_of(engine: Engine, given: JsonObject, **how: Any) -> object:
    return (await engine.preparation.prepare(engine.request(given, **how))).plan


# -- one key for one file ------------------------------------------------------------------------------


async def test_four_names_of_one_file_are_one_key() -> None:
    engine = an_engine()
    engine.egress.serve(URL, RED)
    names = [
        await own_output(engine),
        await uploaded(engine, "first"),
        await uploaded(engine, "second"),
        MINE + "second",
        f"{BASE}/files/second",
        data_url(RED),
        data_url(RED, "application/octet-stream"),
        URL,
    ]
    keys = {await key_of(engine, {"prompt": "a", "image": name}) for name in names}
    assert len(keys) == 1
    assert None not in keys
    others = [data_url(BLUE), await uploaded(engine, "third", BLUE), await own_output(engine, BLUE)]
    assert {await key_of(engine, {"prompt": "a", "image": name}) for name in others}.isdisjoint(keys)
    assert await key_of(engine, {"prompt": "b", "image": names[0]}) not in keys
    assert await key_of(engine, {"prompt": "a", "images": [names[0]]}) not in keys


async def test_download_link_of_an_upload_is_turned_back_into_one_that_the_upstream_can_read() -> None:
    """The upstream was sent this proxy's own address, which may be private."""
    engine = an_engine()
    signed = "download?owner=me&expiry=9&signature=c2ln"
    mine = await uploaded(engine, "first")
    await engine.run({"image": f"{mine}/{signed}"})
    await engine.run({"image": f"{BASE}/v1/files/foreign/{signed}"})
    assert [job.input["image"] for job in engine.upstream.jobs] == [f"{MINE}first", f"{MINE}foreign/{signed}"]
    assert isinstance(await engine.create({"image": data_url(RED)}), Hit)
    assert await plan_of(engine, {"image": f"{BASE}/v1/files/foreign/{signed}"}) == Bypass("url-input")


async def test_cog_model_meets_in_one_key_as_well() -> None:
    engine = an_engine()
    engine.egress.serve(URL, RED)
    cog = a_cog(engine)
    names = [await own_output(engine), data_url(RED), URL, f"  {URL} "]
    keys = {await key_of(engine, {"prompt": "a", "image": name}, upstream=cog, token=None) for name in names[:3]}
    assert len(keys) == 1
    assert None not in keys


async def test_second_name_of_a_file_is_a_hit() -> None:
    engine = an_engine()
    engine.egress.serve(URL, RED)
    await engine.run({"image": await own_output(engine)})
    for name in (data_url(RED), URL, await uploaded(engine, "x")):
        assert isinstance(await engine.create({"image": name}), Hit)
    assert len(engine.upstream.jobs) == 1


async def test_text_that_looks_like_a_file_stays_text_where_the_schema_says_text() -> None:
    engine = an_engine()
    engine.upstream.description = ModelDescription("acme/edit", VERSION, is_pinned=True, schema=TAKES)
    one = await key_of(engine, {"prompt": data_url(RED, "image/png")})
    assert one != await key_of(engine, {"prompt": data_url(RED, "text/plain")})
    assert await plan_of(engine, {"prompt": await own_output(engine)}) == Bypass("url-input")
    assert await plan_of(engine, {"prompt": URL, "image": URL}) == Bypass("url-input")
    assert engine.egress.asked == []


@pytest.mark.parametrize("text", ["data:image/png;base64,???", "data:image/png;base64,", "data:image/png;base64,A"])
async def test_broken_data_url_is_keyed_by_its_text(text: str) -> None:
    prepared = await (engine := an_engine()).preparation.prepare(engine.request({"image": text}))
    assert prepared.identified.files == ()
    assert prepared.identified.key_input == {"image": text}


async def test_large_data_url_is_the_same_file_as_its_bytes() -> None:
    engine = an_engine()
    assert await key_of(engine, {"image": data_url(LARGE)}) == await key_of(
        engine, {"image": await own_output(engine, LARGE)}
    )


# -- what may not be taken for its bytes ---------------------------------------------------------------


async def test_upload_of_another_scope_is_not_keyed_and_left_to_the_upstream() -> None:
    engine = an_engine()
    url = await uploaded(engine, "theirs", token=OTHER_TOKEN)
    entry = await engine.run({"image": url})
    assert entry.plan == Bypass("url-input")
    assert engine.upstream.jobs[0].input == {"image": FILES + "theirs"}


async def test_address_that_was_never_handed_out_is_not_keyed() -> None:
    engine = an_engine()
    url = f"{BASE}/outputs/{hash_bytes(RED).hex()}/{'0' * 32}/out-0.png"
    assert await plan_of(engine, {"image": url}) == Bypass("url-input")


async def test_url_in_a_place_that_is_not_declared_as_a_file_is_not_fetched() -> None:
    engine = an_engine()
    engine.egress.serve(URL, RED)
    for given in ({"other": URL}, {"image": f" {URL}"}):
        assert await plan_of(engine, given) == Bypass("url-input")
    engine.upstream.takes = None
    assert await plan_of(engine, {"image": URL}) == Bypass("url-input")
    assert engine.egress.asked == []


@pytest.mark.parametrize(
    "answer",
    [
        Served(b"", status=404),
        Served(RED, breaks_after=10, chunk_bytes=8),
        Served(b"text without an end", is_length_known=False),
        EgressFailed("reset"),
        EgressRefused("address", "not a public address"),
    ],
)
async def test_file_that_cannot_be_had_goes_past_the_cache_as_it_came(answer: Served | Exception) -> None:
    engine = an_engine()
    engine.egress.serve(URL, answer)
    entry = await engine.run({"image": URL})
    assert entry.plan == Bypass("unread-file")
    assert engine.upstream.jobs[0].input == {"image": URL}
    assert not engine.actions._records


async def test_host_that_the_operator_trusts_is_keyed_by_its_url_and_not_asked() -> None:
    engine = an_engine()
    url = "https://static.example.com/a.png"
    await engine.run({"image": url})
    assert isinstance(await engine.create({"image": url}), Hit)
    assert await key_of(engine, {"image": url}) != await key_of(engine, {"image": url + "?2"})
    assert engine.upstream.jobs[0].input == {"image": url}
    assert engine.egress.asked == ["https://replicate.delivery/out-0.png"]


async def test_nothing_is_fetched_for_a_request_that_wants_no_cache() -> None:
    engine = an_engine()
    engine.egress.serve(URL, RED)
    entry = await engine.run({"image": URL, "images": [await own_output(engine)]}, cache_control="no-store")
    assert entry.plan == Bypass("request")
    sent = engine.upstream.jobs[0].input
    assert sent["image"] == URL
    assert decode_data_url(sent["images"][0]) == RED
    assert URL not in engine.egress.asked


async def test_nothing_is_fetched_with_a_credential_that_is_refused() -> None:
    engine = an_engine()
    engine.egress.serve(URL, RED)
    engine.upstream.verdict = Verdict(is_accepted=False, refusal=(401, "application/json", b"{}"))
    with pytest.raises(UpstreamRefused):
        await engine.create({"image": URL})
    assert engine.egress.asked == []
    assert engine.upstream.schemas_asked == []


async def test_schema_that_was_learned_for_a_pinned_version_counts_at_once() -> None:
    engine = an_engine()
    engine.egress.serve(URL, RED)
    full = schema(image={"type": "string", "format": "uri"}, steps={"type": "integer", "default": 4})
    engine.upstream.description = ModelDescription("acme/edit", VERSION, is_pinned=True, schema=None)
    engine.upstream.takes = full

    async def describe(*_: Any) -> ModelDescription:
        known = full if engine.upstream.schemas_asked else None
        return ModelDescription("acme/edit", VERSION, is_pinned=True, schema=known)

    engine.upstream.describe = describe  # type: ignore[method-assign]
    assert await key_of(engine, {"image": URL}) == await key_of(engine, {"image": URL, "steps": 4})


# -- what is sent --------------------------------------------------------------------------------------


async def test_replicate_gets_what_it_can_read() -> None:
    engine = an_engine()
    engine.egress.serve(URL, BLUE)
    given_data = data_url(RED, "application/odd")
    given = {
        "a": await own_output(engine),
        "b": await uploaded(engine, "mine"),
        "c": MINE + "mine",
        "d": given_data,
        "image": URL,
    }
    await engine.run(dict(given))
    sent = engine.upstream.jobs[0].input
    assert sent["a"] == encode_data_url("image/png", RED)
    assert sent["b"] == sent["c"] == MINE + "mine"
    assert sent["d"] == given_data
    assert sent["image"] == encode_data_url("image/png", BLUE)


def files_api(request: RelayRequest, body: bytes) -> tuple[int, bytes]:
    if request.method == "GET":
        return 200, b"{}"
    assert len(body) == request.body_bytes
    content = body.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
    file_id = hashlib.sha256(content).hexdigest()[:20]
    return 201, orjson.dumps({"id": file_id, "size": len(content), "urls": {"get": MINE + file_id}})


async def test_large_file_is_uploaded_once_and_named_again() -> None:
    engine = an_engine()
    engine.upstream.relaying = files_api
    url = await own_output(engine, LARGE)
    for prompt in ("a", "b"):
        await engine.run({"prompt": prompt, "image": url})
    name = MINE + hashlib.sha256(LARGE).hexdigest()[:20]
    assert [job.input["image"] for job in engine.upstream.jobs] == [name, name]
    assert [(method, path) for method, path, _ in engine.upstream.relayed] == [
        ("POST", "/files"),
        ("GET", f"/files/{name.removeprefix(MINE)}"),
    ]
    assert await key_of(engine, {"image": url}) == await key_of(engine, {"image": name})


async def test_large_file_of_somebody_else_is_uploaded_as_it_was_hashed() -> None:
    engine = an_engine()
    engine.upstream.relaying = files_api
    engine.egress.serve(URL, LARGE)
    await engine.run({"image": URL})
    assert engine.upstream.jobs[0].input == {"image": MINE + hashlib.sha256(LARGE).hexdigest()[:20]}
    assert engine.egress.asked.count(URL) == 1


async def test_copy_that_is_gone_upstream_is_sent_again() -> None:
    engine = an_engine()
    engine.upstream.relaying = files_api
    url = await own_output(engine, LARGE)
    await engine.run({"prompt": "a", "image": url})
    engine.upstream.relaying = lambda request, body: (
        (404, b"{}") if request.method == "GET" else files_api(request, body)
    )
    await engine.run({"prompt": "b", "image": url})
    assert [method for method, _, _ in engine.upstream.relayed] == ["POST", "GET", "POST"]


async def test_upload_that_the_upstream_refuses_is_its_own_answer() -> None:
    engine = an_engine()
    engine.upstream.relaying = lambda request, body: (402, b'{"title":"no credit"}')
    with pytest.raises(UpstreamRefused) as refused:
        await engine.create({"image": await own_output(engine, LARGE)})
    assert (refused.value.status, refused.value.content) == (402, b'{"title":"no credit"}')
    assert engine.upstream.jobs == []


async def test_output_that_is_gone_is_told() -> None:
    engine = an_engine()
    url = await own_output(engine)
    engine.blobs.lose(hash_bytes(RED))
    with pytest.raises(InputInvalid, match="no such output"):
        await engine.create({"image": url})


async def test_cog_gets_every_file_as_data() -> None:
    engine = an_engine()
    engine.egress.serve(URL, BLUE)
    cog = a_cog(engine)
    engine.spool.put(hash_bytes(b"spooled"), b"spooled", "text/plain")
    spooled = BASE + engine.addresses.path(hash_bytes(b"spooled"), Scope(b"m" * 32), "out-0.png")
    await engine.run({"image": URL, "images": [await own_output(engine), spooled]}, upstream=cog, token=None)
    sent = cog.jobs[0].input
    assert decode_data_url(sent["image"]) == BLUE
    assert [decode_data_url(url) for url in sent["images"]] == [RED, b"spooled"]
    assert engine.egress.asked.count(URL) == 1


@pytest.mark.parametrize("tail", ["", "x", "a/b/c", "../../secret.key", "0" * 64 + "/" + "0" * 32 + "/out-0.png"])
async def test_cog_is_never_given_an_address_that_was_not_handed_out(tail: str) -> None:
    engine = an_engine()
    with pytest.raises(InputInvalid, match="no such output"):
        await engine.create({"image": f"{BASE}/outputs/{tail}"}, upstream=a_cog(engine), token=None)


async def test_cog_is_never_given_a_file_of_another_caller() -> None:
    engine = an_engine(own_tokens=("o" * 20, "p" * 20))
    cog = a_cog(engine)
    with pytest.raises(InputInvalid, match="no such file"):
        await engine.create({"image": f"{BASE}/v1/files/abc"}, upstream=cog, token="o" * 20)


@pytest.mark.parametrize(
    "answer", [Served(b"", status=404), EgressFailed("reset"), EgressRefused("address", "not a public address")]
)
async def test_file_that_cannot_be_had_for_cog_is_told_with_its_place(answer: Served | Exception) -> None:
    engine = an_engine()
    engine.egress.serve(URL, answer)
    with pytest.raises(InputInvalid) as refused:
        await engine.create({"images": [URL]}, upstream=a_cog(engine), token=None)
    assert refused.value.fields[0].field == "input.images.0"


async def test_number_of_files_is_bounded() -> None:
    engine = an_engine()
    engine.egress.serve(URL, RED)
    cog = a_cog(engine)
    for given in ([URL] * (MAX_FILES + 1), [await own_output(engine)] * (MAX_FILES + 1)):
        with pytest.raises(InputInvalid, match=f"at most {MAX_FILES}"):
            await engine.create({"images": given}, upstream=cog, token=None)
    with pytest.raises(InputInvalid, match=f"at most {MAX_FILES}"):
        await engine.create({"images": [await own_output(engine)] * (MAX_FILES + 1)})
    entry = await engine.run({"images": [URL] * (MAX_FILES + 1)})
    assert entry.plan == Bypass("unread-file")
    assert URL not in engine.egress.asked


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::1]", "169.254.169.254", "0x7f.1"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_private_address_is_never_asked(host: str, scheme: str) -> None:
    engine, egress = an_engine(), Egress()
    engine.remote._egress = egress
    try:
        url = f"{scheme}://{host}/latest/meta-data"
        with pytest.raises(InputInvalid, match=r"may not be fetched|cannot be fetched"):
            await engine.create({"image": url}, upstream=a_cog(engine), token=None)
        assert await plan_of(engine, {"image": url}) == Bypass("unread-file")
    finally:
        await egress.aclose()


# -- what may change in between ------------------------------------------------------------------------


async def test_file_that_changed_after_it_was_keyed_is_not_stored_under_the_old_key() -> None:
    engine = an_engine()
    engine.egress.serve(URL, Served(RED, etag='"1"'))
    await engine.run({"prompt": "a", "image": URL})
    assert len(engine.actions._records) == 1
    engine.remote.drop_recent()
    # The host says that nothing has changed, and a moment later something has.
    engine.egress.serve(URL, Served(RED, etag='"1"'), Served(BLUE, etag='"2"'))
    entry = await engine.run({"prompt": "b", "image": URL})
    assert engine.egress.conditions[-3:-1] == ['"1"', None]
    assert decode_data_url(engine.upstream.jobs[1].input["image"]) == BLUE
    assert entry.flight.landed is not None
    assert not entry.flight.landed.is_stored
    assert len(engine.actions._records) == 1


async def test_file_that_is_gone_after_it_was_keyed_is_left_to_the_upstream_and_not_stored() -> None:
    engine = an_engine()
    engine.egress.serve(URL, Served(RED, etag='"1"'))
    await engine.run({"prompt": "a", "image": URL})
    engine.remote.drop_recent()
    engine.egress.serve(URL, Served(RED, etag='"1"'), Served(b"", status=404))
    entry = await engine.run({"prompt": "b", "image": URL})
    assert engine.upstream.jobs[1].input["image"] == URL
    assert entry.flight.landed is not None
    assert not entry.flight.landed.is_stored


async def test_changed_file_is_another_key() -> None:
    engine = an_engine()
    engine.egress.serve(URL, Served(RED, etag='"1"'), Served(BLUE, etag='"2"'))
    assert await key_of(engine, {"image": URL}) != await key_of(engine, {"image": URL})


# -- what is kept --------------------------------------------------------------------------------------


async def test_record_shows_urls_and_no_data() -> None:
    engine = an_engine()
    engine.egress.serve(URL, BLUE)
    given = {"prompt": "a", "image": URL, "images": [data_url(RED), await uploaded(engine, "x")]}
    await engine.run(given)
    (record,) = engine.actions._records.values()
    assert record.input == {**given, "images": [None, given["images"][1]]}


async def test_fetched_bytes_are_let_go_when_the_run_was_sent() -> None:
    engine = an_engine()
    engine.egress.serve(URL, LARGE)
    engine.upstream.relaying = files_api
    await engine.run({"image": URL})
    engine.remote.drop_recent()
    assert engine.remote.held_bytes == 0


def held_fetches(engine: Engine) -> tuple[asyncio.Event, asyncio.Event]:
    """From now on a fetch inside a flight sets the first event, and waits for the second."""
    fetch, reached, release = engine.remote.fetch, asyncio.Event(), asyncio.Event()

    async def held(upstream: str, url: str) -> Body:
        reached.set()
        await release.wait()
        return await fetch(upstream, url)

    engine.remote.fetch = held  # type: ignore[method-assign]
    return reached, release


@pytest.mark.parametrize("then", [Served(BLUE, etag='"2"'), EgressFailed("reset")], ids=["blue", "gone"])
async def test_run_whose_file_has_changed_meanwhile_is_no_answer_to_who_sent_the_bytes_of_before(
    then: Served | EgressFailed,
) -> None:
    """The key said red, since the host said that nothing had changed; then it gave blue. Who had sent red itself and
    shared the run by its key was answered with a picture of blue."""
    engine = an_engine()
    cog = a_cog(engine)
    engine.egress.serve(URL, Served(RED, etag='"1"'), Served(RED, etag='"1"'), then)
    await engine.run({"image": URL, "prompt": "before"}, upstream=cog, token=None)
    engine.remote.drop_recent()
    reached, release = held_fetches(engine)
    by_url = asyncio.create_task(engine.create({"image": URL, "prompt": "now"}, upstream=cog, token=None, wants_s=9.0))
    await reached.wait()
    by_bytes = [
        asyncio.create_task(engine.create({"image": data_url(RED), "prompt": "now"}, upstream=cog, token=None))
        for _ in range(3)
    ]
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(cog.jobs) == 1, "they wait for the run that the URL has caused"
    release.set()
    strayed, *entries = await asyncio.gather(by_url, *by_bytes, return_exceptions=True)
    entry = entries[0]
    assert isinstance(entry, Running)
    assert {id(one.flight) for one in entries if isinstance(one, Running)} == {id(entry.flight)}
    assert entry.flight.sharers == 3
    if isinstance(then, Served):
        assert isinstance(strayed, Running)
        assert strayed.flight is not entry.flight
        assert strayed.flight.sharers == 1
    else:
        assert isinstance(strayed, InputInvalid)
    images = [data_url(BLUE), data_url(RED)] if isinstance(then, Served) else [data_url(RED)]
    assert [job.input["image"] for job in cog.jobs[1:]] == images
    await entry.flight.finished(10)
    assert isinstance(await engine.create({"image": data_url(RED), "prompt": "now"}, upstream=cog, token=None), Hit)
