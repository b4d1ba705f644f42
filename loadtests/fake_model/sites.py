"""The double's faces: one world, reached over plain http and, where a certificate is given, over TLS."""

from __future__ import annotations

from dataclasses import dataclass

HOST = "127.0.0.1"
NAMES = {"api": "api.replicate.com", "delivery": "replicate.delivery", "stream": "stream.replicate.com"}
"""Names of the real service's three hosts, for clients whose name resolution leads here."""


@dataclass(frozen=True, slots=True)
class Site:
    """Three origins under which answers write their URLs.

    Attributes:
        api_url: root of the API, with ``/v1``.
        delivery_url: what stands before the path of an output file.
        stream_url: what stands before the path of a stream.
    """

    api_url: str
    delivery_url: str
    stream_url: str


def plain_site(port: int, delivery_port: int, stream_port: int) -> Site:
    return Site(f"http://{HOST}:{port}/v1", f"http://{HOST}:{delivery_port}", f"http://{HOST}:{stream_port}")


def tls_site(port: int, delivery_port: int, stream_port: int, *, has_names: bool) -> Site:
    """The site behind TLS; with ``has_names`` it writes the real service's names and no ports."""
    if has_names:
        return Site(f"https://{NAMES['api']}/v1", f"https://{NAMES['delivery']}", f"https://{NAMES['stream']}")
    return Site(f"https://{HOST}:{port}/v1", f"https://{HOST}:{delivery_port}", f"https://{HOST}:{stream_port}")
