from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import structlog

from proxy.core.outputs import OutputAccess, plan_output
from proxy.engine.ingestor import FETCH_TRIES, PARALLEL_FETCHES, IngestCounters, Ingested, Ingestor
from proxy.engine.spool import Spool
from proxy.upstreams.egress import EgressFailed, EgressRefused
from storage.digest import hash_bytes
from storage.errors import StorageUnavailable
from storage.records import JsonValue
from tests.fakes.clock import ManualClock
from tests.fakes.engine import png
from tests.fakes.stores import MemoryContentStore
from tests.fakes.upstreams import DELIVERY, FakeEgress, Served

pytestmark = pytest.mark.anyio

ACCESS = OutputAccess(("replicate.delivery",))
RED, BLUE = png("red"), png("blue")
ONE, TWO = f"{DELIVERY}/one.png", f"{DELIVERY}/two.png"
DATA = "data:text/html;base64," + base64.b64encode(RED).decode()
LIMIT = 100_000


@dataclass
class Intake:
    """An ingestor over doubles, with what was counted."""

    spool_bytes: int = 2**20
    blobs: MemoryContentStore = field(default_factory=MemoryContentStore)
    egress: FakeEgress = field(default_factory=FakeEgress)
    spooled: int = 0
    left: int = 0

    def __post_init__(self) -> None:
        self.spool = Spool(self.spool_bytes, ManualClock())
        counters = IngestCounters(spooled=self._count_spooled, left=self._count_left)
        self.ingestor = Ingestor(self.blobs, self.spool, self.egress, LIMIT, counters)  # type: ignore[arg-type]

    async def take(self, output: JsonValue, *, keep: bool = True) -> Ingested:
        ingested = await self.ingestor.ingest(plan_output(output, ACCESS), ACCESS, keep=keep)
        assert self.egress.open_now == 0
        return ingested

    def _count_spooled(self) -> None:
        self.spooled += 1

    def _count_left(self) -> None:
        self.left += 1


async def test_files_are_stored_in_order_with_their_real_type_and_name() -> None:
    intake = Intake()
    intake.egress.serve(ONE, RED)
    intake.egress.serve(TWO, BLUE)
    ingested = await intake.take({"b": ONE, "a": [TWO, DATA]})
    assert ingested.are_stored
    assert ingested.left == ()
    assert [file.path for file in ingested.files] == [("b",), ("a", 0), ("a", 1)]
    assert [file.name for file in ingested.files] == ["one.png", "two.png", "out-2.png"]
    assert {file.content_type for file in ingested.files} == {"image/png"}
    for file, data in zip(ingested.files, (RED, BLUE, RED), strict=True):
        assert file.blob.digest == hash_bytes(data)
        assert await intake.blobs.read(file.blob) == data
    assert (intake.spooled, intake.left) == (0, 0)


async def test_output_without_files_needs_nothing() -> None:
    ingested = await Intake().take(["words", 5])
    assert ingested == Ingested((), (), are_stored=True)


async def test_type_is_never_believed_from_anybodys_word() -> None:
    intake = Intake()
    page = b"<html><script>alert(1)</script>"
    intake.egress.serve(ONE, page)
    ingested = await intake.take([ONE, "data:image/png;base64," + base64.b64encode(page).decode()])
    assert [file.content_type for file in ingested.files] == ["application/octet-stream"] * 2
    assert [file.name for file in ingested.files] == ["one.bin", "out-1.bin"]


async def test_large_file_arrives_whole_however_it_is_cut() -> None:
    data = b"OggS" + bytes(range(256)) * 200
    for chunk_bytes in (1, 7, 4096, 10**6):
        intake = Intake()
        intake.egress.serve(ONE, Served(data[: 500 if chunk_bytes == 1 else None], chunk_bytes=chunk_bytes))
        ingested = await intake.take([ONE])
        assert ingested.are_stored
        assert await intake.blobs.read(ingested.files[0].blob) == data[: 500 if chunk_bytes == 1 else None]


# -- what cannot be fetched ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        EgressFailed("not reachable"),
        Served(b"gone", status=404),
        Served(b"broken", status=500),
        Served(RED, status=206),
        Served(RED, chunk_bytes=10, breaks_after=20),
        Served(RED, chunk_bytes=10, breaks_after=20, is_length_known=False),
        Served(b"words without an end mark", is_length_known=False),
        Served(b"x" * (LIMIT + 1)),
    ],
)
async def test_file_that_cannot_be_fetched_whole_keeps_its_url_and_the_result_is_not_stored(
    answer: Served | Exception,
) -> None:
    intake = Intake()
    intake.egress.serve(ONE, answer)
    intake.egress.serve(TWO, BLUE)
    ingested = await intake.take([ONE, TWO])
    assert [file.url for file in ingested.left] == [ONE]
    assert [file.path for file in ingested.files] == [(1,)]
    assert not ingested.are_stored
    assert (intake.spooled, intake.left) == (0, 1)


async def test_fetch_that_fails_once_is_tried_again() -> None:
    intake = Intake()
    intake.egress.serve(ONE, Served(RED, chunk_bytes=10, breaks_after=20), RED)
    ingested = await intake.take([ONE])
    assert ingested.are_stored
    assert await intake.blobs.read(ingested.files[0].blob) == RED
    assert intake.egress.asked == [ONE] * 2


async def test_fetch_is_given_up_after_some_tries() -> None:
    intake = Intake()
    await intake.take([ONE])
    assert intake.egress.asked == [ONE] * FETCH_TRIES


async def test_fetch_that_a_rule_forbids_is_not_tried_again() -> None:
    intake = Intake()
    intake.egress.serve(ONE, EgressRefused("address", "replicate.delivery is not at a public address"))
    ingested = await intake.take([ONE])
    assert intake.egress.asked == [ONE]
    assert len(ingested.left) == 1


@pytest.mark.parametrize("chunk_bytes", [3, 16, 1000])
async def test_picture_without_an_announced_length_is_believed_when_it_ends_as_its_format_ends(
    chunk_bytes: int,
) -> None:
    intake = Intake()
    intake.egress.serve(ONE, Served(RED, chunk_bytes=chunk_bytes, is_length_known=False))
    assert (await intake.take([ONE])).are_stored


@pytest.mark.parametrize("url", ["data:image/png;base64,AAA", "data:image/png;base64," + "A" * (LIMIT * 2)])
async def test_data_url_that_is_broken_or_too_large_is_left(url: str) -> None:
    intake = Intake()
    ingested = await intake.take([url])
    assert [file.url for file in ingested.left] == [url]
    assert intake.left == 1


# -- what cannot be stored -----------------------------------------------------------------------------


async def test_file_that_cannot_be_stored_is_spooled() -> None:
    intake = Intake()
    intake.blobs.failure = StorageUnavailable("the disk is full")
    intake.egress.serve(ONE, RED)
    ingested = await intake.take([ONE, DATA])
    assert not ingested.are_stored
    assert ingested.left == ()
    assert [file.blob.digest for file in ingested.files] == [hash_bytes(RED)] * 2
    spooled = intake.spool.get(hash_bytes(RED))
    assert spooled is not None
    assert (spooled.data, spooled.content_type) == (RED, "image/png")
    assert (intake.spooled, intake.left) == (2, 0)


async def test_file_that_is_not_to_be_kept_is_spooled_without_a_look_at_the_store() -> None:
    intake = Intake()
    intake.egress.serve(ONE, RED)
    ingested = await intake.take([ONE], keep=False)
    assert not ingested.are_stored
    assert len(ingested.files) == 1
    assert intake.blobs.used_bytes == 0
    assert intake.egress.asked == [ONE]


async def test_files_that_push_each_other_out_of_the_spool_keep_the_upstreams_url() -> None:
    """They kept addresses here that led nowhere from the start."""
    intake = Intake(spool_bytes=2500)
    urls = [f"{ONE}?{number}" for number in range(3)]
    for number, url in enumerate(urls):
        intake.egress.serve(url, bytes([number + 1]) * 1000)
    ingested = await intake.take(urls, keep=False)
    assert len(ingested.files) == 2
    assert all(intake.spool.get(file.blob.digest) is not None for file in ingested.files)
    assert len(ingested.left) == 1
    assert (intake.spooled, intake.left) == (2, 1)


async def test_file_larger_than_the_spool_is_left_without_reading_all_of_it() -> None:
    intake = Intake(spool_bytes=5000)
    intake.egress.serve(ONE, Served(b"x" * 50_000, chunk_bytes=1000))
    ingested = await intake.take([ONE], keep=False)
    assert [file.url for file in ingested.left] == [ONE]
    assert intake.egress.sent_bytes <= 6000
    assert intake.spool.used_bytes == 0
    assert (intake.spooled, intake.left) == (0, 1)


class StubbornStore(MemoryContentStore):
    """Gives up in the middle of a body, as a disk that has just become full."""

    async def put(self, chunks: AsyncIterator[bytes], **how: object) -> object:  # type: ignore[override]
        await anext(chunks)
        raise StorageUnavailable("full")


async def test_connection_is_closed_when_the_store_gives_up_in_the_middle() -> None:
    intake = Intake(blobs=StubbornStore())
    intake.egress.serve(ONE, Served(b"OggS" + bytes(50_000), chunk_bytes=5000))
    ingested = await intake.take([ONE])
    assert len(ingested.files) == 1
    assert len(intake.egress.asked) == 2
    assert intake.egress.most_open == 1


# -- many at once --------------------------------------------------------------------------------------


async def test_only_a_few_files_are_fetched_at_once() -> None:
    intake = Intake()
    urls = [f"{DELIVERY}/{number}.png" for number in range(20)]
    for url in urls:
        intake.egress.serve(url, Served(RED, chunk_bytes=10))
    ingested = await intake.take(urls)
    assert ingested.are_stored
    assert len(ingested.files) == 20
    assert intake.egress.most_open == PARALLEL_FETCHES


async def test_cancelled_intake_closes_its_connections() -> None:
    intake = Intake()
    intake.egress.serve(ONE, Served(bytes(90_000), chunk_bytes=1))
    task = asyncio.create_task(intake.take([ONE]))
    for _ in range(20):
        await asyncio.sleep(0)
    assert intake.egress.open_now == 1
    task.cancel()
    await asyncio.wait([task])
    assert intake.egress.open_now == 0
    assert intake.left == 0


async def test_address_of_an_output_never_goes_into_the_log() -> None:
    intake = Intake()
    secret = f"{DELIVERY}/secret-path/out.png?signature=abc"
    intake.egress.serve(secret, Served(b"", status=403))
    with structlog.testing.capture_logs() as lines:
        await intake.take([secret, "data:image/png;base64,secret-path"])
    assert lines
    assert "secret-path" not in repr(lines)
    assert "signature" not in repr(lines)
