"""ReplicateUpstream: against the double of the API, and against scripted answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest

from loadtests.fake_model.catalog import find_model
from loadtests.fake_model.process import ALICE, FakeModel, fake_model
from proxy.core.entitlement import Account
from proxy.core.errors import (
    HotplateError,
    NotFound,
    Unauthenticated,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.core.outputs import OutputAccess
from proxy.upstreams import replicate_client
from proxy.upstreams.base import Credential, Job, ModelTarget, Outcome, Progress, RelayRequest, Upstream, Verdict
from proxy.upstreams.bodies import nothing
from proxy.upstreams.egress import Egress
from proxy.upstreams.http import AiohttpTransport
from proxy.upstreams.polling import CAP_S, FAILED_CAP_S, FIRST_S, MAX_REFUSALS
from proxy.upstreams.relay import close
from proxy.upstreams.replicate import ReplicateSpec, ReplicateUpstream
from storage.errors import StorageUnavailable
from tests.fakes.raw_server import Reply, raw_server, reply
from tests.fakes.stores import MemoryKeyValue
from tests.proxy.upstreams.test_relay import ask, drain

pytestmark = pytest.mark.anyio

CREDENTIAL = Credential(ALICE)
PIXEL = ModelTarget("acme", "pixel")
BRUSH = find_model("painters/brush")
assert BRUSH is not None
VERSION = BRUSH.version
PINNED = ModelTarget("painters", "brush", VERSION)
BARE = ModelTarget("", "", VERSION)
DEPLOYED = ModelTarget("acme", "brush-live", is_deployment=True)
ID = "7k2mzq4d9srme0ctw8v5x1n3ap"
PICTURE = "https://replicate.delivery/a.png"


class Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.pauses: list[float] = []

    async def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self.at += pause_s
        await asyncio.sleep(0)

    def __call__(self) -> float:
        return self.at


@pytest.fixture(scope="module")
def process() -> Iterator[FakeModel]:
    with fake_model() as running:
        yield running


@pytest.fixture
def fake(process: FakeModel) -> FakeModel:
    process.reset()
    return process


def make_job(target: ModelTarget = PIXEL, wants_s: float = 0.0, **given: Any) -> Job:
    return Job("job", target, target.version or "hidden", {"prompt": "a red fox", **given}, CREDENTIAL, wants_s)


def live(fake: FakeModel, notes: MemoryKeyValue | None = None, name: str = "replicate") -> ReplicateUpstream:
    return ReplicateUpstream(ReplicateSpec(name, fake.base_url), notes or MemoryKeyValue())


Answers = Callable[[httpx.Request], Awaitable[httpx.Response]]


class Script:
    """Answers creates, looks and cancels from lists; the last entry of a list is said again and again."""

    def __init__(self, *looks: object, create: object = None, cancel: object = None) -> None:
        self.creates = list(create) if isinstance(create, tuple) else [create or prediction()]
        self.looks = list(looks) or [prediction("succeeded")]
        self.cancels = [cancel or prediction("canceled")]
        self.requests: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        path = request.url.path
        entries = self.cancels if path.endswith("/cancel") else self.creates if request.method == "POST" else self.looks
        entry = entries[0] if len(entries) == 1 else entries.pop(0)
        if isinstance(entry, Exception):
            raise entry
        if isinstance(entry, asyncio.Future):
            entry = await entry
        return entry if isinstance(entry, httpx.Response) else httpx.Response(200, json=entry)

    def count(self, method: str, end: str = "") -> int:
        return sum(each.method == method and each.url.path.endswith(end) for each in self.requests)


def prediction(status: str = "starting", **more: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "model": "acme/pixel",
        "version": "hidden",
        "input": {},
        "logs": "",
        "output": None,
        "data_removed": False,
        "error": None,
        "status": status,
        "created_at": "2026-02-01T10:00:00.120Z",
        "urls": {
            "get": "https://evil.test/get",
            "cancel": "https://evil.test/c",
            "web": f"https://replicate.com/p/{ID}",
        },
        **more,
    }


def scripted(script: Script, time: Time | None = None, **spec: Any) -> ReplicateUpstream:
    time = time or Time()
    transport = httpx.MockTransport(script)
    return ReplicateUpstream(
        ReplicateSpec("replicate", "http://api.test", **spec),
        MemoryKeyValue(),
        reads=transport,
        writes=transport,
        sleep=time.sleep,
        clock=time,
        now=time,
    )


async def run(upstream: ReplicateUpstream, job: Job | None = None, news: list[Progress] | None = None) -> Outcome:
    try:
        return await upstream.run(job or make_job(), (news if news is not None else []).append)
    finally:
        await upstream.aclose()


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.001)


def test_it_is_an_upstream() -> None:
    upstream: Upstream = scripted(Script())
    assert (upstream.name, upstream.kind, upstream.has_accounts) == ("replicate", "replicate", True)


class TestAddresses:
    @pytest.mark.parametrize(
        ("base_url", "path"),
        [
            ("http://api.test", "/v1/account"),
            ("http://api.test/", "/v1/account"),
            ("http://api.test/v1", "/v1/account"),
            ("http://api.test/v1/", "/v1/account"),
            ("http://api.test/proxied/replicate", "/proxied/replicate/account"),
        ],
    )
    async def test_root_may_be_given_in_several_ways(self, base_url: str, path: str) -> None:
        script = Script({"username": "alice"})
        upstream = ReplicateUpstream(ReplicateSpec("r", base_url), MemoryKeyValue(), reads=httpx.MockTransport(script))
        assert (await upstream.check(CREDENTIAL)).is_accepted
        assert script.requests[0].url.path == path
        await upstream.aclose()

    @pytest.mark.parametrize(
        "base_url", ["api.test", "ftp://api.test", "http://u:p@api.test", "http://api.test/v1?a=b", ""]
    )
    def test_what_is_no_root_is_an_error(self, base_url: str) -> None:
        with pytest.raises(ValueError, match="is not the address of an API"):
            ReplicateUpstream(ReplicateSpec("r", base_url), MemoryKeyValue())

    def test_outputs_of_the_real_service_come_from_its_delivery_hosts(self) -> None:
        hosts = ("replicate.delivery", "*.replicate.delivery")
        assert ReplicateUpstream(ReplicateSpec("r"), MemoryKeyValue()).output_access == OutputAccess(hosts)

    def test_own_origin_and_named_ones_are_added_for_another_api(self) -> None:
        spec = ReplicateSpec(
            "r", "http://10.0.0.4:5000/v1", output_hosts=("a.test",), output_origins=("http://10.0.0.5:9000",)
        )
        access = ReplicateUpstream(spec, MemoryKeyValue()).output_access
        assert access == OutputAccess(("a.test",), (("http", "10.0.0.4", 5000), ("http", "10.0.0.5", 9000)))

    def test_origin_that_is_none_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="is not an origin"):
            ReplicateUpstream(ReplicateSpec("r", output_origins=("10.0.0.5:9000",)), MemoryKeyValue())


class TestDescribe:
    async def test_official_model_does_not_tell_its_version(self) -> None:
        described = await scripted(Script()).describe(PIXEL, CREDENTIAL)
        assert (described.model, described.version, described.is_pinned) == ("acme/pixel", "hidden", False)

    async def test_deployment_has_a_namespace_of_its_own(self) -> None:
        described = await scripted(Script()).describe(DEPLOYED, None)
        assert (described.model, described.version, described.is_pinned) == (
            "deployments/acme/brush-live",
            "hidden",
            False,
        )

    async def test_version_is_pinned_without_asking_anybody(self) -> None:
        script = Script()
        upstream = scripted(script)
        named, bare = await upstream.describe(PINNED, None), await upstream.describe(BARE, None)
        assert (named.model, named.version, named.is_pinned, named.schema) == ("painters/brush", VERSION, True, None)
        assert (bare.model, bare.version, bare.is_pinned) == ("", VERSION, True)
        assert script.requests == []

    @pytest.mark.parametrize(
        "target",
        [
            ModelTarget("..", "pixel"),
            ModelTarget("acme", ".."),
            ModelTarget("acme", "a/b"),
            ModelTarget("acme", "a?b"),
            ModelTarget("", ""),
            ModelTarget("acme", "", VERSION),
            ModelTarget("", "", is_deployment=True),
        ],
    )
    async def test_names_that_are_none_are_not_found(self, target: ModelTarget) -> None:
        script = Script()
        upstream = scripted(script)
        with pytest.raises(NotFound):
            await upstream.describe(target, None)
        with pytest.raises(NotFound):
            await run(upstream, make_job(target))
        assert script.requests == []

    async def test_schema_is_learned_from_an_answer_that_passes_by(self, fake: FakeModel) -> None:
        notes = MemoryKeyValue()
        upstream = live(fake, notes)
        await relay_version(upstream)
        described = await upstream.describe(BARE, None)
        assert described.model == "painters/brush"
        assert described.schema is not None
        await upstream.aclose()
        restarted, other = live(fake, notes), live(fake, notes, name="other")
        assert (await restarted.describe(BARE, None)).schema == described.schema
        assert (await other.describe(BARE, None)).schema is None

    async def test_store_that_is_away_is_no_error(self, fake: FakeModel) -> None:
        notes = MemoryKeyValue()
        notes.failure = StorageUnavailable("full")
        upstream = live(fake, notes)
        await relay_version(upstream)
        assert (await upstream.describe(BARE, None)).schema is not None
        await upstream.aclose()

    @pytest.mark.parametrize("document", [None, [], {}, {"id": "0" * 64, "openapi_schema": {}}, {"id": VERSION}])
    async def test_other_documents_teach_no_schema(self, document: object) -> None:
        upstream = scripted(Script())
        await upstream.remember_version("painters/brush", VERSION, document)
        assert (await upstream.describe(BARE, None)).schema is None

    async def test_broken_notes_are_as_good_as_none(self) -> None:
        notes = MemoryKeyValue()
        await notes.put(f"schema:replicate:{VERSION}", b"{")
        await notes.put(f"model:replicate:{VERSION}", b"painters/brush")
        described = await ReplicateUpstream(ReplicateSpec("replicate"), notes).describe(BARE, None)
        assert (described.model, described.schema) == ("painters/brush", None)

    async def test_model_of_a_bare_version_is_learned_from_its_first_run(self, fake: FakeModel) -> None:
        upstream = live(fake)
        await upstream.run(make_job(BARE, wants_s=5), lambda _: None)
        assert (await upstream.describe(BARE, None)).model == "painters/brush"
        await upstream.aclose()


async def relay_version(upstream: ReplicateUpstream) -> None:
    status, _, body = await drain(await upstream.relay(ask(f"/models/painters/brush/versions/{VERSION}"), CREDENTIAL))
    assert status == 200
    assert orjson.loads(body)["id"] == VERSION


class TestRun:
    async def test_waited_run_is_one_exchange(self, fake: FakeModel) -> None:
        news: list[Progress] = []
        outcome = await run(live(fake), make_job(wants_s=7.9, num_outputs=2), news)
        assert outcome.status == "succeeded"
        assert [url.startswith(fake.delivery_origin) for url in outcome.output] == [True, True]
        assert outcome.logs.startswith("Using seed: ")
        assert outcome.metrics["predict_time"] > 0
        assert outcome.completed_at >= outcome.started_at > 1e9
        assert (outcome.boot_s, outcome.download_s, outcome.attempts, outcome.error) == (0.0, 0.0, 1, None)
        assert outcome.web_url == f"https://replicate.com/p/{outcome.upstream_id}"
        assert [each.upstream_id for each in news] == [outcome.upstream_id]
        counters = fake.counters()
        assert (counters["creates"], counters["polls"]) == (1, 0)
        assert counters["last_create"] == {
            "body": {"input": {"prompt": "a red fox", "num_outputs": 2}},
            "prefer": "wait=7",
        }

    async def test_run_that_nobody_waits_for_is_polled(self, fake: FakeModel) -> None:
        news: list[Progress] = []
        outcome = await run(live(fake), news=news)
        counters = fake.counters()
        assert outcome.status == "succeeded"
        assert news[0].status == "starting"
        assert counters["creates"] == 1
        assert counters["polls"] >= 1
        assert counters["last_create"]["prefer"] is None
        assert counters["cookies"] == 0

    @pytest.mark.parametrize(
        ("target", "body"),
        [
            (PINNED, {"version": VERSION, "input": {"prompt": "a red fox"}}),
            (BARE, {"version": VERSION, "input": {"prompt": "a red fox"}}),
            (DEPLOYED, {"input": {"prompt": "a red fox"}}),
        ],
    )
    async def test_pinned_versions_and_deployments_run(
        self, fake: FakeModel, target: ModelTarget, body: object
    ) -> None:
        assert (await run(live(fake), make_job(target, wants_s=60))).status == "succeeded"
        assert fake.counters()["last_create"]["body"] == body
        assert fake.counters()["runs"] == {"painters/brush": 1}

    @pytest.mark.parametrize(("model", "shape"), [("single", str), ("nested", dict), ("teller", list)])
    async def test_output_keeps_its_shape(self, fake: FakeModel, model: str, shape: type) -> None:
        assert isinstance((await run(live(fake), make_job(ModelTarget("acme", model), 5))).output, shape)

    async def test_outputs_can_be_fetched_where_the_operator_named_their_origin(self, fake: FakeModel) -> None:
        spec = ReplicateSpec("r", fake.base_url, output_origins=(fake.delivery_origin,))
        upstream, egress = ReplicateUpstream(spec, MemoryKeyValue()), Egress()
        (url,) = (await run(upstream, make_job(wants_s=5))).output
        async with egress.open(url, upstream.output_access, max_bytes=10_000) as fetched:
            content = b"".join([chunk async for chunk in fetched.chunks])
        assert content.startswith(b"\x89PNG")
        assert fetched.headers["content-type"] == "image/png"
        assert fetched.expected_bytes == len(content)
        assert fake.counters()["output_credentials"] == fake.counters()["cookies"] == 0
        await egress.aclose()

    async def test_failed_run_is_an_outcome(self, fake: FakeModel) -> None:
        outcome = await run(live(fake), make_job(ModelTarget("acme", "failing"), 5))
        assert (outcome.status, outcome.error, outcome.output) == ("failed", "CUDA out of memory", None)

    async def test_more_runs_at_once_than_a_pool_would_let_through(self, fake: FakeModel) -> None:
        fake.hold()
        upstream = live(fake)
        runs = [asyncio.create_task(upstream.run(make_job(wants_s=30), lambda _: None)) for _ in range(120)]
        await until(lambda: fake.counters()["runs"] == {"acme/pixel": len(runs)})
        fake.release()
        assert {outcome.status for outcome in await asyncio.gather(*runs)} == {"succeeded"}
        await upstream.aclose()

    async def test_caller_s_token_goes_to_the_api_alone(self) -> None:
        script = Script(prediction("processing"), prediction("succeeded"))
        await run(scripted(script))
        assert {each.url.host for each in script.requests} == {"api.test"}
        assert {each.headers["authorization"] for each in script.requests} == {f"Bearer {ALICE}"}

    async def test_without_a_credential_none_is_sent(self) -> None:
        script = Script(create=prediction("succeeded"))
        await run(scripted(script), Job("job", PIXEL, "hidden", {}, None))
        assert "authorization" not in script.requests[0].headers

    async def test_token_that_cannot_stand_in_a_header_is_refused_here(self) -> None:
        script = Script()
        with pytest.raises(Unauthenticated):
            await run(scripted(script), Job("job", PIXEL, "hidden", {}, Credential("a\r\nX-Odd: 1")))
        assert script.requests == []

    async def test_integers_beyond_64_bits_are_sent_exactly(self) -> None:
        script = Script(create=prediction("succeeded"))
        await run(scripted(script), make_job(seed=2**64 + 1))
        assert b"18446744073709551617" in script.requests[0].content

    @pytest.mark.parametrize(("wants_s", "prefer"), [(0.0, None), (0.9, None), (1.0, "wait=1"), (600.0, "wait=60")])
    async def test_wait_is_asked_for_within_the_api_s_bounds(self, wants_s: float, prefer: str | None) -> None:
        script = Script(create=prediction("succeeded"))
        await run(scripted(script), make_job(wants_s=wants_s))
        assert script.requests[0].headers.get("prefer") == prefer


class TestCreateHappensOnce:
    @pytest.mark.parametrize(
        "kind", ["drop-fin", "drop-rst", "malformed", "truncated", "wrong-length", "close-delimited", "encoded"]
    )
    async def test_create_that_was_read_is_never_repeated(self, fake: FakeModel, kind: str) -> None:
        fake.fault(kind, "create", times=0)
        with pytest.raises(UpstreamUnavailable):
            await run(live(fake), make_job(wants_s=5))
        assert fake.counters()["creates"] == 1
        assert fake.counters()["runs"] == {"acme/pixel": 1}

    @pytest.mark.parametrize("kind", ["drop-fin", "drop-rst"])
    async def test_create_that_was_dropped_undone_is_not_repeated_either(self, fake: FakeModel, kind: str) -> None:
        fake.fault(kind, "create", times=0, is_handled=False)
        with pytest.raises(UpstreamUnavailable):
            await run(live(fake))
        assert (fake.counters()["creates"], fake.counters()["runs"]) == (1, {})

    async def test_create_without_an_answer_times_out(self, fake: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicate_client, "CREATE_MARGIN_S", 0.2)
        fake.fault("stall", "create", times=0)
        with pytest.raises(UpstreamTimeout):
            await run(live(fake))
        assert fake.counters()["creates"] == 1

    async def test_each_create_has_a_connection_of_its_own(self) -> None:
        """A kept connection may be closed at the moment of sending, and then nobody knows whether it was read."""
        kept = Reply(reply(body=orjson.dumps(prediction("succeeded"))).data, "stall")
        async with raw_server(kept) as server:
            upstream = ReplicateUpstream(ReplicateSpec("r", f"http://127.0.0.1:{server.port}"), MemoryKeyValue())
            for _ in range(3):
                await upstream.run(make_job(), lambda _: None)
            await upstream.aclose()
            assert server.connections == len(server.requests) == 3
            assert all(b"connection: close" in request.lower() for request in server.requests)

    async def test_connection_that_does_not_come_about_is_tried_twice(self) -> None:
        script = Script(create=(httpx.ConnectError("refused"), prediction("succeeded")))
        assert (await run(scripted(script))).status == "succeeded"
        assert script.count("POST") == 2

    @pytest.mark.parametrize(
        ("error", "raised"),
        [(httpx.ConnectError("refused"), UpstreamUnavailable), (httpx.ConnectTimeout("slow"), UpstreamTimeout)],
    )
    async def test_and_no_more(self, error: Exception, raised: type[HotplateError]) -> None:
        script = Script(create=error)
        with pytest.raises(raised):
            await run(scripted(script))
        assert script.count("POST") == 2

    @pytest.mark.parametrize(
        ("error", "raised"),
        [
            (httpx.ReadError("reset"), UpstreamUnavailable),
            (httpx.WriteError("reset"), UpstreamUnavailable),
            (httpx.RemoteProtocolError("odd"), UpstreamUnavailable),
            (httpx.ReadTimeout("slow"), UpstreamTimeout),
            (httpx.WriteTimeout("slow"), UpstreamTimeout),
        ],
    )
    async def test_any_other_error_ends_the_run(self, error: Exception, raised: type[HotplateError]) -> None:
        script = Script(create=error)
        with pytest.raises(raised):
            await run(scripted(script))
        assert script.count("POST") == 1

    async def test_nobody_listening_is_unavailable(self) -> None:
        async with raw_server() as server:
            base_url = f"http://127.0.0.1:{server.port}"
        with pytest.raises(UpstreamUnavailable):
            await run(ReplicateUpstream(ReplicateSpec("r", base_url), MemoryKeyValue()))


class TestRefusals:
    @pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 429, 500, 502, 503])
    async def test_refusal_is_handed_on_verbatim(self, status: int) -> None:
        body = b'{"title": "No",\n "detail":"\xc3\xa9" }'
        headers = {
            "content-type": "application/problem+json",
            "retry-after": "30",
            "ratelimit-remaining": "0",
            "ratelimit-reset": "9",
            "set-cookie": "a=b",
            "x-odd": "1",
        }
        script = Script(create=httpx.Response(status, headers=headers, content=body))
        with pytest.raises(UpstreamRefused) as refused:
            await run(scripted(script))
        assert (refused.value.status, refused.value.content) == (status, body)
        assert dict(refused.value.headers) == {
            name: headers[name] for name in ("content-type", "retry-after", "ratelimit-remaining", "ratelimit-reset")
        }
        assert script.count("POST") == 1

    async def test_real_refusals_arrive(self, fake: FakeModel) -> None:
        upstream = live(fake)
        for job, status in (
            (Job("job", PIXEL, "hidden", {}, CREDENTIAL), 422),
            (Job("job", PIXEL, "hidden", {"prompt": "x"}, Credential("r8_wrong")), 401),
            (Job("job", PIXEL, "hidden", {"prompt": "x"}, None), 401),
            (make_job(ModelTarget("no", "such")), 404),
            (make_job(ModelTarget("", "", "0" * 64)), 422),
        ):
            with pytest.raises(UpstreamRefused) as refused:
                await upstream.run(job, lambda _: None)
            assert refused.value.status == status
            assert orjson.loads(refused.value.content)["status"] == status
        fake.fault("throttle", "create", retry_after_s=17)
        with pytest.raises(UpstreamRefused) as refused:
            await upstream.run(make_job(), lambda _: None)
        assert refused.value.status == 429
        assert ("retry-after", "17") in refused.value.headers
        await upstream.aclose()

    @pytest.mark.parametrize(
        "answer",
        [
            httpx.Response(302, headers={"location": "https://evil.test/"}),
            httpx.Response(200, content=b"<html>"),
            httpx.Response(200, content=b""),
            httpx.Response(200, json=[]),
            httpx.Response(200, json={"status": "starting"}),
            httpx.Response(200, json=prediction() | {"id": "../account"}),
            httpx.Response(200, json=prediction() | {"id": 7}),
            httpx.Response(200, json=prediction() | {"status": None}),
        ],
    )
    async def test_answer_that_is_no_prediction_is_unavailable(self, answer: httpx.Response) -> None:
        script = Script(create=answer)
        with pytest.raises(UpstreamUnavailable):
            await run(scripted(script))
        assert len(script.requests) == 1


class TestPolling:
    async def test_pauses_grow_to_a_cap_and_begin_anew_with_a_new_status(self) -> None:
        time = Time()
        looks = [prediction()] * 8 + [prediction("processing")] * 3
        await run(scripted(Script(*looks, prediction("succeeded")), time))
        growing = [0.25, 0.375, 0.5625, 0.84375, 1.265625, 1.8984375, 2.0, 2.0, 2.0]
        assert time.pauses == [*growing, 0.25, 0.375, 0.5625]
        assert (FIRST_S, CAP_S) == (0.25, 2.0)

    async def test_retry_after_is_honoured_up_to_a_minute(self) -> None:
        time = Time()
        throttled = [httpx.Response(429, headers={"retry-after": after}) for after in ("7", "3600", "soon")]
        dated = httpx.Response(503, headers={"retry-after": "Thu, 01 Jan 1970 00:20:00 GMT"})
        await run(scripted(Script(*throttled, dated, prediction("succeeded")), time))
        assert time.pauses == pytest.approx([0.25, 7.0, 60.0, 2.0, 60.0], rel=0.25)

    async def test_troubles_on_the_way_are_borne(self) -> None:
        troubles: Sequence[object] = [
            httpx.ConnectError("refused"),
            httpx.ReadTimeout("slow"),
            httpx.RemoteProtocolError("odd"),
            httpx.Response(500),
            httpx.Response(429),
            httpx.Response(200, content=b'{"id": "7k2'),
            httpx.Response(200, json=prediction("succeeded", output="another's") | {"id": "other"}),
            httpx.Response(404),
        ]
        script = Script(*troubles, prediction("succeeded", output="mine"))
        assert (await run(scripted(script))).output == "mine"
        assert script.count("POST") == 1

    @pytest.mark.parametrize("status", [401, 403, 404])
    async def test_refusals_that_no_waiting_mends_end_a_run_after_seconds(self, status: int) -> None:
        script, time = Script(httpx.Response(status)), Time()
        with pytest.raises(UpstreamUnavailable):
            await run(scripted(script, time))
        assert script.count("GET") == MAX_REFUSALS
        assert script.count("POST", "/cancel") == 1
        assert 3.0 < time.at - 1000.0 < 10.0

    async def test_count_of_refusals_begins_anew_after_any_other_answer(self) -> None:
        refused = [httpx.Response(404)] * (MAX_REFUSALS - 1)
        script = Script(*refused, prediction(), *refused, httpx.Response(502), *refused, prediction("succeeded"))
        assert (await run(scripted(script))).status == "succeeded"

    @pytest.mark.parametrize(
        "trouble", [httpx.Response(503), httpx.ConnectError("refused"), httpx.Response(200, content=b"<html>")]
    )
    async def test_run_in_flight_lives_through_an_outage_of_the_api(self, trouble: object) -> None:
        """It costs money already. An outage of a minute once ended it, after thirty looks without an answer."""

        class Outage(Script):
            async def __call__(self, request: httpx.Request) -> httpx.Response:
                if request.method == "GET" and 1010 < time.at < 1910:
                    self.requests.append(request)
                    if isinstance(trouble, Exception):
                        raise trouble
                    assert isinstance(trouble, httpx.Response)
                    return trouble
                if time.at > 1900:
                    self.looks = [prediction("succeeded", output="after all")]
                return await super().__call__(request)

        time, script = Time(), Outage(prediction("processing"))
        assert (await run(scripted(script, time))).output == "after all"
        assert script.count("POST") == 1
        assert time.at - 1910 <= FAILED_CAP_S * 1.25, "its end is noticed soon after the outage"
        assert script.count("GET") < 90, "an API that is away is not beset"

    async def test_outage_without_an_end_is_the_run_s_deadline(self) -> None:
        script, time = Script(httpx.ReadTimeout("slow")), Time()
        with pytest.raises(UpstreamTimeout):
            await run(scripted(script, time, deadline_s=600.0))
        assert time.at == pytest.approx(1600.0)
        assert script.count("POST", "/cancel") == 1

    async def test_model_that_is_known_is_noticed_when_it_usually_ends(self) -> None:
        """Its runs take 40 s: few looks before, and one soon after."""

        class Steady(Script):
            began_at = 0.0

            async def __call__(self, request: httpx.Request) -> httpx.Response:
                has_ended = time.at >= self.began_at + 40.0
                done = {"completed_at": "2026-02-01T10:00:40.120Z", "started_at": "2026-02-01T10:00:00.120Z"}
                self.looks = [prediction("succeeded" if has_ended else "processing", **done)]
                return await super().__call__(request)

        time = Time()
        script = Steady()
        upstream = scripted(script, time)
        looks, late_s = [], []
        for _ in range(4):
            script.began_at, script.requests = time.at, []
            await upstream.run(make_job(), lambda _: None)
            looks.append(script.count("GET"))
            late_s.append(time.at - script.began_at - 40.0)
        await upstream.aclose()
        assert late_s[-1] <= 0.8
        assert looks[-1] < 22 <= looks[0]

    async def test_deadline_ends_and_cancels_the_run(self) -> None:
        script, time = Script(prediction("processing")), Time()
        with pytest.raises(UpstreamTimeout):
            await run(scripted(script, time, deadline_s=60.0))
        assert time.at == pytest.approx(1060.0)
        assert script.count("POST", f"/predictions/{ID}/cancel") == 1

    async def test_processing_with_all_files_is_not_the_end(self) -> None:
        early = prediction("processing", output=[PICTURE])
        done = prediction("succeeded", output=[PICTURE], metrics={"predict_time": 1.5})
        script = Script(early, done, create=early)
        assert (await run(scripted(script))).metrics == {"predict_time": 1.5}

    async def test_news_is_told_once_each(self) -> None:
        news: list[Progress] = []
        working = prediction("processing", logs="1/2\n")
        looks = [prediction(), working, working, prediction("processing", logs="1/2\n2/2\n"), prediction("succeeded")]
        await run(scripted(Script(*looks)), news=news)
        assert [(each.status, each.logs) for each in news] == [
            ("starting", ""),
            ("processing", "1/2\n"),
            ("processing", "1/2\n2/2\n"),
        ]
        assert {(each.upstream_id, each.web_url) for each in news} == {(ID, f"https://replicate.com/p/{ID}")}

    async def test_growing_output_is_news_and_is_looked_at_often(self) -> None:
        news: list[Progress] = []
        time, words = Time(), ["a", "red", "fox"]
        growing = [prediction("processing", output=words[:count]) for count in (1, 2, 2, 3)]
        await run(
            scripted(Script(*([prediction("processing")] * 6), *growing, prediction("succeeded")), time), news=news
        )
        assert [each.output for each in news] == [None, None, words[:1], words[:2], words]
        assert time.pauses[-4:] == [0.5, 0.5, 0.75, 0.5]

    async def test_output_of_an_ended_run_is_no_progress(self) -> None:
        news: list[Progress] = []
        await run(scripted(Script(create=prediction("succeeded", output="whole"))), news=news)
        assert [(each.status, each.output) for each in news] == [("processing", None)]

    @pytest.mark.parametrize(
        ("wants_s", "status", "answer", "has_all_files"),
        [
            (5.0, 201, prediction("processing", output=[PICTURE]), True),
            (5.0, 202, prediction("processing", output=[PICTURE]), False),  # the wait ran out: perhaps a part
            (0.0, 201, prediction("processing", output=[PICTURE]), False),
            (5.0, 201, prediction("processing"), False),
            (5.0, 201, prediction("starting"), False),
            (5.0, 201, prediction("succeeded", output=[PICTURE]), False),
        ],
    )
    async def test_waiting_create_answered_before_the_end_has_all_files(
        self, wants_s: float, status: int, answer: dict[str, Any], has_all_files: bool
    ) -> None:
        news: list[Progress] = []
        script = Script(prediction("succeeded", output=[PICTURE]), create=httpx.Response(status, json=answer))
        await run(scripted(script), make_job(wants_s=wants_s), news=news)
        assert [each.has_all_files for each in news] == [has_all_files]

    async def test_long_start_is_told_as_a_boot(self) -> None:
        news: list[Progress] = []
        looks = [prediction()] * 8 + [prediction("processing"), prediction("succeeded")]
        await run(scripted(Script(*looks)), news=news)
        assert [(each.status, each.is_booting) for each in news] == [
            ("starting", False),
            ("starting", True),
            ("processing", False),
        ]

    async def test_polls_of_the_double_survive_its_faults(self, fake: FakeModel) -> None:
        for kind in ("drop-rst", "drop-fin", "malformed", "truncated", "encoded", "status", "throttle"):
            fake.fault(kind, "poll")
        time = Time()
        upstream = ReplicateUpstream(ReplicateSpec("r", fake.base_url), MemoryKeyValue(), sleep=time.sleep, clock=time)
        assert (await run(upstream)).status == "succeeded"
        assert fake.counters()["creates"] == 1


class TestOutcome:
    @pytest.mark.parametrize(
        ("started_at", "boot_s"),
        [
            ("2026-02-01T10:00:01.020Z", 0.0),
            ("2026-02-01T10:00:03.119Z", 0.0),
            ("2026-02-01T10:01:00.120Z", 60.0),
            ("2026-02-01T12:01:00.120+02:00", 60.0),
            ("2026-02-01T09:59:00.120Z", 0.0),
            ("2026-02-01T10:01:00", 0.0),
            ("yesterday", 0.0),
            (None, 0.0),
            (17, 0.0),
        ],
    )
    async def test_boot_is_a_long_wait_by_the_api_s_own_clock(self, started_at: object, boot_s: float) -> None:
        ended = prediction("succeeded", started_at=started_at, completed_at="2026-02-01T13:00:00Z")
        assert (await run(scripted(Script(create=ended)))).boot_s == pytest.approx(boot_s)

    async def test_times_are_the_api_s(self) -> None:
        ended = prediction("succeeded", started_at="2026-02-01T10:00:01Z", completed_at="2026-02-01T10:00:03.5Z")
        outcome = await run(scripted(Script(create=ended)))
        assert (outcome.started_at, outcome.completed_at) == (1769940001.0, 1769940003.5)

    async def test_times_that_it_does_not_tell_are_now(self) -> None:
        outcome = await run(scripted(Script(create=prediction("canceled"))))
        assert (outcome.status, outcome.started_at, outcome.completed_at) == ("canceled", 1000.0, 1000.0)

    async def test_metrics_are_numbers(self) -> None:
        metrics = {"predict_time": 0.5, "tokens": 7, "word": "x", "flag": True, "none": None, "list": [1]}
        outcome = await run(scripted(Script(create=prediction("succeeded", metrics=metrics))))
        assert outcome.metrics == {"predict_time": 0.5, "tokens": 7}

    async def test_odd_fields_do_no_harm(self) -> None:
        odd = prediction("aborted", error={"code": 1}, logs=None, metrics=[], urls=None)
        outcome = await run(scripted(Script(create=odd)))
        assert (outcome.status, outcome.error, outcome.logs, outcome.metrics, outcome.web_url) == (
            "aborted",
            '{"code":1}',
            "",
            {},
            None,
        )

    async def test_removed_data_are_no_result(self) -> None:
        with pytest.raises(UpstreamUnavailable):
            await run(scripted(Script(create=prediction("succeeded", data_removed=True))))


class TestCancelling:
    async def test_cancelling_a_run_cancels_it_upstream(self, fake: FakeModel) -> None:
        fake.hold()
        upstream = live(fake)
        begun = asyncio.Event()
        task = asyncio.create_task(upstream.run(make_job(), lambda _: begun.set()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert fake.counters()["cancels"] == 1
        await upstream.aclose()

    async def test_run_whose_create_is_on_its_way_is_cancelled_when_that_is_answered(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("proxy.upstreams.replicate.CANCEL_TIMEOUT_S", 0.05)
        monkeypatch.setattr("proxy.upstreams.replicate.WITHDRAWAL_S", 0.05)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        script = Script(create=answer)
        upstream = scripted(script)
        task = asyncio.create_task(upstream.run(make_job(), lambda _: None))
        await until(lambda: bool(script.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert script.count("POST", "/cancel") == 0
        answer.set_result(prediction())
        await upstream.aclose()
        assert script.count("POST", "/cancel") == 1
        assert script.count("POST") == 2

    async def test_closing_does_not_wait_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("proxy.upstreams.replicate.CANCEL_TIMEOUT_S", 0.05)
        monkeypatch.setattr("proxy.upstreams.replicate.WITHDRAWAL_S", 0.05)
        script = Script(create=asyncio.get_running_loop().create_future())
        upstream = scripted(script)
        task = asyncio.create_task(upstream.run(make_job(), lambda _: None))
        await until(lambda: bool(script.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await upstream.aclose()

    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            (prediction("canceled", metrics={"predict_time": 0.75}), [("canceled", 0.75)]),
            (prediction("succeeded", metrics={"predict_time": 1.5}), [("succeeded", 1.5)]),
            (prediction("processing"), []),
            (httpx.Response(500), []),
            (httpx.ReadError("reset"), []),
        ],
    )
    async def test_end_of_a_cancelled_run_is_told_where_the_api_tells_it(
        self, answer: object, told: list[tuple[str, float]]
    ) -> None:
        script = Script(prediction("processing"), cancel=answer)
        ends: list[Outcome] = []
        begun = asyncio.Event()
        job = replace(make_job(), tell_end=ends.append)
        task = asyncio.create_task(scripted(script).run(job, lambda _: begun.set()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [(end.status, end.metrics["predict_time"]) for end in ends] == told

    @pytest.mark.parametrize("trouble", [httpx.ReadTimeout("slow"), httpx.Response(503)])
    async def test_cancellation_that_was_not_heard_is_said_again(self, trouble: object) -> None:
        """On a busy machine one was lost: the run went on to its end, and was paid for."""
        script = Script(prediction("processing"))
        script.cancels = [trouble, trouble, prediction("canceled", metrics={"predict_time": 0.75})]
        ends: list[Outcome] = []
        begun = asyncio.Event()
        task = asyncio.create_task(
            scripted(script).run(replace(make_job(), tell_end=ends.append), lambda _: begun.set())
        )
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert script.count("POST", "/cancel") == 3
        assert [end.status for end in ends] == ["canceled"]

    async def test_end_of_a_cancelled_run_that_is_told_later_is_looked_for(self) -> None:
        script = Script(prediction("processing"), cancel=prediction("processing"))
        ends: list[Outcome] = []
        begun = asyncio.Event()
        task = asyncio.create_task(
            scripted(script).run(replace(make_job(), tell_end=ends.append), lambda _: begun.set())
        )
        await begun.wait()
        script.looks = [prediction("processing"), prediction("canceled")]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert script.count("POST", "/cancel") == 1
        assert [end.status for end in ends] == ["canceled"]

    async def test_run_that_had_ended_is_left_alone(self) -> None:
        script = Script(create=prediction("succeeded", data_removed=True))
        with pytest.raises(UpstreamUnavailable):
            await run(scripted(script))
        assert script.count("POST", "/cancel") == 0

    async def test_cancellation_that_fails_hides_nothing(self) -> None:
        script = Script(httpx.Response(404), cancel=httpx.ReadError("reset"))
        with pytest.raises(UpstreamUnavailable, match="404"):
            await run(scripted(script))


class TestCheck:
    async def test_good_and_bad_tokens(self, fake: FakeModel) -> None:
        upstream = live(fake)
        assert await upstream.check(CREDENTIAL) == Verdict(is_accepted=True, account=Account("user", "alice"))
        verdict = await upstream.check(Credential("r8_wrong"))
        assert verdict.is_accepted is False
        assert verdict.refusal is not None
        status, content_type, body = verdict.refusal
        assert (status, content_type) == (401, "application/json; charset=utf-8")
        assert orjson.loads(body)["detail"] == "You did not pass a valid authentication token"
        await upstream.aclose()

    @pytest.mark.parametrize(
        ("answer", "is_accepted"),
        [
            (httpx.Response(200, json={"username": "alice"}), True),
            (httpx.Response(200, content=b"odd"), True),
            (httpx.Response(401), False),
            (httpx.Response(403), False),
            (httpx.Response(302, headers={"location": "/"}), None),
            (httpx.Response(404), None),
            (httpx.Response(405), None),
            (httpx.Response(429), None),
            (httpx.Response(500), None),
            (httpx.ConnectError("refused"), None),
            (httpx.ReadTimeout("slow"), None),
            (httpx.RemoteProtocolError("odd"), None),
        ],
    )
    async def test_only_clear_answers_are_verdicts(self, answer: object, is_accepted: bool | None) -> None:
        assert (await scripted(Script(answer)).check(CREDENTIAL)).is_accepted is is_accepted

    @pytest.mark.parametrize(
        ("answer", "is_silent"),
        [
            (httpx.Response(404), True),
            (httpx.Response(302, headers={"location": "/"}), True),
            (httpx.Response(429), False),
            (httpx.Response(503), False),
            (httpx.ReadTimeout("slow"), False),
        ],
    )
    async def test_api_without_accounts_is_told_from_one_that_is_away(self, answer: object, is_silent: bool) -> None:
        assert (await scripted(Script(answer)).check(CREDENTIAL)).is_silent is is_silent

    async def test_every_refusal_is_heard_whatever_asked_for_it(self, fake: FakeModel) -> None:
        upstream = live(fake)
        heard: list[str] = []
        upstream.on_refusal = heard.append
        wrong = Credential("r8_wrong")
        await upstream.check(CREDENTIAL)
        assert heard == []
        await upstream.check(wrong)
        for method, path in (("GET", "/trainings"), ("POST", "/deployments")):
            request = RelayRequest(method, path, "", [], nothing(), has_body=False)
            await close(await upstream.relay(request, wrong))
        assert heard == ["r8_wrong"] * 3
        await upstream.aclose()

    async def test_token_that_cannot_stand_in_a_header_is_not_asked_about(self) -> None:
        script = Script()
        for token in ("", "a b", "a\nb", "\u00e9"):
            assert (await scripted(script).check(Credential(token))).is_accepted is False
        assert script.requests == []

    async def test_silence_is_bounded(self, fake: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicate_client, "CHECK_TIMEOUT_S", 0.1)
        fake.fault("stall", "account")
        upstream = live(fake)
        assert (await upstream.check(CREDENTIAL)).is_accepted is None
        await upstream.aclose()


class TestReadiness:
    async def test_any_answer_is_readiness(self, fake: FakeModel) -> None:
        upstream = live(fake)
        assert (await upstream.readiness()).state == "warm"
        await upstream.aclose()

    @pytest.mark.parametrize(
        ("answer", "state"),
        [
            (httpx.Response(401), "warm"),
            (httpx.Response(503), "degraded"),
            (httpx.ConnectError("refused"), "down"),
            (httpx.ReadTimeout("slow"), "down"),
        ],
    )
    async def test_answers_and_silence(self, answer: object, state: str) -> None:
        script = Script(answer)
        assert (await scripted(script).readiness()).state == state
        assert "authorization" not in script.requests[0].headers

    async def test_silence_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicate_client, "READINESS_TIMEOUT_S", 0.1)
        async with raw_server(Reply(end="stall")) as server:
            upstream = ReplicateUpstream(ReplicateSpec("r", f"http://127.0.0.1:{server.port}"), MemoryKeyValue())
            assert (await upstream.readiness()).state == "down"
            await upstream.aclose()


async def test_stale_connection_does_not_disturb_a_poll() -> None:
    """Reads go over kept connections; one that the API closed meanwhile is replaced unseen."""
    once = reply(body=orjson.dumps({"username": "alice"}))  # says it would be kept, then closes
    async with raw_server(once) as server:
        spec = ReplicateSpec("r", f"http://127.0.0.1:{server.port}")
        upstream = ReplicateUpstream(spec, MemoryKeyValue(), reads=AiohttpTransport(reuses_connections=True))
        for _ in range(3):
            assert (await upstream.check(CREDENTIAL)).is_accepted
        await upstream.aclose()
