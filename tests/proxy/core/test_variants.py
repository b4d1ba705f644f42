"""Variants of keys: what a request or a policy adds to what ``derive_key`` says."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.keys import variant_key
from storage.digest import PredictionKey

KEY = PredictionKey(bytes(range(32)))
TEXT = st.text(st.characters(max_codepoint=255), max_size=5)
PARTS = st.tuples(TEXT, TEXT, TEXT, st.integers(0, 100))


def variant(parts: tuple[str, str, str, int], key: PredictionKey = KEY) -> PredictionKey:
    return variant_key(key, namespace=parts[0], extra=parts[1], rule=parts[2], member=parts[3])


def test_key_without_any_difference_is_itself() -> None:
    assert variant_key(KEY) == KEY


def test_vector_stays_what_it_is() -> None:
    made = variant_key(KEY, namespace="team/a", extra="ü", rule='[["width"],null]', member=3)
    assert made.hex() == VECTOR


@given(st.lists(PARTS, min_size=2, max_size=6, unique=True))
def test_any_difference_makes_another_key(several: list[tuple[str, str, str, int]]) -> None:
    for one, other in combinations(several, 2):
        assert variant(one) != variant(other)


def test_other_key_has_other_variants() -> None:
    assert variant(("a", "", "", 0)) != variant(("a", "", "", 0), PredictionKey(bytes(32)))


VECTOR = "a2795bce036261a38cb03afec0540282205af66fad88e8d8b6c41ca0298cbb91"
