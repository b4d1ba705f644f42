"""Why a request has the key that it has, and why two requests have two: said in words and field by field.

Pure; what it says is for the operator. Values of fields that are secret by their schema or by their name are never
shown, and files that stand in an input are shown by their beginning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.core.policy import Bypass, Cached, LookupPlan, Policy, PolicyBook
from proxy.core.schemas import InputSchema
from storage.digest import Digest
from storage.records import JsonObject, JsonPath, JsonValue

HIDDEN_VALUE = "(hidden)"

SCOPE_DIGITS = 16
"""Of a scope, which is a keyed hash, as much is shown as tells scopes apart."""

SHOWN_OF_DATA = 48
"""Characters that are shown of a ``data:`` URL."""

_SECRET_NAME = re.compile(r"(?i)(^|[_-])(api[_-]?keys?|token|secrets?|passwords?|passwd|credentials?)$")

_NO_LOOK_UP = "nothing is looked up"

_BYPASSES: Mapping[str, str] = {
    "off": "the policy's mode is off",
    "observe": "the policy only observes: the request is passed on, and what would have become of it is counted",
    "request": "the request says no-store",
    "seedless": "the input has no seed, and the policy gives such requests a run each",
    "unknown-model": "policies differ by model, and the request names a version whose model is not known yet",
    "url-input": "the input holds a URL that is a name only: what it names may change",
    "unread-file": "the input names a file that could not be read in time",
}


def which_policy(book: PolicyBook, profile: str | None, name: str) -> str:
    """Which policy holds for a model, and by which glob, in words."""
    found = book.find(profile, name)
    if found is None:
        return "the model is not known yet, and policies differ by model"
    number, glob = book.place(found, name)
    if number is None:
        return f"no policy matches {name}: the defaults hold"
    of_profile = f"of the profile {found.name!r}" if found.name is not None else "of no profile"
    return f"policy {number}, {of_profile}, is the first that matches {name or 'any model'}: {glob}"


def why(plan: LookupPlan, policy: Policy | None, *, is_bypassed: bool, is_enabled: bool, wants_new: bool) -> str:
    """The reason for a plan, in a sentence without an end.

    Args:
        is_bypassed: the kill switch is on.
        is_enabled: the settings let the cache be used.
        wants_new: the request demands a new run.
    """
    if isinstance(plan, Bypass):
        if plan.reason == "off" and not is_enabled:
            return "the settings switch the cache off (cache.enabled)"
        if plan.reason == "off" and is_bypassed:
            return "the kill switch is on (hotplate bypass off)"
        return _BYPASSES[plan.reason]
    if not plan.may_look_up:
        reason = (
            "the request demands a new run" if wants_new else f"the policy's mode is {policy.mode if policy else ''}"
        )
        return f"{_NO_LOOK_UP}: {reason}"
    if not plan.may_store:
        return "looked up and shared, but not stored: the policy's mode is read_only"
    return "looked up, shared and stored"


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one field of an input on the way into the key."""

    name: str
    what: str
    given: JsonValue = None
    normalised: JsonValue = None


def changes(
    given: JsonObject,
    normalised: JsonObject,
    files: Sequence[tuple[JsonPath, Digest]],
    schema: InputSchema | None,
    policy: Policy,
) -> list[Change]:
    """Each field of an input that is keyed otherwise than it was given, in the order of the normalised input.

    Args:
        normalised: with files that were keyed by their bytes in place, or ``None`` there.
    """
    found: list[Change] = []
    hashed = {path[0] for path, _ in files if path}
    for name in dict.fromkeys((*normalised, *given)):
        before, after = given.get(name), normalised.get(name)
        if name in policy.ignore or (policy.only is not None and name not in policy.only):
            found.append(Change(name, "left out: the policy says that it does not matter", before, None))
        elif name in hashed:
            found.append(Change(name, "file: keyed by its bytes", before, None))
        elif name not in given:
            found.append(Change(name, "not given: the model's default", None, after))
        elif name not in normalised:
            is_null = before is None
            reason = "null: the same to the model as not given" if is_null else "dropped: the model has no such input"
            found.append(Change(name, reason, before, None))
        elif any(_unequal((), before, after)):
            declared = schema.fields[name].type if schema is not None and name in schema.fields else "model's type"
            found.append(Change(name, f"folded to the {declared} that the model gets", before, after))
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which two requests differ."""

    what: str
    a: JsonValue
    b: JsonValue


@dataclass(frozen=True, slots=True)
class Keyed:
    """All that enters the key of a request: by name what is one text, then the input and its files."""

    parts: Mapping[str, str]
    input: JsonObject
    files: Mapping[str, str] = field(default_factory=dict)
    secret: frozenset[str] = frozenset()


def differences(a: Keyed, b: Keyed) -> list[Difference]:
    """Everything in which two requests differ, as far as their keys go; ``[]`` if they have one key."""
    found = [
        Difference(name, a.parts.get(name), b.parts.get(name))
        for name in dict.fromkeys((*a.parts, *b.parts))
        if a.parts.get(name) != b.parts.get(name)
    ]
    secret = a.secret | b.secret
    for path, left, right in _unequal((), a.input, b.input):
        is_secret = bool(path) and path[0] in secret
        place = ".".join(map(str, ("input", *path)))
        found.append(Difference(place, *((HIDDEN_VALUE,) * 2 if is_secret else (shown(left), shown(right)))))
    for place in dict.fromkeys((*a.files, *b.files)):
        if a.files.get(place) != b.files.get(place):
            found.append(Difference(f"bytes of input.{place}", a.files.get(place), b.files.get(place)))
    return found


class _Absent:
    pass


_ABSENT = _Absent()


def _unequal(path: JsonPath, a: JsonValue, b: JsonValue) -> Iterator[tuple[JsonPath, JsonValue, JsonValue]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in dict.fromkeys((*a, *b)):
            yield from _unequal((*path, name), a.get(name, _ABSENT), b.get(name, _ABSENT))
    elif isinstance(a, list) and isinstance(b, list):
        for number in range(max(len(a), len(b))):
            left = a[number] if number < len(a) else _ABSENT
            right = b[number] if number < len(b) else _ABSENT
            yield from _unequal((*path, number), left, right)
    elif type(a) is not type(b) or a != b:
        yield path, a, b


def shown(value: JsonValue) -> JsonValue:
    """A value as it is shown: what is not there as such, files by their beginning."""
    if value is _ABSENT:
        return "(absent)"
    if isinstance(value, str) and value.startswith("data:") and len(value) > SHOWN_OF_DATA:
        return f"{value[:SHOWN_OF_DATA]}… ({len(value)} characters)"
    if type(value) is int and value.bit_length() > 63:
        return str(value)  # beyond what JSON libraries agree on
    if isinstance(value, dict):
        return {name: shown(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shown(inner) for inner in value]
    return value


def shown_input(given: JsonObject, secret: frozenset[str]) -> JsonObject:
    """An input as it is shown."""
    return {
        name: HIDDEN_VALUE if name in secret and value is not None else shown(value) for name, value in given.items()
    }


def secret_fields(given: JsonObject, openapi: JsonObject | None) -> frozenset[str]:
    """Fields of an input whose values are not to be shown: those that the model's document calls secret, and those
    whose names say so."""
    found = {name for name in given if _SECRET_NAME.search(name)}
    match openapi:
        case {"components": {"schemas": {"Input": {"properties": dict(properties)}}}}:
            for name, declared in properties.items():
                if isinstance(declared, dict) and (
                    declared.get("x-cog-secret") is True
                    or declared.get("writeOnly") is True
                    or declared.get("format") == "password"
                ):
                    found.add(name)
    return frozenset(found)


def seed_state(policy: Policy, plan: LookupPlan, given: JsonObject) -> str:
    """What the policy says of the seed of an input, in words."""
    for name in policy.seed_fields:
        if policy.has_seed({name: given.get(name)}):
            return f"{name} is given: one answer"
    if isinstance(plan, Cached) and plan.pool > 1:
        return f"no seed: one of {plan.pool} answers"
    return "no seed: all repeats have one answer" if policy.pool else "no seed: each is a run of its own"
