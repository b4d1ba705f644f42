from __future__ import annotations

from typing import Any

import pytest

from proxy.core.explaining import (
    HIDDEN_VALUE,
    Keyed,
    changes,
    differences,
    secret_fields,
    seed_state,
    shown_input,
    why,
)
from proxy.core.policy import Bypass, Cached, LookupPlan, Policy
from proxy.core.schemas import InputField, InputSchema, normalise_input
from storage.digest import Digest

SCHEMA = InputSchema(
    {
        "prompt": InputField("prompt", "string"),
        "steps": InputField("steps", "integer", has_default=True, default=4, fills_default=True),
        "scale": InputField("scale", "number"),
        "image": InputField("image", "file"),
    }
)


def reasons(given: dict[str, Any], policy: Policy | None = None, files: Any = ()) -> dict[str, str]:
    normalised = normalise_input(SCHEMA, given, unknown="drop")
    return {one.name: one.what for one in changes(given, normalised, files, SCHEMA, policy or Policy())}


def test_each_change_of_a_field_has_its_reason() -> None:
    told = reasons({"prompt": "x", "scale": None, "junk": 1, "steps": 8.0})
    assert told["steps"].startswith("folded to the integer")
    assert told["scale"].startswith("null: the same")
    assert told["junk"].startswith("dropped")
    assert "prompt" not in told
    assert reasons({"prompt": "x"})["steps"] == "not given: the model's default"


def test_input_as_it_is_keyed_has_no_changes() -> None:
    assert reasons({"prompt": "x", "steps": 4}) == {}


def test_files_and_fields_that_do_not_matter_are_said_to_be_so() -> None:
    given = {"prompt": "x", "steps": 4, "image": "data:image/png;base64,AAAA"}
    told = reasons(given, files=[(("image",), Digest(bytes(32)))])
    assert told == {"image": "file: keyed by its bytes"}
    assert "does not matter" in reasons(given, Policy(ignore=frozenset({"prompt"})))["prompt"]
    assert set(reasons(given, Policy(only=frozenset({"prompt"})))) == {"steps", "image"}


@pytest.mark.parametrize(
    ("plan", "how", "word"),
    [
        (Bypass("off"), {}, "mode is off"),
        (Bypass("off"), {"is_bypassed": True}, "kill switch"),
        (Bypass("off"), {"is_enabled": False, "is_bypassed": True}, "cache.enabled"),
        (Bypass("request"), {}, "no-store"),
        (Bypass("seedless"), {}, "no seed"),
        (Cached(may_look_up=False), {"wants_new": True}, "demands a new run"),
        (Cached(may_look_up=False), {}, "mode is refresh"),
        (Cached(may_store=False), {}, "read_only"),
        (Cached(), {}, "looked up, shared and stored"),
    ],
)
def test_every_plan_says_why(plan: LookupPlan, how: dict[str, bool], word: str) -> None:
    given = {"is_bypassed": False, "is_enabled": True, "wants_new": False, **how}
    assert word in why(plan, Policy(mode="refresh"), **given)


def keyed(given: dict[str, Any], **more: Any) -> Keyed:
    return Keyed({"model": "acme/pixel"}, given, **more)


def test_differences_name_the_path_and_both_values() -> None:
    a, b = keyed({"p": "x", "l": [1, {"a": 1}], "n": 1}), keyed({"p": "x", "l": [1, {"a": 2}, 3], "m": None, "n": 1.0})
    told = {one.what: (one.a, one.b) for one in differences(a, b)}
    assert told == {
        "input.l.1.a": (1, 2),
        "input.l.2": ("(absent)", 3),
        "input.m": ("(absent)", None),
        "input.n": (1, 1.0),
    }
    assert differences(a, a) == []


def test_parts_and_files_differ_by_name() -> None:
    a = Keyed({"model": "a/b", "version": "1"}, {}, {"image": "aa"})
    b = Keyed({"model": "a/b", "version": "2", "namespace": "x"}, {}, {"image": "bb", "mask": "cc"})
    told = {one.what: (one.a, one.b) for one in differences(a, b)}
    assert told == {
        "version": ("1", "2"),
        "namespace": (None, "x"),
        "bytes of input.image": ("aa", "bb"),
        "bytes of input.mask": (None, "cc"),
    }


def test_secrets_are_never_shown_neither_alone_nor_as_a_difference() -> None:
    openapi = {
        "components": {"schemas": {"Input": {"properties": {"cookie": {"type": "string", "x-cog-secret": True}}}}}
    }
    given = {"cookie": "s3cr3t", "openai_api_key": "sk-1", "token": "t", "max_tokens": 5, "prompt": "a token"}
    secret = secret_fields(given, openapi)
    assert secret == {"cookie", "openai_api_key", "token"}
    assert shown_input(given, secret) == {
        **given,
        "cookie": HIDDEN_VALUE,
        "openai_api_key": HIDDEN_VALUE,
        "token": HIDDEN_VALUE,
    }
    a, b = keyed({"token": {"x": "one"}}, secret=secret), keyed({"token": {"x": "two"}})
    assert [(one.what, one.a, one.b) for one in differences(a, b)] == [("input.token.x", HIDDEN_VALUE, HIDDEN_VALUE)]


def test_files_are_shown_by_their_beginning_and_large_numbers_as_text() -> None:
    told = shown_input({"image": "data:image/png;base64," + "A" * 1000, "n": 2**70}, frozenset())
    assert told["image"].endswith("… (1022 characters)")
    assert len(told["image"]) < 80
    assert told["n"] == str(2**70)


@pytest.mark.parametrize(
    ("policy", "plan", "given", "word"),
    [
        (Policy(), Cached(), {"seed": 0}, "seed is given"),
        (Policy(), Cached(), {"seed": -1}, "one answer"),
        (Policy(pool=5), Cached(pool=5), {}, "one of 5"),
        (Policy(pool=0), Bypass("seedless"), {}, "run of its own"),
    ],
)
def test_seed_is_explained_by_the_policy(policy: Policy, plan: LookupPlan, given: dict[str, Any], word: str) -> None:
    assert word in seed_state(policy, plan, given)
