"""What the core does that takes the place of one that has ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.core.policy import Bypass
from proxy.engine.kill_switch import ROW
from proxy.engine.predictor import Hit
from proxy.settings import SettingsError
from proxy.worker import take_policies_over
from tests.fakes.engine import Engine

pytestmark = pytest.mark.anyio


class Reloading:
    """A reload that fails where it is given an error."""

    def __init__(self, error: SettingsError | None) -> None:
        self.error = error
        self.reloads = 0

    async def reload(self) -> None:
        self.reloads += 1
        if self.error is not None:
            raise self.error


async def test_policies_that_were_reloaded_since_the_start_are_taken_over_first() -> None:
    engine, reload = Engine(), Reloading(None)
    services: Any = SimpleNamespace(reload=reload, kill_switch=engine.kill_switch)
    await take_policies_over(services)
    assert reload.reloads == 1
    assert not engine.kill_switch.is_on


async def test_where_nobody_knows_which_policies_held_the_cache_is_not_used_until_somebody_says_so() -> None:
    """It went on with the policies of the start, which may be wider than those that held."""
    engine = Engine()
    await engine.run()
    heard: list[Any] = []
    engine.announcements.subscribe("bypass", heard.append)
    services: Any = SimpleNamespace(
        reload=Reloading(SettingsError("policy.0.mode: wrong")), kill_switch=engine.kill_switch
    )
    await take_policies_over(services)
    assert heard == [{"since": engine.clock()}], "the edges, too"
    assert (await engine.run()).plan == Bypass("off")
    assert await engine.storage.notes.get(ROW) is None, "a restart that finds all in order does not keep it"
    await engine.kill_switch.turn(on=False)
    assert isinstance(await engine.create(), Hit)
