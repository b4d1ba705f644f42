from __future__ import annotations

import pytest

from proxy.core.policy import Bypass
from proxy.engine.kill_switch import ROW
from proxy.engine.predictor import Hit
from proxy.engine.recent import Running
from storage.errors import StorageUnavailable
from tests.fakes.engine import Engine
from tests.fakes.stores import MemoryKeyValue

pytestmark = pytest.mark.anyio


async def test_while_it_is_on_every_create_is_a_run_of_its_own_and_nothing_is_kept() -> None:
    engine = Engine()
    await engine.run()
    assert await engine.kill_switch.turn(on=True)
    for given in ({"prompt": "a red fox"}, {"prompt": "new"}):
        entry = await engine.run(given)
        assert entry.plan == Bypass("off")
    await engine.kill_switch.turn(on=False)
    assert isinstance(await engine.create(), Hit), "what was stored before is served again"
    assert isinstance(await engine.create({"prompt": "new"}), Running)


async def test_restart_keeps_it_with_its_time() -> None:
    engine = Engine()
    await engine.kill_switch.turn(on=True)
    since = engine.kill_switch.since
    engine.clock.advance(100)
    await engine.kill_switch.turn(on=True)
    again = await engine.restarted()
    assert not again.desk.is_bypassed
    await again.kill_switch.resume()
    assert again.desk.is_bypassed
    assert again.kill_switch.since == since
    await again.kill_switch.turn(on=False)
    third = await again.restarted()
    await third.kill_switch.resume()
    assert not third.desk.is_bypassed


async def test_row_that_cannot_be_read_leaves_it_on() -> None:
    engine = Engine()
    await engine.storage.notes.put(ROW, b"\xff")
    await engine.kill_switch.resume()
    assert engine.kill_switch.is_on


async def test_disk_that_is_away_does_not_stop_it() -> None:
    engine = Engine()
    assert isinstance(engine.storage.notes, MemoryKeyValue)
    engine.storage.notes.failure = StorageUnavailable("gone")
    assert await engine.kill_switch.turn(on=True) is False
    assert engine.desk.is_bypassed
