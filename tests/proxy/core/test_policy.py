from __future__ import annotations

import pytest

from proxy.core.outputs import FileReference, OutputPlan
from proxy.core.policy import (
    MAX_TEXT_BYTES,
    UNPINNED_TTL_S,
    Bypass,
    Cached,
    KeepsText,
    Skip,
    Store,
    is_fresh,
    may_keep_text,
    plan_lookup,
    plan_store,
)

FILE = FileReference((0,), "https://replicate.delivery/out-0.png")


# -- before the run ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache_control", "plan"),
    [
        (None, Cached()),
        ("", Cached()),
        ("max-stale=5", Cached()),
        ("public", Cached()),
        ("no-cache", Cached(may_look_up=False)),
        ("No-Cache", Cached(may_look_up=False)),
        ("max-age=0, no-cache", Cached(may_look_up=False)),
        ("no-store", Bypass("request")),
        (" NO-STORE ,no-cache", Bypass("request")),
        ("no-cache,no-store", Bypass("request")),
        ("no-storefront", Cached()),
        ("x-no-store", Cached()),
    ],
)
def test_request_decides_how_it_uses_the_cache(cache_control: str | None, plan: Cached | Bypass) -> None:
    assert plan_lookup(enabled=True, cache_control=cache_control) == plan


@pytest.mark.parametrize("cache_control", [None, "no-cache", "no-store"])
def test_operators_switch_wins_over_the_request(cache_control: str | None) -> None:
    assert plan_lookup(enabled=False, cache_control=cache_control) == Bypass("off")


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
    assert may_keep_text(keeps_text, given, output) is is_kept


@pytest.mark.parametrize("fetched", [0, 1, 3])
def test_result_with_a_file_missing_is_not_stored(fetched: int) -> None:
    assert plan_store(Cached(), "succeeded", OutputPlan((FILE, FILE), ()), fetched) == Skip("not-fetched")


# -- later ---------------------------------------------------------------------------------------------


def test_result_of_a_pinned_version_never_grows_old() -> None:
    assert is_fresh(0.0, is_pinned=True, now=1e12)


@pytest.mark.parametrize(
    ("age_s", "fresh"), [(0.0, True), (UNPINNED_TTL_S - 1, True), (UNPINNED_TTL_S, False), (1e9, False)]
)
def test_result_of_a_version_that_is_not_told_is_served_for_a_week(age_s: float, fresh: bool) -> None:
    assert is_fresh(5.0, is_pinned=False, now=5.0 + age_s) is fresh
