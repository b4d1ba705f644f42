from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.cache_control import MAX_DELTA_S, NO_DIRECTIVES, Directives, parse_cache_control


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (None, NO_DIRECTIVES),
        ("", NO_DIRECTIVES),
        ("public", NO_DIRECTIVES),
        ("no-storefront", NO_DIRECTIVES),
        ("x-no-store", NO_DIRECTIVES),
        (", ,", NO_DIRECTIVES),
        ("No-Cache", Directives(no_cache=True)),
        (" NO-STORE ,no-cache", Directives(no_cache=True, no_store=True)),
        ("only-if-cached", Directives(only_if_cached=True)),
        ("max-age=5", Directives(max_age_s=5)),
        ('max-age="5"', Directives(max_age_s=5)),
        ("max-age = 5", Directives(max_age_s=5)),
        ("max-age=5, max-age=3", Directives(max_age_s=3)),
        ("min-fresh=5, min-fresh=9", Directives(min_fresh_s=9)),
        ("max-stale", Directives(max_stale_s=math.inf)),
        ("max-stale, max-stale=7", Directives(max_stale_s=7)),
        ("max-stale=0", Directives(max_stale_s=0)),
        ('foo="a, no-cache", max-age=3', Directives(max_age_s=3)),
        (r'foo="a\", no-store", no-cache', Directives(no_cache=True)),
        ("max-age=99999999999999999999999", Directives(max_age_s=MAX_DELTA_S)),
        ('no-cache="set-cookie"', Directives(no_cache=True)),
    ],
)
def test_directives_are_read(header: str | None, said: Directives) -> None:
    assert parse_cache_control(header) == said


@pytest.mark.parametrize("value", ["", "=", "=x", "=-1", "=1.5", '=""', "=٣"])
def test_number_that_cannot_be_read_is_taken_in_its_strictest_sense(value: str) -> None:
    assert parse_cache_control(f"max-age{value}").max_age_s == 0
    assert parse_cache_control(f"min-fresh{value}").min_fresh_s == math.inf
    if value:
        assert parse_cache_control(f"max-stale{value}").max_stale_s == 0


@given(st.text(max_size=200))
def test_no_header_is_an_error(header: str) -> None:
    said = parse_cache_control(header)
    assert isinstance(said, Directives)


WORDS = {
    "no-cache": "no_cache",
    "no-store": "no_store",
    "only-if-cached": "only_if_cached",
}


@given(
    st.lists(st.sampled_from([*WORDS, "public", "x=1", 'y="no-store"']), max_size=6),
    st.sampled_from([",", " , ", ",,"]),
)
def test_words_count_wherever_they_stand(words: list[str], comma: str) -> None:
    said = parse_cache_control(comma.join(words))
    for word, field in WORDS.items():
        assert getattr(said, field) is (word in words)
