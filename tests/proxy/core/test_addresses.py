from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.addresses import (
    FILE_STREAMS_PREFIX,
    OUTPUTS_PREFIX,
    TEXT_STREAMS_PREFIX,
    AddressBook,
    StreamBook,
    is_name,
)
from proxy.core.ids import IdMint, PredictionId
from proxy.core.secrets import Secrets
from storage.digest import Digest, RecordId, Scope, hash_bytes

BOOK = AddressBook(Secrets.derive(b"a" * 32))
OTHER_BOOK = AddressBook(Secrets.derive(b"b" * 32))
MINE = Scope(b"m" * 32)
YOURS = Scope(b"y" * 32)
DIGEST = hash_bytes(b"a red fox")
OTHER_DIGEST = hash_bytes(b"a blue fox")

digests = st.binary(min_size=32, max_size=32).map(Digest)
scopes = st.binary(min_size=32, max_size=32).map(Scope)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)


def parts_of(path: str) -> tuple[str, str, str]:
    """Digest, seal and name as they stand in a path."""
    assert path.startswith(OUTPUTS_PREFIX)
    digest, seal, name = path.removeprefix(OUTPUTS_PREFIX).split("/")
    return digest, seal, name


@given(digests, scopes, names)
def test_address_that_was_made_is_verified(digest: Digest, scope: Scope, name: str) -> None:
    assert BOOK.verify(*parts_of(BOOK.path(digest, scope, name))) == digest


@given(digests, scopes, names, st.integers(0, 31), st.sampled_from("0123456789abcdef"))
def test_address_with_its_seal_changed_is_refused(
    digest: Digest, scope: Scope, name: str, place: int, character: str
) -> None:
    digest_hex, seal, name = parts_of(BOOK.path(digest, scope, name))
    changed = seal[:place] + character + seal[place + 1 :]
    assert (BOOK.verify(digest_hex, changed, name) is None) == (changed != seal)


@given(digests, scopes, names, st.integers(0, 63), st.sampled_from("0123456789abcdef"))
def test_address_with_its_digest_changed_is_refused(
    digest: Digest, scope: Scope, name: str, place: int, character: str
) -> None:
    digest_hex, seal, name = parts_of(BOOK.path(digest, scope, name))
    changed = digest_hex[:place] + character + digest_hex[place + 1 :]
    assert (BOOK.verify(changed, seal, name) is None) == (changed != digest_hex)


@given(digests, scopes, names, names)
def test_address_with_another_name_is_refused(digest: Digest, scope: Scope, name: str, other: str) -> None:
    digest_hex, seal, name = parts_of(BOOK.path(digest, scope, name))
    assert (BOOK.verify(digest_hex, seal, other) is None) == (other != name)


def test_the_same_output_always_has_the_same_address() -> None:
    again = AddressBook(Secrets.derive(b"a" * 32))
    assert BOOK.path(DIGEST, MINE, "out-0.png") == again.path(DIGEST, MINE, "out-0.png")


def test_another_scope_has_another_address_for_the_same_bytes() -> None:
    mine, yours = BOOK.path(DIGEST, MINE, "out-0.png"), BOOK.path(DIGEST, YOURS, "out-0.png")
    assert mine != yours
    assert BOOK.verify(*parts_of(mine)) == BOOK.verify(*parts_of(yours)) == DIGEST


def test_seal_of_one_file_does_not_open_another() -> None:
    _, seal, name = parts_of(BOOK.path(DIGEST, MINE, "out-0.png"))
    assert BOOK.verify(OTHER_DIGEST.hex(), seal, name) is None


def test_whoever_holds_the_bytes_cannot_make_the_address_without_the_secret() -> None:
    forged = OTHER_BOOK.path(DIGEST, MINE, "out-0.png")
    assert BOOK.verify(*parts_of(forged)) is None
    assert BOOK.verify(DIGEST.hex(), "0" * 32, "out-0.png") is None


def test_two_seals_of_one_scope_have_nothing_in_common() -> None:
    """The scope's tag is inside every seal; whitened with the digest it never encrypts to the same text."""
    seals = {parts_of(BOOK.path(hash_bytes(b"%d" % number), MINE, "out-0.png"))[1] for number in range(500)}
    assert len({seal[:16] for seal in seals}) == len({seal[16:] for seal in seals}) == 500


@pytest.mark.parametrize(
    ("digest_hex", "seal", "name"),
    [
        (DIGEST.hex().upper(), None, None),
        (DIGEST.hex()[:-1], None, None),
        (DIGEST.hex() + "0", None, None),
        ("../" * 21 + "0", None, None),
        ("\x00" * 64, None, None),
        (DIGEST.hex() + "\n", None, None),
        ("\uff10" * 64, None, None),
        (None, "", None),
        (None, "g" * 32, None),
        (None, "A" * 32, None),
        (None, "\x00" * 32, None),
        (None, None, ""),
        (None, None, ".."),
        (None, None, "../out-0.png"),
        (None, None, "out-0.png\x00"),
        (None, None, "out-0.png\n"),
        (None, None, "OUT-0.PNG"),
        (None, None, "out-0.png/"),
        (None, None, "a" * 65),
    ],
)
def test_text_that_is_no_address_is_refused(digest_hex: str | None, seal: str | None, name: str | None) -> None:
    good = parts_of(BOOK.path(DIGEST, MINE, "out-0.png"))
    given_parts = (
        good[0] if digest_hex is None else digest_hex,
        good[1] if seal is None else seal,
        good[2] if name is None else name,
    )
    assert BOOK.verify(*given_parts) is None


@given(st.text(max_size=70), st.text(max_size=40), st.text(max_size=70))
def test_any_text_at_all_is_refused_quietly(digest_hex: str, seal: str, name: str) -> None:
    assert BOOK.verify(digest_hex, seal, name) is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-x", "a b", "a/b", "a\x00", "a\n", "\u00e9", "A", "a" * 65]
)
def test_no_address_is_made_with_a_name_that_could_mean_more(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(ValueError, match="not a file name"):
        BOOK.path(DIGEST, MINE, name)


STREAMS = StreamBook(Secrets.derive(b"a" * 32))
prediction_ids = st.text(alphabet="abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26).map(PredictionId)


def token_of(path: str) -> str:
    return path.rpartition("/")[2]


@given(prediction_ids, st.booleans())
def test_stream_address_names_its_prediction(prediction_id: PredictionId, makes_files: bool) -> None:
    path = STREAMS.path(prediction_id, MINE, makes_files=makes_files)
    assert path.startswith(FILE_STREAMS_PREFIX if makes_files else TEXT_STREAMS_PREFIX)
    name = STREAMS.verify(token_of(path))
    assert name is not None
    assert name.id == prediction_id


@given(prediction_ids, st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_stream_address_fits_the_scope_that_it_was_made_for_alone(
    prediction_id: PredictionId, left: bytes, right: bytes
) -> None:
    name = STREAMS.verify(token_of(STREAMS.path(prediction_id, Scope(left), makes_files=True)))
    assert name is not None
    assert STREAMS.fits(name, Scope(left))
    assert STREAMS.fits(name, Scope(right)) == (left == right)


def test_two_stream_addresses_do_not_show_that_they_belong_to_one_scope() -> None:
    mint = IdMint(Secrets.derive(b"a" * 32))
    made = [mint.mint(RecordId(number), MINE, 1_790_000_000.0) for number in range(100)]
    heads = {token_of(STREAMS.path(one, MINE, makes_files=True))[27:35] for one in made}
    assert len(heads) == 100


@given(prediction_ids, st.integers(0, 58), st.sampled_from("abcdef0123456789-z"))
def test_stream_token_with_one_character_changed_is_refused(
    prediction_id: PredictionId, place: int, character: str
) -> None:
    token = token_of(STREAMS.path(prediction_id, MINE, makes_files=True))
    changed = token[:place] + character + token[place + 1 :]
    assert (STREAMS.verify(changed) is None) == (changed != token)


@given(prediction_ids)
def test_stream_token_cannot_be_made_without_the_secret(prediction_id: PredictionId) -> None:
    other = StreamBook(Secrets.derive(b"b" * 32))
    assert STREAMS.verify(token_of(other.path(prediction_id, MINE, makes_files=True))) is None


@given(st.text(max_size=70))
def test_any_text_at_all_is_no_stream(text: str) -> None:
    assert STREAMS.verify(text) is None


def test_stream_token_has_no_form_of_a_file_id() -> None:
    """Replicate's file ids are 48 base64 characters; predictions' ids have no dash."""
    made = IdMint(Secrets.derive(b"a" * 32)).mint(RecordId(7), MINE, 1_790_000_000.0)
    token = token_of(STREAMS.path(made, MINE, makes_files=True))
    assert len(token) == 59
    assert token[26] == "-"
    assert STREAMS.verify(made) is None
    assert STREAMS.verify(token.upper()) is None
    assert STREAMS.verify(token + "\n") is None
