"""The headers and fields that creates share. Pure, apart from what is raised."""

from __future__ import annotations

import re

from loadtests.fake_model.catalog import JsonObject
from loadtests.fake_model.courier import is_acceptable
from loadtests.fake_model.validation import complaint
from loadtests.fake_model.web import Problem, refuse
from loadtests.fake_model.world import Webhook, WebhookEvent

MAX_WAIT_S = 60
MAX_CANCEL_AFTER_S = 30 * 86400.0
"""More than any run lives; a deadline must still be a time."""
WEBHOOK_EVENTS = ("start", "output", "logs", "completed")
USUAL_EVENTS: tuple[WebhookEvent, ...] = ("output", "completed")

_DURATION = re.compile(r"(?:(\d{1,18})h)?(?:(\d{1,18})m)?(?:(\d{1,18})s?)?", re.ASCII)
_WAIT = re.compile(r"[1-9]|[1-5][0-9]|60")
_PREFER_WAIT = re.compile(r"wait(?:\s*=\s*(.*))?")


def parse_wait_s(prefer: str | None) -> int | None:
    """Seconds that ``Prefer`` asks to wait; ``None`` when it does not. Other preferences are nobody's concern.

    Raises:
        Problem: 422, less than one second or more than a minute.
    """
    for part in (prefer or "").split(","):
        found = _PREFER_WAIT.fullmatch(part.strip().partition(";")[0].strip())
        if found is None:
            continue
        if found[1] is None:
            return MAX_WAIT_S
        if not _WAIT.fullmatch(found[1]):
            raise Problem(422, f"Prefer: wait=n takes 1 to {MAX_WAIT_S} seconds", "Invalid Prefer header")
        return int(found[1])
    return None


def parse_cancel_after_s(text: str | None, least_s: float) -> float | None:
    """Seconds of a ``Cancel-After``: ``30``, ``30s``, ``5m``, ``1h30m45s``.

    Raises:
        Problem: 422, it is no duration or too short a one.
    """
    if text is None:
        return None
    found = _DURATION.fullmatch(text.strip())
    parts = found.groups() if found else ()
    if not any(parts):
        raise Problem(422, "Cancel-After is not a duration", "Invalid Cancel-After header")
    hours, minutes, seconds = (int(part or 0) for part in parts)
    cancel_after_s = float(hours * 3600 + minutes * 60 + seconds)
    if cancel_after_s < least_s:
        raise Problem(422, f"Cancel-After must be at least {least_s:g} seconds", "Invalid Cancel-After header")
    return min(cancel_after_s, MAX_CANCEL_AFTER_S)


def parse_webhook(body: JsonObject, *, is_http_allowed: bool) -> Webhook | None:
    """Where webhooks go, and which.

    Raises:
        Problem: 422, the URL or the filter is none.
    """
    url, events = body.get("webhook"), body.get("webhook_events_filter")
    complaints = []
    if url is not None and not is_acceptable(url, is_http_allowed=is_http_allowed):
        complaints.append(complaint("format", "webhook", "Must be a valid HTTPS URL"))
    if events is not None and (not isinstance(events, list) or any(each not in WEBHOOK_EVENTS for each in events)):
        choices = ", ".join(f'"{each}"' for each in WEBHOOK_EVENTS)
        complaints.append(complaint("enum", "webhook_events_filter", f"Must be a list of the following: {choices}"))
    if complaints:
        raise refuse(complaints)
    return None if url is None else Webhook(url, frozenset(USUAL_EVENTS if events is None else events))
