"""What is remembered of uploads.

A file that went to an upstream with accounts is there and not here: its row says which bytes it was, for the one scope
that uploaded it, for as long as the file lives. A file of a caller of this proxy's own is here: its bytes in the
content store, its row under the caller's scope. Another scope's file is not found, as if it did not exist.
"""

from __future__ import annotations

import contextlib
import secrets as entropy
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import orjson

from proxy.core.errors import FileTooLarge, InputInvalid, InvalidField
from proxy.core.files import LIFE_S, MAX_UPLOAD_BYTES, OwnFile
from proxy.core.multipart import UploadReader
from proxy.core.outputs import SNIFF_BYTES, sniff_type
from proxy.upstreams.bodies import joined, read_head
from storage.digest import Digest, Scope, parse_digest
from storage.errors import BlobRejected, StorageError
from storage.ports import ContentStore, KeyValue
from storage.records import BlobRef, JsonObject

DEFAULT_TYPE = "application/octet-stream"
DEFAULT_NAME = "file"
MAX_NAME_BYTES = 255
ID_BYTES = 24
"""48 hex digits: as long as Replicate's ids."""


@dataclass(frozen=True, slots=True)
class UpstreamFile:
    """A file that is at the upstream.

    Attributes:
        url: the upstream's own name for it.
        expires_at: epoch seconds.
    """

    id: str
    digest: Digest
    size_bytes: int
    url: str
    expires_at: float


class Uploads:
    """Rows of uploads, and the bytes of those that are kept here."""

    def __init__(self, notes: KeyValue, blobs: ContentStore, now: Callable[[], float]) -> None:
        self._notes = notes
        self._blobs = blobs
        self._now = now

    # -- at an upstream ----------------------------------------------------------------------------------

    async def remember(self, upstream: str, scope: Scope, file: UpstreamFile) -> None:
        """Remember which bytes an upload was; without the row it is merely not cached by them."""
        row = {
            "scope": scope.hex(),
            "digest": file.digest.hex(),
            "size": file.size_bytes,
            "url": file.url,
            "expires_at": file.expires_at,
        }
        with contextlib.suppress(StorageError):
            await self._notes.put(_upstream_row(upstream, file.id), orjson.dumps(row), file.expires_at - self._now())

    async def recall(self, upstream: str, scope: Scope, file_id: str) -> UpstreamFile | None:
        """The upload of that id, if ``scope`` made it through this proxy and it lives."""
        row = await self._read(_upstream_row(upstream, file_id))
        if row is None or row["scope"] != scope.hex():
            return None
        digest = parse_digest(row["digest"])
        return UpstreamFile(file_id, digest, row["size"], row["url"], row["expires_at"]) if digest else None

    async def forget(self, upstream: str, scope: Scope, file_id: str) -> None:
        """The upload is gone from the upstream."""
        file = await self.recall(upstream, scope, file_id)
        if file is not None:
            with contextlib.suppress(StorageError):
                await self._notes.remove(_copy_row(upstream, scope, file.digest))
                await self._notes.remove(_upstream_row(upstream, file_id))

    async def remember_copy(self, upstream: str, scope: Scope, file: UpstreamFile) -> None:
        """Remember where bytes that were here were sent, so that the next run with them need not send them again."""
        await self.remember(upstream, scope, file)
        with contextlib.suppress(StorageError):
            name = _copy_row(upstream, scope, file.digest)
            await self._notes.put(name, file.id.encode(), file.expires_at - self._now())

    async def find_copy(self, upstream: str, scope: Scope, digest: Digest) -> UpstreamFile | None:
        """The file at the upstream that has these bytes; whether it is still there is to be asked."""
        file_id = await self._notes.get(_copy_row(upstream, scope, digest))
        return await self.recall(upstream, scope, file_id.decode()) if file_id is not None else None

    # -- here --------------------------------------------------------------------------------------------

    async def keep(self, owner: Scope, chunks: AsyncIterator[bytes], reader: UploadReader) -> OwnFile:
        """Store an upload while it arrives.

        Args:
            chunks: the content, as ``reader`` finds it in the body; once they end, the reader knows the rest.

        Raises:
            FileTooLarge: nothing is kept.
            InputInvalid: the body is no upload.
            StorageError: it cannot be stored.
        """
        head, _ = await read_head(chunks, SNIFF_BYTES)
        if not reader.has_content or reader.is_broken:
            raise _refusal("required", "content", "content is required, once")
        ref = await self._store(head, chunks)
        if not reader.is_sound or ref.digest != reader.tally.digest:
            raise _refusal("required", "content", "content is required, once")
        now = self._now()
        file = OwnFile(
            id=entropy.token_hex(ID_BYTES),
            digest=ref.digest,
            size_bytes=ref.size_bytes,
            name=_name(reader.fields.get("filename") or reader.filename or DEFAULT_NAME),
            content_type=(reader.fields.get("type") or reader.content_type or DEFAULT_TYPE)[:MAX_NAME_BYTES],
            metadata=_metadata(reader.fields.get("metadata") or "{}"),
            md5=reader.tally.md5,
            sha256=reader.tally.sha256,
            created_at=now,
            expires_at=now + LIFE_S,
        )
        await self.adopt(owner, file)
        return file

    async def store(self, chunks: AsyncIterator[bytes]) -> BlobRef:
        """Store bytes that ``adopt`` will give a name to.

        Raises:
            FileTooLarge: nothing is kept.
            StorageError: they cannot be stored.
        """
        head, _ = await read_head(chunks, SNIFF_BYTES)
        return await self._store(head, chunks)

    async def _store(self, head: bytes, rest: AsyncIterator[bytes]) -> BlobRef:
        try:
            return await self._blobs.put(
                joined(head, rest), content_type=sniff_type(head[:SNIFF_BYTES]), max_bytes=MAX_UPLOAD_BYTES
            )
        except BlobRejected as error:
            raise FileTooLarge from error

    async def adopt(self, owner: Scope, file: OwnFile) -> None:
        """Write the row of a file whose bytes are stored.

        Raises:
            StorageError: it is not written.
        """
        row = {
            "digest": file.digest.hex(),
            "size": file.size_bytes,
            "name": file.name,
            "content_type": file.content_type,
            "metadata": file.metadata,
            "md5": file.md5,
            "sha256": file.sha256,
            "created_at": file.created_at,
            "expires_at": file.expires_at,
        }
        await self._notes.put(_own_row(owner, file.id), orjson.dumps(row), file.expires_at - self._now())

    async def find(self, owner: Scope, file_id: str) -> OwnFile | None:
        """One of ``owner``'s files, if it lives."""
        row = await self._read(_own_row(owner, file_id))
        return _own_file(file_id, row) if row is not None else None

    async def all_of(self, owner: Scope) -> list[OwnFile]:
        """Every file of ``owner`` that lives."""
        prefix = _own_row(owner, "")
        rows = await self._notes.scan(prefix)
        found = [_own_file(name.removeprefix(prefix), orjson.loads(row)) for name, row in rows]
        return [file for file in found if file is not None]

    async def remove(self, owner: Scope, file_id: str) -> bool:
        """Forget a file; whether there was one.

        Raises:
            StorageError: it could not be forgotten.
        """
        if await self.find(owner, file_id) is None:
            return False
        await self._notes.remove(_own_row(owner, file_id))
        return True

    async def _read(self, name: str) -> JsonObject | None:
        row = await self._notes.get(name)
        return orjson.loads(row) if row is not None else None


def blob_of(file: OwnFile) -> BlobRef:
    """The bytes of a file that is kept here."""
    return BlobRef(file.digest, file.size_bytes)


def _name(name: str) -> str:
    if len(name.encode()) > MAX_NAME_BYTES:
        raise _refusal("string_lte", "filename", f"Must be at most {MAX_NAME_BYTES} bytes long")
    return name


def _metadata(text: str) -> JsonObject:
    try:
        document = orjson.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise _refusal("invalid_type", "metadata", "Must be a JSON object")
    return document


def _refusal(word: str, field: str, sentence: str) -> InputInvalid:
    return InputInvalid([InvalidField(word, field, sentence)])


def _own_file(file_id: str, row: JsonObject) -> OwnFile | None:
    digest = parse_digest(row["digest"])
    if digest is None:
        return None
    return OwnFile(
        id=file_id,
        digest=digest,
        size_bytes=row["size"],
        name=row["name"],
        content_type=row["content_type"],
        metadata=row["metadata"],
        md5=row["md5"],
        sha256=row["sha256"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )


def _upstream_row(upstream: str, file_id: str) -> str:
    return f"file:{upstream}:{file_id}"


def _copy_row(upstream: str, scope: Scope, digest: Digest) -> str:
    return f"copy:{upstream}:{scope.hex()}:{digest.hex()}"


def _own_row(owner: Scope, file_id: str) -> str:
    return f"upload:{owner.hex()}:{file_id}"
