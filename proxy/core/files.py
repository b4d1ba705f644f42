"""Uploaded files as clients see them: file objects, pages of them, their addresses here.

Source: Replicate's OpenAPI document, ``schemas_file_response`` and ``/files``; a recorded answer for the parts that it
leaves open.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.core.inputs import FILES_PREFIX
from proxy.core.predictions import format_time
from storage.digest import Digest
from storage.records import JsonObject, JsonValue

MAX_UPLOAD_BYTES = 100 * 1024**2
"""Replicate's limit."""

LIFE_S = 86_400.0
"""How long an upload lives, at Replicate as here."""

PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class OwnFile:
    """An upload that is kept here.

    Attributes:
        name, content_type, metadata: as the client gave them; nobody else believes them.
        md5, sha256: hex digits.
        created_at, expires_at: epoch seconds.
    """

    id: str
    digest: Digest
    size_bytes: int
    name: str
    content_type: str
    metadata: JsonObject
    md5: str
    sha256: str
    created_at: float
    expires_at: float


def file_url(base_url: str, file_id: str) -> str:
    """Where an upload is named; ``base_url`` is the public one, without ``/v1``."""
    return f"{base_url}/v1{FILES_PREFIX}{file_id}"


def render_file(file: OwnFile, base_url: str) -> JsonObject:
    """The file object."""
    return {
        "id": file.id,
        "name": file.name,
        "content_type": file.content_type,
        "size": file.size_bytes,
        "etag": file.md5,
        "checksums": {"sha256": file.sha256, "md5": file.md5},
        "metadata": file.metadata,
        "created_at": format_time(file.created_at),
        "expires_at": format_time(file.expires_at),
        "urls": {"get": file_url(base_url, file.id)},
    }


def render_page(files: Sequence[OwnFile], cursor: str | None, base_url: str) -> JsonObject:
    """A page of ``files``, newest first, from where ``cursor`` points; one that cannot be read means the first page."""
    ordered = sorted(files, key=_place, reverse=True)
    after = _read_cursor(cursor)
    left = [file for file in ordered if after is None or _place(file) < after]
    page, has_more = left[:PAGE_SIZE], len(left) > PAGE_SIZE
    following = f"{base_url}/v1/files?cursor={_write_cursor(page[-1])}" if has_more else None
    # There is one address for the page before: of those that came before it, the one from which a page ends here.
    before = [file for file in ordered if after is not None and _place(file) >= after]
    previous = None
    if before:
        previous = f"{base_url}/v1/files"
        if len(before) > PAGE_SIZE:
            previous += f"?cursor={_write_cursor(before[-PAGE_SIZE - 1])}"
    return {"next": following, "previous": previous, "results": [render_file(file, base_url) for file in page]}


def is_same_file(document: JsonValue, size_bytes: int, sha256: str, md5: str) -> bool:
    """Whether a file object says nothing else of the bytes than length and digests (hex) that were seen here."""
    if not isinstance(document, dict) or document.get("size", size_bytes) != size_bytes:
        return False
    told = document.get("checksums")
    sums = told if isinstance(told, dict) else {}
    return sums.get("sha256") in (None, sha256) and sums.get("md5") in (None, md5)


def _place(file: OwnFile) -> tuple[int, str]:
    """Its place among the caller's files; the id decides within one microsecond."""
    return round(file.created_at * 1_000_000), file.id


def _write_cursor(file: OwnFile) -> str:
    at, file_id = _place(file)
    return base64.urlsafe_b64encode(f"{at}:{file_id}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str | None) -> tuple[int, str] | None:
    try:
        text = base64.urlsafe_b64decode((cursor or "") + "===").decode()
    except (binascii.Error, ValueError):
        return None
    at, colon, file_id = text.partition(":")
    return (int(at), file_id) if colon and at.isascii() and at.isdigit() and len(at) < 20 else None
