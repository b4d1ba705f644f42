from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from proxy.core.errors import Overloaded, UpstreamUnavailable
from proxy.core.ids import IdMint, PredictionId
from proxy.core.outputs import encode_data_url
from proxy.core.telling import decode_log
from proxy.engine import hub as hub_module
from proxy.engine import streams as streams_module
from proxy.engine.journal import INTERRUPTED
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from proxy.upstreams.base import Credential, ModelDescription
from storage.errors import StorageUnavailable
from storage.records import ResultRecord
from tests.fakes.engine import BASE, OTHER_TOKEN, TOKEN, Engine, png
from tests.fakes.streaming import FILE_STREAM, TEXT_STREAM, Reader, StreamingUpstream
from tests.fakes.upstreams import DELIVERY, VERSION

pytestmark = pytest.mark.anyio

POEM = {"prompt": "a poem", "seed": 1}
OUT, OTHER = f"{DELIVERY}/out-0.png", f"{DELIVERY}/out-1.png"
DONE = ("done", "{}")
CANCELED = ("done", '{"reason":"canceled"}')


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


class Stage:
    """An engine in front of an upstream whose run the test tells."""

    def __init__(self, stream_url: str | None = TEXT_STREAM, kind: Any = "replicate", **options: Any) -> None:
        self.engine = Engine(**options)
        self.upstream = StreamingUpstream(self.engine.clock, stream_url=stream_url, kind=kind)
        self.engine.upstream = self.upstream
        self.engine.egress.serve(OUT, png())
        self.engine.egress.serve(OTHER, png("blue"))

    async def begin(self, given: Any = POEM, **how: Any) -> Running:
        entry = await self.engine.create(given, **how)
        assert isinstance(entry, Running)
        return entry

    def read(self, prediction: Running | PredictionId, last_event_id: str | None = None) -> Reader:
        return Reader(self.engine.streams, self.engine.stream_name(prediction), last_event_id)

    async def hit(self, given: Any = POEM) -> PredictionId:
        hit = await self.engine.create(given)
        assert isinstance(hit, Hit)
        return hit.id

    async def record(self, entry: Running) -> ResultRecord:
        landed = await entry.flight.finished(5)
        assert landed is not None
        assert landed.record is not None
        return landed.record

    def address(self, place: int, record: ResultRecord) -> str:
        return self.engine.renderer.address(record.files[place], record.scope)


# -- live ----------------------------------------------------------------------------------------------


async def test_events_are_told_as_they_come_while_the_run_goes_on() -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    (stream,) = stage.upstream.connections
    assert stream.url == TEXT_STREAM
    stream.say(("7:0", "logs", "step 1\n"), ("7:1", "output", "Once "))
    await settle()
    assert reader.said == [("logs", "step 1\n"), ("output", "Once ")]
    assert entry.flight.landed is None
    stream.say(("7:2", "output", "upon"), ("7:3", "done", "{}"))
    await reader.end()
    assert reader.said[2:] == [("output", "upon"), DONE]
    assert stream.is_closed
    began = int(entry.flight.started_at)
    assert reader.ids == [f"{began}:{place}" for place in range(4)]
    stage.upstream.succeed(["Once ", "upon"])
    await entry.flight.finished(5)


async def test_stream_is_opened_by_the_first_listener_and_read_once_for_all_sharers() -> None:
    stage = Stage()
    first, second = await stage.begin(), await stage.begin()
    assert second.is_follower
    await settle()
    assert not stage.upstream.connections
    one = stage.read(first)
    await settle()
    (stream,) = stage.upstream.connections
    stream.say(("7:0", "output", "a"))
    await settle()
    late = stage.read(second)
    stream.say(("7:1", "output", "b"), ("7:2", "done", "{}"))
    await one.end()
    await late.end()
    assert one.events == late.events
    assert len(stage.upstream.connections) == 1
    assert stream.credential is not None
    stage.upstream.succeed(["a", "b"])
    await first.flight.finished(5)


async def test_reader_goes_on_after_the_last_event_it_has_seen() -> None:
    stage = Stage()
    entry = await stage.begin()
    gone = stage.read(entry)
    await settle()
    (stream,) = stage.upstream.connections
    stream.say(("7:0", "output", "a"), ("7:1", "output", "b"))
    await settle()
    await gone.leave()
    stream.say(("7:2", "output", "c"))
    back = stage.read(entry, gone.ids[0])
    stream.say(("7:3", "done", "{}"))
    await back.end()
    assert back.said == [("output", "b"), ("output", "c"), DONE]
    assert len(stage.upstream.connections) == 1
    stage.upstream.succeed(["a", "b", "c"])
    await entry.flight.finished(5)


async def test_reader_that_leaves_disturbs_neither_the_run_nor_others() -> None:
    stage = Stage()
    entry = await stage.begin()
    leaving, staying = stage.read(entry), stage.read(entry)
    await settle()
    await leaving.leave()
    (stream,) = stage.upstream.connections
    stream.say(("7:0", "output", "a"), ("7:1", "done", "{}"))
    await staying.end()
    stage.upstream.succeed(["a"])
    assert (await stage.record(entry)).output == ["a"]
    assert not stage.upstream.canceled


async def test_silent_stream_has_a_heartbeat() -> None:
    stage = Stage(heartbeat_s=0.02)
    entry = await stage.begin()
    reader = stage.read(entry)
    await asyncio.sleep(0.1)
    assert reader.heartbeats >= 2
    stage.upstream.connections[0].say(("7:0", "done", "{}"))
    await reader.end()
    assert reader.said == [DONE]
    stage.upstream.succeed("")
    await entry.flight.finished(5)


async def test_events_that_clients_do_not_know_are_left_out() -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].write(b"event: metrics\nid: 7:0\ndata: x\n\ndata: unnamed\n\n")
    stage.upstream.connections[0].say(("7:1", "done", "{}"))
    await reader.end()
    assert reader.said == [DONE]
    stage.upstream.succeed(None)
    await entry.flight.finished(5)


async def test_upstream_s_own_failure_is_relayed() -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(("7:0", "error", '{"detail":"no"}'), ("7:1", "done", '{"reason":"error"}'))
    await reader.end()
    stage.upstream.fail("no")
    await entry.flight.finished(5)
    again = await stage.read(entry).end()
    assert again.events == reader.events


# -- files ---------------------------------------------------------------------------------------------


async def test_file_is_told_under_this_proxy_s_address_once_it_is_here() -> None:
    stage = Stage(FILE_STREAM)
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(("7:0", "output", OUT), ("7:1", "output", OTHER), ("7:2", "done", "{}"))
    await reader.end()
    assert all(data.startswith(f"{BASE}/outputs/") for _, data in reader.said[:2])
    assert DELIVERY not in str(reader.said)
    stage.upstream.succeed([OUT, OTHER])
    record = await stage.record(entry)
    assert [data for _, data in reader.said[:2]] == [stage.address(0, record), stage.address(1, record)]
    assert all([await stage.engine.blobs.has(file.blob) for file in record.files])


async def test_files_that_come_as_data_urls_have_the_addresses_of_the_result() -> None:
    stage = Stage(FILE_STREAM)
    inline = [encode_data_url("image/png", png(color)) for color in ("red", "green")]
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stream = stage.upstream.connections[0]
    stream.say(("7:0", "output", inline[0]), ("7:1", "output", inline[1]), ("7:2", "done", "{}"))
    await reader.end()
    stage.upstream.succeed(inline)
    record = await stage.record(entry)
    assert [data for _, data in reader.said[:2]] == [stage.address(0, record), stage.address(1, record)]


async def test_files_inside_of_an_object_are_told_one_by_one_and_never_under_the_upstream_s_address() -> None:
    stage = Stage(FILE_STREAM)
    output = {"image": OUT, "seed": 7, "more": [OTHER]}
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(("7:0", "output", orjson.dumps(output).decode()), ("7:1", "done", "{}"))
    await reader.end()
    stage.upstream.succeed(output)
    record = await stage.record(entry)
    assert reader.said == [("output", stage.address(0, record)), ("output", stage.address(1, record)), DONE]
    assert record.stream_log is not None
    assert (await stage.read(await stage.hit()).end()).events == reader.events


@pytest.mark.parametrize("data", ['{"seed": 7}', "[1, 2", "{", "[citation needed]"])
async def test_text_that_looks_like_json_stays_as_it_is(data: str) -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(("7:0", "output", data), ("7:1", "done", "{}"))
    await reader.end()
    assert reader.said == [("output", data), DONE]
    stage.upstream.succeed(data)
    await entry.flight.finished(5)


async def test_over_plain_http_files_are_told_as_data_urls() -> None:
    stage = Stage(FILE_STREAM, base_url="http://127.0.0.1:8484")
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(("7:0", "output", OUT), ("7:1", "done", "{}"))
    await reader.end()
    assert reader.said[0][1].startswith("data:image/png;base64,")
    stage.upstream.succeed([OUT])
    await entry.flight.finished(5)


async def test_file_that_cannot_be_had_keeps_its_url_and_nothing_is_stored() -> None:
    stage = Stage(FILE_STREAM)
    stage.engine.egress.answers.pop(OUT)
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(("7:0", "output", OUT), ("7:1", "done", "{}"))
    await reader.end()
    assert reader.said[0] == ("output", OUT)
    stage.upstream.succeed([OUT])
    landed = await entry.flight.finished(5)
    assert landed is not None
    assert not landed.is_stored


# -- replay --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_hit_replays_the_events_of_the_miss(is_restarted: bool) -> None:
    stage = Stage()
    entry = await stage.begin()
    live = stage.read(entry)
    await settle()
    stream = stage.upstream.connections[0]
    stream.say(("7:0", "output", "On"), ("7:1", "logs", "x\n"), ("7:2", "output", "ce"), ("7:3", "done", "{}"))
    await live.end()
    stage.upstream.succeed(["Once"], logs="x\n")
    record = await stage.record(entry)
    assert record.stream_log is not None
    if is_restarted:
        stage.engine = await stage.engine.restarted()
    replayed = await stage.read(await stage.hit()).end()
    assert replayed.events == live.events
    again = await stage.read(entry, live.ids[1]).end()
    assert again.events == live.events[2:]
    assert len(stage.upstream.connections) == 1


async def test_files_are_replayed_under_their_own_addresses_and_the_log_names_no_upstream() -> None:
    stage = Stage(FILE_STREAM)
    entry = await stage.begin()
    live = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(
        ("7:0", "output", OTHER), ("7:1", "logs", "x"), ("7:2", "output", OUT), ("7:3", "done", "{}")
    )
    await live.end()
    stage.upstream.succeed([OUT])
    record = await stage.record(entry)
    assert record.stream_log is not None
    data = await stage.engine.blobs.read(record.stream_log)
    assert data is not None
    assert b"replicate.delivery" not in data
    assert b"http" not in data
    stage.engine = await stage.engine.restarted()
    replayed = await stage.read(await stage.hit()).end()
    # The preview is no part of the result; the others keep the ids that the live reader saw.
    assert replayed.said == [("logs", "x"), ("output", stage.address(0, record)), DONE]
    assert replayed.ids == live.ids[1:]


async def test_result_without_a_log_is_told_from_output_and_logs() -> None:
    stage = Stage(FILE_STREAM)
    entry = await stage.begin()
    stage.upstream.succeed([OUT, OTHER], logs="step 1\n")
    record = await stage.record(entry)
    assert record.is_streamable
    assert record.stream_log is None
    expected = [
        ("logs", "step 1\n"),
        ("output", stage.address(0, record)),
        ("output", stage.address(1, record)),
        DONE,
    ]
    miss, hit = await stage.read(entry).end(), await stage.read(await stage.hit()).end()
    assert miss.said == expected
    assert hit.events == miss.events
    stage.engine = await stage.engine.restarted()
    assert (await stage.read(entry).end()).events == miss.events
    assert not stage.upstream.connections


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_lost_or_damaged_log_is_told_from_output_and_logs(is_damaged: bool) -> None:
    stage = Stage()
    entry = await stage.begin()
    live = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(("7:0", "output", "a"), ("7:1", "output", "b"), ("7:2", "done", "{}"))
    await live.end()
    stage.upstream.succeed(["ab"])
    record = await stage.record(entry)
    assert record.stream_log is not None
    stage.engine = await stage.engine.restarted()
    if is_damaged:
        stage.engine.blobs.replace_bytes(record.stream_log.digest, b"[" * record.stream_log.size_bytes)
    else:
        stage.engine.blobs.lose(record.stream_log.digest)
    assert (await stage.read(await stage.hit()).end()).said == [("output", "ab"), DONE]


async def test_reader_that_has_seen_the_end_is_not_told_it_again() -> None:
    stage = Stage()
    entry = await stage.begin()
    stage.upstream.succeed(["a"])
    await stage.record(entry)
    telling = await stage.engine.streams.find(stage.engine.stream_name(entry))
    assert telling is not None
    began = int(entry.flight.started_at)
    assert stage.engine.streams.is_spent(telling, f"{began}:1")
    assert not stage.engine.streams.is_spent(telling, f"{began}:0")
    assert not stage.engine.streams.is_spent(telling, "nonsense")
    assert not stage.engine.streams.is_spent(telling, None)


# -- streams that break off ----------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "REOPEN_AFTER_S", 0.0)
    monkeypatch.setattr(hub_module, "DONE_GRACE_S", 0.01)
    monkeypatch.setattr(hub_module, "LOG_WAIT_S", 0.01)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("heeds_last_id", [True, False])
@pytest.mark.parametrize("ending", ["cut", "end"])
async def test_broken_stream_is_opened_again_where_it_broke(heeds_last_id: bool, ending: str) -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    first = stage.upstream.connections[0]
    first.say(("7:0", "output", "a"), ("7:1", "output", "b"))
    getattr(first, ending)()
    await asyncio.sleep(0.05)
    second = stage.upstream.connections[1]
    assert second.last_event_id == "7:1"
    if not heeds_last_id:
        second.say(("7:0", "output", "a"), ("7:1", "output", "b"))
    second.say(("7:2", "output", "c"), ("7:3", "done", "{}"))
    await reader.end()
    assert reader.said == [("output", "a"), ("output", "b"), ("output", "c"), DONE]
    stage.upstream.succeed(["abc"])
    record = await stage.record(entry)
    assert record.stream_log is None, "the log of a cut stream was stored"


@pytest.mark.usefixtures("at_once")
async def test_stream_that_stays_broken_is_told_to_the_end_from_the_result() -> None:
    stage = Stage()
    stage.upstream.openings = [None, UpstreamUnavailable("gone")]
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(("7:0", "logs", "step 1\n"), ("7:1", "output", "Once "))
    stage.upstream.connections[0].cut()
    await asyncio.sleep(0.05)
    assert not reader.has_ended
    stage.upstream.succeed(["Once upon", " a time"], logs="step 1\nstep 2\n")
    await reader.end()
    assert reader.said == [
        ("logs", "step 1\n"),
        ("output", "Once "),
        ("logs", "step 2\n"),
        ("output", "upon"),
        ("output", " a time"),
        DONE,
    ]
    record = await stage.record(entry)
    assert record.stream_log is None
    assert (await stage.read(entry).end()).events == reader.events


@pytest.mark.usefixtures("at_once")
async def test_stream_without_ids_is_not_opened_again() -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].write(b"event: output\ndata: a\n\n")
    stage.upstream.connections[0].cut()
    await asyncio.sleep(0.05)
    assert len(stage.upstream.connections) == 1
    stage.upstream.succeed(["a", "b"])
    await reader.end()
    assert reader.said == [("output", "a"), ("output", "b"), DONE]


@pytest.mark.usefixtures("at_once")
async def test_what_contradicts_the_result_has_no_end() -> None:
    """The reader comes again and is told the result."""
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(("7:0", "output", "Twice"))
    await settle()
    stage.upstream.succeed(["Once"])
    await reader.end()
    assert reader.said == [("output", "Twice")]
    assert (await stage.read(entry).end()).said == [("output", "Once"), DONE]


@pytest.mark.usefixtures("at_once")
async def test_stream_that_says_nothing_of_the_end_ends_with_the_run() -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(("7:0", "output", "a"))
    stage.upstream.succeed(["a"])
    await reader.end()
    assert reader.said == [("output", "a"), DONE]
    assert stage.upstream.connections[0].is_closed
    assert (await stage.record(entry)).stream_log is None


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("opening", [404, 401, 302, 503, UpstreamUnavailable("refused")])
async def test_stream_that_cannot_be_opened_is_told_from_progress(opening: int | Exception) -> None:
    stage = Stage()
    stage.upstream.openings = [opening]
    entry = await stage.begin()
    reader = stage.read(entry)
    await asyncio.sleep(0.05)
    opened = len(stage.upstream.connections)
    assert opened == {404: 1, 401: 1, 302: 1, 503: hub_module.REOPENINGS + 1}.get(
        opening if type(opening) is int else 0, 0
    )
    stage.upstream.progress(["a"], logs="x\n")
    await settle()
    assert reader.said == [("logs", "x\n"), ("output", "a")]
    stage.upstream.succeed(["a", "b"], logs="x\n")
    await reader.end()
    assert reader.said[2:] == [("output", "b"), DONE]
    assert (await stage.record(entry)).stream_log is not None


@pytest.mark.usefixtures("at_once")
async def test_endless_line_gives_the_stream_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module.Parser.__init__, "__defaults__", (100, 100))
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    for _ in range(hub_module.REOPENINGS + 1):
        stage.upstream.connections[-1].write(b"data: " + b"x" * 200)
        await asyncio.sleep(0.01)
    stage.upstream.succeed(["a"])
    await reader.end()
    assert reader.said == [("output", "a"), DONE]


# -- without an upstream's stream ----------------------------------------------------------------------


async def test_cog_run_is_told_by_its_progress() -> None:
    stage = Stage(None, kind="cog")
    entry = await stage.begin()
    reader = stage.read(entry)
    stage.upstream.progress(["On"], logs="step 1\n")
    await settle()
    assert reader.said == [("logs", "step 1\n"), ("output", "On")]
    late = stage.read(entry)
    stage.upstream.progress(["On", "ce"], logs="step 1\nstep 2\n")
    stage.upstream.progress(["On", "ce"], logs="step 1\nstep 2\n")
    await settle()
    assert (
        late.said
        == reader.said
        == [
            ("logs", "step 1\n"),
            ("output", "On"),
            ("logs", "step 2\n"),
            ("output", "ce"),
        ]
    )
    stage.upstream.succeed(["On", "ce", "!"], logs="step 1\nstep 2\n")
    await reader.end()
    assert reader.said[4:] == [("output", "!"), DONE]


async def test_stream_told_from_progress_is_replayed_as_it_was_told() -> None:
    stage = Stage(None, kind="cog")
    entry = await stage.begin()
    reader = stage.read(entry)
    stage.upstream.progress(["On"], logs="a")
    await settle()
    stage.upstream.succeed(["On", "ce"], logs="ab")
    await reader.end()
    assert (await stage.record(entry)).stream_log is not None
    stage.engine = await stage.engine.restarted()
    assert (await stage.read(entry).end()).events == reader.events


async def test_growing_files_are_told_one_by_one() -> None:
    stage = Stage(None, kind="cog")
    entry = await stage.begin()
    reader = stage.read(entry)
    stage.upstream.progress([OUT])
    await settle()
    assert len(reader.said) == 1
    stage.upstream.progress([OUT, OTHER])
    await settle()
    stage.upstream.succeed([OUT, OTHER])
    await reader.end()
    record = await stage.record(entry)
    assert reader.said == [("output", stage.address(0, record)), ("output", stage.address(1, record)), DONE]


async def test_failed_run_says_why_and_that_it_is_over() -> None:
    stage = Stage(None, kind="cog")
    entry = await stage.begin()
    reader = stage.read(entry)
    stage.upstream.progress(["On"], logs="a\n")
    await settle()
    stage.upstream.fail("out of memory", logs="a\nb\n")
    await reader.end()
    assert reader.said[:3] == [("logs", "a\n"), ("output", "On"), ("logs", "b\n")]
    assert reader.said[4] == ("done", '{"reason":"error"}')
    assert orjson.loads(reader.said[3][1]) == {"detail": "out of memory"}
    late = await stage.read(entry).end()
    assert late.said[-1] == ("done", '{"reason":"error"}')
    stage.engine = await stage.engine.restarted()
    assert (await stage.read(entry).end()).said == [("logs", "a\nb\n"), *reader.said[3:]]


# -- cancelling ----------------------------------------------------------------------------------------


async def test_canceled_prediction_s_readers_are_told_while_the_others_go_on() -> None:
    stage = Stage()
    mine, yours = await stage.begin(), await stage.begin()
    my_reader, your_reader = stage.read(mine), stage.read(yours)
    await settle()
    stream = stage.upstream.connections[0]
    stream.say(("7:0", "output", "a"))
    await settle()
    await stage.engine.lives.cancel(mine.id, mine.scope)
    await my_reader.end()
    assert my_reader.said == [("output", "a"), CANCELED]
    stream.say(("7:1", "output", "b"), ("7:2", "done", "{}"))
    await your_reader.end()
    assert your_reader.said == [("output", "a"), ("output", "b"), DONE]
    assert (await stage.read(mine).end()).said == [CANCELED]
    stage.upstream.succeed(["a", "b"])
    await stage.record(yours)
    stage.engine = await stage.engine.restarted()
    assert (await stage.read(mine).end()).said == [CANCELED]
    assert (await stage.read(yours).end()).said == your_reader.said


@pytest.mark.usefixtures("at_once")
async def test_run_that_everybody_canceled_is_never_stored() -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(("7:0", "output", "a"))
    await settle()
    await stage.engine.lives.cancel(entry.id, entry.scope)
    await reader.end()
    assert reader.said == [("output", "a"), CANCELED]
    await entry.flight.finished(5)
    await asyncio.sleep(0.05)
    assert stage.engine.blobs.used_bytes == 0


# -- who may read --------------------------------------------------------------------------------------


async def test_stream_of_an_id_that_names_nothing_is_missing() -> None:
    stage = Stage()
    for text in ("x2fmfzfcf5rma4cq65c725tcbm", "a" * 26):
        assert (await stage.read(PredictionId(text)).end()).is_missing


async def test_id_whose_number_names_another_s_result_finds_nothing() -> None:
    """The address proves that the id was made here; its scope still is compared with what its number leads to."""
    stage = Stage()
    entry = await stage.begin()
    stage.upstream.succeed(["a"])
    record = await stage.record(entry)
    other = stage.engine.request(token=OTHER_TOKEN).scope
    forged = IdMint(stage.engine.secrets).mint(record.record_id, other, record.created_at)
    name = stage.engine.stream_name(forged)
    assert stage.engine.stream_book.fits(name, record.scope)
    path = stage.engine.stream_book.path(forged, other, makes_files=False)
    theirs = stage.engine.stream_book.verify(path.rpartition("/")[2])
    assert theirs is not None
    assert await stage.engine.streams.find(theirs) is None
    stale = IdMint(stage.engine.secrets).mint(record.record_id, entry.scope, record.created_at - 7200)
    await stage.engine.journal.drain()
    assert (await stage.read(stale).end()).is_missing


async def test_predictions_say_where_they_are_streamed() -> None:
    for url, prefix in ((TEXT_STREAM, "streams"), (FILE_STREAM, "files")):
        stage = Stage(url)
        entry = await stage.begin()
        shown = (await stage.engine.views.of(entry)).stream_url
        assert shown is not None
        assert shown.startswith(f"{BASE}/v1/{prefix}/{entry.id}-")
        name = stage.engine.stream_book.verify(shown.rpartition("/")[2])
        assert name is not None
        assert name.id == entry.id
        stage.upstream.succeed(["a"] if prefix == "streams" else [OUT])
        await stage.record(entry)
        after = await stage.engine.views.of(entry)
        assert after.stream_url == shown
        stage.engine = await stage.engine.restarted()
        found = await stage.engine.views.find(entry.id, entry.scope)
        assert found is not None
        assert found.stream_url == shown


async def test_api_without_streams_offers_none() -> None:
    stage = Stage(None)
    entry = await stage.begin()
    assert (await stage.engine.views.of(entry)).stream_url is None
    stage.upstream.succeed([OUT])
    record = await stage.record(entry)
    assert not record.is_streamable
    hit = await stage.engine.create(POEM)
    assert isinstance(hit, Hit)
    document = orjson.loads(hit.template.fill(hit.id, hit.input_json, hit.created_at))
    assert "stream" not in document["urls"]


@pytest.mark.parametrize(
    ("output", "prefix"),
    [
        ({"type": "array", "items": {"type": "string", "format": "uri"}}, "files"),
        ({"type": "string"}, "streams"),
        ({"title": "Output"}, "files"),
        (None, "files"),
    ],
)
async def test_cog_model_s_schema_says_what_its_stream_holds(output: Any, prefix: str) -> None:
    stage = Stage(None, kind="cog")
    openapi = None if output is None else {"components": {"schemas": {"Output": output}}}
    stage.upstream.description = ModelDescription("a/b", VERSION, is_pinned=True, schema=None, openapi=openapi)
    shown = (await stage.engine.views.of(await stage.begin())).stream_url
    assert shown is not None
    assert shown.startswith(f"{BASE}/v1/{prefix}/")
    stage.upstream.succeed(None)


async def test_lost_run_says_so() -> None:
    stage = Stage(None, kind="cog")
    entry = await stage.begin()
    await stage.engine.journal.drain()
    stage.engine = await stage.engine.restarted()
    reader = await stage.read(entry).end()
    assert orjson.loads(reader.said[0][1]) == {"detail": INTERRUPTED}
    assert reader.said[1] == ("done", '{"reason":"error"}')


async def test_stream_of_removed_data_is_missing() -> None:
    stage = Stage()
    entry = await stage.begin()
    stage.upstream.succeed(["a"])
    record = await stage.record(entry)
    await stage.engine.journal.drain()
    stage.engine = await stage.engine.restarted()
    await stage.engine.storage.results.remove(record.key)
    assert (await stage.read(entry).end()).is_missing


# -- a run that was taken up ---------------------------------------------------------------------------


async def test_run_of_a_former_process_is_relayed_once_its_stream_is_known() -> None:
    stage = Stage()
    entry = await stage.begin()
    await stage.engine.journal.drain()
    upstream, stage.engine = stage.upstream, await stage.engine.restarted()
    successor = Adopted(stage.engine.clock, stream_url=TEXT_STREAM)
    stage.engine.upstream = stage.upstream = successor
    stage.engine.resumption._upstreams = {successor.name: successor}
    await stage.engine.resumption.resume()
    reader = stage.read(entry)
    await settle()
    assert not successor.connections
    successor.progress(logs="x\n")
    await settle()
    successor.connections[0].say(("7:0", "logs", "x\n"), ("7:1", "output", "a"), ("7:2", "done", "{}"))
    await reader.end()
    assert reader.said == [("logs", "x\n"), ("output", "a"), DONE]
    successor.succeed(["a"])
    landed_entry = stage.engine.recent.any_running(entry.id)
    assert landed_entry is not None
    record = await stage.record(landed_entry)
    assert record.is_streamable
    assert record.stream_log is not None
    upstream.succeed(["a"])


class Adopted(StreamingUpstream):
    async def adopt(self, job: Any, upstream_id: str, report: Any) -> Any:
        self._report, self._end = report, asyncio.get_running_loop().create_future()
        return await self._end


# -- bounds --------------------------------------------------------------------------------------------


async def test_stream_that_is_too_long_is_dropped_and_told_from_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MAX_LINES_BYTES", 2000)
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stream = stage.upstream.connections[0]
    stream.say(*((f"7:{place}", "output", "word ") for place in range(20)))
    await reader.end()
    assert DONE not in reader.said
    assert stage.engine.streams._budget.used_bytes == 0
    assert (await stage.read(entry).end()).said == []
    stage.upstream.succeed(["word " * 20])
    assert (await stage.record(entry)).stream_log is None
    assert (await stage.read(entry).end()).said == [("output", "word " * 20), DONE]


async def test_ended_streams_make_room_for_new_ones() -> None:
    stage = Stage()
    stage.engine.streams._budget.max_bytes = 2000
    for number in range(5):
        entry = await stage.begin({"prompt": "p", "seed": number})
        reader = stage.read(entry)
        await settle()
        stage.upstream.connections[-1].say(("7:0", "output", "x" * 900), ("7:1", "done", "{}"))
        await reader.end()
        assert reader.said == [("output", "x" * 900), DONE]
        stage.upstream.succeed(["x" * 900])
        await stage.record(entry)
        assert stage.engine.streams._budget.used_bytes <= 2000
        assert (await stage.read(entry).end()).said == reader.said


async def test_slow_reader_holds_nobody_up() -> None:
    stage = Stage()
    entry = await stage.begin()
    telling = await stage.engine.streams.find(stage.engine.stream_name(entry))
    assert telling is not None
    async with stage.engine.streams.listening(telling, None) as slow:
        await settle()
        stream = stage.upstream.connections[0]
        stream.say(("7:0", "output", "a"))
        assert b"data: a" in await anext(slow)
        quick = stage.read(entry)
        stream.say(*((f"7:{place}", "output", "b") for place in range(1, 500)), ("7:500", "done", "{}"))
        await quick.end()
        assert len(quick.said) == 501
        rest = b"".join([chunk async for chunk in slow])
        assert rest.count(b"data: b") == 499
    stage.upstream.succeed(["a" + "b" * 499])
    await entry.flight.finished(5)


async def test_readers_are_bounded_and_their_places_come_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "MAX_LISTENERS_EACH", 2)
    stage = Stage()
    entry = await stage.begin()
    readers = [stage.read(entry) for _ in range(2)]
    await settle()
    with pytest.raises(Overloaded):
        await stage.read(entry).end()
    await readers[0].leave()
    third = stage.read(entry)
    await settle()
    assert not third.has_ended
    other = await stage.begin()
    stage.engine.streams._max_listeners = 2
    with pytest.raises(Overloaded):
        await stage.read(other).end()
    stage.upstream.connections[0].say(("7:0", "done", "{}"))
    for reader in (readers[1], third):
        await reader.end()
    assert stage.engine.streams._listening == {}
    stage.upstream.succeed(None)


async def test_credential_is_forgotten_with_the_run() -> None:
    stage = Stage()
    entry = await stage.begin()
    assert stage.engine.streams._sources[entry.flight].credential == Credential(TOKEN)
    stage.upstream.succeed(["a"])
    await stage.record(entry)
    assert stage.engine.streams._sources[entry.flight].credential is None


async def test_log_that_cannot_be_stored_costs_nothing_else() -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(("7:0", "output", "a"), ("7:1", "done", "{}"))
    await reader.end()
    stage.engine.blobs.failure = StorageUnavailable("away")
    stage.upstream.succeed(["a"])
    record = await stage.record(entry)
    assert record.stream_log is None
    assert entry.flight.landed is not None
    assert entry.flight.landed.is_stored


async def test_stored_log_is_read_with_its_record() -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(("7:0", "output", "a"), ("7:1", "done", "{}"))
    await reader.end()
    stage.upstream.succeed(["a"])
    record = await stage.record(entry)
    assert record.stream_log is not None
    data = await stage.engine.blobs.read(record.stream_log)
    assert data is not None
    assert [line.id for line in decode_log(data, record)] == reader.ids


@pytest.mark.parametrize(
    "events",
    [
        [("7:0", "output", "upon"), ("7:1", "done", "{}")],
        [("7:0", "output", "Once "), ("7:1", "done", "{}")],
        [("7:0", "output", "Once upon"), ("7:1", "done", '{"reason":"canceled"}')],
        [("7:0", "output", "Once upon"), ("7:1", "error", "x"), ("7:2", "done", '{"reason":"error"}')],
    ],
)
async def test_stream_that_did_not_tell_the_whole_result_is_not_kept(events: list[tuple[str, str, str]]) -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.connections[0].say(*events)
    await reader.end()
    stage.upstream.succeed(["Once upon"])
    assert (await stage.record(entry)).stream_log is None
    stage.engine = await stage.engine.restarted()
    assert (await stage.read(entry).end()).said == [("output", "Once upon"), DONE]


async def test_result_waits_a_moment_for_the_end_of_its_stream() -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    stage.upstream.succeed(["a"])
    stage.upstream.connections[0].say(("7:0", "output", "a"))
    await settle()
    assert entry.flight.landed is None
    stage.upstream.connections[0].say(("7:1", "done", "{}"))
    assert (await stage.record(entry)).stream_log is not None
    await reader.end()
    assert reader.said == [("output", "a"), DONE]


@pytest.mark.usefixtures("at_once")
async def test_poller_hears_of_the_end_without_waiting_for_a_stream_that_hangs() -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    began = asyncio.get_running_loop().time()
    stage.upstream.succeed(["a"])
    await stage.record(entry)
    assert asyncio.get_running_loop().time() - began < 0.2
    await reader.end()


async def test_stopping_ends_every_stream() -> None:
    stage = Stage()
    entry = await stage.begin()
    reader = stage.read(entry)
    await settle()
    await stage.engine.streams.aclose()
    await reader.end()
    assert reader.said == []
    assert stage.upstream.connections[0].is_closed
    stage.upstream.succeed(None)
