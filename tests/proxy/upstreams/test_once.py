"""Questions that several ask at once."""

from __future__ import annotations

import asyncio

import pytest

from proxy.upstreams.once import AskedOnce

pytestmark = pytest.mark.anyio


class Oracle:
    """Answers when its gate opens."""

    def __init__(self) -> None:
        self.asked = 0
        self.gate = asyncio.Event()
        self.asking: AskedOnce[str, int] = AskedOnce()

    async def answer(self) -> int:
        self.asked += 1
        await self.gate.wait()
        return self.asked

    async def ask(self, name: str = "it") -> int:
        return await self.asking.ask(name, self.answer)


async def test_all_who_ask_meanwhile_get_one_answer_and_later_ones_another() -> None:
    oracle = Oracle()
    waiting = [asyncio.create_task(oracle.ask()) for _ in range(3)]
    await asyncio.sleep(0)
    oracle.gate.set()
    assert await asyncio.gather(*waiting) == [1, 1, 1]
    assert await oracle.ask() == 2


async def test_other_names_are_other_questions() -> None:
    oracle = Oracle()
    oracle.gate.set()
    assert sorted(await asyncio.gather(oracle.ask("one"), oracle.ask("other"))) == [1, 2]


async def test_who_stops_waiting_stops_it_for_nobody() -> None:
    oracle = Oracle()
    first, second = asyncio.create_task(oracle.ask()), asyncio.create_task(oracle.ask())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    oracle.gate.set()
    assert await second == 1
    assert first.cancelled()


async def test_what_it_raises_is_raised_to_all_and_is_not_kept() -> None:
    asking: AskedOnce[str, int] = AskedOnce()

    async def break_down() -> int:
        raise ValueError("no")

    found = await asyncio.gather(*(asking.ask("it", break_down) for _ in range(2)), return_exceptions=True)
    assert [type(one) for one in found] == [ValueError, ValueError]

    async def recover() -> int:
        return 7

    assert await asking.ask("it", recover) == 7
