from __future__ import annotations

import asyncio

import pytest

from proxy.engine.remote_files import PARALLEL_QUESTIONS, NoRoom, RemoteFiles
from storage.digest import Scope, hash_bytes
from tests.fakes.clock import ManualClock
from tests.fakes.stores import MemoryKeyValue
from tests.fakes.upstreams import FakeEgress, Served

pytestmark = pytest.mark.anyio

URL = "https://example.com/cat.png"
ME, YOU = Scope(b"m" * 32), Scope(b"y" * 32)


class Desk:
    def __init__(self, max_held_bytes: int = 10_000) -> None:
        self.egress = FakeEgress()
        self.notes = MemoryKeyValue(ManualClock())
        self.files = RemoteFiles(
            self.egress,  # type: ignore[arg-type]
            self.notes,
            {},
            max_held_bytes=max_held_bytes,
        )

    async def digest(self, scope: Scope = ME, url: str = URL) -> bytes | None:
        found = await self.files.identify("replicate", scope, url)
        return found.digest if found is not None else None


async def test_strong_etag_is_asked_about_and_saves_the_body() -> None:
    desk = Desk()
    desk.egress.serve(URL, Served(b"one", etag='"1"', chunk_bytes=1))
    assert await desk.digest() == await desk.digest() == hash_bytes(b"one")
    assert desk.egress.conditions == [None, '"1"']
    assert desk.egress.sent_bytes == 3


@pytest.mark.parametrize("etag", [None, 'W/"1"', "1", '""'])
async def test_without_a_strong_etag_the_bytes_are_asked_for_each_time(etag: str | None) -> None:
    desk = Desk()
    desk.egress.serve(URL, Served(b"one", etag=etag), Served(b"two", etag=etag))
    assert [await desk.digest(), await desk.digest()] == [hash_bytes(b"one"), hash_bytes(b"two")]
    assert desk.egress.conditions == [None, None]


async def test_etag_counts_for_the_address_that_gave_the_bytes_alone() -> None:
    desk = Desk()
    here, there = "https://a.example.com/x", "https://b.example.com/x"
    desk.egress.serve(URL, Served(b"one", etag='"1"', address=here), Served(b"two", etag='"1"', address=there))
    assert await desk.digest() == hash_bytes(b"one")
    assert await desk.digest() == hash_bytes(b"two")
    assert desk.egress.conditions == [None, '"1"', None]


async def test_what_one_scope_was_told_is_not_told_to_another() -> None:
    desk = Desk()
    desk.egress.serve(URL, Served(b"one", etag='"1"'))
    await desk.digest(ME)
    await desk.digest(YOU)
    assert desk.egress.conditions == [None, None]


async def test_all_who_ask_meanwhile_share_one_fetch() -> None:
    desk = Desk()
    desk.egress.serve(URL, b"one")
    found = await asyncio.gather(*(desk.digest() for _ in range(20)))
    assert set(found) == {hash_bytes(b"one")}
    assert desk.egress.asked == [URL]


async def test_one_who_leaves_does_not_end_the_fetch_of_the_others() -> None:
    desk = Desk()
    desk.egress.serve(URL, Served(b"one", chunk_bytes=1))
    first, second = asyncio.create_task(desk.digest()), asyncio.create_task(desk.digest())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == hash_bytes(b"one")


async def test_fetches_at_once_are_bounded() -> None:
    desk = Desk()
    urls = [f"https://example.com/{number}" for number in range(2 * PARALLEL_QUESTIONS)]
    for url in urls:
        desk.egress.serve(url, Served(url.encode(), chunk_bytes=5))
    await asyncio.gather(*(desk.digest(url=url) for url in urls))
    assert desk.egress.most_open == PARALLEL_QUESTIONS


async def test_memory_is_bounded_by_what_somebody_still_holds() -> None:
    desk = Desk(max_held_bytes=25)
    for number in range(4):
        desk.egress.serve(f"{URL}?{number}", Served(bytes([number]) * 10, chunk_bytes=3))
    held = [await desk.files.fetch("replicate", f"{URL}?{number}") for number in (0, 1)]
    assert desk.files.held_bytes == 20
    with pytest.raises(NoRoom):
        await desk.files.fetch("replicate", f"{URL}?2")
    assert await desk.digest(url=f"{URL}?2") is None
    assert desk.files.held_bytes == 20
    del held
    assert await desk.digest(url=f"{URL}?2") == hash_bytes(bytes([2]) * 10)
    assert desk.files.held_bytes <= 25


async def test_same_bytes_are_held_once() -> None:
    desk = Desk()
    desk.egress.serve(URL, b"one")
    first, second = await desk.files.fetch("replicate", URL), await desk.files.fetch("replicate", URL)
    assert first is second
    assert desk.files.held_bytes == 3


async def test_bytes_that_were_just_fetched_need_not_be_fetched_again() -> None:
    desk = Desk()
    desk.egress.serve(URL, Served(b"one", etag='"1"'))
    await desk.files.identify("replicate", ME, URL)
    again = await desk.files.identify("replicate", ME, URL)
    assert again is not None
    assert again.body is not None
    assert again.body.data == b"one"
