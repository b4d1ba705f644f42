from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.ids import ID_LENGTH, IdMint, IdParts, new_execution_id, new_record_id
from proxy.core.predictions import format_time
from proxy.core.secrets import Secrets
from storage.digest import RECORD_ID_BITS, RecordId, Scope

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
SECRETS = Secrets.derive(b"a" * 32)
OTHER_SECRETS = Secrets.derive(b"b" * 32)
MINE = Scope(b"m" * 32)
YOURS = Scope(b"y" * 32)
NOW = 1_790_000_000.125

record_ids = st.integers(0, 2**RECORD_ID_BITS - 1).map(RecordId)
times = st.floats(1_767_225_600, 2_800_000_000, allow_nan=False)


@given(record_ids, times)
def test_id_reads_back_as_what_it_was_made_of(record_id: RecordId, at: float) -> None:
    mint = IdMint(SECRETS)
    parts = mint.read(mint.mint(record_id, MINE, at), MINE)
    assert parts is not None
    assert parts.record_id == record_id
    assert abs(parts.created_at - at) < 0.0011


@given(times)
def test_time_inside_an_id_is_the_one_that_the_answer_shows(at: float) -> None:
    mint = IdMint(SECRETS)
    parts = mint.read(mint.mint(RecordId(1), MINE, at), MINE)
    assert parts is not None
    assert format_time(parts.created_at) == format_time(at)


@given(record_ids, times)
def test_id_can_be_opened_without_knowing_whose_it_is(record_id: RecordId, at: float) -> None:
    mint = IdMint(SECRETS)
    made = mint.mint(record_id, MINE, at)
    opened = mint.open(made)
    assert opened is not None
    assert opened.parts == mint.read(made, MINE)
    assert mint.fits(opened, MINE)
    assert not mint.fits(opened, YOURS)


def test_id_has_the_form_of_the_api() -> None:
    mint = IdMint(SECRETS)
    for number in range(200):
        assert re.fullmatch(r"[a-z2-7]{26}", mint.mint(RecordId(number), MINE, NOW))


def test_another_process_with_the_same_secret_reads_the_id() -> None:
    made = IdMint(SECRETS).mint(RecordId(77), MINE, NOW)
    assert IdMint(Secrets.derive(b"a" * 32)).read(made, MINE) == IdParts(RecordId(77), NOW)


def test_another_scope_reads_nothing() -> None:
    mint = IdMint(SECRETS)
    for number in range(500):
        assert mint.read(mint.mint(RecordId(number), MINE, NOW), YOURS) is None


def test_another_secret_reads_nothing() -> None:
    mint = IdMint(SECRETS)
    for number in range(500):
        assert IdMint(OTHER_SECRETS).read(mint.mint(RecordId(number), MINE, NOW), MINE) is None


@given(record_ids, st.integers(0, ID_LENGTH - 1), st.sampled_from(ALPHABET))
def test_id_with_one_character_changed_reads_as_nothing(record_id: RecordId, place: int, character: str) -> None:
    mint = IdMint(SECRETS)
    made = mint.mint(record_id, MINE, NOW)
    changed = made[:place] + character + made[place + 1 :]
    assert (mint.read(changed, MINE) is None) == (changed != made)


def test_spare_bits_give_no_second_spelling_of_an_id() -> None:
    """26 characters carry 130 bits, a block has 128: three other last characters decode to the same block."""
    mint = IdMint(SECRETS)
    made = mint.mint(RecordId(5), MINE, NOW)
    assert [last for last in ALPHABET if mint.read(made[:-1] + last, MINE)] == [made[-1]]


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda made: made[:-1],
        lambda made: made + "a",
        lambda made: made + "=",
        lambda made: made[:-6] + "======",
        lambda made: " " + made[1:],
        lambda made: made[:-1] + "\n",
        lambda made: "0" + made[1:],
        lambda made: "\u0131" + made[1:],
        lambda made: "\uff41" + made[1:],
        lambda made: "\x00" + made[1:],
        lambda made: "",
        lambda made: "../../../../../../../../..",
    ],
)
def test_text_in_another_form_reads_as_nothing(change: object) -> None:
    mint = IdMint(SECRETS)
    made = mint.mint(RecordId(5), MINE, NOW)
    assert callable(change)
    assert mint.read(change(made), MINE) is None


@given(st.text(max_size=40))
def test_any_text_at_all_is_refused_quietly(text: str) -> None:
    assert IdMint(SECRETS).read(text, MINE) is None


def test_ten_thousand_ids_of_one_millisecond_differ() -> None:
    mint = IdMint(SECRETS)
    assert len({mint.mint(RecordId(9), MINE, NOW) for _ in range(10_000)}) == 10_000


def test_processes_with_lanes_of_their_own_never_make_the_same_id() -> None:
    lanes = 65
    ids = {
        mint.mint(RecordId(7), MINE, NOW)
        for mint in (IdMint(SECRETS, lane, lanes) for lane in range(lanes))
        for _ in range((1 << 16) // lanes)
    }
    assert len(ids) == lanes * ((1 << 16) // lanes)


def test_ids_of_neighbours_share_nothing_to_guess_from() -> None:
    mint = IdMint(SECRETS)
    made = [mint.mint(RecordId(9), MINE, NOW) for _ in range(1000)]
    assert len({text[:6] for text in made}) > 990


@pytest.mark.parametrize("at", [0.0, -5.0, 1_767_225_599.0])
def test_clock_before_the_epoch_still_gives_a_readable_id(at: float) -> None:
    mint = IdMint(SECRETS)
    assert mint.read(mint.mint(RecordId(1), MINE, at), MINE) == IdParts(RecordId(1), 1_767_225_600.0)


def test_clock_beyond_the_last_moment_still_gives_a_readable_id() -> None:
    mint = IdMint(SECRETS)
    parts = mint.read(mint.mint(RecordId(1), MINE, 1e12), MINE)
    assert parts is not None
    assert parts.record_id == 1


def test_execution_ids_have_the_form_that_cog_recommends() -> None:
    made = {new_execution_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"[a-z2-7]{26}", one) for one in made)


def test_record_ids_fit_their_bits() -> None:
    made = [new_record_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(0 <= one < 2**RECORD_ID_BITS for one in made)
