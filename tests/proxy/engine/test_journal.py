from __future__ import annotations

import asyncio

import pytest

from proxy.core.ids import IdParts, PredictionId
from proxy.core.predictions import Prediction
from proxy.engine.journal import INTERRUPTED, KEEP_S, Journal
from proxy.engine.rows import RowWriter
from proxy.upstreams.base import ModelDescription, Outcome
from storage.digest import RecordId, Scope
from storage.errors import StorageUnavailable
from tests.fakes.clock import ManualClock
from tests.fakes.stores import MemoryKeyValue
from tests.fakes.upstreams import VERSION

pytestmark = pytest.mark.anyio

MINE = Scope(b"m" * 32)
YOURS = Scope(b"y" * 32)
RECORD = RecordId(0xABCDEF)
ID = PredictionId("a" * 26)
MODEL = ModelDescription("acme/pixel", VERSION, is_pinned=True, schema=None)
BEGAN = 1_790_000_000.0
PARTS = IdParts(RECORD, BEGAN + 1)
FAILED = Outcome("failed", None, "no more memory", "step 1\n", {"predict_time": 2.0}, BEGAN + 2, BEGAN + 4)
SUCCEEDED = Outcome("succeeded", None, None, "step 1\n", {"predict_time": 2.0}, BEGAN + 2, BEGAN + 4)
CANCELED = Prediction(
    id=ID,
    model="acme/pixel",
    version=VERSION,
    input={"prompt": "a red fox"},
    status="canceled",
    created_at=BEGAN,
    started_at=BEGAN,
    completed_at=BEGAN + 5,
    logs="step 1\n",
)


class SlowKeyValue(MemoryKeyValue):
    """Every write takes less time than the one before it: whoever does not wait is overtaken."""

    def __init__(self) -> None:
        super().__init__()
        self.delay_s = 0.03
        self.order: list[str] = []

    async def put(self, name: str, value: bytes, ttl_s: float | None = None) -> None:
        self.delay_s /= 3
        await asyncio.sleep(self.delay_s)
        self.order.append(name)
        await super().put(name, value, ttl_s)


async def test_end_of_a_later_run_that_drew_the_number_anew_is_told_to_no_older_id() -> None:
    """Two members of a group: the id of one, of which nothing was left, told the other's error and logs."""
    journal = Journal(RowWriter(MemoryKeyValue()))
    day_s = 86_400.0
    journal.started(RECORD, MINE, MODEL, BEGAN + day_s)
    await journal.drain()
    assert await journal.find(ID, PARTS, {MINE}) is None
    journal.ended(RECORD, MINE, MODEL, BEGAN + day_s, FAILED, is_stored=False)
    await journal.drain()
    assert await journal.find(ID, PARTS, {MINE}) is None
    assert await journal.find(ID, IdParts(RECORD, BEGAN + day_s + 1), {MINE}) is not None


async def test_run_that_was_never_told_to_end_was_lost() -> None:
    rows = MemoryKeyValue()
    journal = Journal(RowWriter(rows))
    journal.started(RECORD, MINE, MODEL, BEGAN)
    await journal.drain()
    found = await Journal(RowWriter(rows)).find(ID, PARTS, {MINE})
    assert found is not None
    assert (found.status, found.error) == ("failed", INTERRUPTED)
    assert (found.id, found.model, found.version) == (ID, "acme/pixel", VERSION)
    assert found.created_at == found.completed_at == BEGAN + 1
    assert not found.is_data_removed


async def test_failed_run_is_told_as_it_ended() -> None:
    journal = Journal(RowWriter(MemoryKeyValue()))
    journal.started(RECORD, MINE, MODEL, BEGAN)
    journal.ended(RECORD, MINE, MODEL, BEGAN, FAILED, is_stored=False)
    await journal.drain()
    found = await journal.find(ID, PARTS, {MINE})
    assert found is not None
    assert (found.status, found.error, found.logs) == ("failed", "no more memory", "step 1\n")
    assert found.metrics == {"predict_time": 2.0}
    assert (found.started_at, found.completed_at) == (BEGAN + 2, BEGAN + 4)


@pytest.mark.parametrize("is_stored", [True, False])
async def test_success_whose_result_is_not_to_be_found_has_its_data_removed(is_stored: bool) -> None:
    journal = Journal(RowWriter(MemoryKeyValue()))
    journal.ended(RECORD, MINE, MODEL, BEGAN, SUCCEEDED, is_stored=is_stored)
    await journal.drain()
    found = await journal.find(ID, PARTS, {MINE})
    assert found is not None
    assert (found.status, found.output, found.is_data_removed) == ("succeeded", None, True)
    assert found.completed_at is not None


async def test_run_of_another_scope_is_not_told() -> None:
    journal = Journal(RowWriter(MemoryKeyValue()))
    journal.started(RECORD, MINE, MODEL, BEGAN)
    await journal.drain()
    assert await journal.find(ID, PARTS, {YOURS}) is None


async def test_run_that_is_not_known_is_not_told() -> None:
    assert await Journal(RowWriter(MemoryKeyValue())).find(ID, PARTS, {MINE}) is None


async def test_cancelled_prediction_is_told_after_a_restart() -> None:
    rows = MemoryKeyValue()
    journal = Journal(RowWriter(rows))
    journal.cancel(CANCELED)
    await journal.drain()
    found = await Journal(RowWriter(rows)).canceled(ID)
    assert found is not None
    assert (found.status, found.completed_at, found.logs) == ("canceled", BEGAN + 5, "step 1\n")
    assert await Journal(RowWriter(rows)).canceled(PredictionId("b" * 26)) is None


async def test_inputs_are_not_written_down() -> None:
    rows = MemoryKeyValue()
    journal = Journal(RowWriter(rows))
    journal.cancel(CANCELED)
    journal.started(RECORD, MINE, MODEL, BEGAN)
    await journal.drain()
    assert rows._values
    assert all(b"red fox" not in value for value, _ in rows._values.values())


async def test_rows_are_written_in_the_order_in_which_they_were_said() -> None:
    """A quick "ended" that overtook its slow "started" would make a finished run a lost one."""
    rows = SlowKeyValue()
    journal = Journal(RowWriter(rows))
    journal.started(RECORD, MINE, MODEL, BEGAN)
    journal.ended(RECORD, MINE, MODEL, BEGAN, FAILED, is_stored=False)
    journal.cancel(CANCELED)
    await journal.drain()
    assert rows.order == ["run:0000abcdef", "run:0000abcdef", f"canceled:{ID}"]
    found = await journal.find(ID, PARTS, {MINE})
    assert found is not None
    assert found.error == "no more memory"


async def test_writing_delays_nobody() -> None:
    rows = SlowKeyValue()
    journal = Journal(RowWriter(rows))
    journal.started(RECORD, MINE, MODEL, BEGAN)
    assert rows.order == []
    await journal.drain()
    assert len(rows.order) == 1


async def test_store_that_is_away_fails_nothing_and_ends_no_later_write() -> None:
    rows = MemoryKeyValue()
    journal = Journal(RowWriter(rows))
    rows.failure = StorageUnavailable("the disk is away")
    journal.started(RECORD, MINE, MODEL, BEGAN)
    await journal.drain()
    assert await journal.find(ID, PARTS, {MINE}) is None
    rows.failure = None
    journal.ended(RECORD, MINE, MODEL, BEGAN, FAILED, is_stored=False)
    await journal.drain()
    assert await journal.find(ID, PARTS, {MINE}) is not None


async def test_rows_are_forgotten_after_a_week() -> None:
    clock = ManualClock()
    journal = Journal(RowWriter(MemoryKeyValue(clock)))
    journal.started(RECORD, MINE, MODEL, BEGAN)
    await journal.drain()
    clock.advance(KEEP_S - 1)
    assert await journal.find(ID, PARTS, {MINE}) is not None
    clock.advance(1)
    assert await journal.find(ID, PARTS, {MINE}) is None


async def test_drain_of_nothing_is_done_at_once() -> None:
    await Journal(RowWriter(MemoryKeyValue())).drain()


async def test_write_that_is_cancelled_with_its_loop_leaves_no_warning() -> None:
    rows = SlowKeyValue()
    journal = Journal(RowWriter(rows))
    journal.started(RECORD, MINE, MODEL, BEGAN)
    journal.ended(RECORD, MINE, MODEL, BEGAN, FAILED, is_stored=False)
    last = journal._rows._last
    assert last is not None
    last.cancel()
    await asyncio.wait([last])
    await journal.drain()
    await asyncio.sleep(0.05)
