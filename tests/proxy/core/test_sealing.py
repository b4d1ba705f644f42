from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.sealing import Sealer, Unsealable
from proxy.core.secrets import SECRET_BYTES, Secrets

SEALER = Sealer(Secrets.derive(bytes(SECRET_BYTES)))


@given(st.binary(max_size=200), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_what_was_sealed_opens_under_its_name(plain: bytes, name: str) -> None:
    assert SEALER.open(SEALER.seal(plain, name), name) == plain


def test_equal_bytes_are_sealed_differently_each_time() -> None:
    assert SEALER.seal(b"token", "run:1") != SEALER.seal(b"token", "run:1")


@pytest.mark.parametrize("name", ["run:2", "", "run:1 "])
def test_it_opens_under_no_other_name(name: str) -> None:
    with pytest.raises(Unsealable):
        SEALER.open(SEALER.seal(b"token", "run:1"), name)


def test_it_opens_with_no_other_secret() -> None:
    other = Sealer(Secrets.derive(b"x" * SECRET_BYTES))
    with pytest.raises(Unsealable):
        other.open(SEALER.seal(b"token", "n"), "n")


@given(st.binary(max_size=60))
def test_any_other_bytes_do_not_open(data: bytes) -> None:
    with pytest.raises(Unsealable):
        SEALER.open(data, "n")


def test_a_changed_byte_is_noticed() -> None:
    sealed = bytearray(SEALER.seal(b"token", "n"))
    for place in range(len(sealed)):
        changed = bytes(sealed[:place]) + bytes([sealed[place] ^ 1]) + bytes(sealed[place + 1 :])
        with pytest.raises(Unsealable):
            SEALER.open(changed, "n")
