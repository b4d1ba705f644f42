"""What a webhook's address may be.

The rules are those of ``egress``, which applies them again to each delivery and checks what the name resolves to.
Here is what can be told from the text alone, so that a client hears of it when it creates and not by silence later.
"""

from __future__ import annotations

from proxy.core.errors import InputInvalid, InvalidField
from proxy.core.outputs import OutputAccess
from proxy.upstreams.addresses import EgressRefused, is_literal, is_public, parse_location
from proxy.upstreams.egress import EgressLimits, check_location

_LIMITS = EgressLimits()

_SENTENCES = {
    "scheme": "webhook must be an HTTPS URL",
    "port": "webhook must be on the port of HTTPS",
    "address": "webhook must be at a public address",
    "userinfo": "webhook must be a URL without user information",
}


def check_webhook_url(url: str, access: OutputAccess) -> None:
    """Refuse an address that will never be called. Pure: nothing is resolved.

    Args:
        access: its ``origins`` may be private, plain http and on any port.

    Raises:
        InputInvalid: it is not https, not on a port of the web, at a private address, or no URL at all; about
            ``webhook``.
    """
    try:
        location = parse_location(url)
        is_named = check_location(location, access, _LIMITS, require_listed=False)
        if not is_named and is_literal(location.host) and not is_public(location.host):
            raise EgressRefused("address", "not a public address")
    except EgressRefused as error:
        sentence = _SENTENCES.get(error.rule, "webhook must be a valid HTTPS URL")
        raise InputInvalid([InvalidField("format", "webhook", sentence)]) from error
