"""Public addresses of outputs.

::

    /outputs/<64 hex: BLAKE3 of the bytes>/<32 hex: seal>/<file name>

The seal is one AES block that holds a tag of the scope and a keyed hash over scope tag, digest and name,
whitened with the digest. So whoever merely holds the bytes cannot compute an address, an address of one scope
says nothing of another's, two addresses do not show that they belong to one scope, and whether an address is
genuine is decided from the address alone, before any look at the disk.
"""

from __future__ import annotations

import re
import secrets as entropy

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from proxy.core.secrets import Secrets, keyed_hash
from storage.digest import Digest, Scope, parse_digest

OUTPUTS_PREFIX = "/outputs/"

_SEAL = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class AddressBook:
    """Makes and checks output addresses. Not shared between threads."""

    def __init__(self, secrets: Secrets) -> None:
        self._key = secrets.addresses
        cipher = Cipher(AES(keyed_hash(secrets.addresses, b"seal")[:16]), ECB())  # noqa: S305 - one whitened block
        self._encrypt = cipher.encryptor()
        self._decrypt = cipher.decryptor()

    def path(self, digest: Digest, scope: Scope, name: str) -> str:
        """The path at which ``scope``'s output is served; ``name`` must be what ``is_name`` accepts."""
        if not is_name(name):
            raise ValueError(f"not a file name for an address: {name!r}")
        tag = keyed_hash(self._key, b"scope", scope)[:8]
        block = tag + self._check(tag, digest, name)
        return f"{OUTPUTS_PREFIX}{digest.hex()}/{self._encrypt.update(_whiten(block, digest)).hex()}/{name}"

    def verify(self, digest_hex: str, seal_hex: str, name: str) -> Digest | None:
        """The digest of a genuine address, ``None`` for any other text. Constant time in the seal."""
        digest = parse_digest(digest_hex)
        if digest is None or not _SEAL.fullmatch(seal_hex) or not is_name(name):
            return None
        block = _whiten(self._decrypt.update(bytes.fromhex(seal_hex)), digest)
        tag, check = block[:8], block[8:]
        return digest if entropy.compare_digest(check, self._check(tag, digest, name)) else None

    def _check(self, tag: bytes, digest: Digest, name: str) -> bytes:
        return keyed_hash(self._key, b"check", tag, digest, name.encode())[:8]


def is_name(text: str) -> bool:
    """Whether ``text`` may be the last segment of an address."""
    return bool(_NAME.fullmatch(text))


def _whiten(block: bytes, digest: Digest) -> bytes:
    return bytes(left ^ right for left, right in zip(block, digest[:16], strict=True))
