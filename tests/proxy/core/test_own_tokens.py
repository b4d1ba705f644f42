"""Own tokens as rows, and the rate of their creates."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.changes import (
    Accepted,
    Change,
    GroupsChanged,
    Refused,
    TokenAdded,
    TokenRevoked,
    decode_change,
    encode_change,
)
from proxy.core.entitlement import Account, Groups, Rule, has_own_form
from proxy.core.own_tokens import OwnToken, decode_token, describe_token, encode_token, new_token, plan_request
from storage.digest import Scope

TOKEN = OwnToken(
    digest=b"d" * 32,
    id="tok_0123456789abcdef",
    name="Studio \u00e9",
    rule=Rule("group", "crew"),
    models=("acme/*", "deployments/acme/live"),
    rate_per_min=60,
    spend_per_day=12.5,
    created_at=1_790_000_000.25,
)
BARE = OwnToken(digest=b"e" * 32, id="tok_0000000000000000", name="bare", is_static=True)


@pytest.mark.parametrize("token", [TOKEN, BARE])
def test_token_is_the_same_after_its_row(token: OwnToken) -> None:
    assert decode_token(encode_token(token)) == token


@pytest.mark.parametrize(
    "row", [b"", b"{}", b"[]", encode_token(TOKEN).replace(b'"format":1', b'"format":2'), encode_token(TOKEN)[:-1]]
)
def test_row_that_this_version_cannot_read_is_none(row: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode_token(row)


def test_what_is_shown_of_a_token_does_not_tell_its_digest() -> None:
    assert "digest" not in describe_token(TOKEN)
    assert TOKEN.digest.hex() not in str(describe_token(TOKEN))


def test_every_token_is_new_and_has_200_bits() -> None:
    made = {new_token() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"hp_[a-z2-7]{40}", one) and has_own_form(one) for one in made)


@pytest.mark.parametrize(
    ("model", "may"),
    [("acme/pixel", True), ("acmes/pixel", False), ("deployments/acme/live", True), ("deployments/acme/x", False)],
)
def test_models_are_globs(model: str, may: bool) -> None:
    assert TOKEN.may_run(model) == may
    assert BARE.may_run(model)
    assert BARE.may_run_all
    assert not TOKEN.may_run_all


# -- rate ----------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.lists(st.floats(0, 30), min_size=1, max_size=400))
def test_no_minute_has_more_than_two_minutes_worth_and_no_long_time_more_than_its_share(
    per_min: int, pauses: list[float]
) -> None:
    now, due_at, taken = 1000.0, 0.0, []
    for pause in pauses:
        now += pause
        wait_s, due_at = plan_request(due_at, now, per_min)
        assert wait_s >= 0
        if wait_s == 0:
            taken.append(now)
    for first in range(0, len(taken), 7):
        for last in range(first, len(taken), 5):
            span_s = taken[last] - taken[first]
            assert last - first + 1 <= per_min * (1 + span_s / 60) + 1e-6


@given(st.integers(1, 200))
def test_a_minutes_worth_may_come_at_once_and_the_wait_that_is_told_is_long_enough(per_min: int) -> None:
    due_at = 0.0
    for _ in range(per_min):
        wait_s, due_at = plan_request(due_at, 50.0, per_min)
        assert wait_s == 0
    wait_s, due_at = plan_request(due_at, 50.0, per_min)
    assert 0 < wait_s <= 60.0 / per_min + 1e-6
    assert plan_request(due_at, 50.0 + wait_s + 1e-6, per_min)[0] == 0


# -- changes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        Accepted("replicate", Scope(b"t" * 32), 12.25, Account("user", "alice")),
        Accepted("replicate", Scope(b"t" * 32), 12.25),
        Refused("replicate", Scope(b"t" * 32)),
        TokenAdded(TOKEN),
        TokenAdded(BARE),
        TokenRevoked(b"d" * 32),
        GroupsChanged(Groups.of({"crew": ["account:acme"], "other": ["account:acme"]})),
    ],
)
def test_change_is_the_same_in_the_next_process(change: Change) -> None:
    assert decode_change(encode_change(change)) == change


@pytest.mark.parametrize("document", [{}, {"what": "else"}, {"what": "refused"}, {"what": "revoked", "digest": "x"}])
def test_what_is_no_change_is_refused(document: dict[str, str]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode_change(document)
