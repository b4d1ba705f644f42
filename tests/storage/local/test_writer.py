from __future__ import annotations

import asyncio
import threading

import pytest

from storage.errors import StorageUnavailable
from storage.local.writer import Writer

pytestmark = pytest.mark.anyio


async def test_calls_run_in_order_in_one_other_thread() -> None:
    writer = Writer()
    seen: list[int] = []
    threads: set[int] = set()

    def note(number: int) -> int:
        threads.add(threading.get_ident())
        seen.append(number)
        return number * 2

    assert await asyncio.gather(*(writer.run(note, number) for number in range(50))) == [n * 2 for n in range(50)]
    assert seen == list(range(50))
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    await writer.aclose()


async def test_error_goes_to_its_caller_alone() -> None:
    writer = Writer()
    with pytest.raises(ZeroDivisionError):
        await writer.run(lambda: 1 // 0)
    assert await writer.run(lambda: 1) == 1
    await writer.aclose()


async def test_closing_drains_refuses_and_runs_the_last_call_last() -> None:
    writer = Writer()
    seen: list[str] = []
    gate = threading.Event()
    writer.submit(gate.wait)
    waiting = [asyncio.ensure_future(writer.run(seen.append, "queued")) for _ in range(3)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(writer.aclose(lambda: seen.append("last")))
    await asyncio.sleep(0)
    with pytest.raises(StorageUnavailable):
        await writer.run(seen.append, "late")
    writer.submit(seen.append, "late")
    gate.set()
    await closing
    await asyncio.gather(*waiting)
    assert seen == ["queued"] * 3 + ["last"]
    await writer.aclose(lambda: seen.append("again"))
    assert seen[-1] == "last"


async def test_cancelled_caller_does_not_take_its_call_with_it() -> None:
    writer = Writer()
    seen: list[str] = []
    gate = threading.Event()

    def work() -> None:
        gate.wait()
        seen.append("running")

    running = asyncio.ensure_future(writer.run(work))
    queued = asyncio.ensure_future(writer.run(seen.append, "queued"))
    await asyncio.sleep(0)
    for task in (running, queued):
        task.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(running, queued, return_exceptions=True)
    )
    gate.set()
    await writer.aclose()
    assert seen == ["running", "queued"]
