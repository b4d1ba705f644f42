"""When a run is looked at: never later than with nothing known, and at the right moments where a model is known."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from proxy.upstreams.polling import (
    CAP_S,
    CLOSE_PART,
    CROWD_CAP_S,
    EARLY_CAP_S,
    EARLY_PART,
    EARLY_UNTIL,
    FAILED_CAP_S,
    FIRST_S,
    GROWTH,
    LEAST_RUNS,
    LOOKS_PER_S,
    MAX_MODELS,
    MAX_REFUSALS,
    RECENT_RUNS,
    TOLD_S,
    Crowds,
    Pacing,
    Turnstile,
    Usual,
    UsualTimes,
    longest_pause_s,
)

seconds = st.floats(min_value=0.01, max_value=600.0)
histories = st.lists(seconds, min_size=1, max_size=RECENT_RUNS).map(lambda ends: Usual(tuple(sorted(ends))))


def looks_at(pacing: Pacing, end_s: float, crowd: int = 1) -> list[float]:
    """The ages at which a run that ends after ``end_s`` seconds of work is looked at, up to the look that sees it."""
    ages = [0.0]
    while ages[-1] < end_s:
        ages.append(ages[-1] + pacing.pause_s(ages[-1], crowd=crowd))
    return ages[1:]


def lateness(pacing: Pacing, end_s: float, crowd: int = 1) -> float:
    return looks_at(pacing, end_s, crowd)[-1] - end_s


class TestUnknownModel:
    def test_pauses_grow_to_a_cap(self) -> None:
        pacing = Pacing()
        pauses = [pacing.pause_s(None) for _ in range(8)]
        assert pauses == [0.25, 0.375, 0.5625, 0.84375, 1.265625, 1.8984375, 2.0, 2.0]
        assert pauses[1] == FIRST_S * GROWTH

    @given(seconds)
    def test_end_is_noticed_within_a_share_of_the_time_and_two_seconds(self, end_s: float) -> None:
        assert lateness(Pacing(), end_s) <= min(FIRST_S + end_s * (GROWTH - 1), CAP_S) + 1e-6

    def test_new_status_begins_anew_and_growing_output_is_looked_at_often(self) -> None:
        pacing = Pacing()
        for _ in range(9):
            pacing.pause_s(None)
        pacing.succeeded(has_new_status=False, has_new_output=True)
        assert pacing.pause_s(None) == 0.5
        pacing.succeeded(has_new_status=True)
        assert pacing.pause_s(None) == FIRST_S


class TestKnownModel:
    @given(histories, seconds)
    def test_end_is_noticed_no_later_than_without_unless_all_runs_were_much_longer(
        self, usual: Usual, end_s: float
    ) -> None:
        """ "No later" is meant of the bound for a moment: which look comes just before it is chance."""
        without_s = min(FIRST_S + end_s * (GROWTH - 1), CAP_S)
        if end_s < usual.quickest_s * EARLY_UNTIL + EARLY_CAP_S:
            without_s = max(without_s, min(usual.quickest_s * EARLY_PART, EARLY_CAP_S))
        assert lateness(Pacing(usual), end_s) <= without_s + 1e-6

    @given(st.lists(st.floats(min_value=2.0, max_value=600.0), min_size=1, max_size=RECENT_RUNS), st.data())
    def test_run_that_takes_what_one_before_took_is_noticed_at_once(
        self, ends: list[float], data: st.DataObject
    ) -> None:
        usual = Usual(tuple(sorted(ends)))
        end_s = data.draw(st.sampled_from(ends))
        assert lateness(Pacing(usual), end_s) <= max(FIRST_S, min(end_s * CLOSE_PART, CAP_S)) + 1e-6

    @given(st.floats(min_value=30.0, max_value=600.0))
    def test_steady_model_costs_few_looks(self, end_s: float) -> None:
        usual = Usual((end_s * 0.98, end_s, end_s * 1.02))
        known, unknown = looks_at(Pacing(usual), end_s), looks_at(Pacing(), end_s)
        assert len(known) < len(unknown)

    @given(histories, seconds)
    def test_pauses_stay_within_bounds(self, usual: Usual, end_s: float) -> None:
        ages = [0.0, *looks_at(Pacing(usual), end_s)]
        pauses = [after - before for before, after in itertools.pairwise(ages)]
        assert all(FIRST_S - 1e-6 <= pause_s <= EARLY_CAP_S + 1e-6 for pause_s in pauses)

    def test_model_that_shows_its_output_before_the_end_is_looked_at_often(self) -> None:
        ends = (100.0, 100.0, 100.0)
        assert Pacing(Usual(ends)).pause_s(1.0) == EARLY_CAP_S
        assert Pacing(Usual(ends, shows_output=True)).pause_s(1.0) == FIRST_S


class TestCrowd:
    @given(st.integers(min_value=1, max_value=600))
    def test_account_s_looks_stay_below_what_its_api_allows(self, crowd: int) -> None:
        assert crowd / longest_pause_s(crowd) <= max(LOOKS_PER_S, crowd / CROWD_CAP_S)
        assert longest_pause_s(crowd) >= CAP_S

    def test_hundred_runs_are_looked_at_less_often_in_the_long_run_only(self) -> None:
        alone, crowded = looks_at(Pacing(), 100.0), looks_at(Pacing(), 100.0, crowd=400)
        assert alone[:6] == crowded[:6]
        assert len(crowded) < len(alone) / 2

    def test_crowds_are_counted_by_account_and_forgotten(self) -> None:
        crowds = Crowds()
        for _ in range(3):
            crowds.enter("alice")
        crowds.enter("bob")
        assert (crowds.count("alice"), crowds.count("bob"), crowds.count("carol")) == (3, 1, 0)
        for _ in range(3):
            crowds.leave("alice")
        assert crowds.count("alice") == 0


class TestTold:
    def test_looks_are_a_rare_fallback(self) -> None:
        assert [Pacing().pause_s(age_s, is_told=True) for age_s in (None, 0.0, 100.0)] == [TOLD_S] * 3

    def test_one_look_more_is_taken_when_the_run_should_have_ended(self) -> None:
        pacing = Pacing(Usual((8.0, 9.0, 10.0)))
        first = pacing.pause_s(0.0, is_told=True)
        assert 11.0 < first < 12.0
        assert pacing.pause_s(first, is_told=True) == TOLD_S


class TestFailures:
    def test_pauses_grow_to_a_cap_and_never_end_the_run(self) -> None:
        pacing, pauses = Pacing(), []
        for _ in range(200):
            assert pacing.failed(is_refusal=False, retry_after_s=0.0)
            pauses.append(pacing.pause_s(None))
        assert pauses[:6] == [0.5, 1.0, 2.0, 4.0, 8.0, FAILED_CAP_S]
        assert set(pauses[6:]) == {FAILED_CAP_S}

    def test_what_failed_together_is_not_tried_together(self) -> None:
        pauses = set()
        for spread in (0.0, 0.5, 0.99):
            pacing = Pacing(spread=spread)
            pacing.failed(is_refusal=False, retry_after_s=0.0)
            pauses.add(pacing.pause_s(None))
        assert len(pauses) == 3

    def test_pause_that_was_asked_for_is_kept_even_when_webhooks_tell(self) -> None:
        pacing = Pacing()
        pacing.failed(is_refusal=False, retry_after_s=50.0)
        assert pacing.pause_s(None, is_told=True) == 50.0
        assert pacing.pause_s(None) < 1.0

    def test_refusals_in_a_row_end_it(self) -> None:
        pacing = Pacing()
        for _ in range(MAX_REFUSALS - 1):
            assert pacing.failed(is_refusal=True, retry_after_s=0.0)
        pacing.failed(is_refusal=False, retry_after_s=0.0)
        for _ in range(MAX_REFUSALS - 1):
            assert pacing.failed(is_refusal=True, retry_after_s=0.0)
        assert not pacing.failed(is_refusal=True, retry_after_s=0.0)


class TestUsualTimes:
    def test_model_is_known_after_a_few_runs_by_its_last_ones(self) -> None:
        times = UsualTimes()
        for count in range(LEAST_RUNS):
            assert times.of("acme/pixel") is None
            times.learn("acme/pixel", 9.0 - count, shows_output=False)
        assert times.of("acme/pixel") == Usual((7.0, 8.0, 9.0))
        for _ in range(RECENT_RUNS):
            times.learn("acme/pixel", 1.0, shows_output=True)
        assert times.of("acme/pixel") == Usual((1.0,) * RECENT_RUNS, shows_output=True)
        assert times.of("acme/other") is None

    def test_models_used_last_are_remembered(self) -> None:
        times = UsualTimes()
        for number in range(MAX_MODELS + 5):
            times.learn(f"acme/{number}", 1.0, shows_output=False)
            times.learn("acme/steady", 2.0, shows_output=False)
        assert len(times) == MAX_MODELS
        assert times.of("acme/steady") is not None


@given(st.lists(st.floats(min_value=0.0, max_value=0.01), max_size=50))
def test_turnstile_lets_looks_pass_one_by_one_in_order(gaps: list[float]) -> None:
    turnstile, now, passed = Turnstile(), 1000.0, []
    for gap in gaps:
        now += gap
        passed.append(now + turnstile.wait_s(now))
    assert all(after - before >= Turnstile.EVERY_S - 1e-9 for before, after in itertools.pairwise(passed))
    assert Turnstile().wait_s(now) == 0.0
