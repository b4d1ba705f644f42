"""Sealing of what must not lie on the disk in clear: callers' tokens, their webhook secrets, inputs of runs.

AES-256-GCM under a key derived from the server's secret. What is sealed under one name opens under no other, so a row
that was copied to another place is unreadable there.
"""

from __future__ import annotations

import secrets as entropy

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from proxy.core.secrets import Secrets

_NONCE_BYTES = 12


class Unsealable(ValueError):
    """The bytes were not sealed here under this name, or were changed."""


class Sealer:
    """Seals and opens bytes."""

    def __init__(self, secrets: Secrets) -> None:
        self._cipher = AESGCM(secrets.sealing)

    def seal(self, plain: bytes, name: str) -> bytes:
        """``plain`` sealed for ``name``; 28 bytes longer, different each time."""
        nonce = entropy.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, name.encode())

    def open(self, sealed: bytes, name: str) -> bytes:
        """What was sealed for ``name``.

        Raises:
            Unsealable: it was not sealed here for that name.
        """
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError) as error:
            raise Unsealable("not sealed here under this name") from error
