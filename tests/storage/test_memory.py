from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage.memory import ByteLru


def test_least_recently_used_goes_first() -> None:
    lru: ByteLru[str, int] = ByteLru(10)
    lru.put("a", 1, 4)
    lru.put("b", 2, 4)
    assert lru.get("a") == 1
    lru.put("c", 3, 4)
    assert [lru.get(key) for key in "abc"] == [1, None, 3]


def test_entry_beyond_the_budget_forgets_what_stood_there() -> None:
    lru: ByteLru[str, int] = ByteLru(10)
    lru.put("a", 1, 4)
    lru.put("a", 2, 11)
    assert lru.get("a") is None
    assert lru.used_bytes == 0


def test_budget_of_nothing_keeps_nothing() -> None:
    lru: ByteLru[str, int] = ByteLru(0)
    lru.put("a", 1, 1)
    assert lru.get("a") is None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 60), st.booleans())))
def test_bytes_are_counted_and_bounded(steps: list[tuple[str, int, bool]]) -> None:
    lru: ByteLru[str, int] = ByteLru(100)
    for key, size_bytes, is_put in steps:
        if is_put:
            lru.put(key, size_bytes, size_bytes)
        else:
            lru.discard(key)
        kept = [value for key in "abcdef" if (value := lru.get(key)) is not None]
        assert lru.used_bytes == sum(kept) <= 100
        assert len(lru) == len(kept)
