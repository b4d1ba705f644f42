from __future__ import annotations

import base64
from dataclasses import replace
from typing import Literal

import orjson
import pytest

from proxy.core.addresses import OUTPUTS_PREFIX, AddressBook, StreamBook
from proxy.core.ids import PredictionId
from proxy.core.secrets import Secrets
from proxy.engine.renderer import OutputGone, Renderer
from proxy.engine.spool import Spool
from storage.digest import PredictionKey, Scope, hash_bytes
from storage.records import BlobRef, OutputFile, ResultRecord
from tests.fakes.clock import ManualClock
from tests.fakes.engine import png
from tests.fakes.stores import MemoryContentStore, chunked, sample_record

pytestmark = pytest.mark.anyio

HTTPS = "https://images.example.com"
HTTP = "http://127.0.0.1:8484"
ID = PredictionId("x2fmfzfcf5rma4cq65c725tcbm")
RED, BLUE = png("red"), png("blue", size=64)
MINE, YOURS = Scope(b"m" * 32), Scope(b"y" * 32)


class Page:
    """A renderer over a memory store; the limit for ``data:`` lies between the two pictures."""

    def __init__(self, base_url: str = HTTPS, output_urls: Literal["auto", "url", "data"] = "auto") -> None:
        self.blobs = MemoryContentStore()
        self.spool = Spool(2**20, ManualClock())
        self.addresses = AddressBook(Secrets.derive(b"s" * 32))
        self.streams = StreamBook(Secrets.derive(b"s" * 32))
        self.renderer = Renderer(
            base_url,
            output_urls,
            len(RED),
            self.addresses,
            self.blobs,
            self.spool,
            memory_bytes=20_000,
            streams=self.streams,
        )

    async def record(self, *pictures: bytes, name: str = "a", scope: Scope = MINE) -> ResultRecord:
        refs = [
            await self.blobs.put(chunked(picture), content_type="image/png", max_bytes=2**20) for picture in pictures
        ]
        files = tuple(OutputFile((place,), ref, "image/png", f"out-{place}.png") for place, ref in enumerate(refs))
        return sample_record(name, output=[None] * len(files), files=files, scope=scope)


def as_data(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()


@pytest.mark.parametrize(
    ("base_url", "output_urls", "is_data"),
    [
        (HTTPS, "auto", False),
        (HTTP, "auto", True),
        (HTTPS, "data", True),
        (HTTP, "data", True),
        (HTTPS, "url", False),
        (HTTP, "url", False),
    ],
)
async def test_outputs_are_named_so_that_the_clients_make_file_objects_of_them(
    base_url: str, output_urls: Literal["auto", "url", "data"], is_data: bool
) -> None:
    page = Page(base_url, output_urls)
    record = await page.record(RED)
    assert len(RED) < len(BLUE)
    expected = as_data(RED) if is_data else page.renderer.address(record.files[0], record.scope)
    assert await page.renderer.output(record) == [expected]


async def test_file_over_the_limit_is_an_address_even_among_data_urls() -> None:
    page = Page(HTTP)
    record = await page.record(RED, BLUE)
    red, blue = await page.renderer.output(record)
    assert red == as_data(RED)
    assert blue.startswith(HTTP + OUTPUTS_PREFIX)


async def test_address_is_one_that_the_outputs_route_believes() -> None:
    page = Page()
    record = await page.record(RED)
    address = page.renderer.address(record.files[0], record.scope)
    digest, seal, name = address.removeprefix(HTTPS + OUTPUTS_PREFIX).split("/")
    assert page.addresses.verify(digest, seal, name) == hash_bytes(RED)


async def test_link_header_names_every_file_whatever_the_body_shows() -> None:
    page = Page(HTTP)
    record = await page.record(RED, BLUE)
    red, blue = (page.renderer.address(file, record.scope) for file in record.files)
    assert page.renderer.links(record) == f'<{red}>; rel="item", <{blue}>; rel="item"'
    assert page.renderer.links(replace(record, files=())) == ""


async def test_another_scope_gets_other_addresses_of_the_same_bytes() -> None:
    page = Page()
    mine, yours = await page.record(RED), await page.record(RED, scope=YOURS)
    assert await page.renderer.output(mine) != await page.renderer.output(yours)


async def test_file_that_was_left_keeps_the_upstreams_url() -> None:
    page = Page()
    record = await page.record(RED)
    record = replace(record, output=[None, "https://replicate.delivery/b.png"])
    left = (((1,), "https://replicate.delivery/b.png"),)
    assert (await page.renderer.output(record, left))[1] == "https://replicate.delivery/b.png"


async def test_among_many_predictions_every_file_is_an_address_and_none_is_read() -> None:
    page = Page(HTTP, "data")
    record = await page.record(RED, BLUE)
    page.blobs.lose(hash_bytes(RED))
    left = (((1,), as_data(BLUE)), ((1,), "https://replicate.delivery/left.png"))
    shown = await page.renderer.output(record, left[:1], as_addresses=True)
    assert all(one.startswith(HTTP + OUTPUTS_PREFIX) for one in shown)
    kept = replace(record, files=record.files[:1])
    assert (await page.renderer.output(kept, left[:1], as_addresses=True))[1] is None
    assert (await page.renderer.output(kept, left[1:], as_addresses=True))[1] == left[1][1]


async def test_file_is_read_from_the_spool_when_the_store_has_it_not() -> None:
    page = Page(HTTP)
    page.spool.put(hash_bytes(RED), RED, "image/png")
    file = OutputFile((), BlobRef(hash_bytes(RED), len(RED)), "image/png", "out-0.png")
    assert await page.renderer.output(sample_record(output=None, files=(file,))) == as_data(RED)


async def test_file_that_is_nowhere_is_said_to_be_gone() -> None:
    page = Page(HTTP)
    record = await page.record(RED)
    page.blobs.lose(hash_bytes(RED))
    with pytest.raises(OutputGone):
        await page.renderer.output(record)
    with pytest.raises(OutputGone):
        await page.renderer.template(record)
    assert page.renderer.ready(record) is None


async def test_damaged_file_is_gone_and_never_shown() -> None:
    page = Page(HTTP)
    record = await page.record(RED)
    page.blobs.replace_bytes(hash_bytes(RED), bytes(len(RED)))
    with pytest.raises(OutputGone):
        await page.renderer.output(record)


async def test_template_is_made_once_and_then_ready() -> None:
    page = Page(HTTP)
    record = await page.record(RED)
    assert page.renderer.ready(record) is None
    template = await page.renderer.template(record)
    assert page.renderer.ready(record) is template
    assert await page.renderer.template(record) is template


async def test_template_is_of_one_record_and_not_of_its_number_alone() -> None:
    """A record's number is random; in time it may be drawn again, for a record of another key."""
    page = Page()
    mine = await page.record(RED)
    twin = replace(await page.record(BLUE), key=PredictionKey(b"k" * 32))
    assert mine.record_id == twin.record_id
    assert await page.renderer.template(mine) is not await page.renderer.template(twin)


async def test_only_a_streamable_result_says_where_it_is_streamed() -> None:
    page = Page()
    silent, files = await page.record(RED, name="a"), replace(await page.record(RED, name="b"), is_streamable=True)
    texts = sample_record("c", output=["a"], is_streamable=True)
    urls = []
    for record in (silent, files, texts):
        template = await page.renderer.template(record)
        urls.append(orjson.loads(template.fill(ID, b"{}", 1.0))["urls"].get("stream"))
        assert page.renderer.record_stream_url(ID, record) == urls[-1]
    assert urls[0] is None
    assert urls[1].startswith(f"{HTTPS}/v1/files/{ID}-")
    assert urls[2].startswith(f"{HTTPS}/v1/streams/{ID}-")
    names = [page.streams.verify(url.rpartition("/")[2]) for url in urls[1:]]
    assert {name and name.id for name in names} == {ID}


async def test_templates_are_bounded_in_bytes() -> None:
    page = Page()
    records = [await page.record(RED, name=f"{number}") for number in range(50)]
    for record in records:
        await page.renderer.template(record)
    assert page.renderer.ready(records[0]) is None
    assert page.renderer.ready(records[-1]) is not None


async def test_template_larger_than_the_memory_is_made_anew_each_time() -> None:
    page = Page()
    record = replace(await page.record(RED), logs="x" * 30_000)
    assert await page.renderer.template(record) is not await page.renderer.template(record)
