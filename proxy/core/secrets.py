"""The server's secret and what is derived from it.

One random secret of 32 bytes lies in the data folder. Every purpose gets a key of its own from it (BLAKE3 in
derive-key mode with a fixed context), so that no value made for one purpose means anything for another.
Losing the secret makes every id and address unknown and every cached result a miss; nothing worse.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import blake3

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Secrets:
    """Keys by purpose, 32 bytes each."""

    scope: bytes = field(repr=False)
    ids: bytes = field(repr=False)
    addresses: bytes = field(repr=False)
    streams: bytes = field(repr=False)
    webhooks: bytes = field(repr=False)
    sealing: bytes = field(repr=False)
    hooks: bytes = field(repr=False)

    @classmethod
    def derive(cls, master: bytes) -> Secrets:
        """All keys of ``master``.

        Raises:
            ValueError: it is not ``SECRET_BYTES`` long.
        """
        if len(master) != SECRET_BYTES:
            raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(master)}")

        def key(purpose: str) -> bytes:
            return blake3.blake3(master, derive_key_context=f"hotplate 2026-11 {purpose} v1").digest()

        return cls(
            scope=key("scope"),
            ids=key("prediction ids"),
            addresses=key("output addresses"),
            streams=key("stream addresses"),
            webhooks=key("webhook signatures"),
            sealing=key("sealed rows"),
            hooks=key("addresses for upstream webhooks"),
        )


def keyed_hash(key: bytes, *parts: bytes) -> bytes:
    """BLAKE3 keyed hash, 32 bytes, over ``parts`` with their lengths, so that no two lists of parts meet."""
    hasher = blake3.blake3(key=key)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.digest()
