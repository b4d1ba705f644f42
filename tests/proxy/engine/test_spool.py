from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.spool import SPOOL_TTL_S, Spool
from storage.digest import Digest, hash_bytes
from tests.fakes.clock import ManualClock


def put(spool: Spool, data: bytes) -> Digest:
    digest = hash_bytes(data)
    assert spool.put(digest, data, "image/png")
    return digest


def test_what_is_put_is_found_with_its_type_and_time() -> None:
    clock = ManualClock()
    spool = Spool(100, clock)
    digest = put(spool, b"abc")
    found = spool.get(digest)
    assert found is not None
    assert (found.data, found.content_type, found.stored_at) == (b"abc", "image/png", clock.now)


def test_what_was_never_put_is_not_found() -> None:
    assert Spool(100, ManualClock()).get(hash_bytes(b"abc")) is None


def test_blob_is_gone_after_an_hour_and_its_room_is_free() -> None:
    clock = ManualClock()
    spool = Spool(100, clock)
    digest = put(spool, b"abc")
    clock.advance(SPOOL_TTL_S)
    assert spool.get(digest) is not None
    clock.advance(1)
    assert spool.get(digest) is None
    assert spool.used_bytes == 0


def test_putting_again_begins_a_new_hour_and_takes_no_more_room() -> None:
    clock = ManualClock()
    spool = Spool(100, clock)
    digest = put(spool, b"abc")
    clock.advance(SPOOL_TTL_S)
    put(spool, b"abc")
    clock.advance(SPOOL_TTL_S)
    assert spool.get(digest) is not None
    assert spool.used_bytes == 3


def test_oldest_make_room_for_the_newest() -> None:
    spool = Spool(10, ManualClock())
    first, second, third = put(spool, b"aaaa"), put(spool, b"bbbb"), put(spool, b"cccc")
    assert spool.get(first) is None
    assert spool.get(second) is not None
    assert spool.get(third) is not None


def test_blob_larger_than_the_whole_spool_is_refused_and_moves_nothing_out() -> None:
    spool = Spool(10, ManualClock())
    kept = put(spool, b"aaaa")
    assert not spool.put(hash_bytes(b"x" * 11), b"x" * 11, "image/png")
    assert spool.get(kept) is not None


@pytest.mark.parametrize("size", [0, 10])
def test_blob_of_the_very_size_of_the_spool_fits(size: int) -> None:
    spool = Spool(size, ManualClock())
    assert spool.get(put(spool, b"x" * size)) is not None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(0, 4000)), max_size=40))
def test_spool_never_holds_more_than_it_may_and_counts_rightly(steps: list[tuple[int, int, int]]) -> None:
    clock = ManualClock()
    spool = Spool(100, clock)
    for name, size, wait_s in steps:
        put(spool, b"%d" % name * (size // 2))
        clock.advance(wait_s)
        spool.get(hash_bytes(b"%d" % name))
        assert 0 <= spool.used_bytes <= 100
        assert spool.used_bytes == sum(len(blob.data) for blob in spool._blobs.values())
