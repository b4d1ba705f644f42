"""Public addresses of outputs and of streams.

::

    /outputs/<64 hex: BLAKE3 of the bytes>/<32 hex: seal>/<file name>
    /v1/files/<26: prediction id>-<32 hex: seal>
    /v1/streams/<26: prediction id>-<32 hex: seal>

The seal is one AES block that holds a tag of the scope and a keyed hash over scope tag, digest and name,
whitened with the digest. So whoever merely holds the bytes cannot compute an address, an address of one scope
says nothing of another's, two addresses do not show that they belong to one scope, and whether an address is
genuine is decided from the address alone, before any look at the disk.

A stream is read without a credential, so its address is one itself: the seal is a keyed hash over the prediction's
id and a tag of the scope whose result it tells, and holds that tag, whitened with the id. So what the id's number leads
to later is told only if it is that scope's. The token has a form that no file id has, neither Replicate's nor one of
this proxy's own, since a stream of files shares its path with the files API: the JavaScript client makes files of a
stream's outputs there and nowhere else.
"""

from __future__ import annotations

import re
import secrets as entropy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import blake3
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from proxy.core.ids import PredictionId
from proxy.core.secrets import Secrets, keyed_hash
from storage.digest import Digest, Scope, parse_digest

OUTPUTS_PREFIX = "/outputs/"
FILE_STREAMS_PREFIX = "/v1/files/"
TEXT_STREAMS_PREFIX = "/v1/streams/"

_SEAL = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TAG_BYTES = 4
_STREAM = re.compile(r"([a-z2-7]{26})-([0-9a-f]{32})")


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


class StreamName(NamedTuple):
    """What a genuine address of a stream names; ``tag`` tells whose result it tells (``StreamBook.fits``)."""

    id: PredictionId
    tag: bytes


class StreamBook:
    """Makes and checks the addresses of predictions' streams."""

    def __init__(self, secrets: Secrets) -> None:
        self._key = secrets.streams

    def path(self, prediction_id: PredictionId, scope: Scope, *, makes_files: bool) -> str:
        """The path at which the prediction is streamed.

        Args:
            scope: whose result it tells.
            makes_files: its outputs are files.
        """
        seal = self.sealer(scope)(prediction_id.encode()).decode()
        return f"{streams_prefix(makes_files)}{prediction_id}-{seal}"

    def sealer(self, scope: Scope) -> Callable[[bytes], bytes]:
        """Gives the second half of a token, 32 hex digits, by the id of a prediction whose result is ``scope``'s."""
        return partial(self._seal, self._tag(scope))

    def verify(self, token: str) -> StreamName | None:
        """What a genuine token names, ``None`` for any other text. Constant time in the seal."""
        found = _STREAM.fullmatch(token)
        if found is None:
            return None
        mark = found[1].encode()
        tag = _xor(bytes.fromhex(found[2][: 2 * _TAG_BYTES]), self._mask(mark))
        if not entropy.compare_digest(self._seal(tag, mark), found[2].encode()):
            return None
        return StreamName(PredictionId(found[1]), tag)

    def fits(self, name: StreamName, scope: Scope) -> bool:
        """Whether the address was made for a result of ``scope``. Constant time."""
        return entropy.compare_digest(name.tag, self._tag(scope))

    def _seal(self, tag: bytes, mark: bytes) -> bytes:
        check = blake3.blake3(mark + tag, key=self._key).digest(length=16 - _TAG_BYTES)
        return (_xor(tag, self._mask(mark)) + check).hex().encode()

    # What is hashed under this key: 26 bytes for a mask, 30 for a check, 33 for a tag. So it needs no framing.

    def _mask(self, mark: bytes) -> bytes:
        return blake3.blake3(mark, key=self._key).digest(length=_TAG_BYTES)

    def _tag(self, scope: Scope) -> bytes:
        return blake3.blake3(b"s" + scope, key=self._key).digest(length=_TAG_BYTES)


def streams_prefix(makes_files: bool) -> str:
    """What the paths of streams begin with; ``makes_files``: their outputs are files."""
    return FILE_STREAMS_PREFIX if makes_files else TEXT_STREAMS_PREFIX


def is_name(text: str) -> bool:
    """Whether ``text`` may be the last segment of an address."""
    return bool(_NAME.fullmatch(text))


def _whiten(block: bytes, digest: Digest) -> bytes:
    return _xor(block, digest[:16])


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")
