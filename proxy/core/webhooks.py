"""Webhooks: what a client asks for.

Source: Replicate's OpenAPI document, fields ``webhook`` and ``webhook_events_filter`` of the creates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from proxy.core.errors import InputInvalid, InvalidField
from storage.records import JsonObject

WebhookEvent = Literal["start", "output", "logs", "completed"]

DEFAULT_EVENTS: frozenset[WebhookEvent] = frozenset({"output", "completed"})
"""What is sent where no filter is given: new outputs, and the end."""

MAX_URL_CHARS = 2048


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """Where news of one prediction goes, and which."""

    url: str
    events: frozenset[WebhookEvent] = DEFAULT_EVENTS


def parse_webhook(document: JsonObject) -> WebhookRequest | None:
    """The webhook of a create body, ``None`` without one. Whether its address may be called is not decided here.

    Raises:
        InputInvalid: it is no http(s) URL, or the filter is no list of event names.
    """
    url, events = document.get("webhook"), document.get("webhook_events_filter")
    if url in (None, ""):
        return None
    if not isinstance(url, str) or len(url) > MAX_URL_CHARS or not url.lower().startswith(("https://", "http://")):
        raise InputInvalid([InvalidField("format", "webhook", "webhook must be an HTTPS URL")])
    if events is None:
        return WebhookRequest(url)
    if not isinstance(events, list) or any(event not in get_args(WebhookEvent) for event in events):
        names = ", ".join(get_args(WebhookEvent))
        raise InputInvalid([InvalidField("enum", "webhook_events_filter", f"must be a list of: {names}")])
    return WebhookRequest(url, frozenset(cast(list[WebhookEvent], events)) or DEFAULT_EVENTS)
