"""Digests and the other identities of the store.

A blob's name is the BLAKE3 of its bytes. The small ``NewType``s keep apart what is easily mixed up:
all of them are ``bytes`` or ``int`` at run time and cost nothing.
"""

from __future__ import annotations

import re
from typing import NewType

import blake3

Digest = NewType("Digest", bytes)
"""BLAKE3 of a blob, 32 bytes."""

PredictionKey = NewType("PredictionKey", bytes)
"""BLAKE3 over everything that decides a prediction's result, 32 bytes."""

Scope = NewType("Scope", bytes)
"""Who may see a result: a keyed hash, 32 bytes. Never a token."""

RecordId = NewType("RecordId", int)
"""Random number of ``RECORD_ID_BITS`` bits that names one stored (or still running) result."""

RECORD_ID_BITS = 40

_HEX = re.compile(r"[0-9a-f]{64}")


def hash_bytes(data: bytes | bytearray | memoryview) -> Digest:
    """Digest of ``data``, 32 bytes."""
    return Digest(blake3.blake3(data).digest())


def parse_digest(text: str) -> Digest | None:
    """The digest that 64 lower-case hex digits name, or ``None`` for any other text.

    The whole text must match, so that no path, NUL or upper-case alias ever reaches the disk.
    """
    return Digest(bytes.fromhex(text)) if _HEX.fullmatch(text) else None
