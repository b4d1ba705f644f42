from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.cache_control import NO_DIRECTIVES, Directives, parse_cache_control
from proxy.core.controls import Controls
from proxy.core.errors import Forbidden
from proxy.core.outputs import FileReference, OutputPlan
from proxy.core.policy import (
    DEFAULT_POLICY,
    MAX_TEXT_BYTES,
    UNPINNED_TTL_S,
    Bypass,
    Cached,
    Control,
    Grade,
    KeepsText,
    LookupPlan,
    Mode,
    Policy,
    PolicyBook,
    Skip,
    Store,
    grade,
    keyed_part,
    may_keep_text,
    permitted,
    plan_lookup,
    plan_seedless,
    plan_store,
)
from storage.digest import Digest

FILE = FileReference((0,), "https://replicate.delivery/out-0.png")
NEW_AND_OWN = Cached(may_look_up=False, may_share=False)


# -- which policy --------------------------------------------------------------------------------------

FLUX, FAST, REST = Policy(models=("acme/flux-*", "deployments/acme/*")), Policy(name="fast"), Policy(ttl_s=5)


@pytest.mark.parametrize(
    ("profile", "model", "policy"),
    [
        (None, "acme/flux-dev", FLUX),
        (None, "deployments/acme/x", FLUX),
        (None, "acme/other", REST),
        ("fast", "acme/flux-dev", FAST),
        (None, "", None),
        ("fast", "", FAST),
    ],
)
def test_first_policy_that_matches_holds_and_a_profiles_own_before_others(
    profile: str | None, model: str, policy: Policy | None
) -> None:
    book = PolicyBook([FLUX, FAST, REST])
    assert book.find(profile, model) is policy
    assert book.find(profile, model) is policy


def test_what_no_policy_matches_has_the_defaults() -> None:
    assert PolicyBook([FLUX]).find(None, "acme/other") is DEFAULT_POLICY
    assert PolicyBook().find(None, "") is DEFAULT_POLICY


def test_profile_falls_back_to_policies_without_a_name_and_never_the_other_way_round() -> None:
    book = PolicyBook([Policy(name="fast", models=("acme/flux",)), REST])
    assert book.find("fast", "acme/other") is REST
    assert book.find(None, "acme/flux") is REST
    assert book.has_profile("fast")
    assert not book.has_profile("slow")


def test_memory_of_policies_is_bounded() -> None:
    book = PolicyBook([FLUX])
    for number in range(10_001):
        book.find(None, f"acme/{number}")
    assert len(book._found) <= 10_000


# -- before the run ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache_control", "plan"),
    [
        (None, Cached()),
        ("max-stale=5", Cached()),
        ("no-cache", NEW_AND_OWN),
        ("max-age=0, no-cache", NEW_AND_OWN),
        ("max-age=0", NEW_AND_OWN),
        ("no-store", Bypass("request")),
        ("no-cache,no-store", Bypass("request")),
    ],
)
def test_request_decides_how_it_uses_the_cache(cache_control: str | None, plan: Cached | Bypass) -> None:
    assert plan_lookup(DEFAULT_POLICY, parse_cache_control(cache_control)) == plan


@pytest.mark.parametrize(
    ("mode", "plan"),
    [
        ("on", Cached()),
        ("off", Bypass("off")),
        ("observe", Bypass("observe")),
        ("read_only", Cached(may_store=False)),
        ("write_only", NEW_AND_OWN),
        ("refresh", Cached(may_look_up=False)),
    ],
)
def test_mode_decides_how_the_cache_is_used(mode: Mode, plan: LookupPlan) -> None:
    assert plan_lookup(Policy(mode=mode), NO_DIRECTIVES) == plan


@pytest.mark.parametrize("cache_control", [None, "no-cache", "no-store"])
def test_operators_switch_wins_over_the_request(cache_control: str | None) -> None:
    assert plan_lookup(DEFAULT_POLICY, parse_cache_control(cache_control), enabled=False) == Bypass("off")


def test_model_whose_policy_nobody_can_tell_is_not_cached() -> None:
    assert plan_lookup(None, NO_DIRECTIVES) == Bypass("unknown-model")


@pytest.mark.parametrize(
    ("given", "is_seeded"),
    [
        ({}, False),
        ({"seed": None}, False),
        ({"seed": -1}, False),
        ({"seed": 0}, True),
        ({"seed": 7}, True),
        ({"noise": 7}, False),
    ],
)
def test_seedless_is_absent_null_or_listed_and_zero_is_a_seed(given: dict[str, object], is_seeded: bool) -> None:
    assert DEFAULT_POLICY.has_seed(given) is is_seeded
    plan = plan_seedless(Cached(), Policy(pool=5), Controls(), given)
    assert plan == (Cached() if is_seeded else Cached(pool=5))
    plan = plan_seedless(Cached(), Policy(pool=0), Controls(), given)
    assert plan == (Cached() if is_seeded else Bypass("seedless"))


def test_zero_can_be_listed_as_random_and_other_fields_as_seeds() -> None:
    policy = Policy(random_seeds=(0, -1), seed_fields=("seed", "noise"))
    assert not policy.has_seed({"seed": 0})
    assert policy.has_seed({"seed": 0, "noise": 3})


def test_request_asks_for_a_pool_of_its_own_size() -> None:
    assert plan_seedless(Cached(), DEFAULT_POLICY, Controls(pool=3), {}) == Cached(pool=3)
    assert plan_seedless(Cached(), Policy(pool=0), Controls(pool=1), {}) == Cached()
    assert plan_seedless(Bypass("off"), Policy(pool=5), Controls(pool=3), {}) == Bypass("off")


# -- what the operator forbids ---------------------------------------------------------------------------

ASKED = Controls(parse_cache_control("no-cache, max-age=5, min-fresh=1, max-stale=9"))


def test_forbidden_wishes_about_age_are_not_heard() -> None:
    policy = Policy(forbid=frozenset({"no-cache", "max-age", "min-fresh", "max-stale"}))
    assert permitted(policy, ASKED).directives == NO_DIRECTIVES
    assert permitted(Policy(forbid=frozenset({"no-cache"})), ASKED).directives == replace(
        ASKED.directives, no_cache=False
    )
    assert permitted(DEFAULT_POLICY, ASKED) is ASKED


@pytest.mark.parametrize(
    ("word", "controls"),
    [
        ("no-store", Controls(Directives(no_store=True))),
        ("only-if-cached", Controls(Directives(only_if_cached=True))),
        ("namespace", Controls(namespace="a")),
        ("pool", Controls(pool=2)),
        ("key", Controls(key="a")),
        ("tags", Controls(tags=("a",))),
    ],
)
def test_request_that_would_get_something_else_than_it_asked_for_is_refused(word: Control, controls: Controls) -> None:
    with pytest.raises(Forbidden, match=word):
        permitted(Policy(forbid=frozenset({word})), controls)
    others: frozenset[Control] = frozenset({"no-store", "only-if-cached", "namespace", "pool", "key", "tags"}) - {word}
    assert permitted(Policy(forbid=others), controls) == controls


# -- what enters the key -------------------------------------------------------------------------------

INPUT = {"prompt": "a", "width": 5, "image": None, "mask": None}
FILES = ((("image",), Digest(bytes(32))), (("mask",), Digest(bytes(32))))


def test_all_fields_enter_the_key_by_default() -> None:
    assert keyed_part(DEFAULT_POLICY, INPUT, FILES) == (INPUT, FILES, "")


def test_ignored_fields_and_their_files_are_left_out_and_the_rule_is_told() -> None:
    kept, files, rule = keyed_part(Policy(ignore=frozenset({"width", "mask"})), INPUT, FILES)
    assert (kept, files) == ({"prompt": "a", "image": None}, FILES[:1])
    assert rule == '[["mask","width"],null]'


def test_only_named_fields_enter_the_key() -> None:
    policy = Policy(only=frozenset({"prompt", "mask", "other"}), ignore=frozenset({"prompt"}))
    kept, files, rule = keyed_part(policy, INPUT, FILES)
    assert (kept, files) == ({"mask": None}, FILES[1:])
    assert rule != keyed_part(Policy(only=frozenset({"mask", "other"})), INPUT, FILES)[2]


# -- after the run -------------------------------------------------------------------------------------


def test_success_with_every_file_fetched_is_stored() -> None:
    assert plan_store(Cached(), "succeeded", OutputPlan((FILE,), ()), 1) == Store()
    assert plan_store(Cached(may_look_up=False), "succeeded", OutputPlan((FILE, FILE), ()), 2) == Store()


@pytest.mark.parametrize("status", ["failed", "canceled", "aborted", "processing", "starting", "", "SUCCEEDED"])
def test_nothing_but_success_is_stored(status: str) -> None:
    assert plan_store(Cached(), status, OutputPlan((FILE,), ()), 1) == Skip("status")


@pytest.mark.parametrize("reason", ["off", "request", "url-input", "unread-file"])
def test_result_of_a_bypass_is_not_stored(reason: str) -> None:
    assert plan_store(Bypass(reason), "succeeded", OutputPlan((FILE,), ()), 1) == Skip("bypass")  # type: ignore[arg-type]


def test_result_with_an_address_that_is_not_the_upstreams_is_not_stored() -> None:
    assert plan_store(Cached(), "succeeded", OutputPlan((FILE,), ((1,),)), 1) == Skip("foreign-url")


def test_result_of_a_read_only_cache_is_not_stored() -> None:
    assert plan_store(Cached(may_store=False), "succeeded", OutputPlan((FILE,), ()), 1) == Skip("read-only")


def test_result_without_files_is_not_stored() -> None:
    assert plan_store(Cached(), "succeeded", OutputPlan((), ()), 0) == Skip("no-files")
    assert plan_store(Cached(), "succeeded", OutputPlan((), ()), 0, is_text_kept=True) == Store()


@pytest.mark.parametrize(
    ("keeps_text", "given", "output", "is_kept"),
    [
        ("deterministic", {}, "words", False),
        ("deterministic", {"seed": 0}, "words", True),
        ("deterministic", {"seed": None}, "words", False),
        ("deterministic", {"seed": -1}, "words", False),
        ("deterministic", {"seed": True}, "words", False),
        ("deterministic", {"seed": "7"}, "words", False),
        ("deterministic", {"temperature": 0.0}, ["wo", "rds"], True),
        ("deterministic", {"temperature": 0}, {"text": "words"}, True),
        ("deterministic", {"temperature": False}, "words", False),
        ("deterministic", {"temperature": 0.1}, "words", False),
        ("on", {}, "words", True),
        ("on", {}, "", True),
        ("on", {}, None, False),
        ("on", {}, "x" * (MAX_TEXT_BYTES + 1), False),
        ("off", {"seed": 7}, "words", False),
    ],
)
def test_text_is_kept_where_a_repeat_shall_be_the_same(
    keeps_text: KeepsText, given: dict[str, object], output: object, is_kept: bool
) -> None:
    assert may_keep_text(Policy(cache_text=keeps_text), given, output) is is_kept


@pytest.mark.parametrize("fetched", [0, 1, 3])
def test_result_with_a_file_missing_is_not_stored(fetched: int) -> None:
    assert plan_store(Cached(), "succeeded", OutputPlan((FILE, FILE), ()), fetched) == Skip("not-fetched")


# -- later ---------------------------------------------------------------------------------------------


def test_result_of_a_pinned_version_never_grows_old() -> None:
    assert grade(1e12, DEFAULT_POLICY, NO_DIRECTIVES, is_pinned=True) == "fresh"


@pytest.mark.parametrize(
    ("age_s", "expected"),
    [(-50.0, "fresh"), (0.0, "fresh"), (UNPINNED_TTL_S - 1, "fresh"), (UNPINNED_TTL_S, "stale"), (1e9, "stale")],
)
def test_result_of_a_version_that_is_not_told_is_served_for_a_week(age_s: float, expected: Grade) -> None:
    assert grade(age_s, DEFAULT_POLICY, NO_DIRECTIVES, is_pinned=False) == expected


LATE = Policy(ttl_s=100, stale_while_revalidate_s=10, stale_if_error_s=50)


@pytest.mark.parametrize(
    ("age_s", "cache_control", "expected"),
    [
        (99, None, "fresh"),
        (100, None, "revalidate"),
        (109.9, None, "revalidate"),
        (110, None, "if-error"),
        (149.9, None, "if-error"),
        (150, None, "stale"),
        (50, "max-age=50", "fresh"),
        (51, "max-age=50", "stale"),
        (51, "max-age=50, max-stale", "stale"),
        (80, "min-fresh=20", "fresh"),
        (81, "min-fresh=20", "stale"),
        (105, "max-stale", "fresh"),
        (105, "max-stale=5", "fresh"),
        (106, "max-stale=5", "stale"),
        (105, "max-age=1000", "stale"),
        (105, "max-age=1000, max-stale=5", "fresh"),
        (5, "no-cache", "stale"),
        (0, "max-age=0", "stale"),
    ],
)
def test_result_is_graded_by_its_age(age_s: float, cache_control: str | None, expected: Grade) -> None:
    assert grade(age_s, LATE, parse_cache_control(cache_control), is_pinned=True) == expected


@given(
    st.floats(0, 400),
    st.builds(
        Directives,
        max_age_s=st.none() | st.integers(1, 300),
        min_fresh_s=st.none() | st.integers(0, 300),
        max_stale_s=st.none() | st.integers(0, 300) | st.just(math.inf),
    ),
)
def test_nothing_is_served_that_a_directive_excludes(age_s: float, said: Directives) -> None:
    if grade(age_s, LATE, said, is_pinned=True) not in ("fresh", "revalidate"):
        return
    assert said.max_age_s is None or age_s <= said.max_age_s
    assert said.min_fresh_s is None or 100 - age_s >= said.min_fresh_s
    allowed_s = 10 if not said.names_freshness else 0
    assert age_s < 100 + allowed_s or age_s - 100 <= (said.max_stale_s or 0)
