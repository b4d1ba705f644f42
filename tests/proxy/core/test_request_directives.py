"""RFC 9111 section 5.2.1, sentence by sentence: what each directive of a request does to a stored result.

The result is fresh for 100 seconds. ``serves`` says whether it may be the answer.
"""

from __future__ import annotations

import pytest

from proxy.core.cache_control import parse_cache_control
from proxy.core.policy import Bypass, Cached, Policy, grade, plan_lookup

FRESH_S = 100
RULE = Policy(ttl_s=FRESH_S)
LENIENT = Policy(ttl_s=FRESH_S, stale_while_revalidate_s=1000, stale_if_error_s=1000)


def serves(header: str, age_s: float, policy: Policy = RULE) -> bool:
    said = parse_cache_control(header)
    plan = plan_lookup(policy, said)
    may_look_up = isinstance(plan, Cached) and plan.may_look_up
    return may_look_up and grade(age_s, policy, said, is_pinned=True) in ("fresh", "revalidate")


@pytest.mark.parametrize(
    ("sentence", "header", "age_s", "is_served"),
    [
        ("4.2: fresh is what is younger than its lifetime", "", 99.9, True),
        ("4.2: and not what is just as old", "", 100, False),
        # 5.2.1.1
        ("max-age: an answer whose age is less than the seconds", "max-age=50", 49, True),
        ("max-age: or equal to them", "max-age=50", 50, True),
        ("max-age: is wanted, and none that is older", "max-age=50", 50.5, False),
        ("max-age: without max-stale no stale answer is wished for", "max-age=1000", 101, False),
        ("max-age: with max-stale one is", "max-age=1000, max-stale", 101, True),
        ("max-age: but it must not be older than the seconds all the same", "max-age=50, max-stale", 60, False),
        ("5.2: the quoted form is to be understood, too", 'max-age="50"', 51, False),
        # 5.2.1.2
        ("max-stale: an answer beyond its lifetime will do", "max-stale=10", 105, True),
        ("max-stale: by no more than the seconds", "max-stale=10", 110, True),
        ("max-stale: no more", "max-stale=10", 110.5, False),
        ("max-stale: without a value one of any age", "max-stale", 1e9, True),
        ("max-stale: takes nothing from a fresh one", "max-stale=0", 99, True),
        # 5.2.1.3
        ("min-fresh: still fresh for the seconds", "min-fresh=20", 79, True),
        ("min-fresh: the lifetime is no less than age plus seconds", "min-fresh=20", 80, True),
        ("min-fresh: none that is less", "min-fresh=20", 80.5, False),
        ("min-fresh: none that can never be", "min-fresh=101", 0, False),
        ("min-fresh: however stale an answer would do", "min-fresh=1, max-stale", 105, False),
        # 5.2.1.4
        ("no-cache: nothing stored without a question to the origin", "no-cache", 0, False),
        ("no-cache: whatever else is said", "no-cache, max-stale, max-age=1000", 0, False),
        # 5.2.1.5
        ("no-store: the request goes past the cache", "no-store", 0, False),
        # 5.2.1.6
        ("no-transform: asks for nothing that this cache does", "no-transform", 50, True),
        # 5.2.1.7
        ("only-if-cached: a stored answer", "only-if-cached", 50, True),
        ("only-if-cached: that the other wishes allow", "only-if-cached, max-age=10", 50, False),
        ("only-if-cached: a stale one if that is allowed", "only-if-cached, max-stale=10", 105, True),
        # 5.2, 5.2.3, 4.2.1
        ("5.2: names are read in any case", "NO-CACHE", 0, False),
        ("5.2.3: what is not known is left aside", "community=UCI, immutable", 50, True),
        ("4.2.1: of two values the stricter", "max-age=1000, max-age=10", 50, False),
        ("4.2.1: of two values the stricter, the other way round", "max-age=10, max-age=1000", 50, False),
        ("4.2.1: a value that is no number makes stale", "max-age=soon", 0, False),
        ("4.2.1: likewise", "min-fresh=soon", 0, False),
        ("4.2.1: likewise", "max-stale=soon", 101, False),
        ("1.2.2: a number too large is the largest", "max-age=99999999999999999999", 99, True),
    ],
)
def test_request_directive_does_what_the_rfc_says(sentence: str, header: str, age_s: float, is_served: bool) -> None:
    assert serves(header, age_s) is is_served, sentence


@pytest.mark.parametrize(
    "header", ["no-cache", "max-age=5", "max-age=1000", "min-fresh=0", "max-stale=0", "max-stale=10"]
)
def test_operators_leniency_is_not_for_who_says_how_old_an_answer_may_be(header: str) -> None:
    """The windows of RFC 5861 are the operator's leave, and a client that says more than nothing knows better."""
    assert not serves(header, 150, LENIENT)
    assert grade(150, LENIENT, parse_cache_control(header), is_pinned=True) == "stale"
    assert serves("", 150, LENIENT)


def test_nothing_of_a_request_that_says_no_store_is_kept_and_it_is_shared_with_nobody() -> None:
    """5.2.1.5: no part of the request, nor of any response to it, must be stored."""
    for header in ("no-store", "no-store, max-stale", "no-store, only-if-cached"):
        assert plan_lookup(RULE, parse_cache_control(header)) == Bypass("request")
