"""What a create request says, read once at the edge.

Source: Replicate's OpenAPI document, ``POST /predictions`` and ``POST /models/{owner}/{name}/predictions``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.core.canonical import parse_json
from proxy.core.errors import BadRequest, InputInvalid, InvalidField
from proxy.core.webhooks import WebhookRequest, parse_webhook
from storage.records import JsonObject

DEFAULT_WAIT_S = 60.0
"""What ``Prefer: wait`` without a number means; also the most that may be asked for."""

MIN_CANCEL_AFTER_S = 5.0

_VERSION = re.compile(r"[0-9a-f]{64}")
_DURATION = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s?)?")
_KNOWN = frozenset({"input", "version", "stream", "webhook", "webhook_events_filter"})
"""``stream`` is deprecated and changes nothing: every prediction that can be streamed says where."""

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class CreateBody:
    """Body of a create request.

    Attributes:
        input: the model's input.
        model: ``(owner, name)`` when the body or the path names the model.
        version: 64 hex digits when one is pinned.
        extras: names of further fields that were given and not null, and that nothing is known of.
        webhook: where news of the prediction shall go.
    """

    input: JsonObject
    model: tuple[str, str] | None
    version: str | None
    extras: frozenset[str]
    webhook: WebhookRequest | None = None


def parse_create(body: bytes, path_model: tuple[str, str] | None) -> CreateBody:
    """Read a create body; ``path_model`` is the model that the path names, if it does.

    Raises:
        InvalidJson: see ``parse_json``.
        BadRequest: the body is no object.
        InputInvalid: ``input`` is missing or no object, or ``version`` is missing or malformed.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object")
    given = document.get("input")
    if not isinstance(given, dict):
        raise InputInvalid([InvalidField("required", "input", "input must be a JSON object")])
    model, version = path_model, None
    if path_model is None:
        model, version = _parse_version(document.get("version"))
    elif document.get("version") is not None:
        raise InputInvalid([InvalidField("additional_property_not_allowed", "version", "version is not allowed here")])
    extras = frozenset(
        name for name, value in document.items() if name not in _KNOWN and value not in (None, False, "")
    )
    return CreateBody(given, model, version, extras, parse_webhook(document))


def _parse_version(text: object) -> tuple[tuple[str, str] | None, str | None]:
    """The three spellings: 64 hex digits, ``owner/name:hex``, ``owner/name``."""
    if not isinstance(text, str) or not text:
        raise InputInvalid([InvalidField("required", "version", "version is required")])
    if _VERSION.fullmatch(text):
        return None, text
    name, colon, version = text.partition(":")
    owner, slash, short = name.partition("/")
    if not slash or not is_slug(owner) or not is_slug(short) or (colon and not _VERSION.fullmatch(version)):
        raise InputInvalid(
            [InvalidField("format", "version", "version must be a version id, owner/name or owner/name:id")]
        )
    return (owner, short), version or None


def parse_cancel_after(header: str | None) -> float | None:
    """Seconds that ``Cancel-After`` gives a prediction, ``None`` without one: ``30``, ``30s``, ``5m``, ``1h30m45s``.

    Raises:
        InputInvalid: it cannot be read, or is less than ``MIN_CANCEL_AFTER_S``.

    Source: Replicate's OpenAPI document, header ``Cancel-After`` of the creates.
    """
    if header is None or not header.strip():
        return None
    found = _DURATION.fullmatch(header.strip())
    parts = [int(part or 0) for part in found.groups()] if found else [0]
    seconds = float(parts[0] * 3600 + parts[1] * 60 + parts[2]) if found else 0.0
    if seconds < MIN_CANCEL_AFTER_S:
        complaint = f"Cancel-After must be a duration of at least {MIN_CANCEL_AFTER_S:g} seconds, such as 30s or 1h30m"
        raise InputInvalid([InvalidField("format", "Cancel-After", complaint)])
    return seconds


def is_slug(text: str) -> bool:
    """Whether ``text`` can be an owner's or a model's name."""
    return bool(_SLUG.fullmatch(text))


def parse_prefer_wait(header: str | None) -> float | None:
    """Seconds that ``Prefer: wait[=n]`` asks for, 1 to 60; ``None`` without it.

    Other preferences and values that cannot be read are ignored, as RFC 7240 section 2 says.
    """
    for part in (header or "").lower().replace(";", ",").split(","):
        name, equals, value = part.strip().partition("=")
        if name.strip() != "wait":
            continue
        if not equals:
            return DEFAULT_WAIT_S
        digits = value.strip().strip('"')
        return min(max(float(digits), 1.0), DEFAULT_WAIT_S) if digits.isascii() and digits.isdigit() else DEFAULT_WAIT_S
    return None
