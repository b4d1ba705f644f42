"""The promises of ``storage.ports.ActionCache``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage.digest import RecordId
from storage.errors import StorageError, StorageUnavailable
from tests.contracts.harness import Harness
from tests.fakes.stores import sample_record

pytestmark = pytest.mark.anyio


async def test_unknown_key_and_id_are_a_miss(harness: Harness) -> None:
    record = sample_record()
    assert await harness.actions.get(record.key) is None
    assert await harness.actions.find(record.record_id) is None


async def test_record_comes_back_equal_by_key_and_by_id(harness: Harness) -> None:
    record = sample_record(output={"text": "ünï", "n": [1, 2.5, None, True]})
    await harness.actions.put(record)
    await harness.actions.put(sample_record("b"))
    assert await harness.actions.get(record.key) == record
    assert await harness.actions.find(record.record_id) == record


async def test_second_record_under_a_key_replaces_the_first_and_its_id(harness: Harness) -> None:
    first = sample_record()
    second = replace(first, record_id=RecordId(first.record_id ^ 1), logs="again")
    await harness.actions.put(first)
    await harness.actions.put(second)
    assert await harness.actions.get(first.key) == second
    assert await harness.actions.find(second.record_id) == second
    assert await harness.actions.find(first.record_id) is None


async def test_same_record_twice_is_fine(harness: Harness) -> None:
    record = sample_record()
    await harness.actions.put(record)
    await harness.actions.put(record)
    assert await harness.actions.find(record.record_id) == record


async def test_removed_record_is_gone_by_key_and_by_id(harness: Harness) -> None:
    record, other = sample_record(), sample_record("b")
    await harness.actions.put(record)
    await harness.actions.put(other)
    await harness.actions.remove(record.key)
    assert await harness.actions.get(record.key) is None
    assert await harness.actions.find(record.record_id) is None
    assert await harness.actions.get(other.key) == other


async def test_removing_what_is_not_there_is_fine(harness: Harness) -> None:
    await harness.actions.remove(sample_record().key)


async def test_id_that_names_another_live_record_is_refused(harness: Harness) -> None:
    first = sample_record()
    await harness.actions.put(first)
    second = sample_record("b", record_id=first.record_id)
    with pytest.raises(StorageError):
        await harness.actions.put(second)
    assert await harness.actions.get(second.key) is None
    assert await harness.actions.find(first.record_id) == first
    await harness.actions.remove(first.key)
    await harness.actions.put(second)
    assert await harness.actions.find(second.record_id) == second


async def test_record_without_a_json_form_is_refused(harness: Harness) -> None:
    with pytest.raises(StorageError):
        await harness.actions.put(sample_record(input={"seed": 2**70}))


async def test_failed_write_leaves_what_was_there(harness: Harness) -> None:
    record = sample_record()
    await harness.actions.put(record)
    harness.break_writes()
    with pytest.raises(StorageUnavailable):
        await harness.actions.put(replace(record, logs="new"))
    with pytest.raises(StorageUnavailable):
        await harness.actions.remove(record.key)
    harness.mend_writes()
    assert await harness.actions.get(record.key) == record
    assert await harness.actions.find(record.record_id) == record


async def test_records_are_found_by_their_tags_in_pages_until_they_are_removed_or_replaced(harness: Harness) -> None:
    records = [sample_record(str(number), tags=("all", f"t{number % 2}")) for number in range(5)]
    for record in records:
        await harness.actions.put(record)
    await harness.actions.put(sample_record("untagged"))
    keys = sorted(record.key for record in records)
    assert await harness.actions.tagged("all", None, 3) == keys[:3]
    assert await harness.actions.tagged("all", keys[2], 3) == keys[3:]
    assert await harness.actions.tagged("al", None, 3) == []
    assert len(await harness.actions.tagged("t1", None, 9)) == 2
    await harness.actions.put(replace(records[0], tags=()))
    await harness.actions.remove(records[1].key)
    left = sorted(record.key for record in records[2:])
    assert await harness.actions.tagged("all", None, 9) == left


async def test_pages_hold_every_record_once_in_the_order_of_the_keys(harness: Harness) -> None:
    records = sorted((sample_record(str(number)) for number in range(5)), key=lambda record: record.key)
    for record in records:
        await harness.actions.put(record)
    seen, after = [], None
    while page := await harness.actions.page(after, 2):
        seen += page
        after = page[-1].key
    assert seen == records


async def test_many_are_removed_at_once_and_only_those_that_were_there_count(harness: Harness) -> None:
    records = [sample_record(str(number), tags=("t",)) for number in range(3)]
    for record in records:
        await harness.actions.put(record)
    unknown = sample_record("never stored").key
    assert await harness.actions.remove_all([records[0].key, unknown, records[1].key]) == 2
    assert await harness.actions.get(records[0].key) is None
    assert await harness.actions.find(records[1].record_id) is None
    assert await harness.actions.get(records[2].key) == records[2]
    assert await harness.actions.tagged("t", None, 9) == [records[2].key]
    assert await harness.actions.remove_all([]) == 0
