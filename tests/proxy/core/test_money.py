from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import BadRequest
from proxy.core.money import (
    KINDS,
    Account,
    Kind,
    Line,
    Name,
    Selection,
    decode_lines,
    earned,
    encode_lines,
    figures,
    parse_selection,
    report,
    total_saved,
)
from proxy.core.prices import Price

TODAY, SCOPE, OTHER_SCOPE = "2026-02-01", "ab" * 32, "cd" * 32

AMOUNTS = st.integers(0, 1000).map(float)
LINES = st.dictionaries(st.sampled_from(KINDS), st.builds(Line, st.integers(0, 99), AMOUNTS, AMOUNTS))


def accounted(*entries: tuple[Kind, float, int, int], price: Price | None = None) -> dict[Kind, Line]:
    account = Account(Name(TODAY, "replicate", SCOPE, "acme/pixel"), price or Price(per_second=0.01, per_output=0.1))
    for entry in entries:
        account.add(*entry)
    return account.lines


def test_account_adds_up_at_its_price() -> None:
    lines = accounted(("hit", 2.0, 1, 1), ("hit", 3.0, 2, 10), ("made_failed", 4.0, 0, 1))
    assert lines["hit"] == Line(11, 32.0, pytest.approx(0.12 + 2.3))
    assert lines["made_failed"] == Line(1, 4.0, pytest.approx(0.04))


def test_total_is_every_run_avoided_and_earned_is_what_the_bill_is_smaller_by() -> None:
    lines = accounted(
        ("made_succeeded", 2.0, 0, 3),
        ("hit", 2.0, 0, 10),
        ("shared", 2.0, 0, 6),
        ("repeat", 2.0, 0, 2),
        ("heir", 2.0, 0, 1),
        ("fruitless", 2.0, 0, 1),
        ("refresh", 2.0, 0, 1),
        ("ping", 1.0, 0, 4),
        ("would_hit", 2.0, 0, 100),
        ("left", 0.0, 0, 5),
    )
    assert total_saved(lines) == Line(16, 32.0, pytest.approx(0.32))
    assert earned(lines) == Line(12, 18.0, pytest.approx(0.18))


def test_storage_is_taken_off_the_money_and_off_nothing_else() -> None:
    lines: dict[Kind, Line] = {"hit": Line(1, 2.0, 0.5), "stored": Line(7300.0, 0.0, 0.8)}
    assert earned(lines) == Line(1, 2.0, pytest.approx(-0.3))


def test_each_request_is_of_one_kind() -> None:
    lines: dict[Kind, Line] = {kind: Line(2**number) for number, kind in enumerate(KINDS)}
    apart = ("repeat", "heir", "fruitless", "ping", "refresh", "would_hit", "stored")
    assert figures(lines)["requests"] == sum(2**number for number, kind in enumerate(KINDS) if kind not in apart)


def test_report_groups_by_model_scope_and_day() -> None:
    accounts: list[tuple[Name, Mapping[Kind, Line]]] = [
        (Name(TODAY, "replicate", SCOPE, "acme/pixel"), {"hit": Line(1, 1.0, 1.0)}),
        (Name("2026-01-31", "replicate", OTHER_SCOPE, "acme/pixel"), {"hit": Line(2, 2.0, 2.0)}),
        (Name(TODAY, "gpus", OTHER_SCOPE, "acme/flux"), {"made_succeeded": Line(4, 4.0, 4.0)}),
        (Name(TODAY, "", "0" * 64, ""), {"stored": Line(1.5, 0.0, 0.25)}),
    ]

    def groups(selection: Selection) -> list[tuple[str, int]]:
        return [(group["name"], group["requests"]) for group in report(accounts, selection)["groups"]]

    assert groups(Selection("model")) == [("acme/flux", 4), ("acme/pixel", 3)]
    assert groups(Selection("scope")) == [("cdcdcdcd", 6), ("abababab", 1)]
    assert groups(Selection("day")) == [("2026-01-31", 2), (TODAY, 5)]
    assert groups(Selection("model", scope="ab")) == [("acme/pixel", 1)]
    assert report(accounts, Selection())["all"]["earned"]["money"] == pytest.approx(2.75)
    assert report(accounts, Selection(scope="ab"))["all"]["earned"]["money"] == pytest.approx(1.0)


def test_names_of_scopes_are_shortened() -> None:
    accounts = [(Name(TODAY, "replicate", SCOPE, "acme/pixel"), {"hit": Line(1)})]
    assert SCOPE not in json.dumps(report(accounts, Selection("scope")))


@given(LINES)
def test_lines_survive_being_written_down(lines: dict[Kind, Line]) -> None:
    assert decode_lines(json.loads(json.dumps(encode_lines(lines)))) == lines


@given(LINES)
def test_earned_is_never_more_than_the_total(lines: dict[Kind, Line]) -> None:
    assert earned(lines).seconds <= total_saved(lines).seconds
    assert earned(lines).money <= total_saved(lines).money


@pytest.mark.parametrize("broken", [{"hit": None}, {"hit": [1, 2]}, {"hit": ["1", 2, 3]}])
def test_lines_that_are_none_are_refused(broken: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode_lines(broken)


def test_kinds_of_a_later_version_are_left_out() -> None:
    assert decode_lines({"hit": [1, 2, 3], "something new": [4, 5, 6]}) == {"hit": Line(1, 2.0, 3.0)}


def test_selection_has_defaults() -> None:
    assert parse_selection({}) == (30, Selection("model", ""))
    assert parse_selection({"days": "1", "by": "day", "scope": "ab12"}) == (1, Selection("day", "ab12"))


@pytest.mark.parametrize(
    "asked",
    [*({"days": days} for days in ("", "0", "401", "-1", "²", "9" * 99)), {"by": "token"}, {"scope": "x"}],
)
def test_selection_that_is_none_is_refused(asked: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        parse_selection(asked)
