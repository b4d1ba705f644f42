from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.pools import Follow, Lead, MemberState, Serve, choose_member

STATES = st.lists(st.sampled_from(["stored", "running", "empty"]), min_size=1, max_size=8)


@given(STATES, st.randoms(use_true_random=False))
def test_empty_member_is_made_before_any_answer_repeats(states: list[MemberState], random: Random) -> None:
    choice = choose_member(states, random.randrange)
    expected = Lead if "empty" in states else {"stored": Serve, "running": Follow}[states[choice.member]]
    assert type(choice) is expected
    if "empty" in states:
        assert states[choice.member] == "empty"


def test_every_member_of_a_full_pool_is_as_likely() -> None:
    random = Random(7)
    served = Counter(choose_member(["stored", "running", "stored"], random.randrange).member for _ in range(30_000))
    assert all(abs(count - 10_000) < 400 for count in served.values())
    assert len(served) == 3
