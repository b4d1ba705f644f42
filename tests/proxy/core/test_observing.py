from __future__ import annotations

from dataclasses import replace

from proxy.core.cache_control import NO_DIRECTIVES, parse_cache_control
from proxy.core.observing import MAX_PENDING, MAX_RUN_S, SILENT_S, SeenKeys, SeenRun, Verdict
from proxy.core.policy import Cached, Policy
from storage.digest import PredictionKey

KEY = PredictionKey(b"k" * 32)


class Story:
    """Requests for one key, told in order."""

    def __init__(self, policy: Policy | None = None, pool: int = 1) -> None:
        self.keys = SeenKeys()
        self.policy = policy or Policy(ttl_s=100.0)
        self.plan = Cached(pool=pool)

    def ask(
        self, now: float, *, doubtful: bool = False, cache_control: str | None = None
    ) -> tuple[Verdict, SeenRun | None]:
        directives = parse_cache_control(cache_control) if cache_control else NO_DIRECTIVES
        plan = replace(self.plan, may_look_up=not directives.wants_new)
        return self.keys.judge(KEY, plan, self.policy, directives, now, is_pinned=True, is_doubtful=doubtful)

    def end(self, run: SeenRun, at: float) -> None:
        self.keys.end(KEY, run, at, self.plan.pool)

    def made(self, now: float) -> SeenRun:
        verdict, run = self.ask(now)
        assert verdict == "would-miss"
        assert run is not None
        return run


def test_repeat_shares_while_the_run_goes_on_then_hits_and_misses_again_when_it_is_old() -> None:
    story = Story()
    run = story.made(0.0)
    assert story.ask(1.0) == ("would-share", None)
    story.end(run, 2.0)
    assert story.ask(3.0) == ("would-hit", None)
    assert story.ask(3.0, doubtful=True) == ("would-hit-doubtful", None)
    assert story.ask(101.9)[0] == "would-hit"
    story.made(102.1)


def test_run_that_gave_nothing_is_as_if_it_had_not_been() -> None:
    story = Story()
    story.keys.drop(KEY, story.made(0.0))
    story.made(1.0)


def test_run_whose_end_nobody_asks_for_is_not_shared_for_ever() -> None:
    story = Story()
    run = story.made(0.0)
    assert story.ask(SILENT_S - 1)[0] == "would-share"
    run.heard_at = SILENT_S
    assert story.ask(2 * SILENT_S - 1)[0] == "would-share", "somebody has seen it under way"
    story.made(2 * SILENT_S + 1)
    story.end(run, 2 * SILENT_S + 2)
    assert story.ask(2 * SILENT_S + 3)[0] == "would-hit", "it had only not been asked for"


def test_run_whose_end_is_never_seen_is_forgotten() -> None:
    story = Story()
    for number in range(5):
        story.made(number * MAX_RUN_S)
    assert len(story.keys._seen[KEY]) == 1


def test_demand_for_a_new_run_replaces_what_is_there() -> None:
    story = Story()
    story.end(story.made(0.0), 1.0)
    verdict, run = story.ask(50.0, cache_control="no-cache")
    assert verdict == "would-miss"
    assert run is not None
    assert story.ask(50.5)[0] == "would-hit", "the old one is there until the new one is"
    story.end(run, 51.0)
    assert story.ask(140.0)[0] == "would-hit", "its age counts from the new run"
    assert story.ask(140.0, cache_control="max-age=10")[0] == "would-miss"


def test_demand_that_comes_to_nothing_leaves_what_was_there() -> None:
    story = Story()
    story.end(story.made(0.0), 1.0)
    _, run = story.ask(2.0, cache_control="no-cache")
    assert run is not None
    story.keys.drop(KEY, run)
    assert story.ask(3.0)[0] == "would-hit"


def test_two_demands_at_once_leave_one_result() -> None:
    story = Story()
    story.end(story.made(0.0), 1.0)
    runs = [story.ask(2.0, cache_control="no-cache")[1] for _ in range(2)]
    for run in runs:
        assert run is not None
        story.end(run, 3.0)
    assert story.ask(102.9)[0] == "would-hit"
    story.made(103.1)


def test_demands_whose_end_nobody_sees_are_bounded() -> None:
    story = Story()
    story.end(story.made(0.0), 1.0)
    for _ in range(1000):
        story.ask(2.0, cache_control="no-cache")
    assert len(story.keys._seen[KEY]) <= MAX_PENDING + 2


def test_pool_of_which_a_part_is_too_old_for_one_request_still_serves_the_others() -> None:
    story = Story(pool=2)
    story.end(story.made(0.0), 1.0)
    story.end(story.made(0.0), 20.0)
    verdict, run = story.ask(25.0, cache_control="max-age=10")
    assert verdict == "would-miss"
    assert story.ask(25.0)[0] == "would-hit"
    assert run is not None
    story.end(run, 26.0)
    assert story.ask(27.0, cache_control="max-age=10")[0] == "would-hit"


def test_pool_is_filled_before_anything_of_it_hits() -> None:
    story = Story(pool=3)
    for number in range(3):
        story.end(story.made(float(number)), 5.0)
    assert story.ask(6.0)[0] == "would-hit"


def test_keys_are_bounded_and_those_used_last_stay() -> None:
    keys = SeenKeys(max_keys=2)

    def ask(name: bytes, now: float) -> Verdict:
        verdict, run = keys.judge(
            PredictionKey(name * 32), Cached(), Policy(), NO_DIRECTIVES, now, is_pinned=True, is_doubtful=False
        )
        if run is not None:
            keys.end(PredictionKey(name * 32), run, now, 1)
        return verdict

    assert [ask(name, 1.0) for name in (b"a", b"b", b"a", b"c")] == [
        "would-miss",
        "would-miss",
        "would-hit",
        "would-miss",
    ]
    assert len(keys) == 2
    assert ask(b"a", 2.0) == "would-hit"
    assert ask(b"b", 2.0) == "would-miss"
