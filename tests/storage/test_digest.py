from __future__ import annotations

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.digest import hash_bytes, parse_digest


@given(st.binary(max_size=1000))
def test_hex_of_a_digest_parses_back(data: bytes) -> None:
    assert parse_digest(hash_bytes(data).hex()) == hash_bytes(data) == blake3.blake3(data).digest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 63,
        "a" * 65,
        "A" * 64,
        "g" * 64,
        "a" * 64 + "\n",
        " " + "a" * 63,
        "../" + "a" * 61,
        "a" * 63 + "\0",
        "१" * 64,
    ],
)
def test_any_other_text_is_no_digest(text: str) -> None:
    assert parse_digest(text) is None
