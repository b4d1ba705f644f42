from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.entitlement import open_scope, parse_authorization, token_scope
from proxy.core.errors import Unauthenticated
from proxy.core.secrets import SECRET_BYTES, Secrets, keyed_hash

SECRETS = Secrets.derive(b"a" * 32)
tokens = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)


@given(tokens, st.sampled_from(["Bearer", "bearer", "BEARER", "Token", "token"]), st.sampled_from([" ", "  ", "    "]))
def test_every_scheme_word_names_the_same_caller(token: str, scheme: str, gap: str) -> None:
    assert parse_authorization(f" {scheme}{gap}{token} ") == token


def test_no_header_is_no_token() -> None:
    assert parse_authorization(None) is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Token   ",
        "r8_something",
        "Basic dXNlcjpwYXNz",
        "Digest x",
        "Bearer a b",
        "Bearer a\tb",
        "Bearer\ta",
        "Bearer a\x00",
        "Bearer a\nX-Other: b",
        "Bearer a\x7f",
        "Bearer \u00e9",
        "Bearer a\u00a0b",
        "Bearer, a",
    ],
)
def test_header_that_is_no_credential_is_refused(header: str) -> None:
    with pytest.raises(Unauthenticated):
        parse_authorization(header)


@given(st.text(max_size=60))
def test_any_header_gives_a_printable_token_or_a_refusal(header: str) -> None:
    try:
        token = parse_authorization(header)
    except Unauthenticated:
        return
    assert token
    assert token.isascii()
    assert token.isprintable()
    assert not token.split()[1:]


@given(tokens, tokens)
def test_two_tokens_have_two_scopes(left: str, right: str) -> None:
    assert (token_scope(SECRETS, "replicate", left) == token_scope(SECRETS, "replicate", right)) == (left == right)


def test_one_token_has_another_scope_at_each_upstream() -> None:
    assert token_scope(SECRETS, "replicate", "r8_a") != token_scope(SECRETS, "replicate-eu", "r8_a")


def test_names_and_tokens_do_not_run_together() -> None:
    assert token_scope(SECRETS, "ab", "c") != token_scope(SECRETS, "a", "bc")
    assert token_scope(SECRETS, "open", "") != open_scope(SECRETS, "open")


def test_another_secret_gives_other_scopes() -> None:
    other = Secrets.derive(b"b" * 32)
    assert token_scope(SECRETS, "replicate", "r8_a") != token_scope(other, "replicate", "r8_a")
    assert open_scope(SECRETS, "local") != open_scope(other, "local")


def test_open_scope_is_one_for_each_upstream() -> None:
    assert open_scope(SECRETS, "local") == open_scope(SECRETS, "local") != open_scope(SECRETS, "cog")


def test_scope_does_not_hold_the_token() -> None:
    token = "r8_" + "a" * 29
    assert token.encode() not in token_scope(SECRETS, "replicate", token)


def test_every_purpose_has_a_key_of_its_own() -> None:
    keys = [SECRETS.scope, SECRETS.ids, SECRETS.addresses]
    assert len(set(keys)) == 3
    assert b"a" * 32 not in keys


def test_secrets_do_not_show_themselves() -> None:
    assert repr(SECRETS) == "Secrets()"


@pytest.mark.parametrize("size", [0, 16, SECRET_BYTES - 1, SECRET_BYTES + 1])
def test_secret_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=str(SECRET_BYTES)):
        Secrets.derive(b"a" * size)


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_no_two_lists_of_parts_have_one_hash(left: list[bytes], right: list[bytes]) -> None:
    assert (keyed_hash(SECRETS.ids, *left) == keyed_hash(SECRETS.ids, *right)) == (left == right)
