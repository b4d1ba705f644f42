"""Prediction ids that say where their record is.

An id looks like Replicate's: 26 characters of ``[a-z2-7]``. It is one AES block in base32, and the block holds

::

    record id   5 bytes   which result (allocated when its run starts)
    created at  5 bytes   milliseconds since 2026-01-01
    serial      2 bytes   tells apart ids made in the same millisecond
    tag         4 bytes   keyed hash of the scope: wrong scope or forged id, wrong tag

so any worker, after any restart, finds the record of an id without anything having been written when the id
was given out. A block cipher is a permutation: somebody without the key who alters an id gets a random block,
whose tag fits with probability 2^-32; behind it the record's own scope is compared as a whole.
"""

from __future__ import annotations

import base64
import secrets as entropy
from dataclasses import dataclass
from typing import NewType

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from proxy.core.secrets import Secrets, keyed_hash
from storage.digest import RECORD_ID_BITS, RecordId, Scope

PredictionId = NewType("PredictionId", str)
"""Id of a prediction as a client sees it."""

ID_LENGTH = 26

MAX_TAGS = 10_000
"""Scopes whose tag is remembered."""

CLOCK_TOLERANCE_S = 3600.0
"""A result that began later than a prediction by more than this is another one that drew the same random number.
Less may be a clock that was set back; predictions so young are found in memory."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = tuple(left + right for left in _LETTERS for right in _LETTERS)
_EPOCH_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
_MAX_MS = (1 << 40) - 1  # until October 2060


@dataclass(frozen=True, slots=True)
class IdParts:
    """What an id says: the record, and when the prediction was created (epoch seconds, millisecond steps)."""

    record_id: RecordId
    created_at: float

    def may_name(self, began_at: float) -> bool:
        """Whether a result whose run began at ``began_at`` may be the one that the id was made for."""
        return self.created_at >= began_at - CLOCK_TOLERANCE_S


@dataclass(frozen=True, slots=True)
class OpenedId:
    """An id read by somebody who does not know whose it is; ``tag`` tells whether it may be a given scope's."""

    parts: IdParts
    tag: bytes


class IdMint:
    """Makes and reads prediction ids. One per process; not shared between threads."""

    def __init__(self, secrets: Secrets, lane: int = 0, lanes: int = 1) -> None:
        """``lane`` of ``lanes``: which share of the serials is this process's, so that no two make the same id.

        Each lane has ``65536 // lanes`` of them in a millisecond.
        """
        self._width = (1 << 16) // lanes
        self._first = lane * self._width
        self._scope_key = secrets.ids
        # ECB over exactly one block is the plain permutation wanted here: no block ever repeats (serial).
        cipher = Cipher(AES(secrets.ids[:16]), ECB())  # noqa: S305
        self._encrypt = cipher.encryptor()
        self._decrypt = cipher.decryptor()
        self._serial = entropy.randbelow(self._width)
        self._tags: dict[Scope, bytes] = {}

    def mint(self, record_id: RecordId, scope: Scope, created_at: float) -> PredictionId:
        """A fresh id for ``scope``; ``created_at`` in epoch seconds."""
        self._serial = (self._serial + 1) % self._width
        # Microseconds first: the millisecond must be the one that the rendered time of the answer shows.
        since_ms = min(max(round(created_at * 1_000_000) // 1000 - _EPOCH_MS, 0), _MAX_MS)
        block = (
            record_id.to_bytes(5, "big")
            + since_ms.to_bytes(5, "big")
            + (self._first + self._serial).to_bytes(2, "big")
            + self._tag(scope)
        )
        return PredictionId(_spell(self._encrypt.update(block)))

    def read(self, text: str, scope: Scope) -> IdParts | None:
        """What ``text`` says to a caller of ``scope``; ``None`` for anything not minted here for that scope."""
        opened = self.open(text)
        return opened.parts if opened is not None and self.fits(opened, scope) else None

    def open(self, text: str) -> OpenedId | None:
        """What ``text`` says; ``None`` where it has not the form of an id.

        Any text of that form says something: whether it was minted here shows only when a scope ``fits``.
        """
        if len(text) != ID_LENGTH or text != text.lower():
            return None
        try:
            sealed = base64.b32decode(text.upper() + "======")
        except ValueError:
            return None
        if _spell(sealed) != text:
            return None  # spare bits set: an alias of another id
        block = self._decrypt.update(sealed)
        record_id = RecordId(int.from_bytes(block[:5], "big"))
        return OpenedId(IdParts(record_id, (int.from_bytes(block[5:10], "big") + _EPOCH_MS) / 1000), block[12:])

    def fits(self, opened: OpenedId, scope: Scope) -> bool:
        """Whether the id may have been minted for ``scope``. Constant time."""
        return entropy.compare_digest(opened.tag, self._tag(scope))

    def _tag(self, scope: Scope) -> bytes:
        tag = self._tags.get(scope)
        if tag is None:
            if len(self._tags) >= MAX_TAGS:
                self._tags.clear()
            tag = self._tags[scope] = keyed_hash(self._scope_key, scope)[:4]
        return tag


def new_record_id() -> RecordId:
    """A random record id; 40 bits, so a store refuses the rare one that is taken."""
    return RecordId(entropy.randbits(RECORD_ID_BITS))


def new_execution_id() -> str:
    """A random id for one run upstream: 26 characters, the form that Cog's documentation recommends."""
    return _spell(entropy.token_bytes(16))


def _spell(block: bytes) -> str:
    """16 bytes in base32, lower case, without padding; by pairs of letters, since ``base64`` is slow Python."""
    bits = int.from_bytes(block, "big") << 2
    return "".join([_PAIRS[bits >> shift & 1023] for shift in range(120, -1, -10)])
