from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.tally import RETRY_S, Shares, Tally

ANN, BEN = 1, 2


def tally(*sharers: tuple[int | None, float]) -> Tally:
    """A run that Ann caused at second 0, and who joined it when."""
    made = Tally()
    made.join(ANN, 0.0, has_caused=True)
    for caller, at in sharers:
        made.join(caller, at, has_caused=False)
    return made


def test_run_that_nobody_shares_saves_nothing() -> None:
    assert tally().close() == Shares(everyone=1, sharers=0, repeats=0, heirs=0)


def test_other_callers_and_later_requests_are_savings() -> None:
    made = tally((BEN, 0.1), (ANN, RETRY_S + 0.1))
    assert made.close() == Shares(everyone=3, sharers=2, repeats=0, heirs=0)


def test_same_caller_again_within_two_seconds_is_a_repeat() -> None:
    made = tally((ANN, 0.5), (BEN, 1.0), (BEN, 1.0 + RETRY_S), (ANN, RETRY_S))
    assert made.close() == Shares(everyone=5, sharers=4, repeats=3, heirs=0)


def test_one_of_those_who_stay_inherits_the_run_of_one_who_cancels() -> None:
    made = tally((BEN, 3.0), (BEN, 6.0))
    made.leave(ANN, 0.0, has_caused=True)
    assert made.close() == Shares(everyone=2, sharers=2, repeats=0, heirs=1)


def test_repeat_of_a_caller_who_cancelled_the_first_inherits_it() -> None:
    made = tally((ANN, 1.0))
    made.leave(ANN, 0.0, has_caused=True)
    assert made.close() == Shares(everyone=1, sharers=1, repeats=0, heirs=1)


def test_who_has_left_is_counted_no_more() -> None:
    made = tally((BEN, 3.0))
    made.leave(BEN, 3.0, has_caused=False)
    made.leave(BEN, 3.0, has_caused=False)
    assert made.close() == Shares(everyone=1, sharers=0, repeats=0, heirs=0)


def test_refresh_in_the_background_has_no_heir_because_it_is_taken_off_itself() -> None:
    made = Tally("refresh")
    made.join(BEN, 1.0, has_caused=False)
    assert made.close() == Shares(everyone=1, sharers=1, repeats=0, heirs=0)


def test_callers_of_a_former_process_count_as_one() -> None:
    made = Tally()
    made.join(None, 5.0, has_caused=False)
    made.join(None, 4.0, has_caused=True)  # rows come in any order
    assert made.close() == Shares(everyone=2, sharers=1, repeats=1, heirs=0)


def test_tally_is_closed_once() -> None:
    made = tally((BEN, 1.0))
    made.close()
    assert made.is_closed
    assert made.close() == Shares(everyone=0, sharers=0, repeats=0, heirs=0)


@given(st.lists(st.tuples(st.sampled_from([ANN, BEN, None]), st.floats(0, 10))), st.booleans(), st.booleans())
def test_what_is_taken_off_never_exceeds_what_is_shared(
    sharers: list[tuple[int | None, float]], leaves: bool, refreshes: bool
) -> None:
    made = tally(*sharers)
    if leaves:
        made.leave(ANN, 0.0, has_caused=True)
    if refreshes:
        made.kind = "refresh"
    shares = made.close()
    assert 0 <= shares.repeats + shares.heirs <= shares.sharers <= shares.everyone
    assert shares.heirs == (leaves and not refreshes and bool(sharers))
