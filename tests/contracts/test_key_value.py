"""The promises of ``storage.ports.KeyValue``."""

from __future__ import annotations

import pytest

from storage.errors import StorageUnavailable
from tests.contracts.harness import Harness

pytestmark = pytest.mark.anyio


async def test_absent_name_has_no_value(harness: Harness) -> None:
    assert await harness.values.get("nobody") is None
    await harness.values.remove("nobody")


@pytest.mark.parametrize("name", ["gm3qorzdhgbfurvjtvhg6dckhu", "", "a:b", "ü", "nul\0", "lone \udc80", "x" * 5000])
async def test_any_text_is_a_name(harness: Harness, name: str) -> None:
    await harness.values.put(name, b"value")
    await harness.values.put(name + "x", b"other")
    assert await harness.values.get(name) == b"value"


@pytest.mark.parametrize("value", [b"", b"\0", bytes(range(256)), b"x" * 2_000_000])
async def test_any_bytes_are_a_value(harness: Harness, value: bytes) -> None:
    await harness.values.put("n", value)
    assert await harness.values.get("n") == value


async def test_second_value_replaces_the_first(harness: Harness) -> None:
    await harness.values.put("n", b"1", ttl_s=10)
    await harness.values.put("n", b"2")
    harness.clock.now += 1000
    assert await harness.values.get("n") == b"2"


async def test_value_ends_when_its_time_is_over(harness: Harness) -> None:
    await harness.values.put("n", b"1", ttl_s=10)
    harness.clock.now += 9.5
    assert await harness.values.get("n") == b"1"
    harness.clock.now += 0.5
    assert await harness.values.get("n") is None


async def test_removed_value_is_gone(harness: Harness) -> None:
    await harness.values.put("n", b"1")
    await harness.values.remove("n")
    assert await harness.values.get("n") is None


async def test_namespaces_do_not_see_each_other(harness: Harness) -> None:
    await harness.values.put("n", b"1")
    assert await harness.other_values.get("n") is None
    await harness.other_values.remove("n")
    assert await harness.values.get("n") == b"1"


async def test_failed_write_leaves_what_was_there(harness: Harness) -> None:
    await harness.values.put("n", b"1")
    harness.break_writes()
    with pytest.raises(StorageUnavailable):
        await harness.values.put("n", b"2")
    with pytest.raises(StorageUnavailable):
        await harness.values.remove("n")
    harness.mend_writes()
    assert await harness.values.get("n") == b"1"


async def test_scan_gives_the_values_below_a_prefix_by_name(harness: Harness) -> None:
    for name in ("run:b", "run:a", "run;", "ru", "run:ü", "other"):
        await harness.values.put(name, name.encode())
    await harness.values.put("run:old", b"x", ttl_s=10)
    await harness.other_values.put("run:elsewhere", b"x")
    harness.clock.now += 11
    assert await harness.values.scan("run:") == [(name, name.encode()) for name in ("run:a", "run:b", "run:ü")]
    assert await harness.values.scan("nobody") == []


async def test_scan_of_everything_gives_everything_of_the_namespace(harness: Harness) -> None:
    await harness.values.put("a", b"1")
    await harness.values.put("\udc80", b"2")
    assert [value for _, value in await harness.values.scan("")] == [b"1", b"2"]
