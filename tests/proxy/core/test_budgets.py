from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.budgets import WINDOW_S, Bucket, filled, is_full, take_run


def test_caller_that_was_not_seen_may_do_at_once_what_it_may_do_in_a_minute() -> None:
    bucket: Bucket | None = None
    for _ in range(5):
        taken = take_run(bucket, 5, 100.0)
        assert isinstance(taken, Bucket)
        bucket = taken
    assert take_run(bucket, 5, 100.0) == WINDOW_S / 5


def test_refusal_says_exactly_when_the_next_run_may_begin() -> None:
    bucket = Bucket(0.25, 100.0)
    wait_s = take_run(bucket, 6, 100.0)
    assert wait_s == 7.5
    assert isinstance(take_run(bucket, 6, 100.0 + wait_s), Bucket)
    assert isinstance(take_run(bucket, 6, 100.0 + wait_s - 0.1), float)


def test_clock_that_goes_back_gives_nothing() -> None:
    assert filled(Bucket(1.0, 100.0), 60, 40.0) == Bucket(1.0, 100.0)


def test_bucket_is_as_good_as_forgotten_once_it_is_full() -> None:
    assert not is_full(Bucket(3.0, 100.0), 6, 129.0)
    assert is_full(Bucket(3.0, 100.0), 6, 130.0)


@given(
    per_minute=st.integers(1, 100),
    gaps=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=300),
)
def test_no_minute_has_more_than_twice_its_runs(per_minute: int, gaps: list[float]) -> None:
    now, bucket, taken_at = 0.0, None, []
    for gap in gaps:
        now += gap
        taken = take_run(bucket, per_minute, now)
        if isinstance(taken, Bucket):
            assert 0.0 <= taken.runs < per_minute
            bucket = taken
            taken_at.append(now)
        else:
            assert 0.0 < taken <= WINDOW_S / per_minute
    for begin in taken_at:
        assert sum(begin <= at < begin + WINDOW_S for at in taken_at) <= 2 * per_minute
