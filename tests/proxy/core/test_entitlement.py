from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.entitlement import (
    ACCOUNT_RULE,
    TOKEN_RULE,
    Account,
    Groups,
    Rule,
    account_scope,
    files_scope,
    group_scope,
    has_own_form,
    house_scope,
    narrower,
    open_scope,
    parse_authorization,
    parse_rule,
    results_scope,
    shared_scope,
    token_digest,
    token_id,
    token_scope,
)
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


# -- rules ---------------------------------------------------------------------------------------------

names = st.text(alphabet="abc", min_size=0, max_size=3)
RULES = [ACCOUNT_RULE, TOKEN_RULE, Rule("shared"), Rule("group", "crew"), Rule("group", "other")]


@pytest.mark.parametrize("text", ["account", "token", "shared", "group:crew", "group:a-b_c1"])
def test_rule_is_read_and_written_alike(text: str) -> None:
    assert str(parse_rule(text)) == text


@pytest.mark.parametrize(
    "text", ["", "all", "Account", "group", "group:", "group:Crew", "group:a b", "token:x", "shared:", "account:x"]
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be account, token, shared or group:NAME"):
        parse_rule(text)


@pytest.mark.parametrize("left", RULES)
@pytest.mark.parametrize("right", RULES)
def test_narrower_of_two_rules_does_not_depend_on_their_order_and_widens_neither(left: Rule, right: Rule) -> None:
    found = narrower(left, right)
    assert found == narrower(right, left)
    assert found in (left, right, TOKEN_RULE)
    assert narrower(found, left) == narrower(found, right) == found


@given(st.lists(names, min_size=3, max_size=3), st.lists(names, min_size=3, max_size=3))
def test_scopes_of_two_kinds_never_meet_whatever_the_names(left: list[str], right: list[str]) -> None:
    def all_of(upstream: str, name: str, more: str) -> list[bytes]:
        return [
            token_scope(SECRETS, upstream, name),
            account_scope(SECRETS, upstream, Account(name, more)),
            group_scope(SECRETS, upstream, name),
            shared_scope(SECRETS, upstream),
            house_scope(SECRETS, upstream),
            open_scope(SECRETS, upstream),
        ]

    one, two = all_of(*left), all_of(*right)
    assert len(set(one)) == len(one)
    for number, scope in enumerate(one):
        assert scope not in two[:number] + two[number + 1 :]


def test_account_is_its_type_and_its_name() -> None:
    scopes = {
        account_scope(SECRETS, upstream, Account(kind, name))
        for upstream in ("replicate", "eu")
        for kind in ("user", "organization")
        for name in ("acme", "acmes")
    }
    assert len(scopes) == 8
    assert account_scope(SECRETS, "r", Account("ab", "c")) != account_scope(SECRETS, "r", Account("a", "bc"))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("groups", [frozenset(), frozenset({"crew"}), frozenset({"crew", "other"})])
def test_rule_that_cannot_be_applied_falls_back_to_the_account_and_never_to_the_group(
    rule: Rule, groups: frozenset[str]
) -> None:
    owner, token = account_scope(SECRETS, "r", Account("user", "a")), token_scope(SECRETS, "r", "t")
    found = results_scope(SECRETS, "r", rule, owner, token, groups)
    expected = {
        "account": owner,
        "token": token,
        "shared": shared_scope(SECRETS, "r"),
        "group": group_scope(SECRETS, "r", rule.group) if rule.group in groups else owner,
    }
    assert found == expected[rule.kind]


# -- groups --------------------------------------------------------------------------------------------

CREW = Groups.of(
    {"crew": ["account:acme", "account:user/bob", "token:tok_0123456789abcdef"], "other": ["account:acme"]}
)


@pytest.mark.parametrize(
    ("shown", "account", "expected"),
    [
        ("tok_0000000000000000", Account("organization", "acme"), {"crew", "other"}),
        ("tok_0000000000000000", Account("user", "acme"), {"crew", "other"}),
        ("tok_0000000000000000", Account("user", "bob"), {"crew"}),
        ("tok_0000000000000000", Account("organization", "bob"), set()),
        ("tok_0000000000000000", Account("user", "Acme"), set()),
        ("tok_0123456789abcdef", None, {"crew"}),
        ("tok_0000000000000000", None, set()),
    ],
)
def test_members_are_named_by_account_or_by_the_id_of_a_token(
    shown: str, account: Account | None, expected: set[str]
) -> None:
    assert CREW.of_caller(shown, account) == expected


@pytest.mark.parametrize(
    "member",
    [
        "",
        "acme",
        "account:",
        "account:a b",
        "account:a/b/c",
        "token:r8_x",
        "token:tok_",
        "user:acme",
        "token:tok_0123456789ABCDEF",
    ],
)
def test_what_names_no_member_is_refused(member: str) -> None:
    with pytest.raises(ValueError, match="must be account:NAME"):
        Groups.of({"crew": [member]})


def test_id_of_a_token_does_not_hold_it_and_means_nothing_elsewhere() -> None:
    token = "r8_" + "a" * 37
    shown = token_id(SECRETS, token)
    assert len(shown) == 20
    assert token[3:] not in shown
    assert shown != token_id(Secrets.derive(b"b" * 32), token) != token_id(SECRETS, token[:-1] + "b")


@pytest.mark.parametrize(
    ("text", "is_own"),
    [("hp_" + "a" * 40, True), ("hp_" + "a" * 39, False), ("hp_" + "A" * 40, False), ("r8_" + "a" * 40, False)],
)
def test_own_tokens_are_known_by_their_form_even_when_they_are_good_no_more(text: str, is_own: bool) -> None:
    assert has_own_form(text) == is_own


def test_scopes_do_not_change_by_accident() -> None:
    """Another scope is another key: every result under it would be a miss, and every own token unknown."""
    made = {
        "token": token_scope(SECRETS, "replicate", "r8_x"),
        "account": account_scope(SECRETS, "replicate", Account("user", "alice")),
        "house": house_scope(SECRETS, "replicate"),
        "group": group_scope(SECRETS, "replicate", "crew"),
        "shared": shared_scope(SECRETS, "replicate"),
        "open": open_scope(SECRETS, "replicate"),
        "files": files_scope(SECRETS, "r8_x"),
        "own": token_digest(SECRETS, "hp_x"),
    }
    assert {name: value.hex()[:32] for name, value in made.items()} == {
        "token": "c31729e5bb0f68207f7aa8dd769f5760",
        "account": "47854008f77309de1ab32f9626bffc67",
        "house": "2eab44df26de7d41abe39abeacef349c",
        "group": "0fd644c8a1d23d6adbc80c2d5afb8f9b",
        "shared": "e49cd4a72f5c66dacc1199ae4928ecab",
        "open": "96e0d536b03f005c408275e9c09b6759",
        "files": "83a227b08f0ece84c447ee36f0c9d51a",
        "own": "dcf7a7e1055f11f9da9e420d9672ef6d",
    }
    assert token_id(SECRETS, "r8_x") == "tok_1d83076c435618d8"
